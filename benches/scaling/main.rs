//! Measures the cost of a request as one number grows: connections, database connections, the distance to the database, rows of its
//! answer, bytes of its answer.
//! Prints Markdown; `docs/` has the plots.
//!
//! ```text
//! cargo bench --bench scaling                        # everything, 5 s a point: three minutes
//! cargo bench --bench scaling -- pool rows           # some parts: connections, pool, distance, rows, bytes
//! cargo bench --bench scaling -- --seconds 10        # another time for each point
//! cargo bench --bench scaling -- --plots             # and draws docs/scaling-connections.svg and so on
//! cargo bench --bench scaling -- --quick             # a few points, briefly: as `cargo test --bench '*'` runs it
//! ```
//!
//! Each point has a server of its own, this program in a second process, and warms it up first. The clients are `wharf::load`
//! in this process, a closed loop. PostgreSQL shares the machine with both. Linux only.

mod points;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::env;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use wharf::config::{Config, Environment, Flags, Source};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::load::{self, Pace, Plan, Target, TargetReport, Template};
use wharf::server::Server;

use self::points::{Part, Point};
use self::shared::client::raise_descriptors;
use self::shared::machine;
use self::shared::numbers::mebibytes;
use self::shared::plot::{Curve, Panel, Plot, Scale};
use self::shared::process::{Process, SERVE, serve_until_end};
use self::shared::report::{self, Report};
use self::support::{Distant, Postgres};

/// Of a request, so that the last of 10,000 clients and the slowest of 100 MB have their answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pieces in which a streamed answer is written. The server's own pieces are equally long.
const PIECE: [u8; 16 << 10] = [b'x'; 16 << 10];

struct Options {
    parts: Vec<String>,
    length: Duration,
    plots: bool,
    quick: bool,
}

/// The results of one point.
struct Measured {
    /// Good answers a second.
    rate: f64,
    /// The server's processor time for each good answer, in microseconds.
    cost: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Resident memory at the end, in bytes.
    resident: u64,
    /// The peak of resident memory, in bytes.
    peak: u64,
    /// The other outcomes of requests.
    rest: String,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some(SERVE) {
        return serve(arguments.next().context("the configuration's text")?);
    }
    let options = Options::parse()?;
    raise_descriptors()?;
    let postgres = Postgres::start();
    postgres.psql(
        "postgres",
        "create table world (id int primary key, randomnumber int not null); \
         insert into world select i, 1 + floor(random() * 10000)::int from generate_series(1, 10000) i; \
         analyze world",
    );
    let mut report = Report::default();
    report.line(&format!("# What a request costs, {}, {}\n", machine::date(), machine::name()));
    let seconds = options.length.as_secs_f64();
    report.line(&format!(
        "Server, PostgreSQL and clients on the same machine, {seconds} s a point. Printed by `cargo bench --bench scaling`. CPU is \
         the server process's own, connecting included; memory is its resident memory at the end and at its peak.\n"
    ));
    if options.quick {
        report.line("A small run, which shows that the benchmark works; the numbers say nothing.\n");
    }
    for part in points::all(options.quick) {
        if options.parts.is_empty() || options.parts.iter().any(|name| name == part.name) {
            measure_part(&part, &options, &postgres, &mut report)?;
        }
    }
    Ok(())
}

impl Options {
    fn parse() -> anyhow::Result<Self> {
        // `cargo bench` passes `--bench`, and `cargo test` does not.
        let quick = !env::args().any(|argument| argument == "--bench");
        let mut options = Self { parts: Vec::new(), length: Duration::from_secs(5), plots: false, quick };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--plots" => options.plots = true,
                "--seconds" => {
                    let seconds = arguments.next().context("--seconds takes a value")?;
                    options.length = Duration::from_secs(seconds.parse()?);
                }
                part if points::NAMES.contains(&part) => options.parts.push(argument),
                other => anyhow::bail!(
                    "{other}: expected {}, --seconds, --plots or --quick",
                    points::NAMES.join(", ")
                ),
            }
        }
        if options.quick {
            options.length = Duration::from_millis(200);
        }
        Ok(options)
    }
}

fn measure_part(
    part: &Part,
    options: &Options,
    postgres: &Postgres,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.part(part.title, part.method);
    report.columns(&[
        part.axis,
        "req/s",
        "CPU µs/req",
        "p50 ms",
        "p99 ms",
        "memory MiB",
        "at its peak",
        "not answered well",
    ]);
    let mut all = Vec::with_capacity(part.points.len());
    for point in &part.points {
        let measured = measure(point, options.length, postgres).with_context(|| point.label.clone())?;
        report.row(&[
            point.label.clone(),
            format!("{:.0}", measured.rate),
            format!("{:.1}", measured.cost),
            format!("{:.2}", measured.p50_ms),
            format!("{:.2}", measured.p99_ms),
            mebibytes(measured.resident),
            mebibytes(measured.peak),
            measured.rest.clone(),
        ]);
        all.push(measured);
    }
    report.line("");
    if options.plots {
        report::write(&format!("docs/scaling-{}.svg", part.name), &plot(part, &all).svg())?;
    }
    Ok(())
}

