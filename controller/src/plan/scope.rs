//! What a pass holds of each group and of each device while it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use fettle_crds::{DownloadTime, FirmwarePolicy, Stage, TargetConfig, TargetFirmware, Verdict};
use jiff::{SignedDuration, Timestamp};

use super::Map;
use super::availability::Presence;
use super::course::{self, Clock, Course};
use super::goal::{Goal, WayBack};
use super::limits::{Budget, Usage};
use super::membership::{Membership, Standing as MacStanding};
use super::model::{
    Ahead, Decisions, Device, End, Firmware, Group, Image, Profile, Progress, Readiness, Rollout, Snapshot, Target,
    Text,
};
use super::output::Change;
use super::paths::{Hop, NoHop, Paths, Release};
use super::progress::{Standing, Way};
use super::reason::Reason;
use super::rendering::Template;
use super::revision::{Revision, Rollouts, Wanted};
use super::schedule::{self, Next, Schedule};
use super::steps::{self, Rest};
use super::tally::Tally;

/// Within this a tree of manifests is applied, of which the group is one. Tools for GitOps (kstatus) take a group that stalls for
/// failed at once, so a group that came before its Firmware must not.
const AWAITED: SignedDuration = SignedDuration::from_secs(10);

/// A group with all that belongs to it.
pub struct Scope<'a> {
    pub group: &'a Group,
    pub wanted: &'a Wanted<'a>,
    pub rollouts: &'a Rollouts<'a>,
    /// The rollout that stands for what the group wants, where it exists already.
    pub rollout: Option<&'a Rollout>,
    /// As it is written.
    pub way: Way,
    /// What the revision means for each model.
    models: Map<Text, Result<Model, Reason>>,
    /// By the names of their contents.
    templates: &'a BTreeMap<Text, Arc<Template>>,
    /// The ways back, by where what a device ran is kept in memory.
    ways_back: Map<usize, Arc<WayBack>>,
    /// The devices that no other group selects.
    pub members: Vec<usize>,
    pub usage: Usage,
    /// Devices that count as failed.
    pub failed: usize,
    /// Those of them that are not there.
    pub failed_away: usize,
    /// The longest try that worked, of this group's rollouts; and of those the longest that brought other firmware.
    pub longest: Option<SignedDuration>,
    pub longest_flash: Option<SignedDuration>,
    /// A device may be granted that needs other firmware.
    pub flashes: bool,
    pub budget: Budget,
    pub course: Course,
    pub clock: Clock,
    pub stage: Option<steps::Stage>,
    /// How many more devices the step may take on in this pass.
    pub places: usize,
    /// So many of those places are for devices that fetch ahead, or have done so.
    pub reserved: usize,
    /// Devices that are fetching ahead.
    pub downloading: usize,
    /// When devices put configurations into force, where that is at a time of day.
    pub schedule: Option<Schedule>,
    /// The next time of one that waits for it.
    pub waits_until: Option<Timestamp>,
    /// A device waits for a time that is never inside a window.
    pub waits_for_ever: bool,
    pub tally: Tally,
}

/// What a revision means for a model.
struct Model {
    goal: Goal,
    /// The ways to its firmware.
    paths: Option<Paths>,
    /// The releases on those, as targets name them.
    stones: Map<Text, Arc<TargetFirmware>>,
}

/// A device with what was found of it.
pub struct Seen<'a> {
    pub device: &'a Device,
    pub membership: Membership,
    pub mac: MacStanding,
    pub presence: Presence,
    pub standing: Standing,
    /// Approved, the only one with its MAC, and not held.
    pub is_served: bool,
    /// What is written of its acceptance is what there is to say.
    pub is_told: bool,
    /// A person wants it to be tried again, and that has not been acted on.
    pub is_wished: bool,
    /// What its target says of whether it may be sent away; `None`: it has none.
    pub done: Option<bool>,
    /// What keeps it from a try, whatever its group is at.
    pub obstacle: Option<Reason>,
    /// What it would be told in its next try, where nothing keeps it from that.
    pub to: Option<Move>,
    pub open: Option<(&'a Target, Progress)>,
    /// What it may fetch ahead of a window.
    pub ahead: Option<Ahead<'a>>,
    /// It may have been granted a try by a write that was not answered.
    pub is_in_doubt: bool,
    /// The step in which the rollout of its group has granted it.
    pub granted_in: Option<u32>,
    /// A person had it tried again: it counts as failed until it is current.
    pub is_retried: bool,
    /// Its decisions, where they change: for few devices of many.
    pub write: Option<Box<(Change, Decisions)>>,
}

