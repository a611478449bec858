//! The answers to clients when the database refuses a request: compares `docs/errors.md` with real databases.

use crate::support::{Answer, Database, Postgres, Wharf, assert_problem};

const FUNCTIONS: &str = "
    create function refuse(code text) returns int language plpgsql as
        $$ begin raise exception using errcode = code, message = 'said ' || code, detail = 'more', hint = 'do so'; end $$;
    create function sell(item text) returns int language plpgsql as
        $$ begin raise exception 'out of stock: %', item using detail = 'none left', hint = 'order next week'; end $$;
    create table person (id int primary key, name text not null unique, age int constraint grown check (age > 17));
    create table pet (person int constraint owner references person on delete restrict);
    create view adults as select * from person where age < 100 with check option;
    insert into person values (1, 'Ann', 40);
    insert into pet values (1)";

const ENDPOINTS: &str = "
[endpoint.refuse]
route  = 'POST /refuse/{code}'
params = { code = 'text' }
sql    = 'select refuse(:code)'
[endpoint.read]
route  = 'GET /refuse/{code}'
params = { code = 'text' }
sql    = 'select refuse(:code)'
[endpoint.sell]
route  = 'POST /sell/{item}'
params = { item = 'text' }
step   = [{ sql = \"insert into person values (7, 'Bob', 20)\" }, { sql = 'select sell(:item)' }]
[endpoint.join]
route  = 'POST /join'
params = { id = { in = 'body', type = 'int' }, name = { in = 'body', type = 'text', optional = true }, age = { in = 'body', type = 'int' } }
sql    = 'insert into person values (:id, :name, :age)'
[endpoint.adopt]
route  = 'POST /adopt/{person}'
params = { person = 'int' }
sql    = 'insert into pet values (:person)'
[endpoint.leave]
route  = 'DELETE /person/{id}'
params = { id = 'int' }
sql    = 'delete from person where id = :id'
[endpoint.nested]
route  = 'POST /nested'
params = { document = { in = 'body', type = 'json' } }
sql    = 'JSON'
[endpoint.number]
route  = 'GET /number/{text}'
params = { text = 'text' }
sql    = 'select cast(:text as integer) as n'
";

fn start(url: &str, json: &str, more: &str) -> Wharf {
    Wharf::start(&format!("[database]\nurl = '{url}'\n{}\n{more}", ENDPOINTS.replace("JSON", json)))
}

fn on_postgres(more: &str) -> (Database, Wharf) {
    let database = Postgres::database();
    database.psql(FUNCTIONS);
    let wharf = start(&database.url(), "select :document::jsonb as document", more);
    (database, wharf)
}

/// SQLite has the tables, and in place of the functions a trigger.
fn on_sqlite(more: &str) -> (tempfile::TempDir, Wharf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("test.db");
    let connection = rusqlite::Connection::open(&file).expect("a new file");
    let tables = "
        create table person (id integer primary key, name text not null unique, age int constraint grown check (age > 17)) strict;
        create table pet (person int references person on delete restrict);
        create table sale (item text);
        create trigger sold before insert on sale begin select raise(abort, 'out of stock'); end;
        insert into person values (1, 'Ann', 40);
        insert into pet values (1)";
    connection.execute_batch(tables).expect("good SQL");
    let endpoints = ENDPOINTS
        .replace("select refuse(:code)", "select :code")
        .replace("select sell(:item)", "insert into sale values (:item)")
        .replace("JSON", "select json(:document) as document");
    let text = format!("[database]\nurl = 'sqlite:{}'\n{endpoints}\n{more}", file.display());
    (directory, Wharf::start(&text))
}

/// The codes and the status of each row of the document's table for PostgreSQL.
fn documented() -> Vec<(String, u16)> {
    let document = include_str!("../../docs/errors.md");
    let table = document.split("\n\n").find(|part| part.starts_with("| SQLSTATE |")).expect("the table");
    let rows = table.lines().skip(2).flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let status = cells[2].parse().expect("a status");
        cells[1]
            .split(", ")
            .map(|code| (code.trim_matches('`').replace('*', "000"), status))
            .collect::<Vec<_>>()
    });
    rows.collect()
}

#[test]
fn each_sqlstate_is_answered_as_its_row_in_the_document_says() {
    let (_database, wharf) = on_postgres("");
    let documented = documented();
    assert!(documented.len() > 30, "{documented:?}");
    for (code, status) in documented {
        // An error that ends its session may also cost the pool the next session; the pool finds that out by itself.
        // Such an error is raised by a read, because a write might have taken effect before the error came.
        let method = if code == "25006" || status == 503 { "GET" } else { "POST" };
        let answer = wharf.request(method, &format!("/refuse/{code}"), &[], "");
        assert_eq!(answer.status, status, "{code}: {}", answer.text());
        let said = answer.text().contains(&format!("said {code}"));
        let meant = code == "P0001" || code.starts_with("PT");
        // A value that its type does not accept is reported as for parameters.
        assert!(said == meant || code.starts_with("22"), "{code}: {}", answer.text());
        assert_eq!(answer.json()["hint"].is_string(), meant, "{code}");
    }
}

