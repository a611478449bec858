//! Inserts of one row that need no transaction: an error never leaves anything, whatever the table does with the row.

use wharf::server::{Running, Server};

use crate::support::{Answer, Client, Database, Postgres, config_of, wait_until};

const ENDPOINTS: &str = "
[http]
max_response_bytes = '300B'

[endpoint.add]
route   = 'POST /add'
params  = { label = 'text' }
sql     = 'insert into note (label) values (:label) returning id, label'
returns = 'one'

[endpoint.spread]
route   = 'POST /spread'
sql     = 'insert into number values (generate_series(1, 3)) returning n'
returns = 'one'

[endpoint.keep]
route   = 'POST /keep'
params  = { n = 'int' }
sql     = 'insert into number values (:n) on conflict do nothing returning n'
returns = 'one'
";

fn serve(database: &Database) -> Running {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\n\
         [database]\nurl = '{}'\nmaximum_pool_size = 1\n{ENDPOINTS}",
        database.url()
    );
    Server::new(config_of(text)).expect("the database is there").start().expect("a free port")
}

fn ask(server: &Running, path: &str) -> Answer {
    let mut client = Client::connect(server.address());
    client.request("POST", path, &[], "");
    client.answer()
}

fn with_tables() -> Database {
    let database = Postgres::database();
    database.psql(
        "create table note (id serial, label varchar(20)); create table number (n int primary key);
         create table seen (label text)",
    );
    database
}

/// Creates a trigger that keeps the row out of the table, and notes it elsewhere.
fn keep_rows_out(database: &Database) {
    database.psql(
        "create function swallow() returns trigger language plpgsql as
             $$ begin insert into seen values (new.label); return null; end $$;
         create trigger swallow before insert on note for each row execute function swallow()",
    );
}

#[test]
fn a_trigger_that_swallows_the_row_is_undone_with_it() {
    let database = with_tables();
    keep_rows_out(&database);
    let server = serve(&database);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/add?label=a").status, 404);
    }
    assert_eq!(database.psql("select count(*) from seen"), "0");
    server.drain();
}

/// For a second the server may not know of the trigger. It then says that the outcome is unknown, and never that nothing was done.
#[test]
fn a_new_trigger_never_makes_an_error_that_hides_a_change() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/add?label=a").status, 200);
    }
    keep_rows_out(&database);
    wait_until("the trigger is not noticed", || {
        let before: usize = database.psql("select count(*) from seen").parse().expect("a count");
        let answer = ask(&server, "/add?label=a");
        let after: usize = database.psql("select count(*) from seen").parse().expect("a count");
        match answer.status {
            404 => assert_eq!(after, before),
            status => {
                assert_eq!(status, 500, "{}", answer.text());
                assert_eq!(answer.json()["type"], "urn:wharf:problem:outcome-unknown");
            }
        }
        answer.status == 404
    });
    server.drain();
}

#[test]
fn a_column_that_became_wider_has_its_limit() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/add?label=a").status, 200);
    }
    database.psql("alter table note alter label type varchar(1000)");
    let long = "a".repeat(500);
    for _ in 0..3 {
        assert_eq!(ask(&server, &format!("/add?label={long}")).status, 500);
    }
    assert_eq!(database.psql("select count(*) from note where length(label) > 20"), "0");
    assert_eq!(ask(&server, "/add?label=b").status, 200);
    server.drain();
}

#[test]
fn an_insert_of_several_rows_or_none_keeps_its_transaction() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/spread").status, 500);
    }
    assert_eq!(database.psql("select count(*) from number"), "0");
    assert_eq!(ask(&server, "/keep?n=7").status, 200);
    for _ in 0..5 {
        assert_eq!(ask(&server, "/keep?n=7").status, 404);
    }
    assert_eq!(database.psql("select count(*) from number"), "1");
    server.drain();
}
