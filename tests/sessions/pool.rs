//! The pool's guarantees, HikariCP's among them, on a real PostgreSQL: who is served first, when connections are opened,
//! looked at and ended, and what happens while there is no database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use wharf::config;
use wharf::database::{Connection, Database, Error};
use wharf::deadline::Deadline;
use wharf::internal::activity::Activity;
use wharf::internal::presence::Presence;

use crate::support::{Log, PATIENCE, Postgres, Withholding, measured, wait_until};

const MS: Duration = Duration::from_millis(1);

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn settings(size: usize) -> config::Database {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = size;
    settings.connection_timeout = PATIENCE;
    settings
}

/// A pool, and the database that only it is connected to.
fn pool(change: impl FnOnce(&mut config::Database)) -> (Database, crate::support::Database) {
    let server = Postgres::database();
    let mut settings = settings(1);
    change(&mut settings);
    let pool = Database::open(&settings, &server.url()).expect("the database is there");
    wait_until("the pool is not filled", || {
        pool.gauges().idle as usize >= settings.minimum_idle.unwrap_or(settings.maximum_pool_size)
    });
    (pool, server)
}

fn checkout(pool: &Database) -> Connection {
    pool.checkout(soon()).unwrap_or_else(|error| panic!("{error}"))
}

fn pid(connection: &mut Connection) -> i32 {
    connection
        .postgres()
        .expect("it is PostgreSQL")
        .query_one("select pg_backend_pid()", &[])
        .expect("a row")
        .get(0)
}

/// The pool's sessions as the database's server sees them.
fn sessions(server: &crate::support::Database, what: &str) -> String {
    server.psql(&format!(
        "select {what} from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    ))
}

/// Lets `count` workers wait for a connection, one after another; each runs `served` once it has it.
fn wait_in_line<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pool: &'scope Database,
    count: u32,
    served: impl Fn(u32, Connection) + Clone + Send + 'scope,
) {
    for place in 0..count {
        let served = served.clone();
        scope.spawn(move || served(place, checkout(pool)));
        wait_until("a worker does not wait", || pool.gauges().waiting > place);
    }
}

#[test]
fn the_request_that_waits_longest_is_served_first() {
    let (pool, _server) = pool(|_| {});
    let served = Mutex::new(Vec::new());
    let held = checkout(&pool);
    thread::scope(|scope| {
        wait_in_line(scope, &pool, 64, |place, connection| {
            served.lock().expect("nobody panics with it").push(place);
            drop(connection);
        });
        drop(held);
        // A checkout that comes now waits behind all of them.
        drop(checkout(&pool));
        wait_until("not all are served", || pool.gauges().waiting == 0);
    });
    let served = served.into_inner().expect("nobody panics with it");
    assert_eq!(served, (0..64).collect::<Vec<_>>());
}

#[test]
fn a_thread_gets_the_connection_that_it_had_last_unless_that_is_in_doubt() {
    for (window, own) in [(PATIENCE, true), (Duration::ZERO, false)] {
        let (pool, _server) = pool(|settings| {
            settings.maximum_pool_size = 3;
            settings.alive_bypass_window = window;
        });
        let mut here = checkout(&pool);
        let own_pid = pid(&mut here);
        let (taken, came_back) = (Barrier::new(2), Barrier::new(2));
        let other_pid = thread::scope(|scope| {
            let there = scope.spawn(|| {
                let mut there = checkout(&pool);
                let pid = pid(&mut there);
                taken.wait();
                came_back.wait();
                pid
            });
            taken.wait();
            drop(here);
            came_back.wait();
            there.join().expect("no panic")
        });
        let mut again = checkout(&pool);
        assert_eq!(pid(&mut again), if own { own_pid } else { other_pid }, "the window is {window:?}");
    }
}

/// On a busy machine the fifty may wait longer than an opening takes, and then more connections are right.
#[test]
fn a_spike_opens_no_connection_that_is_not_needed() {
    measured(|| {
        // HikariCP's own measure: 150 ms to connect, 2 ms a query, 50 threads at once, 5 connections idle, 50 at most.
        let (pool, server) = pool(|settings| {
            settings.maximum_pool_size = 50;
            settings.minimum_idle = Some(5);
            settings.connection_init_sql = Some("select pg_sleep(0.15)".to_owned());
        });
        let query = || {
            let mut connection = checkout(&pool);
            connection
                .postgres()
                .expect("it is PostgreSQL")
                .query("select pg_sleep(0.002)", &[])
                .expect("rows");
        };
        // Until the planner has told that it changes nothing, the connection is cleaned after it, which runs the same SQL as an opening.
        // The third run waits for that.
        (0..3).for_each(|_| query());
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(query);
            }
        });
        assert_eq!(pool.gauges().open, 5, "after {:?}", started.elapsed());
        assert_eq!(sessions(&server, "count(*)"), "5");
    });
}

