//! The pool on a server that answers only when the test lets it: no work waits for other work, and sizes change under
//! load.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread;

use super::*;

/// No wait is this long unless something is wrong.
const LONG: Duration = Duration::from_secs(60);

/// Work of the server that waits for the test's permission.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_shut: bool,
    /// Threads that wait at the gate.
    waiting: u32,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        self.state.lock().expect("no panic").is_shut = is_shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().expect("no panic");
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.is_shut).expect("no panic");
        state.waiting -= 1;
    }

    fn wait_for(&self, waiting: u32) {
        let state = self.state.lock().expect("no panic");
        let waited = self.changed.wait_timeout_while(state, LONG, |state| state.waiting < waiting);
        assert!(!waited.expect("no panic").1.timed_out(), "{waiting} threads do not wait");
    }
}

#[derive(Default)]
struct Server {
    opening: Gate,
    validation: Gate,
    refuses: AtomicBool,
    /// The number of sessions, and the highest number so far.
    sessions: AtomicU32,
    most: AtomicU32,
}

struct TestSession(Arc<Server>);

impl Drop for TestSession {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, SeqCst);
    }
}

impl Session for TestSession {
    fn is_alive(&mut self) -> bool {
        true
    }

    fn validate(&mut self, _: Deadline) -> bool {
        self.0.validation.pass();
        true
    }

    fn is_broken(&self) -> bool {
        false
    }
}

struct TestDriver(Arc<Server>);

impl TestDriver {
    fn session(&self) -> TestSession {
        let sessions = self.0.sessions.fetch_add(1, SeqCst) + 1;
        self.0.most.fetch_max(sessions, SeqCst);
        TestSession(Arc::clone(&self.0))
    }
}

impl Driver for TestDriver {
    type Session = TestSession;
    type Error = &'static str;

    const SERVER: &'static str = "test";

    fn open(&self, _: Deadline) -> Result<TestSession, &'static str> {
        self.0.opening.pass();
        if self.0.refuses.load(SeqCst) { Err("refused") } else { Ok(self.session()) }
    }
}

fn settings(maximum: u32, minimum_idle: u32) -> Settings {
    Settings {
        maximum,
        minimum_idle,
        maximum_pending: usize::MAX,
        connection_timeout: LONG,
        validation_timeout: LONG,
        alive_bypass_window: LONG,
        idle_timeout: LONG,
        keepalive_time: Duration::ZERO,
        max_lifetime: LONG,
        leak_detection_threshold: Duration::ZERO,
    }
}

fn pool(settings: Settings) -> (Pool<TestDriver>, Arc<Server>) {
    let server = Arc::<Server>::default();
    let driver = TestDriver(Arc::clone(&server));
    let first = driver.session();
    let pool = Pool::start(driver, settings, first, Instant::now(), &Arc::default());
    (pool.expect("threads can be had"), server)
}

