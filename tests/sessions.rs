//! A request finds its database session clean. Roles, settings, temporary tables, locks and all other state of the request
//! before it are gone, whichever statement or function left them.
//!
//! Each server has one worker and one session, so the next request has the session of the one before.

mod support;

#[path = "sessions/broken_off.rs"]
mod broken_off;
#[path = "sessions/checked.rs"]
mod checked;
#[path = "sessions/hidden.rs"]
mod hidden;
#[path = "sessions/kept.rs"]
mod kept;
#[path = "sessions/kinds.rs"]
mod kinds;
#[path = "sessions/read_only.rs"]
mod read_only;
#[path = "sessions/round_trips.rs"]
mod round_trips;
#[path = "sessions/served.rs"]
mod served;
#[path = "sessions/settings.rs"]
mod settings;
#[path = "sessions/shared.rs"]
mod shared;
#[path = "sessions/sqlite.rs"]
mod sqlite;
