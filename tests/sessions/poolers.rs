//! A pooler, `pgbouncer`, stands between wharf and PostgreSQL. Behind a session pooler every answer is right. Any other pooler
//! is refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use wharf::config::{self, Config};
use wharf::database;
use wharf::deadline::Deadline;
use wharf::server::Server;

use crate::support::{
    Answer, Client, Database, PgBouncer, Postgres, Setup, Wharf, assert_problem, config_of, measured, psql,
    wait_until,
};

/// Values of `ignore_startup_parameters`: none, and the parameters that other drivers send.
const IGNORED: [&str; 2] = ["", "options, extra_float_digits, search_path, statement_timeout"];

const ENDPOINTS: &str = "
[endpoint.echo]
route   = 'GET /echo/{id}'
params  = { id = 'text' }
sql     = 'select :id::text'
returns = 'value'

[endpoint.item]
route   = 'GET /item/{id}'
params  = { id = 'int' }
sql     = 'select id, name from item where id = :id'
returns = 'one'

[endpoint.session]
route   = 'GET /session/{id}'
params  = { id = 'text' }
sql     = \"select concat_ws(' ', :id::text, current_setting('TimeZone'), current_setting('transaction_read_only'))\"
returns = 'value'

[endpoint.add]
route   = 'POST /add/{id}'
params  = { id = 'text' }
sql     = 'insert into added values (:id) returning id'
returns = 'value'

