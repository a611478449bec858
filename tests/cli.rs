//! The command line as a user meets it: starting, overriding, checking, filling, stopping.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Exit, PATIENCE, Postgres, Wharf};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

/// Serves the demo that is built in, in a directory of its own that lasts as long as the test.
fn demo(directory: &tempfile::TempDir) -> Wharf {
    let config = include_str!("../config/wharf.toml");
    let url = format!("sqlite:{}", directory.path().join("demo.db").display());
    Wharf::start_with(config, &["--database", &url], &[])
}

/// The lines of the summary that begin with a word.
fn summary<'a>(output: &'a str, word: &str) -> Vec<&'a str> {
    output.lines().filter_map(|line| line.trim_start().strip_prefix(word)).map(str::trim).collect()
}

fn assert_says(exit: &Exit, code: i32, texts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{}{}", exit.stdout, exit.stderr);
    let said = format!("{}{}", exit.stdout, exit.stderr);
    for text in texts {
        assert!(said.contains(text), "does not say {text:?}:\n{said}");
    }
}

#[test]
fn the_first_start_fills_the_demo_and_the_second_keeps_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let first = demo(&directory);
    first.wait_for_output("curl", 3);
    let output = first.output();
    assert!(summary(&output, "database")[0].ends_with("(created and filled with the demo data)"), "{output}");
    assert_eq!(summary(&output, "sizes"), ["4 workers, queue of 1024 for at most 1s, pool of 4 connections"]);
    let examples = summary(&output, "try");
    assert_eq!(examples.len(), 3, "{output}");
    for example in examples {
        let (_, path) =
            example.split_once(&first.address().to_string()).expect("a curl line has the address");
        let answer = first.get(path.trim_end_matches('\''));
        assert_eq!(answer.status, 200, "{example}: {}", answer.text());
    }
    let note = first.json("POST", "/flights/1/notes", r#"{"body":"kept"}"#);
    assert_eq!(note.status, 201, "{}", note.text());
    first.signal("TERM");
    assert_eq!(first.wait().code, Some(0));
    let second = demo(&directory);
    second.wait_for_output("sizes", 1);
    assert!(!second.output().contains("filled"), "{}", second.output());
    assert!(second.get("/flights/1/notes").text().contains("kept"));
}

#[test]
fn without_a_file_the_built_in_demo_is_served() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["check"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().expect("piped"), &mut output).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(output.contains("embedded") && output.contains("16 endpoints"), "{output}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0, "a check makes no file");
}

#[test]
fn flags_override_variables_override_the_file_overrides_defaults() {
    let database = Postgres::database();
    let sqlite = tempfile::tempdir().expect("a temporary directory");
    let file = format!("sqlite:{}", sqlite.path().join("file.db").display());
    let variable = format!("sqlite:{}", sqlite.path().join("variable.db").display());
    let config =
        format!("[server]\nworkers = 3\n[queue]\nmax_length = 30\n[database]\nurl = '{file}'\n{HELLO}");
    let of = |arguments: &[&str], environment: &[(&str, &str)]| {
        let wharf = Wharf::start_with(&config, arguments, environment);
        wharf.wait_for_output("sizes", 1);
        let output = wharf.output();
        (summary(&output, "database")[0].to_owned(), summary(&output, "sizes")[0].to_owned())
    };
    let sizes = |workers, queue, pool| {
        format!("{workers} workers, queue of {queue} for at most 1s, pool of {pool} connections")
    };
    assert_eq!(of(&[], &[]), (file.clone(), sizes(3, 30, 10)));
    let environment = [
        ("WHARF_DATABASE", variable.as_str()),
        ("WHARF_SERVER_WORKERS", "5"),
        ("WHARF_DATABASE_MAXIMUM_POOL_SIZE", "2"),
    ];
    assert_eq!(of(&[], &environment), (variable.clone(), sizes(5, 30, 2)));
    let (database_line, _) = of(&["--database", &database.url()], &environment);
    assert_eq!(database_line, database.url());
    // `Wharf` passes --listen; a variable that names a port in use would otherwise end it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    of(&[], &[("WHARF_LISTEN", &taken)]);
}