/// What a device would be told in its next try.
#[derive(Debug, Clone)]
pub struct Move {
    pub firmware: Option<Arc<TargetFirmware>>,
    pub config: Option<Arc<TargetConfig>>,
}

impl<'a> Scope<'a> {
    pub fn new(snapshot: &'a Snapshot, group: &'a Group, wanted: &'a Wanted<'a>, rollouts: &'a Rollouts<'a>) -> Self {
        let stands_for = |newest: &&Rollout| match wanted {
            Wanted::Revision(revision) => newest.spec.revision == revision.digest,
            Wanted::Invalid(_) => false,
        };
        let rollout = rollouts.newest().filter(stands_for);
        let is_back = rollout.is_some_and(|rollout| rollout.status.rollback.is_some());
        Self {
            group,
            wanted,
            rollouts,
            rollout,
            way: if is_back { Way::Back } else { Way::Forward },
            models: Map::default(),
            templates: &snapshot.templates,
            ways_back: Map::default(),
            members: Vec::new(),
            usage: Usage::default(),
            failed: 0,
            failed_away: 0,
            longest: None,
            longest_flash: None,
            flashes: false,
            budget: Budget::default(),
            course: Course::Forward,
            clock: Clock::Open { start_by: None },
            stage: None,
            places: 0,
            reserved: 0,
            downloading: 0,
            schedule: group.times.as_ref().ok().and_then(Schedule::of),
            waits_until: None,
            waits_for_ever: false,
            tally: Tally::default(),
        }
    }

    /// Until when the group waits for an object that it names to appear, where one is missing: what is applied together comes one
    /// after the other.
    pub fn awaited_until(&self) -> Option<Timestamp> {
        match self.wanted {
            Wanted::Invalid(invalid) if invalid.reason.is_missing() => Some(self.group.changed_at + AWAITED),
            Wanted::Invalid(_) | Wanted::Revision(_) => None,
        }
    }

    fn revision(&self) -> Option<&'a Revision<'a>> {
        match self.wanted {
            Wanted::Revision(revision) => Some(revision),
            Wanted::Invalid(_) => None,
        }
    }

    fn model(&mut self, snapshot: &Snapshot, model: &Text) -> Option<&mut Result<Model, Reason>> {
        let revision = self.revision()?;
        let policy = self.group.policy;
        Some(self.models.entry(model.clone()).or_insert_with(|| {
            Goal::of(revision, model).map(|goal| Model {
                goal,
                paths: revision.firmware.and_then(|goal| paths(goal, snapshot, model, policy)),
                stones: Map::default(),
            })
        }))
    }

    /// What the revision means for a device of the model that it reports; `None` where either is not known.
    pub fn goal(&mut self, snapshot: &Snapshot, device: &Device) -> Option<Result<Goal, Reason>> {
        let template = self.template();
        let model = self.model(snapshot, &device.facts.reported.as_ref()?.model)?;
        let goal = model.as_ref().map(|model| model.goal.clone()).map_err(|reason| *reason);
        Some(goal.and_then(|goal| goal.rendered(template, device)))
    }

    /// Counts whether the configuration can be rendered for a device that it is for; also of one that has never called, where
    /// it is for all models: so what is wrong is found before there is anybody to grant it to.
    pub fn cover(&mut self, device: &Device, goal: Option<&Result<Goal, Reason>>) {
        let Some((profile, config)) = self.revision().and_then(|revision| revision.config) else { return };
        let Some(template) = &config.template else { return };
        let is_for_it = match goal {
            Some(Ok(_) | Err(Reason::TemplateError)) => true,
            Some(Err(_)) => false,
            None => profile.models.is_empty(),
        };
        if is_for_it {
            self.tally.coverage.count(device, template, config.quotes);
        }
    }