#[test]
fn a_business_rule_in_a_function_is_told_with_its_message_and_undoes_all() {
    let (database, wharf) = on_postgres("");
    let answer = wharf.request("POST", "/sell/lamp", &[], "");
    assert_problem(&answer, 400, "out of stock: lamp");
    let told = ["code", "details", "hint"].map(|name| answer.json()[name].as_str().map(str::to_owned));
    assert_eq!(told, ["P0001", "none left", "order next week"].map(|text| Some(text.to_owned())));
    assert_eq!(database.psql("select count(*) from person where id = 7"), "0");
    for method in ["GET", "POST"] {
        for (code, status) in [("PT402", 402), ("PT418", 418), ("PT404", 404), ("PT503", 503)] {
            let answer = wharf.request(method, &format!("/refuse/{code}"), &[], "");
            assert_problem(&answer, status, &format!("said {code}"));
            assert_eq!(answer.header("Retry-After").is_some(), status == 503, "{code}");
        }
    }
    assert!(!wharf.log().contains("ERROR"), "{}", wharf.log());
    for nonsense in ["PT200", "PT499", "PT999", "PTABC"] {
        let answer = wharf.request("POST", &format!("/refuse/{nonsense}"), &[], "");
        assert_problem(&answer, 500, "the database could not run the statement");
        wharf.wait_for_log(&format!("raised by a function or a trigger ({nonsense})"));
    }
}

#[test]
fn a_business_rule_in_a_trigger_of_sqlite_is_told_with_its_message() {
    let (directory, wharf) = on_sqlite("");
    let answer = wharf.request("POST", "/sell/lamp", &[], "");
    assert_problem(&answer, 400, "out of stock");
    assert_eq!(answer.json()["code"], "1811");
    let left = rusqlite::Connection::open(directory.path().join("test.db")).expect("the file is there");
    let count: i64 =
        left.query_row("select count(*) from person where id = 7", [], |row| row.get(0)).expect("a row");
    assert_eq!(count, 0);
    // A foreign key's RESTRICT fails with the same code, and is a conflict.
    assert_problem(&wharf.request("DELETE", "/person/1", &[], ""), 409, "a foreign key is violated");
    assert!(!wharf.log().contains("ERROR"), "{}", wharf.log());
}

/// A JSON document of this nesting depth.
fn nested(depth: usize) -> String {
    format!("{{\"document\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn a_value_too_large_or_too_deep_for_the_database_is_the_clients_mistake() {
    let (_database, wharf) = on_postgres("");
    let long = (0..2000).map(|n| (n * 7919).to_string()).collect::<Vec<_>>().concat();
    let body = format!(r#"{{"id":9,"name":"{long}","age":20}}"#);
    let too_much = "a value is larger or nested deeper than the database accepts";
    assert_problem(&wharf.json("POST", "/join", &body), 400, too_much);
    assert_problem(&wharf.json("POST", "/nested", &nested(40_000)), 400, too_much);
    let (_directory, sqlite) = on_sqlite("");
    assert_problem(&sqlite.json("POST", "/nested", &nested(1500)), 400, "malformed JSON");
    assert_eq!(sqlite.json("POST", "/nested", &nested(900)).status, 204);
    for wharf in [wharf, sqlite] {
        assert!(!wharf.log().contains("ERROR") && !wharf.log().contains("WARN"), "{}", wharf.log());
    }
}

fn joined(wharf: &Wharf, id: u32, name: &str, age: u32) -> Answer {
    let name = serde_json::to_string(&(!name.is_empty()).then_some(name)).expect("JSON");
    wharf.json("POST", "/join", &format!(r#"{{"id":{id},"name":{name},"age":{age}}}"#))
}

#[test]
fn a_violated_constraint_is_named_on_both_databases() {
    let (_database, postgres) = on_postgres(
        "[endpoint.adult]\nroute = 'POST /adult'\nsql = \"insert into adults values (5, 'Old', 130)\"",
    );
    assert_problem(&postgres.request("POST", "/adult", &[], ""), 400, "a value is missing or not acceptable");
    let (_directory, sqlite) = on_sqlite("");
    for (wharf, names) in [
        (
            postgres,
            [
                "person_name_key",
                "person_pkey",
                "grown",
                "a value is missing for column \"name\"",
                "owner",
                "owner",
            ],
        ),
        (
            sqlite,
            [
                "person.name",
                "person.id",
                "grown",
                "person.name",
                "a foreign key is violated",
                "a foreign key is violated",
            ],
        ),
    ] {
        assert_problem(&joined(&wharf, 2, "Ann", 20), 409, names[0]);
        assert_problem(&joined(&wharf, 1, "Eve", 20), 409, names[1]);
        assert_problem(&joined(&wharf, 2, "Eve", 2), 400, names[2]);
        assert_problem(&joined(&wharf, 2, "", 20), 400, names[3]);
        assert_problem(&wharf.request("POST", "/adopt/99", &[], ""), 409, names[4]);
        assert_problem(&wharf.request("DELETE", "/person/1", &[], ""), 409, names[5]);
        assert!(!wharf.log().contains("ERROR"), "{}", wharf.log());
    }
}

/// A foreign server that was down raised 08001 on a healthy session, and wharf closed it. A fast endpoint beside it fell from 5,586 to 238
/// requests a second, because 206 sessions had to be opened anew.
#[test]
fn a_session_ends_by_the_severity_of_an_error_and_not_by_its_class() {
    let more = "maximum_pool_size = 1\n[endpoint.pid]\nroute = 'GET /pid'\nsql = 'select pg_backend_pid()'\nreturns = 'value'\n";
    let database = Postgres::database();
    database.psql(FUNCTIONS);
    let config = format!(
        "[database]\nurl = '{}'\n{more}{}",
        database.url(),
        ENDPOINTS.replace("JSON", "select :document::jsonb as document")
    );
    let wharf = Wharf::start(&config);
    let pid = wharf.get("/pid").text().to_owned();
    for code in ["08000", "08001", "08006", "57P01", "57P03", "53300", "58030", "XX000"] {
        for method in ["GET", "POST"] {
            let answer = wharf.request(method, &format!("/refuse/{code}"), &[], "");
            assert!(answer.status >= 500, "{code}: {} {}", answer.status, answer.text());
            assert_eq!(wharf.get("/pid").text(), pid, "{method} {code}");
        }
    }
}
