//! Packets that are cut, too long, out of order or nonsense: an error each time, within its time, and never a panic.

use std::time::{Duration, Instant};

use wharf::database::Error;
use wharf::deadline::Deadline;

use super::packets::{Column, Mangle, Value};
use super::server::{Reply, Script, Scripted};
use crate::support::PATIENCE;
use crate::{ask, look, open, serve, statement, value};

/// More bytes and packets than a login, a preparation and a row take.
const BYTES: usize = 900;
const PACKETS: usize = 32;

/// A login and a statement on a session that is treated like this. The value, if there is one.
fn talk(mangle: Mangle, until: Duration) -> Result<String, Error> {
    let script = Script {
        mangle: Box::new(move |_| mangle),
        reply: Box::new(|sql| {
            sql.contains("from t").then(|| {
                let columns = vec![Column::number("n"), Column::text("x")];
                Reply::Rows(columns, vec![vec![Value::Number(42), Value::Text(b"some text".to_vec())]])
            })
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let mut settings = wharf::config::Database::default();
    (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(0));
    settings.initialization_fail_timeout = Duration::from_millis(1);
    settings.connection_timeout = until;
    let opened = wharf::database::Database::open(&settings, &server.url())?;
    let mut session = opened.checkout(Deadline::after(until))?;
    let mut out = Vec::new();
    let mut rows = wharf::database::RowWriter::new(&mut out, wharf::database::Shape::Value, 1 << 20, 1);
    let statement = statement(&opened, "select n, x from t");
    session.run(&statement, &[], wharf::database::Access::ReadOnly, Deadline::after(until), &mut rows)?;
    drop(session);
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// A panic of any thread of this process while `test` runs fails it.
fn without_panic(
    mangles: impl Iterator<Item = Mangle> + Send,
    until: Duration,
) -> Vec<(Mangle, Result<String, Error>)> {
    let mangles: Vec<Mangle> = mangles.collect();
    let results = std::sync::Mutex::new(Vec::new());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some(mangle) = mangles.get(at) else { return };
                    let began = Instant::now();
                    let result = std::panic::catch_unwind(|| talk(*mangle, until))
                        .unwrap_or_else(|_| panic!("{mangle:?} panics"));
                    // An open and a statement have this time each, and a cancel has half a second.
                    let limit = 2 * until + Duration::from_millis(1500);
                    assert!(began.elapsed() < limit, "{mangle:?} took {:?}", began.elapsed());
                    results.lock().expect("no thread panics here").push((*mangle, result));
                }
            });
        }
    });
    results.into_inner().expect("no thread has panicked")
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_answer() {
    assert_eq!(talk(Mangle::ByteByByte, PATIENCE).expect("it is whole"), "42");
    assert_eq!(talk(Mangle::Nothing, PATIENCE).expect("it is whole"), "42");
}

#[test]
fn a_connection_that_ends_after_any_byte_is_an_error() {
    let results = without_panic((0..BYTES).map(Mangle::Cut), Duration::from_secs(2));
    let whole = results.iter().filter(|(_, result)| result.is_ok()).count();
    assert!(whole > 0 && whole < BYTES, "{whole}: the last cuts come after the answer");
    // A part of an answer never counts as an answer.
    for (mangle, result) in results {
        assert!(result.as_ref().is_ok_and(|seen| seen == "42") || result.is_err(), "{mangle:?}: {result:?}");
    }
}

#[test]
fn a_server_that_falls_silent_after_any_byte_is_an_error_in_time() {
    without_panic((0..BYTES).step_by(27).map(Mangle::Stop), Duration::from_millis(300));
}

#[test]
fn a_byte_that_is_wrong_is_no_panic_and_no_hang() {
    without_panic((0..BYTES).map(Mangle::Flip), Duration::from_millis(300));
}

#[test]
fn a_packet_out_of_order_is_an_error() {
    let all = (0..PACKETS).flat_map(|packet| [0, 77, 255].map(|number| Mangle::Sequence(packet, number)));
    for (mangle, result) in without_panic(all, Duration::from_millis(500)) {
        // Some of these are the right number.
        if let Ok(seen) = result {
            assert_eq!(seen, "42", "{mangle:?}");
        }
    }
}

#[test]
fn a_length_that_is_wrong_takes_no_memory_and_no_time() {
    let all = (0..PACKETS)
        .flat_map(|packet| [0, 1, 5, 0x00ff_fffe, 0x00ff_ffff].map(|length| Mangle::Length(packet, length)));
    for (mangle, result) in without_panic(all, Duration::from_millis(300)) {
        assert!(result.as_ref().is_ok_and(|seen| seen == "42") || result.is_err(), "{mangle:?}: {result:?}");
    }
}

