//! Differences between images of the cache: made of two of them, checked, and kept as content of their own.
//!
//! A difference is one frame of Zstandard whose prefix is the whole image that a device runs: what `zstd --patch-from` makes.
//! To make one takes memory for both images and some tables, for as long as it takes; what is made goes to the disk as it comes.
//! It never makes room for itself: whatever else is in the cache is worth more.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::copy::SetOnDrop;
use super::ingest::Ingest;
use super::seal::Sealed;
use super::{Content, Inner, Need, READ_LEN, SourceError, Store, hex};

/// How hard is searched, of 22: beyond this, images of firmware get a few hundredths smaller and take several times as long.
const LEVEL: i32 = 6;
/// What Zstandard can have of a window, as a power of two.
const WINDOW_LOG: std::ops::RangeInclusive<u32> = 10..=31;
/// Of the image, so much a difference may have to be worth a device's while: applying it takes time and room, too.
const WORTH: (u64, u64) = (3, 4);
/// Its name in errors.
const ORIGIN: &str = "the difference";

/// The most bytes that a difference may have that makes an image of so many.
pub const fn most(image: u64) -> u64 {
    let (of, parts) = WORTH;
    (image / parts).saturating_mul(of)
}

/// Why there is no difference. Devices fetch the whole image then.
#[derive(Debug, thiserror::Error)]
pub enum NoDifference {
    #[error("an image is not in the cache")]
    NotThere,
    #[error("an image is larger than {limit} bytes (--delta-max-image-size)")]
    TooLarge { limit: u64 },
    #[error("it is not clearly smaller than the image")]
    NotSmaller,
    #[error(transparent)]
    NoRoom(SourceError),
    #[error("what it makes is not the image")]
    Wrong,
    #[error("it was given up")]
    GivenUp,
    #[error("it cannot be made")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for NoDifference {
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Failed)
    }
}

impl From<NoDifference> for io::Error {
    fn from(error: NoDifference) -> Self {
        Self::other(error)
    }
}

impl Store {
    /// Makes the difference from the image `base` to `image`, both of which are in the cache and have at most `limit` bytes, and
    /// keeps it as content. Applied to `base` it is known to make `image`.
    ///
    /// # Errors
    /// [`NoDifference`].
    pub async fn make_difference(&self, base: [u8; 32], image: [u8; 32], limit: u64) -> Result<Content, NoDifference> {
        let inner = Arc::clone(&self.inner);
        // A thread cannot be dropped like a future: it is told when nobody waits any more.
        let abandoned = Arc::new(AtomicBool::new(false));
        let _tell = SetOnDrop(Arc::clone(&abandoned));
        let made = spawn_blocking(move || inner.make_difference(&base, &image, limit, &abandoned)).await;
        made.unwrap_or_else(|error| Err(NoDifference::Failed(io::Error::other(error))))
    }
}

impl Inner {
    fn make_difference(
        &self,
        base: &[u8; 32],
        image: &[u8; 32],
        limit: u64,
        abandoned: &AtomicBool,
    ) -> Result<Content, NoDifference> {
        let (base, base_file) = self.verified(base)?.ok_or(NoDifference::NotThere)?;
        let (image, image_file) = self.verified(image)?.ok_or(NoDifference::NotThere)?;
        if base.size.max(image.size) > limit {
            return Err(NoDifference::TooLarge { limit });
        }
        let prefix = read(&base_file, base.size)?;
        let made = self.compress(&prefix, &image_file, image.size, abandoned)?;
        match self.applies(&prefix, &made, &image, abandoned) {
            Ok(true) => Ok(made),
            unfit => {
                self.index().remove(&made.sha256);
                self.unlink(&made.sha256);
                unfit.and(Err(NoDifference::Wrong))
            }
        }
    }

    fn compress(
        &self,
        prefix: &[u8],
        image: &Sealed,
        size: u64,
        abandoned: &AtomicBool,
    ) -> Result<Content, NoDifference> {
        let ingest = Ingest::new(self, ORIGIN, Need::Nobody).map_err(NoDifference::NoRoom)?;
        let mut encoder = zstd::Encoder::with_ref_prefix(Out { ingest, left: most(size) }, LEVEL, prefix)?;
        // The prefix counts as long as the window reaches back to the beginning of the image.
        let window = size.max(1).next_power_of_two().trailing_zeros();
        encoder.window_log(window.clamp(*WINDOW_LOG.start(), *WINDOW_LOG.end()))?;
        encoder.long_distance_matching(true)?;
        encoder.set_pledged_src_size(Some(size))?;
        each_chunk(image.file(), abandoned, |chunk| encoder.write_all(chunk))?;
        image.check()?;
        encoder.finish()?.ingest.finish_unsynced().map_err(NoDifference::NoRoom)
    }

