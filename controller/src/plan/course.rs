//! Which way a rollout goes, and whether anybody may begin in it now.

use std::sync::Arc;

use fettle_crds::{Abort, OnFailure, RollbackStatus};
use jiff::{SignedDuration, Timestamp};

use super::limits::Budget;
use super::model::{Group, Rollout};
use super::reason::Reason;
use super::windows::{Answer, Calendar, Fit, Gate};

/// Where a rollout is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    Forward,
    /// A person has paused the rollout, or its group.
    Paused,
    /// More devices failed than may.
    Stopped,
    /// A person has ended it.
    Aborted,
    /// It turns back: written first, before anybody is sent.
    Turning(Turn),
    /// Devices go back to what they ran before.
    Back,
    /// They would, but a person has paused or ended that.
    BackHalted(Halt),
}

/// Why a rollout turns back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    BudgetExceeded,
    Aborted,
}

impl Turn {
    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BudgetExceeded => "BudgetExceeded",
            Self::Aborted => "Aborted",
        }
    }

    pub fn status(self, now: Timestamp) -> RollbackStatus {
        RollbackStatus { reason: self.as_str().to_owned(), started_at: now, finished_at: None }
    }
}

/// What holds a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    Paused,
    Aborted,
}

/// Whether a person has paused the rollout, or its group.
pub fn is_paused(group: &Group, rollout: &Rollout) -> bool {
    group.paused || rollout.spec.paused == Some(true)
}

impl Course {
    /// The course of a rollout that stands for what its group wants.
    pub fn of(group: &Group, rollout: &Rollout, budget: Budget) -> Self {
        let paused = is_paused(group, rollout);
        let abort = rollout.spec.abort;
        if rollout.status.rollback.is_some() {
            return match abort {
                Some(Abort::Stop) => Self::BackHalted(Halt::Aborted),
                _ if paused => Self::BackHalted(Halt::Paused),
                Some(Abort::Rollback) | None => Self::Back,
            };
        }
        match abort {
            Some(Abort::Stop) => return Self::Aborted,
            Some(Abort::Rollback) => return Self::Turning(Turn::Aborted),
            None => {}
        }
        // A device that falls back weeks after all is done must not take the whole fleet with it.
        let turns_back = group.strategy.on_failure == OnFailure::Rollback && rollout.status.completed_at.is_none();
        match (budget.is_exceeded(), turns_back) {
            (true, true) => Self::Turning(Turn::BudgetExceeded),
            (true, false) => Self::Stopped,
            (false, _) if paused => Self::Paused,
            (false, _) => Self::Forward,
        }
    }

    /// Why nobody may begin.
    pub fn holds(self) -> Option<Reason> {
        match self {
            Self::Forward | Self::Back => None,
            Self::Paused | Self::BackHalted(Halt::Paused) => Some(Reason::Paused),
            Self::Stopped => Some(Reason::Stopped),
            Self::Aborted | Self::BackHalted(Halt::Aborted) => Some(Reason::Aborted),
            Self::Turning(_) => Some(Reason::RollbackStarting),
        }
    }
}

/// Whether the clock lets anybody begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clock {
    /// At the latest then; `None`: at any time.
    Open {
        start_by: Option<Timestamp>,
    },
    /// No window is open, or what is open closes too soon.
    Closed {
        next: Option<Timestamp>,
        closes: Option<Timestamp>,
    },
    Frozen {
        until: Timestamp,
        reason: Arc<str>,
        next: Option<Timestamp>,
    },
}

impl Clock {
    /// What a calendar says of a try that is expected to last so long; and when it will say something else.
    pub fn read(calendar: &Calendar, now: Timestamp, expected: SignedDuration) -> (Self, Option<Timestamp>) {
        let Answer { gate, changes_at, at: _ } = calendar.at(now);
        match gate {
            Gate::Frozen { until, reason, next } => (Self::Frozen { until, reason, next }, changes_at),
            Gate::NoWindowOpen { next } => (Self::Closed { next, closes: None }, changes_at),
            Gate::Open { .. } => match calendar.fits(now, expected) {
                Fit::Fits { start_by } => {
                    // At `start_by` itself it is still open.
                    let closes = start_by.map(|at| at + SignedDuration::from_secs(1));
                    (Self::Open { start_by }, [changes_at, closes].into_iter().flatten().min())
                }
                Fit::TooShort { closes, next } => (Self::Closed { next, closes: Some(closes) }, changes_at),
                Fit::Closed { next } => (Self::Closed { next, closes: None }, changes_at),
            },
        }
    }

    /// Why nobody may begin.
    pub fn holds(&self) -> Option<Reason> {
        match self {
            Self::Open { .. } => None,
            Self::Closed { .. } => Some(Reason::WaitingForWindow),
            Self::Frozen { .. } => Some(Reason::Frozen),
        }
    }
}
