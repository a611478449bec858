//! What every other module may use: time, values, the queue, and what the system offers. Knows nothing of HTTP, of databases or of
//! the configuration.

pub(crate) mod chart;
pub mod deadline;
pub mod presence;
pub mod queue;
pub mod request_id;
pub(crate) mod system;
pub mod value;
