//! Pipelines on a server that sends the bytes that the test prescribes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::super::Untidy;
use super::*;
use crate::base::system::Bell;
use crate::config;
use crate::database::driver::{Borrower, Session as _};
use crate::database::pool::Session as _;
use crate::database::postgres::driver::Driver;
use crate::database::postgres::effects::Leaves;
use crate::database::postgres::row::Parameter;
const PATIENCE: Duration = Duration::from_secs(30);

const INT4: i32 = 23;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("it is short").to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// A row with these fields.
fn row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = i16::try_from(fields.len()).expect("they are few").to_be_bytes().to_vec();
    for field in fields {
        let length = field.map_or(-1, |field| i32::try_from(field.len()).expect("it is short"));
        body.extend(length.to_be_bytes());
        body.extend(field.unwrap_or_default());
    }
    message(b'D', &body)
}

/// An answer without its end.
fn number(number: i32) -> Vec<u8> {
    [message(b'2', b""), row(&[Some(&number.to_be_bytes())]), message(b'C', b"SELECT 1\0")].concat()
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0C22012\0Mdivision by zero\0\0")
}

/// The server's answers to one Bind after the other. After the last it sends nothing more.
#[derive(Clone, Default)]
struct Script {
    answers: Vec<Vec<u8>>,
    /// The number of bytes in each piece.
    piece: usize,
    /// The end of an answer comes only with the next answer.
    holds_back: bool,
    /// This comes with the end of the second answer.
    extra: Vec<u8>,
    /// The number of answers behind the first that come at once.
    together: usize,
    /// Behind an error it runs nothing until the end of the part, as PostgreSQL does.
    skips: bool,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { answers: answers.into_iter().collect(), piece: usize::MAX, ..Self::default() }
    }

    /// A session on a server with this script.
    fn session(self) -> Session {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        // The thread ends with the process, because cancel requests may come until then.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (script, client) = (self.clone(), client.expect("a client"));
                thread::spawn(move || script.serve(client));
            }
        });
        let url = format!("postgres://user@127.0.0.1:{port}/name?sslmode=disable");
        let driver = Driver::new(&url, &config::Database::default()).expect("a good URL");
        let mut session = driver.open_session(Deadline::after(PATIENCE)).expect("it lets everybody in");
        let (client, activity, metrics) = (Presence::default(), <_>::default(), Arc::default());
        let deadline = Deadline::after(PATIENCE);
        session.borrow(&Borrower { client: &client, activity: &activity, metrics: &metrics, deadline });
        session
    }

    /// Serves until the client leaves or sends an unknown message.
    fn serve(self, mut client: TcpStream) -> Option<()> {
        client.set_nodelay(true).ok()?;
        let mut length = [0; 4];
        client.read_exact(&mut length).ok()?;
        let mut startup = vec![0; usize::try_from(i32::from_be_bytes(length)).ok()?.checked_sub(4)?];
        client.read_exact(&mut startup).ok()?;
        let greeting = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), ready()].concat();
        client.write_all(&greeting).ok()?;
        let mut answers = self.answers.into_iter();
        let (mut out, mut bound, mut fails) = (Vec::new(), 0, false);
        loop {
            let mut header = [0; 5];
            client.read_exact(&mut header).ok()?;
            let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            client.read_exact(&mut vec![0; usize::try_from(length).ok()?.checked_sub(4)?]).ok()?;
            match header[0] {
                b'P' => out.extend(message(b'1', b"")),
                b'D' => {
                    // One parameter and one column, both int4.
                    out.extend(message(b't', &[&1_i16.to_be_bytes()[..], &INT4.to_be_bytes()].concat()));
                    let column =
                        [&b"\0\x01n\0\0\0\0\0\0\0"[..], &INT4.to_be_bytes(), &[0, 4], &[255; 4], &[0, 0]];
                    out.extend(message(b'T', &column.concat()));
                }
                b'Q' => {
                    // A new session asks for its process, which is the one in the greeting.
                    let settings = row(&[Some(b"UTC"), Some(b"0"), Some(b"0")]);
                    out.extend([settings, message(b'C', b"SET\0"), ready()].concat());
                }
                b'B' | b'E' if self.skips && fails => {}
                b'B' => match answers.next() {
                    Some(answer) => {
                        bound += 1;
                        fails = answer == error();
                        out.extend(answer);
                    }
                    None => return client.read_to_end(&mut out).ok().map(drop),
                },
                b'C' => out.extend(message(b'3', b"")),
                b'S' => {
                    fails = false;
                    out.extend(ready());
                    if bound == 2 {
                        out.extend(&self.extra);
                    }
                }
                _ => {}
            }
            let waits = bound > 1 && bound <= self.together;
            if matches!(header[0], b'Q' | b'S') && !waits {
                let holds_back = self.holds_back && out.ends_with(&[error(), ready()].concat());
                let rest = out.split_off(out.len() - if holds_back { ready().len() } else { 0 });
                for piece in out.chunks(self.piece) {
                    client.write_all(piece).ok()?;
                }
                out = rest;
            }
        }
    }
}

