//! A server whose database breaks: its endpoints, its clients, and the assertions that must hold when the fault is
//! over.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::bounds::Bounds;
use crate::support::{Answer, Client, PATIENCE, Postgres, Wharf, directory_with, wait_until};

/// The deadline of each request except those of `/meet` and `/hold`.
pub(crate) const DEADLINE: Duration = Duration::from_millis(400);

/// How long after its deadline a request may have its answer.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// How long after its database has come back the server may resume.
pub(crate) const RESUMED: Duration = Duration::from_secs(1);

/// How long a refusal may take while the database is known to be down.
const AT_ONCE: Duration = Duration::from_millis(5);

/// How long the server may take at most to learn that the database is down. First a request must wait in vain for a session,
/// which takes a second unless a test changes that.
const FOUND_OUT: Duration = Duration::from_secs(5);

/// The number of workers, and of sessions unless a test sets another.
pub(crate) const WORKERS: usize = 4;

pub(crate) const ACCOUNTS: i64 = 8;
const BALANCE: i64 = 1_000_000;

/// The work of a request in the database. Each request has its own number, which a good answer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing but the answer.
    Echo,
    /// Like `Echo`, 20 ms later.
    Slow,
    /// Moves 1 from an account to the next, with an entry in the books: three statements in a transaction.
    Transfer,
    /// Waits for a lock that the test holds.
    Meet,
    /// Waits until it is ended. Its deadline is far away.
    Hold,
}

impl Work {
    fn target(self, number: i64) -> (&'static str, String) {
        match self {
            Self::Echo => ("GET", format!("/echo/{number}")),
            Self::Slow => ("GET", format!("/slow/{number}")),
            Self::Transfer => ("POST", format!("/transfer/{number}")),
            Self::Meet => ("POST", format!("/meet/{number}")),
            Self::Hold => ("GET", format!("/hold/{number}")),
        }
    }
}

/// The outcome of one request.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) work: Work,
    pub(crate) number: i64,
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    pub(crate) status: u16,
    /// The detail of an answer that is not good.
    pub(crate) detail: String,
}

impl Answered {
    pub(crate) fn is_good(&self) -> bool {
        self.status == 200
    }
}

/// The threads and descriptors that the server holds while nothing runs.
#[derive(Debug)]
struct Holdings {
    threads: usize,
    sockets: usize,
    /// Other descriptors.
    files: usize,
}

impl Holdings {
    fn of(process: u32) -> Self {
        let entries = |what: &str| {
            let directory = format!("/proc/{process}/{what}");
            std::fs::read_dir(directory).expect("the server runs").flatten()
        };
        // A descriptor that is closed meanwhile does not count.
        let open = entries("fd").filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let (sockets, files): (Vec<_>, Vec<_>) =
            open.partition(|path| path.to_string_lossy().starts_with("socket:"));
        Self { threads: entries("task").count(), sockets: sockets.len(), files: files.len() }
    }

    fn is_within(&self, other: &Self) -> bool {
        self.threads <= other.threads && self.sockets <= other.sockets && self.files <= other.files
    }
}

/// The running server.
pub(crate) struct Served {
    wharf: Wharf,
    asked: AtomicU64,
    numbers: AtomicI64,
    before: Holdings,
}

/// The endpoints on PostgreSQL, with so many workers and connections.
pub(crate) fn on_postgres(url: &str, size: usize) -> String {
    format!(
        "[server]\nworkers = {size}\ndeadline = '{}ms'\n\
         [database]\nurl = '{url}'\nmaximum_pool_size = {size}\n\
         [endpoint.echo]\nroute = 'GET /echo/{{n}}'\nparams.n = 'int'\nreturns = 'one'\n\
         sql = 'select :n::int as n, pg_backend_pid() as pid'\n\
         [endpoint.slow]\nroute = 'GET /slow/{{n}}'\nparams.n = 'int'\nreturns = 'one'\n\
         sql = 'select :n::int as n, pg_backend_pid() as pid from pg_sleep(0.02)'\n\
         [endpoint.hold]\nroute = 'GET /hold/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '25s'\n\
         sql = 'select :n::int as n from pg_sleep(60)'\n\
         [endpoint.meet]\nroute = 'POST /meet/{{n}}'\nparams.n = 'int'\nreturns = 'one'\ndeadline = '25s'\n\
         status = 200\nsql = 'select :n::int as n from (select pg_advisory_xact_lock_shared(1)) met'\n{}",
        DEADLINE.as_millis(),
        steps_of_a_transfer("::int")
    )
}

