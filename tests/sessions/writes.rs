//! A plain write, and a read with `random()`, need no cleaning if nothing that they call can leave something. Otherwise
//! the session is cleaned as after other statements.

use std::fmt::Write as _;

use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Running;

use super::served::{ask, endpoint, look, looking, serve, server, steps};
use crate::support::{Database, Postgres, Withholding, wait_until};

/// Functions that leave a setting or a lock. Each is parallel unsafe or restricted, as functions
/// are by default and as the manual says of such functions.
const LEAVING: &str = "
    create function leave() returns int language plpgsql as
        $$ begin perform set_config('app.user', 'ann', false); return 1; end $$;
    create function leave_locked(int) returns int language plpgsql immutable parallel restricted as
        $$ begin perform pg_advisory_lock(77); return $1; end $$;
    create function leave_true(int) returns bool language plpgsql immutable as
        $$ begin perform set_config('app.user', 'ann', false); return true; end $$;
    create function leave_on_change() returns trigger language plpgsql as
        $$ begin perform leave(); return coalesce(new, old); end $$;
    create function innocent(int) returns int language sql immutable parallel safe as 'select $1';
    create function with_a_default(n int default leave()) returns int language plpgsql parallel safe as
        $$ begin return n; end $$";

const LOOK: &str = "concat(current_setting('app.user', true),
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()))";

/// The cleaning of a session, and of its sequences alone.
const CLEANING: &str = "reset all";
const FORGETTING: &str = "begin; discard sequences; commit";

/// The work that a session needs after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The numbers of sequences are forgotten before a statement that could read them.
    Forgetting,
    Cleaning,
}

/// Name, what is made for it, statement.
type Case = (&'static str, &'static str, &'static str);

/// One database and its server, with a proxy between them that knows what is sent.
struct Observed {
    proxy: Withholding,
    server: Running,
}

impl Observed {
    fn new(database: &Database, endpoints: &str) -> Self {
        let proxy = Withholding::to(Postgres::shared().port());
        let url =
            format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port(), database.name());
        let endpoints = endpoints.to_owned()
            + &endpoint("GET", "harmless", "select 42")
            + &endpoint("GET", "unknown", "select pg_backend_pid()")
            + &looking(LOOK);
        let server = server(&url, "", &endpoints).start().expect("a free port");
        Self { proxy, server }
    }

    fn succeed(&self, method: &str, path: &str) {
        let answer = ask(&self.server, method, path);
        assert!(answer.status < 300, "{path}: {}", answer.text());
    }

    /// The work that is sent between this request and a statement that reads no number, and before one that might.
    fn needs(&self, method: &str, path: &str) -> Needs {
        self.proxy.hold();
        self.proxy.release();
        self.succeed(method, path);
        self.succeed("GET", "/harmless");
        // A question to the catalog takes the forgetting with it.
        if self.proxy.has_sent(CLEANING) || self.proxy.has_sent(FORGETTING) {
            return Needs::Cleaning;
        }
        self.succeed("GET", "/unknown");
        // A question that was due by then, after a second, has the session cleaned as a whole.
        if self.proxy.has_sent(CLEANING) {
            Needs::Cleaning
        } else if self.proxy.has_sent(FORGETTING) {
            Needs::Forgetting
        } else {
            Needs::Nothing
        }
    }

    /// Asks until the answer is known and no question about another statement comes between.
    fn assert_needs_only(&self, method: &str, path: &str, wanted: Needs) {
        let mut found = Needs::Cleaning;
        wait_until("the session is cleaned each time", || {
            found = self.needs(method, path);
            found != Needs::Cleaning
        });
        assert_eq!(found, wanted, "{path}");
    }

    fn assert_always_cleans(&self, method: &str, path: &str) {
        let clean = look(&self.server);
        for _ in 0..7 {
            assert_eq!(self.needs(method, path), Needs::Cleaning, "{path}");
            self.succeed(method, path);
            assert_eq!(look(&self.server), clean, "{path}");
        }
    }
}

fn endpoints(method: &str, cases: &[Case]) -> String {
    let mut text = String::new();
    for (name, _, sql) in cases {
        let written = write!(text, "{}", endpoint(method, name, sql));
        written.expect("a String takes all");
    }
    text
}

