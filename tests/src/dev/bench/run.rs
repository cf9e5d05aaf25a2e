//! One size: a fleet is upgraded through real parts, and what that takes is measured.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use fettle_crds::{Device, DeviceGroup, Firmware};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::bare::{self, Bare};
use super::fleet::{self, Fleet};
use super::requests::{Requests, Writes};
use super::usage::{Measured, Usage, machine_cpu_seconds};
use crate::control_plane::ControlPlane;
use crate::installation::Installation;
use crate::namespace::TestNamespace;
use crate::{manifest, say};

const NAMESPACE: &str = "fettle";
pub(super) const GROUP: &str = "access";

/// What the devices are taken to: first a firmware, then another with a configuration, and then a third in steps.
pub(super) const FIRMWARE: &str = "5.2.1";
const NEXT_FIRMWARE: &str = "5.3.0";
const LAST_FIRMWARE: &str = "5.4.0";
const CONFIG: &str = "17";

/// A configuration besides is measured with fleets up to this: what it adds is the same for each device.
const WITH_CONFIG_UP_TO: usize = 1_000;

/// A device's longest silence is a download and the installation. When the group's status says the same for this long, it
/// always will.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// How long idle devices are looked at.
const IDLE: Duration = Duration::from_secs(20);

/// Devices that are declared at a time.
const CONCURRENT: usize = 32;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The API server takes a second for such a fleet; longer than this, something is wrong.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// All that is measured for one size.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    pub(super) devices: usize,
    pub(super) upgrade: Wave,
    /// To another firmware, with a configuration besides.
    pub(super) with_config: Option<Wave>,
    /// To yet another firmware: one device, then a tenth of them, then all, without a soak.
    pub(super) in_steps: Wave,
    pub(super) idle: Idle,
    pub(super) processes: Vec<Process>,
    /// Of whatever else ran on this machine during the upgrade: compilers, the kernel, this program.
    pub(super) other_cpu_seconds: f64,
    pub(super) bare: Bare,
}

/// All devices are taken to a new revision.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wave {
    /// From the request that applies the group until its status says that all devices are current.
    pub(super) seconds: f64,
    pub(super) devices_per_second: f64,
    /// Between the tenth and the ninetieth of a hundred devices, by the devices' own record.
    pub(super) steady_devices_per_second: Option<f64>,
    /// From the same request until a device got its first command.
    pub(super) first_command_seconds: Option<f64>,
    pub(super) device_writes: u64,
    pub(super) writes_per_device: f64,
    /// Writes to Devices that somebody else was faster than.
    pub(super) conflicts: u64,
    /// Writes to all else, by resource.
    pub(super) other_writes: BTreeMap<String, u64>,
}

/// All devices are connected, and nothing is to be done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Idle {
    pub(super) seconds: f64,
    pub(super) device_writes: u64,
}

/// What a process has used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    pub(super) name: String,
    /// Of its life so far: the start, the connection of all devices, their upgrade, their idle time.
    pub(super) peak_memory: u64,
    /// Of the upgrade alone.
    pub(super) upgrade_cpu_seconds: f64,
}

