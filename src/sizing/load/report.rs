//! The result of a run: as values, as JSON and as a table.
//!
//! The thread that calls `run`. Names in JSON end in their unit; times are in milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::numbers::{a_second, milliseconds, milliseconds_of, rounded, share};
use super::outcomes::Outcomes;
use super::percentiles::{Percentiles, PhaseMeans, Phases};
use super::sheets::IntervalSheet;
use super::{Arrivals, Objective, Pace, Plan};

/// The largest part of the requests that may be late or skipped. With more of them the run did not measure what it
/// should.
pub const LATE_SHARE: f64 = 0.01;

/// With this much of a core in use, a generator that is late has too much to do. With less, it was woken too late, as happens where
/// other processes have the cores.
const BUSY_PERCENT: f64 = 50.0;

/// The result of a run. A number that there is nothing to measure by is NaN, which is null in JSON.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of wharf that made the report.
    pub wharf: &'static str,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub kind: &'static str,
    /// The plan's pace in words.
    pub pace: String,
    /// The seed of Poisson arrivals.
    pub seed: Option<u64>,
    /// Clients of a closed loop.
    pub connections: Option<usize>,
    /// The most connections that were allowed.
    pub max_connections: usize,
    /// The time that a request waited for its answer.
    pub timeout_ms: f64,
    /// A request that began later than this after it was due counted as late.
    pub late_after_ms: f64,
    /// The time for which requests were sent.
    pub length_s: f64,
    /// Whether the run was stopped: before the plan's end, or before all answers had come.
    pub stopped: bool,
    /// The number of generator threads.
    pub threads: usize,
    /// Their processor time.
    pub generator_processor_s: f64,
    /// Why the schedule was not held; `None` when it was.
    pub not_held: Option<String>,
    /// All targets together.
    #[serde(flatten)]
    pub all: TargetReport,
    /// Each target, when there are several.
    pub targets: Vec<TargetReport>,
    /// The results of the objectives that [`Report::judge`] was given.
    pub objectives: Vec<Verdict>,
    /// The run, second by second.
    pub seconds: Vec<Second>,
    /// The outcomes with all details, for further evaluation.
    #[serde(skip)]
    pub outcomes: Outcomes,
    /// The time for which requests were sent.
    #[serde(skip)]
    pub length: Duration,
}

/// Counts, rates and times of one target or all.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TargetReport {
    /// The target's name; all names for several targets.
    pub target: String,
    /// Requests that were due.
    pub scheduled: u64,
    /// Requests of which at least one byte was sent.
    pub sent: u64,
    /// Answers with any status.
    pub answered: u64,
    /// Answers with a status below 400.
    pub good: u64,
    /// Answers with the status 503 or 429.
    pub refused: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Requests without an answer because of an error of the connection.
    pub failed: u64,
    /// Requests sent too late.
    pub late: u64,
    /// Requests that were due and not sent at all.
    pub skipped: u64,
    /// Requests that had no answer yet when the run was ended at once. Their outcome is not known.
    pub abandoned: u64,
    /// Requests without a good answer, in percent of those whose outcome is known.
    pub errors_percent: f64,
    /// Due requests a second; `None` in a closed loop.
    pub offered_per_s: Option<f64>,
    /// Requests sent a second, counted up to the end.
    pub sent_per_s: f64,
    /// Answers a second, counted up to the end.
    pub answered_per_s: f64,
    /// Good answers a second, counted up to the end.
    pub good_per_s: f64,
    /// Answers that came after the end. They are in every count and in the times, but in no rate.
    pub answered_after_end: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Failures of connections by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// Times from when the request was due. Refusals are apart. A request that waited for its whole timeout counts with this time,
    /// sent or not. A request without an end has no time here: a failed or an abandoned one.
    pub latency_ms: Percentiles,
    /// Times from when the request was sent.
    pub service_ms: Percentiles,
    /// Times of answers 503 and 429, from when the request was due.
    pub refusal_ms: Percentiles,
    /// The delays between the times when requests were due and when they began; none in a closed loop.
    pub lateness_ms: Percentiles,
    /// The times that new connections took to open, TLS handshakes included.
    pub connect_ms: Percentiles,
    /// The server's own times of its answers; absent when no answer gives them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_timing: Option<Phases>,
}

/// A second of the run.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Second {
    /// Its start.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// Requests that are due in it by the plan; `None` in a closed loop.
    pub offered: Option<f64>,
    /// Requests sent.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// Answers with a status below 400.
    pub good: u64,
    /// Answers with the status 503 or 429.
    pub refused: u64,
    /// Requests that ended without a good answer.
    pub errors: u64,
    /// Requests without an outcome at its end.
    pub in_flight: usize,
    /// The delay, at its end, of the request that was to begin next.
    pub behind_ms: f64,
    /// The median latency of the requests that ended in it.
    pub p50_ms: f64,
    /// The p99 of their latency.
    pub p99_ms: f64,
    /// The server's own mean times of its answers; absent when no answer gives them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_timing: Option<PhaseMeans>,
}

