//! Logins with real passwords, and servers that refuse them. The messages must show no password.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use wharf::config;
use wharf::database::{Database, Error};

use crate::support::{PATIENCE, Postgres, Wharf};
use crate::{read, soon};

/// Each role has the method of its name, but the superuser needs no password through the socket.
const METHODS: &str = "\
    echo 'local all postgres trust' > data/pg_hba.conf; \
    echo 'host all rejected all reject' >> data/pg_hba.conf; \
    echo 'host all limited all trust' >> data/pg_hba.conf; \
    echo 'host all md5,broken all md5' >> data/pg_hba.conf; \
    echo 'host all plain all password' >> data/pg_hba.conf; \
    echo 'host all scram,special,changing all scram-sha-256' >> data/pg_hba.conf";

const PASSWORD: &str = "hunter2";

/// Every kind of letter that has a meaning in a URL, in SQL, in a password file or in a shell.
const SPECIAL: &str = "p@ss:w/rd?#%&=[] +\u{fc}\u{20ac}'\"\\$`{}|^~%41";

fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Postgres::start_with(METHODS, "");
        let quoted = SPECIAL.replace('\'', "''");
        for sql in [
            format!("create role scram login password '{PASSWORD}'"),
            format!("create role changing login password '{PASSWORD}'"),
            format!("create role special login password '{quoted}'"),
            format!("create role plain login password '{PASSWORD}'"),
            format!("set password_encryption = 'md5'; create role md5 login password '{PASSWORD}'"),
            "create role rejected login".to_owned(),
            "create role broken login".to_owned(),
            "create role limited login connection limit 1".to_owned(),
        ] {
            server.psql("postgres", &sql);
        }
        server
    })
}

fn url(user: &str, password: &str) -> String {
    let password = utf8_percent_encode(password, NON_ALPHANUMERIC);
    format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", server().port())
}

/// A pool of one session, whose first session is tried for at most `patience`.
fn open(url: &str, patience: Duration) -> Result<Database, Error> {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    settings.minimum_idle = Some(0);
    settings.initialization_fail_timeout = patience;
    settings.connection_timeout = Duration::from_secs(10);
    Database::open(&settings, url)
}

fn user(database: &Database) -> String {
    read(database, "select session_user::text as name")
}

/// The message of a refusal at the start. It must come at once, because it will not pass.
fn refusal(url: &str) -> String {
    let began = Instant::now();
    let error = open(url, PATIENCE).expect_err("it is refused");
    assert!(matches!(error, Error::Open { transient: false, .. }), "{error}");
    assert!(began.elapsed() < PATIENCE / 2, "{error}");
    let message = format!("{error} {error:?}");
    assert!(!message.contains(PASSWORD) && !message.contains(SPECIAL), "{message}");
    message
}

#[test]
fn every_method_takes_the_right_password_and_no_other() {
    for name in ["scram", "md5", "plain"] {
        let database = open(&url(name, PASSWORD), Duration::ZERO).unwrap();
        assert_eq!(user(&database), format!("{{\"name\":\"{name}\"}}"));
        for wrong in ["hunter3", "hunter", "hunter2 ", "HUNTER2"] {
            let message = refusal(&url(name, wrong));
            assert!(message.contains("password authentication failed"), "{message}");
            assert!(!message.contains(wrong), "{message}");
        }
        let without = format!("postgres://{name}@127.0.0.1:{}/postgres", server().port());
        let message = refusal(&without);
        assert!(message.contains("password"), "{message}");
    }
    let message = refusal(&url("nobody-of-this-name", PASSWORD));
    assert!(message.contains("pg_hba.conf"), "{message}");
    let message = refusal(&url("broken", PASSWORD));
    assert!(message.contains("password authentication failed"), "it has none: {message}");
}

#[test]
fn a_password_may_have_any_letters() {
    assert_eq!(user(&open(&url("special", SPECIAL), Duration::ZERO).unwrap()), "{\"name\":\"special\"}");
    let password = utf8_percent_encode(SPECIAL, NON_ALPHANUMERIC);
    let port = server().port();
    let as_parameter = format!("postgres://127.0.0.1:{port}/postgres?user=special&password={password}");
    assert!(open(&as_parameter, Duration::ZERO).is_ok());
}

