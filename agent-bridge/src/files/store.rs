//! The local copy of what devices fetch: content on disk under its SHA-256, bounded in size and number.
//!
//! Guarantees: content is served only after all of it was hashed by this process, and only while its file is as it was then
//! (`seal`): one that somebody else has changed is hashed again, and what is under way from it breaks off. A file appears under its name only whole, and written down. What is wanted by many is
//! fetched once. Pinned content stays until its pin ends.
//!
//! Refuses to know about firmwares, devices or retries: it fetches what it is told, once, and says why it cannot.

mod copy;
mod crc;
mod difference;
mod download;
mod error;
mod flight;
mod index;
mod ingest;
mod metrics;
mod opening;
mod partial;
mod reader;
mod seal;
mod signature;
mod source;
mod turn;

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use fettle_protocol::crc::CrcKind;
use jiff::Timestamp;
use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::credentials::ContentId;
use crc::Crcs;
pub use difference::{NoDifference, most};
use download::Job;
pub use error::SourceError;
pub(super) use flight::Flights;
pub use index::Need;
use index::{Index, State};
use ingest::Ingest;
use metrics::Metrics;
use partial::{Parked, Partial};
use reader::{Body, Hot};
pub(super) use reader::{Disk, Readable};
pub use signature::{Signature, SignatureError};
use source::Network;
pub use source::{Auth, HttpSource, OciSource, S3Keys, S3Source, Source};
use turn::Turn;

/// How long sources over a network are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A source that sends nothing for so long has stalled.
    pub stall: Duration,
    /// Before a source that broke off is asked for the rest; twice as long each time that nothing came.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), pause: Duration::from_secs(1) }
    }
}

/// No fetch takes longer, however steadily it drips: 1 GiB at 150 KB/s.
const FETCH_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);

/// Signatures that were checked and are remembered: as many as a namespace has releases, by far.
const MAX_VOUCHED: usize = 4096;

/// Fetches that run at once. Each takes up to about 2 MiB; more would only share the same line.
const MAX_FETCHES: usize = 4;

/// Fetches that are under way, most of which wait for silent sources: each holds a blocking thread and a connection. As many
/// releases as are looked after at once, and as many again for devices.
const MAX_BEGUN: usize = 64;

/// A source that is silent for this part of the time after which it has stalled lets others go first.
const SILENCES_OF_A_STALL: u32 = 6;

/// Chunks between the network and the disk.
const CHUNKS_IN_FLIGHT: usize = 2;

/// What a file is read by, to be hashed.
const READ_LEN: usize = 128 * 1024;

const PARTIAL_PREFIX: &str = ".partial-";

/// Content that is in the cache, whole and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub sha256: [u8; 32],
    /// In bytes.
    pub size: u64,
    /// CRC-32 (IEEE 802.3).
    pub crc: u32,
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub contents: usize,
    /// Including what is being written.
    pub bytes: u64,
}

/// What a fetch came to, with the source that was asked, and for whom.
type Fetched = (Source, Need, Result<Content, SourceError>);
type Opened = Result<Option<(Content, Body)>, Arc<io::Error>>;

/// The cache. Cheap to clone: all clones are one cache.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    fetches: Arc<Flights<[u8; 32], Fetched>>,
    checks: Arc<Flights<[u8; 32], Option<Content>>>,
    opens: Arc<Flights<[u8; 32], Opened>>,
    crcs: Arc<Crcs>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    files_dir: PathBuf,
    network: Network,
    pause: Duration,
    /// Held for moments, never over I/O.
    index: Mutex<Index>,
    parked: Mutex<Parked>,
    /// Content, by its hash, and fingerprints of signatures that were found to be over it.
    vouched: Mutex<HashSet<([u8; 32], [u8; 32])>>,
    hot: Mutex<Hot>,
    /// Held, by blocking threads alone, over a change of index and folder that must be seen as one.
    folder: Mutex<()>,
    begun: Semaphore,
    fetching: Semaphore,
    loading: Semaphore,
    metrics: Metrics,
}

impl Store {
    /// Opens the cache in the folder `dir`, which it makes if need be, and takes for its own. What is there from before is
    /// found again, and hashed before its first use. `files_dir` is what [`Source::File`] is relative to. Sizes in bytes.
    pub fn open(dir: &Path, files_dir: &Path, max_file_size: u64, cache_size: u64) -> io::Result<Self> {
        Self::open_with(dir, files_dir, max_file_size, cache_size, Patience::default())
    }

