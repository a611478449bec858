//! Where requests are handed over to the thread that tells of them.
//!
//! Workers and pollers. Nobody waits here: what does not fit into the queue is dropped, and counted.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::exporter::{self, Inbox, LAST_PATIENCE};
use super::served::Served;
use super::{Course, Outcome, Surroundings};
use crate::config;
use crate::http::Request;
use crate::telemetry::metrics::{Endpoint, Metrics};

/// Requests that may wait to be told of: some MiB, and a fifth of a second of 20,000 in a second that are all sampled.
const QUEUE: usize = 4096;

/// With so many the exporter need not wait for its time. It is not woken for each, which would cost each a system call.
const ENOUGH: usize = QUEUE / 4;

/// How much of what a client says stands in a span: whole paths of people, and not a whole head of somebody else.
const TEXT_MAX: usize = 1024;

/// Who tells of requests. Cheap to clone; the default tells nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    queue: Sender<Box<Served>>,
    wake: Sender<()>,
    /// Dropped when the exporter is to send what it has, and to end.
    open: Mutex<Option<Sender<Infallible>>>,
    /// Disconnected once it has ended.
    ended: Receiver<Infallible>,
    metrics: Arc<Metrics>,
}

impl Traces {
    /// Starts the thread that sends, if the configuration says where to.
    ///
    /// # Errors
    /// What is wrong with that, or when the system has no more threads to give.
    pub(crate) fn start(
        config: &config::Tracing,
        surroundings: Surroundings,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self::default()) };
        let (queue, waiting) = crossbeam_channel::bounded(QUEUE);
        let (wake, woken) = crossbeam_channel::bounded(1);
        let (open, closing) = crossbeam_channel::bounded(0);
        let inbox = Inbox { waiting, woken, closing };
        let ended = exporter::start(endpoint, config, surroundings, inbox, metrics)?;
        let open = Mutex::new(Some(open));
        Ok(Self(Some(Arc::new(Shared { queue, wake, open, ended, metrics: Arc::clone(metrics) }))))
    }

    /// Whether the request is told of.
    pub(crate) fn wants(&self, request: &Request) -> bool {
        self.0.is_some() && request.trace().is_some_and(crate::base::request_id::Trace::is_sampled)
    }

    /// Tells of a request, if it is wanted.
    pub(crate) fn tell(
        &self,
        request: &Request,
        endpoint: Option<&Arc<Endpoint>>,
        what: impl FnOnce() -> (Course, Outcome),
    ) {
        if !self.wants(request) {
            return;
        }
        let (Some(shared), Some(request_id)) = (&self.0, &request.request_id) else { return };
        let (course, outcome) = what();
        shared.take(Box::new(Served {
            request_id: request_id.clone(),
            method: request.method().clone(),
            version: request.version(),
            path: cut(request.path()),
            host: request.header("host").and_then(text),
            user_agent: request.header("user-agent").and_then(text),
            client: request.client().or_else(|| request.peer().map(|peer| peer.ip())),
            endpoint: endpoint.cloned(),
            course,
            outcome,
        }));
    }

    /// Sends what there is, and nothing any more after that. Waits for that only so long, and no longer than until `stop` is
    /// disconnected.
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
                    // Full: somebody has woken it.
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
