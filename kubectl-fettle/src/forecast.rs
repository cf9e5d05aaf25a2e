//! What the controller would do with some objects: now, and after that, if every try succeeds. Pure.
//!
//! Each pass is the controller's own [`plan()`], and what it says is carried out on a copy of the objects. Devices do at once
//! what they are told; time passes only where the planner waits for it; and a person agrees where one must.

use std::collections::BTreeMap;

use fettle_controller::metrics::Kind;
use fettle_controller::plan::output::{Change, DeviceWrite, Plan};
use fettle_controller::plan::plan;
use fettle_controller::reconcile::convert::decisions_patch;
use fettle_controller::reconcile::index::{Index, Written};
use fettle_crds::{
    Applied, Device, DeviceRollout, DeviceRolloutSpec, DeviceStatus, GROUP, Phase, Stage, TryResult, Upgrade, VERSION,
    Verdict,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::objects::Objects;
use crate::view::FleetView;

/// Passes over a fleet; beyond this the rest of a rollout is not told. Each costs some microseconds for each device.
const PASSES: usize = 5000;
/// A window that opens later than this is not waited for.
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 366);
/// Between two passes at one instant, so that what follows is later than what went before.
const MOMENT: SignedDuration = SignedDuration::from_secs(1);

/// What would come of some objects.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Who begins now, in this order.
    pub now: Vec<Grant>,
    /// How the namespace stands then.
    pub then: FleetView,
    /// Who begins afterwards, if every try succeeds and every step is approved.
    pub later: Vec<Wave>,
    /// How the namespace stands at the end of that.
    pub end: FleetView,
    /// There would be more to tell.
    pub is_cut: bool,
}

/// Devices that begin at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// Not before this.
    pub at: Timestamp,
    /// Rollouts that a person has let go past a step, just before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<String>,
    pub grants: Vec<Grant>,
}

/// A device that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    pub device: String,
    pub rollout: String,
    pub step: u32,
    #[serde(rename = "try")]
    pub attempt: u32,
    pub from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Only to fetch it, ahead of a window.
    pub is_download: bool,
}

impl Forecast {
    /// Plans some objects.
    ///
    /// # Errors
    /// [`Objects::index`]
    pub fn of(objects: Objects, now: Timestamp) -> Result<Self, prometheus::Error> {
        let mut course = Course::new(objects, now)?;
        let (grants, plan) = course.settle(now);
        let then = FleetView::with(&course.objects, &course.index.snapshot, &plan, now);
        let (later, last, at) = course.run(plan, now);
        let end = FleetView::with(&course.objects, &course.index.snapshot, &last, at);
        Ok(Self { now: grants, then, later, end, is_cut: course.passes >= PASSES })
    }
}

/// What the controller makes of some objects at once: the objects then, and the plan that has nothing left to do.
///
/// # Errors
/// [`Objects::index`]
pub fn settled(objects: Objects, now: Timestamp) -> Result<(Objects, Plan), prometheus::Error> {
    let mut course = Course::new(objects, now)?;
    let (_, plan) = course.settle(now);
    Ok((course.objects, plan))
}

/// The objects as they become.
struct Course {
    objects: Objects,
    index: Index,
    version: u64,
    passes: usize,
}

impl Course {
    fn new(objects: Objects, now: Timestamp) -> Result<Self, prometheus::Error> {
        let mut index = objects.index(now)?;
        // Whoever lives now is taken to live on.
        for bridge in index.snapshot.bridges.values_mut().filter(|bridge| bridge.expires > now) {
            bridge.expires = now + HORIZON + HORIZON;
        }
        let versions = objects.devices.values().filter_map(|device| device.resource_version()?.parse::<u64>().ok());
        let version = versions.max().unwrap_or_default().max(1 << 40);
        Ok(Self { objects, index, version, passes: 0 })
    }

    fn next_version(&mut self) -> Option<String> {
        self.version += 1;
        Some(self.version.to_string())
    }

    /// Passes at one instant, until nothing is left to be done in it. Who was granted, in order; and the last plan.
    fn settle(&mut self, now: Timestamp) -> (Vec<Grant>, Plan) {
        let mut grants = Vec::new();
        loop {
            let plan = plan(&self.index.snapshot, now);
            self.passes += 1;
            let is_settled = plan.contents.is_empty()
                && plan.rollouts.is_empty()
                && plan.devices.is_empty()
                && plan.groups.is_empty()
                && plan.rollout_statuses.is_empty()
                && plan.deletions.devices.is_empty();
            if is_settled || self.passes >= PASSES {
                return (grants, plan);
            }
            self.carry_out(plan, now, &mut grants);
        }
    }

