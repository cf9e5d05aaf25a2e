//! Devices as they are, whatever anybody knows of them: what they run, and how they take what they are told.

use std::collections::VecDeque;

use fettle_controller::plan::model::{Applied, Session, Text};
use fettle_crds::{Drops, Phase, Verdict};
use jiff::{SignedDuration, Timestamp};

use super::World;
use super::bridge::BRIDGES;
use super::fleet::{MODELS, REPORTS, STRANGE};
use super::history::{Temper, minutes};

/// A device as it is, whatever anybody knows of it.
#[derive(Debug)]
pub struct Real {
    pub model: &'static str,
    pub version: String,
    pub config: Option<Text>,
    pub(super) tells_config: bool,
    /// The bridge that it is connected to; that one lives.
    pub link: Option<usize>,
    /// When it calls, or comes back to call.
    pub(super) calls_at: Timestamp,
    pub(super) act: Act,
    pub tempers: VecDeque<Temper>,
    pub drops_at: VecDeque<Timestamp>,
    pub falls_back: Option<(Timestamp, String)>,
    /// It was told to restart, and has not served since.
    pub down_by: Option<i64>,
    pub dismissed: bool,
    /// Until when it is away by our word.
    pub(super) sent_away_until: Option<Timestamp>,
    /// Since when those who look at the API can know that it is away.
    pub lost: Option<Timestamp>,
    /// What it, or a result, last said that it runs.
    pub told: Option<String>,
    pub told_config: Option<Text>,
    pub told_at: Timestamp,
}

/// What a device is doing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    Idle,
    Downloading { id: i64, ends: Timestamp, temper: Option<Temper> },
    Flashing { ends: Timestamp, temper: Option<Temper>, to: String },
    Applying { id: i64, ends: Timestamp, fails: bool },
    Dead,
}

impl Real {
    pub fn new(model: usize, release: usize, tells_config: bool, calls_at: Timestamp) -> Self {
        Self {
            model: MODELS[model],
            version: REPORTS[release].to_owned(),
            config: None,
            tells_config,
            link: None,
            calls_at,
            act: Act::Idle,
            tempers: VecDeque::new(),
            drops_at: VecDeque::new(),
            falls_back: None,
            down_by: None,
            dismissed: false,
            sent_away_until: None,
            lost: None,
            told: None,
            told_config: None,
            told_at: calls_at,
        }
    }

    /// Whether it is away by our word, and those who look can take it to come back.
    pub fn is_sent_away(&self, now: Timestamp) -> bool {
        self.dismissed && self.sent_away_until.is_none_or(|until| now < until)
    }

    pub fn is_dead(&self) -> bool {
        self.act == Act::Dead
    }

    /// Whether it is about to do something, or on its way back.
    pub fn moves(&self) -> bool {
        match self.act {
            Act::Dead => false,
            Act::Idle => self.link.is_none(),
            Act::Downloading { .. } | Act::Flashing { .. } | Act::Applying { .. } => true,
        }
    }

    /// It calls soon, however long it was to be away.
    pub fn come_back(&mut self, now: Timestamp) {
        self.calls_at = self.calls_at.min(now + seconds(30));
    }

    /// When it does something by itself next.
    fn next(&self, a_bridge_lives: bool) -> Option<Timestamp> {
        let acts = match &self.act {
            Act::Dead => return None,
            Act::Flashing { ends, .. } => return Some(*ends),
            Act::Downloading { ends, .. } | Act::Applying { ends, .. } => Some(*ends),
            Act::Idle if self.link.is_none() => a_bridge_lives.then_some(self.calls_at),
            Act::Idle => None,
        };
        let falls = self.falls_back.as_ref().map(|(at, _)| *at);
        [acts, self.drops_at.front().copied(), falls].into_iter().flatten().min()
    }
}

pub(super) fn seconds(seconds: usize) -> SignedDuration {
    SignedDuration::from_secs(seconds as i64)
}

