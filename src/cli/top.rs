//! `wharf top`: what the dashboard shows, in a terminal. One thread asks, the main thread draws, so that a server that does not
//! answer holds up no key.

mod screen;
mod terminal;
mod text;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::Receiver;

use self::screen::Size;
use self::terminal::{Terminal, Wish};
use self::text::{Line, Tone};
use self::view::View;
use super::client::{self, Answer};
use super::{FAILED, USAGE};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the server's admin listener is: http://HOST:PORT or HOST:PORT
    #[arg(default_value = "http://127.0.0.1:8081", env = "WHARF_ADMIN_LISTEN", value_name = "URL")]
    url: String,
    /// The server's admin.token; better given by the variable, as others can see a process's arguments
    #[arg(long, env = "WHARF_ADMIN_TOKEN", hide_env_values = true, value_parser = token)]
    token: Option<String>,
    /// From one look to the next
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::load::time)]
    interval: Duration,
    /// Print the figures once, and end: 0 with figures, 1 where the server cannot be reached, 2 where it wants another token
    #[arg(long)]
    once: bool,
}

/// What can stand in a header; the server takes nothing else (RFC 6750 section 2.1).
fn token(text: &str) -> Result<String, String> {
    let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible { Ok(text.to_owned()) } else { Err("a token is visible ASCII".to_owned()) }
}

/// Why there are no figures.
#[derive(Debug)]
enum Trouble {
    /// Asking again will not help.
    Refused(String),
    /// It may be back at any time.
    Away(String),
}

/// Whom to ask.
#[derive(Clone)]
struct Server {
    /// As it was given, without what every one begins with.
    address: String,
    authorization: String,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let server = Server::new(&arguments.url, arguments.token)?;
    if arguments.once { once(&server) } else { watch(&server, arguments.interval) }
}

impl Server {
    fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        anyhow::ensure!(!url.starts_with("https://"), "{url}: the admin listener speaks no TLS");
        let address = url.strip_prefix("http://").unwrap_or(url);
        let address = address.strip_suffix('/').unwrap_or(address).to_owned();
        anyhow::ensure!(
            address.contains(':') && !address.contains(['/', '@', '?', '#']),
            "{url} is not where an admin listener is: http://HOST:PORT"
        );
        let line = |token| format!("Authorization: Bearer {token}\r\n");
        Ok(Self { address, authorization: token.map(line).unwrap_or_default() })
    }

    /// The figures of this moment.
    fn ask(&self) -> Result<View, Trouble> {
        let away = |error: anyhow::Error| Trouble::Away(format!("{error:#}"));
        let target: SocketAddr = client::reachable(client::resolved(&self.address).map_err(away)?);
        let Answer { status, body } =
            client::get(target, &self.address, "/stats", &self.authorization).map_err(away)?;
        match status {
            200 => serde_json::from_slice(&body)
                .context("what answers is no admin listener of this version")
                .map_err(away),
            401 => Err(Trouble::Refused(
                "it wants its admin.token: --token or WHARF_ADMIN_TOKEN is not given, or another one"
                    .to_owned(),
            )),
            403 => Err(Trouble::Refused(detail(&body).unwrap_or_else(|| "it answers 403".to_owned()))),
            _ => Err(Trouble::Away(format!("it answers {status}, which no admin listener does"))),
        }
    }

    fn cannot(&self, why: &str) -> String {
        format!("{} cannot be asked: {why}", self.address)
    }
}

/// What a problem document says.
fn detail(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    problem["detail"].as_str().map(str::to_owned)
}

