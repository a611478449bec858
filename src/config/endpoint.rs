//! `[endpoint.NAME]`: the route and its action, a fixed body or SQL.
//!
//! Main thread. Knows no database: `wharf check` asks the database whether a statement is right.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use http::{HeaderValue, Method, StatusCode};

use super::keys::{THREADS, WAIT};
use super::param::{Declared, is_name};
use super::read::{Node, Reader, Table, suggestion};
use super::route::Route;
use super::setting::Setting;
use super::sql::Statement;
use super::{Action, Endpoint, Otherwise, Priority, Returns, Span, Sql, Step};
use crate::http::normal_path;

const KEYS: [&str; 16] = [
    "route",
    "description",
    "params",
    "strict",
    "sql",
    "step",
    "returns",
    "expect_rows",
    "otherwise",
    "status",
    "deadline",
    "max_concurrency",
    "priority",
    "load",
    "body",
    "content_type",
];

const METHODS: [(&str, Method); 5] = [
    ("GET", Method::GET),
    ("POST", Method::POST),
    ("PUT", Method::PUT),
    ("PATCH", Method::PATCH),
    ("DELETE", Method::DELETE),
];

const PRIORITIES: [(&str, Priority); 3] =
    [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];

const RETURNS: [(&str, Returns); 4] =
    [("one", Returns::One), ("many", Returns::Many), ("value", Returns::Value), ("none", Returns::None)];

