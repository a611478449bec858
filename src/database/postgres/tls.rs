//! TLS over rustls, by libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
//!
//! Main thread at startup; the handshakes run on the threads that open sessions. The rules are those of the PostgreSQL
//! manual, 34.1.2 and 34.19, with two differences. Both are stricter: a named file must exist, and a server's name is
//! looked for only in its certificate's subjectAltName, never in its common name.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

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

/// The TLS part of a URL.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    mode: Option<Mode>,
    root: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Settings {
    /// No TLS at all.
    pub(super) fn disabled() -> Self {
        Self { mode: Some(Mode::Disable), ..Self::default() }
    }

    /// Takes one parameter of the URL; `false` when it is not about TLS.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "sslmode" => self.mode = Some(mode(value)?),
            "sslrootcert" => self.root = Some(value.to_owned()),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
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
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let config = match self.identity()? {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| format!("sslcert: {error}"))?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
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
        let full = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| format!("sslrootcert: {error}"))?;
        Ok(if mode == Mode::VerifyFull { full } else { Arc::new(AnyName(full)) })
    }

    fn roots(&self, mode: Mode) -> Result<Option<RootCertStore>, String> {
        let mut roots = RootCertStore::empty();
        match self.root.as_deref() {
            _ if mode == Mode::Disable => return Ok(None),
            Some("system") if mode != Mode::VerifyFull => {
                return Err("sslrootcert=system works only with sslmode=verify-full: \
                            anyone can get a certificate from a public authority"
                    .to_owned());
            }
            Some("system") => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(format!("sslrootcert=system: no certificates found {:?}", found.errors));
                }
            }
            Some(file) => add_roots(&mut roots, &file.into())?,
            None => match in_home_directory("root.crt") {
                Some(file) => add_roots(&mut roots, &file)?,
                None => return Ok(None),
            },
        }
        Ok(Some(roots))
    }

    /// The client's certificate chain and key; libpq's default files when none are named.
    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
        if self.mode() == Mode::Disable {
            return Ok(None);
        }
        let Some(certificate) = self.certificate.clone().or_else(|| in_home_directory("postgresql.crt"))
        else {
            return Ok(None);
        };
        let key = self.key.clone().or_else(|| in_home_directory("postgresql.key"));
        let key = key.ok_or("sslcert is given, but sslkey is not")?;
        let chain = read_certificates("sslcert", &certificate)?;
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
            format!("sslkey {}: {error} (encrypted keys are not supported)", key.display())
        })?;
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

fn read_certificates(key: &str, file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |error| format!("{key} {}: {error}", file.display());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(explain)?.collect::<Result<_, _>>().map_err(explain)?;
    if chain.is_empty() {
        return Err(format!("{key} {}: holds no certificate", file.display()));
    }
    Ok(chain)
}

fn add_roots(roots: &mut RootCertStore, file: &PathBuf) -> Result<(), String> {
    for certificate in read_certificates("sslrootcert", file)? {
        roots.add(certificate).map_err(|error| format!("sslrootcert {}: {error}", file.display()))?;
    }
    Ok(())
}

/// `verify-ca`: the chain must lead to a trusted authority; the server's name does not matter.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        // `WebPkiServerVerifier` checks the name last, so this error shows that the chain is good.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `allow`, `prefer` and `require` without an authority: the connection is encrypted, but the server's identity is not
/// checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