fn questions(count: i32) -> Vec<Question> {
    let sql: Arc<str> = "select 2 * $1".into();
    (0..count)
        .map(|number| Question::Handler {
            sql: Arc::clone(&sql),
            parameters: vec![Box::new(number) as Parameter],
        })
        .collect()
}

/// A session on which the statement is prepared and was answered once, by the first answer of the script.
fn with_statement(script: Script) -> Session {
    let mut session = script.session();
    session.effects.of("select 2 * $1").learn(Leaves::Nothing);
    assert_eq!(session.read("select 2 * $1", &[&1_i32]).expect("an answer").len(), 1);
    session
}

const UNTIL_THE_DEADLINE: Waits<'_> = Waits::Until { patience: None, bell: None };

/// A pipeline with these questions on their way.
fn sent(session: &mut Session, questions: Vec<Question>) -> Result<Pipeline<'_>, Error> {
    let mut pipeline = session.pipeline()?;
    pipeline.send(&mut apart(questions), Deadline::after(PATIENCE))?;
    Ok(pipeline)
}

/// Each of them in a transaction of its own.
fn apart(questions: impl IntoIterator<Item = Question>) -> impl Iterator<Item = Outgoing> {
    questions.into_iter().map(|question| Outgoing { question, is_followed: false })
}

/// All of them in one transaction.
fn in_one(questions: Vec<Question>) -> impl Iterator<Item = Outgoing> {
    questions.into_iter().map(|question| Outgoing { question, is_followed: true })
}

fn fetch(pipeline: &mut Pipeline<'_>) -> Result<Vec<Row>, Error> {
    match pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), UNTIL_THE_DEADLINE) {
        Some(Fetched::Answer(_, answer)) => answer.map(Answer::into_rows),
        _ => panic!("no answer"),
    }
}

fn numbers(pipeline: &mut Pipeline<'_>) -> Vec<i32> {
    fetch(pipeline).expect("an answer").iter().map(|row| row.get(0)).collect()
}

#[test]
fn each_statement_gets_its_own_answer_however_the_bytes_are_cut() {
    let notice = message(b'N', b"SNOTICE\0C00000\0Mnothing\0\0");
    let setting = message(b'S', b"name\0value\0");
    let none = [message(b'2', b""), message(b'C', b"SELECT 0\0")].concat();
    let strange =
        [notice.clone(), message(b'2', b""), setting, row(&[None]), notice, message(b'C', b"SELECT 1\0")];
    for piece in [1, 3, 7, usize::MAX] {
        // The transaction fails after its row has come.
        let late = [number(7), error()].concat();
        let answers = [number(0), number(7), error(), none.clone(), strange.concat(), late, number(8)];
        let mut session = with_statement(Script { piece, ..Script::of(answers) });
        let mut pipeline = sent(&mut session, questions(6)).expect("they are sent");
        assert_eq!(numbers(&mut pipeline), [7]);
        let refused = fetch(&mut pipeline).expect_err("it is an error");
        assert_eq!((refused.code(), refused.to_string().contains("division by zero")), (Some("22012"), true));
        assert!(fetch(&mut pipeline).expect("an answer").is_empty());
        let row = fetch(&mut pipeline).expect("an answer").remove(0);
        assert_eq!(row.get::<_, Option<i32>>("N"), None);
        assert!(matches!(fetch(&mut pipeline), Err(Error::Refused(_))));
        assert_eq!(numbers(&mut pipeline), [8]);
        assert!(
            pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), UNTIL_THE_DEADLINE).is_none()
        );
        drop(pipeline);
        assert!(!session.wire.is_broken());
    }
}

