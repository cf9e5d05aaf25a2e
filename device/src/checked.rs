//! A download as it comes in: into the hardware, through the checks that the server asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fettle_protocol::crc::{CrcKind, Digest as Digest32};
use fettle_protocol::message::Download;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::hardware::{Hardware, HardwareError};
use crate::journal::Digest;
use crate::signature::Check;
use crate::transfer::Sink;

/// What is done to a download by faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mishap {
    /// A byte is damaged.
    pub(crate) corrupt: bool,
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
    /// Whether it is what the server said: the CRC of datum 14, and data 68 and 69 where they were sent.
    pub(crate) fn is(&self, download: &Download) -> bool {
        self.crc == download.crc
            && download.size.is_none_or(|size| size == self.bytes)
            && download.sha256.is_none_or(|sha256| Digest(sha256) == self.sha256)
    }
}

/// Takes chunks, keeps count and digests, and hands them on to the hardware.
pub(crate) struct CheckedFile<'a, H> {
    hardware: &'a mut H,
    crc: Digest32,
    sha256: Sha256,
    signature: Option<Check>,
    bytes: u64,
    /// `bytes`, for whoever reports progress.
    progress: Arc<AtomicU64>,
    mishap: Mishap,
    began: Instant,
}

impl<'a, H: Hardware> CheckedFile<'a, H> {
    pub(crate) fn new(
        hardware: &'a mut H,
        crc: CrcKind,
        signature: Option<Check>,
        mishap: Mishap,
        progress: Arc<AtomicU64>,
    ) -> Self {
        let (crc, sha256, began) = (crc.digest(), Sha256::new(), Instant::now());
        Self { hardware, crc, sha256, signature, bytes: 0, progress, mishap, began }
    }

    /// What came, and its signature, which is still to be judged.
    pub(crate) fn arrived(self) -> (Arrival, Option<Check>) {
        let sha256 = Digest(self.sha256.finalize().into());
        (Arrival { bytes: self.bytes, crc: self.crc.finalize(), sha256 }, self.signature)
    }

    fn keep(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        self.hardware.write(chunk)?;
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

impl<H: Hardware> Sink for CheckedFile<'_, H> {
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
