//! Many reloads under a load that does not pause.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use wharf::server::Server;

use crate::support::{Client, Wharf, assert_nothing_is_left, config_of, directory_with, wait_until};

const CLIENTS: usize = 6;

/// Two configurations that differ in all that may change, but serve `/work` and `/echo`, each in its own way.
const CONFIGS: [&str; 2] = [
    "
[server]
workers = 2
deadline = '10s'
pid_file = 'wharf.pid'
[queue]
max_length = 64
max_wait = '5s'
[http]
max_body_bytes = '64KiB'
max_connections = 100
idle_timeout = '20s'
[database]
url = 'sqlite:load.db'
maximum_pool_size = 2
connection_timeout = '5s'
[endpoint.work]
route = 'GET /work'
sql = \"select 'one' as word\"
returns = 'value'
[endpoint.echo]
route = 'POST /echo'
params = { text = { type = 'text', in = 'body' } }
sql = 'select :text as text'
returns = 'value'
[endpoint.first]
route = 'GET /only'
body = 'one'
",
    "
[server]
workers = 8
deadline = '20s'
pid_file = 'wharf.pid'
[queue]
max_length = 500
max_wait = '10s'
target = '100ms'
[http]
max_body_bytes = '1MiB'
max_connections = 50
max_connections_per_address = 40
idle_timeout = '40s'
[proxy]
trusted = ['10.0.0.0/8']
[database]
url = 'sqlite:load.db'
maximum_pool_size = 8
minimum_idle = 1
connection_timeout = '3s'
[endpoint.echo]
route = 'POST /echo'
params = { text = { type = 'text', in = 'body', max_len = 100 } }
sql = 'select :text as text'
returns = 'value'
deadline = '7s'
[endpoint.work]
route = 'GET /work'
sql = \"select 'two' as word\"
returns = 'value'
[endpoint.second]
route = 'GET /alone'
body = 'two'
",
];

/// Clients that ask on one connection each until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let clients = (0..CLIENTS).map(|number| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || keep_asking(address, number, &stop))
        });
        Self { clients: clients.collect(), stop }
    }

    /// How many requests were sent, each of which had the answer that it should have.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().expect("each answer is as it should be")).sum()
    }
}

fn keep_asking(address: SocketAddr, number: usize, stop: &AtomicBool) -> usize {
    let mut client = Client::connect(address);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        if count % 2 == 0 {
            client.request("GET", "/work", &[], "");
            let answer = client.answer();
            assert!(answer.status == 200 && ["\"one\"", "\"two\""].contains(&answer.text()), "{answer:?}");
        } else {
            let text = format!("{{\"text\":\"{number}-{count}\"}}");
            client.request("POST", "/echo", &[("Content-Type", "application/json")], &text);
            let answer = client.answer();
            assert_eq!(
                (answer.status, answer.text()),
                (200, &*format!("\"{number}-{count}\"")),
                "{answer:?}"
            );
        }
        count += 1;
    }
    count
}

/// Puts a file whole in the place of the one before.
pub(super) fn replace(wharf: &Wharf, config: &str) {
    let new = wharf.directory().join("wharf.toml.new");
    fs::write(&new, config).expect("the directory takes a file");
    fs::rename(new, wharf.directory().join("wharf.toml")).expect("both are in one directory");
}

#[test]
fn twenty_reloads_under_load_fail_no_request() {
    let directory = Arc::new(directory_with(CONFIGS[0]));
    let wharf = Wharf::start_in(&directory, &["--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    let load = Load::on(wharf.address());
    let mut own = 0;
    for turn in 1..=20 {
        let now = turn % 2;
        replace(&wharf, CONFIGS[now]);
        let exit = Wharf::run_in(&directory, &["reload", "--config", "wharf.toml"], &[]);
        assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
        let workers = ["server.workers: 2, before 8", "server.workers: 8, before 2"][now];
        assert!(exit.stdout.contains(workers), "{}", exit.stdout);
        assert!(!exit.stdout.contains("restart"), "{}", exit.stdout);
        assert_eq!(wharf.get("/work").text(), ["\"one\"", "\"two\""][now]);
        assert_eq!(wharf.get("/only").status, [200, 404][now]);
        assert_eq!(wharf.get("/alone").status, [404, 200][now]);
        own += 3;
    }
    let answered = load.end() + own;
    wharf.signal("TERM");
    let exit = wharf.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let last = exit.stderr.lines().last().unwrap_or_default();
    assert!(
        last.ends_with(&format!("stopped: {answered} requests, {answered} answered")),
        "{answered}: {last}"
    );
}

/// The same in this process, where the counters can be asked, and by a thread that does nothing else.
#[test]
fn reloads_without_a_pause_fail_no_request() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite:{}", directory.path().join("load.db").display());
    let configs = CONFIGS.map(|text| config_of(text.replace("sqlite:load.db", &url)));
    let server =
        Server::new(configs[0].clone()).and_then(Server::start).unwrap_or_else(|error| panic!("{error}"));
    let load = Load::on(server.address());
    for turn in 1..=100 {
        server.reload(configs[turn % 2].clone()).unwrap_or_else(|error| panic!("{error}"));
    }
    let asked = load.end();
    let metrics = server.metrics();
    wait_until("a request came to no end", || metrics.finished() == metrics.requests());
    assert_eq!(metrics.requests(), asked as u64);
    assert!(metrics.to_string().ends_with(&format!("{asked} requests, {asked} answered")), "{metrics}");
    assert_nothing_is_left(server);
}

#[test]
fn a_storm_of_sighup_ends_with_the_last_configuration() {
    let wharf = Wharf::start(CONFIGS[0]);
    let load = Load::on(wharf.address());
    let process = i32::try_from(wharf.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
    for turn in 1..=51 {
        replace(&wharf, CONFIGS[turn % 2]);
        kill_process(process, Signal::HUP).expect("it runs");
    }
    wait_until("the last configuration is served", || {
        wharf.get("/alone").status == 200 && wharf.get("/only").status == 404
    });
    assert!(load.end() > 0);
    wharf.signal("TERM");
    let exit = wharf.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!exit.stderr.contains("refused") && !exit.stderr.contains("abandoned"), "{}", exit.stderr);
}
