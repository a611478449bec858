//! The native connector. A connection costs memory, never a thread.
//!
//! An acceptor thread accepts. Poller threads own every connection that is idle, reading or flushing. Workers write
//! their answers themselves. This file starts and ends the threads and defines the messages between them.

mod acceptor;
mod connection;
mod files;
mod gate;
mod link;
mod output;
mod pipe;
mod poller;
mod timers;
mod wire;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mio::{Poll, Token, Waker};
use socket2::Socket;

pub(super) use acceptor::REFUSED_AT_ONCE;

use self::link::Epoch;
use super::{Connector, Drained, Listener, Pulse, Settings, Stopper};
use crate::base::system::wait_for_turn;
use crate::exchange::job::Service;
use crate::telemetry::metrics::{Metrics, Reason};

/// The token of the waker that wakes a thread. Connections have the tokens from 0 up.
const WAKE: Token = Token(usize::MAX);

/// A connection's index in its poller, and how many connections that poller had before. So a message about a closed
/// connection cannot reach its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    index: usize,
    generation: u64,
}

/// A message to a poller from another thread.
#[derive(Debug)]
enum Message {
    /// A new client.
    Accepted(Newcomer),
    /// The connection has something for the poller to do: a worker has answered, or there is room for more of a body.
    Returned(Id),
    /// The next piece of the file that is a connection's answer.
    Piece(Id, io::Result<Bytes>),
    /// Newcomers wait because too many refused connections stay. Those that had time to read their refusal are closed.
    Crowded,
    /// Use these settings and this service from now on.
    Reload(Reload),
    /// Somebody wants to know whether the poller still runs.
    Pulse(Sender<()>),
    /// Close idle connections, answer the others with `Connection: close`, and end when no connection is left.
    Drain { until: Instant },
    /// While draining: the poller that passes on newcomers without room for them passes on no more.
    Last,
    /// End now.
    Stop,
}

