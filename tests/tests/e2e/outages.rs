//! Controller, bridge and API server end at any moment, and start again: no command is wrong, none is doubled.

use std::time::Duration;

use anyhow::Result;
use fettle_device::{Fault, FaultKind, Step};
use fettle_tests::ControlPlane;

use crate::wire::{Cut, Wire};
use crate::world::{NEW, World, device_does, received, strict};

const SPEC: [&str; 4] = [
    "firmware: {name: access-5.2.1}",
    "config: {name: access-17}",
    "rollout: {maxUnavailable: 100%, retries: 3}",
    "logs: {upload: Never}",
];

/// Where the wire is cut and the bridge killed. `Before(6)` is between the write of the phase and message 6 as the device
/// sees it; `After(6)` is right after it.
const CUTS: [Cut; 15] = [
    Cut::After(1),
    Cut::Before(3),
    Cut::After(3),
    Cut::Before(5),
    Cut::After(5),
    Cut::Before(6),
    Cut::After(6),
    Cut::Before(4),
    Cut::After(4),
    Cut::Before(7),
    Cut::After(7),
    Cut::Before(8),
    Cut::After(8),
    Cut::Before(9),
    Cut::After(9),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_at_any_step_sends_no_wrong_and_no_doubled_command() -> Result<()> {
    let mut world = World::start("killed-bridge").await?;
    world.firmware(NEW).await?;
    world.config("17", "vlan 7").await?;
    world.group(&SPEC).await?;
    for (number, cut) in (1..).zip(CUTS) {
        let bridge = world.fettle.bridge();
        let pid = bridge.program().pid().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        let kill = move || {
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        };
        let wire = Wire::to(bridge.device_address(), cut, kill).await?;
        let mut spec = strict(number);
        spec.bridges = vec![wire.address];
        let device = world.device(&format!("sw-{number:02}"), spec).await?;
        tokio::time::timeout(crate::world::PATIENCE, wire.was_cut())
            .await
            .map_err(|_| anyhow::anyhow!("{cut:?} never came\n{}", device.journal()))?;
        world.fettle.bridge().program().restart().await?;
        world.all_current(i64::from(number)).await?;
        assert_eq!(device.version(), NEW, "{cut:?}\n{}", device.journal());
        assert_eq!(device.journal().flashes().len(), 1, "{cut:?}\n{}", device.journal());
        assert!(device.journal().violations().is_empty(), "{cut:?}\n{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_goes_on_where_it_was_and_never_over_the_limit() -> Result<()> {
    let mut world = World::start("killed-controller").await?;
    world.firmware(NEW).await?;
    let mut specs = Vec::new();
    for number in 1..=6 {
        let mut spec = strict(number);
        spec.timings.install = Duration::from_millis(500);
        world.declare(&format!("sw-{number}"), spec.mac, "{role: access}").await?;
        specs.push(spec);
    }
    let devices = world.switch_on(specs).await?;
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {maxUnavailable: 2}"]).await?;
    for _ in 0..2 {
        let restarting = devices
            .iter()
            .map(|device| Box::pin(device.wait_until(|record| record.journal().counters().received(6) > 0)));
        tokio::time::timeout(crate::world::PATIENCE, futures::future::select_all(restarting)).await?;
        world.fettle.controller().restart().await?;
    }
    world.all_current(6).await?;
    let outages = devices.iter().flat_map(|device| device.journal().outages());
    let most = fettle_device::journal::most_at_once(outages);
    assert!(most <= 2, "{most} devices were down at once");
    for device in devices {
        assert_eq!(device.journal().flashes().len(), 1, "{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_holds_back_the_restart_until_it_is_back() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crds().await?;
    let mut world = World::start_on(&control_plane, "api-away", |builder| builder).await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::once(Step::Result5, FaultKind::Freeze)];
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    device_does(&device, "has its image", |record| record.journal().counters().faults == 1).await?;
    control_plane.stop_api_server()?;
    device.thaw();
    // The bridge asks for a write that nobody answers; a second attempt shows that it waits for that one.
    let bridge = world.fettle.bridge().program();
    world
        .namespace
        .eventually("the write before 6 was tried twice", crate::world::PATIENCE, || async {
            let tried = bridge.metric("fettle_bridge_status_writes_total", &["outcome=\"Unavailable\""]).await;
            tried.ok().filter(|count| *count >= 2.0)
        })
        .await?;
    assert_eq!(received(&device).get(&6), None, "{}", device.journal());
    control_plane.start_api_server().await?;
    world.all_current(1).await?;
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 1), (6, 1)], "{}", device.journal());
    assert_eq!(device.journal().flashes().len(), 1, "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_restarts_while_a_device_flashes_changes_nothing() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crds().await?;
    let mut world = World::start_on(&control_plane, "api-restarts", |builder| builder).await?;
    world.firmware(NEW).await?;
    world.config("17", "vlan 7").await?;
    let mut spec = strict(1);
    spec.timings.install = Duration::from_secs(2);
    let device = world.device("sw-1", spec).await?;
    world.group(&SPEC).await?;
    device_does(&device, "gets its 6", |record| record.journal().counters().received(6) == 1).await?;
    control_plane.stop_api_server()?;
    control_plane.start_api_server().await?;
    world.all_current(1).await?;
    let commands: Vec<_> = received(&device).into_iter().collect();
    assert_eq!(commands, [(3, 1), (4, 1), (6, 1), (8, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_away_while_its_device_flashes_finds_it_done() -> Result<()> {
    let mut world = World::start("away-bridge").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.timings.install = Duration::from_secs(1);
    let device = world.device("sw-1", spec).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    device_does(&device, "gets its 6", |record| record.journal().counters().received(6) == 1).await?;
    world.fettle.bridge().program().kill();
    device_does(&device, "has booted", |record| record.journal().boots().len() == 1).await?;
    world.fettle.bridge().program().start().await?;
    world.all_current(1).await?;
    assert_eq!(received(&device).into_iter().collect::<Vec<_>>(), [(3, 1), (6, 1)], "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_offline_are_caught_up_when_they_return_and_do_not_hold_the_group_open() -> Result<()> {
    let mut world = World::start("offline").await?;
    world.firmware(NEW).await?;
    let here = world.device("sw-1", strict(1)).await?;
    let away = world.device("sw-2", strict(2)).await?;
    world.connected("sw-1").await?;
    world.connected("sw-2").await?;
    away.power_cut();
    world.device_until("sw-2", "is written off as disconnected", |status| status.session.is_none()).await?;
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {maxUnavailable: 2}"]).await?;
    let done = world.namespace.wait_for::<fettle_crds::DeviceGroup>(
        "access",
        "is Ready with one device offline",
        crate::world::PATIENCE,
        |group| {
            let Some(status) = &group.status else { return false };
            status.counts.current == 1
                && status.counts.offline == 1
                && crate::world::condition(&status.conditions, "Ready") == "True"
        },
    );
    done.await?;
    assert_eq!(here.version(), NEW);
    away.power_on();
    world.all_current(2).await?;
    assert_eq!(away.version(), NEW);
    Ok(())
}
