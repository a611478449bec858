//! The wire conformance suite: raw bytes in; exact bytes, a close or silence out; by the section that decides it.
//!
//! The cases stand in `tests/http/wire/cases/`, a file for each theme. Each case is sent to the native connector whole, a byte
//! at a time, and split in two at every place. It is also sent whole to the `tiny_http` connector, which must do what the
//! table states for it. `docs/conformance.md` is the table as a document: `WRITE_DOCS=1 cargo test --test http wire` writes
//! it.

mod case;
mod cases;
mod document;
mod native;
mod properties;
mod server;
mod tiny_http;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use case::Case;
use wharf::config::Connector;

/// Checks every case on `threads` threads, each with the result of its own call to `prepare`. Panics with all failures.
fn check_all<T>(
    threads: usize,
    prepare: impl Fn() -> T + Sync,
    check: impl Fn(&mut T, &Case) -> Option<String> + Sync,
) {
    let cases: Vec<Case> = cases::all().into_iter().flat_map(|theme| theme.cases).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = prepare();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(complaint) = check(&mut own, case) {
                        wrong.lock().expect("no thread panics").push(format!("{}: {complaint}", case.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no thread panics");
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn native_answers_every_case_as_the_rfc_asks_however_its_bytes_are_split() {
    let server = server::start(Connector::Native);
    let address = server.address();
    check_all(4, || native::Driver::new(address), |driver, case| driver.check(case).err());
}

/// A server for each thread: one request can hold up tiny_http's only receiver, and with it every other client.
#[test]
fn tiny_http_does_what_the_table_says() {
    check_all(
        16,
        || server::start(Connector::TinyHttp),
        |server, case| {
            let (expected, found) = (case.on_tiny_http(), tiny_http::outcome(server.address(), case));
            (found != expected).then(|| format!("the table says `{expected}`, it does `{found}`"))
        },
    );
}

#[test]
fn the_document_is_what_the_table_yields() {
    document::check_or_write();
}

#[test]
fn every_case_has_a_name_of_its_own_and_cites_a_section() {
    let mut names = BTreeSet::new();
    for case in cases::all().into_iter().flat_map(|theme| theme.cases) {
        let (rfc, section) = case.rfc.split_once(' ').unwrap_or_default();
        assert!(["9110", "9112", "3986", "6585", "9457"].contains(&rfc), "{}: {}", case.name, case.rfc);
        assert!(section.split('.').all(|part| part.parse::<u32>().is_ok()), "{}: {}", case.name, case.rfc);
        assert!(names.insert(case.name.clone()), "{} is there twice", case.name);
    }
    assert!(names.len() >= 160, "{}", names.len());
}
