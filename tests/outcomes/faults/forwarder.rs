//! Stands between server and database, and can let go of everything that passes, as a network does that drops packets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::support::PATIENCE;

/// Forwards connections to a port of this machine. Its threads end with their connections, which end with it.
pub(crate) struct Forwarder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Nobody can connect while this is held.
pub(crate) struct Full(Vec<TcpStream>);

struct Shared {
    target: SocketAddr,
    valve: Mutex<Valve>,
    turned: Condvar,
}

#[derive(Default)]
struct Valve {
    /// Nothing passes. Bytes sent meanwhile pass later, as lost packets are sent again.
    closed: bool,
    /// The forwarder does not even accept connections.
    accepts_none: bool,
    ended: bool,
    /// To be cut.
    streams: Vec<TcpStream>,
}

impl Forwarder {
    pub(crate) fn to(port: u16) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("the system has sockets");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        // Short, so that it is soon full.
        socket.listen(8).expect("a bound socket listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("a bound listener has an address");
        let target = (Ipv4Addr::LOCALHOST, port).into();
        let shared = Arc::new(Shared { target, valve: Mutex::default(), turned: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on nothing passes, on old and new connections, and neither side learns of it.
    pub(crate) fn close(&self) {
        self.shared.turn(|valve| valve.closed = true);
    }

    /// Everything passes again.
    pub(crate) fn open(&self) {
        self.shared.turn(|valve| valve.closed = false);
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.shared.turn(|valve| cut(&mut valve.streams));
    }

    /// Cuts all connections, and lets no client connect: the system neither accepts nor refuses new connections.
    pub(crate) fn fill(&self) -> Full {
        self.shared.turn(|valve| {
            valve.accepts_none = true;
            cut(&mut valve.streams);
        });
        let mut waiting = Vec::new();
        // Until the backlog is full: then the system drops what asks to connect.
        while let Ok(stream) = TcpStream::connect_timeout(&self.address, Duration::from_millis(100)) {
            waiting.push(stream);
            assert!(waiting.len() < 100, "the backlog does not fill");
        }
        Full(waiting)
    }

    /// Takes connections again.
    pub(crate) fn drain(&self, full: Full) {
        drop(full.0);
        self.shared.turn(|valve| valve.accepts_none = false);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.turn(|valve| {
            valve.ended = true;
            cut(&mut valve.streams);
        });
        // Wakes the thread that accepts, if it does; where the backlog is full it is awake.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if !self.wait_while(|valve| valve.accepts_none) {
                return;
            }
            let shared = Arc::clone(&self);
            thread::spawn(move || shared.forward(&client));
        }
    }

    /// One connection, to the end of both directions.
    fn forward(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        if !self.wait_while(|valve| valve.closed) {
            return Ok(());
        }
        // The target may not be there; then the client's connection ends here.
        let server = TcpStream::connect_timeout(&self.target, PATIENCE)?;
        for (from, to) in [(client, &server), (&server, client)] {
            from.set_nodelay(true)?;
            self.lock().streams.push(from.try_clone()?);
            let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(self));
            thread::spawn(move || shared.copy(&from, &to));
        }
        Ok(())
    }

    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = [0; 16 * 1024];
        loop {
            // A reset is passed on as an end: both say that the session is over.
            let length = from.read(&mut bytes).unwrap_or(0);
            if !self.wait_while(|valve| valve.closed) {
                return;
            }
            if length == 0 || to.write_all(&bytes[..length]).is_err() {
                // Fails when it has ended already.
                let _ = to.shutdown(Shutdown::Write);
                let _ = from.shutdown(Shutdown::Read);
                return;
            }
        }
    }

    /// Waits while this is so; false when all is over.
    fn wait_while(&self, holds: impl Fn(&Valve) -> bool) -> bool {
        let valve = self.lock();
        let waited = self.turned.wait_while(valve, |valve| !valve.ended && holds(valve));
        !waited.expect("no thread panics while it holds the valve").ended
    }

    fn turn(&self, turn: impl FnOnce(&mut Valve)) {
        turn(&mut self.lock());
        self.turned.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Valve> {
        self.valve.lock().expect("no thread panics while it holds the valve")
    }
}

fn cut(streams: &mut Vec<TcpStream>) {
    for stream in streams.drain(..) {
        // Fails when it has ended already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