#[test]
fn variables_stand_in_for_values_in_the_file() {
    let config = format!("[server]\nworkers = '${{SIZE:-3}}'\n{HELLO}");
    Wharf::start(&config).wait_for_output("3 workers", 1);
    Wharf::start_with(&config, &[], &[("SIZE", "6")]).wait_for_output("6 workers", 1);
    let exit = Wharf::run(&config, &["check"], &[("SIZE", "many")]);
    assert_says(&exit, 1, &["server.workers", "many", "wharf.toml:2:11"]);
}

#[test]
fn a_variable_that_is_no_key_is_refused_with_the_nearest() {
    let exit = Wharf::run(HELLO, &["serve"], &[("WHARF_SERVER_WORKER", "5")]);
    assert_says(&exit, 2, &["WHARF_SERVER_WORKER", "WHARF_SERVER_WORKERS"]);
}

const WRONG: &str = r#"
[server]
wrokers = 4
deadline = 10

[database]
url = "DATABASE"

[endpoint.first]
route  = "GET /first/{id}"
params = { id = { type = "integer" } }
sql    = "select :id, :other"

[endpoint.second]
route  = "GET /second"
params = { unused = "int" }
sql    = "delete from t"

[endpoint.third]
route  = "FETCH /third"
sql    = "select 'unterminated"
"#;

#[test]
fn check_finds_everything_that_is_wrong_in_one_run() {
    let exit = Wharf::run(&WRONG.replace("DATABASE", "sqlite:none.db"), &["check"], &[]);
    let expected = [
        "wharf.toml:3:1: server.wrokers: ",
        "workers",
        "wharf.toml:4:12: server.deadline: ",
        "wharf.toml:11:26: endpoint.first.params.id.type: \"integer\"",
        ":other",
        "endpoint.second",
        "unused",
        "wharf.toml:17:",
        "FETCH",
        "unterminated",
        "sql    = \"delete from t\"",
        "^",
    ];
    assert_says(&exit, 1, &expected);
    // `serve` says the same, and does not start.
    let serve =
        Wharf::run(&WRONG.replace("DATABASE", "sqlite:none.db"), &["serve", "--listen", "127.0.0.1:0"], &[]);
    assert_says(&serve, 2, &expected);
    assert!(!serve.stdout.contains("listening"));
}

#[test]
fn check_lets_the_database_prepare_every_statement() {
    let config = "
[database]
url = 'DATABASE'

[endpoint.missing_table]
route = 'GET /a'
sql   = '''
  select x
  from no_such_table
  where x = :x'''
params = { x = 'int' }

[endpoint.missing_column]
route = 'GET /b'
sql   = 'select no_such_column from t'

[endpoint.good]
route = 'GET /c'
sql   = 'select x from t'
";
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("t.db");
    let file = rusqlite::Connection::open(&path).expect("SQLite opens");
    file.execute_batch("create table t (x integer)").expect("the table is made");
    let database = Postgres::database();
    database.psql("create table t (x integer, money money)");
    for (url, table, column) in [
        (format!("sqlite:{}", path.display()), "wharf.toml:", "wharf.toml:15:"),
        (database.url(), "wharf.toml:9:8: ", "wharf.toml:15:17: "),
    ] {
        let config = config.replace("DATABASE", &url);
        let exit = Wharf::run(&config, &["check"], &[]);
        let texts = [table, "no_such_table", column, "no_such_column", "2 problems"];
        assert_says(&exit, 1, &texts);
        assert_says(&Wharf::run(&config, &["serve", "--listen", "127.0.0.1:0"], &[]), 2, &texts);
    }
    let typed =
        "[database]\nurl = 'DATABASE'\n[endpoint.price]\nroute = 'GET /price'\nsql = 'select money from t'\n"
            .replace("DATABASE", &database.url());
    assert_says(&Wharf::run(&typed, &["check"], &[]), 1, &["money", "\"money\"::text", "wharf.toml:5:"]);
    let untyped = "[database]\nurl = 'DATABASE'\n[endpoint.a]\nroute = 'GET /a'\nparams = { x = { type = 'int', optional = true } }\n\
                   sql = 'select x from t where :x is null or x = :x'\n"
        .replace("DATABASE", &database.url());
    assert_says(&Wharf::run(&untyped, &["check"], &[]), 1, &["could not determine data type", "cast(:x as"]);
}

