//! Where a device stands with what it is to run: current, settling, failed, or on its way.

use fettle_crds::{TryResult, Verdict};
use jiff::{SignedDuration, Timestamp};

use super::availability::Presence;
use super::goal::{self, Goal};
use super::model::{Device, End, Granted, Progress, Rollout, Settings, Strategy, Target};
use super::reason::Failure;

/// A device that has lost its connection so often by itself, in the soak of its step, is not what was wanted.
const DROPS_MAX: i64 = 2;
/// The pause between two tries grows to this: a device that fails for a reason that passes is helped within the hour, and
/// one that fails for ever does not fill the logs.
const BACKOFF_MAX: SignedDuration = SignedDuration::from_mins(10);

/// Where a device stands with a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// It runs what it should, but not for `minReady` yet.
    Settling {
        until: Timestamp,
    },
    Failed(Failure),
    /// The last try failed, and there are more, the next no earlier than that.
    BetweenTries {
        attempt: u32,
        at: Timestamp,
    },
    /// It failed, and a person wants it to be tried again.
    Forgiven {
        failed: i64,
    },
    /// Nothing has been tried, or the last thing that was brought it part of the way.
    Untried,
}

/// Whether a device has gone away in the soak of its step, for longer than a try may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    /// It seems so, but none of ours has been there for long enough to see it come back.
    Doubtful {
        until: Timestamp,
    },
    Certain,
}

/// Which way devices are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Forward,
    Back,
}

/// What a device is judged by, besides its goal.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub way: Way,
    /// The one that stands for the goal, where it exists already.
    pub rollout: Option<&'a Rollout>,
    /// What that has done with the device.
    pub granted: Option<&'a Granted>,
    /// The end of the soak of the step in which it was granted. What has happened by then counts, also afterwards, until it
    /// reports again.
    pub watched_until: Option<Timestamp>,
    pub strategy: &'a Strategy,
    pub presence: Presence,
    pub settings: &'a Settings,
    pub now: Timestamp,
}

impl Standing {
    /// Judges a device.
    ///
    /// A target whose outcome is open is not looked at here: while it is, the device is updating.
    pub fn of(device: &Device, goal: &Goal, terms: &Terms<'_>) -> Self {
        if let Some(since) = goal.met_since(device) {
            return terms.of_arrived(device, since);
        }
        let standing = terms.of_ended(device, goal);
        match (standing, terms.loss(device)) {
            // Granted, not there, and away for so long: the step would wait for it for ever.
            (Self::BetweenTries { .. } | Self::Untried, Loss::Certain) => Self::Failed(Failure::Unstable),
            (other, _) => other,
        }
    }
}

