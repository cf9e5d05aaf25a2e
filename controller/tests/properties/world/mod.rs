//! A world for the planner: a fleet, bridges, people, an API that keeps what is written to it, and a clock that jumps.

pub mod account;
pub mod bridge;
pub mod fleet;
pub mod history;
mod people;
pub mod real;
mod standing;

pub use standing::order;

use std::collections::{BTreeMap, VecDeque};

use fettle_controller::plan::model::{Decisions, Device, Group, Rollout, Snapshot, Target, Text};
use fettle_controller::plan::output::{Change, DeviceWrite, Plan};
use fettle_controller::plan::plan;
use fettle_crds::DeviceRolloutStatus;
use jiff::{SignedDuration, Timestamp};

use self::account::{Account, Direction, Ran};
use self::fleet::{Fleet, ROLES};
use self::history::{Jump, Tick, minutes};
use self::real::Real;

/// So many lines of what happened last are shown when a rule is broken.
const SHOWN: usize = 60;
/// A plan that wants to look again later than this is as good as at rest.
const FAR: SignedDuration = SignedDuration::from_hours(24 * 30);
/// How long a write that was not answered may still be carried out.
const DOUBT: SignedDuration = SignedDuration::from_secs(10);

/// When the devices of a group may begin, in the world's own words.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The hour (UTC) at which a window opens each day, and for how many hours.
    pub window: Option<(i64, i64)>,
    pub freeze: Option<(Timestamp, Timestamp)>,
    /// The hour in which configurations are put into force.
    pub apply_at: Option<i64>,
    /// When a person has said so.
    pub changed_at: Timestamp,
}

impl Times {
    pub fn is_frozen(&self, now: Timestamp) -> bool {
        self.freeze.is_some_and(|(from, to)| from <= now && now < to)
    }

    /// Until when it is open, if it is.
    pub fn closes(&self, now: Timestamp) -> Option<Timestamp> {
        let day = 24 * 3600;
        let mut closes = now + SignedDuration::from_hours(24 * 365);
        if let Some((hour, hours)) = self.window {
            let since = (now.as_second() - hour * 3600).rem_euclid(day);
            let left = hours * 3600 - since;
            if left <= 0 {
                return None;
            }
            closes = Timestamp::from_second(now.as_second() + left).unwrap();
        }
        match self.freeze {
            Some((from, to)) if from <= now && now < to => None,
            Some((from, _)) if from > now => Some(closes.min(from)),
            _ => Some(closes),
        }
    }
}

/// The world.
pub struct World {
    pub snapshot: Snapshot,
    pub now: Timestamp,
    pub names: Vec<Text>,
    pub real: Vec<Real>,
    /// Whether each bridge lives.
    pub lives: [bool; 2],
    pub account: Account,
    pub fleet: Fleet,
    pub times: BTreeMap<Text, Times>,
    /// Of the last write that anybody made.
    pub version: u64,
    /// Of the writes of the next plan only those are carried out.
    lose_writes: Option<u8>,
    /// The grants of the next plan are not answered, and are carried out late, or not.
    doubt: Option<bool>,
    /// Writes on their way, and when they arrive.
    late: Vec<(Timestamp, DeviceWrite)>,
    /// All that the last plan wanted was written.
    pub wrote_all: bool,
    pub planned_at: Timestamp,
    wake: Option<Timestamp>,
    /// What happened last.
    log: VecDeque<String>,
}

