//! The identity of a request: its id and its place in a trace (W3C Trace Context).
//!
//! Any thread, without locks. An id that is made here needs no allocation. The server takes an id or a trace from any
//! client, because it checks their form and they grant nothing: they only name a request in answers and logs.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use http::HeaderName;

/// The longest id that a client may send: longer than any id that proxies make, short enough for a log.
const ID_MAX: usize = 128;

/// Each thread counts ids from its own starting number. The distance between two threads is larger than any thread will
/// ever count.
const FORK: u32 = 48;

/// How requests are identified, and how much of that clients see.
#[derive(Debug)]
pub struct RequestIds {
    /// The header with a request's id, in the request and in the answer. `None` if no header has it.
    header: Option<HeaderName>,
    /// Whether requests belong to traces.
    traces: bool,
    /// The percentage of traces that are recorded, among those that begin here.
    sample: usize,
    keys: [u64; 3],
    next: AtomicU64,
    forks: Arc<AtomicU64>,
}

impl RequestIds {
    /// Ids come and go in `header`, if there is one. `traces`: each request continues its client's trace or begins one.
    pub fn new(header: Option<HeaderName>, traces: bool) -> Self {
        let random = RandomState::new();
        let keys = [0, 1, 2].map(|number: u8| random.hash_one(number));
        let (next, forks) = (AtomicU64::new(0), Arc::new(AtomicU64::new(1)));
        Self { header, traces, sample: 100, keys, next, forks }
    }

    /// Records this percentage of the traces that begin here, instead of all. A client's trace is recorded if the
    /// client says so.
    #[must_use]
    pub fn sampling(self, percent: usize) -> Self {
        Self { sample: percent, ..self }
    }

    /// The same rules for another thread, so that threads do not share a counter. Their ids still differ.
    #[must_use]
    pub fn for_another_thread(&self) -> Self {
        let start = self.forks.fetch_add(1, Relaxed) << FORK;
        let (header, forks) = (self.header.clone(), Arc::clone(&self.forks));
        let Self { traces, sample, keys, .. } = *self;
        Self { header, traces, sample, keys, next: AtomicU64::new(start), forks }
    }

    /// Whether a header with a name of this length can matter to a request's identity.
    pub(crate) fn looks_at(&self, name_length: usize) -> bool {
        self.header.as_ref().is_some_and(|header| header.as_str().len() == name_length)
            || self.traces && (name_length == TRACEPARENT.len() || name_length == TRACESTATE.len())
    }

    /// The identity of a request with these header lines.
    pub(crate) fn read_id<'r>(
        self: &Arc<Self>,
        lines: impl Iterator<Item = (&'r [u8], &'r [u8])>,
    ) -> RequestId {
        let mut id = Once::default();
        let mut parent = Once::default();
        let mut state = None::<String>;
        for (name, value) in lines {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
            if self.header.as_ref().is_some_and(|header| is(header.as_str())) {
                id.add(value);
            } else if self.traces && is(TRACEPARENT) {
                parent.add(value);
            } else if self.traces && is(TRACESTATE) && is_printable(value) {
                // Several lines are one list (RFC 9110 section 5.3).
                let list = state.get_or_insert_default();
                list.push_str(if list.is_empty() { "" } else { "," });
                list.extend(value.iter().map(|byte| char::from(*byte)));
            }
        }
        let id = match id.only().filter(|id| is_id(id)).and_then(|id| std::str::from_utf8(id).ok()) {
            Some(id) => Id::Given(id.into()),
            None => self.make(),
        };
        let trace = self.traces.then(|| match parent.only().and_then(Parent::read) {
            Some(parent) => Trace::after(&parent, state.filter(|list| !list.is_empty())),
            None => Trace::begin(self.sample),
        });
        let is_shared = AtomicBool::new(trace.as_ref().is_some_and(|trace| trace.parent.is_some()));
        RequestId { of: Arc::clone(self), id, trace, is_shared }
    }

    /// The identity of a request that could not be read.
    pub(crate) fn unread(self: &Arc<Self>) -> RequestId {
        RequestId { of: Arc::clone(self), id: self.make(), trace: None, is_shared: AtomicBool::default() }
    }

    /// A number that no other request of this process has, and that another process is very unlikely to make. Each step
    /// is one to one, so only equal inputs could give equal numbers.
    fn make(&self) -> Id {
        let [one, two, three] = self.keys;
        let mut number = self.next.fetch_add(1, Relaxed) ^ one;
        for odd in [two | 1, three | 1] {
            number = (number ^ (number >> 32)).wrapping_mul(odd);
        }
        Id::Made(hex(number ^ (number >> 32)))
    }
}

