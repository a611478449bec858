//! Decides in which conditions the server is, and says in plain words why, since when, what it does about them, and what an operator
//! can do. The dashboard, `wharf top`, `/stats` and the details of `/ready` all show these words.
//!
//! The observer's thread adds a second at a time. Any thread reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::stats::{Condition, ConditionKind, Thread, since_1970};
use crate::database::{LongLoan, Outage};
use crate::telemetry::metrics::Gauges;

/// Requests that wait while every worker is busy mean saturation after so many seconds in a row. A refusal means it at once.
const PRESSED_AFTER: Duration = Duration::from_secs(3);

/// Saturation ends after this many calm seconds in a row, so that a server at its limit does not change its state every second.
const CALM_AFTER: u32 = 5;

/// The number of samples of the workers' requests that are kept, one a second.
const SAMPLES: usize = 10;

/// An endpoint that holds this part of the workers' time is named as the cause of saturation, and is one to limit.
const MOST: f64 = 0.5;

/// The most loans or endpoints that one sentence names.
const NAMED: usize = 3;

/// The most characters that are kept of the reason why a reload was refused.
const REASON_MAX: usize = 600;

/// The state that conditions are decided from, beside the figures of the moment.
#[derive(Debug, Default)]
pub(super) struct Conditions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when the server stops, and until when it waits for requests.
    draining: Option<(Instant, Instant)>,
    refused_reload: Option<RefusedReload>,
    saturation: Saturation,
    /// In each of the last seconds, the endpoint and the activity of every busy worker.
    samples: VecDeque<Vec<Held>>,
}

#[derive(Debug)]
struct RefusedReload {
    at: Instant,
    reason: String,
}

/// A busy worker's request: its endpoint, and the worker's state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    endpoint: String,
    state: &'static str,
}

/// The figures of the moment.
pub(super) struct Moment<'a> {
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
    pub(super) gauges: &'a Gauges,
    pub(super) threads: &'a [Thread],
    /// Requests read and not answered.
    pub(super) in_flight: u64,
    /// The number of endpoints. To limit the only one helps nobody.
    pub(super) endpoints: usize,
    pub(super) outage: Option<Outage>,
    pub(super) long_loans: (Vec<LongLoan>, Duration),
}

/// Whether requests wait for workers that are all busy.
pub(super) fn is_pressed(gauges: &Gauges) -> bool {
    let (workers, queue) = (&gauges.workers, &gauges.queue);
    queue.length > 0 && workers.busy >= workers.count.min(workers.busy_max)
}

fn is_full(gauges: &Gauges) -> bool {
    gauges.queue.length >= gauges.queue.max_length
}

#[derive(Debug, Default)]
struct Saturation {
    /// Since when the server is saturated.
    since: Option<Instant>,
    /// Since when every second was pressed.
    pressed_since: Option<Instant>,
    /// How many calm seconds there were in a row.
    calm: u32,
}

impl Saturation {
    /// Adds a second. `refuses`: the queue is full, or requests were refused because of load.
    fn add(&mut self, is_pressed: bool, refuses: bool, now: Instant) {
        if !is_pressed && !refuses {
            self.pressed_since = None;
            self.calm += 1;
            if self.calm >= CALM_AFTER {
                self.since = None;
            }
            return;
        }
        self.calm = 0;
        let since = *self.pressed_since.get_or_insert(now);
        if self.since.is_none() && (refuses || now.saturating_duration_since(since) >= PRESSED_AFTER) {
            self.since = Some(since);
        }
    }
}

impl Conditions {
    /// Notes that the server stops, and waits for its requests until this time.
    pub(super) fn drain(&self, until: Instant) {
        self.lock().draining = Some((Instant::now(), until));
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().draining.is_some()
    }

    /// Notes why a reload was refused, or that one succeeded.
    pub(super) fn reloaded(&self, refused: Option<String>) {
        let refused = refused.map(|reason| RefusedReload { at: Instant::now(), reason: shortened(&reason) });
        self.lock().refused_reload = refused;
    }

