//! What others advise, and what a database allows: to be shown beside the measurement, which has the last word.
//!
//! Any thread; numbers in, numbers out.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::statistics::real;

/// How many are inside on average: what arrives in a second, times how long each stays.
///
/// Connections are busy for throughput × service time, and requests wait in a queue for what is admitted × wait. It holds whatever
/// the distributions are. Little (1961), "A proof for the queuing formula: L = λW".
pub fn occupancy(per_second: f64, stay: Duration) -> f64 {
    per_second * stay.as_secs_f64()
}

/// How long a queue may be so that who joins it at its end waits for no longer than `wait`: Little's law, rounded down, and 1
/// at least.
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
/// Cores are the database's, without hyper-threads. Spindles are 0 when the data that is used fits in memory, and come closer to
/// the number of disks the less of it does; nobody has said what it is for SSDs. PostgreSQL wiki, "Number Of Database Connections";
/// HikariCP wiki, "About Pool Sizing", from there.
pub fn connections_by_cores(cores: usize, effective_spindles: usize) -> usize {
    cores.saturating_mul(2).saturating_add(effective_spindles)
}

/// The smallest pool with which threads that each hold several connections at once cannot wait for each other for ever:
/// threads × (connections of each − 1) + 1.
///
/// With one less each thread may hold all but its last, and none is left. HikariCP wiki, "About Pool Sizing", "Pool-locking". No
/// best size, but a least one.
pub fn connections_without_deadlock(threads: usize, connections_of_each: NonZeroUsize) -> usize {
    threads.saturating_mul(connections_of_each.get() - 1).saturating_add(1)
}

/// What PostgreSQL says about its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// `max_connections`.
    pub max: usize,
    /// `superuser_reserved_connections`: kept for superusers.
    pub superuser_reserved: usize,
    /// `reserved_connections`: kept for `pg_use_reserved_connections`; 0 before PostgreSQL 16.
    pub reserved: usize,
    /// Client sessions that others have open now (`pg_stat_activity` without our own).
    pub others: usize,
}

impl Connections {
    /// How many each of so many instances of the service may open, rounded down; `None` when that is none.
    ///
    /// PostgreSQL documentation, "Connections and Authentication": connections are refused to ordinary roles when no more than the
    /// reserved ones are free.
    pub fn for_each_of(&self, instances: NonZeroUsize) -> Option<NonZeroUsize> {
        let taken = self.superuser_reserved.saturating_add(self.reserved).saturating_add(self.others);
        NonZeroUsize::new(self.max.saturating_sub(taken) / instances)
    }
}

/// The time that each request holds its connection, from the throughput of a pool that never idles: Little's law backwards.
/// `None` without throughput.
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
