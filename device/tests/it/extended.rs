//! What an extended device has beyond the base protocol.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use fettle_device::spec::FilePorts;
use fettle_device::{ImageKey, Vocabulary};
use fettle_protocol::datum::{Capabilities, DifferenceKind, DownloadResult, Transfer};
use fettle_protocol::message::{Difference, Download, UpgradeAt};
use fettle_protocol::{DeviceMessage, ServerMessage};
use sha2::{Digest as _, Sha256};

use crate::support::{Ended, Scene, image};

const PROFILE: &[u8] = b"hostname sw-berlin-014\n";

#[tokio::test]
async fn it_is_told_ports_and_facts_and_tells_configuration_and_restart() {
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.config = Some("16+1f3a09c2".to_owned());
    })
    .await;
    let ports = scene.files.ports;
    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!(information.config.as_deref(), Some("16+1f3a09c2"));
    assert_eq!(information.serial.as_deref(), Some("SIM-02-00-5E-00-53-0E"));
    let needs_more = Capabilities::SIGNATURE.with(Capabilities::LOG_REQUEST_AUTH).with(Capabilities::DELTA);
    assert_eq!(information.capabilities, Vocabulary::Extended.capabilities().without(needs_more));
    assert!(information.capabilities.has(Capabilities::SERVER_PORT));

    let extended = |mut download: Download, content: &[u8]| {
        download.location.port = Some(match download.location.transfer {
            Transfer::Ftp => ports.ftp,
            Transfer::Tftp => ports.tftp,
            Transfer::Http => panic!("a URL has the port"),
        });
        download.attempt = Some(7);
        download.size = Some(content.len() as u64);
        download.sha256 = Some(Sha256::digest(content).into());
        download
    };
    let content = image("5.2.1");
    let download = extended(scene.files.put(Transfer::Tftp, "image.bin", &content), &content);
    let wrong = Download { sha256: Some([0; 32]), ..download.clone() };
    assert_eq!(talk.order_image(wrong).await, 1, "a digest that does not fit is as a CRC that does not");
    assert_eq!(talk.order_image(download).await, 0);
    talk.say(ServerMessage::Restart).await;
    assert_eq!(talk.end().await, Ended::Finished);
    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "5.2.1");
    assert_eq!(talk.hear().await, DeviceMessage::RestartComplete);

    let mut download = extended(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE), PROFILE);
    download.config = Some("17+77c0d1e2".to_owned());
    assert_eq!(talk.order_profile(download).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
    assert_eq!(talk.hear_information().await.config.as_deref(), Some("17+77c0d1e2"));
    assert_eq!(talk.result(9).await, 0);
    assert_eq!(scene.device.config().unwrap().identity.as_deref(), Some("17+77c0d1e2"));
    drop(talk);
    let (_talk, information) = scene.bridge.greet().await;
    assert_eq!(information.config.as_deref(), Some("17+77c0d1e2"));
    scene.close().await;
}

#[tokio::test]
async fn with_a_key_it_takes_no_image_without_a_right_signature() {
    let signing = SigningKey::from_bytes(&[7; 32]);
    let key = BASE64.encode(signing.verifying_key().as_bytes());
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.image_key = Some(ImageKey::parse(&key).unwrap());
    })
    .await;
    let (mut talk, information) = scene.bridge.greet().await;
    assert!(information.capabilities.has(Capabilities::SIGNATURE));
    let content = image("5.2.1");
    let mut other = content.clone();
    other[100] ^= 1;
    for (signature, why) in [
        (None, "has no signature"),
        (Some(signing.sign(&other).to_bytes()), "is wrong"),
        (Some(SigningKey::from_bytes(&[8; 32]).sign(&content).to_bytes()), "is wrong"),
    ] {
        let download =
            Download { signature: signature.map(Box::new), ..scene.files.put(Transfer::Ftp, "image.bin", &content) };
        talk.say(ServerMessage::DownloadVersion(download)).await;
        let DeviceMessage::VersionDownloaded(DownloadResult::Failed(2), detail) = talk.hear().await else {
            panic!("taken, or refused otherwise: {}", scene.device.journal());
        };
        assert!(detail.text.as_ref().is_some_and(|text| text.contains(why)), "{detail:?}");
    }
    let signature = Some(signing.sign(&content).to_bytes());
    let download =
        Download { signature: signature.map(Box::new), ..scene.files.put(Transfer::Ftp, "image.bin", &content) };
    assert_eq!(talk.order_image(download).await, 0);
    // A profile has none.
    assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE)).await, 0);
    scene.close().await;
}

