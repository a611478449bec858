//! The terminal: its size, its keys, and the restoration of its earlier state.

use std::io::{self, Read as _, Write as _};
use std::thread;

use crossbeam_channel::Sender;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;

/// The size when the terminal does not report one.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;

/// The alternate screen without a cursor, and the way back (xterm's control sequences, DEC private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// An event from a key or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TerminalEvent {
    End,
    /// The terminal has another size.
    Redraw,
    /// Ctrl-Z was pressed.
    Suspend,
}

/// The terminal while it is drawn on. Dropping it restores its earlier state.
pub(super) struct Terminal {
    /// The modes of its keyboard before; `None` when standard input is not a terminal.
    before: Option<Termios>,
}

impl Terminal {
    /// Takes over the terminal. From now on keys arrive one by one, and are not echoed.
    pub(super) fn take() -> Self {
        let terminal = Self { before: tcgetattr(io::stdin()).ok() };
        terminal.enter();
        terminal
    }

    fn enter(&self) {
        if let Some(before) = &self.before {
            let mut modes = before.clone();
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // If this fails, q only needs a line break after it.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
        show(ENTER);
    }

    fn leave(&self) {
        show(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }

    /// Stops this process, as Ctrl-Z does, until it is continued.
    pub(super) fn suspend(&self) {
        self.leave();
        // This cannot fail for a signal that exists.
        let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
        self.enter();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Draws lines over the current screen.
pub(super) fn draw(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))?;
    out.flush()
}

/// Writes to the terminal. An error is left to the next drawing, which reports it.
fn show(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// The number of columns and lines.
pub(super) fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((WIDTH, HEIGHT), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// Sends an event for each signal.
pub(super) fn watch_signals(events: Sender<TerminalEvent>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            let event = match signal {
                SIGWINCH => TerminalEvent::Redraw,
                SIGTSTP => TerminalEvent::Suspend,
                _ => TerminalEvent::End,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Sends an event for the key q, which ends the program. The thread ends with the process.
pub(super) fn watch_keys(events: Sender<TerminalEvent>) -> io::Result<()> {
    thread::Builder::new().name("keys".into()).spawn(move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            if matches!(key, b'q' | b'Q') && events.send(TerminalEvent::End).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
