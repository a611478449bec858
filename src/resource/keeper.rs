//! The pool's housekeeping: the care of idle sessions, and the report of sessions that are lent for too long.
//!
//! It has a thread of its own, which waits for no server. The validation of a session gets another thread for that
//! time. So a silent server delays nothing but its own answer.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::opener::Held;
use super::stock::{Fate, Loan, Stock};
use super::{Driver, Session, is_there};
use crate::base::deadline::Deadline;
use crate::base::guard::supervise;
use crate::telemetry::sparing::sparingly;

pub(super) fn start<D: Driver>(stock: &Arc<Stock<Held<D>>>) -> io::Result<()> {
    let stock = Arc::clone(stock);
    let keep = move || supervise("the pool's keeper", || {}, || run(&stock));
    thread::Builder::new().name("pool-keeper".into()).spawn(keep).map(drop)
}

fn run<D: Driver>(stock: &Arc<Stock<Held<D>>>) {
    let mut round = Instant::now();
    while let Some(call) = stock.wait_for_round(round) {
        for mut loan in stock.suspects() {
            if !loan.is_alive() {
                loan.end(Fate::Dead, Instant::now());
            }
        }
        let now = Instant::now();
        if call.is_due {
            round = now;
            stock.report_leaks(now);
        }
        // This runs at every call, not only when a round is due: the maximum may have changed.
        for mut loan in stock.retired(now) {
            loan.end(Fate::Spent, now);
        }
        let (silent, patience) = stock.silent(now);
        for loan in silent {
            validate(loan, patience);
        }
    }
}

/// Validates the session on a thread of its own. If the system refuses the thread, the next round validates the session.
fn validate<D: Driver>(mut loan: Loan<Held<D>>, patience: Duration) {
    let server = loan.server();
    let answer = move || {
        let fate = if is_there(&mut **loan, Deadline::after(patience)) { Fate::Seen } else { Fate::Dead };
        if fate == Fate::Dead {
            sparingly!(
                log::Level::Info,
                "idle sessions found dead",
                "an idle {server} session was found dead"
            );
        }
        loan.end(fate, Instant::now());
    };
    if let Err(error) = thread::Builder::new().name("pool-validator".into()).spawn(answer) {
        sparingly!(
            log::Level::Warn,
            "idle sessions that no thread could validate",
            "cannot start a thread to validate an idle {server} session: {error}"
        );
    }
}