#[tokio::test]
async fn it_stays_away_for_as_long_as_it_is_told() {
    let scene = Scene::set(|spec| spec.vocabulary = Vocabulary::Extended).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let told = Instant::now();
    talk.say(ServerMessage::Interrupt(Some(1))).await;
    assert_eq!(talk.end().await, Ended::Finished);
    let _talk = scene.bridge.greet().await;
    assert!(told.elapsed() >= Duration::from_secs(1), "its own wait is much shorter");
    scene.close().await;
}

#[tokio::test]
async fn it_fetches_from_the_port_that_it_is_told_and_not_from_its_own() {
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.file_ports = FilePorts { ftp: 1, tftp: 1 };
    })
    .await;
    let (mut talk, _) = scene.bridge.greet().await;
    for (transfer, port) in [(Transfer::Ftp, scene.files.ports.ftp), (Transfer::Tftp, scene.files.ports.tftp)] {
        let mut download = scene.files.put(transfer, "image.bin", &image("5.2.1"));
        download.location.port = Some(port);
        assert_eq!(talk.order_image(download).await, 0);
    }
    scene.close().await;
}

#[tokio::test]
async fn it_reports_progress_of_what_takes_long_and_says_why_something_failed() {
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.timings.progress = Duration::from_millis(20);
        spec.faults = vec!["download3=throttle:200000".parse().unwrap()];
    })
    .await;
    let (mut talk, _) = scene.bridge.greet().await;
    let content = image("5.2.1");
    let download = scene.files.put(Transfer::Ftp, "image.bin", &content);
    talk.say(ServerMessage::DownloadVersion(Download { size: Some(content.len() as u64), ..download.clone() })).await;
    let mut percents = Vec::new();
    loop {
        match talk.hear().await {
            DeviceMessage::Progress { percent, text } => {
                assert_eq!(text.as_deref(), Some("downloading"));
                percents.push(percent.unwrap());
            }
            DeviceMessage::VersionDownloaded(..) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(percents.len() > 1 && percents.is_sorted(), "{percents:?}");

    let mut missing = download;
    missing.location.file = "other.bin".to_owned();
    talk.say(ServerMessage::DownloadVersion(missing)).await;
    let detail = loop {
        match talk.hear().await {
            DeviceMessage::Progress { .. } => {}
            DeviceMessage::VersionDownloaded(_, detail) => break detail,
            other => panic!("{other:?}"),
        }
    };
    assert!(detail.text.is_some_and(|text| text.contains("FTP")));
    scene.close().await;
}

#[tokio::test]
async fn it_keeps_its_connection_alive() {
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.timings.keep_alive = Duration::from_millis(10);
    })
    .await;
    let (mut talk, _) = scene.bridge.greet().await;
    for _ in 0..3 {
        assert_eq!(talk.hear().await, DeviceMessage::KeepAlive);
    }
    scene.close().await;
}

