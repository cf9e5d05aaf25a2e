//! How it is told: conditions as kstatus has them, counts, reasons, sentences.
//!
//! A status is returned only where it differs from the one that is written.

use fettle_crds::schema::message as cut;
use fettle_crds::{Counts, DeviceGroupStatus, DeviceRolloutStatus, Failure as ListedFailure, RollbackStatus, Waiting};
use jiff::Timestamp;

use super::conditions::Conditions;
use super::course::{Clock, Course, Halt, Turn};
use super::model::{Readiness, Rollout, Text};
use super::output::{GroupWrite, Notice, NoticeKind};
use super::phase::{Phase, SUPERSEDED};
use super::progress::Way;
use super::reason::Reason;
use super::revision::Wanted;
use super::scope::Scope;
use super::steps::{Rest, Stand};
use super::tally::list;

/// A group, with all that its status speaks of.
pub struct GroupView<'a, 's> {
    pub scope: &'s Scope<'a>,
    pub now: Timestamp,
}

/// How a group, or its rollout, stands.
struct Verdict {
    phase: Phase,
    /// For the conditions.
    reason: String,
    message: String,
    notice: Option<NoticeKind>,
    /// What it waits for, and until when.
    waits: Option<(&'static str, Option<Timestamp>)>,
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
}

/// The status of a group and of the rollout that stands for what it wants, where they change.
pub fn of_group(view: &GroupView<'_, '_>) -> (Option<GroupWrite>, Option<(Text, DeviceRolloutStatus)>) {
    let completed_at = view.completed_at();
    let verdict = view.verdict(completed_at);
    let rollout = view.scope.rollout.and_then(|rollout| view.rollout_status(rollout, &verdict, completed_at));
    (view.group_status(&verdict), rollout)
}

impl GroupView<'_, '_> {
    /// When the rollout was complete for the first time. It is when its last step is finished and nothing that Fettle could
    /// do is left: devices that are offline, held or without a way are counted and do not hold it open.
    fn completed_at(&self) -> Option<Timestamp> {
        let Scope { rollout, tally, budget, stage, way, .. } = self.scope;
        let rollout = (*rollout)?;
        let is_last = stage
            .as_ref()
            .is_some_and(|stage| stage.is_last() && matches!(stage.stand, Stand::Finished | Stand::NothingToDo));
        let is_complete = is_last && self.nobody_is_left() && tally.counts.current > 0 && !budget.is_exceeded();
        rollout.status.completed_at.or_else(|| (is_complete && *way == Way::Forward).then_some(self.now))
    }

    /// Whether nothing that Fettle could do is left.
    fn nobody_is_left(&self) -> bool {
        self.scope.tally.reasons.keys().all(|reason| reason.is_left_behind())
    }

