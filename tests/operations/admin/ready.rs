//! `/ready` says no for as long as it should, and says why.

use std::sync::Arc;
use std::thread;

use super::{HELLO, get, reasons, request, serve};
use crate::support::{Client, Postgres, Wharf, ask, directory_with, wait_until};

#[test]
fn while_it_drains_it_is_alive_and_not_ready() {
    for token in [None, Some("only-for-tests")] {
        let (server, admin, keeper) = serve(|config| config.admin.token = token.map(str::to_owned));
        let mut last = ask(&server, "/gate");
        keeper.wait_for_one();
        assert!(reasons(admin).is_empty());
        let draining = thread::spawn(move || server.drain());
        wait_until("it never said that it drains", || reasons(admin) == ["draining"]);
        assert_eq!(get(admin, "/live").status, 200);
        let details = get(admin, "/ready").json()["details"]["draining"].is_string();
        assert_eq!(details, token.is_none(), "who has no token is told the names");
        keeper.let_through(1);
        assert_eq!(last.answer().text(), "through");
        draining.join().expect("no panic");
        assert!(std::net::TcpStream::connect(admin).is_err(), "it has ended as well");
    }
}

/// If both servers kept the shared port, a client would reach one or the other at random.
#[test]
fn a_server_that_shares_its_port_gives_it_up_when_it_drains() {
    let config = format!("server.reuse_port = true\n{HELLO}");
    let first = Wharf::start(&config);
    let (clients, admin) = (first.address().to_string(), first.admin_address());
    let directory = Arc::new(directory_with(&config));
    let arguments = ["--config", "wharf.toml", "--listen", &clients];
    let second = Wharf::start_in(&directory, &arguments, &[("WHARF_ADMIN_LISTEN", &admin.to_string())]);
    assert_eq!(second.admin_address(), admin);
    first.signal("TERM");
    let exit = first.wait();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    (0..20).for_each(|_| assert!(reasons(admin).is_empty()));
    assert_eq!(second.get("/hello").text(), "hi");
}

#[test]
fn while_the_database_is_down_it_is_not_ready() {
    let cluster = Postgres::start();
    let config = format!(
        "database = {{ url = '{}', maximum_pool_size = 2, connection_timeout = '200ms' }}\n\
         [endpoint.one]\nroute = 'GET /one'\nsql = 'select 1 as one'\n",
        cluster.url()
    );
    let wharf = Wharf::start(&config);
    let admin = wharf.admin_address();
    assert_eq!(wharf.get("/one").status, 200);
    assert!(reasons(admin).is_empty());
    cluster.stop();
    let not_ready = || {
        // Somebody has to notice.
        wharf.get("/one");
        reasons(admin) == ["database"]
    };
    wait_until("it stays ready without a database", not_ready);
    assert_eq!(get(admin, "/live").status, 200, "to restart it would be no help");
    cluster.start_again();
    wait_until("it does not get ready again", || reasons(admin).is_empty());
    wait_until("the database is not used again", || wharf.get("/one").status == 200);
}

#[test]
fn with_a_token_only_its_holder_sees_the_reasons() {
    let (server, admin, keeper) = serve(|config| {
        config.admin.token = Some("only-for-tests".to_owned());
        config.queue.max_length = 1;
    });
    let mut clients: Vec<Client> = (0..50).map(|_| ask(&server, "/gate")).collect();
    keeper.wait_for_one();
    wait_until("it stays ready", || reasons(admin) == ["shedding"]);
    assert!(get(admin, "/ready").json().get("details").is_none());
    let told = request(admin, "GET", "/ready", &[("Authorization", "Bearer only-for-tests")], "");
    assert!(told.json()["details"]["shedding"].is_string(), "{}", told.text());
    keeper.let_through(2);
    for client in &mut clients {
        client.answer();
    }
}
