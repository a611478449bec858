//! The poller thread. It owns every connection that is idle, reading or flushing, and never blocks.
//!
//! This file turns events, messages and timers into calls on the one connection that each of them concerns.
//! `connection/` says what a connection does then. It knows neither queue nor router.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::connection::{Connection, Core, End, Next};
use super::gate::{LONGEST_AWAIT, Place};
use super::link::Link;
use super::timers::Timers;
use super::{Id, Mailbox, Message, Newcomer, Reload};
use crate::base::guard::{catch, supervise};
use crate::telemetry::metrics::{Closing, Reason, Sheet};
use crate::telemetry::sparing::sparingly;

/// How many spare connections one search looks for. A search goes through all connections, so it pays to find several.
const SPARE_AT_ONCE: usize = 64;

/// After a search that found none, newcomers are refused for this time without another search. Otherwise clients that
/// come and go at the limit would cause a search through all connections each.
const SPARE_PAUSE: Duration = Duration::from_millis(10);

/// How often connections are counted by their stage. A second is fresh enough for the gauges' readers. Counting 10,000
/// connections takes half a millisecond.
const CENSUS_INTERVAL: Duration = Duration::from_secs(1);

/// If a poll took less time than this, its events may be as old as the poll before. The poll did not wait for them, or
/// the thread did not run as soon as they came.
const WAITED: Duration = Duration::from_millis(25);

pub(super) struct Poller {
    poll: Poll,
    receiver: Receiver<Message>,
    /// Another poller, which may have an idle connection where this one has none.
    next: Arc<Mailbox>,
    core: Core,
    connections: Slab<Connection>,
    timers: Timers,
    generation: u64,
    /// The spare connections that the last search found; the one that was idle longest is last.
    spare: Vec<(Instant, Id)>,
    /// No search takes place until then, because the last one found none.
    none_spare_until: Instant,
    /// The refused connections, each with the time of its refusal. The key is the generation, which is the order of
    /// arrival.
    refused: BTreeMap<u64, (Id, Instant)>,
    /// When the service's next tick is due.
    tick_at: Option<Instant>,
    drain_until: Option<Instant>,
    /// How many connections are in each stage, and when to count again.
    census: Sheet,
    census_at: Instant,
    /// Whether a connection has gone since the last count.
    census_stale: bool,
    /// Whether the last newcomer has come.
    last_came: bool,
    stopped: bool,
}

impl Poller {
    pub(super) fn new(poll: Poll, receiver: Receiver<Message>, next: Arc<Mailbox>, core: Core) -> Self {
        Self {
            poll,
            receiver,
            next,
            census: core.metrics.census.sheet(),
            census_at: Instant::now(),
            census_stale: false,
            core,
            connections: Slab::new(),
            timers: Timers::default(),
            generation: 0,
            spare: Vec::new(),
            none_spare_until: Instant::now(),
            refused: BTreeMap::new(),
            tick_at: None,
            drain_until: None,
            last_came: false,
            stopped: false,
        }
    }

    /// Serves until it is drained or stopped. Returns how many clients were cut off.
    pub(super) fn run(mut self) -> usize {
        let noted = Arc::clone(&self.core.metrics);
        supervise("a poller", || noted.thread_panicked(), || self.serve());
        let owed = self.connections.iter().filter(|(_, connection)| connection.is_owed_something()).count();
        for (_, connection) in &mut self.connections {
            connection.abandon(&self.core);
            // Workers may still hold some of the sockets, so dropping the connections would not close them.
            connection.link().shutdown(Shutdown::Both);
        }
        owed
    }

