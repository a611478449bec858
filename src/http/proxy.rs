//! The PROXY protocol, versions 1 and 2: a proxy names its client before the client's first byte.
//!
//! Poller thread. Section numbers refer to the specification,
//! [proxy-protocol.txt](https://github.com/haproxy/haproxy/blob/master/doc/proxy-protocol.txt). The configuration says
//! whether a connection begins with a header and which peers are trusted. The server never guesses (section 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The result of reading the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed, but never more than 65,551 in all.
    Incomplete,
    /// The header is complete.
    Complete {
        /// Its length in bytes. The client's own bytes begin there.
        used: usize,
        /// The client that the proxy names, as written: an IPv4-mapped address stays one. `None` for LOCAL, UNKNOWN,
        /// UNSPEC and Unix sockets; then the connection's own address counts.
        source: Option<SocketAddr>,
    },
}

/// The connection begins with something other than a PROXY header. It must be closed (section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY protocol: expected {expected}, received {received}")]
pub struct ProxyError {
    expected: &'static str,
    received: String,
}

/// The longest version 1 header with its CRLF, as section 2.1 says.
const MAX_LINE_BYTES: usize = 107;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length. The length says how many bytes follow.
const BINARY_START_BYTES: usize = SIGNATURE.len() + 4;

/// Reads the header from the beginning of a connection. Further bytes change only [`ProxyHeader::Incomplete`], so the
/// split of the bytes does not matter.
///
/// Only the source of a version 2 header is read. The TLVs after the addresses (section 2.2) are skipped. That includes
/// a checksum (`PP2_TYPE_CRC32C`): section 2.2.3 requires its verification only from receivers that support it, and TCP
/// has its own.
///
/// # Errors
/// The bytes are not a header, or a header of version 1 is longer than 107 bytes. The length field of version 2 allows 65,551 bytes.
/// All of them are accepted, because proxies put a client's whole certificate behind the addresses. Only trusted proxies send headers.
pub fn read_proxy_header(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    // The first byte tells the two versions apart.
    let start = if bytes.first() == SIGNATURE.first() { SIGNATURE } else { LINE_START };
    let same = bytes.iter().zip(start).take_while(|(byte, wanted)| byte == wanted).count();
    if same == start.len() {
        return if start == SIGNATURE { read_binary(bytes) } else { read_line(bytes) };
    }
    if same == bytes.len() {
        return Ok(ProxyHeader::Incomplete);
    }
    Err(error("`PROXY ` or the signature of version 2", quote(&bytes[..=same])))
}

fn error(expected: &'static str, received: impl Into<String>) -> ProxyError {
    ProxyError { expected, received: received.into() }
}

/// The bytes in a form that a log can show.
fn quote(bytes: &[u8]) -> String {
    format!("`{}`", bytes.escape_ascii())
}

/// Reads version 1 (section 2.1). The line is looked at only when its CRLF is there, as the section asks.
fn read_line(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let within = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', within) else {
        return unended(within);
    };
    // A CR or LF alone ends no line. It is refused even after UNKNOWN, which allows everything else, because readers
    // disagree on whether it ends the line.
    match within[end..] {
        [b'\r', b'\n', ..] => Ok(ProxyHeader::Complete { used: end + 2, source: read_words(&bytes[..end])? }),
        [b'\r'] => unended(within),
        _ => Err(error("CRLF at the line's end", format!("a CR or LF alone after {}", quote(&bytes[..end])))),
    }
}

fn unended(line: &[u8]) -> Result<ProxyHeader, ProxyError> {
    if line.len() < MAX_LINE_BYTES {
        return Ok(ProxyHeader::Incomplete);
    }
    Err(error("CRLF within 107 bytes", quote(line)))
}

/// The source that a line names.
fn read_words(line: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let mut words = line[LINE_START.len()..].split(|&byte| byte == b' ');
    match words.next() {
        Some(b"UNKNOWN") => Ok(None),
        Some(b"TCP4") => {
            read_addresses(words, ipv4, ["an IPv4 source address", "an IPv4 destination address"]).map(Some)
        }
        Some(b"TCP6") => {
            read_addresses(words, ipv6, ["an IPv6 source address", "an IPv6 destination address"]).map(Some)
        }
        family => Err(error("TCP4, TCP6 or UNKNOWN", quote(family.unwrap_or_default()))),
    }
}

