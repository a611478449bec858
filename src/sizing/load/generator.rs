//! Sends what is due and takes in the answers. A thread has one epoll and many connections; of several, each has its part of the
//! plan, and connections of its own.
//!
//! Open loop: a request goes out when it is due, whatever became of those before it; it takes the connection that was used
//! last, or opens one. Where there is none to be had, the schedule waits, and counts what it then sends too late. Closed
//! loop: each of so many clients sends its next request when it has the answer to its last one.
//!
//! In steady state a request costs one write, one read and its share of an epoll wait, and no allocation.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::Plan;
use super::answer::Answer;
use super::connection::{Asking, Buffers, Connection, Step};
use super::mix::{Choice, Mix};
use super::outcomes::{Answered, Failure};
use super::pacer::Pacer;
use super::part::Part;
use super::recorder::Recorder;
use crate::base::system::Alarm;

/// Events that one wait takes.
const EVENTS: usize = 1024;

/// Requests that are begun before answers are looked at again: a generator that is behind must not become blind.
const BURST: usize = 128;

/// The longest wait, so that a word to stop is heard, and that another thread has failed.
const NAP: Duration = Duration::from_millis(50);

const ALARM: Token = Token(usize::MAX);

/// What a thread of a run needs to know beside the plan.
#[derive(Clone, Copy)]
pub(super) struct Setting<'p> {
    pub(super) plan: &'p Plan,
    /// What of it is the thread's own.
    pub(super) part: Part,
    /// The address of each target's server.
    pub(super) addresses: &'p [SocketAddr],
    /// Connections that the run may have at once.
    pub(super) max_connections: usize,
    /// Nothing more is to be sent.
    pub(super) stop: &'p AtomicBool,
    pub(super) shared: &'p Shared,
}

/// What the threads of a run share.
#[derive(Default)]
pub(super) struct Shared {
    /// How many choices of the mix they have taken.
    pub(super) taken: AtomicUsize,
    /// One of them has failed, and the others have nothing left to do.
    pub(super) failed: AtomicBool,
}

pub(super) struct Generator<'p> {
    setting: Setting<'p>,
    max_connections: usize,
    poll: Poll,
    alarm: Alarm,
    connections: Slab<Connection<'p>>,
    origins: Vec<Origin>,
    /// The origin of each target.
    origin_of: Vec<usize>,
    /// Requests in the order in which they were begun: number, when given up, connection. Some have their outcome already.
    waiting: VecDeque<(u64, Instant, usize)>,
    /// Requests that are on their way.
    in_flight: usize,
    number: u64,
    mix: Mix<'p>,
    /// What is next, once it was chosen.
    next: Option<Choice<'p>>,
    pacer: Pacer,
    recorder: Recorder<'p>,
    buffers: Buffers,
}

/// A server.
struct Origin {
    address: SocketAddr,
    /// Its connections without a request, the one that was used last at the end. Some may have gone, or be in use again.
    free: Vec<usize>,
}

/// Where a request can be sent.
enum Place {
    On(usize),
    /// Every connection is in use, and there may be no more.
    Nowhere,
    Failed(Failure),
}

impl<'p> Generator<'p> {
    pub(super) fn new(setting: Setting<'p>, recorder: Recorder<'p>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut origins: Vec<Origin> = Vec::new();
        let mut origin_of = Vec::new();
        for address in setting.addresses {
            let known = origins.iter().position(|origin| origin.address == *address);
            origin_of.push(known.unwrap_or(origins.len()));
            if known.is_none() {
                origins.push(Origin { address: *address, free: Vec::new() });
            }
        }
        Ok(Self {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            connections: Slab::new(),
            origins,
            origin_of,
            waiting: VecDeque::new(),
            in_flight: 0,
            number: 0,
            mix: Mix::new(&setting.plan.targets, &setting.shared.taken),
            next: None,
            pacer: Pacer::new(&setting.plan.pace, setting.part, recorder.begin()),
            recorder,
            buffers: Buffers::new(),
            max_connections: setting.part.of(setting.max_connections),
            setting,
        })
    }

