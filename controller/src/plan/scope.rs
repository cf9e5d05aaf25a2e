//! What a pass holds of each group and of each device while it goes on.

use std::collections::HashMap;

use super::availability::Presence;
use super::grants::Granter;
use super::limits::{self, Usage};
use super::membership::{Membership, Standing as MacStanding};
use super::model::{Decisions, Device, Firmware, Group, Progress, Readiness, Rollout, Target, Text};
use super::output::Change;
use super::progress::{Goal, Standing};
use super::reason::Reason;
use super::revision::{Invalid, Rollouts, Wanted};
use super::status::Tally;

/// A group with all that belongs to it.
pub struct Scope<'a> {
    pub group: &'a Group,
    pub wanted: &'a Wanted<'a>,
    pub rollouts: &'a Rollouts<'a>,
    /// The rollout that stands for what the group wants, where it exists already.
    pub rollout: Option<&'a Rollout>,
    /// What the revision means for each model.
    pub goals: HashMap<Text, Result<Goal<'a>, Reason>>,
    pub usage: Usage,
    pub failed: usize,
    pub granter: Granter,
    pub tally: Tally,
}

/// A device with what was found of it.
pub struct Seen<'a> {
    pub device: &'a Device,
    pub membership: Membership,
    pub mac: MacStanding,
    pub presence: Presence,
    pub standing: Standing,
    pub open: Option<(&'a Target, Progress)>,
    /// It may have been granted a try by a write that was not answered.
    pub is_in_doubt: bool,
    /// Its decisions, where they change: for few devices of many.
    pub write: Option<Box<(Change, Decisions)>>,
}

/// A device that may be granted a try.
pub struct Candidate<'a> {
    pub scope: usize,
    pub goal: Goal<'a>,
    pub attempt: u32,
    /// It is current already, and is granted that only to be sent away.
    pub is_farewell: bool,
}

impl<'a> Scope<'a> {
    pub fn new(group: &'a Group, wanted: &'a Wanted<'a>, rollouts: &'a Rollouts<'a>) -> Self {
        let stands_for = |newest: &&Rollout| match wanted {
            Wanted::Revision(revision) => newest.spec.revision == revision.digest,
            Wanted::Invalid(_) => false,
        };
        Self {
            group,
            wanted,
            rollouts,
            rollout: rollouts.newest().filter(stands_for),
            goals: HashMap::new(),
            usage: Usage::default(),
            failed: 0,
            granter: Granter::default(),
            tally: Tally::default(),
        }
    }

    /// What the revision means for the model that the device reports; `None` where either is not known.
    pub fn goal(&mut self, device: &Device) -> Option<Result<Goal<'a>, Reason>> {
        let Wanted::Revision(revision) = self.wanted else { return None };
        let model = &device.facts.reported.as_ref()?.model;
        if let Some(goal) = self.goals.get(model) {
            return Some(*goal);
        }
        let goal = Goal::of(revision, model);
        self.goals.insert(model.clone(), goal);
        Some(goal)
    }

    /// Whether an open target of a device of this group still stands.
    pub fn backs(&self, target: &Target) -> bool {
        self.rollout.is_some_and(|rollout| rollout.uid == target.rollout_uid) && !limits::is_stopped(self.failed)
    }

    /// What a device may be granted, as far as the group is concerned.
    pub fn eligible(&self, device: &Device) -> Result<Goal<'a>, Reason> {
        let revision = match self.wanted {
            Wanted::Revision(revision) => revision,
            Wanted::Invalid(Invalid { .. }) => return Err(Reason::GroupInvalid),
        };
        let model = device.facts.reported.as_ref().map(|reported| &reported.model);
        let goal = *model.and_then(|model| self.goals.get(model)).unwrap_or(&Err(Reason::NeverConnected));
        let goal = goal?;
        if self.rollout.is_none() {
            return Err(Reason::RolloutStarting);
        }
        if limits::is_stopped(self.failed) {
            return Err(Reason::Stopped);
        }
        if revision.firmware.is_some_and(|firmware| !is_verified(firmware, &goal)) {
            return Err(Reason::FirmwareNotReady);
        }
        Ok(goal)
    }
}

fn is_verified(firmware: &Firmware, goal: &Goal<'_>) -> bool {
    firmware.readiness == Readiness::Ready
        && goal.image.is_none_or(|image| firmware.verified.contains(image.content.sha256.as_str()))
}

impl Seen<'_> {
    /// Whether it counts as unavailable without a try that runs.
    pub fn is_away(&self) -> bool {
        let lost = matches!(self.presence, Presence::Reconnecting { .. });
        self.presence.is_offline() || (lost && matches!(self.standing, Standing::Failed(_)))
    }

    /// Whether it counts against the failure budget.
    pub fn has_failed(&self) -> bool {
        let judged = self.open.is_none() && !self.device.held && self.mac == MacStanding::Accepted;
        judged && matches!(self.standing, Standing::Failed(_))
    }

    pub fn has_wrong_model(&self) -> bool {
        let reported = self.device.facts.reported.as_ref().map(|reported| &reported.model);
        matches!((&self.device.model, reported), (Some(declared), Some(reported)) if declared != reported)
    }
}
