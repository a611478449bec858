//! The links and examples of the documents, held to the files.

use std::fs;
use std::path::Path;

mod api;
mod documents;
mod layers;

use wharf::config::{Config, Endpoint, Environment, Flags, Source};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
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
