//! The bytes of one session, both ways, encrypted or not, and tokio-postgres's knowledge of the session when it has
//! opened it.
//!
//! tokio-postgres does the greeting: TLS, authentication, channel binding. Afterwards the worker uses the same stream
//! without it. So the stream is shared: tokio-postgres's half goes with it, and the connection stays. Runs on the
//! thread that makes a call.

use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::database::socket::{Socket, Stream};

/// The most bytes that one read of an encrypted session takes: a record of TLS (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 * 1024;

type Connector = <MakeRustlsConnect as MakeTlsConnect<Stream>>::TlsConnect;
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Stream>>::Stream;

/// One session's bytes.
pub(super) struct Channel {
    socket: Arc<Socket>,
    /// The session of TLS, if the connection is encrypted.
    tls: Option<Shared>,
}

impl Channel {
    /// The channel of a session that was opened on `socket`, with the TLS session from the handshake in `slot`.
    pub(super) fn new(socket: Arc<Socket>, slot: &Slot) -> Self {
        Self { socket, tls: slot.lock().clone() }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Sends as much as there is room for, and returns how much that was. If some is left, the next wait is for room.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.socket.send(bytes) };
        match Pin::new(&mut tls.clone()).poll_write(&mut silent(), bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(0),
        }
    }

    /// Sends the bytes that the encryption holds back. Returns whether none is left.
    pub(super) fn flush(&self) -> io::Result<bool> {
        let Some(tls) = &self.tls else { return Ok(true) };
        match Pin::new(&mut tls.clone()).poll_flush(&mut silent()) {
            Poll::Ready(flushed) => flushed.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Appends the bytes that have come. Returns whether there were any; the end of the connection is an error.
    pub(super) fn take(&self, into: &mut Vec<u8>) -> io::Result<bool> {
        let Some(tls) = &self.tls else { return self.socket.take(into) };
        let before = into.len();
        into.resize(before + RECORD_BYTES, 0);
        let mut room = ReadBuf::new(&mut into[before..]);
        let read = Pin::new(&mut tls.clone()).poll_read(&mut silent(), &mut room);
        let taken = room.filled().len();
        into.truncate(before + taken);
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) if taken == 0 => Err(ErrorKind::UnexpectedEof.into()),
            Poll::Ready(read) => read.map(|()| true),
        }
    }
}

/// A context that wakes nobody: a pending call is repeated after a wait for the socket.
fn silent() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The place where a handshake leaves its session of TLS.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Shared>>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the handshake, and also keeps its session in the slot.
pub(super) struct Handshake {
    connector: Connector,
    slot: Slot,
}

impl Handshake {
    pub(super) fn new(connector: Connector, slot: &Slot) -> Self {
        Self { connector, slot: slot.clone() }
    }
}

impl TlsConnect<Stream> for Handshake {
    type Stream = Shared;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Shared>> + Send>>;

    fn connect(self, stream: Stream) -> Self::Future {
        let connecting = self.connector.connect(stream);
        let slot = self.slot;
        Box::pin(async move {
            let session = Shared(Arc::new(Mutex::new(connecting.await?)));
            *slot.lock() = Some(session.clone());
            Ok(session)
        })
    }
}

/// A session of TLS with two users, one after the other.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Encrypted>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Encrypted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(context, into)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(context)
    }
}

impl TlsStream for Shared {
    fn channel_binding(&self) -> ChannelBinding {
        self.lock().channel_binding()
    }
}

/// The process that a session's cancel requests name. A server names its own process. A pooler makes one up, because it
/// has to find the server first. The token does not show the process, so this reads it from the request that the token
/// would send.
pub(super) fn process_named_by(token: &CancelToken) -> Option<i32> {
    /// Length, code, process and secret, four bytes each (the manual, 55.7).
    const CANCEL_REQUEST_BYTES: usize = 16;
    let written = Written::default();
    let mut request = pin!(token.cancel_query_raw(written.clone(), Unencrypted));
    let Poll::Ready(Ok(())) = request.as_mut().poll(&mut silent()) else { return None };
    let bytes = written.0.lock().unwrap_or_else(PoisonError::into_inner);
    let request = bytes.last_chunk::<CANCEL_REQUEST_BYTES>()?;
    Some(i32::from_be_bytes([request[8], request[9], request[10], request[11]]))
}

/// Accepts all bytes, and agrees to TLS.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Written {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        into.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Written {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Written {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

struct Unencrypted;

impl TlsConnect<Written> for Unencrypted {
    type Stream = Written;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Written>>;

    fn connect(self, stream: Written) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