/// The endpoint that moves money, with what makes an integer of a parameter.
pub(crate) fn steps_of_a_transfer(int: &str) -> String {
    format!(
        "[endpoint.transfer]\nroute = 'POST /transfer/{{n}}'\nparams.n = 'int'\nreturns = 'one'\nstatus = 200\n\
         [[endpoint.transfer.step]]\nexpect_rows = 1\n\
         sql = 'update account set balance = balance - 1 where id = :n{int} % {ACCOUNTS}'\n\
         [[endpoint.transfer.step]]\nsql = 'insert into booked (n) values (:n)'\n\
         [[endpoint.transfer.step]]\n\
         sql = 'update account set balance = balance + 1 where id = (:n{int} + 1) % {ACCOUNTS} returning :n{int} as n'\n"
    )
}

/// Tables that the endpoints need; SQLite understands them too.
pub(crate) fn schema() -> String {
    let accounts: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE})")).collect();
    format!(
        "create table account (id int primary key, balance bigint not null); \
         create table booked (n bigint primary key); \
         insert into account values {}",
        accounts.join(", ")
    )
}

impl Served {
    /// The server on a cluster of its own.
    pub(crate) fn start(cluster: &Postgres) -> Self {
        cluster.psql("postgres", &schema());
        Self::start_on(cluster, &cluster.url())
    }

    /// The same by a URL that leads there, with the tables made already.
    pub(crate) fn start_on(cluster: &Postgres, url: &str) -> Self {
        let mut served = Self::over(Wharf::start(&on_postgres(url, WORKERS)));
        served.warm_up(cluster, WORKERS);
        served
    }

    /// A server that was started in whatever way.
    pub(crate) fn over(wharf: Wharf) -> Self {
        let before = Holdings::of(wharf.id());
        Self { wharf, asked: AtomicU64::new(0), numbers: AtomicI64::new(0), before }
    }

    /// As [`Served::over`], by a shell's script that ends in `exec "$0" "$@"`, listening on a Unix socket.
    pub(crate) fn start_by(script: &str, config: &str) -> Self {
        let directory = Arc::new(directory_with(config));
        let arguments = ["--config", "wharf.toml", "--listen", "unix:wharf.sock"];
        Self::over(Wharf::start_by(script, None, &directory, &arguments))
    }

    /// Waits until the pool is full, and keeps what the server holds then, before its first client.
    pub(crate) fn warm_up(&mut self, cluster: &Postgres, sessions: usize) {
        self.warm_up_until(|| cluster.sessions("true") == sessions);
    }

    /// The same where another database tells whether the pool is full.
    pub(crate) fn warm_up_until(&mut self, is_full: impl FnMut() -> bool) {
        wait_until("the pool does not fill", is_full);
        self.before = Holdings::of(self.wharf.id());
    }

    /// Keeps how many files there are now, which SQLite opens when it first needs them; there are no clients.
    pub(crate) fn note_files(&mut self) {
        self.before.files = Holdings::of(self.wharf.id()).files;
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.wharf.id()
    }

    /// Its working directory.
    pub(crate) fn directory(&self) -> &Path {
        self.wharf.directory()
    }

