//! A handler that waits for the test.

use crossbeam_channel::{Receiver, Sender, unbounded};
use wharf::handler::{Context, Error, Handler};
use wharf::http::{Request, Response};

use super::PATIENCE;

/// A handler that tells the test when it has begun, and answers when the test lets it.
#[derive(Clone)]
pub(crate) struct Gate {
    begun: Sender<()>,
    open: Receiver<()>,
}

/// The test's side of a gate.
pub(crate) struct Keeper {
    begun: Receiver<()>,
    open: Sender<()>,
}

pub(crate) fn gate() -> (Gate, Keeper) {
    let ((begun, has_begun), (open, opened)) = (unbounded(), unbounded());
    (Gate { begun, open: opened }, Keeper { begun: has_begun, open })
}

impl Keeper {
    /// Waits until a request is in the handler.
    pub(crate) fn wait_for_one(&self) {
        self.begun.recv_timeout(PATIENCE).expect("a request reaches the handler");
    }

    /// Whether a request has come into the handler. Each request counts once.
    pub(crate) fn has_one(&self) -> bool {
        self.begun.try_recv().is_ok()
    }

    /// Lets `count` requests through.
    pub(crate) fn let_through(&self, count: usize) {
        (0..count).for_each(|_| self.open.send(()).expect("the handler exists"));
    }
}

impl Gate {
    /// Tells the keeper that the handler has begun, without waiting to be let through.
    pub(crate) fn begin(&self) {
        self.begun.send(()).expect("the keeper waits");
    }

    /// Waits to be let through. May run on any thread.
    pub(crate) fn pass(&self) -> Result<Response, Error> {
        self.begun.send(()).map_err(Error::internal)?;
        self.open.recv_timeout(PATIENCE).map_err(Error::internal)?;
        Ok(Response::text("through"))
    }
}

impl Handler for Gate {
    fn handle(&self, _: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
        self.pass()
    }
}
