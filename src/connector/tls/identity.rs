//! The certificate, the key and the rules for clients that TLS sessions are made from, read from files.
//!
//! The main thread reads them at the start, and the reloading thread later. The poller takes sessions. Knows no socket
//! and no configuration file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error as SessionError, RootCertStore, ServerConfig, ServerConnection};

use super::{Session, TlsError};
use crate::base::certificate::{Certificate, advice_if_encrypted};
use crate::config::{ClientAuth, TlsVersion};

/// The protocols that the server speaks. A client without ALPN gets them as well. A client that offers only others,
/// such as `h2`, is refused in the handshake (RFC 7301 section 3.2). `curl --http1.0` offers only the second.
const PROTOCOLS: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];

/// The files and rules of the configuration that sessions are made from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Files {
    /// PEM: the server's certificate, then the ones that lead from it to the authority.
    pub(crate) certificate: PathBuf,
    /// PEM: the key to the first certificate; PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub(crate) key: PathBuf,
    /// PEM: the authorities that sign client certificates.
    pub(crate) client_ca: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub(crate) client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub(crate) min_version: TlsVersion,
}

/// The server's certificate and its rules for clients, from which each connection's session is made.
///
/// A client can resume a session as rustls allows by default. The server keeps the last 256 sessions in memory and
/// gives each TLS 1.3 client two tickets. A reload forgets them all, so that no session outlives the rules that it was
/// made by. There is no early data, because an attacker could send it again (RFC 8446 section 8).
#[derive(Debug)]
pub(crate) struct Identity {
    current: RwLock<Loaded>,
    files: Files,
}

/// The files as they were read.
#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// The certificates in their order. One that cannot be read ends the list.
    chain: Arc<[Certificate]>,
}

/// Files that were read again and are not used yet.
#[derive(Debug)]
pub(crate) struct Fresh(Loaded);

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used, and the reason.
    pub(crate) fn load(files: Files) -> Result<Self, TlsError> {
        let current = RwLock::new(files.read()?);
        Ok(Self { current, files })
    }

    /// Reads the files as they are now, to be [used](Self::take) later.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub(crate) fn read_again(&self) -> Result<Fresh, TlsError> {
        Ok(Fresh(self.files.read()?))
    }

    /// Makes later sessions from these files.
    pub(crate) fn take(&self, fresh: Fresh) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.0;
    }

    /// A session for a connection that was just accepted.
    ///
    /// # Errors
    /// When rustls refuses a configuration that it has built itself.
    pub(crate) fn session(&self) -> Result<Session, TlsError> {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config);
        Ok(Session::new(ServerConnection::new(config)?))
    }

    /// The time until which the server's certificate is valid.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.chain.first().map(Certificate::ends)
    }

    /// The reasons for which clients refuse the certificates, now or soon. Each line begins with the file.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let mut warnings = Vec::new();
        for (index, certificate) in current.chain.iter().enumerate() {
            let which = if index == 0 { String::new() } else { format!("certificate {}: ", index + 1) };
            let trouble = certificate.trouble_with_dates(now);
            warnings.extend(trouble.map(|trouble| format!("{which}{trouble}")));
        }
        let broken = current.chain.windows(2).position(|pair| !pair[0].may_be_issued_by(&pair[1]));
        warnings.extend(broken.map(|index| {
            let (one, next) = (index + 1, index + 2);
            format!(
                "certificate {next} is not the issuer of certificate {one}: the server's own comes first, then its issuer, \
                 and so on"
            )
        }));
        let file = self.files.certificate.display();
        warnings.iter().map(|warning| format!("{file}: {warning}")).collect()
    }
}

