//! Sizes with evidence: what to measure next, what the measurements say, and the configuration that follows from them.
//!
//! Main thread. Everything here is arithmetic on numbers and text: no clock, no socket, no file, and no randomness but from a
//! seed, so that every decision can be tested by simulation and repeated from its measurements. Who runs the server and the
//! load hands over [`Measurement`]s and asks [`Planner::next`] what to do.

mod candidates;
mod compare;
mod edit;
pub mod formulas;
mod knee;
mod least_squares;
mod measurement;
mod plan;
mod rounds;
pub mod statistics;
mod usl;

#[cfg(test)]
mod simulation;

pub use candidates::Limits;
pub use compare::{Better, Comparison, Verdict, compare};
pub use edit::{Change, EditError, Edited, Value, edit};
pub use knee::{CannotTell, Knee, Outcome, decide};
pub use measurement::{Measurement, Measurements, Size};
pub use plan::{Next, Planner, Stop, next_sizes};
pub use usl::{Fit, Law, Misfit, Model, Point, fit};
