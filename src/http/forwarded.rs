//! Finds the client behind proxies: which peers are trusted, and what their headers say.
//!
//! Any thread. A header is read from the right, where the trusted proxy wrote, and only as far as its writers are
//! trusted. Anybody may have sent the part to the left of that.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::Request;
use super::proxy::decimal;

/// The networks whose peers may name the client. Written as `10.0.0.0/8, 192.168.1.7, fd00::/8, unix`. An address alone
/// is a network of one address. `unix` means peers on a Unix socket. An empty text means no network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    networks: Vec<IpNet>,
    unix: bool,
}

/// Why a text is not a list of [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworksError {
    /// An entry of the list is neither an address, a network nor `unix`.
    #[error("expected an address (192.168.1.7), a network (10.0.0.0/8, fd00::/8) or unix, received {0:?}")]
    Unknown(String),
    /// The number after the slash is wrong.
    #[error("{network}: expected a prefix of 0 to {most} bits, received {received:?}")]
    Prefix {
        /// The network as it was written.
        network: String,
        /// The number of bits of an address in that family.
        most: u8,
        /// The text after the slash.
        received: String,
    },
    /// An address with bits set beyond its prefix. Either the address or the prefix is wrong, and the server does not
    /// guess which.
    #[error("{network}: did you mean {meant}? The address has bits set beyond its prefix")]
    BeyondPrefix {
        /// The network as it was written.
        network: String,
        /// The network that the address is in.
        meant: String,
    },
    /// An IPv4-mapped address, which no peer would ever match.
    #[error("{network}: did you mean {meant}? IPv4-mapped addresses are treated as IPv4")]
    Mapped {
        /// The network as it was written.
        network: String,
        /// The same network in IPv4.
        meant: String,
    },
}

/// The header with the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedBy {
    /// No header: the peer is the client.
    #[default]
    Nothing,
    /// `Forwarded` (RFC 7239). Only its `for` is read.
    Forwarded,
    /// `X-Forwarded-For`, a list of addresses by convention.
    XForwardedFor,
}

impl Networks {
    /// Whether no peer is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether the peer is in one of the networks. `None` is a peer on a Unix socket. An IPv4-mapped IPv6 address
    /// counts as the IPv4 address, because a socket for both families shows IPv4 peers in that form.
    pub fn contain(&self, peer: Option<IpAddr>) -> bool {
        let Some(address) = peer.map(|address| address.to_canonical()) else { return self.unix };
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let mut all = Self::default();
        if text.trim().is_empty() {
            return Ok(all);
        }
        for entry in text.split(',').map(str::trim) {
            if entry == "unix" {
                all.unix = true;
            } else {
                all.networks.push(read_network(entry)?);
            }
        }
        Ok(all)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix = self.unix.then(|| "unix".to_owned());
        f.write_str(&self.networks.iter().map(show).chain(unix).collect::<Vec<_>>().join(", "))
    }
}

/// The client's address. If the peer is trusted and sent the header, the client is the first address from the right
/// that no trusted proxy has. If trusted proxies have all of them, the leftmost address is the client. A peer that is
/// not trusted may write anything, so it is the client itself. `None` is a peer on a Unix socket that does not name its
/// client.
///
/// Each proxy appends the address that it saw, so an address can be trusted as far as those to its right. An entry that
/// is no address (`unknown`, `_hidden`, malformed) ends the search, and the entry to its right counts. Several lines of
/// the header are one list (RFC 9110 section 5.3). IPv4-mapped addresses are returned as IPv4.
pub fn client_address(
    request: &Request,
    peer: Option<IpAddr>,
    trusted: &Networks,
    by: ForwardedBy,
) -> Option<IpAddr> {
    let mut client = peer.map(|address| address.to_canonical());
    let header = match by {
        ForwardedBy::Nothing => return client,
        ForwardedBy::Forwarded => "forwarded",
        ForwardedBy::XForwardedFor => "x-forwarded-for",
    };
    if !trusted.contain(client) {
        return client;
    }
    let lines = request.header_lines().filter(|(name, _)| name.eq_ignore_ascii_case(header));
    let lines: Vec<_> = lines.map(|(_, value)| value).collect();
    for element in lines.into_iter().rev().flat_map(elements_from_right) {
        let address = match by {
            ForwardedBy::Forwarded => read_parameter(element, b"for").and_then(|node| read_node(&node)),
            _ => read_node(element),
        };
        let Some(address) = address else { break };
        client = Some(address);
        if !trusted.contain(client) {
            break;
        }
    }
    client
}

