//! A finished request on its way to the exporter.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Version};

use super::{Outcome, RequestTimes};
use crate::base::request_id::RequestId;
use crate::telemetry::metrics::Endpoint;

/// The data of a request that its trace reports.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) request_id: RequestId,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) is_encrypted: bool,
    pub(super) path: String,
    pub(super) host: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) client: Option<IpAddr>,
    /// `None` if the request came to no endpoint.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) request_times: RequestTimes,
    pub(super) outcome: Outcome,
}

impl Served {
    /// The number of spans of the request.
    pub(super) fn spans(&self) -> u64 {
        let RequestTimes { began, made, waits, .. } = &self.request_times;
        let phases = 1 + u64::from(began.is_some()) + 2 * u64::from(made.is_some());
        phases + waits.kept.len() as u64 + u64::from(waits.missed)
    }
}
