//! One pass over the namespace: facts first, then limits and steps, then what follows for each device.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::rc::Rc;

use fettle_crds::Step;
use jiff::Timestamp;

use super::Map;
use super::availability::Presence;
use super::course::{Clock, Course, Turn};
use super::goal::Goal;
use super::known::Known;
use super::limits::Budget;
use super::membership::{Membership, Standing as MacStanding};
use super::model::{Device, Group, Snapshot, Text};
use super::output::{Change, DeviceWrite, Plan};
use super::profiles;
use super::progress::{Standing, Terms, Way};
use super::reason::Reason;
use super::rendering::Coverage;
use super::revision::{self, Content, Rollouts, Wanted};
use super::scope::Scope;
use super::seen::Seen;
use super::spread::{self, Domains, Full};
use super::status::{self, GroupView};
use super::steps::{self, Census, Counted, State};
use super::transfer;

/// A pass writes to no more devices than this, so that no decision is old when it is carried out; the rest follows in the
/// next pass at once. At the 1,000 writes a second that an API server takes from one client this is a quarter second.
pub const WRITES_PER_PASS: usize = 256;

/// Plans a namespace.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let groups: Vec<&Group> = snapshot.groups.values().collect();
    let wanted: Vec<Wanted<'_>> = groups.iter().map(|group| Wanted::of(group, snapshot)).collect();
    let rollouts = Rollouts::of_all(snapshot, &groups);
    let mut pass = Pass::new(snapshot, now, &groups, &wanted, &rollouts);
    pass.steer();
    pass.decide();
    pass.accept();
    pass.keep_house();
    pass.report();
    pass.finish()
}

pub(super) struct Pass<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Timestamp,
    pub(super) scopes: Vec<Scope<'a>>,
    pub(super) seen: Vec<Seen<'a>>,
    /// Those of whose acceptance there is something to say, or that are deleted.
    untold: Vec<usize>,
    /// The rollouts that open targets are of.
    busy: BTreeSet<&'a str>,
    wanted: &'a [Wanted<'a>],
    pub(super) domains: Domains<'a>,
    pub(super) known: Option<Known<'a>>,
    /// Content that grants of this pass name, and that is not kept yet.
    pub(super) contents: BTreeMap<Text, Content>,
    pub(super) writes: usize,
    pub(super) wake: Wake,
    pub(super) plan: Plan,
}

/// The earliest instant at which time alone changes the plan.
pub(super) struct Wake {
    now: Timestamp,
    at: Option<Timestamp>,
}

impl Wake {
    pub(super) fn at(&mut self, at: impl IntoIterator<Item = Timestamp>) {
        for at in at {
            if at > self.now && self.at.is_none_or(|earliest| at < earliest) {
                self.at = Some(at);
            }
        }
    }

    pub(super) fn at_once(&mut self) {
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
        let scopes = scopes.map(|((group, wanted), rollouts)| Scope::new(snapshot, group, wanted, rollouts));
        let scopes = scopes.collect();
        let mut pass = Self {
            snapshot,
            now,
            scopes,
            seen: Vec::with_capacity(snapshot.devices.len()),
            untold: Vec::new(),
            busy: BTreeSet::new(),
            wanted,
            domains: Domains::new(groups, snapshot),
            known: None,
            contents: BTreeMap::new(),
            writes: 0,
            wake: Wake { now, at: None },
            plan: Plan::default(),
        };
        let selectors = snapshot.selectors.of(groups);
        let by_uid = pass.by_uid();
        for (index, device) in snapshot.devices.values().enumerate() {
            let seen = pass.look_at(device, selectors.of(device), snapshot.devices.standing(device));
            pass.count(&seen, &by_uid);
            if let Some(scope) = seen.membership.only() {
                let scope = &mut pass.scopes[scope];
                scope.members.push(index);
                scope.ahead.extend(seen.ahead.map(|_| index));
                scope.reached = scope.reached.max(seen.granted_in.unwrap_or(1));
            }
            let target = seen.open.map(|open| open.target).or(seen.ahead.map(|ahead| ahead.target));
            pass.busy.extend(target.map(|target| &*target.rollout_uid));
            if !seen.is_told || seen.mac == MacStanding::Yields {
                pass.untold.push(index);
            }
            pass.seen.push(seen);
        }
        pass
    }

