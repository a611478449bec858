//! Logins with real passwords, through TCP and through the Unix socket, and servers that refuse them. No message shows a password.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use wharf::database::{Database, Error};
use wharf::deadline::Deadline;

use crate::support::{Mariadb, PATIENCE, Wharf, wait_until};
use crate::{look, open, value};

const PASSWORD: &str = "hunter2";

/// Every kind of letter that has a meaning in a URL, in SQL or in a shell.
const SPECIAL: &str = "p@ss:w/rd?#%&=[] +\u{fc}\u{20ac}'\"\\$`{}|^~%41";

fn server() -> &'static Mariadb {
    static SERVER: OnceLock<Mariadb> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Mariadb::start();
        let quoted = SPECIAL.replace('\\', "\\\\").replace('\'', "\\'");
        for sql in [
            format!("create user native@'%' identified via mysql_native_password using password('{PASSWORD}')"),
            format!("create user special@'%' identified via mysql_native_password using password('{quoted}')"),
            format!("create user ed@'%' identified via ed25519 using password('{PASSWORD}')"),
            format!("create user edspecial@'%' identified via ed25519 using password('{quoted}')"),
            format!("create user changing@'%' identified by '{PASSWORD}'"),
            "create user empty@'%' identified by ''".to_owned(),
            format!("create user locked@'%' identified by '{PASSWORD}' account lock"),
            format!("create user limited@'%' identified by '{PASSWORD}' with max_user_connections 1"),
            format!("create user elsewhere@'192.0.2.1' identified by '{PASSWORD}'"),
            format!("create user `od@d:n/ame`@'%' identified by '{PASSWORD}'"),
            format!("create user nothing@'%' identified by '{PASSWORD}'"),
            format!("create user either@'%' identified via ed25519 using password('{PASSWORD}') or mysql_native_password using password('other')"),
            "grant select on main.* to native@'%', special@'%', ed@'%', edspecial@'%', changing@'%', empty@'%', locked@'%', \
             limited@'%', elsewhere@'192.0.2.1', `od@d:n/ame`@'%', either@'%'"
                .to_owned(),
        ] {
            server.sql("mysql", &sql);
        }
        server
    })
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn url(user: &str, password: &str) -> String {
    format!("mysql://{}:{}@127.0.0.1:{}/main", encoded(user), encoded(password), server().port())
}

fn user(database: &Database) -> String {
    let mut session = database.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    look(database, &mut session, "select user()").expect("it is read")
}

/// The message of a refusal at the start. It must come at once, because it will not pass.
fn refusal(url: &str) -> String {
    let began = Instant::now();
    let error = open(url, PATIENCE).expect_err("it is refused");
    assert!(matches!(error, Error::Open { transient: false, .. } | Error::Url(_)), "{error}");
    assert!(began.elapsed() < PATIENCE / 2, "{error}");
    let message = format!("{error} {error:?}");
    assert!(!message.contains(PASSWORD) && !message.contains(SPECIAL), "{message}");
    message
}

#[test]
fn every_method_and_every_letter_of_a_password_get_in() {
    for (name, password) in [
        ("native", PASSWORD),
        ("special", SPECIAL),
        ("ed", PASSWORD),
        ("edspecial", SPECIAL),
        ("empty", ""),
        ("either", PASSWORD),
        ("either", "other"),
        ("od@d:n/ame", PASSWORD),
    ] {
        let opened =
            open(&url(name, password), PATIENCE).unwrap_or_else(|error| panic!("{name} {password}: {error}"));
        assert!(user(&opened).starts_with(&format!("\"{name}@")), "{name}");
    }
    let other = url("native", PASSWORD).replace("mysql://", "mariadb://");
    assert!(user(&open(&other, PATIENCE).expect("the other name of the scheme")).contains("native"));
    let none = format!("mysql://empty@127.0.0.1:{}/main", server().port());
    assert!(user(&open(&none, PATIENCE).expect("no password in the URL")).contains("empty"));
}

