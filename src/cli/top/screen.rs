//! The lines of the display, made from the figures. No I/O.

use std::collections::BTreeMap;

use super::super::sparkline::sparkline;
use super::text::{Style, StyledLine, cells, clock, count, number, time, time_of_day};
use super::view::{Condition, Endpoint, Failure, Phases, Pool, Queue, Second, Thread, View, Workers};

/// The width of the names at the left.
const MARGIN: usize = 9;

/// The width of a column of numbers in the table of endpoints.
const COLUMN: usize = 10;

/// The width of the last column, such as `render 93 %`.
const MOSTLY: usize = 14;

/// The least width to which names of endpoints are shortened.
const NAME_MIN: usize = 24;

/// A terminal of this height or less has no room for every sentence on several conditions.
const LOW: usize = 40;

/// The lines below the rates, with the first endpoint.
const FIGURES: usize = 14;

/// The most letters of the pool's sessions in its line.
const SESSIONS: usize = 24;

/// The space for the display.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) width: usize,
    /// The number of lines; `None`: no limit.
    pub(super) height: Option<usize>,
}

/// The figures of the server at this address.
pub(super) fn lines(view: &View, address: &str, size: Room) -> Vec<StyledLine> {
    let last = view.seconds.last().copied().unwrap_or_default();
    let mut lines = title(view, address).wrapped(size.width, 2);
    lines.extend(conditions(&view.conditions, size));
    lines.extend(rates(&last).wrapped(size.width, 2));
    lines.push(latencies(&last));
    let room = size.width.saturating_sub(MARGIN + 1);
    let recent = &view.seconds[view.seconds.len().saturating_sub(room)..];
    let good = |second: &Second| second.per_s(second.good);
    // Where conditions take the room, drawings give way to figures.
    let draws = size.height.is_none_or(|height| lines.len() + FIGURES <= height);
    if draws {
        lines.push(named("good/s", Style::Database, sparkline(recent.iter().map(good))));
        let p99 = recent.iter().map(|second| second.p99_ms.unwrap_or(0.0));
        lines.push(named("p99", Style::Warning, sparkline(p99)));
    }
    let [words, bar] = phases(&last.phases_ms, room);
    lines.extend(words.wrapped(size.width, MARGIN));
    lines.extend(draws.then_some(bar));
    lines.push(workers(view, room));
    lines.extend(workers_key(view).wrapped(size.width, MARGIN));
    let pool =
        view.pool.as_ref().map_or_else(|| named("pool", Style::Muted, "no database"), |of| pool(of, room));
    lines.extend(pool.wrapped(size.width, MARGIN));
    lines.extend(queue(&view.queue, room).wrapped(size.width, MARGIN));
    for line in [clients(view), refused(&view.totals.refused), totals(view)] {
        lines.extend(line.wrapped(size.width, MARGIN));
    }
    // Of the remaining lines, the endpoints get two thirds when there are errors to show.
    let left = size.height.map(|height| height.saturating_sub(lines.len() + 2));
    let errors = left.map_or(view.errors.len(), |left| view.errors.len().min(left / 3));
    let endpoints = left.map_or(view.endpoints.len(), |left| left - errors - usize::from(errors > 0));
    lines.push(StyledLine::default());
    lines.extend(table(&view.endpoints, endpoints, size.width));
    if errors > 0 {
        let now = view.started_at_s + view.uptime_s;
        lines.push(StyledLine::of(Style::Strong, "ERRORS, the latest first"));
        lines.extend(view.errors.iter().take(errors).map(|error| failure(error, now)));
    }
    lines
}

