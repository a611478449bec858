//! Sends due requests and takes in answers. A thread has one epoll and many connections. With several threads, each has
//! its part of the plan, and its own connections.
//!
//! Open loop: a request goes out when it is due, whether or not earlier ones were answered. It takes the connection
//! that was used last, or opens one. When neither is possible, the schedule waits, and the requests that then go
//! out too late are counted. Closed loop: each client sends its next request when its last one is answered.
//!
//! In steady state a request costs one write, one read and its share of an epoll wait, and no allocation.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::answer::Answer;
use super::connection::{Buffers, Connection, PendingRequest, Step};
use super::mix::{Choice, Mix};
use super::origin::Reached;
use super::outcomes::{Answered, Failure};
use super::part::Part;
use super::recorder::Recorder;
use super::sheets::EndState;
use super::timetable::Timetable;
use super::{Plan, Stop};
use crate::base::system::Alarm;

/// The most events that one wait returns.
const EVENTS: usize = 1024;

/// The most requests that are begun before answers are handled again. Without this limit a generator that is behind
/// would not notice them.
const BURST: usize = 128;

/// The longest wait, so that a thread notices a stop or the failure of another thread.
const WAIT_MAX: Duration = Duration::from_millis(50);

const ALARM: Token = Token(usize::MAX);

/// The inputs of one generator thread.
#[derive(Clone, Copy)]
pub(super) struct ThreadSetting<'p> {
    pub(super) plan: &'p Plan,
    /// The thread's part of the plan.
    pub(super) part: Part,
    /// The address of each target's server.
    pub(super) addresses: &'p [Reached],
    /// The most connections that the run may have at once.
    pub(super) max_connections: usize,
    pub(super) stop: Stop<'p>,
    pub(super) shared: &'p RunShared,
}

/// The state that the threads of a run share.
#[derive(Default)]
pub(super) struct RunShared {
    /// The number of choices that the threads have taken from the mix.
    pub(super) taken: AtomicUsize,
    /// Set when a thread has failed. The others then stop.
    pub(super) failed: AtomicBool,
}

pub(super) struct Generator<'p> {
    setting: ThreadSetting<'p>,
    max_connections: usize,
    poll: Poll,
    alarm: Alarm,
    connections: Slab<Connection<'p>>,
    origins: Vec<ServerOrigin<'p>>,
    /// The origin of each target.
    origin_of: Vec<usize>,
    /// Requests in the order of their beginning: number, deadline, connection. Some may have their outcome already.
    waiting: VecDeque<(u64, Instant, usize)>,
    /// The number of requests without an outcome.
    in_flight: usize,
    number: u64,
    mix: Mix<'p>,
    /// The next request, once it was chosen.
    next: Option<Choice<'p>>,
    timetable: Timetable,
    recorder: Recorder<'p>,
    buffers: Buffers,
}

/// A server under load.
struct ServerOrigin<'p> {
    reached: &'p Reached,
    /// Its connections without a request, the last used at the end. Some may have closed, or be in use again.
    free: Vec<usize>,
}

/// The connection for the next request, or why there is none.
enum ConnectionChoice {
    On(usize),
    /// Every connection is in use, and no more are allowed.
    Nowhere,
    Failed(Failure),
}

impl<'p> Generator<'p> {
    pub(super) fn new(setting: ThreadSetting<'p>, recorder: Recorder<'p>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut origins: Vec<ServerOrigin<'p>> = Vec::new();
        let mut origin_of = Vec::new();
        for reached in setting.addresses {
            let known = origins.iter().position(|origin| origin.reached == reached);
            origin_of.push(known.unwrap_or(origins.len()));
            if known.is_none() {
                origins.push(ServerOrigin { reached, free: Vec::new() });
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
            timetable: Timetable::new(
                &setting.plan.pace,
                setting.plan.late_after,
                setting.part,
                recorder.begin(),
            ),
            recorder,
            buffers: Buffers::new(),
            max_connections: setting.part.of(setting.max_connections),
            setting,
        })
    }

