//! Where the real binary listens: Unix sockets, what systemd passes, and a port that two of them share.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use wharf::config::{AdminListen, Listen};
use wharf::http::Response;
use wharf::server::Server;

use crate::support::{Client, Exit, PATIENCE, Wharf, default_config, directory_with, wait_until};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";
const UNIX: &[&str] = &["--config", "wharf.toml", "--listen", "unix:wharf.sock"];
const SYSTEMD: &[&str] = &["--config", "wharf.toml", "--listen", "systemd"];

/// As systemd does it: the socket, which is the shell's input, as descriptor 3, and two variables that say so.
const ACTIVATE: &str = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";

type Directory = Arc<tempfile::TempDir>;

fn directory() -> Directory {
    Arc::new(directory_with(HELLO))
}

fn serve_unix(directory: &Directory) -> Wharf {
    let arguments: Vec<&str> = UNIX.to_vec();
    Wharf::start_in(directory, &arguments, &[])
}

fn hello_at(path: &Path) -> u16 {
    let mut client = Client::connect_unix(path);
    client.request("GET", "/hello", &[], "");
    client.answer().status
}

fn stop(wharf: Wharf) -> Exit {
    wharf.signal("TERM");
    let exit = wharf.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    exit
}

fn assert_refused(exit: &Exit, reason: &str) {
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains(reason), "{:?} does not say {reason:?}", exit.stderr);
    assert_eq!(exit.stderr.trim_end().lines().count(), 1, "one line says it: {}", exit.stderr);
}

#[test]
fn a_unix_socket_is_served_and_its_file_removed_at_the_end() {
    let directory = directory();
    let wharf = serve_unix(&directory);
    assert_eq!(wharf.listening_on(), "unix:wharf.sock");
    let path = directory.path().join("wharf.sock");
    let mut client = Client::connect_unix(&path);
    for _ in 0..3 {
        client.request("GET", "/hello", &[], "");
        assert_eq!(client.answer().text(), "hi");
    }
    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--unix-socket"])
        .arg(&path)
        .arg("http://localhost/hello")
        .output();
    // Where there is no curl, the client above was enough.
    if let Ok(output) = curl {
        assert_eq!(output.stdout, b"hi", "{}", String::from_utf8_lossy(&output.stderr));
    }
    let log = stop(wharf).stderr;
    assert!(client.is_closed());
    assert!(!path.exists(), "{log}");
}

#[test]
fn the_file_that_a_killed_server_left_is_replaced() {
    let directory = directory();
    let path = directory.path().join("wharf.sock");
    // Dropping a listener closes it and leaves its file, as a killed process does.
    drop(UnixListener::bind(&path).expect("a fresh directory"));
    assert!(path.exists());
    let wharf = serve_unix(&directory);
    assert_eq!(hello_at(&path), 200);
    stop(wharf);
}

#[test]
fn a_socket_in_use_or_another_file_is_left_alone_and_said_to_be_in_the_way() {
    let directory = directory();
    let path = directory.path().join("wharf.sock");
    let serve: Vec<&str> = ["serve"].iter().chain(UNIX).copied().collect();
    let first = serve_unix(&directory);
    let second = Wharf::run_in(&directory, &serve, &[]);
    assert_refused(&second, "cannot listen on unix:wharf.sock: Address already in use");
    assert_eq!(hello_at(&path), 200, "the first one goes on");
    stop(first);
    // A listener that is too busy to accept is in use as well.
    let busy = UnixListener::bind(&path).expect("the file was removed");
    assert_refused(&Wharf::run_in(&directory, &serve, &[]), "Address already in use");
    drop(busy);
    std::fs::remove_file(&path).expect("it was left");
    std::fs::write(&path, "precious").expect("a writable directory");
    assert_refused(&Wharf::run_in(&directory, &serve, &[]), "Address already in use");
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "precious");
    let nowhere = ["serve", "--config", "wharf.toml", "--listen", "unix:nowhere/wharf.sock"];
    assert_refused(
        &Wharf::run_in(&directory, &nowhere, &[]),
        "cannot listen on unix:nowhere/wharf.sock: No such",
    );
}

/// The first removed the file at its very end, when it was the second one's already.
#[test]
fn a_second_server_on_the_same_path_keeps_its_file_when_the_first_has_drained() {
    let directory = directory();
    let path = directory.path().join("wharf.sock");
    let first = serve_unix(&directory);
    let mut last = Client::connect_unix(&path);
    last.send("GET /hello HTTP/1.1\r\n");
    assert_eq!(hello_at(&path), 200, "so the one before it was accepted");
    first.signal("TERM");
    first.wait_for_log("draining");
    wait_until("the first one still listens", || std::os::unix::net::UnixStream::connect(&path).is_err());
    let second = serve_unix(&directory);
    assert_eq!(hello_at(&path), 200);
    last.send("Host: h\r\n\r\n");
    assert_eq!(last.answer().status, 200, "the first one still answers what it has begun");
    drop(last);
    assert_eq!(first.wait().code, Some(0));
    assert_eq!(hello_at(&path), 200, "the second one can still be reached");
    stop(second);
    assert!(!path.exists());
}

