//! The steps of a rollout: whom the one that it is at takes on, when it is done, and when the next begins.

use std::cmp::Ordering;

use fettle_crds::{Approval, DeviceRolloutSpec, FinishedStep, IntOrPercent, Step, StepStatus};
use jiff::{SignedDuration, Timestamp};

use super::model::{Device, Rollout};

/// How the devices of a step stand. Devices that are held or must not be served are none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Devices that the step is about.
    pub devices: usize,
    /// Those that the rollout has granted, in this step or a former one.
    pub granted: usize,
    /// Those that it has granted in this step.
    pub own: usize,
    /// Those of them that failed.
    pub own_failed: usize,
    /// Granted, and neither current nor failed.
    pub unsettled: usize,
    /// Granted and current.
    pub granted_current: usize,
    /// Current, granted or not.
    pub current: usize,
    /// Not granted, not current, and nothing that Fettle cannot change keeps them from it.
    pub eligible: usize,
}

/// One device, for the census.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The step in which the rollout has granted it.
    pub granted_in: Option<u32>,
    pub state: State,
}

/// How a device stands, for the census.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Current,
    Failed,
    /// Granted and neither, or not granted and may be.
    Open,
    /// It cannot be granted: away, or of the wrong kind.
    Impossible,
}

impl Census {
    pub fn count(&mut self, device: Counted, number: u32) {
        let Counted { granted_in, state } = device;
        let is_granted = granted_in.is_some();
        let is_own = granted_in == Some(number);
        self.devices += 1;
        self.granted += usize::from(is_granted);
        self.own += usize::from(is_own);
        match state {
            State::Current => {
                self.current += 1;
                self.granted_current += usize::from(is_granted);
            }
            State::Failed => self.own_failed += usize::from(is_own),
            State::Open if is_granted => self.unsettled += 1,
            State::Open => self.eligible += 1,
            State::Impossible => self.unsettled += usize::from(is_granted),
        }
    }

    /// Whether the step can take on nobody else.
    fn is_full(&self, size: usize) -> bool {
        self.granted >= size || self.eligible == 0
    }

    fn is_all_current(&self) -> bool {
        self.devices > 0 && self.current == self.devices
    }

    /// Whether all devices that the step has taken on failed.
    pub fn has_failed_wholly(&self, size: usize) -> bool {
        self.own > 0 && self.own == self.own_failed && self.is_full(size)
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It takes devices on, or waits for those that it has.
    Running,
    /// All its devices ran the revision when it began.
    NothingToDo,
    /// Its devices are current or failed.
    Finished,
    /// It has no device that could be granted, and none that is current: nothing is proven.
    Empty,
}

/// A step, as a pass finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// From 1. One more than there are steps: all devices that are left.
    pub number: u32,
    pub of: u32,
    /// How many devices the rollout is to have taken on.
    pub size: usize,
    pub census: Census,
    pub stand: Stand,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub soak_until: Option<Timestamp>,
    /// What keeps the next one from beginning, or the rollout from being complete, once this one is done.
    pub rests_for: Option<Rest>,
}

/// What keeps the next step from beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Soak {
        until: Timestamp,
    },
    Approval,
    /// Nobody can be granted in it, and nobody said that it may pass.
    Empty,
}

/// How many steps a rollout has: those that are listed, and the rest of the devices, unless the last one is all of them.
pub fn count(spec: &DeviceRolloutSpec) -> u32 {
    let takes_all = |step: &Step| step.selector.is_none() && step.devices == IntOrPercent::Percent(100);
    let listed = u32::try_from(spec.steps.len()).unwrap_or(u32::MAX);
    if spec.steps.last().is_some_and(takes_all) { listed } else { listed + 1 }
}

/// The step of that number, where it is a listed one.
pub fn listed(spec: &DeviceRolloutSpec, number: u32) -> Option<&Step> {
    spec.steps.get(usize::try_from(number).ok()?.checked_sub(1)?)
}

/// Whether a step is about a device.
pub fn is_about(step: Option<&Step>, device: &Device) -> bool {
    step.and_then(|step| step.selector.as_ref()).is_none_or(|selector| selector.matches(&device.labels))
}

/// Until when the devices that were granted in a step are watched: until its soak is over, and of the last one, until the
/// rollout is complete. A step that is not done has no end yet.
pub fn watched_until(rollout: &Rollout, granted_in: u32) -> Option<Timestamp> {
    let status = &rollout.status;
    match granted_in.cmp(&written(rollout)) {
        Ordering::Less => {
            status.finished_steps.iter().find(|step| step.number == granted_in).map(|step| step.soaked_at)
        }
        Ordering::Equal | Ordering::Greater if status.completed_at.is_some() => status.completed_at,
        Ordering::Equal => Some(status.step.as_ref().and_then(soaked_at).unwrap_or(Timestamp::MAX)),
        Ordering::Greater => Some(Timestamp::MAX),
    }
}

/// When a step that is done has soaked.
fn soaked_at(step: &StepStatus) -> Option<Timestamp> {
    step.finished_at.map(|finished| step.soak_until.unwrap_or(finished))
}

fn soak(step: Option<&Step>) -> Option<SignedDuration> {
    step.and_then(|step| step.soak).and_then(|soak| SignedDuration::try_from(soak.0).ok())
}

/// The step that a rollout is at, as it is written.
pub fn written(rollout: &Rollout) -> u32 {
    rollout.status.step.as_ref().map_or(1, |step| step.number)
}

