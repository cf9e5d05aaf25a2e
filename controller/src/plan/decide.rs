//! What follows for each device: targets that are taken back, judged, and granted; and why the rest waits.

use fettle_crds::{SessionPolicy, Stage, TryResult};

use super::course::Course;
use super::goal::Goal;
use super::grants::{self, Backing, Fate, Try};
use super::membership::{Membership, Standing as MacStanding};
use super::model::{Ahead, Decisions, End, Granted, Progress, Snapshot, Target};
use super::output::Change;
use super::pass::{Pass, WRITES_PER_PASS};
use super::progress::{Standing, Way};
use super::reason::{Failure, Reason};
use super::revision::Wanted;
use super::schedule;
use super::scope::Scope;
use super::seen::{Move, Seen};
use super::spread::Full;
use super::steps::{self, Rest};
use super::transfer::{self, Choice};

/// So many devices of a group fetch ahead at once: there is time, and a site's uplink is for others, too.
const DOWNLOADS: usize = 32;

/// A device that may be granted a try.
#[derive(Clone, Copy)]
struct Candidate {
    scope: usize,
    attempt: u32,
    kind: Kind,
    /// All the way, or only to fetch it.
    stage: Stage,
}

/// What a try is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forward,
    Back,
    /// The device is current already, and is granted that only to be sent away.
    Farewell,
}

impl<'a> Pass<'a> {
    /// Open targets first, then who is granted: in the order of names, until the room is used up.
    pub(super) fn decide(&mut self) {
        let mut room: Vec<usize> = self.scopes.iter().map(room).collect();
        for index in 0..self.seen.len() {
            self.judge_open_target(index);
            self.judge_download(index);
            self.take_in_wish(index);
            let reason = match self.reason(index) {
                Ok(reason) => reason,
                Err(candidate) => {
                    let is_farewell = candidate.kind == Kind::Farewell;
                    let reason = self.grant(index, candidate, &mut room);
                    // Who is current anyway need not wait for it.
                    Some(reason).filter(|reason| !is_farewell || *reason == Reason::Updating)
                }
            };
            self.mark_done(index, reason);
            let seen = &self.seen[index];
            for scope in seen.membership.all() {
                let Scope { rollout, tally, .. } = &mut self.scopes[*scope];
                tally.device(seen, reason, *rollout);
            }
            if let (Membership::Overlap(groups), Some(_)) = (&seen.membership, reason) {
                for scope in groups {
                    let others = groups.iter().filter(|other| *other != scope).map(|other| self.scopes[*other].group);
                    let others = others.map(|group| group.name.clone()).collect();
                    self.scopes[*scope].tally.overlap(&seen.device.name, others);
                }
            }
            if let (Some(Reason::VersionsNotComparable), Some(scope)) = (reason, seen.membership.only()) {
                let versions = self.scopes[scope].not_comparable(self.snapshot, seen.device);
                self.scopes[scope].tally.not_comparable(&seen.device.name, versions);
            }
            match reason {
                None if matches!(seen.membership, Membership::None) => {}
                None => self.plan.current += 1,
                Some(reason) => self.plan.waits.push((index as u32, reason)),
            }
        }
    }

    fn judge_open_target(&mut self, index: usize) {
        let seen = &self.seen[index];
        let Some(open) = seen.open.filter(|_| !seen.is_in_doubt) else { return };
        let backing = self.backing(index, open.target);
        let seen = &self.seen[index];
        let settings = &self.snapshot.settings;
        let fate = Fate::of(seen.device, open, backing, seen.presence, settings, self.now);
        let write = match fate {
            Fate::Stays { look_again } => return self.wake.at(look_again),
            Fate::Withdrawn => {
                (Change::Withdrawn, grants::withdrawn(seen.device, open.target, self.way_of(open.target)))
            }
            Fate::TimedOut => {
                let outcome = Some(grants::timed_out(open.target));
                (Change::Judged, Decisions { outcome, ..seen.device.decisions.clone() })
            }
        };
        if self.may_write() {
            self.seen[index].write = Some(Box::new(write));
        }
    }

