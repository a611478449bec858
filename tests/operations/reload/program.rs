//! The real binary: SIGHUP, `wharf reload`, the process id's file, and the log's level.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;

use super::load::replace;
use crate::support::{Exit, Wharf, assert_says, directory_with, wait_until};

const SERVER: &str = "server.pid_file = 'wharf.pid'\n";
const SERVE: [&str; 4] = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

/// A configuration with one endpoint that answers this.
fn hello(more: &str, body: &str) -> String {
    format!("{SERVER}{more}\n[endpoint.hello]\nroute = 'GET /hello'\nbody = '{body}'\n")
}

fn with_sql(sql: &str) -> String {
    format!(
        "{}[endpoint.sql]\nroute = 'GET /sql'\nsql = '{sql}'\n",
        hello("database.url = 'sqlite:x.db'", "hello")
    )
}

fn start(config: &str) -> (Arc<TempDir>, Wharf) {
    start_with(config, &[])
}

fn start_with(config: &str, environment: &[(&str, &str)]) -> (Arc<TempDir>, Wharf) {
    let directory = Arc::new(directory_with(config));
    let wharf = Wharf::start_in(&directory, &SERVE, environment);
    (directory, wharf)
}

fn reload(directory: &TempDir, more: &[&str]) -> Exit {
    let arguments = ["reload", "--config", "wharf.toml"].iter().chain(more).copied().collect::<Vec<_>>();
    Wharf::run_in(directory, &arguments, &[])
}

#[test]
fn reload_says_what_has_changed_and_what_needs_a_restart() {
    let (directory, wharf) = start(&hello("", "one"));
    assert_eq!(wharf.get("/hello").text(), "one");
    assert_says(&reload(&directory, &[]), 0, &["nothing has changed"]);
    replace(&wharf, &hello("server.selectors = 3\nqueue.max_length = 7", "two"));
    let restart =
        "server.selectors: 3, before not given; this needs a restart, and the old value applies until then";
    let exit = reload(&directory, &[]);
    assert_says(&exit, 0, &["queue.max_length: 7, before 1024\nendpoint.hello: changed\n", restart]);
    assert_eq!(wharf.get("/hello").text(), "two");
    wharf.wait_for_log(restart);
    assert_eq!(wharf.log().matches("server.selectors").count(), 1, "{}", wharf.log());
}

#[test]
fn sighup_alone_does_the_same() {
    let (_directory, wharf) = start(&hello("", "one"));
    replace(&wharf, &hello("http.idle_timeout = '5s'", "two"));
    wharf.signal("HUP");
    wharf.wait_for_log("reload: endpoint.hello: changed");
    assert!(wharf.log().contains("reload: http.idle_timeout: 5s, before 75s"), "{}", wharf.log());
    wait_until("it is served", || wharf.get("/hello").text() == "two");
}

#[test]
fn an_invalid_file_is_not_sent_and_changes_nothing_when_it_is_read_all_the_same() {
    let (directory, wharf) = start(&with_sql("select 1 as one"));
    wharf.wait_for_log("serving on ");
    for (config, problems) in [
        (hello("server.worker = 4", "new"), &["wharf.toml:2:8: server.worker: unknown key"][..]),
        (with_sql("select nothing as one"), &["wharf.toml:8:15: endpoint.sql.sql: the database refuses"]),
        ("[endpoint".to_owned(), &["wharf.toml:1:10: not TOML"]),
    ] {
        replace(&wharf, &config);
        let log = wharf.log();
        assert_says(&reload(&directory, &[]), 2, &[problems, &["nothing was reloaded"]].concat());
        assert_eq!(wharf.log(), log, "it was not told");
        wharf.signal("HUP");
        wharf.wait_for_log(problems[0]);
        assert!(wharf.log()[log.len()..].contains("reload: nothing has changed: "), "{}", wharf.log());
        assert_eq!(wharf.get("/hello").text(), "hello");
        assert_eq!(wharf.get("/sql").text(), "[{\"one\":1}]");
    }
    fs::remove_file(directory.path().join("wharf.toml")).expect("it is there");
    wharf.signal("HUP");
    wharf.wait_for_log("cannot read the configuration wharf.toml");
    assert_eq!(wharf.get("/hello").text(), "hello");
}

#[test]
fn a_change_that_the_running_server_cannot_apply_is_refused() {
    let (directory, wharf) = start(&hello("", "one"));
    replace(&wharf, &with_sql("select 1"));
    let why = "nothing has changed: endpoint.sql runs SQL, and the server was started without a database";
    assert_says(&reload(&directory, &[]), 1, &[why]);
    assert_eq!((wharf.get("/hello").text(), wharf.get("/sql").status), ("one", 404));
}

#[test]
fn the_server_reads_the_file_that_it_was_started_with_and_no_other() {
    let (directory, wharf) = start(&hello("", "one"));
    let other = directory.path().join("other.toml");
    fs::write(&other, hello("", "other")).expect("the directory takes a file");
    let exit = Wharf::run_in(&directory, &["reload", "--config", "other.toml"], &[]);
    assert_says(&exit, 2, &["the server reads ", "/wharf.toml, but the checked file is ", "/other.toml"]);
    assert!(!wharf.log().contains("reload"), "it was told: {}", wharf.log());
    // The same file by another name is the same file.
    let link = directory.path().join("link.toml");
    std::os::unix::fs::symlink(directory.path().join("wharf.toml"), link)
        .expect("the directory takes a link");
    assert_says(&Wharf::run_in(&directory, &["reload", "--config", "link.toml"], &[]), 0, &["nothing has"]);
}

