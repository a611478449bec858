//! `wharf top`: shows the figures of the dashboard in a terminal. One thread requests them and the main thread draws,
//! so that a server that does not answer delays no key.

mod screen;
mod terminal;
mod text;
mod view;

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::Receiver;

use self::screen::Room;
use self::terminal::{Terminal, TerminalEvent};
use self::text::{Style, StyledLine};
use self::view::View;
use super::client::{self, Answer};
use super::{FAILED, USAGE};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server's admin listener: http://HOST:PORT or HOST:PORT
    #[arg(default_value = "http://127.0.0.1:8081", env = "WHARF_ADMIN_LISTEN", value_name = "URL")]
    url: String,
    /// The server's admin.token; the variable is safer, because other users can see a process's arguments
    #[arg(long, env = "WHARF_ADMIN_TOKEN", hide_env_values = true, value_parser = token)]
    token: Option<String>,
    /// Time between two requests for the figures
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::load::time)]
    interval: Duration,
    /// Print the figures once and exit: 0 with figures, 1 if the server cannot be reached, 2 if it refuses the token
    #[arg(long)]
    once: bool,
}

/// A token that can stand in a header. The server accepts no other (RFC 6750 section 2.1).
fn token(text: &str) -> Result<String, String> {
    let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible {
        Ok(text.to_owned())
    } else {
        Err("expected a token of visible ASCII characters".to_owned())
    }
}

/// Why there are no figures.
#[derive(Debug)]
enum FetchError {
    /// Another request will not help.
    Refused(String),
    /// The server may answer again at any time.
    Unavailable(String),
}

/// The server whose figures are shown.
#[derive(Clone)]
struct AdminServer {
    /// The address as given, without `http://` and the final `/`.
    address: String,
    authorization: String,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let server = AdminServer::new(&arguments.url, arguments.token)?;
    if arguments.once { once(&server) } else { watch(&server, arguments.interval) }
}

impl AdminServer {
    fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        anyhow::ensure!(!url.starts_with("https://"), "{url}: the admin listener speaks no TLS");
        let address = url.strip_prefix("http://").unwrap_or(url);
        let address = address.strip_suffix('/').unwrap_or(address).to_owned();
        anyhow::ensure!(
            address.contains(':') && !address.contains(['/', '@', '?', '#']),
            "{url} is not an admin listener's address; expected http://HOST:PORT"
        );
        let line = |token| format!("Authorization: Bearer {token}\r\n");
        Ok(Self { address, authorization: token.map(line).unwrap_or_default() })
    }

    /// The current figures.
    fn figures(&self) -> Result<View, FetchError> {
        let away = |error: anyhow::Error| FetchError::Unavailable(format!("{error:#}"));
        let target: SocketAddr = client::reachable(client::resolved(&self.address).map_err(away)?);
        let Answer { status, body } =
            client::get(target, &self.address, "/stats", &self.authorization).map_err(away)?;
        match status {
            200 => serde_json::from_slice(&body)
                .context("the answer is not from an admin listener of this version")
                .map_err(away),
            401 => Err(FetchError::Refused(
                "it requires its admin.token: --token or WHARF_ADMIN_TOKEN is missing or wrong".to_owned(),
            )),
            403 => Err(FetchError::Refused(detail(&body).unwrap_or_else(|| "it answered 403".to_owned()))),
            _ => Err(FetchError::Unavailable(format!("it answered {status}, which no admin listener does"))),
        }
    }

    fn cannot(&self, why: &str) -> String {
        format!("cannot get the figures of {}: {why}", self.address)
    }
}

/// The member `detail` of a problem document.
fn detail(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    problem["detail"].as_str().map(str::to_owned)
}

