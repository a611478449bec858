//! The thread that accepts. It hands each new socket to a poller and nothing but shutdown ends it.
//!
//! On an error it waits 50 ms, doubling to 1.6 s, as Tomcat's acceptor does: the clients stay in the kernel's backlog
//! meanwhile. Without a file descriptor left it gives up one that it keeps for this, so that clients are still refused
//! with an answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use socket2::Socket;

use super::gate::{Gate, LONGEST_AWAIT};
use super::{Mailbox, Message, Newcomer, WAKE};
use crate::base::system;
use crate::connector::Listener;
use crate::handler::unavailable;
use crate::http::{Form, encode_head};
use crate::telemetry::metrics::{Metrics, Reason};
use crate::telemetry::sparing::sparingly;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1600);

/// How many clients over the limit are told so at the same time; the ones after them wait in the backlog.
pub(in crate::connector) const REFUSED_AT_ONCE: usize = 64;

/// What the kernel takes of an answer beyond what is on its way. Without it, it takes megabytes for each client that reads
/// slowly; what it has in flight to one that reads fast is not touched by it (`TCP_NOTSENT_LOWAT` in tcp(7)). Set on the
/// listener, whose sockets inherit it; a Unix socket has no such thing.
const UNSENT_BYTES: u32 = 128 * 1024;

/// How much of a request is read of a client that is only told to leave: any head, and most bodies.
const SKIPPED_BYTES: usize = 64 * 1024;

/// How long handshakes that have begun may take until the listener closes. Not longer than the way to another machine
/// nearby: whoever begins one meanwhile waits for a second.
const LAST_HANDSHAKES: Duration = Duration::from_millis(10);

/// How long it may take to accept those who wait when the server stops. A full backlog takes some milliseconds; where the
/// system does not keep others from coming, they shall not keep the server from stopping.
const LAST_CLIENTS: Duration = Duration::from_secs(1);

/// The running acceptor.
#[derive(Debug)]
pub(super) struct Acceptor {
    thread: JoinHandle<()>,
    gate: Arc<Gate>,
    stopped: Arc<AtomicBool>,
    /// Nobody holds it once the thread has ended.
    life: Weak<()>,
}

struct Accepting {
    listener: Listener,
    poll: Poll,
    /// Each newcomer goes to the next of these.
    pollers: Vec<Arc<Mailbox>>,
    next: usize,
    gate: Arc<Gate>,
    stopped: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// Whether a client could read a refusal that comes before any handshake.
    encrypted: bool,
    /// A descriptor to give up when there is no other. `None` while there is none to be had.
    reserve: Option<File>,
}

/// Why accepting stops for a while.
enum Rest {
    /// The backlog is empty.
    Idle,
    /// The limit is reached and enough are being told so: until one has left.
    Crowded,
    /// The system does not let us.
    Failed(io::Error),
}

