//! Who vouches for content: signatures over the bytes of a file, checked while it is read, however large it is.

use std::fmt;

use data_encoding::BASE64;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey;
use sha2::{Digest, Sha256};

use super::SourceError;

/// A signature and the public key that it is to be of.
pub struct Signature {
    kind: Kind,
    /// What tells it from any other.
    fingerprint: [u8; 32],
}

enum Kind {
    /// RFC 8032, over the file itself.
    Ed25519(Box<VerifyingKey>, ed25519_dalek::Signature),
    /// Over the BLAKE2b digest of the file, as minisign makes it.
    Minisign(Box<minisign_verify::PublicKey>, Box<minisign_verify::Signature>),
}

/// Why nothing can be checked with what was given. What was given is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error(
        "it is not an Ed25519 public key: want PEM, as `openssl pkey -pubout` writes it, or its 32 bytes in base64"
    )]
    Ed25519Key,
    #[error("the Ed25519 signature cannot be read: want its 64 bytes in base64")]
    Ed25519Signature,
    #[error("it is not a minisign public key: want the file that `minisign -G` writes")]
    MinisignKey,
    #[error("the minisign signature cannot be read: want the text of the .minisig file")]
    MinisignSignature,
}

impl SignatureError {
    /// Whether the public key is at fault, and not the signature.
    pub fn is_of_key(self) -> bool {
        match self {
            Self::Ed25519Key | Self::MinisignKey => true,
            Self::Ed25519Signature | Self::MinisignSignature => false,
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kind {
            Kind::Ed25519(..) => "Ed25519",
            Kind::Minisign(..) => "minisign",
        };
        write!(f, "Signature({name})")
    }
}

impl Signature {
    /// From a signature in base64, and a public key in PEM or base64.
    ///
    /// # Errors
    /// Where either cannot be read, or the key is one that anything would be signed with.
    pub fn ed25519(signature: &str, key: &[u8]) -> Result<Self, SignatureError> {
        let text = std::str::from_utf8(key).map_err(|_| SignatureError::Ed25519Key)?.trim();
        let key = VerifyingKey::from_public_key_pem(text).ok().or_else(|| {
            let bytes = BASE64.decode(text.as_bytes()).ok()?;
            VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
        });
        let key = key.filter(|key| !key.is_weak()).ok_or(SignatureError::Ed25519Key)?;
        let bytes = BASE64.decode(signature.trim().as_bytes()).ok();
        let bytes: [u8; 64] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(SignatureError::Ed25519Signature)?;
        let fingerprint = Sha256::new().chain_update(key.as_bytes()).chain_update(bytes).finalize().into();
        let signature = ed25519_dalek::Signature::from_bytes(&bytes);
        Ok(Self { kind: Kind::Ed25519(Box::new(key), signature), fingerprint })
    }

