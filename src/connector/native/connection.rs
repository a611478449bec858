//! One client's connection: the stages it goes through, and what each does with bytes, time and answers.
//!
//! Poller thread. A request is read whole, then either answered here or given to a worker; until the worker is done the
//! connection reads nothing more, which bounds what a pipelining client can have in progress to one request and one read.

use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::link::{Left, Link, Turn, Unsent};
use super::timers::Timer;
use super::{Id, Mailbox, Message};
use crate::connector::Settings;
use crate::handler::{unavailable, waited_too_long};
use crate::http::{
    BodyLength, CONTINUE, Decoder, Form, Head, Refusal, Request, Response, Scan, encode_head, parse_head,
    problem, scan_head,
};
use crate::job::{Admission, Client, Job, Service, Work};
use crate::metrics::{Metrics, Reason};

/// One read takes at most this much, so that one client cannot hold up the others for long.
const READ_BYTES: usize = 64 * 1024;

/// Answers to pipelined requests are sent together up to this size.
const ANSWERS_BYTES: usize = 64 * 1024;

/// How long a connection that we closed is still read from, so that its client sees the answer and no reset
/// (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// A worker ends its statement at the deadline and answers by itself; when it has not done so by this much later, the
/// answer is given here.
const GRACE: Duration = Duration::from_millis(50);

/// While draining: a client that was answered less than this ago may have its next request on the way and gets it
/// answered; one that was idle for longer is closed at once.
const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// What every connection of one poller uses.
pub(super) struct Core {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) settings: Settings,
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Arc<Metrics>,
    /// When the poller last woke up.
    pub(super) now: Instant,
    /// Where reads go.
    scratch: Vec<u8>,
    /// Answers that were not sent yet; empty between two connections.
    answers: Vec<u8>,
}

pub(super) struct Connection {
    link: Arc<Link>,
    /// The same link as workers see it.
    client: Arc<dyn Client>,
    stage: Stage,
    /// Bytes that were read and not used yet. Without capacity while the connection is idle.
    input: Vec<u8>,
    /// How much of the head in progress was searched for its end.
    scanned: usize,
    /// The client has closed its side, so that reading comes to an end without another edge.
    ended: bool,
    /// Which request is in progress, counted from 1.
    ticket: u64,
    /// Since when the connection is idle.
    idle_since: Instant,
    /// When the stage has lasted too long.
    due: Instant,
    pub(super) timer: Timer,
}

/// What a connection is at.
enum Stage {
    /// Waits for a request's first byte.
    Idle,
    /// Reads a head.
    Head,
    /// Reads a body.
    Body(Box<Body>),
    /// Holds a request back until earlier answers are sent.
    Holding(Box<Work>),
    /// A request is in the queue or with a worker.
    Away { form: Form, deadline: Instant },
    /// Writes what the socket did not take at once; what comes then.
    Flushing(Box<(Unsent, Stage)>),
    /// Nothing more will be answered; reads until the client closes as well.
    Lingering,
}

/// A request whose body is still coming.
struct Body {
    request: Request,
    bytes: Vec<u8>,
    rest: Rest,
}

enum Rest {
    Known(usize),
    Chunked(Decoder),
}

/// What the poller is to do with a connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for an event, a worker or the stage's end.
    Wait,
    /// Forget it.
    Close,
}

impl Core {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        settings: Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (scratch, answers) = (vec![0; READ_BYTES], Vec::new());
        Self { mailbox, settings, service, metrics, now: Instant::now(), scratch, answers }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.mailbox.is_draining()
    }

    fn idle_allowance(&self) -> Duration {
        if self.is_draining() { DRAIN_IDLE } else { self.settings.idle_timeout }
    }

    fn encode(&mut self, response: &Response, form: Form) {
        if encode_head(response, form, &mut self.answers) {
            self.answers.extend_from_slice(response.body());
        }
    }
}

