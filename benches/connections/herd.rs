//! Slow clients: some send a request's head a byte at a time and never end it, some read a large answer a byte at a time.
//! One thread for all of them.
//!
//! The server cuts each off in its time. Then another takes its place at once, so that their number stays the same. They
//! begin spread over the timeout that ends them, so that at any moment some are cut off and none in waves.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::shared::client::{connect, get};
use crate::slow::Sizes;

/// The bytes that a dribbler sends before it repeats `a` without end.
const HEAD: &[u8] = b"GET /quick HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";

/// `SO_RCVBUF` of a reader, in bytes, which Linux doubles: the rest of the answer must wait on the server's side.
pub(crate) const RECEIVE_BUFFER: usize = 4096;

/// The number of slots in each interval of the pace. Each client acts in one slot, so that there are no bursts.
const SLOTS: usize = 100;

/// The running slow clients.
pub(crate) struct Herd {
    thread: JoinHandle<io::Result<Replaced>>,
    stopped: Arc<AtomicBool>,
}

/// Why clients were replaced by others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replaced {
    /// The server answered 408.
    pub(crate) told: u64,
    /// The server closed the connection without an answer.
    pub(crate) closed: u64,
    /// A reader's time was over. Its own doing: the end of a connection does not pass what waits before it.
    pub(crate) left: u64,
    /// The client could not connect, and tries again.
    pub(crate) failed: u64,
}

impl AddAssign for Replaced {
    fn add_assign(&mut self, more: Self) {
        self.told += more.told;
        self.closed += more.closed;
        self.left += more.left;
        self.failed += more.failed;
    }
}

struct Herding {
    poll: Poll,
    address: SocketAddr,
    members: Vec<Member>,
    /// After how long a reader knows that the server has given it up.
    reader_leaves: Duration,
    replaced: Replaced,
}

struct Member {
    kind: Kind,
    starts: Instant,
    /// `None`: not connected now.
    stream: Option<TcpStream>,
    connected: Instant,
    sent: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dribbler,
    Reader,
}

impl Herd {
    /// Starts the clients; all of them are there after the longer one of the two timeouts.
    pub(crate) fn start(address: SocketAddr, sizes: &Sizes) -> io::Result<Self> {
        let now = Instant::now();
        let spread = |kind, count: u32, timeout: Duration| {
            (0..count).map(move |index| Member::new(kind, now + timeout * index / count))
        };
        let dribblers = spread(Kind::Dribbler, sizes.dribblers, sizes.head_timeout);
        let readers = spread(Kind::Reader, sizes.readers, sizes.write_timeout);
        let herding = Herding {
            poll: Poll::new()?,
            address,
            members: dribblers.chain(readers).collect(),
            reader_leaves: sizes.write_timeout + sizes.pace / 2,
            replaced: Replaced::default(),
        };
        let stopped = Arc::new(AtomicBool::new(false));
        let (ends, pace) = (Arc::clone(&stopped), sizes.pace);
        let thread = thread::Builder::new().name("herd".into()).spawn(move || herding.run(pace, &ends))?;
        Ok(Self { thread, stopped })
    }

    /// Closes all connections.
    pub(crate) fn stop(self) -> io::Result<Replaced> {
        self.stopped.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the slow clients' thread panicked")))
    }
}

impl Herding {
    fn run(mut self, pace: Duration, stopped: &AtomicBool) -> io::Result<Replaced> {
        let slot_length = pace / u32::try_from(SLOTS).expect("it is a small number");
        let mut events = Events::with_capacity(1024);
        let (mut slot, mut slot_begins) = (0, Instant::now());
        while !stopped.load(Ordering::Acquire) {
            while slot_begins <= Instant::now() {
                (slot..self.members.len()).step_by(SLOTS).try_for_each(|index| self.act(index))?;
                (slot, slot_begins) = ((slot + 1) % SLOTS, slot_begins + slot_length);
            }
            match self.poll.poll(&mut events, Some(slot_begins.saturating_duration_since(Instant::now()))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                self.notice(event.token().0)?;
            }
        }
        Ok(self.replaced)
    }

    /// It is this client's slot.
    fn act(&mut self, index: usize) -> io::Result<()> {
        let member = &mut self.members[index];
        if Instant::now() < member.starts {
            return Ok(());
        }
        if member.stream.is_none() {
            return self.replace(index);
        }
        if member.kind == Kind::Reader && member.connected.elapsed() >= self.reader_leaves {
            self.replaced.left += 1;
            return self.replace(index);
        }
        match member.step() {
            Err(error) if !is_early(&error) => {
                self.replaced.closed += 1;
                self.replace(index)
            }
            _ => Ok(()),
        }
    }

    /// The server has sent something to a dribbler, or closed its connection.
    fn notice(&mut self, index: usize) -> io::Result<()> {
        let Some(stream) = &mut self.members[index].stream else { return Ok(()) };
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes) {
            Err(error) if is_early(&error) => return Ok(()),
            Ok(read) if bytes[..read].starts_with(b"HTTP/1.1 408 ") => self.replaced.told += 1,
            _ => self.replaced.closed += 1,
        }
        self.replace(index)
    }

    /// Another client takes this one's place, and its first step at once.
    fn replace(&mut self, index: usize) -> io::Result<()> {
        let member = &mut self.members[index];
        // Closed first: it must not need a descriptor beside its successor's.
        member.stream = None;
        let buffer = (member.kind == Kind::Reader).then_some(RECEIVE_BUFFER);
        let Ok(stream) = connect(self.address, buffer) else {
            self.replaced.failed += 1;
            return Ok(());
        };
        member.begin(stream, self.poll.registry(), Token(index))
    }
}

impl Member {
    fn new(kind: Kind, starts: Instant) -> Self {
        Self { kind, starts, stream: None, connected: starts, sent: 0 }
    }

    fn begin(&mut self, mut stream: TcpStream, registry: &Registry, token: Token) -> io::Result<()> {
        if self.kind == Kind::Dribbler {
            registry.register(&mut stream, token, Interest::READABLE)?;
        }
        (self.stream, self.connected, self.sent) = (Some(stream), Instant::now(), 0);
        // Over loopback it is connected by now. If not, or if it is refused, its next slot will tell.
        drop(self.step());
        Ok(())
    }

    /// Sends or reads one byte; a reader's first step sends its request.
    fn step(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match self.kind {
            Kind::Dribbler => self.sent += stream.write(&[*HEAD.get(self.sent).unwrap_or(&b'a')])?,
            Kind::Reader if self.sent == 0 => self.sent = stream.write(&get("/large"))?,
            Kind::Reader => {
                if stream.read(&mut [0])? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }
}

/// Nothing is wrong; the socket has nothing, or is not connected yet.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
