//! TLS over rustls, by libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! Main thread at startup; the handshakes run on the threads that open sessions. The rules are those of the PostgreSQL
//! manual, 34.1.2 and 34.19, with two differences. A named file must exist. A certificate of X.509 version 1 is accepted only where
//! nothing is verified, or where `sslrootcert` holds this certificate itself, because webpki does not read this version.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::database::verification::{AnyCertificate, Roots, Verified, client, read_certificates, read_key};

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The parameters of a URL that are about TLS.
pub(super) const PARAMETERS: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslsni",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
];

/// The name of PostgreSQL's protocol in ALPN. A server demands it from a client that begins with TLS (the manual, 53.2.11).
const PROTOCOL: &[u8] = b"postgresql";

/// The TLS part of a URL.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    mode: Option<Mode>,
    root: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    /// Whether no certificate of the client is shown (`sslcertmode=disable`).
    hides_certificate: bool,
    /// Whether the server's name is not sent (`sslsni=0`).
    hides_name: bool,
    /// Whether TLS comes first, without a question (`sslnegotiation=direct`).
    is_direct: bool,
    /// Whether only TLS 1.3 is spoken (`ssl_min_protocol_version`), or only TLS 1.2 (`ssl_max_protocol_version`).
    only: Option<&'static SupportedProtocolVersion>,
}

impl Settings {
    /// No TLS at all.
    pub(super) fn disabled() -> Self {
        Self { mode: Some(Mode::Disable), ..Self::default() }
    }

    /// Takes one of the [`PARAMETERS`].
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |expected: &str| Err(format!("{name}={value}: expected {expected}"));
        match (name, value) {
            ("sslmode", _) => self.mode = Some(mode(value)?),
            ("sslrootcert", _) => self.root = Some(value.to_owned()),
            ("sslcert", _) => self.certificate = Some(value.into()),
            ("sslkey", _) => self.key = Some(value.into()),
            ("sslcertmode", "allow")
            | ("sslsni", "1")
            | ("sslnegotiation", "postgres")
            // No older version is spoken.
            | ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2")
            | ("ssl_max_protocol_version", "TLSv1.3") => {}
            ("sslcertmode", "disable") => self.hides_certificate = true,
            ("sslcertmode", _) => {
                return wrong("allow or disable: whether the server has asked is not checked");
            }
            ("sslsni", "0") => self.hides_name = true,
            ("sslsni", _) => return wrong("0 or 1"),
            ("sslnegotiation", "direct") => self.is_direct = true,
            ("sslnegotiation", _) => return wrong("postgres or direct"),
            ("ssl_min_protocol_version", "TLSv1.3") => self.only = Some(&TLS13),
            // The parameters come in this order.
            ("ssl_max_protocol_version", "TLSv1.2") if self.only.is_some() => {
                return Err(
                    "ssl_min_protocol_version and ssl_max_protocol_version leave no version".to_owned()
                );
            }
            ("ssl_max_protocol_version", "TLSv1.2") => self.only = Some(&TLS12),
            _ => return wrong("TLSv1.2 or TLSv1.3"),
        }
        Ok(())
    }

    /// Whether TLS comes first, without a question.
    ///
    /// # Errors
    /// The mode allows a connection without TLS. libpq refuses that as well.
    pub(super) fn is_direct(&self) -> Result<bool, String> {
        if self.is_direct && matches!(self.mode(), Mode::Allow | Mode::Prefer | Mode::Disable) {
            return Err("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full".to_owned());
        }
        Ok(self.is_direct)
    }

    /// The modes to try, in this order, until the server accepts one.
    pub(super) fn attempts(&self) -> &'static [SslMode] {
        match self.mode() {
            Mode::Disable => &[SslMode::Disable],
            Mode::Allow => &[SslMode::Disable, SslMode::Require],
            Mode::Prefer => &[SslMode::Prefer, SslMode::Disable],
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[SslMode::Require],
        }
    }

    /// Reads the files and makes the connector.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        Ok(MakeRustlsConnect::new(self.client()?))
    }

    fn client(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let both = [&TLS13, &TLS12];
        let versions = self.only.as_ref().map_or(&both[..], std::slice::from_ref);
        let verifier = self.verifier(Arc::clone(&provider))?;
        let mut client = client(provider, versions, verifier, self.identity()?, "sslcert")?;
        client.enable_sni = !self.hides_name;
        if self.is_direct {
            client.alpn_protocols = vec![PROTOCOL.to_vec()];
        }
        Ok(client)
    }

    /// The mode in force. `sslrootcert=system` makes `verify-full` the default, as in libpq.
    fn mode(&self) -> Mode {
        let default = if self.root.as_deref() == Some("system") { Mode::VerifyFull } else { Mode::default() };
        self.mode.unwrap_or(default)
    }

    /// A certificate authority makes even `require` check the chain (34.19.1, for backward compatibility).
    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let mode = self.mode();
        let Some(roots) = self.roots(mode)? else {
            return match mode {
                Mode::VerifyCa | Mode::VerifyFull => {
                    Err("sslmode=verify-ca and verify-full need a certificate \
                     authority: give sslrootcert=FILE or sslrootcert=system"
                        .to_owned())
                }
                _ => Ok(Arc::new(AnyCertificate(provider))),
            };
        };
        Ok(Arc::new(Verified::new(roots, "sslrootcert", mode == Mode::VerifyFull, provider)?))
    }

    fn roots(&self, mode: Mode) -> Result<Option<Roots>, String> {
        let mut roots = Roots::empty();
        match self.root.as_deref() {
            _ if mode == Mode::Disable => return Ok(None),
            Some("system") if mode != Mode::VerifyFull => {
                return Err("sslrootcert=system works only with sslmode=verify-full: \
                            anyone can get a certificate from a public authority"
                    .to_owned());
            }
            Some("system") => {
                let found = rustls_native_certs::load_native_certs();
                roots.store.add_parsable_certificates(found.certs);
                if roots.store.is_empty() {
                    return Err(format!("sslrootcert=system: no certificates found {:?}", found.errors));
                }
            }
            Some(file) => roots.add("sslrootcert", file.as_ref())?,
            None => match in_home_directory("root.crt") {
                Some(file) => roots.add("sslrootcert", &file)?,
                None => return Ok(None),
            },
        }
        Ok(Some(roots))
    }

    /// The client's certificate chain and key; libpq's default files when none are named.
    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
        if self.mode() == Mode::Disable || self.hides_certificate {
            return Ok(None);
        }
        let Some(certificate) = self.certificate.clone().or_else(|| in_home_directory("postgresql.crt"))
        else {
            return Ok(None);
        };
        let key = self.key.clone().or_else(|| in_home_directory("postgresql.key"));
        let key = key.ok_or("sslcert is given, but sslkey is not")?;
        let chain = read_certificates("sslcert", &certificate)?;
        let key = read_key("sslkey", &key)?;
        Ok(Some((chain, key)))
    }
}