    /// Adds a second. `has_shed`: requests of it were refused because of load.
    pub(super) fn add(&self, gauges: &Gauges, has_shed: bool, threads: &[Thread], now: Instant) {
        let mut state = self.lock();
        state.saturation.add(is_pressed(gauges), has_shed || is_full(gauges), now);
        if state.samples.len() == SAMPLES {
            state.samples.pop_front();
        }
        state.samples.push_back(held(threads));
    }

    /// All conditions of the moment, the worst first.
    pub(super) fn all(&self, moment: &Moment<'_>) -> Vec<Condition> {
        let state = self.lock();
        let found = [
            state.draining.map(|(since, until)| draining(moment, since, until)),
            moment.outage.as_ref().map(|outage| database_down(moment, outage)),
            state.saturated_since(moment).map(|since| saturated(moment, since, &state.samples)),
            leak(moment),
            state.refused_reload.as_ref().map(|refused| reload_refused(moment, refused)),
        ];
        found.into_iter().flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A queue that has just become full counts at once.
    fn saturated_since(&self, moment: &Moment<'_>) -> Option<Instant> {
        self.saturation.since.or_else(|| is_full(moment.gauges).then_some(moment.now))
    }
}

impl Moment<'_> {
    /// A condition since then. Its sentences come from the caller.
    fn condition(&self, kind: ConditionKind, title: &'static str, since: Instant) -> Condition {
        let lasted = self.now.saturating_duration_since(since);
        Condition {
            kind,
            title,
            since_s: self.at(since),
            for_s: super::stats::rounded(lasted.as_secs_f64()),
            until_s: None,
            why: String::new(),
            now: String::new(),
            advice: String::new(),
        }
    }

    /// The time in seconds since 1970.
    fn at(&self, time: Instant) -> f64 {
        let wall = match time.checked_duration_since(self.now) {
            Some(later) => self.wall + later,
            None => self.wall - self.now.saturating_duration_since(time),
        };
        since_1970(wall)
    }
}

fn draining(moment: &Moment<'_>, since: Instant, until: Instant) -> Condition {
    let left = match moment.in_flight {
        0 => "No request is left.".to_owned(),
        1 => format!("1 request is left{}.", of_endpoints(moment.threads)),
        many => format!("{many} requests are left{}.", of_endpoints(moment.threads)),
    };
    Condition {
        until_s: Some(moment.at(until)),
        why: "The server was told to stop.".to_owned(),
        now: format!("{left} It takes no new connection, and cuts off what is not answered in time."),
        advice: "Nothing is to be done. A second signal stops it at once; server.drain_timeout is the time that it waits."
            .to_owned(),
        ..moment.condition(ConditionKind::Draining, "draining", since)
    }
}

fn database_down(moment: &Moment<'_>, outage: &Outage) -> Condition {
    let next = outage.next_try.saturating_duration_since(moment.now);
    let next =
        if next.is_zero() { "one runs now".to_owned() } else { format!("the next in {}", spoken(next)) };
    let tries =
        if outage.failures == 1 { "1 try has".to_owned() } else { format!("{} tries have", outage.failures) };
    let pause = spoken(outage.pause_max);
    Condition {
        why: sentence(&outage.reason),
        now: format!(
            "A session is tried at least every {pause}: {tries} failed, {next}. Requests for the database are refused at once with 503."
        ),
        advice: "Look whether the database runs, and whether database.url is right. wharf goes on by itself when a session opens."
            .to_owned(),
        ..moment.condition(ConditionKind::DatabaseDown, "database down", outage.since)
    }
}

