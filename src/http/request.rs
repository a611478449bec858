//! A whole request: its head as it came, and its body.
//!
//! A connector makes it and handlers read it. Headers stay where they arrived and are searched for, because most
//! handlers need none or one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::escape::unescaped;
use super::{BodyReader, Form, Source};
use crate::base::request_id::{RequestId, RequestIds, Trace};

/// A request with its body, or with the part of the body that has come for a handler that streams. `Debug` shows which
/// request it is, but not its query, its headers and its body.
#[expect(clippy::struct_field_names, reason = "the id has its name everywhere")]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The bytes that the ranges below refer to.
    pub(crate) head: Arc<[u8]>,
    pub(crate) path: Range<usize>,
    pub(crate) query: Option<Range<usize>>,
    pub(crate) fields: Vec<(Range<usize>, Range<usize>)>,
    pub(crate) logged: Logged,
    pub(crate) body: Bytes,
    /// The rest of a body that is too long to be read before the handler runs.
    pub(crate) source: Option<Arc<dyn Source>>,
    pub(crate) keep_alive: bool,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) is_encrypted: bool,
    pub(crate) client_certificate: Option<Bytes>,
    /// Set by the connector that has read the request.
    pub(crate) request_id: Option<RequestId>,
    pub(crate) path_names: Option<Arc<[Box<str>]>>,
    pub(crate) path_values: Vec<PathValue>,
}

/// The part of a path that stands for `{name}` of its route.
pub(crate) enum PathValue {
    /// It stands in the head and has no percent-encoding.
    Sent(Range<usize>),
    /// It has percent-encoding.
    Escaped { raw: Box<str>, text: Box<str> },
}

impl PathValue {
    /// A value of a path with percent-encoding.
    pub(crate) fn escaped(raw: &str) -> Self {
        Self::Escaped { raw: raw.into(), text: unescaped(raw).into() }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("Request");
        told.field("id", &self.id()).field("method", &self.method).field("path", &self.path());
        told.finish_non_exhaustive()
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// HTTP/1.0 or HTTP/1.1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The path as it was sent, percent-encoding included. `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.text(&self.path)
    }

    /// The query as it was sent, without the `?`. Empty if the target has no query.
    pub fn query(&self) -> &str {
        self.query.as_ref().map_or("", |range| self.text(range))
    }

    /// The first value of a header. The case of its name does not matter.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.header_lines().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Every header line in the order it came: name and value.
    pub fn header_lines(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (self.text(name), &self.head[value.clone()]))
    }

    /// The headers as a map of the `http` crate. Each call makes a new map.
    pub fn header_map(&self) -> HeaderMap {
        let pairs = self.header_lines().filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
        });
        let mut map = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    /// The body, after chunked decoding. It is empty if the body must be read with [`reader`](Self::reader), for a
    /// handler that [streams](crate::handler::Policy::streaming).
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as a stream. If the whole body has come, each call begins at its start. A body that is still coming can
    /// be read only once, and each read waits for the client up to the request's deadline.
    pub fn reader(&self) -> BodyReader {
        BodyReader { bytes: self.body.clone(), source: self.source.clone() }
    }

    /// The address of the other end of the connection, or the one in its PROXY header. `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether the connection speaks TLS. Behind a proxy it is the proxy's connection, and the client's own may differ.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// The client's address. Behind proxies in `proxy.trusted` it is the address in `proxy.header`, otherwise the
    /// peer's.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The request's id, which the answer and the log have as well. It is the client's from `server.request_id_header`
    /// if that is 1 to 128 visible ASCII characters without quotes, commas, semicolons and backslashes. Otherwise it is
    /// sixteen hexadecimal digits.
    pub fn id(&self) -> &str {
        self.request_id.as_ref().map_or("", RequestId::id)
    }

    /// The request's place in a trace, which the client began or which begins here. `None` if `tracing.propagate` is
    /// false.
    pub fn trace(&self) -> Option<&Trace> {
        self.request_id.as_ref()?.trace()
    }

    /// The identity of the request, if the connector has set it.
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    /// Sets the identity of the request from its headers.
    pub fn read_id(&mut self, request_ids: &Arc<RequestIds>) {
        let lines = self.fields.iter().filter(|(name, _)| request_ids.looks_at(name.len()));
        let lines = lines.map(|(name, value)| (&self.head[name.clone()], &self.head[value.clone()]));
        self.request_id = Some(request_ids.read_id(lines));
    }

    /// The certificate that the client showed and that `tls.client_ca` vouches for, in DER.
    pub fn client_certificate(&self) -> Option<&[u8]> {
        self.client_certificate.as_deref()
    }

    /// The text that stands for `{name}` of the route, decoded: `Ada L` of `/greet/Ada%20L`. A text that is no UTF-8 stays encoded.
    pub fn path_value(&self, name: &str) -> Option<&str> {
        self.find_path_value(name).map(|value| match value {
            PathValue::Sent(range) => self.text(range),
            PathValue::Escaped { text, .. } => text,
        })
    }

    /// The same, percent-encoding included.
    pub fn raw_path_value(&self, name: &str) -> Option<&str> {
        self.find_path_value(name).map(|value| match value {
            PathValue::Sent(range) => self.text(range),
            PathValue::Escaped { raw, .. } => raw,
        })
    }

    fn find_path_value(&self, name: &str) -> Option<&PathValue> {
        let index = self.path_names.as_ref()?.iter().position(|known| **known == *name)?;
        self.path_values.get(index)
    }

    /// The first value of `name` in the query, decoded.
    pub fn query_value(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query().as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The form of the answer. The connection cannot stay open before the body has ended, because the beginning of the
    /// next request is unknown until then.
    pub fn form(&self) -> Form {
        Form {
            head_only: self.method == Method::HEAD,
            http_10: self.version == Version::HTTP_10,
            keep_alive: self.keep_alive && self.source.as_ref().is_none_or(|source| source.is_complete()),
        }
    }

    /// Target and header names are ASCII, because the parser refuses everything else.
    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.head[range.clone()]).unwrap_or_default()
    }
}

/// The positions of the logged headers in the head; of repeated headers, the last one.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    pub(super) referer: Option<Range<usize>>,
    pub(super) user_agent: Option<Range<usize>>,
}

impl Logged {
    /// Remembers the position of a value, if the header is a logged one.
    pub(super) fn note(&mut self, name: &[u8], value: &Range<usize>) {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"referer") => self.referer = Some(value.clone()),
            10 if name.eq_ignore_ascii_case(b"user-agent") => self.user_agent = Some(value.clone()),
            _ => {}
        }
    }
}
