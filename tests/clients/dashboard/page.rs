//! The page in a browser.

use serde_json::{Value, json};

use super::browser::Browser;
use super::{Held, at};
use crate::nginx::under_a_path;
use crate::support::{Forwarder, Wharf, wait_until};

/// The accessibility checks of axe-core 4.14.1 (MPL-2.0), as its package has them.
const AXE: &str = include_str!("axe-core/axe.min.js");

/// Another event has come since the page was loaded or this was run last.
pub(super) const ANOTHER: &str = "(document.documentElement.dataset.uptime || '') > '' && \
    (window.before === document.documentElement.dataset.uptime ? false : (window.before = document.documentElement.dataset.uptime, true))";

/// Every figure with the path that it is found at, and its value as text.
const FIGURES: &str = "[...document.querySelectorAll('[data-figure]')].map((figure) => [figure.dataset.figure, figure.dataset.value])";

/// How many workers or connections are shown as each kind: in the row of cells, and beside it in numbers.
const KINDS: &str = "[...document.querySelectorAll('#workers-legend data, #pool-legend data')].map((data) => [data.dataset.kind, \
    Number(data.value), document.querySelectorAll(`.cells > .cell.${data.dataset.kind}`).length])";

/// The figures that change from one look to the next, whatever the server does.
const MOVING: [&str; 5] =
    ["uptime_s", "queue.oldest_ms", "now.", "totals.received_bytes", "totals.sent_bytes"];

/// Opens the dashboard of this server and waits for its first figures.
fn open(wharf: &Wharf, width: u32) -> Browser {
    let mut browser = Browser::open(width);
    browser.go(&format!("http://{}/", wharf.admin_address()));
    browser.wait_until(ANOTHER);
    browser
}

/// The page asked no other server for anything, and logged no complaint.
fn assert_clean(browser: &Browser, server: &str) {
    let own = format!("http://{server}/");
    let asked = browser.asked_for();
    assert!(asked.iter().any(|url| *url == format!("{own}events")), "{asked:?}");
    let others: Vec<_> = asked.iter().filter(|url| !url.starts_with(&own) && *url != "data:,").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_page_shows_the_figures_of_stats() {
    let mut held = Held::start(&[]);
    held.fill();
    let mut browser = open(&held.wharf, 1280);
    // Two looks later nothing has changed since the last request.
    browser.wait_until(ANOTHER);
    browser.wait_until(ANOTHER);
    let stats = held.stats();
    let figures: Vec<(String, String)> = serde_json::from_value(browser.evaluate(FIGURES)).expect("pairs");
    assert!(figures.len() > 25, "{figures:?}");
    for (path, shown) in
        figures.iter().filter(|(path, _)| !MOVING.iter().any(|moving| path.starts_with(moving)))
    {
        let expected = at(&stats, path);
        let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_owned);
        assert_eq!(*shown, expected, "{path}");
    }
    for (path, expected) in
        [("pool.active", 3), ("pool.pending", 1), ("queue.length", 5), ("workers.busy", 4)]
    {
        assert_eq!(*at(&stats, path), expected, "{path}");
    }
    assert_eq!(stats["state"], "saturated");
    let kinds = browser.evaluate(KINDS);
    for (kind, count) in
        [("database", 3), ("pool", 1), ("idle", 0), ("active", 3), ("free", 0), ("closed", 0)]
    {
        assert!(kinds.as_array().expect("a list").contains(&json!([kind, count, count])), "{kind}: {kinds}");
    }
    let queue = browser.evaluate("['aria-valuenow', 'aria-valuemax'].map((name) => document.getElementById('queue').getAttribute(name))");
    assert_eq!(queue, json!(["5", "5"]));
    assert_clean(&browser, &held.wharf.admin_address().to_string());
}

