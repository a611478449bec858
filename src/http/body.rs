//! Bodies that are not bytes in memory: a request's that is still coming, an answer's that is written piece by piece.
//!
//! Worker thread, on this side; who brings and takes the bytes is the connector's business.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::refusal::Refusal;

/// Where the rest of a request's body comes from.
pub trait Source: Send + Sync + fmt::Debug {
    /// Reads some of it; 0 at its end. Waits for the client, but not past the request's deadline.
    ///
    /// # Errors
    /// [`Refusal`] inside of the error, for whom there is to tell: the client sends too slowly (408), too much (413), no
    /// proper body or not all of it (400), or the deadline has passed (504).
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;

    /// Whether all of it has come from the client, be it read or not.
    fn is_complete(&self) -> bool;

    /// Why it was refused, if it was.
    fn refusal(&self) -> Option<Refusal>;

    /// Whether its client has left before it was complete.
    fn has_left(&self) -> bool;
}

/// A request's body as a stream; see [`Request::reader`](super::Request::reader). It borrows nothing, so that a streamed
/// answer can be written out of it.
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

/// Where an answer's pieces go.
pub trait Sink {
    /// Takes all of `bytes`. Waits for a client that reads slowly, but not past the request's deadline.
    ///
    /// # Errors
    /// The client has left, or the deadline has passed.
    fn send(&self, bytes: &[u8]) -> io::Result<()>;
}

/// What a streamed answer is written to; see [`Response::stream`](super::Response::stream).
///
/// Collects up to 16 KiB before it sends anything, so that many small writes make few chunks; [`Write::flush`] sends
/// what there is.
pub struct BodyWriter<'a> {
    sink: &'a dyn Sink,
    /// Room for the line with the chunk's size, then what was written.
    buffer: Vec<u8>,
    chunked: bool,
}

/// A chunk's bytes at most: what one write to a socket is likely to take.
const CHUNK_BYTES: usize = 16 * 1024;

/// `4000\r\n`, the longest line before a chunk of that many bytes.
const SIZE_LINE_BYTES: usize = 6;

impl<'a> BodyWriter<'a> {
    /// Writes to `sink`; in the chunked coding (RFC 9112 section 7.1) unless the connection's end is the body's.
    pub(crate) fn new(sink: &'a dyn Sink, chunked: bool) -> Self {
        let mut buffer = Vec::with_capacity(SIZE_LINE_BYTES + CHUNK_BYTES + 2);
        buffer.resize(SIZE_LINE_BYTES, 0);
        Self { sink, buffer, chunked }
    }

    /// Sends what is left and the body's end.
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
    fn what_was_written_is_what_is_decoded() {
        let body: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let pieces: Vec<&[u8]> = body.chunks(7001).collect();
        let wire = written(&pieces, true).concat();
        let (mut decoder, mut read) = (Decoder::default(), Vec::new());
        assert_eq!(decoder.decode(&wire, &mut read, body.len()), Ok(wire.len()));
        assert!(decoder.is_done() && read == body);
    }
}
