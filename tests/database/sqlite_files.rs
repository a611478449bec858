//! SQLite's file: how it is opened, and what happens when another file takes its name.

use std::fs;
use std::path::Path;

use crate::support::{Wharf, assert_says, directory_with, wait_until};

const SERVE: [&str; 4] = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

fn config(url: &str) -> String {
    format!(
        "[database]\nurl = '{url}'\nalive_bypass_window = '0ms'\n\
         [endpoint.name]\nroute = 'GET /name'\nsql = 'select name from t'\nreturns = 'value'\n\
         [endpoint.add]\nroute = 'POST /add'\nsql = \"insert into t values ('more')\"\n"
    )
}

fn make(file: &Path, name: &str) {
    let database = rusqlite::Connection::open(file).expect("the directory takes a file");
    database
        .execute_batch(&format!("create table t (name text); insert into t values ('{name}')"))
        .expect("it is new");
}

/// The names in a directory, without the configuration.
fn files(directory: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it is there").file_name());
    let mut names: Vec<_> =
        entries.map(|name| name.into_string().expect("text")).filter(|name| name != "wharf.toml").collect();
    names.sort();
    names
}

#[test]
fn a_file_that_is_only_read_stays_as_it_was() {
    for parameters in ["mode=ro", "immutable=1", "mode=ro&immutable=1"] {
        let directory = std::sync::Arc::new(directory_with(&config(&format!("sqlite:x.db?{parameters}"))));
        let file = directory.path().join("x.db");
        make(&file, "one");
        let before = fs::read(&file).expect("it is there");
        let wharf = Wharf::start_in(&directory, &SERVE, &[]);
        assert_eq!(wharf.get("/name").text(), "\"one\"");
        assert!(wharf.request("POST", "/add", &[], "").status >= 500, "{parameters}");
        assert_eq!(files(directory.path()), ["x.db"], "{parameters}");
        wharf.signal("TERM");
        assert_eq!(wharf.wait().code, Some(0));
        assert_eq!(fs::read(&file).expect("it is there"), before, "{parameters}");
    }
}

/// `check` made an empty file of a misspelt name, and turned others into files with a write-ahead log.
#[test]
fn check_makes_no_file_and_changes_none() {
    let directory = directory_with(&config("sqlite:x.db"));
    let check = || Wharf::run_in(&directory, &["check", "--config", "wharf.toml"], &[]);
    assert_says(&check(), 1, &["no such table: t", "on an empty database: there is no x.db"]);
    assert!(files(directory.path()).is_empty(), "{:?}", files(directory.path()));
    let file = directory.path().join("x.db");
    make(&file, "one");
    let before = fs::read(&file).expect("it is there");
    assert_says(&check(), 0, &["every statement prepared on sqlite:x.db: good"]);
    assert_eq!(files(directory.path()), ["x.db"]);
    assert_eq!(fs::read(&file).expect("it is there"), before);
    let directory = directory_with(&config("sqlite:x.db?mode=rw"));
    let exit =
        Wharf::run_in(&directory, &["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    assert_says(&exit, 2, &["x.db", "no such file"]);
    assert!(files(directory.path()).is_empty(), "mode=rw makes no file");
}

/// The server went on to read the old file, and to write what nobody found any more.
#[test]
fn a_file_that_was_replaced_or_removed_is_noticed() {
    let directory = std::sync::Arc::new(directory_with(&config("sqlite:x.db")));
    let file = |name: &str| directory.path().join(name);
    make(&file("x.db"), "one");
    let wharf = Wharf::start_in(&directory, &SERVE, &[]);
    assert_eq!(wharf.get("/name").text(), "\"one\"");
    make(&file("y.db"), "two");
    // The old file's log would be taken for the new file's.
    for name in ["x.db-wal", "x.db-shm"] {
        let _ = fs::remove_file(file(name));
    }
    fs::rename(file("y.db"), file("x.db")).expect("the same directory");
    wait_until("the new file is served", || wharf.get("/name").text() == "\"two\"");
    assert!(wharf.log().contains("x.db was replaced or removed"), "{}", wharf.log());
    fs::rename(file("x.db"), file("away.db")).expect("the same directory");
    wait_until("the file is missed", || wharf.get("/name").status == 503);
    assert!(!file("x.db").exists(), "no empty file takes its place");
    fs::rename(file("away.db"), file("x.db")).expect("the same directory");
    wait_until("the file is found again", || wharf.get("/name").text() == "\"two\"");
}
