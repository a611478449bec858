//! Bounds of time on a machine that is not alone.

use std::time::Duration;

/// The bounds that one run of a test has broken.
#[derive(Default)]
pub(crate) struct Bounds(Vec<String>);

impl Bounds {
    /// `what` took `took` and may take `limit`.
    pub(crate) fn expect(&mut self, what: &str, took: Duration, limit: Duration) {
        self.hold(took <= limit, || format!("{what}: {took:?}, and may be {limit:?}"));
    }

    /// Something that follows from bounds of time holds.
    pub(crate) fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// Runs a test whose bounds a busy machine may break, at most three times, each with a server of its own. Claims that
/// do not depend on time are asserted in each run.
pub(crate) fn within_bounds(run: impl Fn(&mut Bounds)) {
    const RUNS: usize = 3;
    for attempt in 1..=RUNS {
        let mut bounds = Bounds::default();
        run(&mut bounds);
        let Bounds(broken) = bounds;
        if broken.is_empty() {
            return;
        }
        eprintln!("run {attempt}:\n  {}", broken.join("\n  "));
    }
    panic!("in each of {RUNS} runs a bound of time was broken");
}
