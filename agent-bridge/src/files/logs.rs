//! The logs that devices bring: a folder, or a bucket, bounded in age, logs and bytes, of which the oldest go first.
//!
//! `<device name>/<time>-<command>.log`, where the time is when the file had arrived (UTC). Only an upload that a session
//! expects is taken, once; it appears under its name when it is whole, and only then its session is told. `shelf`: what is
//! kept, and what has to go. `upload`: how a log is taken in. `bucket`: where it goes from there.

mod bucket;
mod metrics;
mod shelf;
mod upload;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use self::shelf::{Key, Shelf, is_log};
use self::upload::{Attempt, Partial, blocking, taken};
use super::credentials::{DeviceId, Permission};
use super::expected::Expected;

pub use self::bucket::{Bucket, BucketError, IsFirst};
pub use self::shelf::Retention;
pub(super) use self::upload::Upload;

/// The most that one upload may bring, unless told otherwise.
pub const DEFAULT_UPLOAD_SIZE: u64 = 16 * 1024 * 1024;

/// Uploads that are expected at most: as many as a replica may have devices that fail at once.
const MAX_EXPECTED: usize = 65_536;

/// Uploads that run at once; others wait. Each has a buffer.
const MAX_UPLOADS: usize = 64;

/// Uploads under one credential that run at once: a device may begin again before we know that its first attempt is dead.
const MAX_ATTEMPTS: u8 = 2;

/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// How often logs that have become too old are looked for.
const TIDY: Duration = Duration::from_secs(60);

const PARTIAL_PREFIX: &str = ".partial-";

/// Why an upload is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("no session expects it, or it has arrived already")]
    NotExpected,
    #[error("it is larger than {limit} bytes, the limit for a log")]
    TooLarge { limit: u64 },
    #[error("the log store of {limit} bytes has no room for it")]
    Full { limit: u64 },
    #[error("too many uploads are running")]
    Busy,
    #[error("the disk of the log store is full")]
    DiskFull,
    #[error("the log store cannot be written")]
    Io(#[source] io::Error),
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io(error),
        }
    }
}

/// Why there is no log store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the folder cannot be used")]
    Io(#[from] io::Error),
    #[error("its metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// The name of a device that cannot be the name of a folder. Names of Kubernetes objects always can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a Kubernetes object")]
pub struct InvalidDeviceName(pub String);

/// What the log store is told.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The folder; it is made if need be.
    pub dir: PathBuf,
    /// How people find it: what stands before `/<device name>/…` in the location of a log.
    pub place: String,
    pub retention: Retention,
    /// Where logs stay, where that is not the folder: then it has those that wait.
    pub bucket: Option<Bucket>,
    /// The most that one upload may bring, in bytes.
    pub upload_size: u64,
    /// Who is told what became of logs.
    pub news: mpsc::Sender<LogNews>,
}

/// What became of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogNews {
    Arrived(Arrived),
    NoRoom(NoRoom),
}

/// A log that found no room. It may come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    pub device_name: String,
    pub device: DeviceId,
    /// As it was expected.
    pub target: i64,
    /// What is full.
    pub why: String,
}

/// A log that has arrived wholly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub device_name: String,
    pub device: DeviceId,
    /// As it was expected.
    pub target: i64,
    /// Where it is.
    pub location: String,
    pub at: Timestamp,
    /// Bytes.
    pub size: u64,
}

/// The log store.
#[derive(Debug)]
pub struct LogStore {
    settings: LogSettings,
    state: Mutex<State>,
    turns: Arc<Semaphore>,
    /// A log has arrived.
    arrivals: Notify,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    expected: Expected<Expectation>,
    shelf: Shelf,
    /// Bytes of what is no log yet.
    arriving: u64,
}

#[derive(Debug)]
struct Expectation {
    device_name: String,
    target: i64,
    attempts: u8,
}

impl LogStore {
    /// Opens the store.
    ///
    /// # Errors
    /// [`OpenError`], where the folder cannot be made or read.
    pub fn open(settings: LogSettings, registry: &Registry) -> Result<Self, OpenError> {
        folder(&settings.dir)?;
        let state = State { expected: Expected::new(MAX_EXPECTED), shelf: Shelf::default(), arriving: 0 };
        let (state, turns) = (Mutex::new(state), Arc::new(Semaphore::new(MAX_UPLOADS)));
        let metrics = Metrics::register(registry)?;
        let store = Self { settings, state, turns, arrivals: Notify::new(), metrics };
        store.find_again()?;
        store.tidy_all(Timestamp::now());
        Ok(store)
    }

    /// Takes an upload under this permission, for the device of that name, once; asked for after that target.
    ///
    /// # Errors
    /// Where the name cannot be one of a device.
    pub fn expect_upload(
        &self,
        permission: &Permission,
        device_name: &str,
        target: i64,
    ) -> Result<(), InvalidDeviceName> {
        if !is_device_name(device_name) {
            return Err(InvalidDeviceName(device_name.to_owned()));
        }
        let expectation = Expectation { device_name: device_name.to_owned(), target, attempts: 0 };
        self.state().expected.insert(*permission, expectation, Timestamp::now());
        Ok(())
    }

