//! What the benchmarks of the whole server have in common: clients' sockets, what Linux counts, numbers as text.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod client;
pub(crate) mod machine;
pub(crate) mod numbers;
