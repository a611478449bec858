//! libpq's password file (the manual, 34.16).
//!
//! Runs on the thread that opens a session. The file is read for each session, so that a new password needs no restart.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A password file is not longer. Each line of it is for one server, database and user.
const LONGEST: u64 = 1024 * 1024;

/// The server, database and user for which a password is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The name, the address or the directory of the socket, as the URL has it.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// `~/.pgpass`.
pub(super) fn default_file() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".pgpass"))
}

/// The password in the file. `None`: there is no file, or no line of it fits.
///
/// # Errors
/// The file cannot be read, or other users can read it.
pub(super) fn look_up(file: &Path, wanted: Wanted<'_>) -> io::Result<Option<String>> {
    // Before it is opened, because a pipe would wait for its writer.
    let metadata = match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    if !metadata.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "other users have access to it; its permissions should be u=rw (0600) or less",
        ));
    }
    let mut text = String::new();
    File::open(file)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(password_in(&text, wanted))
}

fn password_in(text: &str, wanted: Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for value in [wanted.host, &port, wanted.database, wanted.user] {
            let (field, after) = split_field(rest)?;
            let fits = field == "*" || unescaped(field) == value;
            rest = after.filter(|_| fits)?;
        }
        let password = split_field(rest).map_or(rest, |(field, _)| field);
        Some(unescaped(password)).filter(|password| !password.is_empty())
    })
}

/// The field before the next `:` that has no backslash before it, and the text after that `:`.
fn split_field(text: &str) -> Option<(&str, Option<&str>)> {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ':' => return Some((&text[..at], Some(&text[at + 1..]))),
            _ => {}
        }
    }
    Some((text, None))
}

fn unescaped(field: &str) -> String {
    let mut letters = field.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ANNA: Wanted<'_> = Wanted { host: "db", port: 5432, database: "app", user: "anna" };

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        for (text, password) in [
            ("db:5432:app:anna:secret", Some("secret")),
            ("# db:5432:app:anna:no\n*:*:*:*:any\ndb:5432:app:anna:later", Some("any")),
            ("db:5433:app:anna:no\ndb:*:app:anna:yes\r\n", Some("yes")),
            ("db:5432:app:anna:a\\:b\\\\c", Some("a:b\\c")),
            ("db:5432:app:anna:a:b", Some("a")),
            ("db:5432:app:anna:", None),
            ("db:5432:app:anna", None),
            ("db:5432:app:bert:no", None),
            ("d\\b:5432:app:anna:escaped", Some("escaped")),
            ("\\*:5432:app:anna:no", None),
            ("", None),
        ] {
            assert_eq!(password_in(text, ANNA).as_deref(), password, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgpass");
        assert!(matches!(look_up(&file, ANNA), Ok(None)));
        fs::write(&file, "*:*:*:*:secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = look_up(&file, ANNA).unwrap_err().to_string();
        assert!(error.contains("0600") && !error.contains("secret"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&file, ANNA).unwrap().as_deref(), Some("secret"));
        assert!(look_up(directory.path(), ANNA).is_err());
    }
}
