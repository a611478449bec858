//! TLS without verification of the certificate. A health check sends no secret, and its server's certificate need not
//! have the name used here, such as 127.0.0.1.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, Stream};

use crate::base::unverified::AnyCertificate;

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
