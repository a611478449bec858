//! A running server: what can be asked of it, and its end by a signal or by a drain. Main thread.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;

use super::admin::Listening;
use super::supervisor::Watchdog;
use super::{Address, Drained, Running, StartError, TlsError, supervisor};
use crate::admin::observer::Observer;
use crate::base::deadline::Deadline;
use crate::connector::{SocketFile, Stopper};
use crate::telemetry::metrics::Metrics;

/// The signals and their consequences, for the thread that waits for them.
pub(super) struct Heard {
    signals: Receiver<i32>,
    /// Disconnected at the second signal that ends the server.
    stopped: Receiver<Infallible>,
    /// Kept for its drop, which ends the watchdog's thread.
    watchdog: Option<Watchdog>,
}

impl Running {
    /// The address where clients connect, with the port that the system chose where the configuration says 0.
    pub fn listening_on(&self) -> &Address {
        &self.address
    }

    /// The TCP address that clients connect to.
    ///
    /// # Panics
    /// When the server listens on a Unix socket; see [`listening_on`](Self::listening_on).
    pub fn address(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(address) => *address,
            other @ Address::Unix(_) => panic!("{other} is no TCP address"),
        }
    }

    /// The address where operators connect, with the port that the system chose. `None`: there is no admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Listening::address)
    }

    /// Whether clients speak TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads the certificate's files again, for new connections. Open connections keep the certificate that they have.
    ///
    /// # Errors
    /// A file cannot be used. Nothing has changed then.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.identity.reload())
    }

    /// How many request threads there are.
    pub fn workers(&self) -> usize {
        self.workers.count()
    }

    /// The observer of the running server.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves until SIGTERM or SIGINT, and drains; a second signal stops at once. After SIGHUP the configuration is
    /// read again, as [`Server::on_reload`](super::Server::on_reload) says.
    ///
    /// # Errors
    /// The system does not let the process handle signals.
    pub fn run_until_signal(self) -> Result<Drained, StartError> {
        let heard = self.hear(watched_signals()?)?;
        Ok(self.run_until(heard))
    }

    /// Directs signals and the admin listener's requests for a reload to this thread.
    pub(super) fn hear(&self, signals: Signals) -> Result<Heard, StartError> {
        let (sender, received) = crossbeam_channel::unbounded();
        let (going_on, stopped) = crossbeam_channel::bounded(0);
        let stop = self.connector.stopper();
        let watch = move || watch(signals, &sender, &stop, going_on);
        std::thread::Builder::new().name("signals".into()).spawn(watch)?;
        self.admin_view.listen();
        let watchdog = Watchdog::start(|| self.pulse())?;
        Ok(Heard { signals: received, stopped, watchdog })
    }

    pub(super) fn run_until(self, heard: Heard) -> Drained {
        supervisor::ready(&self.address);
        loop {
            crossbeam_channel::select! {
                // Signals that come during a reload wait until it is done.
                recv(heard.signals) -> signal => if signal == Ok(SIGHUP) { drop(self.read_again()) } else { break },
                recv(self.errands) -> job => if let Ok(job) = job { self.read_again_for(job) },
            }
        }
        log::info!("draining: requests in flight are answered, for at most {:?}", self.drain_timeout());
        // The pollers end during the drain and can then no longer answer the watchdog.
        drop(heard.watchdog);
        supervisor::stopping(self.drain_timeout());
        self.drain_unless(&heard.stopped)
    }

    /// For tests: how long the statements of a batch may take together, by their mean times. How long a statement takes beside
    /// other processes is not known, so a test of batches cannot rely on the default.
    #[doc(hidden)]
    pub fn limit_batch_time(&self, max: Duration) {
        self.workers.limit_batch_time(max);
    }

    /// Stops accepting, lets requests in flight finish for at most `server.drain_timeout`, and ends every thread.
    pub fn drain(self) -> Drained {
        self.drain_unless(&crossbeam_channel::never())
    }

    /// As [`drain`](Self::drain), and stops waiting for handlers once `stop` is disconnected.
    fn drain_unless(self, stop: &Receiver<Infallible>) -> Drained {
        let reuses_port = self.config.lock().unwrap_or_else(PoisonError::into_inner).server.reuse_port;
        let patience = self.drain_timeout();
        let until = Instant::now() + patience;
        self.admin_view.drain();
        let mut admin = self.admin;
        // Another server shares the port. Operators ask that one from now on.
        if reuses_port {
            admin.take().into_iter().for_each(Listening::end);
        }
        if let Some(Err(error)) = self.socket_file.as_ref().map(SocketFile::remove) {
            log::warn!("{} cannot be removed: {error}", self.address);
        }
        let drained = self.connector.drain(patience);
        self.queue.close();
        let workers_ended =
            drained == Drained::Complete && self.workers.join(Deadline::at(until, Duration::ZERO), stop);
        self.journal.close();
        self.traces.close(stop);
        log::info!("stopped: {}", self.metrics);
        if drained == Drained::Complete && !workers_ended {
            log::warn!("a handler did not end by its deadline; its client was answered 504");
        }
        self.errands.try_iter().for_each(Self::turn_away);
        admin.into_iter().for_each(Listening::end);
        drained
    }

    /// The watchdog's question whether the server works. It works if every thread of the connector and every worker
    /// runs, and if some worker is not past its request's deadline.
    fn pulse(&self) -> supervisor::Pulse {
        let (connector, workers, observer) =
            (self.connector.pulse(), self.workers.pulse(), self.observer.clone());
        Box::new(move |patience| {
            connector(patience)?;
            workers()?;
            let workers = observer.gauges().workers;
            let all_stuck = workers.stuck > 0 && workers.stuck >= workers.count;
            if all_stuck { Err("every worker is past its request's deadline") } else { Ok(()) }
        })
    }

    fn drain_timeout(&self) -> Duration {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).server.drain_timeout
    }
}

/// Passes each signal on. The second one that is not SIGHUP calls `stop` and drops `going_on`.
fn watch(mut signals: Signals, sender: &Sender<i32>, stop: &Stopper, going_on: Sender<Infallible>) {
    let mut others = signals.forever().filter(|signal| {
        // The receiver is gone once the server stops. The signal has no further use then.
        let _ = sender.send(*signal);
        *signal != SIGHUP
    });
    if others.next().and(others.next()).is_some() {
        log::warn!("second signal: stopping at once");
        stop();
        drop(going_on);
    }
}

/// Catches the signals. From now on none of them ends the process by itself.
pub(super) fn watched_signals() -> io::Result<Signals> {
    Signals::new(TERM_SIGNALS.iter().chain(&[SIGHUP]))
}
