//! A long run in which something breaks again and again; what the server holds must end where it began.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::accounting::Accounting;
use crate::generator::{self, Load};
use crate::outcomes::Outcomes;
use crate::servers::POOL;
use crate::shared::client::get;
use crate::shared::numbers::{mebibytes, milliseconds};
use crate::shared::report::Report;
use crate::support::{Postgres, Wharf};
use crate::watch::Usage;

/// From one fault to the next.
const PERIOD: Duration = Duration::from_secs(20);

/// Fewer rounds have nothing to compare: the first one is what the others are held against.
const ROUNDS_MIN: u32 = 2;

/// Requests a second. A quarter of them has 20 ms in the database, so it is about a quarter of what the pool can do.
const RATE: f64 = 200.0;

/// How long the database stands still or is away, and a burst lasts.
const TROUBLE: Duration = Duration::from_secs(2);

/// How many times the usual rate comes in a burst.
const BURST: f64 = 10.0;

/// Clients that connect and leave.
const LEAVING: usize = 500;

/// Until the server has closed what its clients have left, and its pool is full again. Its longest pause between two tries
/// to connect is a part of that.
const SETTLING: Duration = Duration::from_secs(15);

/// After the last fault nothing may fail any more.
const AFTER: Duration = Duration::from_secs(5);

/// An allocator keeps what it had at its busiest moment, and that is not in the first round.
const GROWTH_MAX: u64 = 4 << 20;

#[derive(Clone, Copy)]
enum Fault {
    Terminated,
    Suspended,
    Restarted,
    Reloaded,
    Left,
    Burst,
}

const FAULTS: [(Fault, &str); 6] = [
    (Fault::Terminated, "all sessions terminated"),
    (Fault::Suspended, "database suspended for 2 s"),
    (Fault::Restarted, "database stopped at once, back after 2 s"),
    (Fault::Reloaded, "SIGHUP"),
    (Fault::Left, "500 clients that leave, half of them after a request"),
    (Fault::Burst, "ten times the rate for 2 s"),
];

/// What is compared.
#[derive(Clone, Copy)]
struct Held {
    usage: Usage,
    sessions: usize,
}

/// Runs whole rounds of all faults, for `length` at least; a short run has shorter periods.
pub(crate) fn run(postgres: &Postgres, length: Duration, report: &mut Report) -> anyhow::Result<()> {
    postgres.psql("postgres", "create table note (id bigint generated always as identity)");
    let wharf = Wharf::start(&configuration(postgres));
    let count = u32::try_from(FAULTS.len())?;
    let period = PERIOD.min(length / (ROUNDS_MIN * count));
    let rounds = ROUNDS_MIN.max(length.as_millis().div_ceil((period * count).as_millis().max(1)).try_into()?);
    report.part(
        "A long run with faults",
        &format!(
            "{rounds} rounds of {count} faults, one every {:.1} s, under {RATE:.0} requests a second: reads, a read of \
             20 ms, and a write, with {POOL} connections. Times in ms, memory in MiB.",
            period.as_secs_f64()
        ),
    );
    report.columns(&["round", "fault", "offered", "good", "p99", "refused", "left", "rest"]);
    let (mut sent, mut first) = (0, None);
    for round in 1..=rounds {
        for (fault, name) in FAULTS {
            let (outcomes, more) = period_with(fault, &wharf, postgres, period)?;
            sent += outcomes.sent + more;
            report.row(&[
                round.to_string(),
                name.to_owned(),
                outcomes.offered.to_string(),
                outcomes.good.len().to_string(),
                milliseconds(outcomes.good_p99()),
                outcomes.refused.len().to_string(),
                outcomes.given_up.to_string(),
                outcomes.rest(),
            ]);
        }
        if first.is_none() {
            first = Some(Held::settled(&wharf, postgres, None)?);
        }
    }
    let after = offer(&wharf, RATE, AFTER)?;
    sent += after.sent;
    let last = Held::settled(&wharf, postgres, first)?;
    wharf.signal("TERM");
    let accounting = Accounting::of_log(&wharf.wait().stderr)?;
    report.line(&format!("\n{}\n", accounting.describe(sent)));
    if let Some(first) = first {
        claims(report, first, last);
    }
    let measured = format!("{} of {}", after.good.len(), after.offered);
    report.claim("after the last fault, all good", &measured, after.good.len() as u64 == after.offered);
    let measured = format!("{sent} sent, {} accounted for", accounting.total());
    report.claim("every request has one end", &measured, accounting.total() == sent);
    Ok(())
}

