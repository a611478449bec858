//! Permissions, owner and group of a Unix socket's file, as the configuration says them. They decide who may connect.
//!
//! Main thread. Knows how it is written, not whether there is such a user.

use std::fmt;
use std::str::FromStr;

use super::setting::Setting;

/// The permissions of a file: `0660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub(crate) u32);

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {accepted}", accepted = Mode::ACCEPTED)]
pub struct ModeError(String);

/// The permissions, owner and group that a Unix socket's file gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketAccess<'c> {
    /// The section of these keys, for messages: `server`, or `listen[2]`.
    pub section: &'c str,
    /// `unix_mode`. `None`: what the process's umask leaves of 0777.
    pub mode: Option<Mode>,
    /// `unix_owner`. `None`: the process's user.
    pub owner: Option<&'c str>,
    /// `unix_group`. `None`: the process's group.
    pub group: Option<&'c str>,
}

impl Mode {
    pub(super) const ACCEPTED: &str = "a mode of four octal digits, from \"0000\" to \"0777\"";
}

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let is_mode =
            text.len() == 4 && text.starts_with('0') && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = if is_mode { u32::from_str_radix(text, 8).ok() } else { None };
        mode.map(Self).ok_or_else(|| ModeError(text.to_owned()))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// The name of a user or a group, or its number. useradd(8) takes names of up to 32 bytes; those of directories have other signs.
pub(super) fn account(setting: Setting) -> Result<String, String> {
    let name = setting.text()?;
    let fits = (1..=256).contains(&name.len()) && !name.contains(['\0', ':', '\n']);
    if fits { Ok(name) } else { Err(format!("expected a name, or a number, received {name:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_four_octal_digits() {
        for text in ["0000", "0660", "0777"] {
            assert_eq!(text.parse::<Mode>().map(|mode| mode.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "660", "1777", "0888", "+660", "00660", "rw-rw----"] {
            let error = text.parse::<Mode>().expect_err(text).to_string();
            assert_eq!(error, format!("{text:?} is not {}", Mode::ACCEPTED));
        }
    }
}
