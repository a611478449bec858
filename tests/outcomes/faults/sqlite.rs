//! SQLite's own: a disk that is full, and another process that holds the write lock.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::bounds::{Bounds, within_bounds};
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{Answered, DEADLINE, Served, WORKERS, Work, expect_books, schema, steps_of_a_transfer};
use crate::support::{Wharf, is_root};

const ALL: [Work; 2] = [Work::Echo, Work::Transfer];

/// Pages of the file that can be set free.
const BALLAST: usize = 200;

#[test]
fn a_write_lock_that_another_process_holds_is_503_by_the_deadline() {
    within_bounds(|bounds| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = prepare(directory.path());
        let served = start(Wharf::start(&config(&file, "")), &file);
        let mut foreign = open(&file);
        let (answers, back) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            let lock = foreign.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
            let lock = lock.expect("the lock comes free between two transactions");
            load.wait_for_refused(2 * WORKERS);
            lock.rollback().expect("nothing was done");
            let back = Instant::now();
            load.go_on_after(back);
            back
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        settle(served, &file, &answers);
    });
}

/// The database's own limit of the file's size is reached, not the disk's.
#[test]
fn a_file_that_may_not_grow_is_503_for_writes_and_serves_reads() {
    within_bounds(|bounds| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = prepare(directory.path());
        let pages: i64 = open(&file).query_row("pragma page_count", [], |row| row.get(0)).expect("a count");
        let limit = format!("connection_init_sql = 'pragma max_page_count = {}'", pages + 2);
        let served = start(Wharf::start(&config(&file, &limit)), &file);
        let answers = full(
            bounds,
            &served,
            || {},
            || {
                open(&file).execute_batch("delete from ballast").expect("another process may");
            },
        );
        settle(served, &file, &answers);
    });
}

/// As root, who may mount a small disk that only the server sees. Elsewhere the limit of the file stands for it.
#[test]
fn a_full_disk_is_503_for_writes_and_serves_reads() {
    within_bounds(|bounds| {
        if !can_mount() {
            return;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let model = prepare(directory.path());
        let script = format!(
            "mkdir disk && exec unshare --mount sh -c 'mount -t tmpfs -o size=8m none disk && \
             cp {} disk/test.db && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
            model.display()
        );
        let served = Served::start_by(&script, &config(Path::new("disk/test.db"), ""));
        let inside = PathBuf::from(format!("/proc/{}/root", served.id()));
        let disk = inside.join(served.directory().strip_prefix("/").expect("it is absolute")).join("disk");
        let ballast = disk.join("ballast");
        let end = || std::fs::remove_file(&ballast).expect("it is there");
        let answers = full(bounds, &served, || fill(&ballast), end);
        expect_busy_workers(&served);
        // SQLite would follow that path out of the server's view; nothing writes any more.
        let copy = directory.path().join("copy.db");
        for end in ["", "-wal"] {
            let (from, to) = (disk.join(format!("test.db{end}")), format!("{}{end}", copy.display()));
            std::fs::copy(from, to).expect("there is room outside");
        }
        expect_sound(&copy, &answers);
        served.expect_account();
    });
}

/// Writes find no room from `begin` until `end`.
fn full(bounds: &mut Bounds, served: &Served, begin: impl FnOnce(), end: impl FnOnce()) -> Vec<Answered> {
    let (answers, back) = during(served, &ALL, |load| {
        load.wait_for_good(40);
        begin();
        load.wait_for_refused(4 * WORKERS);
        end();
        let back = Instant::now();
        load.go_on_after(back);
        back
    });
    expect_in_time(bounds, &answers);
    expect_resumed(bounds, &answers, back);
    for answer in answers.iter().filter(|answer| answer.work == Work::Echo) {
        bounds.hold(answer.is_good(), || format!("reading needs no room: {answer:?}"));
    }
    answers
}

fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).status();
    is_root() && tried.is_ok_and(|status| status.success())
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a new file");
    for size in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn config(file: &Path, database: &str) -> String {
    format!(
        "[server]\nworkers = {WORKERS}\ndeadline = '{}ms'\n\
         [database]\nurl = 'sqlite:{}'\nmaximum_pool_size = {WORKERS}\n{database}\n\
         [endpoint.echo]\nroute = 'GET /echo/{{n}}'\nparams.n = 'int'\nreturns = 'one'\nsql = 'select :n as n'\n\
         [endpoint.meet]\nroute = 'POST /meet/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '25s'\n\
         status = 200\n\
         step = [{{ sql = 'update account set balance = balance where id = 0' }}, {{ sql = 'select :n as n' }}]\n\
         [endpoint.hold]\nroute = 'GET /hold/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '1s'\n\
         sql = 'with recursive i(x) as (select 1 union all select x + 1 from i) select :n as n, max(x) as x from i'\n{}",
        DEADLINE.as_millis(),
        file.display(),
        steps_of_a_transfer("")
    )
}

/// The tables, in a file that is there before the server is.
fn prepare(directory: &Path) -> PathBuf {
    let file = directory.join("test.db");
    let database = open(&file);
    database.pragma_update(None, "journal_mode", "WAL").expect("a new file");
    database.execute_batch(&schema()).expect("the tables are new");
    database.execute_batch("create table ballast (data)").expect("the table is new");
    for _ in 0..BALLAST {
        database.execute("insert into ballast values (zeroblob(3500))", []).expect("there is room");
    }
    file
}

fn open(file: &Path) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(file).expect("the file can be opened");
    database.busy_timeout(Duration::from_secs(20)).expect("a time that SQLite takes");
    database
}

fn start(wharf: Wharf, file: &Path) -> Served {
    warm_up(Served::over(wharf), file)
}

fn warm_up(mut served: Served, file: &Path) -> Served {
    expect_all_workers(&served, file);
    served.note_files();
    served
}

/// All workers but one wait for the lock, and the last one has a request to answer.
fn expect_all_workers(served: &Served, file: &Path) {
    let mut foreign = open(file);
    let lock = foreign.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
    let lock = lock.expect("nobody writes");
    let answers = || {
        let answer = served.asker().ask(Work::Echo);
        assert!(answer.is_good(), "{}", answer.detail);
    };
    served.expect_meeting(WORKERS - 1, answers, || lock.rollback().expect("nothing was done"));
}

/// The same where the lock cannot be held from outside: all workers but one are busy until the deadline of what they do.
fn expect_busy_workers(served: &Served) {
    let mut busy: Vec<_> = (1..WORKERS).map(|_| served.asker()).collect();
    let sent: Vec<_> = busy.iter_mut().map(|asker| asker.send(Work::Hold)).collect();
    let mut asker = served.asker();
    for _ in 0..20 {
        let answer = asker.ask(Work::Echo);
        assert!(answer.is_good(), "{}", answer.detail);
    }
    for (asker, sent) in busy.iter_mut().zip(&sent) {
        assert_eq!(asker.answer(sent).status, 504, "it has no end of its own");
    }
}

fn settle(served: Served, file: &Path, answers: &[Answered]) {
    expect_all_workers(&served, file);
    expect_sound(file, answers);
    served.expect_nothing_kept();
    served.expect_account();
}

fn expect_sound(file: &Path, answers: &[Answered]) {
    let database = open(file);
    expect_books(answers, |sql| {
        let mut statement = database.prepare(sql).expect("SQL that both databases understand");
        let rows = statement.query_map([], |row| row.get(0)).expect("it has no parameter");
        rows.collect::<Result<_, _>>().expect("numbers")
    });
    let sound: String = database.query_row("pragma integrity_check", [], |row| row.get(0)).expect("a word");
    assert_eq!(sound, "ok");
}
