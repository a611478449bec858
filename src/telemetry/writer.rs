//! A thread that writes lines, of the access log or of the log. Other threads add their lines and continue, however
//! slow the disk or the reader of the pipe is.
//!
//! Lines of the access log are gathered for a moment, because waking a thread costs more than making a line. Until then
//! each thread keeps its own lines, so that no thread waits for another. Lines of the log are few. They are written at
//! once and in the order in which all threads add them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::sparing::sparingly;

/// The bytes that may wait to be written: the output of a busy server in a quarter of a second. Further lines are lost.
/// As many may be on their way at the same time.
const WAITING_MAX: usize = 8 << 20;

/// How long lines are gathered, and how many bytes of them, before they are written together.
const GATHERED_FOR: Duration = Duration::from_millis(20);
const GATHERED: usize = 256 << 10;

/// A thread with lines reserves room for as many more, but at most this much at a time. It keeps this much room when
/// its lines are fetched.
const ROOM: usize = 16 << 10;

/// How long a stopping server waits for a disk or a pipe that accepts nothing.
pub(super) const LAST_WRITE: Duration = Duration::from_secs(1);

/// The most bytes that are written to a pipe at once, unless one line is longer: Linux's `PIPE_BUF`. Lines of another
/// process that writes into the same pipe then stand between two lines, never within one.
pub(crate) const WHOLE_IN_A_PIPE: usize = 4096;

/// The destination of the lines.
#[derive(Debug)]
pub(super) enum Target {
    /// A function that takes a line, and returns whether there was room for it.
    Lines(fn(&str) -> bool),
    /// Standard error.
    Stderr,
    /// A separate file, whose content is kept.
    File { path: PathBuf, file: File, torn: bool },
}

impl Target {
    /// Opens a file. Does not wait for the reader of a pipe: a reload, and the stop after it, would wait too.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let at_once = OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new().append(true).create(true).custom_flags(at_once).open(path);
        let file = opened.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => io::Error::new(error.kind(), "it is a pipe that nobody reads"),
            _ => error,
        })?;
        Ok(Self::File { path: path.to_owned(), file, torn: false })
    }

    /// Writes whole lines. Returns how many of them were lost.
    fn write(&mut self, lines: &[u8]) -> usize {
        match self {
            Self::Lines(take) => {
                let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.filter(|line| !take(&String::from_utf8_lossy(line))).count()
            }
            Self::Stderr => write_whole_lines(&mut io::stderr(), lines),
            Self::File { path, file, torn } => write_to_file(path, file, torn, lines),
        }
    }

    fn open_again(&mut self) {
        let Self::File { path, .. } = self else { return };
        match Self::open(path) {
            Ok(fresh) => *self = fresh,
            Err(error) => log::error!("{} cannot be opened again: {error}", path.display()),
        }
    }
}

/// Returns how many lines could not be written. The log cannot say why: standard error is the log.
fn write_whole_lines(out: &mut (impl io::Write + AsFd), lines: &[u8]) -> usize {
    let mut left = lines;
    while !left.is_empty() {
        let whole = &left[..left.len().min(WHOLE_IN_A_PIPE)];
        let end = memchr::memrchr(b'\n', whole).or_else(|| memchr::memchr(b'\n', left));
        let mut part = &left[..end.map_or(left.len(), |end| end + 1)];
        left = &left[part.len()..];
        while !part.is_empty() {
            match out.write(part) {
                Ok(0) => return count_lines(part) + count_lines(left),
                Ok(written) => part = &part[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that has the same pipe open may have set it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(out),
                Err(_) => return count_lines(part) + count_lines(left),
            }
        }
    }
    0
}

fn wait_for_room(out: &impl AsFd) {
    // After an error the next write shows what is wrong.
    let _ = poll(&mut [PollFd::new(out, PollFlags::OUT)], None);
}

/// Returns how many lines could not be written. `torn`: the file ends within a line.
fn write_to_file(path: &Path, file: &mut File, torn: &mut bool, lines: &[u8]) -> usize {
    // A line that was cut off must not become the beginning of the next line.
    if *torn && file.write_all(b"\n").is_ok() {
        *torn = false;
    }
    let mut left = lines;
    while !left.is_empty() {
        let error = match file.write(left) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                *torn = left[written - 1] != b'\n';
                left = &left[written..];
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pipe is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(file);
                continue;
            }
            Err(error) => error,
        };
        let path = path.display();
        sparingly!(Level::Error, "failures to write the access log", "{path} cannot be written: {error}");
        return count_lines(left);
    }
    0
}

fn count_lines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

/// Lines on their way to their target, for the threads that add lines.
#[derive(Debug, Default)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Disconnected when the writing thread has ended. `None` while no thread runs.
    running: Mutex<Option<Receiver<Infallible>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    something: Condvar,
    /// Something that a thread waits for was written.
    flushed: Condvar,
    /// The one buffer of all threads, if their lines keep their order.
    in_order: Option<Arc<Buffer>>,
    /// Logs how many lines were lost since the last call, once lines can be written again.
    report_lost: Option<fn(u64)>,
    /// The buffers of all threads. Locked before any single buffer, and never together with `state`.
    buffers: Mutex<Vec<Arc<Buffer>>>,
    /// The number of bytes that all buffers together have reserved.
    room: AtomicUsize,
    /// A thread has lines, and the writing thread was woken.
    gathering: AtomicBool,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Target>,
    reopen: bool,
    closed: bool,
    /// How many times a thread has asked for all lines before that moment to be written, and how many of these
    /// requests were met.
    flushes_asked: u64,
    flushes_done: u64,
}

