//! Measures the cost of idle connections: the server's memory and threads, and the latency of other clients.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wharf::config::Connector;

use crate::crowd::{Crowd, Outcome};
use crate::report::{self, columns, row};
use crate::server::{Setup, WORKERS};
use crate::shared::client::{Asker, get};
use crate::shared::numbers::{mebibytes, milliseconds, percentile};
use crate::shared::process::Process;

/// The crowd comes one after the other: connecting all at once is another part, and more than tiny_http takes.
const AT_ONCE: usize = 1;

/// For the whole crowd, and for one request: only a broken server takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures each connector with its number of idle connections.
pub(crate) fn measure(counts: &[(Connector, &'static str, usize)], requests: usize) -> anyhow::Result<()> {
    report::part(
        "Idle connections",
        &format!(
            "The server has {WORKERS} workers and has answered {} requests before it is looked at. Then the connections \
             are opened one after the other; each gets one answer of `/plaintext` and stays open. Memory is the process's \
             `VmRSS`, 20 MiB of which are the answer of `/large`, without what the kernel keeps for a socket; KiB each is \
             what it grew by, for each connection. Latency: {requests} requests of `/quick`, which a worker answers, one \
             after the other: each on a connection of its own, with connecting; then all on one that was open.",
            2 * requests
        ),
    );
    columns(&[
        "connector",
        "idle",
        "RSS MiB",
        "KiB each",
        "threads",
        "new connection: p50 ms",
        "p99",
        "max",
        "open connection: p50 ms",
        "p99",
        "max",
    ]);
    for (connector, name, count) in counts {
        measure_one(*connector, name, *count, requests)?;
    }
    println!();
    Ok(())
}

fn measure_one(connector: Connector, name: &str, count: usize, requests: usize) -> anyhow::Result<()> {
    let server = Setup::of(connector).start()?;
    let latency = Latency::measure(server.address(), requests)?;
    let (before, descriptors) = (server.resident()?, server.descriptors()?);
    print_row(name, 0, &server, None, &latency)?;

    let crowd = Crowd::ask(server.address(), &get("/plaintext"), count, AT_ONCE, PATIENCE)?;
    let answered = crowd.count(Outcome::Answered(200));
    anyhow::ensure!(answered == count, "{name}: {answered} of {count} connections had their answer");
    let held = server.descriptors()?;
    // A few of the requests before may have been closed only now.
    anyhow::ensure!(held + 8 >= descriptors + count, "{name}: the server holds {held} descriptors only");
    let grown = server.resident()?.saturating_sub(before);
    let latency = Latency::measure(server.address(), requests)?;
    print_row(name, count, &server, Some(grown), &latency)
}

fn print_row(
    name: &str,
    count: usize,
    server: &Process,
    grown: Option<u64>,
    latency: &Latency,
) -> anyhow::Result<()> {
    let mut cells = vec![name.to_owned(), count.to_string(), mebibytes(server.resident()?)];
    #[expect(clippy::cast_precision_loss, reason = "a ratio with two digits")]
    let each = grown.map(|bytes| format!("{:.2}", bytes as f64 / 1024.0 / count as f64));
    cells.push(each.unwrap_or_default());
    cells.push(server.threads()?.to_string());
    for times in [&latency.new, &latency.open] {
        cells.extend([0.5, 0.99, 1.0].map(|share| milliseconds(percentile(times, share))));
    }
    row(&cells);
    Ok(())
}

/// The sorted times of requests one after the other.
struct Latency {
    new: Vec<Duration>,
    open: Vec<Duration>,
}

impl Latency {
    fn measure(address: SocketAddr, requests: usize) -> io::Result<Self> {
        let request = get("/quick");
        let on_new = |_| {
            let start = Instant::now();
            let mut asker = Asker::connect(address, PATIENCE)?;
            time_of(asker.ask(&request)?, start)
        };
        let mut new = (0..requests).map(on_new).collect::<io::Result<Vec<_>>>()?;
        let mut asker = Asker::connect(address, PATIENCE)?;
        asker.ask(&request)?;
        let on_open = |_| {
            let start = Instant::now();
            time_of(asker.ask(&request)?, start)
        };
        let mut open = (0..requests).map(on_open).collect::<io::Result<Vec<_>>>()?;
        new.sort();
        open.sort();
        Ok(Self { new, open })
    }
}

/// How long a request took that was answered with 200.
fn time_of(status: u16, start: Instant) -> io::Result<Duration> {
    if status == 200 {
        Ok(start.elapsed())
    } else {
        Err(io::Error::other(format!("/quick answered {status}")))
    }
}
