//! Who holds a MAC: two connections with one, a device that moves between bridges, a power cut without a FIN.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fettle_device::{Fault, FaultKind, Step, Vocabulary};
use fettle_tests::process::{Process, Spec};
use fettle_tests::program;

use crate::world::{MODEL, NEW, OLD, PATIENCE, World, device_does, received, strict};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_with_a_mac_whose_holder_answers_is_closed_and_told_of() -> Result<()> {
    let mut world = World::start("two-connections").await?;
    world.firmware(NEW).await?;
    let holder = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    let impostor = world.switch_on(vec![strict(1)]).await?.remove(0);
    device_does(&impostor, "is closed", was_closed).await?;
    assert!(received(&impostor).is_empty(), "{}", impostor.journal());
    assert!(holder.read(fettle_device::record::Record::is_connected), "{}", holder.journal());
    impostor.power_cut();
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.all_current(1).await?;
    assert_eq!(holder.version(), NEW);
    assert!(received(&impostor).is_empty(), "{}", impostor.journal());
    world
        .namespace
        .eventually("an event on the device tells of the contention", PATIENCE, || async {
            let events = world.namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await.ok()?;
            events.contains("MacContention").then_some(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_moves_from_one_bridge_to_the_other_idle_and_in_its_restart() -> Result<()> {
    let mut world = World::start_with("two-bridges", |builder| builder.bridges(2)).await?;
    world.firmware(NEW).await?;
    world.firmware("5.3.0").await?;
    // It takes the port of the file server from the command: each bridge has its own.
    let mut spec = strict(1);
    spec.vocabulary = Vocabulary::Extended;
    let device = world.device("sw-1", spec).await?;
    let [first, second] = [0, 1].map(|ordinal| world.fettle.bridges()[ordinal].device_address());
    let on = |bridge: &'static str| {
        move |status: &fettle_crds::DeviceStatus| {
            status.session.as_ref().is_some_and(|session| session.bridge.ends_with(bridge))
        }
    };
    world.device_until("sw-1", "is on the first bridge", on("-0")).await?;

    device.reconnect_to(second);
    world.device_until("sw-1", "is on the second bridge", on("-1")).await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.all_current(1).await?;

    device.set_faults(vec![Fault::once(Step::Restart6, FaultKind::Freeze)]);
    world.group(&["firmware: {name: access-5.3.0}"]).await?;
    device_does(&device, "is about to restart", |record| record.journal().counters().faults == 1).await?;
    device.move_to(first);
    device.thaw();
    world.all_current(1).await?;
    world.device_until("sw-1", "is on the first bridge again", on("-0")).await?;
    assert_eq!(device.version(), "5.3.0");
    assert_eq!(received(&device).get(&6), Some(&2), "{}", device.journal());
    assert_eq!(device.journal().flashes().len(), 2, "{}", device.journal());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mac_that_calls_another_bridge_while_its_holder_answers_is_refused_there() -> Result<()> {
    let mut world = World::start_with("contender", |builder| builder.bridges(2)).await?;
    let holder = world.device("sw-1", strict(1)).await?;
    world.connected("sw-1").await?;
    let mut spec = strict(1);
    spec.bridges = vec![world.fettle.bridges()[1].device_address()];
    let impostor = world.switch_on(vec![spec]).await?.remove(0);
    device_does(&impostor, "is closed", was_closed).await?;
    impostor.power_cut();
    assert!(received(&impostor).is_empty(), "{}", impostor.journal());
    assert!(holder.read(fettle_device::record::Record::is_connected), "{}", holder.journal());
    let status = world
        .device_until("sw-1", "has no contender", |status| {
            status.session.as_ref().is_some_and(|session| session.contender.is_none())
        })
        .await?;
    assert!(status.session.is_some_and(|session| session.bridge.ends_with("-0")));
    Ok(())
}

/// Whether a device has lost a connection.
fn was_closed(record: &fettle_device::record::Record) -> bool {
    let journal = record.journal();
    journal.events().iter().any(|event| matches!(event, fettle_device::journal::Event::Disconnected { .. }))
}

/// A network namespace with one end of a pair of interfaces in it. Gone with this.
struct Net {
    name: String,
    host: Ipv4Addr,
}

async fn ip(args: &[&str]) -> Result<()> {
    let output =
        tokio::process::Command::new("ip").args(args).output().await.context("ip (package iproute2) is missing")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Net {
    async fn new() -> Result<Self> {
        // Another test run may have one, or may have left one behind when it was killed.
        let first = std::process::id();
        let mut failed = None;
        for number in (0..250).map(|offset| (first.wrapping_add(offset) % 250) as u8) {
            match ip(&["netns", "add", &format!("fettle{number}")]).await {
                Ok(()) => return Self::inhabit(number).await,
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.context("no number to try")?)
    }

    /// Makes of the network namespace with this number what it is to be.
    async fn inhabit(number: u8) -> Result<Self> {
        let host = Ipv4Addr::new(198, 18, number, 1);
        let (outside, inside) = (format!("fo{number}"), format!("fi{number}"));
        let net = Self { name: format!("fettle{number}"), host };
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", &inside, "netns", &net.name]).await?;
        ip(&["addr", "add", &format!("{host}/29"), "dev", &outside]).await?;
        ip(&["link", "set", &outside, "up"]).await?;
        net.inside(&["link", "set", "lo", "up"]).await?;
        net.address(2).await?;
        Ok(net)
    }

    fn inside_name(&self) -> String {
        self.name.replace("fettle", "fi")
    }

    async fn inside(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat()).await
    }

    /// Gives the inner end this address and no other.
    async fn address(&self, last: u8) -> Result<()> {
        let [a, b, c, _] = self.host.octets();
        let inside = self.inside_name();
        self.inside(&["addr", "flush", "dev", &inside]).await?;
        self.inside(&["addr", "add", &format!("{}/29", Ipv4Addr::new(a, b, c, last)), "dev", &inside]).await?;
        self.inside(&["link", "set", &inside, "up"]).await
    }

    /// A device in there.
    fn device(&self, world: &World, log: &str) -> Result<Process> {
        let bridge = world.fettle.bridge();
        let args = [
            "netns",
            "exec",
            &self.name,
            &program::find("fettle-device")?.display().to_string(),
            "run",
            "--bridge",
            &bridge.device_address().to_string(),
            "--mac",
            &strict(1).mac.to_string(),
            "--model",
            MODEL,
            "--version",
            OLD,
            "--ftp-port",
            &bridge.ftp_port().to_string(),
            "--tftp-port",
            &bridge.tftp_port().to_string(),
        ];
        Process::spawn(Spec {
            name: "fettle-device".to_owned(),
            program: "ip".into(),
            args: args.iter().map(|arg| String::from(*arg)).collect(),
            env: Vec::new(),
            log: world.fettle.folder().join(log),
            sweep: None,
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).output();
        let _ = std::process::Command::new("ip").args(["link", "del", &self.name.replace("fettle", "fo")]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_without_a_fin_the_device_that_calls_again_is_served_within_seconds() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        fettle_tests::say!("left out: dropping packets takes a network namespace, and that takes root");
        return Ok(());
    }
    let net = Net::new().await?;
    let world = World::start_with("power-cut", |builder| builder.address(net.host)).await?;
    world.firmware(NEW).await?;
    world.declare("sw-1", strict(1).mac, "{role: access}").await?;
    world.devices_known().await?;
    let mut device = net.device(&world, "device-before.log")?;
    let before = world.connected("sw-1").await?.session.context("it is connected")?.address;

    // Power cut: no packet of the old connection is answered any more, not even with a reset.
    net.inside(&["link", "set", &net.inside_name(), "down"]).await?;
    device.kill();
    net.address(3).await?;
    let _device = net.device(&world, "device-after.log")?;
    let address = move |status: &fettle_crds::DeviceStatus| {
        status.session.as_ref().is_some_and(|session| session.address != before)
    };
    world
        .namespace
        .wait_for::<fettle_crds::Device>("sw-1", "is served at its new address", Duration::from_secs(20), |device| {
            device.status.as_ref().is_some_and(&address)
        })
        .await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.all_current(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_answers_its_command_is_timed_out_and_tried_again() -> Result<()> {
    let mut world = World::start("never-answers").await?;
    world.firmware(NEW).await?;
    let mut spec = strict(1);
    spec.faults = vec![Fault::once(Step::Result5, FaultKind::HalfOpen)];
    let device = world.device("sw-1", spec).await?;
    world
        .group(&["firmware: {name: access-5.2.1}", "rollout: {deviceTimeout: 5s, retries: 9}", "logs: {upload: Never}"])
        .await?;
    world.try_ended("sw-1", 1, fettle_crds::TryResult::Failed, fettle_crds::Verdict::TimedOut).await?;
    device.reset();
    world.all_current(1).await?;
    assert_eq!(device.journal().flashes().len(), 1, "{}", device.journal());
    Ok(())
}
