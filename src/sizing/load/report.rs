//! What a run has shown: as values, as JSON and as a table.
//!
//! The thread that calls `run`. JSON has units last in its names; times are milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::numbers::{a_second, milliseconds, rounded, share};
use super::outcomes::Outcomes;
use super::percentiles::{Percentiles, PhaseMeans, Phases};
use super::sheets::Sheet;
use super::{Arrivals, Objective, Pace, Plan};

/// Of the requests, so many may be late or skipped; with more of them the run did not measure what it was to measure.
pub const LATE_SHARE: f64 = 0.01;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version that made it.
    pub wharf: &'static str,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub kind: &'static str,
    /// The plan's pace in words.
    pub pace: String,
    /// Of Poisson arrivals.
    pub seed: Option<u64>,
    /// Clients of a closed loop.
    pub connections: Option<usize>,
    /// The most connections that there could be.
    pub max_connections: usize,
    /// How long a request waited for its answer.
    pub timeout_ms: f64,
    /// A request that was begun so much later than due was late.
    pub late_after_ms: f64,
    /// For how long requests were sent.
    pub length_s: f64,
    /// Whether it was stopped before the plan's end.
    pub stopped: bool,
    /// The generator's threads.
    pub threads: usize,
    /// Their processor time.
    pub generator_processor_s: f64,
    /// Why it did not measure what it was to measure; `None`: it did.
    pub not_held: Option<String>,
    /// All targets together.
    #[serde(flatten)]
    pub all: TargetReport,
    /// Each target, when there are several.
    pub targets: Vec<TargetReport>,
    /// The objectives that [`Report::judge`] was given.
    pub objectives: Vec<Verdict>,
    /// The run, second by second.
    pub seconds: Vec<Second>,
    /// The same with every detail, for further evaluation.
    #[serde(skip)]
    pub outcomes: Outcomes,
    /// How long requests were sent.
    #[serde(skip)]
    pub length: Duration,
}

/// Counts, rates and times of one target or all.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TargetReport {
    /// Its name; of several, all names.
    pub target: String,
    /// Requests that were due.
    pub scheduled: u64,
    /// Requests of which something was sent.
    pub sent: u64,
    /// Answers of whatever status.
    pub answered: u64,
    /// Answers with a status below 400.
    pub good: u64,
    /// Answers with the status 503.
    pub refused: u64,
    /// No answer in time.
    pub timeouts: u64,
    /// No answer, by a fault of the connection.
    pub failed: u64,
    /// Sent too late.
    pub late: u64,
    /// Not sent at all.
    pub skipped: u64,
    /// All without a good answer, in percent of those that were due.
    pub errors_percent: f64,
    /// Requests due a second; in a closed loop as many as were sent.
    pub offered_per_s: f64,
    /// Requests sent a second.
    pub sent_per_s: f64,
    /// Answers a second, of those that came before the end.
    pub answered_per_s: f64,
    /// Good answers a second, of those that came before the end.
    pub good_per_s: f64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults of connections by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// From when the request was due. Refusals are apart; timeouts and skipped requests count as the time that they waited.
    pub latency_ms: Percentiles,
    /// From when it was sent.
    pub service_ms: Percentiles,
    /// Of 503, from when it was due.
    pub refusal_ms: Percentiles,
    /// How late requests were sent.
    pub lateness_ms: Percentiles,
    /// Where the server says that the time of its answers went; absent when none of them has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_timing: Option<Phases>,
}

/// A second of the run.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Second {
    /// Its begin.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// Requests that the plan has due in it; none in a closed loop.
    pub offered: Option<f64>,
    /// Requests sent.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// Answers with a status below 400.
    pub good: u64,
    /// Answers with the status 503.
    pub refused: u64,
    /// Requests that ended without a good answer.
    pub errors: u64,
    /// Requests on their way at its end.
    pub in_flight: usize,
    /// Latency of what ended in it.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Where the time of its answers went on average; absent when none of them has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_timing: Option<PhaseMeans>,
}

/// Whether an objective was met.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// As it was written.
    pub objective: String,
    /// What was measured; none when there was nothing to measure it by.
    pub measured: Option<f64>,
    /// Of what was measured: ms, % or /s.
    pub unit: &'static str,
    /// Whether it was.
    pub met: bool,
}