fn checkout(pool: &Pool<TestDriver>) -> Lent<TestDriver> {
    let checkout = pool.checkout(&Presence::default(), Deadline::after(LONG), Instant::now());
    checkout.unwrap_or_else(|error| panic!("{error:?}"))
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn no_validation_delays_a_hand_over_an_opening_or_another_validation() {
    let (pool, server) = pool(settings(3, 3));
    wait_until("the pool is not filled", || pool.gauges().idle == 3);
    server.validation.set(true);
    // All three sessions are silent, so the keeper asks each of them, and gets no answer.
    let asking = Settings { keepalive_time: Duration::from_millis(1), ..settings(3, 3) };
    pool.reconfigure(asking, false);
    server.validation.wait_for(3);
    assert_eq!(pool.gauges().active, 3);
    pool.reconfigure(settings(5, 3), false);
    thread::scope(|scope| {
        // Two more sessions are opened, and one of them goes from thread to thread.
        let held = [checkout(&pool), checkout(&pool)];
        let waiter = scope.spawn(|| drop(checkout(&pool)));
        wait_until("nobody waits", || pool.gauges().waiting == 1);
        drop(held);
        waiter.join().expect("no panic");
    });
    server.validation.set(false);
    wait_until("they do not come back", || pool.gauges().active == 0);
}

#[test]
fn no_opening_delays_a_hand_over_or_a_validation() {
    let (pool, server) = pool(settings(1, 1));
    let held = checkout(&pool);
    server.opening.set(true);
    pool.reconfigure(settings(4, 4), false);
    server.opening.wait_for(OPENINGS_AT_ONCE);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| drop(checkout(&pool)));
        wait_until("nobody waits", || pool.gauges().waiting == 1);
        drop(held);
        waiter.join().expect("no panic");
    });
    server.validation.set(true);
    pool.reconfigure(Settings { keepalive_time: Duration::from_millis(1), ..settings(4, 4) }, false);
    server.validation.wait_for(1);
    server.validation.set(false);
    server.opening.set(false);
    wait_until("the pool is not filled", || pool.gauges().open == 4);
}

/// The number of r2d2's threads.
const OPENINGS_AT_ONCE: u32 = 3;

#[test]
fn sessions_are_neither_lost_nor_too_many_while_the_maximum_changes() {
    let (pool, server) = pool(settings(1, 1));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    drop(checkout(&pool));
                }
            });
        }
        for maximum in [2, 9, 4, 16, 1, 17, 3, 5] {
            pool.reconfigure(settings(maximum, maximum), maximum == 4);
            wait_until("the size is not reached", || pool.gauges().open == maximum);
        }
        is_over.store(true, SeqCst);
    });
    wait_until("one does not come back", || pool.gauges().idle == 5);
    assert_eq!(server.sessions.load(SeqCst), 5);
    assert_eq!(server.most.load(SeqCst), 17);
    drop(pool);
    wait_until("a session outlives the pool", || server.sessions.load(SeqCst) == 0);
    wait_until("a thread outlives the pool", || Arc::strong_count(&server) == 1);
}

#[test]
fn a_server_that_is_down_is_found_again() {
    let (pool, server) = pool(settings(2, 2));
    wait_until("the pool is not filled", || pool.gauges().idle == 2);
    server.refuses.store(true, SeqCst);
    pool.reconfigure(settings(2, 2), true);
    wait_until("the old ones stay", || pool.gauges().is_down);
    let refused = pool.checkout(&Presence::default(), Deadline::after(LONG), Instant::now()).err();
    assert!(matches!(&refused, Some(Unavailable::Down { reason }) if reason == "refused"), "{refused:?}");
    server.refuses.store(false, SeqCst);
    wait_until("it is not found again", || pool.gauges().idle == 2);
    drop(checkout(&pool));
}

#[test]
fn a_dropped_pool_leaves_its_sessions_to_their_borrowers() {
    let (pool, server) = pool(settings(2, 2));
    let held = checkout(&pool);
    drop(pool);
    wait_until("the idle one stays", || server.sessions.load(SeqCst) == 1);
    drop(held);
    wait_until("the lent one stays", || server.sessions.load(SeqCst) == 0);
}

#[test]
fn a_session_that_is_opened_while_its_pool_is_dropped_does_not_wait_for_a_lent_one() {
    let (pool, server) = pool(settings(2, 1));
    let held = checkout(&pool);
    server.opening.set(true);
    pool.reconfigure(settings(2, 2), false);
    server.opening.wait_for(1);
    drop(pool);
    server.opening.set(false);
    wait_until("the new one is not opened", || server.most.load(SeqCst) == 2);
    wait_until("the new one stays", || server.sessions.load(SeqCst) == 1);
    drop(held);
    wait_until("the lent one stays", || server.sessions.load(SeqCst) == 0);
    wait_until("a thread outlives the pool", || Arc::strong_count(&server) == 1);
}