    fn verdict(&self, completed_at: Option<Timestamp>) -> Verdict {
        let Scope { wanted, tally, course, budget, rollout, .. } = self.scope;
        let stalled =
            |reason: &str, message: String, notice| Verdict::new(Phase::Stalled, reason, message).told(notice);
        let revision = match wanted {
            Wanted::Revision(revision) => revision,
            Wanted::Invalid(invalid) if self.scope.awaited_until().is_some_and(|until| self.now < until) => {
                return Verdict::new(Phase::Waiting, invalid.reason.as_str(), invalid.message.clone());
            }
            Wanted::Invalid(invalid) => {
                return stalled(invalid.reason.as_str(), invalid.message.clone(), NoticeKind::GroupInvalid);
            }
        };
        let progress = tally.progress();
        if !tally.overlapped_by.is_empty() {
            let others = list(tally.overlapped_by.iter());
            let devices = list(tally.overlapping.iter());
            let count = tally.overlaps;
            let message = format!(
                "{progress}; DeviceGroup {others} selects {count} of them too ({devices}): no group acts on those"
            );
            return stalled("OverlappingGroups", message, NoticeKind::OverlappingGroups);
        }
        if let Some((device, versions)) = &tally.not_comparable {
            let versions = versions.as_ref().map_or_else(String::new, |(a, b)| format!(" ({a} and {b})"));
            let message = format!(
                "{progress}; {device} runs a version that cannot be ordered against the one wanted{versions}: set \
                 firmware.policy to Exact to take it there whatever it runs"
            );
            return stalled("VersionsNotComparable", message, NoticeKind::VersionsNotComparable);
        }
        let name = rollout.map_or("the rollout", |rollout| &*rollout.name);
        match course {
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
                return stalled("DevicesFailed", message, NoticeKind::RolloutStopped);
            }
            Course::Aborted | Course::BackHalted(Halt::Aborted) => {
                let message =
                    format!("{progress}; DeviceRollout {name} was aborted: apply another revision, or take abort back");
                return stalled("Aborted", message, NoticeKind::RolloutAborted);
            }
            Course::Turning(_) => {
                let message = format!("{progress}; about to go back");
                return Verdict::new(Phase::RollingBack, "RollingBack", message).told(NoticeKind::RolloutRollingBack);
            }
            Course::Back if self.nobody_is_left() => {
                let message = format!("{progress}; the revision was rolled back and is refused: apply another");
                let verdict = Verdict::new(Phase::RolledBack, "RolledBack", message);
                return verdict.told(NoticeKind::RolloutRolledBack);
            }
            Course::Back => {
                let blocked = self.blocked_by_spread().filter(|_| tally.counts.updating == 0);
                let message = blocked.map_or_else(|| progress.clone(), |blocked| format!("{progress}; {blocked}"));
                let verdict = Verdict::new(Phase::RollingBack, "RollingBack", message);
                return verdict.told(NoticeKind::RolloutRollingBack);
            }
            Course::Paused | Course::BackHalted(Halt::Paused) if tally.counts.total > 0 && completed_at.is_none() => {
                let by = if self.scope.group.paused { "paused in the group" } else { "paused in its spec" };
                let message = format!("{progress}; DeviceRollout {name} is {by}");
                return Verdict::new(Phase::Paused, "Paused", message).waiting("Paused", None);
            }
            Course::Paused | Course::BackHalted(Halt::Paused) | Course::Forward => {}
        }
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

    fn group_status(&self, verdict: &Verdict) -> Option<GroupWrite> {
        let Scope { group, tally, wanted, rollouts, .. } = self.scope;
        let before = &group.status;
        // The first thing that is said of a group is that it is not ready: whoever waits for that must not be early.
        let is_first = before.conditions.is_empty();
        let ready = matches!(verdict.phase, Phase::Complete | Phase::Empty) && !is_first;
        let stalled = verdict.phase.is_stalled();
        let mut conditions = Conditions::new(&before.conditions, group.generation, self.now);
        conditions.set("Ready", ready, &verdict.reason, &verdict.message);
        conditions.set("Reconciling", !ready && !stalled, &verdict.reason, &verdict.message);
        conditions.set("Stalled", stalled, &verdict.reason, if stalled { &verdict.message } else { "" });
        let progressing = tally.counts.updating > 0 || matches!(verdict.phase, Phase::Progressing | Phase::RollingBack);
        conditions.set("Progressing", progressing, &verdict.reason, &verdict.message);
        let (open, reason, message) = self.window();
        conditions.set("WindowOpen", open, reason, &message);
        let budget = self.scope.budget;
        let (holds, reason) = if budget.is_exceeded() { (false, "Exceeded") } else { (true, "Holds") };
        conditions.set("BudgetHolds", holds, reason, &format!("{} failed, {} may", budget.failed, budget.allowed));
        self.log_store(&mut conditions);
        let newest = rollouts.newest();
        let step = self.step();
        let status = DeviceGroupStatus {
            observed_generation: Some(group.generation),
            conditions: conditions.done(),
            desired: match wanted {
                Wanted::Revision(revision) => Some(revision.describe()),
                Wanted::Invalid(_) => before.desired.clone(),
            },
            rollout: newest.map(|rollout| rollout.name.to_string()),
            last_rollout: rollouts.last_number(),
            phase: Some(verdict.phase.as_str().to_owned()),
            message: Some(cut(&*verdict.message)),
            step: step.map(|step| step.progress),
            counts: tally.counts,
            reasons: tally.reasons(),
        };
        let notices = notices(before, &status, verdict);
        (status != *before).then(|| GroupWrite { group: group.name.clone(), status, notices })
    }

