//! What a test has: a namespace with an installation of Fettle in it, a fleet of simulated devices, and short words for
//! the manifests.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use fettle_crds::{
    Device, DeviceGroup, DeviceGroupStatus, DeviceRollout, DeviceRolloutStatus, DeviceStatus, Firmware, TryResult,
    Verdict,
};
use fettle_device::journal::{Event, Outage, most_at_once};
use fettle_device::spec::FilePorts;
use fettle_device::{DeviceHandle, DeviceSpec, Fleet, FleetConfig, FleetHandle, image};
use fettle_protocol::Mac;
use fettle_tests::installation::Builder;
use fettle_tests::{ControlPlane, Installation, TestNamespace};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest, Sha256};

/// Within this everything happens that has to happen: a machine with two cores runs other tests beside this one.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The version that devices have at first, and the one that they are taken to.
pub const OLD: &str = "4.9.0";
pub const NEW: &str = "5.2.1";
/// The model of devices where it does not matter.
pub const MODEL: &str = "S5700";

/// Requests that the API server answers side by side, and no queue that others have to wait behind.
const DECLARED_AT_A_TIME: usize = 16;

/// A namespace, an installation in it, and a fleet that calls its first bridge.
pub struct World {
    pub namespace: TestNamespace,
    pub fettle: Installation,
    fleets: Vec<FleetHandle>,
}

