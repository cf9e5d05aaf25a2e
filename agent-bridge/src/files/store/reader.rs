//! Reading content for transfers: thousands at once, of which most read the same bytes.
//!
//! Small files that are in demand are in memory, once for all transfers. Everything else is read where the kernel has it,
//! at the moment when the network takes it, into a buffer that belongs to the thread: a transfer owns no buffer, and
//! memory grows neither with files nor with transfers. A read that would wait for the disk is made by another thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use super::seal::Sealed;
use super::{Content, Inner};

/// Files up to this size may be held in memory; an image of 1 MiB is the common case.
pub(super) const MAX_HOT_FILE: u64 = 2 * 1024 * 1024;

/// All that is held in memory: an eighth of the 64 MiB that the process is to stay in.
const MAX_HOT_TOTAL: usize = 8 * 1024 * 1024;

/// What a file in memory is counted to take beside its bytes.
const HOT_OVERHEAD: usize = 256;

/// The most that [`Readable::with_bytes`] gives at once, and what is read ahead for small blocks.
const SCRATCH_LEN: usize = 64 * 1024;

/// How much is brought in from the disk where a read would have waited for it.
const LOAD_LEN: u64 = 512 * 1024;

/// Reads from the disk that run at once: what a disk can order well, and far below the number of blocking threads.
pub(super) const MAX_LOADS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// What a thread reads into. It remembers what it holds: who sends small blocks finds most of them here, as long as few others
/// read in between.
struct Scratch {
    bytes: Vec<u8>,
    /// Of which content it holds what, if any.
    sha256: [u8; 32],
    held: Range<u64>,
    /// Where the last one to read that content stopped.
    stopped: u64,
}

impl Scratch {
    fn new() -> Self {
        Self { bytes: vec![0; SCRATCH_LEN], sha256: [0; 32], held: 0..0, stopped: 0 }
    }

    /// So many bytes of content from `offset` on, of which there are at least as many. What it holds was verified when it was
    /// read, and needs no other look.
    fn read(&mut self, content: &Content, file: &Sealed, offset: u64, len: usize, disk: Disk) -> io::Result<&[u8]> {
        let (same, end) = (self.sha256 == content.sha256, offset + len as u64);
        if !(same && self.held.start <= offset && end <= self.held.end) {
            // Only for one who goes on where the last one stopped: for many at many places it would be read in vain.
            let ahead = if same && self.stopped == offset { SCRATCH_LEN as u64 } else { len as u64 };
            let ahead = usize::try_from(ahead.min(content.size.saturating_sub(offset))).unwrap_or(len);
            self.held = 0..0;
            let filled = fill(file.file(), &mut self.bytes[..ahead.max(len)], len, offset, disk)?;
            file.check()?;
            (self.sha256, self.held) = (content.sha256, offset..offset + filled as u64);
        }
        self.stopped = end;
        let start = usize::try_from(offset - self.held.start).unwrap_or(usize::MAX);
        Ok(&self.bytes[start..start + len])
    }
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Memory(Arc<Vec<u8>>),
    File(Arc<Sealed>),
}

/// A file in memory, as what owns bytes.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Files in memory.
#[derive(Debug, Default)]
pub(super) struct Hot {
    files: HashMap<[u8; 32], (u64, Arc<Vec<u8>>)>,
    used: usize,
    clock: u64,
}

impl Hot {
    pub(super) fn get(&mut self, sha256: &[u8; 32]) -> Option<Body> {
        self.clock += 1;
        let (last_used, bytes) = self.files.get_mut(sha256)?;
        *last_used = self.clock;
        Some(Body::Memory(Arc::clone(bytes)))
    }

    pub(super) fn remove(&mut self, sha256: &[u8; 32]) {
        if let Some((_, bytes)) = self.files.remove(sha256) {
            self.used -= bytes.len() + HOT_OVERHEAD;
        }
    }

    /// Counts a file of this size as in memory, in place of the least recently used ones. Files that transfers still read
    /// stay: dropping them here would not free their memory.
    fn reserve(&mut self, size: usize) -> bool {
        let needed = size + HOT_OVERHEAD;
        let mut idle: Vec<_> = self
            .files
            .iter()
            .filter(|(_, (_, bytes))| Arc::strong_count(bytes) == 1)
            .map(|(sha256, (last_used, bytes))| (*last_used, *sha256, bytes.len() + HOT_OVERHEAD))
            .collect();
        let free = MAX_HOT_TOTAL.saturating_sub(self.used);
        if idle.iter().map(|(_, _, len)| len).sum::<usize>() + free < needed {
            return false;
        }
        idle.sort_unstable();
        for (_, sha256, _) in idle {
            if self.used + needed <= MAX_HOT_TOTAL {
                break;
            }
            self.remove(&sha256);
        }
        self.used += needed;
        true
    }
}

