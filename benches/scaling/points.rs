//! The five parts of the measurement and their points.

use std::time::Duration;

/// The parts' names.
pub(crate) const NAMES: [&str; 5] = ["connections", "pool", "distance", "rows", "bytes"];

/// The fixed value while another part is measured, as in the other benchmarks.
const POOL: u32 = 16;
const CLIENTS: usize = 64;

/// Clients of answers that are long enough to be streamed: one per worker, so that no client waits for a worker.
const STREAMS: usize = POOL as usize;

/// Points along one axis.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) method: &'static str,
    pub(crate) axis: &'static str,
    pub(crate) points: Vec<Point>,
}

/// One of them.
pub(crate) struct Point {
    pub(crate) at: f64,
    /// `at`, for the reader.
    pub(crate) label: String,
    pub(crate) path: String,
    pub(crate) clients: usize,
    /// How far away the database is: the time for one way.
    pub(crate) way: Duration,
    pool: u32,
}

impl Point {
    fn at(count: u32, path: impl Into<String>) -> Self {
        let (at, label, path) = (count.into(), thousands(count), path.into());
        Self { at, label, path, clients: CLIENTS, way: Duration::ZERO, pool: POOL }
    }

    /// The database is a round trip of so many microseconds away.
    fn away(round_trip: u32) -> Self {
        let milliseconds = f64::from(round_trip) / 1000.0;
        Self {
            // The axis is logarithmic, and even the shortest way takes some time.
            at: milliseconds.max(0.05),
            label: format!("{milliseconds}"),
            way: Duration::from_micros(round_trip.into()) / 2,
            ..Self::at(round_trip, "/db")
        }
    }

    /// Its server's. The limits on waiting are as high as the number of clients needs: who is refused costs little, and would hide
    /// what a request costs.
    pub(crate) fn configuration(&self, database: &str) -> String {
        format!(
            r#"
[server]
listen   = "127.0.0.1:0"
deadline = "1m"

[admin]
listen = "127.0.0.1:0"

[http]
max_connections = 20000

[queue]
max_length = 20000
max_wait   = "1m"
target     = "1m"
interval   = "1m"

[database]
url                = "{database}"
maximum_pool_size  = {}
connection_timeout = "1m"

[endpoint.db]
route   = "GET /db"
sql     = '''
  select id, randomnumber as "randomNumber" from world
  where id = (select 1 + floor(random() * 10000)::int)'''
returns = "one"

[endpoint.rows]
route   = "GET /rows"
params  = {{ n = "int" }}
sql     = 'select id, randomnumber as "randomNumber" from world limit :n'
returns = "many"
"#,
            self.pool
        )
    }
}

/// All parts; some points of each, if it is to be quick.
pub(crate) fn all(quick: bool) -> [Part; 5] {
    let some = |all: &[u32], few: &[u32]| if quick { few.to_vec() } else { all.to_vec() };
    let connections = some(&[16, 64, 256, 1000, 4000, 10_000], &[16, 256]);
    let pools = some(&[1, 2, 4, 8, 16, 32, 64], &[1, 4]);
    let distances = some(&[0, 200, 1000, 5000, 20_000], &[0, 1000]);
    let rows = some(&[1, 10, 100, 1000, 10_000], &[1, 1000]);
    let sizes = some(&[100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000], &[100, 1_000_000]);
    [
        Part {
            name: NAMES[0],
            title: "Connections",
            method: "Clients in a closed loop on `/db`, one row by its key, with a pool of 16. The queue takes all of them.",
            axis: "connections",
            points: connections
                .into_iter()
                .map(|count| Point { clients: count as usize, ..Point::at(count, "/db") })
                .collect(),
        },
        Part {
            name: NAMES[1],
            title: "Database connections",
            method: "64 clients on `/db`; the pool has so many connections, and the server as many workers.",
            axis: "database connections",
            points: pools.into_iter().map(|pool| Point { pool, ..Point::at(pool, "/db") }).collect(),
        },
        Part {
            name: NAMES[2],
            title: "Distance to the database",
            method: "64 clients on `/db` with a pool of 16. A proxy on the same machine holds all bytes up, so that a round trip takes \
                     this much longer. It takes processor time itself.",
            axis: "ms to the database and back",
            points: distances.into_iter().map(Point::away).collect(),
        },
        Part {
            name: NAMES[3],
            title: "Rows",
            method: "64 clients on an SQL endpoint that returns so many rows of two numbers, some 32 bytes of JSON each, with a \
                     pool of 16.",
            axis: "rows",
            points: rows.into_iter().map(|rows| Point::at(rows, format!("/rows?n={rows}"))).collect(),
        },
        Part {
            name: NAMES[4],
            title: "Bytes",
            method: "16 clients and 16 workers; a handler streams so many bytes (`Response::stream`), which no database is asked \
                     for.",
            axis: "bytes",
            points: sizes
                .into_iter()
                .map(|size| Point {
                    clients: STREAMS,
                    label: in_bytes(size),
                    ..Point::at(size, format!("/bytes?n={size}"))
                })
                .collect(),
        },
    ]
}

/// `10,000`
fn thousands(count: u32) -> String {
    if count < 1000 { count.to_string() } else { format!("{},{:03}", count / 1000, count % 1000) }
}

/// `10 KB`
fn in_bytes(size: u32) -> String {
    match size {
        1_000_000.. => format!("{} MB", size / 1_000_000),
        1000.. => format!("{} KB", size / 1000),
        _ => format!("{size} B"),
    }
}
