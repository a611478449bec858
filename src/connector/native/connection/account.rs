//! Counts and log lines for a request that the poller answers. Poller thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Connection, Core};
use crate::base::request_id::RequestId;
use crate::http::{Form, KeptOutline, Request, Response, client_address};
use crate::telemetry::journal::Entry;
use crate::telemetry::metrics::{Endpoint, Reason};

/// What the access log needs to know of a request that the poller answers.
#[derive(Default)]
pub(super) struct LoggedRequest {
    /// When its head had come; `None` if there is nothing to log.
    pub(super) at: Option<Instant>,
    /// The outline of the request; the previous request's if this one has none.
    pub(super) outline: KeptOutline,
}

/// The endpoint of the last request, if it is known. The next request most often has the same one. Holding and
/// releasing it for each request would write to memory that all threads write to, so the connection keeps it.
#[derive(Default)]
pub(super) struct LastEndpoint {
    held: Option<Arc<Endpoint>>,
    pub(super) is_known: bool,
}

impl LastEndpoint {
    pub(super) fn know(&mut self, endpoint: Option<&Arc<Endpoint>>) {
        self.is_known = endpoint.is_some();
        if let Some(endpoint) = endpoint
            && !self.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, endpoint))
        {
            self.held = Some(Arc::clone(endpoint));
        }
    }

    pub(super) fn known(&self) -> Option<&Arc<Endpoint>> {
        self.held.as_ref().filter(|_| self.is_known)
    }
}

impl Connection {
    /// Counts an answer that the poller gives to a request that was given to a worker, or would have been.
    pub(super) fn count_answer(&self, core: &Core, status: u16) {
        let id = self.request_id.as_ref().map_or("", RequestId::id);
        self.endpoint.known().unwrap_or_else(|| core.metrics.unmatched()).responded_to(id, status);
    }

    /// Writes the access log's line for an answer of the poller.
    pub(super) fn note_answer(
        &mut self,
        core: &Core,
        response: &Response,
        form: Form,
        reason: Option<Reason>,
    ) {
        self.note_end(core, response.status().as_u16(), form.body_length(response), reason);
    }

    /// Writes the access log's line for a request that ends on the poller.
    pub(super) fn note_end(&mut self, core: &Core, status: u16, bytes: u64, reason: Option<Reason>) {
        if !core.settings.journal.has_access() {
            return;
        }
        let (asked_at, ended) = (self.logged.at.take(), Instant::now());
        let (outline, peer) =
            (asked_at.map(|_| self.logged.outline.outline()), self.peer.map(|peer| peer.ip()));
        core.settings.journal.ended(&Entry {
            outline,
            client: outline.and_then(|outline| outline.client()).or(peer),
            request_id: self.request_id.as_ref(),
            status,
            bytes,
            ended,
            total: asked_at.map_or(Duration::ZERO, |at| ended - at),
            spans: None,
            endpoint: self.endpoint.known().map(|endpoint| &**endpoint).filter(|_| asked_at.is_some()),
            reason,
        });
    }

    /// Keeps what the access log will say of a request whose head was read, in case the poller answers it.
    pub(super) fn note_head(&mut self, core: &Core, request: &Request) {
        if core.settings.journal.has_access() {
            let client = self.client_of(core, request);
            self.logged.outline.keep(request, client);
            self.logged.at = Some(core.now);
        }
    }

    /// The client's address: the one that a trusted proxy names, or the peer's.
    pub(super) fn client_of(&self, core: &Core, request: &Request) -> Option<IpAddr> {
        let (peer, proxy) = (self.peer.map(|peer| peer.ip()), &core.settings.proxy);
        if proxy.trusted.is_empty() {
            return peer;
        }
        client_address(request, peer, &proxy.trusted, proxy.header)
    }
}
