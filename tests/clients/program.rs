//! Programs of the system: where they are, and running one to its end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    /// Standard error, as text.
    pub(crate) stderr: String,
}

impl Said {
    /// The standard output, as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("it printed UTF-8")
    }
}

/// Finds a program. Debian's places come first: `/usr/sbin` is not on everybody's path, and Debian's python3 is the one
/// that has Debian's aiohttp.
pub(crate) fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = ["/usr/bin", "/usr/sbin"].map(PathBuf::from);
    let mut places = debian.into_iter().chain(std::env::split_paths(&path)).map(|place| place.join(name));
    places.find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("these tests need {name}: apt-get install {} (scripts/test does it)", package(name))
    })
}

/// Debian's package that has the program.
fn package(name: &str) -> &str {
    match name {
        "ab" => "apache2-utils",
        "node" => "nodejs",
        "setpriv" => "util-linux",
        "timeout" => "coreutils",
        name => name,
    }
}

/// Runs a program to its end, which has a limit; whether it succeeded is for the caller to see.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Said {
    const OVERDUE: i32 = 124;
    let output = Command::new(find("timeout"))
        .args(["--kill-after", "1", "30"])
        .arg(find(name))
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        // Python would write beside the scripts.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .expect("timeout runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    let code = code.unwrap_or_else(|| panic!("{name} {arguments:?} ended by a signal:\n{stderr}"));
    assert_ne!(code, OVERDUE, "{name} {arguments:?} does not end:\n{stderr}");
    Said { code, stdout: output.stdout, stderr }
}

/// Runs one of the scripts beside this file, which checks every answer itself; what it prints.
pub(crate) fn run_script(interpreter: &str, script: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let script = script.to_str().expect("the path is UTF-8");
    let said = run(interpreter, &[&[script], arguments].concat());
    assert_eq!(said.code, 0, "{interpreter} {script}:\n{}\n{}", said.text(), said.stderr);
    said.text().trim_end().to_owned()
}
