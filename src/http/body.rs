//! Bodies that are not in memory as a whole: a request's body that is still coming, and an answer's body that is
//! written piece by piece.
//!
//! The worker's side. The connector brings the bytes and takes them.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::refusal::Refusal;

/// The source of the rest of a request's body.
pub trait Source: Send + Sync + fmt::Debug {
    /// Reads some bytes of the body. Returns 0 at its end. Waits for the client, but not past the request's deadline.
    ///
    /// # Errors
    /// The error contains a [`Refusal`] if there is somebody to tell. The client sends too slowly (408) or too much
    /// (413), the body is malformed or incomplete (400), or the deadline has passed (504).
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;

    /// Whether the whole body has come from the client, whether or not it was read.
    fn is_complete(&self) -> bool;

    /// The refusal, if the body was refused.
    fn refusal(&self) -> Option<Refusal>;

    /// Whether the client left before the body was complete.
    fn has_left(&self) -> bool;
}

/// A request's body as a stream; see [`Request::reader`](super::Request::reader). It borrows nothing, so an answer can
/// be streamed while the body is read.
#[derive(Debug)]
pub struct BodyReader {
    pub(super) bytes: Bytes,
    pub(super) source: Option<Arc<dyn Source>>,
}

impl Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(source) = &self.source {
            return source.read(into);
        }
        let count = self.bytes.len().min(into.len());
        self.bytes.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// The destination of an answer's pieces.
pub trait Sink {
    /// Takes all of `bytes`. Waits for a client that reads slowly, but not past the request's deadline.
    ///
    /// # Errors
    /// The client has left, or the deadline has passed.
    fn send(&self, bytes: &[u8]) -> io::Result<()>;
}

/// The writer of a streamed answer; see [`Response::stream`](super::Response::stream).
///
/// It collects up to 16 KiB before it sends a chunk, so that many small writes make few chunks. [`Write::flush`] sends
/// the collected bytes at once.
pub struct BodyWriter<'a> {
    sink: &'a dyn Sink,
    /// Room for the line with the chunk's size, then the written bytes.
    buffer: Vec<u8>,
    chunked: bool,
}

/// The most bytes in a chunk: one write to a socket is likely to take as many.
const CHUNK_BYTES: usize = 16 * 1024;

/// `4000\r\n`, the longest line before a chunk of that many bytes.
const SIZE_LINE_BYTES: usize = 6;

impl<'a> BodyWriter<'a> {
    /// A writer to `sink`. It uses the chunked coding (RFC 9112 section 7.1) unless the end of the connection ends the
    /// body.
    pub(crate) fn new(sink: &'a dyn Sink, chunked: bool) -> Self {
        let mut buffer = Vec::with_capacity(SIZE_LINE_BYTES + CHUNK_BYTES + 2);
        buffer.resize(SIZE_LINE_BYTES, 0);
        Self { sink, buffer, chunked }
    }

    /// Sends the collected bytes and the end of the body.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if self.chunked { self.sink.send(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SIZE_LINE_BYTES + CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.buffer.len() - SIZE_LINE_BYTES;
        if length == 0 {
            return Ok(());
        }
        let mut start = SIZE_LINE_BYTES;
        if self.chunked {
            let line = format!("{length:x}\r\n");
            start -= line.len();
            self.buffer[start..SIZE_LINE_BYTES].copy_from_slice(line.as_bytes());
            self.buffer.extend_from_slice(b"\r\n");
        }
        let sent = self.sink.send(&self.buffer[start..]);
        self.buffer.truncate(SIZE_LINE_BYTES);
        sent
    }
}

impl fmt::Debug for BodyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("chunked", &self.chunked).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::Decoder;
    use super::*;

    #[derive(Default)]
    struct Collected(RefCell<Vec<Vec<u8>>>);

    impl Sink for Collected {
        fn send(&self, bytes: &[u8]) -> io::Result<()> {
            self.0.borrow_mut().push(bytes.to_vec());
            Ok(())
        }
    }

    fn written(pieces: &[&[u8]], chunked: bool) -> Vec<Vec<u8>> {
        let sink = Collected::default();
        let mut writer = BodyWriter::new(&sink, chunked);
        for piece in pieces {
            writer.write_all(piece).expect("a vector takes all");
        }
        writer.finish().expect("a vector takes all");
        sink.0.into_inner()
    }

    #[test]
    fn small_writes_become_one_chunk() {
        let sent = written(&[b"hello", b", ", b"world"], true);
        assert_eq!(sent, [b"c\r\nhello, world\r\n".to_vec(), b"0\r\n\r\n".to_vec()]);
        assert_eq!(written(&[b"hello", b"!"], false), [b"hello!".to_vec()]);
        assert_eq!(written(&[], true), [b"0\r\n\r\n".to_vec()]);
    }

    #[test]
    fn decoding_gives_back_the_written_bytes() {
        let body: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let pieces: Vec<&[u8]> = body.chunks(7001).collect();
        let wire = written(&pieces, true).concat();
        let (mut decoder, mut read) = (Decoder::default(), Vec::new());
        assert_eq!(decoder.decode(&wire, &mut read, body.len()), Ok(wire.len()));
        assert!(decoder.is_done() && read == body);
    }
}
