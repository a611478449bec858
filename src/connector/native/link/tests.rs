//! A walk through every order in which worker, database and poller can take their steps, from a request's claim to its answer.
//! Each way must end with one answer, and that answer must be true. The walk uses the real owners and the real outcome. The steps
//! repeat what `link.rs`, `connection/mod.rs`, `workers.rs` and the databases do.

use super::{Owner, Word};
use crate::base::presence::Presence;

/// The ticket of the request that is walked through; the next one on the connection has the one after it.
const TICKET: u64 = 1;

/// The rules that worker and poller keep. A test takes each of them away, to see that the walk notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The worker announces a commit before it sends it, and not afterwards.
    AnnounceTheCommit,
    /// The worker sends nothing when the poller has answered.
    HeedTheAnswer,
    /// The worker leaves a commit open that got no answer.
    LeaveOpen,
    /// The worker asks whether it may have committed something before it answers that nothing was done.
    CheckBeforeAnswering,
    /// The poller announces its answer, and does not only look at the outcome.
    AnnounceTheAnswer,
    /// The poller takes the request back before it announces its answer.
    TakeBackFirst,
    /// A request begins when the connector gives it away, and not when a worker claims it.
    BeginWhenGiven,
}

const ALL_RULES: [Rule; 7] = [
    Rule::AnnounceTheCommit,
    Rule::HeedTheAnswer,
    Rule::LeaveOpen,
    Rule::CheckBeforeAnswering,
    Rule::AnnounceTheAnswer,
    Rule::TakeBackFirst,
    Rule::BeginWhenGiven,
];

/// An answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAnswer {
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
    End(Reply),
    Decide(ClientAnswer),
    Deliver(ClientAnswer),
    Gone,
}

/// The end of a statement, as the worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Committed,
    Refused,
    Lost,
}

/// Where the poller stands. The request's deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poller {
    Look,
    TakeBack(Owner),
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
    reply: Option<Reply>,
    sent: usize,
    committed: usize,
    client_answers: Vec<ClientAnswer>,
    /// The answer of a poller that announces it before it takes the request back.
    poller_answer: Option<ClientAnswer>,
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
                let is_claimed = self.word.advance(TICKET, Owner::Queued, Owner::Running);
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
                    self.keeps(Rule::AnnounceTheCommit),
                ) {
                    (false, _) => Worker::Decide(ClientAnswer::NotDone),
                    (true, true) => Worker::Send,
                    (true, false) => Worker::Receive,
                }
            }
            Worker::Send => {
                (self.in_flight, self.reply) = (true, None);
                self.sent += 1;
                if self.keeps(Rule::AnnounceTheCommit) { Worker::Receive } else { Worker::Begin }
            }
            // Where there is no reply yet, the session is lost.
            Worker::Receive => Worker::End(self.reply.unwrap_or(Reply::Lost)),
            Worker::End(reply) => {
                let is_known = reply != Reply::Lost || !self.keeps(Rule::LeaveOpen);
                if is_known {
                    self.request.end_commit(reply == Reply::Committed);
                }
                self.statements -= 1;
                match reply {
                    Reply::Committed if self.statements > 0 => self.next_statement(),
                    Reply::Committed => Worker::Decide(ClientAnswer::Done),
                    // The worker's error says "not done"; the outcome says whether that is known.
                    Reply::Refused | Reply::Lost => Worker::Decide(ClientAnswer::NotDone),
                }
            }
            Worker::Decide(ClientAnswer::NotDone)
                if self.keeps(Rule::CheckBeforeAnswering) && self.request.may_have_committed() =>
            {
                Worker::Deliver(ClientAnswer::Unknown)
            }
            Worker::Decide(answer) => Worker::Deliver(answer),
            Worker::Deliver(answer) => {
                if self.word.advance(TICKET, Owner::Running, Owner::Writing) {
                    self.client_answers.push(answer);
                    self.word.hand_back();
                }
                Worker::Gone
            }
            Worker::Gone => Worker::Gone,
        };
    }

    fn next_statement(&self) -> Worker {
        if self.keeps(Rule::AnnounceTheCommit) { Worker::Begin } else { Worker::Send }
    }

    /// The database runs the statement, perhaps when no worker waits for it any more.
    fn commit(&mut self) {
        self.in_flight = false;
        let commits = self.choices.choose(2) == 0;
        self.committed += usize::from(commits);
        let answers = self.choices.choose(2) == 0;
        self.reply = Some(match (answers, commits) {
            (true, true) => Reply::Committed,
            (true, false) => Reply::Refused,
            (false, _) => Reply::Lost,
        });
    }

    fn step_poller(&mut self) {
        self.poller = match self.poller {
            Poller::Look => match self.word.owner() {
                owner @ Owner::Queued => Poller::TakeBack(owner),
                owner @ Owner::Running if self.keeps(Rule::TakeBackFirst) => Poller::TakeBack(owner),
                owner @ Owner::Running => {
                    self.poller_answer = Some(self.answer_instead());
                    Poller::TakeBack(owner)
                }
                Owner::Poller => Poller::Next,
                // The poller looks again, with the same result until the worker is done.
                Owner::Writing | Owner::Streaming => Poller::Look,
            },
            Poller::TakeBack(from) if !self.word.take_back(from) => Poller::Look,
            Poller::TakeBack(Owner::Queued) => {
                self.client_answers.push(ClientAnswer::NotDone);
                Poller::Next
            }
            Poller::TakeBack(_) => Poller::Answer,
            Poller::Answer => {
                let answer = self.poller_answer.take().unwrap_or_else(|| self.answer_instead());
                self.client_answers.push(answer);
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

    fn answer_instead(&self) -> ClientAnswer {
        let may_have_committed = if self.keeps(Rule::AnnounceTheAnswer) {
            self.client.answer_instead()
        } else {
            self.request.may_have_committed()
        };
        if may_have_committed { ClientAnswer::Unknown } else { ClientAnswer::NotDone }
    }

    fn is_true(&self) -> Result<(), String> {
        let [answer] = *self.client_answers else {
            return Err(format!("{} answers", self.client_answers.len()));
        };
        let holds = match answer {
            ClientAnswer::Done => self.statements == 0 && self.committed == self.sent,
            ClientAnswer::NotDone => self.committed == 0,
            ClientAnswer::Unknown => self.sent > 0,
        };
        if !holds {
            return Err(format!("answered {answer:?} with {} of {} committed", self.committed, self.sent));
        }
        if let Some(next) = &self.next {
            let is_clean = self.word.advance(TICKET + 1, Owner::Queued, Owner::Running)
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
            reply: None,
            sent: 0,
            committed: 0,
            client_answers: Vec::new(),
            poller_answer: None,
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
fn the_client_gets_a_true_answer_in_every_order_of_poller_and_worker() {
    for (statements, at_least) in [(1, 500), (2, 10_000)] {
        let ways = walk(None, statements).unwrap_or_else(|lie| panic!("{statements} statements: {lie}"));
        assert!(ways > at_least, "{statements} statements have {ways} ways only");
    }
}

#[test]
fn each_rule_is_needed() {
    for rule in ALL_RULES {
        let walked = walk(Some(rule), 2);
        assert!(walked.is_err(), "without {rule:?}, nothing is wrong in {walked:?} ways");
    }
}
