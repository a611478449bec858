//! A request's parameters as values: found in their place, read as their type, checked. Worker thread.

use std::borrow::Cow;
use std::collections::HashMap;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::config::{Param, Place};
use crate::handler::Error;
use crate::http::Request;
use crate::value::{Mismatch, Type, Value};

/// The values of `params`, in their order.
///
/// # Errors
/// 400 that names the parameter, what was expected and what came; 415 for a body of another media type.
pub(super) fn values(params: &[Param], request: &Request) -> Result<Vec<Value>, Error> {
    let sources = Sources::new(params, request)?;
    params.iter().map(|param| sources.value(param)).collect()
}

/// What of the request is read more than once.
struct Sources<'a> {
    request: &'a Request,
    query: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    form: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    body: HashMap<Cow<'a, str>, &'a RawValue>,
}

impl<'a> Sources<'a> {
    fn new(params: &[Param], request: &'a Request) -> Result<Self, Error> {
        let uses = |place| params.iter().any(|param| param.place == place);
        let pairs = |used: bool, bytes: &'a [u8]| {
            if used { form_urlencoded::parse(bytes).collect() } else { Vec::new() }
        };
        if uses(Place::Form) {
            expect_media_type(request, "application/x-www-form-urlencoded")?;
        }
        Ok(Self {
            query: pairs(uses(Place::Query), request.query().as_bytes()),
            form: pairs(uses(Place::Form), request.body()),
            body: if uses(Place::Body) { json_members(request)? } else { HashMap::new() },
            request,
        })
    }

    fn value(&self, param: &Param) -> Result<Value, Error> {
        let mismatch =
            |mismatch: Mismatch| Error::bad_parameter(&param.name, &mismatch.expected, &mismatch.received);
        let Some(value) = self.find(param).map_err(mismatch)? else {
            return param.default.clone().ok_or_else(|| {
                let place = match param.place {
                    Place::Path => "path",
                    Place::Query => "query",
                    Place::Header => "header",
                    Place::Body => "JSON body",
                    Place::Form => "form",
                };
                let expected = format!("{} as {:?} in the {place}", param.kind, param.wire_name);
                Error::bad_parameter(&param.name, &expected, "nothing")
            });
        };
        param.checks.verify(&value).map_err(mismatch)?;
        Ok(value)
    }

    /// The parameter's value, if it was sent.
    fn find(&self, param: &Param) -> Result<Option<Value>, Mismatch> {
        let name = param.wire_name.as_str();
        match param.place {
            Place::Path => match self.request.path_value(name) {
                Some(raw) => {
                    let decoded = percent_decode_str(raw).decode_utf8();
                    let text = decoded.map_err(|_| Mismatch::new("UTF-8, percent-encoded", raw))?;
                    one(param.kind, &text).map(Some)
                }
                None => Ok(None),
            },
            Place::Query => from_pairs(param, &self.query),
            Place::Form => from_pairs(param, &self.form),
            Place::Header => {
                let lines: Vec<Cow<'_, str>> = self
                    .request
                    .header_lines()
                    .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                    .map(|(_, value)| String::from_utf8_lossy(value))
                    .collect();
                from_texts(param.kind, &lines)
            }
            Place::Body => match self.body.get(name) {
                // null is how JSON says that an optional member is absent; to a `json` parameter it is a document.
                Some(raw) if raw.get() == "null" && param.default == Some(Value::Null) => Ok(None),
                Some(raw) => Value::from_json(param.kind, raw).map(Some),
                None => Ok(None),
            },
        }
    }
}

fn from_pairs(param: &Param, pairs: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<Option<Value>, Mismatch> {
    let sent = pairs.iter().filter(|(name, _)| *name == param.wire_name.as_str());
    let texts: Vec<Cow<'_, str>> = sent.map(|(_, value)| Cow::Borrowed(&**value)).collect();
    from_texts(param.kind, &texts)
}

/// A value out of the texts that were sent under its name: one for a single value, any number for an array.
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

/// The members of the JSON object that is the body, not parsed further.
fn json_members(request: &Request) -> Result<HashMap<Cow<'_, str>, &RawValue>, Error> {
    expect_media_type(request, "application/json")?;
    serde_json::from_slice(request.body()).map_err(|error| {
        let detail = format!("the body is not a JSON object: {error}");
        Error::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// A body says what it is; one without a type is taken at the endpoint's word.
fn expect_media_type(request: &Request, expected: &str) -> Result<(), Error> {
    let Some(sent) = request.header("content-type") else { return Ok(()) };
    let sent = sent.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if sent.eq_ignore_ascii_case(expected.as_bytes()) {
        return Ok(());
    }
    let received = Mismatch::new("", &String::from_utf8_lossy(sent)).received;
    Err(Error::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("the body must be {expected}, not {received}"),
    )
    .with_member("expected", expected)
    .with_member("received", received))
}
