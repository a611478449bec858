//! Measures a server at several times its capacity. An open loop asks for an endpoint of 20 ms database time with a
//! pool of 4 connections, so the capacity is about 200 requests a second. Prints Markdown; `benches/results/` and
//! `docs/overload.svg` keep a run.
//!
//! ```text
//! cargo bench --bench overload                                # wharf with its defaults: two minutes
//! cargo bench --bench overload -- --unlimited --server 'axum=PORT=$PORT peer-axum' --record
//! cargo bench --bench overload -- mixed                       # a slow endpoint flooded beside a fast one
//! cargo bench --bench overload -- soak 15m                    # something breaks every 20 s
//! cargo bench --bench overload -- --quick                     # a second each, as `cargo test --bench '*'` runs it
//! ```
//!
//! Requests are due at even distances, whatever the outcome of earlier requests. Each client leaves after a second. Times
//! count from the moment when a request was due. "Good" counts the requests due in the window that had a 2xx answer within
//! that second, divided by the window. A server is a process of its own; PostgreSQL and the clients share the machine with
//! it. `--server NAME=COMMAND` starts any other server with PORT, DB_POOL and the PG variables in its environment; it must
//! serve `/slow`.

mod accounting;
mod generator;
mod mixed;
mod outcomes;
mod servers;
#[path = "../shared/mod.rs"]
mod shared;
mod soak;
#[path = "../../tests/support/mod.rs"]
mod support;
mod watch;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::accounting::Accounting;
use self::generator::Load;
use self::outcomes::Outcomes;
use self::servers::{Kind, PATH, POOL, Server};
use self::shared::client::{get, raise_descriptors};
use self::shared::machine;
use self::shared::numbers::{mebibytes, milliseconds, percentile};
use self::shared::plot::{Curve, Panel, Plot, Scale};
use self::shared::report::{self, Report};
use self::support::Postgres;
use self::watch::Watched;

/// The capacity of 4 connections at 20 ms each, in requests a second.
const NOMINAL: f64 = 200.0;

/// The offered rates, as multiples of the capacity.
const LEVELS: [u32; 5] = [1, 2, 5, 10, 50];

/// The rates of a quick run: within the capacity, and far beyond it.
const FEW_LEVELS: [u32; 2] = [1, 10];

/// The duration of the load right after a level, at half of the capacity.
const AFTER: Duration = Duration::from_secs(2);

struct Options {
    kinds: Vec<Kind>,
    length: Duration,
    record: bool,
    part: Part,
    /// Few levels, a second each; its times say nothing and are not judged.
    quick: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Levels,
    Mixed,
    Soak(Duration),
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse()?;
    raise_descriptors()?;
    let postgres = Postgres::start();
    let mut report = Report::default();
    report.line(&format!("# Overload, {}, {}\n", machine::date(), machine::name()));
    let part = match options.part {
        Part::Levels => levels(&options, &postgres, &mut report).map(|()| "overload"),
        Part::Mixed => mixed::run(&postgres, options.length, &mut report).map(|()| "mixed"),
        Part::Soak(length) => soak::run(&postgres, length, &mut report).map(|()| "soak"),
    }?;
    let holds = report.verdict();
    if options.record {
        report.keep(&format!("{}-{part}.md", machine::date()))?;
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    fn parse() -> anyhow::Result<Self> {
        let mut options = Self {
            kinds: vec![Kind::Wharf],
            length: Duration::from_secs(10),
            record: false,
            part: Part::Levels,
            quick: false,
        };
        let mut arguments = std::env::args().skip(1);
        // `cargo bench` passes `--bench`, and `cargo test` does not.
        options.quick = !std::env::args().any(|argument| argument == "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} takes a value"));
            match argument.as_str() {
                "--unlimited" => options.kinds.push(Kind::Unlimited),
                "--server" => options.kinds.push(Kind::parse(&value()?)?),
                "--seconds" => options.length = Duration::from_secs(value()?.parse()?),
                "--quick" => options.quick = true,
                "--record" => options.record = true,
                "mixed" => options.part = Part::Mixed,
                "soak" => options.part = Part::Soak(minutes_or_seconds(&value()?)?),
                "--bench" => {}
                other => anyhow::bail!(
                    "{other}: expected mixed, soak, --unlimited, --server, --seconds, --quick or --record"
                ),
            }
        }
        if options.quick {
            options.length = Duration::from_secs(1);
        }
        Ok(options)
    }
}

