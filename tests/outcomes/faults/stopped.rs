//! A server that is not there: it refuses connections, is restarted, or ends at once.

use std::time::Instant;

use super::bounds::{Bounds, within_bounds};
use super::load::{Load, during, expect_in_time, expect_resumed};
use super::served::{RESUMED, Served, Work};
use crate::support::{PATIENCE, Postgres};

const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// A write that was answered with 200 must still be in the database after a crash.
const DURABLE: &str = "-c synchronous_commit=on";

#[test]
fn refused_connections_are_503_at_once_and_service_resumes_by_itself() {
    within_bounds(|bounds| {
        let cluster = Postgres::start_with("true", DURABLE);
        let served = Served::start(&cluster);
        let (mut answers, ()) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            cluster.stop_fast();
            load.wait_for_refused(40);
        });
        expect_in_time(bounds, &answers);
        served.expect_refusals_at_once(bounds);
        let (later, back) = during(&served, &ALL, |load| {
            load.wait_for_refused(8);
            cluster.start_again();
            resumed(load, &cluster)
        });
        expect_in_time(bounds, &later);
        expect_resumed(bounds, &later, back);
        answers.extend(later);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn a_database_that_leaves_before_the_first_request_is_waited_for() {
    within_bounds(|bounds| {
        let cluster = Postgres::start_with("true", DURABLE);
        let served = Served::start(&cluster);
        cluster.stop();
        served.expect_refusals_at_once(bounds);
        cluster.start_again();
        let back = cluster.answers();
        let mut asker = served.asker();
        let until = Instant::now() + PATIENCE;
        let first = loop {
            let answer = asker.ask(Work::Echo);
            if answer.is_good() {
                break answer;
            }
            assert!(Instant::now() < until, "it does not come back: {}", answer.detail);
        };
        bounds.expect("the first good answer", (first.sent + first.took) - back, RESUMED);
        drop(asker);
        served.settle(&cluster, &[first]);
    });
}

#[test]
fn a_fast_restart_costs_no_more_than_what_ran() {
    restarts(Postgres::restart_fast);
}

#[test]
fn an_immediate_shutdown_costs_no_more_than_what_ran() {
    restarts(|cluster| {
        cluster.stop();
        cluster.start_again();
    });
}

fn restarts(restart: fn(&Postgres)) {
    within_bounds(|bounds: &mut Bounds| {
        let cluster = Postgres::start_with("true", DURABLE);
        let served = Served::start(&cluster);
        let (answers, back) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            restart(&cluster);
            resumed(load, &cluster)
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        served.settle(&cluster, &answers);
    });
}

/// Waits for the database, and then for long enough to see that it is served from again.
fn resumed(load: &Load, cluster: &Postgres) -> Instant {
    let back = cluster.answers();
    load.go_on_after(back);
    back
}
