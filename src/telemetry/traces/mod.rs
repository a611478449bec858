//! Traces: which requests are reported to a collector, and what is reported.
//!
//! The thread that answers a request hands over the data, which costs a clone and a place in a bounded queue. A
//! separate thread makes spans and sends them. A request that is not sampled costs a look at one flag. The code that
//! sends is compiled only with the cargo feature `otlp`.

#[cfg(feature = "otlp")]
mod batch;
#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod on;
#[cfg(feature = "otlp")]
mod protobuf;
#[cfg(feature = "otlp")]
mod served;

use std::time::Instant;

#[cfg(not(feature = "otlp"))]
pub(crate) use off::Traces;
#[cfg(feature = "otlp")]
pub(crate) use on::Traces;

use crate::telemetry::activity::Waits;

/// The facts about the server that every trace has.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct ServerFacts {
    /// The database system under OpenTelemetry's name.
    pub database_system: &'static str,
    /// The name of the database.
    pub database_name: String,
}

/// The times of a request.
#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct RequestTimes {
    /// When the whole request had come.
    pub since: Instant,
    /// When a worker took it. `None`: no worker did.
    pub began: Option<Instant>,
    /// When its answer was made. `None`: this is not known separately.
    pub made: Option<Instant>,
    /// When its answer was handed over.
    pub ended: Instant,
    /// Its waits at the worker.
    pub waits: Waits,
}

impl RequestTimes {
    /// The times of a request that no worker took.
    pub(crate) fn without_worker(since: Instant) -> Self {
        Self { since, began: None, made: None, ended: Instant::now(), waits: Waits::default() }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The answer's status. `None`: the client had left.
    pub status: Option<u16>,
    /// The limit that the request exceeded, or another reason for having no regular answer.
    pub failure: Option<&'static str>,
}

impl Outcome {
    /// The request has its answer.
    pub(crate) fn answered(status: u16) -> Self {
        Self { status: Some(status), failure: None }
    }

    /// The request was refused.
    pub(crate) fn refused(status: u16, reason: &'static str) -> Self {
        Self { status: Some(status), failure: Some(reason) }
    }

    /// The client left before its answer.
    pub(crate) fn client_left() -> Self {
        Self { status: None, failure: Some("client_left") }
    }
}
