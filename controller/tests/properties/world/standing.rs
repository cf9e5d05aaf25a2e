//! Where a device stands, by the world's own account: whether it runs what its group wants, is away, has failed.

use fettle_controller::plan::model::{Group, Image, Readiness, Rollout, Source, Text};
use fettle_crds::{FirmwarePolicy, Verdict};
use jiff::SignedDuration;

use super::World;
use super::account::Direction;
use super::fleet::{REPORTS, STRANGE};

/// What a group wants of a device of some model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The number of the release.
    pub release: Option<usize>,
    /// The identity of the configuration.
    pub config: Option<Text>,
}

/// The number of the release that reports this; the strange version is newer than all.
pub fn order(reported: &str) -> usize {
    if reported == STRANGE { 8 } else { REPORTS.iter().position(|reports| *reports == reported).unwrap() }
}

impl World {
    /// What a group wants of a device; `None` where that is nothing that there is, or not for its model.
    pub fn wish(&self, group: &Group, number: usize) -> Option<Wish> {
        let release = match &group.firmware {
            None => None,
            Some(name) => Some(self.snapshot.firmwares.keys().position(|known| known == name)?),
        };
        if release.is_some_and(|release| !self.has_image(release, number)) {
            return None;
        }
        let config = match &group.config {
            None => None,
            Some(name) => match &self.snapshot.profiles.get(name)?.source {
                Source::Read(config) => Some(config.identity.clone()),
                _ => return None,
            },
        };
        Some(Wish { release, config })
    }

    pub fn has_image(&self, release: usize, number: usize) -> bool {
        self.fleet.releases[release].for_both_models || self.real[number].model == super::fleet::MODELS[0]
    }

    /// Whether it has said that it runs what its group wants.
    pub fn meets(&self, number: usize, group: &Group) -> bool {
        let Some(wish) = self.wish(group, number) else { return false };
        let real = &self.real[number];
        wish.release.is_none_or(|release| real.told.as_deref() == Some(REPORTS[release]))
            && wish.config.is_none_or(|config| real.told_config.as_ref() == Some(&config))
    }

    /// Whether a device runs what it ran before a rollout, as far as that changes it; `None`: the rollout has not granted it.
    pub fn is_back(&self, number: usize, rollout: &Rollout) -> Option<bool> {
        let before = self.account.before.get(&(rollout.uid.clone(), number))?;
        let now = self.runs(number);
        let firmware = rollout.spec.firmware.is_none() || before.version == now.version;
        let config = rollout.spec.config.is_none() || before.config == now.config;
        Some(firmware && config)
    }

    /// Whether a rollout stands for what its group wants.
    pub fn stands(&self, rollout: &Rollout, group: &Group) -> bool {
        let firmware = rollout.spec.firmware.as_ref().map(|firmware| firmware.name.as_str());
        let identity = group.config.as_ref().and_then(|name| match &self.snapshot.profiles.get(name)?.source {
            Source::Read(config) => Some(config.identity.clone()),
            _ => None,
        });
        let config = rollout.spec.config.as_ref().map(|config| config.identity.as_str());
        let exists = group.firmware.as_ref().is_none_or(|name| self.snapshot.firmwares.contains_key(name));
        if !exists {
            // Nobody can tell what it wants. What goes back needs not know.
            return rollout.status.rollback.is_some();
        }
        firmware == group.firmware.as_deref() && config == identity.as_deref()
    }

    /// The rollout that stands for what a group wants, where it is the newest.
    pub fn standing_rollout(&self, group: &Group) -> Option<&Rollout> {
        self.newest(&group.name).filter(|rollout| self.stands(rollout, group))
    }

    /// Away for longer than the grace, or never there; not by our own word.
    pub fn is_away(&self, number: usize) -> bool {
        let (real, grace) = (&self.real[number], self.snapshot.settings.reconnect_grace);
        real.told.is_none() || (!real.is_sent_away(self.now) && real.lost.is_some_and(|lost| lost + grace <= self.now))
    }

