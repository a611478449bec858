//! Turns the written configuration (file, environment variables, flags) into a [`Config`], or into the list of all its
//! problems.
//!
//! Main thread. Knows TOML and the place of each value. The meaning of keys is in `keys`, `endpoint` and `param`. For a
//! file that is not TOML only syntax errors are reported, because further problems would be guesses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{self, Key};
use super::problem::{Problem, Problems};
use super::setting::{Environment, Setting, expand};
use super::sql::Dialect;
use super::{Action, Config, Source, Span};

const SECTIONS: [&str; 13] = [
    "server", "listen", "log", "tracing", "admin", "queue", "http", "access", "proxy", "tls", "database",
    "endpoint", "app",
];

/// The sections whose keys are not in `keys`.
const WITHOUT_KEYS: [&str; 3] = ["listen", "endpoint", "app"];

/// Variables of wharf that are not keys.
const OTHER_VARIABLES: [&str; 2] = ["WHARF_CONFIG", "WHARF_LOG"];

/// The values of flags, as written.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--listen ADDR`.
    pub listen: Option<String>,
    /// `--database URL`.
    pub database: Option<String>,
}

/// The configuration file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the configuration {}: {error}", path.display())]
pub struct LocateError {
    /// The file that was given or found.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub error: io::Error,
}

impl Config {
    /// Finds the configuration and reads its text. It is the file of `--config` (in `flag`), of `WHARF_CONFIG`,
    /// `./wharf.toml`, or `./config/wharf.toml`, in this order. Without any, it is the configuration embedded in the
    /// binary, which serves the demo.
    ///
    /// # Errors
    /// The file that was given or found cannot be read. No other file is tried instead.
    pub fn locate(flag: Option<&Path>, environment: &Environment) -> Result<Source, LocateError> {
        let named = flag.map(Path::to_owned).or(environment.get("WHARF_CONFIG").map(PathBuf::from));
        let found =
            || ["wharf.toml", "config/wharf.toml"].map(PathBuf::from).into_iter().find(|path| path.exists());
        match named.or_else(found) {
            Some(path) => match fs::read_to_string(&path) {
                Ok(text) => Ok(Source { path: Some(path), text }),
                Err(error) => Err(LocateError { path, error }),
            },
            None => Ok(Source { path: None, text: include_str!("../../config/wharf.toml").into() }),
        }
    }

    /// The validated configuration. Flags override environment variables, these override the file, and the file
    /// overrides the defaults.
    ///
    /// # Errors
    /// All problems in one list.
    pub fn read(source: Source, environment: &Environment, flags: &Flags) -> Result<Self, Problems> {
        let (config, problems) = Self::examine(source, environment, flags);
        if problems.list().is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Like [`Config::read`], but also returns the readable part of a configuration with problems. A wrong value is
    /// replaced by its default, and a wrong endpoint may be missing. Use it to find more problems, not to serve.
    pub fn examine(source: Source, environment: &Environment, flags: &Flags) -> (Self, Problems) {
        let mut reader =
            Reader { source: &source, environment, dialect: Dialect::default(), problems: Vec::new() };
        let config = reader.config(flags);
        let problems = reader.problems;
        (config, Problems::new(source, problems))
    }
}

/// Collects problems while it reads. A method that returns `None` has reported a problem, or there was nothing to read.
pub(super) struct Reader<'s> {
    pub(super) source: &'s Source,
    environment: &'s Environment,
    /// The dialect of the statements.
    pub(super) dialect: Dialect,
    problems: Vec<Problem>,
}