#[test]
fn a_row_refuses_a_wrong_column_or_type() {
    let mut session = with_statement(Script::of([number(0), number(7), number(8)]));
    let driven = session.read("select 2 * $1", &[&1_i32]).expect("an answer").remove(0);
    let direct =
        fetch(&mut sent(&mut session, questions(1)).expect("it is sent")).expect("an answer").remove(0);
    for (row, value) in [(driven, 7), (direct, 8)] {
        assert_eq!((row.len(), row.is_empty(), row.columns()[0].name()), (1, false, "n"));
        assert_eq!((row.get::<_, i32>("n"), row.get::<_, i32>(0)), (value, value));
        let refused = [
            row.try_get::<_, i32>(1).expect_err("there is one column").to_string(),
            row.try_get::<_, i32>("m").expect_err("it is called n").to_string(),
            row.try_get::<_, String>("n").expect_err("it is a number").to_string(),
        ];
        let expected = ["column 1: there is none", "column m: there is none", "column n: cannot convert"];
        for (refused, expected) in refused.iter().zip(expected) {
            assert!(refused.contains(expected), "{refused}");
        }
    }
}

#[test]
fn an_unexpected_message_ends_the_session_and_no_request_gets_anothers_answer() {
    let unexpected = [
        // The rest of another answer.
        Vec::new(),
        row(&[Some(&[0; 4])]),
        message(b'C', b"SELECT 1\0"),
        [message(b'2', b""), message(b'2', b"")].concat(),
        message(b'2', b""),
        [number(8), row(&[Some(&[0; 4])])].concat(),
        // An answer to another question.
        [message(b'2', b""), message(b'T', b"\0\0")].concat(),
        [message(b'2', b""), row(&[Some(&[0; 4]), None])].concat(),
        [message(b'2', b""), message(b'D', b"\0\x01\0\0\0\x09one")].concat(),
        [message(b'2', b""), message(b'D', b"\0\x02\0\0\0\x01o")].concat(),
        [message(b'2', b""), message(b'D', b"\0\x01\0\0\0\x01one")].concat(),
        [message(b'2', b""), message(b'D', b"")].concat(),
        [message(b'2', b""), message(b'G', b"\0\0\0")].concat(),
        // No valid message.
        vec![b'2', 0, 0, 0, 3],
    ];
    for answer in unexpected {
        let mut session = with_statement(Script::of([number(0), answer.clone(), number(8)]));
        let mut pipeline = sent(&mut session, questions(2)).expect("they are sent");
        for _ in 0..2 {
            let error = fetch(&mut pipeline).expect_err("it is none");
            assert!(matches!(error, Error::Lost(_)), "{answer:?}: {error}");
        }
        drop(pipeline);
        assert!(session.wire.is_broken(), "{answer:?}");
    }
}

#[test]
fn a_statement_that_cannot_be_sent_is_refused_before_anything_is_sent() {
    let mut session = with_statement(Script::of([number(0), number(7)]));
    let sql: Arc<str> = "select 2 * $1".into();
    for parameters in [vec![], vec![Box::new("text") as Parameter]] {
        let questions = vec![Question::Handler { sql: Arc::clone(&sql), parameters }];
        let mut pipeline = sent(&mut session, questions).expect("there is nothing to send");
        assert!(matches!(fetch(&mut pipeline), Err(Error::Usage(_))));
    }
    let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
    assert_eq!(numbers(&mut pipeline), [7]);
}

#[test]
fn a_statement_that_may_change_the_session_is_not_sent_with_others() {
    let mut session = with_statement(Script::of([number(0), number(7)]));
    session.effects.of("select 2 * $1").learn(Leaves::Anything);
    let mut pipeline = sent(&mut session, questions(1)).expect("there is nothing to send");
    assert!(matches!(fetch(&mut pipeline), Err(Error::Usage(_))));
    drop(pipeline);
    session.effects.of("select 2 * $1").learn(Leaves::Nothing);
    assert_eq!(numbers(&mut sent(&mut session, questions(1)).expect("it is sent")), [7]);
}

/// The early answer was once taken for the beginning of the first statement's, and the session was lost.
#[test]
fn an_earlier_answer_is_not_taken_for_a_statements() {
    let mut session = with_statement(Script::of([number(0), number(7), number(8)]));
    session.access = Some(Access::ReadWrite);
    session.deferred = Some(Untidy { is_touched: true, ..Untidy::default() });
    session.tidy();
    let mut pipeline = sent(&mut session, questions(2)).expect("they are sent");
    assert_eq!((numbers(&mut pipeline), numbers(&mut pipeline)), (vec![7], vec![8]));
    drop(pipeline);
    assert!(!session.wire.is_broken());
}

#[test]
fn a_batch_larger_than_the_sockets_room_is_sent_while_answers_are_read() {
    const COUNT: i32 = 20_000;
    let mut session =
        with_statement(Script::of(std::iter::repeat_with(|| number(7)).take(1 + COUNT as usize)));
    let mut pipeline = sent(&mut session, questions(COUNT)).expect("they are sent");
    assert!((0..COUNT).all(|_| numbers(&mut pipeline) == [7]));
}