    /// Whether those who look at the API can believe that it is there.
    pub fn seems_connected(&self, number: usize) -> bool {
        let real = &self.real[number];
        real.told.is_some() && !real.dismissed && real.lost.is_none_or(|lost| lost > self.now)
    }

    /// Out of tries in a rollout, or back with something strange, by the simplest reading; and not there since.
    pub fn has_failed_for_certain(&self, number: usize, group: &Group, rollout: &Rollout) -> bool {
        let device = self.device(number);
        let is_only = self.groups_of(number).len() == 1 && self.groups_of(number)[0].name == group.name;
        let is_final =
            |verdict: Verdict, attempt: u32| verdict == Verdict::UnexpectedVersion || attempt > group.strategy.retries;
        let last = self.account.last_try(number, &rollout.uid);
        is_only
            && device.approved
            && !device.held
            && self.wish(group, number).is_some()
            && !self.meets(number, group)
            && self.account.granted.contains_key(&(rollout.uid.clone(), number))
            && last.is_some_and(|last| !last.worked() && is_final(last.verdict, last.attempt))
    }

    /// Whether anything has happened to it in a rollout for which it could count as failed.
    pub fn may_have_failed(&self, number: usize, group: &Group, rollout: &Rollout) -> bool {
        let granted = self.account.granted.contains_key(&(rollout.uid.clone(), number));
        let lost = self.real[number].lost;
        let long = lost.is_some_and(|lost| lost + group.strategy.device_timeout <= self.now);
        self.account.has_tried(number, &rollout.uid) || (granted && long)
    }

    /// Whether it may be for a rollout, which goes back, that a device is not there: its last try in that failed, it fell back,
    /// or it was gone for long when the rollout turned.
    pub fn may_be_lost_by(&self, number: usize, rollout: &Rollout, timeout: SignedDuration) -> bool {
        let Some(rollback) = &rollout.status.rollback else { return false };
        let was_gone = self.real[number].lost.is_some_and(|lost| lost + timeout <= rollback.started_at);
        let drops = self.device(number).facts.drops.map_or(0, |drops| drops.count);
        let has_failed = self.account.last_try(number, &rollout.uid).is_some_and(|last| {
            let is_where_it_was = self.is_back(number, rollout) != Some(false);
            !last.worked() || (last.direction == Direction::Back) != is_where_it_was
        });
        self.account.granted.contains_key(&(rollout.uid.clone(), number)) && (was_gone || has_failed || drops > 1)
    }

    /// Whether an image of a release is verified.
    pub fn is_verified(&self, release: usize) -> bool {
        let firmware = &self.snapshot.firmwares[format!("fw-{}", release + 1).as_str()];
        firmware.readiness == Readiness::Ready
    }

    pub fn everything_is_verified(&self) -> bool {
        (0..REPORTS.len()).all(|release| self.is_verified(release))
    }

    /// Whether a device does something, or is about to call.
    pub fn somebody_moves(&self) -> bool {
        self.real.iter().any(|real| real.moves() && !real.dismissed)
    }

    /// The release whose image for the model of a device is kept under that name.
    pub fn release_of(&self, content: &str, number: usize) -> Option<usize> {
        let model = self.real[number].model;
        let is_it = |image: &Image| *image.name == *content && image.models.iter().any(|known| known == model);
        self.snapshot.firmwares.values().position(|firmware| firmware.images.iter().any(is_it))
    }

    /// Whether a chain of releases leads a device to another one, by trying all.
    pub fn has_path(&self, number: usize, to: usize, policy: FirmwarePolicy) -> bool {
        let Some(told) = &self.real[number].told else { return false };
        let mut reached = vec![order(told)];
        let mut at = 0;
        while let Some(from) = reached.get(at).copied() {
            at += 1;
            let may = |next: &usize| {
                let upwards = policy == FirmwarePolicy::Exact || (from <= *next && *next <= to);
                upwards
                    && self.has_image(*next, number)
                    && self.is_verified(*next)
                    && self.fleet.releases[*next].from <= from
                    && !reached.contains(next)
            };
            let next: Vec<usize> = (0..REPORTS.len()).filter(may).collect();
            reached.extend(next);
        }
        reached[1..].contains(&to) || reached[0] == to
    }
}
