//! The requests that `wharf load` and `wharf tune` send to the configuration's endpoints. The configuration says where
//! their parameters are drawn from, ideally from the database itself. Main thread.
//!
//! All requests are made before the run, so that drawing costs nothing during it. The same seed draws the same
//! requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use crate::base::deadline::Deadline;
use crate::base::value::{Scalar, Type, Value};
use crate::config::{Action, Config, Endpoint, Origin, Param, Place, Problem, Sample, Sql};
use crate::database::{Access, Database, Error, RowWriter, Shape};
use crate::sizing::load;

/// The time limit of the statement for a sample. The statement runs before the load and is not a part of it.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(30);

/// The most rows of a sample or of a file. More rows tell no more about a table, and each becomes a request in memory.
const ROWS_MAX: u64 = 100_000;

/// The most memory for the rows of a sample as JSON.
const SAMPLE_BYTES_MAX: usize = 64 << 20;

/// The number of requests drawn without a sample. Enough that a cache does not hold only them, and few
/// enough to be made quickly.
const DRAWS: usize = 1000;

/// The characters that need no encoding in a path segment or a query: RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The choice of endpoints, and the server to send to.
#[derive(Clone, Debug)]
pub struct Selection {
    /// NAMEs of endpoints; empty: all endpoints with a weight.
    pub names: Vec<String>,
    /// Whether endpoints that write are included: every method but GET.
    pub allow_writes: bool,
    /// The same seed draws the same requests. The order of `order by random()` is up to the database.
    pub seed: u64,
    /// The server.
    pub origin: load::Origin,
}

/// The requests to send.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Traffic {
    /// A target for each endpoint.
    pub targets: Vec<load::Target>,
    /// NAMEs of the endpoints that are left out because they write.
    pub left_out: Vec<String>,
}

/// No requests can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// The configuration does not say where a parameter comes from, or what it says does not work.
    #[error("{} problems with the requests for endpoints", .0.len())]
    Problems(Vec<Problem>),
    /// A name is unknown, or its endpoint may not be used.
    #[error("{0}")]
    Selection(String),
    /// The database does not answer.
    #[error("the parameters cannot be sampled: {0}")]
    Database(#[from] Error),
}

/// The requests for the endpoints of a configuration. `database` is where samples come from.
///
/// # Errors
/// A name is unknown. A named endpoint writes and may not. No endpoint is left. The configuration does not say where a
/// parameter comes from. The database does not answer.
pub fn traffic(
    config: &Config,
    database: Option<&Database>,
    selection: &Selection,
) -> Result<Traffic, TrafficError> {
    let mut drawing = RequestDrawing { database, rng: Rng::with_seed(selection.seed), problems: Vec::new() };
    let mut traffic = Traffic { targets: Vec::new(), left_out: Vec::new() };
    for endpoint in selection.endpoints(config)? {
        if endpoint.method != Method::GET && !selection.allow_writes {
            traffic.left_out.push(endpoint.name.clone());
            continue;
        }
        traffic.targets.push(load::Target {
            name: endpoint.name.clone(),
            origin: selection.origin.clone(),
            weight: endpoint.traffic.weight.max(1),
            requests: drawing.requests(endpoint, selection.origin.authority())?,
        });
    }
    if !drawing.problems.is_empty() {
        return Err(TrafficError::Problems(drawing.problems));
    }
    if traffic.targets.is_empty() {
        let message = match traffic.left_out.as_slice() {
            [] => "no endpoint has a weight; expected one with `load.weight` above 0".to_owned(),
            names => {
                format!("no endpoint to request: {} write; --allow-writes includes them", names.join(", "))
            }
        };
        return Err(TrafficError::Selection(message));
    }
    Ok(traffic)
}

impl Selection {
    fn endpoints<'c>(&self, config: &'c Config) -> Result<Vec<&'c Endpoint>, TrafficError> {
        if self.names.is_empty() {
            return Ok(config.endpoints.iter().filter(|endpoint| endpoint.traffic.weight > 0).collect());
        }
        let named = |name: &String| {
            let known = || config.endpoints.iter().map(|endpoint| endpoint.name.as_str());
            let endpoint =
                config.endpoints.iter().find(|endpoint| endpoint.name == *name).ok_or_else(|| {
                    format!(
                        "there is no endpoint {name:?}; expected one of {}",
                        known().collect::<Vec<_>>().join(", ")
                    )
                })?;
            if endpoint.method != Method::GET && !self.allow_writes {
                return Err(format!("endpoint {name} writes ({}); it needs --allow-writes", endpoint.method));
            }
            Ok(endpoint)
        };
        self.names.iter().map(named).collect::<Result<_, _>>().map_err(TrafficError::Selection)
    }
}

