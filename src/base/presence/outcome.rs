//! Whether a request may have changed the database, as far as the server knows before it answers.
//!
//! A worker sends commits, and a poller may answer in its place at the deadline. Both change one atomic word. So either
//! the poller sees that a commit was sent, or the worker sees that its request was answered and sends no commit. Any
//! thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far the current request has come with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Stage {
    /// The worker has sent no commit, or the database has refused every commit as a whole.
    Nothing = 0,
    /// A commit was sent, and the worker does not know the database's answer.
    Open = 1,
    /// The database has committed something, or may have done so without answering. A later refusal does not undo that.
    Committed = 2,
    /// The poller has answered in the worker's place that nothing was done. The worker must not commit any more.
    Answered = 3,
    /// The poller has answered in the worker's place that the outcome is unknown. The worker must not commit any more.
    AnsweredUnknown = 4,
}

const STAGE: u64 = 0b111;
/// The request's number stands in the bits above the stage. A handler's own thread may still have a session when the
/// next request begins, and its commits must not count for that request.
const REQUEST: u32 = 3;

/// One connection's word: the number and the [`Stage`] of its current request.
#[derive(Debug, Default)]
pub(super) struct Outcome(AtomicU64);

impl Outcome {
    /// The connector begins a request while it owns the connection. Returns the request's number.
    pub(super) fn begin_request(&self) -> u64 {
        let request = (self.0.load(Ordering::Acquire) >> REQUEST) + 1;
        self.0.store(word(request, Stage::Nothing), Ordering::Release);
        request
    }

    /// The worker calls this right before it sends a commit. `false`: the poller has answered already, so the worker
    /// must not send it.
    pub(super) fn begin_commit(&self, request: u64) -> bool {
        let begun = self.change(request, |stage| match stage {
            Stage::Nothing => Some(Stage::Open),
            // The outcome of the commit before this one may stay open for good.
            Stage::Open | Stage::Committed => Some(Stage::Committed),
            Stage::Answered | Stage::AnsweredUnknown => None,
        });
        begun.is_none_or(|stage| !stage.is_answered())
    }

    /// The worker calls this when the database has answered the commit that [`begin_commit`](Self::begin_commit)
    /// announced. `committed`: the database did not refuse it.
    pub(super) fn end_commit(&self, request: u64, committed: bool) {
        self.change(request, |stage| {
            (stage == Stage::Open).then_some(if committed { Stage::Committed } else { Stage::Nothing })
        });
    }

    /// The connector calls this after it has taken the request back from its worker. The worker commits nothing from
    /// then on. Returns whether the worker may have committed something before.
    pub(super) fn answer_instead(&self) -> bool {
        let answered = |stage: Stage| {
            if stage.may_have_committed() { Stage::AnsweredUnknown } else { Stage::Answered }
        };
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            Some(before & !STAGE | answered(stage(before)) as u64)
        });
        before.is_ok_and(|before| stage(before).may_have_committed())
    }

    /// Whether the worker has sent a commit of this request that the database did not refuse.
    pub(super) fn may_have_committed(&self, request: u64) -> bool {
        self.stage_of(request).is_some_and(Stage::may_have_committed)
    }

    /// Whether the poller has answered in the worker's place that this request's outcome is unknown.
    pub(super) fn was_answered_unknown(&self, request: u64) -> bool {
        self.stage_of(request) == Some(Stage::AnsweredUnknown)
    }

    /// `None` if the request is not the current one.
    fn stage_of(&self, request: u64) -> Option<Stage> {
        let word = self.0.load(Ordering::Acquire);
        (word >> REQUEST == request).then(|| stage(word))
    }

    /// Changes the stage if the request is still the current one. Returns the stage before, or `None` if the request is
    /// over.
    fn change(&self, request: u64, to: impl Fn(Stage) -> Option<Stage>) -> Option<Stage> {
        let changed = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            let of_request = before >> REQUEST == request;
            to(stage(before)).filter(|_| of_request).map(|after| word(request, after))
        });
        let (Ok(before) | Err(before)) = changed;
        (before >> REQUEST == request).then(|| stage(before))
    }
}

impl Stage {
    fn may_have_committed(self) -> bool {
        matches!(self, Self::Open | Self::Committed)
    }

    fn is_answered(self) -> bool {
        matches!(self, Self::Answered | Self::AnsweredUnknown)
    }
}

fn word(request: u64, stage: Stage) -> u64 {
    request << REQUEST | stage as u64
}

fn stage(word: u64) -> Stage {
    match word & STAGE {
        0 => Stage::Nothing,
        1 => Stage::Open,
        2 => Stage::Committed,
        3 => Stage::Answered,
        _ => Stage::AnsweredUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_commit_changes_nothing() {
        let outcome = Outcome::default();
        let request = outcome.begin_request();
        assert!(outcome.begin_commit(request) && outcome.may_have_committed(request));
        outcome.end_commit(request, false);
        assert!(!outcome.may_have_committed(request) && !outcome.answer_instead());
    }

    #[test]
    fn a_later_refusal_does_not_undo_a_commit() {
        for known in [true, false] {
            let outcome = Outcome::default();
            let request = outcome.begin_request();
            assert!(outcome.begin_commit(request));
            if known {
                outcome.end_commit(request, true);
            }
            assert!(outcome.begin_commit(request));
            outcome.end_commit(request, false);
            assert!(outcome.may_have_committed(request), "{known}");
            assert!(outcome.answer_instead());
            assert!(outcome.was_answered_unknown(request));
        }
    }

    #[test]
    fn nothing_commits_after_the_poller_has_answered() {
        let outcome = Outcome::default();
        let request = outcome.begin_request();
        assert!(!outcome.answer_instead());
        assert!(!outcome.begin_commit(request));
        outcome.end_commit(request, true);
        assert!(!outcome.may_have_committed(request) && !outcome.was_answered_unknown(request));
    }

    #[test]
    fn a_commit_of_an_earlier_request_does_not_count_for_the_next() {
        let outcome = Outcome::default();
        let earlier = outcome.begin_request();
        assert!(outcome.begin_commit(earlier));
        let next = outcome.begin_request();
        assert!(outcome.begin_commit(earlier), "nobody else was told anything of it");
        assert!(!outcome.may_have_committed(next) && !outcome.may_have_committed(earlier));
        assert!(outcome.begin_commit(next));
        outcome.end_commit(earlier, false);
        assert!(outcome.may_have_committed(next));
    }
}
