//! One pass over the namespace: facts first, then limits, then what follows for each device.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fettle_crds::SessionPolicy;
use jiff::Timestamp;

use super::availability::Presence;
use super::grants::{self, Backing, Fate};
use super::limits;
use super::membership::{Macs, Membership, Selectors, Standing as MacStanding};
use super::model::{Decisions, Device, Group, Snapshot, Target, Text};
use super::output::{Change, DeviceWrite, Plan};
use super::progress::Standing;
use super::reason::Reason;
use super::revision::{self, Content, Known, Rollouts, Wanted};
use super::scope::{Candidate, Scope, Seen};
use super::status::{self, GroupView};

/// A pass writes to no more devices than this, so that no decision is old when it is carried out; the rest follows in the
/// next pass at once. At the 1,000 writes a second that an API server takes from one client this is a quarter second.
pub const WRITES_PER_PASS: usize = 256;

/// Plans a namespace.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let groups: Vec<&Group> = snapshot.groups.values().collect();
    let wanted: Vec<Wanted<'_>> = groups.iter().map(|group| Wanted::of(group, snapshot)).collect();
    let rollouts = Rollouts::of_all(snapshot, &groups);
    let mut pass = Pass::new(snapshot, now, &groups, &wanted, &rollouts);
    pass.take_stock();
    pass.decide();
    pass.accept();
    pass.keep_house();
    pass.report();
    pass.finish()
}

struct Pass<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    scopes: Vec<Scope<'a>>,
    seen: Vec<Seen<'a>>,
    wanted: &'a [Wanted<'a>],
    known: Option<Known<'a>>,
    /// Content that grants of this pass name, and that is not kept yet.
    contents: BTreeMap<Text, Content>,
    writes: usize,
    wake: Wake,
    plan: Plan,
}

/// The earliest instant at which time alone changes the plan.
struct Wake {
    now: Timestamp,
    at: Option<Timestamp>,
}

impl Wake {
    fn at(&mut self, at: impl IntoIterator<Item = Timestamp>) {
        for at in at {
            if at > self.now && self.at.is_none_or(|earliest| at < earliest) {
                self.at = Some(at);
            }
        }
    }

    fn at_once(&mut self) {
        self.at = Some(self.now);
    }
}