fn once(server: &Server) -> anyhow::Result<ExitCode> {
    match server.ask() {
        Ok(view) => {
            let out = io::stdout();
            let width = if out.is_terminal() { terminal::size().0 } else { usize::MAX };
            print(&view, server, Size { width, height: None })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(trouble) => Ok(failed(server, &trouble)),
    }
}

fn failed(server: &Server, trouble: &Trouble) -> ExitCode {
    let (why, code) = match trouble {
        Trouble::Refused(why) => (why, USAGE),
        Trouble::Away(why) => (why, FAILED),
    };
    eprintln!("wharf: {}", server.cannot(why));
    ExitCode::from(code)
}

/// Until somebody ends it.
fn watch(server: &Server, interval: Duration) -> anyhow::Result<ExitCode> {
    let (wishes, wanted) = crossbeam_channel::unbounded();
    let (looks, looked) = crossbeam_channel::bounded(1);
    terminal::watch_signals(wishes.clone())?;
    let screen = io::stdout().is_terminal().then(Terminal::take);
    if screen.is_some() && io::stdin().is_terminal() {
        terminal::watch_keys(wishes)?;
    }
    let asker = server.clone();
    let ask = move || {
        while looks.send(asker.ask()).is_ok() {
            thread::sleep(interval);
        }
    };
    thread::Builder::new().name("asker".into()).spawn(ask)?;
    let ended = show(server, screen.as_ref(), &wanted, &looked);
    // First the terminal, so that what is said stands on its own screen.
    drop(screen);
    match ended? {
        Some(trouble) => Ok(failed(server, &trouble)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Shows each look. Returns why it goes no further, if not because somebody ended it.
fn show(
    server: &Server,
    screen: Option<&Terminal>,
    wanted: &Receiver<Wish>,
    looked: &Receiver<Result<View, Trouble>>,
) -> anyhow::Result<Option<Trouble>> {
    let (mut last, mut away) = (None, None);
    loop {
        crossbeam_channel::select! {
            recv(wanted) -> wish => match (wish, screen) {
                (Ok(Wish::Redraw), _) => {}
                (Ok(Wish::Suspend), Some(screen)) => screen.suspend(),
                (Ok(Wish::Suspend), None) => {
                    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
                }
                (Ok(Wish::End) | Err(_), _) => return Ok(None),
            },
            recv(looked) -> look => match look? {
                Ok(view) => (last, away) = (Some(view), None),
                Err(Trouble::Away(why)) => away = Some(why),
                Err(refused) => return Ok(Some(refused)),
            },
        }
        match screen {
            Some(_) => terminal::draw(&drawn(server, last.as_ref(), away.as_deref()))?,
            // Nobody wants to read the same again.
            None => match (&away, &last) {
                (Some(why), _) => eprintln!("wharf: {}; trying again", server.cannot(why)),
                (None, Some(view)) => {
                    print(view, server, Size { width: usize::MAX, height: None })?;
                    println!();
                }
                (None, None) => {}
            },
        }
    }
}

/// The lines of a terminal.
fn drawn(server: &Server, last: Option<&View>, away: Option<&str>) -> Vec<String> {
    let (width, height) = terminal::size();
    let mut lines = Vec::new();
    if let Some(why) = away {
        lines.push(Line::of(Tone::Bad, format!("✗ {}", server.cannot(why))));
        let figures = if last.is_some() { "  The figures are the last that came." } else { "" };
        lines.push(Line::of(Tone::Plain, format!("  Trying again; q ends.{figures}")));
    }
    let left = height.saturating_sub(lines.len());
    match last {
        Some(view) => lines.extend(screen::lines(view, &server.address, Size { width, height: Some(left) })),
        None if away.is_none() => lines.push(Line::of(Tone::Muted, format!("asking {} …", server.address))),
        None => {}
    }
    lines.truncate(height);
    written(&lines, width, in_colour(true))
}

fn print(view: &View, server: &Server, size: Size) -> io::Result<()> {
    let room = Size { width: size.width.min(200), ..size };
    let lines = screen::lines(view, &server.address, room);
    let text = written(&lines, size.width, in_colour(io::stdout().is_terminal()));
    writeln!(io::stdout(), "{}", text.join("\n"))
}

fn written(lines: &[Line], width: usize, in_colour: bool) -> Vec<String> {
    let write = |line: &Line| {
        let mut text = String::new();
        line.write(width, in_colour, &mut text);
        text.truncate(text.trim_end().len());
        text
    };
    lines.iter().map(write).collect()
}

/// Unless the user wants none (<https://no-color.org>).
fn in_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
