//! The logs that devices bring: a folder, bounded in bytes and files, of which the oldest go first.
//!
//! `<device name>/<time>-<command>.log`, where the time is when the file had arrived (UTC). Only an upload that a session
//! expects is taken, once; it appears under its name when it is whole.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::credentials::Permission;
use super::expected::Expected;

/// The most that one upload may bring, unless told otherwise.
pub const DEFAULT_UPLOAD_SIZE: u64 = 16 * 1024 * 1024;

/// Files kept at most, however small: an entry takes about 200 bytes of memory.
const MAX_FILES: usize = 16_384;

/// What a file is counted to take at least: a block of the disk.
const BLOCK: u64 = 4_096;

/// Uploads that are expected at most: as many as a replica may have devices that fail at once.
const MAX_EXPECTED: usize = 65_536;

/// Uploads that run at once; others wait. Each has a buffer.
const MAX_UPLOADS: usize = 64;
const BUFFER_LEN: usize = 32 * 1024;

/// Uploads under one credential that run at once: a device may begin again before we know that its first attempt is dead.
const MAX_ATTEMPTS: u8 = 2;

/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(30);

const PARTIAL_PREFIX: &str = ".partial-";
const SUFFIX: &str = ".log";

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
    #[error("the log store cannot be written")]
    Io(#[from] io::Error),
}

/// The name of a device that cannot be the name of a folder. Names of Kubernetes objects always can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a Kubernetes object")]
pub struct InvalidDeviceName(pub String);

/// The log store.
#[derive(Debug)]
pub struct LogStore {
    dir: PathBuf,
    total_size: u64,
    upload_size: u64,
    state: Mutex<State>,
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    expected: Expected<Expectation>,
    /// By file name, which begins with the time, and device name: the oldest first.
    files: BTreeMap<(String, String), u64>,
    /// Bytes of the files, and of what is arriving.
    used: u64,
}

#[derive(Debug)]
struct Expectation {
    device_name: String,
    attempts: u8,
}

impl LogStore {
    /// Opens the store in the folder `dir`, which it makes if need be. Sizes in bytes: of all logs together, of one.
    pub fn open(dir: &Path, total_size: u64, upload_size: u64) -> io::Result<Self> {
        folder(dir)?;
        let state = State { expected: Expected::new(MAX_EXPECTED), files: BTreeMap::new(), used: 0 };
        let turns = Arc::new(Semaphore::new(MAX_UPLOADS));
        let store = Self { dir: dir.to_owned(), total_size, upload_size, state: Mutex::new(state), turns };
        store.find_again()?;
        Ok(store)
    }

    /// Takes an upload under this permission, for the device of that name, once.
    pub fn expect_upload(&self, permission: &Permission, device_name: &str) -> Result<(), InvalidDeviceName> {
        if !is_device_name(device_name) {
            return Err(InvalidDeviceName(device_name.to_owned()));
        }
        let expectation = Expectation { device_name: device_name.to_owned(), attempts: 0 };
        self.state().expected.insert(*permission, expectation, Timestamp::now());
        Ok(())
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
        let partial = blocking(move || Partial::create(store, &device_name)).await?;
        Ok(Upload { attempt, partial: Some(partial), received: 0, _turn: turn })
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_again(&self) -> io::Result<()> {
        let mut state = self.state();
        for device in std::fs::read_dir(&self.dir)? {
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
                } else if name.ends_with(SUFFIX) && entry.file_type()?.is_file() {
                    let size = taken(entry.metadata()?.len());
                    state.used += size;
                    state.files.insert((name, device_name.clone()), size);
                }
            }
        }
        // The limits may have shrunk since.
        while state.used > self.total_size || state.files.len() > MAX_FILES {
            if !self.remove_oldest(&mut state) {
                break;
            }
        }
        Ok(())
    }

    /// Counts so many bytes more as used, at the expense of the oldest logs. Blocks: it deletes files.
    fn reserve(&self, bytes: u64) -> Result<(), LogError> {
        let mut state = self.state();
        while state.used + bytes > self.total_size {
            if !self.remove_oldest(&mut state) {
                return Err(LogError::Full { limit: self.total_size });
            }
        }
        state.used += bytes;
        Ok(())
    }

    /// `false`: there is none.
    fn remove_oldest(&self, state: &mut State) -> bool {
        let Some(((name, device_name), size)) = state.files.pop_first() else { return false };
        state.used -= size;
        let dir = self.dir.join(&device_name);
        if let Err(error) = std::fs::remove_file(dir.join(&name)) {
            tracing::warn!(device = device_name, log = name, %error, "old log cannot be deleted");
        }
        // Fails where the device has newer ones, which is right.
        let _ = std::fs::remove_dir(&dir);
        true
    }
}

