//! HTTPS end to end on the native connector: what plain HTTP promises holds behind TLS, and what only TLS can go wrong with.
//!
//! Most tests run a server in their own process and a client of rustls; curl and the real binary have files of their own.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod attacks;
mod certificates;
mod closing;
mod curl;
mod handshakes;
#[path = "../clients/known.rs"]
mod known;
mod limits;
mod listeners;
mod program;
#[allow(dead_code, reason = "it runs scripts too")]
#[path = "../clients/program.rs"]
mod program_of_system;
mod requests;
mod served;
mod session;
mod stress;
