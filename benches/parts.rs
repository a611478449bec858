//! Measures the cost of one request in each part: reading its head, passing the queue, checking out a session, writing a
//! row as JSON. `cargo bench --bench parts`; criterion compares with the last run. SQLite stands in for the database, so
//! that no network is measured.

use std::fs::{self, File};
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use wharf::config;
use wharf::database::{Access, Database, RowWriter, Shape};
use wharf::deadline::Deadline;
use wharf::http::{
    Decoder, Form, Limits, Outline, Request, Response, Scan, encode_head, parse_head, scan_head,
};
use wharf::internal::activity::{Activity, WorkerState};
use wharf::internal::journal::{Entry, Journal, Opened};
use wharf::internal::queue::{self, LaneSpec, Priority, Queue};
use wharf::internal::request_id::RequestIds;
use wharf::metrics::{Endpoint, Metrics, PHASES, Spans};
use wharf::value::{Scalar, Type, Value};

const LIMITS: Limits = Limits { max_head_bytes: 16 << 10, max_target_bytes: 8 << 10, max_headers: 100 };

fn http(c: &mut Criterion) {
    let short = b"GET /db HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n".as_slice();
    let browser = b"GET /flights?origin=JFK&dest=LAX&limit=20 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
        Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
        Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n\
        Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nPriority: u=0, i\r\n\r\n"
        .as_slice();
    for (name, head) in [("parse a short head", short), ("parse a browser's head", browser)] {
        c.bench_function(name, |b| {
            b.iter(|| match scan_head(black_box(head), 0, &LIMITS) {
                Ok(Scan::Complete(end)) => parse_head(&head[..end], &LIMITS),
                other => panic!("{other:?}"),
            });
        });
    }
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n0\r\n\r\n"].concat();
    c.bench_function("decode a chunk of 4 KiB", |b| {
        b.iter(|| {
            let mut body = Vec::with_capacity(4096);
            Decoder::default().decode(black_box(&chunk), &mut body, 1 << 20).map(|_| body)
        });
    });
    let response = Response::json(r#"{"id":7,"randomNumber":1234}"#);
    let form = Form { keep_alive: true, ..Form::CLOSE };
    let mut out = Vec::new();
    c.bench_function("encode a response's head", |b| {
        b.iter(|| {
            out.clear();
            encode_head(black_box(&response), form, None, &mut out)
        });
    });
}

fn queue_of_one() -> Queue<u64> {
    let limits =
        queue::Limits { max_length: 16, target: Duration::from_secs(1), interval: Duration::from_secs(1) };
    let queue = Queue::new(limits, 1);
    queue.lanes(&[LaneSpec { name: None, priority: Priority::Normal, max_concurrency: None }]);
    queue.add_worker();
    queue
}

fn hand_over(c: &mut Criterion) {
    let jobs = queue_of_one();
    c.bench_function("queue: push and pop on one thread", |b| {
        let mut done = None;
        b.iter(|| {
            jobs.push(0, black_box(1)).expect("room");
            let (job, next) = jobs.next(done.take()).expect("a job");
            done = Some(next);
            job
        });
    });
    let there = queue_of_one();
    let worker = there.clone();
    let (answer, answers) = crossbeam_channel::bounded(16);
    let echo = thread::spawn(move || {
        let mut done = None;
        while let Some((job, next)) = worker.next(done) {
            done = Some(next);
            if answer.send(job).is_err() {
                break;
            }
        }
    });
    c.bench_function("queue: to a sleeping worker and back", |b| {
        b.iter(|| {
            there.push(0, black_box(1)).expect("room");
            answers.recv()
        });
    });
    there.close();
    echo.join().expect("the worker ends with its queue");
}

fn database(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite:{}", directory.path().join("bench.db").display());
    let mut settings = config::Config::default().database;
    settings.maximum_pool_size = 2;
    let database = Database::open(&settings, &url).expect("SQLite opens");
    let deadline = Deadline::after(Duration::from_secs(3600));
    c.bench_function("pool: checkout and checkin", |b| {
        b.iter(|| database.checkout(deadline).map(drop));
    });
    let sql = config::Sql {
        pieces: vec![
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < ".to_owned(),
            ") select i as id, i * 0.5 as half, 'number ' || i as name, null as nothing from n".to_owned(),
        ],
        slots: vec![0],
    };
    let params = [config::Param::new("rows", config::Place::Query, Type::One(Scalar::Int))];
    let statement = database.statement(&sql, &params);
    let mut connection = database.checkout(deadline).expect("a connection");
    for rows in [1, 1000] {
        let mut out = Vec::new();
        c.bench_function(&format!("SQLite: {rows} rows as JSON"), |b| {
            b.iter(|| {
                out.clear();
                let mut writer = RowWriter::new(&mut out, Shape::Objects, 1 << 24, u64::MAX);
                connection.run(&statement, &[Value::Int(rows)], Access::ReadOnly, deadline, &mut writer)
            });
        });
    }
}

/// A request as a worker has it at its end.
struct Ended {
    request: Request,
    endpoint: Arc<Endpoint>,
    spans: Spans,
    at: Instant,
}

impl Ended {
    fn new(metrics: &Metrics, request_ids: &Arc<RequestIds>) -> Self {
        let head = b"GET /db HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.2.0\r\n\r\n";
        let mut request = parse_head(head, &LIMITS).expect("a good head").request;
        request.read_id(request_ids);
        let mut spans = Spans::default();
        for ((phase, _), us) in PHASES.into_iter().zip([35, 2, 270, 11, 14]) {
            spans.set(phase, Duration::from_micros(us));
        }
        Self { request, endpoint: metrics.endpoint("GET", "/db"), spans, at: Instant::now() }
    }

    fn tell(&self, journal: &Journal) {
        let outline = Outline::of(&self.request);
        journal.ended(&Entry {
            outline: Some(outline),
            client: Some([127, 0, 0, 1].into()),
            request_id: self.request.request_id(),
            status: 200,
            bytes: 31,
            ended: Instant::now(),
            total: self.spans.total(),
            spans: Some(&self.spans),
            endpoint: Some(&self.endpoint),
            reason: None,
        });
    }
}

/// An access log in a file, of which no more than a few pieces are kept.
struct AccessLog {
    journal: Journal,
    file: File,
    line: u64,
}

impl AccessLog {
    /// The number of lines at once that the writing thread keeps up with.
    const PIECE: u64 = 5000;

    fn new(path: &std::path::Path, ended: &Ended) -> Self {
        let mut settings = config::Config::default().log;
        (settings.access, settings.access_file) = (config::AccessLog::Json, Some(path.to_owned()));
        let journal = Journal::default();
        let opened = Opened::new(&settings).expect("a new file");
        journal.reconfigure(journal.prepare(&settings, opened).expect("a thread"));
        ended.tell(&journal);
        while fs::metadata(path).expect("a file").len() == 0 {
            thread::yield_now();
        }
        let file = File::options().write(true).open(path).expect("a file");
        let line = file.metadata().expect("a file").len();
        Self { journal, file, line }
    }

    /// How long the threads take to write `lines` lines each.
    fn time(&self, lines: u64, threads: u64, ended: &Ended) -> Duration {
        let (mut took, mut left) = (Duration::ZERO, lines);
        while left > 0 {
            let piece = left.min(Self::PIECE / threads);
            left -= piece;
            self.file.set_len(0).expect("a file");
            let add = || {
                let began = Instant::now();
                (0..piece).for_each(|_| black_box(ended).tell(&self.journal));
                began.elapsed()
            };
            took += thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(add)).collect();
                let own = add();
                others.into_iter().map(|other| other.join().expect("no panic")).fold(own, Duration::max)
            });
            while self.file.metadata().expect("a file").len() < piece * threads * self.line {
                thread::yield_now();
            }
        }
        took
    }
}