impl World {
    /// With timings for tests, on the control plane that all tests share.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, |builder| builder).await
    }

    /// As `start`, with further wishes.
    pub async fn start_with(name: &str, wishes: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Result<Self> {
        Self::start_on(&ControlPlane::shared().await?, name, wishes).await
    }

    /// On a control plane of the test's own.
    pub async fn start_on(
        control_plane: &ControlPlane,
        name: &str,
        wishes: impl FnOnce(Builder<'_>) -> Builder<'_>,
    ) -> Result<Self> {
        let namespace = control_plane.namespace(name).await?;
        let fettle = wishes(Installation::builder(&namespace).quick()).start().await?;
        Ok(Self { namespace, fettle, fleets: Vec::new() })
    }

    /// Switches devices on, as soon as the bridges know of all that are declared; they call the first bridge.
    pub async fn switch_on(&mut self, devices: Vec<DeviceSpec>) -> Result<Vec<DeviceHandle>> {
        self.devices_known().await?;
        let bridge = self.fettle.bridge();
        let ports = FilePorts { ftp: bridge.ftp_port(), tftp: bridge.tftp_port() };
        let standard = FilePorts::default();
        // A test may have given a device ports of its own, that lead nowhere.
        let reaches = |device: &DeviceSpec| if device.file_ports == standard { ports } else { device.file_ports };
        let devices = devices.into_iter().map(|device| DeviceSpec { file_ports: reaches(&device), ..device }).collect();
        let fleet = Fleet::start(FleetConfig::new(vec![bridge.device_address()], devices))?;
        let handles = fleet.devices();
        self.fleets.push(fleet);
        Ok(handles)
    }

    /// Declares a device and switches it on.
    pub async fn device(&mut self, name: &str, spec: DeviceSpec) -> Result<DeviceHandle> {
        self.declare(name, spec.mac, "{role: access}").await?;
        let mut handles = self.switch_on(vec![spec]).await?;
        handles.pop().context("a fleet of one has one device")
    }

    /// Waits until the bridges know of all devices that are declared: a device that is switched on now is no stranger.
    pub async fn devices_known(&self) -> Result<()> {
        self.fettle.devices_known(&self.namespace).await
    }

    /// Declares a device.
    pub async fn declare(&self, name: &str, mac: Mac, labels: &str) -> Result<()> {
        self.apply(&declaration(name, mac, labels)).await
    }

    /// Declares devices, many at a time, and switches them on. Each has a name, its labels, and what it is.
    pub async fn fleet(&mut self, devices: Vec<(String, &str, DeviceSpec)>) -> Result<Vec<DeviceHandle>> {
        let world = &*self;
        stream::iter(&devices)
            .map(|(name, labels, spec)| world.declare(name, spec.mac, labels))
            .buffer_unordered(DECLARED_AT_A_TIME)
            .try_collect::<()>()
            .await?;
        self.switch_on(devices.into_iter().map(|(_, _, spec)| spec).collect()).await
    }

    /// Applies manifests.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.namespace.apply_yaml(yaml).await
    }

    /// Declares a release for [`MODEL`], with an image of 64 KiB that boots into its version.
    pub async fn firmware(&self, version: &str) -> Result<()> {
        self.firmware_reporting(version, version).await
    }

    /// Declares a release whose devices report something else than its version.
    pub async fn firmware_reporting(&self, version: &str, reports: &str) -> Result<()> {
        self.apply(&self.release(version, reports)?).await
    }

    /// Makes an image, and the manifest of its release.
    pub fn release(&self, version: &str, reports: &str) -> Result<String> {
        self.release_of(version, reports, &image::build(MODEL, reports, 64 * 1024))
    }

    /// The manifest of the release whose image has these bytes.
    pub fn release_of(&self, version: &str, reports: &str, bytes: &[u8]) -> Result<String> {
        let file = format!("{MODEL}-{version}.bin");
        std::fs::write(self.fettle.files_dir().join(&file), bytes)?;
        let sha256 = HEXLOWER.encode(&Sha256::digest(bytes));
        Ok(format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: access-{version}}}\nspec:\n  version: \"{version}\"\n  images:\n  - {{models: [{MODEL}], source: {{file: {{path: {file}}}}}, sha256: {sha256}, reports: \"{reports}\"}}\n"
        ))
    }

    /// Declares a configuration.
    pub async fn config(&self, version: &str, text: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {{name: access-{version}}}\nspec: {{version: \"{version}\", text: \"{text}\"}}\n"
        ))
        .await
    }

    /// Declares the group `access` of the devices with `role: access`. `spec` is what it says besides, one line each.
    pub async fn group(&self, spec: &[&str]) -> Result<()> {
        let mut yaml = String::from(
            "apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {name: access}\nspec:\n  selector: {matchLabels: {role: access}}\n",
        );
        for line in spec {
            yaml.push_str("  ");
            yaml.push_str(line);
            yaml.push('\n');
        }
        self.apply(&yaml).await
    }

    /// Waits until the group `access` says that all `devices` are current.
    pub async fn all_current(&self, devices: i64) -> Result<DeviceGroup> {
        let ready = |group: &DeviceGroup| {
            let Some(status) = &group.status else { return false };
            status.observed_generation == group.metadata.generation
                && status.counts.total == devices
                && status.counts.current == devices
                && condition(&status.conditions, "Ready") == "True"
        };
        self.namespace.wait_for("access", &format!("has {devices} current devices and is Ready"), PATIENCE, ready).await
    }

    /// Waits until the group `access` is stalled for this reason.
    pub async fn stalled(&self, reason: &str) -> Result<DeviceGroup> {
        let stalled = |group: &DeviceGroup| {
            let conditions = group.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions.iter().any(|is| is.type_ == "Stalled" && is.status == "True" && is.reason == reason)
        };
        self.namespace.wait_for("access", &format!("is Stalled with reason {reason}"), PATIENCE, stalled).await
    }

    /// Waits until the group `access` is as `ready` says.
    pub async fn group_until(
        &self,
        what: &str,
        ready: impl Fn(&DeviceGroupStatus) -> bool,
    ) -> Result<DeviceGroupStatus> {
        let ready = |group: &DeviceGroup| group.status.as_ref().is_some_and(&ready);
        let group = self.namespace.wait_for::<DeviceGroup>("access", what, PATIENCE, ready).await?;
        group.status.context("it was just there")
    }

    /// Waits until the status of a rollout is as `ready` says.
    pub async fn rollout_until(
        &self,
        name: &str,
        what: &str,
        ready: impl Fn(&DeviceRolloutStatus) -> bool,
    ) -> Result<DeviceRolloutStatus> {
        let ready = |rollout: &DeviceRollout| rollout.status.as_ref().is_some_and(&ready);
        let rollout = self.namespace.wait_for::<DeviceRollout>(name, what, PATIENCE, ready).await?;
        rollout.status.context("it was just there")
    }

    /// Waits until the first rollout of the group `access` waits for this.
    pub async fn waits_for(&self, reason: &str) -> Result<DeviceRolloutStatus> {
        let waits =
            |status: &DeviceRolloutStatus| status.waiting.as_ref().is_some_and(|waiting| waiting.reason == reason);
        self.rollout_until("access-1", &format!("waits for {reason}"), waits).await
    }

    /// Says something in the spec of the first rollout of the group `access`, as a person does.
    pub async fn person(&self, says: &str) -> Result<()> {
        let patch = format!("{{\"spec\": {says}}}");
        self.namespace.kubectl(&["patch", "drol", "access-1", "--type=merge", "-p", &patch]).await?;
        Ok(())
    }

    /// Waits until the status of a device is as `ready` says.
    pub async fn device_until(
        &self,
        name: &str,
        what: &str,
        ready: impl Fn(&DeviceStatus) -> bool,
    ) -> Result<DeviceStatus> {
        let ready = |device: &Device| device.status.as_ref().is_some_and(&ready);
        let device = self.namespace.wait_for::<Device>(name, what, PATIENCE, ready).await?;
        device.status.context("it was just there")
    }

    /// Waits until a try of a device has ended like this.
    pub async fn try_ended(
        &self,
        name: &str,
        attempt: u32,
        result: TryResult,
        reason: Verdict,
    ) -> Result<DeviceStatus> {
        self.device_until(name, &format!("has ended try {attempt} with {result:?}, {reason:?}"), |status| {
            let (Some(target), Some(upgrade)) = (&status.target, &status.upgrade) else { return false };
            upgrade.target == target.id
                && target.attempt == attempt
                && upgrade.result == Some(result)
                && upgrade.reason == Some(reason)
        })
        .await
    }

    /// Waits until a device is connected, as the API has it.
    pub async fn connected(&self, name: &str) -> Result<DeviceStatus> {
        self.device_until(name, "has a session", |status| status.session.is_some()).await
    }

    /// Waits until a release is verified, or until it is not for this reason.
    pub async fn firmware_is(&self, name: &str, ready: &str, reason: &str) -> Result<Firmware> {
        let is = |firmware: &Firmware| {
            let conditions = firmware.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions.iter().any(|is| is.type_ == "Ready" && is.status == ready && is.reason == reason)
        };
        self.namespace.wait_for(name, &format!("is Ready={ready} with reason {reason}"), PATIENCE, is).await
    }
}