fn mode(value: &str) -> Result<Mode, String> {
    Ok(match value {
        "disable" => Mode::Disable,
        "allow" => Mode::Allow,
        "prefer" => Mode::Prefer,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        "verify-full" => Mode::VerifyFull,
        _ => {
            return Err(format!(
                "sslmode={value}: expected disable, allow, prefer, require, verify-ca or verify-full"
            ));
        }
    })
}

/// libpq's default place of a TLS file, when it is there.
fn in_home_directory(name: &str) -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".postgresql").join(name)).filter(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use std::time::Duration;

    use rustls::pki_types::UnixTime;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{CertificateError, Error as TlsError};

    use super::*;
    use crate::database::verification::{check_dates, read};

    /// Of X.509 version 1, for the common name `localhost`, valid for a hundred years from 2026-11-30.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBIzCBywIUXIqYUERY90gauQi9l40lMT+2FwQwCgYIKoZIzj0EAwIwFDESMBAG\n\
A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDEzNTg0N1oYDzIxMjYxMTA2MTM1ODQ3\n\
WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AARQi18eN/rnZtFEx4AKlBpc9bBu5i/yg7P1rA2JmJM/C8VUkLL0XFN1AvAeKHpB\n\
JBuwlqtFEUBWgUjnlPc3k/RtMAoGCCqGSM49BAMCA0cAMEQCIDUw4SZHJpxkrfeE\n\
lhTtGod7hfYrunCAhX1eS/2VD3v0AiADPXGDrnXipF+xJ9b7UCcykn+8xgTyWGB/\n\
STF1xcEvjg==\n\
-----END CERTIFICATE-----";

    /// Shows the certificate, and signs with a key.
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    /// Runs a handshake with a server that shows [`CERTIFICATE`] and does not have its key.
    fn meet_impostor(settings: &Settings, version: &'static rustls::SupportedProtocolVersion) -> TlsError {
        let provider = Arc::new(ring::default_provider());
        let other = rcgen::KeyPair::generate().expect("a key can be made").serialize_pem();
        let other = PrivateKeyDer::from_pem_slice(other.as_bytes()).expect("it is one");
        let key = provider.key_provider.load_private_key(other).expect("ring has its kind");
        let chain = vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("it is one")];
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("ring has suites")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key)))));
        let mut server = ServerConnection::new(Arc::new(server)).expect("the configuration is good");
        let client = Arc::new(settings.client().expect("the settings are good"));
        let mut client =
            ClientConnection::new(client, "localhost".try_into().expect("a name")).expect("it is good");
        loop {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("a Vec takes all");
            }
            let mut sent = &bytes[..];
            while !sent.is_empty() {
                server.read_tls(&mut sent).expect("a slice can be read");
            }
            server.process_new_packets().expect("the client speaks TLS");
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).expect("a Vec takes all");
            }
            let mut answered = &bytes[..];
            assert!(!answered.is_empty(), "the client has let the server in");
            while !answered.is_empty() {
                client.read_tls(&mut answered).expect("a slice can be read");
                if let Err(error) = client.process_new_packets() {
                    return error;
                }
            }
        }
    }

    #[test]
    fn a_server_without_the_key_of_its_version_1_certificate_is_refused() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(CERTIFICATE.as_bytes()).expect("a temporary file");
        let trusted = Settings {
            mode: Some(Mode::VerifyFull),
            root: Some(file.path().display().to_string()),
            ..Settings::default()
        };
        let any = Settings { mode: Some(Mode::Require), ..Settings::default() };
        for settings in [trusted, any] {
            for version in [&TLS12, &TLS13] {
                let error = meet_impostor(&settings, version);
                assert_eq!(error, CertificateError::BadSignature.into(), "{:?}", settings.mode);
            }
        }
    }

    #[test]
    fn a_trusted_certificate_has_its_dates_checked() {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("it is one");
        let read = read(&certificate).expect("it can be read");
        let at = |seconds| check_dates(&read, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(at(0), Err(CertificateError::NotValidYet.into()));
        assert_eq!(at(2_000_000_000), Ok(()));
        assert_eq!(at(5_000_000_000), Err(CertificateError::Expired.into()));
    }
}
