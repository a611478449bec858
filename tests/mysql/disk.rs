//! A disk without room: writes are refused and reads are served, until there is room again.

use std::io::Write as _;

use crate::support::{Mariadb, assert_nothing_is_left, wait_until};
use crate::{ask_with, get, serve_with, value};

#[test]
fn a_full_disk_is_503_for_writes_and_serves_reads() {
    let Some(own) = Mariadb::start_on_small_disk("96m") else { return };
    own.sql(
        "main",
        "create table t (id int primary key, x varchar(250)); create table small (id int primary key)",
    );
    let endpoints = "[endpoint.put]\nroute = 'PUT /put/{id}'\nparams.id = 'int'\nsql = \"insert into t values (:id, repeat('x', 250))\"\n\
         [endpoint.steps]\nroute = 'PUT /steps/{id}'\nparams.id = 'int'\n\
         step = [{ sql = 'insert into small values (:id)' }, { sql = \"insert into t values (:id, repeat('x', 250))\" }]\n"
        .to_owned()
        + &value("count", "select count(*) from t")
        + &value("small", "select count(*) from small");
    let server = serve_with(&own.url(), 2, "", &endpoints);
    let ballast = own.directory().join("data/ballast");
    let mut file = std::fs::File::create(&ballast).expect("a new file");
    for size in [1 << 20, 64 << 10, 4096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    let (mut good, mut small, mut refused) = (0, 0, 0);
    // A table's file has room for some rows before it has to grow.
    for id in 0..3000 {
        let path = if id % 2 == 0 { "put" } else { "steps" };
        let answer = ask_with(&server, "PUT", &format!("/{path}/{id}"), "");
        match answer.status {
            204 => (good, small) = (good + 1, small + id % 2),
            503 => {
                assert!(answer.text().contains("no room"), "{}", answer.text());
                refused += 1;
                assert_eq!(get(&server, "/count"), good.to_string(), "reading needs no room");
                assert_eq!(get(&server, "/small"), small.to_string(), "the first step is undone");
            }
            _ => panic!("{path}: {} {}", answer.status, answer.text()),
        }
        if refused == 6 {
            break;
        }
    }
    assert_eq!(refused, 6, "the disk is never full");
    drop(file);
    std::fs::remove_file(&ballast).expect("it is there");
    wait_until("it does not recover", || ask_with(&server, "PUT", "/put/10000", "").status == 204);
    assert_eq!(ask_with(&server, "PUT", "/steps/10001", "").status, 204);
    assert_eq!(get(&server, "/count"), (good + 2).to_string());
    assert_nothing_is_left(server);
}