/// One thread's lines in order.
#[derive(Debug, Default)]
struct Buffer(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The part of [`Shared::room`] that these lines have reserved.
    room: usize,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// A writer of lines that keep the order in which all threads add them, and that are written at once.
    /// `report_lost` logs how many lines were lost, when lines can be written again.
    pub(super) fn in_order(report_lost: fn(u64)) -> Self {
        let buffer = Arc::<Buffer>::default();
        let buffers = Mutex::new(vec![Arc::clone(&buffer)]);
        let shared =
            Shared { buffers, in_order: Some(buffer), report_lost: Some(report_lost), ..Shared::default() };
        Self { shared: Arc::new(shared), running: Mutex::default() }
    }

    /// Starts the writing thread, under this name, unless it runs already.
    pub(super) fn start(&self, name: &str) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            let (end, ended) = crossbeam_channel::bounded(0);
            let shared = Arc::clone(&self.shared);
            thread::Builder::new().name(name.into()).spawn(move || shared.run(&end))?;
            *running = Some(ended);
        }
        Ok(())
    }

    /// Makes the thread write to another target from now on.
    pub(super) fn write_to(&self, target: Target) {
        self.shared.change(|state| state.next = Some(target));
    }

    pub(super) fn reopen(&self) {
        self.shared.change(|state| state.reopen = true);
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lost()
    }

    /// Whether half of the room or more is taken.
    pub(super) fn is_half_full(&self) -> bool {
        self.shared.room.load(Relaxed) >= WAITING_MAX / 2
    }

    /// Adds the line that `make` appends.
    pub(super) fn add(&self, make: impl FnOnce(&mut Vec<u8>)) {
        if let Some(buffer) = &self.shared.in_order {
            return self.shared.add(buffer, make);
        }
        thread_local! {
            static OWN: RefCell<(Weak<Shared>, Arc<Buffer>)> = RefCell::default();
        }
        OWN.with_borrow_mut(|(of, buffer)| {
            if of.as_ptr() != Arc::as_ptr(&self.shared) {
                (*of, *buffer) = (Arc::downgrade(&self.shared), self.shared.new_buffer());
            }
            self.shared.add(buffer, make);
        });
    }

    /// Waits until all lines that were added before are written or lost. Waits for `patience` at most. Returns whether
    /// they are.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.flushes_asked += 1;
        let asked = state.flushes_asked;
        self.shared.something.notify_one();
        let waits = |state: &mut State| state.flushes_done < asked;
        let waited = self.shared.flushed.wait_timeout_while(state, patience, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes the lines that wait, and ends the thread.
    pub(super) fn close(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ended) = running else { return };
        self.shared.change(|state| state.closed = true);
        // Nothing is sent on this channel, so it always ends with an error.
        let _ = ended.recv_timeout(LAST_WRITE);
    }
}

impl Shared {
    fn new_buffer(&self) -> Arc<Buffer> {
        let buffer = Arc::<Buffer>::default();
        self.buffers().push(Arc::clone(&buffer));
        buffer
    }

