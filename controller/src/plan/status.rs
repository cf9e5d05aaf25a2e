//! How it is told: conditions as kstatus has them, counts, reasons, sentences.
//!
//! A status is returned only where it differs from the one that is written. `lastTransitionTime` moves only when a
//! condition flips, so that equal states are equal statuses.

use std::collections::{BTreeMap, BTreeSet};

use fettle_crds::schema::message as cut;
use fettle_crds::{
    Condition, ConfigProfileStatus, Counts, DeviceGroupStatus, DeviceRolloutStatus, Failure as ListedFailure,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::limits::Usage;
use super::model::{Device, Group, Profile, Readiness, Rollout, Text};
use super::output::{GroupWrite, Notice, NoticeKind};
use super::reason::{Class, Failure, Reason};
use super::revision::Wanted;

/// So many failed devices are listed in a rollout.
const FAILURES_LISTED: usize = 10;
/// So many devices are named in a sentence.
const NAMED: usize = 3;

/// What a pass found in one group.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    reasons: BTreeMap<Reason, i64>,
    failures: Vec<(Text, Failure, Option<Text>)>,
    /// The first devices that fill the limit without a try that runs.
    away: Vec<Text>,
    /// The devices that other groups select too, the first of them, and those groups.
    overlaps: usize,
    overlapping: Vec<Text>,
    overlapped_by: BTreeSet<Text>,
    /// When the first try of the rollout was granted.
    started: Option<Timestamp>,
}

impl Tally {
    /// A device of the group, and why it is not current.
    pub fn device(&mut self, device: &Device, reason: Option<Reason>, rollout: Option<&Rollout>) {
        self.counts.total += 1;
        let Some(reason) = reason else {
            self.counts.current += 1;
            return self.granted(device, rollout);
        };
        match reason.class() {
            Class::Updating => self.counts.updating += 1,
            Class::Waiting => self.counts.waiting += 1,
            Class::Failed => self.counts.failed += 1,
            Class::Offline => self.counts.offline += 1,
        }
        *self.reasons.entry(reason).or_default() += 1;
        if let (Reason::Failed(failure), true) = (reason, self.failures.len() < FAILURES_LISTED) {
            let message = device.facts.upgrade.as_ref().and_then(|upgrade| upgrade.message.clone());
            self.failures.push((device.name.clone(), failure, message));
        }
        self.granted(device, rollout);
    }

    fn granted(&mut self, device: &Device, rollout: Option<&Rollout>) {
        let target = device.decisions.target.as_ref();
        if let Some(target) = target.filter(|target| rollout.is_some_and(|rollout| rollout.uid == target.rollout_uid)) {
            self.started(target.granted_at);
        }
    }

    /// A try of the rollout was granted then.
    pub fn started(&mut self, at: Timestamp) {
        self.started = Some(self.started.map_or(at, |started| started.min(at)));
    }

    /// A device that is away.
    pub fn away(&mut self, device: &Text) {
        if self.away.len() < NAMED {
            self.away.push(device.clone());
        }
    }

    /// A device that these groups select too.
    pub fn overlap(&mut self, device: &Text, others: Vec<Text>) {
        self.overlaps += 1;
        if self.overlapping.len() < NAMED {
            self.overlapping.push(device.clone());
        }
        self.overlapped_by.extend(others);
    }

    fn count(&self, reason: Reason) -> i64 {
        self.reasons.get(&reason).copied().unwrap_or(0)
    }

    fn reasons(&self) -> BTreeMap<String, i64> {
        let mut reasons = BTreeMap::new();
        for (reason, count) in &self.reasons {
            *reasons.entry(reason.as_str().to_owned()).or_default() += count;
        }
        reasons
    }

    /// `17 of 20 devices are current; 2 updating, 1 offline`.
    fn progress(&self) -> String {
        let Counts { total, current, .. } = self.counts;
        let mut text = match (current, total) {
            (1, 1) => "the only device is current".to_owned(),
            (current, total) if current == total => format!("all {total} devices are current"),
            (current, total) => format!("{current} of {total} devices are current"),
        };
        let mut separator = "; ";
        for (reason, count) in &self.reasons {
            text += &format!("{separator}{count} {}", reason.words());
            separator = ", ";
        }
        text
    }
}

