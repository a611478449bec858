//! Several hosts in one URL: one that is silent, at its port or in its login, costs its share of the time and no more.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wharf::config;
use wharf::database::{Database, Error};

use crate::support::{Authority, Forwarder, PATIENCE, Postgres, Then, Wharf};
use crate::{in_ms, read, soon};

/// A port that takes connections and never answers: the kernel accepts for it, up to its backlog.
struct Mute(TcpListener);

impl Mute {
    fn new() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
    }

    fn port(&self) -> u16 {
        self.0.local_addr().expect("a bound listener has an address").port()
    }

    /// The connections so far. They are closed.
    fn visits(&self) -> usize {
        self.0.set_nonblocking(true).expect("a listener");
        std::iter::from_fn(|| self.0.accept().ok()).count()
    }
}

/// A port that does not even take a connection, because its backlog is full.
struct Full {
    listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl Full {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queued =
            std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok());
        Self { _queued: queued.collect(), listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// A database on these ports of this machine, in their order, whose start may take five seconds.
fn open(ports: &[u16], parameters: &str) -> Result<Database, Error> {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("postgres://postgres@{}/postgres?{parameters}", hosts.join(","));
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    settings.initialization_fail_timeout = Duration::from_secs(5);
    settings.connection_timeout = Duration::from_secs(2);
    Database::open(&settings, &url)
}

#[test]
fn a_silent_host_leaves_time_for_the_next_one() {
    let good = Postgres::shared().port();
    let (mute, full) = (Mute::new(), Full::new());
    for (first, what) in [(mute.port(), "a silent login"), (full.port(), "a full backlog")] {
        // A third of the time for each of three.
        let began = Instant::now();
        let database = open(&[first, good, first], "").expect(what);
        assert!(began.elapsed() < Duration::from_secs(4), "{what}: {:?}", began.elapsed());
        assert_eq!(read(&database, "select 1 as n"), "{\"n\":1}");
    }
}

#[test]
fn connect_timeout_bounds_the_whole_login_of_one_host() {
    let good = Postgres::shared().port();
    let (mute, full) = (Mute::new(), Full::new());
    for (first, what) in [(mute.port(), "a silent login"), (full.port(), "a full backlog")] {
        let began = Instant::now();
        open(&[first, good], "connect_timeout=1").expect(what);
        let took = began.elapsed();
        assert!((1000..2000).contains(&took.as_millis()), "{what}: {took:?}");
    }
    // One host has no more than its own time either.
    let began = Instant::now();
    let mut settings = config::Database::default();
    settings.initialization_fail_timeout = Duration::ZERO;
    settings.connection_timeout = PATIENCE;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?connect_timeout=1", mute.port());
    let error = Database::open(&settings, &url).unwrap_err().to_string();
    assert!(began.elapsed() < PATIENCE / 2 && error.contains("no answer in time"), "{error}");
}

/// A server behind a proxy falls silent while the pool is in use.
#[test]
fn a_host_that_falls_silent_is_left_for_the_next_one_at_run_time() {
    let good = Postgres::shared().port();
    let first = Forwarder::to(good);
    let database = open(&[first.port(), good], "application_name=two-hosts").unwrap();
    first.once("will not be answered", Then::Hang);
    let mut lent = database.checkout(in_ms(500)).unwrap();
    let session = lent.postgres().unwrap();
    let lost = session.query("select 'will not be answered' from pg_sleep(0)", &[]);
    drop(lent);
    assert!(lost.is_err());
    let began = Instant::now();
    assert_eq!(read(&database, "select 1 as n"), "{\"n\":1}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Only the first session pays for the silence.
#[test]
fn a_silent_host_is_not_first_for_the_next_session() {
    let good = Postgres::shared().port();
    let mute = Mute::new();
    let database = open(&[mute.port(), good], "sslmode=disable").unwrap();
    assert_eq!(mute.visits(), 1);
    for _ in 0..3 {
        let mut lent = database.checkout(soon()).unwrap();
        let session = lent.postgres().unwrap();
        session.query("select pg_terminate_backend(pg_backend_pid())", &[]).unwrap_err();
    }
    assert_eq!(read(&database, "select 1 as n"), "{\"n\":1}");
    assert_eq!(mute.visits(), 0, "it was found silent a moment ago");
}

#[test]
fn each_hosts_failure_is_told() {
    let good = Postgres::shared().port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("postgres://postgres:hidden@127.0.0.1:{closed},127.0.0.1:{good}/nosuch");
    let mut settings = config::Database::default();
    settings.initialization_fail_timeout = Duration::ZERO;
    let error = Database::open(&settings, &url).unwrap_err().to_string();
    for part in
        [format!("127.0.0.1:{closed}: "), "refused".into(), format!("127.0.0.1:{good}: "), "nosuch".into()]
    {
        assert!(error.contains(&part), "{part} in {error}");
    }
    assert!(!error.contains("hidden"), "{error}");
}

/// As libpq does: the other mode of TLS is tried on the same host, before the next host.
#[test]
fn a_host_that_refuses_tls_is_used_without_it() {
    let authority = Authority::new("hosts");
    let hba = "echo 'hostnossl all all all trust' > data/pg_hba.conf; echo 'local all all trust' >> data/pg_hba.conf";
    let plain = Postgres::start_encrypted_with(&authority, hba, "");
    let database = open(&[plain.port(), Postgres::shared().port()], "sslmode=prefer").unwrap();
    let port = read(&database, "select current_setting('port') as port");
    assert_eq!(port, format!("{{\"port\":\"{}\"}}", plain.port()));
}

/// The whole server with its defaults: a start within `initialization_fail_timeout`, and each request within its deadline.
#[test]
fn a_server_starts_and_answers_beside_a_silent_host() {
    let (mute, good) = (Mute::new(), Postgres::shared().port());
    let config = format!(
        "[database]\nurl = 'postgres://postgres@127.0.0.1:{},127.0.0.1:{good}/postgres'\n\
         [endpoint.one]\nroute = 'GET /one'\nsql = 'select 1 as n'\n",
        mute.port()
    );
    let wharf = Wharf::start(&config);
    for _ in 0..3 {
        let answer = wharf.get("/one");
        assert_eq!((answer.status, answer.text()), (200, "[{\"n\":1}]"), "{}", wharf.log());
    }
    let exit = Wharf::run(&config, &["check"], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}
