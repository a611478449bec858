//! Reads `[app]`: from the file, and into a type of the program.
//!
//! Main thread. The server uses none of it; [`Config::app`] reads it into a type of the program.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{App, Section};
use crate::config::problem::{Problem, Problems};
use crate::config::read::{Reader, Table};
use crate::config::setting::expand;
use crate::config::{Config, Source, Span};

impl Config {
    /// `[app]` of the file as a value of the program's own type. `${NAME}` in its texts is an environment variable, as everywhere
    /// in the file. A file without the section is read as one with an empty section.
    ///
    /// ```
    /// use wharf::config::{Config, Environment, Flags, Source};
    ///
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields)]
    /// struct Shop {
    ///     currency: String,
    ///     #[serde(default)]
    ///     discount: u8,
    /// }
    ///
    /// let text = "[server]\nworkers = 4\n\n[app]\ncurrency = \"EUR\"\n".to_owned();
    /// let config = Config::read(Source { path: None, text }, &Environment::default(), &Flags::default())?;
    /// let shop: Shop = config.app()?;
    /// assert_eq!((shop.currency.as_str(), shop.discount), ("EUR", 0));
    /// # Ok::<(), wharf::config::Problems>(())
    /// ```
    ///
    /// # Errors
    /// What the type does not take, with its place in the file.
    pub fn app<T: DeserializeOwned>(&self) -> Result<T, Problems> {
        let Some(section) = &self.app.0 else {
            return T::deserialize(ValueDeserializer::from(empty())).map_err(|error| {
                let source = Source { path: None, text: String::new() };
                Problems::new(source, vec![Problem::new(None, "app", error.message())])
            });
        };
        let value = section.value();
        T::deserialize(ValueDeserializer::from(value.clone())).map_err(|error| {
            let (key, span) = section.place(&value, error.span());
            Problems::new(section.source.clone(), vec![Problem::new(span, key, error.message())])
        })
    }

    /// Whether both have the same values in `[app]`, wherever they stand.
    pub(in crate::config) fn has_app_of(&self, other: &Self) -> bool {
        self.app == other.app
    }
}

fn empty<'a>() -> Spanned<DeValue<'a>> {
    Spanned::new(0..0, DeValue::Table(DeTable::new()))
}

/// Puts other texts in place of those that begin at these places.
fn replace(value: &mut Spanned<DeValue<'_>>, texts: &BTreeMap<usize, String>) {
    let begin = value.span().start;
    match value.get_mut() {
        DeValue::String(text) => {
            if let Some(expanded) = texts.get(&begin) {
                *text = expanded.clone().into();
            }
        }
        DeValue::Array(items) => items.iter_mut().for_each(|item| replace(item, texts)),
        DeValue::Table(table) => table.iter_mut().for_each(|(_, value)| replace(value, texts)),
        _ => {}
    }
}

impl Section {
    /// The values with their places, read again: a tree of them cannot outlive its text.
    fn value(&self) -> Spanned<DeValue<'_>> {
        let (document, _) = DeTable::parse_recoverable(&self.source.text);
        let mut entries = document.into_inner().into_iter();
        let found = entries.find_map(|(name, value)| (name.get_ref() == "app").then_some(value));
        let mut value = found.unwrap_or_else(empty);
        replace(&mut value, &self.expanded);
        value
    }

    /// The key of which something is at a place, and where to point: a table as a whole is its name.
    fn place(&self, value: &Spanned<DeValue<'_>>, at: Option<Range<usize>>) -> (String, Span) {
        let found = at.and_then(|at| find(value, "app", &at));
        found.unwrap_or_else(|| ("app".to_owned(), self.name))
    }
}

/// The key below this one whose name or value stands exactly there. The place of a table may be its head alone, so that it tells
/// nothing of what is in it.
fn find(value: &Spanned<DeValue<'_>>, key: &str, at: &Range<usize>) -> Option<(String, Span)> {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(name, value)| {
            let (key, place) = (format!("{key}.{}", name.get_ref()), name.span());
            if place == *at || value.span() == *at && value.get_ref().is_table() {
                return Some((key, place.into()));
            }
            if value.span() == *at { Some((key, value.span().into())) } else { find(value, &key, at) }
        }),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            let key = format!("{key}[{}]", index + 1);
            if item.span() == *at { Some((key, item.span().into())) } else { find(item, &key, at) }
        }),
        _ => None,
    }
}

