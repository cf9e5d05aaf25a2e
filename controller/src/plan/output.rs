//! What the planner wants done. Each action carries what it depends on, to be checked again when it is done.

use fettle_crds::{ConfigProfileStatus, DeviceGroupStatus, DeviceRolloutStatus};
use jiff::Timestamp;

use super::model::{Decisions, Snapshot, Text};
use super::reason::Reason;
use super::revision::{Content, NewRollout};

/// What is to be done, in this order; and what is not, and why.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be kept, before anything that names it.
    pub contents: Vec<Content>,
    /// To be made, each after its contents.
    pub rollouts: Vec<NewRollout>,
    /// The decisions on devices, by name.
    pub devices: Vec<DeviceWrite>,
    pub groups: Vec<GroupWrite>,
    pub rollout_statuses: Vec<(Text, DeviceRolloutStatus)>,
    pub profiles: Vec<(Text, ConfigProfileStatus)>,
    pub deletions: Deletions,
    /// For each device that is accepted for a group, or is not, and is not current: why. Devices are numbered in the order of
    /// their names; so to count them, nobody has to go for those.
    pub waits: Vec<(u32, Reason)>,
    /// How many devices are current.
    pub current: usize,
    /// How many devices of groups are offline, whether they are current or not; those that are held are left out.
    pub offline: usize,
    /// When time alone changes the plan. In the past: at once, because this plan is only the first part.
    pub next: Option<Timestamp>,
}

/// All decisions on one device, to be written if nobody has written since.
#[derive(Debug, Clone)]
pub struct DeviceWrite {
    pub device: Text,
    pub resource_version: u64,
    pub decisions: Decisions,
    pub change: Change,
}

/// What is new in the decisions on a device, first things first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// Its target is taken back.
    Withdrawn,
    /// Its try has ended, and nobody else can say so.
    Judged,
    /// It gets a target, perhaps in place of one that is taken back.
    Granted,
    /// A person wants it to be tried again.
    Retried,
    /// Its connection may be closed, or may no longer.
    Done,
    /// Whether it is accepted.
    Accepted,
}

/// The status of a group, and what to tell about it.
#[derive(Debug, Clone)]
pub struct GroupWrite {
    pub group: Text,
    pub status: DeviceGroupStatus,
    pub notices: Vec<Notice>,
}

/// Something that people are told once: an event on the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    pub message: String,
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    RolloutStarted,
    RolloutComplete,
    /// Devices failed.
    RolloutStopped,
    /// The firmware cannot be had.
    FirmwareFailed,
    /// It names what does not exist or cannot be read.
    GroupInvalid,
    OverlappingGroups,
    /// A device runs a version that has no order with the one wanted.
    VersionsNotComparable,
    /// A step is done, and a person has to let the rollout go past it.
    ApprovalWanted,
    RolloutAborted,
    RolloutRollingBack,
    RolloutRolledBack,
    /// What had stalled goes on.
    Resumed,
}

/// What is to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletions {
    /// Recorded devices that somebody has declared, with the resourceVersion that this is known of.
    pub devices: Vec<(Text, u64)>,
    /// Rollouts that the history has no place for, with their uids.
    pub rollouts: Vec<(Text, Text)>,
    /// Secrets with content that nothing names.
    pub contents: Vec<Text>,
}

impl Plan {
    /// Why each device that is not current is not, by name. `snapshot` is what was planned.
    pub fn waiting<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = (&'s Text, Reason)> {
        let mut devices = snapshot.devices.keys().zip(0u32..);
        self.waits.iter().filter_map(move |(number, reason)| {
            let (name, _) = devices.find(|(_, found)| found == number)?;
            Some((name, *reason))
        })
    }
}