impl Terms<'_> {
    /// The same for whether a device failed in a rollout that goes back: before it turned, or in a try of the way back. One that
    /// is gone by itself since has not, wherever the rollout had taken it.
    pub fn up_to_the_turn(&self) -> Option<Self> {
        let turned = self.rollout?.status.rollback.as_ref()?.started_at;
        let watched_until = self.watched_until.map(|until| until.min(turned));
        Some(Self { way: Way::Forward, watched_until, ..*self })
    }

    fn of_arrived(&self, device: &Device, since: Timestamp) -> Standing {
        let min_ready = match self.way {
            Way::Forward => self.strategy.min_ready,
            Way::Back => SignedDuration::ZERO,
        };
        let until = since + min_ready;
        // Time counts while it is connected: up to now, or to when it was lost.
        let seen = self.presence.lost_at().map_or(self.now, |lost| lost.max(since).min(self.now));
        match self.loss(device) {
            Loss::Certain => Standing::Failed(Failure::Unstable),
            _ if self.keeps_dropping(device) => Standing::Failed(Failure::Unstable),
            Loss::Doubtful { until } => Standing::Settling { until },
            Loss::None if until <= seen => Standing::Current,
            Loss::None => Standing::Settling { until },
        }
    }

    fn is_watched_at(&self, at: Timestamp) -> bool {
        let watched = self.watched_until.filter(|_| self.granted.is_some() && self.way == Way::Forward);
        watched.is_some_and(|until| at <= until)
    }

    /// When it is, or will have been, away for longer than a try may take, if that is before the soak of its step is over.
    fn lost_in_soak_at(&self) -> Option<Timestamp> {
        let at = self.presence.lost_at()? + self.strategy.device_timeout;
        Some(at).filter(|at| self.is_watched_at(*at))
    }

    /// When that is beyond doubt. After an outage of ours it has a time to call again, and until then it has not failed: a
    /// whole one, where it was lost because its bridge was, and nobody saw it go.
    fn loss_is_certain_at(&self, device: &Device) -> Option<Timestamp> {
        let went_with_its_bridge = device.facts.session.is_some();
        let Settings { watching_since, reconnect_grace, .. } = *self.settings;
        let to_call_again = if went_with_its_bridge { self.strategy.device_timeout } else { reconnect_grace };
        Some(self.lost_in_soak_at()?.max(watching_since + to_call_again))
    }

    fn loss(&self, device: &Device) -> Loss {
        if self.lost_in_soak_at().is_none_or(|at| self.now < at) {
            return Loss::None;
        }
        match self.loss_is_certain_at(device) {
            Some(until) if self.now < until => Loss::Doubtful { until },
            Some(_) | None => Loss::Certain,
        }
    }

    /// It reports what it should, and loses its connection again and again. Connected for as long as a try may take, it
    /// counts as current after all.
    fn keeps_dropping(&self, device: &Device) -> bool {
        let target = device.decisions.target.as_ref().map(|target| target.id);
        let drops = device.facts.drops.filter(|drops| Some(drops.target) == target).map_or(0, |drops| drops.count);
        let is_forgiven = self.granted.and_then(|granted| granted.forgiven) >= target;
        // When it lost its connection last, or called after that.
        let last = self.presence.lost_at().or(device.facts.session.as_ref().map(|session| session.since));
        last.is_some_and(|last| self.is_watched_at(last))
            && !is_forgiven
            && drops >= DROPS_MAX
            && self.stable_from(device).is_none_or(|at| self.now < at)
    }

    /// When a device that is connected will have been so for as long as a try may take.
    fn stable_from(&self, device: &Device) -> Option<Timestamp> {
        let session = device.facts.session.as_ref().filter(|_| self.presence.is_connected())?;
        Some(session.since + self.strategy.device_timeout)
    }

    /// When the judgement changes by the passing of time alone.
    pub fn changes_at(&self, device: &Device, standing: Standing) -> impl Iterator<Item = Timestamp> {
        let lost_at = || self.lost_in_soak_at().filter(|at| self.now < *at).or_else(|| self.loss_is_certain_at(device));
        let (by_itself, lost) = match standing {
            Standing::Settling { until: at } | Standing::BetweenTries { at, .. } => (Some(at), lost_at()),
            Standing::Current | Standing::Untried => (None, lost_at()),
            Standing::Failed(Failure::Unstable) => (self.stable_from(device), None),
            Standing::Forgiven { .. } | Standing::Failed(_) => (None, None),
        };
        by_itself.into_iter().chain(lost)
    }

    /// By its last target, and by what is left of those that were taken back.
    fn of_ended(&self, device: &Device, goal: &Goal) -> Standing {
        let is_ours = |target: &Target| {
            self.rollout.is_some_and(|rollout| rollout.uid == target.rollout_uid)
                && (self.way == Way::Forward || goal.is_led_to_by(target))
        };
        let Some((target, Progress::Ended(end))) = device.attempt().filter(|(target, _)| is_ours(target)) else {
            let tries = self.granted.filter(|_| self.way == Way::Forward).map_or(0, |granted| granted.tries);
            let between = Standing::BetweenTries { attempt: tries, at: self.now };
            return if tries > 0 { between } else { Standing::Untried };
        };
        let failed = |failure| {
            // Who is not there cannot be tried again, and must not hold up the others meanwhile.
            if self.is_forgiven(target, &end) && !is_lost(self.presence) {
                Standing::Forgiven { failed: target.id }
            } else {
                Standing::Failed(failure)
            }
        };
        match end.result {
            // Part of the way, and still there: the next hop is another matter.
            TryResult::Succeeded if !goal.is_led_to_by(target) && goal::is_where_it_was_brought(device, target) => {
                Standing::Untried
            }
            TryResult::Succeeded => failed(Failure::FellBack),
            // Somebody has declared something else of it since: that has not been tried.
            TryResult::Failed
                if end.reason != Verdict::UnexpectedVersion && goal.was_rendered_otherwise_for(target) =>
            {
                Standing::Untried
            }
            TryResult::Failed if end.reason == Verdict::UnexpectedVersion || target.attempt > self.strategy.retries => {
                failed(Failure::Try(end.reason))
            }
            // It vanished in its try. Whether it still lives, only its return can tell: until then it has failed.
            TryResult::Failed if end.reason == Verdict::TimedOut && is_lost(self.presence) => {
                failed(Failure::Try(end.reason))
            }
            TryResult::Failed => Standing::BetweenTries {
                attempt: target.attempt,
                at: ended_at(target, &end) + backoff(self.settings.retry_backoff, target.attempt),
            },
        }
    }

    /// Whether a person has said that this failure is not the last word.
    fn is_forgiven(&self, target: &Target, end: &End) -> bool {
        let by_name = self.granted.and_then(|granted| granted.forgiven).is_some_and(|id| target.id <= id);
        let of_all = self.rollout.and_then(|rollout| rollout.spec.retry_at);
        by_name || of_all.is_some_and(|at| at <= self.now && ended_at(target, end) <= at)
    }
}

/// When a try ended: the bridge says when; the controller judges at its end.
fn ended_at(target: &Target, end: &End) -> Timestamp {
    end.at.unwrap_or(target.until)
}

/// The pause after that many tries.
fn backoff(first: SignedDuration, tries: u32) -> SignedDuration {
    first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(BACKOFF_MAX.max(first))
}

fn is_lost(presence: Presence) -> bool {
    match presence {
        Presence::Reconnecting { .. } | Presence::Offline { .. } | Presence::Never => true,
        Presence::Connected { .. } | Presence::Dismissed { .. } | Presence::BridgeStarting { .. } => false,
    }
}
