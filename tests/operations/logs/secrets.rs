//! No value of a client and no password stands in a log, an error or a page of the admin listener, unless it may.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;

use crate::support::{Answer, Client, Database, Postgres, Wharf, directory_with, wait_until};

/// The value that must appear nowhere.
const SECRET: &str = "hunter2";

const FUNCTIONS: &str = "
    create table login (name text primary key, code uuid);
    insert into login values ('hunter2', null);
    create function tell(word text) returns text language plpgsql as $$
    begin
        raise notice 'told %', word;
        if word = 'none' then return word; end if;
        raise exception 'broken by %', word using errcode = 'XX001', detail = word;
    end $$";

/// Every way in which a value gets into the database's hands.
const ENDPOINTS: &str = r#"
[endpoint.echo]
route  = "POST /echo"
params = { word = { in = "body", type = "text", max_len = 40 } }
sql    = "select :word as word, pg_sleep(0.002)"
[endpoint.echoed]
route  = "GET /echoed"
params = { word = "text" }
sql    = "select :word as word, pg_sleep(0.002)"
[endpoint.bad]
route  = "POST /bad"
params = { word = { in = "body", type = "text" } }
sql    = "update login set code = cast(:word as uuid) where name = :word"
[endpoint.int]
route  = "POST /int"
params = { number = { in = "body", type = "int" } }
sql    = "select :number::bigint"
[endpoint.twice]
route  = "POST /twice"
params = { word = { in = "body", type = "text" } }
sql    = "insert into login values (:word, null)"
[endpoint.tell]
route  = "POST /tell"
params = { word = { in = "body", type = "text" } }
sql    = "select tell(:word)"
[endpoint.class]
route  = "POST /class"
params = { word = { in = "body", type = "text" } }
sql    = "select cast(cast(:word as text) as regclass)::text"
[endpoint.header]
route  = "GET /header"
params = { key = { in = "header", as = "Authorization", type = "int" } }
sql    = "select :key::bigint"
[endpoint.pin]
route  = "GET /pin"
params = { pin = { type = "text", secret = true, max_len = 4 }, day = { type = "text", default = "1999-01-01" } }
sql    = "select cast(:day as date) as day, pg_sleep(0.002), :pin as pin"
[endpoint.password]
route  = "POST /password"
params = { password = { in = "body", type = "text", secret = true, min_len = 3 } }
sql    = "select cast(:password as uuid)"
"#;

fn config(database: &Database, log: &str) -> String {
    format!(
        "[log]\naccess = 'json'\naccess_file = 'access.log'\nslow_request = '1ms'\nslow_statement = '1ms'\n{log}\n\
         [database]\nurl = '{}'\n{ENDPOINTS}",
        database.url()
    )
}

fn json(wharf: &Wharf, path: &str, name: &str, value: &str) -> Answer {
    wharf.json("POST", path, &format!("{{\"{name}\":{value}}}"))
}