    /// Deletes what has become too old, and puts into the bucket, where there is one, what has arrived; until `stop`.
    pub async fn keep(self: Arc<Self>, is_first: IsFirst, stop: CancellationToken) {
        if let Some(bucket) = self.settings.bucket.clone() {
            return self.keep_in(&bucket, is_first, stop).await;
        }
        while stop.run_until_cancelled(tokio::time::sleep(TIDY)).await.is_some() {
            let store = Arc::clone(&self);
            let tidied = blocking(move || {
                store.tidy_all(Timestamp::now());
                Ok(())
            });
            if let Err(error) = tidied.await {
                tracing::error!(%error, "old logs are not looked for");
            }
        }
    }

    /// Begins an upload, when it is its turn.
    pub(super) async fn begin(self: &Arc<Self>, permission: &Permission) -> Result<Upload, LogError> {
        let attempt = self.attempt(permission)?;
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(LogError::Busy)?;
        let (store, device_name) = (Arc::clone(self), attempt.device_name.clone());
        let partial = blocking(move || Partial::create(store, &device_name)).await;
        match partial {
            Ok(partial) => Ok(Upload::new(attempt, partial, turn)),
            Err(error) => Err(attempt.refused(error).await),
        }
    }

    fn attempt(self: &Arc<Self>, permission: &Permission) -> Result<Attempt, LogError> {
        let mut state = self.state();
        let expectation = state.expected.get_mut(permission).ok_or(LogError::NotExpected)?;
        if expectation.attempts == MAX_ATTEMPTS {
            return Err(LogError::Busy);
        }
        expectation.attempts += 1;
        let device_name = expectation.device_name.clone();
        Ok(Attempt { store: Arc::clone(self), permission: *permission, device_name })
    }

    /// Tells what became of an upload; whether there is room is known from nothing else.
    async fn tell(&self, news: LogNews) {
        self.metrics.full.set(match news {
            LogNews::Arrived(_) => 0,
            LogNews::NoRoom(_) => 1,
        });
        // Nobody listens any more only where the program is ending.
        let _ = self.settings.news.send(news).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.settings.dir.join(&key.device).join(&key.name)
    }

    fn location(&self, key: &Key) -> String {
        let place = self.settings.bucket.as_ref().map_or(self.settings.place.as_str(), Bucket::place);
        format!("{place}/{}/{}", key.device, key.name)
    }

    fn find_again(&self) -> io::Result<()> {
        let mut state = self.state();
        for device in std::fs::read_dir(&self.settings.dir)? {
            let device = device?;
            let Ok(device_name) = device.file_name().into_string() else { continue };
            if !is_device_name(&device_name) || !device.file_type()?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(device.path())? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if name.starts_with(PARTIAL_PREFIX) {
                    std::fs::remove_file(entry.path())?;
                } else if is_log(&name) && entry.file_type()?.is_file() {
                    let size = taken(entry.metadata()?.len());
                    state.shelf.insert(Key { name, device: device_name.clone() }, size);
                }
            }
        }
        Ok(())
    }

    /// Counts so many bytes more as arriving, at the expense of the oldest logs. Blocks: it deletes files.
    fn reserve(&self, bytes: u64) -> Result<(), LogError> {
        let limit = self.settings.retention.bytes;
        let mut state = self.state();
        self.tidy(&mut state, bytes, Timestamp::now(), None);
        if self.settings.bucket.is_some() {
            self.may_wait(state.shelf.len())?;
        }
        if state.shelf.used() + state.arriving + bytes > limit {
            return Err(LogError::Full { limit });
        }
        state.arriving += bytes;
        Ok(())
    }

    /// Deletes what has to go, also where the limits were wider before. Blocks.
    fn tidy_all(&self, now: Timestamp) {
        let mut state = self.state();
        for device in state.shelf.devices() {
            self.tidy(&mut state, 0, now, Some(&device));
        }
        self.tidy(&mut state, 0, now, None);
    }

    /// Deletes what has to go for `more` bytes, and of this device. Blocks.
    fn tidy(&self, state: &mut State, more: u64, now: Timestamp, device: Option<&str>) {
        let retention = &self.settings.retention;
        // What waits for its bucket waits as long as it has to.
        while self.settings.bucket.is_none()
            && let Some((key, why)) = (device.and_then(|device| state.shelf.over_of_device(device, retention)))
                .or_else(|| state.shelf.over(retention, state.arriving + more, now))
        {
            state.shelf.remove(&key);
            self.metrics.removed(why);
            tracing::debug!(device = key.device, log = key.name, reason = why.label(), "old log deleted");
            self.delete(&key);
        }
        self.measure(state);
    }

    fn measure(&self, state: &State) {
        self.metrics.logs.set(i64::try_from(state.shelf.len()).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(state.shelf.used()).unwrap_or(i64::MAX));
    }

    fn delete(&self, key: &Key) {
        if let Err(error) = std::fs::remove_file(self.path(key)) {
            tracing::warn!(device = key.device, log = key.name, %error, "old log cannot be deleted");
        }
        // Fails where the device has newer ones, which is right.
        let _ = std::fs::remove_dir(self.settings.dir.join(&key.device));
    }
}

/// Whether a folder can have this name: that of a Kubernetes object, so that it is no hidden one either.
fn is_device_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

fn folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests;
