//! How it is noticed that somebody else has changed a file of the cache: by what the file system says of it, as it was when
//! its bytes were verified.
//!
//! The kernel sets the time of the last change by itself, before it takes new bytes, and lets nobody choose it. So bytes that
//! were read before a look at an unbroken seal are the verified ones, to the precision of that clock, some milliseconds.

use std::fs::File;
use std::io;

use rustix::fs::{Stat, fstat};

/// What a file was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    file: (u64, u64),
    size: i64,
    /// When its bytes were written last, and when anything of it was changed.
    written: (i64, i64),
    changed: (i64, i64),
}

impl Seal {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::with(&fstat(file)?))
    }

    #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between platforms")]
    fn with(stat: &Stat) -> Self {
        Self {
            file: (stat.st_dev as u64, stat.st_ino as u64),
            size: stat.st_size as i64,
            written: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    #[cfg(test)]
    pub(super) const fn of_nothing() -> Self {
        Self { file: (0, 0), size: 0, written: (0, 0), changed: (0, 0) }
    }
}

/// Somebody else has changed a file whose bytes were verified.
#[derive(Debug, thiserror::Error)]
#[error("somebody else has changed the file since it was verified")]
pub(super) struct Broken;

/// An open file whose bytes were verified.
#[derive(Debug)]
pub(super) struct Sealed {
    file: File,
    seal: Seal,
}

impl Sealed {
    /// With the seal that it had when its bytes were verified.
    pub(super) fn new(file: File, seal: Seal) -> Self {
        Self { file, seal }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn seal(&self) -> Seal {
        self.seal
    }

    /// Whether what was read of it until now is what was verified.
    ///
    /// # Errors
    /// [`Broken`], of the kind `InvalidData`, where it may not be.
    pub(super) fn check(&self) -> io::Result<()> {
        let stat = fstat(&self.file)?;
        let mut seal = Seal::with(&stat);
        if stat.st_nlink == 0 {
            // The cache has let go of it, which changes it, too.
            seal.changed = self.seal.changed;
        }
        if seal == self.seal { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, Broken)) }
    }
}