/// Why the server is not as it should be, since when, what it does, and what an operator can do. Where the height is limited, only the
/// worst condition has all of this, and the others their cause.
fn conditions(conditions: &[Condition], size: Room) -> Vec<StyledLine> {
    let mut lines = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let (style, sign) =
            if condition.kind == "database_down" { (Style::Bad, "✗") } else { (Style::Warning, "!") };
        let mut head = StyledLine::of(style, format!("{sign} {}", condition.title));
        let until = condition.until_s.map(|until| format!(", until {} at the latest", time_of_day(until)));
        let since = format!("  since {}, for {}", time_of_day(condition.since_s), clock(condition.for_s));
        head.add(Style::Muted, since + &until.unwrap_or_default());
        lines.extend(head.wrapped(size.width, 2));
        let is_full = index == 0 || size.height.is_none_or(|height| height > LOW);
        let facts = [("why", &condition.why), ("now", &condition.now), ("you can", &condition.advice)];
        for (name, text) in facts.into_iter().take(if is_full { 3 } else { 1 }) {
            lines.extend(named(name, Style::Plain, text.as_str()).wrapped(size.width, MARGIN));
        }
    }
    lines
}

fn title(view: &View, address: &str) -> StyledLine {
    let (style, sign, word) = match view.state.as_str() {
        "ready" => (Style::Good, "✓", "ready"),
        "saturated" => (Style::Warning, "!", "saturated"),
        "database_down" => (Style::Bad, "✗", "database down"),
        "draining" => (Style::Warning, "!", "draining"),
        other => (Style::Plain, "?", other),
    };
    let mut line = StyledLine::of(Style::Strong, format!("wharf {}", view.wharf));
    line.add(Style::Plain, format!("  {address}  ")).add(style, format!("{sign} {word}"));
    line.add(Style::Muted, format!("  up {}", clock(view.uptime_s)));
    line
}

fn rates(last: &Second) -> StyledLine {
    let mut line = StyledLine::default();
    for (name, value, style) in [
        ("good", last.good, Style::Strong),
        ("4xx", last.client_errors, Style::Strong),
        ("errors", last.errors, if last.errors > 0.0 { Style::Bad } else { Style::Strong }),
        ("refused", last.refused, if last.refused > 0.0 { Style::Warning } else { Style::Strong }),
        ("left", last.left, Style::Strong),
    ] {
        line.add(Style::Muted, format!("{name} "));
        line.add(style, format!("{}/s", number(last.per_s(value)))).add(Style::Plain, "   ");
    }
    line
}

fn latencies(last: &Second) -> StyledLine {
    let mut line = StyledLine::default();
    for (name, value) in [("p50", last.p50_ms), ("p90", last.p90_ms), ("p99", last.p99_ms)] {
        line.add(Style::Muted, format!("{name} ")).add(Style::Strong, known(value)).add(Style::Plain, "   ");
    }
    line
}

fn name(text: &str) -> StyledLine {
    StyledLine::of(Style::Muted, format!("{text:<MARGIN$}"))
}

fn named(text: &str, style: Style, rest: impl Into<String>) -> StyledLine {
    let mut line = name(text);
    line.add(style, rest);
    line
}

/// The time; a dash if no request was served.
fn known(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), time)
}

