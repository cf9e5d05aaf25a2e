//! What people see of a namespace: groups, their rollouts, steps and devices, each device with where it stands and why.
//!
//! Pure: objects and the time in, data out. This is also what `-o json` and `-o yaml` print, so its names are kept.

use std::collections::{BTreeMap, HashMap, HashSet};

use fettle_controller::plan::availability::Presence;
use fettle_controller::plan::membership::Membership;
use fettle_controller::plan::model::{Group, Snapshot};
use fettle_controller::plan::output::Change;
use fettle_controller::plan::reason::{Class, Reason};
use fettle_controller::plan::{Plan, plan, steps};
use fettle_crds::{
    Approval, Counts, Device, DeviceGroup, DeviceRollout, DeviceRolloutStatus, IntOrPercent, Phase, Progress, Stage,
    Step, Target, TryResult, Upgrade, Waiting,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::objects::Objects;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetView {
    pub groups: Vec<GroupView>,
    /// Devices that no group acts on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<DeviceView>,
}

/// A group, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The controller has not looked at it since it was last changed.
    pub is_unseen: bool,
    pub counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutView>,
    /// Devices that the rollout has not granted anything.
    pub devices: Vec<DeviceView>,
}

/// The newest rollout of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutView {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_end: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    pub steps: Vec<StepView>,
}

/// A step of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// From 1.
    pub number: u32,
    pub of: u32,
    /// Whom it is about, as its manifest says.
    pub about: String,
    pub state: StepState,
    /// How many devices the rollout is to have taken on when it is done; known once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<Timestamp>,
    pub needs_approval: bool,
    pub is_approved: bool,
    /// Those that were granted in it.
    pub devices: Vec<DeviceView>,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum StepState {
    Done,
    Running,
    Soaking,
    WaitingForApproval,
    /// It has nobody who could begin: a person may let the rollout pass.
    Empty,
    /// The rollout got so far, and goes back.
    GoesBack,
    ToCome,
}

/// A device, and why it is not current.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The firmware that it reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The configuration that it runs, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// What it is on its way to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Destination>,
    pub state: State,
    /// Why it is not current, from the planner's closed list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How its last try ended, in a sentence, where that went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How far its try is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doing: Option<Doing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// What a device is on its way to, where it does not run that yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// How far a try is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doing {
    pub phase: &'static str,
    pub since: Timestamp,
    #[serde(rename = "try")]
    pub attempt: u32,
    pub until: Timestamp,
    /// How far the device says that it is, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// In which of its group's counts a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
pub enum State {
    Failed,
    Updating,
    Waiting,
    Offline,
    Current,
    /// No group selects it, or it is not accepted
    None,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Updating => "updating",
            Self::Waiting => "waiting",
            Self::Offline => "offline",
            Self::Current => "current",
            Self::None => "none",
        }
    }

    const fn of(class: Class) -> Self {
        match class {
            Class::Updating => Self::Updating,
            Class::Waiting => Self::Waiting,
            Class::Failed => Self::Failed,
            Class::Offline => Self::Offline,
        }
    }
}

/// Why a device is not current, where no plan says it.
const NOT_TOLD: &str = "NotTold";
/// It belongs to no group.
const NO_GROUP: &str = "NoGroup";

impl FleetView {
    /// Looks at a namespace.
    ///
    /// # Errors
    /// [`Objects::index`]
    pub fn of(objects: &Objects, now: Timestamp) -> Result<Self, prometheus::Error> {
        let index = objects.index(now)?;
        let plan = plan(&index.snapshot, now);
        Ok(Self::with(objects, &index.snapshot, &plan, now))
    }

