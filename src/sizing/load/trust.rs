//! HTTPS: the certificates that a run accepts, and the reasons for which it accepts no other.
//!
//! Main thread, before the run. Sessions are never resumed: each connection stands for another user, and pays for its own
//! handshake.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
    RootCertStore, SignatureScheme,
};

use crate::base::certificate::{Certificate, advice_if_encrypted};
use crate::base::unverified::AnyCertificate;

/// The name of HTTP/1.1 in ALPN.
const PROTOCOL: &[u8] = b"http/1.1";

/// The certificates that are accepted from a server, and the one that is shown to it.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

/// A file of certificates cannot be used. The message names the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrustError(String);

/// The certificate of the client and its key, as PEM files.
#[derive(Clone, Copy, Debug)]
pub struct ClientIdentity<'p> {
    /// The certificate, followed by the chain to its authority.
    pub certificate: &'p Path,
    /// Its private key.
    pub key: &'p Path,
}

/// The rule for the server's certificate.
#[derive(Clone, Copy, Debug)]
pub enum ServerTrust<'p> {
    /// An authority of the system has signed it, and it has the server's name.
    System,
    /// An authority in this PEM file has signed it, or it is in the file itself, and it has the server's name.
    Authority(&'p Path),
    /// It is the first certificate in this PEM file, whatever its name.
    Exactly(&'p Path),
    /// Any certificate.
    Anything,
}

impl Trust {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, or has no certificate or no key; or the system has no authorities.
    pub fn new(server: ServerTrust<'_>, client: Option<ClientIdentity<'_>>) -> Result<Self, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError(format!("tls: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(server, provider)?);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(ClientIdentity { certificate, key: file }) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(file).map_err(|error| {
                    let reason = advice_if_encrypted(file).unwrap_or_else(|| error.to_string());
                    TrustError(format!("{}: {reason}", file.display()))
                })?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TrustError(format!("{}: {error}", certificate.display())))?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

fn verifier(
    trust: ServerTrust<'_>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    let file = match trust {
        ServerTrust::Anything => return Ok(Arc::new(AnyCertificate(provider))),
        ServerTrust::Exactly(file) => {
            let mut own = certificates(file)?;
            own.truncate(1);
            return Ok(Arc::new(OwnCertificate { own, chains: None, signatures: AnyCertificate(provider) }));
        }
        ServerTrust::Authority(file) => {
            own = certificates(file)?;
            for certificate in &own {
                let added = roots.add(certificate.clone());
                added.map_err(|error| TrustError(format!("{}: {error}", file.display())))?;
            }
            file.display().to_string()
        }
        ServerTrust::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let message =
                    "the system has no certificates of authorities; expected --ca FILE or --insecure";
                return Err(TrustError(message.to_owned()));
            }
            "the system's authorities".to_owned()
        }
    };
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let chains = chains.map_err(|error| TrustError(format!("{file}: {error}")))?;
    Ok(Arc::new(OwnCertificate { own, chains: Some(chains), signatures: AnyCertificate(provider) }))
}

/// The certificates of a PEM file; at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let explain = |error: rustls::pki_types::pem::Error| TrustError(format!("{}: {error}", file.display()));
    let chain = CertificateDer::pem_file_iter(file).map_err(explain)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(explain)?;
    if chain.is_empty() {
        return Err(TrustError(format!("{}: holds no certificate", file.display())));
    }
    Ok(chain)
}

/// Accepts the server's own certificate from a file, and others by their authorities.
#[derive(Debug)]
struct OwnCertificate {
    own: Vec<CertificateDer<'static>>,
    /// The authorities. `None`: no other certificate is accepted, and names and dates do not matter, because the server is known by
    /// the file of its configuration.
    chains: Option<Arc<WebPkiServerVerifier>>,
    signatures: AnyCertificate,
}

impl ServerCertVerifier for OwnCertificate {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.chains {
            Some(_) if self.own.contains(shown) => {
                check_dates(shown, now)?;
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
            }
            Some(chains) => return chains.verify_server_cert(shown, others, name, ocsp, now),
            None if self.own.contains(shown) => {}
            None => return Err(CertificateError::ApplicationVerificationFailure.into()),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let read = Certificate::read(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    match () {
        () if now < read.begins() => Err(CertificateError::NotValidYet),
        () if now > read.ends() => Err(CertificateError::Expired),
        () => Ok(()),
    }
}

/// TLS with one server.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    trust: Trust,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(trust: &Trust, name: ServerName<'static>) -> Self {
        Self { trust: trust.clone(), name }
    }

    /// The client's end of a new session.
    pub(super) fn session(&self) -> Result<ClientConnection, Error> {
        ClientConnection::new(Arc::clone(&self.trust.0), self.name.clone())
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.trust.0, &other.trust.0) && self.name == other.name
    }
}

/// The error of a handshake in words.
pub(super) fn explained(error: &Error) -> String {
    let day = |time: UnixTime| {
        let seconds = i64::try_from(time.as_secs()).ok();
        let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.map_or_else(String::new, |time| time.strftime("%Y-%m-%d").to_string())
    };
    match error {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "unknown authority: no trusted authority has signed the server's certificate; \
                 --ca FILE trusts another one, --insecure any certificate"
                    .to_owned()
            }
            CertificateError::Expired => "the server's certificate has expired".to_owned(),
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("the server's certificate has expired, on {}", day(*not_after))
            }
            CertificateError::NotValidYet => "the server's certificate is not valid yet".to_owned(),
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("the server's certificate is not valid yet, but from {} on", day(*not_before))
            }
            CertificateError::NotValidForName => {
                "wrong name: the server's certificate is for another name".to_owned()
            }
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "wrong name: the server's certificate is for {}, and not for {}",
                if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") },
                expected.to_str()
            ),
            CertificateError::ApplicationVerificationFailure => {
                "the server's certificate is not the one in the configuration's file".to_owned()
            }
            other => format!("the server's certificate: {other}"),
        },
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server asks for a certificate of its clients; --cert and --key give one".to_owned()
        }
        Error::InvalidMessage(_) => format!("TLS: {error}; the server may not speak TLS"),
        other => format!("TLS: {other}"),
    }
}
