//! MySQL's error codes that MariaDB has not, or not for the same reason, and the statuses that they become.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::packets::{Column, Value};
use super::server::{Reply, Script, Scripted};
use crate::support::{assert_nothing_is_left, wait_until};
use crate::{ask, get, serve, value, write};

/// A code, its SQLSTATE, the status of a GET and of a POST that meet it, and whether the session is closed.
const CODES: &[(u16, &str, u16, bool)] = &[
    (1062, "23000", 409, false),
    (1586, "23000", 409, false),
    (1169, "23000", 409, false),
    (1451, "23000", 409, false),
    (1452, "23000", 409, false),
    (1048, "23000", 400, false),
    (1364, "HY000", 400, false),
    (1406, "22001", 400, false),
    (1264, "22003", 400, false),
    (1366, "HY000", 400, false),
    (1292, "22007", 400, false),
    (1690, "22003", 400, false),
    (3819, "HY000", 400, false),
    (4025, "23000", 400, false),
    (1213, "40001", 503, false),
    (1020, "HY000", 503, false),
    (1205, "HY000", 503, false),
    (3572, "HY000", 503, false),
    (1203, "42000", 503, false),
    (1226, "42000", 503, false),
    (1021, "HY000", 503, false),
    (1041, "HY000", 503, false),
    (1114, "HY000", 503, false),
    (1053, "08S01", 503, true),
    (1927, "70100", 503, true),
    (1047, "08S01", 503, true),
    (1836, "HY000", 503, true),
    (1317, "70100", 504, false),
    (1969, "70100", 504, false),
    (3024, "HY000", 504, false),
    (1044, "42000", 403, false),
    (1142, "42000", 403, false),
    (1143, "42000", 403, false),
    (1227, "42000", 403, false),
    (1064, "42000", 500, false),
    (1146, "42S02", 500, false),
    (9999, "HY000", 500, false),
];

/// The code that a statement asks for: `select 1062 as code`.
fn asked_for(sql: &str) -> Option<&'static (u16, &'static str, u16, bool)> {
    CODES.iter().find(|(code, ..)| !sql.starts_with("set ") && sql.ends_with(&format!("= {code}")))
}

