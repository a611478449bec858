//! The state that all connections of one poller share. Poller thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::handshakes::Handshakes;
use crate::base::request_id::RequestIds;
use crate::connector::Settings;
use crate::connector::native::files::Files;
use crate::connector::native::{Id, Mailbox};
use crate::exchange::job::Service;
use crate::telemetry::metrics::{Metrics, Reason};

/// The most bytes that one read takes, so that one client cannot hold up the others for long.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// While draining: a client that had an answer less than this ago may have its next request on the way, and gets it
/// answered. A connection that was idle for longer is closed at once.
pub(super) const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// The poller wakes workers when it has read everything, so that requests that came together can be answered together.
/// After this many requests it wakes them in any case: reading them takes about 50 µs.
const QUEUED_MAX: usize = 16;

/// The state that all connections of one poller use.
pub(in crate::connector::native) struct Core {
    pub(in crate::connector::native) mailbox: Arc<Mailbox>,
    pub(in crate::connector::native) settings: Arc<Settings>,
    pub(super) service: Arc<dyn Service>,
    /// The settings' identities, for this thread.
    pub(super) request_ids: Arc<RequestIds>,
    pub(in crate::connector::native) metrics: Arc<Metrics>,
    pub(super) files: Arc<Files>,
    /// When the poller last woke up.
    pub(in crate::connector::native) now: Instant,
    /// No event of the current poll came before this time. The poll before would have seen it.
    pub(in crate::connector::native) events_since: Instant,
    /// Connections that have more to read. They continue once the others have had their turn.
    pub(in crate::connector::native) again: Vec<Id>,
    /// The buffer that reads fill.
    pub(super) scratch: Vec<u8>,
    /// The bytes that a TLS session made of them; empty between two connections.
    pub(super) plain: Vec<u8>,
    /// A piece of a chunked body that streams; empty between two connections.
    pub(super) decoded: Vec<u8>,
    /// Answers that are not sent yet; empty between two connections.
    pub(super) answers: Vec<u8>,
    /// The handshakes in progress, for the case that there are too many.
    pub(in crate::connector::native) handshakes: Handshakes,
    /// How many requests were queued since workers were last woken.
    queued: usize,
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
            handshakes: Handshakes::default(),
            queued: 0,
        }
    }

    /// Empties the buffers after a panic on a connection's behalf. Otherwise its bytes would go to the next connection.
    pub(in crate::connector::native) fn empty_buffers(&mut self) {
        // A panic during a read loses this buffer.
        self.scratch.resize(READ_BYTES, 0);
        self.plain.clear();
        self.decoded.clear();
        self.answers.clear();
    }

    /// Notes that one more request waits for a worker.
    pub(super) fn note_queued(&mut self) {
        self.queued += 1;
        if self.queued >= QUEUED_MAX {
            self.wake_workers();
        }
    }

    /// Wakes workers for the queued requests, because no more come at the moment.
    pub(in crate::connector::native) fn wake_workers(&mut self) {
        if self.queued > 0 {
            self.queued = 0;
            self.service.wake();
        }
    }

    /// Uses other settings and another service from now on. Returns the previous service.
    pub(in crate::connector::native) fn reload(
        &mut self,
        settings: Arc<Settings>,
        service: Arc<dyn Service>,
    ) -> Arc<dyn Service> {
        self.request_ids = Arc::new(settings.request_ids.for_another_thread());
        self.settings = settings;
        std::mem::replace(&mut self.service, service)
    }

    /// Counts the refusal of a request whose endpoint is not known.
    pub(super) fn refuse(&self, reason: Reason, status: StatusCode) {
        self.metrics.received();
        self.metrics.refused(reason);
        self.metrics.unmatched().responded(status.as_u16());
    }

    /// Lets the service do its periodic work. Returns when to do so again.
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
