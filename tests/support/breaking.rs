//! Breaks a PostgreSQL of the test's own: ends sessions, suspends processes, restarts it. Also reads what the server
//! shows of it.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{PATIENCE, Postgres};

/// The application name of the test's own sessions. All counts leave them out.
const OWN_NAME: &str = "test";

/// Selects the sessions in `pg_stat_activity` that are not the test's own.
const OTHERS: &str = "backend_type = 'client backend' and pid <> pg_backend_pid() and application_name not in ('test', 'psql')";

/// A suspended server. It runs again when this is dropped.
pub(crate) struct Suspended<'a>(&'a Postgres);

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        signal("CONT", &self.0.processes());
    }
}

impl Postgres {
    /// Stops every process of the server. The server keeps its connections and its port, and answers nothing.
    pub(crate) fn suspend(&self) -> Suspended<'_> {
        let suspended = Suspended(self);
        // The postmaster is stopped first, so that it soon forks no new processes.
        super::wait_until("the server is not suspended", || {
            let awake: Vec<u32> =
                self.processes().into_iter().filter(|process| !is_suspended(*process)).collect();
            signal("STOP", &awake);
            awake.is_empty()
        });
        suspended
    }

    /// Ends every session but the test's own. Returns their number.
    pub(crate) fn terminate_backends(&self) -> usize {
        let sql =
            format!("select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity where {OTHERS}");
        self.psql("postgres", &sql).parse().expect("a count")
    }

    /// Ends `count` sessions, none of them the test's own.
    pub(crate) fn terminate_some(&self, count: usize) {
        let some = format!("select pid from pg_stat_activity where {OTHERS} limit {count}");
        let sql = format!("select count(pg_terminate_backend(pid, 10000)) from ({some}) as those");
        assert_eq!(self.psql("postgres", &sql), count.to_string(), "sessions to end");
    }

    /// The number of sessions, without the test's own, that match this SQL condition.
    pub(crate) fn sessions(&self, which: &str) -> usize {
        let sql = format!("select count(*) from pg_stat_activity where {OTHERS} and ({which})");
        self.psql("postgres", &sql).parse().expect("a count")
    }

    /// Ends every session and restarts the server, as an administrator does.
    pub(crate) fn restart_fast(&self) {
        self.control(&["-w", "-t", "30", "-m", "fast", "restart"]);
    }

    /// Stops the server as an administrator does.
    pub(crate) fn stop_fast(&self) {
        self.control(&["-w", "-t", "30", "-m", "fast", "stop"]);
    }

    /// Restarts the server as a standby that follows no other server, as a failover may leave behind.
    pub(crate) fn demote(&self) {
        self.stop_fast();
        let file = self.directory().join("data/standby.signal");
        std::fs::write(file, "").expect("the cluster's directory is there");
        self.start_again();
    }

    /// Promotes the standby, so that it takes writes again.
    pub(crate) fn promote(&self) {
        self.control(&["-w", "-t", "30", "promote"]);
    }

    /// The whole log of the server.
    pub(crate) fn server_log(&self) -> String {
        std::fs::read_to_string(self.directory().join("data/log")).expect("the server logs")
    }

    /// Connects to the server directly, past any proxy that stands between it and its clients.
    pub(crate) fn connect(&self, user: &str) -> Result<postgres::Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(self.directory()).port(self.port()).user(user).dbname("postgres");
        config.application_name(OWN_NAME).connect_timeout(Duration::from_secs(1));
        config.connect(postgres::NoTls)
    }

    /// Waits until the server answers. Returns the time of its first answer.
    pub(crate) fn answers(&self) -> Instant {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.connect("postgres").and_then(|mut session| session.simple_query("select 1"));
            match answer {
                Ok(_) => return Instant::now(),
                Err(error) => assert!(Instant::now() < until, "the server does not answer: {error}"),
            }
        }
    }

    /// The server's processes, the postmaster first. Empty when the server does not run.
    fn processes(&self) -> Vec<u32> {
        let file = std::fs::read_to_string(self.directory().join("data/postmaster.pid"));
        let postmaster = file.ok().and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
        let Some(postmaster) = postmaster else { return Vec::new() };
        let all = std::fs::read_dir("/proc").expect("Linux").flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let children =
            numbers.filter(|process| state_and_parent(*process).is_some_and(|it| it.1 == postmaster));
        [postmaster].into_iter().chain(children).collect()
    }
}

fn is_suspended(process: u32) -> bool {
    // A process that has ended meanwhile needs no signal either.
    state_and_parent(process).is_none_or(|(state, _)| matches!(state, 'T' | 'Z' | 'X'))
}

fn state_and_parent(process: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn signal(name: &str, processes: &[u32]) {
    let numbers: Vec<String> = processes.iter().map(u32::to_string).collect();
    // Some processes may have ended meanwhile, and kill complains about them.
    let kill = format!("kill -s {name} {} 2>/dev/null", numbers.join(" "));
    Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
}
