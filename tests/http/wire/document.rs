//! `docs/conformance.md`: the table as a document.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use super::case::{Case, Theme, TinyHttp};
use super::cases;

/// Set, it makes the test write the document instead of comparing it.
const WRITE: &str = "WRITE_DOCS";

const PREFACE: &str = "\
What the server answers to bytes on the wire, case by case, each with the section that decides it (RFC 9110 HTTP semantics,
RFC 9112 HTTP/1.1, RFC 3986 URIs, RFC 6585 status 431, RFC 9457 problems). The native connector is sent every case whole, a
byte at a time, and split in two at every place; every byte of what comes back is compared. tiny_http 0.12 is sent every case
whole, and is held to its column too, so that an upgrade which changes something is noticed.

`open`: the next request on the connection is answered. `closed`: the server closes after the answer. `no answer`: it waits
for more. Two statuses where there is one request: the bytes after it were taken for a second one, which is what request
smuggling needs. `same` is the same statuses, content and end; what differs need not be wrong: no rule is broken by a 400 that
leaves the connection open where it is clear where the request ends.

`tests/http/wire/cases/` has the bytes. This page is written by `WRITE_DOCS=1 cargo test --test http wire`.
";

/// Compares the document with the table, or writes it.
pub(crate) fn check_or_write() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let (expected, how) = (document(), format!("run `{WRITE}=1 cargo test --test http wire`"));
    if env::var_os(WRITE).is_some() {
        fs::write(&path, &expected).expect("docs can be written");
    }
    let found =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("docs/conformance.md: {error}; {how}"));
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(found == expected, "docs/conformance.md is not what the table yields ({differs:?}); {how}");
}

fn document() -> String {
    let themes = cases::all();
    let cases: Vec<&Case> = themes.iter().flat_map(|theme| &theme.cases).collect();
    let mut text = format!("# Conformance on the wire\n\n{PREFACE}\n");
    text += "| | cases | native: as the RFC asks | tiny_http: the same |\n|---|---|---|---|\n";
    for theme in &themes {
        count(&mut text, theme.title, &theme.cases.iter().collect::<Vec<_>>());
    }
    count(&mut text, "**all**", &cases);
    for theme in &themes {
        text += &section(theme);
    }
    text
}

/// A row of the counts. Native has every case: the suite fails otherwise.
fn count(text: &mut String, title: &str, cases: &[&Case]) {
    let same = cases.iter().filter(|case| matches!(case.tiny_http, TinyHttp::Same)).count();
    writeln!(text, "| {title} | {0} | {0} | {same} |", cases.len()).expect("a String takes all");
}

fn section(theme: &Theme) -> String {
    let mut text =
        format!("\n## {}\n\n| case | RFC | native | tiny_http |\n|---|---|---|---|\n", theme.title);
    for case in &theme.cases {
        let tiny_http = match case.tiny_http {
            TinyHttp::Same => "same",
            TinyHttp::Instead(words) => words,
        };
        let name = case.name.replace('|', "\\|");
        writeln!(text, "| {name} | {} | {} | {tiny_http} |", case.rfc, case.expected())
            .expect("a String takes all");
    }
    text
}
