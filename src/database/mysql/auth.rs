//! The client's side of the authentication plugins.
//!
//! Owns [`Plugin`]. Pure. The rules are those of MySQL's manual, "Authentication Plugins", and of MariaDB's, "Authentication Plugins".

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use ring::digest::{Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512, digest};

/// An authentication plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    /// A hash by SHA-1; the default up to MySQL 5.7 and of MariaDB.
    Native,
    /// A hash by SHA-256; the default of MySQL from 8.0 on.
    CachingSha2,
    /// A signature; MariaDB's.
    Ed25519,
    /// The password as it is.
    Clear,
}

/// The answer to a nonce.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Bytes(Vec<u8>),
    /// The password itself, which must not be sent without encryption.
    Secret(Vec<u8>),
}

impl Plugin {
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"mysql_native_password" => Self::Native,
            b"caching_sha2_password" => Self::CachingSha2,
            b"client_ed25519" => Self::Ed25519,
            b"mysql_clear_password" => Self::Clear,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Ed25519 => "client_ed25519",
            Self::Clear => "mysql_clear_password",
        }
    }

    /// The answer to the server's nonce.
    pub(super) fn reply(self, password: &[u8], nonce: &[u8]) -> Reply {
        /// The length of a nonce, which has a zero behind it.
        const NONCE_BYTES: usize = 20;
        let short = &nonce[..nonce.len().min(NONCE_BYTES)];
        match self {
            Self::Native | Self::CachingSha2 if password.is_empty() => Reply::Bytes(Vec::new()),
            Self::Native => {
                let once = digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
                let twice = digest(&SHA1_FOR_LEGACY_USE_ONLY, once.as_ref());
                let mask = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[short, twice.as_ref()].concat());
                Reply::Bytes(masked(&once, &mask))
            }
            Self::CachingSha2 => {
                let once = digest(&SHA256, password);
                let twice = digest(&SHA256, once.as_ref());
                let mask = digest(&SHA256, &[twice.as_ref(), short].concat());
                Reply::Bytes(masked(&once, &mask))
            }
            Self::Ed25519 => Reply::Bytes(sign(password, &nonce[..nonce.len().min(32)])),
            Self::Clear => Reply::Secret(zero_ended(password)),
        }
    }
}

/// The password with a zero behind it, as plugins send it in clear.
pub(super) fn zero_ended(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}

fn masked(secret: &Digest, mask: &Digest) -> Vec<u8> {
    secret.as_ref().iter().zip(mask.as_ref()).map(|(secret, mask)| secret ^ mask).collect()
}

/// Ed25519 (RFC 8032 section 5.1.6), where the password of any length takes the place of the private key of 32 bytes. So no library
/// of signatures makes it.
fn sign(password: &[u8], message: &[u8]) -> Vec<u8> {
    let expanded = digest(&SHA512, password);
    let (lower, prefix) = expanded.as_ref().split_at(32);
    let mut secret = [0; 32];
    secret.copy_from_slice(lower);
    let secret = Scalar::from_bytes_mod_order(clamp_integer(secret));
    let public = EdwardsPoint::mul_base(&secret).compress();
    let nonce = scalar(&[prefix, message]);
    let point = EdwardsPoint::mul_base(&nonce).compress();
    let challenge = scalar(&[point.as_bytes(), public.as_bytes(), message]);
    let proof = challenge * secret + nonce;
    [point.as_bytes().as_slice(), proof.as_bytes()].concat()
}

fn scalar(parts: &[&[u8]]) -> Scalar {
    let hash = digest(&SHA512, &parts.concat());
    let mut wide = [0; 64];
    wide.copy_from_slice(hash.as_ref());
    Scalar::from_bytes_mod_order_wide(&wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    /// The first test vectors of RFC 8032 section 7.1: a private key of 32 bytes is a password like any other.
    #[test]
    fn signatures_are_those_of_the_standard() {
        for (secret, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ] {
            assert_eq!(sign(&hex(secret), &hex(message)), hex(signature));
        }
    }

    #[test]
    fn a_server_that_knows_the_hash_of_the_hash_can_check_an_answer() {
        let nonce: Vec<u8> = (1..=20).chain([0]).collect();
        let Reply::Bytes(native) = Plugin::Native.reply(b"secret", &nonce) else {
            panic!("it is not secret")
        };
        let stored = digest(&SHA1_FOR_LEGACY_USE_ONLY, digest(&SHA1_FOR_LEGACY_USE_ONLY, b"secret").as_ref());
        let mask = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[&nonce[..20], stored.as_ref()].concat());
        let once: Vec<u8> = native.iter().zip(mask.as_ref()).map(|(one, other)| one ^ other).collect();
        assert_eq!(digest(&SHA1_FOR_LEGACY_USE_ONLY, &once).as_ref(), stored.as_ref());
        let Reply::Bytes(sha2) = Plugin::CachingSha2.reply(b"secret", &nonce) else {
            panic!("it is not secret")
        };
        let stored = digest(&SHA256, digest(&SHA256, b"secret").as_ref());
        let mask = digest(&SHA256, &[stored.as_ref(), &nonce[..20]].concat());
        let once: Vec<u8> = sha2.iter().zip(mask.as_ref()).map(|(one, other)| one ^ other).collect();
        assert_eq!(digest(&SHA256, &once).as_ref(), stored.as_ref());
        assert_eq!(Plugin::Native.reply(b"", &nonce), Reply::Bytes(Vec::new()));
        assert_eq!(Plugin::Clear.reply(b"x", &nonce), Reply::Secret(b"x\0".to_vec()));
    }
}
