//! The acceptor thread. It hands each new socket of every listener to a poller, and only shutdown ends it.
//!
//! After an error it waits 50 ms, doubling to 1.6 s, as Tomcat's acceptor does. The clients stay in the kernel's
//! backlog meanwhile. The acceptor keeps one spare file descriptor. When the process has no other left, the acceptor
//! gives up the spare one, so that clients are still refused with an answer.

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
use crate::base::guard::supervise;
use crate::base::system;
use crate::connector::Listener;
use crate::handler::unavailable;
use crate::http::{Form, encode_head};
use crate::telemetry::metrics::{Metrics, Reason};
use crate::telemetry::sparing::sparingly;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1600);

/// How many clients over the limit are refused with an answer at the same time. Further clients wait in the backlog.
pub(in crate::connector) const REFUSED_AT_ONCE: usize = 64;

/// How much of an answer the kernel buffers beyond the bytes in flight (`TCP_NOTSENT_LOWAT` in tcp(7)). Without it, the
/// kernel buffers megabytes for each client that reads slowly. A client that reads fast is not slowed down: the limit
/// does not count bytes in flight. It is set on the listener, whose sockets inherit it. Unix sockets have no such
/// option.
const UNSENT_BYTES: u32 = 128 * 1024;

/// How much of a request is read from a client that is only refused: any head, and most bodies.
const SKIPPED_BYTES: usize = 64 * 1024;

/// How long the acceptor waits, before it closes the listener, for handshakes that have begun. The time covers the way
/// to a machine nearby and no more: a client that begins a handshake meanwhile waits for a second.
const LAST_HANDSHAKES: Duration = Duration::from_millis(10);

/// How long the acceptor accepts from the backlog when the server stops. A full backlog takes some milliseconds. Where
/// the system cannot keep new clients from coming, this limit keeps them from delaying the stop.
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
    entrances: Vec<Entrance>,
    poll: Poll,
    /// Each newcomer goes to the next poller of this list.
    pollers: Vec<Arc<Mailbox>>,
    next: usize,
    gate: Arc<Gate>,
    stopped: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// The spare descriptor, given up when the process has no other. `None` while none is to be had.
    reserve: Option<File>,
}

/// A listener, and what the acceptor knows about it.
struct Entrance {
    listener: Listener,
    /// Whether its clients begin with a handshake, so that they could not read a refusal in plain text.
    encrypted: bool,
    /// Whether clients may wait in its backlog. An event says so, and only an empty backlog says no.
    is_due: bool,
    /// Why it accepted nobody in this round.
    failed: Option<io::Error>,
}

/// The reason to stop accepting for a while.
enum Rest {
    /// The backlog is empty.
    Idle,
    /// The limit is reached, and enough clients are being refused. Lasts until one of them has left.
    Crowded,
    /// The system refuses to accept.
    Failed(io::Error),
}

impl Acceptor {
    pub(super) fn start(
        name: String,
        listeners: Vec<(Listener, bool)>,
        pollers: Vec<Arc<Mailbox>>,
        gate: Arc<Gate>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        gate.wake_by(Waker::new(poll.registry(), WAKE)?);
        let mut entrances = Vec::with_capacity(listeners.len());
        for (index, (listener, encrypted)) in listeners.into_iter().enumerate() {
            let socket = listener.socket();
            socket.set_nonblocking(true)?;
            if let Err(error) = system::limit_unsent(socket, UNSENT_BYTES) {
                log::debug!("the kernel may hold megabytes for a client that reads slowly: {error}");
            }
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE)?;
            entrances.push(Entrance { listener, encrypted, is_due: true, failed: None });
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let mut accepting = Accepting {
            entrances,
            poll,
            pollers,
            next: 0,
            gate: Arc::clone(&gate),
            stopped: Arc::clone(&stopped),
            metrics,
            reserve: reserve(),
        };
        let held = Arc::new(());
        let life = Arc::downgrade(&held);
        let run = move || {
            let noted = Arc::clone(&accepting.metrics);
            supervise("the acceptor", || noted.thread_panicked(), || accepting.run());
            drop(held);
        };
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(Self { thread, gate, stopped, life })
    }

    /// Nobody holds it once the thread has ended.
    pub(super) fn life(&self) -> Weak<()> {
        self.life.clone()
    }

    /// Accepts the clients in the backlogs and closes the listeners. From then on the kernel refuses new clients.
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
    fn run(&mut self) {
        // After a panic, events may be lost.
        self.entrances.iter_mut().for_each(|entrance| entrance.is_due = true);
        let mut events = Events::with_capacity(self.entrances.len() + 1);
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
            self.note(&events);
            if self.stopped.load(Ordering::Acquire) {
                return self.accept_the_last(&mut events);
            }
            // Clients that come during a pause neither end it nor make it longer. They are accepted after it.
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

    /// Until when to wait for a client to leave. Refused clients that had time to read their answer are closed then.
    fn wait_in_the_crowd(&self, until: Option<Instant>) -> Instant {
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            self.pollers.iter().for_each(|poller| poller.post(Message::Crowded));
        }
        until.filter(|until| now < *until).unwrap_or(now + LONGEST_AWAIT)
    }

    /// Notes which listeners have clients.
    fn note(&mut self, events: &Events) {
        for event in events {
            // The waker has a token of its own.
            if let Some(entrance) = self.entrances.get_mut(event.token().0) {
                entrance.is_due = true;
            }
        }
    }

