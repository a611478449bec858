//! The parameters of a request as values: found in their place, read as their type, checked. Worker thread.

use std::borrow::Cow;
use std::fmt;

use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, StatusCode};
use percent_encoding::percent_decode;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::base::value::{Mismatch, Type, Value};
use crate::config::{Param, Place};
use crate::handler::Error;
use crate::http::Request;

/// The values of `params`, in their order.
///
/// # Errors
/// 400 that names the parameter, the expected value and the received one; 415 for a body of another media type. With `strict`, also 400
/// for a name that is no parameter.
pub(super) fn values(params: &[Param], strict: bool, request: &Request) -> Result<Vec<Value>, Error> {
    let sources = Sources::new(params, strict, request)?;
    if strict {
        sources.refuse_unknown(params)?;
    }
    params.iter().map(|param| sources.value(param)).collect()
}

/// The parts of the request in which several parameters are looked for.
struct Sources<'a> {
    request: &'a Request,
    query: Vec<Pair<'a>>,
    form: Vec<Pair<'a>>,
    body: Members<'a>,
}

/// A name of a query or a form, decoded, and its value as it was sent.
type Pair<'a> = (Cow<'a, str>, &'a [u8]);

impl<'a> Sources<'a> {
    /// With `strict`, pairs of the query are looked for also without a parameter there.
    fn new(params: &[Param], strict: bool, request: &'a Request) -> Result<Self, Error> {
        let uses = |place| params.iter().any(|param| param.place == place);
        let pairs = |used: bool, bytes: &'a [u8]| if used { pairs(bytes) } else { Vec::new() };
        if uses(Place::Form) {
            expect_media_type(request, "application/x-www-form-urlencoded")?;
        }
        Ok(Self {
            query: pairs(strict || uses(Place::Query), request.query().as_bytes()),
            form: pairs(uses(Place::Form), request.body()),
            body: if uses(Place::Body) { json_members(request)? } else { Members::default() },
            request,
        })
    }

    /// Refuses a name in the query, the form or the JSON body without a parameter of that name there.
    fn refuse_unknown(&self, params: &[Param]) -> Result<(), Error> {
        let is_written = |(name, value): &&Pair<'_>| !name.is_empty() || !value.is_empty();
        let names = self.query.iter().filter(is_written).map(|(name, _)| (Place::Query, name));
        let names = names.chain(self.form.iter().filter(is_written).map(|(name, _)| (Place::Form, name)));
        for (place, name) in names.chain(self.body.0.iter().map(|(name, _)| (Place::Body, name))) {
            let known =
                || params.iter().filter(|param| param.place == place).map(|param| param.wire_name.as_str());
            if known().any(|known| known == name) {
                continue;
            }
            let known: Vec<_> = known().collect();
            let expected =
                if known.is_empty() { "none".to_owned() } else { format!("only {}", known.join(", ")) };
            let place = place_name(place);
            // A name of any length comes back, but not whole.
            let name: String = name.chars().take(LONGEST_NAME).collect();
            let detail = format!("unknown parameter {name:?} in the {place}: expected {expected} there");
            let answer = Error::new(StatusCode::BAD_REQUEST, detail);
            return Err(answer.with_member("parameter", name).with_member("expected", expected));
        }
        Ok(())
    }

    fn value(&self, param: &Param) -> Result<Value, Error> {
        let name = &param.wire_name;
        let mismatch = |Mismatch { expected, received }| {
            if param.is_hidden() {
                Error::bad_secret(name, &expected)
            } else {
                Error::bad_parameter(name, &expected, &received)
            }
        };
        let Some(value) = self.find(param).map_err(mismatch)? else {
            return param.default.clone().ok_or_else(|| {
                let place = place_name(param.place);
                let expected = format!("{} as {name:?} in the {place}", param.kind);
                Error::bad_parameter(name, &expected, "nothing")
            });
        };
        param.checks.verify(&value).map_err(mismatch)?;
        Ok(value)
    }

    /// The parameter's value, if it was sent.
    fn find(&self, param: &Param) -> Result<Option<Value>, Mismatch> {
        let name = param.wire_name.as_str();
        match param.place {
            Place::Path => match self.request.raw_path_value(name) {
                Some(raw) => one(param.kind, &decode(raw.as_bytes(), Plus::IsItself)?).map(Some),
                None => Ok(None),
            },
            Place::Query => from_pairs(param, &self.query),
            Place::Form => from_pairs(param, &self.form),
            Place::Header => {
                let lines = self.request.header_lines().filter(|(found, _)| found.eq_ignore_ascii_case(name));
                let lines = lines.map(|(_, value)| {
                    let text = std::str::from_utf8(value).map(Cow::Borrowed);
                    text.map_err(|_| Mismatch::new("UTF-8", &String::from_utf8_lossy(value)))
                });
                from_texts(param.kind, &lines.collect::<Result<Vec<_>, _>>()?)
            }
            Place::Body => match *self.body.named(name) {
                [] => Ok(None),
                // In JSON, null says that an optional member is absent. To a `json` parameter it is a document.
                [raw] if raw.get() == "null" && param.default == Some(Value::Null) => Ok(None),
                [raw] => Value::from_json(param.kind, raw).map(Some),
                // RFC 8259 section 4 leaves open which of them counts. A program that checked the body before wharf may
                // have read another one.
                ref several => {
                    let values: Vec<_> = several.iter().map(|raw| raw.get()).collect();
                    Err(Mismatch::new(format!("{}, once", param.kind), &values.join(", ")))
                }
            },
        }
    }
}

