//! A log for which the disk has no room: every protocol says so, nothing of it stays, and it is taken when there is room.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use fettle_bridge::files::logs::{LogNews, NoRoom};
use files_support::programs::{curl, ftp_url, succeeded, text, tftp_url, told};
use files_support::{PATIENCE, Servers, assert_same, bytes, small_disk};

const FULL: &str = "fettle_bridge_log_store_full";

/// What curl says where there is no room.
const WAYS: [(&str, &str); 3] = [("ftp", "452"), ("tftp", "there is no room"), ("http", "507")];

#[test]
fn a_log_that_finds_the_disk_full_is_refused_and_leaves_nothing() {
    let Some(disk) = small_disk::enter("a_log_that_finds_the_disk_full_is_refused_and_leaves_nothing") else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(inside(&disk));
}

async fn inside(disk: &Path) {
    // What the store may take is more than the disk has.
    let on_disk = tempfile::tempdir_in(disk).unwrap();
    let mut servers = Servers::start_in(on_disk, |_| {}, 1 << 30, 8 << 20);
    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, short) = (elsewhere.path().join("log"), elsewhere.path().join("short"));
    std::fs::write(&log, bytes(300_001)).unwrap();
    std::fs::write(&short, b"log").unwrap();
    // More than the kernel takes in for us: its client is refused while it still sends.
    let long = elsewhere.path().join("long");
    std::fs::write(&long, bytes(7 << 20)).unwrap();
    for (protocol, says) in WAYS {
        let upload = servers.order_upload("uid-1", protocol);
        let url = match protocol {
            "ftp" => ftp_url(&servers, &upload, &upload.path()),
            "tftp" => tftp_url(&servers, &upload.path()),
            _ => format!("http://{}/{}", servers.http(), upload.path()),
        };
        let bring = async |file: &Path| curl(&["--fail", "--verbose", "-T", text(file), &url]).await;
        let filler = small_disk::fill(disk);
        // One that is found to have no room while it is written, and one that is known only at its end.
        for (time, file) in [(1.0, &long), (2.0, &short)] {
            let refused = bring(file).await;
            assert!(!refused.status.success(), "{protocol}: {}", told(&refused));
            assert!(told(&refused).contains(says), "{protocol}: {}", told(&refused));
            // 70: error 3 of TFTP, as curl has it.
            assert!(protocol != "tftp" || refused.status.code() == Some(70), "{}", told(&refused));
            let counted = || servers.metric("fettle_bridge_transfers_total", &["upload", protocol, "full"]);
            let ended = tokio::time::timeout(PATIENCE, async {
                while counted() < time {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert!(ended.await.is_ok(), "{protocol}: {}", servers.dump());
            assert_eq!(servers.stored_logs(protocol), Vec::<PathBuf>::new(), "something stays");
            assert_eq!(servers.metric(FULL, &[]), 1.0, "whoever looks at the metrics sees it");
            let news = servers.news.recv().await.unwrap();
            assert!(matches!(&news, LogNews::NoRoom(NoRoom { target: 1, .. })), "{protocol}: {news:?}");
        }
        assert!(!servers.transfers.progress(&upload.permission).unwrap().complete);

        // The device was refused, not given up: with room it may bring the log as it was told.
        std::fs::remove_file(filler).unwrap();
        succeeded(&bring(&log).await);
        assert!(servers.is_complete(&upload).await, "{protocol}");
        assert_eq!(servers.metric(FULL, &[]), 0.0);
        assert!(matches!(servers.news.recv().await, Some(LogNews::Arrived(_))), "its session hears of it");
        let stored = servers.stored_logs(protocol);
        assert_eq!(stored.len(), 1);
        assert_same(&std::fs::read(&stored[0]).unwrap(), &bytes(300_001));
        std::fs::remove_file(&stored[0]).unwrap();
    }
}
