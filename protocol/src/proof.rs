//! The proof of who asks a device for its log over UDP (`docs/protocol.md`, "Without a connection"): data 80 and 81, by the key
//! that datum 82 has brought over TCP.
//!
//! Pure: who writes a request brings the time and the randomness, and who reads one remembers the nonce of the last.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

use crate::datagram;
use crate::datum::number;
use crate::dialect::Dialect;
use crate::frame::{EncodeError, Frame};

/// Bytes of a proof, which are the last of its datagram in every dialect.
const PROOF_LEN: usize = 32;

/// Datum 82: what a device knows the server by. Its `Debug` keeps it to itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogKey([u8; 32]);

impl LogKey {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn over(&self, bytes: &[u8]) -> Hmac<Sha256> {
        // Padded with zeros to a block, as HMAC takes a shorter key.
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(bytes);
        mac
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogKey").finish_non_exhaustive()
    }
}

/// Datum 80: each is greater than the one before, as a number of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// `millisecond`: since 1970, of the server's clock.
    pub fn new(millisecond: i64, random: [u8; 8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&millisecond.max(0).to_be_bytes());
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }
}

/// Why a request proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("it has no proof")]
    Missing,
    #[error("its proof was not made with the key that this device has")]
    Wrong,
}

/// The datagram that is this message, with a proof at its end.
///
/// # Errors
/// As [`datagram::write`].
pub fn write(dialect: Dialect, frame: &Frame, nonce: Nonce, key: &LogKey) -> Result<Vec<u8>, EncodeError> {
    let mut frame = frame.clone();
    frame.data.push((number::NONCE, nonce.0.to_vec()));
    frame.data.push((number::PROOF, vec![0; PROOF_LEN]));
    let mut datagram = datagram::write(dialect, &frame)?;
    let proven = datagram.len() - PROOF_LEN;
    let proof = key.over(&datagram[..proven]).finalize().into_bytes();
    datagram[proven..].copy_from_slice(&proof);
    Ok(datagram)
}

/// The nonce of a datagram that was read as `frame`, where its proof is right. Whether the nonce is greater than that of the last
/// request is for the reader to say.
///
/// # Errors
/// [`ProofError`].
pub fn check(datagram: &[u8], frame: &Frame, key: &LogKey) -> Result<Nonce, ProofError> {
    let nonces: Vec<_> = frame.data.iter().filter(|(datum, _)| *datum == number::NONCE).collect();
    let [(_, nonce)] = nonces.as_slice() else { return Err(ProofError::Missing) };
    let nonce = Nonce(nonce.as_slice().try_into().map_err(|_| ProofError::Missing)?);
    // Nothing stands behind it, and it is whole: so it is the datagram's end.
    let Some((number::PROOF, proof)) = frame.data.last() else { return Err(ProofError::Missing) };
    let proven =
        datagram.len().checked_sub(PROOF_LEN).filter(|_| proof.len() == PROOF_LEN).ok_or(ProofError::Missing)?;
    key.over(&datagram[..proven]).verify_slice(proof).map_err(|_| ProofError::Wrong)?;
    Ok(nonce)
}