fn measure(point: &Point, length: Duration, postgres: &Postgres) -> anyhow::Result<Measured> {
    let distant = (!point.way.is_zero()).then(|| Distant::to(postgres.port(), point.way));
    let port = distant.as_ref().map_or_else(|| postgres.port(), Distant::port);
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let server = Process::start(&[point.configuration(&url)], Stdio::inherit())?;
    run(&server, point, point.clients.min(64), length / 5)?;
    let before = server.processor_time()?;
    let load = run(&server, point, point.clients, length)?;
    let used = server.processor_time()?.saturating_sub(before);
    let good = load.all.good;
    anyhow::ensure!(good > 0, "no request had a good answer: {:?}", load.all.statuses);
    #[expect(clippy::cast_precision_loss, reason = "no run has so many requests")]
    let cost = used.as_secs_f64() * 1e6 / good as f64;
    let (p50_ms, p99_ms) = (load.all.latency_ms.p50, load.all.latency_ms.p99);
    let (resident, peak) = (server.resident()?, server.peak_resident()?);
    let rest = rest(&load.all);
    Ok(Measured { rate: load.all.good_per_s, cost, p50_ms, p99_ms, resident, peak, rest })
}

/// Requests without a good answer: `0`, or `3 (503: 2, timeout: 1)`.
fn rest(load: &TargetReport) -> String {
    let statuses = load.statuses.iter().filter(|(status, _)| **status >= 400);
    let mut kinds: Vec<(String, u64)> =
        statuses.map(|(status, count)| (status.to_string(), *count)).collect();
    kinds.extend(load.failures.iter().map(|(kind, count)| ((*kind).to_owned(), *count)));
    kinds.extend((load.timeouts > 0).then(|| ("timeout".to_owned(), load.timeouts)));
    let count = kinds.iter().map(|(_, count)| count).sum::<u64>();
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    if kinds.is_empty() { "0".to_owned() } else { format!("{count} ({})", kinds.join(", ")) }
}

fn run(server: &Process, point: &Point, clients: usize, length: Duration) -> anyhow::Result<load::Report> {
    let url = format!("http://{}{}", server.address(), point.path);
    let pace = Pace::Closed { connections: clients, duration: length };
    let plan = Plan {
        targets: vec![Target::from_url(&url, &Template::default())?],
        threads: pace.threads(),
        pace,
        timeout: PATIENCE,
        max_connections: None,
        late_after: PATIENCE,
    };
    Ok(load::run(&plan, &AtomicBool::new(false), |_| {})?)
}

fn plot<'a>(part: &'a Part, all: &[Measured]) -> Plot<'a> {
    let panel = |title, of: fn(&Measured) -> f64| {
        let points: Vec<(f64, f64)> =
            part.points.iter().map(|point| point.at).zip(all.iter().map(of)).collect();
        let scale = Scale::of(points.iter().map(|(_, value)| *value));
        let curves = vec![Curve { name: "wharf".to_owned(), points }];
        Panel { title, scale, height: 150.0, line: None, curves }
    };
    #[expect(clippy::cast_precision_loss, reason = "no process has so much memory")]
    let panels = vec![
        panel("Requests a second", |measured| measured.rate),
        panel("The server's CPU, µs a request", |measured| measured.cost),
        panel("Its resident memory at the peak, MiB", |measured| measured.peak as f64 / f64::from(1 << 20)),
    ];
    let ticks = part.points.iter().map(|point| (point.at, point.label.clone())).collect();
    Plot { axis: part.axis, ticks, panels }
}

/// The second process.
fn serve(text: String) -> anyhow::Result<()> {
    raise_descriptors()?;
    let source = Source { path: None, text };
    let config = Config::read(source, &Environment::default(), &Flags::default())
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let running = Server::new(config)?.get("/bytes", bytes).start()?;
    Ok(serve_until_end(&running)?)
}

/// Streams `n` bytes.
fn bytes(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let text = request.query_value("n").unwrap_or_default();
    let mut left: usize = text.parse().map_err(|_| Error::bad_parameter("n", "a number", &text))?;
    Ok(Response::stream("application/octet-stream", move |body| {
        while left > 0 {
            let piece = left.min(PIECE.len());
            body.write_all(&PIECE[..piece])?;
            left -= piece;
        }
        Ok(())
    }))
}
