//! The stations of one request: the router finds its endpoint, and a job carries it to a worker and its answer back.

pub mod job;
pub mod router;
