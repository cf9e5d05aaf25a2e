//! Chaos: hundreds of devices, faults on one in ten, and every program of Fettle's, and the API server, killed. What the
//! devices wrote down meanwhile shows no rule broken, and in the end the fleet is where it should be.
//!
//! Faults and blows are the same in each run, as far as chance has a say in it (who is faulty and how, who is killed and
//! when, not how the threads of a machine take turns). `FETTLE_CHAOS_SEED` draws others, `FETTLE_CHAOS_DEVICES` and
//! `FETTLE_CHAOS_BLOWS` make it larger.

#![allow(clippy::print_stdout, reason = "what a test prints is shown where it fails")]

mod judge;
mod muster;
mod storm;

use std::collections::BTreeMap;
use std::env;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use fettle_crds::{Device, DeviceGroup, DeviceGroupStatus, DeviceRollout, Firmware};
use fettle_device::faults::{Fault, FaultKind, Step};
use fettle_device::journal::{Digest, Entry};
use fettle_device::record::{Condition, Record};
use fettle_device::spec::FilePorts;
use fettle_device::{DeviceHandle, Fleet, FleetConfig, FleetHandle, image};
use fettle_protocol::Mac;
use fettle_tests::{ControlPlane, Installation, TestNamespace, manifest};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use judge::{Order, judge};
use muster::{BridgeAddress, Character, MODELS, Muster, Subject};
use storm::{Blow, Target, Victim};

/// Within this everything happens that has to happen, on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(150);

const DEVICES: usize = 500;
const BLOWS: usize = 6;
const BRIDGES: usize = 2;

/// What all devices are taken to, what is halted after that, and what goes back in the end.
const RELEASE: &str = "5.2.1";
const HALTED: &str = "5.3.0";
const ABORTED: &str = "5.4.0";
const RELEASES: [&str; 3] = [RELEASE, HALTED, ABORTED];

/// Of all devices: how many may be away at once, and how many the second step takes on.
const MAX_UNAVAILABLE_PERCENT: usize = 8;
const SECOND_STEP_PERCENT: usize = 20;

/// After the first try of a device.
const RETRIES: usize = 2;

/// Requests that the API server answers side by side, and no queue that others have to wait behind.
const REQUESTS_AT_A_TIME: usize = 32;

/// What chance is drawn from where nobody says another: what stops a change must come from that change.
const SEED: u64 = 20_261_121;

/// So many broken rules are told in full.
const TOLD: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_no_rule_is_broken_and_the_fleet_arrives() -> Result<()> {
    let seed = match env::var("FETTLE_CHAOS_SEED") {
        Ok(seed) => seed.parse().context("FETTLE_CHAOS_SEED is not a number")?,
        Err(_) => SEED,
    };
    println!("FETTLE_CHAOS_SEED={seed}");
    chaos(seed).await.with_context(|| format!("FETTLE_CHAOS_SEED={seed} repeats this run"))
}

fn from_environment(name: &str, otherwise: usize) -> Result<usize> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(otherwise),
    }
}

/// The content of a release's image for a model.
fn content(model: &str, version: &str) -> Vec<u8> {
    image::build(model, version, 64 * 1024)
}

fn digest(model: &str, version: &str) -> Digest {
    Digest(Sha256::digest(content(model, version)).into())
}

