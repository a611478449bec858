//! The command line as a user meets it: starting, overriding, checking, filling, stopping.

#[path = "../support/mod.rs"]
mod support;

mod demo;
mod demo_endpoints;
mod load;
mod output;
mod tune;

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{PATIENCE, Postgres, Wharf, assert_says};

pub(crate) const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

/// The lines of the summary that begin with a word.
fn summary<'a>(output: &'a str, word: &str) -> Vec<&'a str> {
    output.lines().filter_map(|line| line.trim_start().strip_prefix(word)).map(str::trim).collect()
}

#[test]
fn without_a_file_the_first_start_makes_the_demo_and_the_second_keeps_it() {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let serve = || Wharf::start_in(&directory, &[], &[("WHARF_LISTEN", "127.0.0.1:0")]);
    let first = serve();
    let output = first.output();
    assert_eq!(
        summary(&output, "database"),
        ["sqlite:wharf-demo.db (created and filled with the demo data)"],
        "{output}"
    );
    assert_eq!(summary(&output, "sizes"), ["4 workers, queue of 1024 for at most 1s, pool of 4 sessions"]);
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
    assert_eq!(first.get("/flights/0").status, 400);
    assert_eq!(first.get("/nothing").status, 404);
    // The log holds events that an operator must know. Clients' mistakes do not belong there.
    let log = first.log();
    assert!(log.lines().all(|line| line.contains("serving on ")), "{log}");
    first.signal("TERM");
    let exit = first.wait();
    assert_says(&exit, 0, &["serving on ", "draining", "stopped"]);
    assert_eq!(exit.stderr.lines().count(), 3, "{}", exit.stderr);
    let second = serve();
    assert!(!second.output().contains("filled"), "{}", second.output());
    assert!(second.get("/flights/1/notes").text().contains("kept"));
}

#[test]
fn check_of_the_built_in_demo_makes_no_file() {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let exit = Wharf::run_in(&directory, &["check"], &[]);
    assert_says(&exit, 0, &["embedded", "16 endpoints"]);
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
        let output = wharf.output();
        (summary(&output, "database")[0].to_owned(), summary(&output, "sizes")[0].to_owned())
    };
    let sizes = |workers, queue, pool| {
        format!("{workers} workers, queue of {queue} for at most 1s, pool of {pool} sessions")
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
}

#[test]
fn where_to_listen_comes_from_the_flag_then_the_variable_then_the_file() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("bound").to_string();
    let free = "127.0.0.1:0";
    // The winning source names a free port. The sources that it overrides name a port that is taken.
    for (file, variable, flag) in [
        (free, None, None),
        (&*taken, Some(free), None),
        (&*taken, Some(&*taken), Some(free)),
        (&*taken, None, Some(free)),
    ] {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let config = format!("[server]\nlisten = '{file}'\n{HELLO}");
        std::fs::write(directory.path().join("wharf.toml"), config).expect("the file is written");
        let variables: Vec<_> = variable.iter().map(|address| ("WHARF_LISTEN", *address)).collect();
        let flags = flag.map_or_else(Vec::new, |address| vec!["--listen", address]);
        let wharf = Wharf::start_in(&directory, &flags, &variables);
        assert_eq!(wharf.get("/hello").text(), "hi");
        assert_eq!(summary(&wharf.output(), "configuration"), ["wharf.toml"]);
    }
}

#[test]
fn variables_stand_in_for_values_in_the_file() {
    let config = format!("[server]\nworkers = '${{SIZE:-3}}'\n{HELLO}");
    assert!(Wharf::start(&config).output().contains("3 workers"));
    assert!(Wharf::start_with(&config, &[], &[("SIZE", "6")]).output().contains("6 workers"));
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

[endpoint.fourth]
route  = "GET /fourth"
sql    = "select x from nowhere"
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
        // The database is asked all the same, of what could be read.
        "wharf.toml:25:25: endpoint.fourth.sql: the database refuses this statement: no such table: nowhere",
        "10 problems\n",
    ];
    assert_says(&exit, 1, &expected);
    // `serve` says what the file itself has wrong, and does not start.
    let serve =
        Wharf::run(&WRONG.replace("DATABASE", "sqlite:none.db"), &["serve", "--listen", "127.0.0.1:0"], &[]);
    assert_says(&serve, 2, &expected[..expected.len() - 2]);
    assert!(!serve.stdout.contains("listening"));
}

