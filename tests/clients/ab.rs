//! ab, which speaks HTTP/1.0 with `Connection: Keep-Alive`.

use super::known;
use super::program::run;
use super::served::Served;

const REQUESTS: u64 = 2000;

/// Runs ab with more options, and checks all that it counts.
fn all_succeed(server: &Served, path: &str, options: &[&str]) {
    let count = REQUESTS.to_string();
    let fixed = ["-q", "-n", &count, "-c", "20"];
    let said = run("ab", &[&fixed[..], options, &[&server.url(path)]].concat());
    let report = said.text();
    assert_eq!(said.code, 0, "{options:?}: {report}{}", said.stderr);
    assert_eq!(counted(report, "Complete requests:"), Some(REQUESTS), "{options:?}: {report}");
    assert_eq!(counted(report, "Failed requests:"), Some(0), "{options:?}: {report}");
    assert_eq!(counted(report, "Non-2xx responses:"), None, "{options:?}: {report}");
    let kept = options.contains(&"-k").then_some(REQUESTS);
    assert_eq!(counted(report, "Keep-Alive requests:"), kept, "{options:?}: {report}");
}

/// The number after a name at a line's beginning.
fn counted(report: &str, name: &str) -> Option<u64> {
    let value = report.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().parse().unwrap_or_else(|_| panic!("{name} is a number: {value:?}")))
}

#[test]
fn no_request_of_ab_fails_with_and_without_keep_alive() {
    let server = Served::start();
    all_succeed(&server, "/path/x", &[]);
    all_succeed(&server, "/path/x", &["-k"]);
    all_succeed(&server, "/immediate", &["-k"]);
    server.finish();
}

#[test]
fn no_post_of_ab_fails_with_and_without_keep_alive() {
    let server = Served::start();
    let body = known::file(1000);
    let path = body.path().to_str().expect("a temporary file's name is UTF-8");
    all_succeed(&server, "/echo", &["-p", path, "-T", "application/octet-stream"]);
    all_succeed(&server, "/echo", &["-k", "-p", path, "-T", "application/octet-stream"]);
    server.finish();
}