impl Acceptor {
    pub(super) fn start(
        name: String,
        listener: Listener,
        pollers: Vec<Arc<Mailbox>>,
        gate: Arc<Gate>,
        metrics: Arc<Metrics>,
        encrypted: bool,
    ) -> io::Result<Self> {
        let socket = listener.socket();
        socket.set_nonblocking(true)?;
        if let Err(error) = system::limit_unsent(socket, UNSENT_BYTES) {
            log::debug!("the kernel may hold megabytes for a client that reads slowly: {error}");
        }
        let poll = Poll::new()?;
        gate.wake_by(Waker::new(poll.registry(), WAKE)?);
        poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), Interest::READABLE)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let accepting = Accepting {
            listener,
            poll,
            pollers,
            next: 0,
            gate: Arc::clone(&gate),
            stopped: Arc::clone(&stopped),
            metrics,
            encrypted,
            reserve: reserve(),
        };
        let held = Arc::new(());
        let life = Arc::downgrade(&held);
        let run = move || {
            accepting.run();
            // A panic drops it too.
            drop(held);
        };
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(Self { thread, gate, stopped, life })
    }

    /// Nobody holds it once the thread has ended.
    pub(super) fn life(&self) -> Weak<()> {
        self.life.clone()
    }

    /// Accepts who is in the backlog already and closes the listener: new clients are refused by the kernel from then on.
    pub(super) fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        self.gate.wake();
        if self.thread.join().is_err() {
            log::error!("the acceptor panicked");
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Accepting {
    fn run(mut self) {
        let mut events = Events::with_capacity(2);
        let (mut pause, mut resume) = (None, None::<Instant>);
        loop {
            let timeout = resume.map(|resume| resume.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    sparingly!(log::Level::Error, "polls that failed", "the acceptor cannot poll: {error}");
                }
            }
            if self.stopped.load(Ordering::Acquire) {
                return self.accept_the_last(&mut events);
            }
            // Clients that knock during a pause neither end it nor make it longer; they are accepted after it.
            if pause.is_some() && resume.is_some_and(|resume| Instant::now() < resume) {
                continue;
            }
            (pause, resume) = match self.accept_all() {
                Rest::Idle => (None, None),
                Rest::Crowded => (None, Some(self.wait_in_the_crowd(resume))),
                Rest::Failed(error) => {
                    let next = pause.map_or(FIRST_PAUSE, |last: Duration| (last * 2).min(LONGEST_PAUSE));
                    log::warn!("cannot accept, trying again in {next:?}: {error}");
                    (Some(next), Some(Instant::now() + next))
                }
            };
        }
    }

    /// Until when to wait for somebody to leave. Who has been told for long enough goes then.
    fn wait_in_the_crowd(&self, until: Option<Instant>) -> Instant {
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            self.pollers.iter().for_each(|poller| poller.post(Message::Crowded));
        }
        until.filter(|until| now < *until).unwrap_or(now + LONGEST_AWAIT)
    }

    /// Who has connected, or is about to have, before the listener closes would otherwise see a reset. Where somebody else
    /// listens on the same socket they wait for that one.
    fn accept_the_last(&mut self, events: &mut Events) {
        if !self.listener.closes_for_all() {
            return;
        }
        if let Err(error) = self.listener.turn_away() {
            log::debug!("who connects at this moment may be reset: {error}");
        }
        let began = Instant::now();
        loop {
            self.accept_while(|_| began.elapsed() < LAST_CLIENTS);
            let left = LAST_HANDSHAKES.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            // An error ends the waiting early, and nothing else.
            drop(self.poll.poll(events, Some(left)));
        }
    }

    fn accept_all(&mut self) -> Rest {
        self.accept_while(|accepting| !accepting.stopped.load(Ordering::Acquire))
    }

    /// Accepts until the backlog is empty, because the listener is edge-triggered, or until it is to stop.
    fn accept_while(&mut self, goes_on: impl Fn(&Self) -> bool) -> Rest {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        while goes_on(self) {
            if self.is_crowded() {
                return Rest::Crowded;
            }
            let accepted = match self.listener.socket().accept() {
                Ok((socket, address)) => {
                    self.admit(socket, address.as_socket());
                    Ok(())
                }
                Err(error) if is_out_of_descriptors(&error) => self.refuse_with_reserve(error),
                Err(error) => Err(error),
            };
            match accepted {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Rest::Idle,
                // The client has left while it waited, or a signal came: neither is a reason to wait.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Rest::Failed(error),
            }
        }
        Rest::Idle
    }

    /// Whether as many clients as may be are being refused already. Who still waits when the server stops is told so, too.
    fn is_crowded(&self) -> bool {
        if self.stopped.load(Ordering::Acquire) || self.gate.excess() < REFUSED_AT_ONCE {
            return false;
        }
        self.gate.await_place();
        // One may have left before it could know that it is awaited.
        self.gate.excess() >= REFUSED_AT_ONCE
    }

    fn admit(&mut self, socket: Socket, peer: Option<std::net::SocketAddr>) {
        let delay = || if peer.is_some() { socket.set_tcp_nodelay(true) } else { Ok(()) };
        if socket.set_nonblocking(true).and_then(|()| delay()).is_err() {
            return; // The client has left already.
        }
        let (place, refuse) = self.gate.enter(peer.map(|peer| IpAddr::to_canonical(&peer.ip())));
        let hops = self.pollers.len();
        self.next = (self.next + 1) % hops;
        self.pollers[self.next].post(Message::Accepted(Newcomer { socket, peer, place, refuse, hops }));
    }

    /// Accepts one client with the descriptor kept for it, only to refuse it. Without one the system does not even say that
    /// the backlog is empty, so this finds that out as well.
    fn refuse_with_reserve(&mut self, error: io::Error) -> io::Result<()> {
        if self.reserve.take().is_none() {
            return Err(error);
        }
        let accepted = self.listener.socket().accept().map(|(socket, _)| {
            self.metrics.received();
            self.metrics.refused(Reason::Descriptors);
            // Whether it reaches the client is the client's luck: nothing more can be done without a descriptor.
            drop(self.say_unavailable(&socket));
        });
        // The client's is free again, unless another thread was faster.
        self.reserve = reserve();
        accepted
    }

    fn say_unavailable(&self, mut socket: &Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        if !self.encrypted {
            let response = unavailable("the server has no file descriptor left").to_response();
            let mut answer = Vec::new();
            if encode_head(&response, Form::CLOSE, None, &mut answer) {
                answer.extend_from_slice(response.body());
            }
            socket.write_all(&answer)?;
        }
        socket.shutdown(Shutdown::Write)?;
        // What came already and is not read would make the end a reset. Who sends without end shall not keep the others.
        let mut scratch = [0; 4096];
        let mut left = SKIPPED_BYTES;
        while left > 0 {
            left = match socket.read(&mut scratch)? {
                0 => 0,
                read => left.saturating_sub(read),
            };
        }
        Ok(())
    }
}

/// `ErrorKind` has no names for these two: the process, or the system, has no descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