impl Connection {
    pub(super) fn new(link: Arc<Link>, core: &Core) -> Self {
        Self {
            client: Arc::clone(&link) as Arc<dyn Client>,
            link,
            stage: Stage::Idle,
            input: Vec::new(),
            scanned: 0,
            ended: false,
            ticket: 0,
            idle_since: core.now,
            due: core.now + core.settings.head_timeout,
            timer: Timer::default(),
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn id(&self) -> Id {
        self.link.id()
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// An event says whether the client has closed its side.
    pub(super) fn note_end(&mut self, ended: bool) {
        self.ended |= ended;
    }

    /// Whether a client would notice that its connection is cut off now.
    pub(super) fn is_owed_something(&self) -> bool {
        let answered = matches!(self.stage, Stage::Away { .. }) && self.link.turn() == Turn::Poller;
        !answered && !matches!(self.stage, Stage::Idle | Stage::Lingering)
    }

    /// The server has as many clients as it takes.
    pub(super) fn refuse_client(&mut self, core: &mut Core) -> Next {
        core.metrics.received();
        core.metrics.refused(Reason::ConnectionLimit);
        let refusal = unavailable("the server has as many connections as it takes (http.max_connections)");
        self.answer_and_close(core, &refusal.to_response())
    }

    /// The connection is about to be forgotten, and with it a request that no worker was given yet.
    pub(super) fn abandon(&self, core: &Core) {
        let then = if let Stage::Flushing(flushing) = &self.stage { &flushing.1 } else { &self.stage };
        if let Stage::Holding(_) = then {
            core.metrics.abandoned();
        }
    }

    /// The server stops: an idle connection ends, now or soon; the others end with the answer they wait for.
    pub(super) fn drain(&mut self, core: &mut Core) -> Next {
        // A worker that has not heard of it yet gives the connection back open: that is to be noticed at once.
        if self.link.attend() {
            self.notice_return(core);
        }
        if let Stage::Idle = self.stage {
            self.due = self.due.min(self.idle_since + DRAIN_IDLE);
        }
        Next::Wait
    }

    /// There is something to do: bytes, room to write, or a worker's answer.
    pub(super) fn proceed(&mut self, core: &mut Core) -> Next {
        if let Stage::Away { .. } = self.stage {
            match self.link.take_left() {
                None => self.notice_return(core),
                Some(Left::Unsent(unsent)) => {
                    let then = if unsent.close { Stage::Lingering } else { Stage::Idle };
                    self.stage = Stage::Flushing(Box::new((unsent, then)));
                    self.due = core.now + core.settings.write_timeout;
                }
                Some(Left::Close) => self.enter(Stage::Lingering, core),
                Some(Left::Broken) => return Next::Close,
            }
        }
        if let Stage::Flushing(_) = self.stage
            && self.flush(core) == Next::Close
        {
            return Next::Close;
        }
        if !self.input.is_empty() && self.reads_requests() {
            let input = std::mem::take(&mut self.input);
            if self.consume_kept(core, input, true) == Next::Close {
                return Next::Close;
            }
        }
        self.read(core)
    }

    /// The stage's time may be over.
    pub(super) fn ring(&mut self, core: &mut Core) -> Next {
        if core.now < self.due {
            return Next::Wait;
        }
        match &self.stage {
            Stage::Idle => {
                self.enter(Stage::Lingering, core);
                Next::Wait
            }
            Stage::Head | Stage::Body(_) => {
                core.metrics.received();
                core.metrics.refused(Reason::SlowClient);
                let detail = "the request did not come in time (http.head_timeout, http.body_timeout)";
                self.answer_and_close(core, &problem(StatusCode::REQUEST_TIMEOUT, detail, &[]))
            }
            &Stage::Away { form, deadline } => self.ring_away(core, form, deadline),
            Stage::Flushing(_) | Stage::Holding(_) | Stage::Lingering => Next::Close,
        }
    }

    /// A request has been away until its time to start, or until its deadline.
    fn ring_away(&mut self, core: &mut Core, form: Form, deadline: Instant) -> Next {
        match self.link.turn() {
            Turn::Poller => return self.proceed(core),
            Turn::Queued if self.link.take_back(Turn::Queued) => {
                core.metrics.refused(Reason::QueueWait);
                return self.answer_instead(core, &waited_too_long().to_response(), form);
            }
            Turn::Running if core.now >= deadline + GRACE && self.link.take_back(Turn::Running) => {
                core.metrics.refused(Reason::Deadline);
                let detail = "the request took longer than its deadline";
                let response = problem(StatusCode::GATEWAY_TIMEOUT, detail, &[]);
                return self.answer_instead(core, &response, Form { keep_alive: false, ..form });
            }
            Turn::Queued | Turn::Running => self.due = deadline + GRACE,
            // Writing never waits, so the worker is about to be done.
            Turn::Writing => self.due = core.now + Duration::from_millis(1),
        }
        Next::Wait
    }

    /// Answers for the worker, and goes on with what came meanwhile.
    fn answer_instead(&mut self, core: &mut Core, response: &Response, mut form: Form) -> Next {
        form.keep_alive &= !core.is_draining();
        self.answered(core, response, form);
        if self.send_answers(core) == Next::Close { Next::Close } else { self.proceed(core) }
    }

    fn answer_and_close(&mut self, core: &mut Core, response: &Response) -> Next {
        core.encode(response, Form::CLOSE);
        self.stage = Stage::Lingering;
        self.send_answers(core)
    }

    /// If a worker has answered and left nothing to do, the connection is idle again since then.
    fn notice_return(&mut self, core: &Core) {
        if matches!(self.stage, Stage::Away { .. })
            && self.link.turn() == Turn::Poller
            && !self.link.has_left()
        {
            self.stage = Stage::Idle;
            self.idle_since = self.link.answered_at();
            self.due = self.idle_since + core.idle_allowance();
        }
    }

    fn reads_requests(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Head | Stage::Body(_))
    }

    /// Reads until the socket has no more, the stage wants no more, or it is the others' turn.
    fn read(&mut self, core: &mut Core) -> Next {
        while self.reads_requests() || matches!(self.stage, Stage::Lingering) {
            let mut scratch = std::mem::take(&mut core.scratch);
            let read = self.link.read(&mut scratch);
            let next = match read {
                Ok(Some(0)) | Err(_) => Next::Close,
                Ok(Some(_)) if matches!(self.stage, Stage::Lingering) => Next::Wait,
                Ok(Some(read)) => self.received(core, &scratch[..read], read == READ_BYTES),
                Ok(None) => Next::Wait,
            };
            core.scratch = scratch;
            // A short read has emptied the socket: the next byte makes a new edge (epoll(7), question 9). The end makes
            // none if it came together with the bytes.
            let full = matches!(read, Ok(Some(READ_BYTES)));
            let more = full || (self.ended && matches!(read, Ok(Some(_))));
            if next == Next::Close || !more {
                return next;
            }
            if full {
                // A client that sends as fast as it is read has its next turn after the others. No edge will tell.
                core.mailbox.post(Message::Returned(self.id()));
                return next;
            }
        }
        Next::Wait
    }

    /// Uses new bytes, from where they are if no others wait. `more`: the socket may hold more.
    fn received(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        if self.input.is_empty() {
            let (next, used) = self.consume(core, bytes, more);
            if next == Next::Wait && used < bytes.len() {
                self.input.extend_from_slice(&bytes[used..]);
            }
            return next;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        self.consume_kept(core, input, more)
    }

    fn consume_kept(&mut self, core: &mut Core, mut input: Vec<u8>, more: bool) -> Next {
        let (next, used) = self.consume(core, &input, more);
        if used < input.len() {
            input.drain(..used);
            self.input = input;
        }
        next
    }

    /// Takes requests out of `bytes` until one is given away or none is complete, and sends the answers made meanwhile.
    /// Returns how many bytes were used.
    fn consume(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> (Next, usize) {
        let mut used = 0;
        loop {
            let before = used;
            while self.reads_requests() && core.answers.len() < ANSWERS_BYTES {
                match self.consume_one(core, &bytes[used..], more) {
                    Ok(Some(taken)) => used += taken,
                    Ok(None) => break,
                    Err(refusal) => {
                        self.refuse(core, refusal);
                        used = bytes.len();
                    }
                }
            }
            let next = self.send_answers(core);
            if next == Next::Close || !self.reads_requests() || used == before || used == bytes.len() {
                return (next, used);
            }
        }
    }

    fn consume_one(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Result<Option<usize>, Refusal> {
        match self.stage {
            _ if bytes.is_empty() => Ok(None),
            Stage::Body(_) => self.consume_body(core, bytes, more),
            _ => self.consume_head(core, bytes, more),
        }
    }

    /// Takes a head. `None`: it is not complete.
    fn consume_head(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Result<Option<usize>, Refusal> {
        if let Stage::Idle = self.stage {
            // An empty line or two before a request is left over from clients of old (RFC 9112 section 2.2).
            if let [b'\r', b'\n', ..] = bytes {
                return Ok(Some(2));
            }
            if bytes == b"\r" {
                return Ok(None);
            }
        }
        let end = match scan_head(bytes, self.scanned, &core.settings.limits)? {
            Scan::Complete(end) => end,
            Scan::Incomplete => {
                self.scanned = bytes.len();
                if let Stage::Idle = self.stage {
                    self.enter(Stage::Head, core);
                }
                return Ok(None);
            }
        };
        self.scanned = 0;
        let head = parse_head(&bytes[..end], &core.settings.limits)?;
        if head.body == BodyLength::Known(0) {
            self.accept(core, head.request, more || end < bytes.len());
        } else {
            self.expect_body(core, head, end == bytes.len());
        }
        Ok(Some(end))
    }

    /// The head says that a body follows. `none_yet`: the client has not begun to send it.
    fn expect_body(&mut self, core: &mut Core, head: Head, none_yet: bool) {
        if head.expects_continue && none_yet {
            if let Some(response) = core.service.refuse_early(&head.request) {
                core.metrics.received();
                core.metrics.answered();
                core.encode(&response, Form { keep_alive: false, ..head.request.form() });
                self.stage = Stage::Lingering;
                return;
            }
            core.answers.extend_from_slice(CONTINUE);
        }
        let rest = match head.body {
            BodyLength::Known(length) => Rest::Known(length),
            BodyLength::Chunked => Rest::Chunked(Decoder::default()),
        };
        self.enter(Stage::Body(Box::new(Body { request: head.request, bytes: Vec::new(), rest })), core);
    }

    /// Takes what there is of a body.
    fn consume_body(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Result<Option<usize>, Refusal> {
        let Stage::Body(body) = &mut self.stage else { return Ok(None) };
        let max = core.settings.limits.max_body_bytes;
        let (taken, complete) = match &mut body.rest {
            Rest::Known(left) => {
                let taken = bytes.len().min(*left);
                body.bytes.extend_from_slice(&bytes[..taken]);
                *left -= taken;
                (taken, *left == 0)
            }
            Rest::Chunked(decoder) => {
                let taken = decoder.decode(bytes, &mut body.bytes, max)?;
                (taken, decoder.is_done())
            }
        };
        if complete && let Stage::Body(body) = std::mem::replace(&mut self.stage, Stage::Idle) {
            let Body { mut request, bytes: content, .. } = *body;
            request.body = Bytes::from(content);
            self.accept(core, request, more || taken < bytes.len());
        }
        Ok(Some(taken))
    }

    /// A request is complete: it is answered here, or given to a worker. `more`: the next one may be there already.
    fn accept(&mut self, core: &mut Core, mut request: Request, more: bool) {
        core.metrics.received();
        request.peer = Some(self.link.peer());
        let mut form = request.form();
        form.keep_alive &= !core.is_draining();
        match core.service.accept(request) {
            Admission::Answered(response) => {
                core.metrics.answered();
                self.answered(core, &response, form);
            }
            // Answers go out in the order of their requests, so earlier ones leave first.
            Admission::Work(work) if core.answers.is_empty() => self.give(core, work, more),
            Admission::Work(work) => self.stage = Stage::Holding(Box::new(work)),
        }
    }

    fn answered(&mut self, core: &mut Core, response: &Response, form: Form) {
        core.encode(response, form);
        self.stage = if form.keep_alive { Stage::Idle } else { Stage::Lingering };
    }

    /// Gives the connection to a worker, together with its request.
    fn give(&mut self, core: &mut Core, work: Work, more: bool) {
        let Work { request, handler, start_by, deadline } = work;
        let form = request.form();
        self.ticket += 1;
        self.stage = Stage::Away { form, deadline: deadline.instant() };
        self.due = start_by.instant();
        self.link.give(self.ticket, more || self.ended);
        let (client, ticket) = (Arc::clone(&self.client), self.ticket);
        if let Err(response) =
            core.service.enqueue(Job { request, handler, start_by, deadline, client, ticket })
        {
            // Nobody else has the job, so it is in its turn still.
            self.link.take_back(Turn::Queued);
            core.metrics.refused(Reason::QueueFull);
            self.answered(
                core,
                &response,
                Form { keep_alive: form.keep_alive && !core.is_draining(), ..form },
            );
        }
    }

    /// Answers what cannot be read, and reads nothing more.
    fn refuse(&mut self, core: &mut Core, refusal: Refusal) {
        core.metrics.received();
        core.metrics.refused(Reason::Malformed);
        log::debug!("{}: {refusal}", self.link.peer());
        core.encode(&problem(refusal.status, refusal.detail, &[]), Form::CLOSE);
        self.stage = Stage::Lingering;
    }

    /// Sends the answers made so far; the stage that was reached comes after them.
    fn send_answers(&mut self, core: &mut Core) -> Next {
        if core.answers.is_empty() {
            return Next::Wait;
        }
        let mut unsent = Unsent::new(std::mem::take(&mut core.answers), Bytes::new(), false);
        match unsent.flush(self.link.stream()) {
            Ok(true) => {
                core.answers = unsent.into_buffer();
                self.settle(core)
            }
            Ok(false) => {
                let then = std::mem::replace(&mut self.stage, Stage::Idle);
                self.stage = Stage::Flushing(Box::new((unsent, then)));
                self.due = core.now + core.settings.write_timeout;
                Next::Wait
            }
            Err(_) => Next::Close,
        }
    }

    /// Goes on sending; the stage after it is entered when all is sent.
    fn flush(&mut self, core: &mut Core) -> Next {
        let Stage::Flushing(flushing) = &mut self.stage else { return Next::Wait };
        match flushing.0.flush(self.link.stream()) {
            Ok(false) => Next::Wait,
            Ok(true) => {
                self.stage = std::mem::replace(&mut flushing.1, Stage::Idle);
                self.settle(core)
            }
            Err(_) => Next::Close,
        }
    }

    /// All answers are sent: the stage that came after them begins.
    fn settle(&mut self, core: &mut Core) -> Next {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Holding(work) => {
                // More may have been read behind it: the worker's return is to be noticed.
                self.give(core, *work, true);
                return self.send_answers(core);
            }
            // Its time begins here: sending has spent from its own.
            stage => self.enter(stage, core),
        }
        Next::Wait
    }

    /// Enters a stage together with its time limit.
    fn enter(&mut self, stage: Stage, core: &Core) {
        let allowance = match &stage {
            Stage::Idle => {
                self.idle_since = core.now;
                core.idle_allowance()
            }
            Stage::Head => core.settings.head_timeout,
            Stage::Body(_) => core.settings.body_timeout,
            Stage::Lingering => {
                self.input = Vec::new();
                self.link.shutdown(Shutdown::Write);
                LINGER
            }
            Stage::Holding(_) | Stage::Away { .. } | Stage::Flushing(_) => core.settings.write_timeout,
        };
        self.due = core.now + allowance;
        self.stage = stage;
    }
}
