//! Reading: turns the socket's bytes into a PROXY header, a TLS session, a head, a body. Poller thread.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::core::READ_BYTES;
use super::{Connection, Core, Next, Stage};
use crate::connector::native::link::Link;
use crate::connector::native::pipe::Pipe;
use crate::connector::tls::{Session, TlsError};
use crate::exchange::job::{BodyPlan, Service};
use crate::handler::BodyUse;
use crate::http::{
    BodyLength, CONTINUE, Decoder, Fault, Form, Head, ProxyHeader, Refusal, Request, Scan, parse_head,
    problem, read_proxy_header, scan_head,
};
use crate::telemetry::metrics::{Closing, Reason};
use crate::telemetry::sparing::sparingly;

/// Answers to pipelined requests are sent together up to this size.
const ANSWERS_BYTES: usize = 64 * 1024;

/// The window over which a body's rate is measured, long enough for a lost packet to be sent again. Kestrel has the
/// same as the grace period of its minimum data rate.
const WINDOW: Duration = Duration::from_secs(5);

/// A request whose body is still coming, and whose handler does not run yet.
pub(super) struct Body {
    request: Request,
    bytes: Vec<u8>,
    rest: RemainingBody,
    /// Whether its handler begins before the body is whole.
    streams: bool,
    max_bytes: usize,
    /// The time by which the body must be whole, if there is one.
    until: Option<Instant>,
    began: Instant,
    window: Window,
    /// The service that was asked about this body, if a reload has replaced it since.
    service: Option<Arc<dyn Service>>,
}

impl Body {
    /// Keeps the service that a reload has replaced.
    pub(super) fn keep(&mut self, service: &Arc<dyn Service>) {
        self.service.get_or_insert_with(|| Arc::clone(service));
    }

    /// The memory of the part that has come.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// When its head was read.
    pub(super) fn began(&self) -> Instant {
        self.began
    }
}

/// The rest of a body whose handler runs, or is about to.
pub(super) struct Incoming {
    pub(super) pipe: Arc<Pipe>,
    rest: RemainingBody,
    max_bytes: usize,
    pub(super) window: Window,
}

impl Drop for Incoming {
    /// A handler that still reads must not wait for bytes that will not come.
    fn drop(&mut self) {
        self.pipe.abandon();
    }
}

/// How much of a body is still to come.
enum RemainingBody {
    Known(usize),
    Chunked(Decoder),
}

/// The time in which a body must bring a number of bytes. It stands still while the handler has no room for more.
/// Jetty's minimum data rate counts that time too, so it blames a slow handler on its client (its issue 4014).
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    began: Instant,
    bytes: usize,
    paused: Option<Instant>,
    /// The bytes that a whole window must bring. 0: no minimum.
    least: usize,
}

impl Window {
    fn new(now: Instant, bytes_a_second: usize) -> Self {
        let seconds = usize::try_from(WINDOW.as_secs()).unwrap_or(usize::MAX);
        Self { began: now, bytes: 0, paused: None, least: bytes_a_second.saturating_mul(seconds) }
    }

    /// When the window ends; `None` while it stands still or has no minimum.
    pub(super) fn end(&self) -> Option<Instant> {
        (self.paused.is_none() && self.least > 0).then(|| self.began + WINDOW)
    }

    fn set_paused(&mut self, paused: bool, now: Instant) {
        match (self.paused, paused) {
            (None, true) => self.paused = Some(now),
            (Some(since), false) => {
                self.began += now.saturating_duration_since(since);
                self.paused = None;
            }
            _ => {}
        }
    }

    /// Whether the client was too slow in a window that is over. Then the next window begins.
    fn is_too_slow(&mut self, now: Instant) -> bool {
        if self.end().is_none_or(|end| now < end) {
            return false;
        }
        let slow = self.bytes < self.least;
        (self.began, self.bytes) = (now, 0);
        slow
    }
}

const TOO_SLOW: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    detail: "the body came too slowly (http.min_body_rate)",
    fault: Fault::BodyRate,
};

