//! `wharf tune` on databases made for it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use wharf::config::{Config, Environment, Flags, Source};
use wharf::database::Database;
use wharf::internal::{Selection, traffic};
use wharf::tune::{Bound, CannotTell, Options, Outcome, Tuned, tune};

use crate::support::{Distant, Postgres, Wharf, assert_says, directory_with, measured, wait_until};

/// At most `places` calls may be in the function at once, each for about `seconds` seconds. A call that finds all places
/// taken waits in a line. Only the first in the line looks for a place, because more of them would take the cores from
/// the measurement.
const PLACES: &str = "\
    create function work(places int, seconds float) returns int language plpgsql as $$
    begin
        perform pg_advisory_lock(0);
        loop
            for place in 1..places loop
                if pg_try_advisory_lock(place) then
                    perform pg_advisory_unlock(0);
                    perform pg_sleep(seconds * (0.75 + random() / 2));
                    perform pg_advisory_unlock(place);
                    return place;
                end if;
            end loop;
            perform pg_sleep(0.0005);
        end loop;
    end $$";

/// One every 20 ms, however many ask, as with a lock that everybody needs.
const TURNS: &str = "\
    create table turn (at timestamptz not null);
    insert into turn values (now());
    create function work() returns int language plpgsql as $$
    declare mine timestamptz;
    begin
        update turn set at = greatest(at + interval '20 ms', clock_timestamp()) returning at into mine;
        perform pg_sleep(extract(epoch from mine - clock_timestamp()));
        return 1;
    end $$";

fn config(url: &str, sql: &str) -> String {
    format!(
        "# Kept as it is.\n[database]\nurl = '{url}'\nmaximum_pool_size = 3   # a guess\n\n\
         [endpoint.work]\nroute = 'GET /work'\nsql = '{sql}'\nreturns = 'value'\n"
    )
}

/// Runs it in this process.
fn tuned_in_process(text: &str, options: &Options) -> Tuned {
    let source = Source { path: None, text: text.to_owned() };
    let config = Config::read(source, &Environment::default(), &Flags::default()).expect("it is sound");
    let asked = |address: SocketAddr, database: Option<&Database>| {
        traffic(
            &config,
            database,
            &Selection { names: Vec::new(), allow_writes: false, seed: 7, origin: address.into() },
        )
    };
    tune(&config, options, asked, &AtomicBool::new(false), &mut |_| {}).expect("it runs")
}

/// Repetitions that differ by less than this part of their throughput can be told apart in the time that the tests give.
const QUIET: f64 = 0.02;

#[test]
fn the_knee_of_a_database_that_lets_six_in_is_found() {
    measured(|| {
        let database = Postgres::database();
        database.psql(PLACES);
        let found = tuned_in_process(
            &config(&database.url(), "select work(6, 0.04)"),
            &Options {
                largest: 16,
                bound: Bound::Firm,
                objectives: Vec::new(),
                time: Duration::from_secs(45),
                seed: 7,
            },
        );
        match &found.pool.outcome {
            Outcome::Knee(knee) => {
                // Other tests run beside it, so the knee may be anywhere in its band. The band holds the truth.
                assert!(knee.band.contains(&6) && knee.size <= 8, "{:#?}", found.pool);
                assert_eq!(found.sizes.as_ref().map(|sizes| sizes.pool), Some(knee.size));
            }
            // On a machine that is busy with something else repetitions differ, and this is the truth.
            Outcome::CannotTell(CannotTell::TooNoisy { band, noise, .. }) if *noise > QUIET => {
                assert!(band.contains(&6), "{:#?}", found.pool);
            }
            _ => panic!("{:#?}", found.pool),
        }
        let (capacity, sizes) = (found.capacity.expect("measured"), found.sizes.as_ref().expect("proved"));
        assert!((capacity - 6.0 / 0.04).abs() < 30.0, "{capacity}");
        assert!(sizes.workers >= sizes.pool);
        assert_eq!(found.crowd, None, "each of these requests has its session to itself");
        let others = "select count(*) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()";
        // A session ends a moment after its client has closed it.
        wait_until("sessions are left", || database.psql(others) == "0");
    });
}

/// Runs it in a directory with this file; its report, and the file afterwards.
fn tuned(config: &str, arguments: &[&str]) -> (Value, String) {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let file = directory.path().join("wharf.toml");
    fs::write(&file, config).expect("the file is written");
    let outputs = ["tune", "--json", "found.json", "--html", "found.html", "--seed", "7"];
    let all = [&outputs[..], arguments].concat();
    let exit = Wharf::run_in(&directory, &all, &[]);
    assert!(matches!(exit.code, Some(0 | 1)), "{:?}: {}", exit.code, exit.stderr);
    let report = fs::read_to_string(directory.path().join("found.json")).expect("the report is written");
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    assert_eq!(report["stands"].as_bool(), Some(exit.code == Some(0)), "{}", exit.stdout);
    let page = fs::read_to_string(directory.path().join("found.html")).expect("the page is written");
    assert!(
        page.contains(report["pool"]["words"].as_str().expect("a text").trim_start_matches("sessions")),
        "{page}"
    );
    (report, fs::read_to_string(file).expect("it is there"))
}

