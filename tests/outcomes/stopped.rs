//! The real program, stopped for longer than its requests may take while a row of theirs is being written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{UNKNOWN, assert_unknown, with_table};
use crate::support::{Answer, Database, Wharf, directory_with, wait_until};

/// How often each case is tried.
const ROUNDS: usize = 8;

/// How long the program does nothing.
const STOP: Duration = Duration::from_millis(250);

fn signal(wharf: &Wharf, signal: Signal) {
    let id = i32::try_from(wharf.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("it runs");
}

/// An endpoint that writes one row in about half of its deadline.
fn config(url: &str, more: &str, insert: &str) -> String {
    format!(
        "[server]\nworkers = 4\ndeadline = '60ms'\n[database]\nurl = '{url}'\n{more}\n\
         [endpoint.add]\nroute = 'POST /add/{{label}}'\nparams.label = 'text'\nreturns = 'none'\nsql = '{insert}'"
    )
}

const INTO_POSTGRESQL: &str = "insert into t select :label from pg_sleep(0.03)";

const INTO_SQLITE: &str = "insert into t with recursive n(x) as (select 1 union all select x + 1 from n where x < 100000) \
                           select :label from n where x = 100000";

/// Looks at a database whether something but the look itself runs there.
fn activity(database: &Database) -> impl FnMut() -> bool {
    let mut look = postgres::Client::connect(&database.url(), postgres::NoTls).expect("the server is there");
    move || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and state = 'active' and pid <> pg_backend_pid()";
        look.query_one(sql, &[]).expect("the view is there").get::<_, i64>(0) > 0
    }
}

fn file_with_table(directory: &Path) -> rusqlite::Connection {
    let file = rusqlite::Connection::open(directory.join("test.db")).expect("SQLite opens");
    file.pragma_update(None, "journal_mode", "WAL").expect("a new file");
    file.execute_batch("create table t (label text)").expect("a new file");
    file
}

fn rows_in(file: &rusqlite::Connection, label: &str) -> u32 {
    let count = "select count(*) from t where label = ?1";
    file.query_row(count, [label], |row| row.get(0)).expect("the table is there")
}

fn rows_of(database: &Database, label: &str) -> u32 {
    super::rows(database, label).parse().expect("a count")
}

/// Whether the answer to the client is true if there are `rows` rows.
fn is_true(answer: &Answer, rows: u32) -> bool {
    match answer.status {
        204 => rows == 1,
        503 | 504 => rows == 0,
        500 => answer.json()["type"] == UNKNOWN,
        _ => false,
    }
}

fn expect_the_truth(told: &[(String, Answer)], rows: impl Fn(&str) -> u32) {
    let told = told.iter().map(|(label, answer)| (answer, rows(label)));
    let (truths, lies): (Vec<_>, Vec<_>) = told.partition(|(answer, rows)| is_true(answer, *rows));
    let lies: Vec<_> = lies.iter().map(|(answer, rows)| (answer.status, *rows)).collect();
    assert!(lies.is_empty(), "{} beside {} truths; (status, rows): {lies:?}", lies.len(), truths.len());
}

#[test]
fn a_program_that_is_stopped_while_postgresql_writes_tells_no_lie() {
    let database = with_table();
    let wharf = Wharf::start(&config(&database.url(), "", INTO_POSTGRESQL));
    let mut writing = activity(&database);
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let (mut client, label) = (wharf.connect(), format!("round-{round}"));
        client.request("POST", &format!("/add/{label}"), &[], "");
        let sent = Instant::now();
        wait_until("the statement never ran", || writing() || sent.elapsed() > STOP);
        signal(&wharf, Signal::STOP);
        wait_until("the statement never ends", || sent.elapsed() > STOP && !writing());
        signal(&wharf, Signal::CONT);
        told.push((label, client.answer()));
    }
    wait_until("a statement never ends", || !writing());
    expect_the_truth(&told, |label| rows_of(&database, label));
    if told.iter().any(|(_, answer)| answer.status == 500) {
        wharf.wait_for_log("may have been committed");
    }
}

