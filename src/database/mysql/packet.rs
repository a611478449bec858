//! Packets as bytes: their parts, the answers OK, ERR and EOF, and the description of a column.
//!
//! Owns [`Reader`], [`Done`] and [`Column`]. Pure. The rules are those of the pages "Client/Server Protocol" in the manuals of MySQL
//! and MariaDB. No length in a packet is trusted past the packet's end.

/// The bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a packet from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'p>(pub(super) &'p [u8]);

impl<'p> Reader<'p> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'p [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number whose first byte says how many bytes it has.
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        match self.u8()? {
            small @ 0..=0xfa => Ok(small.into()),
            0xfc => self.u16().map(u64::from),
            0xfd => {
                self.bytes(3).map(|bytes| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])))
            }
            0xfe => self.u64(),
            _ => Err(Malformed),
        }
    }

    /// Bytes behind their length.
    pub(super) fn counted(&mut self) -> Result<&'p [u8], Malformed> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// Bytes up to a zero, which is skipped. Without one, all the rest.
    pub(super) fn until_zero(&mut self) -> &'p [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let taken = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        taken
    }
}

/// Appends a number whose first byte says how many bytes it has.
pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    match number {
        0..=0xfa => out.extend_from_slice(&number.to_le_bytes()[..1]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&number.to_le_bytes()[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&number.to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// Appends bytes behind their length.
pub(super) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The first byte of the packet that ends an answer.
pub(super) const OK: u8 = 0;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERR: u8 = 0xff;

/// Capabilities of the protocol that the two sides agree on.
pub(super) mod capability {
    /// MySQL calls it `CLIENT_LONG_PASSWORD`. A MariaDB server with more than 32 capabilities does not set it.
    pub(in super::super) const MYSQL: u32 = 1;
    /// `affected rows` counts the rows that a statement found, also where it changed nothing. Otherwise `expect_rows` would mean
    /// something else than with other databases.
    pub(in super::super) const FOUND_ROWS: u32 = 1 << 1;
    pub(in super::super) const CONNECT_WITH_DB: u32 = 1 << 3;
    pub(in super::super) const PROTOCOL_41: u32 = 1 << 9;
    pub(in super::super) const SSL: u32 = 1 << 11;
    pub(in super::super) const TRANSACTIONS: u32 = 1 << 13;
    pub(in super::super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(in super::super) const MULTI_RESULTS: u32 = 1 << 17;
    pub(in super::super) const PS_MULTI_RESULTS: u32 = 1 << 18;
    pub(in super::super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(in super::super) const CONNECT_ATTRS: u32 = 1 << 20;
    pub(in super::super) const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    pub(in super::super) const SESSION_TRACK: u32 = 1 << 23;
    pub(in super::super) const DEPRECATE_EOF: u32 = 1 << 24;
    /// MariaDB's own, in a field of their own: columns say more about their types.
    pub(in super::super) const EXTENDED_TYPES: u32 = 1 << 3;
    /// MariaDB's own: columns are described again only after a change.
    pub(in super::super) const CACHE_METADATA: u32 = 1 << 4;
}

/// The server is in a transaction.
const IN_TRANSACTION: u16 = 1;
/// Another result follows.
const MORE_RESULTS: u16 = 1 << 3;
/// Something about the session has changed.
const SESSION_CHANGED: u16 = 1 << 14;

/// The end of a successful answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// The number of rows that the statement found to change.
    pub(super) affected: u64,
    /// The number that an `auto_increment` column gave out; 0: none.
    pub(super) last_id: u64,
    status: u16,
    /// The statement has changed a variable, the database or a temporary table of its session.
    pub(super) changed_session: bool,
}

impl Done {
    pub(super) fn is_in_transaction(self) -> bool {
        self.status & IN_TRANSACTION != 0
    }

    pub(super) fn is_followed(self) -> bool {
        self.status & MORE_RESULTS != 0
    }

    /// Reads an OK packet.
    pub(super) fn of_ok(packet: &[u8], tracks_session: bool) -> Result<Self, Malformed> {
        let mut reader = Reader(packet);
        reader.u8()?;
        let (affected, last_id, status) = (reader.number()?, reader.number()?, reader.u16()?);
        let _warnings = reader.u16()?;
        let mut done = Self { affected, last_id, status, changed_session: false };
        if tracks_session && !reader.is_empty() {
            let _message = reader.counted()?;
            if status & SESSION_CHANGED != 0 {
                done.changed_session = has_changed(reader.counted()?)?;
            }
        }
        Ok(done)
    }

    /// Reads an EOF packet.
    pub(super) fn of_eof(packet: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(packet);
        reader.u8()?;
        let _warnings = reader.u16()?;
        Ok(Self { status: reader.u16()?, ..Self::default() })
    }
}

/// Whether the state of a session, as the server tells it, has changed beyond its transaction.
fn has_changed(state: &[u8]) -> Result<bool, Malformed> {
    /// A variable, the database, and "something".
    const CHANGES: [u8; 3] = [0, 1, 2];
    let mut reader = Reader(state);
    let mut changed = false;
    while !reader.is_empty() {
        let kind = reader.u8()?;
        reader.counted()?;
        changed |= CHANGES.contains(&kind);
    }
    Ok(changed)
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: u8,
    pub(super) charset: u16,
    pub(super) length: u32,
    pub(super) flags: u16,
    /// MariaDB's name of a type that the protocol has no number for, such as `uuid`, `inet6` or `point`; `json` for its format.
    pub(super) extended: Option<String>,
}

impl Column {
    pub(super) fn read(packet: &[u8], has_extended: bool) -> Result<Self, Malformed> {
        let mut reader = Reader(packet);
        // Catalog, schema, alias of the table, table.
        for _ in 0..4 {
            reader.counted()?;
        }
        let name = String::from_utf8_lossy(reader.counted()?).into_owned();
        let _original_name = reader.counted()?;
        let mut extended = None;
        if has_extended {
            let mut parts = Reader(reader.counted()?);
            while !parts.is_empty() {
                let _what = parts.u8()?;
                extended = Some(String::from_utf8_lossy(parts.counted()?).into_owned());
            }
        }
        let _length_of_fixed_part = reader.number()?;
        let (charset, length, kind, flags) = (reader.u16()?, reader.u32()?, reader.u8()?, reader.u16()?);
        Ok(Self { name, kind, charset, length, flags, extended })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_read_as_it_was_written(number: u64) {
            let mut out = Vec::new();
            put_number(&mut out, number);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), flag: bool) {
            // A result of some kind is all that is asked for.
            let results = (Done::of_ok(&bytes, flag), Done::of_eof(&bytes), Column::read(&bytes, flag));
            prop_assert!(results.0.is_ok() || results.0 == Err(Malformed));
        }
    }

    #[test]
    fn an_answer_says_that_a_session_was_changed() {
        // A message of no bytes, then three bytes of state: the kind 2 with the text "1".
        let changed = [OK, 3, 0, 0, 0x40, 0, 0, 0, 4, 2, 2, 1, b'1'];
        let done = Done::of_ok(&changed, true).unwrap();
        assert!(done.changed_session && !done.is_in_transaction());
        assert_eq!(done.affected, 3);
        // A transaction's characteristics, which are no change of the session.
        let other = [OK, 3, 0, 1, 0x40, 0, 0, 0, 4, 4, 2, 1, b'1'];
        let done = Done::of_ok(&other, true).unwrap();
        assert!(!done.changed_session && done.is_in_transaction());
        assert_eq!(Done::of_ok(&changed[..12], true), Err(Malformed));
    }
}
