//! Many clients that each ask once and keep their connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::shared::client::{connect, whole_answer};

/// Clients that have asked. Dropping them closes their connections.
pub(crate) struct Crowd {
    poll: Poll,
    members: Vec<Member>,
}

struct Member {
    /// `None`: it could not even begin to connect.
    stream: Option<TcpStream>,
    asked: bool,
    received: Vec<u8>,
    outcome: Outcome,
}

/// The outcome of a client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer with this status.
    Answered(u16),
    /// The connection was closed without a reset before a whole answer.
    Closed,
    /// The connection was reset or refused.
    Reset,
    /// Nothing in time.
    Silent,
}

impl Crowd {
    /// `count` clients connect and send `request`, at most `at_once` of them without an outcome; returns when each has one
    /// or `patience` is over.
    pub(crate) fn ask(
        address: SocketAddr,
        request: &[u8],
        count: usize,
        at_once: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let until = Instant::now() + patience;
        let mut crowd = Self { poll: Poll::new()?, members: Vec::with_capacity(count) };
        let mut events = Events::with_capacity(1024);
        let mut decided = 0;
        while decided < count && Instant::now() < until {
            while crowd.members.len() < count && crowd.members.len() - decided < at_once {
                decided += usize::from(crowd.join(address)?);
            }
            match crowd.poll.poll(&mut events, Some(until.saturating_duration_since(Instant::now()))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                let member = &mut crowd.members[event.token().0];
                if member.outcome == Outcome::Silent {
                    member.proceed(request)?;
                    decided += usize::from(member.outcome != Outcome::Silent);
                }
            }
        }
        Ok(crowd)
    }

    /// The number of clients with this outcome.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.members.iter().filter(|member| member.outcome == outcome).count()
    }

    /// Adds a client that begins to connect; returns whether it has its outcome already.
    fn join(&mut self, address: SocketAddr) -> io::Result<bool> {
        let mut member =
            Member { stream: None, asked: false, received: Vec::new(), outcome: Outcome::Silent };
        match connect(address, None) {
            Ok(mut stream) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(self.members.len()), interest)?;
                member.stream = Some(stream);
            }
            Err(error) if is_reset(&error) => member.outcome = Outcome::Reset,
            Err(error) => return Err(error),
        }
        let decided = member.outcome != Outcome::Silent;
        self.members.push(member);
        Ok(decided)
    }
}

impl Member {
    /// There is room to write, or something to read.
    fn proceed(&mut self, request: &[u8]) -> io::Result<()> {
        match self.exchange(request) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.outcome = Outcome::Closed,
            Err(error) if is_reset(&error) => self.outcome = Outcome::Reset,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut broken = None;
        if !self.asked {
            // A new socket takes so few bytes whole. One that is closed already may still hold an answer.
            match stream.write(request) {
                Err(error) if is_reset(&error) => broken = Some(error),
                written => drop(written?),
            }
            self.asked = true;
        }
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Err(broken.unwrap_or(ErrorKind::UnexpectedEof.into())),
                read => self.received.extend_from_slice(&bytes[..read]),
            }
            if let Some(answer) = whole_answer(&self.received)? {
                self.outcome = Outcome::Answered(answer.status);
                self.received = Vec::new();
                return Ok(());
            }
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
