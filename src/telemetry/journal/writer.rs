//! The thread that writes the access log. Other threads add their lines and continue, however slow the disk is.
//!
//! Lines are gathered for a moment, because waking a thread costs more than making a line. Until then each thread keeps
//! its own lines, so that no thread waits for another.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use super::TARGET;
use super::line::Clock;
use crate::telemetry::sparing::sparingly;

/// The bytes that may wait to be written: the output of a busy server in a quarter of a second. Further lines are lost.
const WAITING_MAX: usize = 8 << 20;

/// How long lines are gathered, and how many bytes of them, before they are written together.
const GATHERED_FOR: Duration = Duration::from_millis(20);
const GATHERED: usize = 256 << 10;

/// A thread with lines reserves room for as many more, but at most this much at a time. It keeps this much room when
/// its lines are fetched.
const ROOM: usize = 16 << 10;

/// How long a stopping server waits for a disk or a pipe that accepts nothing.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// The destination of the lines.
#[derive(Debug)]
pub(super) enum Target {
    /// The log, like all other messages.
    Log,
    /// A separate file, whose content is kept.
    File { path: PathBuf, file: File, torn: bool },
}

impl Target {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self::File { path: path.to_owned(), file, torn: false })
    }

    /// Writes whole lines. Returns how many of them were lost.
    fn write(&mut self, lines: &[u8]) -> usize {
        let Self::File { path, file, torn } = self else {
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                log::info!(target: TARGET, "{}", String::from_utf8_lossy(line));
            }
            return 0;
        };
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
                Err(error) => error,
            };
            let path = path.display();
            sparingly!(Level::Error, "failures to write the access log", "{path} cannot be written: {error}");
            return memchr::memchr_iter(b'\n', left).count();
        }
        0
    }

    fn open_again(&mut self) {
        let Self::File { path, .. } = self else { return };
        match Self::open(path) {
            Ok(fresh) => *self = fresh,
            Err(error) => log::error!("{} cannot be opened again: {error}", path.display()),
        }
    }
}

/// The access log, for the threads that add lines.
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
}

/// One thread's lines in order.
#[derive(Debug, Default)]
struct Buffer(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The part of [`Shared::room`] that these lines have reserved.
    room: usize,
    /// The thread's formatted time.
    clock: Clock,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the writing thread unless it runs already.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            let (end, ended) = crossbeam_channel::bounded(0);
            let shared = Arc::clone(&self.shared);
            thread::Builder::new().name("access-log".into()).spawn(move || shared.run(&end))?;
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
        self.shared.lost.load(Relaxed)
    }

    /// Adds the line that `make` appends.
    pub(super) fn add(&self, make: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
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

    fn add(&self, buffer: &Buffer, make: impl FnOnce(&mut Vec<u8>, &mut Clock)) {
        let mut lines = buffer.lock();
        let before = lines.bytes.len();
        let Lines { bytes, clock, .. } = &mut *lines;
        make(bytes, clock);
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
        state.next.is_some() || state.reopen || state.closed || self.room.load(Relaxed) >= GATHERED
    }

    /// `_end` is dropped when the thread ends.
    fn run(&self, _end: &Sender<Infallible>) {
        let (mut target, mut lines) = (Target::Log, Vec::new());
        loop {
            let mut state = self.lock();
            while !self.gathering.load(Relaxed) && !self.is_urgent(&state) {
                state = self.something.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let wait = |state: &mut State| !self.is_urgent(state);
            let gathered = self.something.wait_timeout_while(state, GATHERED_FOR, wait);
            let mut state = gathered.unwrap_or_else(PoisonError::into_inner).0;
            let (next, reopen, closed) = (state.next.take(), std::mem::take(&mut state.reopen), state.closed);
            drop(state);
            self.fetch(&mut lines);
            if let Some(next) = next {
                target = next;
            } else if reopen {
                target.open_again();
            }
            let lost = target.write(&lines);
            self.lost.fetch_add(lost as u64, Relaxed);
            empty(&mut lines, GATHERED);
            if closed {
                return;
            }
        }
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
        writer.add(|out, _| out.extend_from_slice(line.as_bytes()));
    }

    #[test]
    fn lines_are_appended_to_a_file_and_a_moved_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let [file, moved] = ["access.log", "access.log.1"].map(|name| directory.path().join(name));
        fs::write(&file, "before\n").expect("a file");
        let writer = Writer::default();
        writer.start().expect("a thread");
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
        writer.start().expect("a thread");
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
        writer.start().expect("a thread");
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
