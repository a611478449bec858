//! The container's image: what the Dockerfile says, done here with the same commands, since there is no engine to build it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::root::project;
use super::support::{Authority, Client, Exit, Wharf, assert_says};

/// The instructions of the Dockerfile with their lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(project().join("Dockerfile")).expect("it is there");
    let whole: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = whole.join("\n").replace("\\\n", " ");
    let split =
        |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    joined.lines().filter_map(split).collect()
}

/// All of one kind.
fn all(kind: &str) -> Vec<String> {
    instructions().into_iter().filter(|(name, _)| name == kind).map(|(_, rest)| rest).collect()
}

/// The words of an instruction in its JSON form.
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(&text[text.find('[').expect("it is an array")..]).expect("it is an array of words")
}

/// The health check's command, run in the server's directory, with the variables that the image sets for this one.
fn checked(directory: &TempDir, config: &str, environment: &[(&str, &str)]) -> Exit {
    let words = words(&all("HEALTHCHECK")[0]);
    let (program, arguments) = words.split_first().expect("it has a program");
    assert_eq!(program, "wharf");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut variables = vec![("WHARF_CONFIG", config)];
    variables.extend(environment);
    Wharf::run_in(directory, &arguments, &variables)
}

/// A server as the image starts it, on this configuration; then the configuration has the port that it got.
fn start(config: &str) -> (Arc<TempDir>, Wharf) {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let path = directory.path().join("mounted.toml");
    fs::write(&path, config).expect("a temporary file");
    assert_eq!(
        (words(&all("ENTRYPOINT")[0]), words(&all("CMD")[0])),
        (vec!["wharf".into()], vec!["serve".into()])
    );
    let wharf = Wharf::start_in(&directory, &[], &[("WHARF_CONFIG", "mounted.toml")]);
    fs::write(&path, config.replace(":0'", &format!(":{}'", wharf.address().port())))
        .expect("a temporary file");
    (directory, wharf)
}

