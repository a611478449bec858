//! The pictures in the documents. `scripts/pictures` writes them; the test alone only takes them.

use std::fs;

use super::Held;
use super::browser::Browser;
use super::page::ANOTHER;
use crate::support::wait_until;

/// The width of the picture, and a height that shows the page down to the slowest endpoints.
const SIZE: (u32, u32) = (1440, 1560);

/// The first bytes of every PNG, and where its width and height stand.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

#[test]
fn the_picture_of_the_dashboard_is_taken_from_a_server_at_its_limit() {
    let mut held = Held::start(&[]);
    let mut browser = Browser::open(SIZE.0);
    browser.prefer("light");
    browser.go(&format!("http://{}/", held.wharf.admin_address()));
    browser.wait_until(ANOTHER);
    // Enough seconds for the charts to have a shape.
    let (seconds, full_at) = if writes() { (45, 35) } else { (4, 2) };
    let mut is_full = false;
    let mut n = 0_u64;
    wait_until("the charts are filled", || {
        let shown = held.stats()["seconds"].as_array().map_or(0, Vec::len);
        if !is_full {
            for _ in 0..n % 7 + 1 {
                n += 1;
                held.wharf.get(&format!("/works/{n}"));
            }
            if n.is_multiple_of(11) {
                held.wharf.get("/works/none");
            }
        }
        if !is_full && shown >= full_at {
            held.fill();
            is_full = true;
        }
        shown >= seconds
    });
    browser.wait_until("document.querySelectorAll('#conditions > *').length === 1");
    let picture = browser.picture(SIZE.0, SIZE.1);
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().expect("four bytes"));
    assert!(picture.starts_with(PNG));
    assert_eq!((number(16), number(20)), SIZE);
    if writes() {
        fs::write("docs/dashboard.png", picture).expect("docs is there");
    }
    held.release();
}

fn writes() -> bool {
    std::env::var_os("WRITE_DOCS").is_some()
}
