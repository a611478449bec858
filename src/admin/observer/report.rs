//! The log lines about the last second, if there is anything to report: how many requests were refused, and how the
//! server's state has changed. Observer's thread.
//!
//! A flood of refusals becomes one line a second with its count. A state is reported when it has lasted for a while.
//! Its end is reported when the calm has lasted longer, so that a server at its limit does not change its state every
//! second.

use std::time::{Duration, Instant};

use log::Level;

use super::Thread;
use super::condition::is_pressed;
use crate::telemetry::metrics::{Gauges, Metrics, Pool, REASONS, Reason, UNSERVED, Unserved};

/// After this many seconds in a row, the server counts as saturated, or as calm again.
const SATURATED_AFTER: u32 = 3;
const CALM_AFTER: u32 = 5;

/// A worker that has just passed its deadline is about to stop by itself. In the next second it counts as stuck.
const STUCK_AFTER: u32 = 2;

/// The most stuck workers that one line names. They have much in common, and the line must stay readable.
const NAMED: usize = 5;

/// Refusals that the server causes, because of load or too many clients. Other refusals are the client's fault and are
/// only counted.
const REFUSALS: [Reason; 8] = [
    Reason::ConnectionLimit,
    Reason::AddressLimit,
    Reason::AcceptRate,
    Reason::Descriptors,
    Reason::QueueFull,
    Reason::QueueWait,
    Reason::Shed,
    Reason::Deadline,
];

/// Failed checkouts because no session was free.
const NO_SESSION: [Unserved; 3] = [Unserved::Timeout, Unserved::Down, Unserved::Crowded];

/// The figures that a report is made from.
pub(super) struct Figures<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) pool: Option<&'a Pool>,
    pub(super) gauges: &'a Gauges,
    /// Lines of the access log that were lost.
    pub(super) lost: u64,
    /// Lists the current activity of each worker.
    pub(super) threads: &'a dyn Fn() -> Vec<Thread>,
}

/// The counts and states that were reported last.
#[derive(Debug, Default)]
pub(super) struct Report {
    refused: [u64; REASONS.len()],
    unserved: [u64; UNSERVED.len()],
    lost: u64,
    saturated: State,
    stuck: State,
}

/// Whether the server is in a certain state.
#[derive(Debug, Default)]
struct State {
    /// Since when the state is reported; `None` while it is not.
    since: Option<Instant>,
    /// How many seconds in a row contradict that.
    against: u32,
}

/// A change of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StateChange {
    Begins,
    Ends(Duration),
}

impl State {
    /// Adds a second. `begin` and `end`: how many seconds in a row begin and end the state.
    fn add(&mut self, is_so: bool, now: Instant, begin: u32, end: u32) -> Option<StateChange> {
        if is_so == self.since.is_some() {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if is_so { begin } else { end } {
            return None;
        }
        self.against = 0;
        if let Some(since) = self.since.take() {
            return Some(StateChange::Ends(now - since));
        }
        self.since = Some(now);
        Some(StateChange::Begins)
    }
}

type Lines = Vec<(Level, String)>;

impl Report {
    /// Adds a second. Returns the lines for the log.
    pub(super) fn add(&mut self, figures: &Figures<'_>, now: Instant) -> Lines {
        let mut lines = Lines::new();
        let refused = REFUSALS.map(|reason| {
            let count = figures.metrics.refused_for(reason);
            let before = std::mem::replace(&mut self.refused[reason as usize], count);
            (reason, count.saturating_sub(before))
        });
        let names = refused.map(|(reason, count)| (reason.name(), count));
        if let Some(counts) = counted(&names) {
            lines.push((Level::Warn, format!("refused {} in the last second: {}", counts.0, counts.1)));
        }
        lines.extend(self.unserved(figures.pool));
        if figures.lost > self.lost {
            let lost = grouped(figures.lost - self.lost);
            lines.push((Level::Warn, format!("{lost} lines of the access log were lost")));
            self.lost = figures.lost;
        }
        let overload = refused.iter().filter(|(reason, _)| Reason::OVERLOAD.contains(reason));
        let overload = overload.map(|(_, count)| count).sum();
        lines.extend(self.saturation(figures.gauges, overload, now));
        lines.extend(self.stuck(figures, now));
        lines
    }

