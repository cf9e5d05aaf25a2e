//! Where a device stands with what its group wants: current, settling, failed, or neither.

use fettle_crds::{TryResult, Verdict};
use jiff::Timestamp;

use super::availability::Presence;
use super::model::{Config, Device, End, Image, Progress, Rollout, Strategy};
use super::reason::{Failure, Reason};
use super::revision::Revision;

/// What a device of one model should run: `None` where that stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    pub image: Option<&'a Image>,
    pub config: Option<&'a Config>,
}

impl<'a> Goal<'a> {
    /// What the revision means for a model.
    ///
    /// # Errors
    /// The reason, where it means nothing for it.
    pub fn of(revision: &Revision<'a>, model: &str) -> Result<Self, Reason> {
        let image = revision.image(model).map_err(|_| Reason::NoImageForModel)?;
        let config = revision.config(model).map_err(|_| Reason::ConfigNotForModel)?;
        Ok(Self { image, config })
    }

    /// Since when the device has been known to run it, if it does.
    fn met_since(&self, device: &Device) -> Option<Timestamp> {
        let reported = device.facts.reported.as_ref()?;
        let mut since = reported.at;
        if self.image.is_some_and(|image| image.reports != reported.version) {
            return None;
        }
        if let Some(config) = self.config {
            if device.running_config() != Some(&config.identity) {
                return None;
            }
            let applied = device.facts.applied.as_ref().filter(|applied| applied.config == config.identity);
            since = applied.map_or(since, |applied| since.max(applied.at));
        }
        // A try that worked is over when the bridge says so, which may be later than the report.
        let done = match device.attempt() {
            Some((_, Progress::Ended(End { result: TryResult::Succeeded, at, .. }))) => at,
            _ => None,
        };
        Some(done.map_or(since, |done| since.max(done)))
    }

    /// Whether this is what a target of the device said.
    fn is_target(&self, target: &super::model::Target) -> bool {
        let firmware = target.firmware.as_ref().map(|firmware| firmware.content.as_str());
        let config = target.config.as_ref().map(|config| config.content.as_str());
        firmware == self.image.map(|image| &*image.name) && config == self.config.map(|config| &*config.name)
    }
}

/// Where a device stands with a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// It runs what it should, but not for `minReady` yet.
    Settling {
        until: Timestamp,
    },
    Failed(Failure),
    /// The last try failed, and there are more.
    BetweenTries {
        attempt: u32,
    },
    /// Nothing has been tried in this rollout.
    Untried,
}

impl Standing {
    /// Judges a device. `rollout` is the one that stands for the goal, where it exists already.
    ///
    /// A target whose outcome is open is not looked at here: while it is, the device is updating.
    pub fn of(
        device: &Device,
        goal: Option<&Goal<'_>>,
        rollout: Option<&Rollout>,
        strategy: &Strategy,
        presence: Presence,
        now: Timestamp,
    ) -> Self {
        let Some(goal) = goal else { return Self::Untried };
        if let Some(since) = goal.met_since(device) {
            let until = since + strategy.min_ready;
            // Time counts while it is connected: up to now, or to when it was lost.
            let seen = presence.lost_at().map_or(now, |lost| lost.max(since).min(now));
            return if until <= seen { Self::Current } else { Self::Settling { until } };
        }
        let Some((target, Progress::Ended(end))) = device.attempt() else { return Self::Untried };
        if rollout.is_none_or(|rollout| rollout.uid != target.rollout_uid) || !goal.is_target(target) {
            return Self::Untried;
        }
        match end.result {
            TryResult::Succeeded => Self::Failed(Failure::FellBack),
            TryResult::Failed if end.reason == Verdict::UnexpectedVersion || target.attempt > strategy.retries => {
                Self::Failed(Failure::Try(end.reason))
            }
            // It vanished in its try. Whether it still lives, only its return can tell: until then it has failed.
            TryResult::Failed if end.reason == Verdict::TimedOut && is_lost(presence) => {
                Self::Failed(Failure::Try(end.reason))
            }
            TryResult::Failed => Self::BetweenTries { attempt: target.attempt },
        }
    }
}

fn is_lost(presence: Presence) -> bool {
    match presence {
        Presence::Reconnecting { .. } | Presence::Offline { .. } | Presence::Never => true,
        Presence::Connected { .. } | Presence::Dismissed | Presence::BridgeStarting { .. } => false,
    }
}
