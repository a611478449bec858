//! The gate limits the number of connections, in all and per address, and how fast new ones come.
//!
//! The acceptor asks the gate for each newcomer. A connection keeps its place until it is dropped, on whatever thread.
//! A refused connection takes none of the limited places, however long it stays to read its refusal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

use crate::connector::Settings;
use crate::http::Networks;
use crate::telemetry::metrics::{Metrics, Reason};

#[derive(Debug)]
pub(super) struct Gate {
    metrics: Arc<Metrics>,
    max_connections: AtomicUsize,
    /// Connections that are not refused.
    admitted: AtomicUsize,
    /// Locked by the acceptor for each newcomer, and by a reload.
    rules: Mutex<Rules>,
    /// Connections by address. They are counted also while there is no limit, because a reload may set one.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// Whether the acceptor waits for a place.
    awaited: AtomicBool,
    /// Wakes the acceptor when it waits for a place.
    waker: OnceLock<Waker>,
}

/// The limits that apply to newcomers, except the number of all connections.
#[derive(Debug)]
struct Rules {
    max_per_address: Option<usize>,
    /// Trusted proxies. A proxy's connections belong to many clients, so they are not counted by its address.
    trusted: Networks,
    rate: Option<Rate>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    /// Whether it is one of `http.max_connections`.
    admitted: bool,
    /// The address under which it is counted, if it is.
    address: Option<IpAddr>,
}

/// A token bucket that holds a second's worth of connections.
#[derive(Debug)]
struct Rate {
    a_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Rules {
    fn new(settings: &Settings) -> Self {
        Self {
            max_per_address: settings.max_connections_per_address,
            trusted: settings.proxy.trusted.clone(),
            rate: settings.max_accept_rate.map(Rate::new),
        }
    }
}

impl Rate {
    fn new(a_second: usize) -> Self {
        // A count of connections is far below where a float loses integers.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let a_second = a_second as f64;
        Self { a_second, tokens: a_second, filled: Instant::now() }
    }

    fn is(&self, other: &Self) -> bool {
        self.a_second.total_cmp(&other.a_second).is_eq()
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.filled).as_secs_f64() * self.a_second;
        self.tokens = (self.tokens + earned).min(self.a_second);
        self.filled = now;
        let enough = self.tokens >= 1.0;
        self.tokens -= if enough { 1.0 } else { 0.0 };
        enough
    }
}

impl Gate {
    pub(super) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            max_connections: AtomicUsize::new(settings.max_connections),
            admitted: AtomicUsize::new(0),
            rules: Mutex::new(Rules::new(settings)),
            addresses: Mutex::default(),
            awaited: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// Applies other limits. Connections that are open stay, even if there are more of them than the new limits allow.
    pub(super) fn reload(&self, settings: &Settings) {
        let mut fresh = Rules::new(settings);
        let mut rules = self.rules();
        // A rate that stays the same keeps its bucket, because a new bucket would be full.
        if let (Some(rate), Some(before)) = (&mut fresh.rate, rules.rate.take())
            && rate.is(&before)
        {
            *rate = before;
        }
        *rules = fresh;
        drop(rules);
        self.max_connections.store(settings.max_connections, Ordering::Relaxed);
        // The acceptor may wait for a place, and the new limits may have some.
        self.wake();
    }

    fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the connections came in over the limit. A connection that came in under a higher limit does not
    /// count.
    pub(super) fn excess(&self) -> usize {
        let allowed = self.max_connections().max(self.admitted.load(Ordering::Acquire));
        self.metrics.open_connections().saturating_sub(allowed)
    }

    /// Gives a newcomer its place, and the reason to refuse it, if there is one.
    pub(super) fn enter(self: &Arc<Self>, peer: Option<IpAddr>) -> (Place, Option<Reason>) {
        self.metrics.connected();
        let mut place = Place { gate: Arc::clone(self), admitted: false, address: None };
        let reason = if self.is_too_fast() {
            Some(Reason::AcceptRate)
        } else if !place.count(peer) {
            Some(Reason::AddressLimit)
        } else if !place.admit() {
            Some(Reason::ConnectionLimit)
        } else {
            None
        };
        (place, reason)
    }

    fn is_too_fast(&self) -> bool {
        self.rules().rate.as_mut().is_some_and(|rate| !rate.take(Instant::now()))
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the waker that wakes the acceptor when a place is free after [`await_place`](Self::await_place).
    pub(super) fn wake_by(&self, waker: Waker) {
        // The acceptor calls this once.
        let _ = self.waker.set(waker);
    }

    /// Notes that the acceptor stops until a place is free.
    pub(super) fn await_place(&self) {
        self.awaited.store(true, Ordering::SeqCst);
        // A leaving connection first lowers the count and then reads this flag. The acceptor does it the other way
        // round.
        fence(Ordering::SeqCst);
    }

    /// Wakes the acceptor, for any reason.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get()
            && let Err(error) = waker.wake()
        {
            log::error!("the acceptor cannot be woken: {error}");
        }
    }
}

impl Place {
    /// Counts this connection among `http.max_connections`, if one is left.
    pub(super) fn admit(&mut self) -> bool {
        let max = self.gate.max_connections();
        let next = |admitted| (admitted < max).then_some(admitted + 1);
        self.admitted = self.admitted
            || self.gate.admitted.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok();
        self.admitted
    }

    /// Gives the place up, because the connection is refused: it takes no client's place while it stays.
    pub(super) fn refuse(&mut self) {
        if let Some(address) = self.address.take() {
            let mut addresses = self.gate.addresses();
            if let Some(count) = addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    addresses.remove(&address);
                }
            }
        }
        if std::mem::take(&mut self.admitted) {
            self.gate.admitted.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Counts the connection under its address. Returns whether the address may have one more.
    fn count(&mut self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return true };
        let rules = self.gate.rules();
        if rules.trusted.contain(Some(peer)) {
            return true;
        }
        let limit = rules.max_per_address.unwrap_or(usize::MAX);
        drop(rules);
        let address = accountable(peer);
        let mut addresses = self.gate.addresses();
        let count = addresses.entry(address).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        drop(addresses);
        self.address = Some(address);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.refuse();
        let gate = &self.gate;
        gate.metrics.disconnected();
        fence(Ordering::SeqCst);
        if gate.awaited.load(Ordering::SeqCst) && gate.awaited.swap(false, Ordering::SeqCst) {
            gate.wake();
        }
    }
}

/// The address that is counted. All of an IPv6 network of 2^64 addresses counts as one, because one client has them
/// (RFC 6177).
fn accountable(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How long newcomers wait for refused connections to leave. Then those are closed.
pub(super) const LONGEST_AWAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_seconds_worth_at_once_and_refills() {
        let mut rate = Rate::new(10);
        let start = rate.filled;
        assert_eq!((0..20).filter(|_| rate.take(start)).count(), 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| rate.take(later)).count(), 5);
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rate.take(much_later)).count(), 10);
    }

    #[test]
    fn an_ipv6_address_counts_by_its_network() {
        let address = |text: &str| accountable(text.parse().expect("an address"));
        assert_eq!(address("2001:db8:1:2:3:4:5:6"), address("2001:db8:1:2::1"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
        assert_ne!(address("10.0.0.2"), address("10.0.0.1"));
    }
}
