//! Request bodies: whole, in order, no faster than the handler reads, and what happens when they come to no good end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Instant;

use crossbeam_channel::unbounded;
use http::Method;
use wharf::handler::{Handler as _, Policy};
use wharf::metrics::Reason;

use super::*;

const LARGE: usize = 8 * MIB;

/// A server that measures what is posted to `/measure`.
fn measuring(change: impl FnOnce(&mut Config)) -> Server {
    server(change).route(Method::POST, "/measure", measure.with(Policy::streaming().max_body_bytes(1 << 30)))
}

fn assert_refused(client: &mut Client, status: u16, detail: &str) {
    let answer = client.answer();
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains(detail), "{}", answer.text());
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

/// The first half of an upload of 200 KiB.
fn begin_upload(server: &Running, path: &str, length: Option<usize>) -> Client {
    let mut client = Client::connect(server.address());
    client.send(upload_head(path, length));
    if length.is_none() {
        client.send(format!("{:x}\r\n", 200 * KIB));
    }
    client.send(body(100 * KIB));
    client
}

#[test]
fn a_body_far_larger_than_the_buffer_is_read_whole_and_in_order() {
    for connector in BOTH {
        let server = start(measuring(|config| config.server.connector = connector));
        for (length, piece) in [(LARGE, LARGE), (2 * MIB, 100_000), (300_000, 1000), (150_000, 37)] {
            for chunk in [None, Some(100_000), Some(701)] {
                let mut client = Client::connect(server.address());
                client.send(upload_head("/measure", chunk.is_none().then_some(length)));
                let wire = chunk.map_or_else(|| body(length), |size| chunked(&body(length), size));
                wire.chunks(piece).for_each(|part| client.send(part));
                assert_eq!(client.answer().text(), length.to_string(), "{connector:?} {piece} {chunk:?}");
            }
        }
        end(server);
    }
}

#[test]
fn while_the_handler_does_not_read_its_client_can_send_no_more_than_buffers_hold() {
    let (gate, keeper) = gate();
    let late = move |request: &Request, context: &mut Context<'_>| {
        pass(&gate);
        measure(request, context)
    };
    let server = start(server(|_| {}).route(
        Method::POST,
        "/late",
        late.with(Policy::streaming().max_body_bytes(1 << 30)),
    ));
    let most = socket_bytes() + MIB;
    let length = most + LARGE;
    let mut client = Client::connect(server.address());
    client.send(upload_head("/late", Some(length)));
    let (all, mut stream) = (body(length), client.stream());
    stream.set_write_timeout(Some(milliseconds(300))).expect("the limit is not zero");
    let mut sent = 0;
    while sent < most {
        match stream.write(&all[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < most, "the server has taken {sent} bytes that nobody wants yet");
    keeper.wait_for_one();
    assert_eq!(ask(&server, "/immediate").answer().text(), "immediate", "the poller does not wait");
    keeper.let_through(1);
    stream.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
    stream.write_all(&all[sent..]).expect("the server reads on");
    assert_eq!(client.answer().text(), length.to_string());
    end(server);
}

#[test]
fn a_body_that_fits_into_the_buffer_is_whole_when_the_handler_begins() {
    const BUFFER: usize = 4 * KIB;
    let both = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let mut read = Vec::new();
        request.reader().read_to_end(&mut read)?;
        Ok(Response::text(format!("{} {}", request.body().len(), Seen::all(&read))))
    };
    let serve = |connector| {
        let server = server(|config| {
            config.server.connector = connector;
            config.http.buffer_body_bytes = BUFFER;
        });
        start(server.route(Method::POST, "/both", both.with(Policy::streaming())))
    };
    let server = serve(Connector::Native);
    for length in [1, 100, BUFFER - 1, BUFFER] {
        let mut client = Client::connect(server.address());
        client.send(upload_head("/both", Some(length)));
        client.send(body(length));
        assert_eq!(client.answer().text(), format!("{length} {length}"));
        // The end of the chunks comes late, and once the poller has read what came before.
        client.send(upload_head("/both", None));
        let wire = chunked(&body(length), length);
        client.send(&wire[..wire.len() - 5]);
        for _ in 0..10 {
            assert_eq!(ask(&server, "/immediate").answer().text(), "immediate");
        }
        client.send(&wire[wire.len() - 5..]);
        assert_eq!(client.answer().text(), format!("{length} {length}"), "chunked");
    }
    end(server);
    // tiny_http leaves every body to be read.
    let server = serve(Connector::TinyHttp);
    let mut client = Client::connect(server.address());
    client.send(upload_head("/both", Some(BUFFER)));
    client.send(body(BUFFER));
    assert_eq!(client.answer().text(), format!("0 {BUFFER}"));
    end(server);
}