fn once(server: &AdminServer) -> anyhow::Result<ExitCode> {
    match server.figures() {
        Ok(view) => {
            let out = io::stdout();
            let width = if out.is_terminal() { terminal::size().0 } else { usize::MAX };
            print(&view, server, Room { width, height: None })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(failed(server, &error)),
    }
}

fn failed(server: &AdminServer, error: &FetchError) -> ExitCode {
    let (why, code) = match error {
        FetchError::Refused(why) => (why, USAGE),
        FetchError::Unavailable(why) => (why, FAILED),
    };
    super::complain(&format!("wharf: {}", server.cannot(why)));
    ExitCode::from(code)
}

/// Shows the figures until a signal or a key ends it.
fn watch(server: &AdminServer, interval: Duration) -> anyhow::Result<ExitCode> {
    let (events, events_in) = crossbeam_channel::unbounded();
    let (answers, answered) = crossbeam_channel::bounded(1);
    terminal::watch_signals(events.clone())?;
    let screen = io::stdout().is_terminal().then(Terminal::take);
    if screen.is_some() && io::stdin().is_terminal() {
        terminal::watch_keys(events)?;
    }
    let requester = server.clone();
    let ask = move || {
        while answers.send(requester.figures()).is_ok() {
            thread::sleep(interval);
        }
    };
    thread::Builder::new().name("requester".into()).spawn(ask)?;
    let ended = show(server, screen.as_ref(), &events_in, &answered);
    // The terminal is restored first, so that the error appears on its normal screen.
    drop(screen);
    match ended? {
        Some(error) => Ok(failed(server, &error)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Shows each set of figures. Returns the error that ended it, or `None` for a signal or a key.
fn show(
    server: &AdminServer,
    screen: Option<&Terminal>,
    events_in: &Receiver<TerminalEvent>,
    answered: &Receiver<Result<View, FetchError>>,
) -> anyhow::Result<Option<FetchError>> {
    let (mut last, mut away) = (None, None);
    loop {
        crossbeam_channel::select! {
            recv(events_in) -> event => match (event, screen) {
                (Ok(TerminalEvent::Redraw), _) => {}
                (Ok(TerminalEvent::Suspend), Some(screen)) => screen.suspend(),
                (Ok(TerminalEvent::Suspend), None) => {
                    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
                }
                (Ok(TerminalEvent::End) | Err(_), _) => return Ok(None),
            },
            recv(answered) -> answer => match answer? {
                Ok(view) => (last, away) = (Some(view), None),
                Err(FetchError::Unavailable(why)) => away = Some(why),
                Err(refused) => return Ok(Some(refused)),
            },
        }
        match screen {
            Some(_) => terminal::draw(&drawn(server, last.as_ref(), away.as_deref()))?,
            // Without a terminal nothing is redrawn, so each change is printed once.
            None => match (&away, &last) {
                (Some(why), _) => super::complain(&format!("wharf: {}; trying again", server.cannot(why))),
                (None, Some(view)) => {
                    print(view, server, Room { width: usize::MAX, height: None })?;
                    super::print("\n")?;
                }
                (None, None) => {}
            },
        }
    }
}

/// The lines for a terminal.
fn drawn(server: &AdminServer, last: Option<&View>, away: Option<&str>) -> Vec<String> {
    let (width, height) = terminal::size();
    let mut lines = Vec::new();
    if let Some(why) = away {
        lines.push(StyledLine::of(Style::Bad, format!("✗ {}", server.cannot(why))));
        let figures = if last.is_some() { "  These are the last figures received." } else { "" };
        lines.push(StyledLine::of(Style::Plain, format!("  Trying again; q ends.{figures}")));
    }
    let left = height.saturating_sub(lines.len());
    match last {
        Some(view) => lines.extend(screen::lines(view, &server.address, Room { width, height: Some(left) })),
        None if away.is_none() => {
            lines.push(StyledLine::of(Style::Muted, format!("waiting for {} …", server.address)));
        }
        None => {}
    }
    lines.truncate(height);
    written(&lines, width, in_colour(true))
}

fn print(view: &View, server: &AdminServer, size: Room) -> anyhow::Result<()> {
    let room = Room { width: size.width.min(200), ..size };
    let lines = screen::lines(view, &server.address, room);
    let text = written(&lines, size.width, in_colour(io::stdout().is_terminal()));
    super::print(&format!("{}\n", text.join("\n")))
}

fn written(lines: &[StyledLine], width: usize, in_colour: bool) -> Vec<String> {
    let write = |line: &StyledLine| {
        let mut text = String::new();
        line.write(width, in_colour, &mut text);
        text.truncate(text.trim_end().len());
        text
    };
    lines.iter().map(write).collect()
}

/// Whether to use colours: on a terminal, unless the user declines them (<https://no-color.org>).
fn in_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
