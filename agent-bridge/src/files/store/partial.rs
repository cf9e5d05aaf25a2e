//! What came of content before the way to its source broke: kept, so that the next fetch goes on from there.
//!
//! Bounded in number, and counted in the cache, where it is the first to go. It does not outlive the process.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;

use super::ingest::Hashes;
use super::source::Source;

/// As many as fetches run at once: more would be from fetches that nobody has asked for again since.
const MAX_PARKED: usize = super::MAX_FETCHES;

/// A beginning of content, with the state of its hashes.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) hashes: Hashes,
}

#[derive(Debug)]
struct Entry {
    sha256: [u8; 32],
    source: Source,
    version: String,
    partial: Partial,
}

/// The beginnings that are kept, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Parked {
    entries: VecDeque<Entry>,
}

impl Parked {
    /// Keeps the beginning of content, as its source had it in this state. Returns what has to be deleted for it.
    pub(super) fn put(
        &mut self,
        sha256: [u8; 32],
        source: Source,
        version: String,
        partial: Partial,
    ) -> Option<Partial> {
        let former = self.entries.iter().position(|entry| entry.sha256 == sha256);
        let former = former.or_else(|| (self.entries.len() >= MAX_PARKED).then_some(0));
        let former = former.and_then(|at| self.entries.remove(at));
        self.entries.push_back(Entry { sha256, source, version, partial });
        former.map(|entry| entry.partial)
    }

    /// The beginning of this content from this source, and the state that the source had.
    pub(super) fn take(&mut self, sha256: &[u8; 32], source: &Source) -> Option<(Partial, String)> {
        let at = self.entries.iter().position(|entry| entry.sha256 == *sha256 && entry.source.is_same_place(source))?;
        self.entries.remove(at).map(|entry| (entry.partial, entry.version))
    }

    /// The one that was kept the longest, to make room.
    pub(super) fn take_oldest(&mut self) -> Option<Partial> {
        self.entries.pop_front().map(|entry| entry.partial)
    }
}
