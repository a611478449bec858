//! A database that says nothing: suspended, or behind a network that drops packets or takes no connections.

use std::time::{Duration, Instant};

use wharf::server::{Drained, Server};

use super::bounds::{Bounds, within_bounds};
use super::forwarder::Forwarder;
use super::load::{during, expect_in_time, expect_resumed};
use super::network::Network;
use super::served::{Answered, Served, WORKERS, Work, on_postgres, schema};
use crate::support::{Postgres, ask, config_on, wait_until};

const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// A database server that keeps its connections and answers nothing used to be the worst fault: no error shows that it
/// is away.
#[test]
fn a_suspended_server_costs_no_request_its_deadline_and_no_worker() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let served = Served::start(&cluster);
        let end = |suspended| {
            drop(suspended);
            cluster.answers()
        };
        let answers = silence(bounds, &served, || cluster.suspend(), end);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn a_path_that_forwards_nothing_more_is_a_database_that_is_down() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let forwarder = Forwarder::to(cluster.port());
        let served = behind(&cluster, &forwarder);
        let end = |()| {
            forwarder.open();
            Instant::now()
        };
        let answers = silence(bounds, &served, || forwarder.close(), end);
        served.settle(&cluster, &answers);
    });
}

/// Idle sessions that were silent for `keepalive_time` were validated one after the other by the thread that also handed new sessions
/// over. A pool of 100 was good again 33 seconds after its database.
#[test]
fn a_pool_of_any_size_is_good_again_soon_after_its_database() {
    /// The time during which nothing passes.
    const OUTAGE: Duration = Duration::from_millis(2500);
    /// A tenth of it is enough where no other process wants a core.
    const SOON: Duration = Duration::from_secs(1);
    for size in [10, 100] {
        within_bounds(|bounds| {
            let cluster = Postgres::start();
            let forwarder = Forwarder::to(cluster.port());
            let mut config = config_on(
                format!("postgres://postgres@127.0.0.1:{}/postgres", forwarder.port()),
                "[endpoint.one]\nroute = 'GET /one'\nsql = 'select 1'\nreturns = 'value'\n",
            );
            config.server.workers = Some(16);
            let pool = &mut config.database;
            (pool.maximum_pool_size, pool.minimum_idle) = (size, Some(size));
            // All idle sessions are to be validated as soon as the outage begins.
            pool.keepalive_time = Duration::from_millis(100);
            let server = Server::new(config).expect("the database is there").start().expect("a free port");
            let gauges = || server.observer().gauges().pool.expect("there is a pool");
            wait_until("the pool is not filled", || gauges().open as usize == size);
            forwarder.close();
            let began = Instant::now();
            while began.elapsed() < OUTAGE {
                assert!([503, 504].contains(&ask(&server, "/one").answer().status));
            }
            forwarder.open();
            let back = Instant::now();
            while ask(&server, "/one").answer().status != 200 {}
            bounds.expect(&format!("{size} sessions: the first good answer"), back.elapsed(), SOON);
            for _ in 0..200 {
                let good = ask(&server, "/one").answer().status == 200;
                bounds.hold(good || back.elapsed() < SOON, || {
                    format!("{size} sessions: refused after {SOON:?}")
                });
            }
            assert_eq!(server.drain(), Drained::Complete);
        });
    }
}

#[test]
fn a_full_backlog_where_connecting_hangs_is_a_database_that_is_down() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let forwarder = Forwarder::to(cluster.port());
        let served = behind(&cluster, &forwarder);
        let end = |full| {
            forwarder.drain(full);
            Instant::now()
        };
        let answers = silence(bounds, &served, || forwarder.fill(), end);
        served.settle(&cluster, &answers);
    });
}

/// As root. Elsewhere the forwarder's tests stand for it.
#[test]
fn a_network_that_drops_packets_is_a_database_that_is_down() {
    within_bounds(|bounds| {
        let Some(network) = Network::new() else { return };
        let (prepare, options) = Network::settings();
        let at_database = network.at_database();
        let at_database: Vec<&str> = at_database.iter().map(String::as_str).collect();
        let cluster = Postgres::start_within(&at_database, &prepare, options);
        cluster.psql("postgres", &schema());
        let script = format!("exec {} \"$0\" \"$@\"", network.at_server().join(" "));
        let config = on_postgres(&Network::url(cluster.port()), WORKERS);
        let mut served = Served::start_by(&script, &config);
        served.warm_up(&cluster, WORKERS);
        let end = |()| {
            network.pass_packets();
            Instant::now()
        };
        let answers = silence(bounds, &served, || network.drop_packets(), end);
        served.settle(&cluster, &answers);
    });
}

fn behind(cluster: &Postgres, forwarder: &Forwarder) -> Served {
    cluster.psql("postgres", &schema());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", forwarder.port());
    Served::start_on(cluster, &url)
}

/// The fault under load, from what `begin` does to what `end` does, which says when it was over; and what holds during it and
/// after. All answers.
fn silence<H>(
    bounds: &mut Bounds,
    served: &Served,
    begin: impl FnOnce() -> H,
    end: impl FnOnce(H) -> Instant,
) -> Vec<Answered> {
    let (mut answers, held) = during(served, &ALL, |load| {
        load.wait_for_good(40);
        let held = begin();
        // Each client has been refused more than once, and some requests have waited for a worker.
        load.wait_for_refused(4 * WORKERS);
        held
    });
    expect_in_time(bounds, &answers);
    served.expect_refusals_at_once(bounds);
    let (later, back) = during(served, &ALL, |load| {
        load.wait_for_refused(8);
        let back = end(held);
        load.go_on_after(back);
        back
    });
    expect_in_time(bounds, &later);
    expect_resumed(bounds, &later, back);
    answers.extend(later);
    answers
}