    /// The profile that the group wants, where it can be read.
    pub fn profile(&self) -> Option<&'a Profile> {
        self.revision()?.config.map(|(profile, _)| profile)
    }

    /// What the revision has rendered for each device.
    fn template(&self) -> Option<&'a Template> {
        self.revision()?.config.and_then(|(_, config)| config.template.as_deref())
    }

    /// What a device would be told next, on its way to what the revision means for it.
    ///
    /// # Errors
    /// Why it can be told nothing.
    pub fn next_move(&mut self, snapshot: &Snapshot, device: &Device) -> Result<Move, Reason> {
        if self.revision().is_none() {
            return Err(Reason::GroupInvalid);
        }
        let reported = device.facts.reported.as_ref().ok_or(Reason::NeverConnected)?;
        let is_scheduled = self.schedule.is_some();
        let template = self.template();
        let found = self.model(snapshot, &reported.model).ok_or(Reason::NeverConnected)?;
        let Model { goal, paths, stones } = found.as_mut().map_err(|reason| *reason)?;
        let goal = goal.clone().rendered(template, device)?;
        let last = |Goal { firmware, config }: Goal| {
            match &firmware {
                // A configuration that has its time goes by itself, when the firmware is there.
                Some(to) if is_scheduled && *to.reports == *reported.version => Move { firmware: None, config },
                Some(_) if is_scheduled => Move { firmware, config: None },
                Some(_) | None => Move { firmware, config },
            }
        };
        let Some(paths) = paths else { return Ok(last(goal)) };
        match paths.next(&reported.version) {
            Err(NoHop::AlreadyThere) | Ok(Hop { hops: 1, .. }) => Ok(last(goal)),
            Ok(hop) => {
                let stone = match stones.get(&hop.release) {
                    Some(stone) => Some(stone.clone()),
                    None => {
                        let release = snapshot.firmwares.get(&hop.release);
                        let image = release.and_then(|release| release.image(&reported.model));
                        let stone = image.map(|image| Arc::new(image.in_target()));
                        stones.extend(stone.clone().map(|stone| (hop.release.clone(), stone)));
                        stone
                    }
                };
                stone.map(|stone| Move { firmware: Some(stone), config: None }).ok_or(Reason::NoUpgradePath)
            }
            Err(NoHop::Newer) => Err(Reason::NewerThanDesired),
            Err(NoHop::NotComparable { .. }) => Err(Reason::VersionsNotComparable),
            Err(NoHop::NoPath) => Err(Reason::NoUpgradePath),
            Err(NoHop::NotVerified { .. }) => Err(Reason::FirmwareNotReady),
        }
    }

    /// How a device may begin what it would be told next, as far as the clock is concerned.
    ///
    /// # Errors
    /// Why it may not begin now.
    pub fn opening(&mut self, seen: &Seen<'a>, to: Move, now: Timestamp) -> Result<(Move, Stage), Reason> {
        if let Clock::Frozen { .. } = self.clock {
            return Err(Reason::Frozen);
        }
        let expected = self.expected();
        let to = self.with_crc(seen.device, to);
        if let (Some(schedule), Move { firmware: None, config: Some(config) }) = (&mut self.schedule, &to) {
            return match schedule.next(seen.device, expected, now) {
                Next::At(moment) if moment.at <= now + schedule::AHEAD => {
                    let config = TargetConfig { scheduled: Some(moment.clone()), ..(**config).clone() };
                    Ok((Move { firmware: None, config: Some(Arc::new(config)) }, Stage::Activate))
                }
                Next::At(moment) => {
                    self.waits_until = self.waits_until.into_iter().chain([moment.at]).min();
                    Err(Reason::WaitingForTime)
                }
                Next::Never => {
                    self.waits_for_ever = true;
                    Err(Reason::WaitingForTime)
                }
                Next::UnknownZone => Err(Reason::UnknownTimeZone),
            };
        }
        let Some(held) = self.clock.holds() else { return Ok((to, Stage::Activate)) };
        let is_to_open = matches!(self.clock, Clock::Closed { next: Some(_), .. });
        let fetches_ahead = self.group.strategy.download == DownloadTime::Ahead && to.is_to_be_fetched(seen.device);
        if is_to_open && fetches_ahead { Ok((to, Stage::Download)) } else { Err(held) }
    }

    /// With the kind of CRC that the device checks its configuration with. The target may not name the image that says it,
    /// where the configuration goes by itself.
    fn with_crc(&self, device: &Device, to: Move) -> Move {
        let model = device.facts.reported.as_ref().map(|reported| &*reported.model);
        let crc = self.revision().zip(model).and_then(|(revision, model)| revision.crc(model));
        let config = to.config.map(|config| match crc {
            None => config,
            Some(_) => Arc::new(TargetConfig { crc, ..(*config).clone() }),
        });
        Move { config, ..to }
    }

    /// No first command after that: where a window ends too soon, or a freeze begins.
    pub fn start_by(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.clock {
            Clock::Open { start_by } => *start_by,
            Clock::Closed { .. } | Clock::Frozen { .. } => {
                self.group.times.as_ref().ok().and_then(|times| times.calendar.next_freeze(now))
            }
        }
    }

    /// Two versions that have no order, and keep a device of that model from its next try.
    pub fn not_comparable(&mut self, snapshot: &Snapshot, device: &Device) -> Option<(Text, Text)> {
        let reported = device.facts.reported.as_ref()?;
        let model = self.model(snapshot, &reported.model)?.as_mut().ok()?;
        match model.paths.as_mut()?.next(&reported.version) {
            Err(NoHop::NotComparable { a, b }) => Some((a.clone(), b.clone())),
            _ => None,
        }
    }

    /// What the device goes back to, where the rollout has granted it.
    ///
    /// What was rendered for it goes back to the former template, and is what that makes of the device as it is declared
    /// today: a label that somebody has corrected since stays corrected.
    pub fn way_back(&mut self, device: &'a Device) -> Option<Arc<WayBack>> {
        let rollout = self.rollout?;
        let previous = device.decisions.previous.as_ref().filter(|previous| *previous.rollout_uid == *rollout.uid)?;
        // Shared by all devices that ran the same, and not moved while the snapshot is looked at.
        let key = Arc::as_ptr(previous) as usize;
        let way = self.ways_back.entry(key).or_insert_with(|| Arc::new(WayBack::of(previous, &rollout.spec))).clone();
        let config = way.goal.config.as_ref();
        match config.and_then(|config| self.templates.get(config.content.as_str())) {
            None => Some(way),
            Some(template) => Some(way.rendered(template, device)),
        }
    }

    /// Whether a target that has not begun still stands: whether its device could be granted it now, steps and limits apart.
    pub fn backs(&mut self, seen: &Seen<'a>, target: &Target, now: Timestamp) -> bool {
        if self.rollout.is_none_or(|rollout| rollout.uid != target.rollout_uid) {
            return false;
        }
        match self.course {
            Course::Forward => self.is_in_time(target, now),
            Course::Stopped => seen.is_retried && !self.is_paused() && self.is_in_time(target, now),
            Course::Back => self.way_back(seen.device).is_some_and(|way| way.goal.is_led_to_by(target)),
            Course::Paused | Course::Aborted | Course::Turning(_) | Course::BackHalted(_) => false,
        }
    }

    /// Whether the clock lets a target begin still, as it did when it was granted: a person may have set a freeze, or taken a
    /// window away. After its `startBy` it is under way, or never will be.
    fn is_in_time(&self, target: &Target, now: Timestamp) -> bool {
        let has_its_own_time = target.config.as_ref().is_some_and(|config| config.scheduled.is_some());
        if target.stage == Stage::Download || target.start_by < now {
            return true;
        }
        match &self.clock {
            Clock::Open { .. } => true,
            Clock::Closed { closes, .. } => closes.is_some() || has_its_own_time,
            Clock::Frozen { .. } => false,
        }
    }

    /// Whether a person has paused the rollout, or its group.
    pub fn is_paused(&self) -> bool {
        self.rollout.is_some_and(|rollout| course::is_paused(self.group, rollout))
    }

    /// What the rollout rests for after a step, where only a person can let it go on.
    pub fn waits_for_person(&self) -> Option<Reason> {
        match self.stage.as_ref().filter(|stage| !stage.is_last())?.rests_for? {
            Rest::Approval => Some(Reason::WaitingForApproval),
            Rest::Empty => Some(Reason::StepEmpty),
            Rest::Soak { .. } => None,
        }
    }

    /// Until when a device that was granted in that step is watched: until the soak of the step is over. For ever while that
    /// step is not done; not at all, where the rollout is past it or is complete.
    pub fn watched_until(&self, granted_in: Option<u32>) -> Option<Timestamp> {
        let rollout = self.rollout.filter(|rollout| rollout.status.completed_at.is_none())?;
        granted_in.filter(|step| *step >= steps::written(rollout))?;
        Some(steps::soak_ends(rollout).unwrap_or(Timestamp::MAX))
    }

    /// How long a try is expected to take: as long as the longest that worked, or as it may at most. What a configuration
    /// took tells nothing of firmware.
    pub fn expected(&self) -> SignedDuration {
        let most = self.group.strategy.device_timeout;
        let longest = if self.flashes { self.longest_flash } else { self.longest };
        longest.map_or(most, |longest| longest.min(most))
    }
}