#[test]
fn tables_name_refusals_endpoints_errors_and_connections() {
    let mut held = Held::start(&[]);
    held.fill();
    held.release();
    let mut browser = open(&held.wharf, 1280);
    browser.wait_until("document.querySelector('#endpoints tbody').children.length === 3");
    let stats = held.stats();
    let rows = |browser: &mut Browser, table: &str| {
        let text = "(row) => [...row.cells].map((cell) => cell.innerText.split('\\n')[0])";
        browser.evaluate(&format!("[...document.querySelectorAll('#{table} tbody tr')].map({text})"))
    };
    let refused = rows(&mut browser, "refused");
    assert_eq!((&refused[0][0], &refused[0][1]), (&json!("queue_full"), &json!("2")), "{refused}");
    let endpoints = rows(&mut browser, "endpoints");
    for (row, endpoint) in stats["endpoints"].as_array().expect("a list").iter().enumerate() {
        let name = format!("{} {}", endpoint["method"], endpoint["route"]).replace('"', "");
        assert_eq!(endpoints[row][0], json!(name), "the slowest first: {endpoints}");
    }
    assert_eq!(endpoints[0][0], "GET /waits");
    let errors = rows(&mut browser, "errors");
    let error = |row: usize| (errors[row][1].clone(), errors[row][2].clone(), errors[row][3].clone());
    assert_eq!(error(0), (json!("GET /waits"), json!("503"), json!("2")), "{errors}");
    assert_eq!(error(1), (json!("GET /fails"), json!("500"), json!("1")), "{errors}");
    assert_eq!(errors[1][4], "for-the-test", "{errors}");
    let shown = "[...document.querySelectorAll('[data-of^=\"states.\"]')].reduce((all, data) => all + Number(data.value), 0)";
    browser.wait_until(&format!(
        "{shown} === Number(document.querySelector('[data-figure=\"connections.open\"]').dataset.value)"
    ));
}

#[test]
fn charts_say_what_they_draw() {
    let held = Held::start(&[]);
    let mut browser = open(&held.wharf, 1280);
    for n in 0..50 {
        held.wharf.get(&format!("/works/{n}"));
    }
    browser.wait_until("document.getElementById('latency').getAttribute('aria-label').includes('p99: now')");
    browser.evaluate("document.getElementById('pause').click()");
    // As a number: what is 3.0 for the server is 3 for the browser.
    let second = browser.evaluate("Number(document.documentElement.dataset.second)").as_f64();
    let stats = held.stats();
    let seconds = stats["seconds"].as_array().expect("a list");
    let shown =
        seconds.iter().find(|known| known["at_s"].as_f64() == second).expect("it is not a minute ago");
    let legend = |browser: &mut Browser, chart: &str| {
        browser.evaluate(&format!(
            "[...document.querySelectorAll('#{chart}-legend data')].map((data) => Number(data.value))"
        ))
    };
    let numbers = |shown: Value| serde_json::from_value::<Vec<f64>>(shown).expect("numbers");
    let per_s =
        |count: &str| shown[count].as_f64().unwrap_or(0.0) / shown["length_s"].as_f64().unwrap_or(1.0);
    assert_eq!(
        numbers(legend(&mut browser, "throughput")),
        ["good", "client_errors", "refused", "errors"].map(per_s)
    );
    let phases = ["queue", "pool", "database", "render", "write"];
    let phases = phases.map(|phase| shown["phases_ms"][phase].as_f64().expect("a number"));
    assert_eq!(numbers(legend(&mut browser, "phases")), phases);
    for chart in ["throughput", "latency", "phases", "use"] {
        let label =
            browser.evaluate(&format!("document.getElementById('{chart}').getAttribute('aria-label')"));
        let label = label.as_str().expect("it has one");
        assert!(label.contains("the last") && label.contains("now "), "{label}");
        browser.evaluate(&format!("document.getElementById('{chart}-numbers').open = true"));
        browser.wait_until(&format!(
            "document.querySelectorAll('#{chart}-numbers tbody tr').length === {}",
            "document.getElementById('throughput').getAttribute('aria-label').match(/last (\\d+)/)[1] * 1"
        ));
        assert!(
            browser.evaluate(&format!("document.querySelectorAll('#{chart} path').length")).as_u64()
                > Some(4)
        );
    }
    let point = "(kind, part) => { const chart = document.getElementById('throughput'), box = chart.getBoundingClientRect(); \
        chart.dispatchEvent(new PointerEvent(kind, { clientX: box.left + part * box.width })); \
        return [chart.querySelectorAll('.cursor').length, document.querySelector('#throughput-legend .age').innerText !== '']; }";
    let pointed = browser.evaluate(&format!("({point})('pointermove', 0.1)"));
    assert_eq!(pointed, json!([1, true]), "the legend speaks of the second that is pointed at");
    assert_eq!(browser.evaluate(&format!("({point})('pointerleave', 0)")), json!([0, false]));
}

