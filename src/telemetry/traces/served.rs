//! A request that a trace tells of, on its way to the exporter.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Version};

use super::{Course, Outcome};
use crate::base::request_id::RequestId;
use crate::telemetry::metrics::Endpoint;

/// A request as it is told of.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) request_id: RequestId,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) path: String,
    pub(super) host: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) client: Option<IpAddr>,
    /// `None`: it came to none.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) course: Course,
    pub(super) outcome: Outcome,
}

impl Served {
    /// How many spans it makes.
    pub(super) fn spans(&self) -> u64 {
        let Course { began, made, waits, .. } = &self.course;
        let phases = 1 + u64::from(began.is_some()) + 2 * u64::from(made.is_some());
        phases + waits.kept.len() as u64 + u64::from(waits.missed)
    }
}
