//! What has to hold for every fleet and every history, checked after each step of generated ones.
//!
//! The world here is small and nasty: bridges die and come back, devices vanish, fall back and are moved, people hold,
//! unhold and change their minds, writes are lost. Its own count of who is away is kept apart from the planner's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fettle_controller::plan::model::{
    self as model, Bridge, Decisions, Device, Facts, Firmware, Group, Image, Mac, Origin, Progress, Readiness,
    Reported, Rollout, Session, Settings, Snapshot, Target, Text, Upgrade,
};
use fettle_controller::plan::output::{Change, Plan};
use fettle_controller::plan::plan;
use fettle_crds::content::ImageContent;
use fettle_crds::{
    DeviceGroupStatus, DeviceRolloutStatus, FileSource, IntOrPercent, LabelSelector, Phase, SessionPolicy,
    Source as ImageSource, Transfer, TryResult, UploadLogs, Verdict,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const TIMEOUT: SignedDuration = SignedDuration::from_mins(15);
const LEASE: SignedDuration = SignedDuration::from_secs(15);
const GRACE: SignedDuration = SignedDuration::from_secs(60);
const BRIDGES: [&str; 2] = ["b0", "b1"];
const ROLES: [&str; 2] = ["access", "core"];

/// What happens next, to the device, group or bridge with that number.
#[derive(Debug, Clone)]
enum Step {
    /// The device calls a bridge.
    Call(usize, usize),
    /// The connection of the device is lost, and its bridge says so.
    Drop(usize),
    /// The bridge begins the target of the device.
    Begin(usize),
    /// The bridge says how the target of the device ended.
    End(usize, Verdict),
    /// The device reports something by itself.
    Report(usize, &'static str),
    /// The bridge dies; its Lease ends in its time.
    Kill(usize),
    /// The bridge starts anew.
    Start(usize),
    Hold(usize, bool),
    Approve(usize, bool),
    /// The device goes to that role; 2 is both.
    Move(usize, usize),
    /// The group wants that release.
    Want(usize, usize),
    Limit(usize, u32),
    Verified(usize, bool),
    /// That many seconds go by; Leases that live are renewed.
    Pass(i64),
    /// Nothing of the next plan is written, or only this share of 4.
    Lose(u8),
}

fn steps(devices: usize) -> impl Strategy<Value = Vec<Step>> {
    let device = 0..devices;
    let verdict = prop::sample::select(vec![
        Verdict::Upgraded,
        Verdict::Upgraded,
        Verdict::Upgraded,
        Verdict::CrcMismatch,
        Verdict::TimedOut,
        Verdict::CameBackUnchanged,
        Verdict::UnexpectedVersion,
    ]);
    let step = prop_oneof![
        8 => (device.clone(), 0..2usize).prop_map(|(device, bridge)| Step::Call(device, bridge)),
        3 => device.clone().prop_map(Step::Drop),
        6 => device.clone().prop_map(Step::Begin),
        8 => (device.clone(), verdict).prop_map(|(device, verdict)| Step::End(device, verdict)),
        1 => (device.clone(), prop::sample::select(vec!["1", "2", "3", "9"]))
            .prop_map(|(device, version)| Step::Report(device, version)),
        1 => (0..2usize).prop_map(Step::Kill),
        2 => (0..2usize).prop_map(Step::Start),
        2 => (device.clone(), any::<bool>()).prop_map(|(device, held)| Step::Hold(device, held)),
        1 => (device.clone(), prop::bool::weighted(0.8)).prop_map(|(device, yes)| Step::Approve(device, yes)),
        2 => (device, 0..3usize).prop_map(|(device, role)| Step::Move(device, role)),
        2 => (0..2usize, 0..2usize).prop_map(|(group, release)| Step::Want(group, release)),
        1 => (0..2usize, 1..4u32).prop_map(|(group, limit)| Step::Limit(group, limit)),
        1 => (0..2usize, prop::bool::weighted(0.8)).prop_map(|(release, yes)| Step::Verified(release, yes)),
        6 => prop::sample::select(vec![1i64, 5, 20, 61, 300, 901]).prop_map(Step::Pass),
        1 => (0..4u8).prop_map(Step::Lose),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    snapshot: Snapshot,
    now: Timestamp,
    alive: BTreeMap<&'static str, bool>,
    version: u64,
    share: u8,
    ids: BTreeMap<Text, BTreeSet<i64>>,
}

fn release(version: &str) -> Firmware {
    let content = ImageContent {
        version: version.to_owned(),
        reports: version.to_owned(),
        source: ImageSource { file: Some(FileSource { path: format!("{version}.bin") }), http: None },
        sha256: format!("sha-{version}"),
    };
    Firmware {
        name: format!("fw-{version}").into(),
        version: version.into(),
        verified: BTreeSet::from([content.sha256.as_str().into()]),
        images: vec![Image {
            models: vec!["S1".into()],
            upgradable_from: None,
            reports: version.into(),
            name: content.name().into(),
            content: Arc::new(content),
        }],
        readiness: Readiness::Ready,
    }
}

impl World {
    fn new(devices: usize) -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let settings = Settings { reconnect_grace: GRACE, watching_since: now, ..Settings::default() };
        let mut snapshot = Snapshot { settings, ..Snapshot::default() };
        for version in ["2", "3"] {
            let firmware = release(version);
            snapshot.firmwares.insert(firmware.name.clone(), firmware);
        }
        for role in ROLES {
            let labels = BTreeMap::from([(role.to_owned(), "yes".to_owned())]);
            let group = Group {
                name: role.into(),
                uid: format!("uid-{role}").into(),
                generation: 1,
                selector: LabelSelector { match_labels: labels, match_expressions: Vec::new() },
                firmware: Some("fw-2".into()),
                config: None,
                strategy: model::Strategy {
                    max_unavailable: IntOrPercent::Int(2),
                    device_timeout: TIMEOUT,
                    retries: 1,
                    min_ready: SignedDuration::ZERO,
                    ..model::Strategy::default()
                },
                // Groups of this test change their minds in both directions.
                policy: fettle_crds::FirmwarePolicy::Exact,
                times: Ok(Default::default()),
                paused: false,
                history_limit: 10,
                transfer: Transfer::Auto,
                session: SessionPolicy::Keep,
                logs: UploadLogs::Never,
                status: DeviceGroupStatus::default(),
            };
            snapshot.groups.insert(group.name.clone(), group);
        }
        for number in 0..devices {
            let name: Text = format!("d{number}").into();
            let device = Device {
                name: name.clone(),
                resource_version: 0,
                generation: 1,
                labels: BTreeMap::from([(ROLES[number % 2].to_owned(), "yes".to_owned())]),
                mac: Mac::parse(&format!("02:00:00:00:00:{number:02x}")).unwrap(),
                origin: Origin::Declared,
                model: None,
                approved: true,
                held: false,
                transfer: None,
                time_zone: None,
                retry_at: None,
                facts: Facts::default(),
                decisions: Decisions::default(),
            };
            snapshot.devices.insert(name, device);
        }
        let mut world = Self { snapshot, now, alive: BTreeMap::new(), version: 0, share: 4, ids: BTreeMap::new() };
        for bridge in 0..BRIDGES.len() {
            world.start(bridge);
        }
        world
    }

    fn start(&mut self, bridge: usize) {
        self.version += 1;
        self.alive.insert(BRIDGES[bridge], true);
        let lease = Bridge {
            incarnation: Some(format!("i{}", self.version).into()),
            started: self.now,
            renewed: self.now,
            expires: self.now + LEASE,
        };
        self.snapshot.bridges.insert(BRIDGES[bridge].into(), lease);
    }

    fn device(&mut self, number: usize) -> &mut Device {
        self.version += 1;
        let version = self.version;
        let device = self.snapshot.devices.get_mut(format!("d{number}").as_str()).unwrap();
        device.resource_version = version;
        device
    }

    fn take(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Call(number, bridge) => {
                if !self.alive[BRIDGES[bridge]] {
                    return;
                }
                let incarnation = self.snapshot.bridges[BRIDGES[bridge]].incarnation.clone().unwrap();
                let device = self.device(number);
                let bridge = BRIDGES[bridge].into();
                device.facts.session = Some(Session { bridge, incarnation, since: now, dismissed: false });
                if device.facts.reported.is_none() {
                    report(device, "1", now);
                }
            }
            Step::Drop(number) => {
                let device = self.device(number);
                if device.facts.session.take().is_some() {
                    device.facts.last_seen = Some(now);
                }
            }
            Step::Begin(number) => {
                let device = self.device(number);
                if let Some((target, Progress::Granted)) = device.open_target() {
                    let upgrade = Upgrade {
                        target: target.id,
                        phase: Phase::Restarting,
                        since: now,
                        result: None,
                        reason: None,
                        message: None,
                    };
                    device.facts.upgrade = Some(upgrade);
                }
            }
            Step::End(number, verdict) => self.end(number, verdict),
            Step::Report(number, version) => {
                let device = self.device(number);
                if device.facts.reported.is_some() {
                    report(device, version, now);
                }
            }
            Step::Kill(bridge) => {
                self.alive.insert(BRIDGES[bridge], false);
            }
            Step::Start(bridge) => self.start(bridge),
            Step::Hold(number, held) => self.device(number).held = held,
            Step::Approve(number, approved) => self.device(number).approved = approved,
            Step::Move(number, role) => {
                let roles = if role == 2 { &ROLES[..] } else { &ROLES[role..=role] };
                self.device(number).labels = roles.iter().map(|role| (String::from(*role), "yes".to_owned())).collect();
            }
            Step::Want(group, release) => {
                let group = self.snapshot.groups.get_mut(ROLES[group]).unwrap();
                group.firmware = Some(["fw-2", "fw-3"][release].into());
                group.generation += 1;
            }
            Step::Limit(group, limit) => {
                let group = self.snapshot.groups.get_mut(ROLES[group]).unwrap();
                group.strategy.max_unavailable = IntOrPercent::Int(limit);
            }
            Step::Verified(release, is_verified) => {
                let firmware = self.snapshot.firmwares.get_mut(["fw-2", "fw-3"][release]).unwrap();
                firmware.readiness = if is_verified { Readiness::Ready } else { Readiness::Unknown };
            }
            Step::Pass(seconds) => {
                self.now = now + SignedDuration::from_secs(seconds);
                for (name, bridge) in &mut self.snapshot.bridges {
                    if self.alive[&**name] {
                        (bridge.renewed, bridge.expires) = (self.now, self.now + LEASE);
                    }
                }
            }
            Step::Lose(share) => self.share = share,
        }
    }

    fn end(&mut self, number: usize, verdict: Verdict) {
        let now = self.now;
        let device = self.device(number);
        let Some((target, _)) = device.open_target() else { return };
        let (id, wanted) = (target.id, target.firmware.as_ref().unwrap().reports.clone());
        let result = if verdict == Verdict::Upgraded { TryResult::Succeeded } else { TryResult::Failed };
        match verdict {
            Verdict::Upgraded => report(device, &wanted, now),
            Verdict::UnexpectedVersion => report(device, "7", now),
            _ => {}
        }
        device.facts.upgrade = Some(Upgrade {
            target: id,
            phase: Phase::Done,
            since: now,
            result: Some(result),
            reason: Some(verdict),
            message: None,
        });
    }

    /// The number of devices of a group that are away: on the way, gone for too long, or lost in their try.
    fn unavailable(&self, group: &str) -> usize {
        let of_group = |device: &&Device| {
            let open = device.open_target();
            let is_member = device.labels.contains_key(group);
            let was_granted = open.is_some_and(|(target, _)| {
                let rollout = self.snapshot.rollouts.values().find(|rollout| rollout.uid == target.rollout_uid);
                rollout.is_some_and(|rollout| rollout.spec.group == group)
            });
            (open.is_some() && (is_member || was_granted)) || (is_member && !device.held && self.is_gone(device))
        };
        self.snapshot.devices.values().filter(of_group).count()
    }

    /// Whether nobody has heard of it for the grace, by the simplest reading.
    fn is_gone(&self, device: &Device) -> bool {
        match (&device.facts.session, device.facts.last_seen) {
            (Some(session), _) => {
                let bridge = &self.snapshot.bridges[&session.bridge];
                let lost = if bridge.expires <= self.now {
                    bridge.expires
                } else if bridge.incarnation.as_ref() == Some(&session.incarnation) {
                    return false;
                } else {
                    bridge.started
                };
                lost + GRACE <= self.now
            }
            (None, Some(seen)) => seen + GRACE <= self.now,
            (None, None) => true,
        }
    }

    fn is_connected(&self, device: &Device) -> bool {
        device.facts.session.as_ref().is_some_and(|session| {
            let bridge = &self.snapshot.bridges[&session.bridge];
            bridge.expires > self.now && bridge.incarnation.as_ref() == Some(&session.incarnation)
        })
    }

    /// Plans, checks what has to hold of the plan, and writes it, or some of it.
    fn plan(&mut self) -> Result<Plan, TestCaseError> {
        let plan = plan(&self.snapshot, self.now);
        self.check(&plan)?;
        let share = std::mem::replace(&mut self.share, 4);
        self.write(&plan, share)?;
        Ok(plan)
    }

    fn check(&self, made: &Plan) -> Result<(), TestCaseError> {
        let again = plan(&self.snapshot, self.now);
        prop_assert_eq!(format!("{made:?}"), format!("{again:?}"), "equal input has equal output");

        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for (device, _) in &made.waits {
            *reasons.entry(device).or_default() += 1;
        }
        prop_assert!(reasons.values().all(|count| *count == 1), "one reason for each: {:?}", made.waits);
        let members =
            self.snapshot.devices.values().filter(|device| ROLES.iter().any(|role| device.labels.contains_key(*role)));
        prop_assert_eq!(members.count(), made.current + reasons.len(), "every device is current or has a reason");

        for write in &made.devices {
            let device = &self.snapshot.devices[&write.device];
            if let Some((target, Progress::Begun)) = device.open_target() {
                prop_assert_eq!(write.decisions.target.as_ref(), Some(target), "what has begun is not touched");
            }
            if write.change == Change::Granted {
                self.check_grant(device, write.decisions.target.as_ref().unwrap())?;
            }
        }
        Ok(())
    }

    fn check_grant(&self, device: &Device, target: &Target) -> Result<(), TestCaseError> {
        prop_assert!(self.is_connected(device), "{} is not connected", device.name);
        prop_assert!(device.approved && !device.held);
        let roles: Vec<&&str> = ROLES.iter().filter(|role| device.labels.contains_key(**role)).collect();
        prop_assert_eq!(roles.len(), 1, "a device of more than one group is granted nothing");
        let group = &self.snapshot.groups[*roles[0]];
        let firmware = &self.snapshot.firmwares[group.firmware.as_ref().unwrap()];
        prop_assert_eq!(firmware.readiness.clone(), Readiness::Ready);
        let wanted = target.firmware.as_ref().unwrap();
        prop_assert_eq!(&*wanted.content, &*firmware.images[0].name, "it is what the group wants");
        let reported = &device.facts.reported.as_ref().unwrap().version;
        prop_assert_eq!(&target.from, reported);
        prop_assert!(**reported != *wanted.reports, "it does not run it already");
        prop_assert!(target.attempt <= group.strategy.retries + 1);
        let ids = self.ids.get(&device.name).and_then(|ids| ids.last()).copied().unwrap_or(0);
        prop_assert!(target.id > ids, "ids only count up");
        prop_assert_eq!(target.until, self.now + TIMEOUT);
        Ok(())
    }

    fn write(&mut self, plan: &Plan, share: u8) -> Result<(), TestCaseError> {
        let mut granted: BTreeSet<&str> = BTreeSet::new();
        let mut count = 0u8;
        let mut is_written = || {
            count = count.wrapping_add(1);
            share == 4 || count % 4 < share
        };
        for content in &plan.contents {
            self.snapshot.contents.insert(content.name().clone(), self.now);
        }
        for new in &plan.rollouts {
            prop_assert!(new.contents.iter().all(|content| self.snapshot.contents.contains_key(content)));
            if is_written() {
                prop_assert!(!self.snapshot.rollouts.contains_key(&new.name), "numbers are not reused");
                let rollout = Rollout {
                    name: new.name.clone(),
                    uid: format!("uid-{}", new.name).into(),
                    generation: 1,
                    group_uid: new.group_uid.clone(),
                    spec: Arc::new(new.spec.clone()),
                    status: DeviceRolloutStatus::default(),
                };
                self.snapshot.rollouts.insert(rollout.name.clone(), rollout);
            }
        }
        for write in &plan.devices {
            if !is_written() {
                continue;
            }
            self.version += 1;
            let device = self.snapshot.devices.get_mut(&write.device).unwrap();
            prop_assert_eq!(device.resource_version, write.resource_version);
            device.resource_version = self.version;
            device.decisions = write.decisions.clone();
            if write.change == Change::Granted {
                let id = write.decisions.target.as_ref().unwrap().id;
                self.ids.entry(write.device.clone()).or_default().insert(id);
                granted.extend(ROLES.iter().filter(|role| device.labels.contains_key(**role)));
            }
        }
        for role in granted {
            let limit = self.snapshot.groups[role].strategy.max_unavailable;
            let total =
                self.snapshot.devices.values().filter(|device| device.labels.contains_key(role) && !device.held);
            let limit = limit.of_rounded_down(total.count());
            let after = self.unavailable(role);
            prop_assert!(after <= limit, "{role}: {after} away, {limit} allowed");
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
        self.check_statuses()
    }

    fn check_statuses(&self) -> Result<(), TestCaseError> {
        for group in self.snapshot.groups.values() {
            let holds = |type_: &str| {
                group.status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
            };
            prop_assert!(!(holds("Reconciling") && holds("Stalled")));
            prop_assert!(!(holds("Ready") && (holds("Reconciling") || holds("Stalled"))));
            let counts = group.status.counts;
            let parts = counts.current + counts.updating + counts.waiting + counts.failed + counts.offline;
            prop_assert_eq!(counts.total, parts);
            prop_assert_eq!(group.status.reasons.values().sum::<i64>(), counts.total - counts.current);
        }
        Ok(())
    }

    /// Plans until nothing is left to do.
    fn settle(&mut self) -> Result<Plan, TestCaseError> {
        for _ in 0..10 {
            let plan = self.plan()?;
            let Plan { contents, rollouts, devices, groups, rollout_statuses, profiles, deletions, .. } = &plan;
            let is_empty = contents.is_empty()
                && rollouts.is_empty()
                && devices.is_empty()
                && groups.is_empty()
                && rollout_statuses.is_empty()
                && profiles.is_empty()
                && *deletions == Default::default();
            if is_empty {
                return Ok(plan);
            }
        }
        Err(TestCaseError::fail("the planner never has enough"))
    }
}

fn report(device: &mut Device, version: &str, at: Timestamp) {
    device.facts.reported =
        Some(Reported { version: version.into(), model: "S1".into(), config: None, tells_config: false, at });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Limits, validity, determinism, reasons and statuses hold at each step, and passes come to rest.
    #[test]
    fn the_rules_hold_in_every_history(steps in steps(6)) {
        let mut world = World::new(6);
        for step in &steps {
            world.take(step);
            world.plan()?;
        }
        world.settle()?;
    }

    /// Whatever has happened before: with honest devices, a new revision and nobody in the way, all become current.
    #[test]
    fn honest_devices_become_current_in_the_end(steps in steps(6)) {
        let mut world = World::new(6);
        for step in &steps {
            world.take(step);
            world.plan()?;
        }
        let calm = [Step::Start(0), Step::Verified(0, true), Step::Verified(1, true)];
        calm.iter().for_each(|step| world.take(step));
        for number in 0..6 {
            for step in [Step::Call(number, 0), Step::Hold(number, false), Step::Approve(number, true), Step::Move(number, number % 2)] {
                world.take(&step);
            }
        }
        // What failed before is behind a new revision.
        for (group, release) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)] {
            world.take(&Step::Want(group, release));
            world.settle()?;
        }
        for _ in 0..40 {
            let plan = world.settle()?;
            if plan.waits.is_empty() {
                let ready = world.snapshot.groups.values().all(|group| group.status.phase.as_deref() == Some("Complete"));
                prop_assert!(ready, "{:?}", world.snapshot.groups);
                return Ok(());
            }
            for number in 0..6 {
                world.take(&Step::Begin(number));
                world.take(&Step::End(number, Verdict::Upgraded));
            }
            world.take(&Step::Pass(1));
        }
        prop_assert!(false, "not all are current: {:?}", plan(&world.snapshot, world.now).waits);
    }
}
