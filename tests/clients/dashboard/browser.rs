//! Chromium without a window, told what to do by its `DevTools` protocol over two pipes: no port, no library.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::{PATIENCE, is_root};

/// Debian's name first.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The browser reads orders from descriptor 3 and writes answers to descriptor 4. All other output is discarded.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// Held while a browser runs. A browser is a dozen processes, and several that start at once on a busy machine take minutes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A browser with one page, killed on drop.
pub(crate) struct Browser {
    child: Child,
    orders: ChildStdin,
    messages: Receiver<Value>,
    /// Events that came while an answer was awaited.
    events: VecDeque<Value>,
    count: u64,
    session: String,
    _profile: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser with an empty page of this width.
    pub(crate) fn open(width: u32) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut child = Command::new("sh")
            .args(["-c", WITH_PIPES, &program()])
            .args(["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run"])
            // As root the browser runs only without a sandbox. That is safe here, because it shows only our own pages.
            .args(is_root().then_some("--no-sandbox"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let orders = child.stdin.take().expect("it is piped");
        let messages = follow(child.stdout.take().expect("it is piped"));
        let (events, count, session) = (VecDeque::new(), 0, String::new());
        let mut browser =
            Self { child, orders, messages, events, count, session, _profile: profile, _turn: turn };
        let page = browser.order("Target.createTarget", &json!({ "url": "about:blank" }));
        let target = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.order("Target.attachToTarget", &target);
        browser.session.push_str(attached["sessionId"].as_str().expect("a page has a session"));
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.order(&format!("{domain}.enable"), &json!({}));
        }
        browser.resize(width);
        browser
    }

    /// Sets the width of the screen.
    pub(crate) fn resize(&mut self, width: u32) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.order("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Sets the user's preference, `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.order("Emulation.setEmulatedMedia", &features);
    }

    /// Opens a page.
    pub(crate) fn go(&mut self, url: &str) {
        let gone = self.order("Page.navigate", &json!({ "url": url }));
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
        self.wait_until("document.readyState === 'complete'");
    }

    /// The page from its top to this height, as a PNG.
    pub(crate) fn picture(&mut self, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let wanted = json!({ "format": "png", "clip": clip, "captureBeyondViewport": true });
        let picture = self.order("Page.captureScreenshot", &wanted);
        BASE64_STANDARD.decode(picture["data"].as_str().expect("it is text")).expect("it is base64")
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.order("Input.dispatchKeyEvent", &event);
        }
    }

    /// The value of an expression, or the value to which its promise resolves.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let wanted = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.order("Runtime.evaluate", &wanted);
        assert!(answer.get("exceptionDetails").is_none(), "{}: {answer}", start(expression));
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_until(&mut self, expression: &str) {
        let until = Instant::now() + PATIENCE;
        // The page itself polls the condition. Polling from this side would keep two processes busy.
        let look = format!(
            "new Promise((done) => {{ let looks = 0; const look = () => {{ const holds = Boolean({expression}); \
             if (holds || ++looks > 20) done(holds); else setTimeout(look, 50); }}; look(); }})"
        );
        while self.evaluate(&look) != json!(true) {
            let page = "document.body.innerText.slice(0, 2000)";
            assert!(Instant::now() < until, "never: {expression}\n{}", self.evaluate(page));
        }
    }

    /// Everything that the page has asked for so far, by URL.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        requests
            .map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Everything that the browser has complained of so far: exceptions, the console, the network, a policy.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = self.events.iter().filter(|event| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] != "verbose",
            _ => false,
        });
        complaints.map(ToString::to_string).collect()
    }

    fn order(&mut self, method: &str, parameters: &Value) -> Value {
        self.count += 1;
        let mut order = json!({ "id": self.count, "method": method, "params": parameters });
        if !self.session.is_empty() {
            order["sessionId"] = json!(self.session);
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).expect("the browser runs");
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let mut message =
                message.unwrap_or_else(|error| panic!("the browser, asked for {method}: {error}"));
            if message["id"] == self.count {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push_back(message);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its other processes with itself; one that hangs is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).chain(["/usr/bin".into()]).collect();
    let found = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = found.into_iter().find(|program| Path::is_file(program));
    let found = found.expect("Chromium is installed: scripts/test does it");
    found.to_str().expect("its path is text").to_owned()
}

/// Messages end with a zero byte.
fn follow(mut source: impl std::io::Read + Send + 'static) -> Receiver<Value> {
    let (sender, messages) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut received, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(count @ 1..) = source.read(&mut piece) {
            received.extend_from_slice(&piece[..count]);
            while let Some(end) = received.iter().position(|byte| *byte == 0) {
                let message = serde_json::from_slice(&received[..end]).expect("its messages are JSON");
                received.drain(..=end);
                if sender.send(message).is_err() {
                    return;
                }
            }
        }
    });
    messages
}

fn start(text: &str) -> String {
    text.chars().take(200).collect()
}
