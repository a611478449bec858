//! A database that has no room for more sessions.

use std::time::Instant;

use super::bounds::within_bounds;
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{Served, Work, on_postgres, schema};
use crate::support::{PATIENCE, Postgres, Wharf, wait_until};

const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// Sessions for others than superusers.
const PLACES: usize = 6;

/// The server logs this for each attempt that finds no place.
const NO_PLACE: &str = "remaining connection slots are reserved";

/// Attempts a second that a database without a place may have to refuse.
const ATTEMPTS_MAX: f64 = 6.0;

#[test]
fn without_any_place_requests_are_503_at_once_until_there_is_one() {
    within_bounds(|bounds| {
        let cluster = cluster();
        let served = Served::start_on(&cluster, &url(&cluster));
        let foreign = take_places(&cluster, PLACES);
        served.expect_refusals_at_once(bounds);
        let (answers, back) = during(&served, &ALL, |load| {
            load.wait_for_refused(8);
            drop(foreign);
            let back = Instant::now();
            load.go_on_after(back);
            back
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn with_some_of_its_connections_everything_is_served_by_those() {
    const LEFT: usize = 2;
    within_bounds(|bounds| {
        let cluster = cluster();
        let served = Served::start_on(&cluster, &url(&cluster));
        let foreign = take_places(&cluster, PLACES - LEFT);
        assert_eq!(cluster.sessions("true"), LEFT, "sessions that the pool keeps");
        let (mut answers, attempts) = during(&served, &[Work::Echo, Work::Transfer], |load| {
            // Requests whose session ended while it was lent are answered 503. The count starts later, because the first
            // attempts follow each other more closely.
            load.go_on_after(Instant::now());
            attempts(&cluster, || load.go_on_after(Instant::now()))
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, answers[0].sent);
        bounds.hold(attempts <= ATTEMPTS_MAX, || format!("{attempts} attempts a second"));
        let (later, back) = during(&served, &ALL, |load| {
            drop(foreign);
            let back = Instant::now();
            load.go_on_after(back);
            back
        });
        expect_resumed(bounds, &later, back);
        answers.extend(later);
        served.settle(&cluster, &answers);
    });
}

/// It lives with what it gets.
#[test]
fn a_pool_larger_than_its_database_serves_with_what_it_gets() {
    within_bounds(|bounds| {
        let cluster = cluster();
        let mut served = Served::over(Wharf::start(&on_postgres(&url(&cluster), 3 * PLACES)));
        served.warm_up(&cluster, PLACES);
        let (answers, attempts) = during(&served, &ALL, |load| {
            // The first attempts follow each other more closely.
            load.go_on_after(Instant::now());
            attempts(&cluster, || load.go_on_after(Instant::now()))
        });
        // Another session would take the place of one that is opened again.
        wait_until("the pool does not fill again", || cluster.sessions("true") == PLACES);
        served.expect_all_workers(&cluster, PLACES);
        expect_in_time(bounds, &answers);
        let refused = answers.iter().filter(|answer| !answer.is_good()).count();
        bounds.hold(refused == 0, || format!("{refused} of {} refused", answers.len()));
        bounds.hold(attempts <= ATTEMPTS_MAX, || format!("{attempts} attempts a second"));
        assert_eq!(cluster.sessions("true"), PLACES);
        served.expect_nothing_kept();
        served.expect_account();
    });
}

/// A cluster with few connection slots, and a role that has no right to the reserved ones.
fn cluster() -> Postgres {
    let options = format!("-c max_connections={} -c superuser_reserved_connections=5", PLACES + 5);
    let cluster = Postgres::start_with("true", &options);
    cluster.psql("postgres", &schema());
    cluster.psql("postgres", "create role app login; grant all on all tables in schema public to app");
    cluster
}

fn url(cluster: &Postgres) -> String {
    format!("postgres://app@127.0.0.1:{}/postgres", cluster.port())
}

/// Takes `count` connection slots, and the pool's slots if no other is free.
fn take_places(cluster: &Postgres, count: usize) -> Vec<postgres::Client> {
    let (mut taken, until) = (Vec::new(), Instant::now() + PATIENCE);
    while taken.len() < count {
        match cluster.connect("app") {
            Ok(session) => taken.push(session),
            // A place is free a moment after its session has ended.
            Err(_) if cluster.sessions("true") > PLACES - count => cluster.terminate_some(1),
            Err(_) => {}
        }
        assert!(Instant::now() < until, "{} places of {count} in time", taken.len());
    }
    taken
}

/// How many attempts a second find no place while `wait` waits.
fn attempts(cluster: &Postgres, wait: impl FnOnce()) -> f64 {
    let refused = || cluster.server_log().matches(NO_PLACE).count();
    let (before, started) = (refused(), Instant::now());
    wait();
    f64::from(u32::try_from(refused() - before).expect("a count")) / started.elapsed().as_secs_f64()
}
