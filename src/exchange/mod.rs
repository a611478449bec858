//! The stations of one request: the router finds its endpoint, and a job carries it to a worker and its answer back.

pub(crate) mod job;
pub(crate) mod router;
