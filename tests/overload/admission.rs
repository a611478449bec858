//! Admission when there is more work than workers: the requests that are admitted, their order, and the answers to
//! requests that may not wait.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error, Handler, Policy, Priority};
use wharf::http::{Request, Response};
use wharf::metrics::Reason;
use wharf::server::{Running, Server};

use crate::support::{
    Client, Gate, PATIENCE, ask, assert_nothing_is_left, assert_problem, default_config, gate, measured,
    wait_until,
};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];

fn quick(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text("quick"))
}

fn configuration(workers: usize, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = default_config();
    config.server.workers = Some(workers);
    config.server.deadline = PATIENCE;
    config.queue.max_wait = PATIENCE;
    change(&mut config);
    config
}

fn server(workers: usize, change: impl FnOnce(&mut Config)) -> Server {
    Server::new(configuration(workers, change)).expect("no database to open")
}

/// A server with one worker behind a gate.
fn gated(gate: Gate, change: impl FnOnce(&mut Config)) -> Running {
    server(1, change).route(Method::GET, "/gate", gate).get("/quick", quick).start().expect("a free port")
}

/// Waits until `length` requests wait for a worker. To count the requests that were read would not do: each poller reads its
/// own, and a request may be overtaken on its way into the queue.
fn wait_for_queue(server: &Running, length: usize) {
    wait_until("it does not wait", || server.observer().gauges().queue.length == length);
}

/// Lets time pass, where time is the subject of the test.
fn spend(time: Duration) {
    let started = Instant::now();
    wait_until("time stands still", || started.elapsed() >= time);
}

#[test]
fn requests_that_would_wait_too_long_are_refused_at_once_with_the_time_to_retry() {
    let (handler, keeper) = gate();
    let server = gated(handler, |config| {
        let usual = Config::default().queue;
        (config.queue.target, config.queue.interval) = (usual.target, usual.interval);
    });
    // The first request shows the server how long a request takes.
    let began = Instant::now();
    let mut first = ask(&server, "/gate");
    keeper.wait_for_one();
    spend(Duration::from_millis(300));
    keeper.let_through(1);
    assert_eq!(first.answer().status, 200);
    // On a busy machine the first request takes somewhat longer than the handler waits.
    let seconds_max = (4.0 * began.elapsed().as_secs_f64()).ceil();
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    // A few waiting requests per worker are no overload, however long requests take.
    let asked: Vec<Client> = (0..12).map(|_| ask(&server, "/gate")).collect();
    wait_until("nobody is refused", || server.metrics().refused_for(Reason::Shed) == 8);
    // However slowly the machine takes the others from now on, none of them is stale.
    let patient = configuration(1, |_| {});
    server.reload(patient).expect("a good configuration");
    keeper.let_through(5);
    assert_eq!(running.answer().status, 200);
    let mut refusals = 0;
    for mut client in asked {
        let answer = client.answer();
        if answer.status != 200 {
            refusals += 1;
            assert_problem(&answer, 503, "queue.target");
            let seconds: f64 =
                answer.header("Retry-After").and_then(|text| text.parse().ok()).expect("a number");
            assert!((2.0..=seconds_max).contains(&seconds), "{seconds} for four that take 0.3 s each");
        }
    }
    assert_eq!(refusals, 8);
    drop((first, running));
    assert_nothing_is_left(server);
}

#[test]
fn a_slow_handler_cannot_take_the_last_worker() {
    for connector in BOTH {
        let (handler, keeper) = gate();
        let slow = handler.with(Policy::new().max_concurrency(1).priority(Priority::High));
        let server = server(2, |config| config.server.connector = connector);
        let server =
            server.route(Method::GET, "/slow", slow).get("/quick", quick).start().expect("a free port");
        let mut slow = vec![ask(&server, "/slow")];
        keeper.wait_for_one();
        for waiting in 1..5 {
            slow.push(ask(&server, "/slow"));
            // Connections that come together may have one thread of tiny_http for all of them.
            wait_for_queue(&server, waiting);
        }
        for _ in 0..20 {
            assert_eq!(ask(&server, "/quick").answer().text(), "quick");
        }
        keeper.let_through(5);
        for client in &mut slow {
            assert_eq!(client.answer().text(), "through");
        }
        drop(slow);
        assert_nothing_is_left(server);
    }
}