/// Measures a fleet of this size; logs and data stay in `folder`.
pub(super) async fn run(devices: usize, folder: &Path) -> Result<Figures> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    say!("{devices} devices: starting a control plane, controller and bridge");
    let control_plane = ControlPlane::start_at(folder).await?;
    control_plane.install_crds().await?;
    let namespace = TestNamespace::existing_or_new(&control_plane, NAMESPACE).await?;
    // Any free ports for file transfers: all devices fetch at the same time, from one address.
    let fettle = Installation::builder(&namespace)
        .passive_ports(1)
        .env("FETTLE_FTP_PASSIVE_PORTS", "0-0")
        .folder(folder)
        .start()
        .await?;
    let bench = Bench { devices, namespace: &namespace, fettle: &fettle };
    bench.firmware(FIRMWARE).await?;
    bench.firmware(NEXT_FIRMWARE).await?;
    bench.firmware(LAST_FIRMWARE).await?;

    say!("{devices} devices: declaring them, and switching them on");
    bench.declare().await?;
    fettle.devices_known(&namespace).await?;
    let mut fleet = Fleet::start(devices, fettle.bridge(), folder)?;
    bench.connected(&mut fleet).await?;
    bench.settled().await?;

    say!("{devices} devices: the firmware");
    let measured = bench.measured(&control_plane, &fleet);
    let before = (usages(&measured)?, machine_cpu_seconds()?);
    let upgrade = bench.wave(&mut fleet, &group(FIRMWARE, None, at_once())).await?;
    let after = (usages(&measured)?, machine_cpu_seconds()?);
    say!("{devices} devices: idle for {} s", IDLE.as_secs());
    let idle = bench.idle().await?;
    let usage = usages(&measured)?;
    let used = |index: usize| after.0[index].cpu_seconds - before.0[index].cpu_seconds;
    let processes: Vec<Process> = (measured.iter().zip(&usage).enumerate())
        .map(|(index, (process, usage))| Process {
            name: process.name.clone(),
            peak_memory: usage.peak_memory,
            upgrade_cpu_seconds: used(index),
        })
        .collect();
    let of_all = after.1 - before.1;
    let other_cpu_seconds =
        (of_all - processes.iter().map(|process| process.upgrade_cpu_seconds).sum::<f64>()).max(0.0);
    let example = bench.upgraded().await?;

    let with_config = if devices <= WITH_CONFIG_UP_TO {
        say!("{devices} devices: another firmware, with a configuration");
        bench.config().await?;
        Some(bench.wave(&mut fleet, &group(NEXT_FIRMWARE, Some(CONFIG), at_once())).await?)
    } else {
        None
    };

    say!("{devices} devices: a third firmware, in three steps");
    let steps = json!([{"devices": 1}, {"devices": "10%"}, {"devices": "100%"}]);
    let rollout = json!({"steps": steps, "maxUnavailable": "100%"});
    let in_steps = bench.wave(&mut fleet, &group(LAST_FIRMWARE, None, rollout)).await?;

    // From the top down, so that none writes what the end of another means.
    fettle.controller().kill();
    fettle.bridge().program().kill();
    fleet.process.kill();
    say!("{devices} devices: a bare client makes the same API writes");
    let bare = bare::run(&control_plane, devices, &example, fleet::OLD_VERSION).await?;
    Ok(Figures { devices, upgrade, with_config, in_steps, idle, processes, other_cpu_seconds, bare })
}

fn usages(measured: &[Measured]) -> Result<Vec<Usage>> {
    measured.iter().map(Measured::usage).collect()
}

fn at_once() -> Value {
    json!({"maxUnavailable": "100%"})
}

pub(super) fn group(firmware: &str, config: Option<&str>, rollout: Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"role": "access"}},
        "firmware": {"name": object_name(firmware)},
        "rollout": rollout,
        "logs": {"upload": "Never"},
    });
    if let Some(config) = config {
        spec["config"] = json!({"name": object_name(config)});
    }
    json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceGroup", "metadata": {"name": GROUP}, "spec": spec})
}

fn object_name(version: &str) -> String {
    format!("access-{version}")
}

/// A fleet, and what upgrades it.
pub(super) struct Bench<'a> {
    pub(super) devices: usize,
    pub(super) namespace: &'a TestNamespace,
    pub(super) fettle: &'a Installation,
}

