//! `wharf check` refuses a statement whose text shows that it leaves state in the session.

use super::served::{endpoint, steps};
use crate::support::{Exit, Postgres, Wharf};

/// Statements that leave state, and the word that the message names.
const REFUSED_ON_POSTGRESQL: [(&str, &str); 33] = [
    ("set role somebody", "set"),
    ("/* first */ SET session authorization somebody", "set"),
    ("set search_path = other", "set"),
    ("set session search_path = other", "set"),
    ("set time zone 'Asia/Tokyo'", "set"),
    ("set session characteristics as transaction read write", "set"),
    ("reset all", "reset"),
    ("reset role", "reset"),
    ("listen news", "listen"),
    ("unlisten *", "unlisten"),
    ("load 'auto_explain'", "load"),
    ("declare kept cursor with hold for select 1", "declare"),
    ("fetch all from kept", "fetch"),
    ("move kept", "move"),
    ("close kept", "close"),
    ("discard all", "discard"),
    ("DISCARD TEMP", "discard"),
    ("create temp table kept (n int)", "temp"),
    ("create temporary table kept as select 1 as n", "temp"),
    ("create local temp table kept (n int)", "temp"),
    ("Create /* now */ Temp -- and here\n Table kept (n int)", "temp"),
    ("select 1 as n into temp kept", "temp"),
    ("select 1 as n into temporary table kept", "temp"),
    ("with one as (select 1 as n) select n into temp kept from one", "temp"),
    ("select set_config('app.user', 'ann', false)", "set_config"),
    ("select SET_CONFIG ( 'app.user' , 'ann' , FALSE )", "set_config"),
    ("select pg_catalog.set_config('app.user', 'ann', false)", "set_config"),
    ("select n from (select set_config('app.user', 'ann', false) as n) x", "set_config"),
    ("select pg_advisory_lock(7)", "pg_advisory_lock"),
    ("select PG_ADVISORY_LOCK (7, 8)", "pg_advisory_lock"),
    ("select pg_advisory_lock_shared(7)", "pg_advisory_lock"),
    ("select pg_try_advisory_lock(7)", "pg_try_advisory_lock"),
    ("select n from t where pg_try_advisory_lock(n)", "pg_try_advisory_lock"),
];

/// Statements that leave nothing, however they look.
const ACCEPTED_ON_POSTGRESQL: [(&str, &str); 15] = [
    ("GET", "select set_config('app.user', 'ann', true)"),
    ("GET", "select pg_advisory_xact_lock_shared(7) is null"),
    ("POST", "select pg_advisory_xact_lock(7)"),
    ("POST", "select pg_try_advisory_xact_lock(7)"),
    ("GET", "select 'set role somebody; discard all'"),
    ("GET", "select $$ pg_advisory_lock(7) $$"),
    ("GET", "select n from t -- listen to set_config('app.user', 'ann', false)"),
    ("GET", "select n as listen, n as load, n as \"into temp\" from t"),
    ("GET", "with reset as (select 1 as n) select n from reset"),
    ("GET", "select temp from temp"),
    ("GET", "select setting from pg_settings where name = 'search_path'"),
    ("GET", "select current_setting('search_path')"),
    ("GET", "show search_path"),
    ("POST", "update t set n = 1"),
    ("POST", "insert into temp select n from t"),
];

const REFUSED_ON_SQLITE: [(&str, &str); 11] = [
    ("pragma foreign_keys = off", "pragma"),
    ("PRAGMA foreign_keys(0)", "pragma"),
    ("pragma query_only = 0", "pragma"),
    ("pragma main.locking_mode = exclusive", "pragma"),
    ("attach 'other.db' as other", "attach"),
    ("ATTACH database 'other.db' as other", "attach"),
    ("detach other", "detach"),
    ("create temp table kept (n int)", "temp"),
    ("create temporary table kept as select 1 as n", "temp"),
    ("create temp view kept as select 1 as n", "temp"),
    ("create table temp.kept (n int)", "temp"),
];

const ACCEPTED_ON_SQLITE: [(&str, &str); 5] = [
    ("GET", "select foreign_keys from pragma_foreign_keys"),
    ("GET", "pragma table_info(t)"),
    ("GET", "select 'attach; create temp table kept (n int)'"),
    ("GET", "select temp from temp"),
    ("POST", "insert into temp select n from t"),
];

fn check(url: &str, endpoints: &str) -> Exit {
    Wharf::run(&format!("[database]\nurl = '{url}'\n{endpoints}"), &["check"], &[])
}

/// Asserts that each refused statement has a line with its endpoint's key and the word, as a single statement and as a
/// step.
fn assert_refused(url: &str, refused: &[(&str, &str)]) {
    let (mut endpoints, mut expected) = (String::new(), Vec::new());
    for (number, (sql, word)) in refused.iter().enumerate() {
        let name = format!("alone_{number}");
        endpoints += &endpoint("POST", &name, sql);
        expected.push((name, sql, word));
        let name = format!("steps_{number}");
        endpoints += &steps("POST", &name, &["select 1", sql, "select 2"]);
        expected.push((name, sql, word));
    }
    let exit = check(url, &endpoints);
    assert_eq!(exit.code, Some(1), "{}{}", exit.stdout, exit.stderr);
    let said = format!("{}{}", exit.stdout, exit.stderr);
    expected.retain(|(name, _, word)| {
        let key = format!("endpoint.{name}.");
        let messages = said.lines().filter_map(|line| line.split_once(&key));
        !messages.into_iter().any(|(_, message)| message.to_ascii_lowercase().contains(**word))
    });
    assert!(expected.is_empty(), "not refused, or without key and word: {expected:#?}\n{said}");
}

fn assert_accepted(url: &str, accepted: &[(&str, &str)], more: &str) {
    let mut endpoints = more.to_owned();
    for (number, (method, sql)) in accepted.iter().enumerate() {
        endpoints += &endpoint(method, &format!("alone_{number}"), sql);
        endpoints += &steps(method, &format!("steps_{number}"), &[sql, "select 1"]);
    }
    let exit = check(url, &endpoints);
    assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
}

#[test]
fn check_refuses_a_text_that_leaves_session_state_and_says_where() {
    let database = Postgres::database();
    database.psql("create table t (n int); create table temp (temp int)");
    assert_refused(&database.url(), &REFUSED_ON_POSTGRESQL);
    let local = steps(
        "POST",
        "local",
        &["set local search_path = other", "SET /* now */ LOCAL app.tenant = 'seven'", "select 1"],
    );
    assert_accepted(&database.url(), &ACCEPTED_ON_POSTGRESQL, &local);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("test.db");
    let file = rusqlite::Connection::open(&path).expect("SQLite opens");
    file.execute_batch("create table t (n int); create table temp (temp int)").expect("the tables are made");
    let url = format!("sqlite:{}", path.display());
    assert_refused(&url, &REFUSED_ON_SQLITE);
    assert_accepted(&url, &ACCEPTED_ON_SQLITE, "");
}
