//! `--config`: what a configuration's endpoints are asked is what its `load` tables say.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use super::{NEVER_LATE, count};
use crate::support::{Exit, PATIENCE, Postgres, Wharf, assert_says};

const ROWS: &str = "\
    create table thing (name text, size int);
    insert into thing values ('a/b c&d=e', 1), ('ü+%41', 2), ('{name}', 3);
    create table seen (name text, size int, day date, tags text[], trace text, note text, amount int)";

/// Every place that a parameter can have, and every origin. The server refuses no request because other processes have the cores.
fn config(url: &str) -> String {
    format!(
        r#"
[database]
url = "{url}"

[endpoint.put]
route = "POST /things/{{name}}"
sql   = "insert into seen values (:name, :size, :day, :tags, :trace, :note, :amount)"
[endpoint.put.params]
name   = "text"
size   = "int"
day    = {{ type = "date", as = "on" }}
tags   = {{ type = "text[]", optional = true }}
trace  = {{ type = "text", in = "header", as = "X-Trace" }}
note   = {{ type = "text", in = "body" }}
amount = {{ type = "int", in = "body", default = 7 }}
[endpoint.put.load]
weight = 3
sample = "select name, size from thing"
[endpoint.put.load.params]
day   = {{ csv = "days.csv", column = "when" }}
tags  = {{ one_of = [["x", "y z"], ["&"]] }}
trace = {{ one_of = ["t1", "t2"] }}
note  = {{ one_of = ["\"quoted\"\n"] }}

[endpoint.form]
route = "PUT /amounts"
sql   = "insert into seen (name, amount) values ('form', :amount)"
params = {{ amount = {{ type = "int", in = "form" }} }}
load   = {{ params = {{ amount = {{ range = [1, 3] }} }} }}

[endpoint.known]
route   = "GET /known/{{size}}"
params  = {{ size = {{ type = "int", min = 1, max = 3 }} }}
sql     = "select name from thing where size = :size"
returns = "value"

[endpoint.never]
route = "GET /never"
sql   = "select 1 / 0 as x"
load  = {{ weight = 0 }}

[server]
deadline = "60s"

[queue]
max_wait = "60s"
target = "60s"
interval = "60s"
"#
    )
}

fn served(database: &str, days: &str) -> Wharf {
    let wharf = Wharf::start(&config(database));
    fs::write(wharf.directory().join("days.csv"), days).expect("the file is written");
    wharf
}

fn load(wharf: &Wharf, arguments: &[&str]) -> Exit {
    let at = wharf.address().to_string();
    let first = ["load", "--config", "wharf.toml", "--at", &at, "--json", "-", "--seed", "3"];
    Wharf::run_at(wharf.directory(), &[&first[..], &NEVER_LATE, arguments].concat(), &[])
}

fn report(exit: &Exit) -> Value {
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    serde_json::from_str(&exit.stdout).expect("a report")
}

#[test]
fn every_parameter_comes_from_where_the_file_says() {
    let database = Postgres::database();
    database.psql(ROWS);
    let wharf = served(&database.url(), "id,when\n1,2013-01-01\n2,2013-01-31\n");
    let exit = load(&wharf, &["--allow-writes", "--rate", "250/s", "--duration", "1s"]);
    let report = report(&exit);
    assert_eq!((count(&report, "good"), count(&report, "scheduled")), (250, 250), "{report:#}");
    let shares = report["targets"].as_array().expect("several targets").iter();
    let shares: Vec<_> = shares.map(|target| (target["target"].as_str(), count(target, "good"))).collect();
    assert_eq!(shares, [(Some("put"), 150), (Some("form"), 50), (Some("known"), 50)]);
    let seen = |what: &str, of: &str| database.psql(&format!("select {what} from seen where {of}"));
    assert_eq!(seen("count(*)", "amount = 7"), "150", "left out, so it is the default");
    assert_eq!(
        seen("string_agg(distinct name || ':' || size, ' | ' order by name || ':' || size)", "amount = 7"),
        "{name}:3 | a/b c&d=e:1 | ü+%41:2",
        "a row's values stay together"
    );
    assert_eq!(seen("count(distinct day)", "day in ('2013-01-01', '2013-01-31')"), "2");
    assert_eq!(seen("string_agg(distinct tags::text, ' ')", "true"), "{&} {x,\"y z\"}");
    assert_eq!(seen("string_agg(distinct trace, ' ')", "true"), "t1 t2");
    assert_eq!(seen("count(*)", "note = '\"quoted\"' || chr(10)"), "150");
    assert_eq!(
        seen("string_agg(distinct amount::text, ' ' order by amount::text)", "name = 'form'"),
        "1 2 3"
    );
}