#[test]
fn a_client_that_stalls_gets_408_and_a_client_whose_handler_stalls_does_not() {
    let (gate, keeper) = gate();
    let late = move |request: &Request, context: &mut Context<'_>| {
        pass(&gate);
        measure(request, context)
    };
    let server = measuring(|config| {
        config.server.workers = Some(3);
        config.http.min_body_rate = MIB;
        config.http.buffer_body_bytes = KIB;
    });
    let server =
        start(server.route(Method::POST, "/late", late.with(Policy::streaming().max_body_bytes(1 << 30))));
    let length = socket_bytes() + 8 * MIB;
    let mut patient = Client::connect(server.address());
    patient.send(upload_head("/late", Some(length)));
    let sender = send_beside(&patient, body(length));
    keeper.wait_for_one();
    // One that has filled the buffer with one read, and sends no more before it is wanted.
    let mut quiet = Client::connect(server.address());
    quiet.send([upload_head("/late", Some(4 * KIB)).into_bytes(), body(2 * KIB)].concat());
    keeper.wait_for_one();
    // As much as makes the handler begin, and then nothing for the 5 s that the rate is measured over.
    let mut stalling = Client::connect(server.address());
    stalling.send(upload_head("/measure", Some(MIB)));
    stalling.send(body(100 * KIB));
    let began = Instant::now();
    assert_refused(&mut stalling, 408, "http.min_body_rate");
    assert!(began.elapsed() >= milliseconds(4900), "it had its time");
    wait_until("it is not counted", || server.metrics().finished() == 1);
    assert_eq!(server.metrics().refused_for(Reason::BodyRate), 1);
    keeper.let_through(2);
    quiet.send(&body(4 * KIB)[2 * KIB..]);
    assert_eq!(quiet.answer().text(), (4 * KIB).to_string());
    sender.join().expect("no panic").expect("the server takes all");
    assert_eq!(patient.answer().text(), length.to_string());
    drop((patient, quiet));
    end(server);
}

#[test]
fn a_deadline_that_passes_while_the_handler_reads_is_told_504_and_the_worker_is_free() {
    let measured = measure.with(Policy::streaming().deadline(milliseconds(100)));
    let server = start(server(|_| {}).route(Method::POST, "/short", measured));
    for framing in [Some(200 * KIB), None] {
        let mut client = begin_upload(&server, "/short", framing);
        assert_refused(&mut client, 504, "deadline");
        assert_serves(&server);
    }
    end(server);
}

#[test]
fn a_client_that_leaves_in_mid_upload_frees_the_worker_and_is_counted_as_abandoned() {
    let (told, errors) = unbounded();
    let telling = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let error = request.reader().read_to_end(&mut Vec::new()).expect_err("it does not come whole");
        told.send(error.kind()).map_err(Error::internal)?;
        Err(error.into())
    };
    for leaves_for_good in [true, false] {
        let server =
            start(server(|_| {}).route(Method::POST, "/telling", telling.clone().with(Policy::streaming())));
        for framing in [Some(200 * KIB), None] {
            let mut client = begin_upload(&server, "/telling", framing);
            client.finish_sending();
            if leaves_for_good {
                drop(client);
            } else {
                assert_refused(&mut client, 400, "has left before its body was complete");
            }
            let kind = errors.recv_timeout(PATIENCE).expect("reading fails");
            assert_eq!(kind, ErrorKind::ConnectionAborted);
            assert_serves(&server);
        }
        assert_counts_add_up(&server);
        let metrics = server.metrics();
        assert!(metrics.to_string().contains("2 abandoned by clients"), "{metrics}");
        end(server);
    }
}