fn database(cases: &[Case]) -> Database {
    let database = Postgres::database();
    database.psql(LEAVING);
    for (_, made, _) in cases {
        if !made.is_empty() {
            database.psql(made);
        }
    }
    database
}

/// Tables with what services give them.
const TABLES: &str = "
    create type mood as enum ('well', 'ill');
    create domain age as int check (value >= 0);
    create table parent (id int primary key, label text);
    insert into parent select n from generate_series(1, 9) n;
    create table child (id uuid default gen_random_uuid() primary key, parent int default 1 references parent,
        made timestamptz default now(), lucky float8 default random(), feels mood default 'well', years age,
        tags text[], document jsonb, twice int generated always as (parent * 2) stored,
        n int check (innocent(n) < 1000));
    create index on child (lower(n::text)) where years > 3;
    create table numbered (id int generated always as identity, n int);
    create table serial (id bigserial primary key, n int)";

const PLAIN: [Case; 7] = [
    ("insert", TABLES, "insert into child (parent, n, years) values (3, 4, 5)"),
    (
        "upsert",
        "",
        "insert into parent values (1, 'a') on conflict (id) do update set label = excluded.label",
    ),
    (
        "update",
        "",
        "update child set n = innocent(n) + 1, tags = '{a}' where parent in (1, 3) and made < now()",
    ),
    ("delete", "", "delete from child using parent where parent.id = child.parent and child.n > 3"),
    ("no_rows", "", "UPDATE \"child\" SET n = null /* none */ WHERE false; -- the end"),
    ("parent", "", "update parent set label = 'b' where id = 2"),
    ("from_rows", "", "insert into child (n) select n from child where n > 100000"),
];

#[test]
fn a_plain_write_needs_no_cleaning() {
    let database = database(&PLAIN);
    let observed = Observed::new(&database, &endpoints("POST", &PLAIN));
    for (name, _, _) in PLAIN {
        observed.assert_needs_only("POST", &format!("/{name}"), Needs::Nothing);
    }
    observed.server.drain();
}

const NUMBERED: [Case; 4] = [
    ("identity", TABLES, "insert into numbered (n) values (1)"),
    ("serial", "", "insert into serial (n) values (1)"),
    ("both", "", "insert into numbered (n) select n from serial limit 1"),
    ("call", "", "insert into parent values (nextval('serial_id_seq') + 1000)"),
];

/// The functions are declared as their like are by default.
const LAST: &str = "
    create function last_number() returns text language plpgsql as $$
        begin return lastval(); exception when others then return 'none'; end $$;
    create function current_number() returns text language plpgsql as $$
        begin return currval('serial_id_seq'); exception when others then return 'none'; end $$";

#[test]
fn a_write_that_takes_a_number_needs_cleaning_only_before_the_number_could_be_read() {
    let database = database(&NUMBERED);
    let observed = Observed::new(&database, &endpoints("POST", &NUMBERED));
    for (name, _, _) in NUMBERED {
        observed.assert_needs_only("POST", &format!("/{name}"), Needs::Forgetting);
    }
    observed.server.drain();
}

fn number_of_its_own(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.postgres()?;
    session.execute("insert into serial (n) values (2)", &[])?;
    let own = session
        .query_one("select last_number() = current_number() and lastval() = max(id) from serial", &[])?;
    Ok(Response::text(if own.get::<_, bool>(0) { "its own" } else { "another's" }))
}

