//! One client's connection: its stages, and how each of them reacts to events, timers and messages.
//!
//! Poller thread. A connection reads a request whole, or as far as its handler wants it. Then the request is either
//! answered here or given to a worker. Until the worker is done, the connection reads nothing but the rest of that
//! request's body. So a client that pipelines has at most one request in progress, and one read. Reading is in
//! `input.rs`, sending in `sending.rs` and `feeding.rs`. `departure.rs` decides what a client's end means.

mod account;
mod core;
mod deadlines;
mod departure;
mod feeding;
mod handshakes;
mod input;
mod memory;
mod outgoing;
mod sending;

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use self::account::{LastEndpoint, LoggedRequest};
pub(super) use self::core::Core;
use self::core::DRAIN_IDLE;
pub(super) use self::departure::End;
use self::feeding::Feeding;
use self::input::{Body, Incoming};
use self::outgoing::Outgoing;
use self::sending::Flushing;
use super::Id;
use super::gate::Place;
use super::link::{Link, Owner, PollerTask};
use super::output::Unsent;
use super::timers::Timer;
use super::wire::Wire;
use crate::base::queue::Key;
use crate::base::request_id::RequestId;
use crate::connector::tls::Session;
use crate::exchange::job::{Admission, Client, Service, Work};
use crate::handler::unavailable;
use crate::http::{Form, Request, Response};
use crate::telemetry::metrics::{CLIENT_LEFT, Closing, ConnectionState, Reason};
use crate::telemetry::sparing::sparingly;

/// How long a connection that the server closed is still read from while nothing comes, so that its client sees the
/// answer and no reset (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// The same while the client goes on sending, as nginx's `lingering_time`.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// While draining: how long a client may still take for its PROXY header or its handshake.
const DRAIN_BEGIN: Duration = Duration::from_secs(1);

/// How long a client that has not sent anything keeps its place when places are short: its request is on the way.
const UNUSED: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    link: Arc<Link>,
    /// Held for its drop, which gives the place back.
    _place: Place,
    /// The client's address: the peer's, or the one that a trusted proxy names. `None` on a Unix socket.
    peer: Option<SocketAddr>,
    /// The number of its listener, which says how it begins.
    listener: usize,
    session: Option<Session>,
    /// The certificate that the client showed in the handshake.
    certificate: Option<Bytes>,
    stage: Stage,
    /// Bytes that were read and not used yet. The buffer has no capacity while the connection is idle.
    input: Vec<u8>,
    /// How many bytes of the head in progress were searched for its end.
    scanned: usize,
    /// Whether the client has closed its side. Then reading comes to an end without another edge.
    ended: bool,
    /// When the client last sent something, or its request was given to a worker.
    heard: Instant,
    /// How many bytes had come, read or not, when they were last counted.
    heard_bytes: u64,
    /// How many bytes were read.
    read_bytes: u64,
    /// Whether the session holds the beginning of a record that it cannot decrypt yet.
    half_read: bool,
    /// Whether it is in [`Core::again`].
    pub(super) again: bool,
    /// The number of the request that a worker has or had last, from 1.
    ticket: u64,
    /// The place in the queue of that request, which may have left it.
    place_in_queue: Option<Key>,
    endpoint: LastEndpoint,
    /// The identity of the request that was read last; `None` while another head is read.
    request_id: Option<RequestId>,
    /// The access log's data about that request, if there is an access log.
    logged: LoggedRequest,
    /// The bytes of its request and answer that are counted among `http.max_buffered_bytes`.
    pub(super) charged: usize,
    /// The length of the body of the request that is in the queue or with a worker, as far as it is counted.
    away_bytes: usize,
    /// How many requests were read.
    served: usize,
    /// The rest of the body of the request that is in progress.
    incoming: Option<Box<Incoming>>,
    /// Since when the connection is idle.
    idle_since: Instant,
    /// When the stage's time is over.
    due: Instant,
    pub(super) timer: Timer,
}