/// Each phase's name, its letter in the bar, its style and its time.
fn parts(phases: &Phases) -> [(&'static str, char, Style, f64); 5] {
    [
        ("Queue", 'Q', Style::Queue, phases.queue),
        ("Pool", 'P', Style::Pool, phases.pool),
        ("Db", 'D', Style::Database, phases.database),
        ("Render", 'R', Style::Render, phases.render),
        ("Write", 'W', Style::Muted, phases.write),
    ]
}

/// The times of the phases, in words and as a bar. The first letter of each name is its letter in the bar.
fn phases(phases: &Phases, room: usize) -> [StyledLine; 2] {
    let parts = parts(phases);
    let total: f64 = parts.iter().map(|(.., ms)| ms).sum();
    let (mut words, mut bar) = (name("time"), name(""));
    let mut left = room.min(60);
    let width = left;
    for (name, letter, style, ms) in parts {
        words.add(style, name).add(Style::Plain, format!(" {}  ", time(ms)));
        let wide = cells(ms, total, width).min(left);
        left -= wide;
        bar.add(style, letter.to_string().repeat(wide));
    }
    [words, bar]
}

/// The workers, each as a letter.
fn workers(view: &View, room: usize) -> StyledLine {
    let Workers { count, busy, stuck } = view.workers;
    let mut line = named("workers", Style::Strong, format!("{busy}/{count} busy  "));
    if stuck > 0 {
        line.add(Style::Bad, format!("{stuck} past the deadline  "));
    }
    let room = room.saturating_sub(40).max(30);
    for thread in view.threads.iter().take(room) {
        let (style, letter, _) = WORKERS[kind(thread)];
        line.add(style, letter);
    }
    if view.threads.len() > room {
        line.add(Style::Muted, "…");
    }
    line
}

/// The states of workers, each with its style and letter.
const WORKERS: [(Style, &str, &str); 6] = [
    (Style::Database, "D", "database"),
    (Style::Pool, "P", "pool"),
    (Style::Render, "H", "handler"),
    (Style::Muted, "W", "write"),
    (Style::Bad, "!", "late"),
    (Style::Muted, ".", "idle"),
];

/// The worker's place among [`WORKERS`].
fn kind(thread: &Thread) -> usize {
    match thread.state.as_str() {
        _ if thread.stuck => 4,
        "database" => 0,
        "pool" => 1,
        "write" => 3,
        "idle" => 5,
        _ => 2,
    }
}

/// How many workers have each letter, and what it means.
fn workers_key(view: &View) -> StyledLine {
    let mut line = name("");
    for (index, (style, letter, meaning)) in WORKERS.into_iter().enumerate() {
        let workers = view.threads.iter().filter(|thread| kind(thread) == index).count();
        line.add(style, letter).add(Style::Muted, format!(" {meaning} {workers}  "));
    }
    line
}

/// The pool, with a letter for each session that may be open.
fn pool(pool: &Pool, room: usize) -> StyledLine {
    let Pool { max, active, idle, pending } = *pool;
    let mut line = named("pool", Style::Strong, format!("{active}/{max} lent  "));
    line.add(if pending > 0 { Style::Warning } else { Style::Plain }, format!("{pending} wait  "));
    let mut left = room.saturating_sub(50).clamp(SESSIONS, 100);
    for (style, letter, count) in [
        (Style::Database, "A", active),
        (Style::Good, "I", idle),
        (Style::Muted, "-", max.saturating_sub(active + idle)),
    ] {
        let shown = count.min(left);
        line.add(style, letter.repeat(shown));
        left -= shown;
    }
    if max > room.saturating_sub(50).clamp(SESSIONS, 100) {
        line.add(Style::Muted, "…");
    }
    line.add(Style::Database, "  A").add(Style::Muted, " lent").add(Style::Good, "  I");
    line.add(Style::Muted, " idle  - not open");
    line
}

fn queue(queue: &Queue, room: usize) -> StyledLine {
    let Queue { length, max_length, oldest_ms } = *queue;
    let width = room.saturating_sub(40).clamp(10, 40);
    #[expect(clippy::cast_precision_loss, reason = "a queue is not that long")]
    let full = cells(length as f64, max_length as f64, width);
    let style = if length >= max_length { Style::Bad } else { Style::Queue };
    let mut line = named("queue", Style::Strong, format!("{length}/{max_length} wait  "));
    line.add(Style::Muted, "[").add(style, "#".repeat(full));
    line.add(Style::Muted, format!("{}]", " ".repeat(width - full)));
    if length > 0 {
        line.add(Style::Plain, format!("  the oldest for {}", time(oldest_ms)));
    }
    line
}

fn clients(view: &View) -> StyledLine {
    let mut line = named("clients", Style::Strong, format!("{} open  ", count(view.connections.open as u64)));
    for (state, open) in view.connections.states.iter().filter(|(_, open)| **open > 0) {
        line.add(Style::Plain, format!("{state} {}  ", count(*open as u64)));
    }
    line
}

fn refused(reasons: &BTreeMap<String, u64>) -> StyledLine {
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, refused)| std::cmp::Reverse(**refused));
    let mut line = name("refused");
    if reasons.is_empty() {
        line.add(Style::Muted, "none since the start");
    }
    for (reason, refused) in reasons {
        line.add(Style::Plain, format!("{reason} ")).add(Style::Strong, format!("{}  ", count(*refused)));
    }
    line
}

