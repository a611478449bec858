//! `[endpoint.NAME] params`: the place, type, default and checks of each parameter.
//!
//! Main thread. Knows nothing of the statements that use the parameters.

use http::{HeaderName, Method};
use toml::de::DeValue;

use super::checks::less;
use super::read::{Node, Reader, Table, suggestion};
use super::route::Route;
use super::setting::Setting;
use super::{Checks, Param, Place, Span};
use crate::base::value::{Scalar, Type, Value};

const KEYS: [&str; 13] = [
    "type",
    "in",
    "as",
    "secret",
    "optional",
    "default",
    "min",
    "max",
    "min_len",
    "max_len",
    "max_items",
    "pattern",
    "one_of",
];

/// The types that each check applies to.
const CHECKS: [(&str, &[Scalar]); 6] = {
    use Scalar::{Bytes, Date, Float, Int, Text, Timestamp, Uuid};
    const ORDERED: &[Scalar] = &[Int, Float, Date, Timestamp];
    [
        ("min", ORDERED),
        ("max", ORDERED),
        ("min_len", &[Text, Bytes]),
        ("max_len", &[Text, Bytes]),
        ("pattern", &[Text]),
        ("one_of", &[Int, Float, Text, Uuid, Date, Timestamp]),
    ]
};

const PLACES: [(&str, Place); 5] = [
    ("path", Place::Path),
    ("query", Place::Query),
    ("header", Place::Header),
    ("body", Place::Body),
    ("form", Place::Form),
];

/// A declared name. Its parameter is `None` if the declaration has a reported problem. The name still counts, so that
/// statements with the name are not reported as well.
pub(super) struct Declared<'a> {
    pub(super) name: &'a str,
    pub(super) span: Span,
    pub(super) key: String,
    pub(super) param: Option<Param>,
}

