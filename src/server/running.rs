//! A running server: its addresses and figures, and its end by a signal or a drain. Main thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use signal_hook::consts::SIGHUP;

use super::admin::AdminListener;
use super::signals::{self, Registration, Signalled};
use super::supervisor::Watchdog;
use super::{Address, Drained, ListeningOn, Running, StartError, TlsError, supervisor};
use crate::admin::observer::Observer;
use crate::base::deadline::Deadline;
use crate::telemetry::metrics::Metrics;

/// The receivers of signals, for the thread that waits for them, and the watchdog.
pub(super) struct Supervision {
    signals: Receiver<i32>,
    /// Disconnected at the second signal that ends the server.
    stopped: Receiver<Infallible>,
    /// Kept for its drop, which ends the watchdog's thread.
    watchdog: Option<Watchdog>,
    /// Kept for its drop: the server receives no signal any more.
    _registration: Registration,
}

impl Running {
    /// Where clients connect: every listener, in the order of the configuration.
    pub fn listeners(&self) -> &[ListeningOn] {
        &self.listeners
    }

    /// The address of the first listener, with the port that the system chose where the configuration says 0.
    pub fn listening_on(&self) -> &Address {
        // There is always one.
        self.listeners[0].address()
    }

    /// The TCP address of the first listener.
    ///
    /// # Panics
    /// When it listens on a Unix socket; see [`listening_on`](Self::listening_on).
    pub fn address(&self) -> SocketAddr {
        match self.listening_on() {
            Address::Tcp(address) => *address,
            other @ Address::Unix(_) => panic!("{other} is no TCP address"),
        }
    }

    /// The address where operators connect, with the port that the system chose. `None`: there is no admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminListener::address)
    }

    /// Whether clients of the first listener speak TLS.
    pub fn is_encrypted(&self) -> bool {
        self.listeners[0].is_encrypted()
    }

    /// Whether clients of any listener speak TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        self.listeners.iter().any(ListeningOn::is_encrypted)
    }

    /// The addresses of all listeners, for one line.
    pub(super) fn places(&self) -> String {
        places(&self.listeners)
    }

    /// Reads the files of every listener's certificate again, for new connections. Open connections keep the
    /// certificate that they have.
    ///
    /// # Errors
    /// A file cannot be used. Nothing has changed then.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        let fresh = self.read_certificates()?;
        self.take_certificates(fresh);
        Ok(())
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
        signals::catch(false)?;
        let supervision = self.supervise()?;
        Ok(self.run_supervised(supervision))
    }

    /// Directs signals and the admin listener's requests for a reload to this thread.
    pub(super) fn supervise(&self) -> Result<Supervision, StartError> {
        let (sender, received) = crossbeam_channel::unbounded();
        let (not_stopped, stopped) = crossbeam_channel::bounded(0);
        let stop = self.connector.stopper();
        let registration =
            signals::pass_to(Signalled { sender, stop, not_stopped: Some(not_stopped), ends: false });
        self.admin_view.accept_reloads();
        let watchdog = Watchdog::start(|| self.pulse())?;
        Ok(Supervision { signals: received, stopped, watchdog, _registration: registration })
    }

    pub(super) fn run_supervised(self, supervision: Supervision) -> Drained {
        supervisor::ready(&self.places());
        loop {
            crossbeam_channel::select! {
                // Signals that come during a reload wait until it is done.
                recv(supervision.signals) -> signal => if signal == Ok(SIGHUP) { drop(self.read_again()) } else { break },
                recv(self.reload_requests) -> job => if let Ok(job) = job { self.read_again_for(job) },
            }
        }
        log::info!("draining: requests in flight are answered, for at most {:?}", self.drain_timeout());
        // The pollers end during the drain and can then no longer answer the watchdog.
        drop(supervision.watchdog);
        supervisor::stopping(self.drain_timeout());
        self.drain_unless(&supervision.stopped)
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
    fn drain_unless(mut self, stop: &Receiver<Infallible>) -> Drained {
        let reuses_port = self.config.lock().unwrap_or_else(PoisonError::into_inner).server.reuse_port;
        let patience = self.drain_timeout();
        let until = Instant::now() + patience;
        self.admin_view.drain(until);
        let mut admin = self.admin;
        // Another server shares the port. Operators ask that one from now on.
        if reuses_port {
            admin.take().into_iter().for_each(AdminListener::end);
        }
        self.socket_files.remove();
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
        self.reload_requests.try_iter().for_each(Self::refuse_reload);
        admin.into_iter().for_each(AdminListener::end);
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

/// The addresses of listeners, for one line.
pub(super) fn places(listeners: &[ListeningOn]) -> String {
    listeners.iter().map(|listener| listener.address().to_string()).collect::<Vec<_>>().join(", ")
}
