//! The open loop: each request goes out when it is due, whatever the outcome of earlier requests. Its time counts from
//! then.
//!
//! One thread and one epoll for all clients. A client takes a connection that is free, or makes one; one that has waited
//! for its answer for as long as it will closes its connection.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::outcomes::Outcomes;
use crate::shared::client::{connect, whole_answer};

/// How long a client waits for its answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Connections at once: what 50 times 200 requests a second hold when each waits for [`PATIENCE`], and some more.
const MAX_CONNECTIONS: usize = 12_000;

/// A connection that was free for longer is not used again: the server may be about to close it.
const FREE_AT_MOST: Duration = Duration::from_secs(30);

/// The longest sleep during which no answer is looked at, which lengthens a refusal's time by that.
const NAP: Duration = Duration::from_micros(250);

/// Answers are read from a socket in pieces of this many bytes.
const PIECE: usize = 64 << 10;

/// The requests of a load, their rate and their duration.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    /// Sent in turn.
    pub(crate) requests: &'a [Vec<u8>],
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) length: Duration,
}

/// Offers the load, and waits until every request has its outcome.
///
/// # Errors
/// When the system refuses a socket or epoll does not work; what happens on a connection is an outcome.
pub(crate) fn run(address: SocketAddr, load: Load<'_>) -> io::Result<Outcomes> {
    let mut generator = Generator {
        address,
        poll: Poll::new()?,
        clients: Slab::new(),
        free: Vec::new(),
        waiting: VecDeque::new(),
        outcomes: Outcomes::default(),
        piece: vec![0; PIECE],
    };
    generator.offer(load)?;
    let mut outcomes = generator.outcomes;
    outcomes.sort();
    Ok(outcomes)
}

struct Generator<'a> {
    address: SocketAddr,
    poll: Poll,
    clients: Slab<Client<'a>>,
    /// Those without a request, the one that was used last at the end. Some may have gone or be in use again.
    free: Vec<usize>,
    /// The requests in the order in which they are due: number and client. Some may have their outcome.
    waiting: VecDeque<(u64, Instant, usize)>,
    outcomes: Outcomes,
    piece: Vec<u8>,
}

struct Client<'a> {
    stream: TcpStream,
    asking: Option<Asking<'a>>,
    received: Vec<u8>,
    free_since: Instant,
}

struct Asking<'a> {
    number: u64,
    due: Instant,
    /// The bytes that the socket has not taken yet.
    unsent: &'a [u8],
}

/// The result of an event on a connection.
enum Step {
    Wait,
    Answer { status: u16, closes: bool },
    Broken,
}

impl<'a> Generator<'a> {
    fn offer(&mut self, load: Load<'a>) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let begin = Instant::now();
        let due = |number: u32| Duration::from_secs_f64(f64::from(number) / load.rate);
        let mut schedule = (0..).map(due).take_while(|time| *time < load.length).map(|time| begin + time);
        let mut requests = load.requests.iter().cycle();
        let mut next = schedule.next();
        loop {
            let now = Instant::now();
            while let Some(due) = next.filter(|due| *due <= now) {
                if let Some(request) = requests.next() {
                    self.ask(request, due)?;
                }
                next = schedule.next();
            }
            self.give_up(now);
            let oldest = self.waiting.front().map(|(_, due, _)| *due + PATIENCE);
            let Some(until) = next.into_iter().chain(oldest).min() else { return Ok(()) };
            wait(&mut self.poll, &mut events, until)?;
            for event in &events {
                self.proceed(event.token().0, event.is_read_closed());
            }
        }
    }

