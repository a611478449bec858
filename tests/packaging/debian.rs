//! The Debian package: what is in it, and how it is installed, upgraded, run, removed and purged on a copy of this system.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::sync::OnceLock;

use super::root::{Root, project};
use super::support::{PATIENCE, is_root, wait_until};

const UNIT: &str = "/usr/lib/systemd/system/wharf.service";
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/wharf.service";

/// Stands in place of the service manager: notes what it is asked, knows whether the service is to run, and sends the signal that it is to send.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/run/asked
case "$*" in
"kill --signal=HUP --kill-whom=main wharf.service") kill -HUP "$(cat /run/wharf/wharf.pid)" ;;
*is-enabled*) echo enabled ;;
*is-active*) test -e /run/active || exit 3 ;;
*start*) touch /run/active ;;
*stop*) rm /run/active ;;
esac
"#;

/// The package of this binary; made once.
fn package() -> &'static [u8] {
    static PACKAGE: OnceLock<Vec<u8>> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let output = Command::new(project().join("scripts/deb"))
            .env("PROFILE", "dev")
            .env("OUTPUT", format!("{}/", directory.path().display()))
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8(output.stdout).expect("a path is text");
        fs::read(path.trim()).expect("the script says where the package is")
    })
}

/// A system with the package in `/run/shared`; `None` without root, or where no such system can be made. The package is packed
/// all the same.
fn system() -> Option<Root> {
    let package = package();
    if !is_root() {
        return None;
    }
    let root = Root::new()?;
    fs::write(root.shared().join("wharf.deb"), package).expect("a temporary file");
    Some(root)
}

/// Without the work on the manual's index, which takes seconds.
fn install(root: &Root) -> String {
    root.good("dpkg --no-triggers --force-confold --install /run/shared/wharf.deb")
}

/// The unit's settings of `[Service]`, by their names.
fn service(unit: &str) -> BTreeMap<String, String> {
    let section = unit.split("[Service]").nth(1).and_then(|rest| rest.split("[Install]").next());
    let lines = section.expect("a unit has this section").lines();
    let pairs = lines.filter_map(|line| line.split_once('=').filter(|_| !line.starts_with('#')));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The service with the unit's directories, user and command, and without its sandbox, which only systemd makes.
struct Service<'r> {
    root: &'r Root,
    child: Child,
    socket: UnixDatagram,
}

impl<'r> Service<'r> {
    fn start(root: &'r Root) -> Self {
        let settings = service(&root.good(&format!("cat {UNIT}")));
        assert_eq!(settings["Type"], "notify");
        for (setting, parent) in [("State", "/var/lib"), ("Logs", "/var/log"), ("Runtime", "/run")] {
            let name = &settings[&format!("{setting}Directory")];
            let mode = settings.get(&format!("{setting}DirectoryMode")).map_or("0755", String::as_str);
            root.good(&format!("install -d -o {0} -g {0} -m {mode} {parent}/{name}", settings["User"]));
        }
        let path = root.shared().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the path is free");
        socket.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
        root.good("chmod 777 /run/shared /run/shared/notify");
        let line = format!(
            "cd {} && umask {} && exec setpriv --reuid {} --regid {} --init-groups --bounding-set -all {}",
            settings["WorkingDirectory"],
            settings["UMask"],
            settings["User"],
            settings["Group"],
            settings["ExecStart"],
        );
        let mut command = root.command(&line);
        let child = command
            .env("NOTIFY_SOCKET", "/run/shared/notify")
            .env("WHARF_ADMIN_LISTEN", "127.0.0.1:0")
            .spawn()
            .expect("nsenter runs");
        Self { root, child, socket }
    }

    /// The next message that begins with this line.
    fn expect(&self, line: &str) -> String {
        let mut message = [0; 4096];
        loop {
            let length =
                self.socket.recv(&mut message).unwrap_or_else(|error| panic!("nobody said {line}: {error}"));
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().next() == Some(line) {
                return text;
            }
        }
    }