/// The stages of a connection.
enum Stage {
    /// Waits for a PROXY header.
    Proxied,
    /// Waits for the end of the TLS handshake.
    Handshake { _count: Arc<HandshakeCount> },
    /// Waits for a request's first byte.
    Idle,
    /// Reads a head.
    Head,
    /// Reads a body.
    Body(Box<Body>),
    /// Holds a request back until earlier answers are sent.
    Holding(Box<Work>),
    /// Its request is in the queue or with a worker.
    Away {
        /// The form of an answer that the poller gives.
        form: Form,
        start_by: Instant,
        deadline: Instant,
    },
    /// Writes the rest of an answer that the socket did not take at once.
    Flushing(Box<Flushing>),
    /// Sends a feed's pieces as they come.
    Feeding(Box<Feeding>),
    /// Gives no answer any more, and reads until the client closes as well.
    Lingering { until: Instant },
}

/// Counts one handshake in progress, among those of all listeners.
pub(super) struct HandshakeCount(Arc<AtomicUsize>);

impl Drop for HandshakeCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the poller does with a connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for an event, a worker or the stage's end.
    Wait,
    /// Close it.
    Close,
    /// Reset it, so that the client sees that its answer is not complete.
    Reset,
}

impl Connection {
    /// A connection in the first stage that its settings ask for.
    pub(super) fn new(
        link: Arc<Link>,
        place: Place,
        peer: Option<SocketAddr>,
        listener: usize,
        session: Option<Session>,
        core: &Core,
    ) -> Self {
        Self {
            link,
            _place: place,
            peer,
            listener,
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
            endpoint: LastEndpoint::default(),
            request_id: None,
            logged: LoggedRequest::default(),
            charged: 0,
            away_bytes: 0,
            served: 0,
            incoming: None,
            idle_since: core.now,
            due: core.now + core.settings.head_timeout,
            timer: Timer::default(),
        }
    }