#[test]
fn nothing_in_the_image_overrides_a_configuration() {
    let variables: Vec<String> =
        all("ENV").iter().flat_map(|env| env.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    let ours: Vec<_> = variables.iter().filter(|variable| variable.starts_with("WHARF_")).collect();
    assert_eq!(ours, ["WHARF_CONFIG=/etc/wharf/wharf.toml"]);
    assert_eq!(all("STOPSIGNAL"), ["SIGTERM"]);
}

#[test]
fn the_images_own_configuration_serves_the_demo_to_whoever_comes_from_outside() {
    let edit = all("RUN").into_iter().find(|run| run.starts_with("sed")).expect("it edits the demo's file");
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let made = directory.path().join("wharf.toml");
    let line = edit.replace("/usr/local/etc/wharf.toml", made.to_str().expect("a temporary path is ASCII"));
    let edited = Command::new("sh").args(["-c", &line]).current_dir(project()).status();
    assert!(edited.expect("sh runs").success());
    let text = fs::read_to_string(&made).expect("it was made");
    assert!(text.contains("listen = \"0.0.0.0:8080\""));
    // Another program may use port 8080 on this machine.
    fs::write(&made, text.replace("0.0.0.0:8080", "0.0.0.0:0")).expect("a temporary file");
    let wharf = Wharf::start_in(&directory, &[], &[("WHARF_CONFIG", "wharf.toml")]);
    let mut client = Client::connect(([127, 0, 0, 1], wharf.address().port()).into());
    client.request("GET", "/flights/1", &[], "");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn the_admin_listener_is_reached_from_outside_by_the_variables_that_the_dockerfile_names() {
    let text = fs::read_to_string(project().join("Dockerfile")).expect("it is there");
    let named = |name: &str| text.contains(&format!("-e {name}="));
    assert!(named("WHARF_ADMIN_LISTEN") && named("WHARF_ADMIN_TOKEN"));
    let directory = Arc::new(super::support::directory_with("server.listen = '127.0.0.1:0'"));
    let environment = [("WHARF_ADMIN_LISTEN", "0.0.0.0:0"), ("WHARF_ADMIN_TOKEN", "a-long-token")];
    let wharf = Wharf::start_in(&directory, &[], &environment);
    let mut client = Client::connect(([127, 0, 0, 1], wharf.admin_address().port()).into());
    client.request("GET", "/stats", &[("Authorization", "Bearer a-long-token")], "");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn the_health_check_asks_as_the_configuration_says() {
    let authority = Authority::new("the authority");
    let identity = authority.server(&["wharf.example"]);
    let path = |path: &Path| path.display().to_string();
    let tls =
        format!("[tls]\ncertificate = '{}'\nkey = '{}'\n", path(&identity.certificate), path(&identity.key));
    let clients = format!("{tls}client_auth = 'required'\nclient_ca = '{}'\n", path(&authority.file()));
    let proxied = "[proxy]\nprotocol = true\ntrusted = '127.0.0.1'\n";
    let elsewhere = "[proxy]\nprotocol = true\ntrusted = '192.0.2.1'\n";
    for more in [
        String::new(),
        tls.clone(),
        clients,
        proxied.to_owned(),
        format!("{proxied}{tls}"),
        elsewhere.to_owned(),
        format!("{elsewhere}{tls}"),
    ] {
        let (directory, wharf) = start(&format!("server.listen = '127.0.0.1:0'\n{more}"));
        let exit = checked(&directory, "mounted.toml", &[]);
        assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{more}");
        // A poller that does not answer is no healthy one; this stops all of them.
        wharf.signal("STOP");
        let exit = checked(&directory, "mounted.toml", &[]);
        assert_says(&exit, 1, &["no answer"]);
        wharf.signal("CONT");
        wharf.signal("TERM");
        assert_eq!(wharf.wait().code, Some(0), "{more}");
        assert_says(&checked(&directory, "mounted.toml", &[]), 1, &["cannot connect"]);
    }
}

#[test]
fn the_health_check_follows_variables_and_minds_only_what_it_needs() {
    let (directory, wharf) = start("server.listen = '127.0.0.1:0'\n");
    let address = wharf.address().to_string();
    let write =
        |text: &str| fs::write(directory.path().join("mounted.toml"), text).expect("a temporary file");
    write("server.listen = '127.0.0.1:1'\n");
    assert_says(&checked(&directory, "mounted.toml", &[]), 1, &["cannot connect"]);
    assert_says(&checked(&directory, "mounted.toml", &[("WHARF_LISTEN", &address)]), 0, &[]);
    write(&format!("server = {{ listen = '{address}', workers = 0 }}\n"));
    assert_says(&checked(&directory, "mounted.toml", &[]), 0, &[]);
    write("server.listen = 'nowhere'\nserver.workers = 0\n");
    let exit = checked(&directory, "mounted.toml", &[]);
    assert_says(&exit, 2, &["server.listen"]);
    assert!(!exit.stderr.contains("workers"), "{}", exit.stderr);
    write("server.listen = \n");
    assert_says(&checked(&directory, "mounted.toml", &[]), 2, &["mounted.toml:1:"]);
    for (listen, said) in [("127.0.0.1:0", "any free port"), ("systemd", "systemd has the socket")] {
        write(&format!("server.listen = '{listen}'\n"));
        assert_says(&checked(&directory, "mounted.toml", &[]), 2, &[said]);
    }
}

#[test]
fn an_address_can_be_asked_with_the_proxy_protocol_too() {
    let (directory, wharf) =
        start("server.listen = '127.0.0.1:0'\n[proxy]\nprotocol = true\ntrusted = '127.0.0.1'\n");
    let address = wharf.address().to_string();
    assert_says(&Wharf::run_in(&directory, &["health", &address, "--proxy-protocol"], &[]), 0, &[]);
    assert_eq!(Wharf::run_in(&directory, &["health", &address], &[]).code, Some(1));
}
