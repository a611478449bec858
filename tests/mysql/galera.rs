//! A Galera cluster of three nodes with HAProxy in front of it: a node is killed and comes back while clients write.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, LOOK, Mariadb, PATIENCE, free_port, wait_until};
use crate::{ask, serve_with, value};

const NODES: usize = 3;

/// Long enough for a node that has to copy all data from another one, on a busy machine.
const START: Duration = Duration::from_secs(120);

/// Writes that must succeed in each part of the test.
const WRITES: u64 = 150;

struct Cluster {
    nodes: Vec<Mariadb>,
    haproxy: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Kill fails only when the process has ended already.
        let _ = self.haproxy.kill();
        let _ = self.haproxy.wait();
        // A node that leaves in peace waits for the others.
        self.nodes.iter().for_each(Mariadb::kill);
    }
}

impl Cluster {
    fn start() -> Self {
        let began = Instant::now();
        let groups: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let address: Vec<String> = groups.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let nodes: Vec<Mariadb> = groups
            .iter()
            .enumerate()
            .map(|(number, group)| {
                let options = format!(
                    "--binlog-format=ROW --innodb-autoinc-lock-mode=2 --wsrep-on=ON \
                     --wsrep-provider=/usr/lib/galera/libgalera_smm.so --wsrep-cluster-address=gcomm://{} \
                     --wsrep-cluster-name=test --wsrep-node-name=node{number} --wsrep-node-address=127.0.0.1:{group} \
                     --wsrep-sst-method=rsync --wsrep-sst-receive-address=127.0.0.1:{} --wsrep-provider-options='\
                     gmcast.listen_addr=tcp://127.0.0.1:{group};ist.recv_addr=127.0.0.1:{};evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT2S;\
                     evs.inactive_timeout=PT6S;evs.install_timeout=PT5S;gcache.size=32M;pc.recovery=no'",
                    address.join(","),
                    free_port(),
                    free_port(),
                );
                Mariadb::prepare(free_port(), "true", &options)
            })
            .collect();
        nodes[0].launch(&["--wsrep-new-cluster"]);
        wait_for_node(&nodes[0]);
        nodes[0].sql("mysql", crate::support::MARIADB_USER);
        nodes[0].sql("mysql", "create database main; create user haproxy@'%'");
        for node in &nodes[1..] {
            node.launch(&[]);
            wait_for_node(node);
        }
        eprintln!("the cluster was ready after {:?}", began.elapsed());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, mut servers) = (free_port(), String::new());
        for (number, node) in nodes.iter().enumerate() {
            writeln!(
                servers,
                "    server node{number} 127.0.0.1:{} check inter 100ms fall 2 rise 2 on-marked-down shutdown-sessions",
                node.port()
            )
            .expect("a String takes all");
        }
        let configuration = format!(
            "global\n    noreuseport\ndefaults\n    mode tcp\n    timeout connect 2s\n    timeout client 60s\n    timeout server 60s\n    \
             timeout check 2s\n    option redispatch 1\n    retries 3\nlisten galera\n    bind 127.0.0.1:{port}\n    balance roundrobin\n    \
             option mysql-check user haproxy\n{servers}"
        );
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, configuration).expect("a temporary file");
        let haproxy = Command::new("haproxy")
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy runs");
        Self { nodes, haproxy, port, _directory: directory }
    }

    fn url(&self) -> String {
        format!("mysql://app:app@127.0.0.1:{}/main", self.port)
    }
}

/// Waits until a node is a member of the cluster that serves.
fn wait_for_node(node: &Mariadb) {
    let ready =
        "select variable_value from information_schema.global_status where variable_name = 'wsrep_ready'";
    let until = Instant::now() + START;
    while node.try_sql("information_schema", ready).as_deref() != Some("ON") {
        assert!(node.is_running() && Instant::now() < until, "the node does not come up:\n{}", node.log());
        thread::sleep(LOOK * 20);
    }
}

/// The numbers of the writes, by how they were answered.
#[derive(Default)]
struct Written {
    good: Vec<u64>,
    refused: Vec<u64>,
    unknown: Vec<u64>,
}

