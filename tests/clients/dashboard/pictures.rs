//! The pictures in the documents. `scripts/pictures` writes them; the tests alone only take them.

use std::fs;

use super::Held;
use super::browser::Browser;
use super::page::ANOTHER;
use super::states::stats;
use crate::support::{Postgres, Wharf, wait_until};

/// The first bytes of every PNG. Its width and height follow at 16 and 20.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Opens the dashboard of this server.
fn open(wharf: &Wharf, scheme: &str, width: u32) -> Browser {
    let mut browser = Browser::open(width);
    browser.prefer(scheme);
    browser.go(&format!("http://{}/", wharf.admin_address()));
    browser.wait_until(ANOTHER);
    browser
}

/// Takes the page down to the heading with this name, and writes it if the documents are wanted.
fn take(browser: &mut Browser, width: u32, heading: &str, file: &str) {
    let top =
        format!("Math.round(document.getElementById('{heading}').getBoundingClientRect().top + scrollY)");
    let height = browser.evaluate(&top).as_u64().and_then(|height| u32::try_from(height).ok());
    let height = height.expect("the heading is on the page");
    let picture = browser.picture(width, height);
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().expect("four bytes"));
    assert!(picture.starts_with(PNG));
    assert_eq!((number(16), number(20)), (width, height));
    if writes() {
        fs::write(file, picture).expect("docs is there");
    }
}

fn writes() -> bool {
    std::env::var_os("WRITE_DOCS").is_some()
}

/// For the documents, so many seconds that the charts have a shape.
fn seconds(for_documents: f64) -> f64 {
    if writes() { for_documents } else { 2.0 }
}

/// Asks again and again, for so many of the server's seconds.
fn ask_for(seconds: f64, wharf: &Wharf, mut ask: impl FnMut()) {
    let uptime = || stats(wharf)["uptime_s"].as_f64().expect("a number");
    let until = uptime() + seconds;
    wait_until("the seconds have passed", || {
        ask();
        uptime() >= until
    });
}

#[test]
fn a_picture_of_a_server_at_its_limit() {
    const WIDTH: u32 = 1280;
    let mut held = Held::start(&[]);
    let mut browser = open(&held.wharf, "light", WIDTH);
    let mut n = 0_u64;
    ask_for(seconds(45.0), &held.wharf, || {
        n += 1;
        held.wharf.get(&format!("/works/{n}"));
        if n.is_multiple_of(9) {
            held.wharf.get("/works/none");
        }
        if n.is_multiple_of(31) {
            held.wharf.get("/fails");
        }
    });
    held.fill();
    ask_for(seconds(12.0), &held.wharf, || drop(held.wharf.get("/waits")));
    browser.wait_until("document.querySelectorAll('#conditions > *').length === 1");
    take(&mut browser, WIDTH, "errors-title", "docs/dashboard.png");
    held.release();
}

#[test]
fn a_picture_of_a_server_without_its_database() {
    const WIDTH: u32 = 1280;
    let cluster = Postgres::start();
    let config = format!(
        "database = {{ url = '{}', maximum_pool_size = 4, connection_timeout = '2s' }}\n\
         [endpoint.one]\nroute = 'GET /one'\nsql = 'select 1 as one'\n",
        cluster.url()
    );
    let wharf = Wharf::start(&config);
    let mut browser = open(&wharf, "dark", WIDTH);
    ask_for(seconds(30.0), &wharf, || drop(wharf.get("/one")));
    cluster.stop();
    ask_for(seconds(20.0), &wharf, || drop(wharf.get("/one")));
    browser.wait_until("document.querySelector('#conditions > [data-condition=database_down]')");
    take(&mut browser, WIDTH, "workers-title", "docs/dashboard-database-down.png");
}
