//! What bridges do: they command devices as targets say, and write facts. One write ends a try.

use fettle_controller::plan::model::{Bridge, Device, Facts, Open, Reported, Target, Text, Upgrade};
use fettle_crds::{Phase, Stage, TryResult, Verdict};
use jiff::{SignedDuration, Timestamp};

use super::World;
use super::account::{Account, begins, scheduled, worked};
use super::history::{Temper, minutes};
use super::real::{Act, seconds};

pub const BRIDGES: [&str; 2] = ["b0", "b1"];
pub const LEASE: SignedDuration = SignedDuration::from_secs(15);

/// No first command, and none to restart, later than so long before the end of a try.
fn margin(target: &Target) -> SignedDuration {
    let tenth = target.until.duration_since(target.granted_at) / 10;
    tenth.min(SignedDuration::from_secs(30))
}

impl World {
    /// When a bridge gives up the session of the run before, with a device that stayed away. What that one has begun is for
    /// the controller to judge.
    pub(super) fn given_up_at(&self, number: usize) -> Option<Timestamp> {
        let device = self.device(number);
        let session = device.facts.session.as_ref().filter(|session| !session.dismissed)?;
        let bridge = BRIDGES.iter().position(|name| *name == &*session.bridge).filter(|bridge| self.lives[*bridge])?;
        let lease = &self.snapshot.bridges[BRIDGES[bridge]];
        let has_begun = device.open_target().is_some_and(|open| open.has_begun);
        let is_orphan = lease.incarnation.as_ref() != Some(&session.incarnation) && !has_begun;
        is_orphan.then_some(lease.started + self.snapshot.settings.reconnect_grace)
    }

    pub(super) fn give_up(&mut self, number: usize) {
        if let Some(at) = self.given_up_at(number).filter(|at| *at <= self.now) {
            self.real[number].lost = Some(at);
            self.facts(number, |facts| (facts.session, facts.last_seen) = (None, Some(at)));
        }
    }

    /// When the bridge that holds its session ends a try.
    pub(super) fn ends_at(&self, number: usize) -> Option<Timestamp> {
        let device = self.device(number);
        let ahead = device.download().filter(|ahead| !ahead.is_fetched).map(|ahead| ahead.target);
        let target = device.open_target().map(|open| open.target).or(ahead)?;
        self.holds_session(device).then_some(target.until)
    }

    /// Whether the bridge that is named in the session of a device lives.
    pub(super) fn holds_session(&self, device: &Device) -> bool {
        device.facts.session.as_ref().is_some_and(|session| {
            let number = BRIDGES.iter().position(|name| *name == &*session.bridge).unwrap();
            let incarnation = self.snapshot.bridges[&session.bridge].incarnation.as_ref();
            self.lives[number] && !session.dismissed && incarnation == Some(&session.incarnation)
        })
    }

    pub(super) fn facts(&mut self, number: usize, change: impl FnOnce(&mut Facts)) {
        self.change(number, |device| change(&mut device.facts));
    }

    pub(super) fn has_downloaded(&mut self, number: usize, id: i64, temper: Option<Temper>) -> Result<(), String> {
        let now = self.now;
        let device = self.device(number);
        let open = device.open_target().filter(|open| !open.has_begun).map(|open| open.target);
        let target = open.or(device.download().map(|ahead| ahead.target)).filter(|target| target.id == id);
        let Some(target) = target.cloned() else { return Ok(()) };
        let failed = match temper {
            Some(Temper::CrcMismatch) => Some(Verdict::CrcMismatch),
            Some(Temper::DownloadFails) => Some(Verdict::DownloadFailed),
            Some(Temper::NotTransferred) => Some(Verdict::NotTransferred),
            _ => None,
        };
        if let Some(failed) = failed {
            self.finish(number, failed);
            return Ok(());
        }
        match temper {
            Some(Temper::Vanishes(away)) => {
                self.lose(number, SignedDuration::from_secs(away));
                return Ok(());
            }
            _ if target.stage == Stage::Download => {
                let phase = Phase::Downloaded;
                let upgrade = Upgrade { target: id, phase, since: now, result: None, reason: None, message: None };
                self.facts(number, |facts| facts.upgrade = Some(upgrade));
                return Ok(());
            }
            _ if now >= target.until - margin(&target) => return Ok(()),
            _ => {}
        }
        let to = target.firmware.as_ref().map(|firmware| firmware.reports.clone());
        let flash = to.filter(|to| *to != self.real[number].version);
        let phase = match scheduled(&target) {
            _ if flash.is_some() => Phase::Restarting,
            Some(_) => Phase::Scheduled,
            None => Phase::Applying,
        };
        let upgrade = Upgrade { target: id, phase, since: now, result: None, reason: None, message: None };
        self.facts(number, |facts| facts.upgrade = Some(upgrade));
        let permission = self.account.open.get_mut(&number).filter(|permission| permission.id == id);
        permission.ok_or_else(|| format!("rule 2: d{number} begins {id}, which it was not granted"))?.begun = true;
        let name = self.names[number].clone();
        let note = format!("{name} begins {id}: {phase:?} {flash:?} {temper:?}");
        self.note(note);
        let real = &mut self.real[number];
        real.act = match flash {
            Some(to) => {
                let ends = match temper {
                    Some(Temper::Late(by)) => target.until + minutes(by),
                    _ => now + seconds(20 + number * 7 % 60),
                };
                (real.link, real.down_by) = (None, Some(id));
                Act::Flashing { ends, temper, to }
            }
            None => {
                let ends = begins(&target).max(now) + seconds(5);
                Act::Applying { id, ends, fails: temper == Some(Temper::ApplyFails) }
            }
        };
        Ok(())
    }

