//! The face of the crate: `docs/public-api.txt` lists every item that a user can name, and every change of it is seen.
//! `WRITE_DOCS=1 cargo test --test architecture api` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Fields, ImplItem, Item, TraitItem, Type, UseTree, Visibility};

/// A module's path below the crate's root.
type Module = Vec<String>;

/// The modules' items, and what their `use` lines make known: name → path from the root, and whether it is exported.
#[derive(Default)]
struct Source {
    items: BTreeMap<Module, Vec<Item>>,
    names: BTreeMap<Module, BTreeMap<String, (Module, bool)>>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_conditional(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg"))
}

fn is_hidden(attributes: &[syn::Attribute]) -> bool {
    let text = |attribute: &syn::Attribute| attribute.to_token_stream().to_string();
    attributes.iter().any(|attribute| attribute.path().is_ident("doc") && text(attribute).contains("hidden"))
}

fn is_pub(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

impl Source {
    fn read() -> Self {
        let mut source = Self::default();
        source.read_file(&root().join("src/lib.rs"), &root().join("src"), Vec::new());
        source
    }

    /// Reads a file and those of its modules, which are in `folder`.
    fn read_file(&mut self, path: &Path, folder: &Path, module: Module) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.add(file.items, folder, module);
    }

    fn add(&mut self, items: Vec<Item>, folder: &Path, module: Module) {
        let mut kept = Vec::new();
        for item in items.into_iter().filter(|item| !is_conditional(attributes(item))) {
            match item {
                Item::Mod(child) => {
                    let name = child.ident.to_string();
                    let below = [module.clone(), vec![name.clone()]].concat();
                    let folder = folder.join(&name);
                    if let Some((_, items)) = child.content.clone() {
                        self.add(items, &folder, below);
                    } else {
                        let beside = folder.with_extension("rs");
                        let inside = folder.join("mod.rs");
                        let file: PathBuf = if beside.exists() { beside } else { inside };
                        self.read_file(&file, &folder, below);
                    }
                    kept.push(Item::Mod(child));
                }
                Item::Use(line) => self.add_names(&module, &line.tree, Vec::new(), is_pub(&line.vis)),
                other => kept.push(other),
            }
        }
        self.items.insert(module, kept);
    }

    fn add_names(&mut self, module: &Module, tree: &UseTree, mut before: Module, exported: bool) {
        let (name, known_as) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                return self.add_names(module, &path.tree, before, exported);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_names(module, tree, before.clone(), exported);
                }
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
            UseTree::Glob(_) => return,
        };
        let known_as = if name == "self" { before.last().cloned().unwrap_or_default() } else { known_as };
        if name != "self" {
            before.push(name);
        }
        // From the root: `crate::`, `self::`, `super::`, or the name of a child.
        let from_root = match before[0].as_str() {
            "crate" => before[1..].to_vec(),
            "self" => [&module[..], &before[1..]].concat(),
            "super" => {
                let ups = before.iter().take_while(|name| *name == "super").count();
                [&module[..module.len() - ups], &before[ups..]].concat()
            }
            _ => [&module[..], &before[..]].concat(),
        };
        self.names.entry(module.clone()).or_default().insert(known_as, (from_root, exported));
    }

    /// Where the item that a path names is defined. `None`: in another crate.
    fn definition(&self, path: &[String]) -> Option<Module> {
        if self.items.contains_key(path) {
            return Some(path.to_vec());
        }
        let (name, module) = path.split_last()?;
        let module = self.definition(module).filter(|module| self.items.contains_key(module))?;
        if self.items[&module].iter().any(|item| name_of(item).as_deref() == Some(name)) {
            return Some([module, vec![name.clone()]].concat());
        }
        let (target, _) = self.names.get(&module)?.get(name)?;
        if target.as_slice() == path { None } else { self.definition(target) }
    }

    /// Every public item below a module, each under the path that users write.
    fn list(
        &self,
        module: &Module,
        public: &str,
        into: &mut BTreeSet<String>,
        seen: &mut BTreeMap<Module, String>,
    ) {
        for item in &self.items[module] {
            let Some(name) = name_of(item) else { continue };
            if is_exported(item) && !is_hidden(attributes(item)) {
                self.list_item(
                    &[module.clone(), vec![name.clone()]].concat(),
                    item,
                    &format!("{public}::{name}"),
                    into,
                    seen,
                );
            }
        }
        for (name, (target, exported)) in self.names.get(module).into_iter().flatten() {
            if !exported {
                continue;
            }
            let path = format!("{public}::{name}");
            let Some(defined) = self.definition(target) else {
                into.insert(format!("use {path} = {}", target[module.len().min(target.len())..].join("::")));
                continue;
            };
            if self.items.contains_key(&defined) {
                into.insert(format!("mod {path}"));
                self.list(&defined, &path, into, seen);
                continue;
            }
            let (last, home) = defined.split_last().expect("an item has a name");
            let item = self.items[home].iter().find(|item| name_of(item).as_deref() == Some(last));
            self.list_item(&defined, item.expect("it was found there"), &path, into, seen);
        }
    }

    fn list_item(
        &self,
        defined: &Module,
        item: &Item,
        path: &str,
        into: &mut BTreeSet<String>,
        seen: &mut BTreeMap<Module, String>,
    ) {
        let mut add =
            |what: &str, tokens: TokenStream| into.insert(format!("{what} {path}{}", tidy(&tokens)));
        match item {
            Item::Mod(_) => {
                add("mod", TokenStream::new());
                return self.list(defined, path, into, seen);
            }
            Item::Fn(item) => {
                let (generics, inputs, output) = (&item.sig.generics, &item.sig.inputs, &item.sig.output);
                let bounds = &generics.where_clause;
                add("fn", quote!(#generics (#inputs) #output #bounds));
            }
            Item::Const(item) => drop(add("const", {
                let ty = &item.ty;
                quote!(: #ty)
            })),
            Item::Type(item) => drop(add("type", {
                let (g, ty) = (&item.generics, &item.ty);
                quote!(#g = #ty)
            })),
            Item::Struct(item) => {
                add("struct", item.generics.to_token_stream());
                Self::list_fields(&item.fields, path, into);
            }
            Item::Enum(item) => {
                add("enum", item.generics.to_token_stream());
                for variant in &item.variants {
                    let fields = variant.fields.iter().map(|field| {
                        let (name, ty) = (field.ident.iter(), &field.ty);
                        quote!(#(#name:)* #ty)
                    });
                    into.insert(format!(
                        "variant {path}::{} {}",
                        variant.ident,
                        tidy(&quote!((#(#fields),*)))
                    ));
                }
            }
            Item::Trait(item) => {
                let bounds = &item.supertraits;
                add("trait", quote!(: #bounds));
                for member in &item.items {
                    if let TraitItem::Fn(method) = member {
                        let (called, provided) = (&method.sig, method.default.is_some());
                        let kind = if provided { "provided" } else { "required" };
                        into.insert(format!("{kind} {path}::{}", signature(called)));
                    }
                }
            }
            _ => return,
        }
        seen.insert(defined.clone(), path.to_owned());
    }

    fn list_fields(fields: &Fields, path: &str, into: &mut BTreeSet<String>) {
        for (index, field) in fields.iter().enumerate().filter(|(_, field)| is_pub(&field.vis)) {
            let name = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
            into.insert(format!("field {path}.{name}: {}", tidy(&field.ty.to_token_stream())));
        }
    }

    /// The methods of public types and what they implement, wherever that stands.
    fn list_impls(&self, seen: &BTreeMap<Module, String>, into: &mut BTreeSet<String>) {
        for (module, items) in &self.items {
            for item in items {
                let Item::Impl(block) = item else { continue };
                let Type::Path(of) = &*block.self_ty else { continue };
                let names: Module =
                    of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                let from_root = match names[0].as_str() {
                    "crate" => names[1..].to_vec(),
                    _ => [&module[..], &names[..]].concat(),
                };
                let Some(path) = self.definition(&from_root).and_then(|defined| seen.get(&defined)) else {
                    continue;
                };
                if let Some((_, name, _)) = &block.trait_ {
                    into.insert(format!("impl {} for {path}", tidy(&name.to_token_stream())));
                    continue;
                }
                for member in &block.items {
                    match member {
                        ImplItem::Fn(method) if is_pub(&method.vis) && !is_hidden(&method.attrs) => {
                            into.insert(format!("method {path}::{}", signature(&method.sig)));
                        }
                        ImplItem::Const(constant) if is_pub(&constant.vis) => {
                            let (name, ty) = (&constant.ident, &constant.ty);
                            into.insert(format!("const {path}::{}", tidy(&quote!(#name: #ty))));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Mod(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _ => return None,
    })
}

fn is_exported(item: &Item) -> bool {
    match item {
        Item::Const(item) => is_pub(&item.vis),
        Item::Enum(item) => is_pub(&item.vis),
        Item::Fn(item) => is_pub(&item.vis),
        Item::Mod(item) => is_pub(&item.vis),
        Item::Struct(item) => is_pub(&item.vis),
        Item::Trait(item) => is_pub(&item.vis),
        Item::Type(item) => is_pub(&item.vis),
        _ => false,
    }
}

/// A method's name with its types; `const` stands behind them.
fn signature(signature: &syn::Signature) -> String {
    let text = tidy(&signature.to_token_stream());
    match text.strip_prefix("const fn ") {
        Some(rest) => format!("{rest} const"),
        None => text.strip_prefix("fn ").unwrap_or(&text).to_owned(),
    }
}

/// Tokens with few spaces between them.
fn tidy(tokens: &TokenStream) -> String {
    let mut text = tokens.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    for (spaced, plain) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        ("( ", "("),
        (" )", ")"),
        (" (", "("),
        (" :", ":"),
        (", )", ")"),
        (",)", ")"),
        (" ;", ";"),
        ("->(", "-> ("),
        ("- >", " ->"),
        ("impl::", "impl ::"),
        ("' ", "'"),
    ] {
        text = text.replace(spaced, plain);
    }
    text.replace("->", " ->").replace("  ", " ")
}

fn public_api() -> (String, usize) {
    let source = Source::read();
    let (mut list, mut seen) = (BTreeSet::new(), BTreeMap::new());
    source.list(&Vec::new(), "wharf", &mut list, &mut seen);
    source.list_impls(&seen, &mut list);
    // Sort by path, then by kind, so that related lines stand together.
    let path = |line: &String| {
        let of = line.rsplit_once(" for ").map_or_else(
            || line.split_once(' ').map_or(line.as_str(), |(_, path)| path).to_owned(),
            |(_, path)| format!("{path} impl"),
        );
        (of, line.clone())
    };
    let mut lines: Vec<String> = list.into_iter().collect();
    lines.sort_by_key(path);
    let modules =
        lines.iter().filter(|line| line.starts_with("mod wharf::") && line.matches("::").count() == 1);
    let modules = modules.count();
    let head = "# Every item that a user of the crate can name. tests/architecture/api.rs holds it to the source, and writes it anew:\n\
        # WRITE_DOCS=1 cargo test --test architecture api\n\n";
    (format!("{head}{}\n", lines.join("\n")), modules)
}

#[test]
fn the_public_api_is_as_written_down() {
    let (api, modules) = public_api();
    assert!((8..=12).contains(&modules), "{modules} public modules");
    for known in [
        "trait wharf::handler::Handler",
        "method wharf::server::Server::get",
        "field wharf::config::Config.server: Server",
        "variant wharf::handler::Priority::High",
        "impl From<database::Error> for wharf::handler::Error",
    ] {
        assert!(api.contains(known), "{known} is missing from\n{api}");
    }
    let file = root().join("docs/public-api.txt");
    if env::var_os("WRITE_DOCS").is_some() {
        fs::write(&file, &api).expect("docs is writable");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (written.lines().collect(), api.lines().collect());
    let gone: Vec<_> = before.difference(&now).collect();
    let new: Vec<_> = now.difference(&before).collect();
    assert!(written == api, "docs/public-api.txt differs: gone {gone:#?}, new {new:#?}");
}