    fn carry_out(&mut self, plan: Plan, now: Timestamp, grants: &mut Vec<Grant>) {
        for content in plan.contents {
            self.index.wrote(Written::Content(content.name().clone()), now);
        }
        for new in plan.rollouts {
            let owner = OwnerReference {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: "DeviceGroup".to_owned(),
                name: new.group.to_string(),
                uid: new.group_uid.to_string(),
                controller: Some(true),
                block_owner_deletion: None,
            };
            let mut rollout = DeviceRollout::new(&new.name, new.spec);
            rollout.metadata.uid = Some(format!("planned-{}", new.name));
            rollout.metadata.generation = Some(1);
            rollout.metadata.owner_references = Some(vec![owner]);
            self.put_rollout(rollout, now);
        }
        for (name, status) in plan.rollout_statuses {
            if let Some(mut rollout) = self.objects.rollouts.get(&*name).cloned() {
                rollout.status = Some(status);
                self.put_rollout(rollout, now);
            }
        }
        for write in plan.groups {
            if let Some(mut group) = self.objects.groups.get(&*write.group).cloned() {
                group.status = Some(write.status);
                group.metadata.resource_version = self.next_version();
                self.objects.groups.insert(group.name_any(), group.clone());
                self.index.wrote(Written::Group(group), now);
            }
        }
        for write in plan.devices {
            grants.extend(self.decide(&write, now));
        }
        for (device, _) in plan.deletions.devices {
            self.objects.devices.remove(&*device);
            self.index.wrote(Written::Deleted(Kind::Device, device), now);
        }
    }

    fn put_rollout(&mut self, mut rollout: DeviceRollout, now: Timestamp) {
        rollout.metadata.resource_version = self.next_version();
        self.objects.rollouts.insert(rollout.name_any(), rollout.clone());
        self.index.wrote(Written::Rollout(rollout), now);
    }

    fn put_device(&mut self, mut device: Device, now: Timestamp) {
        device.metadata.resource_version = self.next_version();
        self.objects.devices.insert(device.name_any(), device.clone());
        self.index.wrote(Written::Device(device), now);
    }

    /// Writes decisions on a device, as the controller does.
    fn decide(&mut self, write: &DeviceWrite, now: Timestamp) -> Option<Grant> {
        let mut device = self.objects.devices.get(&*write.device)?.clone();
        let patch = decisions_patch(&write.device, write.resource_version, &write.decisions);
        let decided: DeviceStatus = serde_json::from_value(patch.get("status")?.clone()).ok()?;
        let facts = device.status.take().unwrap_or_default();
        let status = DeviceStatus {
            session: facts.session,
            last_seen: facts.last_seen,
            last_address: facts.last_address,
            reported: facts.reported,
            applied: facts.applied,
            upgrade: facts.upgrade,
            progress: facts.progress,
            drops: facts.drops,
            last_log: facts.last_log,
            log_request: facts.log_request,
            ..decided
        };
        let target = status.target.clone().filter(|_| write.change == Change::Granted);
        let step = status.granted.as_ref().map_or(1, |granted| granted.step);
        device.status = Some(status);
        self.put_device(device, now);
        let target = target?;
        Some(Grant {
            device: write.device.to_string(),
            rollout: target.rollout,
            step,
            attempt: target.attempt,
            firmware: target
                .firmware
                .filter(|firmware| firmware.reports != target.from)
                .map(|firmware| firmware.version),
            from: target.from,
            config: target.config.map(|config| config.identity),
            is_download: target.stage == Stage::Download,
        })
    }

    /// On from there, if every try succeeds. Who begins when; the last plan, and when that was.
    fn run(&mut self, mut last: Plan, from: Timestamp) -> (Vec<Wave>, Plan, Timestamp) {
        let mut waves: Vec<Wave> = Vec::new();
        let mut approved = Vec::new();
        let mut now = from;
        while self.passes < PASSES {
            if let Some(done) = self.succeed(now + MOMENT) {
                now = done;
            } else {
                let agreed = self.approve(now);
                if !agreed.is_empty() {
                    approved.extend(agreed);
                } else {
                    match last.next {
                        Some(next) if next > now && next <= from + HORIZON => now = next,
                        _ => break,
                    }
                }
            }
            let (grants, plan) = self.settle(now);
            last = plan;
            if !grants.is_empty() {
                waves.push(Wave { at: now, approved: std::mem::take(&mut approved), grants });
            }
        }
        (waves, last, now)
    }

