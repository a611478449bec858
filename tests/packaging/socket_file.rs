//! Permissions, owner and group of a Unix socket: `server.unix_mode`, `server.unix_owner` and `server.unix_group`.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;

use super::support::{Wharf, assert_says, directory_with, is_root};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

fn config(access: &str) -> String {
    format!("[server]\nlisten = 'unix:wharf.sock'\n{access}\n{HELLO}")
}

fn start(access: &str) -> Wharf {
    Wharf::start_in(&Arc::new(directory_with(&config(access))), &["--config", "wharf.toml"], &[])
}

#[test]
fn the_file_has_the_mode_that_the_configuration_says() {
    for mode in ["0600", "0660", "0777", "0000"] {
        let wharf = start(&format!("unix_mode = '{mode}'"));
        let found = std::fs::metadata(wharf.directory().join("wharf.sock")).expect("it listens");
        assert_eq!(format!("{:04o}", found.permissions().mode() & 0o7777), mode);
        wharf.signal("TERM");
        assert_eq!(wharf.wait().code, Some(0));
    }
}

#[test]
fn the_file_belongs_to_the_configured_owner_and_others_are_kept_out() {
    if !is_root() {
        // Only root may give files away; what anybody may do is to name himself.
        let wharf = start(&format!("unix_owner = '{}'", id("-un")));
        assert!(wharf.directory().join("wharf.sock").exists());
        return;
    }
    let wharf = start("unix_mode = '0660'\nunix_owner = 'daemon'\nunix_group = 'www-data'");
    let found = std::fs::metadata(wharf.directory().join("wharf.sock")).expect("it listens");
    assert_eq!((found.uid(), found.gid()), (number("passwd", "daemon"), number("group", "www-data")));
    let numbers = start("unix_owner = '12345'\nunix_group = '54321'");
    let found = std::fs::metadata(numbers.directory().join("wharf.sock")).expect("it listens");
    assert_eq!((found.uid(), found.gid()), (12345, 54321));

    std::fs::set_permissions(wharf.directory(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = wharf.directory().join("wharf.sock");
    let asks_as = |user: &str| {
        let request = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
            s.sendall(b'GET /hello HTTP/1.0\\r\\n\\r\\n'); print(s.recv(1000).decode())";
        let user = format!("--reuid={user}");
        let mut command = Command::new("setpriv");
        command.args([&user, "--regid=nogroup", "--clear-groups", "/usr/bin/python3", "-c", request]);
        let output = command.arg(&path).output().expect("util-linux's setpriv runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(asks_as("daemon").contains("200 OK"), "{}", asks_as("daemon"));
    assert!(asks_as("nobody").contains("PermissionError"), "{}", asks_as("nobody"));
}

#[test]
fn without_the_keys_the_umask_decides() {
    let directory = Arc::new(directory_with(&config("")));
    let wharf =
        Wharf::start_by("umask 027; exec \"$0\" \"$@\"", None, &directory, &["--config", "wharf.toml"]);
    let path = wharf.directory().join("wharf.sock");
    let found = std::fs::metadata(&path).expect("it listens");
    assert_eq!(found.permissions().mode() & 0o7777, 0o750);
    UnixStream::connect(path).expect("its own user may connect");
}

#[test]
fn an_impossible_setting_is_refused_before_the_socket_file_exists() {
    for (access, code, said) in [
        ("unix_mode = '660'", 2, "server.unix_mode: "),
        ("unix_mode = 432", 2, "four octal digits"),
        (
            "unix_owner = 'nobody-of-this-name'",
            2,
            "server.unix_owner: no user is called \"nobody-of-this-name\"",
        ),
        (
            "unix_group = 'nobody-of-this-name'",
            2,
            "server.unix_group: no group is called \"nobody-of-this-name\"",
        ),
    ] {
        let directory = directory_with(&config(access));
        assert_says(&Wharf::run_in(&directory, &["serve", "--config", "wharf.toml"], &[]), code, &[said]);
        assert!(!directory.path().join("wharf.sock").exists(), "{access}");
    }
    for key in ["unix_mode = '0660'", "unix_owner = 'root'", "unix_group = 'root'"] {
        let config = format!("server.{key}\n{HELLO}");
        let name = key.split(' ').next().expect("a key");
        let said = format!("server.{name}: needs server.listen = \"unix:PATH\"");
        assert_says(&Wharf::run(&config, &["check"], &[]), 1, &[&said]);
    }
}

fn id(what: &str) -> String {
    let output = Command::new("id").arg(what).output().expect("id runs");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

fn number(database: &str, name: &str) -> u32 {
    let output = Command::new("getent").args([database, name]).output().expect("getent runs");
    let line = String::from_utf8(output.stdout).expect("a line is text");
    line.split(':').nth(2).and_then(|number| number.parse().ok()).expect("every Debian has it")
}
