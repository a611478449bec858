//! The parts that every other module may use: time, values, the queue and the scheduling of threads. They know nothing
//! of HTTP, databases or the configuration.

pub(crate) mod certificate;
pub(crate) mod chart;
pub mod deadline;
pub(crate) mod guard;
pub mod presence;
pub mod queue;
pub mod request_id;
pub(crate) mod system;
pub(crate) mod unverified;
pub mod value;
