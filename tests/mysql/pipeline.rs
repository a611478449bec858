//! Requests that share a round trip to MariaDB: each has its own answer, and the outcome of one does not affect the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use wharf::server::Server;

use crate::support::{Client, Mariadb, PATIENCE, assert_nothing_is_left, wait_until};
use crate::{configuration, get, serve_with, value};

const ENDPOINTS: &str = "
[endpoint.twice]
route   = 'GET /twice/{n}'
sql     = 'select 2 * :n'
params  = { n = 'int' }
returns = 'value'

[endpoint.own]
route   = 'GET /own/{n}'
sql     = 'select :n as n, (select label from item where id = 1 + :n mod 9) as label'
params  = { n = 'int' }
returns = 'one'

[endpoint.several]
route   = 'GET /several/{n}'
sql     = '(select id from item where id <= :n) union all select (select id from item where id <= :n)'
params  = { n = 'int' }

[endpoint.wide]
route   = 'GET /wide/{bytes}'
sql     = \"select repeat('x', :bytes) from item\"
params  = { bytes = 'int' }

[endpoint.variable]
route   = 'POST /variable'
step    = [{ sql = \"update item set label = label where id = remember('ann')\" }]
";

const ITEMS: &str = "create table item (id int primary key, label varchar(20));
    insert into item select seq, concat('item ', seq) from seq_1_to_9;
    delimiter //
    create function remember(who text) returns int modifies sql data
        begin set @who = who; set session time_zone = '+05:00'; return 1; end//";

/// Each of these clients asks for its own numbers. Every tenth request fails in some way, and some change their session.
#[test]
fn requests_that_share_see_no_answer_of_another() {
    const CLIENTS: usize = 40;
    const EACH: usize = 500;
    const KILLS: usize = 10;
    let cluster = Mariadb::start();
    cluster.sql("main", ITEMS);
    let now = value("now", "select timestampdiff(hour, utc_timestamp(), now()) + 0");
    let mut config = configuration(&cluster.url(), 4, "", &(ENDPOINTS.to_owned() + &now));
    config.http.max_response_bytes = 4096;
    let server = Server::new(config).expect("the database is there");
    let pool = Arc::clone(server.database().expect("it has one").metrics());
    let server = server.start().expect("a free port");
    // How long a statement takes beside other tests is not known.
    server.limit_batch_time(PATIENCE);
    let pipelined = || pool.pipelined.load(Relaxed);
    let (ended, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (ended, killed, address) = (&ended, &killed, server.address());
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..EACH {
                    let n = 100 + number * EACH + round;
                    let (method, path, wanted, text) = match round % 40 {
                        1 => ("POST", "/variable".to_owned(), 204, None),
                        3 => ("GET", "/several/3".to_owned(), 500, None),
                        13 => ("GET", "/wide/1000".to_owned(), 500, None),
                        23 => ("GET", format!("/own/{n}x"), 400, None),
                        33 => {
                            // This client leaves without its answer.
                            client.request("GET", &format!("/own/{n}"), &[], "");
                            client = Client::connect(address);
                            continue;
                        }
                        kind if kind % 4 == 2 => ("GET", "/now".to_owned(), 200, Some("0".to_owned())),
                        kind if kind % 2 == 0 => {
                            ("GET", format!("/twice/{n}"), 200, Some((2 * n).to_string()))
                        }
                        _ => ("GET", format!("/own/{n}"), 200, None),
                    };
                    client.request(method, &path, &[], "");
                    let answer = client.answer();
                    // Its session was killed under it while it ran by itself.
                    if answer.status == 503 || answer.status == 500 && wanted != 500 {
                        assert!(answer.status == 503 || method == "POST", "{path}: {}", answer.text());
                        killed.fetch_add(1, Relaxed);
                        continue;
                    }
                    assert_eq!(answer.status, wanted, "{path}: {}", answer.text());
                    if let Some(text) = text {
                        assert_eq!(answer.text(), text, "{path}");
                    } else if wanted == 200 {
                        let row = answer.json();
                        assert_eq!(row["n"], n, "{path}");
                        assert_eq!(row["label"], format!("item {}", 1 + n % 9), "{path}");
                    }
                }
                ended.fetch_add(1, Relaxed);
            });
        }
        // Meanwhile sessions are killed, so that requests that share one run again.
        for _ in 0..KILLS {
            let before = pipelined();
            wait_until("nothing is shared", || pipelined() >= before + 500 || ended.load(Relaxed) == CLIENTS);
            cluster.end_sessions();
        }
    });
    assert!(pipelined() > 1_000, "{} shared", pipelined());
    // Each kill ends up to four sessions.
    assert!(killed.load(Relaxed) <= 8 * KILLS, "{} failed", killed.load(Relaxed));
    assert_nothing_is_left(server);
}

/// A view calls a function that no statement names, and that changes the session. The server tells of the change.
#[test]
fn a_view_that_changes_its_session_is_not_shared() {
    let database = Mariadb::database();
    database.sql("create table one (n int); insert into one values (1)");
    database
        .routine("create function far() returns int begin set session time_zone = '+05:00'; return 5; end");
    database.sql("create view zone as select far() as n from one");
    let endpoints = value("zone", "select n from zone")
        + &value("now", "select timestampdiff(hour, utc_timestamp(), now()) + 0");
    let server = serve_with(&database.url(), 1, "", &endpoints);
    server.limit_batch_time(PATIENCE);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(get(&server, "/zone"), "5");
                    assert_eq!(get(&server, "/now"), "0", "another request has changed the session");
                }
            });
        }
    });
    assert_nothing_is_left(server);
}