    fn add(&self, buffer: &Buffer, make: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = buffer.lock();
        let before = lines.bytes.len();
        make(&mut lines.bytes);
        if lines.bytes.len() > lines.room && !self.reserve(&mut lines) {
            lines.bytes.truncate(before);
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        drop(lines);
        // The writing thread clears `gathering` before it locks a buffer. So a line that it misses wakes it again.
        if !self.gathering.load(Relaxed) && !self.gathering.swap(true, Relaxed) {
            self.change(|_| ());
        }
    }

    /// Reserves room for lines that have outgrown theirs, with a reserve for more lines or else only for these. Returns
    /// whether there was enough room.
    fn reserve(&self, lines: &mut Lines) -> bool {
        let missing = lines.bytes.len() - lines.room;
        let more = missing.max(lines.bytes.len().min(ROOM));
        for wanted in [more, missing] {
            let add = |room| Some(room + wanted).filter(|room| *room <= WAITING_MAX);
            if let Ok(before) = self.room.fetch_update(Relaxed, Relaxed, add) {
                lines.room += wanted;
                if before < GATHERED && before + wanted >= GATHERED {
                    self.change(|_| ());
                }
                return true;
            }
        }
        false
    }

    /// Appends the lines of all threads.
    fn fetch(&self, all: &mut Vec<u8>) {
        self.gathering.store(false, Relaxed);
        self.buffers().retain_mut(|buffer| {
            // Checked first, so that the last lines of a thread that has ended are fetched too.
            let is_left = Arc::get_mut(buffer).is_some();
            let mut lines = buffer.lock();
            all.extend_from_slice(&lines.bytes);
            empty(&mut lines.bytes, ROOM);
            self.room.fetch_sub(std::mem::take(&mut lines.room), Relaxed);
            !is_left
        });
    }

    /// Whether to write now instead of waiting for more lines.
    fn is_urgent(&self, state: &State) -> bool {
        state.next.is_some()
            || state.reopen
            || state.closed
            || state.flushes_done < state.flushes_asked
            || self.room.load(Relaxed) >= GATHERED
    }

    /// `_end` is dropped when the thread ends.
    fn run(&self, _end: &Sender<Infallible>) {
        let (mut target, mut lines) = (Target::Stderr, Vec::new());
        let gathered_for = if self.in_order.is_some() { Duration::ZERO } else { GATHERED_FOR };
        let (mut was_written, mut reported) = (true, 0);
        loop {
            let mut state = self.lock();
            let owes_report = |lost| was_written && self.report_lost.is_some() && lost > reported;
            while !self.gathering.load(Relaxed) && !self.is_urgent(&state) && !owes_report(self.lost()) {
                state = self.something.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let wait = |state: &mut State| !self.is_urgent(state);
            let gathered = self.something.wait_timeout_while(state, gathered_for, wait);
            let mut state = gathered.unwrap_or_else(PoisonError::into_inner).0;
            let (next, reopen, closed) = (state.next.take(), std::mem::take(&mut state.reopen), state.closed);
            let flushes_asked = state.flushes_asked;
            drop(state);
            self.fetch(&mut lines);
            // Here, since there is room for the line now. While writing fails, the line would be lost too.
            let lost = self.lost();
            if let Some(report_lost) = self.report_lost.filter(|_| owes_report(lost)) {
                report_lost(lost - reported);
                reported = lost;
            }
            if let Some(next) = next {
                target = next;
            } else if reopen {
                target.open_again();
            }
            let lost = target.write(&lines);
            was_written = lost == 0;
            self.lost.fetch_add(lost as u64, Relaxed);
            empty(&mut lines, GATHERED);
            self.lock().flushes_done = flushes_asked;
            self.flushed.notify_all();
            if closed {
                return;
            }
        }
    }

    fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Changes the state, and wakes the writing thread to look at it.
    fn change(&self, what: impl FnOnce(&mut State)) {
        what(&mut self.lock());
        self.something.notify_one();
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Arc<Buffer>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties a buffer. It keeps room for as much as it had, but not for a whole burst. Getting freed memory again
/// for each write would cost more than making the lines.
fn empty(lines: &mut Vec<u8>, least: usize) {
    let kept = lines.len().max(least);
    lines.clear();
    if lines.capacity() > 4 * kept {
        lines.shrink_to(kept);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn add(writer: &Writer, line: &str) {
        writer.add(|out| out.extend_from_slice(line.as_bytes()));
    }

    #[test]
    fn lines_are_appended_to_a_file_and_a_moved_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let [file, moved] = ["access.log", "access.log.1"].map(|name| directory.path().join(name));
        fs::write(&file, "before\n").expect("a file");
        let writer = Writer::default();
        writer.start("lines").expect("a thread");
        writer.write_to(Target::open(&file).expect("it opens"));
        add(&writer, "one\n");
        while !fs::read_to_string(&file).expect("a file").ends_with("one\n") {
            thread::yield_now();
        }
        fs::rename(&file, &moved).expect("a file");
        writer.reopen();
        while !file.exists() {
            thread::yield_now();
        }
        add(&writer, "two\n");
        writer.close();
        assert_eq!(fs::read_to_string(&moved).expect("a file"), "before\none\n");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "two\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_lost_and_counted() {
        let writer = Writer::default();
        writer.start("lines").expect("a thread");
        writer.write_to(Target::open(Path::new("/dev/full")).expect("Linux has it"));
        (0..3).for_each(|_| add(&writer, "line\n"));
        writer.close();
        assert_eq!(writer.lost(), 3);
    }

    #[test]
    fn lines_beyond_the_limit_are_lost_while_nothing_is_written() {
        let writer = Writer::default();
        let line = "x".repeat(1 << 20);
        (0..10).for_each(|_| add(&writer, &line));
        assert_eq!(writer.lost(), 2);
    }

    #[test]
    fn each_threads_lines_stay_in_order_even_after_it_has_ended() {
        const LINES: usize = 5000;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("access.log");
        let writer = Writer::default();
        writer.start("lines").expect("a thread");
        writer.write_to(Target::open(&file).expect("it opens"));
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let writer = &writer;
                scope.spawn(move || (0..LINES).for_each(|line| add(writer, &format!("{name} {line}\n"))));
            }
        });
        writer.close();
        let text = fs::read_to_string(&file).expect("a file");
        assert_eq!((writer.lost(), text.lines().count()), (0, 4 * LINES));
        for name in ["a ", "b ", "c ", "d "] {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            assert!(lines.eq((0..LINES).map(|line| line.to_string())), "{name}has its lines in order");
        }
        assert_eq!(writer.shared.room.load(Relaxed), 0, "all room is given back");
    }
}
