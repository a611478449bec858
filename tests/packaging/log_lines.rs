//! The log's lines as JSON, for programs that collect them.

use std::fs;
use std::sync::Arc;

use serde_json::Value;

use super::support::{Wharf, directory_with, wait_until};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";
const SERVE: [&str; 4] = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

fn start(log: &str) -> Wharf {
    Wharf::start_in(&Arc::new(directory_with(&format!("{log}\n{HELLO}"))), &SERVE, &[])
}

/// Each line, which must be an object.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

#[test]
fn each_line_is_an_object_with_time_level_module_and_message() {
    let wharf = start("log.format = 'json'");
    wharf.signal("TERM");
    let lines = lines(&wharf.wait().stderr);
    let serving = &lines[0];
    assert_eq!(serving["level"], "INFO");
    assert_eq!(serving["target"], "wharf::server");
    let message = serving["message"].as_str().expect("a text");
    assert!(message.starts_with("serving on 127.0.0.1:"), "{message}");
    let time = serving["time"].as_str().expect("a text");
    time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{time}: {error}"));
    assert_eq!(time.len(), "2026-01-01T00:00:00.000Z".len());
    assert!(lines.iter().all(|line| line.as_object().expect("an object").len() == 4), "{lines:?}");
}

#[test]
fn no_text_ends_its_line() {
    let wharf = start("log.format = 'json'");
    // The refusal's message has several lines, and the file's own text with its quotes.
    fs::write(wharf.directory().join("wharf.toml"), "server.listen = \"no\\\"where\"\n")
        .expect("a temporary file");
    wharf.signal("HUP");
    wharf.wait_for_log("nothing has changed");
    let lines = lines(&wharf.log());
    let refused = lines.last().and_then(|line| line["message"].as_str()).expect("a text");
    assert!(refused.contains('\n') && refused.contains("server.listen"), "{refused}");
    assert_eq!(lines.last().expect("it is there")["level"], "ERROR");
}

#[test]
fn a_line_of_the_access_log_is_a_part_of_it_or_a_text() {
    let wharf = start("log.format = 'json'\nlog.access = 'json'");
    assert_eq!(wharf.get("/hello").text(), "hi");
    wharf.wait_for_log("wharf::access");
    let line = lines(&wharf.log()).pop().expect("it is there");
    assert_eq!(
        (&line["request"]["status"], &line["request"]["target"]),
        (&Value::from(200), &Value::from("/hello"))
    );
    assert_eq!(line.get("message"), None);

    let wharf = start("log.format = 'json'\nlog.access = 'combined'");
    assert_eq!(wharf.get("/hello").text(), "hi");
    wharf.wait_for_log("wharf::access");
    let line = lines(&wharf.log()).pop().expect("it is there");
    assert!(line["message"].as_str().expect("a text").contains("\"GET /hello HTTP/1.1\" 200"), "{line}");
}

#[test]
fn a_reload_changes_the_form() {
    let wharf = start("");
    wharf.wait_for_log("serving on");
    assert!(wharf.log().starts_with('['), "{}", wharf.log());
    let config = format!("log.format = 'json'\n{HELLO}");
    fs::write(wharf.directory().join("wharf.toml"), config).expect("a temporary file");
    wharf.signal("HUP");
    wait_until("the log has no JSON", || {
        wharf.log().lines().last().is_some_and(|line| line.starts_with('{'))
    });
    let log = wharf.log();
    let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("an object");
    assert_eq!(last["message"], "reload: log.format: json, before text");
}