#[test]
fn accessibility_checks_find_nothing_in_light_and_dark_wide_and_narrow() {
    let mut held = Held::start(&[]);
    held.fill();
    let mut browser = open(&held.wharf, 1280);
    browser.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)");
    browser.evaluate(AXE);
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)] {
        browser.prefer(scheme);
        browser.resize(width);
        browser.wait_until(ANOTHER);
        let violations = browser.evaluate(
            "axe.run({ resultTypes: ['violations'] }).then((found) => found.violations.map((violation) => \
             [violation.id, violation.nodes.map((node) => node.html.slice(0, 200)).slice(0, 3)]))",
        );
        assert_eq!(violations, json!([]), "{scheme} {width}");
        let wide = browser.evaluate("document.documentElement.scrollWidth");
        assert!(wide.as_u64() <= Some(width.into()), "{wide} pixels wide where the screen has {width}");
    }
    held.release();
}

#[test]
fn only_a_change_of_state_is_spoken() {
    let mut held = Held::start(&[]);
    let mut browser = open(&held.wharf, 1280);
    assert_eq!(
        browser.evaluate("document.querySelectorAll('[aria-live], [role=status], [role=alert]').length"),
        1
    );
    browser.evaluate(
        "window.spoken = 0; new MutationObserver(() => window.spoken++).observe(document.getElementById('notices'), \
         { childList: true, subtree: true, characterData: true })",
    );
    for _ in 0..3 {
        browser.wait_until(ANOTHER);
    }
    assert_eq!(browser.evaluate("window.spoken"), 0, "nothing has changed but figures");
    held.fill();
    browser.wait_until("document.getElementById('notices').innerText.includes('Saturated.')");
    assert_eq!(browser.evaluate("window.spoken"), 1);
    held.release();
    browser.wait_until("document.getElementById('notices').innerText === ''");
    browser.wait_until(
        "document.getElementById('state').innerText === 'ready' && document.title.startsWith('ready')",
    );
}

#[test]
fn keys_reach_everything_that_they_must() {
    let mut held = Held::start(&[]);
    held.fill();
    held.release();
    let mut browser = open(&held.wharf, 360);
    browser.wait_until("document.querySelectorAll('#endpoints tbody tr, #errors tbody tr').length > 3");
    let focused = "(document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.textContent)";
    browser.press("Tab", 9, "");
    assert_eq!(browser.evaluate(focused), "Skip to the figures");
    let seen = browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0");
    assert_eq!(seen, true, "who sees it can read it");
    let mut reached = Vec::new();
    while reached.last() != Some(&json!("/live")) && reached.len() < 40 {
        browser.press("Tab", 9, "");
        reached.push(browser.evaluate(focused));
    }
    let reached = json!(reached).to_string();
    for part in [
        "pause",
        "The numbers of Throughput",
        "Each worker",
        "by p99",
        "refusals included",
        "Requests refused",
        "/live",
    ] {
        assert!(reached.contains(part), "{part}: {reached}");
    }
    browser.evaluate("document.querySelector('.skip').focus()");
    browser.press("Enter", 13, "\r");
    browser.wait_until("document.activeElement.id === 'figures'");
    browser.evaluate("document.getElementById('pause').focus()");
    browser.press("Enter", 13, "\r");
    let paused = "[document.getElementById('pause').getAttribute('aria-pressed'), document.getElementById('link').innerText]";
    assert_eq!(browser.evaluate(paused), json!(["true", "paused"]));
    let before = browser.evaluate("document.documentElement.dataset.uptime");
    browser.evaluate(
        "new Promise((done) => new EventSource('/events').onmessage = () => setTimeout(done, 1100))",
    );
    assert_eq!(browser.evaluate("document.documentElement.dataset.uptime"), before, "it stands still");
    browser.press("Enter", 13, "\r");
    browser.wait_until(&format!("document.documentElement.dataset.uptime !== {before}"));
}