#[test]
fn a_database_that_is_not_there_is_said_without_its_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    // A refused connection may be a server that starts, so this takes the pool's patience with a first connection.
    let url = format!("postgres://app:secret@{free}/shop");
    let exit = Wharf::run(HELLO, &["serve", "--listen", "127.0.0.1:0", "--database", &url], &[]);
    assert_says(&exit, 2, &["database", "shop"]);
    assert!(!exit.stderr.contains("secret"), "{}", exit.stderr);
}

#[test]
fn a_port_in_use_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let exit = Wharf::run(HELLO, &["serve", "--listen", &address], &[]);
    assert_says(&exit, 2, &["cannot listen on", &address]);
}

#[test]
fn demo_fills_a_postgresql_once() {
    let database = Postgres::database();
    let url = database.url();
    assert_says(&Wharf::run("", &["demo", "--database", &url], &[]), 0, &["filled with the demo data"]);
    assert_eq!(database.psql("select count(*) from flights"), "27004");
    let again = Wharf::run("", &["demo", "--database", &url], &[]);
    assert_says(&again, 2, &["flights", "--replace"]);
    assert_says(&Wharf::run("", &["demo", "--database", &url, "--replace"], &[]), 0, &["filled"]);
    assert_eq!(database.psql("select count(*) from flights"), "27004");
}

#[test]
fn health_tells_a_server_that_answers_from_one_that_does_not() {
    let wharf = Wharf::start(HELLO);
    let address = wharf.address().to_string();
    assert_says(&Wharf::run("", &["health", &address], &[]), 0, &[]);
    assert_says(&Wharf::run("", &["health"], &[("WHARF_LISTEN", &address)]), 0, &[]);
    wharf.signal("TERM");
    wharf.wait();
    assert_says(&Wharf::run("", &["health", &address], &[]), 1, &["cannot connect"]);
}

/// A server with a request that stays in PostgreSQL until its advisory lock is free.
fn with_a_blocked_request(test: impl FnOnce(Wharf, support::Client, postgres::Client)) {
    let database = Postgres::database();
    let config = format!(
        "[database]\nurl = '{}'\n[endpoint.lock]\nroute = 'POST /lock'\nsql = 'select pg_advisory_lock(1) is null as x'\nreturns = 'value'\n",
        database.url()
    );
    let wharf = Wharf::start(&config);
    let mut holder =
        postgres::Client::connect(&database.url(), postgres::NoTls).expect("the database answers");
    holder.execute("select pg_advisory_lock(1)", &[]).expect("the lock is free");
    let mut blocked = wharf.connect();
    blocked.request("POST", "/lock", &[], "");
    let until = Instant::now() + PATIENCE;
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    while database.psql(waiting) != "1" {
        assert!(Instant::now() < until, "the request never reached the database");
    }
    test(wharf, blocked, holder);
}

#[test]
fn a_signal_lets_requests_in_flight_finish() {
    for signal in ["TERM", "INT"] {
        with_a_blocked_request(|wharf, mut blocked, mut holder| {
            wharf.signal(signal);
            wharf.wait_for_log("draining");
            holder.execute("select pg_advisory_unlock(1)", &[]).expect("the lock is ours");
            let answer = blocked.answer();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
            drop(blocked);
            let exit = wharf.wait();
            assert_says(&exit, 0, &["1 requests answered"]);
        });
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    with_a_blocked_request(|wharf, mut blocked, _holder| {
        wharf.signal("TERM");
        wharf.wait_for_log("draining");
        let second = Instant::now();
        wharf.signal("TERM");
        let exit = wharf.wait();
        // The request's deadline is 10 s away; the server does not wait for it.
        assert!(second.elapsed() < Duration::from_secs(5), "{:?}", second.elapsed());
        assert_says(&exit, 1, &["second signal", "1 clients were cut off"]);
        assert!(blocked.is_closed());
    });
}