async fn chaos(seed: u64) -> Result<()> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let devices = from_environment("FETTLE_CHAOS_DEVICES", DEVICES)?;
    let blows = from_environment("FETTLE_CHAOS_BLOWS", BLOWS)?;
    ensure!(devices >= 100, "FETTLE_CHAOS_DEVICES: with fewer than 100 some kinds of devices are missing");

    let control_plane = ControlPlane::start().await?;
    control_plane.install_crds().await?;
    let namespace = control_plane.namespace("chaos").await?;
    let fettle = Installation::builder(&namespace)
        .quick()
        // Hundreds of devices call again when a bridge starts again.
        .env("FETTLE_RECONNECT_GRACE", "10s")
        // A device whose connection was closed calls again within this, on a slow machine too.
        .env("FETTLE_SETTLE", "1s")
        // Any free ports for file transfers: hundreds of devices fetch at the same time, from one address.
        .env("FETTLE_FTP_PASSIVE_PORTS", "0-0")
        .passive_ports(1)
        .bridges(BRIDGES)
        .start()
        .await?;
    let bridges: Vec<BridgeAddress> = (fettle.bridges().iter())
        .map(|bridge| BridgeAddress {
            device: bridge.device_address(),
            files: FilePorts { ftp: bridge.ftp_port(), tftp: bridge.tftp_port() },
        })
        .collect();
    let Muster { subjects, specs } = Muster::new(devices, &bridges, &mut rng)?;
    let journal: Arc<Mutex<Vec<(Mac, Entry)>>> = Arc::default();
    let chaos = Chaos { devices, subjects, namespace: &namespace, journal: journal.clone() };
    for release in RELEASES {
        chaos.release(&fettle, release).await?;
    }
    chaos.declare().await?;
    fettle.devices_known(&namespace).await?;
    let observer = move |mac: Mac, entry: &Entry| {
        journal.lock().unwrap_or_else(PoisonError::into_inner).push((mac, entry.clone()));
    };
    let fleet = Fleet::start(FleetConfig { observer: Some(Box::new(observer)), ..FleetConfig::new(vec![], specs) })?;

    let target = Target { began, control_plane: &control_plane, fettle: &fettle };
    let forecast = storm::forecast(blows, 2 * devices as u64 * 9 / 10, &mut rng);
    let mut milestones = Milestones { halted_from: u64::MAX, aborted_from: u64::MAX, back_from: u64::MAX };
    let happens = async {
        chaos.all_connected().await?;
        println!("{:>4} s: all are connected", began.elapsed().as_secs());
        chaos.roll_out(&target, &fleet, &forecast).await?;
        println!("{:>4} s: nothing is left that goes without help", began.elapsed().as_secs());
        chaos.end_faults(&fleet).await?;
        milestones.halted_from = chaos.next_entry();
        chaos.halt(&target, &fleet).await?;
        println!("{:>4} s: what fails on the canaries is halted there", began.elapsed().as_secs());
        milestones.aborted_from = chaos.next_entry();
        chaos.advance(&fleet).await?;
        milestones.back_from = chaos.next_entry();
        chaos.go_back(&target, &fleet).await?;
        println!("{:>4} s: all are back where they were", began.elapsed().as_secs());
        target.all_run()
    };
    let happened = happens.await;
    fleet.shutdown().await;
    // A rule that was broken may be why nothing went on.
    let result = match (chaos.judge(&fleet, &milestones), happened) {
        (Err(broken), Err(stuck)) => Err(stuck.context(broken)),
        (judged, happened) => judged.and(happened),
    };
    if result.is_err() {
        namespace.dump_once().await;
    }
    result
}

/// When something was asked for, by the count of the journal.
struct Milestones {
    halted_from: u64,
    aborted_from: u64,
    back_from: u64,
}

struct Chaos<'a> {
    devices: usize,
    subjects: BTreeMap<Mac, Subject>,
    namespace: &'a TestNamespace,
    journal: Arc<Mutex<Vec<(Mac, Entry)>>>,
}

