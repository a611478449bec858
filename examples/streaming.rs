//! Bodies that need not fit into memory: an upload that is read as it comes, a file, and an answer that is written
//! while it is made. `cargo run --release --example streaming`, then
//!
//! ```text
//! curl -T some.iso http://127.0.0.1:8080/upload
//! curl http://127.0.0.1:8080/file
//! curl 'http://127.0.0.1:8080/numbers?n=1000000'
//! ```
//!
//! Another address to listen on may follow: `… --example streaming -- 127.0.0.1:0`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use wharf::config::Config;
use wharf::handler::{Context, Error, Handler as _, Policy};
use wharf::http::{Request, Response};
use wharf::server::Server;

/// The largest upload, and the time that it may take. Without these the server's `http.max_body_bytes` and
/// `server.deadline` apply, which suit forms and JSON.
const MAX_UPLOAD_BYTES: usize = 8 << 30;
const MAX_UPLOAD_TIME: Duration = Duration::from_secs(3600);

/// Counts and sums the bytes of a body of any length, and keeps 64 KiB of it at a time.
///
/// `read` waits for the client, and its error says why no more came. `?` answers 408 to a client that sends too slowly,
/// 413 to one that sends too much, and 400 to one that sends malformed chunks.
fn upload(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let mut body = request.reader();
    let mut piece = vec![0; 64 * 1024];
    let (mut count, mut sum) = (0_u64, 0_u64);
    loop {
        let read = body.read(&mut piece)?;
        if read == 0 {
            return Ok(Response::text(format!("{count} bytes, sum {sum}\n")));
        }
        count += read as u64;
        sum = piece[..read].iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    }
}

/// Sends a file, here this program's own source. The server reads it as the client takes it, and the worker is free at
/// once.
fn file(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/streaming.rs"))?;
    Ok(Response::file("text/plain; charset=utf-8", file)?)
}

/// Writes the numbers below `n`, one a line, as the client takes them.
///
/// An error before the first byte gets the usual answer; here, a parameter that is not a number. Afterwards the status
/// has been sent, so an error inside the closure ends the connection, and the client sees that the body is not
/// complete. `?` does that when the client has left or the deadline has passed.
fn numbers(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let text = request.query_value("n").unwrap_or_else(|| "10".to_owned());
    let count: u64 = text.parse().map_err(|_| Error::bad_parameter("n", "a number", &text))?;
    Ok(Response::stream("text/plain; charset=utf-8", move |body| {
        for number in 0..count {
            writeln!(body, "{number}")?;
        }
        // `body.flush()` would send what there is; otherwise it goes out in pieces of 16 KiB, and at the end.
        Ok(())
    }))
}

fn main() -> anyhow::Result<()> {
    let mut config = Config::default();
    if let Some(address) = std::env::args().nth(1) {
        config.server.listen = address.parse::<SocketAddr>()?.into();
    }
    let upload = upload.with(Policy::streaming().max_body_bytes(MAX_UPLOAD_BYTES).deadline(MAX_UPLOAD_TIME));
    let server = Server::new(config)?;
    let server = server.route(Method::PUT, "/upload", upload).get("/file", file).get("/numbers", numbers);
    let running = server.start()?;
    println!("listening on http://{}", running.listening_on());
    running.run_until_signal()?;
    Ok(())
}
