//! SQL endpoints on MariaDB: parameters of every type, rows of every shape, steps, and reads that may not write.

use crate::support::{Mariadb, assert_nothing_is_left, assert_problem};
use crate::{ask, ask_with, get, refused, serve, value, write};

const SCHEMA: &str = "
    create table account (id int primary key, owner varchar(40) not null unique, balance int not null check (balance >= 0));
    create table entry (id int primary key, account int not null, label varchar(40) not null,
        constraint of_account foreign key (account) references account (id));
    insert into account values (1, 'Ada', 100), (2, 'Grace', 100)";

const ENDPOINTS: &str = "
[endpoint.accounts]
route   = 'GET /accounts'
sql     = 'select id, balance from account order by id'

[endpoint.account]
route   = 'GET /accounts/{id}'
params  = { id = 'int' }
sql     = 'select id, owner, balance from account where id = :id'
returns = 'one'

[endpoint.by_owner]
route   = 'GET /owners'
params  = { owner = { type = 'text', optional = true } }
sql     = 'select id from account where owner = :owner or :owner is null order by id'

[endpoint.add]
route   = 'POST /accounts'
params  = { id = { in = 'body', type = 'int' }, owner = { in = 'body', type = 'text', optional = true }, balance = { in = 'body', type = 'int' } }
sql     = 'insert into account (id, owner, balance) values (:id, :owner, :balance) returning id, owner'
returns = 'one'
status  = 201

[endpoint.set]
route       = 'PUT /accounts/{id}'
params      = { id = 'int', balance = { in = 'body', type = 'int' } }
sql         = 'update account set balance = :balance where id = :id'
expect_rows = 1
otherwise   = { status = 404, detail = 'no such account' }

[endpoint.remove]
route   = 'DELETE /accounts/{id}'
params  = { id = 'int' }
sql     = 'delete from account where id = :id'

[endpoint.transfer]
route   = 'POST /transfers'
params  = { src = { in = 'body', type = 'int' }, dst = { in = 'body', type = 'int' }, amount = { in = 'body', type = 'int', min = 1 } }
returns = 'many'
[[endpoint.transfer.step]]
sql = 'update account set balance = balance - :amount where id = :src and balance >= :amount'
expect_rows = 1
otherwise = { status = 409, detail = 'insufficient funds' }
[[endpoint.transfer.step]]
sql = 'update account set balance = balance + :amount where id = :dst'
expect_rows = 1
otherwise = { status = 404, detail = 'no such account' }
[[endpoint.transfer.step]]
sql = 'select id, balance from account order by id'

[endpoint.booking]
route   = 'POST /bookings'
params  = { account = { in = 'body', type = 'int' }, label = { in = 'body', type = 'text', optional = true } }
[[endpoint.booking.step]]
sql = 'update account set balance = balance + 10'
[[endpoint.booking.step]]
sql = 'insert into entry (id, account, label) values (1, :account, :label)'

[endpoint.nothing]
route   = 'GET /nothing'
sql     = 'select id from account where false'
";

