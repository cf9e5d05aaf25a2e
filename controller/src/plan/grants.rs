//! Targets: which are given, taken back, and judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use fettle_crds::{Outcome, Stage, TryResult, Verdict, WireTransfer};
use jiff::{SignedDuration, Timestamp};

use super::availability::Presence;
use super::model::{Decisions, Device, Granted, Group, Open, Progress, Rollout, Settings, Target};
use super::progress::Way;
use super::seen::Move;

/// No first command later than this after the grant: a decision that old may no longer hold.
pub const START_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// Why a target that has not begun may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Its rollout still wants it.
    Stands,
    /// The rollout is superseded or stopped, the group does not select the device any more, or it must not be served.
    Gone,
}

/// What becomes of an open target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on; this is looked at again then, if nothing else happens.
    Stays { look_again: Option<Timestamp> },
    /// It is taken back: nothing was begun, and nothing will be.
    Withdrawn,
    /// Its time ran out, and no bridge is there to say so.
    TimedOut,
}

impl Fate {
    /// Judges an open target.
    pub fn of(
        device: &Device,
        open: Open<'_>,
        backing: Backing,
        presence: Presence,
        settings: &Settings,
        now: Timestamp,
    ) -> Self {
        let Open { target, has_begun: begun } = open;
        if !begun && (backing == Backing::Gone || !still_applies(device, target)) {
            return Self::Withdrawn;
        }
        // The bridge that holds the session says how a try ends.
        let ends = match presence {
            Presence::Connected { .. } | Presence::BridgeStarting { .. } => None,
            // It was lost without having begun: offline, not failed.
            _ if !begun => Some(target.until),
            // Its bridge may yet return with the news, and we may have been away ourselves.
            _ => {
                let heard = presence.lost_at().unwrap_or(target.until).max(settings.watching_since);
                Some(target.until.max(heard + settings.reconnect_grace))
            }
        };
        match ends {
            Some(at) if at <= now && begun => Self::TimedOut,
            Some(at) if at <= now => Self::Withdrawn,
            at => Self::Stays { look_again: at },
        }
    }
}

/// Whether a device may go on to fetch something ahead, or to wait with it. One that is gone for longer than a moment has
/// lost what it had fetched, as far as anybody knows, and its place is for another.
pub fn may_stay_ahead(device: &Device, target: &Target, backing: Backing, presence: Presence) -> bool {
    backing == Backing::Stands && still_applies(device, target) && !presence.is_offline()
}

/// Whether the device is still what the target was planned on, or has arrived.
fn still_applies(device: &Device, target: &Target) -> bool {
    device.facts.reported.as_ref().is_some_and(|reported| {
        reported.version == target.from
            || target.firmware.as_ref().is_some_and(|firmware| firmware.reports == *reported.version)
    })
}

/// One try, as it is granted.
#[derive(Debug)]
pub struct Try {
    pub to: Move,
    pub attempt: u32,
    pub stage: Stage,
    /// No first command after that, whatever else holds.
    pub start_by: Option<Timestamp>,
    /// The values of the device's labels that limits are set by.
    pub spread: Arc<BTreeMap<String, String>>,
}

/// The target for one try, which goes the way that was chosen.
pub fn target(
    device: &Device,
    group: &Group,
    rollout: &Rollout,
    granted: Try,
    transfer: WireTransfer,
    now: Timestamp,
) -> Option<Target> {
    let Try { to, attempt, stage, start_by, spread } = granted;
    let reported = device.facts.reported.as_ref()?;
    // A device that puts a configuration into force at a time begins then.
    let begins = to.config.as_ref().and_then(|config| config.scheduled.as_ref()).map_or(now, |moment| moment.at);
    let until = begins + group.strategy.device_timeout;
    let start_by = start_by.unwrap_or(until).min(until).min(now + START_WITHIN);
    Some(Target {
        id: next_id(device),
        rollout: rollout.name.clone(),
        rollout_uid: rollout.uid.clone(),
        attempt,
        from: reported.version.clone(),
        firmware: to.firmware,
        config: to.config,
        transfer,
        logs: group.logs,
        stage,
        granted_at: now,
        start_by,
        until,
        spread,
        done: false,
    })
}

/// The decisions on a device whose target is taken back. What the rollout has done with it stays, unless that is nothing:
/// then another may have its place in the step. On the way back it never is: who has not been brought back yet still is to be.
///
/// What the device ran before is kept in any case. Its last target, which is gone now, may have been all that told.
pub fn withdrawn(device: &Device, target: &Target, way: Way) -> Decisions {
    let mut decisions = Decisions { target: None, ..device.decisions.clone() };
    let ours = decisions.granted.as_mut().filter(|granted| granted.rollout_uid == target.rollout_uid);
    let Some(granted) = ours else { return decisions };
    let before = decisions.previous.as_ref().map(|previous| previous.firmware.version.as_str());
    let has_moved = granted.tried || before.is_some_and(|before| before != &*target.from);
    if way == Way::Forward && target.attempt == 1 && granted.forgiven.is_none() && !has_moved {
        decisions.granted = None;
    } else {
        granted.tries = target.attempt - 1;
    }
    decisions
}

/// What a rollout has done with a device up to now; `None`: nothing.
pub fn granted_by(device: &Device, rollout: &Rollout) -> Option<Granted> {
    let granted = device.decisions.granted.as_ref().filter(|granted| granted.rollout_uid == rollout.uid)?;
    let last = device.attempt().filter(|(target, _)| target.rollout_uid == rollout.uid);
    let has_ended = last.is_some_and(|(_, progress)| matches!(progress, Progress::Ended(_)));
    Some(Granted { tried: granted.tried || has_ended, ..granted.clone() })
}

/// Notes that a device gets a fresh set of tries, though it has failed. From then on it is one of its step, whatever it had
/// failed at.
pub fn forgive(decisions: &mut Decisions, rollout: &Rollout, step: u32, failed: i64) {
    let ours = decisions.granted.take().filter(|granted| granted.rollout_uid == rollout.uid);
    let ours = ours.unwrap_or_else(|| taken_on(rollout, step));
    decisions.granted = Some(Granted { forgiven: ours.forgiven.max(Some(failed)), tries: 0, ..ours });
}

/// What a rollout has done with a device that it takes on in a step.
pub fn taken_on(rollout: &Rollout, step: u32) -> Granted {
    Granted { rollout_uid: rollout.uid.clone(), step, tries: 0, tried: false, forgiven: None }
}

/// Ids only count up, also where somebody has lost the count.
fn next_id(device: &Device) -> i64 {
    let target = device.decisions.target.as_ref().map_or(0, |target| target.id);
    let upgrade = device.facts.upgrade.as_ref().map_or(0, |upgrade| upgrade.target);
    device.decisions.last_target.max(target).max(upgrade) + 1
}

/// The outcome of a target whose time ran out with nobody there to say so.
pub fn timed_out(target: &Target) -> Outcome {
    Outcome { target: target.id, result: TryResult::Failed, reason: Verdict::TimedOut }
}