#[test]
fn the_higher_priority_goes_first() {
    let (handler, keeper) = gate();
    let order = Arc::<Mutex<Vec<&str>>>::default();
    let mut server = server(1, |_| {}).route(Method::GET, "/gate", handler);
    for (path, priority) in
        [("/low", Priority::Low), ("/normal", Priority::Normal), ("/high", Priority::High)]
    {
        let order = Arc::clone(&order);
        let handler = move |_: &Request, _: &mut Context<'_>| {
            order.lock().expect("nobody panics with it").push(path);
            Ok(Response::text("done"))
        };
        server = server.route(Method::GET, path, handler.with(Policy::new().priority(priority)));
    }
    let server = server.start().expect("a free port");
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut waiting = Vec::new();
    for (asked, path) in ["/low", "/normal", "/high", "/low", "/high"].into_iter().enumerate() {
        waiting.push(ask(&server, path));
        wait_for_queue(&server, asked + 1);
    }
    keeper.let_through(1);
    assert_eq!(running.answer().status, 200);
    for client in &mut waiting {
        assert_eq!(client.answer().text(), "done");
    }
    let order = order.lock().expect("nobody panics with it").clone();
    assert_eq!(order, ["/high", "/high", "/normal", "/low", "/low"]);
}

#[test]
fn a_request_whose_client_has_left_gives_its_place_in_the_queue_back() {
    let (handler, keeper) = gate();
    let server = gated(handler, |config| config.queue.max_length = 1);
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    for left in 1..=20 {
        let waiting = ask(&server, "/gate");
        wait_for_queue(&server, 1);
        // Less would be a client that closes only its sending half.
        spend(Duration::from_millis(50));
        drop(waiting);
        wait_until("nobody notices", || server.metrics().abandoned_by_clients() == left);
        wait_until("its socket stays", || server.metrics().open_connections() == 1);
    }
    assert_eq!(server.metrics().refused_for(Reason::QueueFull), 0);
    let mut waiting = ask(&server, "/quick");
    wait_for_queue(&server, 1);
    assert_problem(&ask(&server, "/quick").answer(), 503, "queue.max_length");
    keeper.let_through(1);
    assert_eq!(running.answer().text(), "through");
    assert_eq!(waiting.answer().text(), "quick");
    drop((running, waiting));
    assert_nothing_is_left(server);
}

#[test]
fn a_request_that_waited_too_long_gives_its_place_in_the_queue_back() {
    let (handler, keeper) = gate();
    let server = gated(handler, |config| {
        config.queue.max_length = 1;
        config.queue.max_wait = Duration::from_millis(20);
    });
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    for refused in 1..=5 {
        assert_problem(&ask(&server, "/quick").answer(), 503, "queue.max_wait");
        assert_eq!(server.metrics().refused_for(Reason::QueueWait), refused);
    }
    keeper.let_through(1);
    assert_eq!(running.answer().text(), "through");
    drop(running);
    assert_nothing_is_left(server);
}

#[test]
fn a_deadline_that_passes_in_the_queue_answers_504() {
    for connector in BOTH {
        let (handler, keeper) = gate();
        let hurried = quick.with(Policy::streaming().deadline(Duration::from_millis(30)));
        let server = server(1, |config| config.server.connector = connector);
        let server = server
            .route(Method::GET, "/gate", handler)
            .route(Method::GET, "/hurried", hurried)
            .start()
            .expect("a free port");
        let mut running = ask(&server, "/gate");
        keeper.wait_for_one();
        let mut client = ask(&server, "/hurried");
        wait_for_queue(&server, 1);
        spend(Duration::from_millis(50));
        keeper.let_through(1);
        assert_problem(&client.answer(), 504, "while it waited for a worker");
        assert_eq!(running.answer().text(), "through");
        // A client may have its answer before that is counted.
        wait_until("it is not counted", || server.metrics().refused_for(Reason::Deadline) == 1);
        drop((running, client));
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_client_may_ask_for_less_time_than_there_is() {
    for connector in BOTH {
        let left = |_: &Request, context: &mut Context<'_>| {
            Ok(Response::text(context.deadline().left().as_millis().to_string()))
        };
        let server = server(1, |config| {
            config.server.connector = connector;
            config.server.deadline = Duration::from_secs(5);
            config.server.deadline_header = Some("Request-Timeout".parse().expect("a name"));
        });
        let server = server.get("/left", left).start().expect("a free port");
        let ask = |headers: &[(&str, &str)]| {
            let mut client = Client::connect(server.address());
            client.request("GET", "/left", headers, "");
            client.answer()
        };
        for (asked, most) in [("2", 2000), ("0.25", 250), ("250ms", 250), ("4000ms", 4000), ("9999", 5000)] {
            let left: u64 = ask(&[("request-timeout", asked)]).text().parse().expect("milliseconds");
            assert!(left <= most && left + 1000 > most.min(1000), "{asked}: {left} ms are left");
        }
        assert_eq!(ask(&[]).status, 200);
        for wrong in ["0", "0ms", "-1", "1e3", "NaN", "inf", "soon", "1 s", "2s", "1.2.3", "."] {
            let answer = ask(&[("Request-Timeout", wrong)]);
            assert_problem(&answer, 400, "parameter request-timeout: expected seconds such as");
            assert_eq!(answer.json()["received"], serde_json::Value::Null, "headers are not echoed");
            assert_eq!(answer.json()["parameter"], "request-timeout");
        }
        let twice = ask(&[("Request-Timeout", "1"), ("Request-Timeout", "2")]);
        assert_problem(&twice, 400, "received two values");
    }
}

/// The scheduling policies of this process's threads of a name, each under sched(7)'s number, and what nice(2) has made of them.
fn policies(name: &str) -> Vec<(i32, i32)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let found = stats.filter_map(|stat| {
        let (start, fields) = stat.rsplit_once(") ")?;
        let is_named = start.split_once(" (")?.1.starts_with(name);
        // proc_pid_stat(5) counts from 1, and the third is the first of these.
        let field = |number: usize| fields.split(' ').nth(number - 3)?.parse().ok();
        is_named.then(|| (field(41).expect("policy"), field(19).expect("nice")))
    });
    found.collect()
}

