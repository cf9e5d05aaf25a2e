//! What a person may say to a rollout, and what it comes to: pure.
//!
//! A wish is held against what is there: either it makes a patch, or there is nothing left to do, or it does not fit, and
//! a sentence says why and what would. The patch is made only on the state that this was decided on.

use std::collections::BTreeSet;

use fettle_controller::plan::goal::WayBack;
use fettle_controller::plan::steps;
use fettle_crds::{Abort, Approval, Device, DeviceGroup, DeviceRollout, DeviceRolloutStatus};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

/// What a person wants of the newest rollout of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Pause,
    Resume {
        accept_failures: Option<u32>,
    },
    /// Past the step that waits; or past the step that is named, in advance.
    Approve {
        step: Option<u32>,
    },
    Promote(Promote),
    Abort(Abort),
    Undo,
    Retry {
        at: Timestamp,
    },
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// Past the step that it is at.
    Step,
    /// Past all steps.
    Full,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// This is put into the spec.
    Patch { spec: Value, sentence: String },
    /// It is so already.
    Already(String),
}

fn patch(spec: Value, sentence: String) -> Result<Answer, String> {
    Ok(Answer::Patch { spec, sentence })
}

impl Wish {
    /// Whether `before` was seen and `now` is there, and the wish was for something that was seen.
    pub fn still_means(self, before: &DeviceRollout, now: &DeviceRollout) -> Result<(), String> {
        let step = |rollout: &DeviceRollout| rollout.status.as_ref()?.step.as_ref().map(|step| step.number);
        let is_of_step = matches!(self, Self::Approve { step: None } | Self::Promote(Promote::Step));
        if before.metadata.uid != now.metadata.uid {
            return Err(format!("{} has begun meanwhile: look again", now.name_any()));
        }
        match (step(before), step(now)) {
            (was, is) if is_of_step && was != is => {
                Err(format!("{} has gone on to another step meanwhile: look again", now.name_any()))
            }
            _ => Ok(()),
        }
    }

    /// What comes of a wish.
    ///
    /// # Errors
    /// Why it does not fit, and what would.
    pub fn answer(self, group: &DeviceGroup, rollout: &DeviceRollout) -> Result<Answer, String> {
        let status = rollout.status.clone().unwrap_or_default();
        let on = On { group, rollout, status, name: rollout.name_any() };
        match self {
            Self::Pause => on.pause(),
            Self::Resume { accept_failures } => on.resume(accept_failures),
            Self::Approve { step } => on.approve(step),
            Self::Promote(how) => on.promote(how),
            Self::Abort(abort) => on.abort(abort),
            Self::Undo => on.undo(),
            Self::Retry { at } => on.retry(at),
        }
    }
}

/// Which of the devices that a rollout has taken on cannot go back, in a sentence, where there are any.
///
/// # Errors
/// None of them can: what they ran before is not known.
pub fn without_way_back<'a>(
    rollout: &DeviceRollout,
    devices: impl IntoIterator<Item = &'a Device>,
) -> Result<Option<String>, String> {
    let mut versions: BTreeSet<&str> = BTreeSet::new();
    let (mut granted, mut stay) = (0, 0);
    let before = devices.into_iter().filter_map(|device| device.status.as_ref()?.previous.as_ref());
    for previous in before.filter(|previous| Some(&previous.rollout_uid) == rollout.metadata.uid.as_ref()) {
        granted += 1;
        // As the planner looks at it.
        if !WayBack::of(previous, &rollout.spec).can_be_had {
            stay += 1;
            versions.insert(&previous.firmware.version);
        }
    }
    let versions = versions.into_iter().take(3).collect::<Vec<_>>().join(", ");
    match stay {
        0 => Ok(None),
        _ if stay == granted => Err(format!(
            "no device of {} has a way back: they ran {versions}, which no Firmware declared when the rollout began. To take \
             them there, declare a Firmware of that version and let the DeviceGroup name it, with `policy: Exact`",
            rollout.name_any()
        )),
        _ => Ok(Some(format!("{stay} of them stay where they are: they ran {versions}, which no Firmware declared"))),
    }
}

