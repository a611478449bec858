//! The stock without threads: every order of a few calls keeps its counts, and no thread waits beside an idle session.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A session on a server that counts its sessions.
struct Session(Arc<Mutex<u32>>);

impl Drop for Session {
    fn drop(&mut self) {
        *self.0.lock().expect("no panic") -= 1;
    }
}

fn settings(maximum: u32) -> Settings {
    Settings {
        maximum,
        minimum_idle: 0,
        maximum_pending: usize::MAX,
        connection_timeout: MINUTE,
        validation_timeout: MINUTE,
        alive_bypass_window: MINUTE,
        idle_timeout: MINUTE,
        keepalive_time: Duration::ZERO,
        max_lifetime: MINUTE,
        leak_detection_threshold: Duration::ZERO,
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    /// A thread takes an idle session, or enters the line.
    TakeOrJoin,
    GiveBack,
    FindDead,
    /// The last waiter leaves.
    Leave,
    /// A session is opened if the stock orders one.
    Open,
    /// An opening fails if the stock orders one.
    FailToOpen,
    Shrink,
    Grow,
    Renew,
}

const CALLS: [Call; 9] = [
    Call::TakeOrJoin,
    Call::GiveBack,
    Call::FindDead,
    Call::Leave,
    Call::Open,
    Call::FailToOpen,
    Call::Shrink,
    Call::Grow,
    Call::Renew,
];

const LENGTH: u32 = 5;

/// A stock, and everything that it has given out.
struct Pool {
    stock: Arc<Stock<Session>>,
    /// The sessions that the server has.
    there: Arc<Mutex<u32>>,
    lent: Vec<Loan<Session>>,
    waiters: Vec<Arc<Waiter<Box<Entry<Session>>>>>,
}

impl Pool {
    /// With one idle session.
    fn new() -> Self {
        let now = Instant::now();
        let stock = Arc::new(Stock::new("test", settings(2), now, Arc::default()));
        let pool = Self { stock, there: Arc::default(), lent: Vec::new(), waiters: Vec::new() };
        pool.arrive(now);
        pool
    }

    fn arrive(&self, began: Instant) {
        *self.there.lock().expect("no panic") += 1;
        self.stock.arrive(Session(Arc::clone(&self.there)), began);
    }

    fn loan(&self, entry: Box<Entry<Session>>) -> Loan<Session> {
        Loan { entry: Some(entry), stock: Arc::clone(&self.stock), since: Instant::now() }
    }

    /// Whether the stock orders a session now. Does not wait, unlike [`Stock::wait_for_order`].
    fn order(&self) -> Option<Order<'_, Session>> {
        let now = Instant::now();
        let deadline = self.stock.lock().order(now).ok()?;
        Some(Order { stock: &self.stock, began: now, deadline, is_settled: false })
    }

    fn call(&mut self, call: Call) {
        let now = Instant::now();
        match call {
            Call::TakeOrJoin => {
                let mut state = self.stock.lock();
                match state.take_idle(thread::current().id(), now) {
                    Some(entry) => {
                        drop(state);
                        self.lent.push(self.loan(entry));
                    }
                    None => self.waiters.extend(state.join_line(LineEnd::Back, now).ok()),
                }
            }
            Call::GiveBack | Call::FindDead => {
                let is_dead = matches!(call, Call::FindDead);
                let fate = if is_dead { Fate::Dead } else { Fate::Used { untidy: false } };
                if let Some(mut loan) = self.lent.pop() {
                    loan.end(fate, now);
                }
            }
            Call::Leave => {
                if let Some(waiter) = self.waiters.pop() {
                    let handed = self.stock.lock().line.leave(&waiter);
                    assert!(handed.is_none(), "what was handed over is taken after each call");
                }
            }
            Call::Open => {
                if let Some(order) = self.order() {
                    let began = order.began();
                    order.fill();
                    self.arrive(began);
                }
            }
            Call::FailToOpen => {
                if let Some(order) = self.order() {
                    order.fail("refused".to_owned());
                }
            }
            Call::Shrink => self.stock.reconfigure(settings(1), false),
            Call::Grow => self.stock.reconfigure(settings(3), false),
            Call::Renew => self.stock.reconfigure(settings(2), true),
        }
        self.receive();
    }

    /// The waiters take what they were handed.
    fn receive(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter.wait(Instant::now(), || true) {
                Some(Handed::Thing(entry)) => self.lent.push(self.loan(entry)),
                Some(Handed::Nothing) => {}
                None => self.waiters.push(waiter),
            }
        }
    }

    fn check(&self, calls: &[Call]) {
        let state = self.stock.lock();
        let idle = u32::try_from(state.idle.len()).expect("a few");
        assert!(idle == 0 || state.line.len() == 0, "a thread waits beside an idle session: {calls:?}");
        assert_eq!(state.line.len(), self.waiters.len(), "{calls:?}");
        assert_eq!(state.active as usize, self.lent.len(), "{calls:?}");
        assert_eq!(state.open, state.active + idle, "{calls:?}");
        assert_eq!(state.open, *self.there.lock().expect("no panic"), "{calls:?}");
        assert_eq!(state.opening, 0, "{calls:?}");
        assert!(state.open <= 3, "{calls:?}");
        assert!(state.down().is_none() || state.line.len() == 0, "a thread waits in vain: {calls:?}");
    }
}

