//! What can be done to a running device from outside.

use fettle_device::record::{Condition, Record};
use fettle_protocol::ServerMessage;
use fettle_protocol::datum::Transfer;

use crate::support::{Bridge, Ended, MAC, Scene, image, spec, within};

#[tokio::test]
async fn power_cut_resets_the_connection_and_power_on_boots() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.device.power_cut();
    assert_eq!(talk.end().await, Ended::Reset);
    within("the dark", scene.device.wait_until(|record| record.condition() == Condition::Off)).await;
    scene.device.power_on();
    let (_talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "4.9.0");
    let journal = scene.device.journal();
    assert_eq!((journal.boots().len(), journal.outages().len()), (1, 1));
    assert!(journal.outages()[0].to.is_some());
    scene.close().await;
}

#[tokio::test]
async fn power_cut_while_the_flash_is_written_leaves_the_old_version() {
    let scene = Scene::set(|spec| spec.timings.install = std::time::Duration::from_secs(3600)).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0);
    talk.say(ServerMessage::Restart).await;
    within("the flash", scene.device.wait_until(|record| record.journal().flashes().len() == 1)).await;
    scene.device.power_cut();
    scene.device.power_on();
    let (_talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "4.9.0");
    assert_eq!(scene.device.journal().flashes()[0].ended, None);
    scene.close().await;
}

#[tokio::test]
async fn an_image_that_was_fetched_is_not_started_by_a_loss_of_power() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0);
    scene.device.power_cut();
    scene.device.power_on();
    let (_talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "4.9.0");
    scene.close().await;
}

#[tokio::test]
async fn a_frozen_device_does_nothing_and_goes_on_when_it_is_thawed() {
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.device.freeze();
    scene.device.move_to(scene.bridge.address());
    talk.say(ServerMessage::DownloadVersion(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1")))).await;
    let heard = tokio::time::timeout(std::time::Duration::from_millis(50), talk.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    scene.device.thaw();
    assert_eq!(talk.result(5).await, 0);
    scene.close().await;
}

#[tokio::test]
async fn a_device_moves_to_another_bridge_at_once_or_when_its_connection_ends() {
    let other = Bridge::bind().await;
    let scene = Scene::set(|_| {}).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.device.reconnect_to(other.address());
    assert_eq!(talk.end().await, Ended::Finished);
    let (mut talk, _) = other.greet().await;
    scene.device.move_to(scene.bridge.address());
    assert_eq!(talk.order_image(scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await, 0, "still here");
    assert_eq!(scene.device.read(Record::bridge), Some(other.address()));
    drop(talk);
    let (mut talk, _) = scene.bridge.greet().await;
    scene.device.reset();
    assert_eq!(talk.end().await, Ended::Reset);
    let (_talk, _) = scene.bridge.greet().await;
    scene.close().await;
}

#[tokio::test]
async fn two_devices_may_have_one_mac() {
    let scene = Scene::set(|_| {}).await;
    let (_first, one) = scene.bridge.greet().await;
    let twin = scene.fleet.add(spec(scene.files.ports)).unwrap();
    let (_second, other) = scene.bridge.greet().await;
    assert_eq!(one, other);
    assert_eq!((twin.mac(), scene.fleet.devices().len()), (MAC, 2));
    assert_eq!(twin.journal().counters().connected, 1);
    scene.close().await;
}