/// A table of the file.
#[derive(Clone)]
pub(super) struct Table<'a> {
    /// Its full key. Empty for the whole file.
    pub(super) key: String,
    /// The place of its name.
    pub(super) span: Span,
    /// `None`: a short form that means an empty table.
    entries: Option<&'a DeTable<'a>>,
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Node<'a> {
    /// The last part of its key.
    pub(super) name: &'a str,
    /// Its key in full.
    pub(super) key: String,
    /// The place of the name.
    pub(super) name_span: Span,
    /// The place of the value.
    pub(super) span: Span,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Table<'a> {
    /// The empty table of a short form, such as `id = "int"`.
    pub(super) fn empty(node: &Node<'a>) -> Self {
        Self { key: node.key.clone(), span: node.name_span, entries: None }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(name))
    }

    pub(super) fn node(&self, name: &str) -> Option<Node<'a>> {
        let (name, value) = self.entries?.get_key_value(name)?;
        Some(self.child(name, value))
    }

    /// The place of the value of `section.name`. `None`: the value is not in the file.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        let (section, name) = key.split_once('.')?;
        let entries = self.node(section)?.value.as_table()?;
        entries.get(name).map(|value| value.span().into())
    }

    /// All entries, in the order of the file.
    pub(super) fn nodes(&self) -> Vec<Node<'a>> {
        let entries = self.entries.into_iter().flatten();
        let mut nodes: Vec<_> = entries.map(|(name, value)| self.child(name, value)).collect();
        nodes.sort_by_key(|node| node.name_span.start);
        nodes
    }

    /// The full key of an entry, whether or not the entry exists.
    pub(super) fn key_of(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    fn child(&self, name: &'a Spanned<DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        Node {
            name: name.get_ref(),
            key: self.key_of(name.get_ref()),
            name_span: name.span().into(),
            span: value.span().into(),
            value: value.get_ref(),
        }
    }
}

impl Node<'_> {
    /// The items of an array, each with its number from 1 in its key: `endpoint.transfer.step[2]`.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let items = self.value.as_array()?.iter().enumerate();
        let items = items.map(|(index, item)| Self {
            key: format!("{}[{}]", self.key, index + 1),
            name_span: item.span().into(),
            span: item.span().into(),
            value: item.get_ref(),
            ..*self
        });
        Some(items.collect())
    }
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

