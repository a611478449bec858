//! A database that stops taking writes, as after a failover.

use std::time::Instant;

use super::bounds::within_bounds;
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{Answered, Served, Work};
use crate::support::{Postgres, Wharf, wait_until};

const READS: [Work; 2] = [Work::Echo, Work::Slow];
const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// wharf's sessions state themselves whether their transactions may write, so the database's default has no effect.
#[test]
fn a_default_of_read_only_changes_nothing() {
    within_bounds(|bounds| {
        let cluster = Postgres::start();
        let served = Served::start(&cluster);
        let reload = |setting: &str| {
            cluster.psql("postgres", setting);
            cluster.psql("postgres", "select pg_reload_conf()");
            wait_until("the setting does not arrive", || {
                let on = cluster.psql("postgres", "show default_transaction_read_only") == "on";
                on == setting.ends_with("on")
            });
        };
        let (answers, ended) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            reload("alter system set default_transaction_read_only = on");
            load.wait_for_good(100);
            // New sessions begin with the default.
            cluster.terminate_backends();
            let ended = Instant::now();
            load.go_on_after(ended);
            reload("alter system reset default_transaction_read_only");
            load.wait_for_good(40);
            ended
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, ended);
        served.settle(&cluster, &answers);
    });
}

#[test]
fn a_standby_serves_reads_and_refuses_writes_until_it_is_promoted() {
    within_bounds(|bounds| {
        let cluster = Postgres::start_with("true", "-c synchronous_commit=on");
        let served = Served::start(&cluster);
        let (answers, (back, promoting, promoted)) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            cluster.demote();
            let back = cluster.answers();
            load.go_on_after(back);
            let promoting = Instant::now();
            cluster.promote();
            let promoted = Instant::now();
            load.go_on_after(promoted);
            (back, promoting, promoted)
        });
        expect_in_time(bounds, &answers);
        let is_read = |answer: &&Answered| READS.contains(&answer.work);
        let reads: Vec<_> = answers.iter().filter(is_read).cloned().collect();
        expect_resumed(bounds, &reads, back);
        expect_resumed(bounds, &answers, promoted);
        let between = |answer: &&Answered| answer.sent > back && answer.sent + answer.took < promoting;
        let writes = answers.iter().filter(|answer| answer.work == Work::Transfer).filter(between);
        assert!(writes.clone().count() > 0, "nothing was written to the standby");
        assert!(writes.clone().all(|answer| !answer.is_good()), "a standby has taken a write");
        served.settle(&cluster, &answers);
    });
}

/// The command that begins the writing transaction may fail first, or the statement itself, or the transaction without
/// a fault of either.
#[test]
fn only_writes_are_told_to_come_back() {
    let cluster = Postgres::start();
    cluster.psql(
        "postgres",
        "create table t (x int); \
         create function put() returns int language sql as 'insert into t values (1) returning x'",
    );
    cluster.demote();
    let wharf = Wharf::start(&format!(
        "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\n\
         [endpoint.backend]\nroute = 'GET /backend'\nreturns = 'value'\nsql = 'select pg_backend_pid() as pid'\n\
         [endpoint.wrong]\nroute = 'GET /wrong'\nreturns = 'value'\nsql = 'select put() as x'\n\
         [endpoint.single]\nroute = 'POST /single'\nreturns = 'none'\nsql = 'insert into t values (1)'\n\
         [endpoint.steps]\nroute = 'POST /steps'\nreturns = 'value'\n\
         step = [{{ sql = 'insert into t values (1)' }}, {{ sql = 'select 1 as x' }}]\n\
         [endpoint.looks]\nroute = 'POST /looks'\nreturns = 'value'\n\
         step = [{{ sql = 'select 1 as x' }}, {{ sql = 'select 2 as x' }}]\n",
        cluster.url()
    ));
    let backend = || wharf.get("/backend").text().to_owned();
    let before = backend();
    assert_eq!(wharf.get("/wrong").status, 500, "it has no business to write");
    assert_eq!(backend(), before);
    for path in ["/single", "/steps", "/looks"] {
        let before = backend();
        let mut client = wharf.connect();
        client.request("POST", path, &[], "");
        let answer = client.answer();
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert!(answer.header("Retry-After").is_some(), "{path}");
        assert_eq!(answer.json()["detail"], "the database accepts no writes now", "{path}");
        assert_ne!(backend(), before, "{path}: the next may reach another server");
    }
}