/// tiny_http takes the end of the connection for the end of a body that has a length.
#[test]
fn with_tiny_http_a_body_that_breaks_off_is_not_taken_for_whole_either() {
    let whole = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(request.body().clone()))
    };
    let server = server(|config| config.server.connector = Connector::TinyHttp).post("/whole", whole);
    let server =
        start(server.route(Method::POST, "/measure", measure.with(Policy::streaming().max_body_bytes(MIB))));
    for path in ["/measure", "/whole"] {
        let mut client = begin_upload(&server, path, Some(200 * KIB));
        client.finish_sending();
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(answer.text().contains("before its body was complete"), "{}", answer.text());
    }
    // A limit is only seen to be passed when what is too much has come.
    let too_long = chunked(&body(MIB + 1), 200 * KIB);
    let malformed = [&too_long[..200 * KIB + 9], b"what is this\r\n"].concat();
    for (wire, status) in [(malformed, 400), (too_long, 413)] {
        let mut client = Client::connect(server.address());
        client.send(upload_head("/measure", None));
        client.send(wire);
        client.finish_sending();
        assert_eq!(client.answer().status, status);
    }
    end(server);
}

/// The one thread that receives requests also sent the answers that need no worker, and tiny_http does not let go of a
/// request before its body has come.
#[test]
fn with_tiny_http_an_answer_that_needs_no_worker_holds_up_nobody() {
    let (gate, keeper) = gate();
    let server =
        server(|config| config.server.connector = Connector::TinyHttp).route(Method::GET, "/gate", gate);
    let server =
        start(server.route(Method::POST, "/measure", measure.with(Policy::streaming().max_body_bytes(MIB))));
    // An answer that must wait for the one before it.
    let mut waiting = ask(&server, "/gate");
    keeper.wait_for_one();
    waiting.request("GET", "/immediate", &[], "");
    for _ in 0..10 {
        assert_eq!(ask(&server, "/immediate").answer().text(), "immediate");
    }
    keeper.let_through(1);
    assert_eq!(waiting.answer().text(), "through");
    assert_eq!(waiting.answer().text(), "immediate");
    for (path, length, status) in [("/measure", MIB + 1, 413), ("/nowhere", MIB, 404)] {
        let mut client = Client::connect(server.address());
        client.send(upload_head(path, Some(length)));
        assert_eq!(client.answer().status, status);
        assert_serves(&server);
    }
    // One request like these aborted the process.
    for (path, count) in [("/measure", 2), ("/nowhere", 3)] {
        let mut client = Client::connect(server.address());
        client.send(upload_head(path, Some(1 << 50)));
        client.finish_sending();
        drop(client);
        wait_until("it is not refused", || server.metrics().refused_for(Reason::BodyBytes) == count);
        assert_serves(&server);
    }
    end(server);
}

#[test]
fn an_error_in_the_middle_of_a_body_is_answered_and_ends_the_connection() {
    let server = start(server(|_| {}).route(
        Method::POST,
        "/measure",
        measure.with(Policy::streaming().max_body_bytes(MIB)),
    ));
    let good = format!("{:x}\r\n", 200 * KIB).into_bytes();
    let good = [good, body(200 * KIB)].concat();
    let mut client = Client::connect(server.address());
    client.send(upload_head("/measure", None));
    client.send([&good[..], b"\r\nwhat is this\r\n"].concat());
    assert_refused(&mut client, 400, "chunk");
    assert_counts_add_up(&server);
    assert_eq!(server.metrics().refused_for(Reason::Malformed), 1);
    let mut client = Client::connect(server.address());
    client.send(upload_head("/measure", None));
    client.send([&good[..], b"\r\nfffff\r\n"].concat());
    assert_refused(&mut client, 413, "the body is longer");
    assert_counts_add_up(&server);
    assert_eq!(server.metrics().refused_for(Reason::BodyBytes), 1);
    assert_serves(&server);
    end(server);
}

