//! A request finds its database session clean. Roles, settings, temporary tables, locks and all other state of the request
//! before it are gone, whichever statement or function left them.
//!
//! Each server has one worker and one session, so the next request has the session of the one before.

#[path = "../support/mod.rs"]
mod support;

mod broken_off;
mod checked;
mod hidden;
mod kept;
mod kinds;
mod pool;
mod poolers;
mod read_only;
mod round_trips;
mod served;
mod settings;
mod shared;
mod sqlite;
mod unsent;
mod writes;