#[test]
fn the_same_seed_asks_the_same_in_the_same_order() {
    let database = Postgres::database();
    database.psql(ROWS);
    let wharf = served(&database.url(), "when\n2013-01-01\n2013-01-31\n");
    let round = || {
        let until = Instant::now() + PATIENCE;
        // How long twenty requests take on this machine is not known before.
        for duration in (0..).map(|doublings| format!("{}ms", 300_u64 << doublings)) {
            database.psql("truncate seen");
            // One after the other, so that their order is that of the requests.
            let arguments = [
                "--allow-writes",
                "--endpoint",
                "put",
                "--endpoint",
                "form",
                "--connections",
                "1",
                "--duration",
                &duration,
            ];
            if count(&report(&load(&wharf, &arguments)), "good") >= 20 {
                break;
            }
            assert!(Instant::now() < until, "twenty requests take too long");
        }
        database.psql("select string_agg(row, ' ') from (select seen::text as row from seen order by ctid limit 20) rows")
    };
    assert_eq!(round(), round());
}

#[test]
fn endpoints_that_write_are_left_out_and_said() {
    let database = Postgres::database();
    database.psql(ROWS);
    let wharf = served(&database.url(), "when\n2013-01-01\n");
    let exit = load(&wharf, &["--rate", "50/s", "--duration", "200ms"]);
    assert!(
        exit.stderr.contains("left out, because they write: put, form (--allow-writes"),
        "{}",
        exit.stderr
    );
    assert_eq!(count(&report(&exit), "good"), 10);
    assert_eq!(database.psql("select count(*) from seen"), "0");
    let rate = ["--rate", "50/s", "--duration", "200ms"];
    let run = |arguments: &[&str]| load(&wharf, &[&rate, arguments].concat());
    assert_says(&run(&["--endpoint", "put"]), 2, &["endpoint put writes (POST); it needs --allow-writes"]);
    assert_says(
        &run(&["--endpoint", "no"]),
        2,
        &["no endpoint \"no\"; expected one of put, form, known, never"],
    );
    assert_says(&run(&["--body", "x"]), 2, &["--body", "cannot be used with", "--config"]);
    assert_says(&run(&["http://127.0.0.1:1/"]), 2, &["cannot be used with"]);
    let file = |text: &str| fs::write(wharf.directory().join("days.csv"), text).expect("the file is written");
    for (days, said) in [
        ("day\n2013-01-01\n", "days.csv has no column \"when\"; it has day"),
        (
            "when\n2013-02-30\n",
            "days.csv, line 2: expected a date such as 2013-01-31, received \"2013-02-30\"",
        ),
        ("when\n", "days.csv has no line but its first"),
    ] {
        file(days);
        assert_says(
            &run(&["--allow-writes"]),
            2,
            &["wharf.toml:16:", "endpoint.put.load.params.day: ", said],
        );
    }
    file("when\n2013-01-01\n");
    database.psql("update thing set size = null where size = 3");
    assert_says(
        &run(&["--allow-writes"]),
        2,
        &["endpoint.put.load.sample: row ", "`size`: expected int, received null"],
    );
    database.psql("drop table thing");
    assert_says(&run(&["--allow-writes"]), 2, &["endpoint.put.load.sample: ", "does not exist"]);
}
