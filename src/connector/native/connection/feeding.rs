//! A feed: an answer that goes on for as long as its client stays, a piece at a time. Poller thread. The connection's
//! timer asks for each piece.
//!
//! If a client has not taken one piece when the next is due, it does not get the next one. So a client costs the memory
//! of a single piece, however slow it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::outgoing::Outgoing;
use super::{Connection, Core, Next, Stage};
use crate::connector::native::output::{Flushed, Unsent};
use crate::connector::native::wire::Wire;
use crate::http::{Feed, LAST_CHUNK};
use crate::telemetry::metrics::Closing;

/// A feed and its client's progress.
pub(super) struct Feeding {
    feed: Arc<dyn Feed>,
    chunked: bool,
    /// The piece that is not sent whole, and when it was begun.
    unsent: Option<(Unsent, Instant)>,
    /// When the next piece is due.
    next_at: Instant,
}

impl Feeding {
    pub(super) fn stage(feed: Arc<dyn Feed>, chunked: bool) -> Stage {
        Stage::Feeding(Box::new(Self { feed, chunked, unsent: None, next_at: Instant::now() }))
    }
}

impl Connection {
    /// Begins the feed once the head is sent.
    pub(super) fn begin_feeding(&mut self, core: &mut Core, feeding: Box<Feeding>) -> Next {
        self.stage = Stage::Feeding(feeding);
        if core.is_draining() { self.end_feeding(core) } else { self.feed_on(core) }
    }

    /// Sends the next piece, or ends the connection if the client did not take the last one in time.
    pub(super) fn feed_on(&mut self, core: &mut Core) -> Next {
        let Stage::Feeding(feeding) = &mut self.stage else { return Next::Wait };
        if let Some((_, since)) = &feeding.unsent
            && core.now >= *since + core.settings.write_timeout
        {
            core.metrics.closed(Closing::WriteTimeout);
            return Next::Reset;
        }
        let (piece, next_at) = feeding.feed.next(core.now);
        // Without a later time, the timer would fire at once, again and again.
        feeding.next_at = next_at.max(core.now + Duration::from_millis(1));
        self.due = feeding.next_at;
        if feeding.unsent.is_none() {
            let unsent = Unsent::new(Vec::new(), piece.bytes(feeding.chunked), false);
            feeding.unsent = Some((unsent, core.now));
        }
        self.flush_feed(core)
    }

    /// Sends what the socket takes of the piece in progress.
    pub(super) fn flush_feed(&mut self, core: &Core) -> Next {
        let Self { stage: Stage::Feeding(feeding), link, session, .. } = self else { return Next::Wait };
        let Some((unsent, since)) = &mut feeding.unsent else { return Next::Wait };
        match unsent.flush(&mut Wire::new(link.socket(), session.as_mut()), &mut 0) {
            Ok(Flushed::All) => {
                feeding.unsent = None;
                Next::Wait
            }
            Ok(Flushed::Blocked | Flushed::NeedsPiece) => {
                self.due = feeding.next_at.min(*since + core.settings.write_timeout);
                Next::Wait
            }
            Err(_) => Next::Close,
        }
    }

