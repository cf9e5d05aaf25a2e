//! Files of the cache that somebody else changes.

use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::*;
use crate::files::store::seal::Seal;

/// Larger than what is held in memory.
const LARGE: usize = 3 << 20;

struct Cache {
    setup: Setup,
    content: Content,
    path: PathBuf,
    source: Source,
}

impl Cache {
    /// With a file that is fetched and verified.
    async fn with(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let store = Store::open(&dir.path().join("cache"), &dir.path().join("files"), 1 << 30, 1 << 30).unwrap();
        let setup = Setup { dir, store };
        let source = setup.file("image", bytes);
        let content = setup.store.fetch(&source, sha256(bytes), Need::Device).await.unwrap();
        let path = setup.store.inner.path_of(&content.sha256);
        Self { setup, content, path, source }
    }

    /// Changes the file, as often as it takes for the clock of the file system to have gone on since it was verified.
    fn change(&self, mut change: impl FnMut(&mut File)) {
        let mut file = File::options().read(true).write(true).open(&self.path).unwrap();
        let before = Seal::of(&file).unwrap();
        while Seal::of(&file).unwrap() == before {
            change(&mut file);
        }
    }

    /// The same length and the same times, as far as anybody can set them.
    fn overwrite(&self) {
        let modified = std::fs::metadata(&self.path).unwrap().modified().unwrap();
        self.change(|file| {
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(b"evil").unwrap();
            file.set_modified(modified).unwrap();
        });
    }

    async fn open(&self) -> Option<Readable> {
        self.setup.store.open_content(&ContentId::of(&self.content.sha256)).await.unwrap()
    }
}

fn image(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn what_was_overwritten_between_two_transfers_is_not_served_and_fetched_again() {
    for len in [1000, LARGE] {
        let image = image(len);
        let cache = Cache::with(&image).await;
        cache.overwrite();
        assert!(cache.open().await.is_none(), "{len}: it was served");
        assert_eq!(cache.setup.store.get(&cache.content.sha256).await, None);
        assert_eq!(cache.setup.store.usage(), Usage { contents: 0, bytes: 0 });
        let again = cache.setup.store.fetch(&cache.source, cache.content.sha256, Need::Device).await;
        assert_eq!(again, Ok(cache.content));
        assert!(cache.setup.read(&cache.content.sha256).await.unwrap() == image, "{len}");
    }
}

#[tokio::test]
async fn whoever_is_about_to_tell_a_device_of_it_learns_that_it_has_to_be_fetched_again() {
    let cache = Cache::with(&image(LARGE)).await;
    cache.overwrite();
    assert_eq!(cache.setup.store.get(&cache.content.sha256).await, None);
}

#[tokio::test]
async fn a_file_that_only_looks_changed_is_hashed_again_and_served() {
    let cache = Cache::with(&image(LARGE)).await;
    let held = cache.open().await.unwrap();
    cache.change(|file| file.set_permissions(Permissions::from_mode(0o640)).unwrap());
    assert_eq!(cache.setup.store.get(&cache.content.sha256).await, Some(cache.content));
    assert!(cache.setup.read(&cache.content.sha256).await.unwrap() == image(LARGE));
    // Whoever reads meanwhile cannot know that.
    assert_eq!(held.with_bytes(0, 4, Disk::Loaded, <[u8]>::to_vec).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_transfer_gets_nothing_more_of_a_file_that_is_changed_under_it() {
    let overwrite = |file: &mut File| {
        file.seek(SeekFrom::Start(2 << 20)).unwrap();
        file.write_all(b"evil").unwrap();
    };
    let truncate = |file: &mut File| file.set_len(0).unwrap();
    let grow = |file: &mut File| {
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"evil").unwrap();
    };
    for change in [&overwrite as &dyn Fn(&mut File), &truncate, &grow] {
        let cache = Cache::with(&image(LARGE)).await;
        let readable = cache.open().await.unwrap();
        let first = readable.with_bytes(0, 1000, Disk::Loaded, <[u8]>::to_vec).unwrap();
        assert!(first == image(1000));
        cache.change(change);
        let next = readable.with_bytes(2 << 20, 1000, Disk::Loaded, <[u8]>::to_vec);
        assert!(matches!(next.unwrap_err().kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof));
        assert!(cache.open().await.is_none(), "the next one neither");
    }
}

#[tokio::test]
async fn what_is_in_memory_does_not_mind() {
    let cache = Cache::with(&image(1000)).await;
    let readable = cache.open().await.unwrap();
    assert!(readable.is_in_memory());
    cache.overwrite();
    let bytes = readable.with_bytes(0, 1000, Disk::Avoid, <[u8]>::to_vec).unwrap();
    assert!(bytes == image(1000));
    assert!(cache.open().await.unwrap().with_bytes(0, 1000, Disk::Avoid, <[u8]>::to_vec).unwrap() == image(1000));
}

#[tokio::test]
async fn neither_a_crc_nor_a_signature_is_judged_by_changed_bytes() {
    let cache = Cache::with(&image(LARGE)).await;
    cache.overwrite();
    let crc = cache.setup.store.crc(&cache.content, CrcKind::Bzip2).await;
    assert_eq!(crc.unwrap_err().kind(), io::ErrorKind::NotFound);
    let cache = Cache::with(&image(LARGE)).await;
    cache.overwrite();
    let key = HEXLOWER.decode(b"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
    let signature =
        Signature::ed25519(&data_encoding::BASE64.encode(&[0; 64]), data_encoding::BASE64.encode(&key).as_bytes())
            .unwrap();
    let error = cache.setup.store.verify(&cache.content, signature).await.unwrap_err();
    assert_eq!(error.reason(), "Io", "{error}");
}