    /// The way that the rollout of a target goes, also where that is not what its group wants now.
    fn way_of(&self, target: &Target) -> Way {
        let rollout = self.snapshot.rollouts.get(&target.rollout);
        let rollout = rollout.filter(|rollout| rollout.uid == target.rollout_uid);
        let is_back = rollout.is_some_and(|rollout| rollout.status.rollback.is_some());
        if is_back { Way::Back } else { Way::Forward }
    }

    /// Whether what let a device begin still holds.
    fn backing(&mut self, index: usize, target: &Target) -> Backing {
        let seen = &self.seen[index];
        let backed = seen.is_served
            && !seen.has_wrong_model()
            && is_as_declared(seen, target, self.snapshot)
            && seen.membership.only().is_some_and(|scope| self.scopes[scope].backs(seen, target, self.now));
        if backed { Backing::Stands } else { Backing::Gone }
    }

    /// A device that may fetch ahead, and must not any more, or cannot.
    fn judge_download(&mut self, index: usize) {
        let seen = &self.seen[index];
        let Some(Ahead { target, .. }) = seen.ahead.filter(|_| !seen.is_in_doubt) else { return };
        let backing = self.backing(index, target);
        let seen = &self.seen[index];
        let withdrawn = grants::withdrawn(seen.device, target, self.way_of(target));
        // Nobody else has the place of one that cannot go on.
        let is_stuck = seen.obstacle.is_some_and(Reason::is_left_behind);
        let stays = !is_stuck && grants::may_stay_ahead(seen.device, target, backing, seen.presence);
        if !stays && self.may_write() {
            self.seen[index].write = Some(Box::new((Change::Withdrawn, withdrawn)));
        }
    }

    /// A person wants a device to be tried again: that acts once, when it is seen.
    fn take_in_wish(&mut self, index: usize) {
        let seen = &self.seen[index];
        if !seen.is_wished || seen.write.is_some() || seen.is_in_doubt || !self.may_write() {
            return;
        }
        let seen = &self.seen[index];
        let mut decisions = seen.device.decisions.clone();
        decisions.retried_at = seen.device.retry_at.clone();
        let failed = decisions.target.as_ref().filter(|_| matches!(seen.standing, Standing::Failed(_)));
        let rollout = seen.membership.only().and_then(|scope| self.scopes[scope].rollout);
        if let (Some(failed), Some(rollout)) = (failed.map(|target| target.id), rollout) {
            grants::forgive(&mut decisions, rollout, steps::written(rollout), failed);
        }
        self.seen[index].write = Some(Box::new((Change::Retried, decisions)));
    }

    /// Why a device is not current (`None`: it is, or belongs to no group), or that it may be granted.
    fn reason(&mut self, index: usize) -> Result<Option<Reason>, Candidate> {
        let seen = &self.seen[index];
        let change = seen.write.as_deref().map(|(change, _)| *change);
        if seen.is_in_doubt || (seen.open.is_some() && change != Some(Change::Withdrawn)) {
            return Ok(Some(Reason::Updating));
        }
        match seen.mac {
            MacStanding::Accepted => {}
            MacStanding::NotApproved | MacStanding::Yields => return Ok(Some(Reason::NotApproved)),
            MacStanding::DuplicateMac => return Ok(Some(Reason::DuplicateMac)),
        }
        let scope = match &seen.membership {
            Membership::None => return Ok(None),
            Membership::Overlap(_) => return Ok(Some(Reason::Overlap)),
            Membership::One(scope) => *scope,
        };
        match (self.scopes[scope].way, seen.granted_in) {
            (Way::Back, Some(_)) => self.reason_on_the_way_back(index, scope),
            (Way::Back, None) if seen.standing != Standing::Current => Ok(Some(Reason::Refused)),
            (Way::Forward | Way::Back, _) => self.reason_on_the_way(index, scope),
        }
    }