/// `15m` or `60s`.
fn minutes_or_seconds(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').context("soak takes a time such as 15m or 60s")?, 1),
    };
    Ok(Duration::from_secs(number.parse::<u64>()? * unit))
}

fn levels(options: &Options, postgres: &Postgres, report: &mut Report) -> anyhow::Result<()> {
    let capacity = capacity(postgres, options.length.min(Duration::from_secs(5)))?;
    report.line(&format!(
        "The database alone, {POOL} sessions one query after the other: {capacity:.1} queries a second.\n"
    ));
    let mut curves = Vec::new();
    for kind in &options.kinds {
        report.part(kind.name(), "Times in ms, memory in MiB; right after: half of the capacity for 2 s.");
        report.columns(&[
            "offered",
            "good/s",
            "p50",
            "p99",
            "refused",
            "p99",
            "left",
            "rest",
            "sent late",
            "CPU µs",
            "memory",
            "descriptors",
            "threads",
            "right after",
            "p99",
        ]);
        let mut curve = Curve { name: kind.name().to_owned(), points: Vec::new() };
        let mut server = kind.start(postgres)?;
        let mut sent = 0;
        for &times in if options.quick { &FEW_LEVELS[..] } else { &LEVELS } {
            if !matches!(kind, Kind::Wharf) && times != LEVELS[0] {
                server.stop()?;
                server = kind.start(postgres)?;
            }
            let rate = NOMINAL * f64::from(times);
            let measured = level(&server, rate, options.length, report)?;
            if matches!(kind, Kind::Wharf) && !options.quick {
                claims(report, times, capacity, &measured);
            }
            sent += measured.sent;
            curve.points.push((f64::from(times), measured.good));
        }
        let log = server.stop()?;
        if matches!(kind, Kind::Wharf) {
            let accounting = Accounting::of_log(&log)?;
            report.line(&format!("\n{}\n", accounting.describe(sent)));
            let measured = format!("{} sent, {} accounted for", sent, accounting.total());
            report.claim("every request has one end", &measured, accounting.total() == sent);
        }
        curves.push(curve);
    }
    if options.record {
        report::write("docs/overload.svg", &plot(curves).svg())?;
    }
    Ok(())
}

fn plot(curves: Vec<Curve>) -> Plot<'static> {
    let goodput = Panel {
        title: "Good answers a second (2xx within 1 s) against offered load",
        scale: Scale::Linear { step: 50.0, most: 250.0 },
        height: 320.0,
        line: Some((NOMINAL, "capacity of the database")),
        curves,
    };
    let ticks = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|times| (times, format!("{times}×"))).to_vec();
    Plot { axis: "offered, as times the capacity", ticks, panels: vec![goodput] }
}

/// The figures of one level that the claims judge.
struct Level {
    good: f64,
    outcomes: Outcomes,
    after: Outcomes,
    watched: Watched,
    sent: u64,
}