    /// A request is due.
    fn ask(&mut self, request: &'a [u8], due: Instant) -> io::Result<()> {
        self.outcomes.offered += 1;
        let number = self.outcomes.offered;
        let key = match self.take_free() {
            Some(key) => key,
            None if self.clients.len() == MAX_CONNECTIONS => {
                self.outcomes.unplaced += 1;
                return Ok(());
            }
            None => match connect(self.address, None) {
                Ok(stream) => self.add(stream)?,
                Err(error) if is_of_connection(&error) => {
                    self.outcomes.broken += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        let client = &mut self.clients[key];
        client.asking = Some(Asking { number, due, unsent: request });
        self.waiting.push_back((number, due, key));
        self.outcomes.lateness.push(due.elapsed());
        match client.send() {
            Ok(whole) => self.outcomes.sent += u64::from(whole),
            Err(_) => self.break_off(key),
        }
        Ok(())
    }

    fn add(&mut self, mut stream: TcpStream) -> io::Result<usize> {
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        self.poll.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Client { stream, asking: None, received: Vec::new(), free_since: Instant::now() });
        Ok(key)
    }

    /// The connection that was used last: the fewest stay in use.
    fn take_free(&mut self) -> Option<usize> {
        while let Some(key) = self.free.pop() {
            match self.clients.get(key) {
                Some(client) if client.asking.is_some() => {}
                Some(client) if client.free_since.elapsed() > FREE_AT_MOST => drop(self.clients.remove(key)),
                Some(_) => return Some(key),
                None => {}
            }
        }
        None
    }

    /// Clients that have waited for long enough close their connections.
    fn give_up(&mut self, now: Instant) {
        while let Some((number, due, key)) = self.waiting.front().copied() {
            let asking = self.clients.get(key).and_then(|client| client.asking.as_ref());
            let waits = asking.is_some_and(|asking| asking.number == number);
            if waits && now < due + PATIENCE {
                return;
            }
            if waits {
                self.clients.remove(key);
                self.outcomes.given_up += 1;
            }
            self.waiting.pop_front();
        }
    }

    /// There is room to write, or something to read, or the connection has ended. Nobody connects before all events have
    /// been seen, so that none is taken for another client's.
    fn proceed(&mut self, key: usize, ended: bool) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let is_unsent = client.asking.as_ref().is_some_and(|asking| !asking.unsent.is_empty());
        let step = match if is_unsent { client.send() } else { Ok(false) } {
            Ok(whole) => {
                self.outcomes.sent += u64::from(whole);
                client.receive(&mut self.piece, ended).unwrap_or(Step::Broken)
            }
            Err(_) => Step::Broken,
        };
        match step {
            Step::Wait => {}
            Step::Broken => self.break_off(key),
            Step::Answer { status, closes } => {
                if let Some(asking) = client.asking.take() {
                    self.outcomes.answered(status, asking.due.elapsed());
                }
                if closes {
                    self.clients.remove(key);
                } else {
                    client.free_since = Instant::now();
                    self.free.push(key);
                }
            }
        }
    }

    fn break_off(&mut self, key: usize) {
        let client = self.clients.remove(key);
        self.outcomes.broken += u64::from(client.asking.is_some());
    }
}

impl Client<'_> {
    /// Sends what is left of the request; returns whether it is whole now.
    fn send(&mut self) -> io::Result<bool> {
        let Some(asking) = &mut self.asking else { return Ok(false) };
        while !asking.unsent.is_empty() {
            match self.stream.write(asking.unsent) {
                Ok(written) => asking.unsent = &asking.unsent[written..],
                Err(error) if is_not_yet(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what has come; a short read has taken all of it, and the end, which makes no other event, stands behind.
    fn receive(&mut self, piece: &mut [u8], ended: bool) -> io::Result<Step> {
        loop {
            let read = match self.stream.read(piece) {
                Ok(0) => return Ok(Step::Broken),
                Ok(read) => read,
                Err(error) if is_not_yet(&error) => return Ok(Step::Wait),
                Err(error) => return Err(error),
            };
            self.received.extend_from_slice(&piece[..read]);
            if let Some(answer) = whole_answer(&self.received)? {
                // One request at a time, so nothing stands behind its answer.
                self.received.clear();
                return Ok(Step::Answer { status: answer.status, closes: answer.closes || ended });
            }
            if read < piece.len() && !ended {
                return Ok(Step::Wait);
            }
        }
    }
}

/// Waits for events, at most until `until`. Epoll counts in milliseconds, and at 10,000 requests a second ten are due in
/// each. So shorter times are slept.
fn wait(poll: &mut Poll, events: &mut Events, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let milliseconds =
        Duration::from_secs(left.as_secs()) + Duration::from_millis(left.subsec_millis().into());
    if milliseconds.is_zero() {
        thread::sleep(left.min(NAP));
    }
    match poll.poll(events, Some(milliseconds)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted)
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}
