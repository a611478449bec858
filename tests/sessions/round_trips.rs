//! What cleaning costs those who left nothing: no round trip.

use super::served::{endpoint, server};
use crate::support::{Client, Postgres, TurnCounter, wait_until};

/// The server's answers are held back until the read itself has been sent: who waits for an answer first never sends it.
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
    let counter = TurnCounter::to(Postgres::shared().port());
    let url = format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", counter.port(), database.name());
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
        counter.hold();
        let mut reader = Client::connect(server.address());
        reader.request("GET", &format!("/read?id=7&label={label}"), &[], "");
        wait_until("the read waits for an answer to something else", || counter.has_sent(&label));
        counter.release();
        assert_eq!(reader.answer().text(), format!("\"name 7 {label}\""));
        assert_eq!(counter.turns(), 1, "nothing was sent behind an answer");
    }
    server.drain();
}