/// Reads one entry of the list. The standard library reads the address, because ipnet accepts numbers with leading
/// zeros.
fn read_network(entry: &str) -> Result<IpNet, NetworksError> {
    let network = || entry.to_owned();
    let (address, prefix) = entry.split_once('/').map_or((entry, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().map_err(|_| NetworksError::Unknown(network()))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = prefix.map_or(Some(most), decimal);
    let read = bits.and_then(|bits| IpNet::new(address, bits).ok()).ok_or_else(|| NetworksError::Prefix {
        network: network(),
        most,
        received: prefix.unwrap_or_default().to_owned(),
    })?;
    if let Some(meant) = unmapped(read) {
        return Err(NetworksError::Mapped { network: network(), meant: show(&meant) });
    }
    if read != read.trunc() {
        return Err(NetworksError::BeyondPrefix { network: network(), meant: show(&read.trunc()) });
    }
    Ok(read)
}

/// The IPv4 network that a network of IPv4-mapped addresses contains.
fn unmapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(network) = network else { return None };
    let address = network.addr().to_ipv4_mapped()?;
    let bits = network.prefix_len().checked_sub(96)?;
    IpNet::new(address.into(), bits).ok().map(|network| network.trunc())
}

/// The network in the form of a list entry.
fn show(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

/// The elements of a list from the right, without the empty ones, which RFC 9110 section 5.6.1 tells recipients to
/// ignore.
///
/// Read from the left, a quote that a client opened could swallow a proxy's addition. Read from the right, the proxy's
/// own element comes first, and its quotes are in pairs.
pub(super) fn elements_from_right(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(line);
    let elements = std::iter::from_fn(move || {
        let (rest, element) = split_last(left?);
        left = rest;
        Some(element.trim_ascii())
    });
    elements.filter(|element| !element.is_empty())
}

/// The parts to the left and the right of the last comma outside of quotes.
fn split_last(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for at in (0..list.len()).rev() {
        match list[at] {
            b'"' if !quoted || !ends_in_escape(&list[..at]) => quoted = !quoted,
            b',' if !quoted => return (Some(&list[..at]), &list[at + 1..]),
            _ => {}
        }
    }
    (None, list)
}

/// Whether the byte after these is the second byte of a quoted pair: an odd number of backslashes precedes it.
fn ends_in_escape(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The value of a parameter, such as `for`, in an element of `Forwarded` (RFC 7239 section 4). `None` unless the
/// parameter comes exactly once and the whole element is well-formed. Spaces around semicolons are accepted.
pub(super) fn read_parameter(element: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut rest = element;
    loop {
        rest = rest.trim_ascii_start();
        if rest.first().is_some_and(|&byte| byte != b';') {
            let (name, after) = rest.split_at(rest.iter().position(|&byte| !is_token(byte))?);
            let (value, after) = read_value(after.strip_prefix(b"=")?)?;
            if name.eq_ignore_ascii_case(wanted) && found.replace(value).is_some() {
                return None;
            }
            rest = after.trim_ascii_start();
        }
        match rest.split_first() {
            None => return found,
            Some((b';', after)) => rest = after,
            Some(_) => return None,
        }
    }
}

/// Reads a value without its quotes and escapes, and returns the rest as well. Colons and brackets need quotes, but are
/// read without them too: some proxies forget them, and the meaning is clear.
fn read_value(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let is_value = |&byte: &u8| is_token(byte) || b":[]".contains(&byte);
        let (value, after) = bytes.split_at(bytes.iter().take_while(|byte| is_value(byte)).count());
        return (!value.is_empty()).then(|| (value.to_vec(), after));
    };
    let (mut value, mut quoted) = (Vec::new(), quoted.iter());
    loop {
        match quoted.next()? {
            b'"' => return Some((value, quoted.as_slice())),
            b'\\' => value.push(*quoted.next()?),
            byte => value.push(*byte),
        }
    }
}

/// The characters of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The address of a node: IPv4, or IPv6 in brackets, either with a port (RFC 7239 section 6). IPv6 without brackets is
/// accepted too, because `X-Forwarded-For` has it.
fn read_node(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']')?;
        (address.parse().map(IpAddr::V6).ok()?, after)
    } else {
        let (address, after) = text.split_at(text.find(':')?);
        (address.parse().map(IpAddr::V4).ok()?, after)
    };
    (port.is_empty() || is_port(port.strip_prefix(':')?)).then(|| address.to_canonical())
}