#[test]
fn every_order_of_calls_keeps_the_counts() {
    let count = CALLS.len();
    for code in 0..count.pow(LENGTH) {
        let call = |place: u32| CALLS[code / count.pow(place) % count];
        let calls: Vec<Call> = (0..LENGTH).map(call).collect();
        let mut pool = Pool::new();
        for call in &calls {
            pool.call(*call);
            pool.check(&calls);
        }
        pool.stock.close();
        for waiter in std::mem::take(&mut pool.waiters) {
            assert!(pool.stock.lock().line.leave(&waiter).is_none());
        }
        pool.lent.clear();
        assert_eq!(*pool.there.lock().expect("no panic"), 0, "a session outlives its pool: {calls:?}");
    }
}

#[test]
fn a_dropped_loan_puts_the_session_back() {
    let pool = Pool::new();
    let entry = pool.stock.lock().take_idle(thread::current().id(), Instant::now()).expect("one is idle");
    drop(pool.loan(entry));
    pool.check(&[]);
    assert_eq!(pool.stock.gauges().idle, 1);
}

#[test]
fn a_dropped_order_is_given_up() {
    let stock =
        Stock::<u8>::new("test", Settings { minimum_idle: 2, ..settings(2) }, Instant::now(), Arc::default());
    drop(stock.wait_for_order().expect("it is open"));
    assert_eq!(stock.lock().opening, 1, "only the first is on its way");
    stock.close();
    assert!(stock.wait_for_order().is_none());
}

#[test]
fn old_and_surplus_sessions_retire_and_the_minimum_stays() {
    let stock = Arc::new(Stock::new("test", settings(9), Instant::now(), Arc::default()));
    let began = Instant::now();
    stock.lock().opening = 6;
    (0..6).for_each(|number| stock.arrive(number, began));
    let retire = |settings: Settings, now: Instant| {
        stock.reconfigure(settings, false);
        let mut retired = stock.retired(now);
        let numbers: Vec<i32> = retired.iter().map(|loan| **loan).collect();
        for loan in &mut retired {
            loan.end(Fate::Spent, now);
        }
        numbers
    };
    let now = Instant::now();
    assert_eq!(retire(settings(5), now), [0], "one is more than the maximum");
    let two = Settings { minimum_idle: 2, ..settings(5) };
    assert_eq!(retire(two.clone(), now), [0; 0], "none was idle for long");
    let idle_for_long = Settings { idle_timeout: Duration::ZERO, ..two };
    assert_eq!(retire(idle_for_long, now), [1, 2, 3], "the minimum stays");
    assert_eq!(retire(settings(5), now + MINUTE), [4, 5], "all are old");
    assert_eq!(stock.gauges().open, 0);
}
