//! The time limits of a connection and of its request. Poller thread.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::{Connection, Core, Next, Stage};
use crate::base::deadline::Deadline;
use crate::base::request_id::RequestId;
use crate::connector::GRACE;
use crate::connector::native::link::Owner;
use crate::exchange::job::waited_too_long;
use crate::handler::outcome_unknown;
use crate::http::{Form, Response, problem};
use crate::telemetry::metrics::{Closing, Reason};
use crate::telemetry::sparing::sparingly;

impl Connection {
    /// Acts if the stage's time is over.
    pub(in crate::connector::native) fn handle_timeout(&mut self, core: &mut Core) -> Next {
        if core.now < self.due {
            return Next::Wait;
        }
        match &self.stage {
            Stage::Idle => self.handle_idle_timeout(core),
            Stage::Head => {
                let detail = "the head did not come in time (http.head_timeout)";
                self.refuse_slow(core, Reason::HeadTimeout, detail)
            }
            Stage::Body(_) => self.handle_body_timeout(core),
            &Stage::Away { form, start_by, deadline } => {
                self.handle_away_timeout(core, form, start_by, deadline)
            }
            Stage::Feeding(_) => self.feed_on(core),
            // The disk is slow, and not the client.
            Stage::Flushing(flushing) if flushing.piece_requested => {
                self.due = core.now + core.settings.write_timeout;
                Next::Wait
            }
            Stage::Flushing(_) => {
                core.metrics.closed(Closing::WriteTimeout);
                Next::Reset
            }
            Stage::Handshake { .. } => {
                core.metrics.closed(Closing::Handshake);
                Next::Close
            }
            Stage::Proxied => {
                core.metrics.closed(Closing::ProxyHeader);
                Next::Close
            }
            Stage::Holding(_) | Stage::Lingering { .. } => Next::Close,
        }
    }

    /// Closes the idle connection, unless something has come and its event was not seen yet.
    fn handle_idle_timeout(&mut self, core: &mut Core) -> Next {
        let next = self.proceed(core);
        if next == Next::Wait && matches!(self.stage, Stage::Idle) && core.now >= self.due {
            if !core.is_draining() {
                core.metrics.closed(Closing::Idle);
            }
            self.linger(core);
        }
        next
    }

    /// Refuses a request that did not come in time.
    pub(super) fn refuse_slow(&mut self, core: &mut Core, reason: Reason, detail: &str) -> Next {
        self.refuse_unread(core, reason, problem(StatusCode::REQUEST_TIMEOUT, detail, &[]))
    }

    /// Refuses a request of which a part has not come, with this answer.
    pub(super) fn refuse_unread(&mut self, core: &mut Core, reason: Reason, answer: Response) -> Next {
        core.refuse(reason, answer.status());
        let form = self.form_of_refusal(&self.input);
        self.answer_and_close(core, answer, form, reason)
    }

    /// Acts on a request in the queue or with a worker: its time to start has passed, or its deadline, or the time in
    /// which its body should have brought more.
    fn handle_away_timeout(
        &mut self,
        core: &mut Core,
        form: Form,
        start_by: Instant,
        deadline: Instant,
    ) -> Next {
        match self.link.owner() {
            Owner::Poller => return self.proceed(core),
            Owner::Queued if core.now >= start_by && self.take_from_queue(core) => {
                let (response, reason) = waited_too_long(Deadline::at(deadline, Duration::ZERO));
                self.count_answer(core, response.status().as_u16());
                core.metrics.refused(reason);
                return self.answer_instead(core, response, form, reason);
            }
            Owner::Running | Owner::Streaming
                if core.now >= deadline + GRACE && self.link.presence().has_left() =>
            {
                return Next::Close;
            }
            Owner::Running if core.now >= deadline + GRACE && self.link.take_back(Owner::Running) => {
                let response = self.late_answer(core);
                let form = Form { keep_alive: false, ..form };
                return self.answer_instead(core, response, form, Reason::Deadline);
            }
            // The answer's head says 200 already, so only the end of the connection can report the failure.
            Owner::Streaming if core.now >= deadline + GRACE && self.link.take_back(Owner::Streaming) => {
                let status = self.late_answer(core).status().as_u16();
                self.note_end(core, status, 0, Some(Reason::Deadline));
                return Next::Reset;
            }
            Owner::Queued | Owner::Running | Owner::Streaming => self.check_incoming(core),
            // The worker writes without waiting for the client, so it will soon be done.
            Owner::Writing => {
                self.due = core.now + Duration::from_millis(1);
                return Next::Wait;
            }
        }
        self.set_away_due(core);
        Next::Wait
    }

    /// Makes and counts the poller's answer for a worker that has not answered by the deadline. From now on the worker
    /// commits nothing.
    fn late_answer(&self, core: &Core) -> Response {
        let response = if self.link.presence().answer_instead() {
            let id = self.request_id.as_ref().map_or("", RequestId::id);
            sparingly!(
                log::Level::Error,
                "requests with an unknown outcome",
                "request {id}: its worker had not answered by the deadline, and it may have been committed"
            );
            outcome_unknown().to_response()
        } else {
            problem(StatusCode::GATEWAY_TIMEOUT, "the request took longer than its deadline", &[])
        };
        core.metrics.refused(Reason::Deadline);
        self.count_answer(core, response.status().as_u16());
        response
    }

    /// Sets when to look again at a connection whose request is in the queue or with a worker.
    pub(super) fn set_away_due(&mut self, core: &Core) {
        let Stage::Away { start_by, deadline, .. } = self.stage else { return };
        let answered = if self.link.owner() == Owner::Queued { start_by } else { deadline + GRACE };
        let body = self.incoming.as_ref().and_then(|incoming| incoming.window.end());
        // A worker that answers does not tell the poller, so the connection may be idle from now on.
        let idle = core.now + core.idle_allowance();
        self.due = body.map_or(idle, |body| body.min(idle)).min(answered);
    }
}