    /// A client.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker { served: self, client: None }
    }

    /// While the database is known to be down, a refusal is given at once.
    pub(crate) fn expect_refusals_at_once(&self, bounds: &mut Bounds) {
        const ASKED: usize = 101;
        let mut asker = self.asker();
        let mut ask = || {
            let answer = asker.ask(Work::Echo);
            assert!(!answer.is_good(), "the database is down");
            (answer.took, answer.status, answer.detail)
        };
        // Somebody has to find it out first, and that may take a connection's time.
        let started = Instant::now();
        while ask().0 > AT_ONCE && started.elapsed() < FOUND_OUT {}
        let mut refusals: Vec<_> =
            (0..ASKED).map_while(|_| (started.elapsed() < FOUND_OUT).then(&mut ask)).collect();
        eprintln!("known to be down after {:?}", started.elapsed());
        refusals.sort_unstable();
        let Some((took, status, detail)) = refusals.get(refusals.len() / 2) else {
            return bounds
                .hold(false, || format!("no refusal within {FOUND_OUT:?} took less than {AT_ONCE:?}"));
        };
        eprintln!("refused within {took:?}");
        bounds.expect(&format!("half of the refusals while it is down ({detail})"), *took, AT_ONCE);
        bounds.hold(*status == 503, || format!("while it is down: {detail}"));
    }

    /// Ends a test on PostgreSQL after its fault is over and its clients have left. Asserts that nothing is lost and every
    /// request is accounted for. `answers` are the answers whose transactions are looked up in the books.
    pub(crate) fn settle(self, cluster: &Postgres, answers: &[Answered]) {
        wait_until("the pool does not fill again", || cluster.sessions("true") == WORKERS);
        self.expect_all_workers(cluster, WORKERS);
        wait_until("a transaction stays open", || cluster.sessions("state <> 'idle'") == 0);
        assert_eq!(cluster.sessions("true"), WORKERS, "sessions, which are the pool's");
        expect_books(answers, query_on(cluster));
        self.expect_nothing_kept();
        self.expect_account();
    }

    /// As many requests as this run at once, each with a worker and a connection.
    pub(crate) fn expect_all_workers(&self, cluster: &Postgres, count: usize) {
        let mut holder = cluster.connect("postgres").expect("the server answers");
        holder.batch_execute("select pg_advisory_lock(1)").expect("nobody else has it alone");
        let meet = || cluster.sessions("wait_event = 'advisory'") == count;
        let all_meet = || wait_until("a worker or a connection is lost: not all requests run at once", meet);
        self.expect_meeting(count, all_meet, || drop(holder));
    }

    /// So many requests run once they are let go, which is when they are seen to wait for it.
    pub(crate) fn expect_meeting(&self, count: usize, all_meet: impl FnOnce(), let_go: impl FnOnce()) {
        let mut askers: Vec<_> = (0..count).map(|_| self.asker()).collect();
        let sent: Vec<_> = askers.iter_mut().map(|asker| asker.send(Work::Meet)).collect();
        all_meet();
        let_go();
        for (asker, sent) in askers.iter_mut().zip(&sent) {
            let answer = asker.answer(sent);
            assert!(answer.is_good(), "{}", answer.detail);
        }
    }

    /// The server has let go of all threads and descriptors that it did not have before.
    pub(crate) fn expect_nothing_kept(&self) {
        let (until, before) = (Instant::now() + PATIENCE, &self.before);
        loop {
            let now = Holdings::of(self.wharf.id());
            if now.is_within(before) {
                return;
            }
            assert!(Instant::now() < until, "{now:?} now, and {before:?} before the fault");
            thread::sleep(crate::support::LOOK);
        }
    }

    /// Stops the server: it ends well, and what it counted is what was asked.
    pub(crate) fn expect_account(self) {
        self.wharf.signal("TERM");
        let asked = self.asked.load(Ordering::Relaxed);
        let exit = self.wharf.wait();
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        let account = exit.stderr.lines().find_map(|line| line.split_once("stopped: "));
        let (_, account) = account.unwrap_or_else(|| panic!("no account in {}", exit.stderr));
        let count = |part: &str| part.split_once(' ').and_then(|(count, _)| count.parse::<u64>().ok());
        let mut parts = account.split(", ");
        assert_eq!(parts.next().and_then(count), Some(asked), "asked, and read: {account}");
        let ends = ["answered", "refused (", "abandoned"];
        let counted = parts.filter(|part| ends.iter().any(|end| part.contains(end))).filter_map(count);
        assert_eq!(counted.sum::<u64>(), asked, "asked, and accounted for: {account}");
        assert!(!account.contains("abandoned"), "no client has left: {account}");
        assert!(!account.contains("panic"), "{account}");
    }

    fn connect(&self) -> Client {
        match self.wharf.listening_on().strip_prefix("unix:") {
            Some(path) => Client::connect_unix(self.wharf.directory().join(path)),
            None => self.wharf.connect(),
        }
    }
}

