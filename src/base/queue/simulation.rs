//! Admission under many loads, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::*;

const LIMITS: Limits =
    Limits { max_length: 1024, target: Duration::from_millis(50), interval: Duration::from_millis(100) };

/// The outcome of the requests of one run.
struct Outcome {
    served: usize,
    refused: usize,
    /// Refused when a worker took them out of the queue.
    refused_late: usize,
    /// The waits, sorted.
    waits: Vec<Duration>,
}

impl Outcome {
    fn p99(&self) -> Duration {
        self.waits[self.waits.len() * 99 / 100]
    }
}

/// Simulates jobs that come at these times and workers that take `service` for each. `arrivals` is called when a job
/// ends or is refused, and returns when the next job comes. At the beginning it is called once for each client.
fn run(
    workers: usize,
    service: Duration,
    until: Duration,
    first: &[Duration],
    next: impl Fn(Duration) -> Option<Duration>,
) -> Outcome {
    let queue = Queue::<()>::new(LIMITS, workers);
    queue.lanes(&[LaneSpec { name: None, priority: Priority::Normal, max_concurrency: None }]);
    let epoch = Instant::now();
    let mut state = queue.lock();
    let mut arrivals: BinaryHeap<Reverse<Duration>> = first.iter().copied().map(Reverse).collect();
    let mut busy: Vec<(Duration, Ticket)> = Vec::new();
    let mut outcome = Outcome { served: 0, refused: 0, refused_late: 0, waits: Vec::new() };
    loop {
        let ends = busy.iter().map(|(end, _)| *end).min();
        let comes = arrivals.peek().map(|Reverse(at)| *at).filter(|at| *at < until);
        let Some(now) = ends.into_iter().chain(comes).min() else { break };
        if ends == Some(now) {
            let place = busy.iter().position(|(end, _)| *end == now).expect("one ends now");
            let (_, done) = busy.swap_remove(place);
            state.finish(&done, epoch + now);
            outcome.served += usize::from(now <= until);
            arrivals.extend(next(now).map(Reverse));
        } else {
            arrivals.pop();
            if state.push(0, (), epoch + now, false).is_err() {
                outcome.refused += 1;
                arrivals.extend(next(now).map(Reverse));
            }
        }
        while busy.len() < workers
            && let Some(head) = state.first()
        {
            let wait = (epoch + now).saturating_duration_since(state.jobs.get(head).since);
            let ((), done) = state.take(epoch + now).expect("it was picked");
            if done.is_stale() {
                outcome.refused_late += 1;
                state.finish(&done, epoch + now);
                arrivals.extend(next(now).map(Reverse));
            } else {
                outcome.waits.push(wait);
                busy.push((now + service, done));
            }
        }
    }
    outcome.waits.sort_unstable();
    outcome
}

const MS: Duration = Duration::from_millis(1);
const TEN_SECONDS: Duration = Duration::from_secs(10);

fn evenly(each: Duration) -> Vec<Duration> {
    let count = u32::try_from(TEN_SECONDS.as_micros() / each.as_micros()).expect("it fits");
    (0..count).map(|index| each * index).collect()
}

#[test]
fn workers_stay_busy_and_waits_stay_short_at_any_load() {
    for times in [1, 2, 5, 10, 50] {
        let arrivals = evenly(5 * MS / times);
        let outcome = run(4, 20 * MS, TEN_SECONDS, &arrivals, |_| None);
        assert!(outcome.served >= 1960, "{times} times: {} served", outcome.served);
        assert!(outcome.refused_late * 100 <= outcome.refused, "{times} times: {}", outcome.refused_late);
        assert!(outcome.p99() <= 120 * MS, "{times} times: p99 {:?}", outcome.p99());
    }
}

#[test]
fn bursts_below_capacity_are_not_refused() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut at = 0.0;
    let arrivals: Vec<Duration> = std::iter::from_fn(|| {
        at -= (1.0 - random.f64()).ln() / 160.0;
        Some(Duration::from_secs_f64(at))
    })
    .take_while(|at| *at < TEN_SECONDS)
    .collect();
    let outcome = run(4, 20 * MS, TEN_SECONDS, &arrivals, |_| None);
    assert!(outcome.refused * 100 <= arrivals.len(), "{} of {} refused", outcome.refused, arrivals.len());
}

#[test]
fn clients_that_wait_for_answers_are_no_overload() {
    let clients = vec![Duration::ZERO; 256];
    let outcome = run(10, MS * 3 / 10, Duration::from_secs(2), &clients, Some);
    assert_eq!(outcome.refused, 0, "{} served", outcome.served);
}
