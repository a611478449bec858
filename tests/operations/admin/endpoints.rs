//! Each path of the admin listener, on an idle server and on one with no capacity left.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use wharf::metrics::Reason;
use wharf::server::Drained;

use super::{HELLO, get, request, serve};
use crate::support::{Client, PATIENCE, Wharf, ask, assert_problem, assert_says, wait_until};

const PAGES: [&str; 7] = ["/", "/live", "/ready", "/metrics", "/stats", "/threads", "/config"];

#[test]
fn every_page_is_answered_with_its_type() {
    let wharf = Wharf::start(HELLO);
    let admin = wharf.admin_address();
    let types = ["text/html", "application/json", "application/json", "text/plain; version=0.0.4"];
    let types = types.into_iter().chain(["application/json", "application/json", "application/toml"]);
    for (page, kind) in PAGES.into_iter().zip(types) {
        let answer = get(admin, page);
        assert_eq!(answer.status, 200, "{page}: {}", answer.text());
        assert!(answer.header("Content-Type").is_some_and(|found| found.starts_with(kind)), "{page}");
        assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{page}");
        let head = request(admin, "HEAD", page, &[], "");
        assert_eq!((head.status, head.header("Content-Type")), (200, answer.header("Content-Type")));
    }
    assert_eq!(get(admin, "/live").json()["live"], true);
    let accept =
        [("Accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3")];
    let metrics = request(admin, "GET", "/metrics", &accept, "");
    assert!(metrics.text().ends_with("# EOF\n"));
    assert!(
        metrics.header("Content-Type").is_some_and(|found| found.starts_with("application/openmetrics-text"))
    );
    assert_eq!(wharf.get("/hello").status, 200);
    assert_eq!(
        get(admin, "/stats").json()["totals"]["requests"],
        1,
        "what is asked here is not counted there"
    );
    let index = get(admin, "/");
    for page in PAGES.into_iter().skip(1).chain(["/events"]) {
        // Relative, because a proxy may serve the page under a path.
        let page = page.trim_start_matches('/');
        assert!(index.text().contains(&format!("href=\"{page}\"")), "{page}");
    }
    assert!(index.header("Content-Security-Policy").is_some_and(|policy| policy.contains("frame-ancestors")));
    assert_eq!(wharf.get("/live").status, 404, "clients see none of it");
}

#[test]
fn unknown_paths_and_methods_are_answered_as_on_other_listeners() {
    let wharf = Wharf::start(HELLO);
    let admin = wharf.admin_address();
    assert_problem(&get(admin, "/nothing"), 404, "no endpoint has this path");
    let wrong = request(admin, "POST", "/live", &[], "");
    assert_problem(&wrong, 405, "not with this method");
    assert_eq!(wrong.header("Allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(request(admin, "GET", "/reload", &[], "").header("Allow"), Some("POST, OPTIONS"));
    let options = request(admin, "OPTIONS", "/ready", &[], "");
    assert_eq!((options.status, options.header("Allow")), (204, Some("GET, HEAD, OPTIONS")));
    assert_eq!(request(admin, "OPTIONS", "*", &[], "").status, 204);
    assert_problem(&request(admin, "POST", "/log-level", &[], &"x".repeat(2000)), 413, "");
}

#[test]
fn with_every_worker_blocked_and_the_queue_full_everything_is_answered() {
    let (server, admin, keeper) = serve(|config| {
        config.queue.max_length = 1;
        config.queue.max_wait = PATIENCE;
    });
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut clients: Vec<Client> = (0..30).map(|_| ask(&server, "/gate")).collect();
    wait_until("the queue never was full", || server.metrics().refused_for(Reason::QueueFull) == 29);
    for page in PAGES {
        let expected = if page == "/ready" { 503 } else { 200 };
        assert_eq!(get(admin, page).status, expected, "{page}");
    }
    let ready = get(admin, "/ready").json();
    assert_eq!(ready["reasons"][0], "shedding");
    let detail = ready["details"]["shedding"].as_str().expect("on loopback everything is said");
    assert!(detail.starts_with("29 of 3") && detail.contains("admin.ready_max_refused is 50 %"), "{detail}");
    keeper.let_through(2);
    assert_eq!(running.answer().status, 200);
    let through = clients.iter_mut().filter_map(|client| (client.answer().status == 200).then_some(()));
    assert_eq!(through.count(), 1);
    drop((running, clients));
    assert_eq!(server.drain(), Drained::Complete);
    assert!(Client::try_connect(admin, Duration::from_secs(1)).is_err(), "it has ended with the server");
}

#[test]
fn a_port_in_use_ends_the_start_and_off_needs_none() {
    let taken = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let said = Wharf::run(HELLO, &serve, &[("WHARF_ADMIN_LISTEN", &address)]);
    assert_says(&said, 2, &[&format!("cannot listen on {address} (admin.listen): Address already in use")]);
    let open = Wharf::run(HELLO, &serve, &[("WHARF_ADMIN_LISTEN", "0.0.0.0:0")]);
    assert_says(&open, 2, &["admin.listen: needs admin.token"]);
    let off = Wharf::start_with(HELLO, &[], &[("WHARF_ADMIN_LISTEN", "off")]);
    assert!(off.output().contains("\n  admin          off\nlistening on "), "{}", off.output());
    assert_eq!(off.get("/hello").text(), "hi");
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let config = format!(
        "admin.token = 'sesame-sesame'\ndatabase.url = 'sqlite:${{NAME:-a}}.db'\n\
         database.connection_init_sql = \"select 'sesame'\"\nserver.workers = 3\n{HELLO}"
    );
    let wharf = Wharf::start(&config);
    let token = [("Authorization", "Bearer sesame-sesame")];
    let shown = request(wharf.admin_address(), "GET", "/config", &token, "");
    let text = shown.text();
    assert_eq!(shown.status, 200, "{text}");
    assert!(!text.contains("sesame"), "{text}");
    for line in [
        "workers = 3",
        "token = \"[redacted]\"",
        "connection_init_sql = \"[redacted]\"",
        "url = \"sqlite:a.db\"",
        "max_length = 1024",
        "# selectors is not given",
        "route = \"GET /hello\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