/// Sends the secret in every way, good and bad. Returns the answers that must not contain it.
fn send_secrets(wharf: &Wharf) -> Vec<(&'static str, Answer)> {
    for (path, status) in [("/echo", 204), ("/bad", 400), ("/twice", 409), ("/tell", 500), ("/class", 500)] {
        let answer = json(wharf, path, "word", "\"hunter2\"");
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    assert_eq!(json(wharf, "/int", "number", "\"hunter2\"").status, 400);
    assert_eq!(json(wharf, "/echo", "word", &format!("\"{}\"", SECRET.repeat(9))).status, 400);
    assert_eq!(json(wharf, "/tell", "word", "\"none\"").status, 204);
    assert_eq!(wharf.get("/echoed?word=hunter2").status, 200);
    let header = |value| wharf.request("GET", "/header", &[("Authorization", value)], "");
    let typed = |kind: &str| wharf.request("POST", "/echo", &[("Content-Type", kind)], "{}");
    vec![
        ("a header", header("Basic hunter2")),
        ("a media type", typed("hunter2")),
        ("JSON that is no object", wharf.json("POST", "/password", "\"hunter2\"")),
        ("a secret in a query", wharf.get("/pin?pin=hunter2")),
        ("a value beside a secret", wharf.get("/pin?pin=1234&day=hunter2")),
        ("a good secret in a query", wharf.get("/pin?pin=h2&day=2020-02-02")),
        ("a secret twice", wharf.json("POST", "/password", r#"{"password":"hunter2","password":"hunter2"}"#)),
        ("a secret that the database refuses", json(wharf, "/password", "password", "\"hunter2\"")),
        ("a secret of another type", json(wharf, "/password", "password", "[\"hunter2\"]")),
    ]
}

/// The directory outlives the process, whose last lines are read there.
fn start(config: &str, level: &str) -> (Wharf, Arc<TempDir>) {
    let directory = Arc::new(directory_with(config));
    let arguments = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
    (Wharf::start_in(&directory, &arguments, &[("WHARF_LOG", level)]), directory)
}

/// Everything that the process has said, once it has ended and so has said everything, and its access log.
fn all_that_was_said((wharf, directory): (Wharf, Arc<TempDir>)) -> (String, String) {
    let mut pages = String::new();
    for path in ["/stats", "/threads", "/config", "/metrics"] {
        let mut admin = Client::connect(wharf.admin_address());
        admin.request("GET", path, &[], "");
        pages += admin.answer().text();
    }
    wharf.signal("TERM");
    let exit = wharf.wait();
    let access = fs::read_to_string(directory.path().join("access.log")).expect("there is an access log");
    (exit.stdout + &exit.stderr + &pages, access)
}

#[test]
fn no_value_is_logged_at_any_level_unless_configured() {
    for level in ["debug", "trace", "info,tokio_postgres=trace,ureq=trace"] {
        let database = Postgres::database();
        database.psql(FUNCTIONS);
        let wharf = start(&config(&database, "parameters = false"), level);
        for (what, answer) in send_secrets(&wharf.0) {
            assert!(!answer.text().contains(SECRET), "{what}: {}", answer.text());
        }
        let (said, access) = all_that_was_said(wharf);
        assert!(said.contains("slow statement") && said.contains("XX001"), "{said}");
        for text in [said, access] {
            let found = text.lines().find(|line| line.contains(SECRET));
            assert_eq!(found, None, "at {level}");
        }
    }
}

#[test]
fn configured_values_are_logged_except_secrets_and_headers() {
    let database = Postgres::database();
    database.psql(FUNCTIONS);
    let wharf = start(&config(&database, "parameters = true"), "debug");
    let answers = send_secrets(&wharf.0);
    // Only a few slow statements a second have a line.
    wait_until("the statement has no line", || {
        assert_eq!(wharf.0.get("/pin?pin=h2&day=2020-02-02").status, 200);
        wharf.0.log().contains("endpoint.pin took")
    });
    let (said, access) = all_that_was_said(wharf);
    for shown in [
        "endpoint.echo took 0.",
        "with word = \"hunter2\"",
        "expected a 64-bit integer, received \"hunter2\"",
        "invalid input syntax for type uuid: \"hunter2\"",
        "Key (name)=(hunter2) already exists",
        "broken by hunter2",
        "with pin = …, day = \"2020-02-02\"",
    ] {
        assert!(said.contains(shown), "does not say {shown:?}:\n{said}");
    }
    assert!(access.contains("/echoed?word=hunter2"), "{access}");
    assert!(access.contains("\"target\":\"/pin\""), "{access}");
    for (what, answer) in answers {
        assert!(!answer.text().contains(SECRET), "{what}: {}", answer.text());
    }
    for hidden in [
        "Basic hunter2",
        "pin=",
        "/pin?",
        "endpoint.password: invalid input syntax for type uuid: \"hunter2\"",
    ] {
        assert!(!said.contains(hidden) && !access.contains(hidden), "{hidden:?}:\n{said}\n{access}");
    }
    assert!(said.contains("endpoint.password: invalid input syntax for type uuid: \"…\""), "{said}");
}

#[test]
fn a_client_is_told_what_was_wrong_with_a_secret_but_not_what_it_sent() {
    let database = Postgres::database();
    database.psql(FUNCTIONS);
    let (wharf, _directory) = start(&config(&database, ""), "info");
    let answer = wharf.get("/pin?pin=hunter2");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["detail"], "parameter pin: expected a length of at most 4");
    assert_eq!(
        (&answer.json()["parameter"], &answer.json()["received"]),
        (&"pin".into(), &serde_json::Value::Null)
    );
    let answer = wharf.request("GET", "/header", &[("Authorization", "Basic hunter2")], "");
    assert_eq!(answer.json()["detail"], "parameter Authorization: expected a 64-bit integer");
    // The client may see its own value again if that value is no secret.
    let answer = json(&wharf, "/int", "number", "\"hunter2\"");
    assert_eq!(answer.json()["received"], "\"hunter2\"");
}

#[test]
fn a_secret_has_no_place_in_a_path() {
    let text = "database.url = 'sqlite:x.db'\n[endpoint.reset]\nroute = 'GET /reset/{token}'\n\
        params = { token = { type = 'text', secret = true } }\nsql = 'select :token'";
    let exit = Wharf::run(text, &["check"], &[]);
    assert!(
        exit.stderr.contains("endpoint.reset.params.token.secret: a path is no place for a secret"),
        "{}",
        exit.stderr
    );
}

#[test]
fn no_part_of_a_password_in_a_url_is_said_whatever_is_wrong_with_it() {
    for url in [
        "postgres://anna:hunt@hunter2@127.0.0.1:1/d",
        "postgres://anna:x@hunter2?a@127.0.0.1:1/d",
        "postgres://anna:x/hunter2@127.0.0.1:1/d",
        "postgres://127.0.0.1:1/d?user=anna&password=x@hunter2",
        "postgres://anna:hunter2@127.0.0.1:1/d?sslmod=require",
        "postgres://anna:hunter2@127.0.0.1:port/d",
        "postgres://anna:hunter2@127.0.0.1:1/d",
        "mysql://anna:hunter2@h/d",
        "host=127.0.0.1 user=anna password=hunter2",
    ] {
        let endpoint = "[endpoint.a]\nroute = 'GET /a'\nsql = 'select 1'\n";
        let more = "initialization_fail_timeout = '0s'";
        let file = format!("[database]\nurl = '{url}'\n{more}\n{endpoint}");
        let other = format!("[database]\n{more}\n{endpoint}");
        for command in ["check", "serve", "tune", "load"] {
            let arguments: &[&str] = match command {
                "load" => {
                    &["load", "--config", "wharf.toml", "--rate", "1/s", "http://hunter2:x@127.0.0.1:1/"]
                }
                "tune" => &["tune", "--config", "wharf.toml"],
                command => &[command, "--config", "wharf.toml"],
            };
            for exit in [
                Wharf::run(&file, arguments, &[("WHARF_LOG", "trace")]),
                Wharf::run(&other, arguments, &[("WHARF_LOG", "trace"), ("WHARF_DATABASE", url)]),
            ] {
                let said = exit.stdout + &exit.stderr;
                assert!(exit.code != Some(0) && !said.contains("hunter2"), "{command} {url}:\n{said}");
            }
        }
    }
}