    /// Looks at a namespace that has been planned.
    pub fn with(objects: &Objects, snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Self {
        let groups: Vec<&Group> = snapshot.groups.values().collect();
        let selectors = snapshot.selectors.of(&groups);
        let reasons: HashMap<&str, Reason> =
            plan.waiting(snapshot).map(|(device, reason)| (&**device, reason)).collect();
        let granted = plan.devices.iter().filter(|write| write.change == Change::Granted);
        let granted: HashSet<&str> = granted.map(|write| &*write.device).collect();
        let about_to = |name: &str| granted.contains(name);
        let mut members: BTreeMap<&str, Vec<(&Device, DeviceView)>> = BTreeMap::new();
        let mut others = Vec::new();
        for (name, device) in &objects.devices {
            let Some(planned) = snapshot.devices.get(name.as_str()) else { continue };
            let membership = selectors.of(planned);
            let of: Vec<&str> = membership.all().iter().map(|index| &*groups[*index].name).collect();
            let unplannable =
                of.iter().filter_map(|name| objects.groups.get(*name)).any(|group| objects.is_unplannable(group));
            let reason = match (reasons.get(name.as_str()), &membership) {
                _ if unplannable => Told::Unknown,
                (Some(Reason::Updating), _) if planned.open_target().is_none() && about_to(name) => {
                    Told::Reason(Reason::NextPass)
                }
                (Some(reason), _) => Told::Reason(*reason),
                (None, Membership::None) => Told::NoGroup,
                (None, Membership::One(_) | Membership::Overlap(_)) => Told::Current,
            };
            let presence = Presence::of(planned, snapshot, now);
            let view = device_view(device, reason, presence, &of);
            match membership {
                Membership::One(index) => members.entry(&*groups[index].name).or_default().push((device, view)),
                Membership::None | Membership::Overlap(_) => others.push(view),
            }
        }
        let groups = objects.groups.values().map(|group| {
            let members = members.remove(group.name_any().as_str()).unwrap_or_default();
            GroupView::of(group, objects, members)
        });
        Self { groups: groups.collect(), others }
    }

    /// All devices, in the order of their names.
    pub fn into_devices(self) -> Vec<DeviceView> {
        let of_groups = self.groups.into_iter().flat_map(|group| {
            let granted = group.rollout.into_iter().flat_map(|rollout| rollout.steps).flat_map(|step| step.devices);
            granted.chain(group.devices).collect::<Vec<_>>()
        });
        let mut devices: Vec<DeviceView> = of_groups.chain(self.others).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }
}

/// What is known of why a device is not current.
#[derive(Debug, Clone, Copy)]
enum Told {
    Current,
    Reason(Reason),
    NoGroup,
    /// The planner could not read what the device is to run.
    Unknown,
}

impl GroupView {
    fn of(group: &DeviceGroup, objects: &Objects, members: Vec<(&Device, DeviceView)>) -> Self {
        let status = group.status.clone().unwrap_or_default();
        let rollout = status.rollout.as_ref().and_then(|name| objects.rollouts.get(name));
        let (rollout, devices) = match rollout {
            Some(rollout) => {
                let (rollout, devices) = RolloutView::of(rollout, members);
                (Some(rollout), devices)
            }
            None => (None, members.into_iter().map(|(_, view)| view).collect()),
        };
        Self {
            name: group.name_any(),
            desired: status.desired,
            phase: status.phase,
            message: status.message,
            is_unseen: status.observed_generation != group.metadata.generation,
            counts: status.counts,
            rollout,
            devices,
        }
    }
}

impl RolloutView {
    /// A rollout; and those of the devices that it has not granted anything.
    fn of(rollout: &DeviceRollout, members: Vec<(&Device, DeviceView)>) -> (Self, Vec<DeviceView>) {
        let status = rollout.status.clone().unwrap_or_default();
        let spec = &rollout.spec;
        let of = steps::count(spec);
        let mut granted: BTreeMap<u32, Vec<DeviceView>> = BTreeMap::new();
        let mut rest = Vec::new();
        for (device, view) in members {
            let granted_in = device.status.as_ref().and_then(|status| status.granted.as_ref());
            let ours = granted_in.filter(|granted| Some(&granted.rollout_uid) == rollout.metadata.uid.as_ref());
            match ours {
                Some(ours) => granted.entry(ours.step.clamp(1, of)).or_default().push(view),
                None => rest.push(view),
            }
        }
        let step = |number: u32| {
            let listed = steps::listed(spec, number);
            let at = status.step.as_ref().filter(|at| at.number == number);
            StepView {
                number,
                of,
                about: listed.map_or_else(|| "all that are left".to_owned(), about),
                state: state_of_step(&status, number),
                size: at.map(|at| at.size),
                granted: at.map(|at| at.granted),
                soak: listed.and_then(|step| step.soak).map(|soak| soak.to_string()),
                soak_until: at.and_then(|at| at.soak_until),
                needs_approval: listed.is_some_and(|step| step.approval == Approval::Required),
                is_approved: spec.approved_step.is_some_and(|approved| approved >= number),
                devices: Vec::new(),
            }
        };
        let mut steps: Vec<StepView> = (1..=of).map(step).collect();
        for step in &mut steps {
            step.devices = granted.remove(&step.number).unwrap_or_default();
        }
        let view = Self {
            name: rollout.name_any(),
            phase: status.phase,
            started_at: status.started_at,
            estimated_end: status.estimated_end,
            completed_at: status.completed_at,
            waiting: status.waiting,
            steps,
        };
        (view, rest)
    }
}

/// Whom a step is about, as its manifest says.
pub fn about(step: &Step) -> String {
    let mut of = Vec::new();
    if let Some(selector) = &step.selector {
        of.extend(selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")));
        of.extend(selector.match_expressions.iter().map(|requirement| {
            let values = requirement.values.join(", ");
            match requirement.operator {
                fettle_crds::Operator::In => format!("{} in ({values})", requirement.key),
                fettle_crds::Operator::NotIn => format!("{} notin ({values})", requirement.key),
                fettle_crds::Operator::Exists => requirement.key.clone(),
                fettle_crds::Operator::DoesNotExist => format!("!{}", requirement.key),
            }
        }));
    }
    match (step.devices, of.as_slice()) {
        (IntOrPercent::Int(1), []) => "1 device".to_owned(),
        (IntOrPercent::Int(number), []) => format!("{number} devices"),
        (IntOrPercent::Percent(percent), []) => format!("{percent}% of the devices"),
        (size, _) => format!("{size} of {}", of.join(",")),
    }
}

fn state_of_step(status: &DeviceRolloutStatus, number: u32) -> StepState {
    let Some(at) = &status.step else {
        return if status.completed_at.is_some() { StepState::Done } else { StepState::Running };
    };
    match number.cmp(&at.number) {
        std::cmp::Ordering::Less => StepState::Done,
        std::cmp::Ordering::Greater => StepState::ToCome,
        std::cmp::Ordering::Equal => match status.waiting.as_ref().map(|waiting| waiting.reason.as_str()) {
            _ if status.rollback.is_some() => StepState::GoesBack,
            _ if status.completed_at.is_some() => StepState::Done,
            Some("Approval") => StepState::WaitingForApproval,
            Some("Soak") => StepState::Soaking,
            Some("Step") => StepState::Empty,
            _ => StepState::Running,
        },
    }
}

fn device_view(device: &Device, told: Told, presence: Presence, groups: &[&str]) -> DeviceView {
    let status = device.status.clone().unwrap_or_default();
    let upgrade = |target: &Target| status.upgrade.as_ref().filter(|upgrade| upgrade.target == target.id);
    let last = status.target.as_ref().and_then(|target| Some((target, upgrade(target)?)));
    let (state, reason) = match told {
        Told::Current => (State::Current, None),
        Told::NoGroup => (State::None, Some(NO_GROUP)),
        Told::Reason(reason) if groups.is_empty() => (State::None, Some(reason.as_str())),
        Told::Reason(reason) => (State::of(reason.class()), Some(reason.as_str())),
        Told::Unknown => (guess(&status, presence), Some(NOT_TOLD)),
    };
    let is_underway = state == State::Updating || matches!(reason, Some("Downloading" | "Downloaded"));
    let doing = status
        .target
        .as_ref()
        .filter(|_| is_underway)
        .map(|target| doing(target, upgrade(target), status.progress.as_ref()));
    let message = match (told, last) {
        (Told::Reason(Reason::Failed(_) | Reason::Retrying | Reason::BackingOff), Some((_, upgrade))) => {
            upgrade.message.clone()
        }
        _ => None,
    };
    let config = match (&status.reported, &status.applied) {
        (Some(reported), applied) if reported.config.is_some() => match applied {
            Some(applied) if applied.at >= reported.at => Some(applied.config.clone()),
            _ => reported.config.clone(),
        },
        (_, applied) => applied.as_ref().map(|applied| applied.config.clone()),
    };
    let version = status.reported.as_ref().map(|reported| reported.version.clone());
    let to = status.target.as_ref().filter(|_| !matches!(state, State::Current | State::None)).and_then(|target| {
        let wanted = target.firmware.as_ref().filter(|wanted| Some(&wanted.reports) != version.as_ref());
        let wanted_config =
            target.config.as_ref().map(|config| &config.identity).filter(|id| Some(*id) != config.as_ref());
        let to = Destination { version: wanted.map(|wanted| wanted.version.clone()), config: wanted_config.cloned() };
        (to.version.is_some() || to.config.is_some()).then_some(to)
    });
    let session = status.session.as_ref().filter(|_| presence.is_connected());
    DeviceView {
        name: device.name_any(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        model: status.reported.as_ref().map(|reported| reported.model.clone()).or_else(|| device.spec.model.clone()),
        version,
        config,
        to,
        state,
        reason,
        message,
        doing,
        address: session.map(|session| session.address.clone()),
        last_seen: status.last_seen.filter(|_| session.is_none()),
    }
}

/// Where a device stands, by its status alone.
fn guess(status: &fettle_crds::DeviceStatus, presence: Presence) -> State {
    let Some(target) = &status.target else {
        return if presence.is_offline() { State::Offline } else { State::Waiting };
    };
    let ended = status.upgrade.as_ref().filter(|upgrade| upgrade.target == target.id && upgrade.phase == Phase::Done);
    match ended.and_then(|upgrade| upgrade.result).or(status.outcome.as_ref().map(|outcome| outcome.result)) {
        Some(TryResult::Succeeded) => State::Current,
        Some(TryResult::Failed) => State::Failed,
        None if target.stage == Stage::Activate => State::Updating,
        None => State::Waiting,
    }
}

fn doing(target: &Target, upgrade: Option<&Upgrade>, progress: Option<&Progress>) -> Doing {
    let (phase, since) = match upgrade {
        Some(upgrade) => (
            match upgrade.phase {
                Phase::Downloaded => "Downloaded",
                Phase::Scheduled => "Scheduled",
                Phase::Restarting => "Restarting",
                Phase::RestartLost => "RestartLost",
                Phase::Applying => "Applying",
                Phase::Done => "Done",
            },
            upgrade.since,
        ),
        None => ("Downloading", target.granted_at),
    };
    // It speaks of what is under way: a restart tells nothing of itself.
    let is_told = |progress: &&Progress| progress.target == target.id && progress.at >= since;
    let progress = progress.filter(is_told).cloned();
    let (percent, text) = progress.map_or((None, None), |progress| (progress.percent, progress.text));
    Doing { phase, since, attempt: target.attempt, until: target.until, percent, text }
}