impl Files {
    fn read(&self) -> Result<Loaded, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = match self.min_version {
            TlsVersion::V12 => &[&TLS13, &TLS12],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let builder = match self.verifier(provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| self.unusable_key(&error))?;
        let copy = key.clone_key();
        let built = builder.with_single_cert(chain.clone(), key);
        let mut config = built.map_err(|error| self.not_a_pair(&error, &chain, copy))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let chain = chain.iter().map_while(|certificate| Certificate::read(certificate).ok()).collect();
        Ok(Loaded { config: Arc::new(config), chain })
    }

    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let file = match (self.client_auth, &self.client_ca) {
            (ClientAuth::Nothing, None) => return Ok(None),
            (ClientAuth::Nothing, Some(_)) => {
                return Err(TlsError::Rules(
                    "tls.client_ca is given, but tls.client_auth asks for no certificate",
                ));
            }
            (_, None) => {
                return Err(TlsError::Rules(
                    "tls.client_auth asks for certificates, but tls.client_ca is not given",
                ));
            }
            (_, Some(file)) => file,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| wrong(file, error.to_string()))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder =
            if self.client_auth == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|error| wrong(file, error.to_string()))
    }

    fn unusable_key(&self, error: &pem::Error) -> TlsError {
        match advice_if_encrypted(&self.key) {
            Some(advice) => wrong(&self.key, advice),
            None => unusable(&self.key, error, "private key"),
        }
    }

    /// The error for a certificate and a key that rustls has refused.
    fn not_a_pair(
        &self,
        error: &SessionError,
        chain: &[CertificateDer<'static>],
        key: PrivateKeyDer<'static>,
    ) -> TlsError {
        match error {
            SessionError::InconsistentKeys(_) => match position_of_own(chain, key) {
                Some(index) => wrong(
                    &self.certificate,
                    format!(
                        "the server's own certificate must come first, but the one that belongs to {} is number {}",
                        self.key.display(),
                        index + 1
                    ),
                ),
                None => {
                    TlsError::KeyMismatch { certificate: self.certificate.clone(), key: self.key.clone() }
                }
            },
            SessionError::InvalidCertificate(_) => wrong(&self.certificate, error.to_string()),
            _ => {
                let own = chain.first().and_then(|own| Certificate::read(own).ok());
                let reason = own.and_then(|own| own.unsupported_key()).unwrap_or_else(|| error.to_string());
                wrong(&self.key, reason)
            }
        }
    }
}

/// The place of the certificate that belongs to the key.
fn position_of_own(chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>) -> Option<usize> {
    let key = ring::default_provider().key_provider.load_private_key(key).ok()?;
    chain.iter().position(|certificate| {
        CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key)).keys_match().is_ok()
    })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match chain {
        Ok(chain) if chain.is_empty() => Err(unusable(file, &pem::Error::NoItemsFound, "certificate")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unusable(file, &error, "certificate")),
    }
}

/// The error for a file that should hold a `wanted`.
fn unusable(file: &Path, error: &pem::Error, wanted: &str) -> TlsError {
    let reason = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("holds no {wanted} in PEM form"),
        // The texts of these errors show the line as a list of numbers.
        pem::Error::MissingSectionEnd { .. } => "ends before its -----END line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "has a -----BEGIN line that is not one".to_owned(),
        error => error.to_string(),
    };
    wrong(file, reason)
}

fn wrong(file: &Path, reason: String) -> TlsError {
    TlsError::File { file: file.to_owned(), reason }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::certificates::{Authority, Identity as Pair};
    use super::*;

    /// A server that admits all clients.
    pub(in super::super) fn files(pair: &Pair) -> Files {
        Files {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            client_ca: None,
            client_auth: ClientAuth::Nothing,
            min_version: TlsVersion::V12,
        }
    }

    #[test]
    fn each_wrong_file_is_named_with_the_reason() {
        let authority = Authority::new("the authority");
        let pair = authority.server(&["localhost"]);
        let write = |name: &str, text: &str| {
            let file = authority.directory().join(name);
            std::fs::write(&file, text).expect("the file can be written");
            file
        };
        let text = std::fs::read_to_string(&pair.certificate).expect("it was written");
        let cut = write("cut", &text[..text.len() / 2]);
        let junk = write("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let odd = write("odd", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let missing = authority.directory().join("missing");
        let good = || files(&pair);
        let asking = |client_ca| Files { client_ca, client_auth: ClientAuth::Required, ..good() };
        let cases = [
            (Files { certificate: missing.clone(), ..good() }, "missing: No such file"),
            (Files { certificate: authority.directory().to_owned(), ..good() }, "Is a directory"),
            (Files { certificate: pair.key.clone(), ..good() }, ".key: holds no certificate in PEM form"),
            (Files { certificate: cut, ..good() }, "cut: ends before its -----END line"),
            (Files { certificate: junk.clone(), ..good() }, "junk: invalid peer certificate: BadEncoding"),
            (Files { key: missing.clone(), ..good() }, "missing: No such file"),
            (Files { key: pair.certificate.clone(), ..good() }, ".crt: holds no private key in PEM form"),
            (Files { key: odd, ..good() }, "odd: "),
            (asking(Some(missing)), "missing: No such file"),
            (asking(Some(pair.key.clone())), ".key: holds no certificate in PEM form"),
            (asking(Some(junk)), "junk: "),
            (asking(None), "tls.client_ca is not given"),
            (
                Files { client_ca: Some(authority.file()), ..good() },
                "tls.client_auth asks for no certificate",
            ),
        ];
        for (files, reason) in cases {
            let error = Identity::load(files).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        }
    }
}
