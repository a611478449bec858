//! Sending: the poller's own answers, and the parts that a worker or a file left. Poller thread.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::feeding::Feeding;
use super::outgoing::Outgoing;
use super::{Connection, Core, Next, Stage};
use crate::base::request_id::RequestId;
use crate::connector::native::output::{Flushed, Unsent};
use crate::http::{Body, Form, Response, encode_head};

/// Whenever a client has taken this many more bytes of its answer, it has its whole `http.write_timeout` again.
const QUANTUM: usize = 64 * 1024;

/// An answer on its way, and the stage after it.
pub(super) struct Flushing {
    outgoing: Outgoing,
    pub(super) then: Stage,
    /// Bytes sent since the client's time last began.
    moved: usize,
    /// When flushing began.
    since: Instant,
    /// Whether a piece of the file is being read.
    pub(super) piece_requested: bool,
}

impl Flushing {
    fn stage(outgoing: Outgoing, then: Stage, since: Instant) -> Stage {
        Stage::Flushing(Box::new(Self { outgoing, then, moved: 0, since, piece_requested: false }))
    }

    /// The memory of the answer.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.outgoing {
            Outgoing::Unsent(unsent) => unsent.held_bytes(),
            Outgoing::Stream(outbox) => outbox.held_bytes(),
        }
    }

    /// When the client did not take the answer at once.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn add_piece(&mut self, piece: Bytes) {
        self.piece_requested = false;
        if let Outgoing::Unsent(unsent) = &mut self.outgoing {
            unsent.add_piece(piece);
        }
    }
}

impl Core {
    /// Appends a response that is in memory to the unsent answers.
    pub(super) fn encode(&mut self, response: &Response, form: Form, request_id: Option<&RequestId>) {
        if encode_head(response, form, request_id, &mut self.answers) {
            self.answers.extend_from_slice(response.body());
        }
    }
}

impl Connection {
    /// Answers a request on the poller.
    pub(super) fn answered(&mut self, core: &mut Core, mut response: Response, form: Form) {
        if let Body::File(_) = response.body {
            let with_body = encode_head(&response, form, self.request_id.as_ref(), &mut core.answers);
            self.after_answer(core, form);
            if with_body {
                let body = std::mem::replace(&mut response.body, Body::Bytes(Bytes::new()));
                let unsent = Unsent::of(std::mem::take(&mut core.answers), body, !form.keep_alive);
                self.flush_later(core, Outgoing::Unsent(unsent), !form.keep_alive);
            }
            return;
        }
        if let Body::Feed(feed) = &response.body {
            let form = form.of(&response);
            let with_body = encode_head(&response, form, self.request_id.as_ref(), &mut core.answers);
            self.after_answer(core, form);
            if with_body {
                self.stage = Feeding::stage(Arc::clone(feed), !form.http_10);
            }
            return;
        }
        core.encode(&response, form, self.request_id.as_ref());
        self.after_answer(core, form);
    }

    /// Enters the stage after an answer: the next request, or the end.
    pub(super) fn after_answer(&mut self, core: &Core, form: Form) {
        self.stage = if form.keep_alive { Stage::Idle } else { Stage::Lingering { until: core.now } };
    }

    /// Sends the rest of an answer later, and enters the next stage after that.
    pub(super) fn flush_later(&mut self, core: &Core, outgoing: Outgoing, close: bool) {
        self.incoming = None;
        let then = if close { Stage::Lingering { until: core.now } } else { Stage::Idle };
        self.stage = Flushing::stage(outgoing, then, core.now);
        self.due = core.now + core.settings.write_timeout;
    }

    /// Sends the answers made so far, and then enters the stage that was set.
    pub(super) fn send_answers(&mut self, core: &mut Core) -> Next {
        if core.answers.is_empty() {
            return if let Stage::Flushing(_) = self.stage { self.flush(core) } else { Next::Wait };
        }
        let mut unsent = Unsent::new(std::mem::take(&mut core.answers), Bytes::new(), false);
        let mut moved = 0;
        let flushed = unsent.flush(&mut self.wire(), &mut moved);
        core.metrics.sent_bytes(moved);
        match flushed {
            Ok(Flushed::All) => {
                core.answers = unsent.into_buffer();
                self.settle(core)
            }
            Ok(_) => {
                let then = std::mem::replace(&mut self.stage, Stage::Idle);
                self.stage = Flushing::stage(Outgoing::Unsent(unsent), then, core.now);
                self.due = core.now + core.settings.write_timeout;
                Next::Wait
            }
            Err(_) => Next::Close,
        }
    }

    /// Goes on sending. The next stage begins when all is sent. A feed goes on by itself.
    pub(super) fn flush(&mut self, core: &mut Core) -> Next {
        let Self { stage: Stage::Flushing(flushing), link, session, .. } = self else {
            return self.flush_feed(core);
        };
        let mut wire = super::Wire::new(link.socket(), session.as_mut());
        let before = flushing.moved;
        let flushed = match &mut flushing.outgoing {
            Outgoing::Unsent(unsent) => unsent.flush(&mut wire, &mut flushing.moved),
            Outgoing::Stream(outbox) => outbox.flush(&mut wire, &mut flushing.moved),
        };
        if let Outgoing::Unsent(_) = flushing.outgoing {
            // The bytes of an outbox were counted when they were put there.
            core.metrics.sent_bytes(flushing.moved - before);
        }
        if flushing.moved >= QUANTUM {
            flushing.moved = 0;
            self.due = core.now + core.settings.write_timeout;
        }
        match flushed {
            Ok(Flushed::Blocked) => Next::Wait,
            Ok(Flushed::NeedsPiece) => {
                let Outgoing::Unsent(unsent) = &flushing.outgoing else { return Next::Wait };
                if let Some(piece) = unsent.next_piece().filter(|_| !flushing.piece_requested) {
                    flushing.piece_requested = true;
                    core.files.request(piece, link.id(), &core.mailbox);
                }
                Next::Wait
            }
            Ok(Flushed::All) => {
                core.metrics.flushed(core.now.saturating_duration_since(flushing.since));
                self.stage = std::mem::replace(&mut flushing.then, Stage::Idle);
                self.settle(core)
            }
            Err(_) => Next::Close,
        }
    }

    /// All answers are sent, so the next stage begins. Its time begins now: sending has used some of the time set
    /// before.
    fn settle(&mut self, core: &mut Core) -> Next {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Holding(work) => {
                // More may have been read behind it, so the worker's return must be noticed.
                self.give(core, *work, true);
                return self.send_answers(core);
            }
            Stage::Idle => self.idle(core),
            Stage::Lingering { .. } => self.linger(core),
            Stage::Head => self.enter_head(core),
            Stage::Body(body) => self.enter_body(core, body),
            Stage::Feeding(feeding) => return self.begin_feeding(core, feeding),
            // This stage has its own time, or none.
            stage => self.stage = stage,
        }
        Next::Wait
    }
}
