//! SQLite: a handler in Rust changes the connection for itself alone.

use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Running;

use super::served::{ask, endpoint, running, server};

/// A file with a table, and a server on it.
struct Served {
    directory: tempfile::TempDir,
    server: Running,
}

/// Runs the query's `sql` on SQLite's own connection.
fn run_raw(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let sql = request.query_value("sql").unwrap_or_default();
    context.database()?.sqlite()?.execute_batch(&sql)?;
    Ok(Response::text("done"))
}

/// Begins a transaction and never ends it.
fn begin(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    context.database()?.sqlite()?.execute_batch("begin; insert into item values (99, 'never')")?;
    Ok(Response::text("begun"))
}

impl Served {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("test.db");
        let file = rusqlite::Connection::open(&path).expect("SQLite opens");
        file.execute_batch(
            "create table item (id integer primary key, name text check (name <> ''));
             insert into item values (1, 'everybody');
             create table part (item integer references item);
             create table log (n integer); create table depth (n integer);
             create trigger recursive after insert on depth when new.n > 0
                 begin insert into depth values (new.n - 1); end",
        )
        .expect("the tables are made");
        let endpoints = endpoint("GET", "name", "select name from item where id = 1")
            + &endpoint("GET", "items", "select count(*) from item")
            + &endpoint("GET", "foreign_keys", "select foreign_keys from pragma_foreign_keys")
            + &endpoint("GET", "cache_size", "select cache_size from pragma_cache_size")
            + &endpoint(
                "GET",
                "databases",
                "select group_concat(name) from pragma_database_list where name <> 'temp'",
            )
            + &endpoint("GET", "temporary", "select count(*) from sqlite_temp_master")
            + &endpoint("GET", "like", "select 'A' like 'a'")
            + &endpoint("POST", "orphan", "insert into part values (77)")
            + &endpoint("POST", "nameless", "insert into item values (2, '')")
            + &endpoint("POST", "add", "insert into log values (1)")
            + &endpoint("POST", "deep", "insert into depth values (3)")
            + &endpoint("GET", "depth", "select count(*) from depth");
        let url = format!("sqlite:{}", path.display());
        let server = server(&url, more, &endpoints).get("/run", run_raw).get("/begin", begin);
        Self { directory, server: server.start().expect("a free port") }
    }

    fn get(&self, path: &str) -> String {
        let answer = ask(&self.server, "GET", path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text().to_owned()
    }

    fn post(&self, path: &str) -> u16 {
        ask(&self.server, "POST", path).status
    }

    /// A handler runs this, or is refused.
    fn run(&self, sql: &str) {
        ask(&self.server, "GET", &running(sql));
    }
}

#[test]
fn a_handler_that_turns_foreign_keys_off_turns_them_off_for_itself_alone() {
    let served = Served::new("");
    assert_eq!(served.get("/foreign_keys"), "1");
    served.run("pragma foreign_keys = off");
    assert_eq!(served.get("/foreign_keys"), "1");
    assert_eq!(served.post("/orphan"), 409);
    served.server.drain();
}

#[test]
fn a_handlers_temporary_table_hides_no_table_from_the_next_request() {
    let served = Served::new("");
    assert_eq!(served.get("/name"), "\"everybody\"");
    for made in [
        "create temp table item as select 1 as id, 'somebody' as name",
        "create temp view item as select 1 as id, 'somebody' as name",
    ] {
        served.run(made);
        assert_eq!(served.get("/name"), "\"everybody\"", "after {made}");
        assert_eq!(served.get("/temporary"), "0", "after {made}");
    }
    served.run("create temp trigger sly after insert on log begin delete from item; end");
    assert_eq!(served.post("/add"), 204);
    assert_eq!(served.get("/items"), "1", "the next request's insert ran a handler's trigger");
    served.server.drain();
}

#[test]
fn a_handlers_attached_file_is_not_the_next_requests() {
    let served = Served::new("");
    let other = served.directory.path().join("other.db");
    served.run(&format!("attach '{}' as other", other.display()));
    assert_eq!(served.get("/databases"), "\"main\"");
    // Attached under the same name it would be refused, if the first were still there.
    let again = ask(&served.server, "GET", &running(&format!("attach '{}' as other", other.display())));
    assert_eq!(again.status, 200, "{}", again.text());
    served.server.drain();
}

#[test]
fn a_handlers_ban_on_writes_ends_with_its_request() {
    let served = Served::new("");
    served.run("pragma query_only = on");
    assert_eq!(served.post("/add"), 204);
    served.server.drain();
}

#[test]
fn a_handlers_looser_rules_end_with_its_request() {
    let served = Served::new("");
    served.run("pragma ignore_check_constraints = on");
    assert_eq!(served.post("/nameless"), 400);
    served.run("pragma recursive_triggers = on; pragma case_sensitive_like = on");
    assert_eq!(served.get("/like"), "1");
    assert_eq!(served.post("/deep"), 204);
    assert_eq!(served.get("/depth"), "2", "a trigger that fires itself goes on only where it is told to");
    served.server.drain();
}

/// Other processes could not even read any more.
#[test]
fn a_handlers_exclusive_lock_goes_with_its_request() {
    let served = Served::new("");
    served.run("pragma locking_mode = exclusive; insert into log values (1)");
    assert_eq!(served.get("/name"), "\"everybody\"");
    let other = rusqlite::Connection::open(served.directory.path().join("test.db")).expect("SQLite opens");
    let count = other.query_row("select count(*) from item", [], |row| row.get::<_, i64>(0));
    assert_eq!(count.expect("nobody holds a lock"), 1);
    served.server.drain();
}

#[test]
fn a_transaction_that_a_handler_leaves_open_is_undone() {
    let served = Served::new("");
    for _ in 0..2 {
        assert_eq!(served.get("/begin"), "begun");
        assert_eq!(served.get("/items"), "1");
    }
    served.server.drain();
}

#[test]
fn settings_of_connection_init_sql_hold_after_the_clean_up() {
    let served = Served::new("connection_init_sql = 'pragma cache_size = 78'");
    assert_eq!(served.get("/cache_size"), "78");
    served.run("pragma cache_size = 5");
    assert_eq!(served.get("/cache_size"), "78");
    served.run("create temp table kept (n int)");
    assert_eq!(served.get("/cache_size"), "78");
    served.server.drain();
}
