//! Each state of a server on the page and in `wharf top`: why, since when and what now stand on top, and nothing is cut.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use super::browser::Browser;
use super::page::ANOTHER;
use super::top::{TOP, ended, in_a_terminal};
use super::{CONFIG, Held};
use crate::support::{Client, Postgres, Wharf, wait_until};

/// Finds what is cut, what overlaps, and what has neither unit nor key.
const LAYOUT: &str = include_str!("layout.js");

/// The texts of a condition's box.
const SAID: &str = "Object.fromEntries([...document.querySelectorAll('#conditions > *')].map((box) => [box.dataset.condition, \
    [...box.querySelectorAll('[data-what]')].map((part) => part.textContent)]))";

pub(super) fn stats(wharf: &Wharf) -> Value {
    let mut client = Client::connect(wharf.admin_address());
    client.request("GET", "/stats", &[], "");
    client.answer().json()
}

/// The server is in this state and these conditions, and the page shows them and `wharf top` too. `parts` stand in the sentences.
fn assert_shown(browser: &mut Browser, wharf: &Wharf, state: &str, conditions: &[(&str, &[&str])]) {
    let kinds: Vec<&str> = conditions.iter().map(|(kind, _)| *kind).collect();
    let kinds_of = |stats: &Value| {
        let all = stats["conditions"].as_array().expect("a list").iter();
        all.map(|condition| condition["kind"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    wait_until("it is in this state", || stats(wharf)["state"] == state && kinds_of(&stats(wharf)) == kinds);
    browser.go(&format!("http://{}/", wharf.admin_address()));
    browser.wait_until(ANOTHER);
    browser.wait_until(&format!(
        "[...document.querySelectorAll('#conditions > *')].map((box) => box.dataset.condition).join() === '{}'",
        kinds.join(",")
    ));
    let said = browser.evaluate(SAID);
    for (kind, parts) in conditions {
        let [times, why, now, advice] =
            [0, 1, 2, 3].map(|part| said[kind][part].as_str().unwrap_or_default());
        assert!(times.starts_with("since ") && times.contains(", for "), "{said}");
        assert!(why.len() > 10 && now.len() > 10 && advice.len() > 10, "{said}");
        let all = format!("{why} {now} {advice}");
        parts.iter().for_each(|part| assert!(all.contains(part), "no {part:?} in {all}"));
    }
    for width in [390, 1024, 1440] {
        browser.resize(width);
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            browser.wait_until(ANOTHER);
            let faults = browser.evaluate(LAYOUT);
            assert_eq!(faults, json!([]), "{state} {kinds:?} at {width}, {scheme}");
        }
    }
    for (columns, rows) in [(80, 24), (200, 50)] {
        let lines = on_a_terminal(wharf, columns, rows);
        let text = lines.join("\n");
        assert!(lines.len() <= rows && lines.iter().all(|line| line.chars().count() <= columns), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("in all requests ") && words.contains("ENDPOINT"), "{text}");
        for (_, parts) in conditions {
            parts.iter().for_each(|part| {
                assert!(words.contains(part), "no {part:?} at {columns} × {rows} in\n{text}");
            });
        }
        let last = stats(wharf)["conditions"][0]["advice"].as_str().unwrap_or_default().to_owned();
        assert!(words.contains(last.split_whitespace().last().unwrap_or_default()), "{text}");
    }
    let address = wharf.admin_address().to_string();
    let shown = Wharf::run("", &["top", &address, "--once"], &[]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let words = shown.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for (_, parts) in conditions {
        parts.iter().for_each(|part| assert!(words.contains(part), "no {part:?} in\n{}", shown.stdout));
        assert!(words.contains(" since ") && words.contains(" UTC, for "), "{}", shown.stdout);
    }
}

/// The lines that `wharf top` draws on a terminal of this size.
fn on_a_terminal(wharf: &Wharf, columns: usize, rows: usize) -> Vec<String> {
    let shell =
        format!("stty cols {columns} rows {rows}; {TOP} top {} --interval 100ms", wharf.admin_address());
    let (child, mut keys, mut screen) = in_a_terminal(&shell, |command| {
        command.env("NO_COLOR", "1");
    });
    // A whole screen begins with a move to its corner and ends with this sequence.
    screen.wait_until("a screen of figures", |text| {
        text.rsplit_once("ENDPOINT").is_some_and(|(_, rest)| rest.contains("\x1b[J"))
    });
    keys.write_all(b"q").expect("it reads keys");
    assert_eq!(ended(child), Some(0));
    let (whole, _) = screen.text.rsplit_once("\x1b[J").expect("it was waited for");
    let (_, whole) = whole.rsplit_once("\x1b[H").expect("a screen begins at its corner");
    // The terminal turns each line feed into two characters.
    whole.split('\n').map(|line| line.trim_end_matches('\r').replace("\x1b[K", "")).collect()
}

#[test]
fn a_ready_and_a_saturated_server() {
    let mut browser = Browser::open(1440);
    let mut held = Held::start(&[]);
    for n in 0..20 {
        assert_eq!(held.wharf.get(&format!("/works/{n}")).status, 200);
    }
    assert_shown(&mut browser, &held.wharf, "ready", &[]);
    held.fill();
    let parts = [
        "4 of 4 workers are busy and 5 requests wait, the oldest for ",
        "GET /waits holds 4 of the workers, ",
        "mostly waiting for the database",
        "At most 5 requests wait",
        "max_concurrency = 2 for GET /waits leaves 2 workers to the others.",
        "wharf tune",
    ];
    assert_shown(&mut browser, &held.wharf, "saturated", &[("saturated", &parts)]);
    let mut admin = Client::connect(held.wharf.admin_address());
    admin.request("GET", "/ready", &[], "");
    assert!(!admin.answer().text().contains("saturated"), "a full queue alone is no reason against traffic");
    held.release();
}

#[test]
fn a_session_that_is_held_too_long() {
    let mut browser = Browser::open(1440);
    let config = CONFIG.replace("minimum_idle = 3", "minimum_idle = 3\nleak_detection_threshold = '1s'");
    let mut held = Held::start_on(&config, &[]);
    held.occupy(1);
    let parts = [
        "has had a database session for ",
        " for GET /waits, and is waiting for the database.",
        "1 of 3 sessions are lent.",
        "database.leak_detection_threshold is 1.0 s",
    ];
    assert_shown(&mut browser, &held.wharf, "ready", &[("leak", &parts)]);
    held.release();
}

#[test]
fn a_reload_that_was_refused() {
    let mut browser = Browser::open(1440);
    let held = Held::start(&[]);
    let file = held.wharf.directory().join("wharf.toml");
    let right = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, right.replace("workers = 4", "wrokers = 4\n# only-for-tests"))
        .expect("the directory takes a file");
    held.wharf.signal("HUP");
    let parts = ["wrokers", "The configuration from before goes on. Nothing has changed.", "wharf check"];
    assert_shown(&mut browser, &held.wharf, "ready", &[("reload_refused", &parts)]);
    assert!(!stats(&held.wharf).to_string().contains("only-for-tests"), "no line of the file is shown");
    fs::write(&file, right).expect("the directory takes a file");
    held.wharf.signal("HUP");
    wait_until("the next reload succeeds", || stats(&held.wharf)["conditions"] == json!([]));
}

#[test]
fn a_server_that_drains() {
    let mut browser = Browser::open(1440);
    let mut held = Held::start(&[("WHARF_SERVER_DRAIN_TIMEOUT", "10m")]);
    held.occupy(2);
    wait_until("both are with workers", || held.stats()["pool"]["active"] == 2);
    held.wharf.signal("TERM");
    let parts =
        ["told to stop", "2 requests are left: GET /waits 2.", "cuts off what is not answered in time"];
    assert_shown(&mut browser, &held.wharf, "draining", &[("draining", &parts)]);
    let until = browser.evaluate(&format!("{SAID}.draining[0]"));
    assert!(until.as_str().is_some_and(|times| times.ends_with(" at the latest")), "{until}");
    let mut admin = Client::connect(held.wharf.admin_address());
    admin.request("GET", "/ready", &[], "");
    let details = admin.answer().json()["details"]["draining"].to_string();
    assert!(details.contains("2 requests are left"), "{details}");
    held.release();
}

#[test]
fn a_database_that_is_down() {
    let mut browser = Browser::open(1440);
    let cluster = Postgres::start();
    let config = format!(
        "database = {{ url = '{}', maximum_pool_size = 2, connection_timeout = '2s' }}\n\
         [endpoint.one]\nroute = 'GET /one'\nsql = 'select 1 as one'\n",
        cluster.url()
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/one").status, 200);
    cluster.stop();
    wait_until("it is noticed", || {
        wharf.get("/one").status == 503 && stats(&wharf)["state"] == "database_down"
    });
    let parts = [
        "Cannot open a session on ",
        "onnection refused",
        "A session is tried at least every 400 ms: ",
        " failed, ",
        "Requests for the database are refused at once with 503.",
        "Look whether the database runs",
    ];
    assert_shown(&mut browser, &wharf, "database_down", &[("database_down", &parts)]);
    let mut admin = Client::connect(wharf.admin_address());
    admin.request("GET", "/ready", &[], "");
    let details = admin.answer().json()["details"]["database"].to_string();
    assert!(details.contains("onnection refused"), "{details}");
    // The quick refusals are no latency.
    assert_eq!(wharf.get("/one").status, 503);
    wait_until("a second has only refusals", || {
        let stats = stats(&wharf);
        let seconds = stats["seconds"].as_array().expect("a list");
        seconds.iter().any(|second| second["refused"].as_u64() > Some(0) && second["p50_ms"].is_null())
    });
    cluster.start_again();
    wait_until("it is ready again", || stats(&wharf)["conditions"] == json!([]));
}
