//! Sends a case to the native connector, its bytes split in every way, and compares every byte that comes back.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::case::{Answer, Case, Content, DATE, End, ID, ok};
use crate::support::PATIENCE;

/// Of a case that is longer than this, the middle is split at every 37th place only.
const LONG: usize = 300;
const STRIDE: usize = 37;

/// A whole request whose answer shows that a connection is still served.
pub(crate) const PROBE: &[u8] = b"GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends cases, one after the other.
pub(crate) struct Driver {
    address: SocketAddr,
    /// A second connection. The poller acts in the order in which bytes came. So once this connection has an answer to
    /// a later request, the case's earlier bytes were read separately.
    barrier: Peer,
}

/// How the bytes of a case are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    EachByte,
    /// In two parts. The second part begins with this byte of this step.
    Before {
        step: usize,
        at: usize,
    },
}

impl Driver {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, barrier: Peer::connect(address) }
    }

    /// Whether every way to send the case has the outcome that the case says.
    pub(crate) fn check(&mut self, case: &Case) -> Result<(), String> {
        let mut kept = None;
        for cut in [Cut::Whole, Cut::EachByte].into_iter().chain(places(case)) {
            let mut peer = kept.take().unwrap_or_else(|| Peer::connect(self.address));
            self.run(&mut peer, case, cut).map_err(|complaint| format!("{cut:?}: {complaint}"))?;
            // It is as good as new, which this shows as well.
            kept = (case.end == End::Open).then_some(peer);
        }
        Ok(())
    }

    fn run(&mut self, peer: &mut Peer, case: &Case, cut: Cut) -> Result<(), String> {
        let mut refused_bytes = None;
        for (step, (bytes, answers)) in case.steps.iter().enumerate() {
            refused_bytes = self.send(peer, bytes, step, cut).err();
            let is_last = step + 1 == case.steps.len();
            for (index, answer) in answers.iter().enumerate() {
                let close = case.end == End::Closed && is_last && index + 1 == answers.len();
                if !answer.optional || cut != Cut::Whole && peer.has_continue()? {
                    peer.expect(answer, close)?;
                }
            }
        }
        match case.end {
            End::Open => {
                peer.send(PROBE).map_err(|error| format!("it is not open: {error}"))?;
                peer.expect(&ok("immediate"), false)?;
            }
            End::Closed => peer.expect_end()?,
            End::Incomplete => {
                self.barrier.exchange()?;
                peer.stream.shutdown(Shutdown::Write).map_err(|error| format!("it is not open: {error}"))?;
                peer.expect_end()?;
            }
        }
        // The server reads on for a while after a refusal, but not for ever: who sends slowly may notice, after the answer.
        match refused_bytes {
            Some(error) if cut == Cut::Whole => Err(format!("the bytes were not taken: {error}")),
            _ => Ok(()),
        }
    }

    fn send(&mut self, peer: &mut Peer, bytes: &[u8], step: usize, cut: Cut) -> io::Result<()> {
        match cut {
            Cut::Before { step: cut_step, at } if cut_step == step => {
                peer.send(&bytes[..at])?;
                self.barrier.exchange().map_err(io::Error::other)?;
                peer.send(&bytes[at..])
            }
            Cut::EachByte => {
                for (at, byte) in bytes.iter().enumerate() {
                    peer.send(&[*byte])?;
                    if is_near_an_end(at, bytes.len()) {
                        self.barrier.exchange().map_err(io::Error::other)?;
                    }
                }
                Ok(())
            }
            _ => peer.send(bytes),
        }
    }
}

/// Where a case is split in two.
fn places(case: &Case) -> impl Iterator<Item = Cut> {
    case.steps.iter().enumerate().flat_map(|(step, (bytes, _))| {
        let chosen = |at: &usize| is_near_an_end(*at, bytes.len()) || at.is_multiple_of(STRIDE);
        (1..bytes.len()).filter(chosen).map(move |at| Cut::Before { step, at })
    })
}

fn is_near_an_end(at: usize, length: usize) -> bool {
    at < LONG / 2 || length - at <= LONG / 2
}

