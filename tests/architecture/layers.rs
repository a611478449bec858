//! The rooms of the house: `src/` holds to the table of layers in ARCHITECTURE.md, and no two files need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// A module's path below the crate's root: `["base", "queue"]`.
type Module = Vec<String>;

/// The exports and paths of one file, without its tests.
#[derive(Default)]
struct File {
    /// Names that other files can reach through this one: `pub use self::limits::Limits` makes `Limits` → its path.
    exports: BTreeMap<String, Module>,
    /// Every path that the file uses, from the crate's root.
    paths: BTreeSet<Module>,
}

struct Reader<'a> {
    module: &'a Module,
    file: File,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The modules of `src/`, each with what its file says.
fn sources() -> BTreeMap<Module, File> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module_of(&path);
                if module.last().is_some_and(|name| name == "tests") {
                    continue;
                }
                let text = fs::read_to_string(&path).expect("source is text");
                let file = read(&module, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                files.insert(module, file);
            }
        }
    }
    files
}

fn module_of(path: &Path) -> Module {
    let below: PathBuf = path.strip_prefix(root().join("src")).expect("it is below src").with_extension("");
    let mut names: Module = below.iter().map(|name| name.to_str().expect("ASCII").to_owned()).collect();
    names.pop_if(|name| name == "mod" || name == "lib");
    names
}

fn read(module: &Module, text: &str) -> syn::Result<File> {
    let mut reader = Reader { module, file: File::default() };
    for item in syn::parse_file(text)?.items {
        reader.visit_item(&item);
    }
    Ok(reader.file)
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl Reader<'_> {
    /// A path as it stands in the source, from the crate's root; `None` where it begins with another crate or a local name.
    fn resolve(&self, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let mut from: Module = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for name in rest {
            if name == "super" {
                from.pop()?;
            } else {
                from.push(name.clone());
            }
        }
        Some(from)
    }

    fn add(&mut self, path: &[String]) {
        self.file.paths.extend(self.resolve(path));
    }

    fn add_use(&mut self, tree: &UseTree, mut before: Module, is_exported: bool) {
        let (name, exported_as) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                return self.add_use(&path.tree, before, is_exported);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.add_use(tree, before.clone(), is_exported));
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
            UseTree::Glob(_) => return self.add(&before),
        };
        if name != "self" {
            before.push(name);
        }
        self.add(&before);
        // A child can be named without `self::` in front of it.
        if is_exported {
            let child = || [self.module.clone(), before.clone()].concat();
            let path = self.resolve(&before).unwrap_or_else(child);
            self.file.exports.insert(exported_as, path);
        }
    }

    /// The paths in a macro's arguments, which have no syntax of their own.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Module::new();
        for token in tokens {
            match token {
                TokenTree::Ident(name) => path.push(name.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => continue,
                TokenTree::Group(group) => {
                    self.add(&std::mem::take(&mut path));
                    self.add_tokens(group.stream());
                    continue;
                }
                _ => {}
            }
            if !matches!(path.first().map(String::as_str), Some("crate" | "super" | "self")) {
                path.clear();
            }
        }
        self.add(&path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, Module::new(), !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Module = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// The file that defines the last name of a path: re-exports are followed.
fn defined_in(files: &BTreeMap<Module, File>, path: &[String]) -> Option<Module> {
    let mut path = path.to_vec();
    for _ in 0..16 {
        let length = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
        let exported = path.get(length).and_then(|name| files[&path[..length]].exports.get(name));
        match exported {
            Some(to) if to != &path => path = to.iter().chain(&path[length + 1..]).cloned().collect(),
            // A macro is exported from where it stands.
            _ => return Some(path[..length].to_vec()),
        }
    }
    panic!("{path:?} is exported in a circle");
}

/// File → the other files that it uses.
fn uses(files: &BTreeMap<Module, File>) -> BTreeMap<&Module, BTreeSet<Module>> {
    files
        .iter()
        .map(|(module, file)| {
            let used = file.paths.iter().filter_map(|path| defined_in(files, path));
            (module, used.filter(|other| other != module && !other.is_empty()).collect())
        })
        .collect()
}

/// Module → layer, out of the table.
fn layers() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let mut layers = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(layer), Some(module)) = (cells.next(), cells.next()) else { continue };
        let Ok(layer) = layer.parse() else { continue };
        assert!(
            layers.insert(module.trim_matches('`').to_owned(), layer).is_none(),
            "{module} stands there twice"
        );
    }
    layers
}

#[test]
fn imports_go_downwards_only() {
    let (layers, files) = (layers(), sources());
    let mut wrong = Vec::new();
    for (module, used) in uses(&files) {
        let Some(own) = module.first() else { continue };
        for other in used {
            if &other[0] != own && layers[&other[0]] >= layers[own] {
                wrong.push(format!("{} uses {}", module.join("/"), other.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_has_its_layer() {
    let layers = layers();
    let modules: BTreeSet<String> =
        sources().into_keys().filter_map(|module| module.into_iter().next()).collect();
    assert_eq!(modules, layers.into_keys().collect::<BTreeSet<_>>());
}

/// A parent may use its children, and they may use it. Any other two files stand in an order.
#[test]
fn no_circle_joins_two_files() {
    let files = sources();
    let others: BTreeMap<Module, BTreeSet<Module>> = uses(&files)
        .into_iter()
        .map(|(module, used)| {
            let is_family = |other: &Module| other.starts_with(module) || module.starts_with(other);
            (module.clone(), used.into_iter().filter(|other| !is_family(other)).collect())
        })
        .collect();
    let mut circles = Vec::new();
    for (module, used) in &others {
        for other in used.iter().filter(|other| reaches(&others, other, module)) {
            circles.push(format!("{} uses {}", module.join("/"), other.join("/")));
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

/// Whether a chain of imports leads from one file to another.
fn reaches(uses: &BTreeMap<Module, BTreeSet<Module>>, from: &Module, to: &Module) -> bool {
    let (mut seen, mut left) = (BTreeSet::from([from]), vec![from]);
    while let Some(module) = left.pop() {
        if module == to {
            return true;
        }
        left.extend(uses[module].iter().filter(|other| seen.insert(*other)));
    }
    false
}

#[test]
fn every_way_to_write_an_import_is_seen() {
    let module: Module = vec!["base".into(), "queue".into()];
    for (source, expected) in [
        ("use crate::queue::{self, Producer};", &["queue", "queue::Producer"][..]),
        (
            "use crate::{http::{Request, Response}, job,};\nuse std::io;",
            &["http::Request", "http::Response", "job"],
        ),
        ("use super::value::Value;", &["base::value::Value"]),
        ("use self::lane::Lane;\nuse super::super::server;", &["base::queue::lane::Lane", "server"]),
        ("fn x() { let x = crate::value::Value::Null; my_crate::a(); }", &["value::Value::Null"]),
        ("fn x() { log::error!(\"{}\", crate::server::NAME); }", &["server::NAME"]),
        (
            "#[cfg(test)]\nuse crate::server;\n#[cfg(test)]\nmod tests { use crate::cli; }\nuse crate::http;",
            &["http"],
        ),
        ("/// See [`crate::server`].\npub(super) use super::value;", &["base::value"]),
    ] {
        let file = read(&module, source).expect("it is Rust");
        let found: Vec<String> = file.paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(found, expected, "{source}");
    }
}