fn totals(view: &View) -> StyledLine {
    let mut line = name("in all");
    let totals = &view.totals;
    for (name, value) in [
        ("requests", totals.requests),
        ("in flight", totals.in_flight),
        ("clients left", totals.abandoned),
        ("panics", totals.panics),
    ] {
        line.add(Style::Plain, format!("{name} ")).add(Style::Strong, format!("{}  ", count(value)));
    }
    line
}

/// The columns of the table of endpoints, the most important first.
const HEADS: [&str; 7] = ["P99", "SERVED", "MEAN", "P50", "REFUSED", "ERRORS", "4XX"];

/// The slowest endpoints, with as many columns as fit.
fn table(endpoints: &[Endpoint], rows: usize, width: usize) -> Vec<StyledLine> {
    let longest = endpoints.iter().map(|of| name_of(&of.method, &of.route).chars().count() + 1).max();
    let least = longest.unwrap_or_default().clamp(1, NAME_MIN);
    let (columns, mostly) = [(7, MOSTLY), (4, MOSTLY), (4, 0), (3, 0), (2, 0)]
        .into_iter()
        .find(|(columns, mostly)| least + columns * COLUMN + mostly <= width)
        .unwrap_or((1, 0));
    let room = width.saturating_sub(columns * COLUMN + mostly);
    let wide = room.min(longest.unwrap_or_default()).max(NAME_MIN);
    let cell = |text: &str| format!("{text:>COLUMN$}");
    let head: String = HEADS[..columns].iter().map(|head| cell(head)).collect();
    let title = if endpoints.is_empty() { "ENDPOINT: no requests lately" } else { "ENDPOINT" };
    let end = if mostly > 0 { "  MOSTLY" } else { "" };
    let mut lines = vec![StyledLine::of(Style::Strong, format!("{title:<wide$}{head}{end}"))];
    lines.extend(endpoints.iter().take(rows).map(|endpoint| {
        let rate = |per_s| format!("{}/s", number(per_s));
        let numbers = [
            known(endpoint.p99_ms),
            rate(endpoint.per_s),
            known(endpoint.mean_ms),
            known(endpoint.p50_ms),
            rate(endpoint.refused_per_s),
            rate(endpoint.errors_per_s),
            rate(endpoint.client_errors_per_s),
        ];
        let name = shortened(&name_of(&endpoint.method, &endpoint.route), wide - 1);
        let numbers: String = numbers[..columns].iter().map(|number| cell(number)).collect();
        let mut line = StyledLine::of(Style::Plain, format!("{name:<wide$}{numbers}  "));
        if mostly > 0 {
            largest(&endpoint.phases_ms, &mut line);
        }
        line
    }));
    lines
}

/// The phase that takes most of the time.
fn largest(phases: &Phases, line: &mut StyledLine) {
    let parts = parts(phases);
    let total: f64 = parts.iter().map(|(.., ms)| ms).sum();
    let most = parts.into_iter().max_by(|(.., one), (.., other)| one.total_cmp(other));
    if let Some((name, _, style, ms)) = most.filter(|_| total > 0.0) {
        line.add(style, format!("{name} {:.0} %", ms / total * 100.0));
    }
}

fn failure(error: &Failure, now: f64) -> StyledLine {
    let ago = clock((now - error.at_s).max(0.0));
    let mut line = StyledLine::of(Style::Muted, format!("{ago:>12} ago  "));
    line.add(Style::Bad, error.status.to_string())
        .add(Style::Plain, format!(" {:>7}×  ", count(error.count)));
    line.add(Style::Plain, name_of(&error.method, &error.route));
    if let Some(id) = &error.request_id {
        line.add(Style::Muted, format!("  {id}"));
    }
    line
}