/// Finds the step that the rollout is at now, from the one that is written on: those that are done are left behind.
/// `census` counts the devices of a step. One in which more failed than may is not left behind, `may_pass` says: the next,
/// being larger, might allow as many. Those left behind come with it, as they are to be written.
///
/// `reached` is the latest step in which anybody was granted. The status is written now and then, and may not say yet that
/// the rollout was there: those who were granted in it do. Counted by a former step, they would take it up again.
pub fn find(
    rollout: &Rollout,
    reached: u32,
    accepted_failures: bool,
    now: Timestamp,
    mut census: impl FnMut(u32, Option<&Step>) -> Census,
    may_pass: impl Fn(&Stage) -> bool,
) -> (Stage, Vec<FinishedStep>) {
    let spec = &rollout.spec;
    let of = count(spec);
    let mut number = written(rollout).max(reached).clamp(1, of);
    let mut finished = rollout.status.finished_steps.clone();
    // Of steps that nobody wrote of it is not known when they were done: by now, they are.
    finished.extend((written(rollout)..number).map(|number| {
        let step = rollout.status.step.as_ref().filter(|step| step.number == number);
        FinishedStep { number, soaked_at: step.and_then(soaked_at).unwrap_or(now) }
    }));
    loop {
        let step = listed(spec, number);
        let before = rollout.status.step.as_ref().filter(|step| step.number == number);
        let mut found = stage(spec, number, of, step, before, accepted_failures, now, census(number, step));
        // Where all devices are current there is nobody whom an empty step would have to go before.
        if found.rests_for == Some(Rest::Empty) && census(number, None).is_all_current() {
            found.rests_for = None;
        }
        let is_done = !matches!(found.stand, Stand::Running) && found.rests_for.is_none();
        if number >= of || !is_done || !may_pass(&found) {
            return (found, finished);
        }
        let soaked_at = found.finished_at.map(|finished| found.soak_until.unwrap_or(finished));
        finished.extend(soaked_at.map(|soaked_at| FinishedStep { number, soaked_at }));
        number += 1;
    }
}

#[expect(clippy::too_many_arguments, reason = "they are what is known of a step")]
fn stage(
    spec: &DeviceRolloutSpec,
    number: u32,
    of: u32,
    step: Option<&Step>,
    before: Option<&StepStatus>,
    accepted_failures: bool,
    now: Timestamp,
    census: Census,
) -> Stage {
    // As it stands when the step begins; of the last one, as it stands now: whoever joins later is caught up.
    let size = match (before.and_then(|before| usize::try_from(before.size).ok()), step) {
        _ if number == of => census.devices,
        // Begun before it had devices, it begins with them.
        (Some(fixed @ 1..), _) => fixed,
        (Some(0) | None, Some(step)) => step.devices.of_rounded_up(census.devices),
        (Some(0) | None, None) => census.devices,
    };
    let somebody_is_current =
        census.granted_current > 0 || (census.granted == 0 && census.current > 0) || accepted_failures;
    let stand = if census.own == 0 && census.is_all_current() {
        Stand::NothingToDo
    } else if census.is_full(size) && census.unsettled == 0 && somebody_is_current && census.devices > 0 {
        Stand::Finished
    } else if census.granted == 0 && census.eligible == 0 && census.current == 0 {
        Stand::Empty
    } else {
        Stand::Running
    };
    let finished_at = match stand {
        Stand::Finished => Some(before.and_then(|before| before.finished_at).unwrap_or(now)),
        Stand::Running | Stand::NothingToDo | Stand::Empty => None,
    };
    let soaks = || finished_at.zip(soak(step).filter(|soak| !soak.is_zero())).map(|(finished, soak)| finished + soak);
    // Whoever is caught up in the last one does not have it begin its soak again.
    let soak_until = before.filter(|_| number == of).and_then(|before| before.soak_until).or_else(soaks);
    let is_approved = spec.approved_step.is_some_and(|approved| approved >= number);
    let needs_approval = step.is_some_and(|step| step.approval == Approval::Required);
    let rests_for = match stand {
        Stand::Running | Stand::NothingToDo => None,
        // After the last step nothing is to come that an empty one would have to prove.
        Stand::Empty => (!is_approved && number < of).then_some(Rest::Empty),
        Stand::Finished => match soak_until.filter(|until| *until > now) {
            Some(until) => Some(Rest::Soak { until }),
            None => (needs_approval && !is_approved).then_some(Rest::Approval),
        },
    };
    Stage {
        number,
        of,
        size,
        census,
        stand,
        started_at: before.map_or(now, |before| before.started_at),
        finished_at,
        soak_until,
        rests_for,
    }
}

impl Stage {
    /// Whether it is the last one.
    pub fn is_last(&self) -> bool {
        self.number == self.of
    }

    /// How many more devices it may take on.
    pub fn places(&self) -> usize {
        match (self.stand, self.is_last()) {
            (_, true) => usize::MAX,
            (Stand::Running, false) => self.size.saturating_sub(self.census.granted),
            (Stand::NothingToDo | Stand::Finished | Stand::Empty, false) => 0,
        }
    }

    /// As it stands in the status of its rollout, which has steps.
    pub fn status(&self) -> StepStatus {
        StepStatus {
            number: self.number,
            progress: format!("{}/{}", self.number, self.of),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            granted: i64::try_from(self.census.granted).unwrap_or(i64::MAX),
            started_at: self.started_at,
            finished_at: self.finished_at,
            soak_until: self.soak_until,
        }
    }
}