impl RemainingBody {
    /// Takes the body's part out of `bytes`. Returns how many bytes that was, and whether the body is complete.
    fn take(&mut self, bytes: &[u8], into: &mut Vec<u8>, max_bytes: usize) -> Result<(usize, bool), Refusal> {
        match self {
            Self::Known(left) => {
                let taken = bytes.len().min(*left);
                into.extend_from_slice(&bytes[..taken]);
                *left -= taken;
                Ok((taken, *left == 0))
            }
            Self::Chunked(decoder) => {
                let taken = decoder.decode(bytes, into, max_bytes)?;
                Ok((taken, decoder.is_done()))
            }
        }
    }
}

impl Incoming {
    /// Whether to read more of the body now. If not, the client's time stands still, and the handler's reads end the
    /// pause.
    fn has_room(&mut self, now: Instant) -> bool {
        let room = self.pipe.has_room();
        self.window.set_paused(!room, now);
        room
    }

    /// The memory of the bytes that the handler has not read.
    pub(super) fn held_bytes(&self) -> usize {
        self.pipe.held_bytes()
    }

    /// Takes the body's part out of `bytes`. Returns how many bytes that was, and whether the body is complete.
    fn take(&mut self, core: &mut Core, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut decoded = std::mem::take(&mut core.decoded);
        let taken = match &mut self.rest {
            RemainingBody::Known(left) => {
                let taken = bytes.len().min(*left);
                self.pipe.put(&bytes[..taken]);
                *left -= taken;
                Ok((taken, *left == 0))
            }
            rest @ RemainingBody::Chunked(_) => rest.take(bytes, &mut decoded, self.max_bytes),
        };
        self.pipe.put(&decoded);
        decoded.clear();
        core.decoded = decoded;
        self.window.bytes += taken.as_ref().map_or(0, |(taken, _)| *taken);
        taken
    }
}

