//! How a group stands, and what people are told of it: a phase, a reason, a sentence.
//!
//! What stops a rollout or takes it back comes before what keeps some devices from it, and that before what it waits for.

use jiff::Timestamp;

use super::course::{Clock, Course, Halt};
use super::model::Readiness;
use super::output::NoticeKind;
use super::phase::Phase;
use super::reason::Reason;
use super::revision::{Invalid, Revision, Wanted};
use super::scope::Scope;
use super::status::GroupView;
use super::steps::Rest;
use super::tally::list;

/// How a group, or its rollout, stands.
pub(super) struct Verdict {
    pub(super) phase: Phase,
    /// For the conditions.
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) notice: Option<NoticeKind>,
    /// What it waits for, and until when.
    pub(super) waits: Option<(&'static str, Option<Timestamp>)>,
}

impl Verdict {
    fn new(phase: Phase, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { phase, reason: reason.into(), message: message.into(), notice: None, waits: None }
    }

    fn told(self, notice: NoticeKind) -> Self {
        Self { notice: Some(notice), ..self }
    }

    fn waiting(self, reason: &'static str, until: Option<Timestamp>) -> Self {
        Self { waits: Some((reason, until)), ..self }
    }

    /// With what has to be told besides.
    fn beside(self, sentence: &str) -> Self {
        Self { message: format!("{}; {sentence}", self.message), ..self }
    }
}

/// What keeps some devices of a group from any rollout, until somebody changes a manifest.
struct Conflict {
    reason: &'static str,
    sentence: String,
    notice: NoticeKind,
}

/// What needs a person, and who is told.
fn stalled(reason: &str, message: String, notice: NoticeKind) -> Verdict {
    Verdict::new(Phase::Stalled, reason, message).told(notice)
}

impl GroupView<'_, '_> {
    pub(super) fn verdict(&self, completed_at: Option<Timestamp>) -> Verdict {
        let progress = self.scope.tally.progress();
        let revision = match &self.scope.wanted {
            Wanted::Revision(revision) => revision,
            Wanted::Invalid(invalid) => return self.invalid(invalid, &progress, completed_at),
        };
        match (self.of_course(&progress, completed_at), self.conflict()) {
            // Where the rollout goes, and who stopped it, comes first: of the others it is told besides.
            (Some(verdict), Some(Conflict { sentence, .. })) => verdict.beside(&sentence),
            (Some(verdict), None) => verdict,
            (None, Some(Conflict { reason, sentence, notice })) => {
                stalled(reason, format!("{progress}; {sentence}"), notice)
            }
            (None, None) => self.forward(revision, progress, completed_at),
        }
    }

    /// A group that cannot be acted on. What goes back comes first, as long as it goes.
    fn invalid(&self, invalid: &Invalid, progress: &str, completed_at: Option<Timestamp>) -> Verdict {
        let Invalid { reason, message } = invalid;
        let goes_back = self.of_course(progress, completed_at).filter(|verdict| !verdict.phase.is_stalled());
        match goes_back {
            Some(verdict) => verdict.beside(message),
            None if self.scope.awaited_until().is_some_and(|until| self.now < until) => {
                Verdict::new(Phase::Waiting, reason.as_str(), message.clone())
            }
            None => stalled(reason.as_str(), message.clone(), NoticeKind::GroupInvalid),
        }
    }

    /// Of the rollout, where its group stands otherwise: one that has gone back has, whatever has become of the group since.
    pub(super) fn of_rollout(&self, completed_at: Option<Timestamp>) -> Option<Verdict> {
        let is_invalid = matches!(self.scope.wanted, Wanted::Invalid(_));
        is_invalid.then(|| self.of_course(&self.scope.tally.progress(), completed_at)).flatten()
    }

    /// Devices that another group selects too, or that run a version without an order.
    fn conflict(&self) -> Option<Conflict> {
        let tally = &self.scope.tally;
        if !tally.overlapped_by.is_empty() {
            let others = list(tally.overlapped_by.iter());
            let devices = list(tally.overlapping.iter());
            let count = tally.overlaps;
            let sentence =
                format!("DeviceGroup {others} selects {count} of them too ({devices}): no group acts on those");
            return Some(Conflict { reason: "OverlappingGroups", sentence, notice: NoticeKind::OverlappingGroups });
        }
        let (device, versions) = tally.not_comparable.as_ref()?;
        let versions = versions.as_ref().map_or_else(String::new, |(a, b)| format!(" ({a} and {b})"));
        let sentence = format!(
            "{device} runs a version that cannot be ordered against the one wanted{versions}: set firmware.policy to Exact \
             to take it there whatever it runs"
        );
        Some(Conflict { reason: "VersionsNotComparable", sentence, notice: NoticeKind::VersionsNotComparable })
    }

