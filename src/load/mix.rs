//! Whose turn it is: targets by their weights, and each target's requests in order.
//!
//! Generator thread.

use super::target::{Request, Target};

/// The request that is next.
#[derive(Clone, Copy)]
pub(super) struct Choice<'p> {
    /// The target's index.
    pub(super) target: usize,
    pub(super) request: &'p Request,
}

/// Chooses without end. Smooth weighted round-robin, as nginx has it: with weights 5 and 1 every sixth request is the
/// second target's, and with equal weights they take turns.
pub(super) struct Mix<'p> {
    turns: Vec<Turn<'p>>,
}

struct Turn<'p> {
    requests: std::iter::Cycle<std::slice::Iter<'p, Request>>,
    weight: i64,
    /// Grows by the weight with each choice, and shrinks by all weights when chosen.
    claim: i64,
}

impl<'p> Mix<'p> {
    pub(super) fn new(targets: &'p [Target]) -> Self {
        let turn = |target: &'p Target| Turn {
            requests: target.requests.iter().cycle(),
            weight: target.weight.into(),
            claim: 0,
        };
        Self { turns: targets.iter().map(turn).collect() }
    }

    /// `None` only where there is nothing to choose from.
    pub(super) fn choose(&mut self) -> Option<Choice<'p>> {
        let all: i64 = self.turns.iter().map(|turn| turn.weight).sum();
        for turn in &mut self.turns {
            turn.claim += turn.weight;
        }
        // Of equal claims the first, so that targets of equal weight come in the order in which they were named.
        let (target, turn) = self.turns.iter_mut().enumerate().rev().max_by_key(|(_, turn)| turn.claim)?;
        turn.claim -= all;
        Some(Choice { target, request: turn.requests.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Template;

    fn choices(weights: &[u32], count: usize) -> Vec<usize> {
        let target = |weight| {
            let mut target = Target::from_url("http://127.0.0.1/", &Template::default()).expect("a URL");
            target.weight = weight;
            target
        };
        let targets: Vec<Target> = weights.iter().copied().map(target).collect();
        let mut mix = Mix::new(&targets);
        (0..count).filter_map(|_| mix.choose()).map(|choice| choice.target).collect()
    }

    #[test]
    fn targets_of_equal_weight_take_turns() {
        assert_eq!(choices(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(choices(&[7], 2), [0, 0]);
    }

    #[test]
    fn weights_are_met_exactly_and_evenly() {
        let chosen = choices(&[4, 1, 1], 12);
        for round in chosen.chunks(6) {
            let count = |target| round.iter().filter(|chosen| **chosen == target).count();
            assert_eq!([count(0), count(1), count(2)], [4, 1, 1], "{chosen:?}");
        }
        assert!(chosen.windows(4).all(|four| four != [0, 0, 0, 0] || chosen[0] == 0), "{chosen:?}");
        assert!(!choices(&[3, 0], 9).contains(&1));
    }
}
