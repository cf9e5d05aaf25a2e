//! A plan, in a few words.

use std::collections::BTreeMap;

use fettle_controller::plan::model::{Device, Snapshot};
use fettle_controller::plan::output::{Change, DeviceWrite, GroupWrite, Plan};
use fettle_crds::{Condition, DeviceRolloutStatus, Stage, TargetConfig};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_yaml::Value;

/// All of a plan. What is empty is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rollouts: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    devices: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    waits: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    steps: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    profiles: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tells: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deletes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub fn plan(snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Value {
    let from_now = |at: Timestamp| ahead(at.duration_since(now));
    let deleted_devices = plan.deletions.devices.iter().map(|(name, _)| format!("Device {name}"));
    let deleted_rollouts = plan.deletions.rollouts.iter().map(|(name, _)| format!("DeviceRollout {name}"));
    let deleted_contents = plan.deletions.contents.iter().map(|name| format!("Secret {name}"));
    let shown = Shown {
        rollouts: plan
            .rollouts
            .iter()
            .map(|new| format!("{} after keeping {} contents", new.name, plan.contents.len()))
            .collect(),
        devices: plan
            .devices
            .iter()
            .map(|write| (write.device.to_string(), device(&snapshot.devices[&write.device], write, now)))
            .collect(),
        waits: plan
            .waiting(snapshot)
            .map(|(device, reason)| (device.to_string(), reason.as_str().to_owned()))
            .collect(),
        groups: plan.groups.iter().map(|write| (write.group.to_string(), group(write))).collect(),
        steps: plan
            .rollout_statuses
            .iter()
            .filter_map(|(name, status)| {
                let told = step(status, now).into_iter().chain(apart(plan, name, status));
                let told: Vec<String> = told.collect();
                (!told.is_empty()).then(|| (name.to_string(), told.join("; ")))
            })
            .collect(),
        profiles: plan
            .profiles
            .iter()
            .map(|(name, status)| {
                let ready = &status.conditions[0];
                (name.to_string(), format!("{}={} {}: {}", ready.type_, ready.status, ready.reason, ready.message))
            })
            .collect(),
        tells: plan
            .groups
            .iter()
            .flat_map(|write| &write.notices)
            .map(|notice| format!("{:?}: {}", notice.kind, notice.message))
            .collect(),
        deletes: deleted_devices.chain(deleted_rollouts).chain(deleted_contents).collect(),
        next: plan.next.filter(|next| *next < Timestamp::MAX).map(from_now),
    };
    serde_yaml::to_value(&shown).unwrap()
}

/// How the newest rollout of a group stands, where that is not how the group does.
fn apart(plan: &Plan, name: &str, status: &DeviceRolloutStatus) -> Option<String> {
    let group = plan.groups.iter().find(|write| write.status.rollout.as_deref() == Some(name))?;
    let phase = status.phase.as_deref().filter(|phase| *phase != "Superseded")?;
    let message = status.message.as_deref().unwrap_or_default();
    (group.status.phase.as_deref() != Some(phase)).then(|| format!("{phase}: {message}"))
}

