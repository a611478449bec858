//! Packets of MySQL's protocol as a server writes them, and the socket that carries them, with or without damage.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use rustls::{ServerConnection, StreamOwned};

/// Bits of the capabilities that both sides name.
pub(crate) mod capability {
    /// The client names a database when it logs in.
    pub(crate) const WITH_DATABASE: u32 = 1 << 3;
    /// TLS.
    pub(crate) const TLS: u32 = 1 << 11;
    /// An OK packet tells what changed in the session.
    pub(crate) const SESSION_TRACK: u32 = 1 << 23;
    /// Rows end with an OK packet.
    pub(crate) const DEPRECATE_EOF: u32 = 1 << 24;
    /// All that MySQL 8 has, without compression, local files and TLS.
    pub(crate) const ALL: u32 = 0x01ff_f7ff & !(1 << 5) & !(1 << 7) & !TLS;
}

/// The damage to what a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mangle {
    /// None.
    Nothing,
    /// Each byte is sent alone.
    ByteByByte,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Nothing comes after so many bytes.
    Stop(usize),
    /// This byte has all its bits turned.
    Flip(usize),
    /// The header of this packet tells another length.
    Length(usize, u32),
    /// The header of this packet has another number.
    Sequence(usize, u8),
}

/// A session's socket.
pub(crate) struct Wire {
    transport: Transport,
    mangle: Mangle,
    sequence: u8,
    packets: usize,
    bytes: usize,
}

enum Transport {
    Plain(TcpStream),
    Encrypted(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// Between the two.
    None,
}

impl Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.read_exact(bytes),
            Self::Encrypted(stream) => stream.read_exact(bytes),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Encrypted(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, mangle: Mangle) -> Self {
        Self { transport: Transport::Plain(stream), mangle, sequence: 0, packets: 0, bytes: 0 }
    }

    pub(crate) fn encrypt(&mut self, session: ServerConnection) {
        let transport = std::mem::replace(&mut self.transport, Transport::None);
        let Transport::Plain(stream) = transport else { panic!("it is encrypted already") };
        self.transport = Transport::Encrypted(Box::new(StreamOwned::new(session, stream)));
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Encrypted(_))
    }

    /// The next packet of the client, put together from its parts.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let mut header = [0; 4];
            self.transport.read(&mut header)?;
            let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
            let mut part = vec![0; length];
            self.transport.read(&mut part)?;
            self.sequence = header[3].wrapping_add(1);
            packet.append(&mut part);
            if length < 0x00ff_ffff {
                return Ok(packet);
            }
        }
    }

    /// Sends one packet.
    pub(crate) fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut parts: Vec<&[u8]> = payload.chunks(0x00ff_ffff).collect();
        if parts.last().is_none_or(|last| last.len() == 0x00ff_ffff) {
            parts.push(&[]);
        }
        for part in parts {
            let length = u32::try_from(part.len()).expect("a part has 16 MiB at most");
            let (length, sequence) = match self.mangle {
                Mangle::Length(packet, other) if packet == self.packets => (other, self.sequence),
                Mangle::Sequence(packet, other) if packet == self.packets => (length, other),
                _ => (length, self.sequence),
            };
            let mut bytes = length.to_le_bytes()[..3].to_vec();
            bytes.push(sequence);
            bytes.extend_from_slice(part);
            self.sequence = self.sequence.wrapping_add(1);
            self.packets += 1;
            self.write(bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        let (begin, end) = (self.bytes, self.bytes + bytes.len());
        self.bytes = end;
        match self.mangle {
            Mangle::ByteByByte => {
                return bytes.iter().try_for_each(|byte| self.transport.write(&[*byte]));
            }
            Mangle::Flip(at) if (begin..end).contains(&at) => bytes[at - begin] ^= 0xff,
            Mangle::Cut(at) if at < end => {
                self.transport.write(&bytes[..at.saturating_sub(begin)])?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Mangle::Stop(at) if at < end => return self.transport.write(&bytes[..at.saturating_sub(begin)]),
            _ => {}
        }
        self.transport.write(&bytes)
    }
}

/// A column of a result.
#[derive(Clone)]
pub(crate) struct Column {
    name: &'static str,
    kind: u8,
    charset: u16,
    flags: u16,
}

/// A value of a row.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Number(i64),
    Text(Vec<u8>),
}

impl Column {
    /// `BIGINT`
    pub(crate) fn number(name: &'static str) -> Self {
        Self { name, kind: 8, charset: 63, flags: 0 }
    }