#[test]
fn a_tcp_socket_that_systemd_passes_is_served_and_stays_systemds() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let directory = directory();
    for _ in 0..2 {
        let passed = OwnedFd::from(listener.try_clone().expect("a socket can be cloned"));
        let wharf = Wharf::start_by(ACTIVATE, Some(passed), &directory, SYSTEMD);
        assert_eq!(wharf.address(), address);
        assert_eq!(wharf.get("/hello").text(), "hi");
        stop(wharf);
        // A client that connects between two servers waits in the backlog.
        let mut waiting = Client::connect(address);
        waiting.request("GET", "/hello", &[], "");
        let passed = OwnedFd::from(listener.try_clone().expect("a socket can be cloned"));
        let next = Wharf::start_by(ACTIVATE, Some(passed), &directory, SYSTEMD);
        assert_eq!(waiting.answer().text(), "hi");
        stop(next);
    }
}

/// Its file was removed at the end: no client found it any more, and systemd, which still listens on it, never started
/// the service again.
#[test]
fn a_unix_socket_that_systemd_passes_is_served_and_its_file_stays() {
    let directory = directory();
    let path = directory.path().join("systemd.sock");
    let listener = UnixListener::bind(&path).expect("a fresh directory");
    for _ in 0..2 {
        let passed = OwnedFd::from(listener.try_clone().expect("a socket can be cloned"));
        let wharf = Wharf::start_by(ACTIVATE, Some(passed), &directory, SYSTEMD);
        assert_eq!(wharf.listening_on(), format!("unix:{}", path.display()));
        assert_eq!(hello_at(&path), 200);
        stop(wharf);
        assert!(path.exists(), "it is systemd's");
    }
}

/// As systemd does it with two sockets. The first is the shell's input, and `$SECOND` is the number of the other; only bash
/// takes numbers of several digits.
const ACTIVATE_TWO: &str = "exec bash -c 'exec 3<&0 4<&$SECOND </dev/null; \\
    LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:internal exec \"$0\" \"$@\"' \"$0\" \"$@\"";

#[test]
fn several_sockets_of_systemd_are_taken_by_their_names_or_in_their_order() {
    let listeners = |addresses: &[&str]| {
        let tables = addresses.iter().map(|address| format!("[[listen]]\naddress = '{address}'\n"));
        Arc::new(directory_with(&format!("{}{HELLO}", tables.collect::<String>())))
    };
    let bound = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (web, internal) = (bound(), bound());
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
    let (first, second) = (address(&web), address(&internal));
    // Unlike every other descriptor of this process, this one stays open in the programs that it starts.
    let passed = rustix::io::dup(&internal).expect("a socket can be cloned");
    let script = ACTIVATE_TWO.replace("$SECOND", &passed.as_raw_fd().to_string());
    let stdin = || Some(OwnedFd::from(web.try_clone().expect("a socket can be cloned")));
    let config = ["--config", "wharf.toml"];
    for (addresses, expected) in [
        (&["systemd:internal", "systemd:web"][..], vec![second, first]),
        (&["systemd", "systemd"], vec![first, second]),
        (&["systemd:internal", "systemd"], vec![second, first]),
        (&["systemd:internal"], vec![second]),
    ] {
        let wharf = Wharf::start_by(&script, stdin(), &listeners(addresses), &config);
        let places: Vec<_> = expected.iter().map(|address| format!("http://{address}")).collect();
        assert_eq!(wharf.listening_on(), places.join(", "));
        for address in &expected {
            let mut client = Client::connect(*address);
            client.request("GET", "/hello", &[], "");
            assert_eq!(client.answer().text(), "hi", "{address}");
        }
        if expected.len() == 1 {
            wharf.wait_for_log("systemd has passed 2 sockets, and only 1 of them have a listener");
        }
        stop(wharf);
    }
    for (addresses, said) in [
        (
            &["systemd:other"][..],
            "cannot listen on systemd:other: systemd has passed no socket named \"other\"",
        ),
        (
            &["systemd", "systemd", "systemd"],
            "cannot listen on systemd: systemd has passed no more sockets than the 2",
        ),
        (
            &["systemd", "systemd:web"],
            "no socket named \"web\" (FileDescriptorName) that no other listener has; left: internal",
        ),
    ] {
        assert_refused(&Wharf::run_by(&script, stdin(), &listeners(addresses), &config), said);
    }
}

