//! A MariaDB that fails in every way that it can. The claims are those of PostgreSQL's tests.

use std::time::{Duration, Instant};

use super::bounds::{Bounds, within_bounds};
use super::forwarder::Forwarder;
use super::load::{during, expect_in_time, expect_resumed};
use super::served::{ACCOUNTS, Answered, DEADLINE, Served, WORKERS, Work, expect_books, schema};
use crate::support::{Mariadb, Wharf, wait_until};

const ALL: [Work; 4] = [Work::Echo, Work::Slow, Work::Transfer, Work::Slow];

/// The endpoints, on this URL.
fn config(url: &str) -> String {
    format!(
        "[server]\nworkers = {WORKERS}\ndeadline = '{}ms'\n\
         [database]\nurl = '{url}'\nmaximum_pool_size = {WORKERS}\n\
         [endpoint.echo]\nroute = 'GET /echo/{{n}}'\nparams.n = 'int'\nreturns = 'one'\n\
         sql = 'select :n as n, connection_id() as pid'\n\
         [endpoint.slow]\nroute = 'GET /slow/{{n}}'\nparams.n = 'int'\nreturns = 'one'\n\
         sql = 'select :n as n, sleep(0.02) as slept'\n\
         [endpoint.hold]\nroute = 'GET /hold/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '25s'\n\
         sql = 'select :n as n, sleep(60) as slept'\n\
         [endpoint.meet]\nroute = 'POST /meet/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '25s'\nstatus = 200\n\
         step = [{{ sql = 'select id from gate lock in share mode' }}, {{ sql = 'select :n as n' }}]\n\
         [endpoint.transfer]\nroute = 'POST /transfer/{{n}}'\nparams.n = 'int'\nreturns = 'one'\nstatus = 200\n\
         [[endpoint.transfer.step]]\nexpect_rows = 1\n\
         sql = 'update account set balance = balance - 1 where id = :n % {ACCOUNTS}'\n\
         [[endpoint.transfer.step]]\nsql = 'insert into booked (n) values (:n)'\n\
         [[endpoint.transfer.step]]\nexpect_rows = 1\n\
         sql = 'update account set balance = balance + 1 where id = (:n + 1) % {ACCOUNTS}'\n\
         [[endpoint.transfer.step]]\nsql = 'select :n as n'\n",
        DEADLINE.as_millis(),
    )
}

fn start(mariadb: &Mariadb) -> Served {
    start_on(mariadb, &mariadb.url())
}

fn start_on(mariadb: &Mariadb, url: &str) -> Served {
    mariadb
        .sql("main", &(schema() + "; create table gate (id int primary key); insert into gate values (1)"));
    let mut served = Served::over(Wharf::start(&config(url)));
    served.warm_up_until(|| mariadb.sessions("true") == WORKERS);
    served
}

/// Ends a test after its fault is over and its clients have left.
fn settle(served: Served, mariadb: &Mariadb, answers: &[Answered]) {
    wait_until("the pool does not fill again", || mariadb.sessions("true") == WORKERS);
    let held = mariadb.hold("main", "begin; select id from gate for update");
    let meet = || mariadb.sessions("info like '%lock in share mode%' and state <> ''") == WORKERS;
    let all_meet = || wait_until("a worker or a session is lost: not all requests run at once", meet);
    served.expect_meeting(WORKERS, all_meet, || drop(held));
    wait_until("a statement goes on", || mariadb.sessions("command <> 'Sleep'") == 0);
    let open = "select count(*) from information_schema.innodb_trx";
    wait_until("a transaction stays open", || mariadb.sql("main", open) == "0");
    assert_eq!(mariadb.sessions("true"), WORKERS, "sessions, which are the pool's");
    expect_books(answers, |sql| {
        mariadb.sql("main", sql).lines().map(|line| line.parse().expect("a number")).collect()
    });
    served.expect_nothing_kept();
    served.expect_account();
}

#[test]
fn on_mariadb_a_restart_costs_no_more_than_what_ran() {
    restarts(Mariadb::stop);
}

#[test]
fn on_mariadb_a_kill_costs_no_more_than_what_ran() {
    restarts(Mariadb::kill);
}

fn restarts(end: fn(&Mariadb)) {
    within_bounds(|bounds: &mut Bounds| {
        let mariadb = Mariadb::start();
        let served = start(&mariadb);
        let (mut answers, ()) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            end(&mariadb);
            load.wait_for_refused(40);
        });
        expect_in_time(bounds, &answers);
        served.expect_refusals_at_once(bounds);
        let (later, back) = during(&served, &ALL, |load| {
            load.wait_for_refused(8);
            mariadb.start_again();
            let back = mariadb.answers();
            load.go_on_after(back);
            back
        });
        expect_in_time(bounds, &later);
        expect_resumed(bounds, &later, back);
        answers.extend(later);
        settle(served, &mariadb, &answers);
    });
}