#[test]
fn an_unwanted_answer_is_not_taken_for_the_next_one() {
    // When the first is there, so are the others.
    let answers = [number(0), number(7), number(8), number(9), number(10)];
    let mut session = with_statement(Script { together: 3, ..Script::of(answers) });
    let mut pipeline = sent(&mut session, questions(3)).expect("they are sent");
    assert_eq!(numbers(&mut pipeline), [7]);
    // This request's client has left before the answer is read.
    let over = pipeline.fetch(&Presence::default(), Deadline::after(Duration::ZERO), UNTIL_THE_DEADLINE);
    assert!(matches!(over, Some(Fetched::Answer(_, Err(Error::Deadline)))));
    drop(pipeline);
    assert!(!session.wire.is_broken());
    let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
    assert_eq!(numbers(&mut pipeline), [10]);
    drop(pipeline);
    assert!(session.is_open());
}

#[test]
fn a_message_behind_the_last_answer_is_noticed() {
    let notice = message(b'N', b"SNOTICE\0C00000\0Mnothing\0\0");
    let behind = [
        (notice.clone(), true),
        // The rest may come later.
        (notice[..9].to_vec(), true),
        ([&notice[..], b"N"].concat(), true),
        (ready(), false),
        (number(9), false),
    ];
    for (extra, is_clean) in behind {
        // It is there when the last answer's end is taken.
        let mut session =
            with_statement(Script { extra: extra.clone(), ..Script::of([number(0), number(7)]) });
        let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
        assert_eq!(numbers(&mut pipeline), [7]);
        drop(pipeline);
        assert_eq!(session.is_open(), is_clean, "{extra:?}");
    }
}

#[test]
fn a_fatal_error_is_known_before_the_server_closes_the_connection() {
    let fatal = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    let mut session = with_statement(Script::of([number(0), fatal]));
    let mut pipeline = sent(&mut session, questions(2)).expect("they are sent");
    assert_eq!(fetch(&mut pipeline).expect_err("it is an error").code(), Some("57P01"));
    drop(pipeline);
    assert!(session.wire.is_broken());
}

#[test]
fn a_session_is_given_up_if_the_rest_of_an_answer_does_not_come() {
    let mut session = with_statement(Script::of([number(0), number(7)]));
    let mut pipeline = sent(&mut session, questions(2)).expect("they are sent");
    assert_eq!(numbers(&mut pipeline), [7]);
    drop(pipeline);
    assert!(session.wire.is_broken());
}

#[test]
fn a_deadline_ends_the_statement_and_its_session() {
    let mut session = with_statement(Script::of([number(0)]));
    let mut pipeline = sent(&mut session, questions(2)).expect("they are sent");
    let soon = Deadline::after(Duration::from_millis(20));
    let fetched = pipeline.fetch(&Presence::default(), soon, UNTIL_THE_DEADLINE);
    assert!(matches!(fetched, Some(Fetched::Answer(_, Err(Error::Deadline)))));
    drop(pipeline);
    assert!(session.wire.is_broken());
    assert!(matches!(session.read("select 2 * $1", &[&1_i32]), Err(Error::Lost(_))));
}

#[test]
fn statements_join_those_whose_answers_have_not_come() {
    let mut session = with_statement(Script::of([number(0), number(7), number(8), number(9)]));
    let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
    pipeline.send(&mut apart(questions(2)), Deadline::after(PATIENCE)).expect("they are sent");
    assert_eq!([0; 3].map(|_| numbers(&mut pipeline)), [[7], [8], [9]]);
    assert!(pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), Waits::Not).is_none());
    drop(pipeline);
    assert!(!session.wire.is_broken());
}

#[test]
fn a_statement_that_is_not_prepared_does_not_join_others() {
    let mut session = with_statement(Script::of([number(0), number(7), number(8)]));
    let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
    let other =
        Question::Handler { sql: "select 3 * $1".into(), parameters: vec![Box::new(1_i32) as Parameter] };
    pipeline.send(&mut apart([other]), Deadline::after(PATIENCE)).expect("there is nothing to send");
    pipeline.send(&mut apart(questions(1)), Deadline::after(PATIENCE)).expect("it is sent");
    assert_eq!(numbers(&mut pipeline), [7]);
    assert!(matches!(fetch(&mut pipeline), Err(Error::Usage(_))));
    assert_eq!(numbers(&mut pipeline), [8]);
}