impl Reader<'_> {
    pub(super) fn environment(&self) -> &Environment {
        self.environment
    }

    pub(super) fn report(
        &mut self,
        span: impl Into<Option<Span>>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem::new(span, key, message));
    }

    /// The node as a table.
    pub(super) fn table<'a>(&mut self, node: &Node<'a>) -> Option<Table<'a>> {
        let entries = node.value.as_table();
        if entries.is_none() {
            let message = format!("expected a table, not {}", kind_of(node.value));
            self.report(node.span, &node.key, message);
        }
        Some(Table { key: node.key.clone(), span: node.name_span, entries: Some(entries?) })
    }

    /// Reports the unknown keys of a table.
    pub(super) fn only(&mut self, table: &Table<'_>, known: &[&str]) {
        for node in table.nodes() {
            if !known.contains(&node.name) {
                let message = format!("unknown key{}", suggestion(node.name, known));
                self.report(node.name_span, node.key, message);
            }
        }
    }

    /// Converts the value of a key, and reports an error at the value.
    pub(super) fn take<T>(
        &mut self,
        table: &Table<'_>,
        name: &str,
        convert: impl FnOnce(Setting) -> Result<T, String>,
    ) -> Option<T> {
        let node = table.node(name)?;
        self.convert(&node, convert)
    }

    /// Converts the value of a node, with `${NAME}` in its text replaced.
    pub(super) fn convert<T>(
        &mut self,
        node: &Node<'_>,
        convert: impl FnOnce(Setting) -> Result<T, String>,
    ) -> Option<T> {
        match setting(node.value, self.environment).and_then(convert) {
            Ok(value) => Some(value),
            Err(message) => {
                self.report(node.span, &node.key, message);
                None
            }
        }
    }

    /// The text of a key exactly as written: `${` has no meaning in SQL, a body or a pattern.
    pub(super) fn verbatim(&mut self, table: &Table<'_>, name: &str) -> Option<(String, Span)> {
        let node = table.node(name)?;
        if let DeValue::String(text) = node.value {
            return Some((text.to_string(), node.span));
        }
        self.report(node.span, node.key, format!("expected a string, not {}", kind_of(node.value)));
        None
    }

    /// Whether the key's given value was refused, so that the key has its default only for that reason.
    pub(super) fn refused(&self, key: &str) -> bool {
        let variable = format!("WHARF_{}", key.replace('.', "_")).to_uppercase();
        self.problems.iter().any(|problem| problem.key == key || problem.key == variable)
    }

    /// Whether a key below this one was refused.
    pub(super) fn has_problem_in(&self, key: &str) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    fn config(&mut self, flags: &Flags) -> Config {
        let mut config = Config::default();
        let (document, errors) = DeTable::parse_recoverable(&self.source.text);
        for error in &errors {
            self.report(error.span().map(Span::from), "", format!("not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return config;
        }
        let root = Table { key: String::new(), span: Span::default(), entries: Some(document.get_ref()) };
        self.only(&root, &SECTIONS);
        self.sections(&root, keys::keys(&mut config), flags);
        config.listen = self.listeners(&root);
        self.one_form(&root, flags);
        self.consistency(&root, &config);
        self.consistent_listeners(&root, &config);
        self.dialect = Dialect::of_url(config.database.url.as_deref());
        config.endpoints = self.endpoints(&root);
        config.app = self.app(&root);
        self.database_for_endpoints(&config);
        config
    }

    /// Reads everything outside `[endpoint]`. For each key the later source wins.
    fn sections(&mut self, root: &Table<'_>, mut keys: Vec<Key<'_>>, flags: &Flags) {
        for section in SECTIONS.into_iter().filter(|section| !WITHOUT_KEYS.contains(section)) {
            let Some(table) = root.node(section).and_then(|node| self.table(&node)) else {
                continue;
            };
            let of_section = || keys.iter().filter(|key| key.section == section);
            self.only(&table, &of_section().map(|key| key.name).collect::<Vec<_>>());
            for key in keys.iter_mut().filter(|key| key.section == section) {
                self.take(&table, key.name, |setting| key.set(setting));
            }
        }
        for key in &mut keys {
            self.variable(key);
            self.standard_variable(root, key);
        }
        self.unknown_variables(&keys);
        for (flag, path, value) in
            [("--listen", "server.listen", &flags.listen), ("--database", "database.url", &flags.database)]
        {
            let key = keys.iter_mut().find(|key| key.path() == path);
            if let (Some(key), Some(value)) = (key, value)
                && let Err(message) = key.set(Setting::Expanded(value.clone()))
            {
                self.report(None, flag, message);
            }
        }
    }

    fn variable(&mut self, key: &mut Key<'_>) {
        let mut names = key.variables();
        names.retain(|name| self.environment.contains_key(name));
        if let [one, other] = names.as_slice() {
            self.report(None, one, format!("{other} sets {} too; keep one of them", key.path()));
        }
        for name in names {
            if let Err(message) = key.set(Setting::Expanded(self.environment[&name].clone())) {
                self.report(None, name, message);
            }
        }
    }

    /// Reads a variable that other programs read too. It applies only if no source of wharf's own sets the key. An
    /// empty variable does not count, and a server that cannot send traces reads none.
    fn standard_variable(&mut self, root: &Table<'_>, key: &mut Key<'_>) {
        let ours = root.place(&key.path()).is_some()
            || key.variables().iter().any(|name| self.environment.contains_key(name));
        let Some(name) = key.standard_variable().filter(|_| cfg!(feature = "otlp") && !ours) else { return };
        let said = self.environment.get(name).filter(|value| !value.trim().is_empty());
        if let Some(value) = said
            && let Err(message) = key.set(Setting::Expanded(value.clone()))
        {
            self.report(None, name, message);
        }
    }

    /// Reports unknown variables, because a misspelt name must not start a server with the default value. Variables
    /// that the file uses are known. So are the variables that Kubernetes sets in every container for a Service called
    /// `wharf`.
    fn unknown_variables(&mut self, keys: &[Key<'_>]) {
        let names: Vec<_> = keys.iter().flat_map(Key::variables).collect();
        let known: Vec<_> = names.iter().map(String::as_str).chain(OTHER_VARIABLES).collect();
        let linked = |name: &str| {
            ["WHARF_PORT", "WHARF_SERVICE_HOST", "WHARF_SERVICE_PORT"].contains(&name)
                || name.starts_with("WHARF_PORT_")
                || name.starts_with("WHARF_SERVICE_PORT_")
        };
        for name in self.environment.keys().filter(|name| name.starts_with("WHARF_")) {
            let used = self.source.text.contains(&format!("${{{name}"));
            if !used && !linked(name) && !known.contains(&name.as_str()) {
                let message = format!("unknown environment variable{}", suggestion(name, &known));
                self.problems.push(Problem::new(None, name, message));
            }
        }
    }

    fn database_for_endpoints(&mut self, config: &Config) {
        let with_sql = |action: &Action| matches!(action, Action::Sql { .. });
        let first = config.endpoints.iter().find(|endpoint| with_sql(&endpoint.action));
        let refused = self.problems.iter().any(|problem| {
            ["database.url", "WHARF_DATABASE", "WHARF_DATABASE_URL", "--database"]
                .contains(&problem.key.as_str())
        });
        if let (Some(endpoint), None, false) = (first, &config.database.url, refused) {
            let message = format!("missing, and endpoint.{} runs SQL", endpoint.name);
            self.report(endpoint.span, "database.url", message);
        }
    }
}

/// Converts a value of the file to a setting. `${NAME}` is replaced in its text, or in the texts of an array.
fn setting(value: &DeValue<'_>, environment: &Environment) -> Result<Setting, String> {
    match value {
        DeValue::String(text) => Ok(match expand(text, environment)? {
            Some(expanded) => Setting::Expanded(expanded),
            None => Setting::Text(text.to_string()),
        }),
        DeValue::Integer(number) => integer(number).map(Setting::Integer),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Setting::Float)
            .map_err(|_| format!("{number} is not a number that 64 bits can hold")),
        DeValue::Boolean(flag) => Ok(Setting::Flag(*flag)),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| setting(item.get_ref(), environment));
            items.collect::<Result<_, _>>().map(Setting::List)
        }
        other => Ok(Setting::Other(kind_of(other))),
    }
}

