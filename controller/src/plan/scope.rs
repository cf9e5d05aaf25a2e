//! What a pass holds of each group while it goes on.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fettle_crds::{
    DownloadTime, FinishedStep, FirmwarePolicy, Scheduled, Stage, TargetConfig, TargetFirmware, TryResult, Verdict,
};
use jiff::{SignedDuration, Timestamp};

use super::Map;
use super::course::{self, Clock, Course};
use super::goal::{Goal, WayBack};
use super::limits::{Budget, Usage};
use super::model::{
    Device, End, Firmware, Group, Image, Profile, Progress, Readiness, Rollout, Snapshot, Target, Text,
};
use super::paths::{Hop, NoHop, Paths, Release};
use super::progress::Way;
use super::reason::Reason;
use super::rendering::Template;
use super::revision::{Revision, Rollouts, Wanted};
use super::schedule::{self, Next, Schedule};
use super::seen::{Move, Seen};
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
    /// The rollout that stands for what the group wants, where it exists already; or the newest, which goes back, where nobody
    /// can tell what the group wants.
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
    /// Those of them that fetch ahead, or have done so.
    pub ahead: Vec<usize>,
    /// The last step in which any of them was granted.
    pub reached: u32,
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
    /// The steps before that.
    pub finished_steps: Vec<FinishedStep>,
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
    /// When it is too late to tell any more devices of a time that is near: those that wait for a slot wait for the next.
    pub passes_at: Option<Timestamp>,
    /// A device waits for a time that is never inside a window.
    pub waits_for_ever: bool,
    pub tally: Tally,
}

/// What a revision means for a model.
struct Model {
    goal: Rc<Goal>,
    /// The ways to its firmware.
    paths: Option<Paths>,
    /// The releases on those, as targets name them.
    stones: Map<Text, Arc<TargetFirmware>>,
}