impl Reader<'_> {
    /// The `params` of an endpoint, in the order of the file.
    pub(super) fn params<'a>(&mut self, endpoint: &Table<'a>, route: Option<&Route>) -> Vec<Declared<'a>> {
        let table = endpoint.node("params").and_then(|node| self.table(&node));
        let declare = |node: Node<'a>| Declared {
            param: self.param(&node, route),
            name: node.name,
            span: node.name_span,
            key: node.key,
        };
        let declared: Vec<_> = table.iter().flat_map(Table::nodes).map(declare).collect();
        self.distinct_places(&declared);
        if let Some(route) = route.filter(|_| declared.iter().all(|declared| declared.param.is_some())) {
            self.route_is_declared(endpoint, route, &declared);
        }
        declared
    }

    fn param(&mut self, node: &Node<'_>, route: Option<&Route>) -> Option<Param> {
        if !is_name(node.name) {
            let message =
                "a parameter's name is letters, digits and `_`, as in `:name`, and starts with no digit";
            self.report(node.name_span, &node.key, message);
            return None;
        }
        // `id = "int"` is short for `id = { type = "int" }`.
        let short = matches!(node.value, DeValue::String(_));
        let table = if short { Table::empty(node) } else { self.table(node)? };
        self.only(&table, &KEYS);
        let kind = if short { Some(node.clone()) } else { table.node("type") };
        if kind.is_none() {
            self.report(table.span, table.key_of("type"), format!("missing; {}", types()));
        }
        let kind = kind.and_then(|kind| self.convert(&kind, parse_type));
        let place = self.place(&table, node.name, route);
        let secret = self.take(&table, "secret", Setting::flag);
        // Each part is read even if another is wrong, so that all problems are reported.
        let checks = self.checks(&table, kind);
        let kind = kind?;
        let default = self.default(&table, kind, place.as_ref().map(|(place, _)| *place), checks.as_ref());
        let (place, wire_name) = place?;
        self.kind_fits_place(&table, kind, place);
        if let Some(node) = table.node("secret").filter(|_| secret == Some(true) && place == Place::Path) {
            let message = "a path is no place for a secret: it stands in logs, here and wherever the request \
                           passes; use \"header\", \"body\" or \"form\"";
            self.report(node.name_span, &node.key, message);
        }
        let secret = secret.unwrap_or_default();
        Some(Param { name: node.name.to_owned(), place, wire_name, kind, secret, default, checks: checks? })
    }

    /// Reads `in` and `as`: where the client sends the parameter, and under which name.
    fn place(&mut self, table: &Table<'_>, name: &str, route: Option<&Route>) -> Option<(Place, String)> {
        let given = self.take(table, "in", |setting| setting.choice(&PLACES));
        let header = given == Some(Place::Header);
        let alias = self.take(table, "as", |setting| wire_name(&setting.text()?, header));
        if table.has("in") && given.is_none() || table.has("as") && alias.is_none() {
            return None;
        }
        let wire_name =
            alias.unwrap_or_else(|| if header { name.replace('_', "-") } else { name.to_owned() });
        let in_route = route.is_some_and(|route| route.names.contains(&wire_name));
        let place = given.unwrap_or(if in_route { Place::Path } else { Place::Query });
        let wrong = match (place, route) {
            (Place::Path, Some(_)) if !in_route => format!("the route has no `{{{wire_name}}}`"),
            // RFC 9110 gives a body no meaning in these methods (9.3.1, 9.3.5), and proxies drop it.
            (Place::Body | Place::Form, Some(Route { method, .. }))
                if [Method::GET, Method::DELETE].contains(method) =>
            {
                format!("a {method} request carries no body; use \"path\", \"query\" or \"header\"")
            }
            _ => return Some((place, wire_name)),
        };
        let at = table.node("in").map_or(table.span, |node| node.span);
        self.report(at, table.key_of("in"), wrong);
        None
    }

    fn kind_fits_place(&mut self, table: &Table<'_>, kind: Type, place: Place) {
        if matches!((kind, place), (Type::Many(_), Place::Path | Place::Header)) {
            let at = table.node("type").map_or(table.span, |node| node.span);
            let message =
                format!("{kind} cannot come in a path or a header; use \"query\", \"body\" or \"form\"");
            self.report(at, table.key_of("type"), message);
        }
    }

    /// Reads every check that fits the type, so that a wrong check hides no other. Without a type it reads only checks
    /// that need none.
    fn checks(&mut self, table: &Table<'_>, kind: Option<Type>) -> Option<Checks> {
        let mut foreign = Vec::new();
        for (name, scalars) in CHECKS {
            let Some(kind) = kind.filter(|kind| !scalars.contains(&kind.scalar())) else { continue };
            if let Some(node) = table.node(name) {
                let names: Vec<_> = scalars.iter().map(|scalar| scalar.name()).collect();
                let message = format!("does not apply to {kind}; it applies to {}", names.join(", "));
                self.report(node.name_span, node.key, message);
                foreign.push(name);
            }
        }
        if let (Some(node), Some(kind @ Type::One(_))) = (table.node("max_items"), kind) {
            self.report(node.name_span, node.key, format!("does not apply to {kind}; it applies to arrays"));
        }
        let applies = |name: &str| !foreign.contains(&name);
        let mut bound = |name: &str| {
            let node = table.node(name).filter(|_| applies(name))?;
            self.scalar(&node, kind?.scalar())
        };
        let (min, max) = (bound("min"), bound("max"));
        let mut count = |name: &str| {
            let setting = |setting: Setting| setting.count(&(0..=usize::MAX));
            applies(name).then(|| self.take(table, name, setting)).flatten()
        };
        let (min_len, max_len, max_items) = (count("min_len"), count("max_len"), count("max_items"));
        let pattern = applies("pattern").then(|| self.pattern(table)).flatten();
        let one_of = table.node("one_of").filter(|_| applies("one_of")).zip(kind);
        let one_of = one_of.map_or_else(Vec::new, |(node, kind)| self.one_of(&node, kind));
        let checks = Checks { min, max, min_len, max_len, max_items, pattern, one_of };
        self.bounds_are_in_order(table, &checks);
        foreign.is_empty().then_some(checks)
    }

    fn pattern(&mut self, table: &Table<'_>) -> Option<regex_lite::Regex> {
        let (pattern, span) = self.verbatim(table, "pattern")?;
        match Checks::whole(&pattern) {
            Ok(pattern) => Some(pattern),
            Err(message) => {
                self.report(span, table.key_of("pattern"), message);
                None
            }
        }
    }

    fn one_of(&mut self, node: &Node<'_>, kind: Type) -> Vec<Value> {
        match node.items() {
            Some(items) if !items.is_empty() => {
                items.iter().filter_map(|item| self.scalar(item, kind.scalar())).collect()
            }
            _ => {
                self.report(node.span, &node.key, "expected an array of the values that are accepted");
                Vec::new()
            }
        }
    }

    fn bounds_are_in_order(&mut self, table: &Table<'_>, checks: &Checks) {
        let reversed = match (&checks.min, &checks.max) {
            (Some(min), Some(max)) => less(max, min),
            _ => false,
        };
        for (name, reversed) in [("max", reversed), ("max_len", checks.max_len < checks.min_len)] {
            if let Some(node) = table.node(name).filter(|_| reversed) {
                let message = format!("no value passes: it is less than `{}`", name.replace("max", "min"));
                self.report(node.span, node.key, message);
            }
        }
    }

    /// Reads `default`, or null for `optional = true`. `None`: the parameter is required, or a problem was reported.
    fn default(
        &mut self,
        table: &Table<'_>,
        kind: Type,
        place: Option<Place>,
        checks: Option<&Checks>,
    ) -> Option<Value> {
        let optional = self.take(table, "optional", Setting::flag).unwrap_or(false);
        let default = table.node("default");
        let either = default.clone().or_else(|| table.node("optional").filter(|_| optional));
        if let Some(node) = either.as_ref().filter(|_| place == Some(Place::Path)) {
            self.report(node.name_span, &node.key, "a path parameter is always there");
        }
        let Some(node) = default else {
            return optional.then_some(Value::Null);
        };
        if optional {
            self.report(node.name_span, &node.key, "`optional` means null; keep one of the two");
        }
        let value = self.value(&node, kind)?;
        if let Some(Err(mismatch)) = checks.map(|checks| checks.verify(&value)) {
            self.report(node.span, &node.key, format!("fails its own checks: {mismatch}"));
        }
        Some(value)
    }

    /// Reads a value in a default or a list.
    pub(super) fn value(&mut self, node: &Node<'_>, kind: Type) -> Option<Value> {
        let Type::Many(scalar) = kind else {
            return self.scalar(node, kind.scalar());
        };
        let Some(items) = node.items() else {
            self.report(node.span, &node.key, format!("expected an array of {scalar}"));
            return None;
        };
        // Every item is read before the first failure counts, so that all problems are reported.
        let values: Vec<_> = items.iter().map(|item| self.scalar(item, scalar)).collect();
        Some(Value::Array(scalar, values.into_iter().collect::<Option<_>>()?))
    }

    /// Reads a value in TOML's own notation if TOML has one, otherwise in the form that a client would send.
    fn scalar(&mut self, node: &Node<'_>, scalar: Scalar) -> Option<Value> {
        let parse = |text: &str| Value::parse(scalar, text).map_err(|mismatch| mismatch.to_string());
        if let DeValue::Datetime(time) = node.value {
            let value = parse(&time.to_string());
            return value.map_err(|message| self.report(node.span, &node.key, message)).ok();
        }
        self.convert(node, |setting| match (scalar, setting) {
            (Scalar::Int, Setting::Integer(number)) => Ok(Value::Int(number)),
            (Scalar::Float, Setting::Integer(number)) => parse(&number.to_string()),
            (Scalar::Float, Setting::Float(number)) => parse(&number.to_string()),
            (Scalar::Bool, Setting::Flag(flag)) => Ok(Value::Bool(flag)),
            (Scalar::Int | Scalar::Float | Scalar::Bool, Setting::Expanded(text)) => parse(&text),
            (Scalar::Int | Scalar::Float | Scalar::Bool, other) => Err(other.is_not(scalar.expected())),
            (_, Setting::Text(text) | Setting::Expanded(text)) => parse(&text),
            (_, other) => Err(other.is_not(&format!("a string with {}", scalar.expected()))),
        })
    }

    fn distinct_places(&mut self, declared: &[Declared<'_>]) {
        let params = || declared.iter().filter_map(|one| Some((one, one.param.as_ref()?)));
        for (index, (one, param)) in params().enumerate() {
            let earlier = || params().take(index).map(|(_, earlier)| earlier);
            let same = |other: &&Param| {
                other.place == param.place
                    && match param.place {
                        Place::Header => other.wire_name.eq_ignore_ascii_case(&param.wire_name),
                        _ => other.wire_name == param.wire_name,
                    }
            };
            if let Some(other) = earlier().find(same) {
                let message = format!("`{}` already reads {:?} there", other.name, param.wire_name);
                self.report(one.span, &one.key, message);
            }
            let both = [Place::Body, Place::Form];
            if both.contains(&param.place)
                && earlier().any(|other| both.contains(&other.place) && other.place != param.place)
            {
                let message =
                    "a request has one body: parameters are in \"body\" or in \"form\", not in both";
                self.report(one.span, &one.key, message);
            }
        }
    }

    /// Reports each `{name}` of the route that no parameter declares.
    fn route_is_declared(&mut self, endpoint: &Table<'_>, route: &Route, declared: &[Declared<'_>]) {
        for name in &route.names {
            let reads = |param: &Param| param.place == Place::Path && param.wire_name == *name;
            if !declared.iter().filter_map(|one| one.param.as_ref()).any(reads) {
                let message = format!("`{{{name}}}` is not declared; add it to `params` with its type");
                self.report(route.span, endpoint.key_of("route"), message);
            }
        }
    }
}