    fn unserved(&mut self, pool: Option<&Pool>) -> Option<(Level, String)> {
        let counts = NO_SESSION.map(|how| {
            let count = pool?.unserved_for(how);
            let before = std::mem::replace(&mut self.unserved[how as usize], count);
            Some((UNSERVED[how as usize].1, count.saturating_sub(before)))
        });
        let (sum, each) = counted(&counts.map(|count| count.unwrap_or(("", 0))))?;
        Some((Level::Warn, format!("no database session for {sum} in the last second: {each}")))
    }

    /// The server is saturated when all workers are busy and jobs wait, or when it refuses requests because of load.
    fn saturation(&mut self, gauges: &Gauges, refused: u64, now: Instant) -> Option<(Level, String)> {
        let (workers, queue) = (&gauges.workers, &gauges.queue);
        let is_so = refused > 0 || is_pressed(gauges);
        match self.saturated.add(is_so, now, SATURATED_AFTER, CALM_AFTER)? {
            StateChange::Begins => {
                let pool = gauges.pool.as_ref();
                let pool = pool.map(|pool| format!("; {} of {} sessions lent", pool.active, pool.max));
                let paced =
                    if workers.busy_max < workers.max { ", as many as the cores can run" } else { "" };
                let line = format!(
                    "saturated for {SATURATED_AFTER} s: {} of {} workers busy{paced}, {} waiting, the oldest for {:?}{}",
                    workers.busy,
                    workers.count,
                    queue.length,
                    queue.oldest,
                    pool.unwrap_or_default(),
                );
                Some((Level::Warn, line))
            }
            StateChange::Ends(after) => {
                Some((Level::Info, format!("no longer saturated, after {} s", after.as_secs())))
            }
        }
    }

    fn stuck(&mut self, figures: &Figures<'_>, now: Instant) -> Option<(Level, String)> {
        let is_so = figures.gauges.workers.stuck > 0;
        match self.stuck.add(is_so, now, STUCK_AFTER, 1)? {
            StateChange::Begins => {
                let stuck = (figures.threads)().into_iter().filter(|thread| thread.stuck).take(NAMED);
                let each: Vec<_> = stuck.map(|thread| with_its_request(&thread)).collect();
                let (count, of, each) =
                    (figures.gauges.workers.stuck, figures.gauges.workers.count, each.join(", "));
                let line = format!("past their request's deadline: {count} of {of} workers; {each}");
                Some((Level::Warn, line))
            }
            StateChange::Ends(_) => {
                Some((Level::Info, "no worker is past its request's deadline any more".to_owned()))
            }
        }
    }
}

/// For example `worker-3 has GET /slow for 12.3 s (handler)`.
fn with_its_request(thread: &Thread) -> String {
    let [method, route] = [&thread.method, &thread.route].map(|name| name.as_deref().unwrap_or("?"));
    let seconds = thread.request_ms.unwrap_or(0.0) / 1e3;
    format!("{} has {method} {route} for {seconds:.1} s ({})", thread.name, thread.state)
}

/// The sum of the counts, as a number of requests, and a list of the nonzero ones, the largest first. `None` if the sum
/// is zero.
fn counted(counts: &[(&str, u64)]) -> Option<(String, String)> {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| u64::MAX - count);
    let sum: u64 = counts.iter().map(|(_, count)| count).sum();
    let each: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    let requests = format!("{} request{}", grouped(sum), if sum == 1 { "" } else { "s" });
    (sum > 0).then(|| (requests, each.join(", ")))
}