#[test]
fn where_more_connections_give_no_more_one_is_recommended_and_written() {
    measured(|| {
        let database = Postgres::database();
        database.psql(TURNS);
        let config = config(&database.url(), "select work()").replace("GET", "POST");
        let (report, file) =
            tuned(&config, &["--time", "16s", "--max-pool", "3", "--allow-writes", "--write"]);
        match report["pool"]["outcome"].as_str() {
            Some("flat") => assert_eq!(report["pool"]["size"], 1, "{report:#}"),
            // On a machine that is busy with something else repetitions differ, and this is the truth.
            Some("cannot_tell") => {
                let words = report["pool"]["words"].as_str().expect("a text");
                assert!(words.contains("cannot tell: repetitions vary by "), "{report:#}");
                assert_eq!(report["pool"]["band"][0], 1, "{report:#}");
            }
            _ => panic!("{report:#}"),
        }
        let recommended = report["recommended"].as_array().expect("an array");
        let size = recommended.iter().find(|one| one["key"] == "database.maximum_pool_size").expect("a size");
        let size = if report["stands"] == true { size["value"].as_u64().expect("a number") } else { 3 };
        let expected = format!("maximum_pool_size = {size}   # a guess");
        assert!(
            file.starts_with("# Kept as it is.\n[database]\n") && file.contains(&expected),
            "{file}\n{report:#}"
        );
        let sizes = report["pool"]["sizes"].as_array().expect("an array");
        assert_eq!(
            sizes.iter().map(|size| size["size"].as_u64()).collect::<Vec<_>>(),
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(report["proof"].as_array().expect("an array").len(), 5);
    });
}

#[test]
fn growth_up_to_the_last_size_is_not_recommended() {
    measured(|| {
        // It was recommended with exit code 0, as the largest size "that was allowed", and the changed lines followed.
        let database = Postgres::database();
        let directory = directory_with(&config(&database.url(), "select pg_sleep(0.02)::text"));
        let exit = Wharf::run_in(&directory, &["tune", "--time", "28s", "--json", "found.json"], &[]);
        let report = fs::read_to_string(directory.path().join("found.json")).expect("the report is written");
        let report: Value = serde_json::from_str(&report).expect("it is JSON");
        let outcome = report["pool"]["outcome"].as_str().expect("a text");
        // On a busy machine the time may be too short for even that.
        let expected =
            if outcome == "still_growing" { (3, "throughput still grows at ") } else { (1, "too short") };
        assert_says(&exit, expected.0, &["nothing is recommended: ", expected.1, "--time 56s"]);
        assert!(["still_growing", "cannot_tell"].contains(&outcome), "{report:#}");
        assert!(!exit.stdout.contains(" + maximum_pool_size"), "{}", exit.stdout);
        assert_eq!(report["recommended"].as_array().map(Vec::len), Some(0));
        // The largest size is what the database allows: 200, less 3 reserved ones and those of other tests.
        let largest = report["largest"].as_u64().expect("a number");
        assert!((33..=197).contains(&largest), "{largest}");
        assert!(exit.stdout.contains("max_connections 200, of which 3 are reserved"), "{}", exit.stdout);
    });
}

#[test]
fn growth_up_to_a_default_limit_is_not_recommended() {
    measured(|| {
        let database = Postgres::database();
        let found = tuned_in_process(
            &config(&database.url(), "select pg_sleep(0.02)::text"),
            &Options {
                largest: 2,
                bound: Bound::Default,
                objectives: Vec::new(),
                time: Duration::from_secs(16),
                seed: 7,
            },
        );
        let expected = CannotTell::StillGrowing { size: 2, is_default: true };
        assert_eq!(found.pool.outcome, Outcome::CannotTell(expected), "{:#?}", found.pool);
        assert!(!found.stands() && found.is_still_growing());
    });
}

#[test]
fn requests_that_share_round_trips_have_clients_enough_for_it() {
    measured(|| {
        // Each size had half as many clients again as workers. So throughput grew with the clients at any size, and no run
        // could tell where the sessions were enough.
        let database = Postgres::database();
        let way = Distant::to(Postgres::shared().port(), Duration::from_millis(1));
        let url = format!("postgres://postgres@127.0.0.1:{}/{}", way.port(), database.name());
        let found = tuned_in_process(
            &config(&url, "select 1"),
            &Options {
                largest: 4,
                bound: Bound::Firm,
                objectives: Vec::new(),
                time: Duration::from_secs(14),
                seed: 7,
            },
        );
        assert!(found.crowd.expect("requests share round trips") >= 32, "{:?}", found.crowd);
        let sizes = found.pool.measurements.sizes();
        assert!(sizes.iter().all(|size| size.at_once > 2.0), "{sizes:#?}");
    });
}

#[test]
fn a_stopped_run_keeps_what_it_has_found() {
    // All of it was lost, and the file of --json stayed empty.
    let database = Postgres::database();
    for signal in ["INT", "TERM"] {
        let before = config(&database.url(), "select pg_sleep(0.002)::text");
        let directory = directory_with(&before);
        let mut child = Command::new(env!("CARGO_BIN_EXE_wharf"))
            .args(["tune", "--time", "10m", "--write", "--json", "found.json", "--html", "found.html"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wharf runs");
        let mut progress = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        for _ in 0..3 {
            let line = progress.next().expect("three measurements").expect("text");
            assert!(line.contains(" sessions "), "{line}");
        }
        let kill = format!("kill -s {signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
        let rest: Vec<String> = progress.map_while(Result::ok).collect();
        let mut text = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut text).expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest:?}\n{text}");
        assert!(text.contains("nothing is recommended: the run was stopped"), "{text}");
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect("it is written");
        let report: Value = serde_json::from_str(&read("found.json")).expect("it is JSON");
        assert_eq!(report["cut_short"], "stopped");
        assert_eq!(report["stands"], false);
        let measured = report["pool"]["sizes"].as_array().expect("an array");
        let repetitions =
            measured.iter().map(|size| size["repetitions_per_s"].as_array().map_or(0, Vec::len));
        assert!(repetitions.sum::<usize>() >= 3, "{report:#}");
        assert!(read("found.html").contains("The run ended before it was done:"));
        assert_eq!(read("wharf.toml"), before, "nothing is written");
    }
}

#[test]
fn the_load_leaves_descriptors_for_the_server() {
    // Ten times the capacity took all descriptors. The run ended with "Too many open files" and without any result.
    let database = Postgres::database();
    let directory = directory_with(&config(&database.url(), "select 1"));
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 400 && exec \"$0\" tune --time 8s --max-pool 2", env!("CARGO_BIN_EXE_wharf")])
        .current_dir(directory.path())
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    assert!(text.contains("     1000 % "), "{text}");
}

