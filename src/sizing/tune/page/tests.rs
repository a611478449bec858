//! Tests of pages: of a run that went well, of one that failed, and of one without a result.

use std::time::Duration;

use super::super::{Level, Limits, Measurement, Measurements, Options, Sizes, Stop, Sweep, Tuned, decide};
use super::*;
use crate::base::chart::tests::assert_sound;
use crate::config::Config;

/// A sweep of these sizes with their throughputs, each measured four times.
fn sweep(sizes: &[(usize, f64)]) -> Sweep {
    let smallest = sizes.first().map_or(1, |(size, _)| *size);
    let limits = Limits { smallest, ..Limits::up_to(16) };
    let measurements: Measurements = sizes
        .iter()
        .flat_map(|(size, throughput)| {
            (0_u32..4).map(move |round| Measurement {
                size: *size,
                round: round as usize,
                throughput: throughput * (1.0 + 0.002 * f64::from(round)),
                p50: Duration::from_millis(3),
                p99: Duration::from_millis(9),
                at_once: 1.0,
                meets_objective: true,
            })
        })
        .collect();
    let outcome = decide(&measurements, limits);
    Sweep { limits, measurements, outcome, stop: Stop::Settled }
}

fn report(pool: &[(usize, f64)], holds: bool) -> Report {
    let config = Config::default();
    let level = |percent: u32| Level {
        percent,
        offered: 10.0 * f64::from(percent),
        good: 900.0,
        refused: f64::from(percent.saturating_sub(100)),
        p99: Duration::from_millis(20),
        refusal_p99: (percent > 100).then_some(Duration::from_millis(1)),
        kept: percent < 1000,
        holds,
    };
    let tuned = Tuned {
        pool: sweep(pool),
        workers: sweep(&[(6, 1000.0), (12, 1001.0)]),
        sizes: Sizes { pool: 6, workers: 6, queue: config.queue.clone() },
        capacity: 1000.0,
        proof: [70, 90, 110, 150, 1000].map(level).to_vec(),
        tightened: 1,
    };
    let objectives = vec!["p99<50ms".parse().expect("an objective")];
    let options = Options { largest: 16, objectives, time: Duration::from_secs(60), seed: 1 };
    Report::new(&tuned, &config, &options, "<b>because</b> & so".to_owned(), Duration::from_secs(50))
}

#[test]
fn a_page_says_what_to_take_and_what_it_rests_on() {
    let knee = report(&[(1, 170.0), (2, 340.0), (4, 680.0), (6, 1000.0), (8, 1001.0), (16, 1000.0)], true);
    let page = knee.page();
    assert_sound(&page);
    for text in [
        "Take 6 sessions and 6 workers",
        "maximum_pool_size = 6",
        "&lt;b&gt;because&lt;/b&gt; &amp; so",
        "p99&lt;50ms",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

#[test]
fn a_page_without_a_recommendation_is_sound_too() {
    for (sizes, holds) in [(&[(1, 100.0), (2, 200.0)][..], false), (&[(1, 0.0)], true), (&[], false)] {
        let page = report(sizes, holds).page();
        assert_sound(&page);
        assert!(page.contains("No sizes to recommend"), "{page}");
    }
}