fn saturated(moment: &Moment<'_>, since: Instant, samples: &VecDeque<Vec<Held>>) -> Condition {
    let (workers, queue) = (&moment.gauges.workers, &moment.gauges.queue);
    let most = Most::of(samples, moment.threads);
    let oldest =
        if queue.length == 0 { String::new() } else { format!(", the oldest for {}", spoken(queue.oldest)) };
    let waits = if queue.length == 1 { "request waits" } else { "requests wait" };
    let held = most.as_ref().map_or_else(String::new, |most| {
        format!(
            " {} holds {} of the workers, {:.0} % of the work of the last {SAMPLES} s, mostly {}.",
            most.endpoint,
            most.workers,
            most.share * 100.0,
            doing(most.state)
        )
    });
    let why = format!(
        "{} of {} workers are busy and {} {waits}{oldest}.{held}",
        workers.busy, workers.count, queue.length
    );
    let paced = workers.busy_max < workers.max;
    let can_limit = workers.count > 1 && moment.endpoints > 1;
    let limited = most.as_ref().filter(|most| can_limit && most.share >= MOST).map(|most| {
        let half = (workers.count / 2).max(1);
        format!(
            "max_concurrency = {half} for {} leaves {} workers to the others. ",
            most.endpoint,
            workers.count - half
        )
    });
    let sizes = match most.as_ref().map(|most| most.state) {
        _ if paced => "The cores are busy, so more workers would do no more.".to_owned(),
        Some("pool") => format!(
            "Workers wait for one of {} sessions: wharf tune measures whether a larger database.maximum_pool_size serves more.",
            moment.gauges.pool.map_or(0, |pool| pool.max)
        ),
        _ => "wharf tune measures how many workers and sessions serve the most.".to_owned(),
    };
    Condition {
        why,
        now: format!(
            "At most {} requests wait. wharf refuses the others at once with 503 and Retry-After.",
            queue.max_length
        ),
        advice: limited.unwrap_or_default() + &sizes,
        ..moment.condition(ConditionKind::Saturated, "saturated", since)
    }
}

fn leak(moment: &Moment<'_>) -> Option<Condition> {
    let (loans, threshold) = &moment.long_loans;
    let first = loans.first()?;
    let each = loans.iter().take(NAMED).map(|loan| {
        let held = spoken(moment.now.saturating_duration_since(loan.since));
        let thread = moment.threads.iter().find(|thread| thread.name == loan.thread);
        let work = thread.and_then(|thread| Some((name(thread)?, doing(thread.state))));
        let work =
            work.map_or_else(String::new, |(endpoint, does)| format!(" for {endpoint}, and is {does}"));
        format!("{} has had a database session for {held}{work}.", loan.thread)
    });
    let others = match loans.len().saturating_sub(NAMED) {
        0 => String::new(),
        others => format!(" So have {others} others."),
    };
    let why = each.collect::<Vec<_>>().join(" ") + &others;
    let pool = moment.gauges.pool.unwrap_or_default();
    Some(Condition {
        why,
        now: format!(
            "{} of {} sessions are lent. A session comes back when its handler ends.",
            pool.active, pool.max
        ),
        advice: format!(
            "Look at what the handler does while it has the session. database.leak_detection_threshold is {}.",
            spoken(*threshold)
        ),
        ..moment.condition(ConditionKind::Leak, "session held too long", first.since)
    })
}

fn reload_refused(moment: &Moment<'_>, refused: &RefusedReload) -> Condition {
    Condition {
        why: sentence(&refused.reason),
        now: "The configuration from before goes on. Nothing has changed.".to_owned(),
        advice: "Correct the file, check it with wharf check, and reload again.".to_owned(),
        ..moment.condition(ConditionKind::ReloadRefused, "reload refused", refused.at)
    }
}

/// The endpoint that holds the most of the workers' time.
struct Most {
    endpoint: String,
    /// How many workers have its requests now.
    workers: usize,
    /// Its part of the busy workers' time.
    share: f64,
    /// The most frequent state of its workers.
    state: &'static str,
}

impl Most {
    fn of(samples: &VecDeque<Vec<Held>>, threads: &[Thread]) -> Option<Self> {
        let now = held(threads);
        let mut endpoints = BTreeMap::<&str, BTreeMap<&'static str, u32>>::new();
        for Held { endpoint, state } in samples.iter().flatten().chain(&now) {
            *endpoints.entry(endpoint).or_default().entry(state).or_default() += 1;
        }
        let sum = |states: &BTreeMap<&'static str, u32>| states.values().sum::<u32>();
        let all: u32 = endpoints.values().map(sum).sum();
        let (endpoint, states) = endpoints.iter().max_by_key(|(_, states)| sum(states))?;
        let (state, _) = states.iter().max_by_key(|(_, count)| **count)?;
        Some(Self {
            endpoint: (*endpoint).to_owned(),
            workers: now.iter().filter(|held| held.endpoint == *endpoint).count(),
            share: f64::from(sum(states)) / f64::from(all),
            state,
        })
    }
}

