//! Reads a certificate's dates, its names and the kind of its key, by `x509-cert`.
//!
//! Any thread, when files are read and when a session to the database is opened. Verifies nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use x509_cert::certificate::Version;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate that ends within this time is due for renewal. Authorities that sign for 90 days, such as Let's Encrypt, advise to
/// renew at 30.
const DUE: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// `commonName` (RFC 5280 appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// A public key on an elliptic curve, which the parameters name (RFC 5480 section 2.1.1).
const ON_A_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// The kinds of keys that people make and that TLS does not take here.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("1.3.132.0.33", "the curve secp224r1"),
    ("1.3.132.0.35", "the curve secp521r1"),
    ("1.3.132.0.10", "the curve secp256k1"),
    ("1.2.840.10045.3.1.1", "the curve prime192v1"),
    ("1.3.36.3.3.2.8.1.1.7", "the curve brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "the curve brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "the curve brainpoolP512r1"),
    ("1.3.101.113", "Ed448"),
    ("1.2.840.10040.4.1", "DSA"),
];

/// A certificate that was read.
#[derive(Clone, Debug)]
pub(crate) struct Certificate(x509_cert::Certificate);

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is not one.
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        x509_cert::Certificate::from_der(der).map(Self).map_err(|error| error.to_string())
    }

    /// The time from which on it is valid.
    pub(crate) fn begins(&self) -> SystemTime {
        self.0.tbs_certificate.validity.not_before.to_system_time()
    }

    /// The time until which it is valid.
    pub(crate) fn ends(&self) -> SystemTime {
        self.0.tbs_certificate.validity.not_after.to_system_time()
    }

    /// The trouble that clients have with its dates now, or will have soon.
    pub(crate) fn trouble_with_dates(&self, now: SystemTime) -> Option<String> {
        let date = |time: SystemTime| {
            jiff::Timestamp::try_from(time)
                .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
        };
        if let Ok(early) = self.begins().duration_since(now)
            && !early.is_zero()
        {
            return Some(format!("the certificate is not valid before {}", date(self.begins())));
        }
        match self.ends().duration_since(now) {
            Err(_) => Some(format!("the certificate expired on {}", date(self.ends()))),
            Ok(left) if left < DUE => {
                let days = left.as_secs() / DAY;
                Some(format!("the certificate expires in {days} days, on {}", date(self.ends())))
            }
            Ok(_) => None,
        }
    }

    /// Whether it is of version 1, which has no extensions.
    pub(crate) fn is_version_1(&self) -> bool {
        self.0.tbs_certificate.version == Version::V1
    }

    /// Whether the name of its issuer is the name of `other`.
    pub(crate) fn may_be_issued_by(&self, other: &Self) -> bool {
        self.0.tbs_certificate.issuer == other.0.tbs_certificate.subject
    }

    /// Its public key, as DER (`SubjectPublicKeyInfo`).
    ///
    /// # Errors
    /// It cannot be written as DER.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>, String> {
        self.0.tbs_certificate.subject_public_key_info.to_der().map_err(|error| error.to_string())
    }

    /// The reason why its key cannot be used, if it is of a kind that TLS does not take here.
    pub(crate) fn unsupported_key(&self) -> Option<String> {
        let algorithm = &self.0.tbs_certificate.subject_public_key_info.algorithm;
        let kind = if algorithm.oid == ON_A_CURVE {
            algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?
        } else {
            algorithm.oid
        };
        let kind = kind.to_string();
        let (_, name) = UNSUPPORTED.iter().find(|(known, _)| *known == kind)?;
        Some(format!(
            "the key is of a kind that is not supported, {name}; use RSA with 2,048 bits or more, \
             the curve prime256v1 or secp384r1, or Ed25519"
        ))
    }

    /// Whether its common name is the name of this host, by libpq's rule: the common name counts only if no DNS name and no address
    /// stands in `subjectAltName` (RFC 6125 section 6.4.4). A star stands for the whole first label.
    pub(crate) fn common_name_is(&self, host: &str) -> bool {
        if self.has_other_names() {
            return false;
        }
        let Some(name) = self.common_name() else { return false };
        if let Some(domain) = name.strip_prefix("*.") {
            return host.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && domain.contains('.') && rest.eq_ignore_ascii_case(domain)
            });
        }
        name.eq_ignore_ascii_case(host)
    }

    /// Whether a DNS name or an address stands in `subjectAltName`. One that cannot be read counts.
    fn has_other_names(&self) -> bool {
        match self.0.tbs_certificate.get::<SubjectAltName>() {
            Ok(None) => false,
            Ok(Some((_, names))) => {
                let of_host =
                    |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
                names.0.iter().any(of_host)
            }
            Err(_) => true,
        }
    }

    /// The last common name of the subject.
    pub(crate) fn common_name(&self) -> Option<String> {
        let parts = self.0.tbs_certificate.subject.0.iter().rev().flat_map(|set| set.0.iter());
        let value = &parts.into_iter().find(|part| part.oid == COMMON_NAME)?.value;
        if let Ok(text) = value.decode_as::<Utf8StringRef<'_>>() {
            return Some(text.as_str().to_owned());
        }
        value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned())
    }
}

/// The advice for a key file that cannot be read because it is encrypted. `None`: it is not.
pub(crate) fn advice_if_encrypted(file: &Path) -> Option<String> {
    /// A file of a key is not longer.
    const LONGEST: usize = 64 * 1024;
    let text = fs::read(file).ok()?;
    let text = String::from_utf8_lossy(text.get(..LONGEST).unwrap_or(&text));
    // The newer form (RFC 7468 section 11), and OpenSSL's older one.
    let is_encrypted =
        text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED");
    is_encrypted.then(|| {
        "the key is encrypted, and nobody is there to give its password; \
         write it without one: openssl pkey -in ENCRYPTED -out PLAIN"
            .to_owned()
    })
}