impl Report {
    /// Holds the run to an objective; whether it was met.
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

    /// For people, to whom one thread is nothing to speak of.
    pub(super) fn pace_and_threads(&self) -> String {
        match self.threads {
            1 => self.pace.clone(),
            threads => format!("{}, {threads} threads", self.pace),
        }
    }
}

/// What is known of a run so far.
pub(super) struct Summary<'p> {
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

impl<'p> Summary<'p> {
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

    /// Adds an interval, in which the plan has so many requests due; its outcomes of all targets.
    pub(super) fn add(&mut self, sheet: &Sheet, offered: Option<f64>) -> &Outcomes {
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
            p50_ms: milliseconds(interval.latency.percentile(50.0)),
            p99_ms: milliseconds(interval.latency.percentile(99.0)),
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
            not_held: self.not_held(),
            targets: targets
                .map(|(name, outcomes)| TargetReport::new((*name).into(), outcomes, length))
                .collect(),
            all: TargetReport::new(names.join(", "), &self.all, length),
            objectives: Vec::new(),
            seconds: self.seconds,
            outcomes: self.all,
            length,
        }
    }

    /// Why the schedule was not held. A closed loop has none.
    fn not_held(&self) -> Option<String> {
        let Pace::Open { .. } = self.plan.pace else { return None };
        let all = &self.all;
        let share = share(all.late + all.skipped, all.scheduled);
        if share <= LATE_SHARE {
            return None;
        }
        let late_after_ms = milliseconds(self.plan.late_after);
        let why = if all.without_connection * 2 >= all.late + all.skipped {
            format!("all {} connections were in use (--max-connections)", self.max_connections)
        } else {
            let elapsed = self.seconds.last().map_or(0.0, |second| second.to_s);
            let used = self.processor_time.as_secs_f64() / elapsed.max(f64::MIN_POSITIVE) * 100.0;
            let had = match self.threads {
                1 => "thread had".to_owned(),
                threads => format!("{threads} threads together had"),
            };
            format!("the generator's {had} {used:.0} % of a processor, which was too little or too rarely")
        };
        Some(format!(
            "{:.1} % of the requests were sent more than {late_after_ms} ms after they were due, or not at all, \
             where {:.0} % may be: {why}",
            share * 100.0,
            LATE_SHARE * 100.0
        ))
    }
}

impl TargetReport {
    fn new(target: String, outcomes: &Outcomes, length: Duration) -> Self {
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
            errors_percent: rounded(outcomes.error_share() * 100.0),
            offered_per_s: rounded(a_second(outcomes.scheduled, length)),
            sent_per_s: rounded(a_second(outcomes.sent, length)),
            answered_per_s: rounded(a_second(outcomes.answered_in_time, length)),
            good_per_s: rounded(a_second(outcomes.good_in_time, length)),
            statuses: outcomes.statuses().into_iter().collect(),
            failures: outcomes.failures().map(|(_, name, count)| (name, count)).collect(),
            latency_ms: Percentiles::of(&outcomes.latency),
            service_ms: Percentiles::of(&outcomes.service),
            refusal_ms: Percentiles::of(&outcomes.refusal),
            lateness_ms: Percentiles::of(&outcomes.lateness),
            server_timing: outcomes.timings().map(Phases::of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sheets::End;
    use super::super::{Rate, Stages, Target, Template};
    use super::*;

    #[test]
    fn a_schedule_that_was_not_held_names_all_threads_and_what_they_had() {
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
        let mut sheet = Sheet::new(&plan);
        (sheet.outcomes[0].scheduled, sheet.outcomes[0].late) = (2000, 100);
        sheet.to = Duration::from_secs(2);
        sheet.end = End { processor_time: Duration::from_secs(3), ..End::default() };
        for (threads, words) in
            [(1, "the generator's thread had 150 %"), (2, "the generator's 2 threads together had 150 %")]
        {
            let mut summary = Summary::new(&plan, threads, 10);
            summary.add(&sheet, None);
            let report = summary.report();
            assert_eq!((report.threads, report.generator_processor_s), (threads, 3.0));
            let why = report.not_held.unwrap_or_default();
            assert!(why.starts_with("5.0 % of the requests were sent more than 10 ms"), "{why}");
            assert!(why.contains(&format!("{words} of a processor, which was too little")), "{why}");
        }
    }
}