    /// As [`open`](Self::open), with other patience than is usual.
    pub fn open_with(
        dir: &Path,
        files_dir: &Path,
        max_file_size: u64,
        cache_size: u64,
        patience: Patience,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            files_dir: files_dir.to_owned(),
            network: Network::new(patience.stall, max_file_size),
            pause: patience.pause,
            index: Mutex::new(Index::new(cache_size)),
            parked: Mutex::default(),
            vouched: Mutex::default(),
            hot: Mutex::default(),
            folder: Mutex::new(()),
            begun: Semaphore::new(MAX_BEGUN),
            fetching: Semaphore::new(MAX_FETCHES),
            loading: Semaphore::new(reader::MAX_LOADS),
            metrics: Metrics::new().map_err(io::Error::other)?,
        });
        inner.find_again()?;
        Ok(Self {
            inner,
            fetches: Arc::new(Flights::new()),
            checks: Arc::new(Flights::new()),
            opens: Arc::new(Flights::new()),
            crcs: Arc::new(Crcs::new()),
        })
    }

    /// The content with this hash: from the cache, else from the source. Once for all who ask at the same time.
    pub async fn fetch(&self, source: &Source, expected: [u8; 32], need: Need) -> Result<Content, SourceError> {
        loop {
            if let Some(content) = self.get(&expected).await {
                return Ok(content);
            }
            let work = {
                let (inner, source) = (Arc::clone(&self.inner), source.clone());
                async move {
                    let result = inner.fetch(&source, expected, need).await;
                    (source, need, result)
                }
            };
            let (asked, needed, result) = self.fetches.join(&expected, work).await;
            // That another source does not have it says nothing about this one; nor, that there is no room for others.
            if result.is_ok() || (asked == *source && needed >= need) {
                return result;
            }
        }
    }

    /// Checks who vouches for content that is in the cache. What was checked before is remembered.
    pub async fn verify(&self, content: &Content, signature: Signature) -> Result<(), SourceError> {
        let (inner, sha256) = (Arc::clone(&self.inner), content.sha256);
        let checked = (sha256, signature.fingerprint());
        if inner.vouched().contains(&checked) {
            return Ok(());
        }
        blocking("content", move || {
            let unreadable = |error| ingest::Failure::Read(error).into_source_error("content");
            let file = inner.verified(&sha256).and_then(|found| found.ok_or(io::ErrorKind::NotFound.into()));
            let (_, file) = file.map_err(unreadable)?;
            signature.check(|take| {
                let all = ingest::each_chunk(file.file(), |chunk| {
                    take(chunk);
                    Ok(())
                });
                all.map_err(|error| error.into_source_error("content"))?;
                file.check().map_err(unreadable)
            })?;
            let mut vouched = inner.vouched();
            if vouched.len() >= MAX_VOUCHED {
                vouched.clear();
            }
            vouched.insert(checked);
            Ok(())
        })
        .await
    }

    /// Says anew which content is needed, in the cache or not; all else is needed by nobody.
    pub fn set_needs(&self, needs: HashMap<[u8; 32], Need>) {
        self.inner.index().set_needs(needs);
    }

    /// Takes content that was made here, such as a rendered configuration. It is readable by the owner alone, and may be
    /// gone after a restart, for it can be made again.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Content, SourceError> {
        let inner = Arc::clone(&self.inner);
        blocking("rendered content", move || {
            let mut ingest = Ingest::new(&inner, "rendered content", Need::Device)?;
            ingest.write(&bytes)?;
            ingest.finish_unsynced()
        })
        .await
    }

    /// Content that is in the cache. What an earlier process left there, or somebody else has changed, is hashed first; what
    /// is not what its name says is removed.
    pub async fn get(&self, sha256: &[u8; 32]) -> Option<Content> {
        self.inner.index().touch(sha256)?;
        let (inner, sha256) = (Arc::clone(&self.inner), *sha256);
        let check = async move { spawn_blocking(move || inner.check(&sha256)).await.ok().flatten() };
        self.checks.join(&sha256, check).await
    }

    /// What the vendor of a device means by the CRC of content that is in the cache.
    ///
    /// # Errors
    /// Where the content cannot be read: it was evicted, or somebody else removed it.
    pub async fn crc(&self, content: &Content, kind: CrcKind) -> io::Result<u32> {
        self.crcs.of(&self.inner, content, kind).await
    }

    /// Keeps content until then, or longer where an earlier pin says so. `false`: it is not in the cache.
    #[must_use]
    pub fn pin(&self, sha256: &[u8; 32], until: Timestamp) -> bool {
        self.inner.index().pin(sha256, until)
    }

    /// Shows what it counts.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.inner.metrics.register(&self.inner, registry)
    }

    pub fn usage(&self) -> Usage {
        self.inner.index().usage()
    }

    /// For a file server: content by what a credential says of it, opened. `None`: it is not in the cache.
    pub(super) async fn open_content(&self, id: &ContentId) -> io::Result<Option<Readable>> {
        let Some(sha256) = self.inner.index().find(id) else { return Ok(None) };
        let opened = match self.inner.at_hand(&sha256) {
            Some(opened) => Some(opened),
            None => {
                let inner = Arc::clone(&self.inner);
                let open = async move {
                    spawn_blocking(move || inner.open(&sha256).map_err(Arc::new))
                        .await
                        .unwrap_or_else(|error| Err(Arc::new(io::Error::other(error))))
                };
                let opened = self.opens.join(&sha256, open).await;
                opened.map_err(|error| io::Error::new(error.kind(), error))?
            }
        };
        Ok(opened.map(|(content, body)| Readable::new(Arc::clone(&self.inner), content, body)))
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vouched(&self) -> MutexGuard<'_, HashSet<([u8; 32], [u8; 32])>> {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, sha256: &[u8; 32]) -> PathBuf {
        self.dir.join(hex(sha256))
    }

    /// Lists what an earlier process left, the least recently written as the least recently used. Half-written files go.
    fn find_again(&self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(PARTIAL_PREFIX) {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            let digest = HEXLOWER.decode(name.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let metadata = entry.metadata()?;
            if let (Some(sha256), true) = (digest, metadata.is_file()) {
                found.push((metadata.modified()?, sha256, metadata.len()));
            }
        }
        found.sort_unstable();
        for (_, sha256, size) in found {
            // The limits may have shrunk since.
            if size > self.network.limit || self.reserve(size, Need::Device).is_err() {
                self.unlink(&sha256);
                continue;
            }
            let mut index = self.index();
            index.release(size);
            index.insert(sha256, size, State::Unverified);
        }
        Ok(())
    }

    /// Makes room for so many bytes more and counts them as used. Blocks: what is evicted is deleted.
    fn reserve(&self, bytes: u64, need: Need) -> Result<(), index::Full> {
        let _folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.index().fits(bytes) {
            let Some(partial) = self.parked().take_oldest() else { break };
            self.delete(partial);
        }
        let evicted = self.index().reserve(bytes, need, Timestamp::now())?;
        for sha256 in evicted {
            self.hot().remove(&sha256);
            tracing::info!(sha256 = %hex(&sha256), "content evicted from the cache");
            self.unlink(&sha256);
        }
        Ok(())
    }

    /// Keeps what came of content before its source broke off.
    fn park(&self, sha256: [u8; 32], source: Source, version: String, partial: Partial) {
        let former = self.parked().put(sha256, source, version, partial);
        if let Some(former) = former {
            self.delete(former);
        }
    }

    fn delete(&self, partial: Partial) {
        self.index().release(partial.hashes.size);
        if let Err(error) = std::fs::remove_file(partial.path) {
            tracing::warn!(%error, "half-written content cannot be deleted");
        }
    }

    fn unlink(&self, sha256: &[u8; 32]) {
        if let Err(error) = std::fs::remove_file(self.path_of(sha256))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(sha256 = %hex(sha256), %error, "cached content cannot be deleted");
        }
    }

    async fn fetch(self: Arc<Self>, source: &Source, expected: [u8; 32], need: Need) -> Result<Content, SourceError> {
        let origin = source.to_string();
        let Ok(_begun) = self.begun.acquire().await else {
            return Err(SourceError::Io { origin, doing: "fetch", detail: "it is closed".into() });
        };
        let mut turn = Turn::first(&self.fetching, self.network.stall / SILENCES_OF_A_STALL).await;
        let late = SourceError::Unreachable {
            origin: origin.clone(),
            detail: format!("it was not here after {} minutes; the next fetch goes on", FETCH_DEADLINE.as_secs() / 60),
        };
        let job = Job { source: source.clone(), origin, expected, need };
        let fetched = async {
            match (turn.wait_for(self.network.remote(source, &expected)).await?, source) {
                (Some(remote), _) => download::download(&self, &remote, &job, &mut turn).await,
                (None, Source::File { path }) => copy::copy(&self, path.clone(), job).await,
                (None, Source::Http(_) | Source::Oci(_) | Source::S3(_)) => Err(ingest::abandoned(&job.origin)),
            }
        };
        let result = tokio::time::timeout(FETCH_DEADLINE, fetched).await.unwrap_or(Err(late));
        self.metrics.ended(source, &result);
        match &result {
            Ok(content) => {
                tracing::info!(%source, sha256 = %hex(&expected), size = content.size, "content fetched");
            }
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(%source, sha256 = %hex(&expected), reason, %error, "content not fetched");
            }
        }
        result
    }
}

async fn blocking<T: Send + 'static>(
    origin: &str,
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(died(origin, &error)))
}

fn died(origin: &str, error: &tokio::task::JoinError) -> SourceError {
    SourceError::Io { origin: origin.to_owned(), doing: "store", detail: error.to_string() }
}

fn hex(sha256: &[u8; 32]) -> String {
    HEXLOWER.encode(sha256)
}

#[cfg(test)]
mod tests;