fn held(threads: &[Thread]) -> Vec<Held> {
    threads.iter().filter_map(|thread| Some(Held { endpoint: name(thread)?, state: thread.state })).collect()
}

/// The endpoint whose request the worker has.
fn name(thread: &Thread) -> Option<String> {
    Some(format!("{} {}", thread.method.as_ref()?, thread.route.as_ref()?))
}

/// For example `: GET /a 2, GET /b 1`.
fn of_endpoints(threads: &[Thread]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    threads.iter().filter_map(name).for_each(|endpoint| *counts.entry(endpoint).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let each: Vec<_> =
        counts.iter().take(NAMED).map(|(endpoint, count)| format!("{endpoint} {count}")).collect();
    if each.is_empty() { String::new() } else { format!(": {}", each.join(", ")) }
}

/// The work of a worker in this state, in words.
fn doing(state: &str) -> &'static str {
    match state {
        "database" => "waiting for the database",
        "pool" => "waiting for a session",
        "write" => "writing its answer",
        _ => "running its handler",
    }
}

/// A length of time with about two digits.
fn spoken(time: Duration) -> String {
    match time.as_secs_f64() {
        ..0.001 => "under 1 ms".to_owned(),
        seconds @ ..1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds @ ..10.0 => format!("{seconds:.1} s"),
        seconds @ ..120.0 => format!("{seconds:.0} s"),
        seconds @ ..7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3600.0),
    }
}

/// The text as a sentence: with a capital at its beginning, unless that is a name such as a file's, and a point at its end.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let first_word = text.split_whitespace().next().unwrap_or_default();
    let is_word = first_word.chars().all(char::is_alphabetic);
    let mut letters = text.chars();
    let first = letters.next().map(|first| if is_word { first.to_ascii_uppercase() } else { first });
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{}{}{end}", first.map_or_else(String::new, String::from), letters.as_str())
}