/// Measures the cost of observing a request, without the reading of the clock.
fn watched(c: &mut Criterion) {
    let request_ids = RequestIds::new(Some(http::HeaderName::from_static("x-request-id")), true);
    let (metrics, request_ids) = (Metrics::default(), Arc::new(request_ids));
    let mut ended = Ended::new(&metrics, &request_ids);
    c.bench_function("watched: an request_id is made", |b| {
        b.iter(|| ended.request.read_id(&request_ids));
    });
    let response = Response::json(r#"{"id":7,"randomNumber":1234}"#);
    let form = Form { keep_alive: true, ..Form::CLOSE };
    let mut out = Vec::new();
    for (name, request_id) in [("nothing", None), ("the request_id", ended.request.request_id())] {
        c.bench_function(&format!("watched: a head with {name} is written"), |b| {
            b.iter(|| {
                out.clear();
                encode_head(black_box(&response), form, request_id, &mut out)
            });
        });
    }
    let activity = Activity::default();
    c.bench_function("watched: a worker says what it does", |b| {
        b.iter(|| {
            activity.begin(1, ended.at, ended.at);
            drop(activity.wait_for(WorkerState::Pool));
            drop(activity.wait_for(WorkerState::Database));
            activity.turn_to(WorkerState::Write, ended.at);
            activity.turn_to(WorkerState::Idle, ended.at);
            activity.spent()
        });
    });
    c.bench_function("watched: a request is counted", |b| {
        b.iter(|| {
            metrics.received();
            let ended = black_box(&ended);
            metrics.finished_by_worker(&ended.endpoint, ended.request.id(), 200, &ended.spans);
            metrics.answered();
        });
    });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = AccessLog::new(&directory.path().join("access.log"), &ended);
    let mut group = c.benchmark_group("watched: a line for the access log");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for threads in [1, 2] {
        group.bench_function(format!("by each of {threads}"), |b| {
            b.iter_custom(|lines| log.time(lines, threads, &ended));
        });
    }
    group.finish();
    log.journal.close();
}

criterion_group!(parts, http, hand_over, database, watched);
criterion_main!(parts);
