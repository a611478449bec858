//! The page of another site cannot make Chromium write to a server.

use serde_json::Value;

use super::browser::Browser;
use crate::support::{Client, Wharf, wait_until};

/// A page in which the test runs its scripts.
const PAGE: &str =
    "[endpoint.page]\nroute = 'GET /page'\ncontent_type = 'text/html'\nbody = '<title>page</title><p>page'\n";

const ENDPOINTS: &str = "
[database]
url = 'sqlite:x.db'
connection_init_sql = 'create table if not exists note (text)'

[endpoint.add]
route   = 'POST /note'
params  = { text = { type = 'text', in = 'body' } }
sql     = 'insert into note values (:text)'
returns = 'none'

[endpoint.form]
route   = 'POST /form'
params  = { text = { type = 'text', in = 'form' } }
sql     = 'insert into note values (:text)'
returns = 'none'

[endpoint.tick]
route   = 'POST /tick'
sql     = \"insert into note values ('tick')\"
returns = 'none'

[endpoint.notes]
route   = 'GET /note'
sql     = 'select count(*) from note'
returns = 'value'
";

/// Sends a form into a frame, and is done when the frame has its answer or its refusal.
const FORM: &str = "
const form = (action) => new Promise((done) => {
    const frame = Object.assign(document.createElement('iframe'), { name: 'answer' + Math.random() });
    document.body.append(frame);
    const form = Object.assign(document.createElement('form'), { method: 'post', action, target: frame.name });
    const field = Object.assign(document.createElement('input'), { name: 'text', value: 'form' });
    form.append(field);
    document.body.append(form);
    frame.onload = () => done('answered');
    form.submit();
});";

/// In the page, with `FORM` before it.
fn run(browser: &mut Browser, script: &str) -> Value {
    browser.evaluate(&format!("(async () => {{ {FORM} {script} }})()"))
}

fn refused(wharf: &Wharf) -> u64 {
    let mut admin = Client::connect(wharf.admin_address());
    admin.request("GET", "/stats", &[], "");
    admin.answer().json()["totals"]["refused"]["cross_origin"].as_u64().unwrap_or_default()
}

#[test]
fn a_page_of_another_site_writes_nothing_and_a_page_of_its_own_does() {
    let wharf = Wharf::start(&format!("{ENDPOINTS}{PAGE}"));
    let elsewhere = Wharf::start(PAGE);
    let target = format!("http://127.0.0.1:{}", wharf.address().port());
    let notes = || wharf.get("/note").text().to_owned();
    // Another site by its name, and the same site with another port.
    for (site, expected) in [("localhost", 4), ("127.0.0.1", 8)] {
        let mut browser = Browser::open(800);
        browser.go(&format!("http://{site}:{}/page", elsewhere.address().port()));
        let script = format!(
            "const bytes = new TextEncoder().encode('{{\"text\":\"fetch\"}}');
             await fetch('{target}/note', {{ method: 'POST', mode: 'no-cors', body: bytes }});
             await fetch('{target}/tick', {{ method: 'POST', mode: 'no-cors', credentials: 'include' }});
             const sent = navigator.sendBeacon('{target}/note', new Blob(['{{\"text\":\"beacon\"}}']));
             return [sent, await form('{target}/form')].join();"
        );
        assert_eq!(run(&mut browser, &script), "true,answered", "{site}");
        wait_until("all four have come", || refused(&wharf) >= expected);
        assert_eq!((refused(&wharf), notes()), (expected, "0".to_owned()), "{site}");
    }
    let mut browser = Browser::open(800);
    browser.go(&format!("{target}/page"));
    let script = "
        const json = { 'Content-Type': 'application/json' };
        const added = await fetch('/note', { method: 'POST', headers: json, body: '{\"text\":\"fetch\"}' });
        const ticked = await fetch('/tick', { method: 'POST' });
        const blob = new Blob(['{\"text\":\"beacon\"}'], { type: 'application/json' });
        const sent = navigator.sendBeacon('/note', blob);
        return [added.status, ticked.status, sent].join();";
    assert_eq!(run(&mut browser, script), "204,204,true");
    wait_until("the beacon has come", || notes() == "3");
    // An answer without content leaves a frame unchanged, so the page cannot tell when it has come.
    run(&mut browser, "form('/form');");
    wait_until("the form has come", || notes() == "4");
    assert_eq!(refused(&wharf), 8);
}