/// A value that may come only once. If there are two, neither can be trusted.
#[derive(Default)]
struct Once<'r> {
    first: Option<&'r [u8]>,
    more: bool,
}

impl<'r> Once<'r> {
    fn add(&mut self, value: &'r [u8]) {
        self.more |= self.first.replace(value).is_some();
    }

    fn only(self) -> Option<&'r [u8]> {
        self.first.filter(|_| !self.more)
    }
}

/// Visible ASCII without the characters that end or escape a value in a log line, a list or a parameter.
fn is_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"',;\\".contains(byte);
    (1..=ID_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

fn is_printable(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// The sixteen hexadecimal digits of a number.
pub(crate) fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    digits
}

/// One request's id and its place in a trace. Cheap to clone.
pub struct RequestId {
    of: Arc<RequestIds>,
    id: Id,
    trace: Option<Trace>,
    /// Whether code outside this type may know the trace.
    is_shared: AtomicBool,
}

#[derive(Clone)]
enum Id {
    Made([u8; 16]),
    Given(Arc<str>),
}

impl RequestId {
    /// The id: the client's, or sixteen hexadecimal digits.
    pub fn id(&self) -> &str {
        match &self.id {
            Id::Made(digits) => std::str::from_utf8(digits).unwrap_or_default(),
            Id::Given(id) => id,
        }
    }

    /// The id as bytes.
    pub(crate) fn id_bytes(&self) -> &[u8] {
        match &self.id {
            Id::Made(digits) => digits,
            Id::Given(id) => id.as_bytes(),
        }
    }

    /// The place in a trace; `None` where `tracing.propagate` is false.
    pub fn trace(&self) -> Option<&Trace> {
        self.is_shared.store(true, Relaxed);
        self.trace.as_ref()
    }

    /// The trace if anybody else may know it: it is the client's, or somebody has asked for it.
    pub(crate) fn known_trace(&self) -> Option<&Trace> {
        self.trace.as_ref().filter(|_| self.is_shared.load(Relaxed))
    }

    /// The header of the answer that has the id.
    pub(crate) fn header(&self) -> Option<&HeaderName> {
        self.of.header.as_ref()
    }
}

impl Clone for RequestId {
    /// A clone does not learn when the original is asked for its trace, so it assumes that the trace is known.
    fn clone(&self) -> Self {
        let (id, trace) = (self.id.clone(), self.trace.clone());
        Self { of: Arc::clone(&self.of), id, trace, is_shared: AtomicBool::new(true) }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestId")
            .field("id", &self.id())
            .field("trace", &self.known_trace())
            .finish_non_exhaustive()
    }
}

/// The header that carries a trace from one service to the next.
pub const TRACEPARENT: &str = "traceparent";

/// The header beside it, with the tracing systems' own data.
pub const TRACESTATE: &str = "tracestate";

/// The flag that somebody records the trace. The only other flag of level 2 says that the trace's id is random.
const SAMPLED: u8 = 1;
const KNOWN_FLAGS: u8 = 0b11;

/// The bits of a trace's id that decide whether it is recorded.
const RANDOM: u128 = (1 << 56) - 1;

/// A request's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace's id, never zero.
    id: u128,
    /// The id of the span that the request is a part of. `None`: the trace begins with the request.
    parent: Option<u64>,
    /// The request's own id, never zero.
    span: u64,
    flags: u8,
    state: Option<Arc<str>>,
}