/// The step of a rollout, and its way back.
fn step(status: &DeviceRolloutStatus, now: Timestamp) -> Option<String> {
    let step = status.step.as_ref().map(|step| {
        let finished = if step.finished_at.is_some() { ", finished" } else { "" };
        let soak = step.soak_until.map(|until| format!(", soaking for {}", ahead(until.duration_since(now))));
        format!(
            "step {}, {} of {} granted{finished}{}",
            step.progress,
            step.granted,
            step.size,
            soak.unwrap_or_default()
        )
    });
    let soaked = |at: Timestamp| match now.duration_since(at) {
        span if span.is_zero() => "now".to_owned(),
        span => format!("{} ago", ahead(span)),
    };
    let left_behind = status.finished_steps.iter();
    let left_behind = left_behind.map(|step| format!("{} soaked {}", step.number, soaked(step.soaked_at)));
    let left_behind: Vec<String> = left_behind.collect();
    let left_behind = (!left_behind.is_empty()).then(|| format!("left behind: {}", left_behind.join(", ")));
    let back = status.rollback.as_ref().map(|rollback| {
        let finished = if rollback.finished_at.is_some() { ", finished" } else { "" };
        format!("going back for {}{finished}", rollback.reason)
    });
    let told: Vec<String> = step.into_iter().chain(left_behind).chain(back).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// `1m30s`, or `at once`.
fn ahead(span: SignedDuration) -> String {
    match u64::try_from(span.as_secs()) {
        Ok(0) | Err(_) => "at once".to_owned(),
        Ok(seconds) => fettle_crds::Duration::from_secs(seconds).to_string(),
    }
}

/// A configuration, with the time at which it is put into force.
fn timed(config: &TargetConfig) -> String {
    let at = config.scheduled.as_ref().map(|moment| format!(" at {}", moment.local)).unwrap_or_default();
    format!("{}{at}", config.identity)
}

/// What the device is noted to have run before.
fn before(write: &DeviceWrite) -> String {
    let Some(previous) = &write.decisions.previous else { return String::new() };
    let config = previous.config.as_ref().map_or(String::new(), |config| format!(" and {}", timed(config)));
    let is_kept = if previous.firmware.content.is_some() { ", kept" } else { "" };
    format!(" (before: {}{config}{is_kept})", previous.firmware.version)
}

fn device(device: &Device, write: &DeviceWrite, now: Timestamp) -> String {
    let target = write.decisions.target.as_ref();
    match write.change {
        Change::Granted => {
            let target = target.unwrap();
            let firmware = target.firmware.as_ref().map(|firmware| format!(" to {}", firmware.version));
            let config = target.config.as_ref().map(|config| {
                let crc = config.crc.map(|crc| format!(" (CRC {crc:?})")).unwrap_or_default();
                format!(" with config {}{crc}", timed(config))
            });
            let until = ahead(target.until.duration_since(now));
            let start_by = ahead(target.start_by.duration_since(now));
            let previous = write.decisions.previous.as_ref().unwrap();
            assert_eq!(previous.rollout_uid, *target.rollout_uid);
            let before = before(write);
            if target.stage == Stage::Download {
                let (id, attempt) = (target.id, target.attempt);
                let firmware = firmware.unwrap_or_default();
                return format!(
                    "may fetch ahead as {id}, try {attempt},{firmware}, to start in {start_by} and end in {until}{before}"
                );
            }
            let failed: Vec<_> = write.decisions.failed_ways.iter().map(|way| format!("{way:?}")).collect();
            let is_again = target.attempt == 1 && write.decisions.granted.as_ref().is_some_and(|granted| granted.tried);
            format!(
                "granted{}{} as {}, try {}, from {}{}{}, over {:?}{}, to start in {start_by} and end in {until}{before}",
                if is_again { " once more" } else { "" },
                if target.done { " and done" } else { "" },
                target.id,
                target.attempt,
                target.from,
                firmware.unwrap_or_default(),
                config.unwrap_or_default(),
                target.transfer,
                if failed.is_empty() { String::new() } else { format!(" and not {}", failed.join(" or ")) },
            )
        }
        Change::Withdrawn => {
            assert!(target.is_none());
            let place = if write.decisions.granted.is_some() { ", and keeps its place" } else { "" };
            format!("{} withdrawn{place}{}", device.decisions.target.as_ref().unwrap().id, before(write))
        }
        Change::Judged => {
            let outcome = write.decisions.outcome.as_ref().unwrap();
            format!("{} judged: {}", outcome.target, outcome.reason.as_str())
        }
        Change::Retried => {
            let granted = write.decisions.granted.as_ref();
            format!("to be tried again, for {:?}", granted.and_then(|granted| granted.forgiven))
        }
        Change::Done => format!("done: {}", target.unwrap().done),
        Change::Accepted => {
            let acceptance = write.decisions.acceptance.as_ref().unwrap();
            format!("accepted: {} ({}: {})", acceptance.accepted, acceptance.reason, acceptance.message)
        }
    }
}

/// The phase, the conditions that hold, and the sentence.
fn group(write: &GroupWrite) -> String {
    let holds = |condition: &&Condition| condition.status == "True";
    let conditions: Vec<&str> =
        write.status.conditions.iter().filter(holds).map(|condition| condition.type_.as_str()).collect();
    let conditions = if conditions.is_empty() { "nothing".to_owned() } else { conditions.join(", ") };
    let status = &write.status;
    let phase = status.phase.as_deref().unwrap();
    format!("{phase} ({conditions} holds): {}", status.message.as_deref().unwrap())
}
