//! A slow endpoint flooded at 20 times what it may do, beside a fast one at half of what it can.

use std::thread;
use std::time::Duration;

use crate::accounting::Accounting;
use crate::offer;
use crate::shared::numbers::{median, milliseconds, percentile};
use crate::shared::report::Report;
use crate::support::{Postgres, Wharf};

/// Interleaved: the machine changes less from one run to the next than over all of them.
const PAIRS: u32 = 5;

/// Half of what eight connections do at 2.5 ms a query.
const FAST: f64 = 1600.0;

/// Twenty times what two connections do at 500 ms.
const FLOOD: f64 = 80.0;

pub(crate) fn run(postgres: &Postgres, length: Duration, report: &mut Report) -> anyhow::Result<()> {
    let wharf = Wharf::start(&format!(
        r#"
[database]
url = "{}"

[endpoint.slow]
route           = "GET /slow"
sql             = "select 1 as slept from pg_sleep(0.5)"
returns         = "value"
max_concurrency = 2

[endpoint.fast]
route   = "GET /fast"
sql     = "select 1 as slept from pg_sleep(0.002)"
returns = "value"
"#,
        postgres.url()
    ));
    report.part(
        "A slow endpoint flooded beside a fast one",
        "Ten connections. /slow: 500 ms, `max_concurrency = 2`, 80 requests a second where 4 can be served; /fast: 2 ms, \
         1,600 a second. Times in ms.",
    );
    report.columns(&["", "fast good/s", "p50", "p99", "refused", "slow good", "refused"]);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut sent = 0;
    for _ in 0..PAIRS {
        for flooded in [false, true] {
            let address = wharf.address();
            let (fast, slow) = thread::scope(|scope| {
                let slow = flooded.then(|| scope.spawn(|| offer(address, "/slow", FLOOD, length)));
                let fast = offer(address, "/fast", FAST, length);
                let slow = slow.map(|slow| slow.join().expect("it does not panic")).transpose();
                fast.and_then(|fast| Ok((fast, slow?)))
            })?;
            sent += fast.sent + slow.as_ref().map_or(0, |slow| slow.sent);
            let p99 = fast.good_p99();
            if flooded { &mut beside } else { &mut alone }.push(p99.as_secs_f64());
            let (good, refused) = slow.map_or((0, 0), |slow| (slow.good.len(), slow.refused.len()));
            report.row(&[
                if flooded { "flooded" } else { "alone" }.to_owned(),
                format!("{:.0}", crate::per_second(fast.good.len(), length)),
                milliseconds(percentile(&fast.good, 0.5)),
                milliseconds(p99),
                fast.refused.len().to_string(),
                good.to_string(),
                refused.to_string(),
            ]);
        }
    }
    let ratio = median(beside) / median(alone);
    report.claim(
        "the fast one's p99 rises by at most 20 %",
        &format!("{:+.0} %", (ratio - 1.0) * 100.0),
        ratio <= 1.2,
    );
    wharf.signal("TERM");
    let accounting = Accounting::of_log(&wharf.wait().stderr)?;
    report.line(&format!("\n{}\n", accounting.describe(sent)));
    let measured = format!("{sent} sent, {} accounted for", accounting.total());
    report.claim("every request has one end", &measured, accounting.total() == sent);
    Ok(())
}