    fn reason_on_the_way(&mut self, index: usize, scope: usize) -> Result<Option<Reason>, Candidate> {
        let seen = &self.seen[index];
        let attempt = match seen.standing {
            Standing::Current => return self.farewell(index, scope).map_or(Ok(None), Err),
            Standing::Settling { .. } if seen.presence.is_offline() => return Ok(Some(Reason::Offline)),
            Standing::Settling { .. } => return Ok(Some(Reason::Settling)),
            // The rollout has nothing to do with it any more.
            Standing::Failed(Failure::Unstable) if seen.leaves_its_step() => 1,
            Standing::Failed(failure) if !seen.device.held => return Ok(Some(Reason::Failed(failure))),
            Standing::BetweenTries { attempt, .. } => attempt + 1,
            Standing::Forgiven { .. } => 1,
            Standing::Failed(_) | Standing::Untried => interrupted_try(seen, &self.scopes[scope]).unwrap_or(1),
        };
        if let Some(obstacle) = seen.obstacle {
            return Ok(Some(obstacle));
        }
        let course = self.scopes[scope].course;
        let may_be_retried = course == Course::Stopped && seen.is_retried;
        let held = course.holds().filter(|_| !may_be_retried);
        if held.is_some() {
            return Ok(held);
        }
        if may_be_retried && self.scopes[scope].is_paused() {
            return Ok(Some(Reason::Paused));
        }
        // A person is told of this by day, and not when the window opens.
        if let Some(reason) = self.scopes[scope].waits_for_person().filter(|_| seen.granted_in.is_none()) {
            return Ok(Some(reason));
        }
        let opening = match self.scopes[scope].opening(self.snapshot, seen.device, self.now) {
            Ok(opening) => {
                self.wake.at(self.scopes[scope].passes_at);
                opening
            }
            Err(reason) => {
                let waits_until = self.scopes[scope].waits_until;
                self.wake.at(waits_until.map(|at| at - schedule::AHEAD));
                return Ok(Some(reason));
            }
        };
        let Scope { rollout, stage, places, reserved, .. } = &self.scopes[scope];
        let (Some(rollout), Some(stage)) = (rollout, stage) else { return Ok(Some(Reason::RolloutStarting)) };
        if let Standing::BetweenTries { at, .. } = seen.standing
            && at > self.now
        {
            return Ok(Some(Reason::BackingOff));
        }
        let step = steps::listed(&rollout.spec, stage.number);
        // The places of those that fetched ahead are not for others.
        let has_place = if seen.ahead.is_some() { *places > 0 } else { *places > *reserved };
        if seen.granted_in.is_none() && (!has_place || !steps::is_about(step, seen.device)) {
            return Ok(Some(match stage.rests_for {
                _ if opening == Stage::Download => Reason::WaitingForWindow,
                Some(Rest::Soak { .. }) => Reason::Soaking,
                Some(Rest::Approval | Rest::Empty) | None => Reason::WaitingForStep,
            }));
        }
        Err(Candidate { scope, attempt, kind: Kind::Forward, stage: opening })
    }

