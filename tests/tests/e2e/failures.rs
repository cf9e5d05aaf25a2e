//! Devices that fail, in every way that the simulator knows: each try ends with its reason, and nothing is done twice.

use std::path::Path;

use anyhow::{Context, Result};
use fettle_crds::{TryResult, Verdict};
use fettle_device::{DeviceHandle, Fault, FaultKind, Moment, Step};

use crate::world::{NEW, OLD, PATIENCE, World, device_does, received, strict};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";
const CONFIG: &str = "config: {name: access-17}";

fn flashes(device: &DeviceHandle) -> usize {
    device.journal().flashes().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crc_mismatch_ends_the_try_the_next_succeeds_and_the_status_says_where_the_log_of_the_first_is() -> Result<()>
{
    let mut world = World::start("crc").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::once(Step::Download3, FaultKind::Corrupt)];
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE]).await?;
    world.all_current(1).await?;
    let status = world.try_ended("sw-1", 2, TryResult::Succeeded, Verdict::Upgraded).await?;
    assert_eq!(status.last_target, Some(2));
    assert_eq!(device.journal().results(5).iter().map(|(_, result)| *result).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(flashes(&device), 1);
    let status = world.device_until("sw-1", "has brought a log", |status| status.last_log.is_some()).await?;
    let log = status.last_log.context("no log")?;
    assert_eq!(log.target, 1, "{log:?}");
    let path = log.location.strip_prefix("file://fettle-bridge-0").context("not at this bridge")?;
    assert!(Path::new(path).starts_with(world.fettle.bridge().data_dir().join("logs/sw-1")), "{log:?}");
    assert_eq!(std::fs::read(path)?.len() as i64, log.size, "{log:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_always_fails_uses_up_the_tries_and_stops_the_rollout() -> Result<()> {
    let mut world = World::start("out-of-tries").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::always(Step::Download3, FaultKind::FailDownload)];
    let device = world.device("sw-1", spec).await?;
    let untouched = world.device("sw-2", strict(2)).await?;
    // One at a time, and nobody else before the first is done: the first by name of those that are connected.
    world.connected("sw-1").await?;
    world.connected("sw-2").await?;
    world.group(&[FIRMWARE, "rollout: {retries: 1, steps: [{devices: 1}]}", "logs: {upload: Never}"]).await?;
    world.try_ended("sw-1", 2, TryResult::Failed, Verdict::DownloadFailed).await?;
    let group = world.namespace.wait_for::<fettle_crds::DeviceGroup>("access", "is Stalled", PATIENCE, |group| {
        group.status.as_ref().is_some_and(|status| crate::world::condition(&status.conditions, "Stalled") == "True")
    });
    let status = group.await?.status.unwrap_or_default();
    assert_eq!(status.counts.failed, 1, "{status:?}");
    assert_eq!(status.reasons.get("DownloadFailed"), Some(&1), "{status:?}");
    assert_eq!(received(&device).get(&3), Some(&2), "{}", device.journal());
    assert_eq!(received(&untouched).len(), 0, "{}", untouched.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_with_the_old_version_has_failed_its_try() -> Result<()> {
    let mut world = World::start("came-back-old").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::always(Step::Boot, FaultKind::ComeBackOld)];
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE, "rollout: {retries: 1}", "logs: {upload: Never}"]).await?;
    world.try_ended("sw-1", 2, TryResult::Failed, Verdict::CameBackUnchanged).await?;
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 2), (6, 2)], "{}", device.journal());
    assert_eq!(device.version(), OLD);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_with_a_third_version_gets_no_further_command() -> Result<()> {
    let mut world = World::start("third-version").await?;
    world.firmware(NEW).await?;
    world.config("17", "vlan 7").await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::always(Step::Boot, FaultKind::ComeBackWith("6.6.6".into()))];
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE, CONFIG, "logs: {upload: Never}"]).await?;
    world.try_ended("sw-1", 1, TryResult::Failed, Verdict::UnexpectedVersion).await?;
    let group =
        world.namespace.wait_for::<fettle_crds::DeviceGroup>("access", "counts the failure", PATIENCE, |group| {
            group.status.as_ref().is_some_and(|status| status.reasons.contains_key("UnexpectedVersion"))
        });
    group.await?;
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 1), (6, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_at_any_step_is_no_failure_by_itself_and_nothing_is_flashed_twice() -> Result<()> {
    let mut world = World::start("lost-connections").await?;
    world.firmware(NEW).await?;
    world.config("17", "vlan 7").await?;
    let steps =
        [Step::Download3, Step::Result5, Step::Restart6, Step::Download4, Step::Result7, Step::Apply8, Step::Result9];
    let faults: Vec<_> = steps
        .into_iter()
        .flat_map(|step| [(step, Moment::Before), (step, Moment::After)])
        .flat_map(|(step, moment)| {
            [FaultKind::DropConnection(moment), FaultKind::ResetConnection(moment)].map(|kind| Fault::once(step, kind))
        })
        .collect();
    let mut specs = Vec::new();
    for (number, fault) in (1..).zip(&faults) {
        let mut spec = strict(number);
        spec.faults = vec![fault.clone()];
        world.declare(&format!("sw-{number:02}"), spec.mac, "{role: access}").await?;
        specs.push(spec);
    }
    let devices = world.switch_on(specs).await?;
    world.group(&[FIRMWARE, CONFIG, "rollout: {maxUnavailable: 100%, retries: 3}", "logs: {upload: Never}"]).await?;
    world.all_current(devices.len() as i64).await?;
    for (device, fault) in devices.iter().zip(&faults) {
        assert_eq!(device.version(), NEW, "{fault:?}\n{}", device.journal());
        assert_eq!(flashes(device), 1, "{fault:?}\n{}", device.journal());
        assert!(device.journal().violations().is_empty(), "{fault:?}\n{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_the_profile_that_is_lost_is_asked_for_once_more_and_then_assumed() -> Result<()> {
    let mut world = World::start_with("result-lost", |builder| builder.env("FETTLE_APPLY_DEADLINE", "5s")).await?;
    world.config("17", "vlan 7").await?;
    let mut once = strict(1);
    once.faults = vec![Fault::once(Step::Result9, FaultKind::LoseResult)];
    let mut always = strict(2);
    always.faults = vec![Fault::always(Step::Result9, FaultKind::LoseResult)];
    let once = world.device("sw-1", once).await?;
    let always = world.device("sw-2", always).await?;
    world.group(&[CONFIG, "rollout: {maxUnavailable: 2}", "logs: {upload: Never}"]).await?;
    world.all_current(2).await?;
    world.try_ended("sw-1", 1, TryResult::Succeeded, Verdict::Upgraded).await?;
    let status = world.try_ended("sw-2", 1, TryResult::Succeeded, Verdict::ResultLost).await?;
    assert_eq!(status.applied.and_then(|applied| applied.reason), Some(Verdict::ResultLost));
    for device in [once, always] {
        assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(4, 2), (8, 2)], "{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_claims_a_download_which_never_happened_is_not_believed() -> Result<()> {
    let mut world = World::start("not-transferred").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::always(Step::Download3, FaultKind::ClaimWithoutDownload)];
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE, "rollout: {retries: 0}", "logs: {upload: Never}"]).await?;
    world.try_ended("sw-1", 1, TryResult::Failed, Verdict::NotTransferred).await?;
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_of_a_former_command_answers_nothing() -> Result<()> {
    // Much longer than the device needs to finish the transfer that it was at when it lost its connection.
    let mut world = World::start_with("late-result", |builder| builder.env("FETTLE_SETTLE", "12s")).await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.late_results = true;
    spec.faults = vec![Fault::once(Step::Download3, FaultKind::Throttle(24 * 1024))];
    let device = world.device("sw-1", spec).await?;
    world.group(&[FIRMWARE, "logs: {upload: Never}"]).await?;
    device_does(&device, "gets its first 3", |record| record.journal().counters().received(3) == 1).await?;
    device.reset();
    world.all_current(1).await?;
    assert_eq!(received(&device).get(&3), Some(&2), "{}", device.journal());
    assert_eq!(flashes(&device), 1, "{}", device.journal());
    let unasked = world.fettle.bridge().program().metric("fettle_bridge_unasked_results_total", &[]).await?;
    assert!(unasked >= 1.0, "{unasked}\n{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_superseded_while_its_download_runs_is_never_installed() -> Result<()> {
    let mut world = World::start("superseded").await?;
    world.firmware("5.0.0").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::once(Step::Result5, FaultKind::Freeze)];
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.0.0}", "logs: {upload: Never}"]).await?;
    device_does(&device, "has the first image", |record| record.journal().counters().faults == 1).await?;
    world.group(&[FIRMWARE, "logs: {upload: Never}"]).await?;
    let superseded = |status: &fettle_crds::DeviceStatus| {
        let firmware = status.target.as_ref().and_then(|target| target.firmware.as_ref());
        firmware.is_some_and(|firmware| firmware.reports == NEW)
    };
    world.device_until("sw-1", "has its second target", superseded).await?;
    device.thaw();
    world.all_current(1).await?;
    let boots: Vec<_> = device.journal().boots().into_iter().map(|(_, version)| version.to_owned()).collect();
    assert_eq!(boots, [NEW], "{}", device.journal());
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 2), (6, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_break_the_protocol_are_cut_off_with_a_counted_reason_and_others_are_served() -> Result<()> {
    let mut world = World::start("broken-devices").await?;
    world.firmware(NEW).await?;
    let broken = [
        (FaultKind::Garbage, "Malformed"),
        (FaultKind::LyingLength, "Malformed"),
        (FaultKind::WrongDirection, "Malformed"),
        (FaultKind::Flood(500), "Flood"),
        (FaultKind::Silent, "NoInformation"),
    ];
    let mut specs = Vec::new();
    for (number, (kind, _)) in (1..).zip(&broken) {
        let mut spec = strict(number);
        spec.faults = vec![Fault::always(Step::Connect, kind.clone())];
        world.declare(&format!("bad-{number}"), spec.mac, "{role: broken}").await?;
        specs.push(spec);
    }
    let mut unknown = strict(90);
    unknown.faults = vec![Fault::once(Step::Connect, FaultKind::UnknownMessage)];
    world.switch_on(specs).await?;
    let good = world.device("sw-1", strict(100)).await?;
    let skipped = world.device("sw-2", unknown).await?;
    world.group(&[FIRMWARE, "rollout: {maxUnavailable: 2}"]).await?;
    world.all_current(2).await?;
    for device in [good, skipped] {
        assert_eq!(device.version(), NEW, "{}", device.journal());
    }
    let bridge = world.fettle.bridge().program();
    for (_, reason) in broken {
        world
            .namespace
            .eventually(&format!("a connection is closed for {reason}"), PATIENCE, || async {
                let closed =
                    bridge.metric("fettle_bridge_connections_closed_total", &[&format!("reason=\"{reason}\"")]).await;
                closed.ok().filter(|count| *count >= 1.0)
            })
            .await?;
    }
    assert!(bridge.metric("fettle_bridge_unknown_messages_total", &[]).await? >= 1.0);
    Ok(())
}
