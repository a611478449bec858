//! Content that is known at every place, so that a lost, doubled or moved piece shows; `known.py` and `known.mjs` make the
//! same.

use std::io::Write as _;

use tempfile::NamedTempFile;

/// A prime, so that no piece of a usual size can stand in another one's place.
const PERIOD: usize = 251;

/// One write's worth of whole periods.
const BLOCK: usize = 256 * PERIOD;

/// So many bytes of it.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let period: [u8; PERIOD] = std::array::from_fn(|at| at.to_le_bytes()[0]);
    let mut content = period.repeat(length.div_ceil(PERIOD));
    content.truncate(length);
    content
}

/// A file with `length` known bytes. It is written in blocks, so that memory does not limit its size.
pub(crate) fn file(length: usize) -> NamedTempFile {
    let block = bytes(BLOCK);
    let mut file = NamedTempFile::new().expect("a temporary file");
    let mut left = length;
    while left > 0 {
        let now = left.min(BLOCK);
        file.write_all(&block[..now]).expect("there is room for the file");
        left -= now;
    }
    file
}

/// Whether `piece` is what stands `offset` bytes after the content's beginning.
pub(crate) fn is_at(offset: usize, piece: &[u8]) -> bool {
    let block = bytes(BLOCK + PERIOD);
    let start = offset % PERIOD;
    piece.chunks(BLOCK).all(|part| *part == block[start..start + part.len()])
}

#[test]
fn a_lost_or_moved_piece_shows() {
    let content = bytes(3 * BLOCK + 7);
    assert!(is_at(0, &content));
    assert!(is_at(BLOCK - 1, &content[BLOCK - 1..]));
    assert!(!is_at(0, &[&content[..4096], &content[8192..]].concat()));
    assert!(!is_at(0, &[&content[4096..8192], &content[..4096]].concat()));
}
