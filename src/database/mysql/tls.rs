//! TLS over rustls, by the options `ssl-mode`, `ssl-ca`, `ssl-cert` and `ssl-key` of MySQL's client.
//!
//! Main thread at startup; the handshakes run on the threads that open sessions.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};

use crate::database::verification::{AnyCertificate, Roots, Verified, client, read_certificates, read_key};

/// `ssl-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Never encrypts.
    Disabled,
    /// Encrypts if the server offers it.
    #[default]
    Preferred,
    /// Encrypts, and does not check the server's identity.
    Required,
    /// Checks the chain of the server's certificate.
    VerifyCa,
    /// Checks the chain and the server's name.
    VerifyIdentity,
}

const MODES: [(&str, Mode); 5] = [
    ("DISABLED", Mode::Disabled),
    ("PREFERRED", Mode::Preferred),
    ("REQUIRED", Mode::Required),
    ("VERIFY_CA", Mode::VerifyCa),
    ("VERIFY_IDENTITY", Mode::VerifyIdentity),
];

/// The TLS part of a URL.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Settings {
    /// Takes one of the parameters.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "ssl-ca" => self.ca = Some(value.into()),
            "ssl-cert" => self.certificate = Some(value.into()),
            "ssl-key" => self.key = Some(value.into()),
            _ => {
                let found = MODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(value));
                let (_, mode) = found.ok_or_else(|| {
                    let known: Vec<_> = MODES.iter().map(|(known, _)| *known).collect();
                    format!("{name}={value}: expected {}", known.join(", "))
                })?;
                self.mode = *mode;
            }
        }
        Ok(())
    }

    /// Reads the files.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(ring::default_provider());
        let is_checked = matches!(self.mode, Mode::VerifyCa | Mode::VerifyIdentity);
        let verifier: Arc<dyn ServerCertVerifier> = if is_checked {
            let mut roots = Roots::empty();
            let file = self.ca.as_ref();
            let file = file.ok_or(
                "ssl-mode=VERIFY_CA and VERIFY_IDENTITY need a certificate authority: give ssl-ca=FILE",
            )?;
            roots.add("ssl-ca", file)?;
            let checks_name = self.mode == Mode::VerifyIdentity;
            Arc::new(Verified::new(roots, "ssl-ca", checks_name, Arc::clone(&provider))?)
        } else if self.ca.is_some() && self.mode != Mode::Disabled {
            return Err(
                "ssl-ca is given, but ssl-mode does not verify; write ssl-mode=VERIFY_CA or VERIFY_IDENTITY"
                    .to_owned(),
            );
        } else {
            Arc::new(AnyCertificate(Arc::clone(&provider)))
        };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) if self.mode != Mode::Disabled => {
                Some((read_certificates("ssl-cert", certificate)?, read_key("ssl-key", key)?))
            }
            (Some(_), None) => return Err("ssl-cert is given, but ssl-key is not".to_owned()),
            (None, Some(_)) => return Err("ssl-key is given, but ssl-cert is not".to_owned()),
            _ => None,
        };
        client(provider, &[&TLS13, &TLS12], verifier, identity, "ssl-cert").map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pairs: &[(&str, &str)]) -> String {
        let mut settings = Settings::default();
        let set = pairs.iter().try_for_each(|(name, value)| settings.set(name, value));
        set.and_then(|()| settings.client().map(drop)).expect_err("it is refused")
    }

    #[test]
    fn a_mode_that_verifies_needs_an_authority_and_an_authority_needs_such_a_mode() {
        assert!(refusal(&[("ssl-mode", "verify_ca")]).contains("ssl-ca=FILE"));
        assert!(refusal(&[("ssl-ca", "/nowhere")]).contains("VERIFY_IDENTITY"));
        assert!(
            refusal(&[("ssl-mode", "VERIFY_IDENTITY"), ("ssl-ca", "/nowhere")]).contains("ssl-ca /nowhere")
        );
        assert!(refusal(&[("ssl-cert", "/nowhere")]).contains("ssl-key is not"));
        assert!(refusal(&[("ssl-mode", "on")]).contains("DISABLED, PREFERRED"));
        assert!(Settings::default().client().is_ok());
    }
}
