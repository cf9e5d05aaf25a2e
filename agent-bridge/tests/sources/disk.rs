//! A disk of the cache that is full.

use std::path::Path;

use fettle_bridge::files::store::{Need, Source, Store};
use sha2::{Digest, Sha256};

use crate::small_disk;

#[test]
fn a_full_disk_is_said_to_be_full_and_costs_nothing_that_is_there() {
    let Some(disk) = small_disk::enter("disk::a_full_disk_is_said_to_be_full_and_costs_nothing_that_is_there") else {
        return;
    };
    tokio::runtime::Runtime::new().unwrap().block_on(inside(&disk));
}

async fn inside(disk: &Path) {
    let files = tempfile::tempdir().unwrap();
    let store = Store::open(&disk.join("cache"), files.path(), 1 << 30, 1 << 30).unwrap();
    let file = |name: &str, size: usize| {
        let bytes = vec![7; size];
        std::fs::write(files.path().join(name), &bytes).unwrap();
        (Source::File { path: name.into() }, <[u8; 32]>::from(Sha256::digest(&bytes)))
    };
    let (small, small_hash) = file("small", 200_000);
    let (large, large_hash) = file("large", 2_000_000);
    let kept = store.fetch(&small, small_hash, Need::Device).await.unwrap();
    let error = store.fetch(&large, large_hash, Need::Device).await.unwrap_err();
    assert_eq!(error.reason(), "DiskFull", "{error}");
    assert_eq!(store.get(&small_hash).await, Some(kept));
    assert_eq!(store.usage().bytes, 200_000, "what was written of the large one has gone");
    // With room again, it goes on without a restart.
    let (other, other_hash) = file("other", 500_000);
    assert!(store.fetch(&other, other_hash, Need::Device).await.is_ok());
}
