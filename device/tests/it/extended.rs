//! What an extended device has beyond the base protocol.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use fettle_device::spec::FilePorts;
use fettle_device::{ImageKey, Vocabulary};
use fettle_protocol::datum::{Capabilities, DownloadResult, Transfer};
use fettle_protocol::message::{Download, UpgradeAt};
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
    let without_key =
        Vocabulary::Extended.capabilities().without(Capabilities::SIGNATURE.with(Capabilities::LOG_REQUEST_AUTH));
    assert_eq!(information.capabilities, without_key);
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