#[test]
fn pollers_and_workers_wait_for_their_turn_unless_that_would_change_how_the_process_is_run() {
    let server = server(1, |_| {}).get("/quick", quick).start().expect("a free port");
    let own = rustix::process::getpriority_process(None).expect("this process has one");
    let expected = (if own == 0 { 3 } else { 0 }, own);
    for name in ["poller-", "worker-"] {
        wait_until("not all of them wait for their turn", || {
            let found = policies(name);
            !found.is_empty() && found.iter().all(|policy| *policy == expected)
        });
    }
    assert!(policies("pacer").iter().all(|policy| *policy == (0, own)));
    assert_eq!(ask(&server, "/quick").answer().text(), "quick");
    assert_nothing_is_left(server);
}

#[test]
fn workers_that_only_wait_for_a_core_get_no_more_jobs_until_others_wait_for_something_else() {
    measured(|| {
        let workers = 8 * num_cpus::get();
        let (handler, keeper) = gate();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let spin = move |_: &Request, _: &mut Context<'_>| {
            while !stopped.load(Relaxed) {
                std::hint::spin_loop();
            }
            Ok::<_, Error>(Response::text("spun"))
        };
        let server = server(workers, |_| {})
            .route(Method::GET, "/gate", handler)
            .get("/spin", spin)
            .start()
            .expect("a free port");
        let busy_max = || server.observer().gauges().workers.busy_max;
        assert_eq!(busy_max(), workers);
        let mut spinning: Vec<Client> = (0..workers).map(|_| ask(&server, "/spin")).collect();
        wait_until("fewer may have a job", || busy_max() <= workers / 2);
        stop.store(true, Relaxed);
        for client in &mut spinning {
            assert_eq!(client.answer().text(), "spun");
        }
        // No request ends before all have begun.
        let mut waiting: Vec<Client> = (0..workers).map(|_| ask(&server, "/gate")).collect();
        (0..workers).for_each(|_| keeper.wait_for_one());
        keeper.let_through(workers);
        for client in &mut waiting {
            assert_eq!(client.answer().text(), "through");
        }
        wait_until("all may have a job again", || busy_max() == workers);
        drop((spinning, waiting));
        assert_nothing_is_left(server);
    });
}

/// Waits above the interval were refused, although the target called them normal.
#[test]
fn waits_up_to_a_target_above_the_interval_are_refused_to_nobody() {
    const CLIENTS: usize = 24;
    const EACH: Duration = Duration::from_millis(20);
    let slow = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        spend(EACH);
        Ok(Response::text("slow"))
    };
    // Each waits for eleven rounds of 20 ms or a little more. A slow machine makes that no more than the target.
    let server = server(2, |config| {
        (config.queue.target, config.queue.interval) = (Duration::from_secs(5), Duration::from_millis(100));
    });
    let server = server.get("/slow", slow).start().expect("a free port");
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                for _ in 0..10 {
                    client.request("GET", "/slow", &[], "");
                    let answer = client.answer();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    assert_nothing_is_left(server);
}
