//! Answers that are written piece by piece: whole, in order, at once, and never taken for whole when they are not.

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::unbounded;
use http::Method;
use http::StatusCode;
use wharf::handler::{Handler as _, Policy};
use wharf::http::BodyWriter;

use super::*;

const LARGE: usize = 20 * MIB;

type Written = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Streams a body of this length.
fn write_body(writer: &mut BodyWriter<'_>, length: usize) -> Written {
    for start in (0..length).step_by(PATTERN.len()) {
        writer.write_all(&PATTERN[..PATTERN.len().min(length - start)])?;
    }
    Ok(())
}

/// Streams as many bytes as the query says.
fn stream(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let length: usize = request.query().parse().map_err(Error::internal)?;
    Ok(Response::stream("application/octet-stream", move |writer| write_body(writer, length)))
}

/// A stream of one chunk that then does what its query says.
fn failing(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let query = request.query().to_owned();
    Ok(Response::stream("text/plain", move |writer| {
        writer.write_all(b"the beginning")?;
        writer.flush()?;
        match &*query {
            "error" => Err("on purpose".into()),
            "panic" => panic!("on purpose"),
            _ => Ok(()),
        }
    }))
}

#[test]
fn a_stream_arrives_whole_and_in_order_and_the_connection_goes_on() {
    for connector in BOTH {
        let server = start(server(|config| config.server.connector = connector).get("/stream", stream));
        let mut client = Client::connect(server.address());
        for length in [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 100_000, LARGE] {
            client.request("GET", &format!("/stream?{length}"), &[], "");
            let answer = client.answer();
            assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
            assert_eq!(Seen::all(&answer.body), length, "{connector:?}");
            if connector == Connector::TinyHttp {
                assert_eq!(answer.header("Connection"), Some("close"));
                client = Client::connect(server.address());
            }
        }
        drop(client);
        end(server);
    }
}

#[test]
fn a_client_that_sends_no_more_gets_its_whole_answer() {
    for connector in BOTH {
        let server = start(server(|config| config.server.connector = connector).get("/stream", stream));
        let mut client = Client::connect(server.address());
        client.cork();
        client.request("GET", &format!("/stream?{LARGE}"), &[], "");
        client.finish_sending();
        assert_eq!(Seen::all(&client.answer().body), LARGE);
        assert!(client.is_closed());
        end(server);
    }
}

#[test]
fn to_an_http_1_0_client_a_stream_ends_with_the_connection() {
    for connector in BOTH {
        let server = start(server(|config| config.server.connector = connector).get("/stream", stream));
        for length in [0, 10, LARGE] {
            let mut client = Client::connect(server.address());
            client.send(format!("GET /stream?{length} HTTP/1.0\r\n\r\n"));
            let (answer, ending) = read_to_end(client.stream());
            let (head, body) = parted(&answer);
            assert!(head.contains("connection: close\r\n") && !head.contains("chunked"), "{head}");
            assert_eq!((Seen::all(body), ending), (length, Ending::Closed));
        }
        end(server);
    }
}

#[test]
fn a_streamed_answer_has_no_body_if_its_method_or_status_forbids_one() {
    let empty = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let status = if request.query() == "204" { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED };
        Ok(Response::stream("text/plain", |writer| Ok(writer.write_all(b"what nobody may see")?))
            .with_status(status))
    };
    for connector in BOTH {
        let server = server(|config| config.server.connector = connector).get("/stream", stream);
        let server = start(server.get("/empty", empty));
        let mut client = Client::connect(server.address());
        client.request("HEAD", "/stream?1000", &[], "");
        assert_eq!(client.head_answer().status, 200);
        for status in [204, 304] {
            client.request("GET", &format!("/empty?{status}"), &[], "");
            assert_eq!(client.head_answer().status, status);
        }
        client.request("GET", "/quick", &[], "");
        assert_eq!(client.answer().text(), "quick", "{connector:?}: nothing stands before it");
        drop(client);
        end(server);
    }
}

#[test]
fn flushed_bytes_are_sent_at_once() {
    for connector in BOTH {
        let (gate, keeper) = gate();
        let slow = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            let gate = gate.clone();
            Ok(Response::stream("text/plain", move |writer| {
                writer.write_all(b"the beginning, ")?;
                writer.flush()?;
                pass(&gate);
                Ok(writer.write_all(b"the end")?)
            }))
        };
        let server = start(server(|config| config.server.connector = connector).get("/slow", slow));
        let client = ask(&server, "/slow");
        let begin = read_through(client.stream(), "the beginning, ");
        keeper.wait_for_one();
        keeper.let_through(1);
        let wire = [begin, read_through(client.stream(), "\r\n0\r\n\r\n")].concat();
        let (_, chunks) = parted(&wire);
        assert_eq!(decoded(chunks).as_deref(), Some(&b"the beginning, the end"[..]));
        drop(client);
        end(server);
    }
}

