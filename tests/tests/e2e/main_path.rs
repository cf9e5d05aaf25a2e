//! The main job: devices are taken from what they run to what a group declares.

use std::time::Duration;

use anyhow::Result;
use fettle_crds::{TryResult, Verdict};
use fettle_device::{Fault, FaultKind, PathStyle, Step, Vocabulary};
use fettle_protocol::datum::Capabilities;

use crate::world::{NEW, OLD, World, received, strict};

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_device_gets_firmware_and_configuration_over_ftp() -> Result<()> {
    let mut world = World::start("strict-ftp").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname a").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}", "logs: {upload: Never}"]).await?;
    world.all_current(1).await?;

    let status = world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(device.version(), NEW);
    assert_eq!(device.config().map(|config| config.content.to_vec()).unwrap_or_default(), b"hostname a");
    let identity =
        status.target.as_ref().and_then(|target| target.config.as_ref()).map(|config| config.identity.clone());
    assert_eq!(status.applied.map(|applied| applied.config), identity);
    assert_eq!(status.previous.map(|previous| previous.firmware.version).as_deref(), Some(OLD));
    let commands: Vec<_> = received(&device).into_iter().collect();
    assert_eq!(commands, [(3, 1), (4, 1), (6, 1), (8, 1)], "{}", device.journal());
    assert!(device.journal().violations().is_empty(), "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_devices_fetch_over_tftp_where_the_group_or_the_device_says_so() -> Result<()> {
    let mut world = World::start("strict-tftp").await?;
    world.firmware(NEW).await?;
    let by_group = world.device("sw-1", strict(1)).await?;
    let mac = strict(2).mac;
    world.apply(&format!("apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: sw-2, labels: {{role: access}}}}\nspec: {{mac: \"{mac}\", transfer: FTP}}\n")).await?;
    let by_itself = world.switch_on(vec![strict(2)]).await?.remove(0);
    world.group(&["firmware: {name: access-5.2.1}", "transfer: TFTP", "rollout: {maxUnavailable: 100%}"]).await?;
    world.all_current(2).await?;
    let transfers = |device: &fettle_device::DeviceHandle| {
        device
            .journal()
            .commands(3)
            .iter()
            .map(|(_, command)| command.place.as_ref().map(|place| place.transfer))
            .collect::<Vec<_>>()
    };
    use fettle_protocol::datum::Transfer;
    assert_eq!(transfers(&by_group), [Some(Transfer::Tftp)], "{}", by_group.journal());
    assert_eq!(transfers(&by_itself), [Some(Transfer::Ftp)], "{}", by_itself.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_alone_needs_no_restart() -> Result<()> {
    let mut world = World::start("config-only").await?;
    world.config("17", "vlan 7").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.group(&["config: {name: access-17}"]).await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), OLD);
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(4, 1), (8, 1)], "{}", device.journal());

    // A change of its text is a new revision.
    world.config("17", "vlan 8").await?;
    world
        .namespace
        .wait_for::<fettle_crds::DeviceRollout>("access-2", "exists", crate::world::PATIENCE, |_| true)
        .await?;
    world.all_current(1).await?;
    crate::world::device_does(&device, "applies the second text", |record| {
        record.config().is_some_and(|config| *config.content == *b"vlan 8")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_alone_leaves_the_configuration() -> Result<()> {
    let mut world = World::start("firmware-only").await?;
    world.firmware_reporting("5.2.1", "V5.2.1-P3").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), "V5.2.1-P3");
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 1), (6, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extended_device_reports_its_configuration_and_finds_the_ports_that_it_is_told() -> Result<()> {
    let mut world = World::start("extended").await?;
    world.firmware(NEW).await?;
    world.config("17", "hostname b").await?;
    let mut spec = strict(1);
    spec.vocabulary = Vocabulary::Extended;
    spec.withheld = Capabilities::HTTP;
    spec.path_style = PathStyle::ChangeDirectory;
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.2.1}", "config: {name: access-17}"]).await?;
    world.all_current(1).await?;
    let status = world.connected("sw-1").await?;
    let reported = status.reported.clone().unwrap_or_else(|| panic!("nothing reported: {status:?}"));
    assert!(reported.capabilities.iter().any(|capability| capability == "ConfigVersion"), "{reported:?}");
    assert!(device.journal().violations().is_empty(), "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_long_download_has_come_is_seen_while_it_runs_and_not_after_it() -> Result<()> {
    let mut world = World::start_with("progress", |builder| builder.env("FETTLE_PROGRESS_INTERVAL", "1s")).await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.vocabulary = Vocabulary::Extended;
    spec.withheld = Capabilities::HTTP;
    spec.timings.progress = Duration::from_millis(100);
    // 64 KiB in about four seconds.
    spec.faults = vec![Fault::once(Step::Download3, FaultKind::Throttle(16 * 1024))];
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    let halfway = world
        .device_until("sw-1", "says how far its download is", |status| {
            status.progress.as_ref().is_some_and(|progress| progress.percent.is_some_and(|percent| percent > 0))
        })
        .await?;
    let progress = halfway.progress.unwrap_or_else(|| panic!("it was just there"));
    assert_eq!(Some(progress.target), halfway.target.map(|target| target.id));
    assert_eq!(progress.text.as_deref(), Some("downloading"));
    let columns = world.namespace.kubectl(&["get", "devices"]).await?;
    assert!(columns.contains("PROGRESS"), "{columns}");

    world.all_current(1).await?;
    let ended = world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(ended.progress, None, "{}", device.journal());
    let said = device.journal().counters().sent(32);
    let written =
        world.fettle.bridge().program().metric("fettle_bridge_status_writes_total", &["outcome=\"Done\""]).await?;
    // Its first call, the two of every upgrade, and one in a second of the download.
    assert!(said > 10 && written < 10.0, "{said} messages, {written} writes: {}", device.journal());
    Ok(())
}