/// The numbers are kept from one request to the next. No request reads another's, and each reads its own.
#[test]
fn no_request_reads_the_number_that_another_one_took() {
    let database = Postgres::database();
    database.psql(LEAVING);
    database.psql(TABLES);
    database.psql(LAST);
    let endpoints = endpoint("POST", "insert", "insert into serial (n) values (1)")
        + &endpoint("POST", "update", "update serial set n = 3 where id = 1")
        + &endpoint("GET", "harmless", "select 42")
        + &endpoint("GET", "last", "select last_number()")
        + &endpoint("GET", "lastval", "select lastval()")
        + &endpoint("GET", "current", "select current_number()")
        + &endpoint("POST", "copy_last", "insert into parent values (lastval() + 1000)")
        + &steps(
            "POST",
            "own",
            &["insert into serial (n) values (1) returning id", "select current_number()"],
        )
        + &steps("POST", "copy", &["select 1", "select current_number() || last_number()"]);
    let server = server(&database.url(), "", &endpoints).get("/handler", number_of_its_own);
    let server = server.start().expect("a free port");
    for _ in 0..8 {
        for (method, path, status, text) in [
            ("GET", "/last", 200, "\"none\""),
            ("GET", "/current", 200, "\"none\""),
            ("POST", "/copy", 200, "\"nonenone\""),
            ("GET", "/handler", 200, "its own"),
        ] {
            assert_eq!(ask(&server, "POST", "/insert").status, 204);
            assert_eq!(ask(&server, "GET", "/harmless").text(), "42");
            assert_eq!(ask(&server, "POST", "/update").status, 204);
            let answer = ask(&server, method, path);
            assert_eq!((answer.status, answer.text()), (status, text), "{path}");
        }
        for (method, path) in [("GET", "/lastval"), ("POST", "/copy_last")] {
            assert_eq!(ask(&server, "POST", "/insert").status, 204);
            assert_eq!(ask(&server, method, path).status, 500, "{path} reads another's number");
        }
        assert_eq!(ask(&server, "POST", "/insert").status, 204);
        let own = ask(&server, "POST", "/own").text().trim_matches('"').parse::<u32>();
        let last = database.psql("select max(id) from serial").parse::<u32>();
        assert_eq!(own.expect("a number"), last.expect("a number"));
    }
    server.drain();
}

/// Something that the statement calls, or that its table calls, leaves something.
const LEAVES: [Case; 24] = [
    ("condition", "create table one as select 1 as n", "update one set n = 1 where leave() = n"),
    ("value", "", "insert into one values (leave())"),
    (
        "functional",
        "create table whole (n int); insert into whole values (1);
        create function leave_whole(whole) returns int language sql as 'select leave()'",
        "update whole set n = whole.leave_whole",
    ),
    ("of_a_value", "", "update one set n = ((1)::int).leave_locked"),
    ("setting", "", "update one set n = length(set_config('app.user', 'ann', not true))"),
    ("argument", "", "update one set n = with_a_default()"),
    ("rows", "create view v as select leave() as n", "insert into one select n from v"),
    (
        "on_conflict",
        "create table key (n int primary key); insert into key values (1)",
        "insert into key values (1) on conflict (n) do update set n = leave()",
    ),
    ("default_value", "create table d (n int default leave(), m int)", "insert into d (m) values (1)"),
    (
        "default_argument",
        "create table da (n int default with_a_default(), m int)",
        "insert into da (m) values (1)",
    ),
    (
        "default_setting",
        "create table ds (n text default set_config('app.user', 'ann', false), m int)",
        "insert into ds (m) values (1)",
    ),
    ("check", "create table c (n int check (leave_locked(n) = n))", "insert into c values (1)"),
    (
        "generated",
        "create table g (n int, m int generated always as (leave_locked(n)) stored)",
        "insert into g values (1)",
    ),
    ("index", "create table i (n int); create index on i (leave_locked(n))", "insert into i values (1)"),
    (
        "index_condition",
        "create table ic (n int); create index on ic (n) where leave_true(n)",
        "insert into ic values (1)",
    ),
    (
        "trigger",
        "create table t (n int);
        create trigger t after update or insert on t for each row execute function leave_on_change()",
        "insert into t values (1)",
    ),
    (
        "other_trigger",
        "create table o (n int); insert into o values (1);
        create trigger o after delete on o for each statement execute function leave_on_change()",
        "update o set n = 2",
    ),
    (
        "deferred_trigger",
        "create table l (n int); create constraint trigger l after insert on l
        deferrable initially deferred for each row execute function leave_on_change()",
        "insert into l values (1)",
    ),
    (
        "rule",
        "create table r (n int); create rule r as on insert to r do also select leave()",
        "insert into r values (1)",
    ),
    (
        "cascade",
        "create table up (n int primary key); create table down (n int references up on delete cascade);
        create trigger d after delete on down for each statement execute function leave_on_change();
        insert into up values (1)",
        "delete from up where n = 1",
    ),
    (
        "view",
        "create table under (n int default leave(), m int); create view over as select m from under",
        "insert into over values (1)",
    ),
    (
        "inherited",
        "create table base (n int); create table derived () inherits (base); insert into derived values (1);
        create trigger d after update on derived for each row execute function leave_on_change()",
        "update base set n = n + 1",
    ),
    (
        "partition",
        "create table whole_of (n int) partition by list (n);
        create table part_of partition of whole_of for values in (1);
        create trigger d after insert on part_of for each row execute function leave_on_change()",
        "insert into whole_of values (1)",
    ),
    ("settings", "", "update pg_settings set setting = 'Asia/Tokyo' where name = 'TimeZone'"),
];