#[test]
fn each_code_of_mysql_has_its_status() {
    let script = Script {
        reply: Box::new(|sql| {
            let (code, state, ..) = asked_for(sql)?;
            Some(Reply::Refused(*code, state, "as the test says"))
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let mut endpoints = value("one", "select 1 as n");
    for (code, ..) in CODES {
        endpoints += &value(&format!("read{code}"), &format!("select n from t where n = {code}"));
        endpoints += &write(&format!("write{code}"), &format!("update t set n = {code}"));
        write!(
            endpoints,
            "[endpoint.steps{code}]\nroute = 'POST /steps{code}'\nstep = [{{ sql = 'update t set n = 0' }}, {{ sql = 'update t set m = {code}' }}]\n"
        ).expect("a String takes all");
    }
    let wharf = serve(&server.url(), &endpoints);
    let mut failures = Vec::new();
    for (code, _, status, closes) in CODES {
        for (method, kind) in [("GET", "read"), ("POST", "write"), ("POST", "steps")] {
            wait_until("the pool does not recover", || ask(&wharf, "GET", "/one").status == 200);
            let sessions = server.sessions();
            let answer = ask(&wharf, method, &format!("/{kind}{code}"));
            // A server that is leaving may have committed a statement that stands alone.
            let is_unknown =
                *closes && kind == "write" && answer.json()["type"] == "urn:wharf:problem:outcome-unknown";
            if answer.status != *status && !is_unknown {
                failures.push(format!(
                    "{kind} {code}: {} {}, expected {status}",
                    answer.status,
                    answer.text()
                ));
            }
            wait_until("the pool does not recover", || ask(&wharf, "GET", "/one").status == 200);
            if *closes && server.sessions() == sessions {
                failures.push(format!("{kind} {code}: the session is lent again"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_nothing_is_left(wharf);
}

/// 1290 is for any option that forbids a statement; only `--read-only` and `--super-read-only` mean that another server takes writes.
#[test]
fn a_server_that_only_reads_is_left_and_any_other_option_is_a_500() {
    const TEXTS: [(&str, u16); 3] = [
        ("The MySQL server is running with the --read-only option so it cannot execute this statement", 503),
        (
            "The MySQL server is running with the --super-read-only option so it cannot execute this statement",
            503,
        ),
        (
            "The MySQL server is running with the --secure-file-priv option so it cannot execute this statement",
            500,
        ),
    ];
    let script = Script {
        reply: Box::new(|sql| {
            let at = (0..TEXTS.len()).find(|at| sql.contains(&format!("n = 10{at}")))?;
            Some(Reply::Refused(1290, "HY000", TEXTS[at].0))
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let endpoints: String =
        (0..TEXTS.len()).map(|at| write(&format!("w{at}"), &format!("update t set n = 10{at}"))).collect();
    let wharf = serve(&server.url(), &(endpoints + &value("one", "select n from t")));
    for (at, (text, status)) in TEXTS.iter().enumerate() {
        let sessions = server.sessions();
        let answer = ask(&wharf, "POST", &format!("/w{at}"));
        assert_eq!(answer.status, *status, "{text}: {}", answer.text());
        wait_until("the pool does not recover", || ask(&wharf, "GET", "/one").status == 200);
        assert_eq!(server.sessions() > sessions, *status == 503, "{text}");
    }
    assert_nothing_is_left(wharf);
}

/// Galera finds that transactions collide when they commit: 1213 there means that nothing was done, and the request runs again.
#[test]
fn a_commit_that_collides_is_run_again() {
    let collisions = Arc::new(AtomicUsize::new(2));
    let seen = Arc::clone(&collisions);
    let script = Script {
        version: "5.5.5-10.11.6-MariaDB",
        reply: Box::new(move |sql| {
            let left = |count: usize| count.checked_sub(1);
            let collides = sql.eq_ignore_ascii_case("commit")
                && seen.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok();
            collides.then_some(Reply::Refused(1213, "40001", "Deadlock: wsrep aborted transaction"))
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let endpoints = "[endpoint.steps]\nroute = 'POST /steps'\nstep = [{ sql = 'update t set n = 1' }, { sql = 'update t set n = 2' }]\n";
    let wharf = serve(&server.url(), endpoints);
    let answer = ask(&wharf, "POST", "/steps");
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(collisions.load(Ordering::SeqCst), 0);
    let ran = server.asked().iter().filter(|asked| *asked == "execute update t set n = 1").count();
    assert_eq!(ran, 3);
    assert_nothing_is_left(wharf);
}

/// The connection ends where COMMIT, or a statement that commits by itself, has no answer.
#[test]
fn a_connection_that_ends_in_a_commit_leaves_the_outcome_open() {
    let script = Script {
        reply: Box::new(|sql| {
            (sql.eq_ignore_ascii_case("commit") || sql.ends_with("n = 7")).then_some(Reply::End)
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let endpoints = "[endpoint.steps]\nroute = 'POST /steps'\nstep = [{ sql = 'update t set n = 1' }, { sql = 'update t set n = 2' }]\n"
        .to_owned()
        + &write("alone", "update t set n = 7")
        + &value("read", "select n from t where n = 7")
        + &value("one", "select n from t");
    let wharf = serve(&server.url(), &endpoints);
    for path in ["/steps", "/alone"] {
        let answer = ask(&wharf, "POST", path);
        assert_eq!(answer.status, 500, "{path}: {}", answer.text());
        assert_eq!(answer.json()["type"], "urn:wharf:problem:outcome-unknown", "{path}");
        wait_until("the pool does not recover", || ask(&wharf, "GET", "/one").status == 200);
    }
    let answer = ask(&wharf, "GET", "/read");
    assert_eq!(answer.status, 503, "{}", answer.text());
    let ran = server.asked().iter().filter(|asked| *asked == "execute update t set n = 7").count();
    assert_eq!(ran, 1, "it was not repeated");
    drop(wharf);
}

/// Rows that break off with an error make no answer that looks whole.
#[test]
fn rows_that_break_off_are_an_error() {
    let rows = || vec![vec![Value::Number(1)], vec![Value::Number(2)]];
    let script = Script {
        reply: Box::new(move |sql| {
            sql.contains("breaks").then(|| {
                Reply::BreaksOff(vec![Column::number("n")], rows(), 1317, "Query execution was interrupted")
            })
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let endpoints = "[endpoint.many]\nroute = 'GET /many'\nreturns = 'many'\nsql = 'select n from breaks'\n"
        .to_owned()
        + &value("one", "select 1 as n");
    let wharf = serve(&server.url(), &endpoints);
    for _ in 0..3 {
        let answer = ask(&wharf, "GET", "/many");
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(get(&wharf, "/one"), "1");
    }
    assert_nothing_is_left(wharf);
}

/// 1243 and 1615: the server, or a proxy in front of it, has forgotten a prepared statement. It is prepared again.
#[test]
fn a_statement_that_the_server_has_forgotten_is_prepared_again() {
    for (code, state) in [(1243, "HY000"), (1615, "HY000")] {
        let forgets = Arc::new(Mutex::new(None::<()>));
        let now = Arc::clone(&forgets);
        let script = Script {
            reply: Box::new(move |sql| {
                let forgotten =
                    sql.contains("from t") && now.lock().expect("no thread panics here").take().is_some();
                forgotten.then_some(Reply::Refused(code, state, "Unknown prepared statement handler"))
            }),
            ..Script::default()
        };
        let server = Scripted::start(script);
        let wharf = serve(&server.url(), &(value("n", "select n from t") + &write("w", "update from t")));
        assert_eq!(get(&wharf, "/n"), "1");
        assert_eq!(ask(&wharf, "POST", "/w").status, 204);
        for (method, path, status) in [("GET", "/n", 200), ("POST", "/w", 204)] {
            *forgets.lock().expect("no thread panics here") = Some(());
            let answer = ask(&wharf, method, path);
            assert_eq!(answer.status, status, "{code} {path}: {}", answer.text());
        }
        assert_nothing_is_left(wharf);
    }
}

/// A server that does not tell what changed in a session cannot be trusted to have changed nothing.
#[test]
fn without_news_of_the_session_it_is_reset_where_a_statement_may_have_changed_it() {
    let script =
        Script { without: super::packets::capability::SESSION_TRACK, version: "5.7.44", ..Script::default() };
    let server = Scripted::start(script);
    let endpoints = value("plain", "select n from t")
        + &write("call", "call something()")
        + &write("function", "update t set n = something()");
    let wharf = serve(&server.url(), &endpoints);
    for path in ["/call", "/function"] {
        assert_eq!(get(&wharf, "/plain"), "1");
        let (resets, sessions) = (count(&server, "reset"), server.sessions());
        let answer = ask(&wharf, "POST", path);
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(get(&wharf, "/plain"), "1");
        assert!(
            count(&server, "reset") > resets || server.sessions() > sessions,
            "{path}: {:?}",
            server.asked()
        );
    }
    // A plain read costs nothing.
    let before = (count(&server, "reset"), server.sessions());
    for _ in 0..5 {
        assert_eq!(get(&wharf, "/plain"), "1");
    }
    assert_eq!((count(&server, "reset"), server.sessions()), before);
    assert_nothing_is_left(wharf);
}

/// A statement without an answer is cancelled on another connection, again and again, and its session is closed.
#[test]
fn a_statement_without_an_answer_is_cancelled_and_its_session_closed() {
    let script = Script {
        reply: Box::new(|sql| sql.contains("silence").then_some(Reply::Silence)),
        ..Script::default()
    };
    let server = Scripted::start(script);
    // Not described at the start: that would have no answer either.
    let endpoints = "[endpoint.silent]\nroute = 'GET /silent'\nreturns = 'value'\ndeadline = '300ms'\nsql = 'select n from silence'\n".to_owned()
        + &value("one", "select 1 as n");
    let wharf = serve(&server.url(), &endpoints);
    let asked = std::time::Instant::now();
    let answer = ask(&wharf, "GET", "/silent");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(asked.elapsed() < std::time::Duration::from_millis(1200), "{:?}", asked.elapsed());
    let kills =
        || server.asked().iter().filter(|asked| asked.to_lowercase().contains("kill query 1")).count();
    assert!(kills() > 0, "{:?}", server.asked());
    let sessions = server.sessions();
    assert_eq!(get(&wharf, "/one"), "1");
    assert!(server.sessions() >= sessions);
    assert_nothing_is_left(wharf);
}

/// A statement that the server cannot prepare now is an error of the request, and so it is at the start.
#[test]
fn a_statement_that_cannot_be_prepared_is_an_error_of_its_request() {
    let refuses = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&refuses);
    let script = Script {
        reply: Box::new(move |sql| {
            let is_refused = sql.contains("from t") && now.load(Ordering::SeqCst) > 0;
            is_refused.then_some(Reply::RefusedAtPrepare(1146, "42S02", "Table 'main.t' doesn't exist"))
        }),
        ..Script::default()
    };
    let server = Scripted::start(script);
    let more = "max_prepared_statements = 1\n".to_owned();
    let endpoints =
        value("n", "select n from t") + &value("one", "select 1 as n") + &value("two", "select 2 as n");
    let wharf = crate::serve_with(&server.url(), 1, &more, &endpoints);
    assert_eq!(
        (get(&wharf, "/n"), get(&wharf, "/one"), get(&wharf, "/two")),
        ("1".into(), "1".into(), "1".into())
    );
    refuses.store(1, Ordering::SeqCst);
    let answer = ask(&wharf, "GET", "/n");
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(get(&wharf, "/one"), "1");
    refuses.store(0, Ordering::SeqCst);
    assert_eq!(get(&wharf, "/n"), "1");
    assert_nothing_is_left(wharf);
}

fn count(server: &Scripted, command: &str) -> usize {
    server.asked().iter().filter(|asked| *asked == command).count()
}