    /// Until every request has its outcome. Who ends without the recorder's end has failed.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.setting.shared.failed.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.setting.stop.load(Ordering::Relaxed) && !self.pacer.is_over() {
                self.pacer.stop(now);
                self.recorder.stopped(now);
            }
            let behind = self.send_due(now)?;
            self.give_up(now);
            self.recorder.tick(now, self.in_flight, self.connections.len());
            if self.pacer.is_over() && self.in_flight == 0 {
                self.recorder.finish(Instant::now(), self.connections.len());
                return Ok(());
            }
            self.wait(&mut events, behind)?;
            for event in &events {
                if event.token() != ALARM {
                    self.proceed(event)?;
                }
            }
        }
        Ok(())
    }

    /// Begins what is due by now; whether there is more of that, which is for after a look at the answers.
    fn send_due(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..BURST {
            let Some(due) = self.pacer.due(now, self.in_flight) else { return Ok(false) };
            if self.next.is_none() {
                self.next = self.mix.choose();
            }
            let Some(choice) = self.next else { return Ok(false) };
            let waited = now.saturating_duration_since(due);
            if waited >= self.setting.plan.timeout {
                self.recorder.of(choice.target).skipped(waited, self.pacer.is_blocked());
                self.sent_next();
                continue;
            }
            match self.place(self.origin_of[choice.target])? {
                Place::On(key) => self.ask(key, choice, due),
                Place::Failed(failure) => {
                    self.recorder.of(choice.target).scheduled += 1;
                    self.recorder.of(choice.target).failed(failure);
                    self.pacer.rest(now);
                }
                Place::Nowhere => {
                    self.pacer.blocked();
                    return Ok(false);
                }
            }
            self.sent_next();
        }
        Ok(true)
    }

    fn sent_next(&mut self) {
        self.next = None;
        self.pacer.advance();
    }

    fn place(&mut self, origin: usize) -> io::Result<Place> {
        if let Some(key) = self.take_free(origin) {
            return Ok(Place::On(key));
        }
        if self.connections.len() >= self.max_connections {
            // Another server's may make room.
            let Some(other) = (0..self.origins.len()).find_map(|other| self.take_free(other)) else {
                return Ok(Place::Nowhere);
            };
            self.connections.remove(other);
        }
        let entry = self.connections.vacant_entry();
        let token = Token(entry.key());
        match Connection::open(self.origins[origin].address, origin, self.poll.registry(), token) {
            Ok(connection) => {
                let key = entry.key();
                entry.insert(connection);
                Ok(Place::On(key))
            }
            Err(error) => match Failure::of(&error) {
                // Nothing of the server: descriptors or memory have run out here.
                Failure::Other => Err(error),
                failure => Ok(Place::Failed(failure)),
            },
        }
    }

    fn take_free(&mut self, origin: usize) -> Option<usize> {
        let Self { origins, connections, .. } = self;
        let free = &mut origins[origin].free;
        loop {
            let key = free.pop()?;
            let is_free =
                |connection: &Connection<'_>| connection.origin == origin && connection.asking().is_none();
            if connections.get(key).is_some_and(is_free) {
                return Some(key);
            }
        }
    }

    fn ask(&mut self, key: usize, choice: Choice<'p>, due: Instant) {
        let now = Instant::now();
        let Choice { target, request } = choice;
        self.number += 1;
        let number = self.number;
        let begun = self.pacer.begun(now.saturating_duration_since(due), self.setting.plan.late_after);
        self.recorder.begun(target, begun);
        self.forget_finished();
        self.waiting.push_back((number, now + self.setting.plan.timeout, key));
        self.in_flight += 1;
        let asking = Asking { number, target, request, due, sent: None, bytes_sent: 0 };
        let connection = &mut self.connections[key];
        let asked = connection.ask(asking, now);
        self.recorder.of(target).sent += u64::from(!connection.is_unsent());
        if let Err(error) = asked {
            self.end(key, Failure::of(&error));
        }
    }

    /// What has its outcome goes out of the line when it comes to its front; where one at the front waits for long, what is
    /// behind it must not grow without end.
    fn forget_finished(&mut self) {
        if self.waiting.len() > 2 * self.in_flight + EVENTS {
            let connections = &self.connections;
            self.waiting.retain(|(number, _, key)| is_waiting(connections, *key, *number));
        }
    }

    /// Whoever has waited for its answer for long enough closes its connection.
    fn give_up(&mut self, now: Instant) {
        while let Some((number, until, key)) = self.waiting.front().copied() {
            let waits = is_waiting(&self.connections, key, number);
            if waits && now < until {
                return;
            }
            self.waiting.pop_front();
            if waits && let Some(asking) = self.connections.remove(key).take_asking() {
                self.in_flight -= 1;
                let service = asking.sent.map(|sent| now.saturating_duration_since(sent));
                self.recorder.of(asking.target).timed_out(now.saturating_duration_since(asking.due), service);
            }
        }
    }

    fn proceed(&mut self, event: &Event) -> io::Result<()> {
        // A connection may have ended earlier in this batch, and another have its place: that one then finds nothing.
        let key = event.token().0;
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let is_ended = event.is_read_closed() || event.is_error();
        let was_unsent = connection.is_unsent();
        let step = connection.proceed(event.is_readable(), is_ended, &mut self.buffers);
        if was_unsent && let Some(asking) = connection.asking().filter(|asking| asking.sent.is_some()) {
            self.recorder.of(asking.target).sent += 1;
        }
        match step {
            Step::Wait => Ok(()),
            Step::Answered(answer) => self.answered(key, answer),
            Step::Ended(failure) => {
                self.end(key, failure);
                Ok(())
            }
        }
    }

    fn answered(&mut self, key: usize, answer: Answer) -> io::Result<()> {
        let now = Instant::now();
        let connection = &mut self.connections[key];
        if let Some(asking) = connection.take_asking() {
            self.in_flight -= 1;
            let answered = Answered {
                status: answer.status,
                latency: now.saturating_duration_since(asking.due),
                service: now.saturating_duration_since(asking.sent.unwrap_or(asking.due)),
                in_time: !self.pacer.has_ended(now),
                timing: answer.timing,
            };
            self.recorder.of(asking.target).answered(answered);
        }
        if answer.keeps {
            let origin = connection.origin;
            self.origins[origin].free.push(key);
        } else {
            self.connections.remove(key);
        }
        Ok(())
    }

    /// The connection can have no other request.
    fn end(&mut self, key: usize, failure: Failure) {
        if let Some(asking) = self.connections.remove(key).take_asking() {
            self.in_flight -= 1;
            self.recorder.of(asking.target).failed(failure);
            self.pacer.rest(Instant::now());
        }
    }

    /// Until something is due or happens.
    fn wait(&mut self, events: &mut Events, behind: bool) -> io::Result<()> {
        let now = Instant::now();
        let mut longest = if behind { Duration::ZERO } else { NAP.min(self.recorder.left(now)) };
        if let Some(next) = self.pacer.next().filter(|_| !behind) {
            if next <= now {
                longest = Duration::ZERO;
            } else if next < now + NAP {
                self.alarm.set(next, now)?;
            }
        }
        let until = self.waiting.front().map(|(_, until, _)| until.saturating_duration_since(now));
        match self.poll.poll(events, Some(until.map_or(longest, |until| until.min(longest)))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_waiting(connections: &Slab<Connection<'_>>, key: usize, number: u64) -> bool {
    let asking = connections.get(key).and_then(Connection::asking);
    asking.is_some_and(|asking| asking.number == number)
}