/// One of the uploads that are taken under a permission.
#[derive(Debug)]
struct Attempt {
    store: Arc<LogStore>,
    permission: Permission,
    device_name: String,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(expectation) = self.store.state().expected.get_mut(&self.permission) {
            expectation.attempts -= 1;
        }
    }
}

/// What has arrived so far. Dropped unfinished, it is deleted and gives back its room.
#[derive(Debug)]
struct Partial {
    store: Arc<LogStore>,
    path: Option<PathBuf>,
    file: File,
    buffer: Vec<u8>,
    written: u64,
    reserved: u64,
}

impl Partial {
    /// Blocks.
    fn create(store: Arc<LogStore>, device_name: &str) -> Result<Self, LogError> {
        let dir = store.dir.join(device_name);
        let path = dir.join(format!("{PARTIAL_PREFIX}{:016x}", rand::random::<u64>()));
        let file = {
            // Not while somebody removes the folder, for its last old log.
            let _state = store.state();
            folder(&dir)?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?
        };
        let buffer = Vec::with_capacity(BUFFER_LEN);
        Ok(Self { store, path: Some(path), file, buffer, written: 0, reserved: 0 })
    }

    /// Writes what is in the buffer. Blocks.
    fn flush(&mut self) -> Result<(), LogError> {
        let written = self.written + self.buffer.len() as u64;
        let more = taken(written) - self.reserved;
        self.store.reserve(more)?;
        self.reserved += more;
        self.written = written;
        self.file.write_all(&self.buffer).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                LogError::Full { limit: self.store.total_size }
            }
            _ => LogError::Io(error),
        })?;
        self.buffer.clear();
        Ok(())
    }

    /// Blocks.
    fn finish(mut self, permission: &Permission, device_name: String, now: Timestamp) -> Result<PathBuf, LogError> {
        self.flush()?;
        self.file.sync_all()?;
        let name = format!("{}-{}{SUFFIX}", now.strftime("%Y%m%dT%H%M%SZ"), permission.command);
        let to = self.store.dir.join(&device_name).join(&name);
        let store = Arc::clone(&self.store);
        let mut state = store.state();
        if state.expected.remove(permission).is_none() {
            return Err(LogError::NotExpected);
        }
        if state.files.len() >= MAX_FILES {
            store.remove_oldest(&mut state);
        }
        if let Some(from) = &self.path {
            std::fs::rename(from, &to)?;
        }
        self.path = None;
        state.files.insert((name, device_name), self.reserved);
        Ok(to)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        self.store.state().used -= self.reserved;
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, "half-written log cannot be deleted");
        }
    }
}

/// An upload that is under way.
#[derive(Debug)]
pub(super) struct Upload {
    attempt: Attempt,
    /// Away while a blocking thread writes it; for good after an error.
    partial: Option<Partial>,
    received: u64,
    _turn: OwnedSemaphorePermit,
}

impl Upload {
    /// The most that it may bring, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.attempt.store.upload_size
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), LogError> {
        self.received += bytes.len() as u64;
        if self.received > self.limit() {
            return Err(LogError::TooLarge { limit: self.limit() });
        }
        while !bytes.is_empty() {
            let mut partial = self.partial.take().ok_or_else(ended)?;
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_LEN - partial.buffer.len()));
            partial.buffer.extend_from_slice(now);
            bytes = later;
            if partial.buffer.len() == BUFFER_LEN {
                partial = blocking(move || partial.flush().map(|()| partial)).await?;
            }
            self.partial = Some(partial);
        }
        Ok(())
    }

    /// The file is whole: gives it its name. Until this returns, nothing has arrived.
    pub(super) async fn finish(mut self) -> Result<PathBuf, LogError> {
        let partial = self.partial.take().ok_or_else(ended)?;
        let (permission, device_name) = (self.attempt.permission, self.attempt.device_name.clone());
        let path = blocking(move || partial.finish(&permission, device_name, Timestamp::now())).await?;
        let command = self.attempt.permission.command;
        tracing::info!(device = self.attempt.device_name, command, size = self.received, "log stored");
        Ok(path)
    }
}

fn ended() -> LogError {
    LogError::Io(io::Error::other("the upload has failed before"))
}

/// Whether a folder can have this name: that of a Kubernetes object, so that it is no hidden one either.
fn is_device_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

fn taken(size: u64) -> u64 {
    size.max(1).next_multiple_of(BLOCK)
}

