//! A reload takes effect as a whole or not at all.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use wharf::server::{ReloadError, Server};

use super::load::replace;
use crate::support::{
    Client, Exit, Postgres, Wharf, assert_problem, assert_says, config_of, directory_with, wait_until,
};

const SERVE: [&str; 4] = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

fn start(config: &str) -> (Arc<TempDir>, Wharf) {
    let directory = Arc::new(directory_with(config));
    let wharf = Wharf::start_in(&directory, &SERVE, &[]);
    (directory, wharf)
}

fn reload(directory: &TempDir) -> Exit {
    Wharf::run_in(directory, &["reload", "--config", "wharf.toml"], &[])
}

fn create(file: &Path, table: &str) {
    let database = rusqlite::Connection::open(file).expect("the directory takes a file");
    let sql = format!("create table {table} (name text); insert into {table} values ('{}')", file.display());
    database.execute_batch(&sql).expect("the table is new");
}

/// `wharf reload` checked the new endpoints on the new database and the server on the old one, which then served them. The exit
/// code was 0.
#[test]
fn endpoints_for_another_database_are_not_served_from_this_one() {
    let files = tempfile::tempdir().expect("a temporary directory");
    let [old, new] = ["old.db", "new.db"].map(|name| files.path().join(name));
    create(&old, "person");
    create(&new, "person");
    create(&new, "secret");
    let text = |file: &Path, sql: &str| {
        format!(
            "server.pid_file = 'wharf.pid'\n[http]\nidle_timeout = '{}s'\n[database]\nurl = 'sqlite:{}'\n\
             [endpoint.name]\nroute = 'GET /name'\nreturns = 'value'\nsql = '{sql}'\n",
            sql.len(),
            file.display(),
        )
    };
    let count = "select count(*) from person";
    let (directory, wharf) = start(&text(&old, count));
    assert_eq!(wharf.get("/name").text(), "1");
    for sql in ["select name from person", "select name from secret", count] {
        replace(&wharf, &text(&new, sql));
        let exit = reload(&directory);
        assert_says(&exit, 1, &["nothing has changed: database.url: a new value needs a restart"]);
        assert_eq!(wharf.get("/name").text(), "1", "{sql}");
        let mut admin = Client::connect(wharf.admin_address());
        admin.request("POST", "/reload", &[], "");
        assert_problem(&admin.answer(), 422, "database.url: a new value needs a restart");
    }
    assert!(!wharf.log().contains("idle_timeout"), "nor has anything else changed: {}", wharf.log());
    replace(&wharf, &text(&old, "select name from person"));
    assert_says(&reload(&directory), 0, &["endpoint.name: changed"]);
    assert_eq!(wharf.get("/name").text(), format!("\"{}\"", old.display()));
}

/// Endpoints that are for clients with a certificate are not served to others until the restart.
#[test]
fn endpoints_for_other_clients_are_not_served_to_these() {
    let text = |more: &str, body: &str| {
        format!("server.pid_file = 'wharf.pid'\n{more}\n[endpoint.a]\nroute = 'GET /a'\nbody = '{body}'\n")
    };
    let server = Server::new(config_of(text("", "old"))).expect("there is no database to open");
    let server = server.start().expect("a free port");
    let mut new = config_of(text("", "new"));
    new.tls.client_auth = wharf::config::ClientAuth::Required;
    let refused = server.reload(new).expect_err("it needs a restart");
    assert!(matches!(refused, ReloadError::NeedsRestart(_)), "{refused}");
    assert!(refused.to_string().contains("tls.client_auth"), "{refused}");
    let mut client = Client::connect(server.address());
    client.request("GET", "/a", &[], "");
    assert_eq!(client.answer().text(), "old");
}

/// Sessions that were opened before the reload kept the settings of the old `connection_init_sql`.
#[test]
fn a_new_connection_init_sql_holds_for_all_sessions() {
    let database = Postgres::database();
    database.psql("create schema a; create schema b; create table a.t as select 'a' n; create table b.t as select 'b' n");
    let text = |schema: &str| {
        format!(
            "server.workers = 4\n[database]\nurl = '{}'\nmaximum_pool_size = 2\n\
             connection_init_sql = 'set search_path = {schema}'\n[endpoint.n]\nroute = 'GET /n'\n\
             sql = 'select n from t'\nreturns = 'value'\n[endpoint.wait]\nroute = 'GET /wait'\nreturns = 'value'\n\
             sql = 'select n from t, pg_advisory_xact_lock(7)'\n",
            database.url()
        )
    };
    let server =
        Server::new(config_of(text("a"))).expect("the database is there").start().expect("a free port");
    let mut client = Client::connect(server.address());
    let mut get = |path: &str| {
        client.request("GET", path, &[], "");
        client.answer().text().to_owned()
    };
    let mut other =
        postgres::Client::connect(&database.url(), postgres::NoTls).expect("the database is there");
    other.execute("select pg_advisory_lock(7)", &[]).expect("nobody has it");
    let mut waiting = Client::connect(server.address());
    waiting.request("GET", "/wait", &[], "");
    database.wait_for_a_waiting_lock();
    assert_eq!(get("/n"), "\"a\"");
    server.reload(config_of(text("b"))).expect("it is good");
    for _ in 0..20 {
        assert_eq!(get("/n"), "\"b\"");
    }
    other.execute("select pg_advisory_unlock(7)", &[]).expect("it is ours");
    assert_eq!(waiting.answer().text(), "\"a\"", "it had begun");
    for _ in 0..20 {
        assert_eq!(get("/wait"), "\"b\"");
    }
}

