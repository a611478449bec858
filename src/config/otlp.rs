//! The collector's address and its headers, as the file and OpenTelemetry's variables have them.
//!
//! Main thread. No message repeats a header's value, which may be a key.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::setting::Setting;

/// OpenTelemetry's variables for keys of `[tracing]` (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
/// Only a server that sends traces reads them.
pub(super) const VARIABLES: [(&str, &str); 3] = [
    ("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS"),
    ("service_name", "OTEL_SERVICE_NAME"),
];

/// The collector's address, without a slash at its end.
pub(super) fn endpoint(setting: Setting) -> Result<String, String> {
    let accepted = "expected a collector's address such as \"http://127.0.0.1:4318\", without a path of its own for traces";
    let text = setting.text().map_err(|_| accepted.to_owned())?;
    let url = text.trim_end_matches('/');
    let uri = url.parse::<http::Uri>().ok();
    let speaks_http = uri.as_ref().is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    // A password in the address would be shown. Headers are the place for it.
    let authority = uri.as_ref().and_then(http::Uri::authority);
    let is_plain = authority.is_some_and(|at| !at.as_str().contains('@') && !at.host().is_empty());
    let is_base = uri.as_ref().is_some_and(|uri| uri.query().is_none()) && !url.ends_with("/v1/traces");
    if speaks_http && is_plain && is_base {
        Ok(url.to_owned())
    } else if text.contains(['@', '?']) {
        // The message does not repeat the text, because parts of it may be a password.
        Err(accepted.to_owned())
    } else {
        Err(format!("{accepted}, received {text:?}"))
    }
}

/// The text of `otlp_headers`, checked.
pub(super) fn fields(setting: Setting) -> Result<String, String> {
    let accepted =
        "expected headers such as \"api-key=KEY\", with commas between, values percent-encoded where needed";
    let text = setting.text().map_err(|_| accepted.to_owned())?;
    if otlp_headers(&text).is_some_and(|headers| !headers.is_empty()) {
        Ok(text)
    } else {
        Err(accepted.to_owned())
    }
}

/// The headers of `name=value,name=value` with percent-decoded values, as in OpenTelemetry's variable. `None`: the text
/// is malformed.
pub fn otlp_headers(text: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((name.trim().parse().ok()?, value))
    };
    pairs.map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collectors_address_has_a_scheme_a_host_and_no_secret() {
        let read = |text: &str| endpoint(Setting::Text(text.to_owned()));
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("https://otlp.nr-data.net/", "https://otlp.nr-data.net"),
            ("https://host/otlp", "https://host/otlp"),
            ("http://[::1]:4318", "http://[::1]:4318"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(url));
        }
        for wrong in [
            "",
            "host:4318",
            "grpc://host",
            "http://",
            "http://host/v1/traces",
            "http://host?a=1",
            "http://a b",
        ] {
            assert!(read(wrong).expect_err(wrong).contains("expected a collector's address"), "{wrong}");
        }
        for secret in ["https://user:hunter2@host", "https://user:hunt er2@host", "https://host?key=hunter2"]
        {
            assert!(!read(secret).expect_err("a password").contains("er2"), "{secret}");
        }
        assert!(endpoint(Setting::Integer(1)).is_err());
    }

    #[test]
    fn headers_are_pairs_and_values_may_be_encoded() {
        let text = "api-key=abc, Authorization=Basic%20QTpC=,";
        let headers = otlp_headers(text).expect("two headers");
        let shown: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(shown, [("api-key", &b"abc"[..]), ("authorization", b"Basic QTpC=")]);
        assert!(format!("{headers:?}").contains("Sensitive"));
        for wrong in ["", ",", "hunter2", "a b=hunter2", "a=hunter2%0a", "=hunter2"] {
            let message = fields(Setting::Text(wrong.to_owned())).expect_err(wrong);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