    /// Whether the difference makes the image of the prefix.
    fn applies(
        &self,
        prefix: &[u8],
        difference: &Content,
        image: &Content,
        abandoned: &AtomicBool,
    ) -> Result<bool, NoDifference> {
        let (_, file) = self.verified(&difference.sha256)?.ok_or(NoDifference::NotThere)?;
        let mut decoder = zstd::Decoder::with_ref_prefix(BufReader::new(file.file()), prefix)?;
        decoder.window_log_max(*WINDOW_LOG.end())?;
        let mut sha256 = Sha256::new();
        // One byte more than it may make shows that it makes too much.
        each_chunk(decoder.take(image.size.saturating_add(1)), abandoned, |chunk| {
            sha256.update(chunk);
            Ok(())
        })?;
        let made: [u8; 32] = sha256.finalize().into();
        if made != image.sha256 {
            tracing::error!(image = %hex(&image.sha256), made = %hex(&made), "difference makes another image");
        }
        Ok(made == image.sha256)
    }
}

/// Where a difference goes: into the cache, unless it becomes too large to be of use.
struct Out<'a> {
    ingest: Ingest<'a>,
    left: u64,
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(NoDifference::NotSmaller)?;
        self.ingest.write(bytes).map_err(NoDifference::NoRoom)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All of a file, as it was verified.
fn read(file: &Sealed, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(size).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let mut reader = file.file();
    Read::by_ref(&mut reader).take(size).read_to_end(&mut bytes)?;
    file.check()?;
    Ok(bytes)
}

/// Reads to the end, unless nobody waits any more.
fn each_chunk(
    mut from: impl Read,
    abandoned: &AtomicBool,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_LEN];
    loop {
        if abandoned.load(Ordering::Relaxed) {
            return Err(NoDifference::GivenUp.into());
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => take(&buffer[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SIZE: usize = 300_000;
    const LIMIT: u64 = 1 << 20;

    /// Bytes that do not compress.
    fn noise(mut state: u64, size: usize) -> Vec<u8> {
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(size).collect()
    }

    /// An image that has most of another's bytes, some of them elsewhere.
    fn like(base: &[u8]) -> Vec<u8> {
        let mut image = noise(99, 20_000);
        image.extend_from_slice(&base[100_000..]);
        image.extend_from_slice(&base[..90_000]);
        image
    }

    async fn put(store: &Store, bytes: &[u8]) -> [u8; 32] {
        store.put(bytes.to_vec()).await.unwrap().sha256
    }

    fn store(folder: &tempfile::TempDir, room: u64) -> Store {
        Store::open(&folder.path().join("cache"), folder.path(), 1 << 24, room).unwrap()
    }

    #[tokio::test]
    async fn a_difference_is_small_and_other_peoples_zstd_makes_the_image_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, 1 << 24);
        let base = noise(7, SIZE);
        let image = like(&base);
        let made = store.make_difference(put(&store, &base).await, put(&store, &image).await, LIMIT).await.unwrap();
        assert!((20_000..40_000).contains(&made.size), "{} bytes", made.size);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("base"), &base).unwrap();
        let difference = folder.path().join("cache").join(hex(&made.sha256));
        let mut apply = Command::new("zstd");
        apply.arg("-d").arg(format!("--patch-from={}", path("base").display()));
        let applied = apply.arg(difference).arg("-o").arg(path("made")).output().unwrap();
        assert!(applied.status.success(), "{applied:?}");
        assert!(std::fs::read(path("made")).unwrap() == image, "another image");
    }

    #[tokio::test]
    async fn what_is_not_clearly_smaller_too_large_or_not_there_is_none_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, 1 << 24);
        let (base, other) = (put(&store, &noise(7, SIZE)).await, put(&store, &noise(8, SIZE)).await);
        let before = store.usage();
        let none = |base, image, limit| store.make_difference(base, image, limit);
        assert!(matches!(none(base, other, LIMIT).await, Err(NoDifference::NotSmaller)));
        assert!(matches!(none(base, other, SIZE as u64 - 1).await, Err(NoDifference::TooLarge { .. })));
        assert!(matches!(none(base, [9; 32], LIMIT).await, Err(NoDifference::NotThere)));
        assert_eq!(store.usage(), before);
        assert_eq!(std::fs::read_dir(folder.path().join("cache")).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_difference_takes_no_room_from_images() {
        let folder = tempfile::tempdir().unwrap();
        let base = noise(7, SIZE);
        let image = like(&base);
        let store = store(&folder, (base.len() + image.len() + 10_000) as u64);
        let (base, image) = (put(&store, &base).await, put(&store, &image).await);
        let none = store.make_difference(base, image, LIMIT).await;
        assert!(matches!(none, Err(NoDifference::NoRoom(SourceError::CacheFull { .. }))), "{none:?}");
        assert!(store.get(&base).await.is_some() && store.get(&image).await.is_some());
    }

    #[tokio::test]
    async fn images_of_any_size_have_a_difference_that_makes_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder, 1 << 26);
        for size in [1_000, 65_536, 131_073, 2_500_000] {
            let base = noise(size as u64, size);
            let mut image = base.clone();
            image[size / 2] ^= 0x55;
            let made = store.make_difference(put(&store, &base).await, put(&store, &image).await, 1 << 24).await;
            assert!(made.as_ref().is_ok_and(|made| made.size < 400), "{size}: {made:?}");
        }
    }
}
