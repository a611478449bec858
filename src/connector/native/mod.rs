//! Our own connector: connections cost memory, never a thread.
//!
//! An acceptor thread accepts; a poller thread owns every connection that is idle, reading or flushing; workers write
//! their answers themselves. This file starts and ends both threads and holds what they say to each other.

mod acceptor;
mod connection;
mod link;
mod poller;
mod timers;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "connections do not speak TLS yet"))]
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::{Poll, Token, Waker};

use super::{Connector, Drained, Settings, Stopper};
use crate::job::Service;
use crate::metrics::Metrics;

/// The token by which a thread is woken; connections have theirs from 0 up.
const WAKE: Token = Token(usize::MAX);

/// Which connection: its place in the poller, and how often that place was used before, so that news of a closed
/// connection cannot reach its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    index: usize,
    generation: u64,
}

/// What other threads tell the poller.
#[derive(Debug)]
enum Message {
    /// A new client; with `refuse` it gets 503.
    Accepted { stream: TcpStream, peer: SocketAddr, refuse: bool },
    /// The poller has something to do: a worker has answered, or there is more to read.
    Returned(Id),
    /// Close idle connections, answer the others with `Connection: close`, end when none is left.
    Drain { until: Instant },
    /// End now.
    Stop,
}

/// Where a poller is told things.
#[derive(Debug)]
struct Mailbox {
    sender: Sender<Message>,
    waker: Waker,
    draining: AtomicBool,
    epoch: Instant,
}

impl Mailbox {
    fn post(&self, message: Message) {
        // The receiver lives as long as the poller runs, and after that nobody needs to know. A failed wake-up is a
        // full eventfd counter, which wakes as well.
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
pub struct Native {
    mailbox: Arc<Mailbox>,
    acceptor: acceptor::Acceptor,
    poller: JoinHandle<usize>,
}

impl Native {
    /// Starts the acceptor and the poller on a listener that is bound already.
    ///
    /// # Errors
    /// When the system refuses an epoll instance, an eventfd or a thread.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (sender, receiver): (_, Receiver<Message>) = crossbeam_channel::unbounded();
        let mailbox = Arc::new(Mailbox {
            sender,
            waker: Waker::new(poll.registry(), WAKE)?,
            draining: AtomicBool::new(false),
            epoch: Instant::now(),
        });
        let acceptor = acceptor::Acceptor::start(
            listener,
            Arc::clone(&mailbox),
            settings.max_connections,
            Arc::clone(&metrics),
        )?;
        let core = connection::Core::new(Arc::clone(&mailbox), settings, service, metrics);
        let poller = poller::Poller::new(poll, receiver, core);
        let poller = thread::Builder::new().name("poller".into()).spawn(move || poller.run())?;
        Ok(Self { mailbox, acceptor, poller })
    }
}

impl Connector for Native {
    fn drain(self: Box<Self>, patience: Duration) -> Drained {
        // First, so that whoever sees a connection refused can rely on it that answers say `Connection: close` from now on.
        self.mailbox.draining.store(true, Ordering::Relaxed);
        self.acceptor.stop();
        self.mailbox.post(Message::Drain { until: Instant::now() + patience });
        match self.poller.join() {
            Ok(0) => Drained::Complete,
            Ok(left) => Drained::CutOff(left),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn stopper(&self) -> Stopper {
        let mailbox = Arc::clone(&self.mailbox);
        Box::new(move || mailbox.post(Message::Stop))
    }
}
