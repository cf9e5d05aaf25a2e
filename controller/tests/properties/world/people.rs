//! What happens to the fleet from outside: faults, and what people want.

use std::sync::Arc;

use fettle_controller::plan::model::{Readiness, Text};
use fettle_controller::reconcile::convert;
use fettle_crds::IntOrPercent;
use fettle_crds::{Abort, DeviceRolloutSpec, Freeze, Window};

use super::World;
use super::bridge::BRIDGES;
use super::fleet::{self, CONFIGS, ROLES, move_to, relabel};
use super::history::{Event, minutes};

impl World {
    pub fn happen(&mut self, event: &Event) {
        if !matches!(event, Event::Nothing) {
            let note = format!("{event:?}");
            self.note(note);
        }
        let devices = self.real.len();
        match *event {
            Event::Nothing => {}
            Event::Temper(number, temper, times) => {
                self.real[number % devices].tempers.extend(std::iter::repeat_n(temper, times.into()));
            }
            Event::Away(number, long) => self.lose(number % devices, minutes(long)),
            Event::Reflash(number, release) => self.reflash(number % devices, release),
            Event::Kill(bridge) => self.kill(bridge),
            Event::Start(bridge) => self.start(bridge % BRIDGES.len()),
            Event::PauseGroup(group, paused) => self.group(group, |group| group.paused = paused),
            Event::PauseRollout(group, paused) => self.say(group, |spec| spec.paused = Some(paused)),
            Event::Approve(group) => self.approve(group),
            Event::Abort(group, how) => self.say(group, |spec| {
                spec.abort = match how {
                    0 => Some(Abort::Stop),
                    1 => Some(Abort::Rollback),
                    _ => None,
                }
            }),
            Event::RetryAll(group) => {
                let now = self.now;
                self.say(group, |spec| spec.retry_at = Some(now));
            }
            Event::RetryOne(number) => {
                let at: Text = self.now.to_string().into();
                self.spec(number % devices, |device| device.retry_at = Some(at));
            }
            Event::AcceptFailures(group, many) => self.say(group, |spec| spec.accept_failures = many),
            Event::Hold(number, held) => self.spec(number % devices, |device| device.held = held),
            Event::ApproveDevice(number, approved) => {
                self.spec(number % devices, |device| device.approved = approved);
            }
            Event::Move(number, to) => self.spec(number % devices, |device| move_to(device, to)),
            Event::Relabel(number, to) => self.spec(number % devices, |device| {
                relabel(device, |labels| {
                    labels.insert("site".into(), format!("s{}", to % 4));
                    labels.insert("pair".into(), format!("p{}", to % 12));
                });
            }),
            Event::Want(group, release, config) => {
                // There is no sixth release.
                let firmware = format!("fw-{}", release + 1);
                let config = config.checked_sub(1).map(|config| format!("config-{}", CONFIGS[config]));
                self.want(group, firmware, config);
            }
            Event::Limit(group, limit) => {
                self.group(group, |group| group.strategy.max_unavailable = IntOrPercent::Int(limit));
            }
            Event::Freeze(group, from, long) => {
                let from = self.now + minutes(from);
                self.set_freeze(group, Some((from, from + minutes(long))));
            }
            Event::Thaw(group) => self.set_freeze(group, None),
            Event::Verified(release, is_verified) => {
                let name = format!("fw-{}", release + 1);
                let firmware = self.snapshot.firmwares.get_mut(name.as_str()).unwrap();
                firmware.readiness = if is_verified { Readiness::Ready } else { Readiness::Unknown };
            }
            Event::Lose(bits) => self.lose_writes = Some(bits),
            Event::Doubt(carried_out) => self.doubt = Some(carried_out),
        }
    }

    fn spec(&mut self, number: usize, change: impl FnOnce(&mut fettle_controller::plan::model::Device)) {
        self.change(number, |device| {
            device.generation += 1;
            change(device);
        });
    }

    /// A person makes right what only a person can: a dead device is held, one that lives belongs to one group and is served.
    pub fn make_right(&mut self, number: usize) {
        let is_dead = self.real[number].is_dead();
        self.spec(number, |device| {
            (device.held, device.approved) = (is_dead, true);
            let roles_of = ROLES.iter().filter(|role| device.labels.contains_key(role)).count();
            if roles_of != 1 {
                move_to(device, number % 2);
            }
        });
    }

    pub fn group(&mut self, number: usize, change: impl FnOnce(&mut fettle_controller::plan::model::Group)) {
        let group = self.snapshot.groups.get_mut(ROLES[number % ROLES.len()]).unwrap();
        group.generation += 1;
        change(group);
    }

    /// In the spec of the newest rollout of a group, where there is one.
    pub fn say(&mut self, number: usize, change: impl FnOnce(&mut DeviceRolloutSpec)) {
        let Some(rollout) = self.newest(ROLES[number % ROLES.len()]).map(|rollout| rollout.name.clone()) else {
            return;
        };
        let rollout = self.snapshot.rollouts.get_mut(&rollout).unwrap();
        rollout.generation += 1;
        change(Arc::make_mut(&mut rollout.spec));
    }

    /// A person lets a rollout go past the step that it says it is at.
    pub fn approve(&mut self, number: usize) {
        let newest = self.newest(ROLES[number % ROLES.len()]);
        let step = newest.and_then(|rollout| rollout.status.step.as_ref()).map(|step| step.number);
        self.say(number, |spec| {
            let step = step.filter(|step| (*step as usize) <= spec.steps.len());
            spec.approved_step = step.or(spec.approved_step);
        });
    }

    /// A group wants that release and that configuration.
    pub fn want(&mut self, number: usize, firmware: String, config: Option<String>) {
        self.group(number, |group| {
            group.firmware = Some(firmware.into());
            group.config = config.map(Into::into);
        });
        let freeze = self.times[ROLES[number % ROLES.len()]].freeze;
        self.set_times(number, freeze);
    }

    pub fn set_freeze(&mut self, number: usize, freeze: Option<(jiff::Timestamp, jiff::Timestamp)>) {
        self.times.get_mut(ROLES[number % ROLES.len()]).unwrap().changed_at = self.now;
        self.set_times(number, freeze);
    }

    fn set_times(&mut self, number: usize, freeze: Option<(jiff::Timestamp, jiff::Timestamp)>) {
        let role = ROLES[number % ROLES.len()];
        let times = self.times.get_mut(role).unwrap();
        times.freeze = freeze;
        // A time is said with the configuration that it is for.
        let apply_at = times.apply_at.filter(|_| self.snapshot.groups[role].config.is_some());
        let windows: Vec<Window> = times
            .window
            .map(|(hour, hours)| Window {
                schedule: format!("0 {hour} * * *"),
                duration: fettle_crds::Duration::from_secs(hours as u64 * 3600),
                time_zone: None,
            })
            .into_iter()
            .collect();
        let freezes: Vec<Freeze> = freeze
            .map(|(from, to)| Freeze { from: from.to_string(), to: to.to_string(), reason: Some("year end".into()) })
            .into_iter()
            .collect();
        let read = convert::times(&windows, &freezes, "UTC", &fleet::apply(apply_at)).unwrap();
        self.group(number, |group| group.times = Ok(Arc::new(read)));
    }
}