/// The ways to a release for a model, where the release has an image for it.
fn paths(goal: &Firmware, snapshot: &Snapshot, model: &str, policy: FirmwarePolicy) -> Option<Paths> {
    let release = |firmware: &Firmware, image: &Image| Release {
        name: firmware.name.clone(),
        version: firmware.version.clone(),
        reports: image.reports.clone(),
        verified: is_verified(firmware, image),
        upgradable_from: image.upgradable_from.clone(),
    };
    let others = snapshot.firmwares.values().filter(|other| other.name != goal.name);
    let others = others.filter_map(|other| Some(release(other, other.image(model)?)));
    Some(Paths::new(release(goal, goal.image(model)?), others, policy))
}

fn is_verified(firmware: &Firmware, image: &Image) -> bool {
    firmware.readiness == Readiness::Ready && firmware.verified.contains(image.content.sha256.as_str())
}

impl Move {
    /// Whether there is a firmware in it that the device does not run yet.
    fn is_to_be_fetched(&self, device: &Device) -> bool {
        let version = device.facts.reported.as_ref().map(|reported| &*reported.version);
        self.firmware.as_ref().is_some_and(|firmware| version != Some(&*firmware.reports))
    }

    /// Whether a target is for this.
    pub fn is_that_of(&self, target: &Target) -> bool {
        self.firmware == target.firmware && self.config == target.config
    }
}

