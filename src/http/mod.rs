//! HTTP/1.1 as pure bytes and values: parsing requests, encoding responses. No I/O, no clock but for `Date`.
//!
//! Any thread. The `http` crate's `Method`, `StatusCode` and `HeaderMap` are the vocabulary; `httparse` is the tokenizer;
//! the rules of RFC 9110 and RFC 9112 are ours, and strict: what a proxy in front of us might read differently is refused.

mod body;
mod builder;
mod chunked;
mod encode;
mod feed;
mod forwarded;
mod origin;
mod outline;
mod parse;
mod problem;
mod proxy;
mod refusal;
mod request;
mod response;
mod target;
mod timing;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
pub use body::{BodyReader, BodyWriter, Sink, Source};
pub use builder::RequestBuilder;
pub use chunked::Decoder;
pub(crate) use encode::is_ours;
pub use encode::{CONTINUE, Form, encode_head};
pub(crate) use feed::LAST_CHUNK;
pub use feed::{Feed, Piece};
pub use forwarded::{ForwardedBy, Networks, NetworksError, client_address};
pub use origin::{OriginRules, Origins, OriginsError, cross_origin};
pub(crate) use outline::KeptOutline;
pub use outline::Outline;
pub use parse::{BodyLength, Head, Scan, parse_head, scan_head};
pub use problem::problem;
pub use proxy::{ProxyError, ProxyHeader, read_proxy_header};
pub use refusal::{Fault, Limits, Refusal};
pub use request::Request;
pub(crate) use response::{Body, FileBody};
pub use response::{MediaType, Response, WriteBody};
pub use timing::Timing;
pub(crate) use timing::{Template, decimals, microseconds, milliseconds};
