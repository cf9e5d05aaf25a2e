//! Content of the cache, opened for whoever reads it: only as it was when this process hashed it.

use std::fs::File;
use std::io::{self, Seek};
use std::sync::{Arc, PoisonError};

use super::index::{Entry, State};
use super::reader::{self, Body};
use super::seal::{Seal, Sealed};
use super::{Content, Inner, hex, ingest};

impl Inner {
    /// The file of content that is in the cache. Where this process has not hashed it as it is now, it does so. `None`: it is
    /// not there, or not what its name says, and removed. Blocks.
    pub(super) fn verified(&self, sha256: &[u8; 32]) -> io::Result<Option<(Content, Sealed)>> {
        let mut file = match File::open(self.path_of(sha256)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(sha256);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let seal = Seal::of(&file)?;
        let entry = self.index().touch(sha256).map(|entry| (entry.state, entry.size));
        let state = match entry {
            None => return Ok(None),
            Some((State::Verified { crc, seal: then }, size)) if then == seal => {
                return Ok(Some((Content { sha256: *sha256, size, crc }, Sealed::new(file, seal))));
            }
            Some((state @ State::Verified { .. }, _)) => {
                tracing::warn!(sha256 = %hex(sha256), "cached content was changed by somebody else, hashed again");
                state
            }
            Some((state @ State::Unverified, _)) => state,
        };
        let found = ingest::hash(&file)?;
        if found.sha256 != *sha256 {
            tracing::warn!(sha256 = %hex(sha256), size = found.size, "cached content is not what its name says, removed");
            self.discard(state, sha256);
            return Ok(None);
        }
        file.rewind()?;
        let file = Sealed::new(file, seal);
        // It was changed while it was hashed: whoever asks next looks again.
        file.check()?;
        Ok(self.index().set_verified(&found, seal).then_some((found, file)))
    }

    /// Blocks for as long as hashing takes.
    pub(super) fn check(&self, sha256: &[u8; 32]) -> Option<Content> {
        let found = self.verified(sha256).inspect_err(|error| {
            tracing::warn!(sha256 = %hex(sha256), %error, "cached content cannot be read");
        });
        found.ok().flatten().map(|(content, _)| content)
    }

    /// Removes what was found wanting in this state, unless it was replaced meanwhile.
    fn discard(&self, state: State, sha256: &[u8; 32]) {
        let _folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if self.index().remove_in(state, sha256) {
            self.unlink(sha256);
        }
    }

    /// Forgets content whose file somebody else removed.
    fn forget(&self, sha256: &[u8; 32]) {
        let _folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.path_of(sha256).exists() {
            tracing::warn!(sha256 = %hex(sha256), "cached content was removed by somebody else");
            self.index().remove(sha256);
        }
    }

    /// What can be served without opening anything: bytes in memory, or a file that other transfers have open.
    pub(super) fn at_hand(&self, sha256: &[u8; 32]) -> Option<(Content, Body)> {
        let (content, opened) = {
            let mut index = self.index();
            let &Entry { size, state, .. } = index.touch(sha256)?;
            let State::Verified { crc, .. } = state else { return None };
            (Content { sha256: *sha256, size, crc }, index.opened(sha256))
        };
        if let Some(body) = self.hot().get(sha256) {
            return Some((content, body));
        }
        // There may be room in memory by now for one that is small.
        let file = opened.filter(|file| content.size > reader::MAX_HOT_FILE && file.check().is_ok())?;
        Some((content, Body::File(file)))
    }

    /// Opens it and, where it is small and there is room, reads it into memory. Blocks.
    pub(super) fn open(&self, sha256: &[u8; 32]) -> io::Result<Option<(Content, Body)>> {
        let Some((content, file)) = self.verified(sha256)? else { return Ok(None) };
        let other = self.index().opened(sha256).filter(|other| other.seal() == file.seal());
        let file = match other {
            Some(other) => other,
            None => {
                let file = Arc::new(file);
                self.index().set_opened(sha256, &file);
                file
            }
        };
        Ok(Some((content, reader::warm(&self.hot, &content, file)?)))
    }
}
