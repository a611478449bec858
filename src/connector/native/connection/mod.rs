//! One client's connection: the stages it goes through, and what each does with time, turns and news.
//!
//! Poller thread. A request is read whole, or as far as its handler wants it; then it is either answered here or given to a
//! worker. Until the worker is done the connection reads nothing but the rest of that request's body, which bounds what a
//! pipelining client can have in progress to one request and one read. Reading is in `input.rs`, sending in `sending.rs` and
//! `feeding.rs`, what a client's end means in `departure.rs`.

mod account;
mod core;
mod deadlines;
mod departure;
mod feeding;
mod input;
mod outgoing;
mod sending;

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use self::account::{Asked, Recalled};
pub(super) use self::core::Core;
use self::core::DRAIN_IDLE;
pub(super) use self::departure::End;
use self::feeding::Feeding;
use self::input::{Body, Incoming};
use self::outgoing::Outgoing;
use self::sending::Flushing;
use super::Id;
use super::gate::Place;
use super::link::{Left, Link, Turn};
use super::output::Unsent;
use super::timers::Timer;
use super::wire::Wire;
use crate::base::queue::Key;
use crate::base::request_id::RequestId;
use crate::connector::tls::Session;
use crate::exchange::job::{Admission, Client, Service, Work};
use crate::handler::unavailable;
use crate::http::{Form, Request, Response};
use crate::telemetry::metrics::{CLIENT_LEFT, Closing, Reason, Standing};
use crate::telemetry::sparing::sparingly;

/// How long a connection that we closed is still read from while nothing comes, so that its client sees the answer and no
/// reset (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// And how long when the client goes on sending, as nginx's `lingering_time`.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// While draining: how long a client may still take for its PROXY header or its handshake.
const DRAIN_BEGIN: Duration = Duration::from_secs(1);

/// A client that has not said anything yet keeps its place for this long when places are short: its request is on the way.
const UNUSED: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    link: Arc<Link>,
    /// Kept for its drop.
    _place: Place,
    /// Who is at the other end, or who a trusted proxy says it speaks for. `None` on a Unix socket.
    peer: Option<SocketAddr>,
    session: Option<Session>,
    /// What the client showed in the handshake.
    certificate: Option<Bytes>,
    stage: Stage,
    /// Bytes that were read and not used yet. Without capacity while the connection is idle.
    input: Vec<u8>,
    /// How much of the head in progress was searched for its end.
    scanned: usize,
    /// The client has closed its side, so that reading comes to an end without another edge.
    ended: bool,
    /// When something last came of the client, or its request was given to a worker.
    heard: Instant,
    /// How many bytes had come, read or not, when that was last looked at.
    heard_bytes: u64,
    /// How many were read.
    read_bytes: u64,
    /// The session has taken the beginning of something that it cannot read yet.
    half_read: bool,
    /// It stands in [`Core::again`].
    pub(super) again: bool,
    /// Which request of a worker is in progress, counted from 1.
    ticket: u64,
    /// Where that request waits for a worker, or did.
    place_in_queue: Option<Key>,
    endpoint: Recalled,
    /// Who the request is that was read last; `None` while the head of another is read.
    request_id: Option<RequestId>,
    /// What it asked, where the access log is to say it.
    asked: Asked,
    /// How many requests were read.
    served: usize,
    /// The rest of the body of the request that is in progress.
    incoming: Option<Box<Incoming>>,
    /// Since when the connection is idle.
    idle_since: Instant,
    /// When the stage has lasted too long.
    due: Instant,
    pub(super) timer: Timer,
}

/// What a connection is at.
enum Stage {
    /// Waits for a PROXY header.
    Proxied,
    /// Waits for the end of the TLS handshake.
    Handshake { _counted: Counted },
    /// Waits for a request's first byte.
    Idle,
    /// Reads a head.
    Head,
    /// Reads a body.
    Body(Box<Body>),
    /// Holds a request back until earlier answers are sent.
    Holding(Box<Work>),
    /// A request is in the queue or with a worker.
    Away {
        /// The form of an answer that is given here.
        form: Form,
        start_by: Instant,
        deadline: Instant,
    },
    /// Writes what the socket did not take at once.
    Flushing(Box<Flushing>),
    /// Sends the pieces of a feed as they come.
    Feeding(Box<Feeding>),
    /// Nothing more will be answered; reads until the client closes as well.
    Lingering { until: Instant },
}

