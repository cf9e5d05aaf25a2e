//! Logs: of a device that a person asks, and of one whose TCP connection is gone.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use fettle_crds::{Device, DeviceGroupStatus, DeviceStatus, LOG_AT, LastLog, LogResult, TryResult, Verdict};
use fettle_device::spec::FilePorts;
use fettle_device::{DeviceHandle, DeviceSpec, Fault, FaultKind, Fleet, FleetConfig, Moment, Step, Vocabulary};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{NEW, World, condition, device_does, received, strict};

impl World {
    /// A person asks for the log of a device.
    pub async fn ask_for_log(&self, name: &str, word: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {LOG_AT: word}}});
        let devices = self.namespace.api::<Device>();
        devices.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until it is on record what became of that.
    pub async fn answered(&self, name: &str, word: &str) -> Result<DeviceStatus> {
        let answered = |status: &DeviceStatus| status.log_request.as_ref().is_some_and(|request| request.value == word);
        self.device_until(name, &format!("says what became of {word:?}"), answered).await
    }

    /// Holds a log against what lies where it is said to be.
    pub fn is_there(&self, log: &LastLog) -> Result<()> {
        let path = log.location.strip_prefix("file://fettle-bridge-0").context("not at this bridge")?;
        assert!(Path::new(path).starts_with(self.fettle.bridge().data_dir().join("logs")), "{log:?}");
        assert_eq!(std::fs::read(path)?.len() as i64, log.size, "{log:?}");
        Ok(())
    }
}

