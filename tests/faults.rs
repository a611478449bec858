//! A database that fails in every way that it can: what clients get meanwhile, and what is as before when it is over.
//!
//! The real binary on a real database that the test breaks. In each: every request has its answer by its deadline, none is
//! another's; no worker, connection or transaction is lost; service is back within a second of the database.

mod support;

#[path = "faults/bounds.rs"]
mod bounds;
#[path = "faults/exhausted.rs"]
mod exhausted;
#[path = "faults/forwarder.rs"]
mod forwarder;
#[path = "faults/load.rs"]
mod load;
#[path = "faults/mixed.rs"]
mod mixed;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/read_only.rs"]
mod read_only;
#[path = "faults/served.rs"]
mod served;
#[path = "faults/silent.rs"]
mod silent;
#[path = "faults/sqlite.rs"]
mod sqlite;
#[path = "faults/stopped.rs"]
mod stopped;
#[path = "faults/terminated.rs"]
mod terminated;
