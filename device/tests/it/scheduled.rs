//! Profiles that are put into force at a time, whatever happens until then.

use std::time::Duration;

use fettle_device::Vocabulary;
use fettle_device::record::{Condition, Record};
use fettle_device::spec::ScheduledReply;
use fettle_protocol::datum::Transfer;
use fettle_protocol::message::{Download, UpgradeAt};
use fettle_protocol::{DeviceMessage, ServerMessage};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::support::{Scene, Talk, image, within};

const PROFILE: &[u8] = b"hostname sw-berlin-014\n";

/// A whole second that is not quite two away: what a test does before it takes milliseconds.
fn soon() -> Zoned {
    let soon = Timestamp::now() + Duration::from_millis(1500);
    soon.to_zoned(TimeZone::UTC).round(jiff::Unit::Second).unwrap()
}

/// 4, 7 and 8 for a time.
async fn schedule(scene: &Scene, talk: &mut Talk, at: &Zoned) {
    let download = scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE);
    assert_eq!(talk.order_profile(download).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Time(at.datetime()))).await;
}

/// It was put into force once, and not before.
fn assert_applied(scene: &Scene, at: &Zoned) {
    let journal = scene.device.journal();
    let [(applied, ..)] = journal.configs()[..] else { panic!("{:?}", journal.configs()) };
    assert!(applied >= at.timestamp(), "{applied} is before {at}");
    assert_eq!(&scene.device.config().unwrap().content[..], PROFILE);
}

#[tokio::test]
async fn it_waits_through_lost_connections_and_says_how_it_went_on_the_one_that_there_is() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let at = soon();
    schedule(&scene, &mut talk, &at).await;
    for _ in 0..3 {
        drop(talk);
        (talk, _) = scene.bridge.greet().await;
    }
    assert_eq!(talk.result(9).await, 0);
    assert_applied(&scene, &at);
    scene.close().await;
}

#[tokio::test]
async fn it_waits_through_a_restart() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let at = soon();
    schedule(&scene, &mut talk, &at).await;
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0);
    talk.say(ServerMessage::Restart).await;
    talk.drain().await;
    let (mut talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "5.2.1");
    assert_eq!(talk.result(9).await, 0);
    assert_applied(&scene, &at);
    scene.close().await;
}

#[tokio::test]
async fn a_time_that_comes_while_the_power_is_off_comes_with_the_power() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let at = soon();
    schedule(&scene, &mut talk, &at).await;
    let scheduled = |record: &Record| record.journal().counters().received(8) == 1;
    within("message 8", scene.device.wait_until(scheduled)).await;
    scene.device.power_cut();
    talk.drain().await;
    within("the dark", scene.device.wait_until(|record| record.condition() == Condition::Off)).await;
    let left = Duration::try_from(at.timestamp().duration_since(Timestamp::now())).unwrap_or_default();
    // There is no condition to wait on: nothing happens, and that is what is to be seen.
    tokio::time::sleep(left).await;
    assert_eq!(scene.device.journal().configs(), []);
    scene.device.power_on();
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.result(9).await, 0);
    assert_applied(&scene, &at);
    scene.close().await;
}

#[tokio::test]
async fn a_device_that_accepts_says_no_more_where_it_is_of_that_kind() {
    for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
        let scene = Scene::set(|spec| {
            spec.vocabulary = vocabulary;
            spec.scheduled_reply = ScheduledReply::AcceptedOnly;
        })
        .await;
        let (mut talk, _) = scene.bridge.greet().await;
        let at = soon();
        let config = (vocabulary == Vocabulary::Extended).then(|| "17+77c0d1e2".to_owned());
        let download = Download { config: config.clone(), ..scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE) };
        assert_eq!(talk.order_profile(download).await, 0);
        talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Time(at.datetime()))).await;
        assert_eq!(talk.result(9).await, 0);
        within("its time", scene.device.wait_until(|record| !record.journal().configs().is_empty())).await;
        assert_applied(&scene, &at);
        if vocabulary == Vocabulary::Extended {
            // What has changed it says, as ever.
            assert_eq!(talk.hear_information().await.config, config);
        }
        talk.say(ServerMessage::UploadLog(scene.files.location(Transfer::Ftp, "log"))).await;
        assert!(matches!(talk.hear().await, DeviceMessage::LogUploaded(..)), "and nothing before that");
        assert_eq!(scene.device.journal().counters().sent(9), 1);
        scene.close().await;
    }
}

#[tokio::test]
async fn a_profile_at_once_takes_the_place_of_one_at_a_time() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    let at = soon();
    schedule(&scene, &mut talk, &at).await;
    let other = b"hostname sw-bonn-001\n";
    assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "other.cfg", other)).await, 0);
    assert_eq!(talk.order_upgrade().await, 0);
    assert_eq!(&scene.device.config().unwrap().content[..], other);
    // What is said at a time after it shows that nothing came of it.
    let later = at + Duration::from_secs(1);
    assert_eq!(talk.order_profile(scene.files.put(Transfer::Ftp, "third.cfg", PROFILE)).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Time(later.datetime()))).await;
    assert_eq!(talk.result(9).await, 0);
    let journal = scene.device.journal();
    assert_eq!(journal.configs().len(), 2);
    assert!(journal.configs()[1].0 >= later.timestamp());
    scene.close().await;
}
