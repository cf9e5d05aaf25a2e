//! The ways in which devices fetch files and bring logs: HTTP for those that announce it, and another way where one fails.

use anyhow::Result;
use fettle_crds::{TryResult, Verdict, WireTransfer};
use fettle_device::image::{self, ImageHeader};
use fettle_device::record::Record;
use fettle_device::spec::FilePorts;
use fettle_device::{DeviceHandle, Vocabulary};
use fettle_protocol::datum::{Capabilities, Transfer};
use tokio::net::TcpListener;

use crate::world::{MODEL, NEW, World, device_does, strict};

/// The ways that the commands of this type named, in their order.
fn ways(device: &DeviceHandle, message: u8) -> Vec<Transfer> {
    let journal = device.journal();
    journal.commands(message).iter().filter_map(|(_, command)| Some(command.place.as_ref()?.transfer)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_announces_http_fetches_everything_and_brings_its_log_over_it_and_one_that_does_not_does_not()
-> Result<()> {
    let mut world = World::start("http").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname b").await?;
    let mut capable = strict(1);
    capable.vocabulary = Vocabulary::Extended;
    let mut without = strict(2);
    without.vocabulary = Vocabulary::Extended;
    without.withheld = Capabilities::HTTP;
    let labels = "{role: access}";
    let devices = vec![("sw-1".to_owned(), labels, capable), ("sw-2".to_owned(), labels, without)];
    let devices = world.fleet(devices).await?;
    let [capable, without] = &devices[..] else { panic!("two devices") };
    let group = [
        "firmware: {name: access-5.2.1}",
        "config: {name: access-17}",
        "rollout: {maxUnavailable: 100%}",
        "logs: {upload: Always}",
    ];
    world.group(&group).await?;
    world.all_current(2).await?;
    for device in &devices {
        device_does(device, "uploads its log", |record| record.journal().counters().received(10) == 1).await?;
    }
    for message in [3, 4, 10] {
        assert_eq!(ways(capable, message), [Transfer::Http], "{message}: {}", capable.journal());
        assert_eq!(ways(without, message), [Transfer::Ftp], "{message}: {}", without.journal());
    }
    let bridge = world.fettle.bridge().program();
    let logs = || async {
        let http = ["protocol=\"http\"", "operation=\"upload\"", "result=\"complete\""];
        (bridge.metric("fettle_bridge_transfers_total", &http).await.ok()? == 1.0).then_some(())
    };
    world.namespace.eventually("the log has come over HTTP", crate::world::PATIENCE, logs).await?;
    let http = ["protocol=\"http\"", "operation=\"download\"", "result=\"complete\""];
    assert_eq!(bridge.metric("fettle_bridge_transfers_total", &http).await?, 2.0);
    for device in &devices {
        assert!(device.journal().violations().is_empty(), "{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whom_ftp_fails_is_told_tftp_and_that_is_remembered_for_its_next_upgrade() -> Result<()> {
    let mut world = World::start("fallback").await?;
    world.firmware(NEW).await?;
    world.firmware("5.2.2").await?;
    let mut spec = strict(1);
    // Nobody listens there: as behind a firewall that lets FTP through to nobody.
    spec.file_ports = FilePorts { ftp: 1, tftp: world.fettle.bridge().tftp_port() };
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.all_current(1).await?;
    let status = world.try_ended("sw-1", 2, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(ways(&device, 3), [Transfer::Ftp, Transfer::Tftp], "{}", device.journal());
    assert_eq!(status.failed_transfers, [WireTransfer::Ftp]);

    world.group(&["firmware: {name: access-5.2.2}"]).await?;
    world.all_current(1).await?;
    world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(ways(&device, 3), [Transfer::Ftp, Transfer::Tftp, Transfer::Tftp], "{}", device.journal());

    // What a device does not announce it is never told, and why it stays is said.
    world.firmware("5.2.3").await?;
    world.group(&["firmware: {name: access-5.2.3}", "transfer: HTTP"]).await?;
    world
        .group_until("says that the device does not announce HTTP", |status| {
            status.reasons.get("HttpNotAnnounced") == Some(&1)
        })
        .await?;
    assert_eq!(device.version(), "5.2.2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whom_ftp_leaves_waiting_until_its_time_is_over_is_told_tftp_in_its_next_try() -> Result<()> {
    let mut world = World::start("silence").await?;
    world.firmware(NEW).await?;
    // Taken in, and never answered: as behind a firewall that drops what it does not let through.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let mut spec = strict(1);
    spec.file_ports = FilePorts { ftp: silent.local_addr()?.port(), tftp: world.fettle.bridge().tftp_port() };
    let device = world.device("sw-1", spec).await?;
    world.connected("sw-1").await?;
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {deviceTimeout: 20s}", "logs: {upload: Never}"]).await?;
    let status = world.try_ended("sw-1", 2, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(ways(&device, 3), [Transfer::Ftp, Transfer::Tftp], "{}", device.journal());
    assert_eq!(status.failed_transfers, [WireTransfer::Ftp]);
    drop(silent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_restart_a_device_is_told_what_its_new_firmware_takes_whatever_the_old_one_did() -> Result<()> {
    let mut world = World::start("vocabulary").await?;
    // It forgets all that goes beyond the base protocol with one release, and has it back with the next.
    for (version, vocabulary) in [(NEW, Vocabulary::Strict), ("5.3.0", Vocabulary::Extended)] {
        let header = ImageHeader { model: MODEL.to_owned(), version: version.to_owned(), vocabulary: Some(vocabulary) };
        world.apply(&world.release_of(version, version, &image::build_of(&header, 64 * 1024))?).await?;
    }
    world.config("17", "hostname a").await?;
    world.config("18", "hostname b").await?;
    let mut spec = strict(1);
    spec.vocabulary = Vocabulary::Extended;
    let device = world.device("sw-1", spec).await?;
    let has_applied = |text: &'static str| {
        move |record: &Record| record.config().is_some_and(|config| *config.content == *text.as_bytes())
    };
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}"]).await?;
    device_does(&device, "applies the first configuration", has_applied("hostname a")).await?;
    world.all_current(1).await?;
    world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    let identity = || device.config().and_then(|config| config.identity);
    assert_eq!(
        (ways(&device, 3), ways(&device, 4)),
        (vec![Transfer::Http], vec![Transfer::Ftp]),
        "{}",
        device.journal()
    );
    assert_eq!(identity(), None, "datum 64 came to who does not know it");

    world.group(&["firmware: {name: access-5.3.0}", "config: {name: access-18}"]).await?;
    device_does(&device, "applies the second configuration", has_applied("hostname b")).await?;
    world.all_current(1).await?;
    let status = world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    let wanted = status.target.and_then(|target| target.config).map(|config| config.identity);
    assert_eq!((identity(), status.reported.and_then(|reported| reported.config)), (wanted.clone(), wanted));
    assert!(device.journal().violations().is_empty(), "{}", device.journal());
    Ok(())
}