    fn look_at(&mut self, device: &'a Device, membership: Membership, mac: MacStanding) -> Seen<'a> {
        let presence = Presence::of(device, self.snapshot, self.now);
        self.wake.at(presence.changes_at(&self.snapshot.settings));
        let doubt = self.snapshot.in_doubt.get(&device.name).copied().filter(|until| *until > self.now);
        self.wake.at(doubt);
        let decisions = &device.decisions;
        let is_observed = decisions.observed_generation == Some(device.generation);
        let mut seen = Seen {
            device,
            membership,
            is_served: mac == MacStanding::Accepted && !device.held,
            is_told: is_observed && mac.acceptance(device, &self.snapshot.devices, self.now).is_none(),
            is_wished: device.retry_at.is_some() && device.retry_at != decisions.retried_at,
            done: decisions.target.as_ref().map(|target| target.done),
            mac,
            presence,
            standing: Standing::Untried,
            obstacle: None,
            open: device.open_target(),
            ahead: device.download(),
            is_in_doubt: doubt.is_some(),
            granted_in: None,
            failed_on_the_way: false,
            is_retried: false,
            write: None,
        };
        if let Some(index) = seen.membership.only() {
            self.judge(index, &mut seen);
        }
        seen
    }

    /// Where a device stands with what its group wants, or with what it goes back to.
    fn judge(&mut self, index: usize, seen: &mut Seen<'a>) {
        let (snapshot, device) = (self.snapshot, seen.device);
        let scope = &mut self.scopes[index];
        let of_rollout = |uid: &Text| scope.rollout.is_some_and(|rollout| rollout.uid == *uid);
        let granted = device.decisions.granted.as_ref().filter(|granted| of_rollout(&granted.rollout_uid));
        seen.granted_in = granted.map(|granted| granted.step);
        let way = if granted.is_some() { scope.way } else { Way::Forward };
        let terms = Terms {
            way,
            rollout: scope.rollout,
            granted,
            watched_until: scope.watched_until(seen.granted_in),
            strategy: &scope.group.strategy,
            presence: seen.presence,
            settings: &snapshot.settings,
            now: self.now,
        };
        let goal = scope.goal(snapshot, device);
        scope.cover(device, goal.as_ref());
        seen.standing = match way {
            Way::Forward => match &goal {
                Some(Ok(goal)) => Standing::of(device, goal, &terms),
                Some(Err(_)) | None => Standing::Untried,
            },
            Way::Back => {
                let way_back = scope.way_back(device);
                way_back.map_or(Standing::Untried, |way_back| Standing::of(device, &way_back.goal, &terms))
            }
        };
        if let Some(terms) = terms.up_to_the_turn().filter(|_| way == Way::Back) {
            let standing = Standing::of(device, &Goal::told(device), &terms);
            seen.failed_on_the_way = matches!(standing, Standing::Failed(_));
            self.wake.at(terms.changes_at(device, standing));
        }
        self.wake.at(terms.changes_at(device, seen.standing));
        seen.is_retried = matches!(seen.standing, Standing::Forgiven { .. })
            || granted.is_some_and(|granted| granted.forgiven.is_some());
        if !matches!(seen.standing, Standing::Current) {
            seen.obstacle = obstacle(scope, seen, way, goal.as_ref(), snapshot);
        }
        if seen.obstacle.is_none()
            && seen.standing != Standing::Current
            && let (Some(Ok(goal)), Some(reported)) = (&goal, &device.facts.reported)
            && let Some(to) = &goal.firmware
        {
            scope.flashes |= *to.reports != *reported.version;
        }
        scope.observe_duration(device);
    }

    /// The groups of rollouts, by the uids of those.
    fn by_uid(&self) -> Map<&'a str, usize> {
        let scopes = self.scopes.iter().enumerate();
        scopes.flat_map(|(index, scope)| scope.rollouts.all().map(move |rollout| (&*rollout.uid, index))).collect()
    }