impl Reader<'_> {
    /// All endpoints, in the order of the file.
    pub(super) fn endpoints(&mut self, root: &Table<'_>) -> Vec<Endpoint> {
        let Some(table) = root.node("endpoint").and_then(|node| self.table(&node)) else {
            return Vec::new();
        };
        let mut taken = Taken::default();
        table.nodes().iter().filter_map(|node| self.endpoint(node, &mut taken)).collect()
    }

    fn endpoint(&mut self, node: &Node<'_>, taken: &mut Taken) -> Option<Endpoint> {
        let table = self.table(node)?;
        if node.name.is_empty() || !node.name.bytes().all(is_of_name) {
            let message = "an endpoint's name is letters, digits, `_` and `-`";
            self.report(node.name_span, &node.key, message);
        }
        self.only(&table, &KEYS);
        let route = self.route(&table);
        if let Some(route) = &route
            && let Err(message) = taken.add(node.name, route)
        {
            self.report(route.span, table.key_of("route"), message);
        }
        let deadline = self.take(&table, "deadline", |setting| setting.time(&WAIT));
        let max_concurrency = self.take(&table, "max_concurrency", |setting| setting.count(&THREADS));
        let priority =
            self.take(&table, "priority", |setting| setting.choice(&PRIORITIES)).unwrap_or_default();
        let description = self.take(&table, "description", Setting::text);
        let action = match ["body", "sql", "step"].map(|name| table.has(name)) {
            [true, false, false] => self.fixed(&table),
            [false, true, false] | [false, false, true] => self.sql(&table, route.as_ref()),
            [false, false, false] => {
                let message = "it does nothing: expected `sql`, `[[step]]`s or a fixed `body`";
                self.report(table.span, &table.key, message);
                None
            }
            _ => {
                self.report(table.span, &table.key, "`sql`, `step` and `body` exclude each other");
                None
            }
        };
        let status = self.status(&table, action.as_ref());
        let traffic = self.traffic(&table, action.as_ref());
        let (Route { method, path, .. }, action, status) = (route?, action?, status?);
        let name = node.name.to_owned();
        Some(Endpoint {
            name,
            description,
            method,
            path,
            status,
            deadline,
            max_concurrency,
            priority,
            action,
            traffic,
            span: node.name_span,
        })
    }

    fn route(&mut self, table: &Table<'_>) -> Option<Route> {
        let Some(node) = table.node("route") else {
            let message = "missing; expected a method and a path, such as \"GET /flights/{id}\"";
            self.report(table.span, table.key_of("route"), message);
            return None;
        };
        let (method, path, names) = self.convert(&node, |setting| parse_route(&setting.text()?))?;
        Some(Route { method, path, names, span: node.span })
    }

    fn status(&mut self, table: &Table<'_>, action: Option<&Action>) -> Option<StatusCode> {
        let (range, empty) = match action {
            Some(Action::Sql { returns, .. }) => (200..=299, *returns == Returns::None),
            Some(Action::Fixed { body, .. }) => (200..=599, body.is_empty()),
            None => (200..=599, true),
        };
        let Some(node) = table.node("status") else {
            let sql = matches!(action, Some(Action::Sql { .. }));
            return Some(if sql && empty { StatusCode::NO_CONTENT } else { StatusCode::OK });
        };
        let status = self.convert(&node, |setting| status_in(setting, &range))?;
        // Answers with these statuses end after their head (RFC 9110 15.3.5, 15.3.6 and 15.4.5).
        if [204, 205, 304].contains(&status.as_u16()) && !empty {
            self.report(node.span, node.key, format!("{} has no body, but there is one", status.as_u16()));
            return None;
        }
        Some(status)
    }

    fn fixed(&mut self, table: &Table<'_>) -> Option<Action> {
        for name in
            ["params", "returns", "expect_rows", "otherwise", "deadline", "max_concurrency", "priority"]
        {
            if let Some(node) = table.node(name) {
                self.report(node.name_span, node.key, "a fixed `body` makes no use of it");
            }
        }
        let header = |setting: Setting| {
            let text = setting.text()?;
            let fits = text.contains('/') && HeaderValue::from_str(&text).is_ok();
            fits.then_some(text.clone()).ok_or_else(|| format!("{text:?} is not a media type"))
        };
        let content_type = if table.has("content_type") {
            self.take(table, "content_type", header)
        } else {
            Some("text/plain; charset=utf-8".to_owned())
        };
        let (body, _) = self.verbatim(table, "body")?;
        Some(Action::Fixed { body, content_type: content_type? })
    }

    fn sql(&mut self, table: &Table<'_>, route: Option<&Route>) -> Option<Action> {
        if let Some(node) = table.node("content_type") {
            self.report(
                node.name_span,
                node.key,
                "it belongs to a fixed `body`; the answer's type follows from `returns`",
            );
        }
        let declared = self.params(table, route);
        let reads_only = route.is_some_and(|route| route.method == Method::GET);
        let default = if reads_only { Returns::Many } else { Returns::None };
        let returns = if table.has("returns") {
            self.take(table, "returns", |setting| setting.choice(&RETURNS))
        } else {
            Some(default)
        };
        let mut used = vec![false; declared.len()];
        let statements = if table.has("sql") { vec![table.clone()] } else { self.step_tables(table)? };
        let mut steps = Vec::new();
        for statement in &statements {
            let is_alone = statements.len() == 1;
            steps.push(self.step(statement, &declared, &mut used, reads_only, is_alone));
        }
        let steps = steps.into_iter().collect::<Option<Vec<_>>>()?;
        for (one, _) in declared.iter().zip(used).filter(|(_, used)| !used) {
            self.report(one.span, &one.key, format!("no statement uses `:{}`", one.name));
        }
        let params = declared.into_iter().map(|one| one.param).collect::<Option<_>>()?;
        let strict =
            if table.has("strict") { self.take(table, "strict", Setting::flag) } else { Some(false) };
        Some(Action::Sql { params, strict: strict?, steps, returns: returns? })
    }

    fn step_tables<'a>(&mut self, table: &Table<'a>) -> Option<Vec<Table<'a>>> {
        for name in ["expect_rows", "otherwise"] {
            if let Some(node) = table.node(name) {
                self.report(node.name_span, node.key, "it belongs in one of the steps");
            }
        }
        let node = table.node("step")?;
        let Some(items) = node.items().filter(|items| !items.is_empty()) else {
            self.report(node.span, node.key, format!("expected tables, [[{}]]", table.key_of("step")));
            return None;
        };
        let tables: Vec<_> = items.iter().map(|item| self.table(item)).collect();
        for table in tables.iter().flatten() {
            self.only(table, &["sql", "expect_rows", "otherwise"]);
        }
        tables.into_iter().collect()
    }

    /// Reads a statement with its expectations, from a step or from an endpoint with a single `sql`.
    fn step(
        &mut self,
        table: &Table<'_>,
        declared: &[Declared<'_>],
        used: &mut [bool],
        reads_only: bool,
        is_alone: bool,
    ) -> Option<Step> {
        let expect_rows = self.take(table, "expect_rows", |setting| setting.count(&(0..=u64::MAX)));
        let otherwise = self.otherwise(table, expect_rows);
        if !table.has("sql") {
            self.report(table.span, table.key_of("sql"), "missing; a step is a statement");
        }
        let (text, span) = self.verbatim(table, "sql")?;
        let statement = match Statement::parse_for(&text, self.dialect) {
            Ok(statement) => statement,
            Err(error) => {
                let at = self.source.inside(span, error.offset, 1);
                self.report(at, table.key_of("sql"), error.message);
                return None;
            }
        };
        if reads_only && statement.writes {
            let message = "it writes; GET endpoints run read-only; use POST, PUT, PATCH or DELETE";
            self.report(span, table.key_of("sql"), message);
        }
        if statement.commits && !is_alone {
            let message = "it commits the steps before it; write it as an endpoint's only statement, or before the server starts";
            self.report(span, table.key_of("sql"), message);
        }
        let sql = self.bind(table, span, statement, declared, used);
        let name = table.key.strip_prefix("endpoint.").unwrap_or(&table.key).to_owned();
        Some(Step { name, sql: sql?, expect_rows, otherwise, span })
    }

    /// Finds the parameter of each `:name`.
    fn bind(
        &mut self,
        table: &Table<'_>,
        span: Span,
        statement: Statement,
        declared: &[Declared<'_>],
        used: &mut [bool],
    ) -> Option<Sql> {
        let mut slots = Vec::new();
        for (name, offset) in &statement.names {
            if let Some(slot) = declared.iter().position(|one| one.name == name) {
                used[slot] = true;
                slots.push(slot);
                continue;
            }
            let at = self.source.inside(span, *offset, name.len() + 1);
            let names: Vec<_> = declared.iter().map(|one| one.name).collect();
            let hint = match suggestion(name, &names) {
                near if near.contains("did you mean") => near,
                _ => "; add it to `params` with its type".to_owned(),
            };
            self.report(at, table.key_of("sql"), format!("`:{name}` is not declared{hint}"));
        }
        let complete = slots.len() == statement.names.len();
        complete.then_some(Sql { pieces: statement.pieces, slots })
    }

    fn otherwise(&mut self, step: &Table<'_>, expect_rows: Option<u64>) -> Otherwise {
        let detail = match expect_rows {
            Some(1) => "expected one row; nothing was changed".to_owned(),
            Some(rows) => format!("expected {rows} rows; nothing was changed"),
            None => "nothing was changed".to_owned(),
        };
        let mut otherwise = Otherwise { status: StatusCode::CONFLICT, detail };
        let Some(node) = step.node("otherwise") else {
            return otherwise;
        };
        if !step.has("expect_rows") {
            self.report(node.name_span, &node.key, "it needs `expect_rows`, which says when it applies");
        }
        let Some(table) = self.table(&node) else {
            return otherwise;
        };
        self.only(&table, &["status", "detail"]);
        if let Some(status) = self.take(&table, "status", |setting| status_in(setting, &(400..=599))) {
            otherwise.status = status;
        }
        if let Some(detail) = self.take(&table, "detail", Setting::text) {
            otherwise.detail = detail;
        }
        otherwise
    }
}

/// The routes so far, as the router matches them.
#[derive(Default)]
struct Taken {
    /// A tree for each method, because `GET /a/{id}` and `DELETE /a/{name}` may both exist.
    trees: HashMap<Method, matchit::Router<()>>,
    /// The endpoint of each method and path.
    names: HashMap<(Method, String), String>,
}

impl Taken {
    fn add(&mut self, name: &str, route: &Route) -> Result<(), String> {
        let tree = self.trees.entry(route.method.clone()).or_default();
        if let Err(error) = tree.insert(normal_path(&route.path), ()) {
            let matchit::InsertError::Conflict { with } = error else {
                return Err(error.to_string());
            };
            let other = self.names.get(&(route.method.clone(), with.clone()));
            let owner = other.map_or_else(String::new, |name| format!(" of endpoint.{name}"));
            return Err(format!("matches the same requests as \"{} {with}\"{owner}", route.method));
        }
        self.names.insert((route.method.clone(), normal_path(&route.path).into_owned()), name.to_owned());
        Ok(())
    }
}

fn parse_route(route: &str) -> Result<(Method, String, Vec<String>), String> {
    let (word, path) = route
        .split_once(' ')
        .ok_or_else(|| format!("{route:?} is not a method and a path, such as \"GET /flights/{{id}}\""))?;
    let method = METHODS.iter().find(|(name, _)| *name == word).map(|(_, method)| method.clone());
    let method = method.ok_or_else(|| match word {
        "HEAD" => "every GET endpoint answers HEAD too; write GET".to_owned(),
        "OPTIONS" => "the server answers OPTIONS itself".to_owned(),
        _ => format!("{word:?} is not a method; expected GET, POST, PUT, PATCH or DELETE"),
    })?;
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} does not start with `/`"));
    }
    if path.contains('?') {
        return Err("a route has no query; its parameters are declared under `params`".to_owned());
    }
    if let Some(char) = path.chars().find(|char| !is_path(*char)) {
        return Err(format!("a path has no {char:?} (RFC 3986 section 3.3); expected its percent-encoding"));
    }
    if let Some(at) =
        path.match_indices('%').map(|(at, _)| at).find(|at| !is_escape(&path.as_bytes()[at + 1..]))
    {
        return Err(format!("`%` of {:?} is not followed by two hexadecimal digits", &path[at..]));
    }
    let names = path_names(path)?;
    Ok((method, path.to_owned(), names))
}

