//! Device objects that change under a device that is connected: deleted, made anew, no longer approved, declared twice.

use std::time::Duration;

use anyhow::Result;
use fettle_crds::{Phase, TryResult, Verdict};
use fettle_device::{Fault, FaultKind, Step};

use crate::world::{NEW, World, device_does, received, strict};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";
const NO_LOGS: &str = "logs: {upload: Never}";

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_loses_its_approval_in_mid_flash_is_seen_through_and_then_sent_away() -> Result<()> {
    let mut world = World::start("unapproved").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.timings.install = Duration::from_secs(2);
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE, NO_LOGS]).await?;
    device_does(&device, "gets its 6", |record| record.journal().counters().received(6) == 1).await?;
    world.namespace.kubectl(&["patch", "dev", "sw-1", "--type=merge", "-p", r#"{"spec":{"approved":false}}"#]).await?;
    let status = world.device_until("sw-1", "has ended its try", |status| {
        status.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Done)
    });
    let upgrade = status.await?.upgrade.expect("it was just there");
    assert_eq!((upgrade.result, upgrade.reason), (Some(TryResult::Succeeded), Some(Verdict::Upgraded)));
    device_does(&device, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    world.device_until("sw-1", "is not on record as connected", |status| status.session.is_none()).await?;
    assert_eq!(device.journal().flashes().len(), 1, "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_fetched_for_a_device_object_that_is_no_more_is_never_installed() -> Result<()> {
    let mut world = World::start("recreated").await?;
    world.firmware("5.0.0").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::once(Step::Result5, FaultKind::Freeze)];
    let mac = spec.mac;
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.0.0}", NO_LOGS]).await?;
    device_does(&device, "has the first image", |record| record.journal().counters().faults == 1).await?;
    // The ids of targets begin anew with the object: the first target of the new one has the id of the old one's.
    world.namespace.kubectl(&["delete", "dev", "sw-1"]).await?;
    world.group(&[FIRMWARE, NO_LOGS]).await?;
    world.declare("sw-1", mac, "{role: access}").await?;
    device.thaw();
    world.all_current(1).await?;
    let boots: Vec<_> = device.journal().boots().into_iter().map(|(_, version)| version.to_owned()).collect();
    assert_eq!(boots, [NEW], "{}", device.journal());
    assert_eq!(received(&device).get(&6), Some(&1), "{}", device.journal());
    assert!(device.journal().violations().is_empty(), "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_that_is_declared_a_second_time_is_sent_away_and_off_the_record_until_that_ends()
-> Result<()> {
    let mut world = World::start("declared-twice").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    world.declare("also-sw-1", device.mac(), "{role: access}").await?;
    device_does(&device, "is told to disconnect", |record| record.journal().counters().received(2) >= 1).await?;
    world.device_until("sw-1", "is not on record as connected", |status| status.session.is_none()).await?;
    world.namespace.kubectl(&["delete", "dev", "also-sw-1"]).await?;
    world.connected("sw-1").await?;
    Ok(())
}