fn folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(LogError::Io(io::Error::other(error))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::credentials::DeviceId;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn open(dir: &TempDir) -> Arc<LogStore> {
        Arc::new(LogStore::open(&dir.path().join("logs"), 40 * 1024, 20 * 1024).unwrap())
    }

    fn permission(command: u32) -> Permission {
        Permission::upload(DeviceId::of_uid("uid"), command, Timestamp::from_second(4_000_000_000).unwrap())
    }

    async fn bring(store: &Arc<LogStore>, command: u32, device: &str, content: &[u8]) -> Result<PathBuf, LogError> {
        store.expect_upload(&permission(command), device).unwrap();
        let mut upload = store.begin(&permission(command)).await?;
        upload.write(content).await?;
        upload.finish().await
    }

    fn stored(store: &LogStore) -> Vec<String> {
        let mut names = Vec::new();
        for device in std::fs::read_dir(&store.dir).unwrap() {
            for log in std::fs::read_dir(device.unwrap().path()).unwrap() {
                names.push(log.unwrap().path().strip_prefix(&store.dir).unwrap().to_str().unwrap().to_owned());
            }
        }
        names
    }

    #[tokio::test]
    async fn a_log_is_stored_under_its_device_time_and_command() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let path = bring(&store, 7, "sw-1", b"log").await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"log");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let name = path.strip_prefix(&store.dir).unwrap().to_str().unwrap();
        let (device, rest) = name.split_once('/').unwrap();
        let (time, command) = rest.split_once('-').unwrap();
        assert_eq!((device, command), ("sw-1", "7.log"));
        assert_eq!((time.len(), &time[8..9], &time[15..]), (16, "T", "Z"), "{time}");
    }

    #[tokio::test]
    async fn only_what_is_expected_is_taken_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        assert!(matches!(store.begin(&permission(1)).await, Err(LogError::NotExpected)));
        bring(&store, 1, "sw-1", b"log").await.unwrap();
        assert!(matches!(store.begin(&permission(1)).await, Err(LogError::NotExpected)));
        for name in ["", "..", ".hidden", "a/b", "SW", "sw_1"] {
            assert_eq!(store.expect_upload(&permission(2), name), Err(InvalidDeviceName(name.into())));
        }
    }

    #[tokio::test]
    async fn a_device_may_try_again_after_an_attempt_that_broke_off_and_the_first_whole_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        store.expect_upload(&permission(1), "sw-1").unwrap();
        let mut first = store.begin(&permission(1)).await.unwrap();
        let mut second = store.begin(&permission(1)).await.unwrap();
        assert!(matches!(store.begin(&permission(1)).await, Err(LogError::Busy)));
        first.write(b"half").await.unwrap();
        second.write(b"whole").await.unwrap();
        let path = second.finish().await.unwrap();
        assert!(matches!(first.finish().await, Err(LogError::NotExpected)));
        assert_eq!(std::fs::read(path).unwrap(), b"whole");
        assert_eq!(stored(&store).len(), 1, "{:?}", stored(&store));
    }

    #[tokio::test]
    async fn one_that_is_too_large_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let result = bring(&store, 1, "sw-1", &[0; 20 * 1024 + 1]).await;
        assert!(matches!(result, Err(LogError::TooLarge { limit: 20_480 })), "{result:?}");
        assert_eq!(stored(&store), [""; 0]);
        assert_eq!(store.state().used, 0);
    }

    #[tokio::test]
    async fn the_oldest_make_room_and_their_empty_folders_go() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("logs/sw-1")).unwrap();
        std::fs::write(dir.path().join("logs/sw-1/20200101T000000Z-1.log"), [1; 16 * 1024]).unwrap();
        std::fs::create_dir_all(dir.path().join("logs/sw-2")).unwrap();
        std::fs::write(dir.path().join("logs/sw-2/20210101T000000Z-2.log"), [1; 16 * 1024]).unwrap();
        std::fs::write(dir.path().join("logs/sw-2/.partial-1"), "half").unwrap();
        let store = open(&dir);
        assert_eq!(store.state().used, 32 * 1024);
        bring(&store, 3, "sw-3", &[3; 20 * 1024]).await.unwrap();
        assert!(!dir.path().join("logs/sw-1").exists());
        assert_eq!(stored(&store).len(), 2, "{:?}", stored(&store));
        assert_eq!(store.state().used, 36 * 1024);
    }

    #[tokio::test]
    async fn a_store_that_is_full_of_what_is_arriving_refuses_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LogStore::open(&dir.path().join("logs"), 40 * 1024, 40 * 1024).unwrap());
        store.expect_upload(&permission(1), "sw-1").unwrap();
        let mut first = store.begin(&permission(1)).await.unwrap();
        first.write(&[1; 32 * 1024]).await.unwrap();
        let refused = bring(&store, 2, "sw-2", &[2; 10 * 1024]).await;
        assert!(matches!(refused, Err(LogError::Full { limit: 40_960 })), "{refused:?}");
        first.finish().await.unwrap();
        assert_eq!(store.state().used, 32 * 1024);
    }

    #[tokio::test]
    async fn many_tiny_logs_count_as_what_they_take_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        for command in 0..20 {
            bring(&store, command, "sw-1", b"x").await.unwrap();
        }
        assert_eq!(stored(&store).len(), 10);
    }
}
