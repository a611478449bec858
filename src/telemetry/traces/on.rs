//! Hands requests over to the exporter's thread.
//!
//! Workers and pollers call this and never wait. A request that does not fit into the queue is dropped and counted.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::exporter::{self, Inbox, LAST_PATIENCE};
use super::served::Served;
use super::{Outcome, RequestTimes, ServerFacts};
use crate::config;
use crate::http::Request;
use crate::telemetry::metrics::{Endpoint, Metrics};

/// The number of requests that may wait for the exporter: some MiB, or a fifth of a second at 20,000 sampled requests a
/// second.
const QUEUE: usize = 4096;

/// The number of waiting requests that wakes the exporter early. Waking it for each request would cost each a system
/// call.
const ENOUGH: usize = QUEUE / 4;

/// The longest text from a client in a span: enough for whole paths, not for a whole head.
const TEXT_MAX: usize = 1024;

/// Reports requests to the exporter. Cheap to clone. The default reports nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: Sender<Box<Served>>,
    wake: Sender<()>,
    /// Dropped to make the exporter send its last spans and end.
    open: Mutex<Option<Sender<Infallible>>>,
    /// Disconnected when the exporter has ended.
    ended: Receiver<Infallible>,
    metrics: Arc<Metrics>,
}

impl Traces {
    /// Starts the exporter if the configuration names a collector.
    ///
    /// # Errors
    /// The collector's configuration is wrong, or the system cannot start a thread.
    pub(crate) fn start(
        config: &config::Tracing,
        facts: ServerFacts,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self::default()) };
        let (queue, waiting) = crossbeam_channel::bounded(QUEUE);
        let (wake, woken) = crossbeam_channel::bounded(1);
        let (open, closing) = crossbeam_channel::bounded(0);
        let inbox = Inbox { waiting, woken, closing };
        let ended = exporter::start(endpoint, config, facts, inbox, metrics)?;
        let open = Mutex::new(Some(open));
        Ok(Self(Some(Arc::new(Shared { queue, wake, open, ended, metrics: Arc::clone(metrics) }))))
    }

    /// Whether the request is reported.
    pub(crate) fn wants(&self, request: &Request) -> bool {
        self.0.is_some() && request.trace().is_some_and(crate::base::request_id::Trace::is_sampled)
    }

    /// Reports a request, if it is wanted.
    pub(crate) fn record(
        &self,
        request: &Request,
        endpoint: Option<&Arc<Endpoint>>,
        what: impl FnOnce() -> (RequestTimes, Outcome),
    ) {
        if !self.wants(request) {
            return;
        }
        let (Some(shared), Some(request_id)) = (&self.0, &request.request_id) else { return };
        let (request_times, outcome) = what();
        shared.take(Box::new(Served {
            request_id: request_id.clone(),
            method: request.method().clone(),
            version: request.version(),
            is_encrypted: request.is_encrypted(),
            path: cut(request.path()),
            host: request.header("host").and_then(text),
            user_agent: request.header("user-agent").and_then(text),
            client: request.client().or_else(|| request.peer().map(|peer| peer.ip())),
            endpoint: endpoint.cloned(),
            request_times,
            outcome,
        }));
    }

    /// Sends the last spans and accepts no more. Waits a limited time, and no longer than until `stop` is disconnected.
    pub(crate) fn close(&self, stop: &Receiver<Infallible>) {
        let Some(shared) = &self.0 else { return };
        drop(shared.open.lock().unwrap_or_else(PoisonError::into_inner).take());
        crossbeam_channel::select! {
            recv(shared.ended) -> _ => {}
            recv(stop) -> _ => {}
            recv(crossbeam_channel::at(Instant::now() + LAST_PATIENCE)) -> _ => {}
        }
    }
}

impl Shared {
    fn take(&self, served: Box<Served>) {
        match self.queue.try_send(served) {
            Ok(()) => {
                if self.queue.len() >= ENOUGH {
                    // A full channel means that the exporter was woken already.
                    let _ = self.wake.try_send(());
                }
            }
            Err(refused) => self.metrics.spans_dropped(refused.into_inner().spans()),
        }
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(cut)
}

fn cut(text: &str) -> String {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}