/// One of the handshakes in progress, counted.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the poller is to do with a connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for an event, a worker or the stage's end.
    Wait,
    /// Forget it.
    Close,
    /// Forget it, and let the client see that what it got is not complete.
    Reset,
}

impl Connection {
    /// A connection with the stage that its settings ask for first.
    pub(super) fn new(
        link: Arc<Link>,
        place: Place,
        peer: Option<SocketAddr>,
        session: Option<Session>,
        core: &Core,
    ) -> Self {
        Self {
            link,
            _place: place,
            peer,
            session,
            certificate: None,
            stage: Stage::Idle,
            input: Vec::new(),
            scanned: 0,
            ended: false,
            heard: core.now,
            heard_bytes: 0,
            read_bytes: 0,
            half_read: false,
            again: false,
            ticket: 0,
            place_in_queue: None,
            endpoint: Recalled::default(),
            request_id: None,
            asked: Asked::default(),
            served: 0,
            incoming: None,
            idle_since: core.now,
            due: core.now + core.settings.head_timeout,
            timer: Timer::default(),
        }
    }

    /// What comes before the first request.
    pub(super) fn begin(&mut self, core: &mut Core, refuse: Option<Reason>) -> Next {
        if let Some(reason) = refuse {
            return self.refuse_client(core, reason);
        }
        if core.settings.proxy.protocol {
            let address = self.peer.map(|peer| peer.ip());
            if !core.settings.proxy.trusted.contain(address) {
                log::debug!("{}: is not in proxy.trusted and was closed", self.name());
                core.metrics.closed(Closing::ProxyHeader);
                return Next::Close;
            }
            self.stage = Stage::Proxied;
            return Next::Wait;
        }
        self.begin_session(core)
    }

    /// The TLS handshake, or else requests.
    fn begin_session(&mut self, core: &mut Core) -> Next {
        if let (Some(tls), Some(_)) = (&core.settings.tls, &self.session) {
            let counted = Counted(Arc::clone(&tls.in_progress));
            if counted.0.fetch_add(1, Ordering::Relaxed) >= tls.max_handshakes {
                core.metrics.closed(Closing::Handshake);
                return Next::Close;
            }
            self.due = core.now + tls.handshake_timeout;
            self.stage = Stage::Handshake { _counted: counted };
        } else {
            self.stage = Stage::Idle;
        }
        if core.is_draining() { self.drain(core) } else { Next::Wait }
    }

    /// Where it stands.
    pub(super) fn standing(&self) -> Standing {
        match self.stage {
            Stage::Proxied | Stage::Handshake { .. } => Standing::Beginning,
            Stage::Idle => Standing::Idle,
            Stage::Head | Stage::Body(_) => Standing::Reading,
            Stage::Holding(_) | Stage::Flushing(_) | Stage::Feeding(_) => Standing::Writing,
            Stage::Lingering { .. } => Standing::Closing,
            Stage::Away { .. } => match self.link.turn() {
                Turn::Poller => Standing::Idle,
                Turn::Queued => Standing::Queued,
                Turn::Running => Standing::Running,
                Turn::Writing | Turn::Streaming => Standing::Writing,
            },
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

    /// Who it is, for the log.
    fn name(&self) -> String {
        self.peer.map_or_else(|| "a client on the Unix socket".to_owned(), |peer| peer.to_string())
    }

    fn wire(&mut self) -> Wire<'_> {
        Wire::new(self.link.socket(), self.session.as_mut())
    }

    /// Whether a client would notice that its connection is cut off now.
    pub(super) fn is_owed_something(&self) -> bool {
        let answered = matches!(self.stage, Stage::Away { .. })
            && self.link.turn() == Turn::Poller
            && !self.link.has_left();
        let silent = matches!(
            self.stage,
            Stage::Idle
                | Stage::Feeding(_)
                | Stage::Lingering { .. }
                | Stage::Proxied
                | Stage::Handshake { .. }
        );
        !answered && !silent && !self.link.presence().has_left()
    }

    /// Since when the connection could be closed without anybody missing it. `None`: it could not.
    pub(super) fn spare_since(&self, now: Instant) -> Option<Instant> {
        if self.half_read || !self.input.is_empty() {
            return None;
        }
        match self.stage {
            Stage::Lingering { .. } => Some(self.idle_since),
            Stage::Idle if self.served > 0 || now >= self.idle_since + UNUSED => Some(self.idle_since),
            Stage::Away { .. } if self.link.turn() == Turn::Poller && !self.link.has_left() => {
                Some(self.link.answered_at())
            }
            _ => None,
        }
    }

    /// Whether it still is what [`spare_since`](Self::spare_since) said, and no request is in the socket.
    pub(super) fn is_spare_since(&self, since: Instant, now: Instant) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let lingers = matches!(self.stage, Stage::Lingering { .. });
        self.spare_since(now) == Some(since) && (lingers || self.link.socket().peek(&mut byte).is_err())
    }