/// Up to five digits, or an obfuscated port.
fn is_port(port: &str) -> bool {
    let obfuscated = |rest: &str| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match port.strip_prefix('_') {
        Some(rest) => !rest.is_empty() && obfuscated(rest),
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, parse_head};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { max_head_bytes: 4096, max_target_bytes: 100, max_headers: 20 };
    const PROXY: &str = "10.0.0.1";

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn networks(text: &str) -> Networks {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// A request with these lines of the header, if a request can contain the value.
    fn request(name: &str, values: &[&[u8]]) -> Option<Request> {
        let mut head = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
        for value in values {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        parse_head(&head, &LIMITS).ok().map(|head| head.request)
    }

    /// The client behind [`PROXY`], if that and its private networks are trusted.
    fn client(by: ForwardedBy, values: &[&str]) -> Option<IpAddr> {
        let name = if by == ForwardedBy::Forwarded { "Forwarded" } else { "X-FORWARDED-for" };
        let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
        let request = request(name, &values).expect("a request");
        client_address(&request, address(PROXY), &networks("10.0.0.0/8, fd00::/8"), by)
    }

    fn x_forwarded_for(values: &[&str]) -> Option<IpAddr> {
        client(ForwardedBy::XForwardedFor, values)
    }

    fn forwarded(values: &[&str]) -> Option<IpAddr> {
        client(ForwardedBy::Forwarded, values)
    }

    #[test]
    fn networks_contain_their_addresses() {
        let all = networks("10.0.0.0/8, 192.168.1.7,::1 ,fd00::/8");
        for inside in ["10.0.0.0", "10.255.255.255", "192.168.1.7", "::1", "fd12::1", "::ffff:10.1.2.3"] {
            assert!(all.contain(address(inside)), "{inside}");
        }
        for outside in
            ["9.255.255.255", "11.0.0.0", "192.168.1.8", "::2", "fe00::", "::ffff:11.0.0.0", "::10.0.0.1"]
        {
            assert!(!all.contain(address(outside)), "{outside}");
        }
        assert!(!all.contain(None));
        assert!(!all.is_empty());
    }

    #[test]
    fn a_network_of_one_family_contains_no_address_of_the_other() {
        assert!(networks("0.0.0.0/0").contain(address("::ffff:1.2.3.4")));
        assert!(!networks("0.0.0.0/0").contain(address("2001:db8::1")));
        assert!(networks("::/0").contain(address("2001:db8::1")));
        assert!(!networks("::/0").contain(address("::ffff:1.2.3.4")));
    }

    #[test]
    fn peers_on_a_unix_socket_are_trusted_by_name_only() {
        assert!(networks("unix").contain(None));
        assert!(!networks("unix").is_empty());
        assert!(!networks("unix").contain(address("127.0.0.1")));
        assert!(!networks("0.0.0.0/0, ::/0").contain(None));
    }

    #[test]
    fn an_empty_text_is_no_network() {
        for none in ["", "  "] {
            assert_eq!(networks(none), Networks::default());
        }
        assert!(Networks::default().is_empty());
        assert!(!Networks::default().contain(None) && !Networks::default().contain(address("::1")));
    }

    #[test]
    fn networks_are_shown_as_they_are_written() {
        for (written, shown) in [
            ("10.0.0.0/8,192.168.1.7/32, unix ,FD00::/8", "10.0.0.0/8, 192.168.1.7, fd00::/8, unix"),
            ("::1/128", "::1"),
            ("unix", "unix"),
            ("", ""),
        ] {
            assert_eq!(networks(written).to_string(), shown);
            assert_eq!(networks(shown), networks(written));
        }
    }

    #[test]
    fn a_malformed_network_is_refused_with_the_accepted_form() {
        let unknown = "expected an address (192.168.1.7), a network (10.0.0.0/8, fd00::/8) or unix, received";
        let beyond = "? The address has bits set beyond its prefix";
        let mapped = "? IPv4-mapped addresses are treated as IPv4";
        for (written, error) in [
            ("10.0.0.1/8", format!("10.0.0.1/8: did you mean 10.0.0.0/8{beyond}")),
            ("::1, fd00::1/8", format!("fd00::1/8: did you mean fd00::/8{beyond}")),
            ("1.2.3.4/0", format!("1.2.3.4/0: did you mean 0.0.0.0/0{beyond}")),
            ("::ffff:10.0.0.0/104", format!("::ffff:10.0.0.0/104: did you mean 10.0.0.0/8{mapped}")),
            ("::ffff:10.0.0.1/104", format!("::ffff:10.0.0.1/104: did you mean 10.0.0.0/8{mapped}")),
            ("::ffff:10.0.0.1", format!("::ffff:10.0.0.1: did you mean 10.0.0.1{mapped}")),
            ("10.0.0.0/33", "10.0.0.0/33: expected a prefix of 0 to 32 bits, received \"33\"".into()),
            ("fd00::/129", "fd00::/129: expected a prefix of 0 to 128 bits, received \"129\"".into()),
            ("10.0.0.0/", "10.0.0.0/: expected a prefix of 0 to 32 bits, received \"\"".into()),
            ("10.0.0.0/08", "10.0.0.0/08: expected a prefix of 0 to 32 bits, received \"08\"".into()),
            ("10.0.0.0/+8", "10.0.0.0/+8: expected a prefix of 0 to 32 bits, received \"+8\"".into()),
            (
                "10.0.0.0/255.0.0.0",
                "10.0.0.0/255.0.0.0: expected a prefix of 0 to 32 bits, received \"255.0.0.0\"".into(),
            ),
            ("localhost", format!("{unknown} \"localhost\"")),
            ("10.0.0.1,", format!("{unknown} \"\"")),
            ("10.0.0.1 ::1", format!("{unknown} \"10.0.0.1 ::1\"")),
            ("010.0.0.1", format!("{unknown} \"010.0.0.1\"")),
            ("10.0.0/8", format!("{unknown} \"10.0.0/8\"")),
            ("fe80::1%eth0", format!("{unknown} \"fe80::1%eth0\"")),
            ("[::1]", format!("{unknown} \"[::1]\"")),
            ("Unix", format!("{unknown} \"Unix\"")),
            ("unix/8", format!("{unknown} \"unix/8\"")),
        ] {
            assert_eq!(written.parse::<Networks>().expect_err(written).to_string(), error);
        }
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        for (values, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.7, 192.0.2.1, 10.0.0.2,10.0.0.3"], "192.0.2.1"),
            (&["192.0.2.1 ,\tfd00::7"], "192.0.2.1"),
            // All addresses are trusted, so the leftmost is the best guess.
            (&["10.0.0.4, 10.0.0.3"], "10.0.0.4"),
            // Several lines are one list, in their order.
            (&["198.51.100.7", "192.0.2.1, 10.0.0.3", "10.0.0.2"], "192.0.2.1"),
            (&["192.0.2.1", "10.0.0.3"], "192.0.2.1"),
            // Empty elements are skipped.
            (&["192.0.2.1,, ,", "", ","], "192.0.2.1"),
            (&[""], PROXY),
            (&[], PROXY),
        ] {
            assert_eq!(x_forwarded_for(values), address(expected), "{values:?}");
        }
    }

    #[test]
    fn addresses_are_read_in_every_form_that_balancers_write() {
        for (written, expected) in [
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:DB8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ] {
            assert_eq!(x_forwarded_for(&[written]), address(expected), "{written}");
        }
    }

    #[test]
    fn an_entry_without_an_address_ends_the_search() {
        let malformed = [
            r"unknown|_hidden|unix:|localhost|192.0.2|192.0.2.256|0192.0.2.1|192.0.2.1 192.0.2.2|192.0.2.1;|é",
            r"192.0.2.1:|192.0.2.1:x|192.0.2.1:123456|192.0.2.1:_|192.0.2.1:_%|192.0.2.1:+1",
            r#"[192.0.2.1]|[2001:db8::1|[2001:db8::1]x|[2001:db8::1]:|fe80::1%eth0|"192.0.2.1"|for=192.0.2.1"#,
        ];
        for malformed in malformed.iter().flat_map(|some| some.split('|')) {
            assert_eq!(x_forwarded_for(&[malformed]), address(PROXY), "{malformed}");
            let values = format!("198.51.100.7, {malformed}, 10.0.0.2");
            assert_eq!(x_forwarded_for(&[&values]), address("10.0.0.2"), "{malformed}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (values, expected) in [
            // The examples of sections 4 and 7.1.
            (&["for=\"_gazonk\""][..], PROXY),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
            (&["for=192.0.2.43, for=\"[2001:db8:cafe::17]\", for=unknown"], PROXY),
            (&["for=_hidden, for=_SEVKISEK"], PROXY),
            (&["for=192.0.2.43", "for=\"[fd00:db8:cafe::17]\", for=10.0.0.9"], "192.0.2.43"),
            // Names in any case, in any place; ports, also obfuscated ones.
            (&["proto=https;FOR=\"192.0.2.1:47011\";host=a"], "192.0.2.1"),
            (&["by=_x;for=\"192.0.2.1:_p.o-r_t\""], "192.0.2.1"),
            // Quoted commas, semicolons, quotes and pairs are text.
            (&["host=\"a,for=6.6.6.6;for=7.7.7.7\";for=192.0.2.1"], "192.0.2.1"),
            (&["for=192.0.2.1;host=\"a\\\", for=6.6.6.6, \\\\\""], "192.0.2.1"),
            (&["for=\"192\\.0.2.1\", for=10.0.0.2;secret=\"\\\\\""], "192.0.2.1"),
            // Empty pairs and elements, and spaces around semicolons.
            (&[";for=192.0.2.1 ; ;proto=http;, ,"], "192.0.2.1"),
            // Values whose quotes were forgotten.
            (&["for=[2001:db8::1]:4711"], "2001:db8::1"),
            (&["for=192.0.2.1:4711;host=a:80"], "192.0.2.1"),
            (&["for=\"::ffff:192.0.2.1\""], "192.0.2.1"),
        ] {
            assert_eq!(forwarded(values), address(expected), "{values:?}");
        }
    }

    #[test]
    fn a_malformed_element_of_forwarded_ends_the_search() {
        let malformed = [
            r#"192.0.2.1|for|for=|for=""|for =192.0.2.1|for= 192.0.2.1|proto=https|;|=192.0.2.1|för=192.0.2.1"#,
            r"for=192.0.2.1;for=192.0.2.1|for=192.0.2.1;FOR=192.0.2.2|for=192.0.2.1;proto|for=192.0.2.1;proto=",
            r#"for=192.0.2.1 proto=https|for=192.0.2.1;host=a/b|for=192.0.2.1;ho st=a|for="192.0.2.1|for=192.0.2.1""#,
            r#"for="192.0.2.1"x|for="192.0.2.1\"|for=x"192.0.2.1"|for=" 192.0.2.1"|for="2001:db8::1]""#,
        ];
        for malformed in malformed.iter().flat_map(|some| some.split('|')) {
            assert_eq!(forwarded(&[malformed]), address(PROXY), "{malformed}");
            let values = ["for=198.51.100.7", malformed, "for=10.0.0.2"];
            assert_eq!(forwarded(&values), address("10.0.0.2"), "{malformed}");
        }
    }

    #[test]
    fn an_untrusted_peer_is_the_client_itself() {
        for (name, by, value) in [
            ("X-Forwarded-For", ForwardedBy::XForwardedFor, &b"10.0.0.7"[..]),
            ("Forwarded", ForwardedBy::Forwarded, b"for=10.0.0.7"),
        ] {
            let request = request(name, &[value]).expect("a request");
            let ask = |peer, trusted| client_address(&request, peer, &networks(trusted), by);
            assert_eq!(ask(address("192.0.2.1"), "10.0.0.0/8, unix"), address("192.0.2.1"));
            assert_eq!(ask(address("::ffff:192.0.2.1"), "10.0.0.0/8"), address("192.0.2.1"));
            assert_eq!(ask(address("10.0.0.1"), ""), address("10.0.0.1"));
            assert_eq!(ask(None, "10.0.0.0/8"), None);
            assert_eq!(ask(None, "unix"), address("10.0.0.7"));
            assert_eq!(ask(address("::ffff:192.0.2.1"), "192.0.2.1"), address("10.0.0.7"));
        }
    }

    #[test]
    fn only_the_configured_header_counts() {
        let head =
            b"GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n";
        let request = parse_head(head, &LIMITS).expect("a request").request;
        for (by, expected) in [
            (ForwardedBy::Nothing, PROXY),
            (ForwardedBy::Forwarded, "192.0.2.1"),
            (ForwardedBy::XForwardedFor, "192.0.2.2"),
        ] {
            assert_eq!(
                client_address(&request, address(PROXY), &networks("10.0.0.0/8"), by),
                address(expected)
            );
        }
        assert_eq!(ForwardedBy::default(), ForwardedBy::Nothing);
    }

    /// Bytes that a client could send to have a list read wrongly.
    fn spoofing() -> impl Strategy<Value = Vec<u8>> {
        let piece = proptest::sample::select(vec![
            &b"for=6.6.6.6"[..],
            b"6.6.6.6",
            b"for=\"[::6]\"",
            b"10.0.0.6",
            b"x=\"",
            b"\"",
            b"\\",
            b",",
            b";",
            b"=",
            b"\xff",
        ]);
        let pieces = proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat());
        prop_oneof![pieces, proptest::collection::vec(0x20..=0xff_u8, 0..40)]
    }

    proptest! {
        #[test]
        fn what_a_client_sends_never_hides_what_the_proxies_append(
            sent in spoofing(),
            middle in proptest::option::of(Just("10.0.0.3")),
            apart in any::<bool>(),
        ) {
            for (name, by, seen, trusted) in [
                ("X-Forwarded-For", ForwardedBy::XForwardedFor, "9.9.9.9", "10.0.0.3"),
                ("Forwarded", ForwardedBy::Forwarded, "for=9.9.9.9", "for=10.0.0.3"),
                ("Forwarded", ForwardedBy::Forwarded, "for=\"9.9.9.9:1\"", "for=\"10.0.0.3\""),
                (
                    "Forwarded",
                    ForwardedBy::Forwarded,
                    r#"host=",\"\\";for="[::ffff:9.9.9.9]""#,
                    r#"by="\\\"";for=10.0.0.3"#,
                ),
            ] {
                let mut appended = seen.to_owned();
                if middle.is_some() {
                    appended = format!("{appended}, {trusted}");
                }
                let request = if apart {
                    request(name, &[&sent, appended.as_bytes()])
                } else {
                    request(name, &[&[&sent[..], b", ", appended.as_bytes()].concat()])
                };
                // DEL is the only one of these bytes that a header may not contain.
                let Some(request) = request else { prop_assert!(sent.contains(&0x7f)); continue };
                let client = client_address(&request, address(PROXY), &networks("10.0.0.0/8"), by);
                prop_assert_eq!(client, address("9.9.9.9"));
            }
        }

        #[test]
        fn from_the_right_a_list_is_what_it_is_from_the_left(
            texts in proptest::collection::vec("[a\",;\\\\ ]{0,8}", 1..6),
        ) {
            let quoted = |text: &String| format!("x=\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let list: Vec<String> = texts.iter().map(quoted).collect();
            let joined = list.join(",");
            let mut read: Vec<_> = elements_from_right(joined.as_bytes()).collect();
            read.reverse();
            prop_assert_eq!(read, list.iter().map(String::as_bytes).collect::<Vec<_>>());
            for (element, text) in list.iter().zip(&texts) {
                let (value, after) = read_value(&element.as_bytes()[2..]).expect("quoted");
                prop_assert_eq!((value, after), (text.clone().into_bytes(), &b""[..]));
            }
        }

        #[test]
        fn any_bytes_have_a_client(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            for by in [ForwardedBy::Forwarded, ForwardedBy::XForwardedFor] {
                for name in ["Forwarded", "X-Forwarded-For"] {
                    if let Some(request) = request(name, &[&value]) {
                        let everybody = networks("0.0.0.0/0, ::/0");
                        prop_assert!(client_address(&request, address(PROXY), &everybody, by).is_some());
                    }
                }
            }
            let _ = read_parameter(&value, b"for").map(|node| read_node(&node));
            prop_assert!(elements_from_right(&value).all(|element| !element.is_empty()));
        }

        #[test]
        fn networks_read_themselves(
            addresses in proptest::collection::vec((any::<IpAddr>(), 0..=128_u8), 0..5),
            unix in any::<bool>(),
        ) {
            let network = |(address, bits): (IpAddr, u8)| {
                let address = address.to_canonical();
                let bits = if address.is_ipv4() { bits % 33 } else { bits };
                IpNet::new(address, bits).expect("a prefix").trunc()
            };
            let networks = addresses.into_iter().map(network).collect();
            let all = Networks { networks, unix };
            prop_assert_eq!(all.to_string().parse(), Ok(all));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:./, unix]{0,40}|.*") {
            if let Ok(networks) = text.parse::<Networks>() {
                prop_assert_eq!(networks.to_string().parse(), Ok(networks));
            }
        }
    }
}
