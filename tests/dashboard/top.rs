//! `wharf top`.

use std::net::TcpListener;

use super::Held;
use super::support::{Wharf, assert_says};

fn top(arguments: &[&str], environment: &[(&str, &str)]) -> super::support::Exit {
    Wharf::run("", &[&["top"], arguments].concat(), environment)
}

#[test]
fn top_shows_the_figures_of_stats_once() {
    let mut held = Held::start(&[]);
    held.fill();
    let address = held.wharf.admin_address().to_string();
    let shown = top(&[&format!("http://{address}/"), "--once"], &[]);
    let stats = held.stats();
    let requests = stats["totals"]["requests"].to_string();
    assert_says(
        &shown,
        0,
        &[
            &format!("wharf {}  {address}  ! saturated  up ", env!("CARGO_PKG_VERSION")),
            "workers  4/4 busy  ",
            "pool     3/3 lent  1 wait  AAA\n",
            "queue    5/5 wait  [",
            "clients  9 open  ",
            "refused  queue_full 2\n",
            &format!("in all   requests {requests}  in flight 9  clients left 0  panics 0\n"),
            "503       2×  GET /waits  ",
            "500       1×  GET /fails  for-the-test\n",
        ],
    );
    let letters = shown.stdout.lines().find_map(|line| line.strip_prefix("workers  4/4 busy  "));
    let mut letters: Vec<char> = letters.unwrap_or_default().chars().collect();
    letters.sort_unstable();
    assert_eq!(letters, ['D', 'D', 'D', 'P'], "three with the database, one waits for a connection");
    assert!(!shown.stdout.contains('\x1b'), "no colours where nobody sees them");
    for endpoint in stats["endpoints"].as_array().expect("a list") {
        let route = endpoint["route"].as_str().expect("text");
        let row = shown.stdout.lines().find(|line| line.starts_with(&format!("GET {route} ")));
        assert!(row.is_some(), "{route} is not in\n{}", shown.stdout);
    }
    held.release();
}

#[test]
fn top_says_that_nobody_is_there() {
    let bound = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = bound.local_addr().expect("it has one").to_string();
    drop(bound);
    assert_says(&top(&[&address, "--once"], &[]), 1, &[&address, "cannot be asked", "Connection refused"]);
    assert_says(&top(&["nowhere", "--once"], &[]), 2, &["nowhere is not where an admin listener is"]);
}

#[test]
fn top_wants_the_servers_token() {
    let wharf = Wharf::start_with("", &[], &[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    let address = wharf.admin_address().to_string();
    for wrong in [&[][..], &["--token", "another"]] {
        let shown = top(&[&[address.as_str(), "--once"], wrong].concat(), &[]);
        assert_says(&shown, 2, &["--token or WHARF_ADMIN_TOKEN"]);
    }
    let given = top(&[&address, "--once", "--token", "only-for-tests"], &[]);
    assert_says(&given, 0, &["✓ ready"]);
    let variable = top(&[&address, "--once"], &[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    assert_says(&variable, 0, &["✓ ready"]);
    assert_says(&top(&[&address, "--once", "--token", "a b"], &[]), 2, &["a token is visible ASCII"]);
}