/// The result of an objective.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The objective as it was written.
    pub objective: String,
    /// The measured value; `None` without data to measure it by.
    pub measured: Option<f64>,
    /// The unit of the value: ms, % or /s.
    pub unit: &'static str,
    /// Whether the objective was met.
    pub met: bool,
}

impl Report {
    /// Compares the run with an objective, and returns whether it was met.
    pub fn judge(&mut self, objective: &Objective) -> bool {
        let measured = objective.measured(&self.outcomes, self.length);
        let met = measured.is_some_and(|measured| objective.is_met_by(measured));
        let measured = measured.map(rounded);
        self.objectives.push(Verdict {
            objective: objective.to_string(),
            measured,
            unit: objective.unit(),
            met,
        });
        met
    }

    /// The pace for people. A single thread is not mentioned.
    pub(super) fn pace_and_threads(&self) -> String {
        match self.threads {
            1 => self.pace.clone(),
            threads => format!("{}, {threads} threads", self.pace),
        }
    }
}

/// The sums of a run so far.
pub(super) struct RunSummary<'p> {
    plan: &'p Plan,
    threads: usize,
    max_connections: usize,
    targets: Vec<Outcomes>,
    all: Outcomes,
    /// The last interval, of all targets.
    interval: Outcomes,
    seconds: Vec<Second>,
    processor_time: Duration,
    stopped: Option<Duration>,
}

impl<'p> RunSummary<'p> {
    pub(super) fn new(plan: &'p Plan, threads: usize, max_connections: usize) -> Self {
        let none = Outcomes::new(plan.timeout);
        Self {
            plan,
            threads,
            max_connections,
            targets: vec![none.clone(); plan.targets.len()],
            all: none.clone(),
            interval: none,
            seconds: Vec::new(),
            processor_time: Duration::ZERO,
            stopped: None,
        }
    }

    /// Adds an interval with this many due requests, and returns its outcomes of all targets.
    pub(super) fn add(&mut self, sheet: &IntervalSheet, offered: Option<f64>) -> &Outcomes {
        self.interval.clear();
        for (sum, outcomes) in self.targets.iter_mut().zip(&sheet.outcomes) {
            sum.add(outcomes);
            self.interval.add(outcomes);
        }
        self.all.add(&self.interval);
        self.processor_time = sheet.end.processor_time;
        self.stopped = self.stopped.max(sheet.stopped);
        let interval = &self.interval;
        self.seconds.push(Second {
            from_s: rounded(sheet.from.as_secs_f64()),
            to_s: rounded(sheet.to.as_secs_f64()),
            offered: offered.map(rounded),
            sent: interval.sent,
            answered: interval.answered_in_all(),
            good: interval.good(),
            refused: interval.refused(),
            errors: interval.errors(),
            in_flight: sheet.end.in_flight,
            behind_ms: milliseconds(sheet.end.behind),
            p50_ms: milliseconds_of(&interval.latency, interval.latency.percentile(50.0)),
            p99_ms: milliseconds_of(&interval.latency, interval.latency.percentile(99.0)),
            server_timing: interval.timings().map(PhaseMeans::of),
        });
        &self.interval
    }

    pub(super) fn report(self) -> Report {
        let plan = self.plan;
        let length = self.stopped.unwrap_or(plan.pace.length());
        let (seed, connections) = match &plan.pace {
            Pace::Open { arrivals: Arrivals::Constant, .. } => (None, None),
            Pace::Open { arrivals: Arrivals::Poisson { seed }, .. } => (Some(*seed), None),
            Pace::Closed { connections, .. } => (None, Some(*connections)),
        };
        let is_open = connections.is_none();
        let target = |name: String, outcomes| TargetReport::new(name, outcomes, length, is_open);
        let names: Vec<&str> = plan.targets.iter().map(|target| target.name.as_str()).collect();
        let targets = names.iter().zip(&self.targets).filter(|_| names.len() > 1);
        Report {
            wharf: env!("CARGO_PKG_VERSION"),
            kind: plan.pace.kind(),
            pace: plan.pace.to_string(),
            seed,
            connections,
            max_connections: self.max_connections,
            timeout_ms: milliseconds(plan.timeout),
            late_after_ms: milliseconds(plan.late_after),
            length_s: rounded(length.as_secs_f64()),
            stopped: self.stopped.is_some(),
            threads: self.threads,
            generator_processor_s: rounded(self.processor_time.as_secs_f64()),
            not_held: self.not_held(length),
            targets: targets.map(|(name, outcomes)| target((*name).into(), outcomes)).collect(),
            all: target(names.join(", "), &self.all),
            objectives: Vec::new(),
            seconds: self.seconds,
            outcomes: self.all,
            length,
        }
    }

