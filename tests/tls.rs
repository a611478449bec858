//! HTTPS end to end on the native connector: what plain HTTP promises holds behind TLS, and what only TLS can go wrong with.
//!
//! Most tests run a server in their own process and a client of rustls; curl and the real binary have files of their own.

mod support;

#[path = "tls/answers.rs"]
mod answers;
#[path = "tls/attacks.rs"]
mod attacks;
#[path = "tls/certificates.rs"]
mod certificates;
#[path = "tls/closing.rs"]
mod closing;
#[path = "tls/curl.rs"]
mod curl;
#[path = "tls/handshakes.rs"]
mod handshakes;
#[path = "clients/known.rs"]
mod known;
#[path = "tls/limits.rs"]
mod limits;
#[path = "tls/program.rs"]
mod program;
#[allow(dead_code, reason = "it runs scripts too")]
#[path = "clients/program.rs"]
mod program_of_system;
#[path = "tls/requests.rs"]
mod requests;
#[path = "tls/served.rs"]
mod served;
#[path = "tls/session.rs"]
mod session;
#[path = "tls/stress.rs"]
mod stress;