    fn reason_on_the_way_back(&mut self, index: usize, scope: usize) -> Result<Option<Reason>, Candidate> {
        let seen = &self.seen[index];
        // Nothing was noted of what it ran: it was never let go all the way.
        let Some(way_back) = self.scopes[scope].way_back(seen.device) else { return Ok(Some(Reason::Refused)) };
        let attempt = match seen.standing {
            // It vanished in its try: what it said before that is no proof that it still runs it.
            Standing::Current if !seen.presence.is_connected() && failed_for(seen).is_some() => {
                return Ok(failed_for(seen).map(Reason::Failed));
            }
            Standing::Current if way_back.config_is_lost && runs_config_of(seen, &self.scopes[scope]) => {
                return Ok(Some(Reason::NoWayBack));
            }
            Standing::Current => return Ok(Some(Reason::RolledBack)),
            Standing::Failed(failure) if !seen.device.held => return Ok(Some(Reason::Failed(failure))),
            Standing::BetweenTries { attempt, .. } => attempt + 1,
            Standing::Forgiven { .. } => 1,
            Standing::Failed(_) | Standing::Untried | Standing::Settling { .. } => 1,
        };
        let held = seen.obstacle.or_else(|| self.scopes[scope].course.holds());
        if held.is_some() {
            return Ok(held);
        }
        match seen.standing {
            Standing::BetweenTries { at, .. } if at > self.now => Ok(Some(Reason::BackingOff)),
            _ => Err(Candidate { scope, attempt, kind: Kind::Back, stage: Stage::Activate }),
        }
    }

    /// A device that was current before it ever had a target needs one to be sent away with: `done` stands in there.
    fn farewell(&mut self, index: usize, scope: usize) -> Option<Candidate> {
        let seen = &self.seen[index];
        let Scope { group, course, clock, .. } = &self.scopes[scope];
        let closes = group.session == SessionPolicy::Close && !seen.device.held;
        // A target for a revision that is on its way back would be taken back, and given, again and again.
        let may_begin = *course == Course::Forward && clock.holds().is_none();
        if !closes || !may_begin || !seen.presence.is_connected() || seen.device.decisions.target.is_some() {
            return None;
        }
        self.scopes[scope].stone(self.snapshot, seen.device).ok()?;
        Some(Candidate { scope, attempt: 1, kind: Kind::Farewell, stage: Stage::Activate })
    }

    /// What a candidate is told, where it is let go. That is made for few: most wait.
    fn to(&mut self, index: usize, candidate: Candidate) -> Result<Move, Reason> {
        let (device, scope) = (self.seen[index].device, &mut self.scopes[candidate.scope]);
        match candidate.kind {
            Kind::Forward => scope.wording(self.snapshot, device, self.now),
            Kind::Farewell => scope.next_move(self.snapshot, device),
            Kind::Back => {
                let Goal { firmware, config } = scope.way_back(device).ok_or(Reason::NoWayBack)?.goal.clone();
                Ok(Move { firmware, config })
            }
        }
    }

    /// Lets a device fetch what it is to run, and stay in service. Limits, steps and budgets are for when it goes on.
    fn fetch_ahead(&mut self, index: usize, candidate: Candidate) -> Reason {
        let to = match self.to(index, candidate) {
            Ok(to) => to,
            Err(reason) => return reason,
        };
        let Candidate { scope: at, attempt, stage, .. } = candidate;
        let seen = &self.seen[index];
        let (scope, device) = (&mut self.scopes[at], seen.device);
        // What is on the way there may have become another release meanwhile.
        if let Some(ahead) = seen.kept_ahead().filter(|ahead| to.is_that_of(ahead.target)) {
            return if ahead.is_fetched { Reason::Downloaded } else { Reason::Downloading };
        }
        let Some(rollout) = scope.rollout else { return Reason::RolloutStarting };
        if scope.downloading >= DOWNLOADS {
            return Reason::WaitingForWindow;
        }
        if self.writes >= WRITES_PER_PASS {
            self.wake.at_once();
            return Reason::NextPass;
        }
        let start_by = scope.start_by(self.now);
        let granted = Try { to, attempt, stage, start_by, spread: self.domains.values(device) };
        let Choice { way, failed: failed_ways } = transfer::choose(device, scope.group);
        let Some(target) = grants::target(device, scope.group, rollout, granted, way, self.now) else {
            return Reason::NeverConnected;
        };
        scope.tally.started(self.now);
        scope.downloading += 1;
        let is_new = seen.granted_in.is_none() && seen.ahead.is_none();
        // The target that is replaced may be all that tells what the device runs, and whether it was tried.
        let mut decisions = device.decisions.clone();
        decisions.granted = grants::granted_by(device, rollout).or(decisions.granted);
        if let Standing::Forgiven { failed } = seen.standing {
            // Whatever comes of this, it counts as failed until it is current: that must not go with the former target.
            let step = scope.stage.as_ref().map_or(1, |stage| stage.number);
            grants::forgive(&mut decisions, rollout, step, failed);
            scope.places = scope.places.saturating_sub(usize::from(is_new));
        } else {
            scope.reserved += usize::from(is_new);
        }
        let previous = Some(self.previous(index, rollout));
        let decisions = Decisions {
            last_target: target.id,
            outcome: None,
            target: Some(target),
            failed_ways,
            previous,
            ..decisions
        };
        self.writes += 1;
        self.seen[index].write = Some(Box::new((Change::Granted, decisions)));
        Reason::Downloading
    }