#[test]
fn a_write_that_may_leave_something_is_cleaned_after() {
    let control = ("control", "create table plain (n int)", "insert into plain values (1)");
    let cases: Vec<Case> = LEAVES.into_iter().chain([control]).collect();
    let database = database(&cases);
    let observed = Observed::new(&database, &endpoints("POST", &cases));
    for (name, _, _) in LEAVES {
        observed.assert_always_cleans("POST", &format!("/{name}"));
    }
    observed.assert_needs_only("POST", "/control", Needs::Nothing);
    observed.server.drain();
}

/// These may be called for a statement that names neither them nor a table with them.
const MADE: [&str; 7] = [
    "create type mine; create function mine_in(cstring) returns mine language internal immutable strict as 'int4in';
     create function mine_out(mine) returns cstring language internal immutable strict as 'int4out';
     create type mine (input = mine_in, output = mine_out, like = int4)",
    "create function sum_up(int, int) returns int language plpgsql as $$ begin return leave(); end $$;
     create operator + (leftarg = int, rightarg = int, function = sum_up)",
    "create function of_text(text) returns int language plpgsql as $$ begin return leave(); end $$;
     create type pair as (a int, b int);
     create function of_pair(pair) returns int language plpgsql as $$ begin return leave(); end $$;
     create cast (pair as int) with function of_pair(pair) as implicit",
    "create domain dom as int check (leave_true(value))",
    "create domain dom as int default leave()",
    "create function apart(int, int) returns float8 language plpgsql immutable as
         $$ begin perform leave(); return 1; end $$;
     create function apart(float8, float8) returns float8 language plpgsql immutable as
         $$ begin perform leave(); return 1; end $$;
     create type span as range (subtype = float8, subtype_diff = apart)",
    "create function differ(int, int) returns int language plpgsql immutable as
         $$ begin perform leave(); return $1 - $2; end $$;
     create operator class sly for type int using btree as
         operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 differ(int, int)",
];

#[test]
fn no_write_is_plain_where_an_operator_or_a_type_leaves_something() {
    for made in MADE {
        let database = Postgres::database();
        database.psql(LEAVING);
        database.psql(&format!("create table plain (n int); {made}"));
        let observed = Observed::new(&database, &endpoint("POST", "write", "insert into plain values (1)"));
        observed.assert_always_cleans("POST", "/write");
        observed.server.drain();
    }
}

#[test]
fn a_policy_for_writes_leaves_nothing() {
    let database = Postgres::database();
    let role = format!("{}_user", database.name());
    database.psql(LEAVING);
    database.psql(&format!(
        "create table guarded (n int); alter table guarded enable row level security;
         create policy p on guarded with check (leave() = 1);
         create role {role} login; grant all on all tables in schema public to {role}"
    ));
    let endpoints = endpoint("POST", "write", "insert into guarded values (1)") + &looking(LOOK);
    let server = serve(&database.url().replace("postgres@", &format!("{role}@")), &endpoints);
    let clean = look(&server);
    for _ in 0..7 {
        assert_eq!(ask(&server, "POST", "/write").status, 204);
        assert_eq!(look(&server), clean);
    }
    server.drain();
}