#[test]
fn rows_and_single_rows_and_none() {
    let database = Mariadb::database();
    database.sql(SCHEMA);
    let server = serve(&database.url(), ENDPOINTS);
    for _ in 0..3 {
        assert_eq!(get(&server, "/accounts"), r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#);
        assert_eq!(get(&server, "/accounts/2"), r#"{"id":2,"owner":"Grace","balance":100}"#);
        assert_eq!(get(&server, "/nothing"), "[]");
        assert_eq!(ask(&server, "GET", "/accounts/3").status, 404);
        assert_eq!(get(&server, "/owners"), r#"[{"id":1},{"id":2}]"#);
        assert_eq!(get(&server, "/owners?owner=Ada"), r#"[{"id":1}]"#);
        assert_eq!(get(&server, "/owners?owner="), "[]");
    }
    assert_nothing_is_left(server);
}

#[test]
fn writes_return_rows_or_their_number_counts() {
    let database = Mariadb::database();
    database.sql(SCHEMA);
    let server = serve(&database.url(), ENDPOINTS);
    let added = ask_with(&server, "POST", "/accounts", r#"{"id":3,"owner":"O'Hara \\ \"x\"","balance":7}"#);
    assert_eq!((added.status, added.text()), (201, r#"{"id":3,"owner":"O'Hara \\ \"x\""}"#));
    assert_eq!(database.sql("select owner from account where id = 3"), r#"O'Hara \ "x""#);
    // The same balance again: the row matches, although nothing changes.
    for _ in 0..2 {
        assert_eq!(ask_with(&server, "PUT", "/accounts/3", r#"{"balance":8}"#).status, 204);
    }
    assert_problem(&ask_with(&server, "PUT", "/accounts/9", r#"{"balance":8}"#), 404, "no such account");
    assert_eq!(ask(&server, "DELETE", "/accounts/3").status, 204);
    assert_eq!(get(&server, "/accounts"), r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#);
    assert_nothing_is_left(server);
}

#[test]
fn a_transaction_that_fails_at_any_step_leaves_nothing() {
    const BEFORE: &str = r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#;
    let database = Mariadb::database();
    database.sql(SCHEMA);
    let server = serve(&database.url(), ENDPOINTS);
    let transfer = |src, dst, amount| {
        ask_with(&server, "POST", "/transfers", &format!(r#"{{"src":{src},"dst":{dst},"amount":{amount}}}"#))
    };
    for _ in 0..2 {
        assert_problem(&transfer(1, 2, 101), 409, "insufficient funds");
        assert_problem(&transfer(1, 9, 50), 404, "no such account");
        assert_eq!(get(&server, "/accounts"), BEFORE, "the first step was undone");
        assert_eq!(transfer(2, 1, 100).text(), r#"[{"id":1,"balance":200},{"id":2,"balance":0}]"#);
        assert_eq!(transfer(1, 2, 100).text(), BEFORE);
        for (status, body) in [
            (409, r#"{"account":9,"label":"x"}"#),
            (400, r#"{"account":1}"#),
            (400, r#"{"account":1,"label":null}"#),
        ] {
            let answer = ask_with(&server, "POST", "/bookings", body);
            assert_eq!(answer.status, status, "{body}: {}", answer.text());
            assert_eq!(get(&server, "/accounts"), BEFORE);
        }
    }
    assert_eq!(database.sql("select count(*) from information_schema.innodb_trx"), "0");
    assert_nothing_is_left(server);
}

/// Each type of parameter arrives as the database's own type for it.
#[test]
fn every_kind_of_parameter_arrives() {
    // Type, how it is used, what is sent in a JSON body, what comes back.
    let cases = [
        ("int", ":v", "-9223372036854775808", "-9223372036854775808"),
        ("int", ":v + 0", "9223372036854775807", "9223372036854775807"),
        ("float", ":v", "0.1", "0.1"),
        ("float", ":v", "-1e300", "-1e300"),
        ("text", ":v", r#""'; drop table x; -- ü 😀 \\ \u0001""#, r#""'; drop table x; -- ü 😀 \\ \u0001""#),
        ("text", ":v", r#""""#, r#""""#),
        ("text", "cast(:v as int)", r#""42""#, "42"),
        ("bool", ":v = true", "true", "1"),
        ("bool", "if(:v, 'yes', 'no')", "false", r#""no""#),
        ("date", "cast(:v as date)", r#""2013-01-31""#, r#""2013-01-31""#),
        ("date", "dayname(:v)", r#""2013-01-31""#, r#""Thursday""#),
        ("timestamp", "cast(:v as datetime(6))", r#""2013-01-01T10:00:00.5Z""#, r#""2013-01-01T10:00:00.5""#),
        ("timestamp", "unix_timestamp(:v)", r#""2013-01-01T10:00:00Z""#, "1357034400"),
        (
            "uuid",
            "cast(:v as uuid)",
            r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#,
            r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#,
        ),
        ("json", "json_extract(:v, '$.a[1]')", r#"{"a":[1,2.50]}"#, r#""2.50""#),
        ("bytes", "hex(:v)", r#""AP8=""#, r#""00FF""#),
        ("bytes", "length(:v)", r#""""#, "0"),
        ("int[]", "json_length(:v)", "[1,2,3]", "3"),
        ("int[]", "(select sum(n) from json_table(:v, '$[*]' columns (n int path '$')) t)", "[1,2,39]", "42"),
        ("text[]", "json_unquote(json_extract(:v, '$[1]'))", r#"["a","b\"ü"]"#, r#""b\"ü""#),
        ("text[]", "json_length(:v)", "[]", "0"),
    ];
    let database = Mariadb::database();
    let endpoint = |(at, (kind, sql, ..)): (usize, &(&str, &str, &str, &str))| {
        format!(
            "[endpoint.v{at}]\nroute = 'POST /v{at}'\nreturns = 'value'\nstatus = 200\n\
             params.v = {{ in = 'body', type = '{kind}', optional = true }}\n\
             sql = \"select {}\"\n",
            sql.replace('"', "\\\"")
        )
    };
    let endpoints = cases.iter().enumerate().map(endpoint).collect::<Vec<_>>().concat();
    let server = serve(&database.url(), &endpoints);
    let mut failures = Vec::new();
    for round in 0..2 {
        for (at, (kind, sql, sent, expected)) in cases.iter().enumerate() {
            let answer = ask_with(&server, "POST", &format!("/v{at}"), &format!(r#"{{"v":{sent}}}"#));
            let (text, seen) = (answer.text(), answer.status);
            // A number that MariaDB makes a decimal is compared as a number, in whatever form it is written.
            let equal = text == *expected || number(text).is_some_and(|it| Some(it) == number(expected));
            if seen != 200 || !equal {
                failures.push(format!("{round} {kind} {sql}: {seen} {text}, expected {expected}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(ask_with(&server, "POST", "/v4", r#"{"v":null}"#).text(), "null");
    assert_nothing_is_left(server);
}

fn number(json: &str) -> Option<f64> {
    json.trim_matches('"').parse().ok()
}

/// The value of a parameter that stands twice is sent twice. A name in a text or a comment is no parameter.
#[test]
fn a_parameter_may_stand_anywhere_but_in_texts_names_and_comments() {
    let database = Mariadb::database();
    database.sql("create table `a:b` (`c:d` int, e varchar(20)); insert into `a:b` values (7, ':x')");
    let endpoints = "[endpoint.look]\nroute = 'GET /look'\nparams = { x = 'int', y = 'int' }\n\
         sql = '''select `c:d` as n, ':y' as t, :x + :y + :x as sum, 'it''s \\' :y' as q, \"\\\" :y\" as d -- :y\n\
         from `a:b` # :y\n where :x > 0 /* :y */ and e = ':x' '''\n\
         returns = 'one'\n\
         [endpoint.minus]\nroute = 'GET /minus'\nparams = { x = 'int' }\nreturns = 'value'\nsql = 'select 5--:x'\n\
         [endpoint.percent]\nroute = 'GET /percent'\nparams = { x = 'text' }\nreturns = 'value'\n\
         sql = \"select e like :x from `a:b` where '?' = '?'\"\n";
    let server = serve(&database.url(), endpoints);
    let seen = get(&server, "/look?x=20&y=2");
    assert_eq!(seen, r#"[{"n":7,"t":":y","sum":42,"q":"it's ' :y","d":"\" :y"}]"#.trim_matches(['[', ']']));
    assert_eq!(get(&server, "/minus?x=2"), "7", "two signs without a space begin no comment");
    assert_eq!(get(&server, "/percent?x=:%25"), "1");
    assert_nothing_is_left(server);
}

#[test]
fn a_read_changes_nothing_whatever_its_statement_says() {
    let database = Mariadb::database();
    database.sql("create table t (x int); insert into t values (1)");
    database.routine(
        "create function put() returns int modifies sql data begin insert into t values (9); return 1; end",
    );
    let endpoints = value("calls", "select put()") + &value("count", "select count(*) from t");
    let server = serve(&database.url(), &endpoints);
    for _ in 0..3 {
        let answer = ask(&server, "GET", "/calls");
        assert_eq!(answer.status, 500, "{}", answer.text());
        assert_eq!(get(&server, "/count"), "1");
    }
    assert_nothing_is_left(server);
    // The check refuses a statement that it sees to write.
    for sql in [
        "insert into t values (2)",
        "update t set x = 2",
        "delete from t",
        "truncate table t",
        "drop table t",
        "call p()",
    ] {
        let error = refused(&database.url(), &value("writes", sql));
        assert!(error.contains("read-only"), "{sql}: {error}");
    }
}

/// A statement that commits by itself would tear a transaction in two.
#[test]
fn a_change_of_the_schema_among_steps_is_refused_at_the_start() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    for ddl in [
        "create table u (x int)",
        "alter table t add y int",
        "drop table t",
        "truncate table t",
        "create index i on t (x)",
    ] {
        let endpoints = format!(
            "[endpoint.steps]\nroute = 'POST /steps'\n\
             step = [{{ sql = 'insert into t values (1)' }}, {{ sql = '{ddl}' }}]\n"
        );
        let error = refused(&database.url(), &endpoints);
        assert!(error.contains("commit"), "{ddl}: {error}");
    }
    assert_eq!(database.sql("select count(*) from t"), "0");
    assert_eq!(database.sql("show tables"), "t");
}

#[test]
fn a_wrong_statement_is_found_at_the_start_with_its_place() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    for (sql, said) in [
        ("select y from t", "y"),
        ("select x from nowhere", "nowhere"),
        ("selec x from t", "selec"),
        ("select x from t where no_function(x)", "no_function"),
        ("select st_geomfromtext('point(1 1)') as place", "st_as"),
    ] {
        let error = refused(&database.url(), &value("wrong", sql));
        assert!(error.to_lowercase().contains(said), "{sql}: {error}");
        assert!(error.contains("wrong"), "the endpoint's name: {error}");
    }
}

#[test]
fn a_large_answer_and_a_large_body_pass() {
    const LARGE: usize = 15 << 20;
    let database = Mariadb::database();
    database.sql("create table t (x longtext)");
    let endpoints = value("large", "select repeat('x', 15728640)")
        + &value("length", "select length(x) from t")
        + "[endpoint.put]\nroute = 'PUT /put'\nparams.x = { in = 'body', type = 'text' }\nsql = 'insert into t values (:x)'\n";
    let more = format!("[http]\nmax_response_bytes = '64MiB'\nmax_body_bytes = '64MiB'\n{endpoints}");
    let server = serve(&database.url(), &more);
    let large = get(&server, "/large");
    assert_eq!(large.len(), LARGE + 2);
    // Over the server's max_allowed_packet of 16 MiB: the request fails, and the next one is served.
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(20 << 20));
    let answer = ask_with(&server, "PUT", "/put", &body);
    assert!(matches!(answer.status, 400 | 413), "{} {}", answer.status, answer.text());
    assert_eq!(get(&server, "/large").len(), LARGE + 2);
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(15 << 20));
    assert_eq!(ask_with(&server, "PUT", "/put", &body).status, 204);
    assert_eq!(get(&server, "/length"), (15 << 20).to_string());
    assert_nothing_is_left(server);
}

/// Over 16 MiB a packet goes in parts, in both directions.
#[test]
fn packets_of_more_than_one_part_pass_where_the_server_takes_them() {
    let own = Mariadb::start_with("true", "--max-allowed-packet=128M");
    own.sql("main", "create table t (x longtext)");
    let endpoints = value("length", "select length(x) from t")
        + &value("whole", "select x from t")
        + &write("clear", "delete from t")
        + "[endpoint.put]\nroute = 'PUT /put'\nparams.x = { in = 'body', type = 'text' }\nsql = 'insert into t values (:x)'\n";
    let more = format!("[http]\nmax_response_bytes = '64MiB'\nmax_body_bytes = '64MiB'\n{endpoints}");
    let server = serve(&own.url(), &more);
    // Around the border, where a part that is full is followed by an empty one. A statement's packet has a few more bytes.
    for length in [0x00ff_ffff - 40, 0x00ff_ffff - 17, 0x00ff_ffff, 0x0100_0000, 40 << 20] {
        assert_eq!(ask(&server, "POST", "/clear").status, 204);
        let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(length));
        let answer = ask_with(&server, "PUT", "/put", &body);
        assert_eq!(answer.status, 204, "{length}: {}", answer.text());
        assert_eq!(get(&server, "/length"), length.to_string());
        assert_eq!(get(&server, "/whole").len(), length + 2);
    }
    assert_nothing_is_left(server);
}