#[test]
fn a_wrong_tuning_is_refused_before_anything_is_measured() {
    let database = Postgres::database();
    database.psql("create table t (x int)");
    let url = database.url();
    let sound = config(&url, "select 1");
    let run = |config: &str, arguments: &[&str]| Wharf::run(config, &[&["tune"], arguments].concat(), &[]);
    assert_says(&run(&sound, &["--time", "1"]), 2, &["\"1\" is not a time"]);
    assert_says(&run(&sound, &["--target", "p99"]), 2, &["\"p99\" is not an objective such as p99<50ms"]);
    assert_says(
        &run(&sound, &["--max-pool", "1000"]),
        2,
        &["--max-pool 1000: the database allows ", "max_connections 200"],
    );
    assert_says(
        &run(&sound, &["--instances", "1000"]),
        2,
        &["the database has no session left", "for 1000 instances"],
    );
    assert_says(
        &run(&sound, &["--endpoint", "wrok"]),
        2,
        &["there is no endpoint \"wrok\"; expected one of work"],
    );
    assert_says(
        &run("[endpoint.a]\nroute = 'GET /'\nbody = 'a'\n", &[]),
        2,
        &["the configuration has no database.url"],
    );
    let writes = config(&url, "insert into t values (1)").replace("GET", "POST").replace("value", "none");
    assert_says(&run(&writes, &[]), 2, &["no endpoint to request: work write; --allow-writes includes them"]);
    assert_says(
        &run(&writes, &["--endpoint", "work"]),
        2,
        &["endpoint work writes (POST); it needs --allow-writes"],
    );
    assert_eq!(database.psql("select count(*) from t"), "0");
    let unknown =
        config(&url, "select :id as id").replace("GET /work", "GET /work/{id}") + "params = { id = 'int' }\n";
    assert_says(
        &run(&unknown, &[]),
        2,
        &["wharf.toml:6:", "endpoint.work.load.params.id: the values of `id` are not given"],
    );
    let empty = unknown + "load = { sample = 'select x as id from t' }\n";
    assert_says(&run(&empty, &[]), 2, &["endpoint.work.load.sample: it found no row"]);
    let failing = config(&url, "select 1 / 0");
    assert_says(
        &run(&failing, &[]),
        2,
        &["100.0 % of the requests fail before anything is measured", " × 400"],
    );
}