impl<'a> Scope<'a> {
    pub fn new(snapshot: &'a Snapshot, group: &'a Group, wanted: &'a Wanted<'a>, rollouts: &'a Rollouts<'a>) -> Self {
        let stands_for = |newest: &&Rollout| match wanted {
            Wanted::Revision(revision) => newest.spec.revision == revision.digest,
            // A way back needs nothing of what the group wants now.
            Wanted::Invalid(_) => newest.status.rollback.is_some(),
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
            ahead: Vec::new(),
            reached: 1,
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
            finished_steps: Vec::new(),
            places: 0,
            reserved: 0,
            downloading: 0,
            schedule: group.times.as_ref().ok().and_then(Schedule::of),
            waits_until: None,
            passes_at: None,
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
        if !self.models.contains_key(model) {
            let found = Goal::of(revision, model).map(|goal| Model {
                goal: Rc::new(goal),
                paths: revision.firmware.and_then(|goal| paths(goal, snapshot, model, self.group.policy)),
                stones: Map::default(),
            });
            self.models.insert(model.clone(), found);
        }
        self.models.get_mut(model)
    }

    /// What the revision means for a device of the model that it reports; `None` where either is not known.
    pub fn goal(&mut self, snapshot: &Snapshot, device: &Device) -> Option<Result<Rc<Goal>, Reason>> {
        let template = self.template();
        let model = self.model(snapshot, &device.facts.reported.as_ref()?.model)?;
        let goal = model.as_ref().map(|model| Rc::clone(&model.goal)).map_err(|reason| *reason);
        Some(goal.and_then(|goal| Goal::rendered(goal, template, device)))
    }

    /// Counts whether the configuration can be rendered for a device that it is for; also of one that has never called, where
    /// it is for all models: so what is wrong is found before there is anybody to grant it to.
    pub fn cover(&mut self, device: &Device, goal: Option<&Result<Rc<Goal>, Reason>>) {
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

    /// The release that a device has to go over before it can be told what the revision means for it, where there is one.
    ///
    /// # Errors
    /// Why it can be told nothing.
    pub fn stone(&mut self, snapshot: &Snapshot, device: &Device) -> Result<Option<&Arc<TargetFirmware>>, Reason> {
        if self.revision().is_none() {
            return Err(Reason::GroupInvalid);
        }
        let reported = device.facts.reported.as_ref().ok_or(Reason::NeverConnected)?;
        let found = self.model(snapshot, &reported.model).ok_or(Reason::NeverConnected)?;
        let Model { paths, stones, .. } = found.as_mut().map_err(|reason| *reason)?;
        let Some(paths) = paths else { return Ok(None) };
        match paths.next(&reported.version) {
            Err(NoHop::AlreadyThere) | Ok(Hop { hops: 1, .. }) => Ok(None),
            Ok(hop) => {
                if !stones.contains_key(&hop.release) {
                    let release = snapshot.firmwares.get(&hop.release);
                    let image = release.and_then(|release| release.image(&reported.model));
                    let stone = Arc::new(image.ok_or(Reason::NoUpgradePath)?.in_target());
                    stones.insert(hop.release.clone(), stone);
                }
                Ok(stones.get(&hop.release))
            }
            Err(NoHop::Newer) => Err(Reason::NewerThanDesired),
            Err(NoHop::NotComparable { .. }) => Err(Reason::VersionsNotComparable),
            Err(NoHop::NoPath) => Err(Reason::NoUpgradePath),
            Err(NoHop::NotVerified { .. }) => Err(Reason::FirmwareNotReady),
        }
    }

    /// What a device would be told next, on its way to what the revision means for it.
    ///
    /// # Errors
    /// Why it can be told nothing.
    pub fn next_move(&mut self, snapshot: &Snapshot, device: &Device) -> Result<Move, Reason> {
        if let Some(stone) = self.stone(snapshot, device)? {
            return Ok(Move { firmware: Some(stone.clone()), config: None });
        }
        let reported = device.facts.reported.as_ref().ok_or(Reason::NeverConnected)?;
        let goal = self.goal(snapshot, device).ok_or(Reason::NeverConnected)??;
        let Goal { firmware, config } = (*goal).clone();
        let is_scheduled = self.schedule.is_some();
        Ok(match &firmware {
            // A configuration that has its time goes by itself, when the firmware is there.
            Some(to) if is_scheduled && *to.reports == *reported.version => Move { firmware: None, config },
            Some(_) if is_scheduled => Move { firmware, config: None },
            Some(_) | None => Move { firmware, config },
        })
    }

    /// How a device may begin what it would be told next, as far as the clock is concerned.
    ///
    /// # Errors
    /// Why it may not begin now.
    pub fn opening(&mut self, snapshot: &Snapshot, device: &Device, now: Timestamp) -> Result<Stage, Reason> {
        if let Clock::Frozen { .. } = self.clock {
            return Err(Reason::Frozen);
        }
        if self.schedule.is_some() && self.next_move(snapshot, device)?.is_configuration() {
            return self.moment(device, now).map(|_| Stage::Activate);
        }
        let Some(held) = self.clock.holds() else { return Ok(Stage::Activate) };
        let is_to_open = matches!(self.clock, Clock::Closed { next: Some(_), .. });
        let fetches_ahead = self.group.strategy.download == DownloadTime::Ahead
            && is_to_open
            && self.next_move(snapshot, device)?.is_to_be_fetched(device);
        if fetches_ahead { Ok(Stage::Download) } else { Err(held) }
    }

    /// When a device puts a configuration into force, in a group that does so at a time of day; `None`: at once.
    ///
    /// # Errors
    /// Why it cannot be told a time now.
    fn moment(&mut self, device: &Device, now: Timestamp) -> Result<Option<Scheduled>, Reason> {
        let expected = self.expected();
        let Some(schedule) = &mut self.schedule else { return Ok(None) };
        match schedule.next(device, expected, now) {
            Next::At(moment) if moment.at <= now + schedule::AHEAD => {
                let passes_at = moment.at - schedule::LEAD + SignedDuration::from_secs(1);
                self.passes_at = self.passes_at.into_iter().chain([passes_at]).min();
                Ok(Some(moment.clone()))
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
        }
    }

    /// What a device is told next, in the words of its target: with its time where it has one, and with the kind of CRC that it
    /// checks its configuration with. The target may not name the image that says it, where the configuration goes by itself.
    ///
    /// # Errors
    /// Why it can be told nothing.
    pub fn wording(&mut self, snapshot: &Snapshot, device: &Device, now: Timestamp) -> Result<Move, Reason> {
        let to = self.next_move(snapshot, device)?;
        let scheduled = if to.is_configuration() { self.moment(device, now)? } else { None };
        let model = device.facts.reported.as_ref().map(|reported| &*reported.model);
        let crc = self.revision().zip(model).and_then(|(revision, model)| revision.crc(model));
        let config = to.config.map(|config| match (crc, &scheduled) {
            (None, None) => config,
            _ => Arc::new(TargetConfig { crc: crc.or(config.crc), scheduled, ..(*config).clone() }),
        });
        Ok(Move { config, ..to })
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
    /// step is not done; not at all, where nobody noted when it was.
    pub fn watched_until(&self, granted_in: Option<u32>) -> Option<Timestamp> {
        steps::watched_until(self.rollout?, granted_in?)
    }

    /// How long the last try of a device took, where that tells how long others take.
    pub fn observe_duration(&mut self, device: &Device) {
        let Some((target, Progress::Ended(End { result: TryResult::Succeeded, reason, at: Some(at) }))) =
            device.attempt()
        else {
            return;
        };
        // One in which there was nothing to do tells nothing.
        if reason == Verdict::AlreadyCurrent || !self.rollouts.all().any(|rollout| rollout.uid == target.rollout_uid) {
            return;
        }
        let scheduled = target.config.as_ref().and_then(|config| config.scheduled.as_ref());
        let began = scheduled.map_or(target.granted_at, |moment| moment.at);
        let took = Some(at.duration_since(began).max(SignedDuration::ZERO));
        self.longest = self.longest.max(took);
        if target.firmware.as_ref().is_some_and(|firmware| *firmware.reports != *target.from) {
            self.longest_flash = self.longest_flash.max(took);
        }
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
