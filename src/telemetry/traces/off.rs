//! Traces without the feature that sends them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::{Outcome, RequestTimes, ServerFacts};
use crate::config;
use crate::http::Request;
use crate::telemetry::metrics::{Endpoint, Metrics};

/// Reports nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces;

#[expect(clippy::unused_self, reason = "the methods are those of the feature otlp")]
impl Traces {
    /// Does nothing.
    ///
    /// # Errors
    /// The configuration asks for traces to be sent.
    pub(crate) fn start(config: &config::Tracing, _: ServerFacts, _: &Arc<Metrics>) -> io::Result<Self> {
        match config.otlp_endpoint {
            Some(_) => Err(io::Error::other("this program was built without wharf's cargo feature otlp")),
            None => Ok(Self),
        }
    }

    /// Whether the request is reported: never.
    pub(crate) fn wants(&self, _: &Request) -> bool {
        false
    }

    /// Does nothing.
    pub(crate) fn record(
        &self,
        _: &Request,
        _: Option<&Arc<Endpoint>>,
        _: impl FnOnce() -> (RequestTimes, Outcome),
    ) {
    }

    /// Does nothing.
    pub(crate) fn close(&self, _: &Receiver<Infallible>) {}
}
