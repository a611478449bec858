//! Traces: what is told of a request to whoever collects them, and which requests are told of.
//!
//! Whoever answers a request hands over what is known of it, which costs a clone and a place in a bounded queue; a thread of its own
//! makes spans of it and sends them. Who is not sampled costs a look at one flag. All that sends is there only with the cargo
//! feature `otlp`.

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

/// What of the server every trace says.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct Surroundings {
    /// Whether clients speak TLS.
    pub is_encrypted: bool,
    /// What OpenTelemetry calls the database.
    pub database_system: &'static str,
    /// Which database it is.
    pub database_name: String,
}

/// When a request came to which point.
#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "only the exporter reads it"))]
pub(crate) struct Course {
    /// It had come whole.
    pub since: Instant,
    /// A worker took it; `None`: none did.
    pub began: Option<Instant>,
    /// Its answer was made; `None`: where there is no more to be said of that.
    pub made: Option<Instant>,
    /// Its answer was handed over.
    pub ended: Instant,
    /// What it waited for at its worker.
    pub waits: Waits,
}

impl Course {
    /// That of a request that no worker took.
    pub(crate) fn without_worker(since: Instant) -> Self {
        Self { since, began: None, made: None, ended: Instant::now(), waits: Waits::default() }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The answer's status; `None`: nobody was there to get one.
    pub status: Option<u16>,
    /// The limit that it met, or what else kept it from its answer.
    pub failure: Option<&'static str>,
}

impl Outcome {
    /// It has its answer.
    pub(crate) fn answered(status: u16) -> Self {
        Self { status: Some(status), failure: None }
    }

    /// It was refused.
    pub(crate) fn refused(status: u16, reason: &'static str) -> Self {
        Self { status: Some(status), failure: Some(reason) }
    }

    /// Its client was gone before.
    pub(crate) fn client_left() -> Self {
        Self { status: None, failure: Some("client_left") }
    }
}
