//! The readiness thread: it owns every connection that is idle, reading or flushing, and never blocks.
//!
//! This file turns events, messages and timers into calls on the one connection that each concerns; what a connection
//! does then is in `connection.rs`. It knows neither queue nor router.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::connection::{Connection, Core, Next};
use super::link::Link;
use super::timers::Timers;
use super::{Id, Message};

pub(super) struct Poller {
    poll: Poll,
    receiver: Receiver<Message>,
    core: Core,
    connections: Slab<Connection>,
    timers: Timers,
    generation: u64,
    drain_until: Option<Instant>,
    stopped: bool,
}

impl Poller {
    pub(super) fn new(poll: Poll, receiver: Receiver<Message>, core: Core) -> Self {
        Self {
            poll,
            receiver,
            core,
            connections: Slab::new(),
            timers: Timers::default(),
            generation: 0,
            drain_until: None,
            stopped: false,
        }
    }

    /// Serves until it is drained or stopped. Returns how many clients were cut off.
    pub(super) fn run(mut self) -> usize {
        let mut events = Events::with_capacity(1024);
        while !self.is_over() {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != io::ErrorKind::Interrupted {
                    log::error!("the poller cannot poll: {error}");
                }
                continue;
            }
            self.core.now = Instant::now();
            for event in &events {
                let Token(index) = event.token();
                let ended = event.is_read_closed() || event.is_error();
                self.with(index, |connection, core| {
                    connection.note_end(ended);
                    if connection.link().attend() { connection.proceed(core) } else { Next::Wait }
                });
            }
            // Those that are there now: a connection that has more to read posts another, and it is the others' turn.
            for _ in 0..self.receiver.len() {
                let Ok(message) = self.receiver.try_recv() else { break };
                self.receive(message);
            }
            while let Some(id) = self.timers.pop(self.core.now) {
                if let Some(connection) = self.connections.get_mut(id.index) {
                    connection.timer.spend();
                    self.with(id.index, Connection::ring);
                }
            }
        }
        // Workers may still hold some of the sockets, so they would not be closed by being forgotten.
        self.connections.iter().for_each(|(_, connection)| connection.link().shutdown(Shutdown::Both));
        self.connections.iter().filter(|(_, connection)| connection.is_owed_something()).count()
    }

    fn is_over(&self) -> bool {
        let drained =
            |until| self.connections.is_empty() && self.receiver.is_empty() || Instant::now() >= until;
        self.stopped || self.drain_until.is_some_and(drained)
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let drain = self.drain_until.map(|until| until.saturating_duration_since(now));
        self.timers.next(now).into_iter().chain(drain).min()
    }

    /// Lets one connection act and carries out what follows from it.
    fn with(&mut self, index: usize, act: impl FnOnce(&mut Connection, &mut Core) -> Next) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if act(connection, &mut self.core) == Next::Wait {
            let (id, due) = (connection.id(), connection.due());
            self.timers.arm(&mut connection.timer, id, due);
            return;
        }
        connection.abandon(&self.core);
        // A worker or a job in the queue may hold the link, and with it the descriptor, for a while: forgetting the
        // connection neither tells the client nor ends the watching.
        connection.link().shutdown(Shutdown::Both);
        let descriptor = connection.link().stream().as_raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&descriptor)) {
            log::error!("a connection cannot be unwatched: {error}");
        }
        let closed = self.connections.remove(index);
        self.timers.disarm(closed.timer, closed.id());
        self.core.metrics.disconnected();
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Accepted { stream, peer, refuse } => self.open(stream, peer, refuse),
            Message::Returned(id) => self.with(id.index, |connection, core| {
                let current = connection.id() == id && connection.link().attend();
                if current { connection.proceed(core) } else { Next::Wait }
            }),
            Message::Drain { until } => {
                self.drain_until = Some(until);
                let all: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
                for index in all {
                    self.with(index, Connection::drain);
                }
            }
            Message::Stop => self.stopped = true,
        }
    }

    fn open(&mut self, stream: TcpStream, peer: SocketAddr, refuse: bool) {
        self.generation += 1;
        let entry = self.connections.vacant_entry();
        let id = Id { index: entry.key(), generation: self.generation };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let descriptor = stream.as_raw_fd();
        if let Err(error) =
            self.poll.registry().register(&mut SourceFd(&descriptor), Token(id.index), interest)
        {
            log::warn!("a connection cannot be watched and is closed: {error}");
            self.core.metrics.disconnected();
            return;
        }
        let link = Arc::new(Link::new(stream, peer, id, Arc::clone(&self.core.mailbox)));
        let index = entry.key();
        entry.insert(Connection::new(link, &self.core));
        self.with(index, |connection, core| match (refuse, core.is_draining()) {
            (true, _) => connection.refuse_client(core),
            (false, true) => connection.drain(core),
            (false, false) => Next::Wait,
        });
    }
}
