//! A database that fails in every way that it can: what clients get meanwhile, and what is as before when it is over.
//!
//! The real binary on a real database that the test breaks. In each: every request has its answer by its deadline, none is
//! another's; no worker, connection or transaction is lost; service is back within a second of the database.

mod bounds;
mod exhausted;
mod forwarder;
mod load;
mod mixed;
mod mysql;
mod network;
mod read_only;
mod served;
mod silent;
mod sqlite;
mod stopped;
mod terminated;
