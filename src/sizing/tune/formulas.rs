//! Formulas that others advise, and the limits of a database. They are shown beside the measurement, which decides.
//!
//! Any thread; numbers in, numbers out.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::statistics::real;

/// The average number inside a system: the arrivals in a second, times the time that each stays.
///
/// The busy sessions are throughput × service time, and the requests in a queue are the admitted ones × wait. The law
/// holds for all distributions. Little (1961), "A proof for the queuing formula: L = λW".
pub fn occupancy(per_second: f64, stay: Duration) -> f64 {
    per_second * stay.as_secs_f64()
}

/// The longest queue whose last request waits no longer than `wait`: Little's law, rounded down, and at least 1.
pub fn queue_length(per_second: f64, wait: Duration) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is bounded and above zero"
    )]
    let length = occupancy(per_second, wait).clamp(1.0, 1e9) as usize;
    length
}

/// Connections = cores × 2 + effective spindles.
///
/// The cores are the database's, without hyper-threads. The spindles are 0 when all data in use fits in memory; with
/// less of it in memory they approach the number of disks. No figure has been published for SSDs. PostgreSQL wiki,
/// "Number Of Database Connections"; HikariCP wiki, "About Pool Sizing", quotes it.
pub fn connections_by_cores(cores: usize, effective_spindles: usize) -> usize {
    cores.saturating_mul(2).saturating_add(effective_spindles)
}

/// The smallest pool that cannot deadlock when each thread holds several sessions at once: threads × (sessions of each
/// − 1) + 1.
///
/// With one session fewer, each thread may hold all but its last, and no session is left. HikariCP wiki, "About Pool
/// Sizing", "Pool-locking". This is a lower bound, not the best size.
pub fn connections_without_deadlock(threads: usize, connections_of_each: NonZeroUsize) -> usize {
    threads.saturating_mul(connections_of_each.get() - 1).saturating_add(1)
}

/// PostgreSQL's limits on sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// `max_connections`.
    pub max: usize,
    /// `superuser_reserved_connections`: kept for superusers.
    pub superuser_reserved: usize,
    /// `reserved_connections`: kept for `pg_use_reserved_connections`; 0 before PostgreSQL 16.
    pub reserved: usize,
    /// Client sessions that others have open now (`pg_stat_activity` without ours).
    pub others: usize,
}

impl Connections {
    /// The number of sessions that each of these instances of the service may open, rounded down. `None` when no
    /// session is left.
    ///
    /// PostgreSQL documentation, "Connections and Authentication": ordinary roles are refused when only the reserved
    /// connections are free.
    pub fn for_each_of(&self, instances: NonZeroUsize) -> Option<NonZeroUsize> {
        let taken = self.superuser_reserved.saturating_add(self.reserved).saturating_add(self.others);
        NonZeroUsize::new(self.max.saturating_sub(taken) / instances)
    }
}

/// The time that each request holds its session, from the throughput of a pool that is always busy: Little's law,
/// solved for the time. `None` without throughput.
pub fn hold(pool_size: usize, per_second: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(real(pool_size) / per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("above zero")
    }

    #[test]
    fn busy_connections_are_throughput_times_service_time() {
        assert!((occupancy(2000.0, Duration::from_millis(3)) - 6.0).abs() < 1e-9);
        assert_eq!(hold(6, 2000.0), Some(Duration::from_millis(3)));
        assert_eq!(hold(6, 0.0), None);
        assert_eq!(queue_length(2000.0, Duration::from_millis(50)), 100);
        assert_eq!(queue_length(0.5, Duration::from_millis(50)), 1);
    }

    #[test]
    fn the_wikis_examples_are_met() {
        // "A little 4-Core i7 server with one hard disk should be running a connection pool of: 9 = ((4 * 2) + 1)."
        assert_eq!(connections_by_cores(4, 1), 9);
        // "three threads, each of which require four connections": 3 × (4 − 1) + 1 = 10.
        assert_eq!(connections_without_deadlock(3, some(4)), 10);
        assert_eq!(connections_without_deadlock(100, some(1)), 1);
    }

    #[test]
    fn instances_share_what_the_database_leaves() {
        let database = Connections { max: 100, superuser_reserved: 3, reserved: 2, others: 12 };
        assert_eq!(database.for_each_of(some(1)), NonZeroUsize::new(83));
        assert_eq!(database.for_each_of(some(4)), NonZeroUsize::new(20));
        assert_eq!(database.for_each_of(some(84)), None);
        let full = Connections { others: 200, ..database };
        assert_eq!(full.for_each_of(some(1)), None);
    }
}