    /// Ends the feed behind the piece in progress, because the server stops.
    pub(super) fn end_feeding(&mut self, core: &mut Core) -> Next {
        let Stage::Feeding(feeding) = &mut self.stage else { return Next::Wait };
        let mut last = feeding.unsent.take().map_or_else(Vec::new, |(unsent, _)| unsent.rest());
        if feeding.chunked {
            last.extend_from_slice(LAST_CHUNK);
        }
        self.flush_later(core, Outgoing::Unsent(Unsent::new(last, Bytes::new(), true)), true);
        self.flush(core)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Mutex;

    use super::*;
    use crate::base::queue::Key;
    use crate::config::Config;
    use crate::connector::native::Native;
    use crate::connector::{Address, Connector as _, Drained, Listener, Settings};
    use crate::exchange::job::{Admission, BodyPlan, Job, Service};
    use crate::http::{Piece, Request, Response};
    use crate::telemetry::metrics::{Metrics, Reason};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A feed whose pieces have this many bytes. Each byte of a piece is the piece's number modulo 256.
    struct Numbers {
        length: usize,
        every: Duration,
        made: Mutex<(u8, Option<Instant>)>,
    }

    impl Feed for Numbers {
        fn next(&self, now: Instant) -> (Piece, Instant) {
            let (number, until) = &mut *self.made.lock().expect("no feed panics");
            if until.is_none_or(|until| now >= until) {
                *number = number.wrapping_add(1);
                *until = Some(now + self.every);
            }
            (Piece::new(&vec![*number; self.length]), until.unwrap_or(now))
        }
    }

    /// Answers every request with the feed.
    struct Feeds(Arc<Numbers>);

    impl Service for Feeds {
        fn accept(&self, _: Request) -> Admission {
            Admission::Answered(Response::feed("text/plain", Arc::clone(&self.0) as _), None)
        }

        fn enqueue(&self, _: Box<Job>) -> Result<Option<Key>, (Reason, Response)> {
            Ok(None)
        }

        fn wake(&self) {}

        fn withdraw(&self, _: Key) {}

        fn plan(&self, _: &Request) -> BodyPlan {
            BodyPlan::Unwanted(Response::text(""))
        }
    }

    fn start(length: usize, change: impl FnOnce(&mut Config)) -> (Box<Native>, SocketAddr, Arc<Metrics>) {
        let mut config = Config::default();
        config.server.selectors = Some(1);
        change(&mut config);
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind_tcp(any, false).expect("a free port");
        let Address::Tcp(address) = *listener.address() else { panic!("it is a TCP socket") };
        let made = Mutex::new((0, None));
        let numbers = Numbers { length, every: Duration::from_millis(20), made };
        let service: Arc<dyn Service> = Arc::new(Feeds(Arc::new(numbers)));
        let metrics = Arc::<Metrics>::default();
        let native = Native::start("", vec![listener], Settings::plain(&config), &service, &metrics);
        (Box::new(native.expect("threads")), address, metrics)
    }

    /// A client that has read the head of its feed. The feed ends without chunks.
    fn view(address: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(address).expect("the server accepts");
        client.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("the server takes it");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        client
    }

    fn pieces(client: &mut TcpStream, length: usize, count: usize) -> Vec<u8> {
        let mut piece = vec![0; length];
        (0..count)
            .map(|_| {
                client.read_exact(&mut piece).expect("another piece");
                assert!(piece.iter().all(|byte| *byte == piece[0]), "a piece comes whole");
                piece[0]
            })
            .collect()
    }

    #[test]
    fn a_client_that_reads_gets_every_piece_and_one_that_does_not_misses_some() {
        const LENGTH: usize = 256 * 1024;
        let (native, address, _) = start(LENGTH, |_| {});
        let mut behind = view(address);
        let mut reader = view(address);
        let seen = pieces(&mut reader, LENGTH, 100);
        // The client's sockets were full long ago. It reads the pieces that fitted into them, and then recent ones.
        let missed = pieces(&mut behind, LENGTH, 60);
        let steps =
            |seen: &[u8]| seen.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect::<Vec<_>>();
        assert!(steps(&missed).iter().any(|step| *step > 1), "{missed:?}");
        assert!(steps(&seen).iter().all(|step| *step >= 1), "none twice, none out of order: {seen:?}");
        drop((reader, behind));
        assert_eq!(native.drain(PATIENCE), Drained::Complete);
    }

    #[test]
    fn a_client_that_takes_nothing_is_closed_after_the_write_timeout_and_an_idle_one_is_not() {
        let (native, address, metrics) = start(256 * 1024, |config| {
            config.http.write_timeout = Duration::from_millis(300);
            config.http.idle_timeout = Duration::from_millis(50);
        });
        let (stuck, mut reader) = (view(address), view(address));
        while metrics.closed_for(Closing::WriteTimeout) == 0 {
            pieces(&mut reader, 256 * 1024, 1);
        }
        assert_eq!(metrics.closed_for(Closing::Idle), 0);
        pieces(&mut reader, 256 * 1024, 3);
        assert_eq!(metrics.open_connections(), 1, "the other goes on");
        // A drain ends the feed behind a whole piece, so that it does not look cut off.
        let draining = std::thread::spawn(move || native.drain(PATIENCE));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("the end comes without a reset");
        assert_eq!(rest.len() % (256 * 1024), 0);
        drop((stuck, reader));
        assert_eq!(draining.join().expect("no panic"), Drained::Complete);
    }
}