/// The file in memory, where it is small and there is room for it; else the file itself. Blocks.
pub(super) fn warm(hot: &Mutex<Hot>, content: &Content, file: Arc<Sealed>) -> io::Result<Body> {
    let lock = || hot.lock().unwrap_or_else(PoisonError::into_inner);
    let size = match usize::try_from(content.size) {
        Ok(size) if content.size <= MAX_HOT_FILE => size,
        _ => return Ok(Body::File(file)),
    };
    if let Some(body) = lock().get(&content.sha256) {
        return Ok(body);
    }
    if !lock().reserve(size) {
        return Ok(Body::File(file));
    }
    let mut bytes = vec![0; size];
    if let Err(error) = file.file().read_exact_at(&mut bytes, 0).and_then(|()| file.check()) {
        lock().used -= size + HOT_OVERHEAD;
        return Err(error);
    }
    let mut hot = lock();
    let bytes = Arc::new(bytes);
    hot.clock += 1;
    let clock = hot.clock;
    if let Some((_, before)) = hot.files.insert(content.sha256, (clock, Arc::clone(&bytes))) {
        hot.used -= before.len() + HOT_OVERHEAD;
    }
    Ok(Body::Memory(bytes))
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::files) enum Disk {
    /// It must not: it fails with `WouldBlock` instead.
    Avoid,
    /// It was loaded just now, and if it is gone again already, the thread waits.
    Loaded,
}

/// Content that is open for a transfer. It stays readable when the cache evicts it.
#[derive(Debug)]
pub(in crate::files) struct Readable {
    inner: Arc<Inner>,
    content: Content,
    body: Body,
}

impl Readable {
    pub(super) fn new(inner: Arc<Inner>, content: Content, body: Body) -> Self {
        Self { inner, content, body }
    }

    pub(in crate::files) fn size(&self) -> u64 {
        self.content.size
    }

    /// The whole content, where it is in memory; without a copy.
    pub(in crate::files) fn memory(&self) -> Option<Bytes> {
        match &self.body {
            Body::Memory(bytes) => Some(Bytes::from_owner(Shared(Arc::clone(bytes)))),
            Body::File(_) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.body, Body::Memory(_))
    }

    /// Calls `take` with the bytes from `offset` on: `len` of them, or as many as there are; from a file at most
    /// [`SCRATCH_LEN`]. Fails with `WouldBlock` where the disk would be waited for: then [`load`](Self::load) comes first;
    /// and with `InvalidData` where somebody else has changed the file.
    pub(in crate::files) fn with_bytes<T>(
        &self,
        offset: u64,
        len: usize,
        disk: Disk,
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        let left = usize::try_from(self.content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        match &self.body {
            Body::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(take(&bytes[start..start + len]))
            }
            Body::File(file) => SCRATCH.with_borrow_mut(|scratch| {
                let bytes = scratch.read(&self.content, file, offset, len.min(SCRATCH_LEN), disk)?;
                Ok(take(bytes))
            }),
        }
    }

    /// Brings what follows `offset` into the kernel's memory.
    pub(in crate::files) async fn load(&self, offset: u64) -> io::Result<()> {
        let Body::File(file) = &self.body else { return Ok(()) };
        let Ok(_turn) = self.inner.loading.acquire().await else { return Ok(()) };
        let file = Arc::clone(file);
        let end = self.content.size.min(offset.saturating_add(LOAD_LEN));
        tokio::task::spawn_blocking(move || {
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.held = 0..0;
                let mut at = offset;
                while at < end {
                    match file.file().read_at(&mut scratch.bytes, at)? {
                        0 => break,
                        len => at += len as u64,
                    }
                }
                Ok(())
            })
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// Reads so many bytes, and more, up to the whole buffer, where that takes no waiting; returns how many.
fn fill(file: &File, buffer: &mut [u8], len: usize, offset: u64, disk: Disk) -> io::Result<usize> {
    let mut filled = 0;
    while filled < len {
        let rest = &mut buffer[filled..];
        let at = offset + filled as u64;
        let read = match disk {
            Disk::Avoid => match rustix::io::preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT) {
                Ok(read) => read,
                // File systems that cannot tell are those without a disk of their own (tmpfs, overlays).
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.read_at(rest, at)?,
                Err(error) => return Err(error.into()),
            },
            Disk::Loaded => file.read_at(rest, at)?,
        };
        if read == 0 {
            // The file is shorter than what was verified: somebody else changed it.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    Ok(filled)
}