#[test]
fn a_connection_is_opened_for_who_waits_longer_than_that_takes() {
    let (pool, _server) = pool(|settings| {
        settings.maximum_pool_size = 3;
        settings.minimum_idle = Some(1);
    });
    let held = [checkout(&pool), checkout(&pool), checkout(&pool)];
    assert_eq!((pool.gauges().open, pool.gauges().active), (3, 3));
    drop(held);
}

#[test]
fn no_more_wait_than_may() {
    let (pool, _server) = pool(|settings| settings.maximum_pending = Some(2));
    let held = checkout(&pool);
    thread::scope(|scope| {
        wait_in_line(scope, &pool, 2, |_, connection| drop(connection));
        let started = Instant::now();
        let refused = pool.checkout(soon()).err().expect("two wait already");
        assert!(started.elapsed() < Duration::from_secs(1), "it did not wait");
        assert!(matches!(refused, Error::Crowded { .. }), "{refused}");
        assert_eq!(refused.status(), 503);
        assert!(refused.to_string().contains("total=1, active=1, idle=0, waiting=2"), "{refused}");
        drop(held);
    });
}

#[test]
fn a_client_that_leaves_waits_no_longer() {
    let (pool, _server) = pool(|_| {});
    let held = checkout(&pool);
    let client = Presence::tracked();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.checkout_for(&client, &Activity::default(), soon()).err());
        wait_until("nobody waits", || pool.gauges().waiting == 1);
        client.leave();
        let error = waiter.join().expect("it does not panic").expect("its client has left");
        assert!(matches!(error, Error::ClientLeft), "{error}");
    });
    assert_eq!(pool.gauges().waiting, 0);
    drop(held);
    drop(checkout(&pool));
}

#[test]
fn connections_end_when_they_are_old_and_not_all_at_once() {
    let (pool, server) = pool(|settings| {
        settings.maximum_pool_size = 4;
        settings.max_lifetime = Duration::from_secs(2);
    });
    let first = sessions(&server, "string_agg(pid::text, ',')");
    let gone = || sessions(&server, &format!("count(*) filter (where pid in ({first}))")) == "0";
    wait_until("they live for ever", gone);
    wait_until("the pool is not filled again", || pool.gauges().idle == 4);
    wait_until("there are more", || sessions(&server, "count(*)") == "4");
    // One that is lent lives until it is given back.
    let mut held = checkout(&pool);
    let lent = pid(&mut held);
    let old = format!("bool_or(now() - backend_start > '2100ms' and pid = {lent})");
    wait_until("it never grows old", || sessions(&server, &old) == "t");
    assert_eq!(pid(&mut held), lent);
    drop(held);
    wait_until("it goes on", || sessions(&server, &format!("bool_or(pid = {lent})")) == "f");
}

#[test]
fn the_idle_are_kept_alive_and_the_dead_among_them_replaced() {
    let (pool, server) = pool(|settings| settings.keepalive_time = 100 * MS);
    let seen = || sessions(&server, "max(state_change)");
    let before = seen();
    wait_until("nobody asks it", || seen() != before);
    let dead = sessions(&server, "pg_terminate_backend(pid, 5000)::int * pid");
    wait_until("nobody replaces it", || {
        let pids = sessions(&server, "string_agg(pid::text, ',')");
        !pids.is_empty() && pids != dead
    });
    wait_until("it is not in the pool", || pool.gauges().idle == 1);
}

#[test]
fn the_database_is_asked_only_outside_the_bypass_window() {
    for (window, asked) in [(PATIENCE, false), (Duration::ZERO, true)] {
        let (pool, server) = pool(|settings| settings.alive_bypass_window = window);
        let seen = || sessions(&server, "max(state_change)");
        let before = seen();
        for _ in 0..100 {
            drop(checkout(&pool));
        }
        assert_eq!(seen() != before, asked, "{window:?}");
    }
}

/// An answer that came after the end of the validation, but within the time that a cancelled statement has, counted as good. The
/// cancelled session was lent, and its request failed.
#[test]
fn a_session_whose_validation_is_answered_too_late_is_not_lent() {
    /// The length and the code of a cancel request.
    const CANCEL: [u8; 8] = [0, 0, 0, 16, 4, 210, 22, 46];
    let server = Postgres::database();
    let proxy = Withholding::to(Postgres::shared().port());
    let url = format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port(), server.name());
    let mut settings = settings(1);
    (settings.alive_bypass_window, settings.validation_timeout) = (Duration::ZERO, 100 * MS);
    let pool = Database::open(&settings, &url).expect("the database is there");
    let first = pid(&mut checkout(&pool));
    proxy.hold();
    thread::scope(|scope| {
        let later = scope.spawn(|| pid(&mut checkout(&pool)));
        wait_until("the session is still being validated", || {
            proxy.has_sent(CANCEL) || proxy.has_sent("application_name")
        });
        proxy.release();
        assert_ne!(later.join().expect("it gets a session that works"), first);
    });
}