fn asked(device: &DeviceHandle) -> u64 {
    received(device).get(&10).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_gets_the_log_of_a_device_once_for_each_time_they_ask_or_the_reason_why_not() -> Result<()> {
    let mut world = World::start("log-at").await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    world.ask_for_log("sw-1", "monday").await?;
    let status = world.answered("sw-1", "monday").await?;
    assert_eq!(status.log_request.as_ref().map(|request| request.result), Some(LogResult::Stored), "{status:?}");
    let first = status.last_log.context("no log")?;
    assert_eq!(first.target, 0, "it never had a target: {first:?}");
    world.is_there(&first)?;
    assert_eq!(asked(&device), 1, "{}", device.journal());

    device.set_faults(vec![Fault::once(Step::Upload10, FaultKind::Refuse)]);
    world.ask_for_log("sw-1", "tuesday").await?;
    let status = world.answered("sw-1", "tuesday").await?;
    let request = status.log_request.context("no answer")?;
    assert_eq!(request.result, LogResult::Failed, "{request:?}");
    assert!(request.message.is_some_and(|message| message.contains("result 1")));
    assert_eq!(status.last_log, Some(first), "the one that there is stays");
    assert_eq!(asked(&device), 2, "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_tcp_is_stuck_brings_its_log_when_it_is_asked_over_udp() -> Result<()> {
    let mut world = World::start("log-over-udp").await?;
    world.firmware(NEW).await?;
    let spec = DeviceSpec {
        // Devices share this machine, and a bridge asks nobody whose address another has.
        local_address: Some(Ipv4Addr::new(127, 0, 1, 1)),
        udp: true,
        // It wants a proof of who asks.
        vocabulary: Vocabulary::Extended,
        faults: vec![
            Fault::once(Step::Download3, FaultKind::HalfOpen),
            Fault::once(Step::Upload10, FaultKind::DropConnection(Moment::Before)),
        ],
        ..strict(1)
    };
    let device = world.device("sw-1", spec).await?;
    world
        .group(&["firmware: {name: access-5.2.1}", "rollout: {deviceTimeout: 5s, retries: 0}", "logs: {udp: true}"])
        .await?;
    device_does(&device, "gets its first 3", |record| record.journal().counters().received(3) == 1).await?;
    world.try_ended("sw-1", 1, TryResult::Failed, Verdict::TimedOut).await?;
    let status = world.device_until("sw-1", "has brought its log", |status| status.last_log.is_some()).await?;
    let log = status.last_log.clone().context("no log")?;
    assert_eq!((log.target, status.session), (1, None), "nobody holds it");
    world.is_there(&log)?;
    assert_eq!(asked(&device), 2, "the first datagram was lost:\n{}", device.journal());

    let reported = status.reported.clone().context("nothing reported")?;
    assert!(reported.capabilities.iter().any(|capability| capability == "LogRequestAuth"), "{reported:?}");

    // A person can ask it, too.
    world.ask_for_log("sw-1", "now").await?;
    let status = world.answered("sw-1", "now").await?;
    assert_eq!(status.log_request.as_ref().map(|request| request.result), Some(LogResult::Stored), "{status:?}");
    let next = status.last_log.context("no log")?;
    assert_ne!(next.location, log.location);
    world.is_there(&next)?;
    assert!(device.journal().violations().is_empty(), "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_asked_over_udp_at_the_port_that_it_calls_where_the_bridge_has_another() -> Result<()> {
    // A NodePort, or a proxy.
    let front = TcpListener::bind("127.0.0.1:0").await?;
    let called = front.local_addr()?;
    let port = called.port().to_string();
    let world = World::start_with("log-over-udp-front", |builder| builder.env("FETTLE_ADVERTISE_DEVICE_PORT", &port));
    let world = world.await?;
    world.firmware(NEW).await?;
    let bridge = world.fettle.bridge();
    let behind = bridge.device_address();
    let _passes_on = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut passed_on = JoinSet::new();
        while let Ok((mut device, _)) = front.accept().await {
            passed_on.spawn(async move {
                let mut bridge = TcpStream::connect(behind).await?;
                copy_bidirectional(&mut device, &mut bridge).await
            });
        }
    }));
    let spec = DeviceSpec {
        udp: true,
        file_ports: FilePorts { ftp: bridge.ftp_port(), tftp: bridge.tftp_port() },
        faults: vec![Fault::once(Step::Download3, FaultKind::HalfOpen)],
        ..strict(1)
    };
    world.declare("sw-1", spec.mac, "{role: access}").await?;
    world.devices_known().await?;
    let fleet = Fleet::start(FleetConfig::new(vec![called], vec![spec]))?;
    let device = fleet.devices().pop().context("a fleet of one has one device")?;
    world
        .group(&["firmware: {name: access-5.2.1}", "rollout: {deviceTimeout: 5s, retries: 0}", "logs: {udp: true}"])
        .await?;
    device_does(&device, "gets its first 3", |record| record.journal().counters().received(3) == 1).await?;
    world.try_ended("sw-1", 1, TryResult::Failed, Verdict::TimedOut).await?;
    let status = world.device_until("sw-1", "has brought its log", |status| status.last_log.is_some()).await?;
    assert_eq!(status.session, None, "nobody holds it");
    world.is_there(&status.last_log.context("no log")?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_finds_no_room_is_told_of_on_its_device_and_its_group_until_the_next_try() -> Result<()> {
    // Less than a block of the disk.
    let mut world = World::start_with("no-room", |builder| builder.env("FETTLE_LOG_STORE_SIZE", "1KiB")).await?;
    world.firmware(NEW).await?;
    let fails = DeviceSpec { faults: vec![Fault::once(Step::Download3, FaultKind::Refuse)], ..strict(1) };
    let device = world.device("sw-1", fails).await?;
    world.connected("sw-1").await?;
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {retries: 0}"]).await?;
    let refused = |status: &DeviceStatus| status.log_refused.is_some();
    let status = world.device_until("sw-1", "says that its log found no room", refused).await?;
    let refused = status.log_refused.context("it was just there")?;
    let why = "fettle-bridge-0 has no room for its log: the log store of 1024 bytes has no room for it";
    assert_eq!((refused.target, refused.message.as_str()), (1, why));
    let is_full =
        |full: &'static str| move |status: &DeviceGroupStatus| condition(&status.conditions, "LogStoreFull") == full;
    let status = world.group_until("says that there is no room", is_full("True")).await?;
    let said =
        status.conditions.iter().find(|condition| condition.type_ == "LogStoreFull").context("it was just there")?;
    assert!(said.message.starts_with("no room was found for the newest log of sw-1: "), "{said:?}");

    world.ask_for_log("sw-1", "now").await?;
    let request = world.answered("sw-1", "now").await?.log_request.context("no answer")?;
    assert_eq!(request.result, LogResult::Failed, "{request:?}");
    assert!(request.message.as_ref().is_some_and(|message| message.starts_with(why)), "{request:?}");
    assert_eq!(asked(&device), 2, "{}", device.journal());

    world.firmware("5.3.0").await?;
    world.group(&["firmware: {name: access-5.3.0}"]).await?;
    world.all_current(1).await?;
    let status =
        world.device_until("sw-1", "has no former log to tell of", |status| status.log_refused.is_none()).await?;
    assert_eq!(status.last_log, None, "{status:?}");
    world.group_until("says no more that there is no room", is_full("")).await?;
    Ok(())
}