impl Chaos<'_> {
    fn count(&self, is_so: impl Fn(&Subject) -> bool) -> i64 {
        self.subjects.values().filter(|subject| is_so(subject)).count() as i64
    }

    fn of(&self, character: Character) -> i64 {
        self.count(|subject| subject.character == character)
    }

    async fn apply(&self, manifest: &Value) -> Result<()> {
        manifest::apply(&self.namespace.client, &self.namespace.name, manifest).await?;
        Ok(())
    }

    /// Declares a release with an image for each model, and returns when it is verified.
    async fn release(&self, fettle: &Installation, version: &str) -> Result<()> {
        let mut images = Vec::new();
        for model in MODELS {
            let file = format!("{model}-{version}.bin");
            std::fs::write(fettle.files_dir().join(&file), content(model, version))?;
            let sha256 = HEXLOWER.encode(&digest(model, version).0);
            images.push(json!({"models": [model], "source": {"file": {"path": file}}, "sha256": sha256}));
        }
        let name = format!("access-{version}");
        self.apply(&json!({
            "apiVersion": "fettle.dev/v1alpha1",
            "kind": "Firmware",
            "metadata": {"name": name},
            "spec": {"version": version, "images": images},
        }))
        .await?;
        let ready = |firmware: &Firmware| {
            let conditions = firmware.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions.iter().any(|is| is.type_ == "Ready" && is.status == "True")
        };
        self.namespace.wait_for(&name, "is Ready", PATIENCE, ready).await?;
        Ok(())
    }

    async fn declare(&self) -> Result<()> {
        let declare = |(mac, subject): (&Mac, &Subject)| {
            let ring = if subject.is_canary { "canary" } else { "others" };
            let mut labels = json!({"role": "access", "ring": ring});
            if let Some(pair) = subject.pair {
                labels["pair"] = json!(format!("p{pair}"));
            }
            let device = json!({
                "apiVersion": "fettle.dev/v1alpha1",
                "kind": "Device",
                "metadata": {"name": subject.name, "labels": labels},
                "spec": {"mac": mac.to_string()},
            });
            async move { self.apply(&device).await }
        };
        stream::iter(&self.subjects).map(declare).buffer_unordered(REQUESTS_AT_A_TIME).try_collect().await
    }

    /// Returns when Fettle knows that every device is there: the group is paused so long.
    async fn all_connected(&self) -> Result<()> {
        self.group(RELEASE, RETRIES, &[("paused", json!(true))]).await?;
        let devices = self.count(|subject| subject.character != Character::Foreign);
        let all = |status: &DeviceGroupStatus| status.reasons.get("Paused") == Some(&devices);
        self.group_until(&format!("has {devices} devices that only the pause keeps back"), all).await?;
        Ok(())
    }

    async fn group(&self, release: &str, retries: usize, besides: &[(&str, Value)]) -> Result<()> {
        let mut group = json!({
            "apiVersion": "fettle.dev/v1alpha1",
            "kind": "DeviceGroup",
            "metadata": {"name": "access"},
            "spec": {
                "selector": {"matchLabels": {"role": "access"}},
                "firmware": {"name": format!("access-{release}")},
                "rollout": {
                    "steps": [
                        {"selector": {"matchLabels": {"ring": "canary"}}, "devices": "100%"},
                        {"devices": format!("{SECOND_STEP_PERCENT}%")},
                    ],
                    "maxUnavailable": format!("{MAX_UNAVAILABLE_PERCENT}%"),
                    "spread": [{"label": "pair", "maxUnavailable": 1}],
                    "failureBudget": "10%",
                    "deviceTimeout": "12s",
                    "retries": retries,
                },
                "logs": {"upload": "Never"},
            },
        });
        for (field, value) in besides {
            group["spec"][field] = value.clone();
        }
        self.apply(&group).await
    }

    async fn group_until(&self, what: &str, ready: impl Fn(&DeviceGroupStatus) -> bool) -> Result<DeviceGroupStatus> {
        let ready = |group: &DeviceGroup| {
            let Some(status) = &group.status else { return false };
            status.observed_generation == group.metadata.generation && ready(status)
        };
        let group = self.namespace.wait_for("access", what, PATIENCE, ready).await?;
        group.status.context("it was just there")
    }

    /// Rolls the release out while the storm lasts, and waits until nothing is left that goes without help.
    async fn roll_out(&self, target: &Target<'_>, fleet: &FleetHandle, forecast: &[Blow]) -> Result<()> {
        self.group(RELEASE, RETRIES, &[]).await?;
        let mut returning = self.handles(fleet, Character::Returning);
        // Half of them are gone for long enough to be given up.
        let late = returning.split_off(returning.len() / 2);
        let storm = async {
            for blow in forecast {
                target.suffer(blow, fleet).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(storm, return_of(&returning))?;
        return_of(&late).await?;

        let (dead, foreign) = (self.of(Character::Dead), self.of(Character::Foreign));
        let left_behind = |status: &DeviceGroupStatus| {
            let counts = status.counts;
            is(status, "Ready") && counts.failed >= dead && counts.current + counts.failed + foreign == counts.total
        };
        let what = format!("is Ready, with all devices but {foreign} current or failed, {dead} at least");
        let status = self.group_until(&what, left_behind).await?;
        ensure!(status.reasons.get("NoImageForModel") == Some(&foreign), "{status:?}");
        Ok(())
    }

    /// The faults are over, and a person has everybody tried again who failed and answers: all are current then but those
    /// that are gone for good, which are named.
    async fn end_faults(&self, fleet: &FleetHandle) -> Result<()> {
        fleet.devices().iter().for_each(|device| device.set_faults(vec![]));
        let devices = self.namespace.api::<Device>();
        let again = json!({"metadata": {"annotations": {"fettle.dev/retry-at": "when the faults were over"}}});
        for device in devices.list(&ListParams::default()).await? {
            let name = device.name_any();
            let runs = device.status.and_then(|status| status.reported).map(|reported| reported.version);
            let answers = |is: &&Subject| is.name == name && is.character.is_current_at_last();
            if runs.as_deref() != Some(RELEASE) && self.subjects.values().any(|subject| answers(&subject)) {
                devices.patch(&name, &PatchParams::default(), &Patch::Merge(&again)).await?;
            }
        }
        let current = self.count(|subject| subject.character.is_current_at_last());
        let dead = self.of(Character::Dead);
        let what = format!("is Ready with {current} current devices and {dead} dead ones");
        self.group_until(&what, |status| {
            status.counts.current == current && status.counts.failed == dead && is(status, "Ready")
        })
        .await?;

        let rollout = self.namespace.api::<DeviceRollout>().get("access-1").await?;
        let failures = rollout.status.context("it has none")?.failures;
        for failure in &failures {
            let dead = |subject: &&Subject| subject.name == failure.device && subject.character == Character::Dead;
            ensure!(self.subjects.values().any(|subject| dead(&subject)), "{failure:?} lives");
            ensure!(failure.reason == "TimedOut", "{failure:?}");
        }
        ensure!(failures.len() as i64 == dead.min(10), "not all of the {dead} dead are named: {failures:?}");
        Ok(())
    }

    /// A release that fails on the canaries stops there, also for a controller that starts again.
    async fn halt(&self, target: &Target<'_>, fleet: &FleetHandle) -> Result<()> {
        let canaries: Vec<_> = (fleet.devices().into_iter())
            .filter(|device| self.subjects.get(&device.mac()).is_some_and(|subject| subject.is_canary))
            .collect();
        for canary in &canaries {
            canary.set_faults(vec![Fault::always(Step::Boot, FaultKind::ComeBackOld)]);
        }
        let commands = storm::commands(&fleet.summary());
        self.group(HALTED, 0, &[]).await?;
        let blow = |after_commands, victims| Blow { after_commands, victims };
        target.suffer(&blow(commands + 1, &[Victim::Controller, Victim::Bridge(0)]), fleet).await?;
        let stopped = |status: &DeviceGroupStatus| {
            let stalled = status.conditions.iter().find(|is| is.type_ == "Stalled" && is.status == "True");
            stalled.is_some_and(|stalled| stalled.reason == "DevicesFailed") && status.counts.updating == 0
        };
        self.group_until("is stopped by its canaries", stopped).await?;
        target.suffer(&blow(commands, &[Victim::ApiServer, Victim::Controller]), fleet).await?;
        // A change of what has nothing to do with it shows that the new leader has looked.
        self.group(HALTED, 0, &[("revisionHistoryLimit", json!(9))]).await?;
        self.group_until("is stopped by its canaries, as the next leader sees it", stopped).await?;
        Ok(())
    }

    /// A release that is good gets past its canaries.
    async fn advance(&self, fleet: &FleetHandle) -> Result<()> {
        fleet.devices().iter().for_each(|device| device.set_faults(vec![]));
        self.group(ABORTED, RETRIES, &[]).await?;
        let enough = self.count(|subject| subject.is_canary) * 3;
        let what = format!("has brought {enough} devices to {ABORTED}");
        let rollout = |status: &DeviceGroupStatus| status.desired.as_deref().is_some_and(|it| it.contains(ABORTED));
        self.group_until(&what, |status| rollout(status) && status.counts.current >= enough).await?;
        Ok(())
    }

    /// A person wants it to go back, and programs are killed meanwhile.
    async fn go_back(&self, target: &Target<'_>, fleet: &FleetHandle) -> Result<()> {
        let commands = storm::commands(&fleet.summary());
        let rollouts = self.namespace.api::<DeviceRollout>();
        let back = json!({"spec": {"abort": "Rollback"}});
        rollouts.patch("access-3", &PatchParams::default(), &Patch::Merge(&back)).await?;
        let victims = &[Victim::Controller, Victim::Bridge(0)];
        target.suffer(&Blow { after_commands: commands + 10, victims }, fleet).await?;
        let is_back = |status: &DeviceGroupStatus| status.phase.as_deref() == Some("RolledBack");
        self.group_until("has gone back", is_back).await?;
        for device in self.namespace.api::<Device>().list(&ListParams::default()).await? {
            let name = device.name_any();
            let runs = device.status.and_then(|status| status.reported).map(|reported| reported.version);
            let is = |is: &&Subject| is.name == name && is.character.is_current_at_last();
            if self.subjects.values().any(|subject| is(&subject)) {
                ensure!(runs.as_deref() == Some(RELEASE), "{name} runs {runs:?}");
            }
        }
        Ok(())
    }

    /// What comes next in the journal.
    fn next_entry(&self) -> u64 {
        self.entries().last().map_or(0, |(_, entry)| entry.seq) + 1
    }

    fn handles(&self, fleet: &FleetHandle, character: Character) -> Vec<DeviceHandle> {
        let is = |device: &DeviceHandle| self.subjects.get(&device.mac()).is_some_and(|is| is.character == character);
        fleet.devices().into_iter().filter(is).collect()
    }

    /// All that happened to all devices so far, in its order.
    fn entries(&self) -> Vec<(Mac, Entry)> {
        let mut entries = self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        entries.sort_unstable_by_key(|(_, entry)| entry.seq);
        entries
    }

    fn judge(&self, fleet: &FleetHandle, milestones: &Milestones) -> Result<()> {
        let Milestones { halted_from, aborted_from, back_from } = *milestones;
        let order = Order {
            release: RELEASE,
            halted: HALTED,
            aborted: ABORTED,
            images: MODELS.map(|model| (model, RELEASES.map(|release| digest(model, release)).to_vec())).into(),
            max_unavailable: self.devices * MAX_UNAVAILABLE_PERCENT / 100,
            second_step: (self.devices * SECOND_STEP_PERCENT).div_ceil(100),
            tries: RETRIES + 1,
            halted_from,
            aborted_from,
            back_from,
        };
        let (breaches, account) = judge(&order, &self.subjects, &self.entries());
        println!("{account:?}");
        if breaches.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} times a rule was broken\n", breaches.len());
        for breach in breaches.iter().take(TOLD) {
            text.push_str(&format!("{breach}\n"));
            for mac in [Some(breach.mac), breach.other].into_iter().flatten() {
                let journal = fleet.device(mac).map(|device| device.journal().to_string()).unwrap_or_default();
                text.push_str(&format!("{mac}: {:?}\n{journal}", self.subjects[&mac]));
            }
        }
        bail!(text)
    }
}

/// Switches each device on again when it has vanished.
async fn return_of(devices: &[DeviceHandle]) -> Result<()> {
    let one = |device: &DeviceHandle| {
        let device = device.clone();
        async move {
            let vanished = |record: &Record| record.condition() == Condition::Vanished;
            tokio::time::timeout(PATIENCE, device.wait_until(vanished))
                .await
                .with_context(|| format!("{} did not vanish\n{}", device.mac(), device.journal()))?;
            device.power_on();
            anyhow::Ok(())
        }
    };
    try_join_all(devices.iter().map(one)).await?;
    Ok(())
}

fn is(status: &DeviceGroupStatus, condition: &str) -> bool {
    status.conditions.iter().any(|is| is.type_ == condition && is.status == "True")
}
