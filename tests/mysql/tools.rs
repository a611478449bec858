//! The program's tools on MariaDB: `check` describes what it can, `load` draws its requests from the database.

use std::fs;

use crate::support::{Mariadb, Wharf};

const CONFIG: &str = r#"
[endpoint.put]
route = "POST /things/{name}"
sql   = "insert into seen values (:name, :size, :day, :tags, :amount)"
[endpoint.put.params]
name   = "text"
size   = "int"
day    = "date"
tags   = { type = "text[]", optional = true }
amount = { type = "int", in = "body", default = 7 }
[endpoint.put.load]
weight = 3
sample = "select name, size from thing"
[endpoint.put.load.params]
day  = { csv = "days.csv", column = "when" }
tags = { one_of = [["x", "y z"], ["&"]] }

[endpoint.known]
route   = "GET /known/{size}"
params  = { size = { type = "int", min = 1, max = 3 } }
sql     = "select name from thing where size = :size"
returns = "value"
"#;

/// A busy machine sends late, which is not what this is about.
const NEVER_LATE: [&str; 2] = ["--late-after", "30s"];

#[test]
fn load_draws_its_requests_from_the_database() {
    let database = Mariadb::database();
    database.sql(
        "create table thing (name varchar(20), size int);
         insert into thing values ('a/b c&d=e', 1), ('ü+%41', 2), ('{name}', 3);
         create table seen (name varchar(20), size int, day date, tags json, amount int)",
    );
    let queue = "[server]\ndeadline = '60s'\n[queue]\nmax_wait = '60s'\ntarget = '60s'\ninterval = '60s'\n";
    let wharf = Wharf::start(&format!("{queue}[database]\nurl = \"{}\"\n{CONFIG}", database.url()));
    fs::write(wharf.directory().join("days.csv"), "id,when\n1,2013-01-01\n2,2013-01-31\n").expect("a file");
    let at = wharf.address().to_string();
    let arguments =
        ["load", "--config", "wharf.toml", "--at", &at, "--json", "-", "--seed", "3", "--allow-writes"];
    let rate = ["--rate", "200/s", "--duration", "1s"];
    let exit = Wharf::run_at(wharf.directory(), &[&arguments[..], &NEVER_LATE, &rate].concat(), &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let report: serde_json::Value = serde_json::from_str(&exit.stdout).expect("a report");
    assert_eq!((&report["good"], &report["scheduled"]), (&200.into(), &200.into()), "{report:#}");
    assert_eq!(database.sql("select count(*) from seen where amount = 7"), "150");
    let names = "select group_concat(distinct name, ':', size order by size separator ' | ') from seen";
    assert_eq!(database.sql(names), "a/b c&d=e:1 | ü+%41:2 | {name}:3", "a row's values stay together");
    assert_eq!(
        database.sql("select group_concat(distinct day order by day) from seen"),
        "2013-01-01,2013-01-31"
    );
    assert_eq!(database.sql("select count(*) from seen where json_value(tags, '$[0]') in ('x', '&')"), "150");
}

#[test]
fn check_names_the_columns_and_every_mistake() {
    let database = Mariadb::database();
    database.sql("create table thing (name varchar(20), size int)");
    let config = |endpoints: &str| format!("[database]\nurl = \"{}\"\n{endpoints}", database.url());
    let check = |endpoints: &str, more: &[&str]| {
        let arguments = [&["check", "--config", "wharf.toml"], more].concat();
        Wharf::run(&config(endpoints), &arguments, &[])
    };
    let good = "[endpoint.all]\nroute = 'GET /all/{size}'\nparams.size = 'int'\nsql = 'select name, size from thing where size = :size'\n";
    let exit = check(good, &[]);
    assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
    assert!(!(exit.stdout + &exit.stderr).contains(":app@"), "no password");
    let wrong = "[endpoint.one]\nroute = 'GET /one'\nsql = 'select nothing from thing'\n\
                 [endpoint.two]\nroute = 'GET /two'\nsql = 'select name from nowhere'\n\
                 [endpoint.three]\nroute = 'POST /three'\nsql = 'insert into thing (colour) values (1)'\n";
    let exit = check(wrong, &[]);
    assert_eq!(exit.code, Some(1), "{}{}", exit.stdout, exit.stderr);
    let said = exit.stdout + &exit.stderr;
    for part in [
        "endpoint.one.sql",
        "'nothing'",
        "endpoint.two.sql",
        "nowhere",
        "endpoint.three.sql",
        "'colour'",
        "3 problems",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
}

/// The figures of the pool, and the names in the program's output.
#[test]
fn the_program_tells_of_its_database() {
    let database = Mariadb::database();
    let config = format!(
        "[database]\nurl = \"{}\"\nmaximum_pool_size = 3\n{}",
        database.url(),
        crate::value("one", "select 1")
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/one").text(), "1");
    let mut admin = crate::support::Client::connect(wharf.admin_address());
    admin.request("GET", "/metrics", &[], "");
    let metrics = admin.answer();
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("wharf_pool"), "{}", metrics.text());
    admin.request("GET", "/ready", &[], "");
    assert_eq!(admin.answer().status, 200);
    assert!(
        wharf.output().contains(&format!("mysql://app@127.0.0.1:{}", Mariadb::shared().port())),
        "{}",
        wharf.output()
    );
}
