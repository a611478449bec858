//! Measures the cost of thousands of connections: memory, threads and latency beside idle connections, throughput beside
//! slow ones, and the answers when the server has no descriptor left. Prints Markdown; `benches/results/` keeps some.
//!
//! ```text
//! cargo bench --bench connections                       # everything: four minutes
//! cargo bench --bench connections -- idle descriptors   # some parts: idle, slow, descriptors
//! cargo bench --bench connections -- --quick            # small numbers, a few seconds: as `cargo test --bench '*'` runs it
//! ```
//!
//! Each part starts a server of its own: this program in a second process, with a fixed configuration (`server.rs`). So
//! the figures in `/proc` are the server's alone. The clients are this process: one thread and one epoll for all of them,
//! and a second thread for the slow ones. The small run has the same steps, and fails where the full run would; its
//! numbers mean nothing.
//!
//! Linux only. With 10,000 connections each of the two processes needs as many descriptors; where the hard limit
//! (`ulimit -Hn`) allows fewer, there are fewer, and the output says so.

mod closed_loop;
mod crowd;
mod descriptors;
mod herd;
mod idle;
mod report;
mod server;
#[path = "../shared/mod.rs"]
mod shared;
mod slow;

use std::env;
use std::path::Path;
use std::time::Duration;

use wharf::config::{Config, Connector};

use self::shared::process::SERVE;

/// Both connectors: what is measured of tiny_http is for `docs/tiny_http.md`.
const CONNECTORS: [(Connector, &str); 2] =
    [(Connector::Native, "native"), (Connector::TinyHttp, "tiny_http")];

/// How much of everything there is in one run.
struct Sizes {
    /// Idle connections, and fewer of them, where a connection is a thread.
    idle: usize,
    idle_simple: usize,
    /// Requests one after the other beside them.
    requests: usize,
    slow: slow::Sizes,
    descriptors: descriptors::Sizes,
}

impl Sizes {
    fn full() -> Self {
        let timeouts = Config::default().http;
        let slow = slow::Sizes {
            dribblers: 2000,
            readers: 500,
            pace: Duration::from_secs(1),
            head_timeout: timeouts.head_timeout,
            write_timeout: timeouts.write_timeout,
            window: Duration::from_secs(5),
            pairs: 5,
        };
        let descriptors = descriptors::Sizes {
            limit: 256,
            attempts: 1000,
            silence: Duration::from_secs(5),
            fresh: 100,
            patience: Duration::from_secs(30),
        };
        Self { idle: 10_000, idle_simple: 2000, requests: 2000, slow, descriptors }
    }

    fn quick() -> Self {
        let slow = slow::Sizes {
            dribblers: 40,
            readers: 10,
            pace: Duration::from_millis(100),
            head_timeout: Duration::from_millis(400),
            write_timeout: Duration::from_millis(600),
            window: Duration::from_millis(300),
            pairs: 1,
        };
        let descriptors = descriptors::Sizes {
            limit: 64,
            attempts: 100,
            silence: Duration::from_millis(500),
            fresh: 20,
            patience: Duration::from_secs(8),
        };
        Self { idle: 200, idle_simple: 100, requests: 50, slow, descriptors }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == SERVE
    {
        return server::serve(rest);
    }
    if !Path::new("/proc/self/status").exists() {
        println!("connections: not measured, this needs Linux's /proc");
        return Ok(());
    }
    // Cargo says `--bench` when it benchmarks, and not when it tests.
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let full = has("--bench") && !has("--quick");
    let sizes = if full { Sizes::full() } else { Sizes::quick() };
    let parts: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| *name == part);

    report::title(full);
    let allowed = shared::client::raise_descriptors()?;
    if wanted("idle") {
        idle::measure(&idle_counts(&sizes, allowed), sizes.requests)?;
    }
    if wanted("slow") {
        slow::measure(&sizes.slow)?;
    }
    if wanted("descriptors") {
        descriptors::measure(&sizes.descriptors)?;
    }
    Ok(())
}

/// Which connector is measured with how many idle connections: both with a number that threads can bear, native with the
/// large one as well.
fn idle_counts(sizes: &Sizes, allowed: usize) -> Vec<(Connector, &'static str, usize)> {
    let large = sizes.idle.min(allowed);
    if large < sizes.idle {
        println!("The limit on descriptors allows {large} connections instead of {}.\n", sizes.idle);
    }
    // tiny_http has two descriptors for a connection.
    let small = sizes.idle_simple.min(allowed / 2);
    let both = CONNECTORS.map(|(connector, name)| (connector, name, small));
    [(Connector::Native, "native", large)].into_iter().chain(both).collect()
}