fn wire_name(text: &str, header: bool) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected the name that the client uses".to_owned());
    }
    if header && text.parse::<HeaderName>().is_err() {
        return Err(format!("{text:?} is not a header's name"));
    }
    Ok(text.to_owned())
}

fn parse_type(setting: Setting) -> Result<Type, String> {
    let text = setting.text().map_err(|_| types())?;
    let names = Scalar::ALL.map(Scalar::name);
    Type::parse(&text).ok_or_else(|| match suggestion(&text, &names) {
        near if near.contains("did you mean") => format!("{text:?} is not a type{near}"),
        _ => format!("{text:?} is not a type; {}", types()),
    })
}

fn types() -> String {
    format!("expected {}, or one of these with `[]`", Scalar::ALL.map(Scalar::name).join(", "))
}

/// Whether the SQL lexer reads the text as a parameter's name.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::super::read::tests::{problems, read};
    use super::*;

    fn param(route: &str, declaration: &str) -> Param {
        let text = format!("[endpoint.a]\nroute = '{route}'\nsql = 'select :p'\nparams.p = {declaration}");
        match read(&text).endpoints.remove(0).action {
            Action::Sql { mut params, .. } => params.remove(0),
            Action::Fixed { .. } => panic!("SQL"),
        }
    }

    #[test]
    fn the_place_follows_from_the_route() {
        for (route, declaration, place, wire_name) in [
            ("POST /{p}", "'int'", Place::Path, "p"),
            ("POST /{*p}", "'text'", Place::Path, "p"),
            ("POST /{id}", "{ type = 'int', as = 'id' }", Place::Path, "id"),
            ("POST /", "'int[]'", Place::Query, "p"),
            ("POST /", "{ type = 'int', as = 'per-page' }", Place::Query, "per-page"),
            ("POST /", "{ type = 'int', in = 'header' }", Place::Header, "p"),
            ("POST /", "{ type = 'int', in = 'header', as = 'X-P_q' }", Place::Header, "X-P_q"),
            ("POST /", "{ type = 'int', in = 'body' }", Place::Body, "p"),
            ("POST /", "{ type = 'int[]', in = 'form' }", Place::Form, "p"),
        ] {
            let param = param(route, declaration);
            assert_eq!((param.place, param.wire_name.as_str()), (place, wire_name), "{declaration}");
        }
    }

    #[test]
    fn defaults_and_bounds_are_read_in_toml_or_in_the_clients_form() {
        let date = Value::Date("2013-01-31".into());
        for (declaration, default) in [
            ("'int'", None),
            ("{ type = 'int', optional = true }", Some(Value::Null)),
            ("{ type = 'int', optional = false }", None),
            ("{ type = 'int', default = 5 }", Some(Value::Int(5))),
            ("{ type = 'int', default = '${NONE:-5}' }", Some(Value::Int(5))),
            ("{ type = 'float', default = 5 }", Some(Value::Float(5.0))),
            ("{ type = 'float', default = 1.5, max = 2 }", Some(Value::Float(1.5))),
            ("{ type = 'bool', default = false }", Some(Value::Bool(false))),
            ("{ type = 'date', default = 2013-01-31 }", Some(date.clone())),
            ("{ type = 'date', default = '2013-01-31', min = 2013-01-31 }", Some(date)),
            ("{ type = 'json', default = '{}' }", Some(Value::Json("{}".into()))),
            (
                "{ type = 'int[]', default = [1], max = 1 }",
                Some(Value::Array(Scalar::Int, vec![Value::Int(1)])),
            ),
        ] {
            assert_eq!(param("GET /", declaration).default, default, "{declaration}");
        }
    }

    /// Asserts that the problem of each declaration starts with the message beside it.
    fn refuses<const N: usize>(cases: [(&str, &str); N]) {
        for (declaration, message) in cases {
            let text = format!(
                "[endpoint.a]\nroute = 'GET /{{id}}'\nsql = 'select :p, :q'\n\
                 params.p = {declaration}\nparams.q = {{ type = 'int', as = 'id' }}"
            );
            let problems = problems(&text);
            let expected = format!("endpoint.a.params.p{message}");
            let found = problems.iter().any(|problem| problem.starts_with(&expected));
            assert!(found, "{declaration}: {problems:?}");
        }
    }

    #[test]
    fn one_mistake_does_not_hide_another() {
        for (declaration, expected) in [
            ("{ type = 'int', pattern = 'x', min = 'a' }", &[".pattern: does not apply", ".min: "][..]),
            ("{ type = 'int', in = 'cookie', min = 'a', default = 'b' }", &[".in: ", ".min: ", ".default: "]),
            ("{ type = 'int', min = 'a', max = 'b' }", &[".min: ", ".max: "]),
            ("{ type = 'text', min = 1, pattern = '(' }", &[".min: does not apply", ".pattern: "]),
            (
                "{ type = 'integer', min_len = -1, pattern = '(' }",
                &[": \"integer\"", ".min_len: ", ".pattern: "],
            ),
            ("{ min = 'a', secret = 1 }", &[".type: missing", ".secret: 1 is not true or false"]),
            ("{ type = 'int[]', in = 'header', one_of = ['a'] }", &[".type: int[] cannot", ".one_of[1]: "]),
        ] {
            let text = format!("[endpoint.a]\nroute = 'GET /'\nsql = 'select :p'\nparams.p = {declaration}");
            let problems = problems(&text);
            let says = |expected: &&str| {
                let begin = format!("endpoint.a.params.p{expected}");
                problems.iter().any(|problem| problem.starts_with(&begin) || problem.contains(*expected))
            };
            assert!(
                expected.iter().all(says) && problems.len() == expected.len(),
                "{declaration}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_wrong_type_or_place_is_reported() {
        refuses([
            ("1", ": expected a table, not an integer"),
            ("{}", ".type: missing; expected int, float, text, bool"),
            ("'integer'", ": \"integer\" is not a type; expected int, float, text, bool"),
            ("'txt'", ": \"txt\" is not a type; did you mean \"text\"?"),
            ("{ type = 'int', mim = 1 }", ".mim: unknown key; did you mean \"min\"?"),
            ("{ type = 'int', in = 'cookie' }", ".in: \"cookie\" is none of \"path\", \"query\""),
            ("{ type = 'int', in = 'path' }", ".in: the route has no `{p}`"),
            ("{ type = 'int', in = 'body' }", ".in: a GET request carries no body"),
            ("{ type = 'int', in = 'header', as = 'a b' }", ".as: \"a b\" is not a header's name"),
            ("{ type = 'int', as = '' }", ".as: expected the name that the client uses"),
            ("{ type = 'int[]', in = 'header' }", ".type: int[] cannot come in a path or a header"),
        ]);
    }

    #[test]
    fn a_wrong_default_or_check_is_reported() {
        refuses([
            ("{ type = 'int', as = 'id', default = 1 }", ".default: a path parameter is always there"),
            ("{ type = 'int', optional = true, default = 1 }", ".default: `optional` means null"),
            ("{ type = 'int', default = '1' }", ".default: \"1\" is not a 64-bit integer"),
            ("{ type = 'int', default = 9223372036854775808 }", ".default: 9223372036854775808 is not"),
            ("{ type = 'float', default = nan }", ".default: expected a finite number"),
            ("{ type = 'text', default = 1 }", ".default: 1 is not a string with text"),
            ("{ type = 'int', default = 0, min = 1 }", ".default: fails its own checks: expected at"),
            ("{ type = 'int[]', default = 1 }", ".default: expected an array of int"),
            ("{ type = 'int[]', default = ['x'] }", ".default[1]: \"x\" is not a 64-bit integer"),
            ("{ type = 'date', default = 2013-01-31T10:00:00Z }", ".default: expected a date"),
            ("{ type = 'text', min = 1 }", ".min: does not apply to text; it applies to int, float"),
            ("{ type = 'int', pattern = 'a' }", ".pattern: does not apply to int"),
            ("{ type = 'int', max_items = 1 }", ".max_items: does not apply to int; it applies to arr"),
            ("{ type = 'text', pattern = '(' }", ".pattern: not a regular expression"),
            ("{ type = 'text', one_of = 'a' }", ".one_of: expected an array of the values"),
            ("{ type = 'text', one_of = [] }", ".one_of: expected an array of the values"),
            ("{ type = 'int', one_of = [1, 'a'] }", ".one_of[2]: \"a\" is not a 64-bit integer"),
            ("{ type = 'int', min = 2, max = 1 }", ".max: no value passes: it is less than `min`"),
            ("{ type = 'text', min_len = 2, max_len = 1 }", ".max_len: no value passes: it is less"),
        ]);
    }

    #[test]
    fn parameters_do_not_share_a_place() {
        let text = "
            [endpoint.a]
            route = 'POST /{id}'
            sql = 'select :a, :b, :c, :d'
            [endpoint.a.params]
            a = { type = 'int', in = 'header', as = 'X-A' }
            b = { type = 'int', in = 'header', as = 'x-a' }
            c = { type = 'int', in = 'form' }
            d = { type = 'int', in = 'body' }";
        let expected = [
            "endpoint.a.route: `{id}` is not declared; add it to `params` with its type",
            "endpoint.a.params.b: `a` already reads \"x-a\" there",
            "endpoint.a.params.d: a request has one body: parameters are in \"body\" or in \"form\", \
             not in both",
        ];
        assert_eq!(problems(text), expected);
        let text = "[endpoint.a]\nroute = 'GET /'\nsql = 'select 1'\nparams.1a = 'int'";
        let name = "endpoint.a.params.1a: a parameter's name is letters";
        assert!(problems(text)[0].starts_with(name), "{:?}", problems(text));
    }
}
