//! MySQL and MariaDB.
//!
//! The worker that borrowed a session speaks the protocol here, over a socket that every wait bounds. The files below stand in an
//! order: none uses a file further up.
//!
//! 1. [`driver`] opens sessions. [`session`] is one session, with its statements and transactions.
//! 2. [`statements`] keeps prepared statements, each with its columns ([`values`]) and its [`effects`] on the session. [`bind`] sends
//!    the parameters.
//! 3. [`wire`] sends commands and reads answers within a limit.
//! 4. [`connect`] reaches a server, and [`login`] introduces the client, by the plugins in [`auth`].
//! 5. [`frames`] carries packets, over the bytes of [`channel`]. [`url`] names the server, and [`tls`] its security.
//! 6. [`packet`], [`refusal`] and [`row`] are pure.

mod auth;
mod bind;
mod channel;
mod connect;
mod driver;
mod effects;
mod frames;
mod login;
mod packet;
mod refusal;
mod row;
mod session;
mod statements;
mod tls;
mod url;
mod values;
mod wire;

pub(super) use self::driver::PROVIDER;
pub use self::row::Row;
pub use self::session::Session;
