//! Clients that ask without end while the database breaks.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::bounds::Bounds;
use super::served::{Answered, DEADLINE, GRACE, RESUMED, Served, Work};
use crate::support::PATIENCE;

/// Twice the workers: some requests always wait for one.
const CLIENTS: usize = 8;

/// A client's pause after a refusal, so that a fault takes no more of the machine than a load does.
const PAUSE: Duration = Duration::from_millis(2);

/// More than any test needs: a limit.
const REQUESTS_MAX: usize = 20_000;

/// The clients, as the code that breaks the database sees them.
#[derive(Default)]
pub(crate) struct Load {
    state: Mutex<State>,
    grown: Condvar,
}

/// The answers so far.
#[derive(Default)]
struct State {
    answers: Vec<Answered>,
    good: usize,
    /// A client did not get what it must.
    failed: bool,
}

/// Reports a client that fails, so that the test does not wait for it.
struct Watch<'a>(&'a Load);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().failed = true;
            self.0.grown.notify_all();
        }
    }
}

impl State {
    fn refused(&self) -> usize {
        self.answers.len() - self.good
    }
}

/// Lets clients ask in turn for this `work` for as long as `fault` takes. All answers, and what `fault` returns.
pub(crate) fn during<T>(
    served: &Served,
    work: &[Work],
    fault: impl FnOnce(&Load) -> T,
) -> (Vec<Answered>, T) {
    let load = Load::default();
    let returned = thread::scope(|scope| {
        let (going_on, ended) = bounded::<()>(0);
        for client in 0..CLIENTS {
            let (load, ended) = (&load, ended.clone());
            scope.spawn(move || load.ask(served, work, client, &ended));
        }
        let returned = fault(&load);
        drop(going_on);
        returned
    });
    let answers = load.state.into_inner().expect("no thread panics while it holds the answers").answers;
    // Helps to explain a failure in the output of a failed test.
    eprintln!("answers: {}", summary(&answers));
    (answers, returned)
}

impl Load {
    fn ask(&self, served: &Served, work: &[Work], client: usize, ended: &Receiver<()>) {
        let until = Instant::now() + PATIENCE;
        let _watch = Watch(self);
        let mut asker = served.asker();
        for work in work.iter().cycle().skip(client).take(REQUESTS_MAX) {
            let answer = asker.ask(*work);
            let pause = if answer.is_good() { Duration::ZERO } else { PAUSE };
            self.note(answer);
            self.grown.notify_all();
            let is_over = ended.recv_timeout(pause).is_err_and(|error| error.is_disconnected());
            if is_over || Instant::now() >= until {
                return;
            }
        }
    }

    fn note(&self, answer: Answered) {
        let mut state = self.lock();
        state.good += usize::from(answer.is_good());
        state.answers.push(answer);
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let state = self.lock();
        let (state, result) = self
            .grown
            .wait_timeout_while(state, PATIENCE, |state| !state.failed && !holds(state))
            .expect("no thread panics while it holds the answers");
        let (failed, came) = (state.failed, summary(&state.answers));
        // The clients go on with it while this thread panics.
        drop(state);
        assert!(!failed, "a client has failed");
        assert!(!result.timed_out(), "{what}; {came}");
    }

    /// Waits for `count` more answers with any status.
    pub(crate) fn wait_for_any(&self, count: usize) {
        let wanted = self.lock().answers.len() + count;
        self.wait_until("answers do not come", |state| state.answers.len() >= wanted);
    }

    /// Waits for `count` more good answers.
    pub(crate) fn wait_for_good(&self, count: usize) {
        let wanted = self.lock().good + count;
        self.wait_until("good answers do not come", |state| state.good >= wanted);
    }

    /// Waits for `count` more answers that are not good.
    pub(crate) fn wait_for_refused(&self, count: usize) {
        let wanted = self.lock().refused() + count;
        self.wait_until("refusals do not come", |state| state.refused() >= wanted);
    }

    /// Goes on for long enough to see whether service resumes in time after `back`.
    pub(crate) fn go_on_after(&self, back: Instant) {
        let enough = back + RESUMED + Duration::from_millis(300);
        self.wait_until("nothing is answered any more", |state| {
            state.answers.iter().rev().take(CLIENTS).any(|answer| answer.sent >= enough)
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the answers")
    }
}

/// Every request had its answer in time.
pub(crate) fn expect_in_time(bounds: &mut Bounds, answers: &[Answered]) {
    let slowest = answers.iter().max_by_key(|answer| answer.took).expect("something was asked");
    let late = answers.iter().filter(|answer| answer.took > DEADLINE + GRACE).count();
    let what =
        format!("{late} of {} answers are late; the slowest, {}", answers.len(), tell(slowest, answers));
    bounds.expect(&what, slowest.took, DEADLINE + GRACE);
}

/// From one second after `back` everything is served.
pub(crate) fn expect_resumed(bounds: &mut Bounds, answers: &[Answered], back: Instant) {
    let failed = |answer: &&Answered| answer.sent >= back && !answer.is_good();
    let last = answers.iter().filter(failed).max_by_key(|answer| answer.sent);
    if let Some(last) = last {
        let what = format!("the last failure after the database was back, {}", tell(last, answers));
        bounds.expect(&what, last.sent - back, RESUMED);
    }
    let after = |answer: &&Answered| answer.sent >= back + RESUMED;
    assert!(answers.iter().filter(after).count() > 0, "nothing was asked after the fault");
}

/// An answer, and what tells a server that is slow from a machine that is.
fn tell(answer: &Answered, answers: &[Answered]) -> String {
    let during = answer.sent..=answer.sent + answer.took;
    let others = answers.iter().filter(|other| during.contains(&(other.sent + other.took))).count() - 1;
    format!("{answer:?}, during which others had {others} answers")
}

/// How many of each status there are, with one of each kind of detail.
pub(crate) fn summary(answers: &[Answered]) -> String {
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let of = |status: u16| {
        let same = answers.iter().filter(move |answer| answer.status == status);
        let detail = same.clone().next_back().map_or("", |answer| answer.detail.as_str());
        format!("{} times {status} {detail}", same.count())
    };
    statuses.into_iter().map(of).collect::<Vec<_>>().join("; ")
}