fn integer(number: &toml::de::DeInteger<'_>) -> Result<i64, String> {
    i64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| format!("{number} is not an integer that 64 bits can hold"))
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// `; did you mean "workers"?`. If no name is near, it is the list of names, provided that is short enough to read.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    const LISTED_MAX: usize = 14;
    let near = |known: &&&str| {
        let distance = strsim::damerau_levenshtein(name, known);
        (distance <= name.len().max(known.len()) / 3).then_some(distance)
    };
    let nearest = known.iter().filter(|known| near(known).is_some()).min_by_key(near);
    match nearest {
        Some(nearest) => format!("; did you mean \"{nearest}\"?"),
        None if (1..=LISTED_MAX).contains(&known.len()) => {
            format!("; expected one of {}", known.join(", "))
        }
        None => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{ClientAuth, Connector, ForwardedBy, Listen, TlsVersion};
    use super::*;

    fn try_read(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, Problems> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let source = Source { path: Some("test.toml".into()), text: text.to_owned() };
        Config::read(source, &variables.iter().map(owned).collect(), flags)
    }

    fn with_database() -> Flags {
        Flags { database: Some("sqlite:test.db".into()), ..Flags::default() }
    }

    fn sound(result: Result<Config, Problems>) -> Config {
        result.unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn lines(result: Result<Config, Problems>) -> Vec<String> {
        let problems = result.err().map_or_else(Vec::new, |problems| problems.list().to_vec());
        let line = |problem: Problem| format!("{}: {}", problem.key, problem.message);
        problems.into_iter().map(line).collect()
    }

    /// The configuration of a text without problems.
    pub(in super::super) fn read(text: &str) -> Config {
        sound(try_read(text, &[], &with_database()))
    }

    /// The problems of a text, each as `key: message`.
    pub(in super::super) fn problems(text: &str) -> Vec<String> {
        lines(try_read(text, &[], &with_database()))
    }

    #[test]
    fn opentelemetrys_variables_apply_to_keys_without_another_source() {
        let set = |names: &[(&str, &str)]| {
            let pairs = names.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.collect::<Environment>()
        };
        let read = |text: &str, environment: &Environment| {
            let source = Source { path: None, text: text.to_owned() };
            Config::examine(source, environment, &Flags::default())
        };
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key=1"),
            ("OTEL_SERVICE_NAME", "flights"),
        ];
        let (config, problems) = read("", &set(&all));
        assert!(problems.list().is_empty(), "{problems}");
        let (endpoint, headers) =
            if cfg!(feature = "otlp") { (Some("http://a:4318"), Some("key=1")) } else { (None, None) };
        assert_eq!(
            config.tracing.otlp_endpoint.as_deref(),
            endpoint,
            "who cannot send looks at none of them"
        );
        assert_eq!(config.tracing.otlp_headers.as_deref(), headers);
        assert_eq!(config.tracing.service_name == "flights", cfg!(feature = "otlp"));
        let ours = "tracing = { otlp_headers = 'ours=1', service_name = 'ours' }";
        let (config, _) = read(ours, &set(&all));
        assert_eq!(
            (config.tracing.otlp_headers.as_deref(), &*config.tracing.service_name),
            (Some("ours=1"), "ours")
        );
        let (config, problems) = read("", &set(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
        assert!(config.tracing.otlp_endpoint.is_none() && problems.list().is_empty(), "it says nothing");
        let (_, problems) = read("", &set(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "a:4317")]));
        assert_eq!(problems.list().len(), usize::from(cfg!(feature = "otlp")));
    }

    #[test]
    fn flags_override_variables_then_the_file_then_the_defaults() {
        let file = "server.listen = '127.0.0.1:1'\ndatabase.url = 'sqlite:file'";
        let short = [("WHARF_LISTEN", "127.0.0.1:2"), ("WHARF_DATABASE", "sqlite:variable")];
        let flags = Flags { listen: Some("127.0.0.1:3".into()), database: Some("postgres://flag".into()) };
        let read = |text: &str, variables: &[(&str, &str)], flags: &Flags| {
            let config = sound(try_read(text, variables, flags));
            (config.server.listen.to_string(), config.database.url.unwrap_or_default())
        };
        assert_eq!(read("", &[], &Flags::default()), ("127.0.0.1:8080".into(), String::new()));
        assert_eq!(read(file, &[], &Flags::default()), ("127.0.0.1:1".into(), "sqlite:file".into()));
        assert_eq!(read(file, &short, &Flags::default()), ("127.0.0.1:2".into(), "sqlite:variable".into()));
        assert_eq!(read(file, &short, &flags), ("127.0.0.1:3".into(), "postgres://flag".into()));
    }

    #[test]
    fn every_key_has_a_variable() {
        let variables = [
            ("WHARF_SERVER_CONNECTOR", "tiny_http"),
            ("WHARF_SERVER_WORKERS", "3"),
            ("WHARF_HTTP_MAX_BODY_BYTES", "2KiB"),
            ("WHARF_HTTP_MAX_HEAD_BYTES", "9000"),
            ("WHARF_DATABASE_DEMO", "true"),
            ("WHARF_DATABASE_MAX_LIFETIME", "5m"),
            ("WHARF_CONFIG", "x"),
            ("WHARF_LOG", "debug"),
            ("WHARF_SERVICE_HOST", "10.0.0.1"),
            ("WHARF_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("WHARF_OWN", "7"),
            ("OTHER", "x"),
        ];
        let text = "queue.max_length = '${WHARF_OWN}'\nserver.deadline = '${NONE:-2s}'";
        let config = sound(try_read(text, &variables, &Flags::default()));
        assert_eq!(config.server.connector, Connector::TinyHttp);
        assert_eq!(config.server.workers, Some(3));
        assert_eq!((config.http.max_body_bytes, config.http.max_head_bytes), (2048, 9000));
        assert!(config.database.demo);
        assert_eq!(config.database.max_lifetime.as_secs(), 300);
        assert_eq!((config.queue.max_length, config.server.deadline.as_secs()), (7, 2));
    }

    #[test]
    fn wrong_variables_and_flags_are_problems() {
        let variables = [
            ("WHARF_SERVER_WORKER", "3"),
            ("WHARF_SERVER_WORKERS", "many"),
            ("WHARF_DATABASE", "oracle://secret"),
            ("WHARF_LISTEN", "127.0.0.1:1"),
            ("WHARF_SERVER_LISTEN", "127.0.0.1:2"),
        ];
        let flags = Flags { listen: Some("8080".into()), ..Flags::default() };
        let mut lines = lines(try_read("", &variables, &flags));
        lines.sort();
        assert_eq!(
            lines,
            [
                "--listen: \"8080\" is not an IP address and a port, such as 127.0.0.1:8080, or \"unix:PATH\" with a \
                 PATH of 1 to 107 bytes, or \"systemd\", or \"systemd:NAME\"",
                "WHARF_DATABASE: expected \"sqlite:FILE\", \"postgres://USER@HOST/DATABASE\" or \"mysql://USER@HOST/DATABASE\"",
                "WHARF_SERVER_LISTEN: WHARF_LISTEN sets server.listen too; keep one of them",
                "WHARF_SERVER_WORKER: unknown environment variable; \
                 did you mean \"WHARF_SERVER_WORKERS\"?",
                "WHARF_SERVER_WORKERS: \"many\" is not an integer",
            ]
        );
    }

    #[test]
    fn the_sections_are_checked_key_by_key() {
        for (text, message) in [
            ("a = 1", "a: unknown key; expected one of server, listen, log, tracing, admin, queue, h"),
            ("[endpoints.x]", "endpoints: unknown key; did you mean \"endpoint\"?"),
            ("server = 1", "server: expected a table, not an integer"),
            ("server.listen = 'localhost'", "server.listen: \"localhost\" is not an IP address"),
            ("server.connector = 'hyper'", "server.connector: \"hyper\" is none of \"native\", \""),
            ("server.workers = 0", "server.workers: 0 is out of range; expected 1 to 10000"),
            ("server.workers = '4'", "server.workers: \"4\" is not an integer"),
            ("server.workers = 4.5", "server.workers: 4.5 is not an integer"),
            ("server.workers = [4]", "server.workers: expected an integer, not an array"),
            ("server.deadline = 10", "server.deadline: expected a time such as"),
            ("server.deadline = '2h'", "server.deadline: \"2h\" is out of range; expected 1ms to 1h"),
            ("server.deadline = '${X}'", "server.deadline: the environment variable X is not set"),
            ("http.max_body_bytes = '1KB'", "http.max_body_bytes: \"1KB\" is not a number of bytes"),
            ("http.idle_timout = '1s'", "http.idle_timout: unknown key; did you mean \"idle_timeo"),
            ("http.max_head_bytes = 1024", "http.max_target_bytes: 8192 is more than http.max_head"),
            ("database.minimum_idle = 11", "database.minimum_idle: 11 is more than database.maximu"),
            ("database.demo = 'true'", "database.demo: \"true\" is not true or false"),
            ("database.url = 'sqlite:'", "database.url: expected \"sqlite:FILE\", "),
            (
                "database.application_name = 'Flüge'",
                "database.application_name: expected 1 to 63 printable ASCII",
            ),
            ("database.statement_comment = 'on'", "database.statement_comment: \"on\" is none of \"off\""),
        ] {
            let problems = lines(try_read(text, &[], &Flags::default()));
            let found = problems.len() == 1 && problems[0].starts_with(message);
            assert!(found, "{text}: {problems:?}");
        }
    }

    #[test]
    fn each_key_for_clients_takes_its_values() {
        let config = read(
            "[server]\nlisten = 'unix:/run/wharf.sock'\nreuse_port = true\nselectors = 64\n\
             [http]\nmax_connections_per_address = 20\nmax_accept_rate = 1000\nmax_requests_per_connection = 1000000000\n\
             buffer_body_bytes = '1KiB'\nmin_body_rate = '0B'\nresponse_buffer_bytes = '64MiB'\n\
             [proxy]\ntrusted = ['10.0.0.0/8', ' unix']\nprotocol = true\nheader = 'forwarded'\n\
             [tls]\ncertificate = 'a.pem'\nkey = 'b.pem'\nmin_version = '1.3'\nclient_ca = 'c.pem'\n\
             client_auth = 'optional'\nhandshake_timeout = '3s'\nmax_handshakes = 1",
        );
        let (server, http, proxy, tls) = (config.server, config.http, config.proxy, config.tls);
        assert_eq!(server.listen, Listen::Unix("/run/wharf.sock".into()));
        assert_eq!((server.reuse_port, server.selectors), (true, Some(64)));
        let limits =
            [http.max_connections_per_address, http.max_accept_rate, http.max_requests_per_connection];
        assert_eq!(limits, [Some(20), Some(1000), Some(1_000_000_000)]);
        let bytes = [http.buffer_body_bytes, http.min_body_rate, http.response_buffer_bytes];
        assert_eq!(bytes, [1 << 10, 0, 64 << 20]);
        assert_eq!(proxy.trusted.to_string(), "10.0.0.0/8, unix");
        assert_eq!((proxy.protocol, proxy.header), (true, ForwardedBy::Forwarded));
        let files = [tls.certificate, tls.key, tls.client_ca].map(Option::unwrap_or_default);
        assert_eq!(files, ["a.pem", "b.pem", "c.pem"].map(PathBuf::from));
        assert_eq!((tls.min_version, tls.client_auth), (TlsVersion::V13, ClientAuth::Optional));
        assert_eq!((tls.handshake_timeout.as_secs(), tls.max_handshakes), (3, 1));
    }

    #[test]
    fn each_key_for_clients_refuses_wrong_values() {
        for (text, message) in [
            ("server.listen = 'unix:'", "server.listen: \"unix:\" is not an IP address and a port"),
            ("server.listen = 8080", "server.listen: expected an IP address and a port"),
            ("server.reuse_port = 1", "server.reuse_port: 1 is not true or false"),
            ("server.selectors = 65", "server.selectors: 65 is out of range; expected 1 to 64"),
            ("http.max_connections_per_address = 0", "http.max_connections_per_address: 0 is out of range"),
            (
                "http.max_accept_rate = 1000001",
                "http.max_accept_rate: 1000001 is out of range; expected 1 to",
            ),
            ("http.max_requests_per_connection = 0", "http.max_requests_per_connection: 0 is out of range"),
            (
                "http.buffer_body_bytes = 1000",
                "http.buffer_body_bytes: 1000B is out of range; expected 1KiB t",
            ),
            ("http.min_body_rate = '2GiB'", "http.min_body_rate: 2GiB is out of range; expected 0B to 1GiB"),
            (
                "http.response_buffer_bytes = 0",
                "http.response_buffer_bytes: 0B is out of range; expected 4Ki",
            ),
            ("proxy.trusted = true", "proxy.trusted: expected networks and addresses such as [\"10.0.0.0/8"),
            ("proxy.trusted = ['::1', '']", "proxy.trusted: the list has \"\"; expected networks and"),
            ("proxy.trusted = ['::1', '10.0.0.1/8']", "proxy.trusted: 10.0.0.1/8: did you mean 10.0.0.0/8?"),
            ("proxy.trusted = ['${X}']", "proxy.trusted: the environment variable X is not set"),
            ("proxy.protocol = 'v2'", "proxy.protocol: \"v2\" is not true or false"),
            ("proxy.header = 'via'", "proxy.header: \"via\" is none of \"none\", \"forwarded\", \"x-"),
            ("tls.certificate = ''", "tls.certificate: expected the path of a PEM file"),
            ("tls.key = 1", "tls.key: expected the path of a PEM file"),
            ("tls.client_ca = '''a\nb'''", "tls.client_ca: expected the path of a PEM file"),
            ("tls.min_version = '1.1'", "tls.min_version: \"1.1\" is none of \"1.2\", \"1.3\""),
            ("tls.min_version = 1.2", "tls.min_version: expected one of \"1.2\", \"1.3\""),
            ("tls.client_auth = 'yes'", "tls.client_auth: \"yes\" is none of \"none\", \"optional\", \"req"),
            ("tls.handshake_timeout = '0s'", "tls.handshake_timeout: \"0s\" is out of range; expected 1ms"),
            ("tls.max_handshakes = 0", "tls.max_handshakes: 0 is out of range; expected 1 to 1000000"),
            ("tls.cert = 'a'", "tls.cert: unknown key"),
        ] {
            let problems = problems(text);
            let found = problems.len() == 1 && problems[0].starts_with(message);
            assert!(found, "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_list_may_come_from_a_variable() {
        for (value, expected) in [("10.0.0.0/8, ::1", "10.0.0.0/8, ::1"), ("unix", "unix"), ("", "")] {
            let variables = [("WHARF_PROXY_TRUSTED", value), ("ONE", "::2")];
            assert_eq!(
                sound(try_read("proxy.trusted = ['::3']", &variables, &Flags::default()))
                    .proxy
                    .trusted
                    .to_string(),
                expected
            );
            let config =
                sound(try_read("proxy.trusted = ['::1', '${ONE}']", &variables[1..], &Flags::default()));
            assert_eq!(config.proxy.trusted.to_string(), "::1, ::2");
        }
    }

    #[test]
    fn sql_needs_a_database() {
        let text = "[endpoint.a]\nroute = 'GET /'\nsql = 'select 1'";
        let problems = lines(try_read(text, &[], &Flags::default()));
        assert_eq!(problems, ["database.url: missing, and endpoint.a runs SQL"]);
    }

    #[test]
    fn a_text_that_is_not_toml_has_all_its_syntax_errors_reported() {
        let problems = problems("[server]\nlisten = \nx = 1\nx = 2\n");
        let all = problems.iter().all(|line| line.starts_with(": not TOML: "));
        assert!(problems.len() >= 2 && all, "{problems:?}");
    }

    #[test]
    fn one_run_reports_all_problems_each_at_its_place() {
        let text = r#"[server]
worker = 4

[endpoint.flight]
route = "GET /flights/{id}"
params = { id = { type = "integer" } }
sql = '''
select * from flights
where id = :id and day = :day'''
"#;
        let shown = try_read(text, &[], &with_database()).expect_err("three problems").to_string();
        let expected = r#"test.toml:2:1: server.worker: unknown key; did you mean "workers"?
  |
2 | worker = 4
  | ^^^^^^

test.toml:6:26: endpoint.flight.params.id.type: "integer" is not a type; expected TYPES
  |
6 | params = { id = { type = "integer" } }
  |                          ^^^^^^^^^

test.toml:9:26: endpoint.flight.sql: `:day` is not declared; add it to `params` with its type
  |
9 | where id = :id and day = :day'''
  |                          ^^^^

3 problems"#;
        let types = "int, float, text, bool, uuid, date, timestamp, json, bytes, \
                     or one of these with `[]`";
        assert_eq!(shown, expected.replace("TYPES", types));
    }

    #[test]
    fn a_given_file_is_the_only_one_tried() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let flag = directory.path().join("flag.toml");
        let variable = directory.path().join("variable.toml");
        fs::write(&variable, "# variable").expect("the directory takes a file");
        let environment = Environment::from([("WHARF_CONFIG".into(), variable.display().to_string())]);
        let source = Config::locate(None, &environment).expect("the file is there");
        assert_eq!((source.path, source.text.as_str()), (Some(variable), "# variable"));
        let error = Config::locate(Some(&flag), &environment).expect_err("the file is not there");
        assert!(error.to_string().contains("flag.toml"), "{error}");
        fs::write(&flag, "# flag").expect("the directory takes a file");
        let source = Config::locate(Some(&flag), &environment).expect("the file is there");
        assert_eq!(source.text, "# flag");
    }
}