/// The text in one line, and not too long.
fn shortened(text: &str) -> String {
    // The count of a list of problems says nothing more about a single one.
    let says_something = |line: &&str| !line.is_empty() && *line != "1 problem";
    let lines: Vec<_> = text.lines().map(str::trim).filter(says_something).collect();
    let line = lines.join("; ");
    if line.chars().count() <= REASON_MAX {
        return line;
    }
    line.chars().take(REASON_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::ConditionKind::{DatabaseDown, Draining, Leak, ReloadRefused};
    use super::*;
    use crate::telemetry::metrics::{PoolGauges, QueueGauges, WorkerGauges};

    fn gauges(busy: usize, queued: usize) -> Gauges {
        Gauges {
            started: SystemTime::now(),
            workers: WorkerGauges { max: 4, count: 4, busy, busy_max: 4, idle: 4 - busy, stuck: 0 },
            queue: QueueGauges { length: queued, max_length: 9, oldest: Duration::from_millis(1_240) },
            pool: Some(PoolGauges { max: 3, active: 3, ..PoolGauges::default() }),
        }
    }

    fn worker(number: usize, route: &str, state: &'static str) -> Thread {
        Thread {
            name: format!("worker-{number}"),
            state,
            for_ms: 1.0,
            method: Some("GET".to_owned()),
            route: Some(route.to_owned()),
            request_ms: Some(1.0),
            stuck: false,
        }
    }

    fn moment<'a>(now: Instant, gauges: &'a Gauges, threads: &'a [Thread]) -> Moment<'a> {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let long_loans = (Vec::new(), Duration::ZERO);
        Moment { now, wall, gauges, threads, in_flight: 3, endpoints: 2, outage: None, long_loans }
    }

    #[test]
    fn saturation_begins_at_a_refusal_or_with_a_wait_that_lasts_and_ends_with_calm() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut saturation = Saturation::default();
        for second in 0..3 {
            saturation.add(true, false, at(second));
            assert_eq!(saturation.since, None, "{second}");
        }
        saturation.add(true, false, at(3));
        assert_eq!(saturation.since, Some(start), "since the first of these seconds");
        for second in 4..8 {
            saturation.add(false, false, at(second));
            assert_eq!(saturation.since, Some(start), "{second}");
        }
        saturation.add(false, false, at(8));
        assert_eq!(saturation.since, None);
        saturation.add(false, true, at(9));
        assert_eq!(saturation.since, Some(at(9)));
    }

    #[test]
    fn saturation_names_the_endpoint_that_holds_the_workers() {
        let (conditions, now) = (Conditions::default(), Instant::now());
        let threads = [0, 1, 2]
            .map(|number| worker(number, "/report", "database"))
            .into_iter()
            .chain([worker(3, "/quick", "handler")]);
        let (threads, gauges) = (threads.collect::<Vec<_>>(), gauges(4, 2));
        conditions.add(&gauges, true, &threads, now);
        let found = conditions.all(&moment(now + Duration::from_secs(2), &gauges, &threads));
        let [condition] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (condition.kind, condition.since_s, condition.for_s),
            (ConditionKind::Saturated, 998.0, 2.0)
        );
        assert_eq!(
            condition.why,
            "4 of 4 workers are busy and 2 requests wait, the oldest for 1.2 s. GET /report holds 3 of the workers, 75 % of the work \
             of the last 10 s, mostly waiting for the database."
        );
        assert!(
            condition.advice.starts_with("max_concurrency = 2 for GET /report leaves 2 workers"),
            "{condition:?}"
        );
        assert!(condition.advice.contains("wharf tune"), "{condition:?}");
        let alone = Moment { endpoints: 1, ..moment(now, &gauges, &threads) };
        assert!(
            conditions.all(&alone)[0].advice.starts_with("wharf tune"),
            "to limit the only endpoint helps nobody"
        );
    }

    #[test]
    fn every_condition_says_why_what_now_and_what_can_be_done() {
        let (conditions, now, gauges) = (Conditions::default(), Instant::now(), gauges(1, 0));
        let threads = [worker(0, "/held", "handler")];
        conditions.drain(now + Duration::from_secs(30));
        conditions.reloaded(Some("wharf.toml:3: no such key\n\n  speling\n\n1 problem".to_owned()));
        let failed = now.checked_sub(Duration::from_secs(60)).expect("the machine runs for longer");
        let mut moment = moment(now, &gauges, &threads);
        moment.outage = Some(Outage {
            reason: "cannot open a session: connection refused".to_owned(),
            since: failed,
            failures: 37,
            next_try: now + Duration::from_millis(120),
            pause_max: Duration::from_millis(400),
        });
        moment.long_loans =
            (vec![LongLoan { thread: "worker-0".to_owned(), since: failed }], Duration::from_secs(2));
        let found = conditions.all(&moment);
        let kinds: Vec<_> = found.iter().map(|condition| condition.kind).collect();
        assert_eq!(kinds, [Draining, DatabaseDown, Leak, ReloadRefused]);
        assert_eq!((found[0].until_s, found[1].since_s), (Some(1030.0), 940.0));
        for (at, parts) in [
            (0, ["told to stop", "3 requests are left: GET /held 1"]),
            (
                1,
                [
                    "Cannot open a session: connection refused.",
                    "every 400 ms: 37 tries have failed, the next in 120 ms",
                ],
            ),
            (
                2,
                [
                    "worker-0 has had a database session for 60 s for GET /held, and is running its handler.",
                    "3 of 3 sessions",
                ],
            ),
            (3, ["wharf.toml:3: no such key; speling.", "from before goes on"]),
        ] {
            let all = format!("{} {} {}", found[at].why, found[at].now, found[at].advice);
            for part in parts {
                assert!(all.contains(part), "no {part:?} in {all}");
            }
            assert!(!found[at].advice.is_empty());
        }
        conditions.reloaded(None);
        assert!(conditions.all(&moment).iter().all(|condition| condition.kind != ReloadRefused));
    }
}