fn level(server: &Server, rate: f64, length: Duration, report: &mut Report) -> anyhow::Result<Level> {
    let requests = [get(PATH)];
    let load = Load { requests: &requests, rate, length };
    let address = server.address();
    let (outcomes, watched) =
        watch::watch(server.id(), Duration::from_secs(2), || Ok(generator::run(address, load)?))?;
    let after = generator::run(address, Load { rate: NOMINAL / 2.0, length: AFTER, ..load })?;
    let good = per_second(outcomes.good.len(), length);
    let cpu = watched.used.as_micros() / u128::from(outcomes.offered.max(1));
    report.row(&[
        format!("{rate:.0}"),
        format!("{good:.1}"),
        milliseconds(percentile(&outcomes.good, 0.5)),
        milliseconds(outcomes.good_p99()),
        outcomes.refused.len().to_string(),
        milliseconds(percentile(&outcomes.refused, 0.99)),
        outcomes.given_up.to_string(),
        outcomes.rest(),
        format!("{:.2} %", outcomes.late_share() * 100.0),
        cpu.to_string(),
        format!("{} → {}", mebibytes(watched.before.resident), mebibytes(watched.after.resident)),
        format!(
            "{} → {} → {}",
            watched.before.descriptors, watched.peak.descriptors, watched.after.descriptors
        ),
        watched.peak.threads.to_string(),
        format!("{} of {}", after.good.len(), after.offered),
        milliseconds(after.good_p99()),
    ]);
    let sent = outcomes.sent + after.sent;
    Ok(Level { good, outcomes, after, watched, sent })
}

/// The bounds of this project for its own server.
fn claims(report: &mut Report, times: u32, capacity: f64, level: &Level) {
    let at = |what: &str| format!("{times}x: {what}");
    let least = 0.98 * NOMINAL.min(f64::from(times) * NOMINAL);
    let measured =
        format!("{:.1}, {:.1} % of what the database does", level.good, 100.0 * level.good / capacity);
    report.claim(&at(&format!("at least {least:.0} good a second")), &measured, level.good >= least);
    let served = level.outcomes.good_p99();
    let bound = Duration::from_millis(150);
    report.claim(&at("p99 of what is served at most 150 ms"), &milliseconds(served), served <= bound);
    let refusal = percentile(&level.outcomes.refused, 0.99);
    let bound = Duration::from_millis(5);
    report.claim(&at("p99 of a refusal at most 5 ms"), &milliseconds(refusal), refusal <= bound);
    let Watched { before, peak, after, .. } = level.watched;
    let grown = format!("{} → {} MiB", mebibytes(before.resident), mebibytes(after.resident));
    report.claim(
        &at("memory grows by less than 4 MiB"),
        &grown,
        after.resident < before.resident + (4 << 20),
    );
    let measured = format!("{} → {} → {}", before.descriptors, peak.descriptors, after.descriptors);
    let holds = after.descriptors <= before.descriptors;
    report.claim(&at("descriptors end where they began"), &measured, holds);
    let measured = format!("{} → {}", before.threads, peak.threads);
    report.claim(&at("no thread more"), &measured, peak.threads <= before.threads);
    let after = level.after.good_p99();
    let all = level.after.good.len() as u64 == level.after.offered;
    let measured = format!("{} of {}, {}", level.after.good.len(), level.after.offered, milliseconds(after));
    let holds = all && after < Duration::from_millis(30);
    report.claim(&at("right after: all good, p99 under 30 ms"), &measured, holds);
}

#[expect(clippy::cast_precision_loss, reason = "no run has so many requests")]
fn per_second(count: usize, length: Duration) -> f64 {
    count as f64 / length.as_secs_f64()
}

/// The rate of the database without a server: the same sessions, each with one query after the other.
fn capacity(postgres: &Postgres, length: Duration) -> anyhow::Result<f64> {
    let count = AtomicU64::new(0);
    let url = postgres.url();
    thread::scope(|scope| {
        let sessions: Vec<_> = (0..POOL)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let mut client = wharf::database::postgres::client(&url)?;
                    let statement = client.prepare("select 1 as slept from pg_sleep(0.02)")?;
                    let until = Instant::now() + length;
                    while Instant::now() < until {
                        client.query_one(&statement, &[])?;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        sessions.into_iter().try_for_each(|session| session.join().expect("it does not panic"))
    })?;
    let count = u32::try_from(count.into_inner())?;
    Ok(f64::from(count) / length.as_secs_f64())
}

/// Where a server listens, for the parts.
fn offer(address: SocketAddr, path: &str, rate: f64, length: Duration) -> anyhow::Result<Outcomes> {
    let requests = [get(path)];
    let load = Load { requests: &requests, rate, length };
    Ok(generator::run(address, load)?)
}