impl World {
    pub fn new(fleet: &Fleet) -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let devices = fleet.devices.iter().enumerate();
        let real = devices.map(|(number, born)| {
            let calls_at = now + SignedDuration::from_secs(number as i64 % 7);
            Real::new(born.model, born.release, born.tells_config, calls_at)
        });
        let groups = fleet.groups.iter().zip(ROLES);
        let mut world = Self {
            snapshot: fleet.snapshot(now),
            now,
            names: (0..fleet.devices.len()).map(|number| fleet::name(number).into()).collect(),
            real: real.collect(),
            lives: [false; 2],
            account: Account::default(),
            fleet: fleet.clone(),
            times: groups
                .map(|(group, role)| {
                    let (window, apply_at) = (group.window, group.apply_at);
                    (role.into(), Times { window, freeze: None, apply_at, changed_at: now })
                })
                .collect(),
            version: 1,
            lose_writes: None,
            doubt: None,
            late: Vec::new(),
            wrote_all: true,
            planned_at: now,
            wake: None,
            log: VecDeque::new(),
        };
        world.start(0);
        world.start(1);
        world
    }

    pub fn note(&mut self, what: String) {
        if self.log.len() == SHOWN {
            self.log.pop_front();
        }
        self.log.push_back(format!("{} {what}", self.now));
    }

    /// One tick: the clock jumps, something happens, the controller plans, and it is written.
    pub fn tick(&mut self, tick: &Tick) -> Result<(), String> {
        let seconds = |seconds| SignedDuration::from_secs(seconds);
        // What was written a moment ago is acted on at once, but not before anybody else looks.
        if !matches!(tick.jump, Jump::Seconds(0)) {
            self.live_until(self.now + seconds(1))?;
        }
        let soon = self.now + minutes(1);
        let to = match tick.jump {
            Jump::Seconds(wait) => self.now + seconds(wait),
            Jump::Wake => self.wake.filter(|wake| *wake < self.now + FAR).unwrap_or(soon),
            Jump::Act => self.next_act().filter(|at| *at < self.now + FAR).unwrap_or(soon),
            Jump::Outage(long) => self.now + minutes(long),
        };
        self.live_until(to.max(self.now))?;
        if matches!(tick.jump, Jump::Outage(_)) {
            self.snapshot.settings.watching_since = self.now;
        }
        self.happen(&tick.event);
        self.plan().map(|_| ())
    }

    /// Plans, holds the plan against the rules, and writes it.
    pub fn plan(&mut self) -> Result<Plan, String> {
        let (now, snapshot) = (self.now, &mut self.snapshot);
        snapshot.in_doubt.retain(|_, until| *until > now);
        crate::rules::steps::observe(self);
        let plan = plan(&self.snapshot, self.now);
        crate::rules::check(self, &plan)?;
        self.write(&plan)?;
        self.wake = plan.next;
        self.planned_at = self.now;
        crate::rules::after(self, &plan)?;
        Ok(plan)
    }

    fn write(&mut self, plan: &Plan) -> Result<(), String> {
        let bits = self.lose_writes.take();
        let doubt = self.doubt.take();
        self.wrote_all = bits.is_none() && doubt.is_none() && plan.next.is_none_or(|next| next > self.now);
        let mut count = 0u32;
        let mut is_written = || {
            count += 1;
            bits.is_none_or(|bits| bits >> (count % 8) & 1 == 1)
        };
        for content in &plan.contents {
            self.snapshot.contents.insert(content.name().clone(), self.now);
        }
        for new in &plan.rollouts {
            if self.snapshot.rollouts.contains_key(&new.name) {
                return Err(format!("the number of {} is used a second time", new.name));
            }
            if is_written() {
                let rollout = Rollout {
                    name: new.name.clone(),
                    uid: format!("uid-{}", new.name).into(),
                    generation: 1,
                    group_uid: new.group_uid.clone(),
                    spec: std::sync::Arc::new(new.spec.clone()),
                    status: DeviceRolloutStatus::default(),
                };
                let note = format!("{} begins", new.name);
                self.note(note);
                self.snapshot.rollouts.insert(rollout.name.clone(), rollout);
            }
        }
        for write in &plan.devices {
            match doubt {
                Some(carried_out) if write.change == Change::Granted => {
                    self.snapshot.in_doubt.insert(write.device.clone(), self.now + DOUBT);
                    if carried_out {
                        self.late.push((self.now + DOUBT / 2, write.clone()));
                    }
                }
                _ if is_written() => self.carry_out(write),
                _ => {}
            }
        }
        for write in &plan.groups {
            if is_written() {
                self.snapshot.groups.get_mut(&write.group).unwrap().status = write.status.clone();
            }
        }
        for (name, status) in &plan.rollout_statuses {
            if is_written() {
                self.snapshot.rollouts.get_mut(name).unwrap().status = status.clone();
            }
        }
        for (name, _) in &plan.deletions.rollouts {
            self.snapshot.rollouts.remove(name);
        }
        for name in &plan.deletions.contents {
            self.snapshot.contents.remove(name);
        }
        Ok(())
    }

    /// Writes the decisions on a device, if nobody has written to it since.
    fn carry_out(&mut self, write: &DeviceWrite) {
        let number = self.number(&write.device);
        let device = self.device(number);
        if device.resource_version != write.resource_version {
            return;
        }
        let before = device.decisions.target.as_ref().map(|target| (target.id, target.stage));
        self.close(number, write);
        let target = write.decisions.target.as_ref();
        if let Some(target) = target.filter(|target| before != Some((target.id, target.stage))) {
            self.open(number, target, write);
        }
        if let (Change::Retried, Some(granted)) = (write.change, &write.decisions.granted) {
            self.account.retried.insert((granted.rollout_uid.clone(), number));
        }
        self.change(number, |device| device.decisions = write.decisions.clone());
    }

    /// The account of a target that is judged or taken back by a write.
    fn close(&mut self, number: usize, write: &DeviceWrite) {
        if let Some(ahead) = self.device(number).download() {
            let stays = write.decisions.target.as_ref().is_some_and(|target| target.id == ahead.target.id);
            if !stays {
                self.account.ahead.remove(&number);
            }
            return;
        }
        let Some(id) = self.device(number).open_target().map(|open| open.target.id) else { return };
        let Decisions { target, outcome, .. } = &write.decisions;
        if let Some(outcome) = outcome.as_ref().filter(|outcome| outcome.target == id) {
            self.note(format!("{} is judged: {id} {:?}", write.device, outcome.reason));
            self.account.end(number, id, outcome.reason, self.now);
        } else if target.as_ref().is_none_or(|target| target.id != id) {
            self.note(format!("{} loses its target {id}", write.device));
            let rollout = self.account.permission(number).and_then(|permission| self.rollout(&permission.rollout));
            let goes_back = rollout.is_some_and(|rollout| rollout.status.rollback.is_some());
            self.account.take_back(number, goes_back);
        }
    }

    /// The account of a target that is granted by a write.
    fn open(&mut self, number: usize, target: &Target, write: &DeviceWrite) {
        let rollout = self.rollout(&target.rollout_uid);
        let group: Text = rollout.map_or("", |rollout| &*rollout.spec.group).into();
        let is_back = rollout.is_some_and(|rollout| rollout.status.rollback.is_some());
        let direction = if is_back { Direction::Back } else { Direction::Forward };
        let Target { id, rollout, attempt, firmware, config, .. } = target;
        let reports = firmware.as_ref().map(|firmware| &firmware.reports);
        let config = config.as_ref().map(|config| &config.identity);
        let name = &write.device;
        self.note(format!(
            "{name} is granted {id} in {rollout}, try {attempt}: {direction:?} to {reports:?} {config:?}"
        ));
        let labels = self.device(number).labels.clone();
        self.account.grant(number, target, group, direction, labels);
        let granted = write.decisions.granted.as_ref().filter(|granted| granted.rollout_uid == target.rollout_uid);
        if let Some(granted) = granted {
            let ran = self.runs(number);
            self.account.take_on(number, &granted.rollout_uid, granted.step, ran);
            if granted.forgiven.is_some() {
                self.account.retried.insert((granted.rollout_uid.clone(), number));
            }
        }
    }

    fn carry_out_late_writes(&mut self) {
        let now = self.now;
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= now);
        self.late = late;
        let due: Vec<(Timestamp, DeviceWrite)> = due;
        due.iter().for_each(|(_, write)| self.carry_out(write));
    }

    pub fn number(&self, name: &str) -> usize {
        self.names.iter().position(|known| **known == *name).unwrap()
    }

    /// A device becomes another, and its object with it.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Device)) {
        let mut device = self.snapshot.devices.remove(&self.names[number]).unwrap();
        self.version += 1;
        device.resource_version = self.version;
        change(&mut device);
        self.snapshot.devices.insert(device);
    }

    pub fn device(&self, number: usize) -> &Device {
        &self.snapshot.devices[&self.names[number]]
    }

    /// The groups that select a device, by the simplest reading.
    pub fn groups_of(&self, number: usize) -> Vec<&Group> {
        let labels = &self.device(number).labels;
        let roles = ROLES.iter().filter(|role| labels.contains_key(role));
        roles.map(|role| &self.snapshot.groups[*role]).collect()
    }

    /// The devices that a group selects.
    pub fn members(&self, group: &str) -> impl Iterator<Item = usize> {
        (0..self.real.len()).filter(move |number| self.device(*number).labels.contains_key(group))
    }

    fn rollout(&self, uid: &str) -> Option<&Rollout> {
        self.snapshot.rollouts.values().find(|rollout| *rollout.uid == *uid)
    }

    /// The newest rollout of a group.
    pub fn newest(&self, group: &str) -> Option<&Rollout> {
        self.snapshot.rollouts.values().filter(|rollout| rollout.spec.group == group).max_by_key(|it| it.spec.number)
    }

    /// What a device has said last that it runs.
    pub fn runs(&self, number: usize) -> Ran {
        let real = &self.real[number];
        Ran { version: real.told.clone(), config: real.told_config.clone() }
    }

    /// All that is known, for whoever has to find out what went wrong.
    pub fn dump(&self, why: &str) -> String {
        let mut text = format!("{why}\n--- what happened last, until {}\n", self.now);
        self.log.iter().for_each(|line| text += &format!("{line}\n"));
        text += "--- devices\n";
        let plan = plan(&self.snapshot, self.now);
        for (number, real) in self.real.iter().enumerate() {
            let device = self.device(number);
            let reason = plan.waiting(&self.snapshot).find(|(name, _)| **name == device.name).map(|(_, reason)| reason);
            let labels: Vec<String> = device.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            text += &format!(
                "{} {} runs {} {:?} (told {:?} {:?}), link {:?}, lost {:?}, held {}, open {:?}: {reason:?}\n   granted {:?} facts {:?}\n",
                device.name,
                labels.join(","),
                real.version,
                real.config,
                real.told,
                real.told_config,
                real.link,
                real.lost,
                device.held,
                self.account.open.get(&number),
                device.decisions.granted,
                device.facts.upgrade,
            );
        }
        text += "--- groups\n";
        for group in self.snapshot.groups.values() {
            text += &format!(
                "{} wants {:?} {:?} {:?} {:?}: {:?} {:?}\n  {:?}\n",
                group.name,
                group.firmware,
                group.config,
                group.policy,
                group.strategy,
                group.status.phase,
                group.status.message,
                self.newest(&group.name).map(|rollout| (
                    &rollout.name,
                    &rollout.status.step,
                    &rollout.status.rollback,
                    &rollout.spec.approved_step
                )),
            );
        }
        text
    }
}
