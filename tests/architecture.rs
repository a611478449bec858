//! ARCHITECTURE.md's table of layers, held to the source; and the documents, held to the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/documents.rs"]
mod documents;

use wharf::config::{Config, Endpoint, Environment, Flags, Source};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Module → layer, out of the table.
fn layers() -> BTreeMap<String, u32> {
    let text = read("ARCHITECTURE.md");
    let mut layers = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(layer), Some(modules)) = (cells.next(), cells.next()) else { continue };
        let Ok(layer) = layer.parse() else { continue };
        for module in modules.split(',') {
            layers.insert(module.trim().trim_matches('`').to_owned(), layer);
        }
    }
    layers
}

/// The pairs of one layer that may import each other: `a` → `b`, as the sentence under the table lists them.
fn exceptions() -> Vec<(String, String)> {
    let text = read("ARCHITECTURE.md");
    let sentence = text
        .split("\n\n")
        .find(|part| part.starts_with("Within a layer"))
        .expect("the sentence under the table");
    let names: Vec<&str> = sentence.split('`').skip(1).step_by(2).collect();
    names.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

/// Every source file with the module that it belongs to.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut left = vec![root().join("src")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let below = path.strip_prefix(root().join("src")).expect("it is below src");
                let first = below.iter().next().expect("a file has a name");
                let module =
                    Path::new(first).file_stem().expect("a name").to_str().expect("ASCII").to_owned();
                found.push((path, module));
            }
        }
    }
    found
}

/// How many `super::` lead from a file to the crate's root: `src/queue.rs` is one below it.
fn depth(path: &Path) -> usize {
    let below = path.strip_prefix(root().join("src")).expect("it is below src");
    let names = below.iter().count();
    if below.ends_with("mod.rs") { names - 1 } else { names }
}

/// The modules of this crate that a source file uses: after `crate::`, `wharf::` and so many `super::` as lead to the root,
/// by itself or in braces. Its tests may use what they like.
fn used(source: &str, depth: usize) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let supers = "super::".repeat(depth);
    let roots = ["crate::", "wharf::", &supers];
    let begins_here =
        |at: usize| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "_:".contains(c));
    let places = roots.iter().flat_map(|root| {
        code.match_indices(root).filter(|(at, _)| begins_here(*at)).map(|(at, _)| &code[at + root.len()..])
    });
    places.flat_map(|path| path.strip_prefix('{').map_or_else(|| vec![name(path)], names_in_braces)).collect()
}

fn name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// The first names of `a::b, c::{d, e}, f}`.
fn names_in_braces(inside: &str) -> Vec<String> {
    let mut names = vec![name(inside)];
    let mut depth = 1;
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&inside[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn every_way_to_write_an_import_is_seen() {
    for (source, depth, expected) in [
        ("use crate::queue::{self, Producer};", 1, &["queue"][..]),
        ("use crate::{http::{Request, Response}, job,};\nuse std::io;", 1, &["http", "job"]),
        ("use super::queue::Producer;", 1, &["queue"]),
        ("use super::link;\nuse super::super::server;", 2, &["server"]),
        ("use super::super::Error;", 3, &[]),
        ("let x = crate::value::Value::Null; my_crate::a();", 1, &["value"]),
        ("use wharf::demo;", 1, &["demo"]),
        ("/// See [`crate::server`].\n#[cfg(test)]\nuse crate::server;", 1, &[]),
    ] {
        assert_eq!(used(source, depth), expected, "{source}");
    }
}

#[test]
fn imports_go_downwards_only() {
    let (layers, exceptions) = (layers(), exceptions());
    let mut wrong = Vec::new();
    for (path, module) in sources() {
        let Some(own) = layers.get(&module) else { continue };
        for other in used(&fs::read_to_string(&path).expect("source is text"), depth(&path)) {
            let Some(layer) = layers.get(&other) else { continue };
            let allowed = exceptions.contains(&(module.clone(), other.clone()));
            if other != module && layer >= own && !allowed {
                wrong.push(format!("{}: {module} ({own}) uses {other} ({layer})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_has_its_layer() {
    let layers = layers();
    let modules: Vec<String> = sources().into_iter().map(|(_, module)| module).collect();
    for module in &modules {
        assert!(module == "lib" || layers.contains_key(module), "{module} is not in ARCHITECTURE.md's table");
    }
    for module in layers.keys() {
        assert!(modules.contains(module), "{module} is in ARCHITECTURE.md's table, but not in src");
    }
    for (module, other) in exceptions() {
        assert_eq!(layers[&module], layers[&other], "{module} and {other} need no exception");
    }
}

#[test]
fn the_examples_of_the_readme_are_endpoints_of_the_demo() {
    let source = Source { path: None, text: read("config/wharf.toml") };
    let demo =
        Config::read(source, &Environment::default(), &Flags::default()).expect("the demo has no problems");
    let readme = read("README.md");
    let paths: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.trim().strip_prefix("curl ")?.split_once(":8080"))
        .map(|(_, path)| path.split(['?', '\'']).next().unwrap_or_default())
        .collect();
    assert_eq!(paths.len(), 3);
    for path in paths {
        let serves = |endpoint: &Endpoint| endpoint.method == "GET" && is_route_of(&endpoint.path, path);
        assert!(demo.endpoints.iter().any(serves), "{path} is not in config/wharf.toml");
    }
}

fn is_route_of(route: &str, path: &str) -> bool {
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len()
        && route.iter().zip(path).all(|(one, other)| one.starts_with('{') || *one == other)
}