    /// Runs until every request has its outcome. A thread that returns without finishing its recorder counts as failed.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.setting.shared.failed.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.setting.stop.sending.load(Ordering::Relaxed) && self.timetable.stop(now) {
                self.recorder.stopped(now);
            }
            if self.setting.stop.waiting.load(Ordering::Relaxed) {
                self.abandon(now)?;
            }
            let behind = self.send_due(now)?;
            self.give_up(now);
            if self.recorder.has_passed(now) {
                self.recorder.hand_over(now, self.state(now));
            }
            if self.timetable.is_over() && self.in_flight == 0 {
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

    /// The state at the end of an interval. The recorder adds the processor time.
    fn state(&self, now: Instant) -> EndState {
        let last = self.waiting.back().map_or(now, |(_, until, _)| *until);
        EndState {
            in_flight: self.in_flight,
            connections: self.connections.len(),
            sending: usize::from(!self.timetable.is_over()),
            behind: self.timetable.behind(now),
            waits_until: last.saturating_duration_since(self.recorder.begin()),
            ..EndState::default()
        }
    }

    /// Ends the run at once: no due request begins any more, and no answer is waited for.
    fn abandon(&mut self, now: Instant) -> io::Result<()> {
        if self.timetable.stop(now) || self.in_flight > 0 {
            self.recorder.stopped(now.min(self.timetable.end()));
        }
        self.timetable.stop_at_once(now);
        while self.send_due(now)? {}
        for (_, connection) in &mut self.connections {
            if let Some(pending) = connection.take_pending() {
                self.in_flight -= 1;
                self.recorder.of(pending.target).abandoned += 1;
            }
        }
        Ok(())
    }

    /// Begins the requests that are due by now. Returns whether more are due; the caller handles answers before it
    /// calls again.
    fn send_due(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..BURST {
            let Some(due) = self.timetable.due(now, self.in_flight) else { return Ok(false) };
            if self.next.is_none() {
                self.next = self.mix.choose();
            }
            let Some(choice) = self.next else { return Ok(false) };
            let waited = now.saturating_duration_since(due);
            let has_timed_out = waited >= self.setting.plan.timeout;
            if has_timed_out || self.timetable.is_too_late(now) {
                let timeout = has_timed_out.then_some(waited);
                self.recorder.of(choice.target).skipped(timeout, self.timetable.is_blocked());
                self.sent_next();
                continue;
            }
            match self.place(self.origin_of[choice.target])? {
                ConnectionChoice::On(key) => self.begin(key, choice, due),
                ConnectionChoice::Failed(failure) => {
                    self.recorder.of(choice.target).scheduled += 1;
                    self.recorder.of(choice.target).failed(failure);
                    self.timetable.rest(now);
                }
                ConnectionChoice::Nowhere => {
                    self.timetable.blocked();
                    return Ok(false);
                }
            }
            self.sent_next();
        }
        Ok(true)
    }

    fn sent_next(&mut self) {
        self.next = None;
        self.timetable.advance();
    }

    fn place(&mut self, origin: usize) -> io::Result<ConnectionChoice> {
        if let Some(key) = self.take_free(origin) {
            return Ok(ConnectionChoice::On(key));
        }
        if self.connections.len() >= self.max_connections {
            // An idle connection to another server may make room.
            let Some(other) = (0..self.origins.len()).find_map(|other| self.take_free(other)) else {
                return Ok(ConnectionChoice::Nowhere);
            };
            self.connections.remove(other);
        }
        let entry = self.connections.vacant_entry();
        let token = Token(entry.key());
        match Connection::open(self.origins[origin].reached, origin, self.poll.registry(), token) {
            Ok(connection) => {
                let key = entry.key();
                entry.insert(connection);
                Ok(ConnectionChoice::On(key))
            }
            Err(error) => match Failure::of(&error) {
                // This error does not come from the server: this machine has run out of descriptors or memory.
                Failure::Other => Err(error),
                failure => Ok(ConnectionChoice::Failed(failure)),
            },
        }
    }

    fn take_free(&mut self, origin: usize) -> Option<usize> {
        let Self { origins, connections, .. } = self;
        let free = &mut origins[origin].free;
        loop {
            let key = free.pop()?;
            let is_free =
                |connection: &Connection<'_>| connection.origin == origin && connection.pending().is_none();
            if connections.get(key).is_some_and(is_free) {
                return Some(key);
            }
        }
    }

    fn begin(&mut self, key: usize, choice: Choice<'p>, due: Instant) {
        let now = Instant::now();
        let Choice { target, request } = choice;
        self.number += 1;
        let number = self.number;
        let begun = self.timetable.begun(now.saturating_duration_since(due));
        self.recorder.begun(target, begun);
        self.forget_finished();
        self.waiting.push_back((number, now + self.setting.plan.timeout, key));
        self.in_flight += 1;
        let pending = PendingRequest { number, target, request, due, sent: None, bytes_sent: 0 };
        let connection = &mut self.connections[key];
        let sent = connection.begin(pending, now);
        note_sent(&self.timetable, &mut self.recorder, connection);
        if let Err(error) = sent {
            self.end(key, Failure::of(&error));
        }
    }

    /// Requests with an outcome normally leave the list at its front. If the request at the front waits for long, the
    /// finished ones behind it are removed here, so that the list stays bounded.
    fn forget_finished(&mut self) {
        if self.waiting.len() > 2 * self.in_flight + EVENTS {
            let connections = &self.connections;
            self.waiting.retain(|(number, _, key)| is_waiting(connections, *key, *number));
        }
    }

    /// Closes the connections of requests that have waited for their whole timeout.
    fn give_up(&mut self, now: Instant) {
        while let Some((number, until, key)) = self.waiting.front().copied() {
            let waits = is_waiting(&self.connections, key, number);
            if waits && now < until {
                return;
            }
            self.waiting.pop_front();
            if waits && let Some(pending) = self.connections.remove(key).take_pending() {
                self.in_flight -= 1;
                let service = pending.sent.map(|sent| now.saturating_duration_since(sent));
                self.recorder
                    .of(pending.target)
                    .timed_out(now.saturating_duration_since(pending.due), service);
            }
        }
    }

    fn proceed(&mut self, event: &Event) -> io::Result<()> {
        // The connection may have ended earlier in this batch of events, and another may have its key. That one then
        // finds nothing to read.
        let key = event.token().0;
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let is_ended = event.is_read_closed() || event.is_error();
        let was_unsent = connection.is_unsent();
        let step = connection.proceed(event.is_readable(), is_ended, &mut self.buffers);
        if was_unsent {
            note_sent(&self.timetable, &mut self.recorder, connection);
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
        if let Some(pending) = connection.take_pending() {
            self.in_flight -= 1;
            let sent = pending.sent.unwrap_or(pending.due);
            // A client of a closed loop asks when its connection is open. Users of an open loop wait for their connection too.
            let due = if self.timetable.is_closed() { sent } else { pending.due };
            let answered = Answered {
                status: answer.status,
                latency: now.saturating_duration_since(due),
                service: now.saturating_duration_since(sent),
                in_time: !self.timetable.has_ended(now),
                timing: answer.timing,
            };
            self.recorder.of(pending.target).answered(answered);
        }
        if answer.keeps {
            let origin = connection.origin;
            self.origins[origin].free.push(key);
        } else {
            self.connections.remove(key);
        }
        Ok(())
    }

    /// Removes a connection that cannot carry another request.
    fn end(&mut self, key: usize, failure: Failure) {
        if let Some(pending) = self.connections.remove(key).take_pending() {
            self.in_flight -= 1;
            self.recorder.of(pending.target).failed(failure);
            self.timetable.rest(Instant::now());
        }
    }

    /// Waits until a request is due or an event happens.
    fn wait(&mut self, events: &mut Events, behind: bool) -> io::Result<()> {
        let now = Instant::now();
        let mut longest = if behind { Duration::ZERO } else { WAIT_MAX.min(self.recorder.left(now)) };
        if let Some(next) = self.timetable.next().filter(|_| !behind) {
            if next <= now {
                longest = Duration::ZERO;
            } else if next < now + WAIT_MAX {
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

/// Counts a request as sent once its first bytes are.
fn note_sent(timetable: &Timetable, recorder: &mut Recorder<'_>, connection: &mut Connection<'_>) {
    if let Some((target, sent)) =
        connection.pending().and_then(|pending| Some((pending.target, pending.sent?)))
    {
        recorder.of(target).sent(!timetable.has_ended(sent), connection.take_connected_in());
    }
}

fn is_waiting(connections: &Slab<Connection<'_>>, key: usize, number: u64) -> bool {
    let pending = connections.get(key).and_then(Connection::pending);
    pending.is_some_and(|pending| pending.number == number)
}