    /// Counts whether a device is away and whether it has failed, before anything is decided.
    fn count(&mut self, seen: &Seen<'a>, by_uid: &Map<&str, usize>) {
        // A device counts where it is now, and where it was when it was granted.
        let granted = seen.open.and_then(|open| by_uid.get(&*open.target.rollout_uid).copied());
        let elsewhere = granted.filter(|index| !seen.membership.all().contains(index));
        if let Some(index) = elsewhere {
            self.scopes[index].usage.updating += 1;
        }
        let presence = match (seen.is_updating(), seen.device.held, seen.is_away()) {
            (true, ..) => spread::Presence::Updating,
            (false, true, _) => spread::Presence::LeftOut,
            (false, false, true) => spread::Presence::Away,
            (false, false, false) => spread::Presence::Available,
        };
        let is_offline = seen.presence.is_offline() && !seen.device.held && seen.membership != Membership::None;
        self.plan.offline += usize::from(is_offline);
        for index in seen.membership.all() {
            let scope = &mut self.scopes[*index];
            let usage = &mut scope.usage;
            usage.total += usize::from(!seen.device.held);
            if seen.device.facts.log_refused {
                scope.tally.log_refused(&seen.device.name);
            }
            match presence {
                spread::Presence::Updating => usage.updating += 1,
                spread::Presence::Away => {
                    usage.away += 1;
                    usage.lost += usize::from(seen.failed_on_the_way);
                    scope.tally.away(&seen.device.name);
                }
                spread::Presence::LeftOut | spread::Presence::Available => {}
            }
            scope.failed += usize::from(seen.has_failed());
            scope.failed_away += usize::from(seen.has_failed() && !seen.presence.is_connected());
        }
        self.domains.count(seen.device, seen.membership.all(), presence);
    }

    /// Which way each rollout goes, at which step it is, and whether the clock lets anybody begin.
    fn steer(&mut self) {
        let now = self.now;
        for scope in &mut self.scopes {
            self.wake.at(scope.awaited_until());
            if let Ok(times) = &scope.group.times {
                let (clock, changes_at) = Clock::read(&times.calendar, now, scope.expected());
                self.wake.at(changes_at);
                scope.clock = clock;
            }
            let Some(rollout) = scope.rollout else { continue };
            self.wake.at(rollout.spec.retry_at);
            let accepted = rollout.spec.accept_failures;
            let (seen, members) = (&self.seen, &scope.members);
            let all_accepted = accepted.is_some_and(|accepted| scope.failed <= accepted as usize);
            let is_open = rollout.status.completed_at.is_none() && scope.way == Way::Forward;
            let (total, failed, allowed) = (scope.usage.total, scope.failed, scope.group.strategy.failure_budget);
            let budget = |stage: &steps::Stage| {
                let judged = if stage.is_last() { total } else { stage.size };
                let wholly = is_open && stage.census.has_failed_wholly(stage.size);
                Budget::new(allowed, judged, accepted, failed, wholly)
            };
            let census = |number, step: Option<&Step>| {
                let mut census = Census::default();
                for seen in members.iter().map(|index| &seen[*index]) {
                    if seen.is_served && steps::is_about(step, seen.device) {
                        census.count(counted(seen), number);
                    }
                }
                census
            };
            let may_pass = |stage: &steps::Stage| !budget(stage).is_exceeded();
            let (stage, finished) = steps::find(rollout, scope.reached, all_accepted, now, census, may_pass);
            scope.finished_steps = finished;
            self.wake.at(stage.soak_until);
            scope.budget = budget(&stage);
            scope.course = Course::of(scope.group, rollout, scope.budget);
            // There is no way back from a way back: after an outage of ours all seem to be away, and may have failed for that.
            let settled = self.snapshot.settings.watching_since + self.snapshot.settings.reconnect_grace;
            let rests_on_absence = scope.failed_away > 0 && failed - scope.failed_away <= scope.budget.allowed;
            if scope.course == Course::Turning(Turn::BudgetExceeded) && rests_on_absence && now < settled {
                scope.course = Course::Stopped;
                self.wake.at(Some(settled));
            }
            scope.places = stage.places();
            let step = steps::listed(&rollout.spec, stage.number);
            (scope.downloading, scope.reserved) = count_ahead(&scope.ahead, &self.seen, &self.domains, step);
            scope.stage = Some(stage);
        }
    }

    /// Whether one more device may be written to in this pass; counts it.
    pub(super) fn may_write(&mut self) -> bool {
        if self.writes >= WRITES_PER_PASS {
            self.wake.at_once();
            return false;
        }
        self.writes += 1;
        true
    }