    /// Where there was no room for logs. Nothing is said where there was: it speaks of a fault, and goes with it.
    fn log_store(&self, conditions: &mut Conditions<'_>) {
        const TYPE: &str = "LogStoreFull";
        let tally = &self.scope.tally;
        if tally.logs_refused == 0 {
            conditions.unset(TYPE);
            return;
        }
        let devices = list(tally.without_log.iter());
        let whose = match tally.logs_refused {
            1 => devices,
            many => format!("{many} devices ({devices})"),
        };
        let message = format!(
            "no room was found for the newest log of {whose}: status.logRefused of a device says where; with room, the \
             annotation fettle.dev/log-at asks it for the log again"
        );
        conditions.set(TYPE, true, "NoRoom", &message);
    }

    /// Whether the clock lets anybody begin, in a word and in a sentence.
    fn window(&self) -> (bool, &'static str, String) {
        if let Err(wrong) = &self.scope.group.times {
            return (false, "Invalid", wrong.to_string());
        }
        match &self.scope.clock {
            Clock::Open { start_by: None } => (true, "Open", "at any time".to_owned()),
            Clock::Open { start_by: Some(at) } => (true, "Open", format!("a try may begin until {at}")),
            Clock::Closed { next: Some(next), .. } => (false, "Closed", format!("a try may begin from {next}")),
            Clock::Closed { next: None, .. } => {
                (false, "Closed", "no window is to come that is long enough for a try".to_owned())
            }
            Clock::Frozen { until, reason, .. } => (false, "Frozen", format!("until {until}: {reason}")),
        }
    }

    /// The step of a rollout that has steps.
    fn step(&self) -> Option<fettle_crds::StepStatus> {
        let Scope { rollout, stage, way, .. } = self.scope;
        let rollout = rollout.filter(|rollout| !rollout.spec.steps.is_empty())?;
        match way {
            Way::Forward => stage.as_ref().map(super::steps::Stage::status),
            Way::Back => rollout.status.step.clone(),
        }
    }

    /// The way back, where there is one.
    fn rollback(&self, rollout: &Rollout, verdict: &Verdict) -> Option<RollbackStatus> {
        let turned = match self.scope.course {
            Course::Turning(Turn::Aborted) => Some(Turn::Aborted.status(self.now)),
            Course::Turning(Turn::BudgetExceeded) => Some(Turn::BudgetExceeded.status(self.now)),
            _ => None,
        };
        let rollback = rollout.status.rollback.clone().or(turned)?;
        let finished_at = rollback.finished_at.or_else(|| (verdict.phase == Phase::RolledBack).then_some(self.now));
        Some(RollbackStatus { finished_at, ..rollback })
    }

    /// When all will be current if it goes on as it went so far.
    fn estimated_end(&self, started_at: Option<Timestamp>, verdict: &Verdict) -> Option<Timestamp> {
        let Counts { total, current, granted, updating, offline, failed, .. } = self.scope.tally.counts;
        let started = started_at.filter(|_| verdict.phase == Phase::Progressing)?;
        let done = granted - updating;
        let left = total - current - offline - failed;
        if done <= 0 || left <= 0 {
            return None;
        }
        let end = self.now.as_second() + (self.now.as_second() - started.as_second()) * left / done;
        // To the minute: it is a guess, and each change of it is a write.
        Timestamp::from_second((end / 60 + 1) * 60).ok()
    }

