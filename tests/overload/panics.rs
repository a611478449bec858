//! A panic outside of a handler: while its error is shown, or while what it made is dropped. It costs no thread.

use std::fmt;

use bytes::Bytes;
use wharf::http::StatusCode;

use super::*;

/// Panics when it is shown, and when it is dropped.
#[derive(Debug)]
struct Shown;

impl fmt::Display for Shown {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown")
    }
}

impl std::error::Error for Shown {}

#[derive(Debug)]
struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error")
    }
}

impl std::error::Error for Dropped {}

impl Drop for Dropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

impl AsRef<[u8]> for Dropped {
    fn as_ref(&self) -> &[u8] {
        b"whole"
    }
}

fn panics_with_a_payload() -> ! {
    std::panic::panic_any(Dropped)
}

fn stream(fails: impl FnOnce() -> Box<dyn std::error::Error + Send + Sync> + Send + 'static) -> Response {
    Response::stream("text/plain", move |_| Err(fails()))
}

/// One worker and one poller, so that the loss of either shows.
fn server(connector: Connector) -> Running {
    let mut config = default_config();
    (config.server.workers, config.server.selectors, config.server.connector) = (Some(1), Some(1), connector);
    config.server.deadline = Duration::from_millis(500);
    let server = Server::new(config).expect("no database to open");
    let captures = |_: &Request, _: &mut Context<'_>| {
        let captured = Dropped;
        Ok::<_, Error>(Response::stream("text/plain", move |_| {
            let _captured = &captured;
            Ok(())
        }))
    };
    server
        .get("/quick", quick)
        .get("/shown", |_: &Request, _: &mut Context<'_>| Err::<Response, _>(Error::internal(Shown)))
        .get("/dropped", |_: &Request, _: &mut Context<'_>| Err::<Response, _>(Error::internal(Dropped)))
        .get("/payload", |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            panics_with_a_payload()
        })
        .get("/stream-shown", |_: &Request, _: &mut Context<'_>| Ok::<_, Error>(stream(|| Box::new(Shown))))
        .get("/stream-dropped", |_: &Request, _: &mut Context<'_>| {
            Ok::<_, Error>(stream(|| Box::new(Dropped)))
        })
        .get("/stream-payload", |_: &Request, _: &mut Context<'_>| {
            Ok::<_, Error>(stream(|| panics_with_a_payload()))
        })
        .get("/captures", captures)
        .get("/owner", |_: &Request, _: &mut Context<'_>| {
            Ok::<_, Error>(Response::text(Bytes::from_owner(Dropped)))
        })
        .get_immediate("/immediate-payload", |_: &Request| panics_with_a_payload())
        .get_immediate("/immediate-owner", |_: &Request| Response::text(Bytes::from_owner(Dropped)))
        .get_immediate("/immediate", |_: &Request| Response::text("immediate"))
        .start()
        .expect("a free port")
}

/// The statuses are those of the answer's head. A client whose answer breaks off sees the end of its connection.
#[test]
fn a_panic_costs_no_worker_and_no_poller() {
    for connector in BOTH {
        let server = server(connector);
        let requests = [
            ("GET", "/shown", Some(500)),
            ("GET", "/dropped", Some(500)),
            ("GET", "/payload", Some(500)),
            ("GET", "/stream-shown", None),
            ("GET", "/stream-dropped", None),
            ("GET", "/stream-payload", None),
            ("HEAD", "/captures", None),
            ("GET", "/captures", None),
            ("GET", "/owner", None),
            ("GET", "/immediate-payload", Some(500)),
            ("GET", "/immediate-owner", None),
        ];
        for round in 0..2 {
            for (method, path, status) in requests {
                let mut client = Client::connect(server.address());
                client.request(method, path, &[], "");
                match status {
                    Some(status) => assert_eq!(client.answer().status, status, "{connector:?} {path}"),
                    None => drop(client),
                }
                for path in ["/quick", "/immediate"] {
                    let answer = ask(&server, path).answer();
                    assert_eq!(answer.status, StatusCode::OK, "{connector:?} {round}: {}", answer.text());
                }
            }
        }
        let handlers = server.metrics().panics();
        assert!(handlers >= 10, "{connector:?}: {handlers}");
        assert_eq!(server.drain(), Drained::Complete);
    }
}
