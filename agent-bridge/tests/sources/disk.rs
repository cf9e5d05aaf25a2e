//! A disk that is full: a file system of 1 MiB in memory, in a mount namespace of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use fettle_bridge::files::store::{Need, Source, Store};
use sha2::{Digest, Sha256};

/// Set where this test runs itself again, inside: the folder of that file system.
const INSIDE: &str = "FETTLE_TEST_FULL_DISK";

#[test]
fn a_full_disk_is_said_to_be_full_and_costs_nothing_that_is_there() {
    if let Some(disk) = std::env::var_os(INSIDE) {
        return tokio::runtime::Runtime::new().unwrap().block_on(inside(&PathBuf::from(disk)));
    }
    let disk = tempfile::tempdir().unwrap();
    // Who is not root is root of a namespace.
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(user)
        .args(["--mount", "sh", "-ec", "mount -t tmpfs -o size=1m tmpfs \"$0\"; exec \"$@\""])
        .arg(disk.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::a_full_disk_is_said_to_be_full_and_costs_nothing_that_is_there", "--nocapture"])
        .env(INSIDE, disk.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
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