    /// What a device says of itself, where that is new.
    pub(super) fn report(&mut self, number: usize) {
        let (now, real) = (self.now, &mut self.real[number]);
        let (version, model): (Text, Text) = (real.version.as_str().into(), real.model.into());
        let config = real.config.clone().filter(|_| real.tells_config);
        let tells_config = real.tells_config;
        if real.tells_config {
            real.told_config = config.clone();
        }
        if real.told.as_deref() != Some(&real.version) {
            real.told_at = now;
        }
        real.told = Some(real.version.clone());
        let same =
            |reported: &Reported| reported.version == version && reported.model == model && reported.config == config;
        if !self.device(number).facts.reported.as_ref().is_some_and(same) {
            let reported = Reported { version, model, config, tells_config, takes_http: false, at: now };
            self.facts(number, |facts| facts.reported = Some(reported));
        }
    }

    /// The try of a device ends: one write, by the bridge.
    pub(super) fn finish(&mut self, number: usize, verdict: Verdict) {
        let now = self.now;
        let device = self.device(number);
        let open = device.open_target().map(|open| open.target).or(device.download().map(|ahead| ahead.target));
        let Some(id) = open.map(|target| target.id) else { return };
        if self.real[number].link.is_some() {
            self.report(number);
        }
        let result = if worked(verdict) { TryResult::Succeeded } else { TryResult::Failed };
        self.facts(number, |facts| {
            facts.drops = None;
            facts.upgrade = Some(Upgrade {
                target: id,
                phase: Phase::Done,
                since: now,
                result: Some(result),
                reason: Some(verdict),
                message: None,
            });
        });
        let note = format!("{} ends {id}: {verdict:?}", self.names[number]);
        self.note(note);
        self.account.end(number, id, verdict, now);
    }

    /// The bridge that holds the session says that the time is up, be the device there or not.
    pub(super) fn end_by_time(&mut self, number: usize) {
        if self.ends_at(number).is_none_or(|at| at > self.now) {
            return;
        }
        self.finish(number, Verdict::TimedOut);
        let real = &mut self.real[number];
        if matches!(real.act, Act::Downloading { .. } | Act::Applying { .. }) {
            real.act = Act::Idle;
        }
        if real.link.is_none() {
            let now = self.now;
            real.lost = Some(now);
            self.facts(number, |facts| (facts.session, facts.last_seen) = (None, Some(now)));
        }
    }

    /// The bridge looks at the target of a device that is connected and does nothing.
    pub(super) fn judge(&mut self, number: usize) -> Result<(), String> {
        let now = self.now;
        let real = &self.real[number];
        if real.link.is_none() || real.act != Act::Idle {
            return Ok(());
        }
        let device = self.device(number);
        if let Some(ahead) = device.download() {
            let target = ahead.target.clone();
            let is_for_it = *real.version == *target.from && !ahead.is_fetched;
            return if is_for_it && now < target.until - margin(&target) {
                self.command(number, &target)
            } else {
                Ok(())
            };
        }
        let Some(Open { target, has_begun }) = device.open_target() else {
            if device.decisions.target.as_ref().is_some_and(|target| target.done) {
                self.dismiss(number);
            }
            return Ok(());
        };
        let target = target.clone();
        let phase = device.facts.upgrade.as_ref().map(|upgrade| upgrade.phase);
        let arrived = target.firmware.as_ref().is_none_or(|firmware| firmware.reports == real.version);
        let applied = target
            .config
            .as_ref()
            .is_none_or(|config| device.running_config().is_some_and(|running| **running == *config.identity));
        match (has_begun, phase) {
            (true, Some(Phase::Restarting)) if !arrived => {
                let unchanged = *real.version == *target.from;
                self.finish(number, if unchanged { Verdict::CameBackUnchanged } else { Verdict::UnexpectedVersion });
            }
            (_, _) if arrived && applied => {
                self.finish(number, if has_begun { Verdict::Upgraded } else { Verdict::AlreadyCurrent });
            }
            (true, _) => {
                let ends = begins(&target).max(now) + seconds(5);
                self.real[number].act = Act::Applying { id: target.id, ends, fails: false };
            }
            _ if !arrived && *real.version != *target.from => {}
            _ if now >= target.until - margin(&target) => {}
            _ => self.command(number, &target)?,
        }
        Ok(())
    }

