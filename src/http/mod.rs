//! HTTP/1.1 as pure bytes and values: parses requests and encodes answers. No I/O, and no clock except for `Date`.
//!
//! Any thread. `Method`, `StatusCode` and `HeaderMap` come from the `http` crate, and `httparse` finds the tokens. The
//! rules of RFC 9110 and RFC 9112 are this module's own, and strict: a request that a proxy might read differently is
//! refused.

mod body;
mod builder;
mod chunked;
mod encode;
mod escape;
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
pub(crate) use escape::{normal_path, sent_offset};
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
pub(crate) use request::PathValue;
pub use request::Request;
pub(crate) use response::{Body, FileBody};
pub use response::{MediaType, Response, WriteBody};
pub use timing::Timing;
pub(crate) use timing::{Template, decimals, microseconds, milliseconds};
