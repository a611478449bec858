//! Packets over the bytes of a channel: their frames, and packets of more than 16 MiB, which take several frames.
//!
//! Owns [`Frames`]. Runs on the thread that makes a call; knows no packet's content.

use std::io::{self, ErrorKind};
use std::mem;
use std::ops::Range;
use std::time::Instant;

use super::channel::Channel;

/// The bytes before a frame's content: its length in three bytes, and its number within the command.
const HEADER_BYTES: usize = 4;

/// The most content of a frame. A frame of this length is followed by another one of the same packet.
const CONTENT_MAX: usize = 0xff_ffff;

/// The longest packet: no server may have a larger `max_allowed_packet`.
const PACKET_BYTES_MAX: usize = 1 << 30;

/// The size of the buffer that is kept from one answer to the next.
const KEPT_BYTES: usize = 64 * 1024;

pub(super) struct Frames {
    pub(super) channel: Channel,
    /// The received bytes. The bytes before `read` were used.
    received: Vec<u8>,
    read: usize,
    /// The number of the next frame from the server.
    number: u8,
}

/// Why a packet did not come or go in time.
#[derive(Debug)]
pub(super) enum Stop {
    TimeUp,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Frames {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, received: Vec::new(), read: 0, number: 0 }
    }

    /// The next packet's first frame has this number: 1 for the answer to a command.
    pub(super) fn expect(&mut self, number: u8) {
        self.number = number;
    }

    /// The number of the next frame of the same command, whichever side sends it.
    pub(super) fn next_number(&self) -> u8 {
        self.number
    }

    /// Whether bytes have come that were not used.
    pub(super) fn has_unread(&self) -> bool {
        self.read < self.received.len()
    }

    pub(super) fn body(&self, packet: &Range<usize>) -> &[u8] {
        &self.received[packet.clone()]
    }

    /// The next packet, if all of it has been [taken](Self::take). Its place is right until the next `take`.
    pub(super) fn next_taken(&mut self) -> io::Result<Option<Range<usize>>> {
        let (mut at, mut number, mut length) = (self.read, self.number, 0);
        let mut contents: Vec<Range<usize>> = Vec::new();
        loop {
            let Some(header) = self.received.get(at..at + HEADER_BYTES) else { return Ok(None) };
            let content = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
            if header[3] != number {
                let came = header[3];
                return Err(invalid(format!("a packet has the number {came}, expected {number}")));
            }
            length += content;
            if length > PACKET_BYTES_MAX {
                return Err(invalid(format!("a packet is longer than {PACKET_BYTES_MAX} bytes")));
            }
            let place = at + HEADER_BYTES..at + HEADER_BYTES + content;
            if place.end > self.received.len() {
                return Ok(None);
            }
            (at, number) = (place.end, number.wrapping_add(1));
            if content < CONTENT_MAX && contents.is_empty() {
                (self.read, self.number) = (at, number);
                return Ok(Some(place));
            }
            contents.push(place);
            if content < CONTENT_MAX {
                break;
            }
        }
        // The contents move together, over the headers between them.
        let start = contents[0].start;
        let mut end = start;
        for place in contents {
            let count = place.len();
            self.received.copy_within(place, end);
            end += count;
        }
        (self.read, self.number) = (at, number);
        Ok(Some(start..end))
    }

    /// Takes the bytes that have come. Returns whether there were any; the end of the connection is an error.
    pub(super) fn take(&mut self) -> io::Result<bool> {
        self.received.drain(..self.read);
        self.read = 0;
        self.channel.take(&mut self.received)
    }

    /// Gives back the memory of a large packet.
    pub(super) fn shrink(&mut self) {
        if self.received.capacity() > KEPT_BYTES && !self.has_unread() {
            (self.received, self.read) = (Vec::new(), 0);
        }
    }

    /// Waits for the next packet.
    pub(super) fn packet(&mut self, until: Instant) -> Result<Range<usize>, Stop> {
        loop {
            if let Some(packet) = self.next_taken()? {
                return Ok(packet);
            }
            if !self.take()? && !self.channel.socket().wait(until) && Instant::now() >= until {
                return Err(Stop::TimeUp);
            }
        }
    }

    /// Sends bytes, and waits for room.
    pub(super) fn send(&mut self, mut bytes: &[u8], until: Instant) -> Result<(), Stop> {
        loop {
            let sent = self.channel.send(bytes)?;
            bytes = &bytes[sent..];
            if bytes.is_empty() && self.channel.flush()? {
                return Ok(());
            }
            if sent == 0 || bytes.is_empty() {
                if !self.channel.socket().wait(until) && Instant::now() >= until {
                    return Err(Stop::TimeUp);
                }
                self.channel.take(&mut self.received)?;
            }
        }
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// Appends a packet whose content `put` appends. Its first frame has this number. Returns the number of the next frame, which is the
/// first one of the answer. If `put` fails, nothing is appended.
pub(super) fn put_packet<E>(
    out: &mut Vec<u8>,
    mut number: u8,
    put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<u8, E> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    put(out).inspect_err(|_| out.truncate(start))?;
    let mut length = out.len() - start - HEADER_BYTES;
    if length < CONTENT_MAX {
        write_header(&mut out[start..], length, number);
        return Ok(number.wrapping_add(1));
    }
    let whole = out.split_off(start);
    let mut rest = &whole[HEADER_BYTES..];
    loop {
        let (content, after) = rest.split_at(length.min(CONTENT_MAX));
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        write_header(&mut out[at..], content.len(), number);
        out.extend_from_slice(content);
        number = number.wrapping_add(1);
        if content.len() < CONTENT_MAX {
            return Ok(number);
        }
        length = after.len();
        rest = after;
    }
}

fn write_header(out: &mut [u8], length: usize, number: u8) {
    let bytes = length.to_le_bytes();
    out[..HEADER_BYTES].copy_from_slice(&[bytes[0], bytes[1], bytes[2], number]);
}

/// Gives back the memory of a large batch.
pub(super) fn shrink(batch: &mut Vec<u8>) {
    batch.clear();
    if batch.capacity() > KEPT_BYTES {
        drop(mem::take(batch));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::database::socket::Socket;

    fn pair() -> (Frames, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        (Frames::new(Channel::new(Socket::new(stream.into()).unwrap())), other)
    }

    fn framed(content: &[u8], number: u8) -> Vec<u8> {
        let mut out = Vec::new();
        put_packet(&mut out, number, |out| {
            out.extend_from_slice(content);
            Ok::<_, ()>(())
        })
        .unwrap();
        out
    }

    #[test]
    fn a_packet_of_any_length_comes_as_it_was_sent() {
        let (mut frames, mut other) = pair();
        let until = Instant::now() + Duration::from_secs(60);
        for length in [0, 1, CONTENT_MAX - 1, CONTENT_MAX, CONTENT_MAX + 1, 2 * CONTENT_MAX] {
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            let sent = framed(&content, 1);
            other = thread::scope(|scope| {
                let writer = scope.spawn(move || {
                    other.write_all(&sent).unwrap();
                    other
                });
                frames.expect(1);
                let packet = frames.packet(until).unwrap();
                assert!(frames.body(&packet) == content, "{length}");
                writer.join().unwrap()
            });
        }
        frames.shrink();
        assert!(frames.received.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn a_wrong_number_and_a_packet_that_grows_too_long_are_errors() {
        let (mut frames, mut other) = pair();
        other.write_all(&framed(b"x", 3)).unwrap();
        let error = frames.packet(Instant::now() + Duration::from_secs(10)).unwrap_err();
        assert!(matches!(error, Stop::Io(error) if error.kind() == ErrorKind::InvalidData));
        let (mut frames, other) = pair();
        drop(other);
        let error = frames.packet(Instant::now() + Duration::from_secs(10)).unwrap_err();
        assert!(matches!(error, Stop::Io(error) if error.kind() == ErrorKind::UnexpectedEof));
    }
}