/// The content of a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Parent {
    /// Reads `00-TRACE-SPAN-FLAGS` (<https://www.w3.org/TR/trace-context/#traceparent-header>). Of a later version it
    /// reads the fields of this version, and only the flag that was there from the beginning.
    fn read(value: &[u8]) -> Option<Self> {
        const LENGTH: usize = 55;
        let (known, more) = value.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
        let version = digits(version)?;
        let ends = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|next| *next == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let flags = u8::try_from(digits(flags)?).ok()? & if version == 0 { KNOWN_FLAGS } else { SAMPLED };
        let span = u64::try_from(digits(span)?).ok()?;
        let parent = Self { trace: digits(trace)?, span, flags };
        (ends && dashes && parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

/// At most 32 hexadecimal digits, in lower case only.
fn digits(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

impl Trace {
    /// Begins a trace. `percent` of the new traces are recorded: those with a low number in the 56 bits that level 2
    /// wants to be random.
    fn begin(percent: usize) -> Self {
        // Drawn in two halves, because a range of 128 bits needs a division.
        let id = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(1..));
        let is_sampled = (id & RANDOM) * 100 < (RANDOM + 1) * percent as u128;
        let flags = if is_sampled { SAMPLED } else { 0 };
        Self { id, parent: None, span: fastrand::u64(1..), flags, state: None }
    }

    fn after(parent: &Parent, state: Option<String>) -> Self {
        Self {
            id: parent.trace,
            parent: Some(parent.span),
            span: fastrand::u64(1..),
            flags: parent.flags,
            state: state.map(Arc::from),
        }
    }

    /// The trace's id.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The id of the span that the request is a part of. `None` where the trace begins here.
    pub fn parent(&self) -> Option<u64> {
        self.parent
    }

    /// The request's own id.
    pub fn span(&self) -> u64 {
        self.span
    }

    /// Whether somebody records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of `traceparent` for requests that this request sends to other services.
    pub fn traceparent(&self) -> String {
        let Self { id, span, flags, .. } = self;
        format!("00-{id:032x}-{span:016x}-{flags:02x}")
    }

    /// The value of `tracestate` for the same requests, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn request_ids() -> Arc<RequestIds> {
        Arc::new(RequestIds::new(Some(HeaderName::from_static("x-request-id")), true))
    }

    fn read_id(lines: &[(&str, &str)]) -> RequestId {
        request_ids().read_id(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn a_clients_id_is_taken_if_it_is_plain_and_sent_once() {
        let longest = "x".repeat(ID_MAX);
        for id in ["1", "a-b_c:d/e=~!", &longest] {
            assert_eq!(read_id(&[("X-Request-ID", id)]).id(), id);
        }
        let too_long = "x".repeat(ID_MAX + 1);
        for id in ["", "a b", "a\"b", "a'b", "a,b", "a;b", "a\\b", "a\tb", "\u{e9}", "a\u{7f}", &too_long] {
            let made = read_id(&[("x-request-id", id)]);
            assert!(made.id().len() == 16 && made.id() != id, "{id:?} became {made:?}");
        }
        assert_eq!(read_id(&[("x-request-id", "a"), ("x-request-id", "a")]).id().len(), 16);
    }

    #[test]
    fn ids_differ_between_threads_and_do_not_count_up() {
        let first = request_ids();
        let second = Arc::new(first.for_another_thread());
        let third = Arc::new(second.for_another_thread());
        let mut seen = HashSet::new();
        let mut high = HashSet::new();
        for _ in 0..1000 {
            for request_ids in [&first, &second, &third] {
                let id = request_ids.unread().id().to_owned();
                assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.len() == 16, "{id}");
                high.insert(id[..4].to_owned());
                assert!(seen.insert(id), "an id came twice");
            }
        }
        assert!(high.len() > 2000, "only {} beginnings among 3000 ids", high.len());
        assert!(!seen.contains(request_ids().unread().id()), "another process has other ids");
    }

    #[test]
    fn a_trace_continues_with_its_id_its_flags_and_a_new_span() {
        let request_id =
            read_id(&[("Traceparent", PARENT), ("tracestate", "a=1"), ("TraceState", "b=2 , c=3")]);
        let trace = request_id.trace().expect("traces are on");
        assert_eq!(trace.id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(trace.parent(), Some(0x00f0_67aa_0ba9_02b7));
        assert!(trace.is_sampled() && trace.span() != 0 && Some(trace.span()) != trace.parent());
        let text = trace.traceparent();
        assert!(
            text.starts_with(&PARENT[..36]) && text.ends_with("-01") && text.len() == PARENT.len(),
            "{text}"
        );
        assert_eq!(trace.tracestate(), Some("a=1,b=2 , c=3"));
        let unsampled = read_id(&[("traceparent", &PARENT.replace("-01", "-fc"))]);
        assert!(
            unsampled.trace().expect("on").traceparent().ends_with("-00"),
            "unknown flags are not passed on"
        );
    }

    #[test]
    fn a_trace_is_known_if_the_client_sent_it_or_somebody_asked_for_it() {
        let request_id = read_id(&[]);
        assert_eq!(request_id.known_trace(), None);
        let trace = request_id.clone().known_trace().cloned();
        assert!(
            trace.is_some() && trace.as_ref() == request_id.trace(),
            "it may be the other one that is asked"
        );
        assert_eq!(request_id.known_trace(), trace.as_ref());
        assert!(read_id(&[("traceparent", PARENT)]).known_trace().is_some());
    }

    #[test]
    fn a_malformed_traceparent_begins_a_new_trace() {
        let zeros = [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ];
        let upper = PARENT.to_uppercase();
        let wrong = [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-00"),
            &format!("{PARENT} "),
            &upper,
            zeros[0],
            zeros[1],
            &PARENT.replacen("00-", "ff-", 1),
            &PARENT.replacen("00-", "0x-", 1),
            &PARENT.replacen('-', "_", 3),
            &format!("{}x", PARENT.replacen("00-", "01-", 1)),
        ];
        for value in wrong {
            let request_id = read_id(&[("traceparent", value), ("tracestate", "a=1")]);
            let trace = request_id.trace().expect("traces are on");
            assert_eq!((trace.parent(), trace.tracestate()), (None, None), "{value:?} is no traceparent");
            assert!(trace.is_sampled() && trace.id() != 0);
        }
        let twice = read_id(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        assert_eq!(twice.trace().expect("traces are on").parent(), None);
    }

    #[test]
    fn the_percentage_applies_to_new_traces_and_a_clients_choice_is_kept() {
        for (percent, few, many) in [(0, 0, 0), (10, 50, 150), (100, 1000, 1000)] {
            let request_ids = Arc::new(RequestIds::new(None, true).sampling(percent).for_another_thread());
            let unparented = || request_ids.read_id([].into_iter());
            let is_sampled = |request_id: &RequestId| request_id.trace().expect("traces are on").is_sampled();
            let sampled = (0..1000).filter(|_| is_sampled(&unparented())).count();
            assert!((few..=many).contains(&sampled), "{sampled} of 1000 at {percent} %");
            for (flags, is) in [("-00", false), ("-01", true)] {
                let parent = PARENT.replace("-01", flags);
                let lines = [(&b"traceparent"[..], parent.as_bytes())];
                assert_eq!(is_sampled(&request_ids.read_id(lines.into_iter())), is);
            }
        }
    }

    #[test]
    fn a_later_traceparent_version_is_read_as_far_as_it_is_known() {
        let later = PARENT.replacen("00-", "cc-", 1).replace("-01", "-03");
        for value in [later.clone(), format!("{later}-what-the-future-brings")] {
            let request_id = read_id(&[("traceparent", &value)]);
            let trace = request_id.trace().expect("traces are on");
            assert_eq!(trace.parent(), Some(0x00f0_67aa_0ba9_02b7));
            assert!(trace.traceparent().starts_with("00-") && trace.traceparent().ends_with("-01"));
        }
    }

    #[test]
    fn without_ids_and_traces_no_header_is_read() {
        let off = Arc::new(RequestIds::new(None, false));
        assert!((0..200).all(|length| !off.looks_at(length)));
        let lines = [(&b"x-request-id"[..], &b"a"[..]), (b"traceparent", PARENT.as_bytes())];
        let request_id = off.read_id(lines.into_iter());
        assert!(request_id.id().len() == 16 && request_id.trace().is_none() && request_id.header().is_none());
    }
}
