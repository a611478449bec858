//! Certificates: an authority of the test's own, what it signs, and both as files.
//!
//! The unit tests of `src/connector/native/tls.rs` read this file too, so it needs nothing of its neighbours.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion};

/// A certificate authority. Its files last as long as it does.
pub(crate) struct Authority {
    directory: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that an authority signed, and the key to it, as PEM files.
pub(crate) struct Identity {
    /// The certificate's file.
    pub(crate) certificate: PathBuf,
    /// The key's file.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// A new authority. `name` is the subject of its certificate; two authorities may have the same name.
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a key signs its own certificate");
        std::fs::write(directory.path().join("root.crt"), certificate.pem()).expect("a temporary file");
        Self { directory, certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// The directory of all files: of the authority and of the certificates that it signs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file of its own certificate, `root.crt`.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory().join("root.crt")
    }

    /// A server's certificate for these names or addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.sign(named("server", names), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A server's certificate for `localhost` that is valid from and until these days: year, month, day.
    pub(crate) fn server_between(&self, from: (i32, u8, u8), until: (i32, u8, u8)) -> Identity {
        let mut params = named("server", &["localhost"]);
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.sign(named(name, &[]), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A client's certificate that has expired.
    pub(crate) fn expired_client(&self, name: &str) -> Identity {
        let mut params = named(name, &[]);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        params.insert_extended_key_usage(usage);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority signs");
        let write = |prefix, suffix, text: String| {
            let file = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(&self.directory);
            let (_, path) = file.and_then(|file| Ok(file.keep()?)).expect("a temporary file");
            std::fs::write(&path, text).expect("a temporary file");
            path
        };
        Identity {
            certificate: write("signed", ".crt", certificate.pem()),
            key: write("signed", ".key", key.serialize_pem()),
        }
    }

    /// The configuration of a client that trusts this authority. If it has an `identity`, it shows that when the server
    /// asks for a certificate.
    pub(crate) fn trusting(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.trusting_with(ALL_VERSIONS, identity)
    }

    /// Like [`Authority::trusting`], with these versions of TLS only.
    pub(crate) fn trusting_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority's certificate is one");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring has suites for every version")
            .with_root_certificates(roots);
        let Some(identity) = identity else { return Arc::new(builder.with_no_client_auth()) };
        let certificate = CertificateDer::from_pem_file(&identity.certificate).expect("we have written it");
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("we have written it");
        Arc::new(builder.with_client_auth_cert(vec![certificate], key).expect("the key is the certificate's"))
    }
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names and addresses are ASCII");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
