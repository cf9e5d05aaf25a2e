//! How it is told: conditions as kstatus has them, counts, reasons.
//!
//! A status is returned only where it differs from the one that is written.

use fettle_crds::schema::message as cut;
use fettle_crds::{
    Condition, Counts, DeviceGroupStatus, DeviceRolloutStatus, Failure as ListedFailure, FinishedStep, RollbackStatus,
    Waiting,
};
use jiff::Timestamp;

use super::conditions::Conditions;
use super::course::{Clock, Course, Turn};
use super::model::{Rollout, Text};
use super::output::{GroupWrite, Notice, NoticeKind};
use super::phase::{Phase, SUPERSEDED};
use super::progress::Way;
use super::reason::Reason;
use super::revision::Wanted;
use super::scope::Scope;
use super::steps::{Stage, Stand};
use super::tally::list;
use super::verdict::Verdict;

/// A group, with all that its status speaks of.
pub struct GroupView<'a, 's> {
    pub scope: &'s Scope<'a>,
    pub now: Timestamp,
}

/// The status of a group and of its newest rollout, where they change; not of one that another is about to take the place of.
pub fn of_group(view: &GroupView<'_, '_>) -> (Option<GroupWrite>, Option<(Text, DeviceRolloutStatus)>) {
    let completed_at = view.completed_at();
    let verdict = view.verdict(completed_at);
    let rollout = match (view.scope.rollout, view.scope.rollouts.newest()) {
        (Some(rollout), _) => {
            let apart = view.of_rollout(completed_at);
            view.rollout_status(rollout, apart.as_ref().unwrap_or(&verdict), completed_at)
        }
        (None, Some(newest)) => match view.scope.wanted {
            Wanted::Invalid(_) => view.left_status(newest, &verdict),
            Wanted::Revision(_) => None,
        },
        (None, None) => None,
    };
    (view.group_status(&verdict), rollout)
}

impl GroupView<'_, '_> {
    /// When the rollout was complete for the first time. It is when its last step is finished, and has soaked and been approved
    /// where it says so, and nothing that Fettle could do is left: devices that are offline, held or without a way are
    /// counted and do not hold it open.
    fn completed_at(&self) -> Option<Timestamp> {
        let Scope { rollout, tally, budget, stage, way, .. } = self.scope;
        let rollout = (*rollout)?;
        let is_done = |stage: &Stage| matches!(stage.stand, Stand::Finished | Stand::NothingToDo);
        let rests = |stage: &Stage| stage.rests_for.is_some();
        let ends = stage.as_ref().is_some_and(|stage| stage.is_last() && is_done(stage) && !rests(stage));
        let is_complete = ends && self.nobody_is_left() && tally.counts.current > 0 && !budget.is_exceeded();
        rollout.status.completed_at.or_else(|| (is_complete && *way == Way::Forward).then_some(self.now))
    }

    /// Whether nothing that Fettle could do is left.
    pub(super) fn nobody_is_left(&self) -> bool {
        self.scope.tally.reasons.keys().all(|reason| reason.is_left_behind())
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
            Way::Forward => stage.as_ref().map(Stage::status),
            Way::Back => rollout.status.step.clone(),
        }
    }

    /// The steps that a rollout with steps has left behind. On the way back there are none.
    fn finished_steps(&self, rollout: &Rollout) -> Vec<FinishedStep> {
        match self.scope.way {
            Way::Forward if rollout.spec.steps.is_empty() => Vec::new(),
            Way::Forward => self.scope.finished_steps.clone(),
            Way::Back => rollout.status.finished_steps.clone(),
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

    /// Of the newest rollout of a group of which nobody can tell what it wants: it does not go on, and may yet. What it was at
    /// stays. One that was complete stays what it is.
    fn left_status(&self, rollout: &Rollout, verdict: &Verdict) -> Option<(Text, DeviceRolloutStatus)> {
        let (before, tally) = (&rollout.status, &self.scope.tally);
        if before.completed_at.is_some() {
            return None;
        }
        let counts = Counts { granted: before.counts.granted, ..tally.counts };
        let status = DeviceRolloutStatus {
            observed_generation: Some(rollout.generation),
            conditions: self.conditions(rollout, verdict),
            phase: Some(verdict.phase.as_str().to_owned()),
            progress: Some(format!("{}/{}", counts.current, counts.total)),
            message: Some(cut(&*verdict.message)),
            counts,
            reasons: tally.reasons(),
            failures: Vec::new(),
            template_errors: Vec::new(),
            waiting: None,
            estimated_end: None,
            ..before.clone()
        };
        (status != *before).then(|| (rollout.name.clone(), status))
    }

    fn conditions(&self, rollout: &Rollout, verdict: &Verdict) -> Vec<Condition> {
        let before = &rollout.status.conditions;
        let ready = matches!(verdict.phase, Phase::Complete | Phase::Empty) && !before.is_empty();
        let stalled = verdict.phase.is_stalled();
        let mut conditions = Conditions::new(before, rollout.generation, self.now);
        conditions.set("Ready", ready, &verdict.reason, &verdict.message);
        conditions.set("Reconciling", !ready && !stalled, &verdict.reason, &verdict.message);
        conditions.set("Stalled", stalled, &verdict.reason, if stalled { &verdict.message } else { "" });
        conditions.done()
    }

    fn rollout_status(
        &self,
        rollout: &Rollout,
        verdict: &Verdict,
        completed_at: Option<Timestamp>,
    ) -> Option<(Text, DeviceRolloutStatus)> {
        let (before, tally) = (&rollout.status, &self.scope.tally);
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
            conditions: self.conditions(rollout, verdict),
            phase: Some(verdict.phase.as_str().to_owned()),
            progress: Some(format!("{}/{}", tally.counts.current, tally.counts.total)),
            message: Some(cut(&*verdict.message)),
            counts: tally.counts,
            reasons: tally.reasons(),
            failures: failures.collect(),
            template_errors: template_errors.collect(),
            step: self.step(),
            finished_steps: self.finished_steps(rollout),
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