/// Packets that are framed well and make no sense.
#[test]
fn packets_without_sense_are_errors_and_the_next_session_serves() {
    let huge = |first: u8| [&[first][..], &[0xff; 8]].concat();
    let nonsense: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xfb],
        vec![0xfe],
        vec![0xff],
        vec![0xff, 1],
        vec![0x00],
        vec![0x00, 0xfe],
        vec![2],
        huge(0xfe),
        huge(0xfd),
        huge(0xfc),
        vec![0xfe; 9],
        // As many columns as fit into four bytes.
        vec![0xfe, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        // A file that the server wants to have.
        [&[0xfb][..], b"/etc/hostname"].concat(),
        vec![0; 100],
        vec![0xff; 100],
    ];
    let shown = nonsense.clone();
    let script = Script {
        reply: Box::new(move |sql| {
            let number: usize = sql.split("from t").nth(1)?.trim().parse().ok()?;
            Some(Reply::Packet(shown[number].clone()))
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let opened = open(&server.url(), PATIENCE).expect("the login is whole");
    for (number, packet) in nonsense.iter().enumerate() {
        let began = Instant::now();
        let mut session = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
        let mut out = Vec::new();
        let mut rows = wharf::database::RowWriter::new(&mut out, wharf::database::Shape::Value, 1 << 20, 1);
        let asked = statement(&opened, &format!("select n from t{number}"));
        let until = Deadline::after(Duration::from_millis(300));
        let result = session.run(&asked, &[], wharf::database::Access::ReadOnly, until, &mut rows);
        assert!(began.elapsed() < Duration::from_secs(2), "{number}: {:?}", began.elapsed());
        drop(session);
        // An OK without rows is one, and everything else is an error.
        if let Ok(count) = result {
            assert_eq!(count, 0, "{number}: {packet:?}");
        }
        let mut session = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
        assert_eq!(
            look(&opened, &mut session, "select 1 as n").expect("the next one serves"),
            "1",
            "after {number}"
        );
    }
}

/// Values that do not fit the types of their columns.
#[test]
fn values_of_unknown_or_wrong_types_are_errors() {
    // Each type that the protocol numbers, and some that it does not.
    for kind in 0..=u8::MAX {
        let script = Script {
            reply: Box::new(move |sql| {
                sql.contains("from t").then(|| {
                    let rows = vec![
                        vec![Value::Text(vec![3, 1, 2, 3])],
                        vec![Value::Text(vec![])],
                        vec![Value::Null],
                    ];
                    Reply::Rows(vec![Column::of_type("n", kind, 63)], rows)
                })
            }),
            ..Script::default()
        };
        let server = Scripted::start(script);
        let opened = open(&server.url(), PATIENCE).expect("the login is whole");
        let mut session = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
        let began = Instant::now();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            look(&opened, &mut session, "select n from t")
        }));
        let seen = seen.unwrap_or_else(|_| panic!("type {kind} panics"));
        assert!(began.elapsed() < Duration::from_secs(2), "type {kind}");
        if let Ok(seen) = seen {
            serde_json::from_str::<serde_json::Value>(&seen)
                .unwrap_or_else(|error| panic!("type {kind}: {seen}: {error}"));
        }
    }
}

/// An answer that nobody asked for must not become the answer to the next request.
#[test]
fn an_answer_too_many_is_never_the_next_ones() {
    let script = Script {
        reply: Box::new(|sql| {
            let number: i64 = sql.split("where n = ").nth(1)?.trim().parse().ok()?;
            let (columns, rows) = (vec![Column::number("n")], vec![vec![Value::Number(number)]]);
            Some(if number % 5 == 0 { Reply::Twice(columns, rows) } else { Reply::Rows(columns, rows) })
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let endpoints: String = (0..20)
        .map(|number| value(&format!("n{number}"), &format!("select n from t where n = {number}")))
        .collect();
    let wharf = serve(&server.url(), &endpoints);
    let mut good = 0;
    for _ in 0..5 {
        for number in 0..20 {
            let answer = ask(&wharf, "GET", &format!("/n{number}"));
            match answer.status {
                200 => assert_eq!(answer.text(), number.to_string()),
                503 => {}
                _ => panic!("{number}: {} {}", answer.status, answer.text()),
            }
            good += usize::from(answer.status == 200);
        }
    }
    assert!(good > 50, "{good} of 100");
}
