//! Normal clients: each sends its next request when it has its answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::shared::client::{connect, whole_answer};

/// The results of the closed loop.
#[derive(Default)]
pub(crate) struct Window {
    /// The times of all requests that were answered with 200, sorted.
    pub(crate) times: Vec<Duration>,
    /// The number of requests with another status.
    pub(crate) refused: usize,
    /// From the first request to the end.
    pub(crate) length: Duration,
}

struct Client {
    stream: TcpStream,
    /// When the request in progress was sent.
    asked: Option<Instant>,
    received: Vec<u8>,
}

/// Lets `count` clients ask for `length`.
///
/// # Errors
/// When one cannot connect, or loses its connection.
pub(crate) fn run(address: SocketAddr, request: &[u8], count: usize, length: Duration) -> io::Result<Window> {
    let mut poll = Poll::new()?;
    let mut clients = Vec::with_capacity(count);
    for index in 0..count {
        let mut stream = connect(address, None)?;
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        clients.push(Client { stream, asked: None, received: Vec::new() });
    }
    let mut events = Events::with_capacity(count);
    let (mut window, start) = (Window::default(), Instant::now());
    while start.elapsed() < length {
        match poll.poll(&mut events, Some(length.saturating_sub(start.elapsed()))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            match clients[event.token().0].proceed(request, &mut window) {
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }
    window.length = start.elapsed();
    window.times.sort_unstable();
    Ok(window)
}

impl Client {
    /// There is room to write, or something to read.
    fn proceed(&mut self, request: &[u8], window: &mut Window) -> io::Result<()> {
        if self.asked.is_none() {
            self.ask(request)?;
        }
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&bytes[..read]),
            }
            if let Some(answer) = whole_answer(&self.received)? {
                let time = self.asked.map(|asked| asked.elapsed()).unwrap_or_default();
                if answer.status == 200 {
                    window.times.push(time);
                } else {
                    window.refused += 1;
                }
                // One request at a time, so nothing stands behind its answer.
                self.received.clear();
                self.ask(request)?;
            }
        }
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        // So few bytes are taken whole.
        self.stream.write_all(request)?;
        self.asked = Some(Instant::now());
        Ok(())
    }
}
