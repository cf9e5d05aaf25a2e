//! The try that a device is in, or was in last: its target, and what is known of how that went.

use fettle_crds::{Phase, Stage, TryResult, Verdict};
use jiff::Timestamp;

use super::model::{Device, Target, Upgrade};

impl Device {
    /// Its target, and how far it is.
    pub fn attempt(&self) -> Option<(&Target, Progress)> {
        let target = self.decisions.target.as_ref()?;
        let upgrade = self.facts.upgrade.as_ref().filter(|upgrade| upgrade.target == target.id);
        let progress = match upgrade {
            Some(Upgrade { phase: Phase::Done, result, reason, since, .. }) => Progress::Ended(End {
                result: result.unwrap_or(TryResult::Failed),
                reason: reason.unwrap_or(Verdict::TimedOut),
                at: Some(*since),
            }),
            _ => match self.decisions.outcome.as_ref().filter(|outcome| outcome.target == target.id) {
                Some(outcome) => Progress::Ended(End { result: outcome.result, reason: outcome.reason, at: None }),
                None => match upgrade.map(|upgrade| upgrade.phase) {
                    Some(Phase::Restarting | Phase::RestartLost | Phase::Applying | Phase::Scheduled) => {
                        Progress::Begun
                    }
                    Some(Phase::Downloaded | Phase::Done) | None => Progress::Granted,
                },
            },
        };
        Some((target, progress))
    }

    /// Its target, where that lets it go all the way and the outcome is not known.
    pub fn open_target(&self) -> Option<Open<'_>> {
        match self.attempt()? {
            (target, Progress::Granted) if target.stage == Stage::Activate => Some(Open { target, has_begun: false }),
            (target, Progress::Begun) => Some(Open { target, has_begun: true }),
            (_, Progress::Granted | Progress::Ended(_)) => None,
        }
    }

    /// Its target, where that lets it only fetch what it is to run, and that has not failed.
    pub fn download(&self) -> Option<Ahead<'_>> {
        let (target, _) = self
            .attempt()
            .filter(|(target, progress)| target.stage == Stage::Download && *progress == Progress::Granted)?;
        let upgrade = self.facts.upgrade.as_ref().filter(|upgrade| upgrade.target == target.id);
        Some(Ahead { target, is_fetched: upgrade.is_some_and(|upgrade| upgrade.phase == Phase::Downloaded) })
    }
}

/// A target that lets a device go all the way, and whose outcome is not known.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    pub target: &'a Target,
    /// The command that cannot be taken back is written.
    pub has_begun: bool,
}

/// A target that lets a device fetch what it is to run, ahead of a window. Such a device is in service.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<'a> {
    pub target: &'a Target,
    /// It has it, and waits.
    pub is_fetched: bool,
}

/// How far a device is with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing has been written of it: it may be withdrawn.
    Granted,
    /// The command that cannot be taken back is written: whatever comes, it is waited for.
    Begun,
    /// The try has ended.
    Ended(End),
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub result: TryResult,
    pub reason: Verdict,
    /// Where the bridge said it.
    pub at: Option<Timestamp>,
}