impl<'a> Pass<'a> {
    fn new(
        snapshot: &'a Snapshot,
        now: Timestamp,
        groups: &'a [&'a Group],
        wanted: &'a [Wanted<'a>],
        rollouts: &'a [Rollouts<'a>],
    ) -> Self {
        let scopes = groups.iter().zip(wanted).zip(rollouts);
        let scopes = scopes.map(|((group, wanted), rollouts)| Scope::new(group, wanted, rollouts));
        let scopes = scopes.collect();
        let mut pass = Self {
            snapshot,
            now,
            scopes,
            seen: Vec::with_capacity(snapshot.devices.len()),
            wanted,
            known: None,
            contents: BTreeMap::new(),
            writes: 0,
            wake: Wake { now, at: None },
            plan: Plan::default(),
        };
        let (selectors, macs) = (Selectors::new(groups), Macs::new(snapshot));
        for device in snapshot.devices.values() {
            let seen = pass.look_at(device, selectors.of(device), macs.standing(device));
            pass.seen.push(seen);
        }
        pass
    }

    fn look_at(&mut self, device: &'a Device, membership: Membership, mac: MacStanding) -> Seen<'a> {
        let presence = Presence::of(device, self.snapshot, self.now);
        self.wake.at(presence.changes_at());
        let standing = match membership.only() {
            None => Standing::Untried,
            Some(index) => {
                let scope = &mut self.scopes[index];
                let goal = scope.goal(device).and_then(Result::ok);
                Standing::of(device, goal.as_ref(), scope.rollout, &scope.group.strategy, presence, self.now)
            }
        };
        if let Standing::Settling { until } = standing {
            self.wake.at([until]);
        }
        let doubt = self.snapshot.in_doubt.get(&device.name).copied().filter(|until| *until > self.now);
        self.wake.at(doubt);
        let (open, is_in_doubt) = (device.open_target(), doubt.is_some());
        Seen { device, membership, mac, presence, standing, open, is_in_doubt, write: None }
    }

    /// Counts who is away and who has failed, before anything is decided.
    fn take_stock(&mut self) {
        let by_uid: HashMap<&str, usize> = self
            .scopes
            .iter()
            .enumerate()
            .flat_map(|(index, scope)| scope.rollouts.all().map(move |rollout| (&*rollout.uid, index)))
            .collect();
        for seen in &self.seen {
            // A device counts where it is now, and where it was when it was granted.
            let granted = seen.open.and_then(|(target, _)| by_uid.get(&*target.rollout_uid).copied());
            let elsewhere = granted.filter(|index| !seen.membership.all().contains(index));
            if let Some(index) = elsewhere {
                self.scopes[index].usage.updating += 1;
            }
            for index in seen.membership.all() {
                let scope = &mut self.scopes[*index];
                let usage = &mut scope.usage;
                usage.total += usize::from(!seen.device.held);
                if seen.open.is_some() || seen.is_in_doubt {
                    usage.updating += 1;
                } else if !seen.device.held && seen.is_away() {
                    usage.away += 1;
                    scope.tally.away(&seen.device.name);
                }
                scope.failed += usize::from(seen.has_failed());
            }
        }
    }

    /// Open targets first, then who is granted: in the order of names, until the room is used up.
    fn decide(&mut self) {
        let mut room: Vec<usize> =
            self.scopes.iter().map(|scope| scope.usage.room(scope.group.strategy.max_unavailable)).collect();
        for index in 0..self.seen.len() {
            self.judge_open_target(index);
            let reason = match self.reason(index) {
                Ok(reason) => reason,
                Err(candidate) => {
                    let reason = self.grant(index, &candidate, &mut room);
                    // Who is current anyway need not wait for it.
                    Some(reason).filter(|reason| !candidate.is_farewell || *reason == Reason::Updating)
                }
            };
            self.mark_done(index, reason);
            let seen = &self.seen[index];
            for scope in seen.membership.all() {
                let Scope { rollout, tally, .. } = &mut self.scopes[*scope];
                tally.device(seen.device, reason, *rollout);
            }
            if let (Membership::Overlap(groups), Some(_)) = (&seen.membership, reason) {
                for scope in groups {
                    let others = groups.iter().filter(|other| *other != scope).map(|other| self.scopes[*other].group);
                    let others: Vec<Text> = others.map(|group| group.name.clone()).collect();
                    self.scopes[*scope].tally.overlap(&seen.device.name, others);
                }
            }
            match reason {
                None if matches!(seen.membership, Membership::None) => {}
                None => self.plan.current += 1,
                Some(reason) => self.plan.waits.push((seen.device.name.clone(), reason)),
            }
        }
    }

    fn judge_open_target(&mut self, index: usize) {
        let seen = &self.seen[index];
        let Some((target, progress)) = seen.open.filter(|_| !seen.is_in_doubt) else { return };
        let backed = seen.mac == MacStanding::Accepted
            && !seen.device.held
            && !seen.has_wrong_model()
            && seen.membership.only().is_some_and(|scope| self.scopes[scope].backs(target));
        let backing = if backed { Backing::Stands } else { Backing::Gone };
        let settings = &self.snapshot.settings;
        let fate = Fate::of(seen.device, target, progress, backing, seen.presence, settings, self.now);
        let before = &seen.device.decisions;
        let write = match fate {
            Fate::Stays { look_again } => return self.wake.at(look_again),
            Fate::Withdrawn => (Change::Withdrawn, Decisions { target: None, ..before.clone() }),
            Fate::TimedOut => {
                (Change::Judged, Decisions { outcome: Some(grants::timed_out(target)), ..before.clone() })
            }
        };
        if self.may_write() {
            self.seen[index].write = Some(Box::new(write));
        }
    }

    /// Why a device is not current (`None`: it is, or belongs to no group), or that it may be granted.
    fn reason(&self, index: usize) -> Result<Option<Reason>, Candidate<'a>> {
        let seen = &self.seen[index];
        if seen.is_in_doubt {
            return Ok(Some(Reason::Updating));
        }
        if seen.open.is_some() && !matches!(seen.write.as_deref(), Some((Change::Withdrawn, _))) {
            return Ok(Some(Reason::Updating));
        }
        match seen.mac {
            MacStanding::Accepted => {}
            MacStanding::NotApproved | MacStanding::Yields => return Ok(Some(Reason::NotApproved)),
            MacStanding::DuplicateMac(_) => return Ok(Some(Reason::DuplicateMac)),
        }
        let scope = match &seen.membership {
            Membership::None => return Ok(None),
            Membership::Overlap(_) => return Ok(Some(Reason::Overlap)),
            Membership::One(scope) => *scope,
        };
        let attempt = match seen.standing {
            Standing::Current => return self.farewell(seen, scope).map_or(Ok(None), Err),
            Standing::Settling { .. } if seen.presence.is_offline() => return Ok(Some(Reason::Offline)),
            Standing::Settling { .. } => return Ok(Some(Reason::Settling)),
            Standing::Failed(failure) if !seen.device.held => return Ok(Some(Reason::Failed(failure))),
            Standing::BetweenTries { attempt } => attempt + 1,
            Standing::Failed(_) | Standing::Untried => self.interrupted_try(seen, scope).unwrap_or(1),
        };
        if seen.device.held {
            return Ok(Some(Reason::Held));
        }
        if seen.has_wrong_model() {
            return Ok(Some(Reason::WrongModel));
        }
        match seen.presence {
            Presence::Connected { .. } => {}
            Presence::Dismissed => return Ok(Some(Reason::Dismissed)),
            Presence::BridgeStarting { .. } => return Ok(Some(Reason::BridgeStarting)),
            Presence::Reconnecting { .. } => return Ok(Some(Reason::Reconnecting)),
            Presence::Offline { .. } => return Ok(Some(Reason::Offline)),
            Presence::Never => return Ok(Some(Reason::NeverConnected)),
        }
        match self.scopes[scope].eligible(seen.device) {
            Ok(goal) => Err(Candidate { scope, goal, attempt, is_farewell: false }),
            Err(reason) => Ok(Some(reason)),
        }
    }

    /// A device that was current before it ever had a target needs one to be sent away with: `done` stands in there.
    fn farewell(&self, seen: &Seen<'a>, index: usize) -> Option<Candidate<'a>> {
        let scope = &self.scopes[index];
        let closes = scope.group.session == SessionPolicy::Close && !seen.device.held;
        if !closes || !seen.presence.is_connected() || seen.device.decisions.target.is_some() {
            return None;
        }
        let goal = scope.eligible(seen.device).ok()?;
        Some(Candidate { scope: index, goal, attempt: 1, is_farewell: true })
    }

    /// The try that a target of the same rollout, taken back in this pass, was for: it was not used up.
    fn interrupted_try(&self, seen: &Seen<'_>, scope: usize) -> Option<u32> {
        let (target, _) = seen.open?;
        let rollout = self.scopes[scope].rollout?;
        (target.rollout_uid == rollout.uid).then_some(target.attempt)
    }

    /// Grants a try, if there is room; else says what it waits for.
    fn grant(&mut self, index: usize, candidate: &Candidate<'a>, room: &mut [usize]) -> Reason {
        let Candidate { scope, goal, attempt, is_farewell } = *candidate;
        let Scope { group, rollout, usage, granter, tally, .. } = &mut self.scopes[scope];
        let limit = group.strategy.max_unavailable;
        let device = self.seen[index].device;
        // What is withdrawn in this pass keeps its place until that is written: it may only be taken by the same device.
        let replaces = self.seen[index].open.is_some();
        let fits = if replaces { usage.unavailable() <= limit.of_rounded_down(usage.total) } else { room[scope] > 0 };
        if !fits {
            return match attempt {
                _ if usage.is_blocked(limit) => Reason::BlockedByUnavailable,
                1 => Reason::WaitingForSlot,
                _ => Reason::Retrying,
            };
        }
        let Some(rollout) = rollout else { return Reason::RolloutStarting };
        if !replaces && self.writes >= WRITES_PER_PASS {
            self.wake.at_once();
            return Reason::NextPass;
        }
        let Some(target) = granter.target(device, &goal, group, rollout, attempt, self.now) else {
            return Reason::NeverConnected;
        };
        let mut decisions = device.decisions.clone();
        if decisions.previous.as_ref().is_none_or(|previous| *previous.rollout_uid != *rollout.uid) {
            let known = self.known.get_or_insert_with(|| Known::new(self.snapshot));
            let (previous, contents) = known.previous(device, rollout);
            decisions.previous = Some(previous.into());
            self.contents.extend(contents.into_iter().map(|content| (content.name().clone(), content)));
        }
        tally.started(self.now);
        decisions.last_target = target.id;
        decisions.outcome = None;
        decisions.target = Some(Target { done: is_farewell, ..target });
        if !replaces {
            room[scope] -= 1;
            self.writes += 1;
        }
        self.seen[index].write = Some(Box::new((Change::Granted, decisions)));
        Reason::Updating
    }

    /// A connection may be closed when its device is current and its group wants that.
    fn mark_done(&mut self, index: usize, reason: Option<Reason>) {
        let seen = &self.seen[index];
        if seen.open.is_some() || seen.write.is_some() || seen.is_in_doubt {
            return;
        }
        let Some(target) = &seen.device.decisions.target else { return };
        let scope = seen.membership.only().map(|scope| &self.scopes[scope]);
        if scope.is_some_and(|scope| matches!(scope.wanted, Wanted::Invalid(_))) {
            return;
        }
        let done = reason.is_none() && scope.is_some_and(|scope| scope.group.session == SessionPolicy::Close);
        // It is only said to a device that is there; taken back at once, or the device would be sent away again.
        if target.done != done && (!done || seen.presence.is_connected()) && self.may_write() {
            let mut decisions = self.seen[index].device.decisions.clone();
            if let Some(target) = &mut decisions.target {
                target.done = done;
            }
            self.seen[index].write = Some(Box::new((Change::Done, decisions)));
        }
    }

    /// Whether one more device may be written to in this pass; counts it.
    fn may_write(&mut self) -> bool {
        if self.writes >= WRITES_PER_PASS {
            self.wake.at_once();
            return false;
        }
        self.writes += 1;
        true
    }

    /// Whether each device is accepted. Goes with what is written of it anyway, else by itself.
    fn accept(&mut self) {
        for index in 0..self.seen.len() {
            let Seen { device, ref mac, ref write, .. } = self.seen[index];
            if *mac == MacStanding::Yields {
                self.plan.deletions.devices.push((device.name.clone(), device.resource_version));
                continue;
            }
            let acceptance = mac.acceptance(device, self.now);
            let is_observed = device.decisions.observed_generation == Some(device.generation);
            let goes_along = write.is_some();
            let is_told = acceptance.is_none() && is_observed;
            if is_told || self.seen[index].is_in_doubt || (!goes_along && !self.may_write()) {
                continue;
            }
            let fresh = || Box::new((Change::Accepted, device.decisions.clone()));
            let (_, decisions) = &mut **self.seen[index].write.get_or_insert_with(fresh);
            decisions.observed_generation = Some(device.generation);
            if acceptance.is_some() {
                decisions.acceptance = acceptance;
            }
        }
    }

    /// What is kept, made, and no longer needed.
    fn keep_house(&mut self) {
        let mut contents = revision::missing(self.wanted, self.snapshot);
        contents.append(&mut self.contents);
        self.plan.contents = contents.into_values().collect();
        for scope in &self.scopes {
            if let (Wanted::Revision(revision), None) = (scope.wanted, scope.rollout) {
                self.plan.rollouts.push(revision.rollout(scope.group, scope.rollouts.last_number() + 1));
            }
        }
        let busy: BTreeSet<&str> = self.seen.iter().filter_map(|seen| Some(&*seen.open?.0.rollout_uid)).collect();
        for rollout in self.scopes.iter().flat_map(|scope| scope.rollouts.surplus(&busy)) {
            self.plan.deletions.rollouts.push((rollout.name.clone(), rollout.uid.clone()));
        }
        // A write of this pass may name what nothing has named so far.
        if self.writes == 0 && self.plan.rollouts.is_empty() {
            let (unnamed, next) = revision::unnamed(self.snapshot, self.wanted, self.now);
            self.plan.deletions.contents = unnamed;
            self.wake.at(next);
        }
    }

    /// The statuses of groups, rollouts and profiles, where they change.
    fn report(&mut self) {
        for scope in &self.scopes {
            let view = GroupView {
                group: scope.group,
                wanted: scope.wanted,
                rollout: scope.rollout,
                newest: scope.rollouts.newest(),
                last_rollout: scope.rollouts.last_number(),
                usage: scope.usage,
                is_stopped: limits::is_stopped(scope.failed),
                tally: &scope.tally,
                now: self.now,
            };
            let (group, rollout) = status::of_group(&view);
            self.plan.groups.extend(group);
            self.plan.rollout_statuses.extend(rollout);
            let superseded = scope.rollouts.former().filter_map(|former| status::superseded(former, self.now));
            self.plan.rollout_statuses.extend(superseded);
        }
        let profiles = self.snapshot.profiles.values();
        self.plan.profiles = profiles.filter_map(|profile| status::of_profile(profile, self.now)).collect();
    }

    fn finish(mut self) -> Plan {
        for Seen { device, write, .. } in self.seen {
            if let Some((change, decisions)) = write.map(|write| *write) {
                let (name, resource_version) = (device.name.clone(), device.resource_version);
                self.plan.devices.push(DeviceWrite { device: name, resource_version, decisions, change });
            }
        }
        self.plan.next = self.wake.at;
        self.plan
    }
}