    fn rollout_status(
        &self,
        rollout: &Rollout,
        verdict: &Verdict,
        completed_at: Option<Timestamp>,
    ) -> Option<(Text, DeviceRolloutStatus)> {
        let (before, tally) = (&rollout.status, &self.scope.tally);
        let ready = matches!(verdict.phase, Phase::Complete | Phase::Empty) && !before.conditions.is_empty();
        let stalled = verdict.phase.is_stalled();
        let mut conditions = Conditions::new(&before.conditions, rollout.generation, self.now);
        conditions.set("Ready", ready, &verdict.reason, &verdict.message);
        conditions.set("Reconciling", !ready && !stalled, &verdict.reason, &verdict.message);
        conditions.set("Stalled", stalled, &verdict.reason, if stalled { &verdict.message } else { "" });
        let failures = tally.failures.iter().map(|(device, failure, message)| ListedFailure {
            device: device.to_string(),
            reason: failure.as_str().to_owned(),
            message: cut(message.as_deref().unwrap_or_default()),
        });
        let template_errors = tally.coverage.errors.iter().map(|(device, why)| ListedFailure {
            device: device.to_string(),
            reason: Reason::TemplateError.as_str().to_owned(),
            message: cut(why),
        });
        let waiting = verdict.waits.map(|(reason, until)| {
            let same = before.waiting.as_ref().filter(|before| *before.reason == *reason);
            Waiting { reason: reason.to_owned(), since: same.map_or(self.now, |before| before.since), until }
        });
        let started_at = before.started_at.or(tally.started);
        let status = DeviceRolloutStatus {
            observed_generation: Some(rollout.generation),
            conditions: conditions.done(),
            phase: Some(verdict.phase.as_str().to_owned()),
            progress: Some(format!("{}/{}", tally.counts.current, tally.counts.total)),
            message: Some(cut(&*verdict.message)),
            counts: tally.counts,
            reasons: tally.reasons(),
            failures: failures.collect(),
            template_errors: template_errors.collect(),
            step: self.step(),
            waiting,
            rollback: self.rollback(rollout, verdict),
            estimated_end: self.estimated_end(started_at, verdict),
            started_at,
            completed_at,
        };
        (status != *before).then(|| (rollout.name.clone(), status))
    }
}

/// The status of a rollout that another has taken the place of. One that was complete stays what it is.
///
/// Nothing more will come of it, so tools for GitOps (kstatus) are to take it for done. Yet its revision did not arrive, and
/// whoever waits for it to be `Ready` must not be told that it did: it has no such condition any more.
pub fn superseded(rollout: &Rollout, now: Timestamp) -> Option<(Text, DeviceRolloutStatus)> {
    let before = &rollout.status;
    let mut conditions = Conditions::new(&before.conditions, rollout.generation, now);
    let status = if before.phase.as_deref() == Some(Phase::Complete.as_str()) {
        for type_ in ["Ready", "Reconciling", "Stalled"] {
            let was = before.conditions.iter().find(|condition| condition.type_ == type_);
            let (reason, message) = was.map_or((Phase::Complete.as_str(), ""), |was| (&was.reason, &was.message));
            conditions.set(type_, type_ == "Ready", reason, message);
        }
        DeviceRolloutStatus {
            observed_generation: Some(rollout.generation),
            conditions: conditions.done(),
            ..before.clone()
        }
    } else {
        let message = match before.completed_at {
            None => "another revision came before it was complete",
            Some(_) => "another revision came when it was complete no longer",
        };
        conditions.set("Reconciling", false, SUPERSEDED, message);
        conditions.set("Stalled", false, SUPERSEDED, "");
        conditions.unset("Ready");
        DeviceRolloutStatus {
            observed_generation: Some(rollout.generation),
            conditions: conditions.done(),
            phase: Some(SUPERSEDED.to_owned()),
            message: Some(message.to_owned()),
            waiting: None,
            estimated_end: None,
            ..before.clone()
        }
    };
    (status != *before).then(|| (rollout.name.clone(), status))
}

/// What people are told of a change of status.
fn notices(before: &DeviceGroupStatus, after: &DeviceGroupStatus, verdict: &Verdict) -> Vec<Notice> {
    let notice = |kind, message: &str| Notice { kind, message: message.to_owned() };
    let mut notices = Vec::new();
    if let Some(rollout) = after.rollout.as_ref().filter(|rollout| before.rollout.as_ref() != Some(rollout)) {
        let desired = after.desired.as_deref().unwrap_or_default();
        notices.push(notice(NoticeKind::RolloutStarted, &format!("{rollout} begins: {desired}")));
    }
    let stalled_for = |status: &DeviceGroupStatus| {
        let stalled =
            status.conditions.iter().find(|condition| condition.type_ == "Stalled" && condition.status == "True");
        stalled.map(|condition| condition.reason.clone())
    };
    let reason = |status: &DeviceGroupStatus| {
        status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.reason.clone())
    };
    let ready = |status: &DeviceGroupStatus| {
        status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    match (stalled_for(before), stalled_for(after), verdict.notice) {
        (was, is @ Some(_), Some(kind)) if was != is => notices.push(notice(kind, &verdict.message)),
        (_, None, Some(kind)) if ready(after) && !ready(before) => notices.push(notice(kind, &verdict.message)),
        (_, None, Some(kind))
            if !ready(after) && verdict.phase != Phase::Complete && reason(before) != reason(after) =>
        {
            notices.push(notice(kind, &verdict.message));
        }
        (Some(_), None, _) => notices.push(notice(NoticeKind::Resumed, &verdict.message)),
        _ => {}
    }
    notices
}
