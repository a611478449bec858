//! What of a request a log says, kept beside the request for whoever ends it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use http::{Method, Version};

use super::Request;

/// A request's line and the two headers that web servers have always logged.
#[derive(Clone, Debug)]
pub struct Outline {
    method: Method,
    version: Version,
    /// The bytes that the ranges point into.
    head: Bytes,
    path: Range<usize>,
    query: Option<Range<usize>>,
    referer: Option<Range<usize>>,
    user_agent: Option<Range<usize>>,
    client: Option<IpAddr>,
}

impl Outline {
    /// The outline of a request.
    pub fn of(request: &Request) -> Self {
        let (mut referer, mut user_agent) = (None, None);
        for (name, value) in &request.fields {
            let name = &request.head[name.clone()];
            match name.len() {
                7 if name.eq_ignore_ascii_case(b"referer") => referer = Some(value.clone()),
                10 if name.eq_ignore_ascii_case(b"user-agent") => user_agent = Some(value.clone()),
                _ => {}
            }
        }
        Self {
            method: request.method.clone(),
            version: request.version,
            head: request.head.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            referer,
            user_agent,
            client: request.client.or_else(|| request.peer.map(|peer| peer.ip())),
        }
    }

    /// Says who the client is.
    #[must_use]
    pub(crate) fn with_client(self, client: Option<IpAddr>) -> Self {
        Self { client, ..self }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// `HTTP/1.1`.
    pub fn protocol(&self) -> &'static str {
        if self.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }
    }

    /// The path as it was sent, with its query or without.
    pub fn target(&self, with_query: bool) -> Cow<'_, [u8]> {
        let path = &self.head[self.path.clone()];
        match self.query.clone().filter(|_| with_query) {
            Some(query) => [path, &self.head[query]].join(&b'?').into(),
            None => path.into(),
        }
    }

    /// Where the client says that it comes from.
    pub fn referer(&self) -> Option<&[u8]> {
        Some(&self.head[self.referer.clone()?])
    }

    /// What the client says that it is.
    pub fn user_agent(&self) -> Option<&[u8]> {
        Some(&self.head[self.user_agent.clone()?])
    }

    /// Who the client is, as far as that is known.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }
}