#[test]
fn on_mariadb_a_suspended_server_costs_no_request_its_deadline() {
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let served = start(&mariadb);
        let end = |suspended| {
            drop(suspended);
            mariadb.answers()
        };
        let answers = silence(bounds, &served, || mariadb.suspend(), end);
        settle(served, &mariadb, &answers);
    });
}

#[test]
fn on_mariadb_a_path_that_forwards_nothing_more_is_a_database_that_is_down() {
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let forwarder = Forwarder::to(mariadb.port());
        let served = start_on(&mariadb, &format!("mysql://app:app@127.0.0.1:{}/main", forwarder.port()));
        let end = |()| {
            forwarder.open();
            Instant::now()
        };
        let answers = silence(bounds, &served, || forwarder.close(), end);
        settle(served, &mariadb, &answers);
    });
}

#[test]
fn on_mariadb_a_full_backlog_is_a_database_that_is_down() {
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let forwarder = Forwarder::to(mariadb.port());
        let served = start_on(&mariadb, &format!("mysql://app:app@127.0.0.1:{}/main", forwarder.port()));
        let end = |full| {
            forwarder.drain(full);
            Instant::now()
        };
        let answers = silence(bounds, &served, || forwarder.fill(), end);
        settle(served, &mariadb, &answers);
    });
}

/// The fault under load, from what `begin` does to what `end` does, which says when it was over. All answers.
fn silence<H>(
    bounds: &mut Bounds,
    served: &Served,
    begin: impl FnOnce() -> H,
    end: impl FnOnce(H) -> Instant,
) -> Vec<Answered> {
    let (mut answers, held) = during(served, &ALL, |load| {
        load.wait_for_good(40);
        let held = begin();
        load.wait_for_refused(4 * WORKERS);
        held
    });
    expect_in_time(bounds, &answers);
    served.expect_refusals_at_once(bounds);
    let (later, back) = during(served, &ALL, |load| {
        load.wait_for_refused(8);
        let back = end(held);
        load.go_on_after(back);
        back
    });
    expect_in_time(bounds, &later);
    expect_resumed(bounds, &later, back);
    answers.extend(later);
    answers
}

/// After such kills MariaDB 10.11 sometimes answers nobody for seconds, not even its superuser on the Unix socket. So requests that are
/// refused are not counted, and the time to the first good answer begins when the server answers again.
#[test]
fn on_mariadb_sessions_ended_again_and_again_under_load_lose_nothing() {
    const ROUNDS: usize = 10;
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let served = start(&mariadb);
        let (answers, back) = during(&served, &ALL, |load| {
            for _ in 0..ROUNDS {
                load.wait_for_good(40);
                mariadb.end_sessions();
            }
            let back = mariadb.answers();
            load.go_on_after(back);
            back
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, back);
        settle(served, &mariadb, &answers);
    });
}

#[test]
fn on_mariadb_sessions_ended_while_they_run_answer_503_at_once() {
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let served = start(&mariadb);
        let held = mariadb.hold("main", "begin; select id from gate for update");
        let mut askers: Vec<_> = (0..WORKERS).map(|_| served.asker()).collect();
        let sent: Vec<_> = askers.iter_mut().map(|asker| asker.send(Work::Meet)).collect();
        wait_until("the requests do not run", || {
            mariadb.sessions("info like '%lock in share mode%'") == WORKERS
        });
        let ended = Instant::now();
        mariadb.end_sessions();
        for (asker, sent) in askers.iter_mut().zip(&sent) {
            let answer = asker.answer(sent);
            assert_eq!(answer.status, 503, "{}", answer.detail);
            let took = (answer.sent + answer.took).saturating_duration_since(ended);
            bounds.expect("from the end of its session to its answer", took, Duration::from_millis(500));
        }
        drop((askers, held));
        let (answers, ()) = during(&served, &ALL, |load| load.go_on_after(ended));
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, ended);
        settle(served, &mariadb, &answers);
    });
}

/// As a replica is, or a server that a failover has taken from its place.
#[test]
fn on_mariadb_a_read_only_server_serves_reads_and_refuses_writes() {
    within_bounds(|bounds| {
        let mariadb = Mariadb::start();
        let served = start(&mariadb);
        let (answers, (began, ending, ended)) = during(&served, &ALL, |load| {
            load.wait_for_good(40);
            mariadb.sql("main", "set global read_only = 1");
            let began = Instant::now();
            load.wait_for_refused(4 * WORKERS);
            let ending = Instant::now();
            mariadb.sql("main", "set global read_only = 0");
            let ended = Instant::now();
            load.go_on_after(ended);
            (began, ending, ended)
        });
        expect_in_time(bounds, &answers);
        expect_resumed(bounds, &answers, ended);
        let within = |answer: &&Answered| answer.sent > began && answer.sent + answer.took < ending;
        for answer in answers.iter().filter(within) {
            match answer.work {
                Work::Transfer => assert!(!answer.is_good(), "{answer:?} while it only reads"),
                // A write's session is closed, and a read may wait for the next.
                _ => bounds.hold(answer.is_good(), || format!("{answer:?}: reading is allowed")),
            }
        }
        settle(served, &mariadb, &answers);
    });
}
