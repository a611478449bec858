//! The figures read from `/stats`. An older server may send no errors or conditions, which then count as
//! none.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct View {
    pub(super) wharf: String,
    pub(super) started_at_s: f64,
    pub(super) uptime_s: f64,
    pub(super) state: String,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
    pub(super) totals: Totals,
    pub(super) workers: Workers,
    pub(super) threads: Vec<Thread>,
    pub(super) queue: Queue,
    pub(super) pool: Option<Pool>,
    pub(super) connections: Connections,
    pub(super) seconds: Vec<Second>,
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(super) errors: Vec<Failure>,
}

#[derive(Deserialize)]
pub(super) struct Condition {
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) since_s: f64,
    pub(super) for_s: f64,
    pub(super) until_s: Option<f64>,
    pub(super) why: String,
    pub(super) now: String,
    pub(super) advice: String,
}

#[derive(Deserialize)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) in_flight: u64,
    pub(super) abandoned: u64,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) panics: u64,
}

#[derive(Deserialize)]
pub(super) struct Workers {
    pub(super) count: usize,
    pub(super) busy: usize,
    pub(super) stuck: usize,
}

#[derive(Deserialize)]
pub(super) struct Thread {
    pub(super) state: String,
    pub(super) stuck: bool,
}

#[derive(Deserialize)]
pub(super) struct Queue {
    pub(super) length: usize,
    pub(super) max_length: usize,
    pub(super) oldest_ms: f64,
}

#[derive(Deserialize)]
pub(super) struct Pool {
    pub(super) max: usize,
    pub(super) active: usize,
    pub(super) idle: usize,
    pub(super) pending: usize,
}

#[derive(Deserialize)]
pub(super) struct Connections {
    pub(super) open: usize,
    pub(super) states: BTreeMap<String, usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Second {
    pub(super) length_s: f64,
    pub(super) good: f64,
    #[serde(default)]
    pub(super) client_errors: f64,
    pub(super) errors: f64,
    pub(super) refused: f64,
    #[serde(default)]
    pub(super) left: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p90_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) phases_ms: Phases,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Phases {
    pub(super) queue: f64,
    pub(super) pool: f64,
    pub(super) database: f64,
    pub(super) render: f64,
    pub(super) write: f64,
}

#[derive(Deserialize)]
pub(super) struct Endpoint {
    pub(super) method: String,
    pub(super) route: String,
    pub(super) per_s: f64,
    #[serde(default)]
    pub(super) client_errors_per_s: f64,
    #[serde(default)]
    pub(super) errors_per_s: f64,
    #[serde(default)]
    pub(super) refused_per_s: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) mean_ms: Option<f64>,
    pub(super) phases_ms: Phases,
}

#[derive(Deserialize)]
pub(super) struct Failure {
    pub(super) at_s: f64,
    pub(super) method: String,
    pub(super) route: String,
    pub(super) status: u16,
    pub(super) count: u64,
    pub(super) request_id: Option<String>,
}

impl Second {
    /// The rate of something counted in this second.
    pub(super) fn per_s(&self, count: f64) -> f64 {
        count / if self.length_s > 0.0 { self.length_s } else { 1.0 }
    }
}
