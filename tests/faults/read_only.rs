//! A database that stops taking writes, as after a failover.

use std::time::Instant;

use super::bounds::within_bounds;
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{Answered, Served, Work};
use super::support::{Postgres, wait_until};

const READS: [Work; 2] = [Work::Echo, Work::Slow];
const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// Each session says what its transactions may do, so that a default is none of its business.
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
            // Those that come after it begin with the default.
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
fn a_standby_serves_what_reads_and_refuses_what_writes_until_it_is_promoted() {
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