    /// Prevents resets when the listeners close: clients that have connected, or are about to, are still accepted. If
    /// another process listens on the same socket, its clients wait for that process instead.
    fn accept_the_last(&mut self, events: &mut Events) {
        if !self.entrances.iter().any(|entrance| entrance.listener.closes_for_all()) {
            return;
        }
        for entrance in &self.entrances {
            if let Err(error) = entrance.listener.turn_away() {
                log::debug!(
                    "new connections cannot be stopped, so clients that connect now may be reset: {error}"
                );
            }
        }
        let began = Instant::now();
        loop {
            // A listener whose backlog was not empty has no event.
            for entrance in &mut self.entrances {
                entrance.is_due = entrance.listener.closes_for_all();
            }
            self.accept_while(|_| began.elapsed() < LAST_CLIENTS);
            let left = LAST_HANDSHAKES.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            // An error only ends this wait early.
            drop(self.poll.poll(events, Some(left)));
        }
    }

    fn accept_all(&mut self) -> Rest {
        self.accept_while(|accepting| !accepting.stopped.load(Ordering::Acquire))
    }

    /// Accepts until it is to stop or every backlog is empty, one client of each listener in turn. A rest would raise no
    /// event: the listeners are edge-triggered.
    fn accept_while(&mut self, goes_on: impl Fn(&Self) -> bool) -> Rest {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        self.entrances.iter_mut().for_each(|entrance| entrance.failed = None);
        let mut any = true;
        while any {
            any = false;
            for index in 0..self.entrances.len() {
                let entrance = &self.entrances[index];
                if !entrance.is_due || entrance.failed.is_some() {
                    continue;
                }
                if !goes_on(self) {
                    return Rest::Idle;
                }
                if self.is_crowded() {
                    return Rest::Crowded;
                }
                any = true;
                self.accept_one(index);
            }
        }
        // The system's reasons are the same for all listeners, so one of them is enough to say.
        let failed = self.entrances.iter_mut().find_map(|entrance| entrance.failed.take());
        failed.map_or(Rest::Idle, Rest::Failed)
    }

    /// Accepts one client of a listener, or notes that none waits or that the system refuses.
    fn accept_one(&mut self, index: usize) {
        let accepted = match self.entrances[index].listener.socket().accept() {
            Ok((socket, address)) => {
                self.admit(socket, index, address.as_socket());
                Ok(())
            }
            Err(error) if is_out_of_descriptors(&error) => self.refuse_with_reserve(index, error),
            Err(error) => Err(error),
        };
        let entrance = &mut self.entrances[index];
        match accepted {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => entrance.is_due = false,
            // The client left while it waited, or a signal came. Neither is a reason to pause.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => entrance.failed = Some(error),
        }
    }

    /// Whether the allowed number of clients is being refused already. At shutdown, waiting clients are refused beyond
    /// it.
    fn is_crowded(&self) -> bool {
        if self.stopped.load(Ordering::Acquire) || self.gate.excess() < REFUSED_AT_ONCE {
            return false;
        }
        self.gate.await_place();
        // A place may have become free before the gate knew that the acceptor waits.
        self.gate.excess() >= REFUSED_AT_ONCE
    }

    fn admit(&mut self, socket: Socket, listener: usize, peer: Option<std::net::SocketAddr>) {
        let delay = || if peer.is_some() { socket.set_tcp_nodelay(true) } else { Ok(()) };
        if socket.set_nonblocking(true).and_then(|()| delay()).is_err() {
            return; // The client has left already.
        }
        let (place, refuse) = self.gate.enter(peer.map(|peer| IpAddr::to_canonical(&peer.ip())));
        let hops = self.pollers.len();
        self.next = (self.next + 1) % hops;
        self.pollers[self.next].post(Message::Accepted(Newcomer {
            socket,
            listener,
            peer,
            place,
            refuse,
            hops,
        }));
    }

    /// Accepts one client with the spare descriptor, only to refuse it. Without a free descriptor the system does not
    /// report an empty backlog, so this call also finds out whether the backlog is empty.
    fn refuse_with_reserve(&mut self, index: usize, error: io::Error) -> io::Result<()> {
        if self.reserve.take().is_none() {
            return Err(error);
        }
        let entrance = &self.entrances[index];
        let accepted = entrance.listener.socket().accept().map(|(socket, _)| {
            self.metrics.received();
            self.metrics.refused(Reason::Descriptors);
            // The refusal may not reach the client. Without a descriptor, nothing more can be done.
            drop(say_unavailable(&socket, entrance.encrypted));
        });
        // The client's descriptor is free again, unless another thread has taken it.
        self.reserve = reserve();
        accepted
    }
}

fn say_unavailable(mut socket: &Socket, encrypted: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if !encrypted {
        let response = unavailable("the server has no file descriptor left").to_response();
        let mut answer = Vec::new();
        if encode_head(&response, Form::CLOSE, None, &mut answer) {
            answer.extend_from_slice(response.body());
        }
        socket.write_all(&answer)?;
    }
    socket.shutdown(Shutdown::Write)?;
    // Bytes that came and are not read would turn the end into a reset. The limit keeps a client that sends without
    // end from holding up the others.
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

/// Whether the process, or the system, has no descriptor left. `ErrorKind` has no names for these two errors.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
