//! Requests that share a round trip to the database: each has its own answer, and the outcome of one does not affect the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::Method;
use postgres::types::{IsNull, to_sql_checked};
use wharf::config::{Config, Connector};
use wharf::database::postgres::{Row, ToSql, Type};
use wharf::handler::{self, Error};
use wharf::http::{Request, Response};
use wharf::metrics::Pool;
use wharf::server::{Running, Server};

use crate::support::{
    Answer, Authority, Client, Database, Keeper, PATIENCE, Postgres, ask, assert_nothing_is_left,
    assert_problem, config_of, gate, measured, wait_until,
};

const ENDPOINTS: &str = "
[endpoint.item]
route   = 'GET /item/{id}'
sql     = 'select id, name from item where id = :id'
params  = { id = 'int' }
returns = 'one'

[endpoint.all]
route   = 'GET /all/{id}'
sql     = 'select * from item where id = :id'
params  = { id = 'int' }
returns = 'one'

[endpoint.items]
route   = 'GET /items/{up_to}'
sql     = 'select id from item where id <= :up_to order by id'
params  = { up_to = 'int' }

[endpoint.divide]
route   = 'GET /divide/{by}'
sql     = 'select 6 / :by::int'
params  = { by = 'int' }
returns = 'value'

[endpoint.wide]
route   = 'GET /wide/{bytes}'
sql     = \"select repeat('x', :bytes::int)\"
params  = { bytes = 'int' }
returns = 'value'

[endpoint.locked]
route   = 'GET /locked/{key}'
sql     = \"select 'had' from held_up_by(:key)\"
params  = { key = 'int' }
returns = 'value'

[endpoint.hurried]
route    = 'GET /hurried/{key}'
sql      = \"select 'had' from held_up_by(:key)\"
params   = { key = 'int' }
returns  = 'value'
deadline = '400ms'

[endpoint.rest]
route   = 'GET /rest'
sql     = \"select 'rested' from pg_sleep(0.03)\"
returns = 'value'

[endpoint.began]
route   = 'GET /began/{id}'
sql     = 'select :id::int as id, now()::text as began'
params  = { id = 'int' }
returns = 'one'

[endpoint.mine]
route   = 'GET /mine/{id}'
sql     = 'select :id::int as id, current_user::text as role'
params  = { id = 'int' }
returns = 'one'

[endpoint.role]
route   = 'POST /role'
sql     = \"select become('pg_monitor')\"
returns = 'value'

[endpoint.nothing]
route   = 'GET /nothing'
sql     = 'select from item where id = 1'
returns = 'value'

[endpoint.add]
route   = 'POST /item/{id}'
sql     = \"insert into item values (:id, 'new')\"
params  = { id = 'int' }

[endpoint.twice]
route   = 'GET /twice'
returns = 'one'
[[endpoint.twice.step]]
sql     = 'select 1'
[[endpoint.twice.step]]
sql     = 'select 2 as two'
";

/// The function's lock ends with its transaction, so nothing of the session is another afterwards, as it says of itself.
const ITEMS: &str = "create table item as select n as id, 'item ' || n as name from generate_series(1, 9) n;
    create function held_up_by(key bigint) returns void language plpgsql parallel safe as $$
    begin perform pg_advisory_xact_lock_shared(key); end $$;
    create function become(name text) returns text language plpgsql as $$
    begin return set_config('role', name, false); end $$";

/// Ends one session of the server.
const KILL_ONE: &str = "select pg_terminate_backend(pid) from pg_stat_activity
    where application_name like 'wharf%' and datname = current_database() limit 1";

/// A server with gates. Each gate holds one worker until the test lets it through.
struct Gated {
    server: Running,
    keeper: Keeper,
    workers: usize,
    pool: Arc<Pool>,
    database: Database,
}

