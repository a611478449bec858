//! Code that the benchmarks of the whole server share: clients' sockets, a server process, Linux's counters, numbers as text and
//! as curves.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod client;
pub(crate) mod machine;
pub(crate) mod numbers;
pub(crate) mod plot;
pub(crate) mod process;
pub(crate) mod report;
