//! A body without an end: its pieces come over time and are the same for every reader.
//!
//! Poller thread. No worker writes it, so a reader costs a connection but no thread.

use std::time::Instant;

use bytes::Bytes;

/// The pieces of a body that is sent for as long as its client stays.
pub trait Feed: Send + Sync {
    /// Returns the piece to send now, and the time of the next piece. Never blocks. Until that time every call returns
    /// the same piece.
    fn next(&self, now: Instant) -> (Piece, Instant);
}

/// A part of a feed, ready to be sent. It is made once for all readers.
#[derive(Clone, Debug)]
pub struct Piece {
    chunk: Bytes,
    plain: Bytes,
}

/// The end of a chunked body (RFC 9112 section 7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Piece {
    /// A piece of these bytes. It must not be empty, because an empty chunk would end the body.
    pub fn new(bytes: &[u8]) -> Self {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        let start = chunk.len();
        chunk.extend_from_slice(bytes);
        let end = chunk.len();
        chunk.extend_from_slice(b"\r\n");
        let chunk = Bytes::from(chunk);
        Self { plain: chunk.slice(start..end), chunk }
    }

    /// The piece as a chunk, or as plain bytes for a client that does not know chunks.
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
