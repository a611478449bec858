//! TLS without verification of the certificate. A health check sends no secret, and its server's certificate need not
//! have the name used here, such as 127.0.0.1.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream,
};

/// Sends the request through TLS. A server that refuses the client for its missing certificate has answered too.
pub(super) fn ask<S: Read + Write>(
    mut stream: S,
    ask: impl FnOnce(&mut Stream<'_, ClientConnection, S>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // An IP address is never sent in the handshake, so any address serves as the name.
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut session = ClientConnection::new(config()?, name)?;
    match ask(&mut Stream::new(&mut session, &mut stream)) {
        Err(error) if wants_a_certificate(&error) => Ok(()),
        asked => asked,
    }
}

fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn wants_a_certificate(error: &anyhow::Error) -> bool {
    let of_session = |cause: &(dyn std::error::Error + 'static)| {
        let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        inner.downcast_ref::<Error>().cloned()
    };
    let wants = Error::AlertReceived(AlertDescription::CertificateRequired);
    error.chain().filter_map(of_session).any(|error| error == wants)
}

/// Accepts every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
