//! Both directions at once, and a server that stops meanwhile.

use std::io::Write as _;

use http::Method;
use wharf::handler::{Handler as _, Policy};

use super::*;

const LARGE: usize = 20 * MIB;

/// Answers with the body, as it comes.
fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let mut reader = request.reader();
    Ok(Response::stream("application/octet-stream", move |writer| {
        std::io::copy(&mut reader, writer)?;
        Ok(())
    }))
}

#[test]
fn a_handler_may_answer_with_a_body_while_it_comes() {
    let server = start(server(|_| {}).route(
        Method::POST,
        "/echo",
        echo.with(Policy::streaming().max_body_bytes(1 << 30)),
    ));
    for length in [10, 100_000, LARGE] {
        for chunk in [None, Some(5000)] {
            let mut client = Client::connect(server.address());
            client.send(upload_head("/echo", chunk.is_none().then_some(length)));
            let wire = chunk.map_or_else(|| body(length), |size| chunked(&body(length), size));
            let sender = send_beside(&client, wire);
            assert_eq!(Seen::all(&client.answer().body), length, "{chunk:?}");
            sender.join().expect("no panic").expect("the server takes all");
        }
    }
    end(server);
}

#[test]
fn a_drain_lets_uploads_streams_and_files_finish_and_closes_their_connections() {
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
    let length = socket_bytes() + 2 * MIB;
    let file = tempfile::tempfile().expect("a temporary file");
    (&file).write_all(&body(length)).expect("a temporary file");
    let large = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::file("application/octet-stream", file.try_clone()?)?)
    };
    let server = server(|config| config.server.workers = Some(3)).get("/slow", slow).get("/file", large);
    let server = start(server.route(
        Method::POST,
        "/measure",
        measure.with(Policy::streaming().max_body_bytes(1 << 30)),
    ));
    let address = server.address();
    let mut file = ask(&server, "/file");
    let mut upload = Client::connect(address);
    upload.send(upload_head("/measure", Some(LARGE)));
    upload.send(body(LARGE / 2));
    let stream = ask(&server, "/slow");
    let begin = read_through(stream.stream(), "the beginning, ");
    keeper.wait_for_one();
    let draining = thread::spawn(move || server.drain());
    wait_until("it does not drain", || TcpStream::connect_timeout(&address, PATIENCE).is_err());
    upload.send(&body(LARGE)[LARGE / 2..]);
    let answer = upload.answer();
    assert_eq!((answer.text(), answer.header("Connection")), (&*LARGE.to_string(), Some("close")));
    assert!(upload.is_closed());
    keeper.let_through(1);
    let (rest, ending) = read_to_end(stream.stream());
    let wire = [begin, rest].concat();
    assert_eq!(decoded(parted(&wire).1).as_deref(), Some(&b"the beginning, the end"[..]));
    assert_eq!(ending, Ending::Closed);
    assert_eq!(Seen::all(&file.answer().body), length);
    assert!(file.is_closed());
    assert_eq!(draining.join().expect("no panic"), Drained::Complete);
}
