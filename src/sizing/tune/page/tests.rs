//! Tests of pages: of a run that went well, of one that failed, and of one without a result.

use std::time::Duration;

use super::super::sweep::HOLDS;
use super::super::{
    Bound, Error, Level, Limits, Measurement, Measurements, Options, Sizes, Stop, Sweep, Tuned, decide,
};
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
    report_of(&Tuned {
        workers: Some(sweep(&[(6, 1000.0), (12, 1001.0)])),
        sizes: Some(Sizes { pool: 6, workers: 6, queue: config.queue.clone() }),
        capacity: Some(1000.0),
        proof: [70, 90, 110, 150, 1000].map(level).to_vec(),
        tightened: 1,
        ..begun(pool)
    })
}

/// A run that has measured these sizes of the pool, and nothing else.
fn begun(pool: &[(usize, f64)]) -> Tuned {
    Tuned { pool: sweep(pool), ..Tuned::begun(Limits::up_to(16)) }
}

fn report_of(tuned: &Tuned) -> Report {
    let objectives = vec!["p99<50ms".parse().expect("an objective")];
    let bound = Bound::Firm;
    let options = Options { largest: 16, bound, objectives, time: Duration::from_secs(60), seed: 1 };
    let because = "<b>because</b> & so".to_owned();
    Report::new(tuned, &Config::default(), &options, because, Duration::from_secs(50))
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

const KNEE: [(usize, f64); 6] = [(1, 170.0), (2, 340.0), (4, 680.0), (6, 1000.0), (8, 1001.0), (16, 1000.0)];

#[test]
fn what_does_not_stand_is_not_called_recommended() {
    let fails = report(&KNEE, false);
    assert!(!fails.stands && fails.recommended.is_empty() && !fails.proved_with.is_empty());
    assert!(fails.to_string().contains("not recommended: the sizes are found, but goodput does not hold"));
    let holds = report(&KNEE, true);
    assert_eq!(holds.recommended, holds.proved_with);
}

#[test]
fn a_run_that_was_stopped_keeps_its_measurements_and_says_so() {
    for sizes in [&KNEE[..], &[]] {
        let stopped = Tuned { cut_short: Some(Error::Stopped), ..begun(sizes) };
        let report = report_of(&stopped);
        assert!(!report.stands && report.proof.is_empty() && report.workers.is_none());
        assert_eq!(report.pool.sizes.len(), sizes.len());
        let (text, page) = (report.to_string(), report.page());
        assert_sound(&page);
        assert!(text.contains("nothing is recommended: the run was stopped"), "{text}");
        assert!(
            text.contains("the run ended before it was done: stopped") && !text.contains("proof"),
            "{text}"
        );
        assert!(page.contains("The run ended early") && page.contains("The run ended before it was done:"));
        let json = serde_json::to_value(&report).expect("a report is JSON");
        assert_eq!((&json["cut_short"], &json["workers"]), (&"stopped".into(), &serde_json::Value::Null));
    }
}

#[test]
fn a_proof_that_was_cut_short_does_not_hold() {
    let whole = report(&KNEE, true);
    let part = Report { proof: whole.proof[..2].to_vec(), cut_short: Some("stopped".to_owned()), ..whole };
    let page = part.page();
    assert_sound(&page);
    assert!(page.contains("the run ended before every load was offered") && !page.contains("Goodput holds"));
}

#[test]
fn connections_and_requests_at_once_on_each_are_apart() {
    let alone = report_of(&begun(&KNEE));
    assert!(!alone.shares_round_trips && !alone.to_string().contains("at once"));
    let shared: Measurements = begun(&KNEE)
        .pool
        .measurements
        .sizes()
        .iter()
        .flat_map(|size| begun(&KNEE).pool.measurements.of(size.size).to_vec())
        .map(|one| Measurement { at_once: 9.8, ..one })
        .collect();
    let pool = Sweep { measurements: shared, ..begun(&KNEE).pool };
    let report = report_of(&Tuned { crowd: Some(128), pool, ..begun(&[]) });
    let words = "requests share round trips: with 128 clients or more, each of 6 sessions carried 9.8 requests at once";
    assert!(
        report.to_string().contains(words) && report.to_string().contains("requests at once on a session")
    );
    assert!(report.page().contains(&words[1..]), "{}", report.page());
}

#[test]
fn the_page_names_the_part_that_a_level_needs() {
    let page = report(&KNEE, true).page();
    let needed = format!("at least {:.0} % of the requests that can be served were served", HOLDS * 100.0);
    assert!(page.contains(&needed) && page.contains("needed to hold"), "{page}");
}

#[test]
fn throughput_that_grows_up_to_a_default_is_not_recommended() {
    let grows = [(1, 100.0), (2, 200.0), (4, 400.0), (8, 800.0), (16, 1600.0)];
    let whole = report(&grows, true);
    assert!(whole.stands, "the database allows 16: {whole}");
    assert!(whole.to_string().contains("still growing at 16, the largest size that is allowed: take 16"));
    for (limits, words) in [
        (Limits { bound: Bound::Default, ..Limits::up_to(16) }, "--max-pool 32 tries more"),
        (Limits::up_to(97), "--time 120s has time for more"),
    ] {
        let found = sweep(&grows);
        let outcome = decide(&found.measurements, limits);
        let tuned = Tuned { pool: Sweep { limits, outcome, ..found }, ..begun(&[]) };
        let report = report_of(&tuned);
        assert!(!report.stands && report.still_growing && report.pool.size.is_none());
        assert!(report.verdict.contains("nothing is recommended: throughput still grows at 16 sessions"));
        assert!(report.verdict.contains(words), "{}", report.verdict);
    }
}
