//! One log that a device brings: taken into a file of its own, which gets its name when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::shelf::{Key, name};
use super::{Arrived, LogError, LogNews, LogStore, NoRoom, PARTIAL_PREFIX, folder};
use crate::files::credentials::Permission;

/// What is received before it is written.
const BUFFER_LEN: usize = 32 * 1024;

/// What a file is counted to take at least: a block of the disk.
const BLOCK: u64 = 4_096;

/// One of the uploads that are taken under a permission.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) store: Arc<LogStore>,
    pub(super) permission: Permission,
    pub(super) device_name: String,
}

impl Attempt {
    /// Tells of an upload that failed, where that is for want of room.
    pub(super) async fn refused(&self, error: LogError) -> LogError {
        match error {
            LogError::Full { .. } | LogError::DiskFull => {}
            LogError::NotExpected | LogError::TooLarge { .. } | LogError::Busy | LogError::Io(_) => return error,
        }
        let target = self.store.state().expected.get_mut(&self.permission).map(|expectation| expectation.target);
        // What is not expected any more is nobody's log.
        if let Some(target) = target {
            let (device_name, device) = (self.device_name.clone(), self.permission.device);
            self.store.tell(LogNews::NoRoom(NoRoom { device_name, device, target, why: error.to_string() })).await;
        }
        error
    }
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
pub(super) struct Partial {
    store: Arc<LogStore>,
    path: Option<PathBuf>,
    file: File,
    buffer: Vec<u8>,
    written: u64,
    reserved: u64,
}

impl Partial {
    /// Blocks.
    pub(super) fn create(store: Arc<LogStore>, device_name: &str) -> Result<Self, LogError> {
        let dir = store.settings.dir.join(device_name);
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
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Blocks.
    fn finish(mut self, permission: &Permission, device_name: String, now: Timestamp) -> Result<Arrived, LogError> {
        self.flush()?;
        self.file.sync_all()?;
        let key = Key { name: name(now, permission.command), device: device_name };
        let to = self.store.path(&key);
        let store = Arc::clone(&self.store);
        let mut state = store.state();
        let Some(expectation) = state.expected.remove(permission) else { return Err(LogError::NotExpected) };
        if let Some(from) = &self.path {
            std::fs::rename(from, &to)?;
        }
        self.path = None;
        let arrived = Arrived {
            device_name: key.device.clone(),
            device: permission.device,
            target: expectation.target,
            location: store.location(&key),
            at: now,
            size: self.written,
        };
        state.arriving -= self.reserved;
        state.shelf.insert(key, self.reserved);
        store.tidy(&mut state, 0, now, Some(&arrived.device_name));
        store.arrivals.notify_one();
        Ok(arrived)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        self.store.state().arriving -= self.reserved;
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, "half-written log cannot be deleted");
        }
    }
}

/// An upload that is under way.
#[derive(Debug)]
pub(in crate::files) struct Upload {
    attempt: Attempt,
    /// Away while a blocking thread writes it; for good after an error.
    partial: Option<Partial>,
    received: u64,
    _turn: OwnedSemaphorePermit,
}

impl Upload {
    pub(super) fn new(attempt: Attempt, partial: Partial, turn: OwnedSemaphorePermit) -> Self {
        Self { attempt, partial: Some(partial), received: 0, _turn: turn }
    }

    /// The most that it may bring, in bytes.
    pub(in crate::files) fn limit(&self) -> u64 {
        self.attempt.store.settings.upload_size
    }

    pub(in crate::files) fn received(&self) -> u64 {
        self.received
    }

    pub(in crate::files) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), LogError> {
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
                partial = match blocking(move || partial.flush().map(|()| partial)).await {
                    Ok(partial) => partial,
                    Err(error) => return Err(self.attempt.refused(error).await),
                };
            }
            self.partial = Some(partial);
        }
        Ok(())
    }

    /// The file is whole: gives it its name. Until this returns, nothing has arrived.
    pub(in crate::files) async fn finish(mut self) -> Result<(), LogError> {
        let partial = self.partial.take().ok_or_else(ended)?;
        let (permission, device_name) = (self.attempt.permission, self.attempt.device_name.clone());
        let arrived = match blocking(move || partial.finish(&permission, device_name, Timestamp::now())).await {
            Ok(arrived) => arrived,
            Err(error) => return Err(self.attempt.refused(error).await),
        };
        let (command, location) = (self.attempt.permission.command, arrived.location.as_str());
        tracing::info!(device = self.attempt.device_name, command, size = self.received, location, "log stored");
        self.attempt.store.tell(LogNews::Arrived(arrived)).await;
        Ok(())
    }
}

fn ended() -> LogError {
    LogError::Io(io::Error::other("the upload has failed before"))
}

/// What a file of so many bytes is counted to take.
pub(super) fn taken(size: u64) -> u64 {
    size.max(1).next_multiple_of(BLOCK)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(LogError::Io(io::Error::other(error))))
}