#[test]
fn check_says_each_mistake_once_where_it_stands_and_how_it_is_called() {
    let long = format!("select {} wrong {} from t", "x, ".repeat(300), ", x".repeat(300));
    let text = format!(
        "database.url = 'URL'\n\
         [endpoint.misspelt]\nroute = 'GET /a'\nsql = 'selct x from t'\n\
         [endpoint.long]\nroute = 'GET /b'\nsql = '{long}'\n\
         [endpoint.steps]\nroute = 'POST /c'\nstep = [{{ sql = 'select x from t' }}, {{ sql = 'select no from t' }}]\n"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("t.db");
    let file = rusqlite::Connection::open(&path).expect("SQLite opens");
    file.execute_batch("create table t (x integer)").expect("the table is made");
    let database = Postgres::database();
    database.psql("create table t (x integer)");
    for url in [format!("sqlite:{}", path.display()), database.url()] {
        let exit = Wharf::run(&text.replace("URL", &url), &["check"], &[]);
        let says = [
            "endpoint.misspelt.sql: the database refuses",
            "wharf.toml:10:",
            "endpoint.steps.step[2].sql: ",
            "3 problems\n",
        ];
        assert_says(&exit, 1, &says);
        assert!(!exit.stderr.contains("it writes"), "{}", exit.stderr);
        // The place is in the middle of a line of two thousand characters.
        let lines: Vec<&str> = exit.stderr.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() < 200), "{}", exit.stderr);
        let shown = lines.iter().position(|line| line.starts_with("7 | …")).expect("a part of the line");
        let place = |line: &str, part: &str| line.find(part).map(|at| line[..at].chars().count());
        let word = place(lines[shown], "wrong");
        assert_eq!((word.is_some(), place(lines[shown + 1], "^^^^^")), (true, word), "{}", exit.stderr);
    }
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
    for url in [format!("sqlite:{}", path.display()), database.url()] {
        let config = config.replace("DATABASE", &url);
        let exit = Wharf::run(&config, &["check"], &[]);
        let places = [
            "wharf.toml:9:8: endpoint.missing_table.sql: ",
            "wharf.toml:15:17: endpoint.missing_column.sql: ",
        ];
        let texts = [places[0], "9 |   from no_such_table\n", places[1], "no_such_column", "2 problems\n"];
        assert_says(&exit, 1, &texts);
        assert_says(&Wharf::run(&config, &["serve", "--listen", "127.0.0.1:0"], &[]), 2, &texts);
    }
    for url in [format!("sqlite:{}", path.display()), database.url()] {
        let sampled = format!(
            "[database]\nurl = '{url}'\n[endpoint.a]\nroute = 'GET /a/{{x}}'\nparams = {{ x = 'int' }}\n\
             sql = 'select :x as x'\nload.sample = 'select x, y from t'\n[endpoint.b]\nroute = 'GET /b/{{x}}'\n\
             params = {{ x = 'int' }}\nsql = 'select :x as x'\nload.sample = 'select x, x as z from t'\n"
        );
        let exit = Wharf::run(&sampled, &["check"], &[]);
        let texts = [
            "wharf.toml:7:26: endpoint.a.load.sample: the database refuses this statement",
            "wharf.toml:12:15: endpoint.b.load.sample: its column \"z\" is none of the endpoint's parameters, x",
        ];
        assert_says(&exit, 1, &texts);
    }
    let typed =
        "[database]\nurl = 'DATABASE'\n[endpoint.price]\nroute = 'GET /price'\nsql = 'select money from t'\n"
            .replace("DATABASE", &database.url());
    assert_says(&Wharf::run(&typed, &["check"], &[]), 1, &["money", "\"money\"::text", "wharf.toml:5:"]);
    let untyped = "[database]\nurl = 'DATABASE'\n[endpoint.a]\nroute = 'GET /a'\nparams = { x = { type = 'int', optional = true } }\n\
                   sql = 'select x from t where :x is null or x = :x'\n"
        .replace("DATABASE", &database.url());
    assert_says(
        &Wharf::run(&untyped, &["check"], &[]),
        1,
        &["could not determine data type", "cast(:x as bigint)"],
    );
}

