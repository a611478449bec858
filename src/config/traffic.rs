//! `[endpoint.NAME.load]`: the requests that `wharf load` and `wharf tune` send to an endpoint.
//!
//! Main thread. A server does not use it.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::read::{Node, Reader, Table};
use super::setting::Setting;
use super::sql::Statement;
use super::{Action, Origin, Param, Sample, Span, Traffic};
use crate::base::value::{Scalar, Type, Value};

const KEYS: [&str; 3] = ["weight", "sample", "params"];

/// Shares of the traffic. A run of seconds cannot show less than a thousandth.
const WEIGHTS: RangeInclusive<u32> = 0..=1000;

impl Default for Traffic {
    fn default() -> Self {
        Self { weight: 1, sample: None, origins: Vec::new(), span: Span::default() }
    }
}

impl Reader<'_> {
    /// Reads the `load` of an endpoint whose action was read already.
    pub(super) fn traffic(&mut self, endpoint: &Table<'_>, action: Option<&Action>) -> Traffic {
        let mut traffic = Traffic { span: endpoint.span, ..Traffic::default() };
        let Some(table) = endpoint.node("load").and_then(|node| self.table(&node)) else {
            return traffic;
        };
        self.only(&table, &KEYS);
        traffic.span = table.span;
        if let Some(weight) = self.take(&table, "weight", |setting| setting.count(&WEIGHTS)) {
            traffic.weight = weight;
        }
        let params = match action {
            Some(Action::Sql { params, .. }) => params,
            Some(Action::Fixed { .. }) => {
                for node in ["sample", "params"].iter().filter_map(|name| table.node(name)) {
                    self.report(node.name_span, node.key, "a fixed `body` takes no parameters");
                }
                return traffic;
            }
            None => return traffic,
        };
        traffic.sample = self.sample(&table);
        let Some(origins) = table.node("params").and_then(|node| self.table(&node)) else {
            return traffic;
        };
        let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        self.only(&origins, &names);
        for node in origins.nodes() {
            if let Some(slot) = names.iter().position(|name| *name == node.name)
                && let Some(origin) = self.origin(&node, &params[slot])
            {
                traffic.origins.push((slot, origin));
            }
        }
        traffic
    }

    fn sample(&mut self, table: &Table<'_>) -> Option<Sample> {
        let (text, span) = self.verbatim(table, "sample")?;
        let key = table.key_of("sample");
        let statement = match Statement::parse_for(&text, self.dialect) {
            Ok(statement) => statement,
            Err(error) => {
                self.report(self.source.inside(span, error.offset, 1), key, error.message);
                return None;
            }
        };
        if statement.writes {
            self.report(span, key, "it writes; a sample only reads");
            return None;
        }
        if let Some((name, offset)) = statement.names.first() {
            let at = self.source.inside(span, *offset, name.len() + 1);
            let message = format!("`:{name}`: a sample takes no parameters; its columns have their names");
            self.report(at, key, message);
            return None;
        }
        Some(Sample { sql: text, span })
    }

    fn origin(&mut self, node: &Node<'_>, param: &Param) -> Option<Origin> {
        let table = self.table(node)?;
        self.only(&table, &["range", "one_of", "csv", "column"]);
        if table.has("column") && !table.has("csv") {
            self.report(table.span, table.key_of("column"), "it needs `csv`, the file that has the column");
        }
        match ["range", "one_of", "csv"].map(|name| table.node(name)) {
            [Some(range), None, None] => self.range(&range, param),
            [None, Some(list), None] => self.list(&list, param),
            [None, None, Some(_)] => {
                let file = self.take(&table, "csv", |setting| setting.text().map(PathBuf::from))?;
                let named = table.has("column").then(|| self.take(&table, "column", Setting::text));
                let column = named.unwrap_or_else(|| Some(param.name.clone()))?;
                Some(Origin::Csv { file, column })
            }
            _ => {
                let message = "expected one of `range`, `one_of` and `csv`, where its values come from";
                self.report(table.span, table.key, message);
                None
            }
        }
    }

    fn range(&mut self, node: &Node<'_>, param: &Param) -> Option<Origin> {
        if param.kind != Type::One(Scalar::Int) {
            let message = format!("does not apply to {}; it applies to int", param.kind);
            self.report(node.name_span, &node.key, message);
            return None;
        }
        let ends = node.items().filter(|items| items.len() == 2);
        let Some(ends) = ends else {
            self.report(node.span, &node.key, "expected its two ends, such as [1, 1000]");
            return None;
        };
        let ends: Vec<_> =
            ends.iter().map(|end| self.convert(end, Setting::integer)).collect::<Option<_>>()?;
        if ends[0] > ends[1] {
            self.report(
                node.span,
                &node.key,
                format!("its first end is above its last: {} and {}", ends[0], ends[1]),
            );
            return None;
        }
        for end in &ends {
            self.passes(node, param, &Value::Int(*end))?;
        }
        Some(Origin::Range(ends[0]..=ends[1]))
    }

    fn list(&mut self, node: &Node<'_>, param: &Param) -> Option<Origin> {
        let Some(items) = node.items().filter(|items| !items.is_empty()) else {
            self.report(node.span, &node.key, "expected an array of the values to send");
            return None;
        };
        let values: Vec<_> = items.iter().map(|item| self.value(item, param.kind)).collect();
        let values = values.into_iter().collect::<Option<Vec<_>>>()?;
        for (item, value) in items.iter().zip(&values) {
            self.passes(item, param, value)?;
        }
        Some(Origin::OneOf(values))
    }

    fn passes(&mut self, node: &Node<'_>, param: &Param, value: &Value) -> Option<()> {
        if let Err(failed) = param.checks.verify(value) {
            self.report(node.span, &node.key, format!("the endpoint would refuse it: {failed}"));
            return None;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{problems, read};
    use super::*;

    fn endpoint(load: &str) -> String {
        format!(
            "[endpoint.a]\nroute = 'GET /a/{{id}}'\nsql = 'select :id, :c, :t'\n\
             params = {{ id = {{ type = 'int', max = 9 }}, c = {{ type = 'text', max_len = 2 }}, t = 'date[]' }}\n\
             [endpoint.a.load]\n{load}"
        )
    }

    fn traffic(load: &str) -> Traffic {
        read(&endpoint(load)).endpoints.remove(0).traffic
    }

    #[test]
    fn values_come_from_rows_ranges_lists_and_files() {
        let traffic = traffic(
            "weight = 3\nsample = 'select id from flights'\n[endpoint.a.load.params]\n\
             t = { one_of = [['2013-01-01', '2013-01-02'], []] }\nid = { range = [1, 9] }\n\
             c = { csv = 'carriers.csv', column = 'code' }",
        );
        assert_eq!(traffic.weight, 3);
        assert_eq!(traffic.sample.expect("it has one").sql, "select id from flights");
        let [(2, Origin::OneOf(lists)), (0, Origin::Range(range)), (1, Origin::Csv { file, column })] =
            traffic.origins.as_slice()
        else {
            panic!("{:?}", traffic.origins)
        };
        let day = |text: &str| Value::Date(text.to_owned());
        let first = Value::Array(Scalar::Date, vec![day("2013-01-01"), day("2013-01-02")]);
        assert_eq!(*lists, [first, Value::Array(Scalar::Date, Vec::new())]);
        assert_eq!(*range, 1..=9);
        assert_eq!((file.as_os_str(), column.as_str()), ("carriers.csv".as_ref(), "code"));
    }

    #[test]
    fn an_endpoint_without_load_has_a_normal_share() {
        let config = read("[endpoint.a]\nroute = 'GET /'\nbody = ''");
        assert_eq!((config.endpoints[0].traffic.weight, &config.endpoints[0].traffic.sample), (1, &None));
    }

    #[test]
    fn requests_that_cannot_be_made_are_problems() {
        for (load, expected) in [
            ("weight = 1001", "endpoint.a.load.weight: 1001 is out of range; expected 0 to 1000"),
            ("rate = 1", "endpoint.a.load.rate: unknown key"),
            ("sample = 'delete from t'", "endpoint.a.load.sample: it writes; a sample only reads"),
            (
                "sample = 'select id from t where x = :c'",
                "endpoint.a.load.sample: `:c`: a sample takes no parameters",
            ),
            ("sample = \"select '\"", "endpoint.a.load.sample: "),
            ("params = { x = { range = [1, 2] } }", "endpoint.a.load.params.x: unknown key"),
            ("params = { c = { range = [1, 2] } }", "range: does not apply to text; it applies to int"),
            (
                "params = { id = { range = [1, 10] } }",
                "range: the endpoint would refuse it: expected at most 9, received",
            ),
            ("params = { id = { range = [2, 1] } }", "range: its first end is above its last: 2 and 1"),
            ("params = { id = { range = [1] } }", "range: expected its two ends, such as [1, 1000]"),
            (
                "params = { c = { one_of = ['AAA'] } }",
                "the endpoint would refuse it: expected a length of at most 2",
            ),
            ("params = { c = { one_of = [] } }", "expected an array of the values to send"),
            ("params = { c = { } }", "expected one of `range`, `one_of` and `csv`"),
            ("params = { c = { csv = 'a', one_of = ['A'] } }", "expected one of `range`, `one_of` and `csv`"),
            ("params = { c = { one_of = ['A'], column = 'x' } }", "column: it needs `csv`"),
        ] {
            let found = problems(&endpoint(load));
            assert!(found.len() == 1 && found[0].contains(expected), "{load}: {found:?}");
        }
        let fixed = "[endpoint.a]\nroute = 'GET /'\nbody = ''\nload = { sample = 'select 1', weight = 2 }";
        let found = problems(fixed);
        assert!(found.len() == 1 && found[0].contains("takes no parameters"), "{found:?}");
    }
}
