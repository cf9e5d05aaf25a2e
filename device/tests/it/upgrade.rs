//! A strict device is taken through everything that the base protocol has.

use std::time::Duration;

use fettle_device::journal::{Digest, Disconnect, Event, FileKind};
use fettle_device::record::Condition;
use fettle_device::spec::{FlashAt, PathStyle, ScheduledReply};
use fettle_protocol::datum::Transfer;
use fettle_protocol::message::{Download, UpgradeAt};
use fettle_protocol::{Frame, ServerMessage};
use sha2::{Digest as _, Sha256};

use crate::support::{Bridge, Ended, MAC, Scene, image, within};

const PROFILE: &[u8] = b"hostname sw-berlin-014\nvlan 17\n";

async fn whole_upgrade(transfer: Transfer, path_style: PathStyle, flash_at: FlashAt) {
    let scene = Scene::set(|spec| {
        spec.path_style = path_style;
        spec.timings.flash_at = flash_at;
    })
    .await;
    if path_style == PathStyle::Concatenated {
        std::fs::write(scene.files.path("a1image.bin"), image("5.2.1")).unwrap();
        std::fs::write(scene.files.path("a1profile.cfg"), PROFILE).unwrap();
    }
    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!((information.mac, information.version.as_str(), information.model.as_str()), (MAC, "4.9.0", "S5700"));
    assert_eq!(talk.order_image(scene.files.put(transfer, "image.bin", &image("5.2.1"))).await, 0);
    talk.say(ServerMessage::Restart).await;
    assert_eq!(talk.end().await, Ended::Finished);

    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "5.2.1");
    assert_eq!(talk.order_profile(scene.files.put(transfer, "profile.cfg", PROFILE)).await, 0);
    assert_eq!(talk.order_upgrade().await, 0);

    talk.say(ServerMessage::UploadLog(scene.files.location(transfer, "device.log"))).await;
    assert_eq!(talk.result(11).await, 0);
    let name = if path_style == PathStyle::Concatenated { "a1device.log" } else { "a1/device.log" };
    let log = scene.files.read_when(name, |log| log.contains("configured")).await;
    assert!(log.contains("log of S5700") && log.contains("booted 5.2.1"), "{log}");

    talk.say(ServerMessage::Interrupt(None)).await;
    assert_eq!(talk.end().await, Ended::Finished);

    let config = scene.device.config().unwrap();
    assert_eq!(&config.content[..], PROFILE);
    assert_eq!(config.identity, None, "a strict device is told none");
    let journal = scene.device.journal();
    assert_eq!(journal.flashes().len(), 1);
    assert_eq!(journal.flashes()[0].version.as_deref(), Some("5.2.1"));
    assert_eq!(journal.boots().len(), 1);
    assert_eq!(journal.outages().len(), 1);
    assert_eq!(journal.configs()[0].1, Digest(Sha256::digest(PROFILE).into()));
    let sent: Vec<_> = journal.counters().sent.keys().copied().collect();
    assert_eq!(sent, [1, 5, 7, 9, 11]);
    let downloaded: Vec<_> = journal
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Downloaded { file, bytes, crc_ok: true, sha256: _ } => Some((*file, *bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(downloaded, [(FileKind::Image, 100_000), (FileKind::Profile, PROFILE.len() as u64)]);
    let (_, command) = journal.commands(3)[0];
    let place = command.place.as_ref().unwrap();
    assert_eq!((place.path.as_str(), place.file.as_str(), place.transfer), ("a1", "image.bin", transfer));
    scene.close().await;
}

#[tokio::test]
async fn over_ftp_joining_path_and_name() {
    whole_upgrade(Transfer::Ftp, PathStyle::Relative, FlashAt::Restart).await;
}

#[tokio::test]
async fn over_ftp_from_the_root_flashing_at_once() {
    whole_upgrade(Transfer::Ftp, PathStyle::Absolute, FlashAt::Download).await;
}

#[tokio::test]
async fn over_ftp_concatenating_path_and_name() {
    whole_upgrade(Transfer::Ftp, PathStyle::Concatenated, FlashAt::Restart).await;
}

#[tokio::test]
async fn over_ftp_changing_the_directory() {
    whole_upgrade(Transfer::Ftp, PathStyle::ChangeDirectory, FlashAt::Restart).await;
}

#[tokio::test]
async fn over_tftp_joining_path_and_name() {
    whole_upgrade(Transfer::Tftp, PathStyle::Relative, FlashAt::Restart).await;
}

#[tokio::test]
async fn over_tftp_from_the_root() {
    whole_upgrade(Transfer::Tftp, PathStyle::Absolute, FlashAt::Restart).await;
}

#[tokio::test]
async fn a_wrong_crc_and_a_missing_file_are_told_apart_and_the_next_try_succeeds() {
    for transfer in [Transfer::Ftp, Transfer::Tftp] {
        let scene = Scene::set(|_| {}).await;
        let (mut talk, _) = scene.bridge.greet().await;
        let right = scene.files.put(transfer, "image.bin", &image("5.2.1"));
        assert_eq!(talk.order_image(Download { crc: right.crc ^ 1, ..right.clone() }).await, 1);
        let mut missing = right.clone();
        missing.location.file = "other.bin".to_owned();
        assert_eq!(talk.order_image(missing).await, 2);
        assert_eq!(talk.order_image(right).await, 0);
        let counters = scene.device.journal().counters().clone();
        assert_eq!((counters.crc_mismatches, counters.downloads_failed, counters.downloads), (1, 1, 1));
        scene.close().await;
    }
}

#[tokio::test]
async fn a_file_server_that_is_not_there_or_says_nothing_is_a_failure() {
    let silent = Bridge::bind().await;
    let scene = Scene::set(|spec| {
        spec.file_ports.ftp = silent.address().port();
        // Nobody listens there: it is the port of a TCP listener.
        spec.file_ports.tftp = silent.address().port();
        spec.timings.transfer_idle = Duration::from_millis(50);
    })
    .await;
    let (mut talk, _) = scene.bridge.greet().await;
    for transfer in [Transfer::Ftp, Transfer::Tftp] {
        assert_eq!(talk.order_image(scene.files.put(transfer, "image.bin", &image("5.2.1"))).await, 2);
    }
    scene.close().await;
}

#[tokio::test]
async fn an_image_of_another_model_bricks_the_device() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let other = fettle_device::image::build("S9999", "5.2.1", 1000);
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &other)).await, 0);
    talk.say(ServerMessage::Restart).await;
    within("the brick", scene.device.wait_until(|record| record.condition() == Condition::Bricked)).await;
    assert_eq!(scene.device.journal().boots(), []);
    assert_eq!(scene.fleet.summary().in_condition(Condition::Bricked), 1);
    scene.close().await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_a_transfer_on_it_is_over() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let download = scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"));
    scene.device.set_faults(vec!["download3=throttle:1000".parse().unwrap()]);
    talk.say(ServerMessage::DownloadVersion(download.clone())).await;
    within("the download", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    drop(talk);
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_image(download).await, 0, "the next try is not disturbed by the one before");
    let journal = scene.device.journal();
    assert!(journal.events().contains(&&Event::GivenUp), "{journal}");
    assert_eq!(journal.results(5).len(), 1);
    scene.close().await;
}