/// The settings and the service that a poller uses after a reload.
struct Reload {
    settings: Arc<Settings>,
    service: Arc<dyn Service>,
    /// Dropped once the poller uses them.
    done: Sender<Infallible>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// How long a reload waits for a poller that is held up by an embedder's function answering on it.
const LONGEST_RELOAD: Duration = Duration::from_secs(1);

/// A client that was accepted.
#[derive(Debug)]
struct Newcomer {
    socket: Socket,
    /// The number of the listener that accepted it. A reload keeps the listeners, so it stays right.
    listener: usize,
    /// `None` on a Unix socket.
    peer: Option<SocketAddr>,
    place: gate::Place,
    /// The reason to answer this client with 503, if there is one.
    refuse: Option<Reason>,
    /// How many pollers have not been asked yet for an idle connection that could make room.
    hops: usize,
}

/// A poller's mailbox, where other threads leave messages for it.
#[derive(Debug)]
struct Mailbox {
    sender: Sender<Message>,
    waker: Waker,
    draining: AtomicBool,
    epoch: Epoch,
    /// See `http.response_buffer_bytes`; kept here for the workers.
    response_buffer_bytes: AtomicUsize,
    /// Kept here for the workers as well.
    metrics: Arc<Metrics>,
}

impl Mailbox {
    fn post(&self, message: Message) {
        // The receiver lives as long as the poller runs, and after that the message has no use. A wake-up fails only
        // while the eventfd's counter is full, and a full counter wakes the poller as well.
        if self.sender.send(message).is_ok() {
            drop(self.waker.wake());
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The running connector.
#[derive(Debug)]
pub(crate) struct Native {
    mailboxes: Vec<Arc<Mailbox>>,
    gate: Arc<gate::Gate>,
    acceptor: acceptor::Acceptor,
    pollers: Vec<JoinHandle<usize>>,
}

impl Native {
    /// Starts the acceptor and the pollers on bound listeners, as many as the settings are for. `prefix` comes before the names of their threads.
    ///
    /// # Errors
    /// When the system refuses an epoll instance, an eventfd or a thread.
    pub(crate) fn start(
        prefix: &str,
        listeners: Vec<Listener>,
        settings: Settings,
        service: &Arc<dyn Service>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let settings = Arc::new(settings);
        let gate = Arc::new(gate::Gate::new(&settings, Arc::clone(metrics)));
        let files = Arc::<files::Files>::default();
        let encrypted = settings.beginnings.iter().map(|beginning| beginning.tls.is_some());
        let listeners = listeners.into_iter().zip(encrypted).collect();
        let (mut mailboxes, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..settings.selectors {
            let poll = Poll::new()?;
            let (sender, receiver): (_, Receiver<Message>) = crossbeam_channel::unbounded();
            mailboxes.push(Arc::new(Mailbox {
                sender,
                waker: Waker::new(poll.registry(), WAKE)?,
                draining: AtomicBool::new(false),
                epoch: Epoch::now(),
                response_buffer_bytes: AtomicUsize::new(settings.response_buffer_bytes),
                metrics: Arc::clone(metrics),
            }));
            waiting.push((poll, receiver));
        }
        let mut pollers = Vec::new();
        for (index, (poll, receiver)) in waiting.into_iter().enumerate() {
            let core = connection::Core::new(
                Arc::clone(&mailboxes[index]),
                Arc::clone(&settings),
                Arc::clone(service),
                Arc::clone(metrics),
                Arc::clone(&files),
            );
            let next = Arc::clone(&mailboxes[(index + 1) % mailboxes.len()]);
            let poller = poller::Poller::new(poll, receiver, next, core);
            // The admin listener's poller does not wait: an operator who asks a server without a core to spare is told
            // at once.
            let is_in_no_hurry = prefix.is_empty();
            let run = move || {
                if is_in_no_hurry {
                    wait_for_turn();
                }
                poller.run()
            };
            pollers.push(thread::Builder::new().name(format!("{prefix}poller-{index}")).spawn(run)?);
        }
        let acceptor = acceptor::Acceptor::start(
            format!("{prefix}acceptor"),
            listeners,
            mailboxes.clone(),
            Arc::clone(&gate),
            Arc::clone(metrics),
        )
        .inspect_err(|_| mailboxes.iter().for_each(|mailbox| mailbox.post(Message::Stop)))?;
        Ok(Self { mailboxes, gate, acceptor, pollers })
    }
}

impl Connector for Native {
    fn drain(self: Box<Self>, patience: Duration) -> Drained {
        // This comes first: once a client sees its connection refused, all answers say `Connection: close`.
        for mailbox in &self.mailboxes {
            mailbox.draining.store(true, Ordering::Relaxed);
        }
        let until = Instant::now() + patience;
        self.acceptor.stop();
        for mailbox in &self.mailboxes {
            mailbox.post(Message::Drain { until });
        }
        let mut left = 0;
        for poller in self.pollers {
            left += poller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        if left == 0 { Drained::Complete } else { Drained::CutOff(left) }
    }

    fn reload(&self, settings: Settings, service: Arc<dyn Service>) {
        self.gate.reload(&settings);
        let settings = Arc::new(settings);
        let (done, all_done) = crossbeam_channel::bounded(0);
        for mailbox in &self.mailboxes {
            mailbox.response_buffer_bytes.store(settings.response_buffer_bytes, Ordering::Relaxed);
            let (settings, service) = (Arc::clone(&settings), Arc::clone(&service));
            mailbox.post(Message::Reload(Reload { settings, service, done: done.clone() }));
        }
        drop(done);
        // The wait ends with an error in any case, because no thread sends anything on this channel.
        if all_done.recv_timeout(LONGEST_RELOAD) == Err(RecvTimeoutError::Timeout) {
            log::warn!("a poller is held up; it applies the new configuration later");
        }
    }

    fn stopper(&self) -> Stopper {
        let mailboxes = self.mailboxes.clone();
        Box::new(move || mailboxes.iter().for_each(|mailbox| mailbox.post(Message::Stop)))
    }

    fn pulse(&self) -> Pulse {
        let (mailboxes, acceptor) = (self.mailboxes.clone(), self.acceptor.life());
        Box::new(move |patience| {
            let until = Instant::now() + patience;
            let (here, answers) = crossbeam_channel::bounded(mailboxes.len());
            for mailbox in &mailboxes {
                mailbox.post(Message::Pulse(here.clone()));
            }
            drop(here);
            if !mailboxes.iter().all(|_| answers.recv_deadline(until).is_ok()) {
                return Err("a poller does not answer");
            }
            if acceptor.strong_count() == 0 { Err("the acceptor has ended") } else { Ok(()) }
        })
    }
}