#[test]
fn idle_sessions_above_the_minimum_are_closed() {
    let (pool, server) = pool(|settings| {
        settings.maximum_pool_size = 4;
        settings.minimum_idle = Some(1);
        settings.idle_timeout = 300 * MS;
    });
    let held: Vec<_> = (0..4).map(|_| checkout(&pool)).collect();
    assert_eq!(pool.gauges().open, 4);
    drop(held);
    wait_until("they stay", || pool.gauges().open == 1);
    wait_until("their sessions stay", || sessions(&server, "count(*)") == "1");
    drop(checkout(&pool));
}

#[test]
fn after_one_dead_connection_no_other_is_lent() {
    let (pool, server) = pool(|settings| settings.maximum_pool_size = 4);
    sessions(&server, "pg_terminate_backend(pid, 5000)");
    let mut failures = 0;
    for _ in 0..20 {
        let mut connection = checkout(&pool);
        failures +=
            usize::from(connection.postgres().expect("it is PostgreSQL").query("select 1", &[]).is_err());
    }
    assert!(failures <= 1, "{failures} requests met a dead connection");
}

#[test]
fn a_thread_that_does_not_return_a_connection_is_named() {
    let log = Log::start(log::LevelFilter::Info);
    let (pool, _server) = pool(|settings| settings.leak_detection_threshold = 50 * MS);
    let worker = thread::Builder::new().name("forgetful".to_owned());
    thread::scope(|scope| {
        let (give, given) = crossbeam_channel::bounded::<()>(0);
        let pool = &pool;
        let forgetful = move || {
            let held = checkout(pool);
            given.recv().expect("it is told to");
            drop(held);
        };
        worker.spawn_scoped(scope, forgetful).expect("a thread");
        wait_until("nobody says it", || log.has("forgetful has had a database session for"));
        give.send(()).expect("it waits");
        wait_until("nobody says that it is back", || log.has("forgetful gave the session back after"));
    });
}

#[test]
fn the_size_changes_while_connections_are_lent() {
    let (pool, server) = pool(|settings| settings.maximum_pool_size = 3);
    let before = sessions(&server, "string_agg(pid::text, ',' order by pid)");
    let mut held = vec![checkout(&pool), checkout(&pool)];
    pool.reconfigure(&settings(6));
    held.extend((0..4).map(|_| checkout(&pool)));
    assert_eq!((pool.gauges().maximum, pool.gauges().active), (6, 6));
    // Those that were there, lent or not, are among them.
    let pids = held.iter_mut().map(pid).collect::<Vec<_>>();
    assert!(
        before.split(',').all(|before| pids.contains(&before.parse().expect("a pid"))),
        "{before} {pids:?}"
    );
    drop(held);
    wait_until("not all came back", || pool.gauges().idle == 6);
    assert_eq!(sessions(&server, "count(*)"), "6");
    let held = [checkout(&pool), checkout(&pool)];
    pool.reconfigure(&settings(1));
    wait_until("the idle stay", || pool.gauges().open == 2);
    drop(held);
    wait_until("those that were lent stay", || sessions(&server, "count(*)") == "1");
    assert_eq!((pool.gauges().open, pool.gauges().idle), (1, 1));
}

#[test]
fn no_connection_is_lost_while_the_size_changes_under_load() {
    let (pool, server) = pool(|settings| settings.maximum_pool_size = 1);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut connection = checkout(&pool);
                    connection.postgres().expect("it is PostgreSQL").query("select 1", &[]).expect("rows");
                }
            });
        }
        for size in (1..=12).chain([3, 14, 2]) {
            pool.reconfigure(&settings(size));
            wait_until("the size is not reached", || pool.gauges().open as usize == size);
        }
        over.store(true, Ordering::Relaxed);
    });
    wait_until("one does not come back", || pool.gauges().idle == 2);
    wait_until("one stays open", || sessions(&server, "count(*)") == "2");
}

#[test]
fn nobody_waits_for_a_database_that_is_known_to_be_down() {
    let server = Arc::new(Postgres::start());
    let pool = Database::open(&settings(4), &server.url()).expect("the database is there");
    let held = [checkout(&pool), checkout(&pool), checkout(&pool), checkout(&pool)];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.checkout(soon()).err());
        wait_until("nobody waits", || pool.gauges().waiting == 1);
        server.stop();
        for mut connection in held {
            connection
                .postgres()
                .expect("it is PostgreSQL")
                .query("select 1", &[])
                .expect_err("it was stopped");
        }
        let error = waiting.join().expect("it does not panic").expect("there is none to be had");
        assert!(matches!(error, Error::Down { .. }), "{error}");
    });
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let started = Instant::now();
            let error = pool.checkout(soon()).err().expect("the database is down");
            assert!(matches!(error, Error::Down { .. }), "{error}");
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[50] < 5 * MS, "{times:?}");
    server.start_again();
    let started = Instant::now();
    wait_until("it is not found again", || pool.checkout(soon()).is_ok());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    wait_until("the pool is not filled", || pool.gauges().idle == 4);
}