[endpoint.twice]
route   = 'POST /twice/{id}'
params  = { id = 'text' }
returns = 'value'
step    = [{ sql = 'insert into added values (:id)' }, { sql = \"select string_agg(id, ' ') from added where id = :id\" }]

[endpoint.divide]
route   = 'GET /divide/{by}'
params  = { by = 'int' }
sql     = 'select 6 / :by::int'
returns = 'value'

[endpoint.slow]
route    = 'GET /slow/{id}'
params   = { id = 'text' }
sql      = 'select :id::text from pg_sleep(100)'
returns  = 'value'
deadline = '150ms'

[endpoint.left]
route    = 'GET /left/{id}'
params   = { id = 'text' }
sql      = 'select :id::text from pg_sleep(2)'
returns  = 'value'
";

fn database() -> Database {
    let database = Postgres::database();
    database.psql(
        "create table item as select n as id, 'item ' || n as name from generate_series(1, 9) n;
         create table added (id text)",
    );
    database
}

fn pooler(mode: &'static str, size: usize, ignored: &'static str) -> PgBouncer {
    PgBouncer::start(Setup { mode, size, ignored })
}

fn text(url: &str, workers: usize, sessions: usize) -> String {
    format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = {workers}\ndeadline = '60s'\n\
         [queue]\nmax_wait = '60s'\ntarget = '30s'\ninterval = '30s'\n\
         [database]\nurl = '{url}'\nmaximum_pool_size = {sessions}\nconnection_timeout = '60s'\n{ENDPOINTS}"
    )
}

fn read(text: String) -> Config {
    config_of(text)
}

/// A pool of so many sessions at this URL.
fn open(url: &str, sessions: usize) -> Result<database::Database, database::Error> {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = sessions;
    database::Database::open(&settings, url)
}

/// The message names the kind of pooler, the mode that wharf needs, and the pooler's setting.
fn assert_names_the_pooler(message: &str) {
    let lower = message.to_lowercase();
    for word in ["transaction", "session", "pool"] {
        assert!(lower.contains(word), "does not say {word:?}: {message}");
    }
}

#[test]
fn a_session_pooler_serves_every_kind_of_endpoint() {
    let database = database();
    for ignored in IGNORED {
        let pooler = pooler("session", 5, ignored);
        let wharf = Wharf::start(&text(&pooler.url(database.name()), 5, 5));
        assert_eq!(wharf.get("/echo/one").text(), "\"one\"");
        assert_eq!(wharf.get("/item/3").text(), r#"{"id":3,"name":"item 3"}"#);
        assert_problem(&wharf.get("/item/77"), 404, "no such row");
        assert_eq!(wharf.get("/session/x").text(), "\"x UTC on\"");
        assert_eq!(wharf.request("POST", "/add/new", &[], "").text(), "\"new\"");
        assert_eq!(wharf.request("POST", "/twice/both", &[], "").text(), "\"both\"");
        assert_problem(&wharf.get("/divide/0"), 400, "division by zero");
        assert_eq!(wharf.get("/divide/2").text(), "3");
        assert_eq!(wharf.get("/slow/late").status, 504);
        assert_eq!(wharf.get("/echo/two").text(), "\"two\"");
        database.psql("delete from added");
        assert!(pooler.is_alive());
    }
}

/// The pooler sets a client's startup parameters by commands, so a `reset all` undoes these as well.
#[test]
fn behind_a_session_pooler_a_request_leaves_nothing_to_the_next() {
    let database = database();
    let role = format!("{}_guest", database.name());
    database.psql(&format!(
        "create role {role}; grant {role} to current_user;
         alter database {0} set timezone = 'Asia/Tokyo'; alter database {0} set client_encoding = 'LATIN1';
         create function leave() returns int language plpgsql as
             $$ begin perform set_config('app.user', 'ann', false), set_config('TimeZone', 'America/Lima', false),
                 set_config('work_mem', '64kB', false), set_config('application_name', 'somebody', false),
                 set_config('default_transaction_read_only', 'off', false), pg_advisory_lock(77);
             execute 'set role {role}'; return 1; end $$;
         create function sneak() returns int language plpgsql as
             $$ begin insert into added values ('sly'); return 1; end $$",
        database.name()
    ));
    let pooler = pooler("session", 1, "");
    let wharf = Wharf::start(&format!(
        "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\napplication_name = 'shop'\n\
         connection_init_sql = \"set work_mem = '5MB'\"\n\
         [endpoint.leave]\nroute = 'GET /leave'\nsql = 'select leave()'\nreturns = 'value'\n\
         [endpoint.sneak]\nroute = 'GET /sneak'\nsql = 'select sneak()'\nreturns = 'value'\n\
         [endpoint.look]\nroute = 'GET /look'\nreturns = 'value'\nsql = '''select concat_ws(' ', pg_backend_pid(),
             current_user, current_setting('TimeZone'), current_setting('work_mem'), current_setting('application_name'),
             current_setting('client_encoding'), 'ü', current_setting('app.user', true), (select count(*) from pg_locks where locktype = 'advisory'
                 and pid = pg_backend_pid()))'''\n",
        pooler.url(database.name())
    ));
    let clean = wharf.get("/look").text().replace("  ", " ");
    assert!(clean.ends_with(" postgres UTC 5MB shop UTF8 ü 0\""), "{clean}");
    for _ in 0..3 {
        assert_eq!(wharf.get("/leave").text(), "1");
        assert_eq!(wharf.get("/look").text().replace("  ", " "), clean);
        assert_eq!(wharf.get("/leave").text(), "1");
        assert_eq!(wharf.get("/sneak").status, 500);
    }
    assert_eq!(database.psql("select count(*) from added"), "0");
}

/// One client asks for one thing after the other. Each answer is its own, or the error that belongs to the request.
fn ask_for_everything(server: std::net::SocketAddr, number: usize, rounds: usize, added: &AtomicU64) {
    let ask = |method: &str, path: &str| {
        let mut client = Client::connect(server);
        client.request(method, path, &[], "");
        client.answer()
    };
    for round in 0..rounds {
        let id = format!("{number}-{round}");
        let is =
            |answer: &Answer, text: &str| assert_eq!((answer.status, answer.text()), (200, text), "{id}");
        match (number + round) % 8 {
            0 => is(&ask("GET", &format!("/echo/{id}")), &format!("\"{id}\"")),
            1 => {
                let item = 1 + number % 9;
                let row = format!(r#"{{"id":{item},"name":"item {item}"}}"#);
                is(&ask("GET", &format!("/item/{item}")), &row);
            }
            2 => {
                is(&ask("POST", &format!("/add/{id}")), &format!("\"{id}\""));
                added.fetch_add(1, Relaxed);
            }
            3 => assert_problem(&ask("GET", "/divide/0"), 400, "division by zero"),
            4 => {
                // Its time may be over before a session is free.
                let answer = ask("GET", &format!("/slow/{id}"));
                assert!([503, 504].contains(&answer.status), "{}: {}", answer.status, answer.text());
            }
            5 => {
                let mut leaving = Client::connect(server);
                leaving.request("GET", &format!("/left/{id}"), &[], "");
                // An end that comes within 10 ms is taken for half a close.
                let since = Instant::now();
                wait_until("time passes", || since.elapsed() > Duration::from_millis(50));
            }
            6 => {
                is(&ask("POST", &format!("/twice/{id}")), &format!("\"{id}\""));
                added.fetch_add(1, Relaxed);
            }
            _ => is(&ask("GET", &format!("/session/{id}")), &format!("\"{id} UTC on\"")),
        }
    }
}

#[test]
fn sixty_four_clients_on_five_sessions_of_a_session_pooler_have_their_own_answers() {
    measured(|| {
        const CLIENTS: usize = 64;
        const ROUNDS: usize = 16;
        let database = database();
        let pooler = pooler("session", 5, "");
        let wharf = Wharf::start(&text(&pooler.url(database.name()), 16, 5));
        let (pid, address, added) = (pooler.pid(), wharf.address(), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let added = &added;
                scope.spawn(move || ask_for_everything(address, number, ROUNDS, added));
            }
        });
        assert_eq!(database.psql("select count(*) from added"), added.into_inner().to_string());
        assert_eq!(database.psql("select count(distinct id) = count(*) from added"), "t");
        assert!(pooler.is_alive() && pooler.pid() == pid, "{}", pooler.log());
        assert!(!pooler.log().contains("FATAL"), "{}", pooler.log());
        for round in 0..20 {
            assert_eq!(wharf.get(&format!("/echo/after-{round}")).text(), format!("\"after-{round}\""));
        }
        wharf.signal("TERM");
        assert_eq!(wharf.wait().code, Some(0), "nothing is left for the drain to wait for");
    });
}

/// Both processes began with `s0`, and a transaction pooler gave each the other's statement.
#[test]
fn a_name_of_a_prepared_statement_stands_for_one_text_in_all_processes() {
    let database = database();
    let names = "[endpoint.names]\nroute = 'GET /names'\n\
                 sql = 'select name, statement from pg_prepared_statements where not from_sql'\n";
    let mut known = BTreeMap::<String, String>::new();
    for process in 0..2 {
        let mut text = format!(
            "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\n{names}",
            database.url()
        );
        for number in 0..5 {
            write!(
                text,
                "[endpoint.e{number}]\nroute = 'GET /{number}'\nsql = 'select {process} as a{number}'\nreturns = 'value'\n"
            )
            .expect("a String takes all");
        }
        let wharf = Wharf::start(&text);
        for round in 0..10 {
            for number in 0..5 {
                let path = format!("/{}", (number + round) % 5);
                assert_eq!(wharf.get(&path).text(), process.to_string());
            }
        }
        let listed = wharf.get("/names").json();
        let listed = listed.as_array().expect("an array");
        assert!(listed.len() >= 5, "{listed:?}");
        for row in listed {
            let column = |name: &str| row[name].as_str().expect("a text").to_owned();
            let (name, statement) = (column("name"), column("statement"));
            let before = known.entry(name.clone()).or_insert_with(|| statement.clone());
            assert_eq!(*before, statement, "{name} stands for both");
        }
    }
}

#[test]
fn a_transaction_pooler_is_refused_at_the_start_with_what_to_do() {
    let database = database();
    for mode in ["transaction", "statement"] {
        for ignored in IGNORED {
            for size in [1, 5] {
                let pooler = pooler(mode, size, ignored);
                for sessions in [1, 5] {
                    let case =
                        format!("{mode}, {size} connections, ignores {ignored:?}, {sessions} sessions");
                    let began = Instant::now();
                    let opened = open(&pooler.url(database.name()), sessions);
                    let took = began.elapsed();
                    let error = opened.err().unwrap_or_else(|| panic!("{case}: it is accepted"));
                    assert_names_the_pooler(&error.to_string());
                    assert!(took < Duration::from_secs(5), "{case}: {took:?}");
                    let server = Server::new(read(text(&pooler.url(database.name()), 1, sessions)));
                    assert_names_the_pooler(&server.err().expect("it is refused").to_string());
                }
                assert!(pooler.is_alive());
            }
        }
    }
}

#[test]
fn serve_refuses_a_transaction_pooler_at_once() {
    let database = database();
    for ignored in IGNORED {
        let pooler = pooler("transaction", 5, ignored);
        let config = text(&pooler.url(database.name()), 4, 4);
        let began = Instant::now();
        let exit = Wharf::run(&config, &["serve", "--listen", "127.0.0.1:0"], &[]);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(exit.code, Some(2), "{}{}", exit.stdout, exit.stderr);
        assert_names_the_pooler(&exit.stderr);
    }
}

#[test]
fn a_session_pooler_with_one_connection_is_accepted_for_one_session() {
    let database = database();
    for ignored in IGNORED {
        let pooler = pooler("session", 1, ignored);
        for _ in 0..3 {
            let began = Instant::now();
            let opened = open(&pooler.url(database.name()), 1).expect("a session pooler is fine");
            assert_eq!(answer_of(&opened), 42);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
    }
}

fn answer_of(database: &database::Database) -> i32 {
    let deadline = Deadline::after(Duration::from_secs(20));
    let mut connection = database.checkout(deadline).expect("a connection is free");
    let row = connection.postgres().expect("it is PostgreSQL").query_one("select 42", &[]);
    row.expect("it runs").get(0)
}

/// Locks of a test's own session. A statement that shares one of them waits until the test gives it back.
fn hold(database: &Database, locks: &[i32]) -> ::postgres::Client {
    let mut holder = ::postgres::Client::connect(&database.url(), ::postgres::NoTls).expect("it answers");
    for lock in locks {
        holder.execute("select pg_advisory_lock($1)", &[&i64::from(*lock)]).expect("the lock is free");
    }
    holder
}

fn give_back(holder: &mut ::postgres::Client, lock: i32) {
    holder.execute("select pg_advisory_unlock($1)", &[&i64::from(lock)]).expect("it is held");
}

/// A client of the pooler that sends several commands at once, and leaves when the first is answered.
fn leave_answers_behind(pooler: &PgBouncer, database: &Database, commands: &[String]) {
    let mut stream = TcpStream::connect(("127.0.0.1", pooler.port())).expect("it listens");
    stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("the limit is not zero");
    let mut sent = BytesMut::new();
    let parameters = [("user", "postgres"), ("database", database.name())];
    frontend::startup_message(parameters, &mut sent).expect("no name has a zero byte");
    for command in commands {
        frontend::query(command, &mut sent).expect("no command has a zero byte");
    }
    stream.write_all(&sent).expect("there is room");
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    // One comes after the login.
    while received.windows(6).filter(|bytes| bytes == b"Z\0\0\0\x05I").count() < 2 {
        let count = stream.read(&mut buffer).expect("an answer comes");
        assert!(count > 0, "it closed: {received:?}");
        received.extend_from_slice(&buffer[..count]);
    }
}

/// `PgBouncer` 1.18 gives a server to the next client when one part of a batch is answered, and with it the answers to the
/// other parts.
#[test]
fn a_session_that_gets_the_answers_of_a_client_that_left_is_opened_again() {
    const LOCKS: [i32; 2] = [6, 7];
    let database = database();
    let pooler = pooler("session", 1, "");
    let url = pooler.url(database.name());
    for others in ["", "'its', ", "'its', 'own', "] {
        let left = pooler.log().matches(" login attempt: ").count();
        let mut holder = hold(&database, &LOCKS);
        let wait = |lock: i32| format!("select {others}pg_advisory_lock_shared({lock})");
        let commands = ["select 1".to_owned(), wait(LOCKS[0]), wait(LOCKS[1])];
        leave_answers_behind(&pooler, &database, &commands);
        let clients = |column: usize| {
            let pools = pooler.admin("show pools");
            let pool = pools.lines().find(|line| line.starts_with(database.name())).map(str::to_owned);
            pool.and_then(|pool| pool.split('|').nth(column).map(str::to_owned)).unwrap_or_default()
        };
        let (active, waiting) = (2, 3);
        wait_until("the client has not left", || clients(active) == "0");
        let opened = thread::scope(|scope| {
            let opening = scope.spawn(|| open(&url, 1));
            wait_until("no session waits", || clients(waiting) == "1");
            give_back(&mut holder, LOCKS[0]);
            wait_until("the session gets no server", || clients(active) == "1");
            give_back(&mut holder, LOCKS[1]);
            opening.join().expect("no panic")
        });
        assert_eq!(answer_of(&opened.expect("the next session is right")), 42);
        assert!(pooler.log().matches(" login attempt: ").count() > left + 2, "it was not opened again");
    }
}

/// The state that a server left on a connection of the pooler would show here.
const FOOTPRINTS: &str = "select concat_ws(' ', current_setting('default_transaction_read_only'),
    current_setting('TimeZone'), current_setting('DateStyle'), current_setting('search_path'),
    current_setting('default_transaction_isolation'), current_setting('statement_timeout'), current_user,
    (select count(*) from pg_prepared_statements), (select count(*) from pg_locks where locktype = 'advisory'
        and pid = pg_backend_pid()), (select count(*) from pg_listening_channels()), pg_my_temp_schema())";

#[test]
fn a_refused_server_leaves_nothing_on_the_poolers_connections() {
    let database = database();
    let clean = psql(&database.url(), FOOTPRINTS).expect("the server answers");
    for ignored in IGNORED {
        for size in [1, 3] {
            let pooler = pooler("transaction", size, ignored);
            let url = pooler.url(database.name());
            // The pooler has opened all its connections before wharf comes.
            let holding = || -> Vec<::postgres::Client> {
                let clients = (0..size).map(|_| {
                    let mut client =
                        ::postgres::Client::connect(&url, ::postgres::NoTls).expect("it answers");
                    client.batch_execute("begin").expect("there is a connection for each");
                    client
                });
                clients.collect()
            };
            for mut client in holding() {
                client.batch_execute("commit").expect("it may end");
            }
            for _ in 0..3 {
                assert_names_the_pooler(&open(&url, 5).expect_err("it is refused").to_string());
            }
            for mut client in holding() {
                let rows = client.simple_query(FOOTPRINTS).expect("it runs");
                let found = rows.iter().find_map(|row| match row {
                    ::postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                assert_eq!(found, Some(&*clean));
                client
                    .batch_execute("insert into added values ('another client'); commit")
                    .expect("it may write");
            }
        }
    }
    assert_eq!(database.psql("select count(*) from added"), "8");
}

/// Each server answers 503 and logs the reason. Until then an answer may still be right, but never the other server's.
fn assert_refused_from_now_on(wharves: &[Wharf]) {
    for (number, wharf) in wharves.iter().enumerate() {
        let ask = |round: u32| {
            let answer = wharf.get(&format!("/mine/{round}"));
            match answer.status {
                200 => assert_eq!(answer.text(), format!("\"{number} {round}\"")),
                _ => assert_eq!(answer.status, 503, "{}", answer.text()),
            }
            answer.status
        };
        let until = Instant::now() + crate::support::PATIENCE;
        let mut rounds = 0..;
        let mut next = || ask(rounds.next().expect("there is no last one"));
        while next() != 503 || !wharf.log().contains("transaction") {
            assert!(Instant::now() < until, "it goes on, or does not say why: {}", wharf.log());
        }
        assert_names_the_pooler(&wharf.log());
        for _ in 0..10 {
            assert_eq!(next(), 503);
        }
    }
}

fn two_servers(pooler: &PgBouncer, database: &Database) -> [Wharf; 2] {
    [0, 1].map(|number| {
        let config = format!(
            "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\nconnection_timeout = '300ms'\n\
             [endpoint.mine]\nroute = 'GET /mine/{{id}}'\nparams = {{ id = 'text' }}\n\
             sql = \"select '{number} ' || :id::text\"\nreturns = 'value'\n",
            pooler.url(database.name())
        );
        let wharf = Wharf::start(&config);
        for _ in 0..10 {
            assert_eq!(wharf.get("/mine/x").text(), format!("\"{number} x\""));
        }
        wharf
    })
}

#[test]
fn a_restart_as_a_transaction_pooler_is_noticed_and_so_is_the_way_back() {
    let database = database();
    let mut pooler = pooler("session", 2, "");
    let wharves = two_servers(&pooler, &database);
    pooler.restart_as("transaction");
    assert_refused_from_now_on(&wharves);
    pooler.restart_as("session");
    for (number, wharf) in wharves.iter().enumerate() {
        wait_until("it does not recover", || wharf.get("/mine/x").status == 200);
        assert_eq!(wharf.get("/mine/y").text(), format!("\"{number} y\""));
    }
}

#[test]
fn a_reload_as_a_transaction_pooler_is_noticed() {
    let database = database();
    let mut pooler = pooler("session", 2, "");
    let wharves = two_servers(&pooler, &database);
    pooler.reload_as("transaction");
    assert_refused_from_now_on(&wharves);
}
