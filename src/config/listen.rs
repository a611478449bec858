//! The places where clients and operators connect, read from text and shown as text: an address with its port,
//! `unix:PATH`, `systemd`, `systemd:NAME`, `off`.
//!
//! Main thread. Knows how a place is written, not how it is bound.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::{AdminListen, Config, Listen};

/// The longest path in a Unix socket's address, without the NUL at its end (`sun_path` in unix(7)).
const PATH_MAX: usize = 107;

/// The text is not a place to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {accepted}", accepted = Self::ACCEPTED)]
pub struct ListenError(String);

impl ListenError {
    pub(super) const ACCEPTED: &str = "an IP address and a port, such as 127.0.0.1:8080, \
         or \"unix:PATH\" with a PATH of 1 to 107 bytes, or \"systemd\", or \"systemd:NAME\"";
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
            None if text.starts_with("systemd:") => {
                let name = &text["systemd:".len()..];
                if is_descriptor_name(name) { Ok(Self::Named(name.to_owned())) } else { Err(error()) }
            }
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
            Self::Named(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Whether systemd may pass a socket under this name (`FileDescriptorName=` in systemd.socket(5)).
fn is_descriptor_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':')
}

/// The default place of the admin listener.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

impl AdminListen {
    pub(super) const ACCEPTED: &str = "an IP address and a port, such as 127.0.0.1:8081, or \"off\"";
}

impl FromStr for AdminListen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Config {
    /// Where operators connect. `None`: nowhere. If clients get any free port, operators get any free port too.
    pub fn admin_listen(&self) -> Option<SocketAddr> {
        let is_any = |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.port() == 0);
        match self.admin.listen {
            Some(AdminListen::Off) => None,
            Some(AdminListen::At(address)) => Some(address),
            None if self.listeners().iter().any(|listener| is_any(&listener.address)) => {
                Some(SocketAddr::new(ADMIN.ip(), 0))
            }
            None => Some(ADMIN),
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
    fn every_form_is_read_back_from_its_text() {
        let longest = format!("unix:/{}", "x".repeat(PATH_MAX - 1));
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        for (text, listen) in [
            ("127.0.0.1:8080", address.into()),
            ("[::1]:0", SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)).into()),
            ("unix:/run/wharf.sock", Listen::Unix("/run/wharf.sock".into())),
            ("unix:wharf.sock", Listen::Unix("wharf.sock".into())),
            (&longest, Listen::Unix(longest["unix:".len()..].into())),
            ("systemd", Listen::Inherited),
            ("systemd:web.https", Listen::Named("web.https".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(listen.clone()));
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn the_admin_listener_is_on_loopback_by_default() {
        let mut config = Config::default();
        let shown = |config: &Config| config.admin_listen().map(|address| address.to_string());
        assert_eq!(shown(&config).as_deref(), Some("127.0.0.1:8081"));
        config.server.listen = SocketAddr::from(([0, 0, 0, 0], 0)).into();
        assert_eq!(shown(&config).as_deref(), Some("127.0.0.1:0"));
        for (text, address) in [("[::1]:9", Some("[::1]:9")), ("off", None)] {
            let listen: AdminListen = text.parse().expect(text);
            assert_eq!(listen.to_string(), text);
            config.admin.listen = Some(listen);
            assert_eq!(shown(&config).as_deref(), address);
        }
        assert!("unix:a".parse::<AdminListen>().is_err() && "on".parse::<AdminListen>().is_err());
    }

    #[test]
    fn any_other_text_is_refused_with_the_accepted_forms() {
        let too_long = format!("unix:/{}", "x".repeat(PATH_MAX));
        let texts = [
            "",
            "8080",
            "localhost:80",
            "127.0.0.1",
            "unix",
            "unix:",
            "unix:a\0b",
            "Systemd",
            "systemd:",
            "systemd:a:b",
            &too_long,
        ];
        for text in texts {
            let error = text.parse::<Listen>().expect_err(text).to_string();
            assert_eq!(error, format!("{text:?} is not {}", ListenError::ACCEPTED));
        }
        assert!(ListenError::ACCEPTED.contains(&PATH_MAX.to_string()));
    }
}
