//! The CRCs of content that are not of the kind which is computed as it comes in: for the few vendors that mean another.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use fettle_protocol::crc::CrcKind;

use super::flight::Flights;
use super::{Content, Inner, ingest};

/// CRCs that are remembered: of as many images and configurations as a namespace has under way, by far. Each can be
/// computed again.
const REMEMBERED: usize = 4096;

type Key = ([u8; 32], CrcKind);
type Computed = Result<u32, Arc<io::Error>>;

/// The CRCs that were asked for, and those that are being computed.
#[derive(Debug)]
pub(super) struct Crcs {
    known: Mutex<HashMap<Key, u32>>,
    flights: Flights<Key, Computed>,
}

impl Crcs {
    pub(super) fn new() -> Self {
        Self { known: Mutex::default(), flights: Flights::new() }
    }

    /// The CRC of content that is in the cache. A file is read for it once, by one of the threads that may wait.
    pub(super) async fn of(self: &Arc<Self>, inner: &Arc<Inner>, content: &Content, kind: CrcKind) -> io::Result<u32> {
        if kind == CrcKind::Ieee {
            return Ok(content.crc);
        }
        let key = (content.sha256, kind);
        if let Some(crc) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*crc);
        }
        let (crcs, inner) = (Arc::clone(self), Arc::clone(inner));
        let compute = async move {
            let computed = Self::compute(inner, key).await.map_err(Arc::new)?;
            let mut known = crcs.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key, computed);
            Ok(computed)
        };
        self.flights.join(&key, compute).await.map_err(|error| io::Error::new(error.kind(), error))
    }

    async fn compute(inner: Arc<Inner>, (sha256, kind): Key) -> io::Result<u32> {
        // Never closed: at the end of the program nobody waits any more.
        let _turn = inner.loading.acquire().await.map_err(io::Error::other)?;
        let reader = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || {
            let mut digest = kind.digest();
            let (_, file) = reader.verified(&sha256)?.ok_or(io::ErrorKind::NotFound)?;
            ingest::each_chunk(file.file(), |chunk| {
                digest.update(chunk);
                Ok(())
            })
            .map_err(ingest::Failure::into_io)?;
            file.check()?;
            Ok(digest.finalize())
        })
        .await
        .map_err(io::Error::other)?
    }
}