#[tokio::test]
async fn a_device_told_to_be_late_tells_the_result_on_the_next_connection() {
    let scene = Scene::set(|spec| spec.late_results = true).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.device.set_faults(vec!["download3=freeze".parse().unwrap()]);
    talk.say(ServerMessage::DownloadVersion(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1")))).await;
    within("the fault", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    // It begins, and notices that nobody is there to be told.
    drop(talk);
    scene.device.thaw();
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.result(5).await, 0);
    scene.close().await;
}

#[tokio::test]
async fn a_profile_is_applied_though_the_connection_is_lost_and_9_follows_message_1() {
    let scene = Scene::set(|spec| spec.faults = vec!["apply8=freeze".parse().unwrap()]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE)).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
    within("the fault", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    // It begins, and notices that nobody is there to be told.
    drop(talk);
    scene.device.thaw();
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.result(9).await, 0);
    assert_eq!(&scene.device.config().unwrap().content[..], PROFILE);
    scene.close().await;
}

#[tokio::test]
async fn a_profile_may_be_applied_at_a_time_by_the_clock_of_the_device() {
    for (reply, results) in [(ScheduledReply::Applied, 1), (ScheduledReply::Accepted, 2)] {
        let scene = Scene::set(|spec| {
            spec.scheduled_reply = reply;
            spec.time_zone = jiff::tz::TimeZone::get("Asia/Tokyo").unwrap();
        })
        .await;
        let (mut talk, _) = scene.bridge.greet().await;
        assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE)).await, 0);
        let due = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::get("Asia/Tokyo").unwrap())
            + Duration::from_millis(1000);
        let due = due.round(jiff::Unit::Second).unwrap();
        talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Time(due.datetime()))).await;
        for _ in 0..results {
            assert_eq!(talk.result(9).await, 0);
        }
        let (applied, ..) = scene.device.journal().configs()[0];
        assert!(applied >= due.timestamp(), "{applied} is before {due}");
        scene.close().await;
    }
}