    /// The bridge sends the first command of a target, or sends it again after the connection was lost.
    pub(super) fn command(&mut self, number: usize, target: &Target) -> Result<(), String> {
        let now = self.now;
        let mine = |world: &Self| {
            let ahead = world.account.ahead.get(&number).filter(|_| target.stage == Stage::Download);
            let granted = world.account.permission(number).filter(|_| target.stage == Stage::Activate);
            ahead.or(granted).filter(|permission| permission.id == target.id).cloned()
        };
        let permission =
            mine(self).ok_or_else(|| format!("rule 2: {} is commanded without a permission", self.names[number]))?;
        let mut temper = None;
        if permission.commanded.is_none() {
            if now > target.start_by {
                return Ok(());
            }
            crate::rules::first_command(self, number, target)?;
            let Account { open, ahead, .. } = &mut self.account;
            let held = if target.stage == Stage::Download { ahead } else { open };
            held.get_mut(&number).unwrap().commanded = Some(now);
            temper = self.real[number].tempers.pop_front();
        }
        let ends = now + seconds(5 + number * 3 % 20);
        self.real[number].act = Act::Downloading { id: target.id, ends, temper };
        Ok(())
    }

    /// It is done, and is told to disconnect.
    pub(super) fn dismiss(&mut self, number: usize) {
        let now = self.now;
        let real = &mut self.real[number];
        (real.link, real.dismissed, real.calls_at) = (None, true, now + minutes(60));
        real.sent_away_until = Some(now + minutes(75));
        self.facts(number, |facts| {
            facts.last_seen = Some(now);
            if let Some(session) = &mut facts.session {
                session.dismissed = true;
            }
        });
    }

    /// The bridge that sent it away, or a later run of that, says that it is late.
    pub(super) fn write_off(&mut self, number: usize) {
        let now = self.now;
        let session = self.device(number).facts.session.as_ref().filter(|session| session.dismissed);
        let lives = session.is_some_and(|session| {
            BRIDGES.iter().zip(&self.lives).any(|(name, lives)| *lives && *session.bridge == **name)
        });
        if lives && self.real[number].sent_away_until.is_some_and(|until| until <= now) {
            let real = &mut self.real[number];
            (real.dismissed, real.sent_away_until, real.lost) = (false, None, Some(now));
            self.facts(number, |facts| (facts.session, facts.last_seen) = (None, Some(now)));
        }
    }

    /// A bridge is gone, without a word: its Lease ends in its time.
    pub fn kill(&mut self, bridge: usize) {
        if self.lives[bridge] {
            self.lives[bridge] = false;
            let expires = self.now + LEASE;
            let lease = self.snapshot.bridges.get_mut(BRIDGES[bridge]).unwrap();
            (lease.renewed, lease.expires) = (self.now, expires);
            self.cut_off(bridge, expires);
        }
    }

    /// A bridge starts, anew if it was there.
    pub fn start(&mut self, bridge: usize) {
        let now = self.now;
        self.lives[bridge] = true;
        self.version += 1;
        let incarnation = Some(Text::from(format!("i{}", self.version)));
        // Its Lease is renewed whenever that is due.
        let lease = Bridge { incarnation, started: now, renewed: now, expires: Timestamp::MAX };
        self.snapshot.bridges.insert(BRIDGES[bridge].into(), lease);
        self.cut_off(bridge, now);
    }

    /// The sessions of a bridge are over, which is known from then on.
    pub(super) fn cut_off(&mut self, bridge: usize, known: Timestamp) {
        let now = self.now;
        for number in 0..self.real.len() {
            let session = self.device(number).facts.session.as_ref();
            let named = session.is_some_and(|session| *session.bridge == *BRIDGES[bridge]);
            let real = &mut self.real[number];
            if named {
                real.lost = Some(known);
                real.sent_away_until = real.dismissed.then(|| known + minutes(75));
            }
            if real.link == Some(bridge) {
                real.link = None;
                if matches!(real.act, Act::Downloading { .. } | Act::Applying { .. }) {
                    real.act = Act::Idle;
                }
                real.calls_at = now + seconds(1 + number % 30);
            }
        }
    }
}
