//! The round trips of requests, counted by a proxy between wharf and PostgreSQL. `docs/performance.md` has the table.

use std::fmt::Write as _;

use wharf::database::postgres::{Step, ToSql};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};

use crate::support::{Client, Counting, Database, Postgres, config_of, measured};

const SCHEMA: &str = "
    create table account (id int primary key, balance int not null check (balance >= 0));
    insert into account select n, 1000000 from generate_series(1, 9) n;
    create table note (id serial primary key, label varchar(40) not null);
    create table free_note (id serial primary key, label text not null)";

const ENDPOINTS: &str = "
[endpoint.read]
route   = 'GET /read'
sql     = 'select balance from account where id = 1'
returns = 'value'

[endpoint.write]
route   = 'POST /write'
sql     = \"insert into note (label) values ('a')\"

[endpoint.returning]
route   = 'POST /returning'
params  = { label = { type = 'text', default = 'a' } }
sql     = 'insert into note (label) values (:label) returning id, label'
returns = 'one'

[endpoint.returning_many]
route   = 'POST /returning/many'
params  = { id = { type = 'int', default = 3 } }
sql     = 'insert into account values (:id, 1) on conflict do nothing returning id'
returns = 'many'

[endpoint.returning_text]
route   = 'POST /returning/text'
sql     = \"insert into free_note (label) values ('a') returning id, label\"
returns = 'one'
";

/// The requests, and the round trips that each takes.
const TABLE: [(&str, &str, usize); 16] = [
    ("GET", "/read", 1),
    ("POST", "/write", 1),
    ("POST", "/returning", 1),
    ("POST", "/returning/many", 1),
    ("POST", "/returning/text", 2),
    ("POST", "/steps/1", 2),
    ("POST", "/steps/3", 2),
    ("POST", "/steps/5", 2),
    ("POST", "/refused/1", 2),
    ("POST", "/refused/3", 2),
    ("POST", "/refused/5", 2),
    ("POST", "/together/1", 2),
    ("POST", "/together/3", 2),
    ("POST", "/together/5", 2),
    ("POST", "/all", 1),
    ("POST", "/joined", 3),
];

/// An endpoint of `count` steps. Each must change as many rows as `expected` says.
fn steps(name: &str, count: usize, expected: usize) -> String {
    let mut text = format!("[endpoint.{name}_{count}]\nroute = 'POST /{name}/{count}'\n");
    for step in 1..=count {
        // Only the last one is refused.
        let rows = if step == count { expected } else { 1 };
        write!(
            text,
            "[[endpoint.{name}_{count}.step]]\nsql = 'update account set balance = balance + 1 where id = {step}'\n\
             expect_rows = {rows}\notherwise = {{ status = 409, detail = 'step {step}' }}\n"
        )
        .expect("a String takes all");
    }
    text
}

/// Runs as many steps together as the path says.
fn together(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let count: i32 = request.path_value("count").and_then(|count| count.parse().ok()).unwrap_or(1);
    let ids: Vec<i32> = (1..=count).collect();
    let parameters: Vec<[&(dyn ToSql + Sync); 1]> = ids.iter().map(|id| [id as _]).collect();
    let add = "update account set balance = balance + 1 where id = $1 returning balance";
    let steps: Vec<Step> =
        parameters.iter().map(|parameters| Step::new(add, parameters).expect_rows(1)).collect();
    let results = context.database()?.postgres()?.run_together(&steps)?;
    assert!(results.iter().all(|result| result.count == 1 && result.rows.len() == 1));
    Ok(Response::text("done"))
}

/// Runs one statement five times in one transaction.
fn all(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let runs: [&[&(dyn ToSql + Sync)]; 5] = [&[&1], &[&2], &[&3], &[&4], &[&5]];
    let mut connection = context.database()?;
    let rows = connection
        .postgres()?
        .query_all("update account set balance = balance + 1 where id = $1 returning id", &runs)?;
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    Ok(Response::text("done"))
}

/// Runs steps within a transaction that has begun.
fn joined(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    connection.postgres()?.transaction(wharf::database::Access::ReadWrite, |session| {
        session.execute("update account set balance = balance + 1 where id = 1", &[])?;
        let two = [
            Step::new("update account set balance = balance + 1 where id = 2", &[]).expect_rows(1),
            Step::new("update account set balance = balance + 1 where id = 3", &[]).expect_rows(1),
        ];
        session.run_together(&two).map_err(Error::from)
    })?;
    Ok(Response::text("done"))
}

fn serve(database: &Database, port: u16, more: &str) -> Running {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", database.name());
    let mut text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\nselectors = 1\ndeadline = '20s'\n\
         [queue]\nmax_wait = '100s'\ntarget = '30s'\ninterval = '30s'\n\
         [database]\nurl = \"{url}\"\nmaximum_pool_size = 1\n{more}\n{ENDPOINTS}"
    );
    for count in [1, 3, 5] {
        text += &steps("steps", count, 1);
        text += &steps("refused", count, 2);
    }
    Server::new(config_of(text))
        .expect("the database is there")
        .post("/together/{count}", together)
        .post("/all", all)
        .post("/joined", joined)
        .start()
        .expect("a free port")
}

fn ask(server: &Running, method: &str, path: &str) -> u16 {
    let mut client = Client::connect(server.address());
    client.request(method, path, &[], "");
    client.answer().status
}

#[test]
fn every_kind_of_request_takes_the_round_trips_of_the_table() {
    for more in ["", "connection_init_sql = \"set app.tenant = 'seven'\""] {
        let database = Postgres::database();
        database.psql(SCHEMA);
        let proxy = Counting::to(Postgres::shared().port());
        let server = serve(&database, proxy.port(), more);
        for (method, path, expected) in TABLE {
            let status = if path.starts_with("/refused") { 409 } else { 200 };
            // From then on the statements are known.
            for _ in 0..3 {
                assert!([status, 204].contains(&ask(&server, method, path)), "{path}");
            }
            let mut counts = Vec::new();
            for _ in 0..10 {
                proxy.begin();
                assert!([status, 204].contains(&ask(&server, method, path)), "{path}");
                counts.push(proxy.count());
            }
            // Once a second, the catalog is asked about a statement behind a request's answer, where no client waits for it. An
            // insert that returns rows has a transaction then.
            let most = expected + if expected == 1 && path.starts_with("/returning") { 2 } else { 1 };
            assert!(counts.iter().all(|count| (expected..=most).contains(count)), "{path}: {counts:?}");
            counts.sort_unstable();
            assert_eq!(counts[counts.len() / 2], expected, "{path}: {counts:?}");
        }
        server.drain();
    }
}

/// The second request of each pair waits in the queue while the first runs, so the cleaning of the session rides along.
/// On a busy machine the second may come late, and the session is cleaned by itself.
#[test]
fn requests_that_follow_each_other_take_no_more_round_trips() {
    measured(|| {
        let database = Postgres::database();
        database.psql(SCHEMA);
        let proxy = Counting::to(Postgres::shared().port());
        let server = serve(&database, proxy.port(), "");
        for _ in 0..3 {
            assert_eq!(ask(&server, "POST", "/steps/5"), 204);
            assert_eq!(ask(&server, "POST", "/steps/3"), 204);
        }
        for _ in 0..10 {
            proxy.begin();
            let mut clients = ["/steps/5", "/steps/3", "/steps/5"].map(|path| {
                let mut client = Client::connect(server.address());
                client.request("POST", path, &[], "");
                client
            });
            for client in &mut clients {
                assert_eq!(client.answer().status, 204);
            }
            assert_eq!(proxy.count(), 6);
        }
        server.drain();
    });
}
