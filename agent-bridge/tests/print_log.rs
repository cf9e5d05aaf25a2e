//! The bridge prints logs, where nothing else could.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn print(path: &Path, data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fettle-bridge"));
    command.arg("--print-log").arg(path).env("FETTLE_DATA_DIR", data_dir).output().unwrap()
}

#[test]
fn a_log_is_printed_as_it_is_and_nothing_else_of_the_bridge_is() {
    let data = tempfile::tempdir().unwrap();
    let logs = data.path().join("logs/sw-1");
    std::fs::create_dir_all(&logs).unwrap();
    let log = logs.join("20261121T021109Z-118.log");
    std::fs::write(&log, b"link down\n\xff").unwrap();
    let printed = print(&log, data.path());
    assert_eq!((printed.stdout.as_slice(), printed.status.success()), (b"link down\n\xff".as_slice(), true));

    let secret = data.path().join("secret");
    std::fs::write(&secret, "key").unwrap();
    std::os::unix::fs::symlink(&secret, logs.join("link.log")).unwrap();
    for other in [secret, logs.join("link.log"), logs.join("../../secret"), logs.join("gone.log")] {
        let refused = print(&other, data.path());
        assert!(refused.stdout.is_empty() && !refused.status.success(), "{other:?}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(&other.display().to_string()), "{said}");
    }
}