/// One client: a connection that is kept for as long as the server keeps it.
pub(crate) struct Asker<'a> {
    served: &'a Served,
    client: Option<Client>,
}

impl Asker<'_> {
    /// Sends a request.
    pub(crate) fn send(&mut self, work: Work) -> Sent {
        let number = self.served.numbers.fetch_add(1, Ordering::Relaxed);
        let (method, path) = work.target(number);
        let client = self.client.get_or_insert_with(|| self.served.connect());
        let sent = Sent { work, number, at: Instant::now() };
        self.served.asked.fetch_add(1, Ordering::Relaxed);
        client.request(method, &path, &[], "");
        sent
    }

    /// The answer to the last request: its own, or an answer that is allowed while the database is in trouble.
    pub(crate) fn answer(&mut self, sent: &Sent) -> Answered {
        let Sent { work, number, at } = *sent;
        let client = self.client.as_mut().expect("something was sent");
        let answer = client.answer_or_end().unwrap_or_else(|| panic!("{work:?} {number} had no answer"));
        let took = at.elapsed();
        if answer.header("Connection") == Some("close") {
            self.client = None;
        }
        let detail = check(work, number, &answer);
        Answered { work, number, sent: at, took, status: answer.status, detail }
    }

    /// Both.
    pub(crate) fn ask(&mut self, work: Work) -> Answered {
        let sent = self.send(work);
        self.answer(&sent)
    }
}

/// A request that has no answer yet.
pub(crate) struct Sent {
    work: Work,
    number: i64,
    pub(crate) at: Instant,
}

/// Asserts what must hold for each answer, whatever the fault. Returns the detail of an answer that is not good.
fn check(work: Work, number: i64, answer: &Answer) -> String {
    let told = || format!("{work:?} {number}: {} {}", answer.status, answer.text());
    if answer.status == 200 {
        assert_eq!(answer.json()["n"], number, "another request's answer: {}", told());
        return String::new();
    }
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{}", told());
    assert_eq!(answer.json()["status"], answer.status, "{}", told());
    assert!(matches!(answer.status, 503 | 504) || is_unknown_outcome(work, answer), "{}", told());
    assert_eq!(answer.header("Retry-After").is_some(), answer.status == 503, "{}", told());
    told()
}

/// The session was lost while COMMIT was under way. Only such a transaction may have taken effect without a good answer, and
/// the answer says so.
fn is_unknown_outcome(work: Work, answer: &Answer) -> bool {
    work == Work::Transfer
        && answer.status == 500
        && answer.json()["type"] == "urn:wharf:problem:outcome-unknown"
}

/// Each transaction has happened whole or not at all, and has happened if its client was told so. `query` runs SQL on the
/// database and returns its one column.
pub(crate) fn expect_books(answers: &[Answered], query: impl Fn(&str) -> Vec<i64>) {
    let unbalanced = query(&format!(
        "select id from account a where balance <> {BALANCE} \
         - (select count(*) from booked where n % {ACCOUNTS} = a.id) \
         + (select count(*) from booked where (n + 1) % {ACCOUNTS} = a.id)"
    ));
    assert!(unbalanced.is_empty(), "accounts that differ from the books: {unbalanced:?}");
    let booked: HashSet<i64> = query("select n from booked").into_iter().collect();
    for answer in answers.iter().filter(|answer| answer.work == Work::Transfer) {
        let is_booked = booked.contains(&answer.number);
        match answer.status {
            200 => assert!(is_booked, "{} was good and is not in the books", answer.number),
            503 => assert!(!is_booked, "refused and in the books: {}", answer.detail),
            // The client was answered at its deadline. Whether the COMMIT that was under way came in time is unknown.
            _ => {}
        }
    }
}

/// See [`expect_books`].
fn query_on(cluster: &Postgres) -> impl Fn(&str) -> Vec<i64> {
    |sql| {
        let printed = cluster.psql("postgres", sql);
        printed.lines().map(|line| line.parse().expect("a number")).collect()
    }
}