    /// The server has as many clients as it takes. Whoever expects a handshake could not read an answer.
    fn refuse_client(&mut self, core: &mut Core, reason: Reason) -> Next {
        core.refuse(reason, StatusCode::SERVICE_UNAVAILABLE);
        if self.session.is_some() {
            self.note_end(core, StatusCode::SERVICE_UNAVAILABLE.as_u16(), 0, Some(reason));
            return Next::Close;
        }
        let detail = match reason {
            Reason::AddressLimit => {
                "this address has as many connections as it may (http.max_connections_per_address)"
            }
            Reason::AcceptRate => "more clients came in this second than may (http.max_accept_rate)",
            _ => "the server has as many connections as it takes (http.max_connections)",
        };
        self.answer_and_close(core, unavailable(detail).to_response(), Form::CLOSE, reason)
    }

    /// The connection is about to be forgotten, and with it a request that no worker has begun to answer: whoever does
    /// later could not see that nobody sends what it leaves, and would wait for that.
    pub(super) fn abandon(&mut self, core: &Core) {
        let then = if let Stage::Flushing(flushing) = &self.stage { &flushing.then } else { &self.stage };
        let is_unanswered = match then {
            Stage::Holding(_) => true,
            Stage::Away { .. } => self.take_from_queue(core) || self.link.take_back(Turn::Running),
            _ => false,
        };
        if is_unanswered {
            self.count_answer(core, CLIENT_LEFT);
            self.note_end(core, CLIENT_LEFT, 0, None);
            core.metrics.abandoned();
        }
        self.link.presence().leave();
        if let Some(incoming) = self.incoming.take() {
            incoming.pipe.leave();
        }
        if let Some(outbox) = self.link.outbox() {
            outbox.give_up();
        }
    }

    /// The server stops: an idle connection ends, now or soon; the others end with the answer they wait for.
    pub(super) fn drain(&mut self, core: &mut Core) -> Next {
        // A worker that has not heard of it yet gives the connection back open: that is to be noticed at once.
        if self.link.attend() {
            self.notice_return(core);
        }
        match self.stage {
            Stage::Idle => self.due = self.due.min(self.idle_since + DRAIN_IDLE),
            Stage::Proxied | Stage::Handshake { .. } => self.due = self.due.min(core.now + DRAIN_BEGIN),
            Stage::Lingering { until } => {
                self.stage = Stage::Lingering { until: until.min(core.now + LINGER) };
                self.due = self.due.min(core.now + LINGER);
            }
            Stage::Feeding(_) => return self.end_feeding(core),
            _ => {}
        }
        Next::Wait
    }

    /// The settings are new, and so is the service. What waits for its next request waits for as long as they say; a request
    /// in progress goes on as it began, one whose body is not whole with the service that was asked about that body.
    pub(super) fn reload(&mut self, core: &mut Core, before: &Arc<dyn Service>) -> Next {
        match &mut self.stage {
            Stage::Body(body) => body.keep(before),
            Stage::Flushing(flushing) => {
                if let Stage::Body(body) = &mut flushing.then {
                    body.keep(before);
                }
            }
            // One that has not said anything yet has its time for that.
            Stage::Idle if self.served > 0 && !core.is_draining() => {
                self.due = self.idle_since + core.idle_allowance();
            }
            Stage::Away { .. } => self.set_away_due(core),
            _ => {}
        }
        Next::Wait
    }