#[test]
fn a_database_that_is_not_there_is_said_without_its_password() {
    // On an address of its own, where nothing else takes the port in the meantime.
    let free = std::net::TcpListener::bind("127.0.0.2:0").expect("a free port").local_addr().expect("bound");
    // A refused connection may be a server that starts, so this takes the pool's patience with a first connection.
    let url = format!("postgres://app:secret@{free}/shop");
    let exit = Wharf::run(HELLO, &["serve", "--listen", "127.0.0.1:0", "--database", &url], &[]);
    assert_says(&exit, 2, &["cannot open a session on app@", "shop"]);
    assert_eq!(exit.stderr.matches("Connection refused").count(), 1, "{}", exit.stderr);
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
fn demo_replaces_its_own_tables_in_a_sqlite_file_and_no_others() {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let demo = |more: &[&str]| {
        let arguments = [&["demo", "--database", "sqlite:my.db"], more].concat();
        Wharf::run_in(&directory, &arguments, &[])
    };
    assert_says(&demo(&["--replace"]), 0, &["sqlite:my.db: filled with the demo data"]);
    let file = rusqlite::Connection::open(directory.path().join("my.db")).expect("SQLite opens");
    file.execute_batch(
        "pragma journal_mode = wal; create table mine (x integer); insert into mine values (42);
         delete from account; insert into note (flight_id, author, body) values (1, 'a', 'b')",
    )
    .expect("the file can be changed");
    assert_says(&demo(&[]), 2, &["my.db exists already", "--replace"]);
    assert_says(&demo(&["--replace"]), 0, &["filled"]);
    let count = |of: &str| file.query_row(of, [], |row| row.get::<_, i64>(0)).expect("a number");
    assert_eq!(count("select count(*) from flights"), 27_004);
    assert_eq!(count("select count(*) from account"), 4);
    assert_eq!(count("select count(*) from note"), 0);
    assert_eq!(count("select x from mine"), 42);
}

#[test]
fn each_command_has_its_help() {
    for (arguments, texts) in [
        (&["--help"][..], &["serve", "check", "demo", "health"][..]),
        (&["serve", "--help"], &["--config", "--listen", "--database", "WHARF_CONFIG", "WHARF_SECTION_KEY"]),
        (&["check", "--help"], &["--config", "--database", "WHARF_DATABASE", "WHARF_SECTION_KEY"]),
        (&["demo", "--help"], &["--database", "--replace", "postgres://"]),
        (&["health", "--help"], &["ADDR", "127.0.0.1:8080", "WHARF_LISTEN"]),
    ] {
        assert_says(&Wharf::run("", arguments, &[]), 0, texts);
    }
    for arguments in [&[][..], &["serv"], &["serve", "--lisen", "x"], &["demo"]] {
        assert_says(&Wharf::run("", arguments, &[]), 2, &["Usage: wharf"]);
    }
}

#[test]
fn a_message_says_its_cause_once() {
    let exit = Wharf::run("", &["check", "--config", "none.toml"], &[]);
    assert_says(&exit, 2, &["none.toml"]);
    assert_eq!(exit.stderr.matches("No such file").count(), 1, "{}", exit.stderr);
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

#[test]
fn health_asks_through_a_unix_socket_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("wharf.sock");
    let listen = format!("unix:{}", path.display());
    assert_says(&Wharf::run("", &["health", &listen], &[]), 1, &["cannot connect"]);
    // The test needs no `serve`: any server that answers there counts as healthy.
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("the path is free");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let lines: Result<Vec<_>, _> =
            BufReader::new(&stream).lines().take_while(|line| !matches!(line.as_deref(), Ok(""))).collect();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        lines
    });
    assert_says(&Wharf::run("", &["health"], &[("WHARF_LISTEN", &listen)]), 0, &[]);
    let lines = server.join().expect("no panic").expect("a client asks");
    assert_eq!(lines, ["OPTIONS * HTTP/1.1", "Host: localhost", "Connection: close"]);
    assert_says(&Wharf::run("", &["health", "systemd"], &[]), 2, &["say where it listens"]);
}

#[test]
fn a_place_to_listen_has_three_forms() {
    for listen in ["127.0.0.1:0", "unix:wharf.sock", "systemd"] {
        assert_says(&Wharf::run(HELLO, &["check"], &[("WHARF_LISTEN", listen)]), 0, &[]);
        assert_says(&Wharf::run(HELLO, &["check", "--listen", listen], &[]), 0, &[]);
    }
    let refused = "\"unix:\" is not an IP address and a port, such as 127.0.0.1:8080, or \"unix:PATH\"";
    assert_says(&Wharf::run(HELLO, &["check", "--listen", "unix:"], &[]), 1, &["--listen: ", refused]);
    assert_says(
        &Wharf::run(HELLO, &["check"], &[("WHARF_LISTEN", "unix:")]),
        1,
        &["WHARF_LISTEN: ", refused],
    );
}

fn wait_until_refused(address: std::net::SocketAddr) {
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect_timeout(&address, PATIENCE).is_ok() {
        assert!(Instant::now() < until, "{address} still accepts");
    }
}

/// A server with a request that stays in PostgreSQL until its advisory lock is free.
fn with_a_blocked_request(test: impl FnOnce(Wharf, support::Client, postgres::Client)) {
    let database = Postgres::database();
    let config = format!(
        "[database]\nurl = '{}'\n[endpoint.lock]\nroute = 'POST /lock'\nsql = 'select pg_advisory_xact_lock(1) is null as x'\nreturns = 'value'\n",
        database.url()
    );
    let wharf = Wharf::start(&config);
    let mut holder =
        postgres::Client::connect(&database.url(), postgres::NoTls).expect("the database answers");
    holder.execute("select pg_advisory_lock(1)", &[]).expect("the lock is free");
    let mut blocked = wharf.connect();
    blocked.request("POST", "/lock", &[], "");
    database.wait_for_a_waiting_lock();
    test(wharf, blocked, holder);
}

#[test]
fn a_signal_lets_requests_in_flight_finish() {
    for signal in ["TERM", "INT"] {
        with_a_blocked_request(|wharf, mut blocked, mut holder| {
            wharf.signal(signal);
            wharf.wait_for_log("draining");
            wait_until_refused(wharf.address());
            holder.execute("select pg_advisory_unlock(1)", &[]).expect("the lock is ours");
            let answer = blocked.answer();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
            drop(blocked);
            let exit = wharf.wait();
            assert_says(&exit, 0, &["1 requests, 1 answered"]);
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
