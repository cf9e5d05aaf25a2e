//! A download as it comes in: into the hardware, through the checks that the server asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fettle_protocol::crc::{CrcKind, Digest as Digest32};
use fettle_protocol::message::Download;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::difference::MAX_IMAGE;
use crate::hardware::{Hardware, HardwareError};
use crate::journal::Digest;
use crate::signature::Check;
use crate::transfer::Sink;

/// What is done to a download by faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mishap {
    /// A byte is damaged.
    pub(crate) corrupt: bool,
    /// The image that runs is another than its version says.
    pub(crate) other_base: bool,
    /// Bytes a second.
    pub(crate) throttle: Option<u64>,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
    pub(crate) sha256: Digest,
}

impl Arrival {
    /// Whether it is what the server said: the CRC of datum 14, and data 68 and 69 where they were sent. Of a difference, 69
    /// says what comes out of it.
    pub(crate) fn is(&self, download: &Download) -> bool {
        self.crc == download.crc
            && download.size.is_none_or(|size| size == self.bytes)
            && (download.difference.is_some() || download.sha256.is_none_or(|sha256| Digest(sha256) == self.sha256))
    }
}

/// Where what comes is kept.
pub(crate) trait Keeps: Send {
    fn keep(&mut self, chunk: &[u8]) -> Result<(), HardwareError>;
}

impl<H: Hardware> Keeps for &mut H {
    fn keep(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        self.write(chunk)
    }
}

/// A difference: what is installed is not what comes.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl Keeps for Memory {
    fn keep(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        if (self.0.len() + chunk.len()) as u64 > MAX_IMAGE {
            return Err(HardwareError::TooLarge(MAX_IMAGE));
        }
        self.0.extend_from_slice(chunk);
        Ok(())
    }
}

/// Takes chunks, keeps count and digests, and hands them on.
pub(crate) struct Checked<K> {
    kept: K,
    crc: Digest32,
    sha256: Sha256,
    signature: Option<Check>,
    bytes: u64,
    /// `bytes`, for whoever reports progress.
    progress: Arc<AtomicU64>,
    mishap: Mishap,
    began: Instant,
}

impl<K: Keeps> Checked<K> {
    pub(crate) fn new(
        kept: K,
        crc: CrcKind,
        signature: Option<Check>,
        mishap: Mishap,
        progress: Arc<AtomicU64>,
    ) -> Self {
        let (crc, sha256, began) = (crc.digest(), Sha256::new(), Instant::now());
        Self { kept, crc, sha256, signature, bytes: 0, progress, mishap, began }
    }

    /// What came, its signature, which is still to be judged, and where it is.
    pub(crate) fn arrived(self) -> (Arrival, Option<Check>, K) {
        let sha256 = Digest(self.sha256.finalize().into());
        (Arrival { bytes: self.bytes, crc: self.crc.finalize(), sha256 }, self.signature, self.kept)
    }

    fn keep(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        self.kept.keep(chunk)?;
        self.crc.update(chunk);
        self.sha256.update(chunk);
        if let Some(signature) = &mut self.signature {
            signature.update(chunk);
        }
        self.bytes += chunk.len() as u64;
        self.progress.store(self.bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl<K: Keeps> Sink for Checked<K> {
    async fn take(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        if std::mem::take(&mut self.mishap.corrupt) && !chunk.is_empty() {
            let mut damaged = chunk.to_vec();
            damaged[chunk.len() / 2] ^= 0x20;
            self.keep(&damaged)?;
        } else {
            self.keep(chunk)?;
        }
        if let Some(rate) = self.mishap.throttle {
            let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
            tokio::time::sleep_until(self.began + due).await;
        }
        Ok(())
    }
}