#[tokio::test]
async fn a_time_that_has_passed_is_now() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE)).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Time("2001-01-01 00:00:00".parse().unwrap()))).await;
    assert_eq!(talk.result(9).await, 0);
    scene.close().await;
}

#[tokio::test]
async fn a_device_that_is_sent_away_calls_again() {
    let scene = Scene::set(|_| {}).await;
    for _ in 0..3 {
        let (mut talk, _) = scene.bridge.greet().await;
        talk.say(ServerMessage::Interrupt(None)).await;
        assert_eq!(talk.end().await, Ended::Finished);
    }
    let interrupted = Event::Disconnected { reason: Disconnect::Interrupted };
    within(
        "the third",
        scene.device.wait_until(|r| r.journal().events().iter().filter(|e| ***e == interrupted).count() == 3),
    )
    .await;
    scene.close().await;
}

#[tokio::test]
async fn a_device_calls_the_next_bridge_where_one_does_not_answer() {
    // Taken, so that nobody else listens there, and nobody does.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = taken.local_addr().unwrap();
    let scene = Scene::set(|_| {}).await;
    let there = scene.bridge.address();
    let spec = fettle_device::DeviceSpec {
        bridges: vec![gone, there],
        mac: fettle_device::spec::mac_plus(MAC, 1),
        ..crate::support::spec(scene.files.ports)
    };
    let (_first, _) = scene.bridge.greet().await;
    let device = scene.fleet.add(spec).unwrap();
    let (_second, information) = scene.bridge.greet().await;
    assert_eq!(information.mac, device.mac());
    assert_eq!(device.journal().counters().connect_failed, 1);
    scene.close().await;
}

#[tokio::test]
async fn what_a_strict_device_does_not_know_is_skipped_and_noted() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let mut bytes = Vec::new();
    Frame { message: 40, data: vec![(100, vec![1])] }.encode(&mut bytes).unwrap();
    talk.say_bytes(&bytes).await;
    let download = scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"));
    assert_eq!(talk.order_image(Download { attempt: Some(7), ..download }).await, 0);
    let violations: Vec<_> = scene.device.journal().violations().iter().map(ToString::to_string).collect();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[0].contains("message 40") && violations[1].contains("datum 67"), "{violations:?}");
    within("the end", scene.fleet.shutdown()).await;
}

#[tokio::test]
async fn a_malformed_message_ends_the_connection_and_the_device_calls_again() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    talk.say_bytes(&[3, 0, 0, 1]).await;
    talk.drain().await;
    let (_talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.device.journal().violations().len(), 1);
    within("the end", scene.fleet.shutdown()).await;
}

#[tokio::test]
async fn a_restart_that_was_not_prepared_on_this_connection_is_ignored_and_noted() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0);
    drop(talk);
    let (mut talk, _) = scene.bridge.greet().await;
    talk.say(ServerMessage::Restart).await;
    within("the violation", scene.device.wait_until(|record| record.journal().violations().len() == 1)).await;
    assert_eq!(scene.device.journal().counters().restarts, 0);
    within("the end", scene.fleet.shutdown()).await;
}