/// The row is there, for all to see, while its commit still moves pages into the file.
#[test]
fn a_program_that_is_stopped_while_sqlite_commits_tells_no_lie() {
    const DEADLINE: Duration = Duration::from_millis(60);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = file_with_table(directory.path());
    file.execute_batch(
        "create table load (bytes blob); \
         create trigger heavy after insert on t begin insert into load values (zeroblob(8000000)); end",
    )
    .expect("the table is there");
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let more = "connection_init_sql = 'pragma wal_autocheckpoint = 1'";
    let wharf = Wharf::start(&config(&url, more, "insert into t values (:label)"));
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let (mut client, label) = (wharf.connect(), format!("round-{round}"));
        client.request("POST", &format!("/add/{label}"), &[], "");
        let sent = Instant::now();
        wait_until("the row is never seen", || rows_in(&file, &label) == 1 || sent.elapsed() > DEADLINE);
        signal(&wharf, Signal::STOP);
        wait_until("the stop never ends", || sent.elapsed() > STOP);
        signal(&wharf, Signal::CONT);
        told.push((label, client.answer()));
    }
    expect_the_truth(&told, |label| rows_in(&file, label));
}

/// Clients ask while the program runs now and then only, as beside busy neighbours: for moments that differ each time.
fn ask_a_starved_program(wharf: &Wharf) -> Vec<(String, Answer)> {
    const CLIENTS: usize = 3;
    const EACH: usize = 12;
    let asking = AtomicUsize::new(CLIENTS);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let asking = &asking;
                scope.spawn(move || {
                    let told = (0..EACH).map(|turn| {
                        let label = format!("{client}-{turn}");
                        let answer = wharf.request("POST", &format!("/add/{label}"), &[], "");
                        (label, answer)
                    });
                    let told: Vec<_> = told.collect();
                    asking.fetch_sub(1, Ordering::Relaxed);
                    told
                })
            })
            .collect();
        // Multiples of the golden ratio are spread evenly.
        let moments = (1_u64..).map(|turn| turn * 618 % 1000);
        for moment in moments {
            if asking.load(Ordering::Relaxed) == 0 {
                break;
            }
            for (state, at_most_ms) in [(Signal::STOP, 150), (Signal::CONT, 45)] {
                signal(wharf, state);
                let (since, time) = (Instant::now(), Duration::from_micros(moment * at_most_ms));
                wait_until("time never passes", || since.elapsed() >= time);
            }
        }
        signal(wharf, Signal::CONT);
        clients.into_iter().flat_map(|client| client.join().expect("each is answered")).collect()
    })
}

#[test]
fn a_starved_program_tells_no_lie_of_postgresql() {
    let database = with_table();
    let wharf = Wharf::start(&config(&database.url(), "", INTO_POSTGRESQL));
    let told = ask_a_starved_program(&wharf);
    let mut writing = activity(&database);
    wait_until("a statement never ends", || !writing());
    expect_the_truth(&told, |label| rows_of(&database, label));
}

#[test]
fn a_starved_program_tells_no_lie_of_sqlite() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = file_with_table(directory.path());
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let wharf = Wharf::start(&config(&url, "", INTO_SQLITE));
    let told = ask_a_starved_program(&wharf);
    expect_the_truth(&told, |label| rows_in(&file, label));
}

/// A write-ahead log whose writing failed may still hold the transaction, and the next process that opens the file
/// applies it.
#[test]
fn a_commit_that_the_disk_fails_is_no_plain_503() {
    let config = config("sqlite:test.db", "", "insert into t values (:label || hex(zeroblob(300000)))");
    // It is not the time that is short.
    let directory = Arc::new(directory_with(&config.replace("'60ms'", "'10s'")));
    drop(file_with_table(directory.path()));
    // A file that may not grow is another error than a disk that is full.
    let script = "trap '' XFSZ; ulimit -f 256; exec \"$0\" \"$@\"";
    let serve = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
    let wharf = Wharf::start_by(script, None, &directory, &serve);
    let answer = wharf.request("POST", "/add/large", &[], "");
    assert_unknown(&answer);
    wharf.wait_for_log("disk I/O error");
    wharf.wait_for_log(answer.json()["request_id"].as_str().expect("a worker has answered"));
}