/// The bytes of TOML's bare keys, so that `endpoint.NAME.key` in a message looks as in the file.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The characters of a path in RFC 3986, the braces, and letters beyond ASCII, which clients send encoded.
fn is_path(char: char) -> bool {
    char.is_alphanumeric() || "/-._~!$&'()*+,;=:@{}%".contains(char)
}

/// Whether these bytes begin with two hexadecimal digits.
fn is_escape(after: &[u8]) -> bool {
    after.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// The names in `{name}` and in `{*name}`, which matches the rest of the path.
fn path_names(path: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut rest = path;
    while let Some(start) = rest.find(['{', '}']) {
        let inside = rest[start..].strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let (name, after) = inside.ok_or("a brace of the path has no partner")?;
        let name = name.strip_prefix('*').unwrap_or(name);
        if !is_name(name) {
            return Err(format!(
                "`{{{name}}}` is no parameter: expected letters, digits and `_` in the braces"
            ));
        }
        if names.iter().any(|other| other == name) {
            return Err(format!("`{{{name}}}` stands twice in the path"));
        }
        names.push(name.to_owned());
        rest = after;
    }
    Ok(names)
}

fn status_in(setting: Setting, range: &RangeInclusive<u16>) -> Result<StatusCode, String> {
    let number = setting.count(range)?;
    StatusCode::from_u16(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{problems, read};
    use super::super::{Action, Returns};

    fn route(route: &str) -> Vec<String> {
        problems(&format!("[endpoint.a]\nroute = {route:?}\nbody = ''"))
    }

    #[test]
    fn routes_are_a_method_and_a_path() {
        for (wrong, message) in [
            ("/a", "is not a method and a path"),
            ("get /a", "\"get\" is not a method; expected GET"),
            ("HEAD /a", "every GET endpoint answers HEAD too"),
            ("GET a", "does not start with `/`"),
            ("GET /a?b", "a route has no query"),
            ("GET /a b", "a path has no ' '"),
            ("GET /%4", "is not followed by two hexadecimal digits"),
            ("GET /{a", "no partner"),
            ("GET /a}", "no partner"),
            ("GET /{{a}}", "is no parameter"),
            ("GET /{a b}", "a path has no ' '"),
            ("GET /{}", "is no parameter"),
            ("GET /{a}/{a}", "stands twice"),
            ("GET /{a}{b}", "Only one parameter"),
            ("GET /{*a}/b", "Catch-all"),
        ] {
            let problems = route(wrong);
            assert!(problems.len() == 1 && problems[0].contains(message), "{wrong}: {problems:?}");
        }
        for fine in [
            "GET /",
            "POST /a/",
            "PUT /a-b/{c}.json",
            "PATCH /{a}/b/{c}",
            "DELETE /f/{*path}",
            "GET /gr\u{f6}\u{df}e",
            "GET /%41",
        ] {
            assert_eq!(route(fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn routes_that_match_the_same_requests_are_refused() {
        let text = "
            endpoint.a = { route = 'GET /a/{x}', body = '' }
            endpoint.b = { route = 'GET /a/{y}', body = '' }
            endpoint.c = { route = 'GET /a/{x}', body = '' }
            endpoint.d = { route = 'GET /a/d', body = '' }
            endpoint.e = { route = 'PUT /a/{z}', body = '' }";
        let same = "matches the same requests as \"GET /a/{x}\" of endpoint.a";
        let expected = [format!("endpoint.b.route: {same}"), format!("endpoint.c.route: {same}")];
        assert_eq!(problems(text), expected);
    }

    #[test]
    fn an_endpoint_does_one_thing() {
        for (endpoint, message) in [
            ("", ": it does nothing: expected `sql`"),
            ("sql = 'select 1'\nbody = ''", ": `sql`, `step` and `body` exclude each other"),
            ("step = 1", ".step: expected tables, [[endpoint.a.step]]"),
            ("step = []", ".step: expected tables"),
            ("step = [1]", ".step[1]: expected a table, not an integer"),
            ("step = [{}]", ".step[1].sql: missing"),
            ("step = [{ sql = 'select 1', expect_row = 1 }]", ".step[1].expect_row: unknown key; did"),
            ("step = [{ sql = 'select 1' }]\nexpect_rows = 1", ".expect_rows: it belongs in one of"),
            ("sql = 1", ".sql: expected a string, not an integer"),
            ("sql = 'select 1'\ncontent_type = 'a/b'", ".content_type: it belongs to a fixed `body`"),
            ("body = ''\ncontent_type = 'json'", ".content_type: \"json\" is not a media type"),
            ("body = ''\nreturns = 'one'", ".returns: a fixed `body` makes no use of it"),
            ("body = 'x'\nstatus = 204", ".status: 204 has no body"),
            ("body = 'x'\nstatus = 99", ".status: 99 is out of range; expected 200 to 599"),
            ("sql = 'select 1'\nstatus = 404", ".status: 404 is out of range; expected 200 to 299"),
            ("sql = 'select 1'\nreturns = 'all'", ".returns: \"all\" is none of \"one\", \"many\""),
            ("sql = 'select 1'\nexpect_rows = -1", ".expect_rows: -1 is out of range"),
            ("sql = 'select 1'\notherwise = {}", ".otherwise: it needs `expect_rows`"),
            ("sql = 'select 1'\nexpect_rows = 1\notherwise.status = 200", ".otherwise.status: 200 is out"),
            ("sql = 'select 1'\ndeadline = '0s'", ".deadline: \"0s\" is out of range; expected 1ms to 1h"),
            (
                "sql = 'select 1'\nmax_concurrency = 0",
                ".max_concurrency: 0 is out of range; expected 1 to 10000",
            ),
            (
                "sql = 'select 1'\npriority = 'urgent'",
                ".priority: \"urgent\" is none of \"low\", \"normal\", \"high\"",
            ),
            ("sql = 'delete from t'", ".sql: it writes; GET endpoints run read-only; use POST"),
            ("sql = 'select 1; select 2'", ".sql: a second statement starts here"),
            ("sql = 'select :a'", ".sql: `:a` is not declared; add it to `params`"),
            ("sql = 'select :ab'\nparams.abc = 'int'", ".sql: `:ab` is not declared; did you mean \"abc\"?"),
            ("sql = 'select 1'\nparams.a = 'int'", ".params.a: no statement uses `:a`"),
            ("sql = 'select 1'\nrout = 'x'", ".rout: unknown key; did you mean \"route\"?"),
        ] {
            let problems = problems(&format!("[endpoint.a]\nroute = 'GET /'\n{endpoint}"));
            let expected = format!("endpoint.a{message}");
            let found = problems.iter().any(|problem| problem.starts_with(&expected));
            assert!(found, "{endpoint}: {problems:?}");
        }
        let text = "[endpoint]\na = 1\nb = {}\nc.sql = 'select 1'";
        assert_eq!(problems(text).len(), 4, "{:?}", problems(text));
        let text = "[endpoint.'a b']\nroute = 'GET /'\nbody = ''";
        let name = "endpoint.a b: an endpoint's name is letters, digits, `_` and `-`";
        assert_eq!(problems(text), [name]);
    }

    #[test]
    fn defaults_follow_from_the_method() {
        let config = read(
            "
            endpoint.a = { route = 'GET /a', sql = 'select 1' }
            endpoint.b = { route = 'POST /a', sql = 'select 1' }
            endpoint.c = { route = 'POST /b', sql = 'select 1', returns = 'one' }
            endpoint.d = { route = 'GET /d', body = '${X}' }",
        );
        let statuses: Vec<_> = config.endpoints.iter().map(|one| one.status.as_u16()).collect();
        assert_eq!(statuses, [200, 204, 200, 200]);
        let returns = |index: usize| match &config.endpoints[index].action {
            Action::Sql { returns, .. } => Some(*returns),
            Action::Fixed { .. } => None,
        };
        let expected = [Returns::Many, Returns::None, Returns::One].map(Some);
        assert_eq!([0, 1, 2].map(returns), expected);
        let fixed =
            Action::Fixed { body: "${X}".to_owned(), content_type: "text/plain; charset=utf-8".to_owned() };
        assert_eq!(config.endpoints[3].action, fixed);
    }

    #[test]
    fn steps_share_the_parameters() {
        let text = "
            [endpoint.transfer]
            route = 'POST /transfers'
            params = { b = { type = 'int', in = 'body' }, a = { type = 'int', in = 'body' } }
            [[endpoint.transfer.step]]
            sql = 'update account set x = x - :a where x >= :a'
            expect_rows = 1
            otherwise = { detail = 'insufficient' }
            [[endpoint.transfer.step]]
            sql = 'update account set x = :b'
            expect_rows = 2";
        let config = read(text);
        let Action::Sql { params, steps, .. } = &config.endpoints[0].action else { panic!("SQL") };
        assert_eq!(params.iter().map(|param| param.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(steps[0].sql.slots, [1, 1]);
        assert_eq!(steps[0].sql.pieces, ["update account set x = x - ", " where x >= ", ""]);
        let otherwise = &steps[0].otherwise;
        assert_eq!((otherwise.status.as_u16(), otherwise.detail.as_str()), (409, "insufficient"));
        assert_eq!(steps[1].sql.slots, [0]);
        assert_eq!(steps[1].otherwise.detail, "expected 2 rows; nothing was changed");
        let place = steps[1].span.start..steps[1].span.end;
        assert_eq!(&text[place], "'update account set x = :b'");
    }
}