    /// Every device does what it was told. When that was done; `None`: nobody was told anything.
    fn succeed(&mut self, now: Timestamp) -> Option<Timestamp> {
        let told = self.objects.devices.values().filter_map(|device| done(device, now));
        let told: Vec<(Device, Timestamp)> = told.collect();
        let end = told.iter().map(|(_, at)| *at).max()?;
        for (device, _) in told {
            self.put_device(device, end);
        }
        Some(end)
    }

    /// A person agrees, where one must. With which rollouts.
    fn approve(&mut self, now: Timestamp) -> Vec<String> {
        let waits = |rollout: &&DeviceRollout| {
            let waiting = rollout.status.as_ref().and_then(|status| status.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason == "Approval")
        };
        let waiting: Vec<DeviceRollout> = self.objects.rollouts.values().filter(waits).cloned().collect();
        let mut agreed = Vec::new();
        for mut rollout in waiting {
            let step = rollout.status.as_ref().and_then(|status| status.step.as_ref()).map(|step| step.number);
            let spec = DeviceRolloutSpec { approved_step: step, ..rollout.spec.clone() };
            if spec == rollout.spec {
                continue;
            }
            rollout.spec = spec;
            rollout.metadata.generation = rollout.metadata.generation.map(|generation| generation + 1);
            agreed.push(rollout.name_any());
            self.put_rollout(rollout, now);
        }
        agreed
    }
}

/// A device that has done what its target says, and when.
fn done(device: &Device, now: Timestamp) -> Option<(Device, Timestamp)> {
    let status = device.status.as_ref()?;
    let target = status.target.as_ref()?;
    let upgrade = status.upgrade.as_ref().filter(|upgrade| upgrade.target == target.id);
    let is_over = upgrade.is_some_and(|upgrade| upgrade.phase == Phase::Done)
        || status.outcome.as_ref().is_some_and(|outcome| outcome.target == target.id);
    let is_downloaded = upgrade.is_some_and(|upgrade| upgrade.phase == Phase::Downloaded);
    if is_over || target.done || (target.stage == Stage::Download && is_downloaded) {
        return None;
    }
    let scheduled = target.config.as_ref().and_then(|config| config.scheduled.as_ref()).map(|scheduled| scheduled.at);
    let at = scheduled.map_or(now, |at| at.max(now));
    let mut device = device.clone();
    let mut next = status.clone();
    let upgrade =
        |phase, result, reason| Upgrade { target: target.id, phase, since: at, result, reason, message: None };
    if target.stage == Stage::Download {
        next.upgrade = Some(upgrade(Phase::Downloaded, None, None));
    } else {
        next.upgrade = Some(upgrade(Phase::Done, Some(TryResult::Succeeded), Some(Verdict::Upgraded)));
        if let Some(reported) = &mut next.reported {
            reported.at = at;
            if let Some(firmware) = &target.firmware {
                reported.version.clone_from(&firmware.reports);
            }
            if let Some(config) = target.config.as_ref().filter(|_| reported.config.is_some()) {
                reported.config = Some(config.identity.clone());
            }
        }
        if let Some(config) = &target.config {
            next.applied = Some(Applied { config: config.identity.clone(), at, reason: None });
        }
    }
    device.status = Some(next);
    Some((device, at))
}

impl Forecast {
    /// Who begins of a rollout, step by step, wave by wave: the numbers of the waves and the devices, in order.
    pub fn waves_of(&self, rollout: &str) -> BTreeMap<u32, Vec<(Timestamp, Vec<&Grant>)>> {
        let mut steps: BTreeMap<u32, Vec<(Timestamp, Vec<&Grant>)>> = BTreeMap::new();
        for wave in &self.later {
            let mut of_step: BTreeMap<u32, Vec<&Grant>> = BTreeMap::new();
            for grant in wave.grants.iter().filter(|grant| grant.rollout == rollout) {
                of_step.entry(grant.step).or_default().push(grant);
            }
            for (step, grants) in of_step {
                steps.entry(step).or_default().push((wave.at, grants));
            }
        }
        steps
    }
}