#[test]
fn flags_and_variables_go_on_to_override_the_file() {
    let config =
        |limit: usize| hello(&format!("queue.max_length = {limit}\nserver.listen = '127.0.0.1:1'"), "one");
    let (directory, wharf) = start_with(&config(5), &[("WHARF_QUEUE_MAX_LENGTH", "9")]);
    replace(&wharf, &config(6));
    assert_says(&reload(&directory, &[]), 0, &["nothing has changed\n"]);
    assert_eq!(wharf.get("/hello").text(), "one");
}

#[test]
fn the_file_of_the_process_id_is_there_while_it_serves() {
    let config = hello("", "one");
    let (directory, wharf) = start(&config);
    let pid_file = directory.path().join("wharf.pid");
    let written = || fs::read_to_string(&pid_file).expect("it is there");
    assert_eq!(written(), format!("{}\n", wharf.id()));
    let second = ["serve"].iter().chain(&SERVE).copied().collect::<Vec<_>>();
    let running = format!("another server runs, process {}", wharf.id());
    assert_says(&Wharf::run_in(&directory, &second, &[]), 2, &["server.pid_file", &running]);
    assert_eq!(written(), format!("{}\n", wharf.id()), "the second has not touched it");
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
    assert!(!pid_file.exists() && !directory.path().join("wharf.pid.reload").exists());
    assert_says(&reload(&directory, &[]), 2, &["no server runs"]);

    let killed = Wharf::start_in(&directory, &SERVE, &[]);
    killed.signal("KILL");
    assert_eq!(killed.wait().code, None);
    assert_says(&reload(&directory, &[]), 2, &["no server runs, and the file was left behind"]);
    let wharf = Wharf::start_in(&directory, &SERVE, &[]);
    assert_eq!(written(), format!("{}\n", wharf.id()));
    assert_says(&reload(&directory, &[]), 0, &["nothing has changed"]);
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let exit = Wharf::run(&hello("server.listen = '192.0.2.1:1'", "one"), &["serve"], &[]);
    assert_says(&exit, 2, &["cannot listen on 192.0.2.1:1"]);
    let directory = directory_with(&hello("server.listen = '192.0.2.1:1'", "one"));
    assert_says(&Wharf::run_in(&directory, &["serve"], &[]), 2, &[]);
    assert!(!directory.path().join("wharf.pid").exists());
}

#[test]
fn without_a_file_the_process_is_named() {
    let config = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'BODY'\n";
    let (directory, wharf) = start(&config.replace("BODY", "one"));
    replace(&wharf, &config.replace("BODY", "two"));
    assert_says(
        &reload(&directory, &[]),
        2,
        &["server.pid_file is not set; say which process serves with --pid"],
    );
    assert_says(&reload(&directory, &["--pid", "0"]), 2, &["--pid"]);
    let told = format!("process {} was signalled; its log has the outcome", wharf.id());
    assert_says(&reload(&directory, &["--pid", &wharf.id().to_string()]), 0, &[&told]);
    wharf.wait_for_log("reload: endpoint.hello: changed");
}

#[test]
fn the_level_of_the_log_changes_and_a_variable_holds_it() {
    // A handler's mistake of a client is logged at this level and no other.
    let config = |level: &str| {
        format!(
            "{}[endpoint.number]\nroute = 'GET /number/{{n}}'\nparams = {{ n = 'int' }}\nsql = 'select :n'\n",
            hello(&format!("log.level = '{level}'\ndatabase.url = 'sqlite:x.db'"), "hello")
        )
    };
    let (directory, wharf) = start(&config("error"));
    assert_eq!(wharf.get("/number/x").status, 400);
    replace(&wharf, &config("debug"));
    assert_says(&reload(&directory, &[]), 0, &["log.level: debug, before error"]);
    wharf.wait_for_log("reload: log.level: debug, before error");
    assert_eq!(wharf.get("/number/y").status, 400);
    wharf.wait_for_log("GET /number/y: ");
    replace(&wharf, &config("off"));
    assert_says(&reload(&directory, &[]), 0, &["log.level: off, before debug"]);
    wharf.wait_for_log("reload: log.level: off, before debug");
    assert_eq!(wharf.get("/number/z").status, 400);
    wharf.signal("TERM");
    let log = wharf.wait().stderr;
    assert!(!log.contains("/number/x") && !log.contains("/number/z") && !log.contains("stopped"), "{log}");

    let (directory, wharf) = start_with(&config("debug"), &[("WHARF_LOG", "info,wharf::router=debug")]);
    replace(&wharf, &config("trace"));
    let held = "log.level: the variable WHARF_LOG is set and decides in its place";
    assert_says(&reload(&directory, &[]), 0, &["log.level: trace, before debug", held]);
    assert_eq!(wharf.get("/number/x").status, 400);
    wharf.signal("TERM");
    let log = wharf.wait().stderr;
    assert!(!log.contains("/number/x") && log.contains(held) && log.contains("stopped"), "{log}");
}
