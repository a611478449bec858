//! The parts of a request that a log shows.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use http::{Method, Version};

use super::request::{Logged, Request};

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
        let part = |range: &Range<usize>| &request.head[range.clone()];
        let Logged { referer, user_agent } = &request.logged;
        Self {
            method: &request.method,
            version: request.version,
            path: part(&request.path),
            query: request.query.as_ref().map(part),
            referer: referer.as_ref().map(part),
            user_agent: user_agent.as_ref().map(part),
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

    /// The path as it was sent, with or without its query.
    pub fn target(&self, with_query: bool) -> Cow<'a, [u8]> {
        match self.query.filter(|_| with_query) {
            Some(query) => [self.path, query].join(&b'?').into(),
            None => self.path.into(),
        }
    }

    /// The client's `Referer`.
    pub fn referer(&self) -> Option<&'a [u8]> {
        self.referer
    }

    /// The client's `User-Agent`.
    pub fn user_agent(&self) -> Option<&'a [u8]> {
        self.user_agent
    }

    /// The client's address, if it is known.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }
}

/// An outline that is kept beside the request, for the thread that ends the request while another thread has it. It is
/// a copy, because sharing the head would cost both threads more.
#[derive(Debug, Default)]
pub(crate) struct KeptOutline {
    method: Method,
    version: Version,
    /// Path, query, Referer and User-Agent, one after the other.
    text: Vec<u8>,
    path: Range<usize>,
    query: Option<Range<usize>>,
    logged: Logged,
    client: Option<IpAddr>,
}

impl KeptOutline {
    /// The outline of a request of this client.
    pub(crate) fn of(request: &Request, client: Option<IpAddr>) -> Self {
        let mut kept = Self::default();
        kept.keep(request, client);
        kept
    }

    /// The outline of another request, in the same memory.
    pub(crate) fn keep(&mut self, request: &Request, client: Option<IpAddr>) {
        let Self { text, .. } = self;
        text.clear();
        let mut copy = |range: &Range<usize>| {
            let begin = text.len();
            text.extend_from_slice(&request.head[range.clone()]);
            begin..text.len()
        };
        let Logged { referer, user_agent } = &request.logged;
        let path = copy(&request.path);
        let [query, referer, user_agent] =
            [&request.query, referer, user_agent].map(|range| range.as_ref().map(&mut copy));
        (self.path, self.query, self.logged) = (path, query, Logged { referer, user_agent });
        (self.method, self.version, self.client) = (request.method.clone(), request.version, client);
    }

    /// The outline that was kept.
    pub(crate) fn outline(&self) -> Outline<'_> {
        let part = |range: &Range<usize>| &self.text[range.clone()];
        let Logged { referer, user_agent } = &self.logged;
        Outline {
            method: &self.method,
            version: self.version,
            path: part(&self.path),
            query: self.query.as_ref().map(part),
            referer: referer.as_ref().map(part),
            user_agent: user_agent.as_ref().map(part),
            client: self.client,
        }
    }
}
