//! Sends a case whole to the tiny_http connector, and describes the outcome in words.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::case::{Answer, Case, Content, End, describe};
use super::native::PROBE;

/// How long to wait for the answers that the table expects. It is more than a busy machine needs.
const LONGEST: Duration = Duration::from_secs(10);

/// After this time without a byte no more bytes are expected, if all answers in the table have come.
const QUIET: Duration = Duration::from_millis(300);

/// The outcome: first the statuses, each with a word about its content if that differs from the case. Then comes
/// `open`, `closed`, or `no answer` if a request is neither answered nor refused.
pub(crate) fn outcome(address: SocketAddr, case: &Case) -> String {
    let stream = TcpStream::connect_timeout(&address, LONGEST).expect("tiny_http accepts");
    stream.set_read_timeout(Some(QUIET)).expect("the limit is not zero");
    stream.set_nodelay(true).expect("a TCP socket has no-delay");
    let mut client = Client { stream, received: Vec::new(), is_closed: false };
    let words = case.on_tiny_http();
    let hoped = words.split(", ").filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).count();
    let hopes_for_more = !words.ends_with("no answer");
    for (bytes, answers) in &case.steps {
        client.send(bytes);
        if case.steps.len() > 1 && !answers.is_empty() {
            client.listen(|received, _| !received.is_empty());
        }
    }
    // Some of the statuses may come only when more bytes are sent, so the wait for them ends after a while.
    client.listen(|received, quiet| {
        let found = statuses(case, received).len();
        quiet > 0 && (found >= hoped || found > 0 && quiet > 3)
    });
    let before = statuses(case, &client.received);
    if before.is_empty() && !client.is_closed {
        return describe(before, End::Incomplete);
    }
    if !client.is_closed {
        client.send(PROBE);
        client.listen(|received, quiet| {
            statuses(case, received).len() > before.len() || quiet > 0 && !hopes_for_more
        });
    }
    if statuses(case, &client.received).get(before.len()).is_some_and(|status| status == "200") {
        return describe(before, End::Open);
    }
    // tiny_http took the probe for part of another request, together with bytes that the case left, or ignored it.
    client.listen(|_, quiet| quiet > 0);
    let after = statuses(case, &client.received);
    let end = if after.len() > before.len() { End::Open } else { End::Incomplete };
    describe(after, if client.is_closed { End::Closed } else { end })
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    is_closed: bool,
}

impl Client {
    /// Sends bytes. If the server has closed the connection already, [`Client::listen`] notices.
    fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    /// Receives until the connection is closed, `is_enough` holds, or `LONGEST` has passed. `is_enough` also gets the
    /// time without a byte, in multiples of `QUIET`.
    fn listen(&mut self, is_enough: impl Fn(&[u8], u32) -> bool) {
        let until = Instant::now() + LONGEST;
        let mut bytes = [0; 4096];
        let mut quiet = 0;
        while !self.is_closed && !is_enough(&self.received, quiet) && Instant::now() < until {
            match self.stream.read(&mut bytes) {
                Ok(length @ 1..) => {
                    self.received.extend_from_slice(&bytes[..length]);
                    quiet = 0;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    quiet += 1;
                }
                // A reset is an end as well.
                _ => self.is_closed = true,
            }
        }
    }
}

/// The statuses of the received answers, each with a word about its content if that differs from the case.
fn statuses(case: &Case, mut received: &[u8]) -> Vec<String> {
    let mut expected = case.answers();
    let mut words = Vec::new();
    while let Some(head) = Head::read(received) {
        let expected = expected.next();
        let (length, remark) = content(&head, &received[head.bytes..], expected);
        words.push(format!("{}{remark}", head.status));
        received = received.get(head.bytes + length..).unwrap_or_default();
    }
    words
}

struct Head {
    status: u16,
    length: Option<usize>,
    bytes: usize,
}

impl Head {
    fn read(received: &[u8]) -> Option<Self> {
        let bytes = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&received[..bytes]).to_ascii_lowercase();
        let status = text.strip_prefix("http/1.")?.get(2..5)?.parse().ok()?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        Some(Self { status, length, bytes })
    }
}

/// How long the content is that follows, and what is wrong with it.
fn content(head: &Head, rest: &[u8], expected: Option<&Answer>) -> (usize, &'static str) {
    let length = head.length.unwrap_or(0);
    match expected.filter(|answer| answer.status == head.status).map(|answer| &answer.content) {
        Some(Content::HeadOfText(_) | Content::HeadOfProblem) => (0, ""),
        Some(Content::Withheld | Content::None) if head.length.is_some() => {
            // It announces a length, but need not mean it.
            (if rest.starts_with(b"HTTP/") { 0 } else { length.min(rest.len()) }, " with a length")
        }
        Some(Content::Text(text)) if rest.get(..length) != Some(text) => (length, " with other content"),
        _ => (length, ""),
    }
}