fn config(database: &Database, workers: usize, more: &str) -> Config {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = {workers}\ndeadline = '100s'\nserver_timing = true\n\
         selectors = 1\n[queue]\nmax_wait = '100s'\ntarget = '30s'\ninterval = '30s'\n\
         [database]\nurl = '{}'\nmaximum_pool_size = {workers}\nconnection_timeout = '100s'\n{more}\n{ENDPOINTS}",
        database.url()
    );
    config_of(text)
}

/// Twice the number that it is asked with; of 13 it panics, 14 is an error of its own, and 15 is streamed.
fn doubled(request: &Request, rows: &[Row]) -> Result<Response, Error> {
    let twice: i32 = rows[0].get(0);
    match request.query_value("n").as_deref() {
        Some("13") => panic!("thirteen"),
        Some("14") => Err(Error::bad_parameter("n", "another number", "14")),
        Some("15") => Ok(Response::stream("text/plain", move |body| {
            use std::io::Write as _;
            Ok(write!(body, "{twice}")?)
        })),
        _ => Ok(Response::text(twice.to_string())),
    }
}

/// A number that panics when it is to be sent, if it is 13.
#[derive(Debug)]
struct Sulky(i32);

/// How often it did.
static SULKED: AtomicUsize = AtomicUsize::new(0);

