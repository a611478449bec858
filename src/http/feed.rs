//! A body without an end: pieces that come by time, the same for everybody who reads it.
//!
//! Poller thread. No worker writes it, so a reader costs a connection and no thread.

use std::time::Instant;

use bytes::Bytes;

/// What is sent piece by piece for as long as its client stays.
pub trait Feed: Send + Sync {
    /// The piece to send now, and when there is another. Never blocks. Who asks twice within that time gets the same piece.
    fn next(&self, now: Instant) -> (Piece, Instant);
}

/// A part of a feed, ready to be sent: made once, however many read it.
#[derive(Clone, Debug)]
pub struct Piece {
    chunk: Bytes,
    plain: Bytes,
}

/// What ends a body of chunks (RFC 9112 section 7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Piece {
    /// A piece of these bytes, of which there must be some: an empty chunk would end the body.
    pub fn new(bytes: &[u8]) -> Self {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        let start = chunk.len();
        chunk.extend_from_slice(bytes);
        let end = chunk.len();
        chunk.extend_from_slice(b"\r\n");
        let chunk = Bytes::from(chunk);
        Self { plain: chunk.slice(start..end), chunk }
    }

    /// As a chunk, or as it is for a client that knows no chunks.
    pub(crate) fn bytes(&self, chunked: bool) -> Bytes {
        if chunked { self.chunk.clone() } else { self.plain.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_one_chunk_or_just_its_bytes() {
        let piece = Piece::new(b"data: 0123456789\n\n");
        assert_eq!(piece.bytes(true), "12\r\ndata: 0123456789\n\n\r\n");
        assert_eq!(piece.bytes(false), "data: 0123456789\n\n");
    }
}