    /// Grants a try, if there is room; else says what it waits for.
    fn grant(&mut self, index: usize, candidate: Candidate, room: &mut [usize]) -> Reason {
        if candidate.stage == Stage::Download {
            return self.fetch_ahead(index, candidate);
        }
        let Candidate { scope: at, attempt, kind, stage } = candidate;
        let seen = &self.seen[index];
        let (device, granted_in) = (seen.device, seen.granted_in);
        let scope = &mut self.scopes[at];
        let limit = scope.group.strategy.max_unavailable;
        // What is withdrawn in this pass keeps its place until that is written: it may only be taken by the same device.
        let replaces = seen.open.is_some();
        let within = scope.usage.unavailable() <= limit.of_rounded_down(scope.usage.total);
        let fits = if replaces { within || kind == Kind::Back } else { room[at] > 0 };
        if !fits {
            return match attempt {
                _ if kind != Kind::Back && scope.usage.is_blocked(limit) => Reason::BlockedByUnavailable,
                1 => Reason::WaitingForSlot,
                _ => Reason::Retrying,
            };
        }
        match self.domains.place(index, replaces) {
            Ok(()) => {}
            Err(Full::Updating) => return Reason::WaitingForSpread,
            Err(Full::Away) => {
                scope.tally.blocked(self.domains.full_domain(index, device));
                return Reason::BlockedBySpread;
            }
        }
        let Some(rollout) = scope.rollout else { return Reason::RolloutStarting };
        if !replaces && self.writes >= WRITES_PER_PASS {
            self.wake.at_once();
            return Reason::NextPass;
        }
        let to = match self.to(index, candidate) {
            Ok(to) => to,
            Err(reason) => return reason,
        };
        let previous = self.previous(index, rollout);
        let (seen, scope) = (&self.seen[index], &mut self.scopes[at]);
        let start_by = match kind {
            Kind::Back => None,
            Kind::Forward | Kind::Farewell => scope.start_by(self.now),
        };
        // What it has fetched for this goes on under its id.
        let fetched = seen.kept_ahead().filter(|ahead| to.is_that_of(ahead.target));
        let granted = Try { to, attempt, stage, start_by, spread: self.domains.values(device) };
        let Choice { way, failed: failed_ways } = transfer::choose(device, scope.group);
        let Some(target) = grants::target(device, scope.group, rollout, granted, way, self.now) else {
            return Reason::NeverConnected;
        };
        let target = Target { id: fetched.map_or(target.id, |ahead| ahead.target.id), ..target };
        let mut decisions = device.decisions.clone();
        scope.tally.started(self.now);
        if kind != Kind::Farewell {
            let step = scope.stage.as_ref().map_or(1, |stage| stage.number);
            let ours = grants::granted_by(device, rollout);
            let mut granted = Granted { tries: 0, ..ours.unwrap_or_else(|| grants::taken_on(rollout, step)) };
            if let Standing::Forgiven { failed } = self.seen[index].standing {
                granted.forgiven = granted.forgiven.max(Some(failed));
            }
            decisions.granted = Some(granted);
            if granted_in.is_none() {
                scope.places = scope.places.saturating_sub(1);
                scope.reserved = scope.reserved.saturating_sub(usize::from(self.seen[index].ahead.is_some()));
                self.seen[index].granted_in = Some(step);
            }
        }
        decisions.previous = Some(previous);
        decisions.last_target = target.id;
        decisions.outcome = None;
        decisions.failed_ways = failed_ways;
        decisions.target = Some(Target { done: kind == Kind::Farewell, ..target });
        if !replaces {
            room[at] -= 1;
            self.writes += 1;
            self.domains.take(index);
        }
        self.seen[index].write = Some(Box::new((Change::Granted, decisions)));
        Reason::Updating
    }

