//! What of a request a log says.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::{Method, Version};

use super::Request;

/// A request's line and the two headers that web servers have always logged.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    method: &'a Method,
    version: Version,
    path: &'a [u8],
    query: Option<&'a [u8]>,
    referer: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
    client: Option<IpAddr>,
}

impl<'a> Outline<'a> {
    /// The outline of a request.
    pub fn of(request: &'a Request) -> Self {
        let Found { referer, user_agent } = Found::of(request);
        let part = |range: Range<usize>| &request.head[range];
        Self {
            method: &request.method,
            version: request.version,
            path: part(request.path.clone()),
            query: request.query.clone().map(part),
            referer: referer.map(part),
            user_agent: user_agent.map(part),
            client: request.client.or_else(|| request.peer.map(|peer| peer.ip())),
        }
    }

    /// The method.
    pub fn method(&self) -> &'a str {
        self.method.as_str()
    }

    /// `HTTP/1.1`.
    pub fn protocol(&self) -> &'static str {
        if self.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }
    }

    /// The path as it was sent, with its query or without.
    pub fn target(&self, with_query: bool) -> Cow<'a, [u8]> {
        match self.query.filter(|_| with_query) {
            Some(query) => [self.path, query].join(&b'?').into(),
            None => self.path.into(),
        }
    }

    /// Where the client says that it comes from.
    pub fn referer(&self) -> Option<&'a [u8]> {
        self.referer
    }

    /// What the client says that it is.
    pub fn user_agent(&self) -> Option<&'a [u8]> {
        self.user_agent
    }

    /// Who the client is, as far as that is known.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }
}

/// An outline that is kept beside the request, for whoever ends it while another has it.
#[derive(Debug)]
pub(crate) struct KeptOutline {
    method: Method,
    version: Version,
    /// The bytes that the ranges point into.
    head: Arc<[u8]>,
    path: Range<usize>,
    query: Option<Range<usize>>,
    found: Found,
    client: Option<IpAddr>,
}

impl KeptOutline {
    /// The outline of a request of this client.
    pub(crate) fn of(request: &Request, client: Option<IpAddr>) -> Self {
        Self {
            method: request.method.clone(),
            version: request.version,
            head: Arc::clone(&request.head),
            path: request.path.clone(),
            query: request.query.clone(),
            found: Found::of(request),
            client,
        }
    }

    /// What is kept.
    pub(crate) fn outline(&self) -> Outline<'_> {
        let part = |range: &Range<usize>| &self.head[range.clone()];
        Outline {
            method: &self.method,
            version: self.version,
            path: part(&self.path),
            query: self.query.as_ref().map(part),
            referer: self.found.referer.as_ref().map(part),
            user_agent: self.found.user_agent.as_ref().map(part),
            client: self.client,
        }
    }
}

/// Where the two headers stand, the last of each.
#[derive(Debug, Default)]
struct Found {
    referer: Option<Range<usize>>,
    user_agent: Option<Range<usize>>,
}

impl Found {
    fn of(request: &Request) -> Self {
        let mut found = Self::default();
        for (name, value) in &request.fields {
            let name = &request.head[name.clone()];
            match name.len() {
                7 if name.eq_ignore_ascii_case(b"referer") => found.referer = Some(value.clone()),
                10 if name.eq_ignore_ascii_case(b"user-agent") => found.user_agent = Some(value.clone()),
                _ => {}
            }
        }
        found
    }
}
