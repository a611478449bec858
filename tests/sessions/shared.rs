//! Several requests share one round trip and so one session. No request sees the state of another one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use http::Method;
use wharf::handler;
use wharf::http::Response;
use wharf::metrics::Pool;
use wharf::server::Running;

use super::served::{endpoint, server};
use crate::support::{Client, Database, Gate, Keeper, PATIENCE, Postgres, ask, gate, wait_until};

/// The look of a clean session.
const CLEAN: &str = "\"postgres UTC  everybody\"";

const LOOK: &str = "select concat(current_user, ' ', current_setting('TimeZone'), ' ', current_setting('app.user', true), ' ',
    owner) from whose";

/// Only one session of the whole cluster takes the lock with this key.
const LOCKS: &str = "select count(*) from pg_locks where locktype = 'advisory' and objid = KEY";

fn database(key: u32) -> Database {
    let database = Postgres::database();
    let role = format!("{}_guest", database.name());
    database.psql(&format!(
        "create table whose as select 'everybody'::text as owner; create schema other;
         create table other.whose as select 'nobody'::text as owner;
         create role {role}; grant {role} to current_user; grant usage on schema other to {role};
         grant select on whose, other.whose to {role};
         create table t (label text);
         create function sneak() returns int language plpgsql as
             $$ begin insert into public.t values ('sly'); return 1; end $$;
         create function leave() returns int language plpgsql as
             $$ begin perform set_config('app.user', 'ann', false), set_config('TimeZone', 'Asia/Tokyo', false),
                 set_config('search_path', 'other', false), pg_advisory_lock({key}),
                 set_config('default_transaction_read_only', 'off', false);
             execute 'set role {role}'; return 1; end $$;
         create function lock() returns int language plpgsql as
             $$ begin perform pg_advisory_lock({key}); raise exception 'no'; end $$"
    ));
    database
}

fn serve(database: &Database, key: u32, gate: Gate) -> (Running, Arc<Pool>) {
    let endpoints = endpoint("GET", "look", LOOK)
        + &endpoint("GET", "locks", &LOCKS.replace("KEY", &key.to_string()))
        + &endpoint("GET", "leave", "select leave()")
        + &endpoint("GET", "lock", "select lock()")
        + &endpoint("GET", "sneak", "select sneak()");
    let server = server(&database.url(), "", &endpoints);
    let pool = Arc::clone(server.database().expect("it has one").metrics());
    let leave = handler::query("select leave()", |_| Ok(()), |_, _| Ok(Response::text("left")));
    let looks = handler::query(
        LOOK,
        |_| Ok(()),
        |_, rows| Ok(Response::text(format!("\"{}\"", rows[0].get::<_, String>(0)))),
    );
    let server = server.route(Method::GET, "/gate", gate).route(Method::GET, "/handler/leave", leave).route(
        Method::GET,
        "/handler/look",
        looks,
    );
    let server = server.start().expect("a free port");
    // A statement of a few microseconds takes milliseconds while other processes have the cores.
    server.limit_batch_time(PATIENCE);
    (server, pool)
}

/// The answer is the one that the request would have alone.
fn assert_undisturbed(path: &str, client: &mut Client) {
    let answer = client.answer();
    match path {
        "/look" | "/handler/look" => assert_eq!((answer.status, answer.text()), (200, CLEAN), "{path}"),
        "/locks" => assert_eq!((answer.status, answer.text()), (200, "0"), "{path}"),
        "/leave" | "/handler/leave" => assert_eq!(answer.status, 200, "{path}: {}", answer.text()),
        // An error that the function raises is its author's message to the client (400). A write in a GET is the author's
        // mistake (500).
        "/lock" => assert_eq!(answer.status, 400, "{path}: {}", answer.text()),
        _ => assert_eq!(answer.status, 500, "{path}: {}", answer.text()),
    }
}

/// Asks for all of these while the one worker is kept.
fn ask_together(server: &Running, keeper: &Keeper, paths: &[&'static str]) -> Vec<(&'static str, Client)> {
    let mut kept = ask(server, "/gate");
    keeper.wait_for_one();
    let mut asked = Vec::new();
    for path in paths {
        asked.push((*path, ask(server, path)));
        wait_until("they do not wait", || server.observer().gauges().queue.length == asked.len());
    }
    keeper.let_through(1);
    assert_eq!(kept.answer().status, 200);
    asked
}

#[test]
fn no_request_sees_the_state_that_another_one_left_in_the_same_round_trip() {
    const PATHS: [&str; 12] = [
        "/look",
        "/leave",
        "/look",
        "/handler/look",
        "/locks",
        "/lock",
        "/locks",
        "/look",
        "/handler/leave",
        "/sneak",
        "/look",
        "/look",
    ];
    /// How many rounds must share round trips.
    const ROUNDS: u32 = 10;
    const KEY: u32 = 78;
    let database = database(KEY);
    let (handler, keeper) = gate();
    let (server, pool) = serve(&database, KEY, handler);
    let until = Instant::now() + PATIENCE;
    let mut together = 0;
    while together < ROUNDS {
        // Only statements with a known time that are known to change nothing share a round trip.
        for path in PATHS.iter().cycle().take(3 * PATHS.len()) {
            assert_undisturbed(path, &mut ask(&server, path));
        }
        let before = pool.pipelined.load(Relaxed);
        for (path, mut client) in ask_together(&server, &keeper, &PATHS) {
            assert_undisturbed(path, &mut client);
        }
        together += u32::from(pool.pipelined.load(Relaxed) - before >= 2);
        assert!(Instant::now() < until, "they never shared a round trip");
    }
    assert_eq!(database.psql("select count(*) from t"), "0", "a GET wrote");
    server.drain();
}

#[test]
fn eight_clients_on_one_session_leave_each_other_nothing() {
    const KEY: u32 = 79;
    const CLIENTS: usize = 8;
    const EACH: usize = 60;
    let database = database(KEY);
    let (server, _) = serve(&database, KEY, gate().0);
    let server_address = server.address();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                const PATHS: [&str; 7] =
                    ["/look", "/leave", "/handler/look", "/locks", "/look", "/lock", "/sneak"];
                let mut client = Client::connect(server_address);
                for round in 0..EACH {
                    let path = PATHS[(number + round) % PATHS.len()];
                    client.request("GET", path, &[], "");
                    assert_undisturbed(path, &mut client);
                }
            });
        }
    });
    assert_eq!(database.psql("select count(*) from t"), "0", "a GET wrote");
    server.drain();
}
