//! Clients that are gone, and servers that stop, while a worker waits for them.

use std::io::{ErrorKind, Read as _, Write as _};

use crossbeam_channel::unbounded;
use http::Method;
use wharf::handler::{Handler as _, Policy};

use super::tunnel::Encryption;
use super::*;

/// With TLS a worker does not write to the client's socket itself, so it cannot see that the client is gone. It filled a
/// buffer that was never emptied, and waited until its deadline.
#[test]
fn a_client_whose_session_breaks_holds_no_worker_that_is_about_to_answer_it() {
    let (gate, keeper) = gate();
    let endless = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        request.reader().read_exact(&mut vec![0; 100 * KIB])?;
        pass(&gate);
        Ok(Response::stream("text/plain", |writer| {
            loop {
                writer.write_all(&PATTERN)?;
            }
        }))
    };
    let encryption = Encryption::new();
    let server = server(|config| {
        encryption.ask_for(config);
        config.server.deadline = 3 * PATIENCE;
    });
    let server =
        start(server.route(Method::POST, "/endless", endless.with(Policy::streaming().max_body_bytes(MIB))));
    let (mut session, mut socket) = encryption.session(server.address());
    session.writer().write_all(upload_head("/endless", Some(MIB)).as_bytes()).expect("rustls takes 64 KiB");
    session.complete_io(&mut socket).expect("the server reads");
    for piece in body(100 * KIB).chunks(16 * KIB) {
        session.writer().write_all(piece).expect("rustls takes 64 KiB");
        session.complete_io(&mut socket).expect("the server reads");
    }
    keeper.wait_for_one();
    // Application data that nobody can decrypt.
    socket.write_all(&[23, 3, 3, 0, 32]).and_then(|()| socket.write_all(&[0; 32])).expect("the server reads");
    wait_until("the client is still there", || server.metrics().open_connections() == 0);
    keeper.let_through(1);
    let mut other = Client::connect(encryption.tunnel_to(server.address()));
    other.request("GET", "/quick", &[], "");
    assert_eq!(other.answer().text(), "quick", "the only worker is free");
    drop(other);
    end(server);
}

/// The end was only seen while there was room for more before it, and comes but once.
#[test]
fn a_session_that_is_closed_right_behind_a_full_buffer_is_seen_to_have_ended() {
    let ((gate, keeper), (told, errors)) = (gate(), unbounded());
    let upload = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        pass(&gate);
        let mut read = Vec::new();
        let error = request.reader().read_to_end(&mut read).expect_err("it does not come whole");
        told.send((Seen::all(&read), error.kind())).map_err(Error::internal)?;
        Err(error.into())
    };
    let encryption = Encryption::new();
    let server = server(|config| {
        encryption.ask_for(config);
        config.http.buffer_body_bytes = KIB;
    });
    let server = start(server.route(Method::POST, "/upload", upload.with(Policy::streaming())));
    let (mut session, mut socket) = encryption.session(server.address());
    let wire = [upload_head("/upload", Some(MIB)).into_bytes(), body(2 * KIB)].concat();
    session.writer().write_all(&wire).expect("rustls takes 64 KiB");
    session.send_close_notify();
    let mut encrypted = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut encrypted).expect("a Vec takes all");
    }
    socket.write_all(&encrypted).expect("the server reads");
    keeper.wait_for_one();
    keeper.let_through(1);
    assert_eq!(errors.recv_timeout(PATIENCE), Ok((2 * KIB, ErrorKind::ConnectionAborted)));
    drop(socket);
    end(server);
}

/// A worker that waited for a client's bytes went on waiting until its deadline, although no poller was left to bring
/// them.
#[test]
fn a_server_that_stops_leaves_no_worker_waiting_for_clients() {
    let (told, errors) = unbounded();
    let reading = told.clone();
    let upload = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let error = request.reader().read_to_end(&mut Vec::new()).expect_err("it does not come whole");
        reading.send(error.kind()).map_err(Error::internal)?;
        Err(error.into())
    };
    let endless = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let told = told.clone();
        Ok(Response::stream("text/plain", move |writer| {
            let error = loop {
                if let Err(error) = writer.write_all(&PATTERN) {
                    break error;
                }
            };
            told.send(error.kind())?;
            Err(error.into())
        }))
    };
    let server = server(|config| {
        config.server.workers = Some(2);
        config.server.deadline = 3 * PATIENCE;
        config.server.drain_timeout = milliseconds(200);
    });
    let server = start(
        server.route(Method::POST, "/upload", upload.with(Policy::streaming())).get("/endless", endless),
    );
    let mut uploading = Client::connect(server.address());
    uploading.send(upload_head("/upload", Some(MIB)));
    uploading.send(body(100 * KIB));
    let downloading = ask(&server, "/endless");
    read_through(downloading.stream(), "\r\n\r\n");
    assert_eq!(server.drain(), Drained::CutOff(2));
    let mut kinds = [errors.recv_timeout(PATIENCE), errors.recv_timeout(PATIENCE)];
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    assert_eq!(kinds, [Ok(ErrorKind::BrokenPipe), Ok(ErrorKind::ConnectionAborted)]);
    drop((uploading, downloading));
}
