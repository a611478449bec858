//! The documents, held to the files: links and their anchors, the configurations that they show, and their Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use wharf::config::{Config, Environment, Flags, Source};

use super::{read, root};

/// A fenced block of a document.
struct Block {
    /// The word behind the fence.
    language: String,
    /// The line of the fence, from 1.
    line: usize,
    text: String,
}

/// Every file below a folder whose name ends so.
fn below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root().join(folder)]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                left.push(path);
            } else if path.to_str().is_some_and(|name| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

/// The path of every document, relative to the root.
fn documents() -> Vec<String> {
    let mut names: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "config/demo/README.md"]
            .map(str::to_owned)
            .to_vec();
    for path in ["docs", "benches/results"].iter().flat_map(|folder| below(folder, ".md")) {
        let name = path.strip_prefix(root()).expect("it is below the root");
        names.push(name.to_str().expect("ASCII").to_owned());
    }
    assert!(names.len() > 25, "{names:?}");
    names
}

/// The lines outside of fences, and the blocks inside.
fn parts(text: &str) -> (String, Vec<Block>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::<Block>::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("```"), open) {
            (Some(word), false) => {
                blocks.push(Block { language: word.trim().to_owned(), line: number, text: String::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, false) => prose = prose + line + "\n",
            (None, true) => {
                let block = blocks.last_mut().expect("a fence has opened one");
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
    }
    assert!(!open, "a fence is not closed");
    (prose, blocks)
}

/// The anchors of a document's headings, as GitHub and mdBook make them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let text: String = heading.trim_start_matches('#').trim().chars().filter(kept).collect();
        let name = text.to_lowercase().replace(' ', "-");
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name}-{}", *times - 1) }
    };
    headings.map(anchor).collect()
}

/// The broken links of a document in `folder`.
fn broken_links(text: &str, folder: &Path) -> Vec<String> {
    let (prose, _) = parts(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut broken = Vec::new();
    for target in targets.filter(|target| !target.starts_with("http://") && !target.starts_with("https://")) {
        let (file, anchor) =
            target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let linked = folder.join(file);
        if !file.is_empty() && !linked.exists() {
            broken.push(format!("{target}: there is no such file"));
        } else if let Some(anchor) = anchor {
            let other = if file.is_empty() { prose.clone() } else { parts(&read_path(&linked)).0 };
            if !anchors(&other).contains(anchor) {
                broken.push(format!("{target}: there is no such heading"));
            }
        }
    }
    broken
}

fn read_path(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The problems of a configuration that a document shows. A fragment is completed first: it gets a database if its
/// endpoints have SQL, an endpoint if it has none, and a value for each variable.
fn problems(text: &str) -> Vec<String> {
    let mut whole = text.to_owned();
    if !text.contains("\n[endpoint.") && !text.starts_with("[endpoint.") {
        whole.push_str("\n[endpoint.completed]\nroute = \"GET /completed\"\nbody = \"\"\n");
    }
    let has_url = text.lines().any(|line| line.trim_start().starts_with("url "));
    let database = (!has_url).then(|| "sqlite:completed.db".to_owned());
    let variables: Environment = text
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split(['}', ':']).next())
        .map(|name| (name.to_owned(), "completed".to_owned()))
        .collect();
    let source = Source { path: None, text: whole };
    match Config::read(source, &variables, &Flags { listen: None, database }) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            problems.list().iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
        }
    }
}

#[test]
fn documents_link_to_files_and_headings_that_exist() {
    let mut broken = Vec::new();
    for name in documents() {
        let folder = root().join(Path::new(&name).parent().expect("a file has a folder"));
        broken.extend(broken_links(&read(&name), &folder).into_iter().map(|link| format!("{name}: {link}")));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_broken_link_is_seen() {
    let text = "# One two\n[a](#one-two) [b](#three) [c](Cargo.toml) [d](missing.md)\n```\n[e](missing)\n```\n\
                ![f](https://example.com/x) [g](README.md#read-on) [h](README.md#nothing)\n# One two\n[i](#one-two-1)\n";
    assert_eq!(
        broken_links(text, root()),
        [
            "#three: there is no such heading",
            "missing.md: there is no such file",
            "README.md#nothing: there is no such heading"
        ]
    );
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = read("docs/SUMMARY.md");
    let listed: BTreeSet<&str> =
        summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    let pages: Vec<PathBuf> = below("docs", ".md");
    let pages: BTreeSet<&str> = pages
        .iter()
        .map(|page| {
            page.strip_prefix(root().join("docs")).expect("it is below docs").to_str().expect("ASCII")
        })
        .filter(|name| *name != "SUMMARY.md")
        .collect();
    assert_eq!(listed, pages);
}

#[test]
fn every_configuration_in_a_document_is_accepted() {
    let (mut shown, mut wrong) = (0, Vec::new());
    for name in documents() {
        for block in parts(&read(&name)).1.iter().filter(|block| block.language == "toml") {
            shown += 1;
            let mut found = problems(&block.text);
            // Only a build with the feature sends traces; the other has exactly this to say.
            if block.text.contains("otlp_endpoint") && !cfg!(feature = "otlp") {
                assert!(found.len() == 1 && found[0].contains("cargo feature otlp"), "{name}: {found:?}");
                found.clear();
            }
            wrong.extend(found.into_iter().map(|problem| format!("{name}:{}: {problem}", block.line)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(shown > 15, "{shown} blocks");
}

#[test]
fn a_wrong_configuration_in_a_document_is_seen() {
    for (text, expected) in [
        ("[server]\nworkers = 0\n", "server.workers"),
        ("[queue]\nlength = 5\n", "queue.length"),
        ("[endpoint.a]\nroute = \"GET /a\"\nsql = \"select :b\"\n", "endpoint.a.sql"),
        ("[server\n", ""),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{text}: {found:?}");
    }
    assert_eq!(problems("[database]\nurl = \"postgres://app:${SECRET}@db/app\"\n"), [""; 0]);
}

#[test]
fn the_rust_of_the_documents_stands_in_an_example() {
    let examples: Vec<String> = below("examples", ".rs").iter().map(|path| read_path(path)).collect();
    let mut shown = 0;
    for name in documents() {
        for block in parts(&read(&name)).1.iter().filter(|block| block.language.starts_with("rust")) {
            shown += 1;
            let stands = examples.iter().any(|example| example.contains(&block.text));
            assert!(stands, "{name}:{}: no file in examples/ has these lines", block.line);
        }
    }
    assert!(shown > 4, "{shown} blocks");
}
