//! A walk through every order in which worker, database and poller can take their steps, from a request's claim to its answer.
//! Each way must end with one answer, and that answer must be true. The walk uses the real turns and the real outcome. The steps
//! repeat what `link.rs`, `connection/mod.rs`, `workers.rs` and the databases do.

use super::{Turn, Word};
use crate::base::presence::Presence;

/// The ticket of the request that is walked through; the next one on the connection has the one after it.
const TICKET: u64 = 1;

/// The rules that worker and poller keep. A test takes each of them away, to see that the walk notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The worker announces a commit before it sends it, and not afterwards.
    SayBeforeSending,
    /// The worker sends nothing when the poller has answered.
    HeedTheAnswer,
    /// The worker leaves a commit open that got no answer.
    LeaveOpen,
    /// The worker asks whether it may have committed something before it answers that nothing was done.
    AskBeforeTelling,
    /// The poller announces its answer, and does not only look at the outcome.
    SayThatItAnswers,
    /// The poller takes the request back before it announces its answer.
    TakeBackFirst,
    /// A request begins when the connector gives it away, and not when a worker claims it.
    BeginWhenGiven,
}

const ALL_RULES: [Rule; 7] = [
    Rule::SayBeforeSending,
    Rule::HeedTheAnswer,
    Rule::LeaveOpen,
    Rule::AskBeforeTelling,
    Rule::SayThatItAnswers,
    Rule::TakeBackFirst,
    Rule::BeginWhenGiven,
];

/// An answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    /// A plain 504 or 503.
    NotDone,
    Unknown,
}

/// The choices that make one way through the walk, and the order of all ways.
#[derive(Default)]
struct Choices {
    /// Each choice so far: the number of the alternative, and how many alternatives there were.
    made: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    fn choose(&mut self, of: usize) -> usize {
        if self.next == self.made.len() {
            self.made.push((0, of));
        }
        let (chosen, _) = self.made[self.next];
        self.next += 1;
        chosen
    }

    /// Goes on to the next way. `false`: that was the last one.
    fn go_on(&mut self) -> bool {
        self.next = 0;
        while let Some((chosen, of)) = self.made.pop() {
            if chosen + 1 < of {
                self.made.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

/// Where the worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    Claim,
    /// The request begins here where the worker's claim begins it.
    BeginRequest,
    Begin,
    Send,
    Receive,
    End(Answer),
    Decide(Told),
    Deliver(Told),
    Gone,
}

/// The end of a statement, as the worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Committed,
    Refused,
    Lost,
}

/// Where the poller stands. The request's deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poller {
    Look,
    TakeBack(Turn),
    Answer,
    /// It has read the next request.
    Next,
    Gone,
}

/// One way through the walk.
struct Walk<'a> {
    /// The rule that is left out.
    without: Option<Rule>,
    choices: &'a mut Choices,
    word: Word,
    client: Presence,
    request: Presence,
    worker: Worker,
    poller: Poller,
    /// How many statements are left to run, the current one included.
    statements: usize,
    /// The worker has sent a statement, and the database has not run it yet.
    in_flight: bool,
    answer: Option<Answer>,
    sent: usize,
    committed: usize,
    told: Vec<Told>,
    /// The answer of a poller that announces it before it takes the request back.
    poller_says: Option<Told>,
    next: Option<Presence>,
}

