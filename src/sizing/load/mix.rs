//! Chooses the next request: targets by their weights, and each target's requests in order.
//!
//! Generator thread. All threads of a run take their choices from one sequence. So together they meet the weights, even
//! when the threads are of different speed. They also send each request of a list once before they repeat one.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::target::{Request, Target};

/// The next request.
#[derive(Clone, Copy)]
pub(super) struct Choice<'p> {
    /// The target's index.
    pub(super) target: usize,
    pub(super) request: &'p Request,
}

/// An endless sequence of choices.
pub(super) struct Mix<'p> {
    sequence: Sequence<'p>,
    /// The number of choices that all threads have taken.
    taken: &'p AtomicUsize,
    /// The number of choices that this thread's copy of the sequence has passed.
    passed: usize,
}

/// Smooth weighted round-robin, as in nginx. With weights 5 and 1 every sixth request goes to the second target.
/// Targets of equal weight alternate.
struct Sequence<'p> {
    turns: Vec<TargetTurn<'p>>,
}

struct TargetTurn<'p> {
    requests: std::iter::Cycle<std::slice::Iter<'p, Request>>,
    weight: i64,
    /// Grows by the weight with each choice, and shrinks by all weights when chosen.
    claim: i64,
}

impl<'p> Mix<'p> {
    /// `taken` is shared by the threads and starts at 0.
    pub(super) fn new(targets: &'p [Target], taken: &'p AtomicUsize) -> Self {
        let turn = |target: &'p Target| TargetTurn {
            requests: target.requests.iter().cycle(),
            weight: target.weight.into(),
            claim: 0,
        };
        Self { sequence: Sequence { turns: targets.iter().map(turn).collect() }, taken, passed: 0 }
    }

    /// The next choice; `None` only when there is nothing to choose from.
    pub(super) fn choose(&mut self) -> Option<Choice<'p>> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let choice = self.sequence.nth(number - self.passed);
        self.passed = number + 1;
        choice
    }
}

impl<'p> Iterator for Sequence<'p> {
    type Item = Choice<'p>;

    fn next(&mut self) -> Option<Choice<'p>> {
        let all: i64 = self.turns.iter().map(|turn| turn.weight).sum();
        for turn in &mut self.turns {
            turn.claim += turn.weight;
        }
        // Of equal claims the first wins, so targets of equal weight follow the order in which they were named.
        let (target, turn) = self.turns.iter_mut().enumerate().rev().max_by_key(|(_, turn)| turn.claim)?;
        turn.claim -= all;
        Some(Choice { target, request: turn.requests.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::load::Template;

    fn choices(weights: &[u32], count: usize) -> Vec<usize> {
        let target = |weight| {
            let mut target = Target::from_url("http://127.0.0.1/", &Template::default()).expect("a URL");
            target.weight = weight;
            target
        };
        let targets: Vec<Target> = weights.iter().copied().map(target).collect();
        let taken = AtomicUsize::new(0);
        let mut mix = Mix::new(&targets, &taken);
        (0..count).filter_map(|_| mix.choose()).map(|choice| choice.target).collect()
    }

    #[test]
    fn targets_of_equal_weight_alternate() {
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

    #[test]
    fn threads_of_any_speed_together_choose_the_sequence_of_one_thread() {
        let mut target = Target::from_url("http://127.0.0.1/", &Template::default()).expect("a URL");
        target.requests = vec![target.requests[0].clone(); 5];
        target.weight = 2;
        let other = Target { weight: 1, ..target.clone() };
        let targets = [target, other];
        let alone = AtomicUsize::new(0);
        let mut one = Mix::new(&targets, &alone);
        let shared = AtomicUsize::new(0);
        let mut three = [(); 3].map(|()| Mix::new(&targets, &shared));
        for turn in [0, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 2, 1, 2, 2, 1, 0, 1, 2, 1] {
            let [expected, choice] = [&mut one, &mut three[turn]].map(|mix| mix.choose().expect("endless"));
            assert_eq!(choice.target, expected.target);
            assert!(std::ptr::eq(choice.request, expected.request));
        }
    }
}
