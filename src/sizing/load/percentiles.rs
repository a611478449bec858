//! The figures of a report on times, in milliseconds.
//!
//! The thread that calls `run`.

use serde::Serialize;

use super::numbers::{milliseconds, milliseconds_of};
use super::times::{Times, Timings};

/// Times in milliseconds. Without any, the count is 0 and every time is NaN, which is null in JSON.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    #[serde(rename = "p99.99")]
    pub p99_99: f64,
    pub max: f64,
}

/// The phases of the service time by the header `Server-Timing`, for all answers but refusals. A phase that an answer does
/// not name counts as zero, so that the means add up to the mean service time of these answers.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Phases {
    /// `queue`: until a worker took the request.
    pub queue_ms: Percentiles,
    /// `pool`: until there was a database session.
    pub pool_ms: Percentiles,
    /// `db`: in the database.
    pub db_ms: Percentiles,
    /// `render`: until the answer was written.
    pub render_ms: Percentiles,
    /// The rest of the service time: the network, and work that the server does not name.
    pub elsewhere_ms: Percentiles,
}

/// The means of a second.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are those of Phases")]
pub struct PhaseMeans {
    pub queue_ms: f64,
    pub pool_ms: f64,
    pub db_ms: f64,
    pub render_ms: f64,
    pub elsewhere_ms: f64,
}

impl Phases {
    /// The phases with their names in a table, in the order of a request's way.
    pub(super) fn named(&self) -> [(&'static str, Percentiles); 5] {
        [
            ("queue", self.queue_ms),
            ("pool", self.pool_ms),
            ("database", self.db_ms),
            ("render", self.render_ms),
            ("elsewhere", self.elsewhere_ms),
        ]
    }

    pub(super) fn of(timings: &Timings) -> Self {
        let Timings { queue, pool, db, render, elsewhere } = timings;
        Self {
            queue_ms: Percentiles::of(queue),
            pool_ms: Percentiles::of(pool),
            db_ms: Percentiles::of(db),
            render_ms: Percentiles::of(render),
            elsewhere_ms: Percentiles::of(elsewhere),
        }
    }
}

impl PhaseMeans {
    /// The values in the order of [`Phases::named`].
    pub(super) fn values(&self) -> [f64; 5] {
        [self.queue_ms, self.pool_ms, self.db_ms, self.render_ms, self.elsewhere_ms]
    }

    pub(super) fn of(timings: &Timings) -> Self {
        let Timings { queue, pool, db, render, elsewhere } = timings;
        Self {
            queue_ms: milliseconds(queue.mean()),
            pool_ms: milliseconds(pool.mean()),
            db_ms: milliseconds(db.mean()),
            render_ms: milliseconds(render.mean()),
            elsewhere_ms: milliseconds(elsewhere.mean()),
        }
    }
}

impl Percentiles {
    /// The figures of these times.
    pub fn of(times: &Times) -> Self {
        let known = |time| milliseconds_of(times, time);
        let at = |percent| known(times.percentile(percent));
        Self {
            count: times.count(),
            min: known(times.min()),
            mean: known(times.mean()),
            p50: at(50.0),
            p75: at(75.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            p99_9: at(99.9),
            p99_99: at(99.99),
            max: known(times.max()),
        }
    }
}
