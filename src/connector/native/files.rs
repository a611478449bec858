//! The threads that read files for answers. A disk may be slow, so no poller waits for it. No worker reads a file for a
//! client that takes the answer slowly. The first thread starts with the first file that does not leave at once.
//!
//! A device may not answer at all, as a network's file system whose server is away. Its files then hold some of the
//! threads, and never all.
//!
//! Each connection requests at most one piece at a time, so the connections bound the number of waiting requests.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::output::Piece;
use super::{Id, Mailbox, Message};

/// More pieces are never read at once. A disk reads several at once faster than one after another.
const THREADS_MAX: usize = 8;

/// The most threads that read files of one device, so that some are left for the files of others.
const THREADS_OF_DEVICE_MAX: usize = 6;

/// A thread that has nothing to read for as long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Takes the pollers' requests for pieces of files.
#[derive(Debug, Default)]
pub(super) struct Files(Readers<PieceRequest>);

#[derive(Debug)]
struct PieceRequest {
    piece: Piece,
    id: Id,
    mailbox: Arc<Mailbox>,
}

impl Files {
    /// Requests a piece. The poller gets it as a [`Message::Piece`].
    pub(super) fn request(&self, piece: Piece, id: Id, mailbox: &Arc<Mailbox>) {
        let device = piece.device;
        let request = PieceRequest { piece, id, mailbox: Arc::clone(mailbox) };
        for (request, error) in self.0.add(device, request) {
            request.mailbox.post(Message::Piece(request.id, Err(error)));
        }
    }
}

/// A request that a thread carries out, and that may take for ever.
trait Task: Send + 'static {
    fn run(self);
}

impl Task for PieceRequest {
    fn run(self) {
        let Self { piece, id, mailbox } = self;
        mailbox.post(Message::Piece(id, piece.read()));
    }
}

/// A few threads, which end when this is dropped.
#[derive(Debug)]
struct Readers<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The requests that wait, with their devices.
    waiting: VecDeque<(u64, T)>,
    /// The device of each request that a thread has.
    running: Vec<u64>,
    threads: usize,
    closed: bool,
}

impl<T> Default for Readers<T> {
    fn default() -> Self {
        let state = State { waiting: VecDeque::new(), running: Vec::new(), threads: 0, closed: false };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }
}

impl<T> Drop for Readers<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<T: Task> Readers<T> {
    /// Adds a request. Returns all that wait, with the reason, if there is no thread and none can be started.
    fn add(&self, device: u64, task: T) -> Vec<(T, io::Error)> {
        let mut state = self.0.lock();
        state.waiting.push_back((device, task));
        let idle = state.threads - state.running.len();
        if idle < state.waiting.len() && state.threads < THREADS_MAX {
            let shared = Arc::clone(&self.0);
            match thread::Builder::new().name("files".into()).spawn(move || shared.run()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    log::error!("cannot start a thread that reads files: {error}");
                    let failed = |(_, task)| (task, io::Error::other("no thread reads files"));
                    return state.waiting.drain(..).map(failed).collect();
                }
                // The others go on.
                Err(error) => log::debug!("cannot start another thread that reads files: {error}"),
            }
        }
        drop(state);
        self.0.changed.notify_one();
        Vec::new()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Task> Shared<T> {
    /// Carries out requests until the last poller has ended, or nothing is to be read for a while.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some((device, task)) = state.take() {
                state.running.push(device);
                drop(state);
                task.run();
                state = self.lock();
                if let Some(ours) = state.running.iter().position(|running| *running == device) {
                    state.running.swap_remove(ours);
                }
                continue;
            }
            if state.closed {
                break;
            }
            let waited = self.changed.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl<T> State<T> {
    /// The first request whose device has not enough threads already.
    fn take(&mut self) -> Option<(u64, T)> {
        let running = |device| self.running.iter().filter(|running| **running == device).count();
        let next = self.waiting.iter().position(|(device, _)| running(*device) < THREADS_OF_DEVICE_MAX)?;
        self.waiting.remove(next)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Waits until the test drops the sender, and then sends its number.
    struct Waits(u32, Option<Receiver<()>>, Sender<u32>);

    impl Task for Waits {
        fn run(self) {
            let Self(number, until, done) = self;
            if let Some(until) = until {
                // Nothing is sent.
                let _ = until.recv();
            }
            done.send(number).expect("the test waits");
        }
    }

    #[test]
    fn a_device_that_does_not_answer_holds_up_no_file_of_another() {
        let (done, is_done) = crossbeam_channel::unbounded();
        let (answers, answer) = crossbeam_channel::bounded(0);
        let readers = Readers::default();
        let add = |device, number, until| {
            assert!(readers.add(device, Waits(number, until, done.clone())).is_empty());
        };
        (0..20).for_each(|number| add(1, number, Some(answer.clone())));
        for number in 100..110 {
            add(2, number, None);
            assert_eq!(is_done.recv_timeout(PATIENCE), Ok(number));
        }
        assert!(readers.0.lock().threads <= THREADS_MAX);
        drop(answers);
        let mut late: Vec<_> = (0..20).map(|_| is_done.recv_timeout(PATIENCE).expect("it answers")).collect();
        late.sort_unstable();
        assert!(late.into_iter().eq(0..20));
    }

    #[test]
    fn one_file_that_hangs_holds_up_no_other_of_its_device_and_threads_end_with_their_owner() {
        let (done, is_done) = crossbeam_channel::unbounded();
        let (answers, answer) = crossbeam_channel::bounded(0);
        let readers = Readers::default();
        let shared = Arc::downgrade(&readers.0);
        assert!(readers.add(1, Waits(0, Some(answer), done.clone())).is_empty());
        assert!(readers.add(1, Waits(1, None, done)).is_empty());
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(1));
        drop((answers, readers));
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(0));
        let since = std::time::Instant::now();
        while shared.strong_count() > 0 {
            assert!(since.elapsed() < PATIENCE, "a thread outlives its owner");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