/// Reads source, destination, source port and destination port, with nothing after them.
fn read_addresses<'a>(
    mut words: impl Iterator<Item = &'a [u8]>,
    address: impl Fn(&str) -> Option<IpAddr>,
    [source, destination]: [&'static str; 2],
) -> Result<SocketAddr, ProxyError> {
    let ip = read_word(words.next(), &address, source)?;
    read_word(words.next(), &address, destination)?;
    let port = decimal::<u16>;
    let from = read_word(words.next(), port, "a source port, 0 to 65535 without leading zeros")?;
    read_word(words.next(), port, "a destination port, 0 to 65535 without leading zeros")?;
    match words.next() {
        None => Ok(SocketAddr::new(ip, from)),
        Some(word) => Err(error("CRLF after the destination port", format!("a space and {}", quote(word)))),
    }
}

fn read_word<T>(
    word: Option<&[u8]>,
    read: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Result<T, ProxyError> {
    let word = word.ok_or_else(|| error(expected, "the line's end"))?;
    std::str::from_utf8(word).ok().and_then(read).ok_or_else(|| error(expected, quote(word)))
}

/// The standard library reads what the specification asks for: four decimal numbers without leading zeros.
fn ipv4(word: &str) -> Option<IpAddr> {
    Ipv4Addr::from_str(word).ok().map(IpAddr::V4)
}

/// An IPv6 address without a zone. It may end with a dotted quad, because `inet_ntop` writes mapped addresses like
/// that.
fn ipv6(word: &str) -> Option<IpAddr> {
    Ipv6Addr::from_str(word).ok().map(IpAddr::V6)
}

/// A decimal number in its only canonical form: no sign, no leading zeros.
pub(super) fn decimal<T: FromStr>(word: &str) -> Option<T> {
    let canonical = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if canonical { word.parse().ok() } else { None }
}

/// Reads version 2 (section 2.2). Each byte is checked as soon as it is there.
fn read_binary(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let (_, rest) = bytes.split_at(SIGNATURE.len());
    let Some(&command) = rest.first() else { return Ok(ProxyHeader::Incomplete) };
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(error("version 2 with LOCAL (0x20) or PROXY (0x21)", format!("{command:#04x}"))),
    };
    let Some(&family) = rest.get(1) else { return Ok(ProxyHeader::Incomplete) };
    // With LOCAL any family is ignored, and the block is only skipped.
    let least = if local { 0 } else { address_bytes(family)? };
    let Some(length) = rest.get(2..).and_then(<[u8]>::first_chunk) else {
        return Ok(ProxyHeader::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < least {
        let expected = "addresses as long as their family's: 12 bytes for IPv4, 36 for IPv6, 216 for Unix";
        return Err(error(expected, format!("{length} bytes for {family:#04x}")));
    }
    let used = BINARY_START_BYTES + length;
    let Some(block) = bytes.get(BINARY_START_BYTES..used) else { return Ok(ProxyHeader::Incomplete) };
    let source = if local { None } else { read_block(family, block) };
    Ok(ProxyHeader::Complete { used, source })
}

/// The length of a family's addresses: source and destination with their ports.
fn address_bytes(family: u8) -> Result<usize, ProxyError> {
    match family {
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        // UNSPEC as the family, the protocol or both: the block is ignored.
        0x00..=0x02 | 0x10 | 0x20 | 0x30 => Ok(0),
        _ => {
            let expected = "a family of 0 (UNSPEC) to 3 (Unix) and a protocol of 0 (UNSPEC) to 2 (DGRAM)";
            Err(error(expected, format!("{family:#04x}")))
        }
    }
}

/// The source in a block that is at least as long as [`address_bytes`] says. `None` if the block has no IP address.
fn read_block(family: u8, block: &[u8]) -> Option<SocketAddr> {
    match family {
        0x11 | 0x12 => {
            let ip: [u8; 4] = *block.first_chunk()?;
            Some((ip, u16::from_be_bytes(*block.get(8..)?.first_chunk()?)).into())
        }
        0x21 | 0x22 => {
            let ip: [u8; 16] = *block.first_chunk()?;
            Some((ip, u16::from_be_bytes(*block.get(32..)?.first_chunk()?)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCE: &str = "192.168.0.1:56324";

    fn complete(bytes: &[u8]) -> (usize, Option<SocketAddr>) {
        match read_proxy_header(bytes) {
            Ok(ProxyHeader::Complete { used, source }) => (used, source),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    fn refused(bytes: &[u8]) -> String {
        match read_proxy_header(bytes) {
            Err(error) => error.to_string(),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("a short block");
        [SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
    }

    /// 192.168.0.1:56324 to 192.168.0.11:443, the example of section 2.1.
    const IPV4_BLOCK: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];

    fn ipv6_block() -> Vec<u8> {
        let (from, to) = (Ipv6Addr::from_str("2001:db8::1"), Ipv6Addr::from_str("2001:db8::2"));
        let (from, to) = (from.expect("an address").octets(), to.expect("an address").octets());
        [&from[..], &to, &[0xdc, 0x04, 0x01, 0xbb]].concat()
    }

    #[test]
    fn the_specifications_example_is_read_and_the_request_left() {
        let line = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        let wire = format!("{line}GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n");
        assert_eq!(complete(wire.as_bytes()), (line.len(), address(SOURCE)));
    }

    #[test]
    fn lines_as_long_as_the_specification_says_are_read() {
        let (v4, v6) = ("255.255.255.255", "ffff:ffff:ffff:ffff:FFFF:ffff:ffff:ffff");
        for (line, length, source) in [
            (format!("PROXY TCP4 {v4} {v4} 65535 65535\r\n"), 56, address("255.255.255.255:65535")),
            (format!("PROXY TCP6 {v6} {v6} 65535 65535\r\n"), 104, address(&format!("[{v6}]:65535"))),
            ("PROXY UNKNOWN\r\n".into(), 15, None),
            (format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n"), 107, None),
        ] {
            assert_eq!(line.len(), length, "{line}");
            assert_eq!(complete(line.as_bytes()), (length, source), "{line}");
        }
    }

    #[test]
    fn version_1_reads_the_canonical_form() {
        for (line, source) in [
            (&b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"[..], address("0.0.0.0:0")),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n", address("[2001:db8::1]:4711")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", address("[::ffff:192.0.2.1]:1")),
            (b"PROXY UNKNOWN \r\n", None),
            (b"PROXY UNKNOWN TCP4  \xff\0 65536\r\n", None),
        ] {
            assert_eq!(complete(line), (line.len(), source), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn version_1_refuses_every_other_form_and_shows_it() {
        for (line, expected, received) in [
            (&b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n"[..], "TCP4, TCP6 or UNKNOWN", "``"),
            (b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4, TCP6 or UNKNOWN", "`tcp4`"),
            (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4, TCP6 or UNKNOWN", "`UDP4`"),
            (b"PROXY UNKNOWNS\r\n", "TCP4, TCP6 or UNKNOWN", "`UNKNOWNS`"),
            (b"PROXY \r\n", "TCP4, TCP6 or UNKNOWN", "``"),
            (b"PROXY TCP4\r\n", "an IPv4 source address", "the line's end"),
            (b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n", "an IPv4 source address", "`::1`"),
            (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "an IPv4 source address", "`1.2.3`"),
            (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "an IPv4 source address", "`01.2.3.4`"),
            (b"PROXY TCP4 256.2.3.4 1.2.3.4 1 2\r\n", "an IPv4 source address", "`256.2.3.4`"),
            (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "an IPv4 source address", "``"),
            (b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n", "TCP4, TCP6 or UNKNOWN", "`TCP4\\t1.2.3.4`"),
            (b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n", "an IPv4 destination address", "`::1`"),
            (b"PROXY TCP4 1.2.3.4 \xff 1 2\r\n", "an IPv4 destination address", "`\\xff`"),
            (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", "an IPv6 source address", "`1.2.3.4`"),
            (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", "an IPv6 source address", "`fe80::1%1`"),
            (b"PROXY TCP6 [::1] ::1 1 2\r\n", "an IPv6 source address", "`[::1]`"),
            (b"PROXY TCP6 ::1 1::2::3 1 2\r\n", "an IPv6 destination address", "`1::2::3`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4\r\n", "a source port", "the line's end"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "a source port", "`65536`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "a source port", "`01`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 00 2\r\n", "a source port", "`00`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "a source port", "`+1`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "a destination port", "the line's end"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", "a destination port", "``"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", "a destination port", "`-2`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "CRLF after the destination port", "a space and ``"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "CRLF after the destination port", "a space and `3`"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "CRLF at the line's end", "alone after `PROXY TCP4 1.2"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rG", "CRLF at the line's end", "alone after `PROXY TCP4 1.2"),
            (b"PROXY UNKNOWN a\nb\r\n", "CRLF at the line's end", "alone after `PROXY UNKNOWN a`"),
        ] {
            let message = refused(line);
            assert!(message.contains(&format!("expected {expected}")), "{}: {message}", line.escape_ascii());
            assert!(message.contains(received), "{}: {message}", line.escape_ascii());
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_107_bytes() {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(106, b'a');
        assert_eq!(read_proxy_header(&line), Ok(ProxyHeader::Incomplete));
        for last in [b"a".as_slice(), b"\r", b"\r\n"] {
            let message = refused(&[&line, last].concat());
            assert!(
                message.contains("expected CRLF within 107 bytes, received `PROXY UNKNOWN a"),
                "{message}"
            );
        }
    }

    #[test]
    fn other_protocols_are_refused_at_the_first_byte_that_differs() {
        for (bytes, received) in [
            (&b"G"[..], "`G`"),
            (b"GET / HTTP/1.1\r\n", "`G`"),
            (b"POST / HTTP/1.1\r\n", "`PO`"),
            (b"PROXY\r", "`PROXY\\r`"),
            (b"\x16\x03\x01", "`\\x16`"),
            (b"\r\n\r\nGET", "`\\r\\n\\r\\nG`"),
            (b"\r\n\r\n\0\r\nQUIT\r", "`\\r\\n\\r\\n\\x00\\r\\nQUIT\\r`"),
        ] {
            let message = refused(bytes);
            let expected = "PROXY protocol: expected `PROXY ` or the signature of version 2, received";
            assert_eq!(message, format!("{expected} {received}"));
        }
        assert_eq!(read_proxy_header(b""), Ok(ProxyHeader::Incomplete));
    }

    #[test]
    fn version_2_names_the_source_of_streams_and_datagrams() {
        for family in [0x11, 0x12] {
            assert_eq!(complete(&binary(0x21, family, &IPV4_BLOCK)), (28, address(SOURCE)));
        }
        for family in [0x21, 0x22] {
            let source = address("[2001:db8::1]:56324");
            assert_eq!(complete(&binary(0x21, family, &ipv6_block())), (52, source));
        }
    }

    #[test]
    fn version_2_skips_the_tlvs_and_leaves_the_request() {
        // A wrong checksum, a NOOP, and bytes that are no TLV.
        let block = [&IPV4_BLOCK[..], b"\x03\0\x04\0\0\0\0", b"\x04\0\x01a", b"\x01\xff\xff"].concat();
        let wire = [&binary(0x21, 0x11, &block), &b"GET / HTTP/1.1\r\n"[..]].concat();
        assert_eq!(complete(&wire), (16 + block.len(), address(SOURCE)));
    }

    #[test]
    fn local_unspecified_and_unix_leave_the_connections_own_address() {
        for (command, family, block) in [
            (0x20, 0x00, &b""[..]),
            (0x20, 0x11, &IPV4_BLOCK),
            // LOCAL ignores the family, even if it is unknown or its block is too short.
            (0x20, 0x11, b""),
            (0x20, 0xff, b"\x04\0\0"),
            (0x21, 0x00, b""),
            (0x21, 0x00, &IPV4_BLOCK),
            (0x21, 0x01, b""),
            (0x21, 0x10, &IPV4_BLOCK),
            (0x21, 0x31, &[b'/'; 216]),
            (0x21, 0x32, &[0; 220]),
        ] {
            let wire = [&binary(command, family, block), &b"GET"[..]].concat();
            assert_eq!(complete(&wire), (16 + block.len(), None), "{command:#x} {family:#x}");
        }
    }

    #[test]
    fn version_2_refuses_an_unknown_byte_as_soon_as_it_comes() {
        for command in [0x00, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff] {
            let message = refused(&[SIGNATURE, &[command]].concat());
            let expected = "expected version 2 with LOCAL (0x20) or PROXY (0x21)";
            assert!(message.ends_with(&format!("{expected}, received {command:#04x}")), "{message}");
        }
        for family in [0x03, 0x13, 0x23, 0x33, 0x3f, 0x40, 0x41, 0xff] {
            let message = refused(&[SIGNATURE, &[0x21, family]].concat());
            assert!(message.contains("expected a family of 0 (UNSPEC) to 3 (Unix)"), "{message}");
            assert!(message.ends_with(&format!("received {family:#04x}")), "{message}");
        }
    }

    #[test]
    fn version_2_refuses_addresses_shorter_than_their_family_needs() {
        for (family, length) in [(0x11, 11_u8), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215), (0x32, 108)] {
            let message = refused(&[SIGNATURE, &[0x21, family, 0, length]].concat());
            assert!(message.contains("12 bytes for IPv4, 36 for IPv6, 216 for Unix"), "{message}");
            assert!(message.ends_with(&format!("received {length} bytes for {family:#04x}")), "{message}");
        }
    }

    /// A client's certificate behind the addresses is longer than 2,048 bytes, which was once the limit.
    #[test]
    fn version_2_may_be_as_long_as_its_length_field_says() {
        for length in [2033, usize::from(u16::MAX)] {
            let header = binary(0x20, 0, &vec![0; length]);
            assert_eq!(complete(&header), (BINARY_START_BYTES + length, None));
            assert_eq!(read_proxy_header(&header[..header.len() - 1]), Ok(ProxyHeader::Incomplete));
        }
    }

    /// Headers, some of them with one byte changed, cut off or left out, and bytes after them.
    fn beginnings() -> impl Strategy<Value = Vec<u8>> {
        let header = prop_oneof![
            Just(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".to_vec()),
            Just(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec()),
            Just(b"PROXY UNKNOWN \xff\xff\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..120)
                .prop_map(|rest| [b"PROXY UNKNOWN ", &rest[..]].concat()),
            (0x1f_u8..0x23, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..250))
                .prop_map(|(command, family, block)| binary(command, family, &block)),
            Just(binary(0x21, 0x11, &IPV4_BLOCK)),
            Just(binary(0x21, 0x21, &ipv6_block())),
        ];
        let change = proptest::option::of((any::<proptest::sample::Index>(), any::<u8>()));
        let after = proptest::collection::vec(any::<u8>(), 0..20);
        (header, change, after).prop_map(|(mut bytes, change, after)| {
            if let Some((index, byte)) = change {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(after);
            bytes
        })
    }

    proptest! {
        #[test]
        fn the_split_of_the_bytes_does_not_matter(bytes in beginnings()) {
            let whole = read_proxy_header(&bytes);
            let mut decided = false;
            for end in 0..=bytes.len() {
                let answer = read_proxy_header(&bytes[..end]);
                if decided || answer != Ok(ProxyHeader::Incomplete) {
                    prop_assert_eq!(&answer, &whole);
                    if let (false, Ok(ProxyHeader::Complete { used, .. })) = (decided, &answer) {
                        prop_assert_eq!(*used, end);
                    }
                    decided = true;
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            for start in [&b""[..], LINE_START, SIGNATURE, b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"] {
                let wire = [start, &bytes].concat();
                match read_proxy_header(&wire) {
                    Ok(ProxyHeader::Incomplete) => prop_assert!(wire.len() < BINARY_START_BYTES + usize::from(u16::MAX)),
                    Ok(ProxyHeader::Complete { used, .. }) => prop_assert!(used <= wire.len()),
                    Err(_) => {}
                }
            }
        }
    }
}