impl<'a> Seen<'a> {
    /// What it may fetch ahead, or has fetched, unless that is taken back in this pass.
    pub fn kept_ahead(&self) -> Option<Ahead<'a>> {
        let is_withdrawn = self.write.as_deref().is_some_and(|(change, _)| *change == Change::Withdrawn);
        self.ahead.filter(|_| !is_withdrawn)
    }

    /// Whether this pass takes back the only target that its rollout has given it.
    pub fn leaves_its_step(&self) -> bool {
        self.write
            .as_deref()
            .is_some_and(|(change, decisions)| *change == Change::Withdrawn && decisions.granted.is_none())
    }

    /// Whether it counts as unavailable without a try that runs.
    pub fn is_away(&self) -> bool {
        let lost = matches!(self.presence, Presence::Reconnecting { .. });
        let failed = matches!(self.standing, Standing::Failed(_)) || self.vanished_in_its_try();
        self.presence.is_offline() || (lost && failed)
    }

    /// Whether it has not been seen since its last try timed out. What its group wants may be another since: that brings
    /// nobody back.
    fn vanished_in_its_try(&self) -> bool {
        match (self.device.attempt(), self.presence.lost_at()) {
            (Some((target, Progress::Ended(End { reason: Verdict::TimedOut, at, .. }))), Some(lost)) => {
                lost <= at.unwrap_or(target.until)
            }
            _ => false,
        }
    }

    /// Whether a try of it runs, or may.
    pub fn is_updating(&self) -> bool {
        self.is_in_doubt || self.open.is_some()
    }

    /// Whether it counts against the failure budget.
    pub fn has_failed(&self) -> bool {
        if !self.is_served {
            return false;
        }
        let retried = self.is_retried && self.standing != Standing::Current;
        retried || (self.open.is_none() && matches!(self.standing, Standing::Failed(_)))
    }

    pub fn has_wrong_model(&self) -> bool {
        let reported = self.device.facts.reported.as_ref().map(|reported| &reported.model);
        matches!((&self.device.model, reported), (Some(declared), Some(reported)) if declared != reported)
    }
}