/// An unknown parameter's name is shown up to this many characters.
const LONGEST_NAME: usize = 100;

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
        Place::Body => "JSON body",
        Place::Form => "form",
    }
}

/// The pairs of a query or a form (URL Standard, section 5.1).
fn pairs(bytes: &[u8]) -> Vec<Pair<'_>> {
    let pairs = bytes.split(|&byte| byte == b'&').filter_map(|pair| {
        let end = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        // A name that cannot be decoded is no parameter's name.
        let name = decode(&pair[..end], Plus::IsSpace).ok()?;
        Some((name, pair.get(end + 1..).unwrap_or_default()))
    });
    pairs.collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Plus {
    IsSpace,
    IsItself,
}

/// Undoes percent-encoding. A broken value is refused: a repaired one would be another value, with U+FFFD in it, and be
/// stored.
fn decode(raw: &[u8], plus: Plus) -> Result<Cow<'_, str>, Mismatch> {
    let is_broken =
        |at: usize| !raw.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    let broken = memchr::memchr_iter(b'%', raw).any(is_broken);
    let decoded = if plus == Plus::IsSpace && raw.contains(&b'+') {
        let spaced: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_decode(&spaced).decode_utf8().map(|text| Cow::Owned(text.into_owned()))
    } else {
        percent_decode(raw).decode_utf8()
    };
    match decoded {
        Ok(text) if !broken => Ok(text),
        _ => Err(Mismatch::new("UTF-8, percent-encoded", &String::from_utf8_lossy(raw))),
    }
}

fn from_pairs(param: &Param, pairs: &[Pair<'_>]) -> Result<Option<Value>, Mismatch> {
    let sent = pairs.iter().filter(|(name, _)| *name == param.wire_name.as_str());
    let texts = sent.map(|(_, value)| decode(value, Plus::IsSpace)).collect::<Result<Vec<_>, _>>()?;
    from_texts(param.kind, &texts)
}

/// Reads a value from the texts that were sent under its name: one text for a single value, any number for an array.
fn from_texts(kind: Type, texts: &[Cow<'_, str>]) -> Result<Option<Value>, Mismatch> {
    match (kind, texts) {
        (_, []) => Ok(None),
        (Type::Many(scalar), texts) => {
            let items = texts.iter().map(|text| Value::parse(scalar, text));
            Ok(Some(Value::Array(scalar, items.collect::<Result<_, _>>()?)))
        }
        (Type::One(_), [text]) => one(kind, text).map(Some),
        (Type::One(scalar), several) => Err(Mismatch::new(format!("{scalar}, once"), &several.join(", "))),
    }
}

fn one(kind: Type, text: &str) -> Result<Value, Mismatch> {
    match kind {
        Type::One(scalar) => Value::parse(scalar, text),
        Type::Many(scalar) => Ok(Value::Array(scalar, vec![Value::parse(scalar, text)?])),
    }
}

const JSON: &str = "application/json";
const JSON_SUFFIX: &[u8] = b"+json";

/// The members of the body's JSON object, in their order and not parsed further.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The values of every member with this name.
    fn named(&self, name: &str) -> Vec<&'a RawValue> {
        self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| *value).collect()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn json_members(request: &Request) -> Result<Members<'_>, Error> {
    expect_media_type(request, JSON)?;
    serde_json::from_slice(request.body()).map_err(|error: serde_json::Error| {
        // If the body is JSON but not an object, the error's own text quotes the JSON, which may be a secret.
        let found = match error.classify() {
            Category::Data => format!("it is other JSON at line {} column {}", error.line(), error.column()),
            _ => error.to_string(),
        };
        Error::new(StatusCode::BAD_REQUEST, format!("the body is not a JSON object: {found}"))
    })
}

/// Refuses a body that is compressed, or that does not state the expected media type. A body without a type may be anything: any
/// site's page can make a browser send such bytes, but not bytes with the type of JSON.
fn expect_media_type(request: &Request, expected: &str) -> Result<(), Error> {
    if let Some(codings) = request.header("content-encoding") {
        let is_identity = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
        if !codings.split(|&byte| byte == b',').all(is_identity) {
            return Err(compressed());
        }
    }
    let Some(sent) = request.header("content-type") else {
        return if request.body().is_empty() { Ok(()) } else { Err(unnamed_media_type(expected)) };
    };
    let sent = sent.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if sent.eq_ignore_ascii_case(expected.as_bytes()) || expected == JSON && is_json_dialect(sent) {
        return Ok(());
    }
    // The received type is a header's value, and so it is not shown.
    Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body must be {expected}"))
        .with_member("expected", expected))
}

/// Whether a media type is one of those that are JSON, such as `application/merge-patch+json` (RFC 6839 section 3.1). As with
/// `application/json`, a page of another site cannot send it without asking first.
fn is_json_dialect(sent: &[u8]) -> bool {
    let suffix = sent.len().checked_sub(JSON_SUFFIX.len()).map(|start| &sent[start..]);
    sent.contains(&b'/') && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(JSON_SUFFIX))
}

/// Answers as RFC 9110 section 15.5.16 asks: with the codings that would be accepted.
fn compressed() -> Error {
    Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body must not be compressed: no Content-Encoding is understood",
    )
    .with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

fn unnamed_media_type(expected: &str) -> Error {
    let detail = format!("the body must be {expected}, and say so in Content-Type");
    Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).with_member("expected", expected)
}
