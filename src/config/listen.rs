//! Where clients connect, as text and back: an address with its port, `unix:PATH`, `systemd`.
//!
//! Main thread. Knows how it is written, not how it is bound.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::Listen;

/// What a Unix socket's address holds, but for the NUL that ends it (`sun_path` in unix(7)).
const PATH_MAX: usize = 107;

/// A text that says no place to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {accepted}", accepted = Self::ACCEPTED)]
pub struct ListenError(String);

impl ListenError {
    pub(super) const ACCEPTED: &str = "an IP address and a port, such as 127.0.0.1:8080, \
         or \"unix:PATH\" with a PATH of 1 to 107 bytes, or \"systemd\"";
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let error = || ListenError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if (1..=PATH_MAX).contains(&path.len()) && !path.contains('\0') => {
                Ok(Self::Unix(path.into()))
            }
            Some(_) => Err(error()),
            None if text == "systemd" => Ok(Self::Inherited),
            None => text.parse().map(Self::Tcp).map_err(|_| error()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited => f.write_str("systemd"),
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_what_it_shows() {
        let longest = format!("unix:/{}", "x".repeat(PATH_MAX - 1));
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        for (text, listen) in [
            ("127.0.0.1:8080", address.into()),
            ("[::1]:0", SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)).into()),
            ("unix:/run/wharf.sock", Listen::Unix("/run/wharf.sock".into())),
            ("unix:wharf.sock", Listen::Unix("wharf.sock".into())),
            (&longest, Listen::Unix(longest["unix:".len()..].into())),
            ("systemd", Listen::Inherited),
        ] {
            assert_eq!(text.parse(), Ok(listen.clone()));
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn another_text_is_refused_with_what_is_accepted() {
        let too_long = format!("unix:/{}", "x".repeat(PATH_MAX));
        let texts =
            ["", "8080", "localhost:80", "127.0.0.1", "unix", "unix:", "unix:a\0b", "Systemd", &too_long];
        for text in texts {
            let error = text.parse::<Listen>().expect_err(text).to_string();
            assert_eq!(error, format!("{text:?} is not {}", ListenError::ACCEPTED));
        }
        assert!(ListenError::ACCEPTED.contains(&PATH_MAX.to_string()));
    }
}