impl ToSql for Sulky {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if self.0 == 13 {
            SULKED.fetch_add(1, Relaxed);
            panic!("thirteen");
        }
        self.0.to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <i32 as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl Gated {
    fn new(workers: usize, more: &str, change: impl FnOnce(&mut Config)) -> Self {
        let database = Postgres::database();
        database.psql(ITEMS);
        let mut config = config(&database, workers, more);
        change(&mut config);
        let (handler, keeper) = gate();
        let number = |request: &Request| {
            let number = request.query_value("n").unwrap_or_default();
            number.parse::<i32>().map(|n| (n,)).map_err(|_| Error::bad_parameter("n", "a number", &number))
        };
        let sulky = move |request: &Request| number(request).map(|(number,)| (Sulky(number),));
        let server = Server::new(config).expect("the database is there");
        let pool = Arc::clone(server.database().expect("it has one").metrics());
        let write = "insert into item values ($1, 'sly') returning id";
        let server = server
            .route(Method::GET, "/gate", handler)
            .route(Method::GET, "/double", handler::query("select 2 * $1::int4", number, doubled))
            .route(Method::GET, "/sulky", handler::query("select 2 * $1::int4", sulky, doubled))
            .route(
                Method::GET,
                "/sly",
                handler::query(write, |_| Ok((99_i32,)), |_, _| Ok(Response::text("written"))),
            )
            .start()
            .expect("a free port");
        Self { server, keeper, workers, pool, database }
    }

    fn get(&self, path: &str) -> Answer {
        ask(&self.server, path).answer()
    }

    /// Waits until `length` requests wait for a worker.
    fn wait_for_queue(&self, length: usize) {
        let gauges = || self.server.observer().gauges().queue;
        wait_until("they do not wait", || gauges().length == length);
    }

    /// Keeps all workers.
    fn close(&self) -> Vec<Client> {
        let kept: Vec<Client> = (0..self.workers).map(|_| ask(&self.server, "/gate")).collect();
        (0..self.workers).for_each(|_| self.keeper.wait_for_one());
        kept
    }

    /// Asks for all of these while no worker is free, and then lets one worker go on.
    fn ask_together(&self, paths: &[&str]) -> (Vec<Client>, Vec<Client>) {
        let kept = self.close();
        let mut asked = Vec::new();
        for path in paths {
            asked.push(ask(&self.server, path));
            self.wait_for_queue(asked.len());
        }
        self.keeper.let_through(1);
        (kept, asked)
    }

    /// Repeats `act` until at least its first `count` requests were asked together. Only statements are asked together whose time
    /// is known and that are known to change nothing. The planner tells the latter when it has time. The answers must be right in
    /// every round.
    fn until_together(&self, known: &[&str], count: u64, mut act: impl FnMut()) {
        self.server.limit_batch_time(PATIENCE);
        let until = Instant::now() + PATIENCE;
        loop {
            self.make_known(known);
            let before = self.pipelined();
            act();
            if self.pipelined() - before >= count {
                return;
            }
            assert!(Instant::now() < until, "they were never asked together");
        }
    }

    /// The planner is asked after a statement's first run, and a later run notes the statement's time.
    fn make_known(&self, paths: &[&str]) {
        paths.iter().cycle().take(4 * paths.len()).for_each(|path| drop(self.get(path)));
    }

    fn pipelined(&self) -> u64 {
        self.pool.pipelined.load(Relaxed)
    }

    fn end(self) {
        assert_nothing_is_left(self.server);
    }
}

fn statuses(clients: Vec<Client>) -> Vec<u16> {
    clients.into_iter().map(|mut client| client.answer().status).collect()
}

fn let_through(gated: &Gated, kept: Vec<Client>) {
    assert!(statuses(kept).iter().all(|status| *status == 200));
    wait_until("a worker is busy", || gated.server.observer().gauges().workers.busy == 0);
}

#[test]
fn requests_that_wait_for_a_worker_are_asked_together_and_each_has_its_own_answer() {
    for connector in [Connector::Native, Connector::TinyHttp] {
        let gated = Gated::new(1, "", |config| config.server.connector = connector);
        let quick = ["/item/1", "/items/1", "/divide/1", "/double?n=1"];
        gated.until_together(&quick, 3, || {
            let paths = [
                "/item/3",
                "/item/77",
                "/items/3",
                "/item/x",
                "/divide/0",
                "/divide/2",
                "/double?n=4",
                "/item/4",
            ];
            let (kept, asked) = gated.ask_together(&paths);
            let answers: Vec<Answer> = asked.into_iter().map(|mut client| client.answer()).collect();
            assert_eq!(answers[0].text(), r#"{"id":3,"name":"item 3"}"#);
            assert_problem(&answers[1], 404, "no such row");
            assert_eq!(answers[2].text(), r#"[{"id":1},{"id":2},{"id":3}]"#);
            assert_problem(&answers[3], 400, "parameter id");
            assert_eq!(answers[4].status, gated.get("/divide/0").status, "as by itself");
            assert_eq!(answers[5].text(), "3");
            assert_eq!(answers[6].text(), "8");
            assert_eq!(answers[7].text(), r#"{"id":4,"name":"item 4"}"#);
            for answer in answers {
                assert!(answer.header("X-Request-Id").is_some());
                assert!(answer.header("Server-Timing").is_some_and(|timing| timing.contains("db;dur=")));
            }
            let_through(&gated, kept);
        });
        gated.end();
    }
}

/// The ids of these answers, and the number of transactions in which they were made.
fn transactions(asked: Vec<Client>) -> (Vec<i64>, usize) {
    let answers: Vec<_> = asked.into_iter().map(|mut client| client.answer().json()).collect();
    let began: BTreeSet<_> = answers.iter().map(|answer| answer["began"].to_string()).collect();
    (answers.iter().filter_map(|answer| answer["id"].as_i64()).collect(), began.len())
}

#[test]
fn short_statements_that_are_asked_together_are_one_transaction_unless_it_is_serializable() {
    let paths: Vec<_> = (1..=8).map(|id| format!("/began/{id}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let serializable = "connection_init_sql = \"set default_transaction_isolation = 'serializable'\"";
    for (more, may_join) in [("", true), (serializable, false)] {
        let gated = Gated::new(1, more, |_| {});
        // Statements are one transaction once their times are known, and these are short where the machine is not busy.
        let (until, mut rounds) = (Instant::now() + PATIENCE, 0);
        loop {
            gated.until_together(&["/began/0"], 8, || {
                let (kept, asked) = gated.ask_together(&paths);
                let (ids, count) = transactions(asked);
                assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8]);
                assert!(may_join || count == ids.len(), "{count} transactions");
                rounds = if count < ids.len() { usize::MAX } else { rounds + 1 };
                let_through(&gated, kept);
            });
            if rounds >= if may_join { usize::MAX } else { 20 } {
                break;
            }
            assert!(Instant::now() < until, "each was a transaction by itself");
        }
        gated.end();
    }
}

/// Each of these clients asks for its own numbers. Every tenth request fails in some way, and some change their session's role.
#[test]
fn requests_that_share_see_no_answer_of_another() {
    const CLIENTS: usize = 40;
    const EACH: usize = 2_500;
    const KILLS: usize = 20;
    let gated = Gated::new(4, "", |config| config.http.max_response_bytes = 4096);
    gated.make_known(&["/began/0", "/mine/0", "/double?n=1", "/divide/1", "/wide/1"]);
    let (address, database) = (gated.server.address(), &gated.database);
    let (ended, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (ended, killed) = (&ended, &killed);
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..EACH {
                    let id = 100 + number * EACH + round;
                    let (path, status, text) = match round % 40 {
                        1 => ("/role".to_owned(), 200, Some("\"pg_monitor\"".to_owned())),
                        3 => ("/divide/0".to_owned(), 400, None),
                        13 => ("/wide/5000".to_owned(), 500, None),
                        23 => (format!("/began/{id}x"), 400, None),
                        33 => {
                            // This client leaves without its answer.
                            client.request("GET", &format!("/began/{id}"), &[], "");
                            client = Client::connect(address);
                            continue;
                        }
                        n if n % 2 == 0 => (format!("/double?n={id}"), 200, Some((2 * id).to_string())),
                        n if n % 4 == 1 => (format!("/mine/{id}"), 200, None),
                        _ => (format!("/began/{id}"), 200, None),
                    };
                    let method = if path == "/role" { "POST" } else { "GET" };
                    client.request(method, &path, &[], "");
                    let answer = client.answer();
                    // Its session was killed under it while it ran by itself.
                    if answer.status == 503 {
                        killed.fetch_add(1, Relaxed);
                        continue;
                    }
                    assert_eq!(answer.status, status, "{path}: {}", answer.text());
                    if let Some(text) = text {
                        assert_eq!(answer.text(), text, "{path}");
                    } else if status == 200 {
                        let row = answer.json();
                        assert_eq!(row["id"], id, "{path}");
                        assert!(row["role"].is_null() || row["role"] == "postgres", "{path}: {row}");
                    }
                }
                ended.fetch_add(1, Relaxed);
            });
        }
        // Meanwhile sessions are killed, so that requests that share one run again.
        for _ in 0..KILLS {
            let before = gated.pipelined();
            wait_until("nothing is shared", || {
                gated.pipelined() >= before + 500 || ended.load(Relaxed) == CLIENTS
            });
            database.psql(KILL_ONE);
        }
    });
    assert!(gated.pipelined() > 1_000, "{} shared", gated.pipelined());
    assert!(killed.load(Relaxed) <= KILLS, "{} failed with {KILLS} sessions", killed.load(Relaxed));
    gated.end();
}