/// A group, with all that its status speaks of.
pub struct GroupView<'a> {
    pub group: &'a Group,
    pub wanted: &'a Wanted<'a>,
    /// The rollout that stands for what the group wants, where it exists already.
    pub rollout: Option<&'a Rollout>,
    /// The newest one, whatever it stands for.
    pub newest: Option<&'a Rollout>,
    pub last_rollout: i64,
    pub usage: Usage,
    pub is_stopped: bool,
    pub tally: &'a Tally,
    pub now: Timestamp,
}

/// How a group, or its rollout, stands.
struct Verdict {
    phase: Phase,
    /// For the conditions.
    reason: String,
    message: String,
    notice: Option<NoticeKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Empty,
    Complete,
    Progressing,
    Waiting,
    Stalled,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Complete => "Complete",
            Self::Progressing => "Progressing",
            Self::Waiting => "Waiting",
            Self::Stalled => "Stalled",
        }
    }
}

/// The status of a group and of the rollout that stands for what it wants, where they change.
pub fn of_group(view: &GroupView<'_>) -> (Option<GroupWrite>, Option<(Text, DeviceRolloutStatus)>) {
    let completed_at = view.completed_at();
    let verdict = view.verdict(completed_at);
    let rollout = view.rollout.and_then(|rollout| view.rollout_status(rollout, completed_at));
    (view.group_status(&verdict), rollout)
}