    fn stop(mut self) {
        self.root.good("kill -TERM $(cat /run/wharf/wharf.pid)");
        self.expect("STOPPING=1");
        assert!(self.child.wait().expect("a child can be waited for").success());
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_package_is_installed_kept_at_an_upgrade_removed_and_purged() {
    let Some(root) = system() else { return };
    let files = ["/usr/bin/wharf", UNIT, "/etc/wharf/wharf.toml", "/etc/logrotate.d/wharf"];
    assert!(!files.iter().any(|file| root.has(file)), "this system has a wharf already");
    install(&root);
    for file in files {
        assert!(root.has(file), "{file}");
    }
    assert!(root.has(ENABLED), "it starts with the system");
    let user = root.good("getent passwd wharf");
    assert!(user.contains(":/var/lib/wharf:") && user.trim().ends_with("/usr/sbin/nologin"), "{user}");
    assert_eq!(root.good("dpkg --verify wharf"), "");
    assert!(root.good("wharf version").contains("SQLite"));
    assert!(root.good("man --where wharf wharf-serve wharf-tune").contains("wharf-serve.1.gz"));
    assert!(root.good("wharf check --config /etc/wharf/wharf.toml").contains("1 endpoints"));

    root.write("/etc/wharf/wharf.toml", "# mine\n");
    install(&root);
    assert_eq!(root.good("cat /etc/wharf/wharf.toml"), "# mine\n");

    root.good(
        "mkdir -p /var/lib/wharf /var/log/wharf && touch /var/lib/wharf/wharf.db /var/log/wharf/access.log",
    );
    root.good("dpkg --no-triggers --remove wharf");
    assert!(!root.has("/usr/bin/wharf") && !root.has(UNIT));
    assert_eq!(root.good("cat /etc/wharf/wharf.toml"), "# mine\n");
    root.good("dpkg --no-triggers --purge wharf");
    assert!(!root.has("/etc/wharf") && !root.has("/etc/logrotate.d/wharf") && !root.has("/var/log/wharf"));
    assert!(!root.has(ENABLED));
    assert!(root.has("/var/lib/wharf/wharf.db"), "data are the user's");
}

#[test]
fn the_package_asks_systemd_to_start_restart_and_stop_the_service() {
    let Some(root) = system() else { return };
    root.write("/usr/local/bin/systemctl", SYSTEMCTL);
    root.good("chmod 755 /usr/local/bin/systemctl && mkdir -p /run/systemd/system");
    // Containers often forbid packages to start services.
    root.good("rm -f /usr/sbin/policy-rc.d");
    // deb-systemd-invoke asks it by its name, from here first.
    let asked = |what: &str| root.good("cat /run/asked").lines().any(|line| line.contains(what));
    install(&root);
    assert!(asked("start wharf.service"), "{}", root.good("cat /run/asked"));
    root.good(": >/run/asked");
    install(&root);
    assert!(asked("restart wharf.service"), "{}", root.good("cat /run/asked"));
    root.good("dpkg --no-triggers --remove wharf");
    assert!(asked("stop wharf.service"), "{}", root.good("cat /run/asked"));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_calls_it_well_protected() {
    let Some(root) = system() else { return };
    install(&root);
    assert_eq!(root.good(&format!("systemd-analyze verify {UNIT}")), "");
    // In tenths; systemd calls what is below 2.0 "OK" and takes a unit without any protection for 9.6.
    let judged =
        root.good(&format!("systemd-analyze security --offline=true --threshold=20 --no-pager {UNIT}"));
    assert!(judged.contains("Overall exposure level for wharf.service"), "{judged}");
    // By these the unit hears of start, reload and stop.
    let settings = service(&root.good(&format!("cat {UNIT}")));
    for (name, value) in [("Type", "notify"), ("WatchdogSec", "30s"), ("User", "wharf")] {
        assert_eq!(settings[name], value);
    }
}

#[test]
fn the_service_starts_reloads_rotates_its_log_and_stops() {
    let Some(root) = system() else { return };
    install(&root);
    let config = root.good("cat /etc/wharf/wharf.toml").replace("127.0.0.1:8080", "127.0.0.1:0");
    root.write("/etc/wharf/wharf.toml", &config);
    let service = Service::start(&root);
    let ready = service.expect("READY=1");
    let address = ready.trim().rsplit(' ').next().expect("it says where").to_owned();
    let get = |path: &str| {
        let mut client = super::support::Client::connect(address.parse().expect("an address"));
        client.request("GET", path, &[], "");
        client.answer()
    };
    assert!(get("/").text().contains("wharf serves"));

    // The unit's own command, as the service's user.
    let settings = self::service(&root.good(&format!("cat {UNIT}")));
    let reload =
        format!("cd / && exec setpriv --reuid wharf --regid wharf --init-groups {}", settings["ExecReload"]);
    root.write(
        "/etc/wharf/wharf.toml",
        &format!("{config}\n[endpoint.new]\nroute = 'GET /new'\nbody = 'new'\n"),
    );
    assert!(root.good(&reload).contains("endpoint.new: added"));
    service.expect("RELOADING=1");
    service.expect("READY=1");
    assert_eq!(get("/new").text(), "new");
    root.write("/etc/wharf/wharf.toml", "[endpoint]\nnothing = 1\n");
    let refused = root.run(&reload);
    assert!(!refused.good && refused.text.contains("nothing was reloaded"), "{}", refused.text);
    root.write("/etc/wharf/wharf.toml", &config);

    let log = |name: &str| root.run(&format!("cat /var/log/wharf/{name}")).text;
    wait_until("the access log has no line", || log("access.log").contains("\"GET /new HTTP/1.1\""));
    root.write("/usr/local/bin/systemctl", SYSTEMCTL);
    root.good("chmod 755 /usr/local/bin/systemctl && mkdir -p /run/systemd/system");
    root.good("logrotate --force --state /run/rotated /etc/logrotate.d/wharf");
    service.expect("READY=1");
    assert!(root.good("stat -c '%U %G %a' /var/log/wharf/access.log").starts_with("wharf wharf 640"));
    assert_eq!(get("/").status, 200);
    wait_until("the new file has no line", || log("access.log").contains("\"GET / HTTP/1.1\""));
    assert!(log("access.log.1").contains("GET /new"), "the lines before are in the old file");
    service.stop();
    assert!(!root.has("/run/wharf/wharf.pid"));
}

#[test]
fn shell_completions_come_from_the_program() {
    let Some(root) = system() else { return };
    install(&root);
    let completed = root.good(
        "bash -c '. /usr/share/bash-completion/completions/wharf; COMP_WORDS=(wharf rel) COMP_CWORD=1; \
         _wharf wharf rel wharf; echo ${COMPREPLY[@]}'",
    );
    assert_eq!(completed.trim(), "reload");
    for (file, start) in [
        ("/usr/share/zsh/vendor-completions/_wharf", "#compdef wharf"),
        ("/usr/share/fish/vendor_completions.d/wharf.fish", ""),
    ] {
        let text = root.good(&format!("cat {file}"));
        assert!(text.starts_with(start) && text.contains("health"), "{file}");
    }
}