    /// There is something to do: bytes, room to write, or a worker's answer.
    pub(super) fn proceed(&mut self, core: &mut Core) -> Next {
        if self.session.is_some() && self.wire().flush().is_err() {
            return Next::Close;
        }
        if let Stage::Away { .. } = self.stage {
            match self.link.take_left() {
                None => self.notice_return(core),
                Some(Left::Unsent(unsent)) => {
                    let close = unsent.close;
                    self.flush_later(core, Outgoing::Unsent(unsent), close);
                }
                Some(Left::Stream { outbox, close }) => {
                    self.flush_later(core, Outgoing::Stream(outbox), close);
                }
                Some(Left::Close) => self.linger(core),
                Some(Left::Broken) => return Next::Close,
                Some(Left::Cut) => return Next::Reset,
            }
        }
        if let Stage::Flushing(_) | Stage::Feeding(_) = self.stage {
            let next = self.flush(core);
            if next != Next::Wait {
                return next;
            }
        }
        if !self.input.is_empty() && self.reads_requests() {
            let input = std::mem::take(&mut self.input);
            let next = self.consume_kept(core, input, true);
            if next != Next::Wait {
                return next;
            }
        }
        self.read(core)
    }

    /// There is something to do while it is a worker's turn: room for a streamed answer, or bytes of a body.
    pub(super) fn assist(&mut self, core: &mut Core) -> Next {
        if self.link.turn() == Turn::Streaming
            && let Some(outbox) = self.link.outbox()
        {
            // A failure is in the outbox, where the worker finds it and ends the connection.
            drop(outbox.flush(&mut self.wire(), &mut 0));
        }
        if self.incoming.is_some() { self.read(core) } else { self.overhear(core) }
    }

    /// Takes the request back that no worker has begun, out of the queue as well. Returns whether it was still there.
    fn take_from_queue(&self, core: &Core) -> bool {
        let taken = self.link.take_back(Turn::Queued);
        if taken && let Some(place) = self.place_in_queue {
            core.service.withdraw(place);
        }
        taken
    }

    /// Answers for the worker, and goes on with what came meanwhile.
    fn answer_instead(
        &mut self,
        core: &mut Core,
        mut response: Response,
        mut form: Form,
        reason: Reason,
    ) -> Next {
        response.name_request(self.request_id.as_ref().map_or("", RequestId::id));
        form.keep_alive &= !core.is_draining() && self.incoming.is_none();
        self.incoming = None;
        core.encode(&response, form, self.request_id.as_ref());
        self.note_answer(core, &response, form, Some(reason));
        self.after_answer(core, form);
        let next = self.send_answers(core);
        if next == Next::Wait { self.proceed(core) } else { next }
    }

    fn answer_and_close(&mut self, core: &mut Core, response: Response, form: Form, reason: Reason) -> Next {
        self.answer_unread(core, response, form, Some(reason));
        self.send_answers(core)
    }

    /// Answers what will not be read on, or was not read at all.
    fn answer_unread(&mut self, core: &mut Core, mut response: Response, form: Form, reason: Option<Reason>) {
        let request_id = self.request_id.get_or_insert_with(|| core.request_ids.unread());
        response.name_request(request_id.id());
        core.encode(&response, form, Some(request_id));
        self.note_answer(core, &response, form, reason);
        self.after_answer(core, form);
    }

    /// If a worker has answered and left nothing to do, the connection is idle again since then.
    fn notice_return(&mut self, core: &Core) {
        if matches!(self.stage, Stage::Away { .. })
            && self.link.turn() == Turn::Poller
            && !self.link.has_left()
        {
            self.incoming = None;
            self.stage = Stage::Idle;
            self.idle_since = self.link.answered_at();
            self.due = self.idle_since + core.idle_allowance();
        }
    }

    /// A request is complete, or as complete as its handler wants it: it is answered here, or given to a worker. `more`: the
    /// next one may be there already.
    fn accept(&mut self, core: &mut Core, request: Request, more: bool) {
        self.accept_by(None, core, request, more);
    }