    /// From the texts of a `.minisig` file and of a minisign public key.
    ///
    /// # Errors
    /// Where either cannot be read.
    pub fn minisign(signature: &str, key: &[u8]) -> Result<Self, SignatureError> {
        let text = std::str::from_utf8(key).map_err(|_| SignatureError::MinisignKey)?.trim();
        let key = minisign_verify::PublicKey::decode(text).or_else(|_| minisign_verify::PublicKey::from_base64(text));
        let key = key.map_err(|_| SignatureError::MinisignKey)?;
        let fingerprint = Sha256::new().chain_update(text).chain_update([0]).chain_update(signature).finalize().into();
        let signature = minisign_verify::Signature::decode(signature).map_err(|_| SignatureError::MinisignSignature)?;
        Ok(Self { kind: Kind::Minisign(Box::new(key), Box::new(signature)), fingerprint })
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Checks it over the bytes that `read` hands out, all of them in their order.
    pub(super) fn check<E: From<SourceError>>(
        &self,
        read: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<(), E> {
        let invalid = |detail| SourceError::SignatureInvalid { detail };
        const OTHER: &str = "another key made it, or it is over other bytes";
        match &self.kind {
            Kind::Ed25519(key, signature) => {
                let mut verifier = key.verify_stream(signature).map_err(|_| invalid("it is malformed"))?;
                read(&mut |bytes| verifier.update(bytes))?;
                Ok(verifier.finalize_and_verify().map_err(|_| invalid(OTHER))?)
            }
            Kind::Minisign(key, signature) => {
                let mut verifier = key.verify_stream(signature).map_err(|error| match error {
                    minisign_verify::Error::UnexpectedKeyId => invalid("it was made with a key of another id"),
                    minisign_verify::Error::UnsupportedLegacyMode => {
                        invalid("it is of the kind that `minisign -l` makes; sign without -l")
                    }
                    _ => invalid("it is malformed"),
                })?;
                read(&mut |bytes| verifier.update(bytes))?;
                Ok(verifier.finalize().map_err(|_| invalid(OTHER))?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &[u8] = b"image";

    // openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout
    const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA2wBoRzpd8v4oUQiIKiQhYtSyBu5+Js9vgrYEETNUJQw=\n-----END PUBLIC KEY-----\n";
    const ED25519_BASE64: &str = "2wBoRzpd8v4oUQiIKiQhYtSyBu5+Js9vgrYEETNUJQw=\n";
    // openssl pkeyutl -sign -rawin -inkey key.pem -in image | base64 -w0
    const ED25519: &str = "qtuAVea5rpZcvdSNk2zTp6mLeN0mpgtSwmD7NVQkRdus1/tqpPpf8at5OXMfPShMpZjtx5SK2sWmjrWPGKUhAg==";

    // minisign -G -W
    const MINISIGN_KEY: &str = "untrusted comment: minisign public key 72190FDB230CFBBA\nRWS6+wwj2w8ZchlicaCMRcmiKUMboRNXuZgR0rsGC/6Br5ZGVLVKI8ds\n";
    // minisign -S -m image -t x
    const MINISIGN: &str = "untrusted comment: signature from minisign secret key\nRUS6+wwj2w8Zct3EX3WMfOX2JV7PNBZ6CGK9H4vGgTH5lv3v7BU6rg9qgrtcZzjyiaR53vfzfKhKKVc1fOJUWYwbaNYiOVfBzA8=\ntrusted comment: x\nM7viEz3Vhe/f1Zn38UMEjCbglmApnnMx6T6o2ch4aj6ECGVWmfsGLMPPzNzlVWXNpod9PMkBwRDSzIWrUdvjAg==\n";
    // minisign -S -l -m image -t x
    const MINISIGN_LEGACY: &str = "untrusted comment: signature from minisign secret key\nRWS6+wwj2w8Zco8UojEhY1txighgmsCc4MMtOgvNFsAPfH9kPgiCLvzd2kmYUiZZ+Yrat3t+JXWQEGEn2dC838bfEquxFDRIbg4=\ntrusted comment: x\n1KhkZjwhr2mMOp32fKj3dVjsu/gm448bJQ/AET8u5qAtaijQoBMtm1qwEndlxhxgYZAaPw1oZ0xOpkd/w3wtBQ==\n";

    /// Checks a signature over these bytes, which come in two pieces.
    fn check(signature: &Signature, bytes: &[u8]) -> Result<(), SourceError> {
        signature.check(|take| {
            let (first, second) = bytes.split_at(2);
            take(first);
            take(second);
            Ok(())
        })
    }

    #[test]
    fn what_openssl_and_minisign_sign_is_good_and_any_other_byte_is_not() {
        for (name, signature) in [
            ("PEM", Signature::ed25519(ED25519, ED25519_PEM.as_bytes())),
            ("base64", Signature::ed25519(ED25519, ED25519_BASE64.as_bytes())),
            ("minisign", Signature::minisign(MINISIGN, MINISIGN_KEY.as_bytes())),
            ("its second line", Signature::minisign(MINISIGN, MINISIGN_KEY.lines().nth(1).unwrap().as_bytes())),
        ] {
            let signature = signature.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(check(&signature, IMAGE), Ok(()), "{name}");
            for other in [&b"imagf"[..], b"images", b"imag"] {
                assert_eq!(check(&signature, other).unwrap_err().reason(), "SignatureInvalid", "{name}");
            }
        }
    }

    #[test]
    fn a_signature_of_another_key_is_not_good() {
        // RFC 8032, section 7.1, test 1
        let key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let error = check(&Signature::ed25519(ED25519, key.as_bytes()).unwrap(), IMAGE).unwrap_err();
        assert_eq!(error.reason(), "SignatureInvalid");
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        let error = check(&Signature::minisign(MINISIGN, key.as_bytes()).unwrap(), IMAGE).unwrap_err();
        assert!(error.to_string().contains("a key of another id"), "{error}");
    }

    #[test]
    fn what_cannot_be_checked_is_said_to_be_the_keys_or_the_signatures_fault() {
        let legacy = Signature::minisign(MINISIGN_LEGACY, MINISIGN_KEY.as_bytes()).unwrap();
        assert!(check(&legacy, IMAGE).unwrap_err().to_string().contains("minisign -l"));
        // The neutral element: it vouches for everything.
        let weak = BASE64.encode(&[[1].as_slice(), &[0; 31]].concat());
        for key in [weak.as_str(), "", "AAAA", MINISIGN_KEY, "-----BEGIN PUBLIC KEY-----\n"] {
            assert_eq!(Signature::ed25519(ED25519, key.as_bytes()).unwrap_err(), SignatureError::Ed25519Key, "{key}");
        }
        for key in ["", ED25519_PEM, ED25519_BASE64] {
            assert_eq!(
                Signature::minisign(MINISIGN, key.as_bytes()).unwrap_err(),
                SignatureError::MinisignKey,
                "{key}"
            );
        }
        assert!(!Signature::ed25519("AAAA", ED25519_PEM.as_bytes()).unwrap_err().is_of_key());
        assert!(!Signature::minisign("AAAA", MINISIGN_KEY.as_bytes()).unwrap_err().is_of_key());
    }
}
