//! The outcome of a request by the status of its answer. The dashboard, `wharf top`, `/stats` and `wharf load` agree on what a good answer is.
//!
//! Any thread. Values only.

use std::ops::{Index, IndexMut};

/// The status for requests whose client left before the answer, as in nginx's log.
pub const CLIENT_LEFT: u16 = 499;

/// How a request ended, by the status of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The status is below 400.
    Good,
    /// The client asked for something wrong: a status from 400 to 499 except 429 and 499.
    ClientError,
    /// The server failed: a status from 500 except 503. Statuses too many to tell apart count as errors too.
    Error,
    /// The server did not do the work: 503, or 429.
    Refused,
    /// The client left before its answer: 499.
    Left,
}

const OUTCOMES: usize = 5;

impl Outcome {
    /// The outcome of a request that was answered with this status.
    pub fn of(status: u16) -> Self {
        match status {
            503 | 429 => Self::Refused,
            CLIENT_LEFT => Self::Left,
            100..400 => Self::Good,
            400..500 => Self::ClientError,
            _ => Self::Error,
        }
    }

    /// Whether the request's time tells how long the endpoint's work takes. A refusal is quick because no work is done, and the time of
    /// a client that leaves is the client's patience.
    pub fn is_served(self) -> bool {
        !matches!(self, Self::Refused | Self::Left)
    }
}

/// The number of requests with each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes([u64; OUTCOMES]);

impl Outcomes {
    /// The outcomes of answers, counted by status.
    pub fn of(statuses: impl IntoIterator<Item = (u16, u64)>) -> Self {
        let mut outcomes = Self::default();
        statuses.into_iter().for_each(|(status, count)| outcomes[Outcome::of(status)] += count);
        outcomes
    }

    /// Adds the others.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, count)| *sum += count);
    }

    /// Those since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        since.0.iter_mut().zip(earlier.0).for_each(|(count, before)| *count = count.saturating_sub(before));
        since
    }
}

impl Index<Outcome> for Outcomes {
    type Output = u64;

    fn index(&self, outcome: Outcome) -> &u64 {
        &self.0[outcome as usize]
    }
}

impl IndexMut<Outcome> for Outcomes {
    fn index_mut(&mut self, outcome: Outcome) -> &mut u64 {
        &mut self.0[outcome as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_one_outcome() {
        for (status, outcome) in [
            (200, Outcome::Good),
            (304, Outcome::Good),
            (400, Outcome::ClientError),
            (404, Outcome::ClientError),
            (429, Outcome::Refused),
            (499, Outcome::Left),
            (500, Outcome::Error),
            (503, Outcome::Refused),
            (504, Outcome::Error),
            (0, Outcome::Error),
        ] {
            assert_eq!(Outcome::of(status), outcome, "{status}");
        }
        let outcomes = Outcomes::of([(200, 5), (404, 2), (503, 1)]);
        assert_eq!((outcomes[Outcome::Good], outcomes[Outcome::ClientError]), (5, 2));
        assert_eq!(outcomes.since(&Outcomes::of([(200, 3)]))[Outcome::Good], 2);
    }
}
