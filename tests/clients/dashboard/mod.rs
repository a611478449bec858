//! The dashboard in Chromium, and `wharf top`: they show what `/stats` says. And pages of other sites in Chromium.

mod browser;
mod other_sites;
mod page;
mod pictures;
mod states;
mod top;

use serde_json::Value;

use crate::support::{Client, Database, Postgres, Wharf, wait_until};

/// Endpoints that wait for a lock that the test has, that fail, and that do neither. Four workers, three connections, five
/// places in the queue.
const CONFIG: &str = "
[server]
workers = 4
deadline = '10m'

[queue]
max_length = 5
max_wait = '10m'
target = '30s'

[database]
url = '${TEST_DATABASE}'
maximum_pool_size = 3
minimum_idle = 3
connection_timeout = '10m'

[endpoint.waits]
route = 'GET /waits'
sql = 'select true as met from (select pg_advisory_xact_lock_shared(1)) met'
returns = 'one'

[endpoint.fails]
route = 'GET /fails'
sql = 'select fails() as never'
returns = 'one'

[endpoint.works]
route = 'GET /works/{n}'
params = { n = 'int' }
sql = 'select :n::int as n'
returns = 'one'
";

/// A function whose error the server takes for its own fault.
const FAILS: &str =
    "create function fails() returns int language plpgsql as 'begin perform 1 from nowhere; return 1; end'";

/// A server on a database of its own, with a lock that the test holds.
struct Held {
    wharf: Wharf,
    _database: Database,
    holder: postgres::Client,
    clients: Vec<Client>,
}

impl Held {
    fn start(environment: &[(&str, &str)]) -> Self {
        Self::start_on(CONFIG, environment)
    }

    /// Like [`Held::start`], on another configuration with the same endpoints.
    fn start_on(config: &str, environment: &[(&str, &str)]) -> Self {
        let database = Postgres::database();
        let mut holder = postgres::Client::connect(&database.url(), postgres::NoTls).expect("it runs");
        holder.execute("select pg_advisory_lock(1)", &[]).expect("it is free");
        holder.batch_execute(FAILS).expect("a function");
        let url = database.url();
        let environment = [&[("TEST_DATABASE", url.as_str())], environment].concat();
        let wharf = Wharf::start_with(config, &[], &environment);
        Self { wharf, _database: database, holder, clients: Vec::new() }
    }

    /// The current answer of `/stats`.
    fn stats(&self) -> Value {
        let mut client = Client::connect(self.wharf.admin_address());
        client.request("GET", "/stats", &[], "");
        client.answer().json()
    }

    /// So many more requests wait, with a worker or in the queue, and some were refused.
    fn occupy(&mut self, requests: usize) {
        for _ in 0..requests {
            let mut client = self.wharf.connect();
            client.request("GET", "/waits", &[], "");
            self.clients.push(client);
        }
    }

    /// Everything is full: three requests are with the database, one waits for a connection, five wait for a worker, two were
    /// refused. Nothing of that changes until the lock is free.
    fn fill(&mut self) {
        for n in 0..20 {
            assert_eq!(self.wharf.get(&format!("/works/{n}")).status, 200);
        }
        let failed = self.wharf.request("GET", "/fails", &[("X-Request-Id", "for-the-test")], "");
        assert_eq!(failed.status, 500);
        assert_eq!(self.wharf.get("/nowhere").status, 404);
        self.occupy(4);
        wait_until("four are with workers", || {
            let stats = self.stats();
            stats["pool"]["active"] == 3 && stats["pool"]["pending"] == 1
        });
        self.occupy(5);
        wait_until("five are in the queue", || self.stats()["queue"]["length"] == 5);
        for _ in 0..2 {
            assert_eq!(self.wharf.get("/waits").status, 503);
        }
        wait_until("connections are counted", || {
            let connections = &self.stats()["connections"];
            connections["open"] == 9 && connections["states"]["queued"] == 5
        });
    }

    /// The lock is free, and all are answered.
    fn release(&mut self) {
        self.holder.execute("select pg_advisory_unlock(1)", &[]).expect("it is ours");
        for mut client in self.clients.drain(..) {
            assert_eq!(client.answer().status, 200);
        }
    }
}

/// The value at a path such as `pool.active`.
fn at<'v>(stats: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(stats, |value, name| &value[name])
}