    /// Of a rollout that was stopped, or goes back.
    fn of_course(&self, progress: &str, completed_at: Option<Timestamp>) -> Option<Verdict> {
        let Scope { tally, course, budget, rollout, .. } = self.scope;
        let name = rollout.map_or("the rollout", |rollout| &*rollout.name);
        Some(match course {
            Course::Stopped => {
                let failed = match list(tally.failures.iter().map(|(device, ..)| device)) {
                    names if names.is_empty() => String::new(),
                    names => format!(" ({names})"),
                };
                let why = if budget.whole_step_failed && budget.failed <= budget.allowed {
                    format!("all devices of the step failed{failed}")
                } else {
                    let accepted = rollout.is_some_and(|rollout| rollout.spec.accept_failures.is_some());
                    let by = if accepted { "acceptFailures" } else { "failureBudget" };
                    format!("{} failed{failed}, where {by} allows {}", budget.failed, budget.allowed)
                };
                let message = format!(
                    "{progress}; stopped: {why}. Apply another revision, or patch retryAt, acceptFailures or abort of \
                     DeviceRollout {name}"
                );
                stalled("DevicesFailed", message, NoticeKind::RolloutStopped)
            }
            Course::Aborted | Course::BackHalted(Halt::Aborted) => {
                let message =
                    format!("{progress}; DeviceRollout {name} was aborted: apply another revision, or take abort back");
                stalled("Aborted", message, NoticeKind::RolloutAborted)
            }
            Course::Turning(_) => {
                let message = format!("{progress}; about to go back");
                Verdict::new(Phase::RollingBack, "RollingBack", message).told(NoticeKind::RolloutRollingBack)
            }
            Course::Back if self.nobody_is_left() => {
                let message = format!("{progress}; the revision was rolled back and is refused: apply another");
                Verdict::new(Phase::RolledBack, "RolledBack", message).told(NoticeKind::RolloutRolledBack)
            }
            Course::Back => {
                let blocked = self.blocked_by_spread().filter(|_| tally.counts.updating == 0);
                let message = blocked.map_or_else(|| progress.to_owned(), |blocked| format!("{progress}; {blocked}"));
                Verdict::new(Phase::RollingBack, "RollingBack", message).told(NoticeKind::RolloutRollingBack)
            }
            Course::Paused | Course::BackHalted(Halt::Paused) if tally.counts.total > 0 && completed_at.is_none() => {
                let by = if self.scope.group.paused { "paused in the group" } else { "paused in its spec" };
                let message = format!("{progress}; DeviceRollout {name} is {by}");
                Verdict::new(Phase::Paused, "Paused", message).waiting("Paused", None)
            }
            Course::Paused | Course::BackHalted(Halt::Paused) | Course::Forward => return None,
        })
    }

    /// Of a rollout that goes forward.
    fn forward(&self, revision: &Revision<'_>, progress: String, completed_at: Option<Timestamp>) -> Verdict {
        let tally = &self.scope.tally;
        if tally.coverage.is_none() {
            let profile = self.scope.profile().map_or("", |profile| &*profile.name);
            return stalled("TemplateError", format!("ConfigProfile {profile}: {progress}"), NoticeKind::GroupInvalid);
        }
        if tally.counts.total == 0 {
            return Verdict::new(Phase::Empty, "NoDevices", "the selector matches no device");
        }
        if completed_at.is_some() {
            return Verdict::new(Phase::Complete, "Complete", progress).told(NoticeKind::RolloutComplete);
        }
        if let Some(firmware) = revision.firmware {
            match &firmware.readiness {
                Readiness::Failed { reason, message } => {
                    let message = format!("Firmware {}: {message}", firmware.name);
                    return stalled(reason, message, NoticeKind::FirmwareFailed);
                }
                Readiness::Unknown if tally.count(Reason::FirmwareNotReady) > 0 => {
                    let message = format!("{progress}; Firmware {} is not verified yet", firmware.name);
                    let verdict = Verdict::new(Phase::Waiting, "FirmwareNotReady", message);
                    return verdict.waiting("Firmware", None);
                }
                Readiness::Unknown | Readiness::Ready => {}
            }
        }
        if self.scope.waits_for_ever {
            let message = format!(
                "{progress}; the time of config.apply.at is outside all windows, or too near to the end of each: no device \
                 would ever put the configuration into force"
            );
            return stalled("NeverInWindow", message, NoticeKind::GroupInvalid);
        }
        self.waits(&progress)
    }