/// The verdict is asked for again after a second, as the planner is.
#[test]
fn a_trigger_that_is_added_later_soon_leaves_nothing() {
    let database = Postgres::database();
    database.psql(LEAVING);
    database.psql("create table t (n int)");
    let observed = Observed::new(&database, &endpoint("POST", "write", "insert into t values (1)"));
    let clean = look(&observed.server);
    observed.assert_needs_only("POST", "/write", Needs::Nothing);
    database.psql("create trigger t before insert on t for each row execute function leave_on_change()");
    wait_until("the catalog is not asked again", || {
        observed.succeed("POST", "/write");
        look(&observed.server) == clean
    });
    for _ in 0..3 {
        observed.succeed("POST", "/write");
        assert_eq!(look(&observed.server), clean, "the trigger runs now");
    }
    observed.server.drain();
}

const RANDOM: [Case; 6] = [
    (
        "a_row",
        "create table world as select n as id, n as \"randomNumber\" from generate_series(1, 100) n",
        "select id, \"randomNumber\" from world where id = (select coalesce(null, 1 + floor(random() * 100)::int))",
    ),
    ("order", "", "select id from world order by random() limit 1"),
    ("sample", "", "select count(*) + 0 * random() from world tablesample system (50)"),
    ("column", "create table r as select 1 as random", "select r.random + random() from r"),
    ("qualified", "", "select pg_catalog.random()"),
    ("rows", "", "select random from random() as random"),
];

#[test]
fn a_read_with_random_needs_no_cleaning() {
    let database = database(&RANDOM);
    let endpoints = endpoints("GET", &RANDOM).replace("returns = 'value'", "returns = 'many'");
    let observed = Observed::new(&database, &endpoints);
    for (name, _, _) in RANDOM {
        observed.assert_needs_only("GET", &format!("/{name}"), Needs::Nothing);
    }
    observed.server.drain();
}

const RANDOM_LEAVES: [Case; 8] = [
    ("beside", "", "select random() + leave()"),
    ("within", "", "select leave_locked((random() * 0)::int)"),
    ("of_a_value", "", "select random() + (1).leave_locked"),
    ("lock", "", "select random()::text || \"pg_advisory_lock\"(77)::text"),
    ("seed", "", "select setseed(0.5)::text || random()::text"),
    ("view", "create view v as select leave() as n, random() as r", "select r from v where random() < 2"),
    ("setting", "", "select random()::text || set_config('app.user', 'ann', not true)"),
    ("table", "", "select random() from pg_settings limit 1"),
];

#[test]
fn a_read_with_random_that_may_leave_something_is_cleaned_after() {
    let database = database(&RANDOM_LEAVES);
    let observed = Observed::new(&database, &endpoints("GET", &RANDOM_LEAVES));
    for (name, _, _) in RANDOM_LEAVES {
        observed.assert_always_cleans("GET", &format!("/{name}"));
    }
    observed.server.drain();
}

/// Functions of the user's own come first in the `search_path`.
#[test]
fn another_function_with_the_name_of_random_leaves_nothing() {
    for function in ["mine.random()", "mine.random(int default 1)"] {
        let database = Postgres::database();
        database.psql(LEAVING);
        database.psql(&format!(
            "create schema mine; create function {function} returns float8 language plpgsql as
                 $$ begin perform public.leave(); return 0.5; end $$;
             alter database {} set search_path = mine, pg_catalog, public",
            database.name()
        ));
        let observed = Observed::new(&database, &endpoint("GET", "random", "select random()"));
        observed.assert_always_cleans("GET", "/random");
        observed.server.drain();
    }
}

/// Borrows the session three times: to leave something, for a command that the session refuses, and to look.
fn leave_and_be_refused(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    context.database()?.postgres()?.query("select leave()", &[])?;
    let refused = context.database()?.postgres()?.execute("begin", &[]);
    let seen = context.database()?.postgres()?.query_one(&format!("select {LOOK}"), &[])?;
    let seen = seen.get::<_, String>(0);
    Ok(Response::text(format!("{seen} {}", refused.is_err())))
}

/// The worker is busy all the time, so it does not clean the session between the borrows.
#[test]
fn a_cleaning_is_not_lost_with_a_statement_that_is_not_sent() {
    let database = Postgres::database();
    database.psql(LEAVING);
    let server = server(&database.url(), "", "").get("/leave", leave_and_be_refused);
    let server = server.start().expect("a free port");
    for _ in 0..3 {
        let answer = ask(&server, "GET", "/leave");
        assert_eq!((answer.status, answer.text()), (200, "0 true"));
    }
    server.drain();
}