    /// Why the schedule was not held, and by how much. A closed loop has no schedule.
    fn not_held(&self, length: Duration) -> Option<String> {
        let Pace::Open { .. } = self.plan.pace else { return None };
        let all = &self.all;
        let missed = share(all.late + all.skipped, all.scheduled);
        if missed.is_nan() || missed <= LATE_SHARE {
            return None;
        }
        let late_after_ms = milliseconds(self.plan.late_after);
        let why = if all.without_connection * 2 >= all.late + all.skipped {
            format!("all {} connections were in use (--max-connections)", self.max_connections)
        } else {
            let elapsed = self.seconds.last().map_or(0.0, |second| second.to_s);
            let used = self.processor_time.as_secs_f64() / elapsed.max(f64::MIN_POSITIVE) * 100.0;
            let (threads, have) = match self.threads {
                1 => ("thread".to_owned(), "has"),
                threads => (format!("{threads} threads together"), "have"),
            };
            if used >= BUSY_PERCENT {
                format!(
                    "the generator's {threads} got {used:.0} % of a core, which was too little to keep the rate"
                )
            } else {
                format!("the generator's {threads} {have} used {used:.0} % of a core, and got it too late")
            }
        };
        let [sent, offered] = [all.sent_in_time, all.scheduled].map(|count| a_second(count, length));
        let of_all = |count| share(count, all.scheduled) * 100.0;
        Some(format!(
            "{sent:.1} of {offered:.1} requests a second were sent. {:.1} % were sent more than {late_after_ms} ms after \
             they were due, by up to {:.0} ms; {:.1} % were never sent; {:.0} % are allowed together. The reason: {why}",
            of_all(all.late),
            milliseconds(all.lateness.max()),
            of_all(all.skipped),
            LATE_SHARE * 100.0
        ))
    }
}

impl TargetReport {
    fn new(target: String, outcomes: &Outcomes, length: Duration, is_open: bool) -> Self {
        Self {
            target,
            scheduled: outcomes.scheduled,
            sent: outcomes.sent,
            answered: outcomes.answered_in_all(),
            good: outcomes.good(),
            refused: outcomes.refused(),
            timeouts: outcomes.timeouts,
            failed: outcomes.failed_in_all(),
            late: outcomes.late,
            skipped: outcomes.skipped,
            abandoned: outcomes.abandoned,
            errors_percent: rounded(outcomes.error_share() * 100.0),
            offered_per_s: is_open.then(|| rounded(a_second(outcomes.scheduled, length))),
            sent_per_s: rounded(a_second(outcomes.sent_in_time, length)),
            answered_per_s: rounded(a_second(outcomes.answered_in_time, length)),
            good_per_s: rounded(a_second(outcomes.good_in_time, length)),
            answered_after_end: outcomes.answered_in_all() - outcomes.answered_in_time,
            statuses: outcomes.statuses().into_iter().collect(),
            failures: outcomes.failures().map(|(_, name, count)| (name, count)).collect(),
            latency_ms: Percentiles::of(&outcomes.latency),
            service_ms: Percentiles::of(&outcomes.service),
            refusal_ms: Percentiles::of(&outcomes.refusal),
            lateness_ms: Percentiles::of(&outcomes.lateness),
            connect_ms: Percentiles::of(&outcomes.connect),
            server_timing: outcomes.timings().map(Phases::of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sheets::EndState;
    use super::super::{Rate, Stages, Target, Template};
    use super::*;

    #[test]
    fn a_missed_schedule_names_the_threads_and_their_processor_time() {
        let rate = Rate::new(1000.0).expect("a rate");
        let plan = Plan {
            targets: vec![Target::from_url("http://127.0.0.1/", &Template::default()).expect("a URL")],
            pace: Pace::Open {
                stages: Stages::constant(rate, Duration::from_secs(2)),
                arrivals: Arrivals::Constant,
            },
            timeout: Duration::from_secs(1),
            max_connections: None,
            late_after: Duration::from_millis(10),
            threads: 2,
        };
        let mut sheet = IntervalSheet::new(&plan);
        let outcomes = &mut sheet.outcomes[0];
        (outcomes.scheduled, outcomes.late, outcomes.skipped, outcomes.sent_in_time) = (2000, 100, 40, 1900);
        outcomes.lateness.record(Duration::from_millis(80));
        sheet.to = Duration::from_secs(2);
        sheet.end = EndState { processor_time: Duration::from_secs(3), ..EndState::default() };
        for (threads, words) in
            [(1, "the generator's thread got 150 %"), (2, "the generator's 2 threads together got 150 %")]
        {
            let mut summary = RunSummary::new(&plan, threads, 10);
            summary.add(&sheet, None);
            let report = summary.report();
            assert_eq!((report.threads, report.generator_processor_s), (threads, 3.0));
            let why = report.not_held.unwrap_or_default();
            assert!(
                why.starts_with(
                    "950.0 of 1000.0 requests a second were sent. 5.0 % were sent more than 10 ms"
                ),
                "{why}"
            );
            assert!(why.contains("by up to 80 ms; 2.0 % were never sent"), "{why}");
            assert!(why.contains(&format!("{words} of a core, which was too little")), "{why}");
        }
    }
}
