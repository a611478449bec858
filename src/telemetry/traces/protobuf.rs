//! Protocol Buffers on the wire (<https://protobuf.dev/programming-guides/encoding/>), as far as spans need them. They
//! are written into one buffer without types in between.
//!
//! Pure.

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn uint(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    pub(super) fn fixed64(&mut self, field: u64, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn fixed32(&mut self, field: u64, value: u32) {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Appends bytes that are encoded already, or a part of a text.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes an inner message. Its length is known only afterwards, and for most messages it is a single byte.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        self.key(field, LENGTH);
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        if let Ok(short @ ..0x80) = u8::try_from(length) {
            self.0[at] = short;
        } else {
            let mut prefix = Self::default();
            prefix.varint(length as u64);
            self.0.splice(at..=at, prefix.0);
        }
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// A field of a message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The fields of a message with their numbers, up to the first malformed one.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = take_varint(&mut message)?;
        let field = match key & 7 {
            VARINT => Field::Number(take_varint(&mut message)?),
            FIXED64 => Field::Bytes(message.split_off(..8)?),
            LENGTH => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                Field::Bytes(message.split_off(..length)?)
            }
            FIXED32 => Field::Bytes(message.split_off(..4)?),
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let byte = message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_matches_the_documentation() {
        let mut message = Message::default();
        message.uint(1, 150);
        message.bytes(2, b"testing");
        message.message(3, |inner| inner.uint(1, 150));
        message.fixed32(4, 1);
        message.fixed64(5, 2);
        let shown = b"\x08\x96\x01\x12\x07testing\x1a\x03\x08\x96\x01\x25\x01\0\0\0\x29\x02\0\0\0\0\0\0\0";
        assert_eq!(message.into_bytes(), shown);
    }

    #[test]
    fn messages_of_any_length_are_read_back() {
        for length in [0, 126, 127, 128, 129, 20_000] {
            let text = vec![b'x'; length];
            let mut message = Message::default();
            message.message(9, |inner| inner.message(1, |innermost| innermost.bytes(16, &text)));
            message.uint(1, u64::MAX);
            let bytes = message.into_bytes();
            let all: Vec<_> = fields(&bytes).collect();
            let [(9, Field::Bytes(inner)), (1, Field::Number(u64::MAX))] = all[..] else { panic!("{all:?}") };
            let [(1, Field::Bytes(innermost))] = fields(inner).collect::<Vec<_>>()[..] else { panic!("one") };
            assert_eq!(fields(innermost).collect::<Vec<_>>(), [(16, Field::Bytes(&text))]);
        }
    }

    #[test]
    fn reading_ends_at_the_first_malformed_field() {
        for broken in [
            &b"\x12\x7f"[..],
            b"\x0b",
            b"\x08",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09\0",
        ] {
            assert_eq!(fields(broken).count(), 0);
        }
    }
}