struct RequestDrawing<'d> {
    database: Option<&'d Database>,
    rng: Rng,
    problems: Vec<Problem>,
}

/// The source of a parameter's values.
enum Supply {
    /// The column of the sample with the parameter's name.
    Sample,
    Range(std::ops::RangeInclusive<i64>),
    Values(Vec<Value>),
    /// No source: the client may leave the parameter out, and does.
    Nowhere,
}

/// A row of a sample: values by the names of their parameters.
type SampleRow = HashMap<String, Value>;

impl RequestDrawing<'_> {
    /// The requests for an endpoint. The list is empty only when a problem was reported.
    fn requests(&mut self, endpoint: &Endpoint, authority: &str) -> Result<Vec<load::Request>, Error> {
        let none = Vec::new();
        let params = match &endpoint.action {
            Action::Sql { params, .. } => params,
            Action::Fixed { .. } => &none,
        };
        let mut rows = match (&endpoint.traffic.sample, self.database) {
            (Some(sample), Some(database)) => match self.sample(database, endpoint, sample, params)? {
                Some(rows) => rows,
                None => return Ok(Vec::new()),
            },
            _ => Vec::new(),
        };
        // All sources are looked up before the first missing one ends the work, so that each problem is reported.
        let supplies: Vec<_> =
            (0..params.len()).map(|slot| self.supply(endpoint, slot, params, rows.first())).collect();
        let Some(supplies) = supplies.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(Vec::new());
        };
        self.rng.shuffle(&mut rows);
        let is_drawn = supplies.iter().any(|supply| !matches!(supply, Supply::Nowhere));
        let count = if rows.is_empty() { if is_drawn { DRAWS } else { 1 } } else { rows.len() };
        let mut requests = Vec::with_capacity(count);
        for index in 0..count {
            let mut draft = Draft::new(&endpoint.path, params);
            for (param, supply) in params.iter().zip(&supplies) {
                if let Some(value) = self.draw(param, supply, rows.get(index))
                    && let Err(message) = draft.add(param, &value)
                {
                    self.report(endpoint, &param.name, message);
                    return Ok(Vec::new());
                }
            }
            requests.push(draft.request(&endpoint.method, authority));
        }
        Ok(requests)
    }

    fn report(&mut self, endpoint: &Endpoint, name: &str, message: impl Into<String>) {
        let key = format!("endpoint.{}.load.params.{name}", endpoint.name);
        self.problems.push(Problem::new(endpoint.traffic.span, key, message));
    }

    /// The source for one parameter; `None` after a problem was reported.
    fn supply(
        &mut self,
        endpoint: &Endpoint,
        slot: usize,
        params: &[Param],
        row: Option<&SampleRow>,
    ) -> Option<Supply> {
        let param = &params[slot];
        let origin = endpoint.traffic.origins.iter().find(|(of, _)| *of == slot);
        match origin {
            Some((_, Origin::Range(range))) => return Some(Supply::Range(range.clone())),
            Some((_, Origin::OneOf(values))) => return Some(Supply::Values(values.clone())),
            Some((_, Origin::Csv { file, column })) => {
                return match column_of(file, column, param) {
                    Ok(values) => Some(Supply::Values(values)),
                    Err(message) => {
                        self.report(endpoint, &param.name, message);
                        None
                    }
                };
            }
            None => {}
        }
        if row.is_some_and(|row| row.contains_key(&param.name)) {
            return Some(Supply::Sample);
        }
        if param.default.is_some() {
            return Some(Supply::Nowhere);
        }
        // Without another source, the values that the parameter allows are used.
        if let (Type::One(_), [_, ..]) = (param.kind, param.checks.one_of.as_slice()) {
            return Some(Supply::Values(param.checks.one_of.clone()));
        }
        match (param.kind, &param.checks.min, &param.checks.max) {
            (Type::One(Scalar::Bool), ..) => {
                Some(Supply::Values(vec![Value::Bool(false), Value::Bool(true)]))
            }
            (Type::One(Scalar::Int), Some(Value::Int(min)), Some(Value::Int(max))) => {
                Some(Supply::Range(*min..=*max))
            }
            _ => {
                let message = format!(
                    "the values of `{}` are not given; expected a column of that name in `sample`, or a `range`, \
                     `one_of` or `csv` here, or `weight = 0` for the endpoint",
                    param.name
                );
                self.report(endpoint, &param.name, message);
                None
            }
        }
    }

    fn draw(&mut self, param: &Param, supply: &Supply, row: Option<&SampleRow>) -> Option<Value> {
        match supply {
            Supply::Sample => row?.get(&param.name).cloned(),
            Supply::Range(range) => Some(Value::Int(self.rng.i64(range.clone()))),
            Supply::Values(values) => self.rng.choice(values).cloned(),
            Supply::Nowhere => None,
        }
        .filter(|value| *value != Value::Null)
    }

    /// The rows of a sample, with values that the endpoint accepts. `None` after a problem was reported.
    fn sample(
        &mut self,
        database: &Database,
        endpoint: &Endpoint,
        sample: &Sample,
        params: &[Param],
    ) -> Result<Option<Vec<SampleRow>>, Error> {
        let mut found = None;
        let mut refuse = |message: String| {
            let key = format!("endpoint.{}.load.sample", endpoint.name);
            self.problems.push(Problem::new(sample.span, key, message));
        };
        match rows(database, &sample.sql) {
            Ok(SampleRows { count: 0, .. }) => {
                refuse("it found no row, so there are no values to send".to_owned());
            }
            Ok(SampleRows { count, .. }) if count > ROWS_MAX => {
                refuse(format!("it found {count} rows; expected at most {ROWS_MAX}: add a `limit`"));
            }
            Ok(rows) => match typed(&rows.json, params) {
                Ok(rows) => found = Some(rows),
                Err(message) => refuse(message),
            },
            Err(Error::ResponseTooLarge { limit }) => {
                refuse(format!("its rows take more than {} MiB: add a `limit`", limit >> 20));
            }
            Err(error @ Error::Refused(_)) => refuse(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

struct SampleRows {
    /// A JSON array of objects.
    json: Vec<u8>,
    count: u64,
}

fn rows(database: &Database, sql: &str) -> Result<SampleRows, Error> {
    let deadline = Deadline::after(SAMPLE_PATIENCE);
    let statement = database.statement(&Sql::without_parameters(sql), &[]);
    let mut connection = database.checkout(deadline)?;
    let mut json = b"[".to_vec();
    let mut writer = RowWriter::new(&mut json, Shape::Objects, SAMPLE_BYTES_MAX, ROWS_MAX);
    connection.run(&statement, &[], Access::ReadOnly, deadline, &mut writer)?;
    let count = writer.rows();
    json.push(b']');
    Ok(SampleRows { json, count })
}

/// The rows of a sample as values of the parameters with the columns' names.
fn typed(json: &[u8], params: &[Param]) -> Result<Vec<SampleRow>, String> {
    let rows: Vec<HashMap<Cow<'_, str>, &RawValue>> =
        serde_json::from_slice(json).map_err(|error| format!("its rows are not JSON: {error}"))?;
    let typed = rows.iter().enumerate().map(|(index, row)| {
        let value = |(name, raw): (&Cow<'_, str>, &&RawValue)| {
            let param = params.iter().find(|param| param.name == *name).ok_or_else(|| {
                let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
                format!("its column {name:?} is not one of the parameters ({})", names.join(", "))
            })?;
            let value =
                column_value(param, raw).map_err(|why| format!("row {}, `{name}`: {why}", index + 1))?;
            Ok((name.to_string(), value))
        };
        row.iter().map(value).collect::<Result<SampleRow, String>>()
    });
    typed.collect()
}

/// A column's value, checked like a parameter of the endpoint.
fn column_value(param: &Param, raw: &RawValue) -> Result<Value, String> {
    let text: Option<String> = serde_json::from_str(raw.get()).ok();
    let value = match (param.kind, text) {
        _ if raw.get() == "null" => match param.default {
            Some(_) => return Ok(Value::Null),
            None => return Err(format!("expected {}, received null", param.kind)),
        },
        (Type::One(Scalar::Json), _) => Ok(Value::Json(raw.get().to_owned())),
        (Type::One(scalar), Some(text)) => Value::parse(scalar, &text),
        // A client would write a number for a text parameter, or a number in another notation.
        (Type::One(scalar), None) => Value::parse(scalar, raw.get()),
        (Type::Many(_), _) => Value::from_json(param.kind, raw),
    };
    let value = value.map_err(|mismatch| mismatch.to_string())?;
    param.checks.verify(&value).map_err(|mismatch| format!("the endpoint would refuse it: {mismatch}"))?;
    Ok(value)
}

/// The values of a file's column, each checked like a parameter of the endpoint.
fn column_of(file: &Path, column: &str, param: &Param) -> Result<Vec<Value>, String> {
    let at = file.display();
    let Type::One(scalar) = param.kind else {
        return Err(format!(
            "a file cannot give {}; expected a column of the sample, or `one_of`",
            param.kind
        ));
    };
    let mut reader = csv::Reader::from_path(file).map_err(|error| format!("{at}: {error}"))?;
    let headers = reader.headers().map_err(|error| format!("{at}: {error}"))?;
    let index = headers.iter().position(|name| name == column).ok_or_else(|| {
        let names: Vec<_> = headers.iter().collect();
        format!("{at} has no column {column:?}; it has {}", names.join(", "))
    })?;
    let mut values = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| format!("{at}: {error}"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let text = record.get(index).unwrap_or_default();
        let value = Value::parse(scalar, text).and_then(|value| param.checks.verify(&value).map(|()| value));
        values.push(value.map_err(|mismatch| format!("{at}, line {line}: {mismatch}"))?);
        if values.len() as u64 > ROWS_MAX {
            return Err(format!("{at} has more than {ROWS_MAX} lines"));
        }
    }
    if values.is_empty() { Err(format!("{at} has no line but its first")) } else { Ok(values) }
}

/// A request under construction.
struct Draft {
    path: String,
    query: String,
    headers: HeaderMap,
    body: Content,
}

enum Content {
    None,
    Form(String),
    Json(serde_json::Map<String, serde_json::Value>),
}

impl Draft {
    /// An endpoint with parameters in the body expects a body, even when all of them are left out.
    fn new(route: &str, params: &[Param]) -> Self {
        let has = |place| params.iter().any(|param| param.place == place);
        let body = if has(Place::Body) {
            Content::Json(serde_json::Map::new())
        } else if has(Place::Form) {
            Content::Form(String::new())
        } else {
            Content::None
        };
        Self { path: route.to_owned(), query: String::new(), headers: HeaderMap::new(), body }
    }

    /// Writes a value to the place of its parameter.
    fn add(&mut self, param: &Param, value: &Value) -> Result<(), String> {
        let name = param.wire_name.as_str();
        match param.place {
            Place::Path => {
                let text = value.to_text();
                let segment = utf8_percent_encode(&text, ENCODED).to_string();
                self.path = self.path.replace(&format!("{{{name}}}"), &segment);
                let rest: Vec<_> =
                    text.split('/').map(|part| utf8_percent_encode(part, ENCODED).to_string()).collect();
                self.path = self.path.replace(&format!("{{*{name}}}"), &rest.join("/"));
            }
            Place::Query => add_pairs(&mut self.query, name, value),
            Place::Form => {
                if let Content::Form(pairs) = &mut self.body {
                    add_pairs(pairs, name, value);
                }
            }
            Place::Header => {
                let text = value.to_text();
                let header = HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .zip(HeaderValue::from_bytes(text.as_bytes()).ok());
                let (name, value) =
                    header.ok_or_else(|| format!("{text:?} cannot be sent in the header {name}"))?;
                self.headers.append(name, value);
            }
            Place::Body => {
                if let Content::Json(members) = &mut self.body {
                    members.insert(name.to_owned(), value.to_json());
                }
            }
        }
        Ok(())
    }

    fn request(mut self, method: &Method, authority: &str) -> load::Request {
        if !self.query.is_empty() {
            self.path.push('?');
            self.path.push_str(&self.query);
        }
        let (media_type, body) = match self.body {
            Content::None => (None, String::new()),
            Content::Form(pairs) => (Some("application/x-www-form-urlencoded"), pairs),
            Content::Json(members) => {
                (Some("application/json"), serde_json::Value::Object(members).to_string())
            }
        };
        if let Some(media_type) = media_type {
            self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        load::Request::new(method, &self.path, authority, &self.headers, body.as_bytes())
    }
}

/// Adds a pair to a query or a form; for an array, a pair for each item.
fn add_pairs(pairs: &mut String, name: &str, value: &Value) {
    let items = match value {
        Value::Array(_, items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    for item in items {
        if !pairs.is_empty() {
            pairs.push('&');
        }
        pairs.extend(utf8_percent_encode(name, ENCODED));
        pairs.push('=');
        pairs.extend(utf8_percent_encode(&item.to_text(), ENCODED));
    }
}