#[test]
fn without_a_socket_from_systemd_the_start_says_so() {
    let directory = directory();
    let run = |script: &str, stdin: Option<OwnedFd>| Wharf::run_by(script, stdin, &directory, SYSTEMD);
    let nothing = "cannot listen on systemd: systemd has passed no socket (LISTEN_FDS and LISTEN_PID";
    assert_refused(&run("exec \"$0\" \"$@\"", None), nothing);
    assert_refused(&run("LISTEN_PID=1 LISTEN_FDS=1 exec \"$0\" \"$@\"", None), nothing);
    assert_refused(&run("LISTEN_PID=$$ LISTEN_FDS=0 exec \"$0\" \"$@\"", None), nothing);
    assert_refused(&run("LISTEN_PID=$$ LISTEN_FDS=x exec \"$0\" \"$@\"", None), "cannot listen on systemd: ");
    let wrong = "cannot listen on systemd: systemd has passed no listening stream socket";
    let datagrams = UnixDatagram::unbound().expect("a socket");
    assert_refused(&run(ACTIVATE, Some(datagrams.into())), wrong);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let connected = TcpStream::connect(address).expect("it listens");
    assert_refused(&run(ACTIVATE, Some(connected.into())), wrong);
    // For a descriptor that is no socket at all, the message comes from the system.
    let file = std::fs::File::open("/dev/null").expect("it is everywhere");
    assert_refused(&run(ACTIVATE, Some(file.into())), "cannot listen on systemd: ");
}

#[test]
fn two_servers_share_a_port_only_if_both_say_so() {
    let shared = format!("[server]\nreuse_port = true\n{HELLO}");
    for (first, second) in [(HELLO, HELLO), (HELLO, &shared), (&shared, HELLO)] {
        let first = Wharf::start(first);
        let address = first.address().to_string();
        let exit = Wharf::run(second, &["serve", "--config", "wharf.toml", "--listen", &address], &[]);
        assert_refused(&exit, &format!("cannot listen on {address}: Address already in use"));
        assert_eq!(first.get("/hello").status, 200);
    }
}

fn share_port(address: &str) -> Wharf {
    let directory = Arc::new(directory_with(&format!("[server]\nreuse_port = true\n{HELLO}")));
    Wharf::start_in(&directory, &["--config", "wharf.toml", "--listen", address], &[])
}

#[test]
fn while_one_server_drains_the_other_takes_every_client_of_their_port() {
    let mut current = share_port("127.0.0.1:0");
    let address = current.address();
    let over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (over, served) = (Arc::clone(&over), Arc::clone(&served));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    ask_once(address);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let next = share_port(&address.to_string());
        let before = served.load(Ordering::Relaxed);
        wait_until("nobody is served", || served.load(Ordering::Relaxed) > before + 100);
        stop(current);
        current = next;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("each request had its answer");
    }
    stop(current);
}

/// A connection of one request, as clients without keep-alive do it.
fn ask_once(address: SocketAddr) {
    let mut client = Client::connect(address);
    client.request("GET", "/hello", &[("Connection", "close")], "");
    assert_eq!(client.answer().text(), "hi");
    assert!(client.is_closed());
}

#[test]
fn health_asks_whatever_kind_of_listener_there_is() {
    let health = |address: &str| Wharf::run("", &["health", address], &[]);
    let tcp = Wharf::start(HELLO);
    let port = tcp.address().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let exit = health(&format!("{host}:{port}"));
        assert_eq!(exit.code, Some(0), "{host}: {}", exit.stderr);
    }
    let directory = directory();
    let unix = serve_unix(&directory);
    let path = directory.path().join("wharf.sock");
    assert_eq!(health(&format!("unix:{}", path.display())).code, Some(0));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let waits = health(&address);
    assert_eq!(waits.code, Some(1), "nobody accepts, so nobody answers: {}", waits.stderr);
    let activated = Wharf::start_by(ACTIVATE, Some(listener.into()), &directory, SYSTEMD);
    assert_eq!(health(&address).code, Some(0));
    for wharf in [tcp, unix, activated] {
        stop(wharf);
    }
    let gone = [format!("127.0.0.1:{port}"), format!("unix:{}", path.display()), address];
    for address in gone {
        let exit = health(&address);
        assert_eq!(exit.code, Some(1), "{address}");
        assert!(exit.stderr.contains(&address), "{}", exit.stderr);
    }
    let started = std::time::Instant::now();
    assert_eq!(health("systemd").code, Some(2));
    assert!(started.elapsed() < PATIENCE);
}

/// Two starts found the same stale file. The later one removed the file of the earlier one, to which nobody could connect then.
#[test]
fn of_several_starts_over_one_stale_socket_one_serves_and_can_be_reached() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("wharf.sock");
    for _ in 0..100 {
        drop(UnixListener::bind(&path).expect("nothing is there"));
        let start = Barrier::new(4);
        let servers: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut config = default_config();
                        config.server.listen = Listen::Unix(path.clone());
                        config.admin.listen = Some(AdminListen::Off);
                        (config.server.workers, config.server.selectors) = (Some(1), Some(1));
                        let server = Server::new(config).expect("no database to open");
                        let server = server.get_immediate("/hello", |_| Response::text("hi"));
                        start.wait();
                        server.start()
                    })
                })
                .collect();
            starts.into_iter().filter_map(|start| start.join().expect("no panic").ok()).collect()
        });
        assert_eq!(servers.len(), 1, "one address has one server");
        assert_eq!(hello_at(&path), 200);
        for server in servers {
            server.drain();
        }
        assert!(!path.exists());
    }
}