#[test]
fn the_handlers_own_limit_counts_and_is_looked_at_before_a_worker_is_taken() {
    let (gate, keeper) = gate();
    let blocked = move |_: &Request, _: &mut Context<'_>| {
        pass(&gate);
        Ok(Response::text("through"))
    };
    let server = server(|config| config.http.max_body_bytes = KIB).get("/gate", blocked);
    let server =
        start(server.route(Method::POST, "/measure", measure.with(Policy::streaming().max_body_bytes(MIB))));
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut client = Client::connect(server.address());
    client.send(upload_head("/measure", Some(MIB + 1)));
    assert_refused(&mut client, 413, "the body is longer");
    keeper.let_through(1);
    assert_eq!(running.answer().text(), "through");
    let mut client = Client::connect(server.address());
    client.send(upload_head("/measure", Some(MIB)));
    client.send(body(MIB));
    assert_eq!(client.answer().text(), MIB.to_string());
    end(server);
}

/// The rest of the body was not read while its buffer was full. After a second the connection was reset.
#[test]
fn an_answer_without_reading_the_body_reaches_a_client_that_is_still_sending() {
    for connector in BOTH {
        let hasty =
            |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("enough")) };
        let server = server(|config| config.server.connector = connector);
        let server = start(server.route(
            Method::POST,
            "/hasty",
            hasty.with(Policy::streaming().max_body_bytes(1 << 30)),
        ));
        let length = socket_bytes() + LARGE;
        let mut client = Client::connect(server.address());
        client.send(upload_head("/hasty", Some(length)));
        let sender = send_beside(&client, body(length));
        let answer = client.answer();
        assert_eq!(answer.text(), "enough");
        sender.join().expect("no panic").expect("the server takes all, and resets nothing");
        if connector == Connector::Native {
            assert_eq!(answer.header("Connection"), Some("close"));
            client.finish_sending();
            assert_eq!(read_to_end(client.stream()), (Vec::new(), Ending::Closed));
        }
        assert_serves(&server);
        end(server);
    }
}

#[test]
fn a_connection_goes_on_after_a_body_that_was_read_and_pipelined_requests_keep_their_order() {
    let server = start(measuring(|_| {}));
    let mut client = Client::connect(server.address());
    let lengths = [100_000, 1, 200_000, 64 * KIB, 300_000];
    let (mut wire, get) = (Vec::new(), |path| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes());
    for length in lengths {
        wire.extend(upload_head("/measure", Some(length)).into_bytes());
        wire.extend(body(length));
        wire.extend(get("/quick"));
        wire.extend(upload_head("/measure", None).into_bytes());
        wire.extend(chunked(&body(length), 5000));
        wire.extend(get("/immediate"));
        wire.extend(get("/immediate"));
    }
    for round in 0..3 {
        let sender = send_beside(&client, wire.clone());
        for length in lengths {
            assert_eq!(client.answer().text(), length.to_string(), "{round}");
            assert_eq!(client.answer().text(), "quick");
            assert_eq!(client.answer().text(), length.to_string(), "{round}, chunked");
            assert_eq!(client.answer().text(), "immediate");
            assert_eq!(client.answer().text(), "immediate");
        }
        sender.join().expect("no panic").expect("the server takes all");
    }
    end(server);
}

#[test]
fn a_client_that_expects_to_be_told_to_continue_is_told_so() {
    for connector in BOTH {
        let server = start(measuring(|config| config.server.connector = connector));
        for length in [100, MIB] {
            let mut client = Client::connect(server.address());
            let head = upload_head("/measure", Some(length));
            client.send(head.replace("Host: h", "Host: h\r\nExpect: 100-continue"));
            assert_eq!(client.answer().status, 100);
            client.send(body(length));
            assert_eq!(client.answer().text(), length.to_string());
        }
        end(server);
    }
}
