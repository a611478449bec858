//! The operations of an operator, reload and log level, in the real binary.

use std::sync::Arc;
use std::thread;

use super::{HELLO, get, post, serve};
use crate::support::{Client, Postgres, Wharf, assert_problem, directory_with, wait_until};

const SERVE: &[&str] = &["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

#[test]
fn reload_answers_with_what_has_changed_or_why_nothing_has() {
    let directory = Arc::new(directory_with(HELLO));
    let wharf = Wharf::start_in(&directory, SERVE, &[]);
    let write = |text: &str| std::fs::write(directory.path().join("wharf.toml"), text).expect("writable");
    let answer = post(&wharf, "/reload", "");
    assert_eq!((answer.status, &answer.json()["changes"][0]), (200, &"nothing has changed".into()));
    write(&format!("queue.max_length = 7\nserver.selectors = 3\n{}", HELLO.replace("'hi'", "'ho'")));
    let answer = post(&wharf, "/reload", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let changes = answer.json()["changes"].to_string();
    for part in ["queue.max_length: 7, before 1024", "endpoint.hello: changed", "needs a restart"] {
        assert!(changes.contains(part), "{part}: {changes}");
    }
    assert_eq!(wharf.get("/hello").text(), "ho");
    let shown = get(wharf.admin_address(), "/config");
    assert!(shown.text().contains("\nmax_length = 7\n"), "{}", shown.text());
    write("queue.max_length = 0\n[database]\nuri = 'postgres://app:sesame@db/app'\n");
    let wrong = post(&wharf, "/reload", "");
    assert_problem(&wrong, 422, "nothing has changed: ");
    assert!(
        wrong.json()["detail"].as_str().is_some_and(|detail| detail.contains("queue.max_length: 0 is out"))
    );
    assert!(wrong.text().contains("database.uri: unknown key"), "{}", wrong.text());
    assert!(!wrong.text().contains("sesame"), "it names the place and does not show it: {}", wrong.text());
    assert_eq!(wharf.get("/hello").text(), "ho", "as before");
}

#[test]
fn a_second_reload_is_refused_while_the_first_is_in_progress() {
    let database = Postgres::database();
    let config = |init: &str| {
        format!(
            "[database]\nurl = '{}'\nmaximum_pool_size = 1\n{init}\n\
             [endpoint.one]\nroute = 'GET /one'\nsql = 'select 1'\n",
            database.url()
        )
    };
    let directory = Arc::new(directory_with(&config("")));
    let wharf = Wharf::start_in(&directory, SERVE, &[]);
    // It waits for a lock that the test has, on the connection that tries the new configuration.
    let waits = config("connection_init_sql = 'select pg_advisory_lock(1)'");
    std::fs::write(directory.path().join("wharf.toml"), waits).expect("writable");
    let mut holder = postgres::Client::connect(&database.url(), postgres::NoTls).expect("the database runs");
    holder.execute("select pg_advisory_lock(1)", &[]).expect("it is free");
    let mut first = Client::connect(wharf.admin_address());
    first.request("POST", "/reload", &[], "");
    database.wait_for_a_waiting_lock();
    assert_problem(&post(&wharf, "/reload", ""), 409, "a reload is in progress");
    assert_eq!(get(wharf.admin_address(), "/live").status, 200, "nobody here waits for it");
    drop(holder);
    let answer = first.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_until("it never was over", || post(&wharf, "/reload", "").status == 200);
}

#[test]
fn many_reloads_at_once_are_each_answered() {
    let wharf = Wharf::start(HELLO);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let ask = || scope.spawn(|| (0..20).map(|_| post(&wharf, "/reload", "").status).collect::<Vec<_>>());
        let clients: Vec<_> = (0..8).map(|_| ask()).collect();
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200));
    wharf.signal("TERM");
    assert_eq!(wharf.wait().code, Some(0));
}

#[test]
fn a_program_of_its_own_reloads_in_its_own_way() {
    let (server, admin, _keeper) = serve(|_| {});
    assert_problem(
        &super::request(admin, "POST", "/reload", &[], ""),
        501,
        "does not reload through its admin listener",
    );
    let level = super::request(admin, "POST", "/log-level?level=debug", &[], "");
    assert_problem(&level, 409, "sets the level of its log");
    drop(server);
}

#[test]
fn the_logs_level_changes_at_once_and_until_the_next_reload() {
    let wharf = Wharf::start(HELLO);
    for (path, body, before, level) in [
        ("/log-level?level=debug", "", "info", "debug"),
        ("/log-level", "level=trace", "debug", "trace"),
        ("/log-level", "{\"level\":\"warn\"}", "trace", "warn"),
        ("/log-level?level=debug", "", "warn", "debug"),
    ] {
        let answer = post(&wharf, path, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json(), serde_json::json!({ "level": level, "before": before }));
    }
    for wrong in ["/log-level", "/log-level?level=loud", "/log-level?level="] {
        assert_problem(&post(&wharf, wrong, ""), 400, "level: expected one of off");
    }
    assert_eq!(post(&wharf, "/reload", "").status, 200);
    let answer = post(&wharf, "/log-level?level=info", "");
    assert_eq!(answer.json()["before"], "info", "the configuration's own");
}

#[test]
fn a_variable_holds_the_logs_level() {
    let wharf = Wharf::start_with(HELLO, &[], &[("WHARF_LOG", "info")]);
    assert_problem(&post(&wharf, "/log-level?level=debug", ""), 409, "WHARF_LOG is set");
}
