//! Who vouches for an image: the key that a device has, and signatures by it (datum 70).
//!
//! A device with a key takes no image without a signature by it. One without a key announces none of this.

use data_encoding::BASE64;
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, StreamVerifier, VerifyingKey};

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageKey(VerifyingKey);

/// It is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key: want PEM, as `openssl pkey -pubout` writes it, or its 32 bytes in base64")]
pub struct KeyError;

/// Why an image is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the image has no signature that this device can check")]
    Missing,
    #[error("the signature of the image is wrong")]
    Wrong,
}

impl ImageKey {
    /// From PEM, or base64.
    ///
    /// # Errors
    /// [`KeyError`]: it is neither, or a key that anything would be signed with.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let key = VerifyingKey::from_public_key_pem(text).ok().or_else(|| {
            let bytes = BASE64.decode(text.as_bytes()).ok()?;
            VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
        });
        key.filter(|key| !key.is_weak()).map(Self).ok_or(KeyError)
    }

    /// To check an image, while it comes in, that is to have this signature.
    pub(crate) fn check(self, signature: Option<&[u8; 64]>) -> Result<Check, SignatureError> {
        let signature = Signature::from_bytes(signature.ok_or(SignatureError::Missing)?);
        self.0.verify_stream(&signature).map(|verifier| Check(Box::new(verifier))).map_err(|_| SignatureError::Wrong)
    }
}

/// A signature that is being checked.
pub(crate) struct Check(Box<StreamVerifier>);

impl Check {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Whether it is right, of all bytes that there were.
    pub(crate) fn finish(self) -> Result<(), SignatureError> {
        self.0.finalize_and_verify().map_err(|_| SignatureError::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn what_the_key_has_signed_is_right_and_nothing_else_is() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = ImageKey::parse(&BASE64.encode(signing.verifying_key().as_bytes())).unwrap();
        let check = |key: ImageKey, signature: Option<[u8; 64]>, pieces: &[&[u8]]| {
            let mut check = key.check(signature.as_ref())?;
            pieces.iter().for_each(|piece| check.update(piece));
            check.finish()
        };
        let signature = Some(signing.sign(b"123456789").to_bytes());
        assert_eq!(check(key, signature, &[b"1234", b"", b"56789"]), Ok(()));
        assert_eq!(check(key, signature, &[b"12345678"]), Err(SignatureError::Wrong));
        assert_eq!(check(key, None, &[b"123456789"]), Err(SignatureError::Missing));
        let other = ImageKey::parse(&BASE64.encode(SigningKey::from_bytes(&[8; 32]).verifying_key().as_bytes()));
        assert_eq!(check(other.unwrap(), signature, &[b"123456789"]), Err(SignatureError::Wrong));
        assert_eq!(check(key, Some([0xff; 64]), &[b"123456789"]), Err(SignatureError::Wrong));
    }

    #[test]
    fn the_signature_of_the_protocol_page_is_right() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        // The first key of RFC 8032, 7.1, and what OpenSSL signs with it.
        let key = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signature = hex(concat!(
            "177435c35155ca96d7bb6c70c028d85e83888f92d40cc85a5576949763a713e9",
            "c88c51e39ff31d8dbcaeea20453528f3e65a19541f09ccf989e6e45298f08908"
        ));
        let mut check = ImageKey::parse(&BASE64.encode(&key)).unwrap().check(signature.first_chunk()).unwrap();
        check.update(b"123456789");
        assert_eq!(check.finish(), Ok(()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "-----BEGIN PUBLIC KEY-----"] {
            assert_eq!(ImageKey::parse(text), Err(KeyError), "{text}");
        }
    }
}