/// Groups the digits, as in `1,234`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::metrics::{PoolGauges, QueueGauges, WorkerGauges};

    fn gauges(busy: usize, queued: usize, stuck: usize) -> Gauges {
        Gauges {
            started: SystemTime::now(),
            workers: WorkerGauges { max: 4, count: 4, busy, busy_max: 4, idle: 4 - busy, stuck },
            queue: QueueGauges { length: queued, max_length: 9, oldest: Duration::from_millis(70) },
            pool: Some(PoolGauges {
                max: 2,
                min: 2,
                open: 2,
                active: 2,
                idle: 0,
                pending: 1,
                is_down: false,
            }),
        }
    }

    fn thread() -> Thread {
        Thread {
            name: "worker-3".to_owned(),
            state: "handler",
            for_ms: 1.0,
            method: Some("GET".to_owned()),
            route: Some("/slow".to_owned()),
            request_ms: Some(12_340.0),
            stuck: true,
        }
    }

    /// The lines of reports over these gauges, a second apart.
    fn lines_of(report: &mut Report, metrics: &Metrics, looks: &[Gauges]) -> Vec<String> {
        let now = Instant::now();
        let looks = looks.iter().enumerate().flat_map(|(second, gauges)| {
            let threads = || vec![thread(), Thread { stuck: false, ..thread() }];
            let figures = Figures { metrics, pool: None, gauges, lost: 0, threads: &threads };
            report.add(&figures, now + Duration::from_secs(second as u64))
        });
        looks.map(|(_, line)| line).collect()
    }

    #[test]
    fn a_flood_is_one_line_with_its_counts() {
        let (metrics, pool, mut report) = (Metrics::default(), Pool::default(), Report::default());
        let mut lines = |lost| {
            let figures = Figures {
                metrics: &metrics,
                pool: Some(&pool),
                gauges: &gauges(1, 0, 0),
                lost,
                threads: &Vec::new,
            };
            report.add(&figures, Instant::now()).into_iter().map(|(_, line)| line).collect::<Vec<_>>()
        };
        assert_eq!(lines(0), [""; 0]);
        (0..1200).for_each(|_| metrics.refused(Reason::QueueFull));
        (0..34).for_each(|_| metrics.refused(Reason::Shed));
        (0..7).for_each(|_| metrics.refused(Reason::Malformed));
        (0..5).for_each(|_| pool.unserved(Unserved::Down));
        let refused = "refused 1,234 requests in the last second: queue_full 1,200, shed 34";
        let unserved = "no database session for 5 requests in the last second: down 5";
        assert_eq!(lines(2_000_000), [refused, unserved, "2,000,000 lines of the access log were lost"]);
        assert_eq!(lines(2_000_000), [""; 0], "without news there is no line");
        metrics.refused(Reason::Deadline);
        assert_eq!(lines(2_000_000), ["refused 1 request in the last second: deadline 1"]);
    }

    #[test]
    fn saturation_is_reported_when_it_lasts_and_so_is_its_end() {
        let (metrics, mut report) = (Metrics::default(), Report::default());
        let (full, free) = (|| gauges(4, 3, 0), || gauges(4, 0, 0));
        assert_eq!(lines_of(&mut report, &metrics, &[full(), full(), free(), full(), full()]), [""; 0]);
        let line =
            "saturated for 3 s: 4 of 4 workers busy, 3 waiting, the oldest for 70ms; 2 of 2 sessions lent";
        assert_eq!(lines_of(&mut report, &metrics, &[full()]), [line]);
        let looks = [free(), free(), free(), free(), full(), full(), free(), free(), free(), free()];
        assert_eq!(lines_of(&mut report, &metrics, &looks), [""; 0]);
        let over = lines_of(&mut report, &metrics, &[free()]);
        assert!(over.len() == 1 && over[0].starts_with("no longer saturated, after "), "{over:?}");
    }

    #[test]
    fn refused_requests_make_a_server_saturated_as_well() {
        let (metrics, mut report) = (Metrics::default(), Report::default());
        let mut lines = Vec::new();
        for _ in 0..3 {
            metrics.refused(Reason::Shed);
            lines.extend(lines_of(&mut report, &metrics, &[gauges(4, 0, 0)]));
        }
        assert_eq!(lines.iter().filter(|line| line.starts_with("saturated for 3 s")).count(), 1, "{lines:?}");
    }

    #[test]
    fn stuck_workers_are_named_once() {
        let (metrics, mut report) = (Metrics::default(), Report::default());
        let (stuck, free) = (|| gauges(2, 0, 1), || gauges(2, 0, 0));
        let line =
            "past their request's deadline: 1 of 4 workers; worker-3 has GET /slow for 12.3 s (handler)";
        assert_eq!(lines_of(&mut report, &metrics, &[stuck(), free(), stuck(), stuck(), stuck()]), [line]);
        let over = "no worker is past its request's deadline any more";
        assert_eq!(lines_of(&mut report, &metrics, &[free(), free()]), [over]);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