impl World {
    /// Lets devices and bridges act until then, each thing at its time.
    pub fn live_until(&mut self, until: Timestamp) -> Result<(), String> {
        while let Some(at) = self.next_act().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.act()?;
        }
        self.now = self.now.max(until);
        self.act()
    }

    /// When somebody does something next.
    pub fn next_act(&self) -> Option<Timestamp> {
        let lives = self.lives.iter().any(|lives| *lives);
        let devices = self.real.iter().filter_map(|real| real.next(lives));
        let ends = (0..self.real.len()).filter_map(|number| self.ends_at(number));
        let orphans = (0..self.real.len()).filter_map(|number| self.given_up_at(number));
        let late = self.late.iter().map(|(at, _)| *at);
        devices.chain(ends).chain(orphans).chain(late).min()
    }

    pub(super) fn act(&mut self) -> Result<(), String> {
        self.carry_out_late_writes();
        for number in 0..self.real.len() {
            self.end_act(number)?;
            self.misbehave(number);
            self.call(number);
            self.give_up(number);
            self.end_by_time(number);
            self.write_off(number);
            self.judge(number)?;
        }
        Ok(())
    }

    /// A download, a flash, the putting into force of a configuration comes to its end.
    pub(super) fn end_act(&mut self, number: usize) -> Result<(), String> {
        let now = self.now;
        let real = &mut self.real[number];
        match real.act.clone() {
            Act::Flashing { ends, temper, to } if ends <= now => {
                real.act = Act::Idle;
                real.calls_at = now + seconds(2);
                let before = real.version.clone();
                match temper {
                    Some(Temper::Bricks) => real.act = Act::Dead,
                    Some(Temper::ComesBackUnchanged) => {}
                    Some(Temper::ComesBackStrange) => real.version = STRANGE.to_owned(),
                    Some(Temper::FallsBack(after)) => real.falls_back = Some((now + minutes(after), before)),
                    Some(Temper::Loops(times)) => {
                        real.drops_at = (1..=i64::from(times)).map(|time| now + minutes(time)).collect();
                    }
                    _ => {}
                }
                if !matches!(temper, Some(Temper::Bricks | Temper::ComesBackUnchanged | Temper::ComesBackStrange)) {
                    real.version = to;
                }
                let note = format!("{} ends its flash: {:?}", self.names[number], self.real[number].act);
                self.note(note);
            }
            Act::Downloading { id, ends, temper } if ends <= now => {
                real.act = Act::Idle;
                self.has_downloaded(number, id, temper)?;
            }
            Act::Applying { id, ends, fails } if ends <= now => {
                real.act = Act::Idle;
                let target = self.device(number).open_target().map(|open| open.target.clone());
                if let Some(target) = target.filter(|target| target.id == id) {
                    if fails {
                        self.finish(number, Verdict::ApplyFailed);
                    } else {
                        let identity = target.config.as_ref().map(|config| Text::from(config.identity.as_str()));
                        self.real[number].config = identity.clone();
                        self.real[number].told_config = identity.clone();
                        self.facts(number, |facts| facts.applied = identity.map(|config| Applied { config, at: now }));
                        self.finish(number, Verdict::Upgraded);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What it does without having been told.
    pub(super) fn misbehave(&mut self, number: usize) {
        let now = self.now;
        let real = &mut self.real[number];
        if real.act != Act::Idle || real.link.is_none() {
            // It is not there to be seen doing so.
            while real.drops_at.front().is_some_and(|at| *at <= now) {
                real.drops_at.pop_front();
            }
        } else if real.drops_at.front().is_some_and(|at| *at <= now) {
            real.drops_at.pop_front();
            self.lose(number, SignedDuration::from_secs(20));
        }
        let real = &mut self.real[number];
        if let Some((_, to)) = real.falls_back.take_if(|(at, _)| *at <= now) {
            real.version = to;
            self.lose(number, SignedDuration::from_secs(30));
        }
    }

    /// It loses its connection by itself, and calls again after so long.
    pub fn lose(&mut self, number: usize, away: SignedDuration) {
        let now = self.now;
        let real = &mut self.real[number];
        match real.act {
            Act::Dead | Act::Flashing { .. } => return,
            Act::Downloading { .. } | Act::Applying { .. } | Act::Idle => real.act = Act::Idle,
        }
        real.calls_at = now + away;
        let was_linked = real.link.take().is_some();
        let begun = self.device(number).open_target().is_some_and(|open| open.has_begun);
        let note = format!("{} is lost for {away:#}", self.names[number]);
        self.note(note);
        if was_linked && !begun {
            self.real[number].lost = Some(now);
            self.facts(number, |facts| {
                (facts.session, facts.last_seen) = (None, Some(now));
                if let Some(upgrade) = facts.upgrade.as_ref().filter(|upgrade| upgrade.phase == Phase::Done) {
                    let drops = facts.drops.filter(|drops| drops.target == upgrade.target);
                    let count = drops.map_or(0, |drops| drops.count);
                    facts.drops = Some(Drops { target: upgrade.target, count: count + 1 });
                }
            });
        }
    }

    pub(super) fn call(&mut self, number: usize) {
        let now = self.now;
        let real = &self.real[number];
        if real.link.is_some() || real.act != Act::Idle || real.calls_at > now {
            return;
        }
        let Some(bridge) = [number % 2, (number + 1) % 2].into_iter().find(|bridge| self.lives[*bridge]) else {
            return;
        };
        let incarnation = self.snapshot.bridges[BRIDGES[bridge]].incarnation.clone().unwrap();
        let begun = self.device(number).open_target().is_some_and(|open| open.has_begun);
        let real = &mut self.real[number];
        (real.link, real.lost, real.down_by) = (Some(bridge), None, None);
        (real.dismissed, real.sent_away_until) = (false, None);
        let note = format!("{} calls {}", self.names[number], BRIDGES[bridge]);
        self.note(note);
        self.facts(number, |facts| {
            let ours = facts.session.as_ref().filter(|session| {
                *session.bridge == *BRIDGES[bridge] && session.incarnation == incarnation && !session.dismissed
            });
            let since = ours.map_or(now, |session| session.since);
            facts.session = Some(Session { bridge: BRIDGES[bridge].into(), incarnation, since, dismissed: false });
            facts.last_seen = None;
        });
        // While a try runs, what it says is written with the result.
        if !begun {
            self.report(number);
        }
    }

    /// Somebody installs something by hand.
    pub fn reflash(&mut self, number: usize, release: usize) {
        if self.real[number].act == Act::Idle {
            self.real[number].version = REPORTS[release].to_owned();
            self.lose(number, SignedDuration::from_secs(40));
        }
    }
}
