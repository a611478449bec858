//! Measures the answers that clients get when there are more clients than the server has descriptors, and the answers to
//! the clients that come after them.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wharf::config::Connector;

use crate::CONNECTORS;
use crate::crowd::{Crowd, Outcome};
use crate::report::{self, columns, row};
use crate::server::{MAX_CONNECTIONS, Setup};
use crate::shared::client::{Asker, get};
use crate::shared::numbers::milliseconds;

pub(crate) struct Sizes {
    /// The server's limit on descriptors.
    pub(crate) limit: u64,
    /// Clients at once.
    pub(crate) attempts: usize,
    /// How long a client waits for anything at all.
    pub(crate) silence: Duration,
    /// Requests after they have left.
    pub(crate) fresh: usize,
    /// How long all of these may take together.
    pub(crate) patience: Duration,
}

/// The outcomes of the requests that came after the crowd had left.
#[derive(Default)]
struct Fresh {
    answered: usize,
    /// Refused requests, each of which was sent again.
    refused: usize,
    failed: usize,
    /// Requests that were not sent because the time was over.
    left_out: usize,
    first: Option<Duration>,
    /// When the last request was answered, if all were.
    all: Option<Duration>,
}

/// Measures both connectors, without the limit and with it.
///
/// # Errors
/// When the native one does not answer every request after the crowd has left.
pub(crate) fn measure(sizes: &Sizes) -> anyhow::Result<()> {
    report::part(
        "More clients at once than descriptors",
        &format!(
            "{} clients connect at once, each sends `GET /plaintext` and keeps its connection. The server may have as many \
             descriptors as it likes, or {} (`RLIMIT_NOFILE`, soft and hard); `http.max_connections` is \
             {MAX_CONNECTIONS}. Silent: nothing came within {} s. Then all of them close, and at once {} requests follow \
             one after the other, each on a connection of its own, for {} s at most. A request that is refused (503) \
             because the server has not yet noticed that the others left is sent again.",
            sizes.attempts,
            sizes.limit,
            sizes.silence.as_secs_f64(),
            sizes.fresh,
            sizes.patience.as_secs_f64()
        ),
    );
    columns(&[
        "connector",
        "descriptors",
        "200",
        "503",
        "other status",
        "closed without an answer",
        "reset",
        "silent",
        "afterwards: 200",
        "503",
        "failed",
        "not tried",
        "first after ms",
        "all after ms",
    ]);
    let mut fewest = sizes.fresh;
    for (connector, name) in CONNECTORS {
        for limit in [None, Some(sizes.limit)] {
            let setup = Setup { descriptors: limit, ..Setup::of(connector) };
            let answered = measure_one(&setup, name, sizes)?;
            if connector == Connector::Native {
                fewest = fewest.min(answered);
            }
        }
    }
    println!();
    anyhow::ensure!(
        fewest == sizes.fresh,
        "native: {fewest} of {} requests were answered afterwards",
        sizes.fresh
    );
    Ok(())
}

/// Returns how many requests were answered after the crowd had left.
fn measure_one(setup: &Setup, name: &str, sizes: &Sizes) -> anyhow::Result<usize> {
    let server = setup.start()?;
    let request = get("/plaintext");
    let crowd = Crowd::ask(server.address(), &request, sizes.attempts, sizes.attempts, sizes.silence)?;
    let known = [200, 503].map(Outcome::Answered).into_iter();
    let outcomes = known.chain([Outcome::Closed, Outcome::Reset, Outcome::Silent]);
    let mut counts: Vec<usize> = outcomes.map(|outcome| crowd.count(outcome)).collect();
    counts.insert(2, sizes.attempts - counts.iter().sum::<usize>());
    drop(crowd);
    let fresh = Fresh::ask(server.address(), &request, sizes);
    counts.extend([fresh.answered, fresh.refused, fresh.failed, fresh.left_out]);
    let limit = setup.descriptors.map_or_else(|| "enough".to_owned(), |limit| limit.to_string());
    let mut cells = vec![name.to_owned(), limit];
    cells.extend(counts.iter().map(usize::to_string));
    cells.extend([fresh.first, fresh.all].map(|time| time.map_or_else(|| "never".to_owned(), milliseconds)));
    row(&cells);
    Ok(fresh.answered)
}

impl Fresh {
    fn ask(address: SocketAddr, request: &[u8], sizes: &Sizes) -> Self {
        let start = Instant::now();
        let mut fresh = Self::default();
        while fresh.answered + fresh.failed < sizes.fresh {
            let left = sizes.patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                fresh.left_out = sizes.fresh - fresh.answered - fresh.failed;
                break;
            }
            match ask_once(address, request, left) {
                Ok(200) => {
                    fresh.answered += 1;
                    fresh.first.get_or_insert(start.elapsed());
                }
                Ok(503) => fresh.refused += 1,
                Ok(_) | Err(_) => fresh.failed += 1,
            }
        }
        fresh.all = (fresh.answered == sizes.fresh).then(|| start.elapsed());
        fresh
    }
}

fn ask_once(address: SocketAddr, request: &[u8], patience: Duration) -> io::Result<u16> {
    Asker::connect(address, patience)?.ask(request)
}
