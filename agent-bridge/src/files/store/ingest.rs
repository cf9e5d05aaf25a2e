//! Content on its way into the cache: bounded, hashed while it is written, and given its name only when it is whole. Blocks
//! throughout, and runs on blocking threads.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::PoisonError;

use sha2::{Digest, Sha256};

use super::index::{self, Need, State};
use super::partial::Partial;
use super::seal::Seal;
use super::{Content, Inner, PARTIAL_PREFIX, READ_LEN, SourceError};

/// A file that is being written. Dropped unfinished, it is deleted and gives back its room.
pub(super) struct Ingest<'a> {
    inner: &'a Inner,
    origin: &'a str,
    need: Need,
    file: File,
    path: Option<PathBuf>,
    hashes: Hashes,
}

impl<'a> Ingest<'a> {
    pub(super) fn new(inner: &'a Inner, origin: &'a str, need: Need) -> Result<Self, SourceError> {
        let path = inner.dir.join(format!("{PARTIAL_PREFIX}{:016x}", rand::random::<u64>()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Failure::Write(error).into_source_error(origin))?;
        Ok(Self { inner, origin, need, file, path: Some(path), hashes: Hashes::default() })
    }

    /// Goes on where an earlier one was broken off.
    pub(super) fn resume(inner: &'a Inner, origin: &'a str, need: Need, partial: Partial) -> Self {
        let Partial { file, path, hashes } = partial;
        Self { inner, origin, need, file, path: Some(path), hashes }
    }

    /// Begins anew: the source has another file by now.
    pub(super) fn restart(&mut self) -> Result<(), SourceError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| Failure::Write(error).into_source_error(self.origin))?;
        self.inner.index().release(self.hashes.size);
        self.hashes = Hashes::default();
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.hashes.size
    }

    /// Ends it for now: what is there is kept to be resumed.
    pub(super) fn park(mut self) -> Option<Partial> {
        let path = self.path.take()?;
        // Where the descriptor cannot be doubled, what is there is deleted and fetched anew.
        match self.file.try_clone() {
            Ok(file) => Some(Partial { file, path, hashes: std::mem::take(&mut self.hashes) }),
            Err(_) => {
                self.path = Some(path);
                None
            }
        }
    }

    pub(super) fn write<B: AsRef<[u8]> + ?Sized>(&mut self, bytes: &B) -> Result<(), SourceError> {
        let bytes = bytes.as_ref();
        let len = bytes.len() as u64;
        if self.hashes.size + len > self.inner.network.limit {
            return Err(SourceError::TooLarge { origin: self.origin.to_owned(), limit: self.inner.network.limit });
        }
        self.inner.reserve(len, self.need).map_err(|index::Full| {
            let limit = self.inner.index().limit();
            SourceError::CacheFull { origin: self.origin.to_owned(), limit }
        })?;
        // Counted before the write: what is reserved is given back whatever comes of it.
        self.hashes.update(bytes);
        self.file.write_all(bytes).map_err(|error| Failure::Write(error).into_source_error(self.origin))
    }

    /// Ends it: what has the hash that was declared is written down and takes its name.
    pub(super) fn finish(self, expected: [u8; 32]) -> Result<Content, SourceError> {
        let content = self.hashes.content();
        if content.sha256 != expected {
            let origin = self.origin.to_owned();
            return Err(SourceError::HashMismatch { origin, expected, found: content.sha256 });
        }
        self.file.sync_all().map_err(|error| Failure::Write(error).into_source_error(self.origin))?;
        self.commit(content)
    }

    /// Ends it for content that names itself. A crash may leave less than the whole, which the check after a restart finds.
    pub(super) fn finish_unsynced(self) -> Result<Content, SourceError> {
        let content = self.hashes.content();
        self.commit(content)
    }

    fn commit(mut self, content: Content) -> Result<Content, SourceError> {
        let _folder = self.inner.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path {
            std::fs::rename(path, self.inner.path_of(&content.sha256))
                .map_err(|error| Failure::Write(error).into_source_error(self.origin))?;
        }
        self.path = None;
        // Where its seal cannot be read, what was written is looked at again before its first use.
        let state = Seal::of(&self.file).map_or(State::Unverified, |seal| State::Verified { crc: content.crc, seal });
        let mut index = self.inner.index();
        index.release(content.size);
        index.insert(content.sha256, content.size, state);
        Ok(content)
    }
}

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        self.inner.index().release(self.hashes.size);
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, "half-written content cannot be deleted");
        }
    }
}

/// SHA-256 and CRC-32 in one pass.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    sha256: Sha256,
    crc: crc32fast::Hasher,
    pub(super) size: u64,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn content(&self) -> Content {
        Content { sha256: self.sha256.clone().finalize().into(), size: self.size, crc: self.crc.clone().finalize() }
    }
}

/// What a file is, by its hashes.
pub(super) fn hash(file: &File) -> io::Result<Content> {
    let mut hashes = Hashes::default();
    each_chunk(file, |chunk| {
        hashes.update(chunk);
        Ok(())
    })
    .map_err(Failure::into_io)?;
    Ok(hashes.content())
}

/// Reads a file to its end.
pub(super) fn each_chunk(
    mut file: &File,
    mut take: impl FnMut(&[u8]) -> Result<(), SourceError>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; READ_LEN];
    loop {
        match io::Read::read(&mut file, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => take(&buffer[..len]).map_err(Failure::Taken)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Read(error)),
        }
    }
}

/// Where a copy failed: whose error it is depends on it.
pub(super) enum Failure {
    Read(io::Error),
    Write(io::Error),
    Taken(SourceError),
}

impl Failure {
    pub(super) fn into_source_error(self, origin: &str) -> SourceError {
        let origin = origin.to_owned();
        match self {
            Self::Read(error) => SourceError::Io { origin, doing: "read", detail: error.to_string() },
            Self::Write(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SourceError::DiskFull { origin },
                _ => SourceError::Io { origin, doing: "store", detail: error.to_string() },
            },
            Self::Taken(error) => error,
        }
    }

    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Read(error) | Self::Write(error) => error,
            Self::Taken(error) => io::Error::other(error),
        }
    }
}

/// Nobody waits for it any more, so nobody sees this.
pub(super) fn abandoned(origin: &str) -> SourceError {
    SourceError::Io { origin: origin.to_owned(), doing: "store", detail: "it was given up".into() }
}