    /// `VARCHAR`
    pub(crate) fn text(name: &'static str) -> Self {
        Self { name, kind: 253, charset: 45, flags: 0 }
    }

    /// A column with any number of a type.
    pub(crate) fn of_type(name: &'static str, kind: u8, charset: u16) -> Self {
        Self { name, kind, charset, flags: 0 }
    }

    pub(crate) fn definition(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        for text in ["def", "main", "t", "t", self.name, self.name] {
            packet.extend(string(text.as_bytes()));
        }
        packet.push(0x0c);
        packet.extend_from_slice(&self.charset.to_le_bytes());
        packet.extend_from_slice(&255_u32.to_le_bytes());
        packet.push(self.kind);
        packet.extend_from_slice(&self.flags.to_le_bytes());
        packet.extend_from_slice(&[0, 0, 0]);
        packet
    }
}

/// A length in its encoded form.
pub(crate) fn length(length: u64) -> Vec<u8> {
    let bytes = length.to_le_bytes();
    match length {
        0..251 => vec![bytes[0]],
        251..0x1_0000 => [&[0xfc], &bytes[..2]].concat(),
        0x1_0000..0x100_0000 => [&[0xfd], &bytes[..3]].concat(),
        _ => [&[0xfe], &bytes[..]].concat(),
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [length(bytes.len() as u64), bytes.to_vec()].concat()
}

pub(crate) fn greeting(version: &str, id: u32, nonce: &[u8; 20], capabilities: u32, plugin: &str) -> Vec<u8> {
    /// `SERVER_STATUS_AUTOCOMMIT`
    const STATUS: u16 = 2;
    let bits = capabilities.to_le_bytes();
    let mut packet = vec![10];
    packet.extend_from_slice(version.as_bytes());
    packet.push(0);
    packet.extend_from_slice(&id.to_le_bytes());
    packet.extend_from_slice(&nonce[..8]);
    packet.push(0);
    packet.extend_from_slice(&bits[..2]);
    packet.push(45);
    packet.extend_from_slice(&STATUS.to_le_bytes());
    packet.extend_from_slice(&bits[2..]);
    packet.push(21);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(&nonce[8..]);
    packet.push(0);
    packet.extend_from_slice(plugin.as_bytes());
    packet.push(0);
    packet
}

pub(crate) fn ok(count: u64, status: u16) -> Vec<u8> {
    /// `SERVER_STATUS_AUTOCOMMIT`
    const AUTOCOMMIT: u16 = 2;
    let mut packet = vec![0];
    packet.extend(length(count));
    packet.push(0);
    packet.extend_from_slice(&(status | AUTOCOMMIT).to_le_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet
}

pub(crate) fn eof(status: u16) -> Vec<u8> {
    let status = (status | 2).to_le_bytes();
    vec![0xfe, 0, 0, status[0], status[1]]
}

pub(crate) fn error(code: u16, state: &str, message: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend_from_slice(&code.to_le_bytes());
    packet.push(b'#');
    packet.extend_from_slice(state.as_bytes());
    packet.extend_from_slice(message.as_bytes());
    packet
}

pub(crate) fn prepared(id: u32, columns: usize, params: usize) -> Vec<u8> {
    let count = |count: usize| u16::try_from(count).expect("a test has few").to_le_bytes();
    let mut packet = vec![0];
    packet.extend_from_slice(&id.to_le_bytes());
    packet.extend_from_slice(&count(columns));
    packet.extend_from_slice(&count(params));
    packet.extend_from_slice(&[0, 0, 0]);
    packet
}

pub(crate) fn binary_row(row: &[Value]) -> Vec<u8> {
    let mut nulls = vec![0_u8; (row.len() + 9) / 8];
    let mut values = Vec::new();
    for (at, value) in row.iter().enumerate() {
        match value {
            Value::Null => nulls[(at + 2) / 8] |= 1 << ((at + 2) % 8),
            Value::Number(number) => values.extend_from_slice(&number.to_le_bytes()),
            Value::Text(text) => values.extend(string(text)),
        }
    }
    [vec![0], nulls, values].concat()
}

pub(crate) fn text_row(row: &[Value]) -> Vec<u8> {
    let values = row.iter().map(|value| match value {
        Value::Null => vec![0xfb],
        Value::Number(number) => string(number.to_string().as_bytes()),
        Value::Text(text) => string(text),
    });
    values.collect::<Vec<_>>().concat()
}