#[test]
fn a_lost_connection_is_said_and_found_again() {
    let held = Held::start(&[]);
    let forwarder = Forwarder::to(held.wharf.admin_address().port());
    let mut browser = Browser::open(1280);
    browser.go(&format!("http://127.0.0.1:{}/", forwarder.port()));
    browser.wait_until(ANOTHER);
    let link = "document.getElementById('link').dataset.link";
    assert_eq!(browser.evaluate(link), "live");
    browser.evaluate("window.links = []; new MutationObserver(() => window.links.push(document.getElementById('link').dataset.link + ' ' + document.getElementById('notices').innerText.includes('Disconnected.'))).observe(document.getElementById('link'), { attributes: true })");
    forwarder.cut();
    browser.wait_until("window.links.includes('away true')");
    browser.wait_until(&format!("{link} === 'live' && document.getElementById('notices').innerText === ''"));
    browser.wait_until(ANOTHER);
}

#[test]
fn a_page_behind_a_proxys_path_shows_the_figures() {
    let held = Held::start(&[]);
    let nginx = under_a_path("/wharf/", held.wharf.admin_address());
    let mut browser = Browser::open(1280);
    // nginx sends a client that leaves out the last slash to the page.
    browser.go(&format!("http://{}/wharf", nginx.address()));
    browser.wait_until(ANOTHER);
    assert_eq!(browser.evaluate("document.getElementById('link').dataset.link"), "live");
    assert_eq!(browser.evaluate("document.getElementById('state').innerText"), "ready");
    let links = browser.evaluate("Promise.all([...document.querySelectorAll('nav a')].filter((link) => !link.href.endsWith('/events')).map((link) => \
        fetch(link.href).then((answer) => [new URL(link.href).pathname, answer.status])))");
    assert!(links.as_array().is_some_and(|links| links.len() == 6), "{links}");
    assert!(
        links
            .as_array()
            .expect("a list")
            .iter()
            .all(|link| link[1] == 200 && link[0].to_string().contains("/wharf/")),
        "{links}"
    );
    let asked = browser.asked_for();
    let outside = format!("http://{}/wharf", nginx.address());
    assert!(asked.iter().all(|url| url.starts_with(&outside) || *url == "data:,"), "{asked:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_latency_has_a_scale_on_which_p50_shows_beside_p99_and_limits_are_lines() {
    let mut held = Held::start(&[]);
    let mut browser = open(&held.wharf, 1280);
    // One request waits for the lock, and many do not.
    held.occupy(1);
    wait_until("it waits", || held.stats()["pool"]["active"] == 1);
    let waited = std::time::Instant::now();
    wait_until("for a while", || waited.elapsed() > std::time::Duration::from_millis(500));
    for n in 0..50 {
        assert_eq!(held.wharf.get(&format!("/works/{n}")).status, 200);
    }
    held.release();
    browser.wait_until("document.getElementById('latency-scale').innerText.includes('logarithmic')");
    let ticks = browser
        .evaluate("[...document.querySelectorAll('#latency text.end')].map((text) => text.textContent)");
    assert!(ticks.as_array().is_some_and(|ticks| ticks.len() >= 3), "{ticks}");
    assert_eq!(browser.evaluate("document.querySelectorAll('#use .limit').length"), 1);
    let legend = browser.evaluate("document.getElementById('use-legend').innerText.replace(/\\s+/g, ' ')");
    for part in ["busy workers", " of 4", "sessions lent", " of 3", "requests that wait", " of 5", "limit"] {
        assert!(legend.as_str().is_some_and(|legend| legend.contains(part)), "no {part:?} in {legend}");
    }
}

#[test]
fn a_browser_that_is_given_the_token_is_shown_the_figures() {
    let held = Held::start(&[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    let address = held.wharf.admin_address();
    let mut browser = Browser::open(1280);
    browser.go(&format!("http://any:only-for-tests@{address}/"));
    browser.wait_until(ANOTHER);
    assert_eq!(browser.evaluate("document.getElementById('state').innerText"), "ready");
}