#[test]
fn a_unix_socket_takes_the_same_logins() {
    let socket = server().directory().join("socket");
    let socket = encoded(socket.to_str().expect("UTF-8"));
    for (name, password) in [("native", PASSWORD), ("edspecial", SPECIAL)] {
        let url = format!("mysql://{name}:{}@localhost/main?socket={socket}", encoded(password));
        let opened = open(&url, PATIENCE).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(user(&opened), format!("\"{name}@localhost\""));
    }
    let nowhere = "mysql://native:x@localhost/main?socket=/nowhere/at/all";
    let error = open(nowhere, Duration::from_millis(100)).expect_err("it is not there").to_string();
    assert!(error.contains("/nowhere/at/all"), "{error}");
}

#[test]
fn a_refused_login_says_why_at_once() {
    for (url, said) in [
        (url("native", "wrong"), "Access denied"),
        (url("ed", "wrong"), "Access denied"),
        (url("native", ""), "Access denied"),
        (url("nobody", PASSWORD), "Access denied"),
        (url("elsewhere", PASSWORD), "denied"),
        (url("locked", PASSWORD), "locked"),
        (url("nothing", PASSWORD), "Access denied"),
        (url("native", PASSWORD).replace("/main", "/nowhere"), "nowhere"),
    ] {
        let message = refusal(&url);
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[test]
fn a_wrong_url_says_what_is_wrong() {
    for (url, said) in [
        ("mysql://", "mysql://"),
        ("mysql://host", "database"),
        ("mysql://u:p@host/", "database"),
        ("mysql://u:secret@host:notaport/main", "port"),
        ("mysql://u:secret@host/main?ssl-mode=perhaps", "ssl-mode"),
        ("mysql://u:secret@host/main?nonsense=1", "connect-timeout"),
        ("mysql://u:secret@host/main?ssl-mode=VERIFY_CA", "ssl-ca"),
        ("mysql://u:secret@host/main?ssl-ca=/nowhere.pem&ssl-mode=VERIFY_CA", "/nowhere.pem"),
    ] {
        match open(url, Duration::from_millis(10)) {
            // A missing authority may be the system's.
            Err(_) if said == "ssl-ca" => {}
            Err(error) => {
                let error = format!("{error} {error:?}");
                assert!(error.contains(said), "{url}: {error}");
                assert!(!error.contains("secret"), "{error}");
            }
            Ok(_) => panic!("{url} opens"),
        }
    }
}

#[test]
fn the_password_is_nowhere_in_what_the_program_says() {
    let config = format!("[database]\nurl = '{}'\n{}", url("native", PASSWORD), value("one", "select 1"));
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/one").text(), "1");
    assert!(!(wharf.output() + &wharf.log()).contains(PASSWORD));
    let config = config.replace(PASSWORD, "wrong-one");
    let exit = Wharf::run(&config, &["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    assert_ne!(exit.code, Some(0));
    assert!(exit.stderr.contains("Access denied"), "{}", exit.stderr);
    assert!(!(exit.stdout + &exit.stderr).contains("wrong-one"));
}

/// A password that is changed while the server runs: open sessions stay, new ones are refused, and all recovers by itself.
#[test]
fn a_password_that_changes_later_is_an_outage_that_ends_by_itself() {
    let config = format!(
        "[database]\nurl = '{}'\nmaximum_pool_size = 1\nconnection_timeout = '500ms'\n{}",
        url("changing", PASSWORD),
        value("one", "select 1")
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/one").text(), "1");
    server().sql("mysql", "set password for changing@'%' = password('another')");
    assert_eq!(wharf.get("/one").text(), "1", "the session is open");
    server().sql("mysql", "kill user changing");
    wait_until("the loss is not noticed", || wharf.get("/one").status == 503);
    wharf.wait_for_log("Access denied");
    server().sql("mysql", &format!("set password for changing@'%' = password('{PASSWORD}')"));
    wait_until("the pool does not recover", || wharf.get("/one").status == 200);
    assert!(!wharf.log().contains(PASSWORD), "{}", wharf.log());
}

/// 1226: this user has as many sessions as it may have.
#[test]
fn a_user_without_another_session_is_served_by_the_one_that_it_has() {
    let config = format!(
        "[server]\nworkers = 4\n[database]\nurl = '{}'\nmaximum_pool_size = 4\n{}",
        url("limited", PASSWORD),
        value("nap", "select sleep(0.02)")
    );
    let wharf = Wharf::start(&config);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(wharf.get("/nap").status, 200)));
        }
    });
}
