//! Sessions that an administrator ends, while they are idle, while they run, and again and again.

use std::time::{Duration, Instant};

use super::bounds::within_bounds;
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{Served, WORKERS, Work};
use crate::support::{Postgres, wait_until};

const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

#[test]
fn sessions_ended_while_idle_are_replaced() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let served = Served::start(&cluster);
        assert_eq!(cluster.terminate_backends(), WORKERS);
        let back = Instant::now();
        let (answers, ()) = during(&served, &ALL, |load| load.go_on_after(back));
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn sessions_ended_while_they_run_answer_503_at_once() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let served = Served::start(&cluster);
        let mut askers: Vec<_> = (0..WORKERS).map(|_| served.asker()).collect();
        let sent: Vec<_> = askers.iter_mut().map(|asker| asker.send(Work::Hold)).collect();
        wait_until("the requests do not run", || cluster.sessions("wait_event = 'PgSleep'") == WORKERS);
        let ended = Instant::now();
        assert_eq!(cluster.terminate_backends(), WORKERS);
        for (asker, sent) in askers.iter_mut().zip(&sent) {
            let answer = asker.answer(sent);
            assert_eq!(answer.status, 503, "{}", answer.detail);
            let took = (answer.sent + answer.took).saturating_duration_since(ended);
            bounds.expect("from the end of its session to its answer", took, Duration::from_millis(500));
        }
        drop(askers);
        let (answers, ()) = during(&served, &ALL, |load| load.go_on_after(ended));
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, ended);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn sessions_ended_again_and_again_under_load_lose_nothing() {
    const ROUNDS: usize = 10;
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let served = Served::start(&cluster);
        let (answers, back) = during(&served, &ALL, |load| {
            for _ in 0..ROUNDS {
                load.wait_for_good(40);
                cluster.terminate_backends();
            }
            let back = Instant::now();
            load.go_on_after(back);
            back
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        // Each round ends at most the requests that run on an ended session or are about to run on one.
        let refused = answers.iter().filter(|answer| !answer.is_good()).count();
        bounds.hold(refused <= ROUNDS * (WORKERS + 8), || format!("{refused} of {} refused", answers.len()));
        served.settle(&cluster, &answers);
    });
}