/// A rollout that something is said to.
struct On<'a> {
    group: &'a DeviceGroup,
    rollout: &'a DeviceRollout,
    status: DeviceRolloutStatus,
    name: String,
}

impl On<'_> {
    fn is_complete(&self) -> bool {
        self.status.completed_at.is_some()
    }

    fn is_paused(&self) -> bool {
        self.rollout.spec.paused == Some(true)
    }

    /// The rollout is on its way back, or has come back.
    fn goes_back(&self) -> bool {
        self.status.rollback.is_some()
    }

    fn pause(&self) -> Result<Answer, String> {
        let name = &self.name;
        if self.is_paused() {
            return Ok(Answer::Already(format!("{name} is paused already")));
        }
        if self.rollout.spec.abort == Some(Abort::Stop) {
            return Err(format!("{name} was aborted: nobody begins in it anyway"));
        }
        let meaning = match (self.is_complete(), self.goes_back()) {
            (_, true) => "nobody else goes back until it is resumed; what runs, finishes",
            (true, false) => "it is complete: devices that come back or join are not caught up until it is resumed",
            (false, false) => "nobody begins until it is resumed; what runs, finishes",
        };
        patch(json!({"paused": true}), format!("{name} is paused: {meaning}"))
    }

    fn resume(&self, accept_failures: Option<u32>) -> Result<Answer, String> {
        let (name, group) = (&self.name, self.group.name_any());
        let mut spec = serde_json::Map::new();
        let mut said = Vec::new();
        if self.is_paused() {
            spec.insert("paused".to_owned(), Value::Null);
            said.push("is paused no longer".to_owned());
        }
        if self.rollout.spec.abort == Some(Abort::Stop) {
            spec.insert("abort".to_owned(), Value::Null);
            let way = if self.goes_back() { "goes on back" } else { "is aborted no longer" };
            said.push(way.to_owned());
        }
        let failed = self.status.counts.failed;
        if let Some(accepted) = accept_failures {
            if i64::from(accepted) < failed {
                return Err(format!(
                    "{failed} devices of {name} have failed: --accept-failures {failed} would let it go on"
                ));
            }
            spec.insert("acceptFailures".to_owned(), json!(accepted));
            said.push(format!("goes on with up to {accepted} failed devices"));
        }
        let in_git = format!(
            "DeviceGroup {group} itself is paused: take `paused: true` out of its manifest, where Git or whoever applies it has it"
        );
        match (spec.is_empty(), self.group.spec.paused) {
            (true, true) => Err(in_git),
            (true, false) if self.is_stopped() => Err(format!(
                "{name} is stopped because {failed} devices failed, and not paused: `kubectl fettle retry {group}` tries \
                 those again, `kubectl fettle resume {group} --accept-failures {failed}` goes on without them, `kubectl fettle \
                 undo {group}` takes all back"
            )),
            (true, false) => Ok(Answer::Already(format!("{name} is not paused"))),
            (false, is_paused) => {
                let but = if is_paused { format!("; but {in_git}") } else { String::new() };
                patch(Value::Object(spec), format!("{name} {}{but}", said.join(", ")))
            }
        }
    }

    /// More devices failed than may.
    fn is_stopped(&self) -> bool {
        let conditions = &self.status.conditions;
        conditions.iter().any(|is| is.type_ == "Stalled" && is.status == "True" && is.reason == "DevicesFailed")
    }

    fn waits_for(&self) -> Option<&str> {
        self.status.waiting.as_ref().map(|waiting| waiting.reason.as_str())
    }

    /// The number of the step that it is at, of those that are listed.
    fn step(&self) -> Result<u32, String> {
        let (name, group) = (&self.name, self.group.name_any());
        let listed = u32::try_from(self.rollout.spec.steps.len()).unwrap_or(u32::MAX);
        if listed == 0 {
            return Err(format!("{name} has no steps: it takes its devices all at once, within its limits"));
        }
        if self.is_complete() {
            return Err(format!("{name} is complete: there is no step to go past"));
        }
        if self.goes_back() {
            return Err(format!("{name} goes back: there is no step to go past"));
        }
        if let Some(abort) = self.rollout.spec.abort {
            let way_on = match abort {
                Abort::Stop => format!(": `kubectl fettle resume {group}` lets it go on"),
                Abort::Rollback => String::new(),
            };
            return Err(format!("{name} was aborted{way_on}"));
        }
        match &self.status.step {
            None => Err(format!("{name} has not begun yet: try again in a moment")),
            Some(step) if step.number > listed => {
                Err(format!("{name} is past its last step: it takes all devices that are left"))
            }
            Some(step) => Ok(step.number),
        }
    }

    /// Lets it go past a step, and those before.
    fn pass(&self, step: u32, sentence: String) -> Result<Answer, String> {
        match self.rollout.spec.approved_step {
            Some(approved) if approved >= step => {
                Ok(Answer::Already(format!("step {step} of {} is approved already", self.name)))
            }
            _ => patch(json!({"approvedStep": step}), sentence),
        }
    }

    fn approve(&self, step: Option<u32>) -> Result<Answer, String> {
        let (name, group, of) = (&self.name, self.group.name_any(), steps::count(&self.rollout.spec));
        let at = self.step()?;
        let listed = self.rollout.spec.steps.len();
        match (step, self.waits_for()) {
            (Some(step), _) if step < at => {
                Ok(Answer::Already(format!("{name} is past step {step} already: it is at step {at}")))
            }
            (Some(step), _) if step as usize > listed => {
                Err(format!("{name} lists {listed} steps: there is no step {step} to approve"))
            }
            (Some(step), Some("Approval" | "Step")) if step == at => {
                self.pass(step, format!("{name} goes past step {step} of {of}"))
            }
            (Some(step), _) => self
                .pass(step, format!("{name} will go past step {step} of {of} when that is done: approved in advance")),
            (None, Some("Approval")) => self.pass(at, format!("{name} goes past step {at} of {of}")),
            (None, Some("Step")) => self.pass(
                at,
                format!("{name} goes past step {at} of {of}, in which nobody could begin: nothing is proven by it"),
            ),
            (None, _) if self.rollout.spec.approved_step.is_some_and(|approved| approved >= at) => {
                Ok(Answer::Already(format!("step {at} of {name} is approved already")))
            }
            (None, _) => Err(format!(
                "{name} does not wait for approval: it is at step {at} of {of} ({}). `kubectl fettle approve {group} --step {at}` \
                 approves that in advance",
                self.doing()
            )),
        }
    }

    fn promote(&self, how: Promote) -> Result<Answer, String> {
        let (name, of) = (&self.name, steps::count(&self.rollout.spec));
        let at = self.step()?;
        let soaks = match (self.waits_for(), self.status.step.as_ref().and_then(|step| step.soak_until)) {
            (Some("Soak"), Some(until)) => format!("; its soak lasts until {until}, and nobody can cut that short"),
            _ => String::new(),
        };
        if how == Promote::Full {
            let last = u32::try_from(self.rollout.spec.steps.len()).unwrap_or(u32::MAX);
            return self.pass(last, format!("{name} waits for no further approval{soaks}"));
        }
        let needs = steps::listed(&self.rollout.spec, at).is_some_and(|step| step.approval == Approval::Required);
        match self.waits_for() {
            Some("Approval" | "Step") => self.pass(at, format!("{name} goes past step {at} of {of}")),
            _ if needs => self.pass(at, format!("{name} will go past step {at} of {of} when that is done{soaks}")),
            _ => Err(format!(
                "step {at} of {of} of {name} needs no approval, and goes on by itself when it is done ({}){soaks}",
                self.doing()
            )),
        }
    }

    /// What it does, in few words.
    fn doing(&self) -> String {
        match &self.status.waiting {
            Some(waiting) => format!("waits for {}", waiting.reason),
            None => self.status.phase.clone().unwrap_or_default().to_lowercase(),
        }
    }

    fn abort(&self, abort: Abort) -> Result<Answer, String> {
        let (name, group) = (&self.name, self.group.name_any());
        match (self.rollout.spec.abort, abort) {
            (Some(Abort::Stop), Abort::Stop) => return Ok(Answer::Already(format!("{name} is aborted already"))),
            (Some(Abort::Rollback), Abort::Rollback) => {
                return Ok(Answer::Already(format!("{name} goes back already")));
            }
            _ => {}
        }
        let back_is_done = self.status.rollback.as_ref().is_some_and(|back| back.finished_at.is_some());
        match (abort, self.goes_back()) {
            (_, true) if back_is_done => Err(format!("{name} was rolled back: there is nothing left to abort")),
            (Abort::Rollback, true) => Ok(Answer::Already(format!("{name} goes back already"))),
            (Abort::Stop, true) => {
                patch(json!({"abort": "Stop"}), format!("{name} stops on its way back: nobody else goes back"))
            }
            (_, false) if self.is_complete() => Err(format!(
                "{name} is complete: there is nothing left to abort. `kubectl fettle undo {group}` takes its devices back"
            )),
            (Abort::Stop, false) => patch(
                json!({"abort": "Stop"}),
                format!(
                    "{name} ends here: nobody else begins, what runs, finishes. `kubectl fettle resume {group}` takes that back"
                ),
            ),
            (Abort::Rollback, false) => self.back(),
        }
    }

    fn undo(&self) -> Result<Answer, String> {
        if self.goes_back() || self.rollout.spec.abort == Some(Abort::Rollback) {
            let finished = self.status.rollback.as_ref().is_some_and(|back| back.finished_at.is_some());
            let how = if finished { "was rolled back" } else { "goes back" };
            return Ok(Answer::Already(format!("{} {how} already", self.name)));
        }
        if self.status.counts.granted == 0 {
            return Err(format!(
                "{} has not brought any device to anything: there is nothing to undo. `kubectl fettle abort {}` ends it",
                self.name,
                self.group.name_any()
            ));
        }
        self.back()
    }

    fn back(&self) -> Result<Answer, String> {
        let (name, group, granted) = (&self.name, self.group.name_any(), self.status.counts.granted);
        let held = match (self.group.spec.paused, self.is_paused()) {
            (true, _) => format!(" It is paused by DeviceGroup {group}: nobody begins before that ends."),
            (false, true) => format!(" It is paused: `kubectl fettle resume {group}` lets it begin."),
            (false, false) => String::new(),
        };
        let sentence = format!(
            "{name} goes back: each of the {granted} devices that it has taken on returns to what it ran before.{held} What it \
             brought is refused from now on: let DeviceGroup {group} name something else, or it stays Stalled"
        );
        patch(json!({"abort": "Rollback"}), sentence)
    }

    fn retry(&self, at: Timestamp) -> Result<Answer, String> {
        let (name, group, failed) = (&self.name, self.group.name_any(), self.status.counts.failed);
        if failed == 0 {
            return Err(format!("no device of {name} has failed: there is nobody to try again"));
        }
        if self.rollout.spec.abort == Some(Abort::Stop) {
            return Err(format!("{name} was aborted, and nobody begins in it: `kubectl fettle resume {group}` first"));
        }
        let held = if self.is_paused() || self.group.spec.paused { ", once it is no longer paused" } else { "" };
        patch(
            json!({"retryAt": at}),
            format!(
                "{name} tries its {failed} failed devices again{held}: each gets a fresh set of tries, within the limits"
            ),
        )
    }
}
