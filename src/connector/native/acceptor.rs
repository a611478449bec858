//! The thread that accepts. It hands each new socket to the poller and nothing but shutdown ends it.
//!
//! On an error (out of descriptors, most likely) it waits 50 ms, doubling to 1.6 s, as Tomcat's acceptor does: the
//! clients stay in the kernel's backlog meanwhile.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Mailbox, Message, WAKE};
use crate::metrics::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1600);

/// How many clients over the limit are told so at the same time; the ones after them wait in the backlog.
const REFUSED_AT_ONCE: usize = 64;

/// The running acceptor.
#[derive(Debug)]
pub(super) struct Acceptor {
    thread: JoinHandle<()>,
    waker: Waker,
    stopped: Arc<AtomicBool>,
}

struct Accepting {
    listener: TcpListener,
    poll: Poll,
    mailbox: Arc<Mailbox>,
    stopped: Arc<AtomicBool>,
    max_connections: usize,
    metrics: Arc<Metrics>,
}

impl Acceptor {
    pub(super) fn start(
        listener: TcpListener,
        mailbox: Arc<Mailbox>,
        max_connections: usize,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(0), Interest::READABLE)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let accepting =
            Accepting { listener, poll, mailbox, stopped: Arc::clone(&stopped), max_connections, metrics };
        let thread = thread::Builder::new().name("acceptor".into()).spawn(move || accepting.run())?;
        Ok(Self { thread, waker, stopped })
    }

    /// Closes the listener: new clients are refused by the kernel from then on.
    pub(super) fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            log::error!("the acceptor cannot be woken: {error}");
            return;
        }
        if self.thread.join().is_err() {
            log::error!("the acceptor panicked");
        }
    }
}

impl Accepting {
    fn run(mut self) {
        let mut events = Events::with_capacity(2);
        let (mut pause, mut resume) = (None, Instant::now());
        while !self.stopped.load(Ordering::Acquire) {
            let left = resume.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, pause.map(|_| left)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => log::error!("the acceptor cannot poll: {error}"),
            }
            // Clients that knock during a pause neither end it nor make it longer; they are accepted after it.
            if Instant::now() < resume {
                continue;
            }
            pause = self.accept_all().err().map(|error| {
                let next = pause.map_or(FIRST_PAUSE, |last: Duration| (last * 2).min(LONGEST_PAUSE));
                log::warn!("cannot accept, trying again in {next:?}: {error}");
                next
            });
            resume = Instant::now() + pause.unwrap_or_default();
        }
    }

    /// Accepts until the backlog is empty: the listener is edge-triggered.
    fn accept_all(&self) -> io::Result<()> {
        while !self.stopped.load(Ordering::Acquire) {
            let open = self.metrics.open_connections();
            if open >= self.max_connections + REFUSED_AT_ONCE {
                return Err(io::Error::other("http.max_connections are open and 64 more are being refused"));
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_err() {
                        continue; // The client has left already.
                    }
                    self.metrics.connected();
                    self.mailbox.post(Message::Accepted {
                        stream,
                        peer,
                        refuse: open >= self.max_connections,
                    });
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // The client has left while it waited, or a signal came: neither is a reason to wait.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}
