//! Sends traces to a collector by OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! The exporter's thread, which waits for the collector.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::protobuf::{Field, fields};
use crate::config;

/// The most bytes to read of an answer, which should hold no more than a sentence.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// The longest pause that a collector may ask for. It may be back sooner, and spans wait meanwhile.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

pub(super) struct Collector {
    agent: Agent,
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why the collector has not accepted the spans.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether the collector may accept them later.
    pub(super) may_pass: bool,
    /// When to try again, if the collector has said that.
    pub(super) retry_after: Option<Duration>,
}

impl Collector {
    pub(super) fn new(endpoint: &str, headers: Option<&str>) -> io::Result<Self> {
        let headers = headers.map_or_else(|| Some(Vec::new()), config::otlp_headers);
        let headers = headers
            .ok_or_else(|| io::Error::other("tracing.otlp_headers: expected names and values of headers"))?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The key in the headers is meant for this collector only.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")));
        if endpoint.starts_with("https://") {
            config = config.tls_config(tls()?);
        }
        Ok(Self { agent: config.build().new_agent(), url: format!("{endpoint}/v1/traces"), headers })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends one request. Returns how many of its spans were not accepted.
    pub(super) fn send(&self, body: &[u8], patience: Duration) -> Result<u64, Failure> {
        let mut request = self.agent.post(&self.url).config().timeout_global(Some(patience)).build();
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
        let failed =
            |error: ureq::Error| Failure { why: error.to_string(), may_pass: true, retry_after: None };
        let mut response = request.send(body).map_err(failed)?;
        // The answer is read even if it is of no use, so that the connection can be used again.
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        if response.status().is_success() {
            Ok(rejected(&answer.unwrap_or_default()))
        } else {
            Err(refused(&response))
        }
    }
}

/// Trusts only public authorities from the system's list, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR` instead.
fn tls() -> io::Result<TlsConfig> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(io::Error::other(format!("no certificates of authorities found {:?}", found.errors)));
    }
    let roots = found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn refused(response: &Response<Body>) -> Failure {
    let status = response.status();
    let may_pass = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let said = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Failure { why: format!("it answered {status}"), may_pass, retry_after: said.and_then(retry_after) }
}

/// Reads seconds or a date (RFC 9110 section 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    let until = || httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok();
    seconds.or_else(until).map(|pause| pause.min(RETRY_AFTER_MAX))
}

/// Reads `ExportTraceServiceResponse.partial_success.rejected_spans`.
fn rejected(answer: &[u8]) -> u64 {
    let mut partial = fields(answer).filter_map(|field| match field {
        (1, Field::Bytes(partial)) => Some(partial),
        _ => None,
    });
    let count = partial.next().and_then(|partial| {
        fields(partial).find_map(|field| match field {
            (1, Field::Number(rejected)) => Some(rejected),
            _ => None,
        })
    });
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_and_has_a_limit() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("86400"), Some(RETRY_AFTER_MAX));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!(retry_after(&date).is_some_and(|pause| pause > Duration::from_secs(20)), "{date}");
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), None);
    }

    #[test]
    fn the_number_of_rejected_spans_is_read() {
        assert_eq!(rejected(b""), 0);
        assert_eq!(rejected(b"\x0a\x09\x08\x96\x01\x12\x04full"), 150);
        assert_eq!(rejected(b"\x0a\x06\x12\x04full"), 0);
        assert_eq!(rejected(b"<html>"), 0);
    }
}
