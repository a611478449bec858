//! The crate as `cargo package` packs it, which `cargo install wharf` gets.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::root::project;

/// The demo's data is half of it. A package that is a few megabytes larger contains a file by mistake.
const LARGEST: u64 = 2 * 1024 * 1024;

fn cargo(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    // Remove variables that name this test. ring's build script reads them, and would run again now and in the next build.
    let of_this_test = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if of_this_test.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            command.env_remove(name);
        }
    }
    command.env("CARGO_INCREMENTAL", "0");
    let output = command.args(arguments).current_dir(directory).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

#[test]
fn the_crate_builds_from_what_it_has_and_has_nothing_else() {
    let binary = Path::new(env!("CARGO_BIN_EXE_wharf"));
    let target = binary.ancestors().nth(2).expect("it is below target");
    // The same place each time, so that cargo keeps one copy of what it builds there.
    let directory = target.join("published");
    let packed = directory.to_str().expect("the path is text");
    let list = cargo(&project(), &["package", "--offline", "--allow-dirty", "--list"]);
    let at_top =
        ["CHANGELOG.md", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig", "README.md", ".cargo_vcs_info.json"];
    let belongs = |file: &&str| {
        ["src/", "config/", "LICENSE"].iter().any(|start| file.starts_with(start)) || at_top.contains(file)
    };
    let strange: Vec<_> = list.lines().filter(|file| !belongs(file)).collect();
    assert!(strange.is_empty(), "{strange:?}");
    cargo(
        &project(),
        &["package", "--offline", "--allow-dirty", "--no-verify", "--quiet", "--target-dir", packed],
    );
    let name = format!("wharf-{}", env!("CARGO_PKG_VERSION"));
    let file = directory.join(format!("package/{name}.crate"));
    let size = fs::metadata(&file).expect("cargo has packed it").len();
    assert!(size <= LARGEST, "{size} bytes");
    let tar = Command::new("tar").arg("-xzf").arg(&file).current_dir(&directory).status();
    assert!(tar.expect("tar runs").success());
    let unpacked = directory.join(name);
    // Beside the other builds, so that the dependencies' C libraries are built already.
    let target = target.to_str().expect("the path is text");
    cargo(&unpacked, &["check", "--offline", "--locked", "--quiet", "--bins", "--target-dir", target]);
}
