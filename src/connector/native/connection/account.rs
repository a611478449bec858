//! What is counted and logged of a request that the poller answers. Poller thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Connection, Core};
use crate::base::request_id::RequestId;
use crate::http::{Form, KeptOutline, Request, Response, client_address};
use crate::telemetry::journal::Entry;
use crate::telemetry::metrics::{Endpoint, Reason};

/// What the access log says of a request that is answered here.
#[derive(Default)]
pub(super) struct Asked {
    /// When its head had come; `None` where there is nothing to be said of it.
    pub(super) at: Option<Instant>,
    /// The last one's where there is none.
    pub(super) outline: KeptOutline,
}

/// The endpoint that the last request came to, if it is known. Most often the next one comes to the same, and to hold and release
/// it for each is to write where all threads do; so it is held.
#[derive(Default)]
pub(super) struct Recalled {
    pub(super) held: Option<Arc<Endpoint>>,
    pub(super) is_known: bool,
}

impl Recalled {
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
    /// Counts an answer that is given here to a request that was away, or would have been.
    pub(super) fn count_answer(&self, core: &Core, status: u16) {
        let id = self.request_id.as_ref().map_or("", RequestId::id);
        self.endpoint.known().unwrap_or_else(|| core.metrics.unmatched()).responded_to(id, status);
    }

    /// The access log's line for an answer that is given here.
    pub(super) fn note_answer(
        &mut self,
        core: &Core,
        response: &Response,
        form: Form,
        reason: Option<Reason>,
    ) {
        self.note_end(core, response.status().as_u16(), form.body_length(response), reason);
    }

    /// The access log's line for a request that ends here.
    pub(super) fn note_end(&mut self, core: &Core, status: u16, bytes: u64, reason: Option<Reason>) {
        if !core.settings.journal.has_access() {
            return;
        }
        let (asked_at, ended) = (self.asked.at.take(), Instant::now());
        let (outline, peer) =
            (asked_at.map(|_| self.asked.outline.outline()), self.peer.map(|peer| peer.ip()));
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

    /// A head was read: what the access log will say of it, whoever answers.
    pub(super) fn note_head(&mut self, core: &Core, request: &Request) {
        if core.settings.journal.has_access() {
            let client = self.client_of(core, request);
            self.asked.outline.keep(request, client);
            self.asked.at = Some(core.now);
        }
    }

    /// Who the client is: whom a trusted proxy names, or whoever is at the other end.
    pub(super) fn client_of(&self, core: &Core, request: &Request) -> Option<IpAddr> {
        let (peer, proxy) = (self.peer.map(|peer| peer.ip()), &core.settings.proxy);
        if proxy.trusted.is_empty() {
            return peer;
        }
        client_address(request, peer, &proxy.trusted, proxy.header)
    }
}
