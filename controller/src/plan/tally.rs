//! What a pass found in one group: how many devices stand how, the first of them by name, and that in a sentence.

use std::collections::{BTreeMap, BTreeSet};

use fettle_crds::Counts;
use jiff::Timestamp;

use super::model::{Device, Rollout, Text};
use super::reason::{Class, Failure, Reason};
use super::rendering::Coverage;
use super::seen::Seen;

/// So many failed devices are listed in a rollout.
const FAILURES_LISTED: usize = 10;
/// So many devices are named in a sentence.
const NAMED: usize = 3;

/// What a pass found in one group.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) counts: Counts,
    pub(super) reasons: BTreeMap<Reason, i64>,
    pub(super) failures: Vec<(Text, Failure, Option<Text>)>,
    /// The first devices that fill the limit without a try that runs.
    pub(super) away: Vec<Text>,
    /// The devices that other groups select too, the first of them, and those groups.
    pub(super) overlaps: usize,
    pub(super) overlapping: Vec<Text>,
    pub(super) overlapped_by: BTreeSet<Text>,
    /// The first device on a version that has no order, and the two versions.
    pub(super) not_comparable: Option<(Text, Option<(Text, Text)>)>,
    /// The first domain that is full of devices that are away, and its limit.
    pub(super) full_domain: Option<(Text, usize)>,
    /// The devices whose logs found no room, and the first of them.
    pub(super) logs_refused: usize,
    pub(super) without_log: Vec<Text>,
    /// For how many devices the template of the configuration can be rendered, where it is one.
    pub(super) coverage: Coverage,
    /// When the first try of the rollout was granted.
    pub(super) started: Option<Timestamp>,
}

impl Tally {
    /// A device of the group, and why it is not current.
    pub fn device(&mut self, seen: &Seen<'_>, reason: Option<Reason>, rollout: Option<&Rollout>) {
        let device = seen.device;
        self.counts.total += 1;
        self.counts.granted += i64::from(seen.granted_in.is_some());
        self.counts.rolled_back += i64::from(reason == Some(Reason::RolledBack));
        let Some(reason) = reason else {
            self.counts.current += 1;
            self.counts.current_offline += i64::from(seen.presence.is_offline());
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
        // Once it is written, nobody has to be asked.
        let Some(rollout) = rollout.filter(|rollout| rollout.status.started_at.is_none()) else { return };
        let target = device.decisions.target.as_ref();
        if let Some(target) = target.filter(|target| rollout.uid == target.rollout_uid) {
            self.started(target.granted_at);
        }
    }

    /// A try of the rollout was granted then.
    pub fn started(&mut self, at: Timestamp) {
        self.started = Some(self.started.map_or(at, |started| started.min(at)));
    }

    /// There was no room for the log of a device.
    pub fn log_refused(&mut self, device: &Text) {
        self.logs_refused += 1;
        if self.without_log.len() <= NAMED {
            self.without_log.push(device.clone());
        }
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

    /// A device runs a version that has no order with these.
    pub fn not_comparable(&mut self, device: &Text, versions: Option<(Text, Text)>) {
        self.not_comparable.get_or_insert_with(|| (device.clone(), versions));
    }

    /// A domain is full of devices that are away.
    pub fn blocked(&mut self, domain: Option<(Text, usize)>) {
        self.full_domain = self.full_domain.take().or(domain);
    }

    pub(super) fn count(&self, reason: Reason) -> i64 {
        self.reasons.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn reasons(&self) -> BTreeMap<String, i64> {
        let mut reasons = BTreeMap::new();
        for (reason, count) in &self.reasons {
            *reasons.entry(reason.as_str().to_owned()).or_default() += count;
        }
        reasons
    }

    /// `17 of 20 devices are current; 2 updating, 1 offline`.
    pub(super) fn progress(&self) -> String {
        let Counts { total, current, current_offline, .. } = self.counts;
        let mut text = match (current, total) {
            (1, 1) => "the only device is current".to_owned(),
            (current, total) if current == total => format!("all {total} devices are current"),
            (current, total) => format!("{current} of {total} devices are current"),
        };
        match (current_offline, total) {
            (0, _) => {}
            (_, 1) => text += ", and offline",
            (offline, _) => text += &format!(", {offline} of them offline"),
        }
        let mut separator = "; ";
        for (reason, count) in &self.reasons {
            text += &format!("{separator}{count} {}", reason.words());
            separator = ", ";
        }
        if let Some(errors) = self.coverage.named() {
            text += &format!("; {errors}");
        }
        text
    }
}

/// `a, b, c and others`, of a list that may have been cut already.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a Text>) -> String {
    let names: Vec<&str> = names.map(|name| &**name).take(NAMED + 1).collect();
    if names.len() > NAMED { format!("{} and others", names[..NAMED].join(", ")) } else { names.join(", ") }
}