#[test]
fn requests_are_asked_together_over_tls_as_well() {
    let cluster = Postgres::start_encrypted(&Authority::new("the authority"));
    cluster.psql("postgres", ITEMS);
    let url = format!("{}?sslmode=require", cluster.url());
    let gated = Gated::new(1, "", |config| config.database.url = Some(url));
    gated.until_together(&["/item/1", "/double?n=1"], 3, || {
        let (kept, asked) = gated.ask_together(&["/item/3", "/double?n=4", "/item/77", "/item/4"]);
        let answers: Vec<Answer> = asked.into_iter().map(|mut client| client.answer()).collect();
        assert_eq!(answers[0].text(), r#"{"id":3,"name":"item 3"}"#);
        assert_eq!(answers[1].text(), "8");
        assert_problem(&answers[2], 404, "no such row");
        assert_eq!(answers[3].text(), r#"{"id":4,"name":"item 4"}"#);
        let_through(&gated, kept);
    });
    assert_eq!(gated.get("/item/1").status, 200);
    gated.end();
}

/// A value that the remembered type of its parameter cannot hold was refused for good: the column may be wider by now.
#[test]
fn a_table_that_was_altered_is_read_as_it_is_now() {
    const FAR: i64 = 3_000_000_000;
    let gated = Gated::new(1, "", |_| {});
    gated.until_together(&["/all/1", "/item/1"], 3, || {
        gated.database.psql(&format!(
            "alter table item alter id type bigint, add more text default 'more'; update item set id = id + {FAR}"
        ));
        let far = |path: &str, id: i64| format!("/{path}/{}", id + FAR);
        let paths = [far("all", 3), far("item", 4), far("item", 77), far("all", 5)];
        let (kept, asked) = gated.ask_together(&paths.each_ref().map(String::as_str));
        let answers: Vec<Answer> = asked.into_iter().map(|mut client| client.answer()).collect();
        let all = |id: i64| format!(r#"{{"id":{},"name":"item {id}","more":"more"}}"#, id + FAR);
        assert_eq!(answers[0].text(), all(3));
        assert_eq!(answers[1].text(), format!(r#"{{"id":{},"name":"item 4"}}"#, 4 + FAR));
        assert_problem(&answers[2], 404, "no such row");
        assert_eq!(answers[3].text(), all(5));
        let_through(&gated, kept);
        gated.database.psql(&format!(
            "update item set id = id - {FAR}; alter table item alter id type int, drop more"
        ));
    });
    gated.end();
}

#[test]
fn a_request_behind_a_slow_statement_is_run_by_another_worker() {
    let gated = Gated::new(2, "", |_| {});
    let mut holder = wharf::database::postgres::client(&gated.database.url()).expect("it is there");
    gated.until_together(&["/locked/1", "/item/1"], 2, || {
        holder.execute("select pg_advisory_lock(7)", &[]).expect("it is free");
        let (kept, mut asked) = gated.ask_together(&["/locked/7", "/item/1", "/item/2"]);
        gated.database.wait_for_a_waiting_lock();
        gated.keeper.let_through(1);
        assert_eq!(asked.pop().expect("three").answer().text(), r#"{"id":2,"name":"item 2"}"#);
        assert_eq!(asked.pop().expect("two").answer().text(), r#"{"id":1,"name":"item 1"}"#);
        holder.execute("select pg_advisory_unlock(7)", &[]).expect("it is held");
        assert_eq!(asked.pop().expect("one").answer().text(), r#""had""#);
        let_through(&gated, kept);
    });
    gated.end();
}

#[test]
fn a_parameter_that_panics_costs_no_other_request_and_no_worker() {
    let gated = Gated::new(1, "", |_| {});
    gated.server.limit_batch_time(PATIENCE);
    let until = Instant::now() + PATIENCE;
    loop {
        gated.make_known(&["/item/1", "/sulky?n=1"]);
        let before = SULKED.load(Relaxed);
        let (kept, asked) = gated.ask_together(&["/item/1", "/sulky?n=13", "/item/2", "/sulky?n=2"]);
        assert_eq!(statuses(asked), [200, 500, 200, 200]);
        let_through(&gated, kept);
        // With the others, and by itself.
        if SULKED.load(Relaxed) == before + 2 {
            break;
        }
        assert!(Instant::now() < until, "they were never asked together");
    }
    assert_eq!(gated.get("/sulky?n=2").text(), "4");
    gated.end();
}

#[test]
fn a_deadline_that_passes_and_a_client_that_leaves_end_one_of_them_alone() {
    let gated = Gated::new(1, "", |_| {});
    let mut holder = wharf::database::postgres::client(&gated.database.url()).expect("it is there");
    holder.execute("select pg_advisory_lock(7)", &[]).expect("it is free");
    gated.until_together(&["/hurried/1", "/item/1"], 3, || {
        let (kept, mut asked) = gated.ask_together(&["/item/1", "/hurried/7", "/item/2", "/item/3"]);
        assert_eq!(asked.remove(0).answer().status, 200);
        assert_eq!(asked.remove(0).answer().status, 504);
        assert_eq!(statuses(asked), [200, 200]);
        let_through(&gated, kept);
    });
    let abandoned = || gated.server.metrics().abandoned_by_clients();
    gated.until_together(&["/locked/1", "/item/1"], 2, || {
        let before = abandoned();
        let (kept, mut asked) = gated.ask_together(&["/locked/7", "/item/2", "/item/3"]);
        gated.database.wait_for_a_waiting_lock();
        // An end that comes within 10 ms is taken for half a close.
        let since = Instant::now();
        wait_until("time passes", || since.elapsed() > Duration::from_millis(50));
        drop(asked.remove(0));
        assert_eq!(statuses(asked), [200, 200]);
        wait_until("it was not noticed", || abandoned() == before + 1);
        let_through(&gated, kept);
    });
    gated.end();
}

/// On a busy machine the statement that waits for the lock may run again by itself at the moment of the look.
#[test]
fn requests_whose_shared_session_is_lost_are_asked_again_one_by_one() {
    measured(|| {
        let gated = Gated::new(1, "", |_| {});
        let mut holder = wharf::database::postgres::client(&gated.database.url()).expect("it is there");
        gated.until_together(&["/locked/1", "/item/1"], 2, || {
            let before = gated.pipelined();
            holder.execute("select pg_advisory_lock(7)", &[]).expect("it is free");
            let (kept, asked) = gated.ask_together(&["/item/1", "/locked/7", "/item/2"]);
            gated.database.wait_for_a_waiting_lock();
            if gated.pipelined() == before {
                // The request was asked by itself, so the loss of its session would be an error. Let it end instead.
                holder.execute("select pg_advisory_unlock(7)", &[]).expect("it is held");
                assert_eq!(statuses(asked), [200, 200, 200]);
                return let_through(&gated, kept);
            }
            let waiting = "select pg_terminate_backend(pid) from pg_locks \
                 where locktype = 'advisory' and not granted and database = (select oid from pg_database \
                 where datname = current_database())";
            assert_eq!(gated.database.psql(waiting), "t");
            gated.database.wait_for_a_waiting_lock();
            holder.execute("select pg_advisory_unlock(7)", &[]).expect("it is held");
            assert_eq!(statuses(asked), [200, 200, 200]);
            let_through(&gated, kept);
        });
        gated.end();
    });
}

#[test]
fn a_handler_that_panics_fails_or_streams_keeps_its_neighbours_answers_apart() {
    let gated = Gated::new(1, "", |_| {});
    gated.until_together(&["/double?n=1"], 3, || {
        let panics = gated.server.metrics().panics();
        let paths: Vec<String> = [1, 13, 2, 14, 15, 3].map(|n| format!("/double?n={n}")).to_vec();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let (kept, asked) = gated.ask_together(&paths);
        let answers: Vec<Answer> = asked.into_iter().map(|mut client| client.answer()).collect();
        let seen: Vec<(u16, &str)> = answers.iter().map(|answer| (answer.status, answer.text())).collect();
        assert_eq!([seen[0], seen[2], seen[4], seen[5]], [(200, "2"), (200, "4"), (200, "30"), (200, "6")]);
        assert_problem(&answers[1], 500, "the server's log has the cause");
        assert_problem(&answers[3], 400, "another number");
        assert_eq!(gated.server.metrics().panics(), panics + 1);
        let_through(&gated, kept);
    });
    gated.end();
}

#[test]
fn an_answer_that_is_too_large_is_refused_and_the_answers_behind_it_are_not() {
    let gated = Gated::new(1, "", |config| config.http.max_response_bytes = 1000);
    gated.until_together(&["/wide/1", "/item/1"], 2, || {
        let (kept, asked) = gated.ask_together(&["/item/1", "/wide/100000", "/item/2"]);
        assert_eq!(statuses(asked), [200, 500, 200]);
        let_through(&gated, kept);
    });
    gated.end();
}

#[test]
fn a_value_of_no_column_is_an_error_of_its_own() {
    let gated = Gated::new(1, "", |_| {});
    gated.until_together(&["/nothing", "/item/1"], 2, || {
        let (kept, asked) = gated.ask_together(&["/item/1", "/nothing", "/item/2"]);
        assert_eq!(statuses(asked), [200, gated.get("/nothing").status, 200]);
        let_through(&gated, kept);
    });
    assert_eq!(gated.get("/nothing").status, 500);
    gated.end();
}

#[test]
fn statements_that_write_have_steps_or_may_not_be_pipelined_are_asked_alone() {
    let gated = Gated::new(1, "max_pipelined_requests = 1", |_| {});
    gated.server.limit_batch_time(PATIENCE);
    let paths = ["/item/1", "/item/2", "/item/3"];
    let ask_all = || {
        let (kept, asked) = gated.ask_together(&paths);
        assert_eq!(statuses(asked), [200; 3]);
        let_through(&gated, kept);
    };
    gated.make_known(&["/item/1"]);
    ask_all();
    assert_eq!(gated.pipelined(), 0, "not where it may not");
    let reload = |more: &str| gated.server.reload(config(&gated.database, 1, more)).map(drop);
    reload("statement_comment = 'request'").expect("a good configuration");
    gated.make_known(&["/item/1"]);
    ask_all();
    assert_eq!(gated.pipelined(), 0, "each text is another");
    reload("").expect("a good configuration");
    gated.until_together(&["/item/1", "/twice"], 2, ask_all);
    let before = gated.pipelined();
    let kept = gated.close();
    let mut asked = vec![ask(&gated.server, "/twice"), ask(&gated.server, "/twice")];
    for id in [20, 21] {
        let mut client = Client::connect(gated.server.address());
        client.request("POST", &format!("/item/{id}"), &[], "");
        asked.push(client);
    }
    gated.wait_for_queue(4);
    gated.keeper.let_through(1);
    assert!(statuses(asked).iter().all(|status| (200..300).contains(status)));
    let_through(&gated, kept);
    assert_eq!(gated.pipelined(), before);
    assert_eq!(gated.database.psql("select count(*) from item where id > 19"), "2");
    gated.end();
}

#[test]
fn statements_that_would_take_too_long_together_are_asked_alone() {
    let gated = Gated::new(1, "", |_| {});
    let ask_all = || {
        let (kept, asked) = gated.ask_together(&["/rest", "/rest", "/rest"]);
        assert_eq!(statuses(asked), [200; 3]);
        let_through(&gated, kept);
    };
    gated.until_together(&["/rest"], 3, ask_all);
    // Each of them takes longer, on a busy machine too.
    gated.server.limit_batch_time(Duration::from_millis(1));
    let before = gated.pipelined();
    ask_all();
    assert_eq!(gated.pipelined(), before);
    gated.end();
}

#[test]
fn a_handlers_statement_that_is_to_read_cannot_write() {
    let gated = Gated::new(1, "", |_| {});
    assert_eq!(gated.get("/sly").status, 500);
    assert_eq!(gated.database.psql("select count(*) from item where id = 99"), "0");
    assert_problem(&gated.get("/double?n=x"), 400, "parameter n");
    gated.end();
}
