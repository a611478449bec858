//! ARCHITECTURE.md's table of layers, held to the source; and the links of the documents, held to the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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

/// The modules of this crate that a source file uses.
fn used(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let paths = source.split("crate::").chain(source.split("wharf::")).skip(1);
    let names =
        paths.map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
    names.filter(|name: &String| !name.is_empty()).collect()
}

#[test]
fn imports_go_downwards_only() {
    let (layers, exceptions) = (layers(), exceptions());
    let mut wrong = Vec::new();
    for (path, module) in sources() {
        let Some(own) = layers.get(&module) else { continue };
        for other in used(&fs::read_to_string(&path).expect("source is text")) {
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
fn documents_link_to_files_that_exist() {
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/tiny_http.md"] {
        for rest in read(name).split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            let local = !target.starts_with("http") && !target.is_empty();
            assert!(!local || root().join(target).exists(), "{name} links to {target}");
        }
    }
}

#[test]
fn the_examples_of_the_readme_are_endpoints_of_the_demo() {
    let demo = read("config/wharf.toml");
    let readme = read("README.md");
    let paths: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.trim().strip_prefix("curl ")?.split_once(":8080"))
        .map(|(_, path)| path)
        .collect();
    assert_eq!(paths.len(), 3);
    for path in paths {
        let first = path.trim_start_matches('/').split(['/', '?', '\'']).next().unwrap_or_default();
        assert!(demo.contains(&format!("\"GET /{first}")), "{path} is not in config/wharf.toml");
    }
}