    /// Enters the stage before the first request.
    pub(super) fn begin(&mut self, core: &mut Core, refuse: Option<Reason>) -> Next {
        if let Some(reason) = refuse {
            return self.refuse_client(core, reason);
        }
        if core.settings.beginnings[self.listener].proxied {
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

    /// Begins the TLS handshake, or else waits for requests.
    fn begin_session(&mut self, core: &mut Core) -> Next {
        if let (Some(tls), Some(_)) = (&core.settings.beginnings[self.listener].tls, &self.session) {
            let count = Arc::new(HandshakeCount(Arc::clone(&tls.in_progress)));
            let is_full = count.0.fetch_add(1, Ordering::Relaxed) >= tls.max_handshakes;
            self.due = core.now + tls.handshake_timeout;
            if is_full && !core.handshakes.make_room(core.now) {
                core.metrics.closed(Closing::Handshake);
                return Next::Close;
            }
            core.handshakes.begin(self.id(), &count, core.now);
            self.stage = Stage::Handshake { _count: count };
        } else {
            self.stage = Stage::Idle;
        }
        if core.is_draining() { self.drain(core) } else { Next::Wait }
    }

    /// The stage as the gauges count it.
    pub(super) fn state(&self) -> ConnectionState {
        match self.stage {
            Stage::Proxied | Stage::Handshake { .. } => ConnectionState::Beginning,
            Stage::Idle => ConnectionState::Idle,
            Stage::Head | Stage::Body(_) => ConnectionState::Reading,
            Stage::Holding(_) | Stage::Flushing(_) | Stage::Feeding(_) => ConnectionState::Writing,
            Stage::Lingering { .. } => ConnectionState::Closing,
            Stage::Away { .. } => match self.link.owner() {
                Owner::Poller => ConnectionState::Idle,
                Owner::Queued => ConnectionState::Queued,
                Owner::Running => ConnectionState::Running,
                Owner::Writing | Owner::Streaming => ConnectionState::Writing,
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

    /// The client's name for the log.
    fn name(&self) -> String {
        self.peer.map_or_else(|| "a client on the Unix socket".to_owned(), |peer| peer.to_string())
    }

    fn wire(&mut self) -> Wire<'_> {
        Wire::new(self.link.socket(), self.session.as_mut())
    }

    /// Whether a client would notice that its connection is cut off now.
    pub(super) fn is_owed_something(&self) -> bool {
        let answered = matches!(self.stage, Stage::Away { .. })
            && self.link.owner() == Owner::Poller
            && !self.link.has_task();
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

    /// Since when the connection could be closed without a loss for its client. `None`: it could not.
    pub(super) fn spare_since(&self, now: Instant) -> Option<Instant> {
        if self.half_read || !self.input.is_empty() {
            return None;
        }
        match self.stage {
            Stage::Lingering { .. } => Some(self.idle_since),
            Stage::Idle if self.served > 0 || now >= self.idle_since + UNUSED => Some(self.idle_since),
            Stage::Proxied | Stage::Handshake { .. } if now >= self.idle_since + UNUSED => {
                Some(self.idle_since)
            }
            Stage::Away { .. } if self.link.owner() == Owner::Poller && !self.link.has_task() => {
                Some(self.link.answered_at())
            }
            _ => None,
        }
    }

    /// Whether the connection is still spare since then, and no request is in the socket. See
    /// [`spare_since`](Self::spare_since).
    pub(super) fn is_spare_since(&self, since: Instant, now: Instant) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let lingers = matches!(self.stage, Stage::Lingering { .. });
        self.spare_since(now) == Some(since) && (lingers || self.link.socket().peek(&mut byte).is_err())
    }

    /// Refuses a client, because the server has all the connections that it may have. A client that expects a handshake
    /// could not read an answer.
    fn refuse_client(&mut self, core: &mut Core, reason: Reason) -> Next {
        core.refuse(reason, StatusCode::SERVICE_UNAVAILABLE);
        if self.session.is_some() {
            self.note_end(core, StatusCode::SERVICE_UNAVAILABLE.as_u16(), 0, Some(reason));
            return Next::Close;
        }
        let detail = match reason {
            Reason::AddressLimit => {
                "this address has reached its limit of connections (http.max_connections_per_address)"
            }
            Reason::AcceptRate => "too many clients have connected in this second (http.max_accept_rate)",
            _ => "the server has reached its limit of connections (http.max_connections)",
        };
        self.answer_and_close(core, unavailable(detail).to_response(), Form::CLOSE, reason)
    }

    /// Gives up the connection, and with it a request that no worker has begun to answer. A worker that answered it
    /// later would leave a rest and wait for the poller to send it, which no poller would do.
    pub(super) fn abandon(&mut self, core: &Core) {
        let then = if let Stage::Flushing(flushing) = &self.stage { &flushing.then } else { &self.stage };
        let is_unanswered = match then {
            Stage::Holding(_) => true,
            Stage::Away { .. } => self.take_from_queue(core) || self.link.take_back(Owner::Running),
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

    /// The server stops. An idle connection ends, now or soon. The others end with the answer that they wait for.
    pub(super) fn drain(&mut self, core: &mut Core) -> Next {
        // A worker that does not know of the drain yet returns the connection open. The poller must notice that at
        // once.
        if self.link.note_readiness() {
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

    /// Applies new settings and a new service. An idle connection waits for its next request as long as the new
    /// settings say. A request in progress goes on as it began. If its body is not whole, it keeps the service that was
    /// asked about the body.
    pub(super) fn reload(&mut self, core: &mut Core, before: &Arc<dyn Service>) -> Next {
        match &mut self.stage {
            Stage::Body(body) => body.keep(before),
            Stage::Flushing(flushing) => {
                if let Stage::Body(body) = &mut flushing.then {
                    body.keep(before);
                }
            }
            // A connection without any request yet keeps the time that it has for its first.
            Stage::Idle if self.served > 0 && !core.is_draining() => {
                self.due = self.idle_since + core.idle_allowance();
            }
            Stage::Away { .. } => self.set_away_due(core),
            _ => {}
        }
        Next::Wait
    }

    /// Acts on what there is to do: bytes to read, room to write, or a worker's answer.
    pub(super) fn proceed(&mut self, core: &mut Core) -> Next {
        if self.session.is_some() && self.wire().flush().is_err() {
            return Next::Close;
        }
        if let Stage::Away { .. } = self.stage {
            match self.link.take_task() {
                None => self.notice_return(core),
                Some(PollerTask::Unsent(unsent)) => {
                    let close = unsent.close;
                    self.flush_later(core, Outgoing::Unsent(unsent), close);
                }
                Some(PollerTask::Stream { outbox, close }) => {
                    self.flush_later(core, Outgoing::Stream(outbox), close);
                }
                Some(PollerTask::Close) => self.linger(core),
                Some(PollerTask::Broken) => return Next::Close,
                Some(PollerTask::Cut) => return Next::Reset,
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

    /// Acts while a worker owns the connection: sends more of a streamed answer, or reads more of a body.
    pub(super) fn assist(&mut self, core: &mut Core) -> Next {
        if self.link.owner() == Owner::Streaming
            && let Some(outbox) = self.link.outbox()
        {
            // The outbox keeps a failure. The worker finds it there and ends the connection.
            drop(outbox.flush(&mut self.wire(), &mut 0));
        }
        if self.incoming.is_some() { self.read(core) } else { self.read_while_away(core) }
    }

    /// Takes back a request that no worker has begun, and removes it from the queue. Returns whether it was still
    /// there.
    fn take_from_queue(&self, core: &Core) -> bool {
        let taken = self.link.take_back(Owner::Queued);
        if taken && let Some(place) = self.place_in_queue {
            core.service.withdraw(place);
        }
        taken
    }

    /// Answers in the worker's place, and goes on with the bytes that came meanwhile.
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

    /// Answers a request that is not read to its end, or not at all.
    fn answer_unread(&mut self, core: &mut Core, mut response: Response, form: Form, reason: Option<Reason>) {
        let request_id = self.request_id.get_or_insert_with(|| core.request_ids.unread());
        response.name_request(request_id.id());
        core.encode(&response, form, Some(request_id));
        self.note_answer(core, &response, form, reason);
        self.after_answer(core, form);
    }

    /// Makes the connection idle if a worker has answered and left nothing to do. It has been idle since that answer.
    fn notice_return(&mut self, core: &Core) {
        if matches!(self.stage, Stage::Away { .. })
            && self.link.owner() == Owner::Poller
            && !self.link.has_task()
        {
            self.incoming = None;
            self.stage = Stage::Idle;
            self.idle_since = self.link.answered_at();
            self.due = self.idle_since + core.idle_allowance();
        }
    }

    /// Answers a request here, or gives it to a worker. The request is complete, or as complete as its handler wants
    /// it. `more`: the next request may be there already.
    fn accept(&mut self, core: &mut Core, request: Request, more: bool) {
        self.accept_by(None, core, request, more);
    }

    /// The same, by the service that was asked about the body before a reload.
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
                // Answers leave in the order of their requests, so earlier ones must be sent first.
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
        // Without `more`, the last read has emptied the socket.
        self.heard_bytes = if more { self.arrived_bytes() } else { self.read_bytes };
        self.away_bytes = memory::counted_away(work.request.body.len());
        // The worker's return must be noticed, because the body is gone then.
        self.link.give(self.ticket, more || self.away_bytes > 0);
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
                // The job was not queued, so no other thread has changed the owner.
                self.link.take_back(Owner::Queued);
                self.incoming = None;
                core.metrics.refused(reason);
                self.note_answer(core, &response, form, Some(reason));
                let keep_alive = form.keep_alive && !core.is_draining();
                self.answered(core, response, Form { keep_alive, ..form });
            }
        }
    }

    /// Takes a piece of the file that is being sent, once it was read.
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

    /// Sends nothing more. Bytes that still come are read and dropped until the client closes as well.
    fn linger(&mut self, core: &Core) {
        self.input = Vec::new();
        // The rest of an unread body would only be read as far as its pipe has room.
        self.incoming = None;
        if !self.close_session() {
            // The answer has filled the socket. Without TLS's end behind it, the client would take the close for a cut.
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