impl GroupView<'_> {
    /// When the rollout was complete for the first time. It is when somebody is current and nothing that Fettle could do
    /// is left: devices that are offline, held or without a way are counted and do not hold it open.
    fn completed_at(&self) -> Option<Timestamp> {
        let rollout = self.rollout?;
        let left_behind = self.tally.reasons.keys().all(|reason| reason.is_left_behind());
        let is_complete = left_behind && self.tally.counts.current > 0 && !self.is_stopped;
        rollout.status.completed_at.or_else(|| is_complete.then_some(self.now))
    }

    fn verdict(&self, completed_at: Option<Timestamp>) -> Verdict {
        let stalled = |reason: &str, message: String, notice: NoticeKind| Verdict {
            phase: Phase::Stalled,
            reason: reason.to_owned(),
            message,
            notice: Some(notice),
        };
        let revision = match self.wanted {
            Wanted::Revision(revision) => revision,
            Wanted::Invalid(invalid) => {
                return stalled(invalid.reason.as_str(), invalid.message.clone(), NoticeKind::GroupInvalid);
            }
        };
        let progress = self.tally.progress();
        if !self.tally.overlapped_by.is_empty() {
            let others = list(self.tally.overlapped_by.iter());
            let devices = list(self.tally.overlapping.iter());
            let count = self.tally.overlaps;
            let message = format!(
                "{progress}; DeviceGroup {others} selects {count} of them too ({devices}): no group acts on those"
            );
            return stalled("OverlappingGroups", message, NoticeKind::OverlappingGroups);
        }
        if self.is_stopped {
            let failed = list(self.tally.failures.iter().map(|(device, ..)| device));
            let message = format!("{progress}; stopped until {failed} is current or held, or for another revision");
            return stalled("DevicesFailed", message, NoticeKind::RolloutStopped);
        }
        if self.tally.counts.total == 0 {
            let message = "the selector matches no device".to_owned();
            return Verdict { phase: Phase::Empty, reason: "NoDevices".to_owned(), message, notice: None };
        }
        if completed_at.is_some() {
            let notice = Some(NoticeKind::RolloutComplete);
            return Verdict { phase: Phase::Complete, reason: "Complete".to_owned(), message: progress, notice };
        }
        if let Some(firmware) = revision.firmware {
            match &firmware.readiness {
                Readiness::Failed { reason, message } => {
                    let message = format!("Firmware {}: {message}", firmware.name);
                    return stalled(reason, message, NoticeKind::FirmwareFailed);
                }
                Readiness::Unknown if self.tally.count(Reason::FirmwareNotReady) > 0 => {
                    let message = format!("{progress}; Firmware {} is not verified yet", firmware.name);
                    let reason = "FirmwareNotReady".to_owned();
                    return Verdict { phase: Phase::Waiting, reason, message, notice: None };
                }
                Readiness::Unknown | Readiness::Ready => {}
            }
        }
        if self.tally.count(Reason::BlockedByUnavailable) > 0 {
            let limit = self.group.strategy.max_unavailable.of_rounded_down(self.usage.total);
            let message = format!(
                "{progress}; maxUnavailable allows {limit} to be away, and {} are without any try that runs ({}): bring \
                 them back, or set spec.held on those in repair",
                self.usage.away,
                list(self.tally.away.iter())
            );
            return Verdict { phase: Phase::Waiting, reason: "BlockedByUnavailable".to_owned(), message, notice: None };
        }
        let moves = [Reason::Updating, Reason::Settling, Reason::RolloutStarting, Reason::NextPass, Reason::Retrying];
        let phase = if self.rollout.is_none() || moves.iter().any(|reason| self.tally.count(*reason) > 0) {
            Phase::Progressing
        } else {
            Phase::Waiting
        };
        Verdict { phase, reason: phase.as_str().to_owned(), message: progress, notice: None }
    }

    fn group_status(&self, verdict: &Verdict) -> Option<GroupWrite> {
        let Self { group, tally, .. } = self;
        let before = &group.status;
        let is_first = before.conditions.is_empty();
        let ready = matches!(verdict.phase, Phase::Complete | Phase::Empty) && !is_first;
        let stalled = verdict.phase == Phase::Stalled;
        let progressing = tally.counts.updating > 0 || verdict.phase == Phase::Progressing;
        let mut conditions = Conditions::new(&before.conditions, group.generation, self.now);
        conditions.set("Ready", ready, &verdict.reason, &verdict.message);
        conditions.set("Reconciling", !ready && !stalled, &verdict.reason, &verdict.message);
        conditions.set("Stalled", stalled, &verdict.reason, if stalled { &verdict.message } else { "" });
        conditions.set("Progressing", progressing, &verdict.reason, &verdict.message);
        let status = DeviceGroupStatus {
            observed_generation: Some(group.generation),
            conditions: conditions.done(),
            desired: match self.wanted {
                Wanted::Revision(revision) => Some(revision.describe()),
                Wanted::Invalid(_) => before.desired.clone(),
            },
            rollout: self.newest.map(|rollout| rollout.name.to_string()),
            last_rollout: self.last_rollout,
            phase: Some(verdict.phase.as_str().to_owned()),
            message: Some(cut(&*verdict.message)),
            step: None,
            counts: tally.counts,
            reasons: tally.reasons(),
        };
        let notices = notices(before, &status, verdict);
        (status != *before).then(|| GroupWrite { group: group.name.clone(), status, notices })
    }

    fn rollout_status(
        &self,
        rollout: &Rollout,
        completed_at: Option<Timestamp>,
    ) -> Option<(Text, DeviceRolloutStatus)> {
        let before = &rollout.status;
        let verdict = self.verdict(completed_at);
        let ready = matches!(verdict.phase, Phase::Complete | Phase::Empty) && !before.conditions.is_empty();
        let stalled = verdict.phase == Phase::Stalled;
        let mut conditions = Conditions::new(&before.conditions, rollout.generation, self.now);
        conditions.set("Ready", ready, &verdict.reason, &verdict.message);
        conditions.set("Reconciling", !ready && !stalled, &verdict.reason, &verdict.message);
        conditions.set("Stalled", stalled, &verdict.reason, if stalled { &verdict.message } else { "" });
        let failures = self.tally.failures.iter().map(|(device, failure, message)| ListedFailure {
            device: device.to_string(),
            reason: failure.as_str().to_owned(),
            message: cut(message.as_deref().unwrap_or_default()),
        });
        let status = DeviceRolloutStatus {
            observed_generation: Some(rollout.generation),
            conditions: conditions.done(),
            phase: Some(verdict.phase.as_str().to_owned()),
            progress: Some(format!("{}/{}", self.tally.counts.current, self.tally.counts.total)),
            message: Some(cut(&*verdict.message)),
            counts: self.tally.counts,
            reasons: self.tally.reasons(),
            failures: failures.collect(),
            step: None,
            waiting: None,
            rollback: None,
            estimated_end: None,
            started_at: before.started_at.or(self.tally.started),
            completed_at,
        };
        (status != *before).then(|| (rollout.name.clone(), status))
    }
}