    fn serve(&mut self) {
        // After a panic, events may be lost. So every connection acts once.
        let all = self.connections.iter_mut().map(|(_, connection)| {
            connection.again = true;
            connection.id()
        });
        self.core.again = all.collect();
        let mut events = Events::with_capacity(1024);
        self.tick_at = self.core.tick();
        while !self.is_over() {
            let asked = Instant::now();
            let timeout = self.timeout(asked);
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != io::ErrorKind::Interrupted {
                    sparingly!(log::Level::Error, "polls that failed", "the poller cannot poll: {error}");
                }
                continue;
            }
            let earlier = std::mem::replace(&mut self.core.now, Instant::now());
            // A poll that waited for long returns as soon as an event comes.
            self.core.events_since = if self.core.now - asked < WAITED { earlier } else { self.core.now };
            // These connections had their turn and have more to read. A connection with still more afterwards comes
            // again.
            for id in std::mem::take(&mut self.core.again) {
                if let Some(connection) = self.connections.get_mut(id.index) {
                    connection.again = false;
                }
                self.handle_readiness(id);
            }
            for event in &events {
                let Token(index) = event.token();
                let (end, readable) = (End::of(event), event.is_readable());
                self.with(index, |connection, core| match connection.note_event(core, end, readable) {
                    Next::Wait => Self::proceed_or_assist(connection, core),
                    next => next,
                });
            }
            // Only the messages that are there now, for the same reason.
            for _ in 0..self.receiver.len() {
                let Ok(message) = self.receiver.try_recv() else { break };
                self.receive(message);
            }
            while let Some(id) = self.timers.pop(self.core.now) {
                if let Some(connection) = self.connections.get_mut(id.index) {
                    connection.timer.spend();
                    self.with(id.index, Connection::handle_timeout);
                }
            }
            self.core.wake_workers();
            if self.core.now >= self.census_at || self.census_stale && self.connections.is_empty() {
                self.count();
            }
            if self.tick_at.is_some_and(|at| self.core.now >= at) {
                self.tick_at = self.core.tick();
            }
        }
    }

    fn count(&mut self) {
        self.census_stale = !self.connections.is_empty();
        self.census.fill(self.connections.iter().map(|(_, connection)| connection.state()));
        self.census_at = self.core.now + CENSUS_INTERVAL;
    }

    fn is_over(&self) -> bool {
        let empty = self.last_came && self.connections.is_empty() && self.receiver.is_empty();
        let drained = |until| empty || Instant::now() >= until;
        self.stopped || self.drain_until.is_some_and(drained)
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.core.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let drain = self.drain_until.map(|until| until.saturating_duration_since(now));
        let census = (!self.connections.is_empty()).then_some(self.census_at);
        let due = [census, self.tick_at].into_iter().flatten().map(|at| at.saturating_duration_since(now));
        self.timers.next(now).into_iter().chain(drain).chain(due).min()
    }

    /// Lets one connection act, and carries out the result.
    fn with(&mut self, index: usize, act: impl FnOnce(&mut Connection, &mut Core) -> Next) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let next = catch(|| act(connection, &mut self.core)).unwrap_or_else(|message| {
            self.core.metrics.thread_panicked();
            self.core.empty_buffers();
            log::error!(
                "a poller panicked, so it closes the connection that it served, and goes on: {message}"
            );
            Next::Reset
        });
        let mut holds_more = false;
        match next {
            Next::Wait => {
                let (id, due) = (connection.id(), connection.due());
                self.timers.arm(&mut connection.timer, id, due);
                holds_more = connection.charge(&self.core);
            }
            Next::Close => self.forget(index, false),
            Next::Reset => self.forget(index, true),
        }
        if holds_more && self.core.metrics.buffered_bytes() > self.core.settings.buffered_max {
            self.free_memory();
        }
        while let Some(id) = self.core.handshakes.take_evicted() {
            self.evict(id);
        }
    }

    /// Gives up the requests and answers of this poller's connections that take longest, until an eighth of the memory is free.
    /// Freeing more than is needed at once makes such searches rare.
    fn free_memory(&mut self) {
        let enough = self.core.settings.buffered_max / 8 * 7;
        let mut slow: Vec<(Instant, usize)> = self
            .connections
            .iter()
            .filter_map(|(index, connection)| Some((connection.holds_since(&self.core)?, index)))
            .collect();
        slow.sort_unstable();
        for (_, index) in slow {
            if self.core.metrics.buffered_bytes() <= enough {
                break;
            }
            self.with(index, Connection::give_memory_back);
        }
    }

    /// Closes a connection that makes room for a newcomer.
    fn evict(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(id.index).filter(|connection| connection.id() == id)
        else {
            return;
        };
        self.core.metrics.closed(Closing::Evicted);
        connection.close_session();
        self.forget(id.index, false);
    }

    fn forget(&mut self, index: usize, reset: bool) {
        let mut closed = self.connections.remove(index);
        self.refused.remove(&closed.id().generation);
        closed.abandon(&self.core);
        self.core.metrics.buffer(closed.charged, 0);
        // A worker or a job in the queue may hold the link, and with it the descriptor, for a while. So dropping the
        // connection neither tells the client nor takes the socket out of epoll.
        if reset {
            closed.link().reset();
        } else {
            closed.link().shutdown(Shutdown::Both);
        }
        let descriptor = closed.link().socket().as_raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&descriptor)) {
            sparingly!(
                log::Level::Error,
                "connections that cannot be unregistered",
                "cannot unregister a closed connection from the poll: {error}"
            );
        }
        self.timers.disarm(closed.timer, closed.id());
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Accepted(newcomer) => self.open(newcomer),
            Message::Returned(id) => self.handle_readiness(id),
            Message::Piece(id, piece) => self.with(id.index, |connection, core| {
                if connection.id() == id { connection.add_piece(core, piece) } else { Next::Wait }
            }),
            Message::Crowded => self.forget_refused(),
            Message::Reload(reload) => self.reload(reload),
            // The channel has room for each poller's answer. The thread that asked may have stopped waiting.
            Message::Pulse(here) => drop(here.try_send(())),
            Message::Drain { until } => {
                self.drain_until = Some(until);
                self.next.post(Message::Last);
                self.with_all(Connection::drain);
            }
            Message::Last => self.last_came = true,
            Message::Stop => self.stopped = true,
        }
    }

    /// Lets every connection act.
    fn with_all(&mut self, act: impl Fn(&mut Connection, &mut Core) -> Next) {
        let all: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
        for index in all {
            self.with(index, &act);
        }
    }

    fn reload(&mut self, Reload { settings, service, done }: Reload) {
        let before = self.core.reload(settings, service);
        self.tick_at = self.core.tick();
        self.with_all(|connection, core| connection.reload(core, &before));
        drop(done);
    }

    /// Lets a connection act on a message, if it is still the same connection.
    fn handle_readiness(&mut self, id: Id) {
        self.with(id.index, |connection, core| {
            if connection.id() == id { Self::proceed_or_assist(connection, core) } else { Next::Wait }
        });
    }

    fn proceed_or_assist(connection: &mut Connection, core: &mut Core) -> Next {
        if connection.link().note_readiness() { connection.proceed(core) } else { connection.assist(core) }
    }

    fn open(&mut self, mut newcomer: Newcomer) {
        if newcomer.refuse == Some(Reason::ConnectionLimit) {
            if self.make_room(&mut newcomer.place) {
                newcomer.refuse = None;
            } else if newcomer.hops > 1 && self.drain_until.is_none() {
                // Not while draining: the other poller has been told that no newcomer comes any more.
                newcomer.hops -= 1;
                self.next.post(Message::Accepted(newcomer));
                return;
            }
        }
        let Newcomer { socket, listener, peer, mut place, refuse, .. } = newcomer;
        let tls = self.core.settings.beginnings[listener].tls.as_ref();
        let session = match tls.map(|tls| tls.identity.session()).transpose() {
            Ok(session) => session,
            Err(error) => {
                sparingly!(
                    log::Level::Error,
                    "clients without TLS",
                    "cannot begin TLS with a client: {error}"
                );
                return;
            }
        };
        self.generation += 1;
        let entry = self.connections.vacant_entry();
        let (index, id) = (entry.key(), Id { index: entry.key(), generation: self.generation });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let descriptor = socket.as_raw_fd();
        if let Err(error) =
            self.poll.registry().register(&mut SourceFd(&descriptor), Token(id.index), interest)
        {
            sparingly!(
                log::Level::Warn,
                "connections that cannot be registered",
                "cannot register a connection with the poll, so it is closed: {error}"
            );
            return;
        }
        if refuse.is_some() {
            place.refuse();
            self.refused.insert(id.generation, (id, self.core.now));
        }
        let link = Arc::new(Link::new(socket, id, session.is_none(), Arc::clone(&self.core.mailbox)));
        entry.insert(Connection::new(link, place, peer, listener, session, &self.core));
        self.with(index, |connection, core| connection.begin(core, refuse));
    }

    /// Closes idle connections, those idle for longest first, until there is a place for the newcomer. Returns whether
    /// there is one.
    fn make_room(&mut self, place: &mut Place) -> bool {
        let now = self.core.now;
        for look in [false, true] {
            if look {
                self.look_for_spare();
            }
            loop {
                // A client may have left since the acceptor asked, or taken a place that was made here.
                if place.admit() {
                    return true;
                }
                let Some((since, id)) = self.spare.pop() else { break };
                let same = self
                    .connections
                    .get(id.index)
                    .is_some_and(|connection| connection.id() == id && connection.is_spare_since(since, now));
                if same {
                    self.evict(id);
                }
            }
        }
        false
    }

    fn look_for_spare(&mut self) {
        let now = self.core.now;
        if now < self.none_spare_until {
            return;
        }
        let found = self.connections.iter().filter_map(|(_, connection)| {
            let (since, id) = (connection.spare_since(now)?, connection.id());
            // A refused connection has no place to give.
            (!self.refused.contains_key(&id.generation)).then_some((since, id))
        });
        self.spare = found.collect();
        self.spare.sort_unstable_by(|one, other| other.cmp(one));
        let surplus = self.spare.len().saturating_sub(SPARE_AT_ONCE);
        self.spare.drain(..surplus);
        if self.spare.is_empty() {
            self.none_spare_until = now + SPARE_PAUSE;
        }
    }

    /// Closes the refused connections that had time to read their refusal.
    fn forget_refused(&mut self) {
        while let Some((_, (id, since))) = self.refused.first_key_value()
            && self.core.now.saturating_duration_since(*since) >= LONGEST_AWAIT
        {
            self.forget(id.index, false);
        }
    }
}
