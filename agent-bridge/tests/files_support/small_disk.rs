//! A disk that is soon full: a file system in memory, in a mount namespace of the test's own.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set where a test runs itself again, inside: the folder of that file system.
const INSIDE: &str = "FETTLE_TEST_SMALL_DISK";

/// A folder on a disk of 1 MiB, for the test of this name, which runs itself once more for that. `None`: that was here, and it
/// passed.
pub fn enter(test: &str) -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(INSIDE) {
        return Some(PathBuf::from(disk));
    }
    let disk = tempfile::tempdir().unwrap();
    // Who is not root is root of a namespace.
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(user)
        .args(["--mount", "sh", "-ec", "mount -t tmpfs -o size=1m tmpfs \"$0\"; exec \"$@\""])
        .arg(disk.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, disk.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
    None
}

/// Writes on the disk until it is full. The room is there again when the file is removed.
pub fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut file, &[7; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    path
}
