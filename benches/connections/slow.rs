//! Measures the cost of slow clients to the others: throughput, and processor time per request.

use std::thread;
use std::time::Duration;

use wharf::config::Connector;

use crate::closed_loop;
use crate::herd::{Herd, RECEIVE_BUFFER, Replaced};
use crate::report::{self, columns, row};
use crate::server::Setup;
use crate::shared::client::get;
use crate::shared::machine;
use crate::shared::numbers::{mebibytes, median, milliseconds, percentile};
use crate::shared::process::Process;

/// Connections of the normal clients.
const NORMAL: usize = 16;

/// Descriptors that a server may open once and keep.
const FEW: usize = 4;

pub(crate) struct Sizes {
    /// Clients that send a head a byte at a time.
    pub(crate) dribblers: u32,
    /// Clients that read an answer a byte at a time.
    pub(crate) readers: u32,
    /// How often they send or read their byte.
    pub(crate) pace: Duration,
    /// The server's timeouts that end them.
    pub(crate) head_timeout: Duration,
    pub(crate) write_timeout: Duration,
    /// How long normal clients are measured.
    pub(crate) window: Duration,
    /// How often, each time without the slow ones and with them.
    pub(crate) pairs: usize,
}

/// One window's numbers.
struct Measured {
    rate: f64,
    /// Microseconds for each request.
    cost: f64,
}

/// Measures the native connector.
///
/// # Errors
/// When a normal request is refused, or the server does not hold the slow clients.
pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<()> {
    report::part("Beside slow clients", &method(sizes));
    columns(&[
        "slow clients",
        "held",
        "RSS MiB",
        "req/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "CPU µs/req",
        "socket buffers MiB",
        "others, cores",
    ]);
    let (head_timeout, write_timeout) = (sizes.head_timeout, sizes.write_timeout);
    let server = Setup { head_timeout, write_timeout, ..Setup::of(Connector::Native) }.start()?;
    let alone = server.descriptors()?;
    // Shorter, and not shown: both processes warm up.
    closed_loop::run(server.address(), &get("/quick"), NORMAL, sizes.window / 5)?;
    let slow = (sizes.dribblers + sizes.readers) as usize;
    let (mut without, mut with, mut replaced) = (Vec::new(), Vec::new(), Replaced::default());
    for _ in 0..sizes.pairs {
        server.wait_for_descriptors(|open| open <= alone + FEW)?;
        without.push(measure_window(&server, sizes, 0)?);
        let herd = Herd::start(server.address(), sizes)?;
        thread::sleep(head_timeout.max(write_timeout) + sizes.pace);
        // Some are between two connections at any moment.
        server.wait_for_descriptors(|open| open >= alone + slow - slow / 20)?;
        with.push(measure_window(&server, sizes, slow)?);
        replaced += herd.stop()?;
    }
    print_medians(&without, &with);
    println!(
        "Slow clients that were replaced: {} after 408, {} whose connection was closed, {} readers after their \
         time; {} attempts to connect failed.\n",
        replaced.told, replaced.closed, replaced.left, replaced.failed
    );
    anyhow::ensure!(replaced.told > 0, "no slow client was told 408");
    Ok(())
}

fn method(sizes: &Sizes) -> String {
    let (pace, window) = (sizes.pace.as_secs_f64(), sizes.window.as_secs_f64());
    format!(
        "Normal clients: {NORMAL} keep-alive connections in a closed loop on `/quick`, which a worker answers. Slow \
         clients: {} send one byte of a head every {pace} s, {} read one byte of a 20 MiB answer every {pace} s \
         (`SO_RCVBUF` {RECEIVE_BUFFER}). The server cuts them off (`http.head_timeout` {} s with 408, \
         `http.write_timeout` {} s); each is replaced at once, and they begin spread over that time. Windows of {window} \
         s, without and with them in turn. CPU is the server process's own, so with them it has their bytes, cut-offs and \
         new connections in it; what they take as clients is in the throughput only. Held: the server's descriptors \
         before a window. Socket buffers: what waits in those of both sides (`/proc/net/sockstat`), which is in no \
         process's memory. Others: what else ran on the machine meanwhile; where it is much, the rest says little, and \
         even CPU per request is not the same.",
        sizes.dribblers,
        sizes.readers,
        sizes.head_timeout.as_secs_f64(),
        sizes.write_timeout.as_secs_f64()
    )
}

/// Measures normal clients for one window beside `slow` slow clients, which are connected already.
fn measure_window(server: &Process, sizes: &Sizes, slow: usize) -> anyhow::Result<Measured> {
    let held = server.descriptors()?;
    let before = Times::now(server)?;
    let window = closed_loop::run(server.address(), &get("/quick"), NORMAL, sizes.window)?;
    let after = Times::now(server)?;
    let used = after.server.saturating_sub(before.server);
    anyhow::ensure!(window.refused == 0, "{} normal requests were refused", window.refused);
    #[expect(clippy::cast_precision_loss, reason = "no window has so many requests")]
    let count = window.times.len() as f64;
    let (rate, cost) = (count / window.length.as_secs_f64(), used.as_secs_f64() * 1e6 / count);
    let mut cells = vec![slow.to_string(), held.to_string()];
    cells.extend([mebibytes(server.resident()?), format!("{rate:.0}")]);
    cells.extend([0.5, 0.99, 1.0].map(|share| milliseconds(percentile(&window.times, share))));
    let others = after.others.saturating_sub(before.others).as_secs_f64() / window.length.as_secs_f64();
    cells.extend([format!("{cost:.2}"), mebibytes(machine::socket_memory()?), format!("{others:.2}")]);
    row(&cells);
    Ok(Measured { rate, cost })
}

fn print_medians(without: &[Measured], with: &[Measured]) {
    let middle = |windows: &[Measured], of: fn(&Measured) -> f64| median(windows.iter().map(of));
    let [alone, beside] = [without, with].map(|windows| middle(windows, |window| window.rate));
    print!("\nMedians: {alone:.0} req/s without and {beside:.0} with them, ratio {:.3}; ", beside / alone);
    let [alone, beside] = [without, with].map(|windows| middle(windows, |window| window.cost));
    println!("CPU {alone:.2} and {beside:.2} µs/req, ratio {:.3}.\n", beside / alone);
}

/// Processor time used so far.
struct Times {
    server: Duration,
    /// By all but the server and this process.
    others: Duration,
}

impl Times {
    fn now(server: &Process) -> anyhow::Result<Self> {
        let (server, own) = (server.processor_time()?, machine::processor_time("self")?);
        Ok(Self { server, others: machine::busy_time()?.saturating_sub(server + own) })
    }
}
