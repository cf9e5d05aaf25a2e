//! What a pass found of a device, and what it may tell it.

use std::sync::Arc;

use fettle_crds::{TargetConfig, TargetFirmware, Verdict};

use super::availability::Presence;
use super::membership::{Membership, Standing as MacStanding};
use super::model::{Ahead, Decisions, Device, End, Open, Progress, Target};
use super::output::Change;
use super::progress::Standing;
use super::reason::Reason;

/// A device with what was found of it.
pub struct Seen<'a> {
    pub device: &'a Device,
    pub membership: Membership,
    pub mac: MacStanding,
    pub presence: Presence,
    pub standing: Standing,
    /// Approved, the only one with its MAC, and not held.
    pub is_served: bool,
    /// What is written of its acceptance is what there is to say.
    pub is_told: bool,
    /// A person wants it to be tried again, and that has not been acted on.
    pub is_wished: bool,
    /// What its target says of whether it may be sent away; `None`: it has none.
    pub done: Option<bool>,
    /// What keeps it from a try, whatever its group is at.
    pub obstacle: Option<Reason>,
    pub open: Option<Open<'a>>,
    /// What it may fetch ahead of a window.
    pub ahead: Option<Ahead<'a>>,
    /// It may have been granted a try by a write that was not answered.
    pub is_in_doubt: bool,
    /// The step in which the rollout of its group has granted it.
    pub granted_in: Option<u32>,
    /// It failed in the rollout of its group, which goes back.
    pub failed_on_the_way: bool,
    /// A person had it tried again: it counts as failed until it is current.
    pub is_retried: bool,
    /// Its decisions, where they change: for few devices of many.
    pub write: Option<Box<(Change, Decisions)>>,
}

/// What a device would be told in its next try.
#[derive(Debug, Clone)]
pub struct Move {
    pub firmware: Option<Arc<TargetFirmware>>,
    pub config: Option<Arc<TargetConfig>>,
}

impl Move {
    /// Whether it is a configuration alone.
    pub fn is_configuration(&self) -> bool {
        self.firmware.is_none() && self.config.is_some()
    }

    /// Whether there is a firmware in it that the device does not run yet.
    pub fn is_to_be_fetched(&self, device: &Device) -> bool {
        let version = device.facts.reported.as_ref().map(|reported| &*reported.version);
        self.firmware.as_ref().is_some_and(|firmware| version != Some(&*firmware.reports))
    }

    /// Whether a target is for this.
    pub fn is_that_of(&self, target: &Target) -> bool {
        self.firmware == target.firmware && self.config == target.config
    }
}

impl<'a> Seen<'a> {
    /// What it may fetch ahead, or has fetched, unless that is taken back in this pass.
    pub fn kept_ahead(&self) -> Option<Ahead<'a>> {
        let is_withdrawn = self.write.as_deref().is_some_and(|(change, _)| *change == Change::Withdrawn);
        self.ahead.filter(|_| !is_withdrawn)
    }

    /// Whether this pass takes back the only target that its rollout has given it.
    pub fn leaves_its_step(&self) -> bool {
        self.write
            .as_deref()
            .is_some_and(|(change, decisions)| *change == Change::Withdrawn && decisions.granted.is_none())
    }

    /// Whether it counts as unavailable without a try that runs.
    pub fn is_away(&self) -> bool {
        let lost = matches!(self.presence, Presence::Reconnecting { .. });
        let failed = matches!(self.standing, Standing::Failed(_)) || self.vanished_in_its_try();
        self.presence.is_offline() || (lost && failed)
    }

    /// Whether it has not been seen since its last try timed out. What its group wants may be another since: that brings
    /// nobody back.
    fn vanished_in_its_try(&self) -> bool {
        match (self.device.attempt(), self.presence.lost_at()) {
            (Some((target, Progress::Ended(End { reason: Verdict::TimedOut, at, .. }))), Some(lost)) => {
                lost <= at.unwrap_or(target.until)
            }
            _ => false,
        }
    }

    /// Whether a try of it runs, or may.
    pub fn is_updating(&self) -> bool {
        self.is_in_doubt || self.open.is_some()
    }

    /// Whether it counts against the failure budget.
    pub fn has_failed(&self) -> bool {
        if !self.is_served {
            return false;
        }
        let retried = self.is_retried && self.standing != Standing::Current;
        retried || (self.open.is_none() && matches!(self.standing, Standing::Failed(_)))
    }

    pub fn has_wrong_model(&self) -> bool {
        let reported = self.device.facts.reported.as_ref().map(|reported| &reported.model);
        matches!((&self.device.model, reported), (Some(declared), Some(reported)) if declared != reported)
    }
}