#[test]
fn a_wait_for_an_answer_ends_when_the_bell_rings_and_goes_on_later() {
    // The end of an error's answer comes only with the next answer.
    let answers = [number(0), error(), number(8)];
    let mut session = with_statement(Script { holds_back: true, ..Script::of(answers) });
    let mut pipeline = sent(&mut session, questions(1)).expect("it is sent");
    let bell = Bell::new().expect("a descriptor");
    bell.ring();
    let listening = Waits::Until { patience: None, bell: Some(&bell) };
    for waits in [Waits::Not, listening, listening] {
        let fetched = pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), waits);
        assert!(matches!(fetched, Some(Fetched::NotYet)));
    }
    pipeline.send(&mut apart(questions(1)), Deadline::after(PATIENCE)).expect("it is sent");
    bell.silence();
    let fetched = pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), listening);
    assert!(matches!(fetched, Some(Fetched::Answer(_, Err(Error::Refused(_))))));
    assert_eq!(numbers(&mut pipeline), [8]);
}

/// The outcome of each of the next statements: its number, or the reason why it has no answer.
fn outcomes(pipeline: &mut Pipeline<'_>, count: usize) -> Vec<Result<i32, &'static str>> {
    let outcome =
        |_| match pipeline.fetch(&Presence::default(), Deadline::after(PATIENCE), UNTIL_THE_DEADLINE) {
            Some(Fetched::Answer(_, Ok(answer))) => Ok(answer.into_rows()[0].get(0)),
            Some(Fetched::Answer(_, Err(Error::Refused(_)))) => Err("refused"),
            Some(Fetched::Answer(_, Err(Error::Deadline))) => Err("deadline"),
            Some(Fetched::Answer(_, Err(Error::Usage(_)))) => Err("not sent"),
            Some(Fetched::NotRun) => Err("not run"),
            _ => Err("lost"),
        };
    (0..count).map(outcome).collect()
}

#[test]
fn statements_of_one_transaction_are_answered_until_one_fails_and_other_transactions_are_not_affected() {
    for piece in [1, 3, usize::MAX] {
        // The server sends nothing for the statements behind an error.
        let script = Script { piece, skips: true, ..Script::of([number(0), number(7), error(), number(8)]) };
        let mut session = with_statement(script);
        let mut pipeline = session.pipeline().expect("no transaction is open");
        pipeline.send(&mut in_one(questions(4)), Deadline::after(PATIENCE)).expect("they are sent");
        pipeline.send(&mut apart(questions(1)), Deadline::after(PATIENCE)).expect("it is sent");
        let expected = [Ok(7), Err("refused"), Err("not run"), Err("not run"), Ok(8)];
        assert_eq!(outcomes(&mut pipeline, 5), expected);
        drop(pipeline);
        assert!(!session.wire.is_broken());
    }
}

#[test]
fn an_answer_of_a_transaction_that_nobody_wants_hides_no_other_and_no_failure() {
    let over = |pipeline: &mut Pipeline<'_>| {
        pipeline.fetch(&Presence::default(), Deadline::after(Duration::ZERO), UNTIL_THE_DEADLINE)
    };
    for (second, expected) in [(number(8), [Ok(9), Ok(10)]), (error(), [Err("not run"), Ok(9)])] {
        let answers = [number(0), number(7), second, number(9), number(10)];
        let mut session = with_statement(Script { skips: true, ..Script::of(answers) });
        let mut pipeline = session.pipeline().expect("no transaction is open");
        pipeline.send(&mut in_one(questions(3)), Deadline::after(PATIENCE)).expect("they are sent");
        pipeline.send(&mut apart(questions(1)), Deadline::after(PATIENCE)).expect("it is sent");
        for _ in 0..2 {
            assert!(matches!(over(&mut pipeline), Some(Fetched::Answer(_, Err(Error::Deadline)))));
        }
        assert_eq!(outcomes(&mut pipeline, 2), expected);
        drop(pipeline);
        assert!(!session.wire.is_broken());
    }
}

#[test]
fn a_transaction_ends_where_its_last_statement_cannot_be_sent() {
    let mut session = with_statement(Script::of([number(0), number(7), number(8)]));
    let sql: Arc<str> = "select 2 * $1".into();
    let unsendable = || Question::Handler { sql: Arc::clone(&sql), parameters: vec![] };
    let mut three = questions(1);
    three.insert(0, unsendable());
    three.push(unsendable());
    let mut pipeline = session.pipeline().expect("no transaction is open");
    pipeline.send(&mut in_one(three), Deadline::after(PATIENCE)).expect("one is sent");
    pipeline.send(&mut apart(questions(1)), Deadline::after(PATIENCE)).expect("it is sent");
    assert_eq!(outcomes(&mut pipeline, 4), [Err("not sent"), Ok(7), Err("not sent"), Ok(8)]);
}