impl Bench<'_> {
    pub(super) async fn apply(&self, manifest: &Value) -> Result<()> {
        manifest::apply(&self.namespace.client, &self.namespace.name, manifest).await?;
        Ok(())
    }

    /// Declares a release, with its image, and returns when it is verified.
    pub(super) async fn firmware(&self, version: &str) -> Result<()> {
        let file = format!("{version}.bin");
        let path = self.fettle.files_dir().join(&file);
        fleet::make_image(version, &path).await?;
        let sha256 = HEXLOWER.encode(&Sha256::digest(fs::read(&path)?));
        let image = json!({"models": [fleet::MODEL], "source": {"file": {"path": file}}, "sha256": sha256});
        self.apply(&json!({
            "apiVersion": "fettle.dev/v1alpha1",
            "kind": "Firmware",
            "metadata": {"name": object_name(version)},
            "spec": {"version": version, "images": [image]},
        }))
        .await?;
        let ready = |firmware: &Firmware| {
            let conditions = firmware.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions.iter().any(|is| is.type_ == "Ready" && is.status == "True")
        };
        self.namespace.wait_for(&object_name(version), "is Ready", READY_WITHIN, ready).await?;
        Ok(())
    }

    async fn config(&self) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "fettle.dev/v1alpha1",
            "kind": "ConfigProfile",
            "metadata": {"name": object_name(CONFIG)},
            "spec": {"version": CONFIG, "text": "vlan 17\n".repeat(64)},
        }))
        .await
    }

    pub(super) async fn declare(&self) -> Result<()> {
        let api: Api<Device> = self.namespace.api();
        let declare = |index: usize| {
            let api = &api;
            async move { anyhow::Ok(api.create(&PostParams::default(), &bare::declared(index)?).await?) }
        };
        stream::iter(0..self.devices)
            .map(declare)
            .buffer_unordered(CONCURRENT)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// Returns when all devices have a session.
    pub(super) async fn connected(&self, fleet: &mut Fleet) -> Result<()> {
        let mut last = (Instant::now(), 0.0);
        loop {
            let sessions = self.fettle.bridge().program().metric("fettle_bridge_sessions", &[]).await?;
            if sessions >= self.devices as f64 {
                return Ok(());
            }
            if sessions > last.1 {
                last = (Instant::now(), sessions);
            }
            self.ensure_alive(fleet)?;
            if last.0.elapsed() > STANDS_STILL {
                bail!("{sessions} of {} devices have a session, and no more come", self.devices);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns when nothing has been written to a Device for two looks.
    async fn settled(&self) -> Result<Requests> {
        let settle = async {
            let mut before = Requests::read(&self.namespace.client).await?;
            let mut quiet = 0;
            while quiet < 2 {
                tokio::time::sleep(2 * LOOK_EVERY).await;
                let now = Requests::read(&self.namespace.client).await?;
                let Writes { devices, conflicts, .. } = now.since(&before);
                quiet = if devices + conflicts == 0 { quiet + 1 } else { 0 };
                before = now;
            }
            anyhow::Ok(before)
        };
        within(SETTLED_WITHIN, "writes to Devices did not come to an end", settle).await
    }

    fn measured(&self, control_plane: &ControlPlane, fleet: &Fleet) -> Vec<Measured> {
        let programs = [self.fettle.controller(), self.fettle.bridge().program()];
        let ours = programs.into_iter().filter_map(|program| Some((program.name.clone(), program.pid()?)));
        let fleet = (fleet.process.name().to_owned(), fleet.process.pid());
        let theirs = control_plane.processes().into_iter().map(|(name, pid, _)| (name, pid));
        ours.chain([fleet]).chain(theirs).map(|(name, pid)| Measured { name, pid }).collect()
    }

    /// Applies the group, waits until all devices are current, and says what that took.
    async fn wave(&self, fleet: &mut Fleet, group: &Value) -> Result<Wave> {
        let before = Requests::read(&self.namespace.client).await?;
        let (began, began_at) = (Instant::now(), Timestamp::now());
        self.apply(group).await?;
        let seconds = (self.current(fleet).await? - began).as_secs_f64();
        let writes = self.settled().await?.since(&before);
        let milestones = fleet.milestones(began_at)?;
        Ok(Wave {
            seconds,
            devices_per_second: self.devices as f64 / seconds,
            steady_devices_per_second: milestones.steady_rate(),
            first_command_seconds: milestones.first_command.map(|at| at.duration_since(began_at).as_secs_f64()),
            device_writes: writes.devices,
            writes_per_device: writes.devices as f64 / self.devices as f64,
            conflicts: writes.conflicts,
            other_writes: writes.others,
        })
    }

    /// When the group's status says that all devices are current.
    async fn current(&self, fleet: &mut Fleet) -> Result<Instant> {
        let config = watcher::Config::default().fields(&format!("metadata.name={GROUP}"));
        let mut events =
            watcher(self.namespace.api::<DeviceGroup>(), config).default_backoff().applied_objects().boxed();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut last: Option<DeviceGroup> = None;
        let mut changed = Instant::now();
        loop {
            tokio::select! {
                Some(event) = events.next() => {
                    let Ok(group) = event else { continue };
                    if self.is_complete(&group) {
                        return Ok(Instant::now());
                    }
                    if last.as_ref().is_none_or(|last| last.status != group.status) {
                        changed = Instant::now();
                    }
                    last = Some(group);
                }
                _ = look.tick() => {
                    self.ensure_alive(fleet)?;
                    if changed.elapsed() > STANDS_STILL {
                        let what = self.what_stands_still(last.as_ref(), fleet).await;
                        bail!("nothing has moved for {} s\n{what}", STANDS_STILL.as_secs());
                    }
                }
            }
        }
    }

    fn is_complete(&self, group: &DeviceGroup) -> bool {
        let Some(status) = &group.status else { return false };
        let all = i64::try_from(self.devices).unwrap_or(i64::MAX);
        status.observed_generation == group.metadata.generation
            && status.counts.total == all
            && status.counts.current == all
    }

    /// What the group says of the devices that are not current, and some of them.
    async fn what_stands_still(&self, group: Option<&DeviceGroup>, fleet: &Fleet) -> String {
        const EXAMPLES: usize = 3;
        let mut text = String::new();
        match group.and_then(|group| group.status.as_ref()) {
            None => text.push_str("the group has no status\n"),
            Some(status) => {
                let message = status.message.as_deref().unwrap_or("nothing");
                text.push_str(&format!("the group says: {message}\n{:?}\n", status.counts));
                for (reason, count) in &status.reasons {
                    text.push_str(&format!("  {count} {reason}\n"));
                }
            }
        }
        let api: Api<Device> = self.namespace.api();
        let devices = api.list(&kube::api::ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        for device in devices.iter().filter(|device| !is_done(device)).take(EXAMPLES) {
            let name = device.metadata.name.as_deref().unwrap_or_default();
            let status = serde_json::to_string(&device.status).unwrap_or_default();
            text.push_str(&format!("{name}: {status}\n"));
        }
        text.push_str(&format!("the devices say: {}", fleet.process.log_tail(1)));
        text
    }

    /// One of the devices that have been upgraded.
    async fn upgraded(&self) -> Result<Device> {
        let device = bare::declared(0)?.metadata.name.context("a Device without a name")?;
        Ok(self.namespace.api::<Device>().get(&device).await?)
    }

    async fn idle(&self) -> Result<Idle> {
        let (began, before) = (Instant::now(), Requests::read(&self.namespace.client).await?);
        tokio::time::sleep(IDLE).await;
        let Writes { devices, conflicts, .. } = Requests::read(&self.namespace.client).await?.since(&before);
        Ok(Idle { seconds: began.elapsed().as_secs_f64(), device_writes: devices + conflicts })
    }

    fn ensure_alive(&self, fleet: &mut Fleet) -> Result<()> {
        for program in [self.fettle.controller(), self.fettle.bridge().program()] {
            ensure!(!program.has_ended(), "{} has ended, see {}", program.name, program.log().display());
        }
        if let Some(status) = fleet.process.exited() {
            bail!("the simulated devices have ended ({status}), see {}", fleet.process.log().display());
        }
        Ok(())
    }
}

/// Whether the device's newest target has ended.
fn is_done(device: &Device) -> bool {
    let status = device.status.as_ref();
    let target = status.and_then(|status| status.target.as_ref()).map(|target| target.id);
    let upgrade = status.and_then(|status| status.upgrade.as_ref());
    target.is_some() && upgrade.is_some_and(|it| it.phase == fettle_crds::Phase::Done && Some(it.target) == target)
}

async fn within<T>(limit: Duration, otherwise: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = tokio::time::timeout(limit, work).await;
    done.with_context(|| format!("{otherwise} within {} s", limit.as_secs()))?
}