#[test]
fn no_acknowledged_write_is_lost_when_a_node_is_killed_and_comes_back() {
    let cluster = Cluster::start();
    let rows = "id bigint primary key, part int not null";
    cluster.nodes[0].sql("main", &format!("create table t ({rows}); create table counter (id int primary key, n bigint); insert into counter values (1, 0)"));
    // A statement by itself, and a transaction in which all clients change the same row: Galera finds those that collide only when
    // they commit.
    let endpoints = "[endpoint.add]\nroute = 'POST /add/{n}'\nparams.n = 'int'\nsql = 'insert into t values (:n, 1)'\n\
         [endpoint.count]\nroute = 'POST /count/{n}'\nparams.n = 'int'\n\
         step = [{ sql = 'insert into t values (:n, 2)' }, { sql = 'update counter set n = n + 1 where id = 1' }]\n"
        .to_owned()
        + &value("one", "select 1");
    let more = "connection_timeout = '2s'\nconnection_init_sql = 'set session wsrep_sync_wait = 0'";
    let server = serve_with(&cluster.url(), 4, more, &format!("{endpoints}\n"));
    let written = Mutex::new(Written::default());
    let (numbers, good, over) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
    let mut odd = Vec::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (server, written, numbers, good, over) = (&server, &written, &numbers, &good, &over);
                scope.spawn(move || {
                    let mut odd = Vec::new();
                    let mut connection = Client::connect(server.address());
                    while !over.load(Ordering::SeqCst) {
                        let number = numbers.fetch_add(1, Ordering::SeqCst);
                        let path = if client % 2 == 0 { "add" } else { "count" };
                        connection.request("POST", &format!("/{path}/{number}"), &[], "");
                        let answer = connection.answer();
                        if answer.header("Connection") == Some("close") {
                            connection = Client::connect(server.address());
                        }
                        let mut written = written.lock().expect("no thread panics while it holds this");
                        match answer.status {
                            204 => {
                                written.good.push(number);
                                good.fetch_add(1, Ordering::SeqCst);
                            }
                            503 | 504 => written.refused.push(number),
                            500 if answer.json()["type"] == "urn:wharf:problem:outcome-unknown" => {
                                written.unknown.push(number);
                            }
                            _ => odd.push(format!("{path}: {} {}", answer.status, answer.text())),
                        }
                    }
                    odd
                })
            })
            .collect();
        let more_good = |what: &str| {
            let (wanted, until) = (good.load(Ordering::SeqCst) + WRITES, Instant::now() + PATIENCE);
            while good.load(Ordering::SeqCst) < wanted && Instant::now() < until {
                thread::sleep(LOOK);
            }
            eprintln!("{what}: {} good writes", good.load(Ordering::SeqCst));
            good.load(Ordering::SeqCst) >= wanted
        };
        let before = more_good("before");
        cluster.nodes[1].kill();
        let without = more_good("with two nodes");
        cluster.nodes[1].launch(&[]);
        wait_for_node(&cluster.nodes[1]);
        let again = more_good("with three nodes again");
        cluster.nodes[0].kill();
        let other = more_good("without the first node");
        over.store(true, Ordering::SeqCst);
        odd = clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect();
        assert!(before && without && again && other, "writes stopped: {before}, {without}, {again}, {other}");
    });
    let written = written.into_inner().expect("no thread has panicked");
    eprintln!(
        "{} good, {} refused, {} unknown",
        written.good.len(),
        written.refused.len(),
        written.unknown.len()
    );
    assert!(odd.is_empty(), "{} odd answers, such as {}", odd.len(), odd[0]);
    wait_until("the pool does not recover", || ask(&server, "GET", "/one").status == 200);
    for node in &cluster.nodes[1..] {
        let kept = node.sql("main", "set session wsrep_sync_wait = 1; select id from t");
        let kept: HashSet<u64> = kept.lines().map(|line| line.parse().expect("a number")).collect();
        let lost: Vec<_> = written.good.iter().filter(|number| !kept.contains(number)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let doubted: Vec<_> = written.refused.iter().filter(|number| kept.contains(number)).collect();
        assert!(doubted.is_empty(), "refused and there: {doubted:?}");
        let counted = node.sql("main", "set session wsrep_sync_wait = 1; select n - (select count(*) from t where part = 2) from counter");
        assert_eq!(counted, "0", "each transaction happened whole or not at all");
    }
    server.drain();
}