/// A client's connection.
pub(crate) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
        stream.set_nodelay(true).expect("a TCP socket has no-delay");
        Self { stream, received: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Asks for something and waits for it.
    pub(crate) fn exchange(&mut self) -> Result<(), String> {
        self.send(PROBE).map_err(|error| format!("the barrier is broken: {error}"))?;
        self.expect(&ok("immediate"), false)
    }

    /// Whether the next answer is `100 Continue`.
    fn has_continue(&mut self) -> Result<bool, String> {
        self.fill(|received| received.len() >= 12)?;
        Ok(self.received.starts_with(b"HTTP/1.1 100"))
    }

    /// The next bytes must be this answer.
    fn expect(&mut self, answer: &Answer, close: bool) -> Result<(), String> {
        let ends = |received: &[u8]| received.windows(4).position(|four| four == b"\r\n\r\n");
        self.fill(|received| ends(received).is_some())?;
        let head_len = ends(&self.received).map_or(0, |at| at + 4);
        let head: Vec<u8> = self.received.drain(..head_len).collect();
        let length = content_length(&head).unwrap_or(0);
        let (found, expected) = (comparable(&head)?, answer.head(length, close));
        if found != expected {
            return Err(format!("{:?} instead of {:?}", lossy(&found), lossy(&expected)));
        }
        if answer.content == Content::HeadOfProblem && length == 0 {
            return Err("the problem has no length".into());
        }
        if !answer.has_content() {
            return Ok(());
        }
        self.fill(|received| received.len() >= length)?;
        let content: Vec<u8> = self.received.drain(..length).collect();
        check_content(answer, &content)
    }

    /// The connection must end here, and in peace.
    fn expect_end(&mut self) -> Result<(), String> {
        if !self.received.is_empty() || self.receive()? > 0 {
            return Err(format!("there is more: {:?}", lossy(&self.received)));
        }
        Ok(())
    }

    fn fill(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        while !is_enough(&self.received) {
            if self.receive()? == 0 {
                return Err(format!("it was closed after {:?}", lossy(&self.received)));
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<usize, String> {
        let mut bytes = [0; 4096];
        let length = self
            .stream
            .read(&mut bytes)
            .map_err(|error| format!("{:?}, then {error}", lossy(&self.received)))?;
        self.received.extend_from_slice(&bytes[..length]);
        Ok(length)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the value of a field begins and ends in a head.
fn value_of(head: &[u8], field: &str) -> Option<(usize, usize)> {
    let line = format!("\r\n{field}: ");
    let start = head.windows(line.len()).position(|bytes| bytes == line.as_bytes())? + line.len();
    Some((start, start + head[start..].iter().position(|&byte| byte == b'\r')?))
}

fn content_length(head: &[u8]) -> Option<usize> {
    let (start, end) = value_of(head, "content-length")?;
    std::str::from_utf8(&head[start..end]).ok()?.parse().ok()
}

/// The head with its date and its id, which must be one each, made comparable.
fn comparable(head: &[u8]) -> Result<Vec<u8>, String> {
    let Some((start, end)) = value_of(head, "date") else { return Ok(head.to_vec()) };
    let date = lossy(&head[start..end]);
    httpdate::parse_http_date(&date).map_err(|_| format!("{date:?} is no date"))?;
    let head = [&head[..start], DATE.as_bytes(), &head[end..]].concat();
    let Some((start, end)) = value_of(&head, "x-request-id") else { return Ok(head) };
    if end - start != ID.len() || !head[start..end].iter().all(u8::is_ascii_hexdigit) {
        return Err(format!("{:?} is no id", lossy(&head[start..end])));
    }
    Ok([&head[..start], ID.as_bytes(), &head[end..]].concat())
}

fn check_content(answer: &Answer, content: &[u8]) -> Result<(), String> {
    let right = match &answer.content {
        Content::Text(text) => content == text,
        Content::Problem => is_problem(answer.status, content),
        _ => content.is_empty(),
    };
    if right { Ok(()) } else { Err(format!("wrong content: {:?}", lossy(content))) }
}

fn is_problem(status: u16, content: &[u8]) -> bool {
    let title = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    serde_json::from_slice(content).is_ok_and(|problem: serde_json::Value| {
        problem["status"] == status
            && problem["title"].as_str() == title
            && problem["detail"].as_str().is_some_and(|detail| !detail.is_empty())
    })
}