/// What `zstd --patch-from` makes is made by the same library here.
fn difference(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::with_ref_prefix(Vec::new(), 3, from).unwrap();
    encoder.write_all(to).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn it_makes_an_image_of_a_difference_and_of_what_it_runs_and_installs_nothing_else() {
    let runs = image("4.9.0");
    // Most of it is the same.
    let mut next = runs.clone();
    next[..image("5.2.1").iter().position(|byte| *byte == b'\n').unwrap() + 1]
        .copy_from_slice(image("5.2.1").split_inclusive(|byte| *byte == b'\n').next().unwrap());
    let kept: Arc<[u8]> = runs.clone().into();
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.image = Some(kept);
    })
    .await;
    let (mut talk, information) = scene.bridge.greet().await;
    assert!(information.capabilities.has(Capabilities::DELTA.with(Capabilities::FILE_FACTS)));
    let patch = difference(&runs, &next);
    let of = |base: &str, kind, sha256: [u8; 32]| Download {
        size: Some(patch.len() as u64),
        sha256: Some(sha256),
        difference: Some(Box::new(Difference { base: base.to_owned(), kind })),
        ..scene.files.put(Transfer::Ftp, "image.bin", &patch)
    };
    let right: [u8; 32] = Sha256::digest(&next).into();
    for (download, result, why) in [
        (of("4.8.0", DifferenceKind::Zstd, right), DownloadResult::Failed(2), "is from 4.8.0, not from 4.9.0"),
        (of("4.9.0", DifferenceKind::Other(2), right), DownloadResult::Failed(2), "kind 2"),
        (Download { crc: 7, ..of("4.9.0", DifferenceKind::Zstd, right) }, DownloadResult::CrcMismatch, ""),
        (of("4.9.0", DifferenceKind::Zstd, [7; 32]), DownloadResult::CrcMismatch, "does not make that image"),
        (
            Download { sha256: None, ..of("4.9.0", DifferenceKind::Zstd, right) },
            DownloadResult::Failed(2),
            "nothing says",
        ),
    ] {
        talk.say(ServerMessage::DownloadVersion(download)).await;
        let DeviceMessage::VersionDownloaded(said, detail) = talk.hear().await else { panic!("no result") };
        assert_eq!(said, result, "{}", scene.device.journal());
        assert!(detail.text.unwrap_or_default().contains(why), "{why}: {}", scene.device.journal());
    }
    assert_eq!(talk.order_image(of("4.9.0", DifferenceKind::Zstd, right)).await, 0);
    talk.say(ServerMessage::Restart).await;
    assert_eq!(talk.end().await, Ended::Finished);
    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "5.2.1");
    // What it has made is what the next is made of.
    talk.hear().await;
    let patch = difference(&next, &runs);
    let back = Download {
        sha256: Some(Sha256::digest(&runs).into()),
        difference: Some(Box::new(Difference { base: "5.2.1".to_owned(), kind: DifferenceKind::Zstd })),
        ..scene.files.put(Transfer::Ftp, "back.bin", &patch)
    };
    assert_eq!(talk.order_image(back).await, 0, "{}", scene.device.journal());
    assert!(scene.device.journal().violations().is_empty(), "{}", scene.device.journal());
    scene.close().await;
}

#[tokio::test]
async fn a_device_with_another_image_than_its_version_says_takes_no_difference_and_says_so() {
    let runs = image("4.9.0");
    let (kept, next): (Arc<[u8]>, _) = (runs.clone().into(), [runs.as_slice(), b"more"].concat());
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.image = Some(kept);
        spec.faults = vec!["download3=otherBase".parse().unwrap()];
    })
    .await;
    let (mut talk, _) = scene.bridge.greet().await;
    let patch = difference(&runs, &next);
    let download = Download {
        sha256: Some(Sha256::digest(&next).into()),
        difference: Some(Box::new(Difference { base: "4.9.0".to_owned(), kind: DifferenceKind::Zstd })),
        ..scene.files.put(Transfer::Ftp, "image.bin", &patch)
    };
    assert_ne!(talk.order_image(download).await, 0);
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "whole.bin", &next)).await, 0, "the whole image");
    scene.close().await;
}
