//! The things that all connections of one poller share. Poller thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::base::request_id::RequestIds;
use crate::connector::Settings;
use crate::connector::native::files::Files;
use crate::connector::native::{Id, Mailbox};
use crate::exchange::job::Service;
use crate::telemetry::metrics::{Metrics, Reason};

/// One read takes at most this much, so that one client cannot hold up the others for long.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// While draining: a client that was answered less than this ago may have its next request on the way and gets it
/// answered; one that was idle for longer is closed at once.
pub(super) const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// The poller wakes workers when it has read what there is to read, so that requests which came together can be answered together,
/// but after so many of them in any case: reading them takes about 50 µs.
pub(super) const QUEUED_MAX: usize = 16;

/// What every connection of one poller uses.
pub(in crate::connector::native) struct Core {
    pub(in crate::connector::native) mailbox: Arc<Mailbox>,
    pub(in crate::connector::native) settings: Arc<Settings>,
    pub(super) service: Arc<dyn Service>,
    /// Those of the settings, for this thread.
    pub(super) request_ids: Arc<RequestIds>,
    pub(in crate::connector::native) metrics: Arc<Metrics>,
    pub(super) files: Arc<Files>,
    /// When the poller last woke up.
    pub(in crate::connector::native) now: Instant,
    /// No event at hand came before that: what came earlier was seen earlier.
    pub(in crate::connector::native) events_since: Instant,
    /// Connections that have more to read, after the others have had their turn.
    pub(in crate::connector::native) again: Vec<Id>,
    /// Where reads go.
    pub(super) scratch: Vec<u8>,
    /// What a session made of them; empty between two connections.
    pub(super) plain: Vec<u8>,
    /// A piece of a chunked body that streams; empty between two connections.
    pub(super) decoded: Vec<u8>,
    /// Answers that were not sent yet; empty between two connections.
    pub(super) answers: Vec<u8>,
    /// How many requests were queued since workers were woken.
    pub(super) queued: usize,
}

impl Core {
    pub(in crate::connector::native) fn new(
        mailbox: Arc<Mailbox>,
        settings: Arc<Settings>,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
        files: Arc<Files>,
    ) -> Self {
        Self {
            mailbox,
            request_ids: Arc::new(settings.request_ids.for_another_thread()),
            settings,
            service,
            metrics,
            files,
            now: Instant::now(),
            events_since: Instant::now(),
            again: Vec::new(),
            scratch: vec![0; READ_BYTES],
            plain: Vec::new(),
            decoded: Vec::new(),
            answers: Vec::new(),
            queued: 0,
        }
    }

    /// One more request waits for a worker.
    pub(super) fn note_queued(&mut self) {
        self.queued += 1;
        if self.queued >= QUEUED_MAX {
            self.wake_workers();
        }
    }

    /// Those that were queued are all that come for the moment.
    pub(in crate::connector::native) fn wake_workers(&mut self) {
        if self.queued > 0 {
            self.queued = 0;
            self.service.wake();
        }
    }

    /// Goes on with other settings and another service; returns the service before.
    pub(in crate::connector::native) fn reload(
        &mut self,
        settings: Arc<Settings>,
        service: Arc<dyn Service>,
    ) -> Arc<dyn Service> {
        self.request_ids = Arc::new(settings.request_ids.for_another_thread());
        self.settings = settings;
        std::mem::replace(&mut self.service, service)
    }

    /// A request is refused of which no endpoint is known.
    pub(super) fn refuse(&self, reason: Reason, status: StatusCode) {
        self.metrics.received();
        self.metrics.refused(reason);
        self.metrics.unmatched().responded(status.as_u16());
    }

    /// When the service is to be asked again, having been asked now.
    pub(in crate::connector::native) fn tick(&self) -> Option<Instant> {
        self.service.tick(self.now)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.mailbox.is_draining()
    }

    pub(super) fn idle_allowance(&self) -> Duration {
        if self.is_draining() { DRAIN_IDLE } else { self.settings.idle_timeout }
    }
}