impl Reader<'_> {
    /// Keeps `[app]`, its texts expanded.
    pub(in crate::config) fn app(&mut self, root: &Table<'_>) -> App {
        let Some(node) = root.node("app") else { return App::default() };
        if self.table(&node).is_none() {
            return App::default();
        }
        let mut value = Spanned::new(node.span.start..node.span.end, node.value.clone());
        let mut expanded = BTreeMap::new();
        self.expand_in(&value, "app", &mut expanded);
        replace(&mut value, &expanded);
        match toml::Value::deserialize(ValueDeserializer::from(value)) {
            Ok(values) => {
                let (source, name) = (self.source.clone(), node.name_span);
                App(Some(Arc::new(Section { source, name, expanded, values })))
            }
            Err(error) => {
                self.report(error.span().map(Span::from), "app", error.message());
                App::default()
            }
        }
    }

    fn expand_in(&mut self, value: &Spanned<DeValue<'_>>, key: &str, into: &mut BTreeMap<usize, String>) {
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) => match expand(text, self.environment()) {
                Ok(Some(expanded)) => drop(into.insert(span.start, expanded)),
                Ok(None) => {}
                Err(message) => self.report(Span::from(span), key, message),
            },
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.expand_in(item, &format!("{key}[{}]", index + 1), into);
                }
            }
            DeValue::Table(table) => {
                for (name, value) in table {
                    self.expand_in(value, &format!("{key}.{}", name.get_ref()), into);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::*;
    use crate::config::{Environment, Flags};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shop {
        title: String,
        #[serde(default)]
        limits: Limits,
        #[serde(default)]
        tags: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        items: u8,
    }

    fn read(text: &str) -> Result<Config, Problems> {
        let source = Source { path: Some(PathBuf::from("shop.toml")), text: text.to_owned() };
        let environment = Environment::from([("TITLE".to_owned(), "Tea & more".to_owned())]);
        Config::read(source, &environment, &Flags::default())
    }

    fn shop(text: &str) -> Result<Shop, Problems> {
        read(text)?.app()
    }

    #[test]
    fn the_section_is_the_programs_own() {
        let text = "[app]\ntitle = \"${TITLE}\"\ntags = [\"a\", \"b\"]\nlimits.items = 7\n";
        let expected = Shop {
            title: "Tea & more".to_owned(),
            limits: Limits { items: 7 },
            tags: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(shop(text).expect("a shop"), expected);
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        let told = |text: &str| shop(text).expect_err("a mistake").to_string();
        for (text, place) in [
            ("[app]\ntitle = 7\n", "shop.toml:2:9: app.title: invalid type: integer `7`, expected a string"),
            ("[app]\ntitle = \"a\"\n[app.limits]\nitems = 300\n", "shop.toml:4:9: app.limits.items: "),
            ("[app]\ntitle = \"a\"\ntags = [\"b\",\n 3]\n", "shop.toml:4:2: app.tags[2]: "),
            ("[app]\ntitle = \"a\"\ntitel = \"b\"\n", "shop.toml:3:1: app.titel: unknown field `titel`"),
            ("\n[app]\ntags = []\n", "shop.toml:2:2: app: missing field `title`"),
            ("[server]\nworkers = 1\n", "app: missing field `title`"),
            ("app = 7\n", "shop.toml:1:7: app: expected a table, not an integer"),
            ("[app]\ntitle = \"${NOTHING}\"\n", "shop.toml:2:9: app.title: "),
        ] {
            assert!(told(text).starts_with(place), "{}", told(text));
        }
        assert!(told("[apps]\ntitle = 7\n").contains("did you mean \"app\"?"));
    }

    #[test]
    fn a_change_of_the_section_is_told_without_its_values() {
        let before = read("[app]\ntitle = \"a\"\n").expect("a configuration");
        let moved = read("\n\n[app]\n  title = \"a\"\n").expect("a configuration");
        let now = read("[app]\ntitle = \"secret\"\n").expect("a configuration");
        assert!(before.changes_to(&moved).is_empty() && before == moved);
        let changes = before.changes_to(&now);
        assert_eq!(changes.keys.iter().map(ToString::to_string).collect::<Vec<_>>(), ["app"]);
        assert!(!format!("{now:?}").contains("secret"));
    }
}