impl Walk<'_> {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn step(&mut self) -> bool {
        let mut able: Vec<fn(&mut Self)> = Vec::new();
        if self.worker != Worker::Gone {
            able.push(Self::work);
        }
        if self.in_flight {
            able.push(Self::commit);
        }
        if self.poller != Poller::Gone {
            able.push(Self::step_poller);
        }
        if able.is_empty() {
            return false;
        }
        let chosen = self.choices.choose(able.len());
        able[chosen](self);
        true
    }

    fn work(&mut self) {
        self.worker = match self.worker {
            Worker::Claim => {
                let is_claimed = self.word.advance(TICKET, Turn::Queued, Turn::Running);
                match (is_claimed, self.keeps(Rule::BeginWhenGiven)) {
                    (true, true) => self.next_statement(),
                    (true, false) => Worker::BeginRequest,
                    (false, _) => Worker::Gone,
                }
            }
            Worker::BeginRequest => {
                self.request = self.client.begin_request(false);
                self.next_statement()
            }
            Worker::Begin => {
                match (
                    self.request.begin_commit() || !self.keeps(Rule::HeedTheAnswer),
                    self.keeps(Rule::SayBeforeSending),
                ) {
                    (false, _) => Worker::Decide(Told::NotDone),
                    (true, true) => Worker::Send,
                    (true, false) => Worker::Receive,
                }
            }
            Worker::Send => {
                (self.in_flight, self.answer) = (true, None);
                self.sent += 1;
                if self.keeps(Rule::SayBeforeSending) { Worker::Receive } else { Worker::Begin }
            }
            // Where there is no answer yet, the connection is lost.
            Worker::Receive => Worker::End(self.answer.unwrap_or(Answer::Lost)),
            Worker::End(answer) => {
                let is_known = answer != Answer::Lost || !self.keeps(Rule::LeaveOpen);
                if is_known {
                    self.request.end_commit(answer == Answer::Committed);
                }
                self.statements -= 1;
                match answer {
                    Answer::Committed if self.statements > 0 => self.next_statement(),
                    Answer::Committed => Worker::Decide(Told::Done),
                    // The worker's error says "not done"; the outcome says whether that is known.
                    Answer::Refused | Answer::Lost => Worker::Decide(Told::NotDone),
                }
            }
            Worker::Decide(Told::NotDone)
                if self.keeps(Rule::AskBeforeTelling) && self.request.may_have_committed() =>
            {
                Worker::Deliver(Told::Unknown)
            }
            Worker::Decide(told) => Worker::Deliver(told),
            Worker::Deliver(told) => {
                if self.word.advance(TICKET, Turn::Running, Turn::Writing) {
                    self.told.push(told);
                    self.word.hand_back();
                }
                Worker::Gone
            }
            Worker::Gone => Worker::Gone,
        };
    }

    fn next_statement(&self) -> Worker {
        if self.keeps(Rule::SayBeforeSending) { Worker::Begin } else { Worker::Send }
    }

    /// The database runs the statement, perhaps when no worker waits for it any more.
    fn commit(&mut self) {
        self.in_flight = false;
        let commits = self.choices.choose(2) == 0;
        self.committed += usize::from(commits);
        let answers = self.choices.choose(2) == 0;
        self.answer = Some(match (answers, commits) {
            (true, true) => Answer::Committed,
            (true, false) => Answer::Refused,
            (false, _) => Answer::Lost,
        });
    }

    fn step_poller(&mut self) {
        self.poller = match self.poller {
            Poller::Look => match self.word.turn() {
                turn @ Turn::Queued => Poller::TakeBack(turn),
                turn @ Turn::Running if self.keeps(Rule::TakeBackFirst) => Poller::TakeBack(turn),
                turn @ Turn::Running => {
                    self.poller_says = Some(self.answer_instead());
                    Poller::TakeBack(turn)
                }
                Turn::Poller => Poller::Next,
                // The poller looks again, with the same result until the worker is done.
                Turn::Writing | Turn::Streaming => Poller::Look,
            },
            Poller::TakeBack(from) if !self.word.take_back(from) => Poller::Look,
            Poller::TakeBack(Turn::Queued) => {
                self.told.push(Told::NotDone);
                Poller::Next
            }
            Poller::TakeBack(_) => Poller::Answer,
            Poller::Answer => {
                let told = self.poller_says.take().unwrap_or_else(|| self.answer_instead());
                self.told.push(told);
                // That answer closes the connection.
                Poller::Gone
            }
            Poller::Next => {
                self.next = Some(self.client.begin_request(false));
                self.word.give(TICKET + 1, false);
                Poller::Gone
            }
            Poller::Gone => Poller::Gone,
        };
    }

    fn answer_instead(&self) -> Told {
        let may_have_committed = if self.keeps(Rule::SayThatItAnswers) {
            self.client.answer_instead()
        } else {
            self.request.may_have_committed()
        };
        if may_have_committed { Told::Unknown } else { Told::NotDone }
    }

    fn is_true(&self) -> Result<(), String> {
        let [told] = *self.told else { return Err(format!("{} answers", self.told.len())) };
        let holds = match told {
            Told::Done => self.statements == 0 && self.committed == self.sent,
            Told::NotDone => self.committed == 0,
            Told::Unknown => self.sent > 0,
        };
        if !holds {
            return Err(format!("told {told:?} with {} of {} committed", self.committed, self.sent));
        }
        if let Some(next) = &self.next {
            let is_clean = self.word.advance(TICKET + 1, Turn::Queued, Turn::Running)
                && !next.may_have_committed()
                && next.begin_commit()
                && next.may_have_committed();
            return is_clean.then_some(()).ok_or_else(|| "the next request does not start clean".to_owned());
        }
        Ok(())
    }
}

/// Walks every way. Returns the number of ways, or the fault of the first way that ends wrong.
fn walk(without: Option<Rule>, statements: usize) -> Result<usize, String> {
    let (mut choices, mut ways) = (Choices::default(), 0);
    loop {
        let client = Presence::tracked();
        let request = client.begin_request(false);
        let word = Word::default();
        word.give(TICKET, false);
        let mut way = Walk {
            without,
            choices: &mut choices,
            word,
            client,
            request,
            worker: Worker::Claim,
            poller: Poller::Look,
            statements,
            in_flight: false,
            answer: None,
            sent: 0,
            committed: 0,
            told: Vec::new(),
            poller_says: None,
            next: None,
        };
        while way.step() {}
        way.is_true()?;
        ways += 1;
        if !choices.go_on() {
            return Ok(ways);
        }
    }
}

#[test]
fn the_client_is_told_the_truth_by_poller_and_worker_in_every_order() {
    for (statements, at_least) in [(1, 500), (2, 10_000)] {
        let ways = walk(None, statements).unwrap_or_else(|lie| panic!("{statements} statements: {lie}"));
        assert!(ways > at_least, "{statements} statements have {ways} ways only");
    }
}

#[test]
fn each_rule_is_needed() {
    for rule in ALL_RULES {
        let told = walk(Some(rule), 2);
        assert!(told.is_err(), "without {rule:?}, nothing is wrong in {told:?} ways");
    }
}