#[test]
fn a_rule_of_the_server_that_refuses_is_told() {
    let message = refusal(&url("rejected", PASSWORD));
    assert!(message.contains("pg_hba.conf rejects connection"), "{message}");
}

/// It may pass, so a start waits for it, and says it in the end.
#[test]
fn too_many_connections_are_waited_for() {
    let first = open(&url("limited", ""), Duration::ZERO).unwrap();
    let error = open(&url("limited", ""), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Open { transient: true, .. }), "{error}");
    assert!(error.to_string().contains("too many connections"), "{error}");
    let waiting = std::thread::spawn(|| open(&url("limited", ""), PATIENCE).map(|database| user(&database)));
    drop(first);
    assert_eq!(waiting.join().unwrap().unwrap(), "{\"name\":\"limited\"}");
}

#[test]
fn a_password_that_changed_makes_the_database_unavailable_and_is_not_shown() {
    let database = open(&url("changing", PASSWORD), Duration::ZERO).unwrap();
    server().psql("postgres", "alter role changing password 'another'");
    server().psql(
        "postgres",
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'changing'",
    );
    let error = loop {
        // The session may still be lent, and then fails with its first statement.
        match database.checkout(soon()) {
            Ok(mut lent) => drop(lent.postgres().unwrap().query("select 1", &[])),
            Err(error) => break error,
        }
    };
    assert_eq!(error.status(), 503, "{error}");
    assert_eq!(error.public_detail(), "the database is not available");
    let message = format!("{error} {error:?}");
    assert!(message.contains("password authentication failed for user"), "{message}");
    assert!(!message.contains(PASSWORD), "{message}");
}

/// The variables and the file of PostgreSQL's own tools.
#[test]
fn libpqs_variables_and_password_file_are_used() {
    let port = server().port().to_string();
    let config = |url: &str| {
        format!("[database]\nurl = '{url}'\n[endpoint.one]\nroute = 'GET /'\nsql = 'select 1 as n'\n")
    };
    let check = |url: &str, variables: &[(&str, &str)]| Wharf::run(&config(url), &["check"], variables);
    let common =
        [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGDATABASE", "postgres"), ("PGUSER", "special")];
    let with = |more: &[(&'static str, &'static str)]| [&common[..], more].concat();

    let exit = check("postgres://", &with(&[("PGPASSWORD", SPECIAL)]));
    assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
    assert!(exit.stdout.contains("every statement prepared"), "{}", exit.stdout);

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    let escaped = SPECIAL.replace('\\', "\\\\").replace(':', "\\:");
    fs::write(
        &file,
        format!("# a comment\nelsewhere:*:*:*:no\n127.0.0.1:{port}:postgres:special:{escaped}\n"),
    )
    .unwrap();
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let (home, path) = (home.path().to_str().unwrap(), file.to_str().unwrap());
    for (name, value) in [("HOME", home), ("PGPASSFILE", path)] {
        let variables = [&common[..], &[(name, value)]].concat();
        allow(0o600);
        let exit = check("postgres://", &variables);
        assert_eq!(exit.code, Some(0), "{name}: {}", exit.stderr);
        allow(0o644);
        let exit = check("postgres://", &variables);
        assert_eq!(exit.code, Some(1), "{name}: {}", exit.stdout);
        assert!(exit.stderr.contains("password") && !exit.stderr.contains(SPECIAL), "{}", exit.stderr);
    }
    allow(0o600);
    let exit = check(&format!("postgres://special@127.0.0.1:{port}/postgres?passfile={path}"), &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);

    // The URL counts more than a variable, and what is refused in a URL is refused in a variable.
    let exit = check(&url("scram", PASSWORD), &with(&[("PGPASSWORD", "wrong")]));
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let exit = check(&url("scram", PASSWORD), &[("PGSERVICE", "app")]);
    assert_eq!(exit.code, Some(1), "{}", exit.stdout);
    assert!(exit.stderr.contains("PGSERVICE: service: service files are not read"), "{}", exit.stderr);
}
