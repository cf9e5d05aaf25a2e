//! What the world itself has seen of each device: what it was permitted, what became of that, and what it ran before.
//!
//! The rules are judged by this, never by what the planner says of itself. It is told of every write that reaches the API
//! and of everything that a device does.

use std::collections::{BTreeMap, BTreeSet};

use fettle_controller::plan::labels::Labels;
use fettle_controller::plan::model::{Target, Text};
use fettle_crds::{Stage, Verdict};
use jiff::{SignedDuration, Timestamp};

/// The uid of a rollout.
pub type Uid = Text;

/// What is known of all devices, by their numbers.
#[derive(Debug, Default)]
pub struct Account {
    /// The permission of each device whose end is not known.
    pub open: BTreeMap<usize, Permission>,
    /// The same, where a device may only fetch.
    pub ahead: BTreeMap<usize, Permission>,
    /// The tries of each device that have ended by themselves, not by being taken back.
    pub tries: BTreeMap<usize, Vec<Tried>>,
    /// How many tries of the last rollout, in its last direction, have failed in a row.
    used: BTreeMap<usize, (Uid, Direction, u32)>,
    /// The step in which each rollout granted a device for the first time, as it was said in the grant.
    pub granted: BTreeMap<(Uid, usize), u32>,
    /// What a device ran before a rollout's first grant that was not taken back.
    pub before: BTreeMap<(Uid, usize), Ran>,
    pub last_id: BTreeMap<usize, i64>,
    /// How long the shortest try that worked took, by group.
    pub shortest: BTreeMap<Text, SignedDuration>,
    pub steps: BTreeMap<Uid, Vec<StepSeen>>,
    /// Devices that a person had tried again, by rollout: they count as failed until they are current.
    pub retried: BTreeSet<(Uid, usize)>,
    /// How much has been granted, and has ended.
    pub happened: usize,
}

/// Where a target leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Back,
}

/// A target, from its grant until its end.
#[derive(Debug, Clone)]
pub struct Permission {
    pub id: i64,
    pub rollout: Uid,
    pub group: Text,
    pub attempt: u32,
    pub direction: Direction,
    /// The labels of the device at the grant.
    pub labels: Labels,
    /// When the try begins: at the grant, or at its own time.
    pub begins: Timestamp,
    /// When the first command was sent.
    pub commanded: Option<Timestamp>,
    /// What cannot be taken back was written.
    pub begun: bool,
}

/// What a device has said that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub version: Option<String>,
    pub config: Option<Text>,
}

/// A try that has ended.
#[derive(Debug, Clone)]
pub struct Tried {
    pub rollout: Uid,
    pub attempt: u32,
    pub direction: Direction,
    pub verdict: Verdict,
}

/// When the try of a target begins: at its grant, or at the time at which it puts its configuration into force.
pub fn begins(target: &Target) -> Timestamp {
    scheduled(target).unwrap_or(target.granted_at)
}

/// The time at which a target puts its configuration into force, where it has one.
pub fn scheduled(target: &Target) -> Option<Timestamp> {
    Some(target.config.as_ref()?.scheduled.as_ref()?.at)
}

impl Tried {
    pub fn worked(&self) -> bool {
        worked(self.verdict)
    }
}

pub fn worked(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Upgraded | Verdict::ResultLost | Verdict::AlreadyCurrent)
}

/// A step of a rollout, as far as it can be seen from outside.
#[derive(Debug, Clone, Default)]
pub struct StepSeen {
    /// The sizes that it had since it may have begun: one of these was fixed.
    pub sizes: Option<(usize, usize)>,
    /// Since when all that it took on are current or failed.
    pub done_since: Option<Timestamp>,
    /// The next one may have begun.
    pub passed: bool,
}

impl Account {
    pub fn grant(&mut self, number: usize, target: &Target, group: Text, direction: Direction, labels: Labels) {
        let permission = Permission {
            id: target.id,
            rollout: target.rollout_uid.clone(),
            group,
            attempt: target.attempt,
            direction,
            labels,
            begins: begins(target),
            commanded: None,
            begun: false,
        };
        self.happened += 1;
        self.last_id.insert(number, target.id);
        match target.stage {
            Stage::Download => self.ahead.insert(number, permission),
            Stage::Activate => {
                self.ahead.remove(&number);
                self.open.insert(number, permission)
            }
        };
    }

    /// A target is taken back. Where that is all that its rollout has done with the device, and the rollout goes forward, it has
    /// not granted it yet.
    pub fn take_back(&mut self, number: usize, goes_back: bool) {
        let Some(permission) = self.open.remove(&number) else { return };
        if !goes_back && !self.has_tried(number, &permission.rollout) {
            let key = (permission.rollout, number);
            self.granted.remove(&key);
            self.before.remove(&key);
        }
    }

    /// A rollout takes a device on, which runs that.
    pub fn take_on(&mut self, number: usize, rollout: &Uid, step: u32, ran: Ran) {
        // It goes back to what it ran before the last rollout that had it, where another group had it in between.
        self.before.retain(|(uid, device), _| *device != number || uid == rollout);
        self.before.entry((rollout.clone(), number)).or_insert(ran);
        self.granted.entry((rollout.clone(), number)).or_insert(step);
    }

    /// A try ended, by the word of the bridge or of the controller.
    pub fn end(&mut self, number: usize, id: i64, verdict: Verdict, now: Timestamp) {
        let Some(permission) = self.open.remove(&number).or_else(|| self.ahead.remove(&number)) else { return };
        self.happened += 1;
        assert_eq!(permission.id, id, "the world has lost count of {number}");
        if worked(verdict) {
            let took = now.duration_since(permission.begins).max(SignedDuration::ZERO);
            let shortest = self.shortest.entry(permission.group.clone()).or_insert(took);
            *shortest = took.min(*shortest);
        }
        let before = self.used(number, &permission.rollout, permission.direction);
        let failed = if worked(verdict) { 0 } else { before + 1 };
        self.used.insert(number, (permission.rollout.clone(), permission.direction, failed));
        let Permission { rollout, attempt, direction, .. } = permission;
        let tried = Tried { rollout, attempt, direction, verdict };
        self.tries.entry(number).or_default().push(tried);
    }

    /// How many tries of a device in that rollout and direction have failed in a row.
    pub fn used(&self, number: usize, rollout: &Uid, direction: Direction) -> u32 {
        match self.used.get(&number) {
            Some((uid, way, used)) if uid == rollout && *way == direction => *used,
            _ => 0,
        }
    }

    /// The last try of a device, where it was of that rollout.
    pub fn last_try(&self, number: usize, rollout: &Uid) -> Option<&Tried> {
        self.tries.get(&number)?.last().filter(|tried| tried.rollout == *rollout)
    }

    pub fn has_tried(&self, number: usize, rollout: &Uid) -> bool {
        self.tries.get(&number).is_some_and(|tries| tries.iter().any(|tried| tried.rollout == *rollout))
    }

    pub fn permission(&self, number: usize) -> Option<&Permission> {
        self.open.get(&number)
    }
}
