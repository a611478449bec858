//! Servers whose behaviour is known, because the test says what each answer is and when.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// Answers on a thread for each connection, for as long as the test runs.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    requests: AtomicUsize,
    closed: AtomicBool,
    /// Has the listener.
    accepting: Mutex<Option<JoinHandle<()>>>,
    paths: Mutex<Vec<String>>,
    served: Mutex<Vec<Served>>,
}

/// A request that was answered, as the server saw it.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    pub(crate) took: Duration,
    pub(crate) at: Instant,
}

/// The server's reaction to a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and then the connection's end.
    Last(Vec<u8>),
    /// These bytes and the connection's end; before that the server has stopped to listen.
    LastOfAll(Vec<u8>),
    /// Nothing, on a connection that stays.
    Silence,
}

/// An answer of this status with a length.
pub(crate) fn answer(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: 2\r\n\r\nhi").into_bytes()
}

pub(crate) fn ok() -> Reply {
    Reply::Bytes(answer(200))
}

impl Server {
    /// Calls `reply` for each request, with its number from 1 in the order in which they came, on its connection's thread.
    pub(crate) fn start(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            address,
            requests: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            accepting: Mutex::default(),
            paths: Mutex::default(),
            served: Mutex::default(),
        });
        let (reply, accepting) = (Arc::new(reply), Arc::clone(&shared));
        let acceptor = thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    break;
                }
                let (reply, shared) = (Arc::clone(&reply), Arc::clone(&accepting));
                let client = client.expect("a client that connected");
                thread::spawn(move || shared.serve(client, &*reply));
            }
        });
        *shared.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(acceptor);
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The path of each request that has come.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.shared.paths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that was answered so far.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.shared.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream, reply: &dyn Fn(usize) -> Reply) {
        client.set_nodelay(true).expect("a TCP socket has no-delay");
        client.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        let mut received = Vec::new();
        while let Some((came, path)) = read_request(&mut client, &mut received) {
            self.paths.lock().unwrap_or_else(PoisonError::into_inner).push(path);
            let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
            let (bytes, ends) = match reply(number) {
                Reply::Bytes(bytes) => (bytes, false),
                Reply::Last(bytes) => (bytes, true),
                Reply::LastOfAll(bytes) => {
                    self.close();
                    (bytes, true)
                }
                Reply::Silence => continue,
            };
            // A client that has left is one that does not wait any more, which some tests want.
            if client.write_all(&bytes).is_err() {
                return;
            }
            let at = Instant::now();
            let served = Served { took: at - came, at };
            self.served.lock().unwrap_or_else(PoisonError::into_inner).push(served);
            if ends {
                return;
            }
        }
    }

    /// Nobody can connect any more once this returns.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let acceptor = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(acceptor) = acceptor {
            // The listener goes with its thread, which this wakes. Connecting again and again would fill the backlog of
            // a thread that has no core yet, and the clients' connections would wait for a second.
            let _ = TcpStream::connect(self.address);
            // One that panicked has dropped its listener as well.
            let _ = acceptor.join();
        }
    }
}

/// Reads a request with the body that its `Content-Length` announces. Returns when it was complete, and its path; `None` when no
/// request follows.
fn read_request(client: &mut TcpStream, received: &mut Vec<u8>) -> Option<(Instant, String)> {
    loop {
        if let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&received[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
            if received.len() >= head + 4 + length {
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                received.drain(..head + 4 + length);
                return Some((Instant::now(), path));
            }
        }
        let mut bytes = [0; 4096];
        match client.read(&mut bytes) {
            Ok(0) | Err(_) => return None,
            Ok(read) => received.extend_from_slice(&bytes[..read]),
        }
    }
}