    /// Whether each device is accepted. Goes with what is written of it anyway, else by itself.
    fn accept(&mut self) {
        for index in mem::take(&mut self.untold) {
            let Seen { device, mac, ref write, .. } = self.seen[index];
            if mac == MacStanding::Yields {
                self.plan.deletions.devices.push((device.name.clone(), device.resource_version));
                continue;
            }
            let goes_along = write.is_some();
            let acceptance = mac.acceptance(device, &self.snapshot.devices, self.now);
            if self.seen[index].is_in_doubt || (!goes_along && !self.may_write()) {
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
        let busy = &self.busy;
        let surplus = |scope: &Scope<'a>| scope.rollouts.surplus(scope.group.history_limit, busy).collect::<Vec<_>>();
        for rollout in self.scopes.iter().flat_map(surplus) {
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
            let view = GroupView { scope, now: self.now };
            let (group, rollout) = status::of_group(&view);
            self.plan.groups.extend(group);
            self.plan.rollout_statuses.extend(rollout);
            let superseded = scope.rollouts.former().filter_map(|former| status::superseded(former, self.now));
            self.plan.rollout_statuses.extend(superseded);
        }
        let mut coverages: Map<&Text, Coverage> = Map::default();
        for scope in &self.scopes {
            if let Some(profile) = scope.profile() {
                coverages.entry(&profile.name).or_default().add(&scope.tally.coverage);
            }
        }
        let statuses = self.snapshot.profiles.values().filter_map(|profile| {
            let coverage = coverages.remove(&profile.name).unwrap_or_default();
            profiles::status(profile, &coverage, self.now)
        });
        self.plan.profiles = statuses.collect();
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

/// How many devices of a group are fetching ahead; and how many places of its step are kept for those that do, or have.
fn count_ahead(ahead: &[usize], seen: &[Seen<'_>], domains: &Domains<'_>, step: Option<&Step>) -> (usize, usize) {
    let (mut downloading, mut reserved) = (0, 0);
    for index in ahead {
        let seen = &seen[*index];
        let Some(ahead) = seen.ahead else { continue };
        downloading += usize::from(!ahead.is_fetched);
        // One that others at its place keep from going on, who are away, keeps nobody's place.
        let is_blocked = domains.place(*index, false) == Err(Full::Away);
        let is_next = seen.granted_in.is_none() && steps::is_about(step, seen.device);
        reserved += usize::from(is_next && !is_blocked);
    }
    (downloading, reserved)
}

/// What keeps a device from its next try, whatever its rollout is at.
fn obstacle<'a>(
    scope: &mut Scope<'a>,
    seen: &Seen<'a>,
    way: Way,
    goal: Option<&Result<Rc<Goal>, Reason>>,
    snapshot: &Snapshot,
) -> Option<Reason> {
    match seen.mac {
        MacStanding::Accepted => {}
        MacStanding::NotApproved | MacStanding::Yields => return Some(Reason::NotApproved),
        MacStanding::DuplicateMac => return Some(Reason::DuplicateMac),
    }
    if seen.device.held {
        return Some(Reason::Held);
    }
    if seen.has_wrong_model() {
        return Some(Reason::WrongModel);
    }
    match seen.presence {
        Presence::Connected { .. } => {}
        Presence::Dismissed { .. } => return Some(Reason::Dismissed),
        Presence::BridgeStarting { .. } => return Some(Reason::BridgeStarting),
        Presence::Reconnecting { .. } => return Some(Reason::Reconnecting),
        Presence::Offline { .. } => return Some(Reason::Offline),
        Presence::Never => return Some(Reason::NeverConnected),
    }
    match way {
        Way::Forward => {
            // What cannot be rendered for it comes before how it would get there.
            if let Some(Err(reason)) = goal {
                return Some(*reason);
            }
            if let Err(reason) = scope.stone(snapshot, seen.device) {
                return Some(reason);
            }
            // Before its firmware goes: else it would be left half way, and its step with it.
            if scope.schedule.is_some() && !seen.device.has_known_zone() {
                return Some(Reason::UnknownTimeZone);
            }
            transfer::cannot(seen.device, scope.group).then_some(Reason::HttpNotAnnounced)
        }
        Way::Back => {
            let can_be_had = scope.way_back(seen.device).is_some_and(|way_back| way_back.can_be_had);
            (!can_be_had).then_some(Reason::NoWayBack)
        }
    }
}

/// A device, for the census of a step.
fn counted(seen: &Seen<'_>) -> Counted {
    let state = if seen.is_updating() {
        State::Open
    } else {
        match seen.standing {
            Standing::Current => State::Current,
            Standing::Failed(_) => State::Failed,
            Standing::Settling { .. }
            | Standing::BetweenTries { .. }
            | Standing::Forgiven { .. }
            | Standing::Untried => match seen.obstacle {
                Some(obstacle) if obstacle.is_left_behind() => State::Impossible,
                Some(_) | None => State::Open,
            },
        }
    };
    Counted { granted_in: seen.granted_in, state }
}