/// The manifest of a device.
pub fn declaration(name: &str, mac: Mac, labels: &str) -> String {
    format!(
        "apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {{mac: \"{mac}\"}}\n"
    )
}

/// The status of a condition; empty where it is not there.
pub fn condition<'a>(conditions: &'a [fettle_crds::Condition], type_: &str) -> &'a str {
    conditions.iter().find(|condition| condition.type_ == type_).map_or("", |condition| &condition.status)
}

/// A strict device number `number` of [`MODEL`] on [`OLD`], quick at everything.
pub fn strict(number: u8) -> DeviceSpec {
    let mut spec = DeviceSpec::new(Mac::new([0x02, 0x00, 0x5e, 0x00, 0x53, number]), MODEL, OLD);
    spec.timings.install = Duration::from_millis(100);
    spec.timings.restart = Duration::from_millis(100);
    spec.timings.apply = Duration::from_millis(20);
    spec.timings.backoff.first = Duration::from_millis(200);
    spec.timings.backoff.max = Duration::from_secs(2);
    spec
}

/// How many messages of each type a device received.
pub fn received(device: &DeviceHandle) -> BTreeMap<u8, u64> {
    let journal = device.journal();
    (1..=11).map(|kind| (kind, journal.counters().received(kind))).filter(|(_, count)| *count > 0).collect()
}

/// Waits for something that a device does, and shows its journal where it does not.
pub async fn device_does(
    device: &DeviceHandle,
    what: &str,
    is_so: impl Fn(&fettle_device::record::Record) -> bool,
) -> Result<()> {
    tokio::time::timeout(PATIENCE, device.wait_until(is_so)).await.map_err(|_| {
        anyhow::anyhow!("device {} did not, within {PATIENCE:?}: {what}\n{}", device.mac(), device.journal())
    })
}

/// The versions that devices run.
pub fn versions(devices: &[DeviceHandle]) -> Vec<String> {
    devices.iter().map(DeviceHandle::version).collect()
}

/// The versions that a device has booted, in their order.
pub fn booted(device: &DeviceHandle) -> Vec<String> {
    device.journal().boots().into_iter().map(|(_, version)| version.to_owned()).collect()
}

/// The most of these devices that were down at the same time because message 6 said so; what they lost by a power cut
/// does not count.
pub fn most_restarting_at_once(devices: &[DeviceHandle]) -> usize {
    let restarts = |device: &DeviceHandle| {
        let mut restarts: Vec<Outage> = Vec::new();
        for entry in device.journal().entries() {
            match entry.event {
                Event::RestartBegan => restarts.push(Outage { from: entry.at, to: None }),
                Event::Booted { .. } => {
                    if let Some(restart) = restarts.last_mut() {
                        restart.to.get_or_insert(entry.at);
                    }
                }
                _ => {}
            }
        }
        restarts
    };
    most_at_once(devices.iter().flat_map(restarts))
}