/// The status of a rollout that another has taken the place of. One that is complete stays what it is.
pub fn superseded(rollout: &Rollout, now: Timestamp) -> Option<(Text, DeviceRolloutStatus)> {
    const PHASE: &str = "Superseded";
    let before = &rollout.status;
    if matches!(before.phase.as_deref(), Some(PHASE | "Complete")) {
        return None;
    }
    let message = match before.completed_at {
        None => "another revision came before it was complete",
        Some(_) => "another revision came when it was complete no longer",
    };
    let mut conditions = Conditions::new(&before.conditions, rollout.generation, now);
    conditions.set("Ready", false, PHASE, message);
    conditions.set("Reconciling", false, PHASE, "");
    conditions.set("Stalled", false, PHASE, "");
    let status = DeviceRolloutStatus {
        observed_generation: Some(rollout.generation),
        conditions: conditions.done(),
        phase: Some(PHASE.to_owned()),
        message: Some(message.to_owned()),
        ..before.clone()
    };
    Some((rollout.name.clone(), status))
}

/// The status of a profile, where it changes.
pub fn of_profile(profile: &Profile, now: Timestamp) -> Option<(Text, ConfigProfileStatus)> {
    let before = &profile.status;
    let mut conditions = Conditions::new(&before.conditions, profile.generation, now);
    let config = match profile.source.read() {
        Ok(config) => {
            conditions.set("Ready", true, "Read", "the text was read");
            Some(config.identity.to_string())
        }
        Err((reason, message)) => {
            conditions.set("Ready", false, reason, &message);
            None
        }
    };
    let status =
        ConfigProfileStatus { observed_generation: Some(profile.generation), conditions: conditions.done(), config };
    (status != *before).then(|| (profile.name.clone(), status))
}

/// What people are told of a change of status.
fn notices(before: &DeviceGroupStatus, after: &DeviceGroupStatus, verdict: &Verdict) -> Vec<Notice> {
    let notice = |kind, message: &str| Notice { kind, message: message.to_owned() };
    let mut notices = Vec::new();
    if let Some(rollout) = after.rollout.as_ref().filter(|rollout| before.rollout.as_ref() != Some(rollout)) {
        let desired = after.desired.as_deref().unwrap_or_default();
        notices.push(notice(NoticeKind::RolloutStarted, &format!("{rollout} begins: {desired}")));
    }
    let stalled_for = |status: &DeviceGroupStatus| {
        let stalled =
            status.conditions.iter().find(|condition| condition.type_ == "Stalled" && condition.status == "True");
        stalled.map(|condition| condition.reason.clone())
    };
    let ready = |status: &DeviceGroupStatus| {
        status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    match (stalled_for(before), stalled_for(after), verdict.notice) {
        (was, is @ Some(_), Some(kind)) if was != is => notices.push(notice(kind, &verdict.message)),
        (_, None, Some(kind)) if ready(after) && !ready(before) => notices.push(notice(kind, &verdict.message)),
        (Some(_), None, _) => notices.push(notice(NoticeKind::Resumed, &verdict.message)),
        _ => {}
    }
    notices
}

/// `a, b, c and others`, of a list that may have been cut already.
fn list<'a>(names: impl Iterator<Item = &'a Text>) -> String {
    let names: Vec<&str> = names.map(|name| &**name).take(NAMED + 1).collect();
    if names.len() > NAMED { format!("{} and others", names[..NAMED].join(", ")) } else { names.join(", ") }
}

/// Conditions, in the making.
struct Conditions<'a> {
    before: &'a [Condition],
    generation: i64,
    now: Timestamp,
    done: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(before: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { before, generation, now, done: Vec::new() }
    }

    fn set(&mut self, type_: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let before = self.before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        self.done.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time: before.map_or(Time(self.now), |before| before.last_transition_time.clone()),
            reason: reason.to_owned(),
            message: cut(message),
        });
    }

    /// Those of others stay.
    fn done(mut self) -> Vec<Condition> {
        let others = self.before.iter().filter(|before| self.done.iter().all(|done| done.type_ != before.type_));
        let others: Vec<Condition> = others.cloned().collect();
        self.done.extend(others);
        self.done
    }
}