impl Connection {
    pub(super) fn reads_requests(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Head | Stage::Body(_))
    }

    fn wants_bytes(&mut self, core: &Core) -> bool {
        if let Some(incoming) = &mut self.incoming {
            return incoming.has_room(core.now);
        }
        self.reads_requests()
            || matches!(self.stage, Stage::Lingering { .. } | Stage::Proxied | Stage::Handshake { .. })
    }

    /// Reads until the socket is empty, the stage wants no more, or the other connections are due.
    pub(super) fn read(&mut self, core: &mut Core) -> Next {
        while self.wants_bytes(core) {
            if self.has_ended_sending() {
                let next = self.end_of_input(core);
                return self.away_due(core, next);
            }
            let mut scratch = std::mem::take(&mut core.scratch);
            let read = self.take(core, &mut scratch);
            let next = match read {
                Ok(Some(0)) | Err(_) => self.end_of_input(core),
                Ok(Some(read)) => self.arrived(core, &scratch[..read], read == READ_BYTES),
                Ok(None) => Next::Wait,
            };
            core.scratch = scratch;
            // A short read has emptied the socket: the next byte makes a new edge (epoll(7), question 9). An end that
            // came together with the bytes makes no new edge.
            let full = matches!(read, Ok(Some(READ_BYTES)));
            let more = full || (self.ended && matches!(read, Ok(Some(1..))));
            if next != Next::Wait || !more {
                return self.away_due(core, next);
            }
            if full {
                // A client that sends as fast as it is read goes on after the others. No edge will come for it.
                if !std::mem::replace(&mut self.again, true) {
                    core.again.push(self.id());
                }
                return self.away_due(core, next);
            }
        }
        self.away_due(core, Next::Wait)
    }

    /// Reads once, and counts the bytes. Returns `None` if there is nothing to read now.
    pub(super) fn take(&mut self, core: &Core, into: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self.link.read(into)?;
        if let Some(bytes @ 1..) = read {
            self.read_bytes += bytes as u64;
            core.metrics.received_bytes(bytes);
        }
        Ok(read)
    }

    /// Sets the due time anew if a body streams, because its window has moved with the bytes that were read.
    fn away_due(&mut self, core: &Core, next: Next) -> Next {
        if self.incoming.is_some() {
            self.set_away_due(core);
        }
        next
    }

    /// Sends TLS's end (`close_notify`). Returns whether it has left, or there is no client to send it to.
    pub(in super::super) fn close_session(&mut self) -> bool {
        let Self { session: Some(session), link, .. } = self else { return true };
        session.close();
        session.flush(&mut link.socket()).unwrap_or(true)
    }

    /// Whether the client has ended its sending side through TLS. No read reports that again.
    pub(super) fn has_ended_sending(&self) -> bool {
        self.session.as_ref().is_some_and(Session::has_ended)
    }

    /// The client sends nothing more. A handler that reads its body gets an error. Otherwise the connection closes.
    /// With TLS it first sends its own end, because some clients wait for it.
    fn end_of_input(&mut self, core: &Core) -> Next {
        if let Some(incoming) = self.incoming.take() {
            incoming.pipe.leave();
            self.set_away_due(core);
            return Next::Wait;
        }
        self.close_session();
        Next::Close
    }

    /// Uses bytes from the socket. `more`: the socket may hold more.
    pub(super) fn arrived(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        match &self.stage {
            Stage::Lingering { until } => {
                self.due = (*until).min(core.now + super::LINGER);
                Next::Wait
            }
            Stage::Proxied => self.read_proxied(core, bytes, more),
            _ => self.receive_from_client(core, bytes, more),
        }
    }

    /// Uses the client's own bytes, which come after a PROXY header if there is one.
    fn receive_from_client(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        if self.session.is_some() {
            self.decrypt(core, bytes, more)
        } else {
            self.received(core, bytes, more)
        }
    }

    fn read_proxied(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        let mut all = std::mem::take(&mut self.input);
        all.extend_from_slice(bytes);
        match read_proxy_header(&all) {
            Ok(ProxyHeader::Incomplete) => {
                self.input = all;
                Next::Wait
            }
            Ok(ProxyHeader::Complete { used, source }) => {
                self.peer = source.or(self.peer);
                self.due = core.now + core.settings.head_timeout;
                let next = self.begin_session(core);
                if next != Next::Wait || used == all.len() {
                    return next;
                }
                self.receive_from_client(core, &all[used..], more)
            }
            Err(error) => {
                sparingly!(log::Level::Warn, "wrong PROXY headers", "{}: {error}", self.name());
                core.metrics.closed(Closing::ProxyHeader);
                Next::Close
            }
        }
    }

    /// Takes encrypted bytes, and uses the plain bytes that they hold.
    fn decrypt(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        let Self { session: Some(session), link, .. } = self else { return Next::Close };
        let mut plain = std::mem::take(&mut core.plain);
        let received = session.receive(bytes, &mut plain);
        // Sends the handshake's next part, or an alert. A rest that does not leave now is sent with the next edge.
        let sent = session.flush(&mut link.socket());
        let established = !session.is_handshaking();
        let next = match (received, sent) {
            (Err(error), _) => self.refuse_session(core, &error),
            (_, Err(_)) => Next::Close,
            (Ok(()), Ok(_)) => {
                let was_established = !matches!(self.stage, Stage::Handshake { .. });
                if established && !was_established {
                    self.certificate = session.client_certificate().map(Bytes::copy_from_slice);
                    self.await_first_request(core);
                }
                // The end of the handshake holds no plain bytes either, but it is no part of an incomplete record.
                self.half_read = was_established && plain.is_empty();
                let next = if plain.is_empty() { Next::Wait } else { self.received(core, &plain, more) };
                if next == Next::Wait && self.has_ended_sending() && self.wants_bytes(core) {
                    self.end_of_input(core)
                } else {
                    next
                }
            }
        };
        plain.clear();
        core.plain = plain;
        next
    }

    /// The handshake is over. The client can send its request only now, so the time for it begins here.
    fn await_first_request(&mut self, core: &Core) {
        self.stage = Stage::Idle;
        self.idle_since = core.now;
        let draining = core.is_draining().then(|| core.idle_allowance());
        self.due = core.now + draining.unwrap_or(core.settings.head_timeout);
    }

    fn refuse_session(&mut self, core: &mut Core, error: &TlsError) -> Next {
        log::debug!("{}: {error}", self.name());
        // A wrong record behind a good handshake may have been read together with its end. That is no failed handshake.
        if self.session.as_ref().is_some_and(Session::is_handshaking) {
            core.metrics.closed(Closing::Handshake);
        }
        if let TlsError::PlainHttp = error {
            // A client that speaks plain HTTP here can read an answer in plain HTTP.
            self.session = None;
            let detail = "this is an HTTPS port, and the request came in plain HTTP";
            self.refuse(core, Refusal::new(StatusCode::BAD_REQUEST, detail), Form::CLOSE);
            return self.send_answers(core);
        }
        Next::Close
    }

    /// Uses new bytes, without a copy if no earlier ones wait. `more`: the socket may hold more.
    fn received(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Next {
        if self.incoming.is_some() {
            let used = self.feed(core, bytes);
            self.input.extend_from_slice(&bytes[used..]);
            return Next::Wait;
        }
        if self.input.is_empty() {
            let (next, used) = self.consume(core, bytes, more);
            if next == Next::Wait && used < bytes.len() && !matches!(self.stage, Stage::Lingering { .. }) {
                self.input.extend_from_slice(&bytes[used..]);
            }
            return next;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        self.consume_kept(core, input, more)
    }

    /// Gives bytes of a body to the handler that reads it. Returns how many of the bytes belong to the body.
    fn feed(&mut self, core: &mut Core, bytes: &[u8]) -> usize {
        let Some(incoming) = &mut self.incoming else { return 0 };
        match incoming.take(core, bytes) {
            Ok((used, complete)) => {
                if complete {
                    incoming.pipe.complete();
                    self.incoming = None;
                    self.set_away_due(core);
                } else {
                    // These bytes may have filled the pipe, and no later call would pause the window.
                    incoming.has_room(core.now);
                }
                used
            }
            Err(refusal) => {
                incoming.pipe.refuse(refusal);
                self.incoming = None;
                self.set_away_due(core);
                bytes.len()
            }
        }
    }

    pub(super) fn consume_kept(&mut self, core: &mut Core, mut input: Vec<u8>, more: bool) -> Next {
        let (next, used) = self.consume(core, &input, more);
        if used < input.len() && !matches!(self.stage, Stage::Lingering { .. }) {
            input.drain(..used);
            self.input = input;
        }
        next
    }

    /// Takes requests out of `bytes` until one is given away or none is complete. Sends the answers made meanwhile.
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
                        let form = self.form_of_refusal(&bytes[used..]);
                        self.refuse(core, refusal, form);
                        used = bytes.len();
                    }
                }
            }
            let next = self.send_answers(core);
            if next != Next::Wait || !self.reads_requests() || used == before || used == bytes.len() {
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

    /// Takes a head. Returns `None` if the head is not complete.
    fn consume_head(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Result<Option<usize>, Refusal> {
        if let Stage::Idle = self.stage {
            // Very old clients send an empty line or two before a request (RFC 9112 section 2.2).
            if let [b'\r', b'\n', ..] = bytes {
                return Ok(Some(2));
            }
            if bytes == b"\r" {
                return Ok(None);
            }
        }
        (self.request_id, self.logged.at, self.endpoint.is_known) = (None, None, false);
        let end = match scan_head(bytes, self.scanned, &core.settings.limits)? {
            Scan::Complete(end) => end,
            Scan::Incomplete => {
                self.scanned = bytes.len();
                if let Stage::Idle = self.stage {
                    self.enter_head(core);
                }
                return Ok(None);
            }
        };
        self.scanned = 0;
        let mut head = parse_head(&bytes[..end], &core.settings.limits)?;
        head.request.read_id(&core.request_ids);
        head.request.is_encrypted = self.session.is_some();
        self.request_id.clone_from(&head.request.request_id);
        self.note_head(core, &head.request);
        if head.body == BodyLength::Known(0) {
            self.accept(core, head.request, more || end < bytes.len());
        } else {
            self.expect_body(core, head, end == bytes.len())?;
        }
        Ok(Some(end))
    }

    /// Begins to read a head, when its first bytes have come.
    pub(super) fn enter_head(&mut self, core: &Core) {
        self.stage = Stage::Head;
        self.due = core.now + core.settings.head_timeout;
    }

    /// Begins to read the body that the head announces. `none_yet`: no byte of it has come.
    fn expect_body(&mut self, core: &mut Core, mut head: Head, none_yet: bool) -> Result<(), Refusal> {
        head.request.peer = self.peer;
        if core.settings.journal.has_access() {
            self.endpoint.know(core.service.endpoint(&head.request).as_ref());
        }
        let waits = head.expects_continue && none_yet;
        let (body_use, max_bytes) = match core.service.plan(&head.request) {
            BodyPlan::Wanted { body_use, max_bytes } => (body_use, max_bytes),
            BodyPlan::Unwanted(response) if waits => {
                core.metrics.received();
                core.metrics.answered();
                core.metrics.unmatched().responded(response.status().as_u16());
                let form = Form { keep_alive: false, ..head.request.form() };
                self.answer_unread(core, response, form, None);
                return Ok(());
            }
            // The body is not read, so the connection ends with the answer.
            BodyPlan::Refused => {
                head.request.keep_alive = false;
                self.accept(core, head.request, true);
                return Ok(());
            }
            // The client is sending the body, which must be read before the next request.
            BodyPlan::Unwanted(_) => (BodyUse::Whole, core.settings.max_body_bytes),
        };
        let rest = match head.body {
            BodyLength::Known(length) if length > max_bytes => return Err(Refusal::BODY_TOO_LARGE),
            BodyLength::Known(length) => RemainingBody::Known(length),
            BodyLength::Chunked => RemainingBody::Chunked(Decoder::default()),
        };
        if waits {
            core.answers.extend_from_slice(CONTINUE);
        }
        let whole = body_use == BodyUse::Whole;
        let body = Body {
            request: head.request,
            bytes: Vec::new(),
            rest,
            streams: !whole,
            max_bytes,
            until: whole.then(|| core.now + core.settings.body_timeout),
            began: core.now,
            window: Window::new(core.now, core.settings.min_body_rate),
            service: None,
        };
        self.enter_body(core, Box::new(body));
        Ok(())
    }

    /// Begins to read a body, and its time. Sending earlier answers has used none of that time.
    pub(super) fn enter_body(&mut self, core: &Core, mut body: Box<Body>) {
        body.until = body.until.map(|_| core.now + core.settings.body_timeout);
        (body.window.began, body.window.bytes) = (core.now, 0);
        self.stage = Stage::Body(body);
        self.set_body_due(core);
    }

    fn set_body_due(&mut self, core: &Core) {
        let Stage::Body(body) = &self.stage else { return };
        let ends = [body.until, body.window.end()];
        // Without any limit on a body's time, this timer fires now and then without an effect.
        self.due = ends.into_iter().flatten().min().unwrap_or(core.now + core.settings.idle_timeout);
    }

    /// Takes the next bytes of a body.
    fn consume_body(&mut self, core: &mut Core, bytes: &[u8], more: bool) -> Result<Option<usize>, Refusal> {
        let Stage::Body(body) = &mut self.stage else { return Ok(None) };
        let (taken, complete) = body.rest.take(bytes, &mut body.bytes, body.max_bytes)?;
        body.window.bytes += taken;
        // Exactly as much as the buffer is not enough: only the end of the chunks may be missing to a body that fits.
        let enough = body.streams && body.bytes.len() > core.settings.buffer_body_bytes;
        if (complete || enough)
            && let Stage::Body(body) = std::mem::replace(&mut self.stage, Stage::Idle)
        {
            let more = more || taken < bytes.len();
            self.accept_with_body(core, *body, complete, more);
        }
        Ok(Some(taken))
    }

    /// Passes on a request with its body, or with the beginning of the body and a pipe for the rest.
    fn accept_with_body(&mut self, core: &mut Core, body: Body, complete: bool, more: bool) {
        let Body { mut request, bytes, rest, max_bytes, window, service, .. } = body;
        if complete {
            request.body = Bytes::from(bytes);
        } else {
            let link: Arc<Link> = Arc::clone(&self.link);
            let pipe = Arc::new(Pipe::new(bytes, core.settings.buffer_body_bytes, link));
            request.source = Some(Arc::clone(&pipe) as _);
            let mut incoming = Incoming { pipe, rest, max_bytes, window };
            incoming.has_room(core.now);
            self.incoming = Some(Box::new(incoming));
        }
        self.accept_by(service.as_ref(), core, request, more);
    }

    /// Refuses a request whose handler does not run yet, if its body has taken too long.
    pub(super) fn handle_body_timeout(&mut self, core: &mut Core) -> Next {
        let Stage::Body(body) = &mut self.stage else { return Next::Wait };
        if body.until.is_some_and(|until| core.now >= until) {
            let detail = "the body did not come in time (http.body_timeout)";
            return self.refuse_slow(core, Reason::BodyTimeout, detail);
        }
        if body.window.is_too_slow(core.now) {
            return self.refuse_slow(core, Reason::BodyRate, TOO_SLOW.detail);
        }
        self.set_body_due(core);
        Next::Wait
    }

    /// Refuses the rest of a body that a handler reads, if the body comes too slowly.
    pub(super) fn check_incoming(&mut self, core: &Core) {
        if let Some(incoming) = &mut self.incoming
            && incoming.window.is_too_slow(core.now)
        {
            incoming.pipe.refuse(TOO_SLOW);
            self.incoming = None;
        }
    }

    /// The form of a refusal for a request that cannot be read on and that begins with these bytes. A refused `HEAD`
    /// has no content either (RFC 9110 section 9.3.2).
    pub(super) fn form_of_refusal(&self, bytes: &[u8]) -> Form {
        let head_only = match &self.stage {
            Stage::Body(body) => body.request.form().head_only,
            _ => bytes.starts_with(b"HEAD "),
        };
        Form { head_only, ..Form::CLOSE }
    }

    /// Refuses a request that cannot be read, and reads nothing more.
    fn refuse(&mut self, core: &mut Core, refusal: Refusal, form: Form) {
        core.refuse(refusal.fault.into(), refusal.status);
        log::debug!("{}: {refusal}", self.name());
        let reason = Some(refusal.fault.into());
        self.answer_unread(core, problem(refusal.status, refusal.detail, &[]), form, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A window that must bring 5000 bytes, and when it began.
    fn window() -> (Window, Instant) {
        let began = Instant::now();
        (Window::new(began, 1000), began)
    }

    #[test]
    fn a_window_is_judged_at_its_end_and_followed_by_another() {
        let (mut window, began) = window();
        window.bytes = 4999;
        assert!(!window.is_too_slow(began + 4 * SECOND), "it is not over");
        assert!(window.is_too_slow(began + WINDOW));
        assert!(!window.is_too_slow(began + WINDOW + SECOND), "the next one is not over");
        window.bytes = 5000;
        assert!(!window.is_too_slow(began + WINDOW + WINDOW));
        assert!(window.is_too_slow(began + WINDOW + WINDOW + WINDOW), "bytes count once");
    }

    #[test]
    fn a_window_stands_still_while_the_handler_has_no_room() {
        let (mut window, began) = window();
        window.set_paused(true, began + 2 * SECOND);
        window.set_paused(true, began + 3 * SECOND);
        assert_eq!(window.end(), None);
        assert!(!window.is_too_slow(began + 100 * SECOND));
        window.set_paused(false, began + 102 * SECOND);
        window.set_paused(false, began + 103 * SECOND);
        assert_eq!(window.end(), Some(began + 105 * SECOND), "3 of its 5 seconds are left");
        assert!(!window.is_too_slow(began + 104 * SECOND));
        assert!(window.is_too_slow(began + 105 * SECOND));
    }

    #[test]
    fn without_a_minimum_rate_no_body_is_too_slow() {
        let began = Instant::now();
        let mut window = Window::new(began, 0);
        assert_eq!(window.end(), None);
        assert!(!window.is_too_slow(began + 1000 * SECOND));
        assert_eq!(Window::new(began, usize::MAX).least, usize::MAX, "no overflow");
    }
}
