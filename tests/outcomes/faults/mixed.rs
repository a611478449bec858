//! Faults that follow each other, before the one before is got over.

use super::bounds::within_bounds;
use super::forwarder::Forwarder;
use super::load::{Load, during, expect_in_time, expect_resumed};
use super::served::{Served, Work, schema};
use crate::support::Postgres;

use fastrand::Rng;

const ALL: [Work; 5] = [Work::Echo, Work::Transfer, Work::Slow, Work::Transfer, Work::Slow];

/// The number of faults in a row.
const FAULTS: usize = 12;

#[test]
fn faults_at_random_mix_up_no_requests_and_lose_nothing() {
    for seed in [1, 2] {
        within_bounds(|bounds| {
            let mut rng = Rng::with_seed(seed);
            let cluster = Postgres::start_with("true", "-c synchronous_commit=on");
            cluster.psql("postgres", &schema());
            let forwarder = Forwarder::to(cluster.port());
            let url = format!("postgres://postgres@127.0.0.1:{}/postgres", forwarder.port());
            let served = Served::start_on(&cluster, &url);
            let (answers, back) = during(&served, &ALL, |load| {
                for _ in 0..FAULTS {
                    if rng.bool() {
                        load.wait_for_good(rng.usize(1..30));
                    }
                    happen(&mut rng, &cluster, &forwarder, load);
                }
                let back = cluster.answers();
                load.go_on_after(back);
                back
            });
            expect_in_time(bounds, &answers);
            expect_resumed(bounds, &answers, back);
            served.settle(&cluster, &answers);
        });
    }
}

/// One fault, for as long as some requests take to be answered one way or the other.
fn happen(rng: &mut Rng, cluster: &Postgres, forwarder: &Forwarder, load: &Load) {
    let wait = |load: &Load, rng: &mut Rng| load.wait_for_any(rng.usize(1..24));
    match rng.u8(0..6) {
        0 => drop(cluster.terminate_backends()),
        1 => {
            let _suspended = cluster.suspend();
            wait(load, rng);
        }
        2 => {
            forwarder.close();
            wait(load, rng);
            forwarder.open();
        }
        3 => {
            let full = forwarder.fill();
            wait(load, rng);
            forwarder.drain(full);
        }
        4 => forwarder.cut(),
        _ => {
            cluster.stop();
            wait(load, rng);
            cluster.start_again();
        }
    }
}