fn configuration(postgres: &Postgres) -> String {
    format!(
        r#"
[database]
url = "{}"
maximum_pool_size = {POOL}

[endpoint.slow]
route   = "GET /slow"
sql     = "select 1 as slept from pg_sleep(0.02)"
returns = "value"

[endpoint.fast]
route   = "GET /fast"
sql     = "select count(*) as fewer from pg_class"
returns = "value"

[endpoint.note]
route   = "POST /note"
sql     = "insert into note default values returning id"
returns = "value"
"#,
        postgres.url()
    )
}

/// The usual load with one fault after a quarter of it; its outcomes, and how many requests were sent beside it.
fn period_with(
    fault: Fault,
    wharf: &Wharf,
    postgres: &Postgres,
    period: Duration,
) -> anyhow::Result<(Outcomes, u64)> {
    thread::scope(|scope| {
        let load = scope.spawn(|| offer(wharf, RATE, period));
        thread::sleep(period / 4);
        let more = happen(fault, wharf, postgres);
        let outcomes = load.join().expect("it does not panic")?;
        Ok((outcomes, more?))
    })
}

/// Returns how many requests it sent itself.
fn happen(fault: Fault, wharf: &Wharf, postgres: &Postgres) -> anyhow::Result<u64> {
    match fault {
        Fault::Terminated => drop(postgres.terminate_backends()),
        Fault::Suspended => {
            let _suspended = postgres.suspend();
            thread::sleep(TROUBLE);
        }
        Fault::Restarted => {
            postgres.stop();
            thread::sleep(TROUBLE);
            postgres.start_again();
        }
        Fault::Reloaded => wharf.signal("HUP"),
        Fault::Left => return leave(wharf),
        Fault::Burst => return Ok(offer(wharf, RATE * BURST, TROUBLE)?.sent),
    }
    Ok(0)
}

/// Every second one sends a request before it goes.
fn leave(wharf: &Wharf) -> anyhow::Result<u64> {
    let mut sent = 0;
    for client in 0..LEAVING {
        let mut stream = TcpStream::connect(wharf.address())?;
        if client % 2 == 1 {
            stream.write_all(&get("/slow"))?;
            sent += 1;
        }
    }
    Ok(sent)
}

fn offer(wharf: &Wharf, rate: f64, length: Duration) -> anyhow::Result<Outcomes> {
    let write = b"POST /note HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_vec();
    let requests = [get("/slow"), get("/fast"), write, get("/fast")];
    Ok(generator::run(wharf.address(), Load { requests: &requests, rate, length })?)
}

impl Held {
    /// Waits until the server has as many sessions as its pool, and no more descriptors and threads than `before`.
    /// After [`SETTLING`] it returns the state as it is.
    fn settled(wharf: &Wharf, postgres: &Postgres, before: Option<Self>) -> anyhow::Result<Self> {
        let until = Instant::now() + SETTLING;
        loop {
            let now = Self { usage: Usage::now(wharf.id())?, sessions: postgres.sessions("true") };
            let is_settled = match before {
                // Nothing tells when descriptors are as few as they will be, but that they no longer change.
                None => false,
                Some(before) => {
                    now.sessions == before.sessions
                        && now.usage.descriptors <= before.usage.descriptors
                        && now.usage.threads <= before.usage.threads
                }
            };
            if is_settled || Instant::now() >= until {
                return Ok(now);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn claims(report: &mut Report, first: Held, last: Held) {
    let memory = format!("{} → {} MiB", mebibytes(first.usage.resident), mebibytes(last.usage.resident));
    let holds = last.usage.resident <= first.usage.resident + GROWTH_MAX;
    report.claim("memory ends within 4 MiB of the first round's", &memory, holds);
    let mut same = |what: &str, first: u64, last: u64| {
        report.claim(&format!("{what} end where they began"), &format!("{first} → {last}"), last <= first);
    };
    same("descriptors", first.usage.descriptors as u64, last.usage.descriptors as u64);
    same("threads", first.usage.threads, last.usage.threads);
    let sessions = format!("{} → {}", first.sessions, last.sessions);
    report.claim("database sessions end where they began", &sessions, last.sessions == first.sessions);
}