/// How much of its address space the process has.
fn address_space(wharf: &Wharf) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", wharf.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("Linux says it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// Lets the process have so much more, or as much as it likes.
fn limit(wharf: &Wharf, more: Option<u64>) {
    let bytes = more.map_or_else(|| "unlimited".to_owned(), |more| (address_space(wharf) + more).to_string());
    let process = wharf.id().to_string();
    let status =
        Command::new("prlimit").args(["--pid", &process, &format!("--as={bytes}:unlimited")]).status();
    assert!(status.expect("prlimit is there").success());
}

fn workers(wharf: &Wharf) -> usize {
    fs::read_dir(format!("/proc/{}/task", wharf.id()))
        .expect("it runs")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("worker"))
        .count()
}

/// The stack of each thread, in bytes. It is far more than the process needs of memory meanwhile, so the address space that is left
/// decides how many threads there can be and nothing else.
const STACK: u64 = 128 << 20;

/// The number of workers had changed already when the access log's thread was refused, and the pool panicked without a thread.
#[test]
fn a_thread_that_cannot_be_had_changes_nothing() {
    let text = |workers: usize, access: &str, pool: usize| {
        format!(
            "server.pid_file = 'wharf.pid'\nserver.workers = {workers}\nlog.access = '{access}'\n[database]\n\
             url = 'sqlite:x.db'\nmaximum_pool_size = {pool}\nminimum_idle = 0\n\
             [endpoint.a]\nroute = 'GET /a'\nbody = '{workers}'\n\
             [endpoint.sql]\nroute = 'GET /sql'\nsql = 'select {workers}'\n"
        )
    };
    let directory = Arc::new(directory_with(&text(3, "off", 1)));
    let wharf = Wharf::start_in(&directory, &SERVE, &[("RUST_MIN_STACK", &STACK.to_string())]);
    let ours = workers(&wharf);
    // One thread more, but not two.
    for room in [STACK / 2, STACK * 3 / 2] {
        replace(&wharf, &text(4, "combined", 1));
        limit(&wharf, Some(room));
        assert_says(&reload(&directory), 1, &["nothing has changed: cannot start another thread: "]);
        wait_until("the workers are as many as before", || workers(&wharf) == ours);
        assert_eq!(wharf.get("/a").text(), "3");
        limit(&wharf, None);
    }
    assert!(!wharf.log().contains("GET /a"), "nor is there an access log: {}", wharf.log());
    // A larger pool needs no thread, where it could only have panicked.
    replace(&wharf, &text(3, "off", 9));
    limit(&wharf, Some(STACK / 2));
    assert_says(&reload(&directory), 0, &["database.maximum_pool_size: 9, before 1"]);
    limit(&wharf, None);
    replace(&wharf, &text(4, "combined", 9));
    assert_says(&reload(&directory), 0, &["server.workers: 4, before 3", "log.access: combined, before off"]);
    assert_eq!((workers(&wharf), wharf.get("/a").text()), (ours + 1, "4"));
    wharf.wait_for_log("GET /a");
}

/// The crate that starts the pool's threads panics when it gets none.
#[test]
fn a_start_without_threads_ends_with_a_message() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("it is bound").to_string();
    let directory = directory_with("server.workers = 2\n[database]\nurl = 'sqlite:x.db'\n");
    create(&directory.path().join("x.db"), "t");
    let mut refused_the_pool = 0;
    for quarters in 1..400 {
        let script = format!(
            "RUST_BACKTRACE=0 RUST_MIN_STACK={STACK} exec prlimit --as={} \"$0\" \"$@\"",
            STACK / 4 * quarters
        );
        let exit = Wharf::run_by(&script, None, &directory, &["--config", "wharf.toml", "--listen", &listen]);
        if exit.stderr.contains("cannot listen") {
            assert_eq!(exit.code, Some(2), "{}", exit.stderr);
            break;
        }
        if exit.stderr.contains("the pool cannot start its threads") {
            assert_eq!(exit.code, Some(2), "{}", exit.stderr);
            refused_the_pool += 1;
        }
    }
    assert!(refused_the_pool > 0);
}