    /// A connection may be closed when its device is current and its group wants that.
    fn mark_done(&mut self, index: usize, reason: Option<Reason>) {
        let seen = &self.seen[index];
        if seen.open.is_some() || seen.ahead.is_some() || seen.write.is_some() || seen.is_in_doubt {
            return;
        }
        let Some(before) = seen.done else { return };
        let scope = seen.membership.only().map(|scope| &self.scopes[scope]);
        if scope.is_some_and(|scope| matches!(scope.wanted, Wanted::Invalid(_))) {
            return;
        }
        let done = reason.is_none() && scope.is_some_and(|scope| scope.group.session == SessionPolicy::Close);
        // It is only said to a device that is there; taken back at once, or the device would be sent away again.
        if before != done && (!done || seen.presence.is_connected()) && self.may_write() {
            let mut decisions = self.seen[index].device.decisions.clone();
            if let Some(target) = &mut decisions.target {
                target.done = done;
            }
            self.seen[index].write = Some(Box::new((Change::Done, decisions)));
        }
    }
}

/// How many more devices of a group may go down.
fn room(scope: &Scope<'_>) -> usize {
    let limit = scope.group.strategy.max_unavailable;
    match scope.way {
        Way::Forward => scope.usage.room(limit),
        Way::Back => scope.usage.room_on_the_way_back(limit),
    }
}

/// The try that a target of the same rollout, taken back in this pass, was for: it was not used up.
fn interrupted_try(seen: &Seen<'_>, scope: &Scope<'_>) -> Option<u32> {
    let target = seen.open.map(|open| open.target).or(seen.ahead.map(|ahead| ahead.target))?;
    (target.rollout_uid == scope.rollout?.uid).then_some(target.attempt)
}

/// Whether the configuration of a target is still what its template makes of the device.
fn is_as_declared(seen: &Seen<'_>, target: &Target, snapshot: &Snapshot) -> bool {
    let Some(config) = &target.config else { return true };
    let template = snapshot.templates.get(config.content.as_str());
    template.is_none_or(|template| {
        seen.device.rendered(template).is_ok_and(|rendered| rendered.identity == config.identity)
    })
}

/// How the last try of a device failed, if it did.
fn failed_for(seen: &Seen<'_>) -> Option<Failure> {
    match seen.device.attempt()? {
        (_, Progress::Ended(End { result: TryResult::Failed, reason, .. })) => Some(Failure::Try(reason)),
        _ => None,
    }
}

/// Whether a device runs the configuration that the rollout brought.
fn runs_config_of(seen: &Seen<'_>, scope: &Scope<'_>) -> bool {
    let config = scope.rollout.and_then(|rollout| rollout.spec.config.as_ref());
    let (Some(config), Some(running)) = (config, seen.device.running_config()) else { return false };
    let target = seen.device.decisions.target.as_ref().and_then(|target| target.config.as_ref());
    let is_rendered = target.is_some_and(|target| target.content == config.content && target.identity == **running);
    is_rendered || **running == *config.identity
}
