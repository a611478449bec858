//! TLS of a database's client over rustls: reading the files, and verifying the server.
//!
//! Main thread at startup; the verifiers run on the threads that open sessions. A certificate of X.509 version 1 is accepted only where
//! nothing is verified, or where it is itself trusted, because webpki does not read this version. Knows no database's parameters.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use webpki::RawPublicKeyEntity;

use crate::base::certificate::{Certificate, advice_if_encrypted};

/// The client's key in a PEM file, which the parameter `key` names.
pub(super) fn read_key(key: &str, file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        let reason = advice_if_encrypted(file).unwrap_or_else(|| error.to_string());
        format!("{key} {}: {reason}", file.display())
    })
}

/// A configuration of TLS with this verifier, and with the client's own chain and key if there are any. `key` is the parameter that
/// names the chain.
pub(super) fn client(
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    key: &str,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| format!("tls: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((chain, private)) = identity else { return Ok(builder.with_no_client_auth()) };
    let own = chain.first().and_then(|own| Certificate::read(own).ok());
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        let reason = own.and_then(|own| own.unsupported_key()).unwrap_or_else(|| error.to_string());
        format!("{key}: {reason}")
    })
}

/// The certificates in a PEM file, which the parameter `key` names.
pub(super) fn read_certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |error| format!("{key} {}: {error}", file.display());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(explain)?.collect::<Result<_, _>>().map_err(explain)?;
    if chain.is_empty() {
        return Err(format!("{key} {}: holds no certificate", file.display()));
    }
    Ok(chain)
}

/// The certificates that a client trusts.
pub(super) struct Roots {
    /// The authorities.
    pub(super) store: RootCertStore,
    /// The certificates of the file as they are. One of them may be the server's own.
    pub(super) own: Vec<CertificateDer<'static>>,
}

impl Roots {
    pub(super) fn empty() -> Self {
        Self { store: RootCertStore::empty(), own: Vec::new() }
    }

    /// Adds the certificates of a PEM file, which the parameter `key` names.
    pub(super) fn add(&mut self, key: &str, file: &Path) -> Result<(), String> {
        for certificate in read_certificates(key, file)? {
            self.own.push(certificate.clone());
            let added = self.store.add(certificate);
            added.map_err(|error| format!("{key} {}: {error}", file.display()))?;
        }
        Ok(())
    }
}

/// The chain must lead to a trusted authority, or the certificate must itself be among the trusted ones. PostgreSQL's manual makes
/// such a self-signed `server.crt` (19.9.5). With `checks_name`, the server's name must be right as well.
#[derive(Debug)]
pub(super) struct Verified {
    chains: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verified {
    /// A verifier that trusts these roots, which the parameter `key` names.
    pub(super) fn new(
        roots: Roots,
        key: &str,
        checks_name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let Roots { store, own } = roots;
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("{key}: {error}"))?;
        Ok(Self { chains, own, checks_name, provider })
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.own.contains(end_entity) {
            check_dates(&read(end_entity)?, now)?;
            if self.checks_name {
                check_name(end_entity, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        // `WebPkiServerVerifier` checks the name last, so an error about the name shows that the chain is good.
        match self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {
                if self.checks_name {
                    check_name(end_entity, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            Err(_) if read(end_entity).is_ok_and(|read| read.is_version_1()) => {
                Err(TlsError::General(VERSION_1.to_owned()))
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Signature { message, certificate, signed }.verify(&self.provider, verify_tls12_signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Signature { message, certificate, signed }.verify(&self.provider, verify_tls13_signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts any certificate: the connection is encrypted, but the server's identity is not checked.
#[derive(Debug)]
pub(super) struct AnyCertificate(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Signature { message, certificate, signed }.verify(&self.0, verify_tls12_signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Signature { message, certificate, signed }.verify(&self.0, verify_tls13_signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const VERSION_1: &str = "the server's certificate is of X.509 version 1, whose chain cannot be verified here; sign it with \
     extensions (openssl x509 -req -extfile FILE), or give the certificate itself as the authority";

pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Certificate, TlsError> {
    Certificate::read(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

pub(super) fn check_dates(certificate: &Certificate, now: UnixTime) -> Result<(), TlsError> {
    let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if now < certificate.begins() {
        Err(CertificateError::NotValidYet.into())
    } else if now > certificate.ends() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// Checks the server's name as libpq does: by the names in `subjectAltName`, or else by the common name.
fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), TlsError> {
    let read = read(certificate)?;
    if read.common_name_is(&name.to_str()) {
        return Ok(());
    }
    if read.is_version_1() {
        let presented = read.common_name().into_iter().collect();
        return Err(CertificateError::NotValidForNameContext { expected: name.to_owned(), presented }.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
}

/// A server's signature in the handshake. It shows that the server has the key of its certificate.
struct Signature<'a> {
    message: &'a [u8],
    certificate: &'a CertificateDer<'a>,
    signed: &'a DigitallySignedStruct,
}

/// rustls's verification for one version of TLS.
type Verify = fn(
    &[u8],
    &CertificateDer<'_>,
    &DigitallySignedStruct,
    &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, TlsError>;

impl Signature<'_> {
    /// Verifies with `verify`, and without it if the certificate is of X.509 version 1, which webpki does not read.
    fn verify(&self, provider: &CryptoProvider, verify: Verify) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &provider.signature_verification_algorithms;
        match read(self.certificate) {
            Ok(read) if read.is_version_1() => self.verify_with_key_of(&read, algorithms),
            _ => verify(self.message, self.certificate, self.signed, algorithms),
        }
    }

    fn verify_with_key_of(
        &self,
        certificate: &Certificate,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let refused = || TlsError::from(CertificateError::BadSignature);
        let key = certificate.public_key().map_err(|_| refused())?;
        let key = SubjectPublicKeyInfoDer::from(key);
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| refused())?;
        let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == self.signed.scheme);
        let is_good = of_scheme
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| key.verify_signature(*algorithm, self.message, self.signed.signature()).is_ok());
        if is_good { Ok(HandshakeSignatureValid::assertion()) } else { Err(refused()) }
    }
}
