//! State of one transaction keeps working within it.

use super::served::{ask, endpoint, look, looking, serve, steps};
use crate::support::Postgres;

#[test]
fn a_setting_of_one_transaction_holds_in_its_steps_and_no_longer() {
    let database = Postgres::database();
    database.psql("create table t (tenant text)");
    let tenant = "select current_setting('app.tenant')";
    let endpoints = steps("POST", "local", &["set local app.tenant = 'seven'", tenant])
        + &steps("POST", "local_time_zone", &["SET LOCAL TIME ZONE 'Asia/Tokyo'", "show timezone"])
        + &steps("GET", "function", &["select set_config('app.tenant', 'eight', true)", tenant])
        + &steps(
            "POST",
            "write",
            &[
                "select set_config('app.tenant', 'nine', true)",
                "insert into t select current_setting('app.tenant') returning tenant",
            ],
        )
        + &looking("current_setting('app.tenant', true) || current_setting('TimeZone')")
        + &endpoint("GET", "tenants", "select string_agg(tenant, ' ') from t");
    let server = serve(&database.url(), &endpoints);
    let pid = look(&server).pid;
    for (method, path, value) in [
        ("POST", "/local", "\"seven\""),
        ("POST", "/local_time_zone", "\"Asia/Tokyo\""),
        ("GET", "/function", "\"eight\""),
        ("POST", "/write", "\"nine\""),
    ] {
        let answer = ask(&server, method, path);
        assert_eq!((answer.status, answer.text()), (200, value), "{path}");
        let seen = look(&server);
        assert!(["", "UTC"].contains(&&*seen.state), "{path} leaves {}", seen.state);
        assert_eq!(seen.pid, pid, "the session was closed for {path}");
    }
    assert_eq!(ask(&server, "GET", "/tenants").text(), "\"nine\"");
    server.drain();
}

/// One session has one temporary table and one lock within the transaction of its steps.
#[test]
fn later_steps_see_the_state_that_a_function_made() {
    let database = Postgres::database();
    database.psql(
        "create function gather() returns int language plpgsql as
             $$ begin create temp table gathered on commit drop as select 42 as n;
                perform set_config('app.user', 'ann', false); return 1; end $$;
         create function total() returns text language plpgsql as
             $$ begin return (select sum(n) from gathered) || current_setting('app.user'); end $$",
    );
    let endpoints = steps("POST", "gather", &["select gather()", "select total()"])
        + &looking("current_setting('app.user', true)");
    let server = serve(&database.url(), &endpoints);
    let clean = look(&server);
    for _ in 0..3 {
        let answer = ask(&server, "POST", "/gather");
        assert_eq!((answer.status, answer.text()), (200, "\"42ann\""));
        assert_eq!(look(&server), clean);
    }
    server.drain();
}