    /// The same, by a service that was asked about its body before a reload.
    fn accept_by(
        &mut self,
        before: Option<&Arc<dyn Service>>,
        core: &mut Core,
        mut request: Request,
        more: bool,
    ) {
        core.metrics.received();
        self.served += 1;
        if core.settings.max_requests_per_connection.is_some_and(|max| self.served >= max)
            && request.keep_alive
        {
            core.metrics.closed(Closing::RequestLimit);
            request.keep_alive = false;
        }
        request.peer = self.peer;
        request.client = self.client_of(core, &request);
        request.client_certificate.clone_from(&self.certificate);
        let mut form = request.form();
        form.keep_alive &= !core.is_draining();
        match before.unwrap_or(&core.service).accept(request) {
            Admission::Answered(mut response, endpoint) => {
                core.metrics.answered();
                self.endpoint.know(endpoint.as_ref());
                response.name_request(self.request_id.as_ref().map_or("", RequestId::id));
                self.note_answer(core, &response, form, None);
                self.answered(core, response, form);
            }
            Admission::Refused(mut response, reason, endpoint) => {
                core.metrics.refused(reason);
                self.endpoint.know(Some(&endpoint));
                response.name_request(self.request_id.as_ref().map_or("", RequestId::id));
                self.note_answer(core, &response, form, Some(reason));
                self.answered(core, response, form);
            }
            Admission::Work(work) => {
                self.endpoint.know(Some(&work.endpoint));
                if let Some(incoming) = &self.incoming {
                    incoming.pipe.limit_to(work.deadline);
                }
                // Answers go out in the order of their requests, so earlier ones leave first.
                if core.answers.is_empty() {
                    self.give(core, work, more);
                } else {
                    self.stage = Stage::Holding(Box::new(work));
                }
            }
        }
    }

    /// Gives the connection to a worker, together with its request.
    fn give(&mut self, core: &mut Core, work: Work, more: bool) {
        let form = work.request.form();
        self.ticket += 1;
        let more = more || self.ended || self.incoming.is_some();
        self.heard = core.now;
        // Without more, the last read has emptied the socket.
        self.heard_bytes = if more { self.arrived_bytes() } else { self.read_bytes };
        self.link.give(self.ticket, more);
        let (start_by, deadline) = (work.start_by.instant(), work.deadline.instant());
        self.stage = Stage::Away { form, start_by, deadline };
        self.set_away_due(core);
        let client: Arc<dyn Client> = Arc::clone(&self.link) as _;
        let job = work.job_of(client, self.ticket, self.link.presence());
        match core.service.enqueue(job) {
            Ok(place) => {
                self.place_in_queue = place;
                core.note_queued();
            }
            Err((reason, mut response)) => {
                response.name_request(self.request_id.as_ref().map_or("", RequestId::id));
                // Nobody else has the job, so it is in its turn still.
                self.link.take_back(Turn::Queued);
                self.incoming = None;
                core.metrics.refused(reason);
                self.note_answer(core, &response, form, Some(reason));
                let keep_alive = form.keep_alive && !core.is_draining();
                self.answered(core, response, Form { keep_alive, ..form });
            }
        }
    }

    /// A piece of the file that is being sent has been read.
    pub(super) fn add_piece(&mut self, core: &mut Core, piece: std::io::Result<Bytes>) -> Next {
        match (&mut self.stage, piece) {
            (Stage::Flushing(flushing), Ok(piece)) => {
                flushing.add_piece(piece);
                self.due = core.now + core.settings.write_timeout;
                self.proceed(core)
            }
            (_, Err(error)) => {
                let name = self.name();
                sparingly!(
                    log::Level::Warn,
                    "files that broke off",
                    "{name}: the file cannot be read: {error}"
                );
                Next::Reset
            }
            (_, Ok(_)) => Next::Wait,
        }
    }

    /// Nothing more is sent; what still comes is read and dropped until the client closes as well.
    fn linger(&mut self, core: &Core) {
        self.input = Vec::new();
        // A body that was not read to its end would be read no further than its pipe has room.
        self.incoming = None;
        if !self.take_leave() {
            // The answer has filled the socket. Without this behind it, its end would pass for a cut.
            self.flush_later(core, Outgoing::Unsent(Unsent::new(Vec::new(), Bytes::new(), true)), true);
            return;
        }
        self.link.shutdown(Shutdown::Write);
        let max = if core.is_draining() { LINGER } else { LINGER_MAX };
        self.stage = Stage::Lingering { until: core.now + max };
        self.due = core.now + LINGER;
    }

    /// Waits for the next request.
    fn idle(&mut self, core: &Core) {
        self.stage = Stage::Idle;
        self.idle_since = core.now;
        self.due = core.now + core.idle_allowance();
    }
}
