//! The tools that size a server: `load` sends requests, `tune` finds the sizes, and `traffic` draws the requests of
//! each endpoint.

pub mod load;
mod traffic;
pub mod tune;

pub use traffic::{Selection, Traffic, TrafficError, traffic};