fn name_of(method: &str, route: &str) -> String {
    if method.is_empty() { "no endpoint".to_owned() } else { format!("{method} {route}") }
}

/// The text without its middle, because both ends tell something.
fn shortened(text: &str, wide: usize) -> String {
    let length = text.chars().count();
    if length <= wide {
        return text.to_owned();
    }
    let (before, after) = (wide / 2, wide - wide / 2 - 1);
    text.chars().take(before).chain(['…']).chain(text.chars().skip(length - after)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn figures() -> Value {
        let phases = json!({ "queue": 1.0, "pool": 0.5, "database": 8.0, "render": 0.4, "write": 0.1 });
        let second = json!({
            "length_s": 1.0, "good": 1200, "client_errors": 2, "errors": 3, "refused": 40, "left": 1, "p50_ms": 2.0, "p90_ms": 5.0, "p99_ms": 12.5,
            "phases_ms": phases,
        });
        let endpoint = json!({
            "method": "GET", "route": "/airports/{origin}/destinations/{destination}/flights/of/{carrier}", "per_s": 812.4,
            "p50_ms": 2.0, "p99_ms": 12.5, "mean_ms": 3.0, "phases_ms": phases,
        });
        let error = json!({ "at_s": 900.0, "method": "", "route": "unmatched", "status": 503, "count": 1234, "request_id": "4f1f8a6e" });
        let thread = |state: &str, stuck: bool| json!({ "state": state, "stuck": stuck });
        json!({
            "wharf": "0.1.0", "started_at_s": 0.0, "uptime_s": 1000.0, "state": "saturated", "conditions": [condition("saturated", "Too much")],
            "totals": { "requests": 5000, "in_flight": 7, "abandoned": 2, "refused": { "shed": 40, "deadline": 1 }, "panics": 0 },
            "workers": { "count": 4, "busy": 3, "stuck": 1 },
            "threads": [thread("idle", false), thread("database", false), thread("pool", false), thread("database", true)],
            "queue": { "length": 32, "max_length": 64, "oldest_ms": 48.2 },
            "pool": { "max": 4, "active": 2, "idle": 1, "pending": 1 },
            "connections": { "open": 100, "states": { "idle": 90, "queued": 10, "closing": 0 } },
            "seconds": vec![second; 60], "endpoints": vec![endpoint; 30], "errors": vec![error; 20],
        })
    }

    /// Sentences of the length that the server's have, each with a last word that must be seen.
    fn condition(kind: &str, why: &str) -> Value {
        let now = "At most 1024 requests wait. wharf refuses the others at once with 503 and Retry-After";
        let advice = "max_concurrency = 2 for GET /report leaves 2 workers to the others. Workers wait for one of 3 sessions: \
                      wharf tune measures whether a larger database.maximum_pool_size serves more";
        json!({
            "kind": kind, "title": kind.replace('_', " "), "since_s": 940.0, "for_s": 60.0, "until_s": (kind == "draining").then_some(1030.0),
            "why": format!("{why} because."), "now": format!("{now} meanwhile."), "advice": format!("{advice} perhaps."),
        })
    }

    const LONG: &str = "4 of 4 workers are busy and 12 requests wait, the oldest for 1.2 s. GET /report holds 3 of the workers, 75 % \
                        of the work of the last 10 s, mostly waiting for the database";

    fn shown(figures: Value, width: usize, height: Option<usize>) -> Vec<String> {
        let view = serde_json::from_value(figures).expect("all is there");
        let written = lines(&view, "127.0.0.1:8081", Room { width, height }).into_iter().map(|line| {
            let mut text = String::new();
            line.write(width, false, &mut text);
            text
        });
        written.collect()
    }

    #[test]
    fn everything_fits_a_terminal_of_80_by_24() {
        let lines = shown(figures(), 80, Some(24));
        assert_eq!(lines.len(), 24, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        let text = lines.join("\n");
        for part in [
            "wharf 0.1.0  127.0.0.1:8081  ! saturated  up 16 min 40 s",
            "! saturated  since 00:15:40 UTC, for 1 min 0 s",
            "because.",
            "meanwhile.",
            "perhaps.",
            "good 1,200/s   4xx 2.00/s   errors 3.00/s   refused 40.0/s   left 1.00/s",
            "p50 2.00 ms   p90 5.00 ms   p99 12.5 ms",
            "Queue 1.00 ms  Pool 500 µs  Db 8.00 ms  Render 400 µs  Write 100 µs",
            "D database 1  P pool 1  H handler 0  W write 0  ! late 1  . idle 1",
            "QQQQQ",
            "3/4 busy  1 past the deadline  .DP!",
            "2/4 lent  1 wait  AAI-  A lent  I idle  - not open",
            "32/64 wait  [",
            "the oldest for 48.2 ms",
            "100 open  idle 90  queued 10",
            "shed 40  deadline 1",
            "requests 5,000  in flight 7  clients left 2  panics 0",
            "Db 80 %",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    /// In each condition, and in all at once.
    #[test]
    fn every_condition_is_said_to_its_last_word() {
        let kinds = ["draining", "database_down", "saturated", "leak", "reload_refused"];
        for (width, height) in [(80, 24), (200, 50)] {
            for kind in kinds {
                let mut figures = figures();
                figures["conditions"] = json!([condition(kind, LONG)]);
                let lines = shown(figures, width, Some(height));
                assert!(lines.len() <= height, "{lines:#?}");
                let text = lines.join("\n");
                for part in [
                    &kind.replace('_', " "),
                    "because.",
                    "meanwhile.",
                    "perhaps.",
                    "since 00:15:40 UTC",
                    "ENDPOINT",
                    "GET /airport",
                ] {
                    assert!(text.contains(part), "no {part:?} in\n{text}");
                }
                assert_eq!(text.contains("until 00:17:10 UTC at the latest"), kind == "draining", "{text}");
            }
            let mut figures = figures();
            figures["conditions"] = json!(kinds.map(|kind| condition(kind, "It is so")));
            let text = shown(figures, width, Some(height)).join("\n");
            let causes = text.matches("because.").count();
            assert_eq!(causes, kinds.len(), "{text}");
            assert_eq!(
                text.matches("perhaps.").count(),
                if height > LOW { kinds.len() } else { 1 },
                "{text}"
            );
        }
    }

    #[test]
    fn a_narrow_terminal_shows_the_columns_that_matter() {
        for (width, head) in [(50, "P99    SERVED"), (60, "P99    SERVED      MEAN"), (70, "MEAN       P50")]
        {
            let lines = shown(figures(), width, Some(48));
            let title = lines.iter().find(|line| line.starts_with("ENDPOINT")).expect("there is a table");
            assert!(title.ends_with(head), "{title}");
        }
    }

    #[test]
    fn a_small_terminal_shows_what_fits_and_a_file_gets_all() {
        assert!(shown(figures(), 20, Some(5)).iter().all(|line| line.chars().count() <= 20));
        let all = shown(figures(), 100, None);
        assert_eq!(all.iter().filter(|line| line.contains("/airports/")).count(), 30);
        assert_eq!(all.iter().filter(|line| line.contains("no endpoint")).count(), 20);
    }

    #[test]
    fn a_server_without_requests_is_shown_too() {
        let mut figures = figures();
        for name in ["seconds", "endpoints", "errors", "conditions"] {
            figures[name] = json!([]);
        }
        figures["pool"] = Value::Null;
        figures["totals"]["refused"] = json!({});
        let text = shown(figures, 80, Some(24)).join("\n");
        for part in ["p99 -", "no database", "none since the start", "ENDPOINT: no requests lately"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