    /// What a rollout that goes forward and is not done waits for, if for anything.
    fn waits(&self, progress: &str) -> Verdict {
        let Scope { group, tally, usage, clock, stage, rollout, .. } = self.scope;
        if tally.count(Reason::BlockedByUnavailable) > 0 {
            let limit = group.strategy.max_unavailable.of_rounded_down(usage.total);
            let message = format!(
                "{progress}; maxUnavailable allows {limit} to be away, and {} are without any try that runs ({}): bring \
                 them back, or set spec.held on those in repair",
                usage.away,
                list(tally.away.iter())
            );
            let verdict = Verdict::new(Phase::Waiting, "BlockedByUnavailable", message);
            return verdict.waiting("Unavailable", None);
        }
        let moves = [
            Reason::Updating,
            Reason::Settling,
            Reason::RolloutStarting,
            Reason::NextPass,
            Reason::BackingOff,
            Reason::Retrying,
        ];
        if rollout.is_none() || moves.iter().any(|reason| tally.count(*reason) > 0) {
            return Verdict::new(Phase::Progressing, "Progressing", progress);
        }
        if let Some(blocked) = self.blocked_by_spread() {
            let message = format!("{progress}; {blocked}");
            return Verdict::new(Phase::Waiting, "BlockedBySpread", message).waiting("Unavailable", None);
        }
        let for_window = [Reason::WaitingForWindow, Reason::Downloading, Reason::Downloaded];
        match clock {
            Clock::Frozen { until, reason, .. } if tally.count(Reason::Frozen) > 0 => {
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let message = format!("{progress}; a freeze holds until {until}{why}");
                return Verdict::new(Phase::Waiting, "Frozen", message).waiting("Freeze", Some(*until));
            }
            Clock::Closed { next, closes } if for_window.iter().any(|reason| tally.count(*reason) > 0) => {
                let message = match (next, closes) {
                    (Some(next), None) => format!("{progress}; the next window opens at {next}"),
                    (Some(next), Some(_)) => {
                        format!(
                            "{progress}; the window that is open is too short for another try; the next opens at {next}"
                        )
                    }
                    (None, _) => format!("{progress}; no window is to come that is long enough for a try"),
                };
                return Verdict::new(Phase::Waiting, "WaitingForWindow", message).waiting("Window", *next);
            }
            Clock::Frozen { .. } | Clock::Closed { .. } | Clock::Open { .. } => {}
        }
        if let Some(at) = self.scope.waits_until {
            let message = format!("{progress}; the next time at which the configuration is put into force is {at}");
            return Verdict::new(Phase::Waiting, "WaitingForTime", message).waiting("Time", Some(at));
        }
        if let Some(stage) = stage {
            let step = format!("step {} of {}", stage.number, stage.of);
            match stage.rests_for {
                Some(Rest::Soak { until }) => {
                    let message = format!("{progress}; {step} is done and soaks until {until}");
                    return Verdict::new(Phase::Waiting, "Soaking", message).waiting("Soak", Some(until));
                }
                Some(Rest::Approval) => {
                    let name = rollout.map_or("", |rollout| &*rollout.name);
                    let message = format!(
                        "{progress}; {step} is done and waits for approval: patch DeviceRollout {name} with approvedStep: {}",
                        stage.number
                    );
                    let verdict = Verdict::new(Phase::Waiting, "WaitingForApproval", message);
                    return verdict.told(NoticeKind::ApprovalWanted).waiting("Approval", None);
                }
                Some(Rest::Empty) => {
                    let message = format!(
                        "{progress}; {step} has {} devices, of which none can be granted and none is current: bring one back, \
                         or let the rollout pass with approvedStep: {}",
                        stage.census.devices, stage.number
                    );
                    return Verdict::new(Phase::Waiting, "StepEmpty", message).waiting("Step", None);
                }
                None => {}
            }
        }
        Verdict::new(Phase::Waiting, "Waiting", progress).waiting("Devices", None)
    }

    /// The domain that those who are away fill, and the way out.
    fn blocked_by_spread(&self) -> Option<String> {
        let tally = &self.scope.tally;
        let (domain, limit) = tally.full_domain.as_ref().filter(|_| tally.count(Reason::BlockedBySpread) > 0)?;
        Some(format!(
            "spread allows {limit} of {domain} to be away, and as many are without any try that runs: bring them back, or \
             set spec.held on those in repair"
        ))
    }
}