#[test]
fn a_stream_whose_client_reads_nothing_waits_when_buffers_are_full_and_then_until_its_deadline() {
    const BUFFER: usize = 8 * MIB;
    const DEADLINE: u64 = 1500;
    let (written, (told, errors)) = (Arc::new(AtomicUsize::new(0)), unbounded());
    let count = Arc::clone(&written);
    let endless = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let (count, told) = (Arc::clone(&count), told.clone());
        Ok(Response::stream("application/octet-stream", move |writer| {
            loop {
                if let Err(error) = writer.write_all(&PATTERN) {
                    told.send(error.kind())?;
                    return Err(error.into());
                }
                count.fetch_add(PATTERN.len(), Ordering::Relaxed);
            }
        }))
    };
    let server = server(|config| config.http.response_buffer_bytes = BUFFER);
    let server = start(server.route(
        Method::GET,
        "/endless",
        endless.with(Policy::streaming().deadline(milliseconds(DEADLINE))),
    ));
    let began = Instant::now();
    let client = ask(&server, "/endless");
    assert_eq!(errors.recv_timeout(PATIENCE), Ok(ErrorKind::TimedOut));
    assert!(began.elapsed() >= milliseconds(DEADLINE), "it ends with its deadline");
    let written = written.load(Ordering::Relaxed);
    assert!(written >= BUFFER, "it waited when {written} bytes were on their way");
    assert!(written < BUFFER + socket_bytes() + MIB, "{written} bytes are somewhere");
    assert_serves(&server);
    let (answer, ending) = read_to_end(client.stream());
    let (_, chunks) = parted(&answer);
    assert!(decoded(chunks).is_none() && ending == Ending::Reset, "{ending:?}");
    end(server);
}

#[test]
fn a_stream_that_fails_is_never_taken_for_whole() {
    for connector in BOTH {
        let server = start(server(|config| config.server.connector = connector).get("/failing", failing));
        for query in ["error", "panic"] {
            let client = ask(&server, &format!("/failing?{query}"));
            // Of an incomplete stream tiny_http cannot end the connection; what comes is no chunk, though.
            let (answer, ending) = if connector == Connector::Native {
                read_to_end(client.stream())
            } else {
                (read_through(client.stream(), "\r\n!\r\n"), Ending::Reset)
            };
            let (_, chunks) = parted(&answer);
            assert!(chunks.starts_with(b"d\r\nthe beginning"), "{:?}", String::from_utf8_lossy(chunks));
            assert!(decoded(chunks).is_none() && !chunks.ends_with(b"0\r\n\r\n"));
            assert_eq!(ending, Ending::Reset);
            assert_serves(&server);
        }
        end(server);
    }
    let server = start(server(|_| {}).get("/failing", failing));
    for (query, expected) in [("error", Ending::Reset), ("panic", Ending::Reset), ("nothing", Ending::Closed)]
    {
        let mut client = Client::connect(server.address());
        client.send(format!("GET /failing?{query} HTTP/1.0\r\n\r\n"));
        let (answer, ending) = read_to_end(client.stream());
        assert_eq!((parted(&answer).1, ending), (&b"the beginning"[..], expected), "{query}");
    }
    assert_serves(&server);
    end(server);
}

/// The server trusted the handler's result alone to decide whether the answer was complete.
#[test]
fn a_handler_that_does_not_care_that_writing_failed_leaves_no_answer_that_looks_whole() {
    let careless = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::stream("application/octet-stream", |writer| {
            while writer.write_all(&PATTERN).is_ok() {}
            Ok(())
        }))
    };
    let server = start(server(|_| {}).route(
        Method::GET,
        "/careless",
        careless.with(Policy::streaming().deadline(milliseconds(200))),
    ));
    for version in ["1.0", "1.1"] {
        let mut client = Client::connect(server.address());
        client.send(format!("GET /careless HTTP/{version}\r\nHost: h\r\n\r\n"));
        // Once another client has been served, the answer is over.
        assert_serves(&server);
        let (answer, ending) = read_to_end(client.stream());
        assert_eq!(ending, Ending::Reset, "HTTP/{version}, after {} bytes", answer.len());
    }
    end(server);
}

#[test]
fn a_stream_that_is_written_costs_no_worker_while_its_client_is_slow() {
    let server = server(|config| config.http.response_buffer_bytes = 64 * MIB).get("/stream", stream);
    let server = start(server);
    let length = socket_bytes() + 2 * MIB;
    let mut slow = ask(&server, &format!("/stream?{length}"));
    for _ in 0..10 {
        assert_serves(&server);
    }
    assert_eq!(Seen::all(&slow.answer().body), length);
    slow.request("GET", "/quick", &[], "");
    assert_eq!(slow.answer().text(), "quick", "the connection goes on");
    drop(slow);
    end(server);
}

#[test]
fn a_stream_that_no_worker_could_write_is_a_500_whose_cause_is_in_the_log_only() {
    let log = Log::start(log::LevelFilter::Warn);
    for connector in BOTH {
        let server = server(|config| config.server.connector = connector);
        let server = start(server.get_immediate("/at-once", |_| Response::stream("text/plain", |_| Ok(()))));
        let answer = ask(&server, "/at-once").answer();
        assert_eq!((answer.status, answer.header("Content-Type")), (500, Some("application/problem+json")));
        assert!(!answer.text().contains("stream"), "{}", answer.text());
        // The answer may come before its line.
        let again = || drop(ask(&server, "/at-once").answer());
        log.wait_for("GET /at-once: 500", again);
        log.wait_for("answered with a stream", again);
        end(server);
    }
}

#[test]
fn a_status_that_is_not_final_is_a_500() {
    let interim = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::stream("text/plain", |_| Ok(())).with_status(StatusCode::EARLY_HINTS))
    };
    for connector in BOTH {
        let server = server(|config| config.server.connector = connector).get("/worker", interim);
        let server =
            start(server.get_immediate("/poller", |_| Response::empty(StatusCode::SWITCHING_PROTOCOLS)));
        let mut client = Client::connect(server.address());
        for path in ["/worker", "/poller"] {
            client.request("GET", path, &[], "");
            assert_eq!(client.answer().status, 500, "{path}");
        }
        drop(client);
        end(server);
    }
}
