//! The terminal: its size, its keys, and that it is afterwards as it was before.

use std::io::{self, Read as _, Write as _};
use std::thread;

use crossbeam_channel::Sender;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;

/// Where nothing says otherwise.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;

/// Another screen, no cursor; and back (xterm's control sequences, DEC private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a person, or the system, wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    /// It has another size.
    Redraw,
    /// Ctrl-Z.
    Suspend,
}

/// A terminal that is drawn on; dropping it gives it back.
pub(super) struct Terminal {
    /// Its keys as they were; `None` where somebody else's are read.
    before: Option<Termios>,
}

impl Terminal {
    /// Takes the terminal. Keys come one by one from now on, and are not shown.
    pub(super) fn take() -> Self {
        let terminal = Self { before: tcgetattr(io::stdin()).ok() };
        terminal.enter();
        terminal
    }

    fn enter(&self) {
        if let Some(before) = &self.before {
            let mut modes = before.clone();
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // Without it, q needs a line's end.
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

    /// Stops this process, as ctrl-Z does, until it is told to go on.
    pub(super) fn suspend(&self) {
        self.leave();
        // Fails for no signal that there is.
        let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
        self.enter();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Draws lines over what is there.
pub(super) fn draw(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))?;
    out.flush()
}

/// Whether it is seen is for the next one to find out.
fn show(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Columns and lines.
pub(super) fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((WIDTH, HEIGHT), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// Passes on what signals wish.
pub(super) fn watch_signals(wishes: Sender<Wish>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGWINCH])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            let wish = match signal {
                SIGWINCH => Wish::Redraw,
                SIGTSTP => Wish::Suspend,
                _ => Wish::End,
            };
            if wishes.send(wish).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Passes on what keys wish: q ends. The thread ends with the process.
pub(super) fn watch_keys(wishes: Sender<Wish>) -> io::Result<()> {
    thread::Builder::new().name("keys".into()).spawn(move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            if matches!(key, b'q' | b'Q') && wishes.send(Wish::End).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
