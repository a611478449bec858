//! Cleaning a session costs no round trip for requests that left nothing in it.

use super::served::{endpoint, server};
use crate::support::{Client, Postgres, Withholding, wait_until};

/// The proxy holds the database's answers back until the read itself has been sent. A server that waits for another answer first
/// never sends it. Then the proxy holds the answers back to whatever is sent behind the read's answer.
#[test]
fn a_read_behind_a_request_that_left_something_waits_for_one_round_trip_alone() {
    let database = Postgres::database();
    database.psql(
        "create table t as select n as id, 'name ' || n as name from generate_series(1, 9) n;
         create function leave() returns int language plpgsql as
             $$ begin perform set_config('app.user', 'ann', false); return 1; end $$",
    );
    let endpoints = endpoint("GET", "leave", "select leave()")
        + &endpoint(
            "GET",
            "read",
            "select concat(name, ' ', :label::text, current_setting('app.user', true)) from t where id = :id",
        )
        + "params = { id = 'int', label = 'text' }\n";
    let proxy = Withholding::to(Postgres::shared().port());
    let url = format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port(), database.name());
    let server = server(&url, "", &endpoints).start().expect("a free port");
    let mut client = Client::connect(server.address());
    let mut get = |path: &str| {
        client.request("GET", path, &[], "");
        client.answer()
    };
    // From then on both statements are known.
    for _ in 0..3 {
        assert_eq!(get("/leave").text(), "1");
        assert_eq!(get("/read?id=3&label=first").text(), "\"name 3 first\"");
    }
    for round in 0..20 {
        assert_eq!(get("/leave").text(), "1");
        let label = format!("round-{round}");
        proxy.hold();
        let mut reader = Client::connect(server.address());
        reader.request("GET", &format!("/read?id=7&label={label}"), &[], "");
        wait_until("the read waits for an answer to something else", || proxy.has_sent(&label));
        proxy.release_first();
        assert_eq!(reader.answer().text(), format!("\"name 7 {label}\""));
        proxy.release();
    }
    server.drain();
}

#[test]
fn reads_and_writes_in_turn_wait_for_one_round_trip_each() {
    let database = Postgres::database();
    database.psql("create table t as select 7 as id, 'name 7' as name; create table log (label text)");
    let endpoints = endpoint("GET", "read", "select name || :label::text from t where id = 7")
        + "params = { label = 'text' }\n"
        + &endpoint("POST", "write", "insert into log values (:label)")
        + "params = { label = 'text' }\n";
    let proxy = Withholding::to(Postgres::shared().port());
    let url = format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port(), database.name());
    let server = server(&url, "", &endpoints).start().expect("a free port");
    let send = |method: &str, path: &str, label: &str| {
        let mut client = Client::connect(server.address());
        client.request(method, &format!("{path}?label={label}"), &[], "");
        client
    };
    for _ in 0..3 {
        assert_eq!(send("GET", "/read", "first").answer().status, 200);
        assert_eq!(send("POST", "/write", "first").answer().status, 204);
    }
    let read = ("GET", "/read", 200);
    let write = ("POST", "/write", 204);
    for (round, (method, path, status)) in
        [read, read, write, write, read, write].iter().cycle().take(30).enumerate()
    {
        let label = format!("round-{round}");
        proxy.hold();
        let mut client = send(method, path, &label);
        wait_until("it waits for an answer to something else", || proxy.has_sent(&label));
        proxy.release_first();
        assert_eq!(client.answer().status, *status, "{method} {path} in round {round}");
        proxy.release();
    }
    server.drain();
}
