//! No setting of a request stays, whatever its name. The initial settings come back.

use std::fmt::Write as _;

use wharf::server::Server;

use super::served::{ask, endpoint, look, looking, run_command, running, serve, server};
use crate::support::{Postgres, config_of};

/// Settings that change what other requests read, write or wait for, with another value than any session begins with.
const SETTINGS: [(&str, &str); 22] = [
    ("search_path", "other"),
    ("TimeZone", "Asia/Tokyo"),
    ("DateStyle", "German"),
    ("IntervalStyle", "iso_8601"),
    ("client_encoding", "LATIN1"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "on"),
    ("bytea_output", "escape"),
    ("xmloption", "document"),
    ("extra_float_digits", "-15"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "5s"),
    ("idle_session_timeout", "1h"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("session_replication_role", "replica"),
    ("row_security", "off"),
    ("application_name", "somebody"),
    ("work_mem", "64kB"),
    ("app.tenant", "seven"),
    ("role", "ROLE"),
    ("session_authorization", "ROLE"),
];

#[test]
fn no_setting_that_a_function_makes_is_the_next_requests() {
    let database = Postgres::database();
    let role = format!("{}_guest", database.name());
    database.psql(&format!("create role {role}; grant {role} to current_user"));
    database.psql(
        "create function leave(name text, value text) returns int language plpgsql as
             $$ begin perform set_config(name, value, false); return 1; end $$",
    );
    let parameters = "params = { name = 'text', value = 'text' }\n";
    let endpoints = endpoint("GET", "leave", "select public.leave(:name, :value)")
        + parameters
        + &endpoint("GET", "setting", "select coalesce(current_setting(:name, true), '')")
        + "params = { name = 'text' }\n"
        + &looking("1");
    let server = serve(&database.url(), &endpoints);
    let setting = |name: &str| ask(&server, "GET", &format!("/setting?name={name}")).text().to_owned();
    let clean = look(&server);
    let mut left = Vec::new();
    for (name, value) in SETTINGS {
        let (before, value) = (setting(name), value.replace("ROLE", &role));
        let answer = ask(&server, "GET", &format!("/leave?name={name}&value={value}"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let after = setting(name);
        if after != before {
            left.push(format!("{name} was {before} and is {after}"));
        }
    }
    assert!(left.is_empty(), "the next request sees what the function set: {left:?}");
    assert_eq!(look(&server), clean, "the session was closed for a setting");
    server.drain();
}

/// Commands that undo a session's own state.
const UNDOING: [&str; 7] = [
    "reset all",
    "reset role",
    "reset session authorization",
    "discard plans",
    "discard temp",
    "discard sequences",
    "deallocate all",
];

/// The database, the URL, wharf itself and the configuration each set something.
#[test]
fn initial_settings_hold_after_the_clean_up() {
    let database = Postgres::database();
    let (name, role) = (database.name(), format!("{}_guest", database.name()));
    database.psql(&format!(
        "create role {role}; grant {role} to current_user;
         create schema other; create table other.whose as select 'nobody'::text as owner;
         create table whose as select 'everybody'::text as owner;
         grant usage on schema other to {role}; grant select on whose, other.whose to {role};
         alter database {name} set lock_timeout = '77s'; alter database {name} set timezone = 'Asia/Tokyo'"
    ));
    let mut functions = String::from(
        "create function leave() returns int language plpgsql as $leave$ begin
             perform set_config('work_mem', '64kB', false), set_config('search_path', 'public', false),
                 set_config('TimeZone', 'America/Lima', false), set_config('DateStyle', 'German', false),
                 set_config('application_name', 'somebody', false), set_config('lock_timeout', '1s', false),
                 set_config('idle_session_timeout', '1h', false), set_config('role', 'none', false);
             return 1; end $leave$;",
    );
    let mut endpoints = endpoint("GET", "leave", "select public.leave()");
    for (number, undoing) in UNDOING.iter().enumerate() {
        write!(
            functions,
            "create function undo_{number}() returns int language plpgsql as
                 $$ begin execute '{undoing}'; return 1; end $$;"
        )
        .expect("a String takes all");
        endpoints += &endpoint("GET", &format!("undo_{number}"), &format!("select public.undo_{number}()"));
    }
    database.psql(&functions);
    endpoints += &looking(
        "concat_ws(' ', current_setting('work_mem'), (select owner from whose), current_setting('TimeZone'),
             current_setting('DateStyle'), current_setting('application_name'), current_setting('lock_timeout'),
             current_setting('idle_session_timeout'), current_user = session_user)",
    );
    let url = format!("{}?options=-c%20idle_session_timeout%3D2h", database.url());
    let more = format!(
        "application_name = 'shop'\n\
         connection_init_sql = \"set work_mem = '5MB'; set search_path = other; set role {role}\""
    );
    let server = server(&url, &more, &endpoints).start().expect("a free port");
    let clean = look(&server);
    assert_eq!(clean.state, "5MB nobody UTC ISO, MDY shop 77s 2h f");
    let undoing = (0..UNDOING.len()).map(|number| format!("/undo_{number}"));
    for path in ["/leave".to_owned()].into_iter().chain(undoing) {
        let answer = ask(&server, "GET", &path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let seen = look(&server);
        assert_eq!(seen.state, clean.state, "after {path}");
    }
    server.drain();
}

#[test]
fn settings_that_a_handler_resets_are_set_again() {
    let database = Postgres::database();
    let looking = looking("current_setting('TimeZone') || current_setting('work_mem')");
    let server = server(&database.url(), "connection_init_sql = \"set work_mem = '5MB'\"", &looking);
    let server = server.get("/run", run_command).start().expect("a free port");
    let clean = look(&server);
    assert_eq!(clean.state, "UTC5MB");
    for command in ["reset all", "set time zone default", "reset work_mem", "discard all"] {
        // It may be refused as well.
        ask(&server, "GET", &running(command));
        assert_eq!(look(&server).state, clean.state, "after {command:?}");
    }
    server.drain();
}

/// Each request would be in that transaction, and see the database as it was at the start.
#[test]
fn a_connection_init_sql_that_leaves_a_transaction_open_is_refused_at_the_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = format!("sqlite:{}", directory.path().join("test.db").display());
    for url in [Postgres::database().url(), file] {
        let open = |sql: &str| {
            let text = format!("[database]\nurl = \"{url}\"\nconnection_init_sql = \"{sql}\"");
            Server::new(config_of(text)).map(|_| ()).map_err(|error| error.to_string())
        };
        for sql in ["begin", "select 1; begin; select 2", "commit; begin"] {
            let sql = if url.starts_with("sqlite") { sql.trim_start_matches("commit; ") } else { sql };
            let refused = open(sql).expect_err("it leaves a transaction open");
            assert!(refused.contains("connection_init_sql: it leaves a transaction open"), "{refused}");
        }
        assert_eq!(open("begin; select 1; commit"), Ok(()));
    }
}
