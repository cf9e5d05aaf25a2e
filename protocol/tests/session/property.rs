//! Whatever happens, in whatever order: no rule is broken, what is on record is true, and every target ends.
//!
//! The rules of each command are checked in [`World`]; here is what must be true besides, of the device itself.

use fettle_protocol::DeviceMessage;
use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::message::ErrorDetail;
use fettle_protocol::session::{Phase, Reason, Scheduled, Session, Stage, Target, Transferred};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::api::{OTHER, THIRD};
use crate::honest::{Arrived, Device, Habit, Luck};
use crate::world::{Answers, Link, World, clock, mins, secs};

/// What happens.
#[derive(Debug, Clone)]
enum Happening {
    /// The device does the next thing.
    Acts(Luck),
    /// It does this many things, one a second.
    Works(u8),
    /// Its connection goes, and both sides know; and whether TCP confirmed what we said last, and whether it had come.
    Cut {
        acknowledged: bool,
        arrived: Arrived,
    },
    /// Its power goes: we do not know.
    Vanishes,
    /// It says a result that nothing asked for.
    Babbles(u8),
    /// It says how far it is, whatever it is at.
    Reports(u8),
    /// A log of it arrives, whenever that was asked for.
    BringsLog,
    /// One finds no room.
    FindsNoRoom,
    /// Somebody else calls with its MAC, and says no more.
    Impostor,
    Passes(u16),
    /// The controller: a new try, where there may be one.
    Grants {
        firmware: bool,
        config: bool,
        logs: bool,
        /// A download alone, at first.
        ahead: bool,
    },
    /// The same, for a configuration that is put into force so many seconds later.
    Schedules {
        wait: u16,
        ahead: bool,
    },
    /// What was for a download alone goes on.
    Activates,
    Withdraws,
    Done,
    /// How the API answers from now on.
    Api(Answers),
    WriteAnswered,
    WriteUnanswered {
        done: bool,
    },
    /// How sources and our accounting answer from now on.
    Files(Answers),
    FileReady(bool),
    Accounted(Transferred),
    /// Somebody else writes, and the watch does not bring it.
    Unseen,
    Seen,
    BridgeRestarts,
    Contends,
    OtherClaims,
    OtherLetsGo,
    /// A person clears the session.
    Cleared,
    Legal(bool),
    /// Its group declares this release, or none.
    Declares(Option<u8>),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let answers = || prop_oneof![4 => Just(Answers::Promptly), 1 => Just(Answers::Later), 1 => Just(Answers::Not)];
    prop_oneof![
        40 => Just(Acts(Luck::Good)),
        10 => (2u8..12).prop_map(Works),
        5 => Just(Acts(Luck::Bad)),
        6 => (any::<bool>(), prop_oneof![Just(Arrived::Everything), Just(Arrived::Nothing)])
            // What was confirmed has come.
            .prop_map(|(acknowledged, arrived)| Cut {
                acknowledged,
                arrived: if acknowledged { Arrived::Everything } else { arrived },
            }),
        3 => Just(Vanishes),
        3 => prop_oneof![Just(5u8), Just(7), Just(9), Just(11), Just(99)].prop_map(Babbles),
        3 => (0u8..=100).prop_map(Reports),
        3 => Just(BringsLog),
        2 => Just(FindsNoRoom),
        2 => Just(Impostor),
        8 => (1u16..8).prop_map(Passes),
        3 => (8u16..200).prop_map(Passes),
        2 => (200u16..1200).prop_map(Passes),
        12 => any::<(bool, bool, bool, bool)>()
            .prop_map(|(firmware, config, logs, ahead)| Grants { firmware, config, logs, ahead }),
        6 => (1u16..1500, any::<bool>()).prop_map(|(wait, ahead)| Schedules { wait, ahead }),
        6 => Just(Activates),
        1 => Just(Withdraws),
        1 => Just(Done),
        3 => answers().prop_map(Api),
        5 => Just(WriteAnswered),
        3 => any::<bool>().prop_map(|done| WriteUnanswered { done }),
        2 => answers().prop_map(Files),
        5 => prop_oneof![6 => Just(true), 1 => Just(false)].prop_map(FileReady),
        5 => prop_oneof![6 => Just(Transferred::Wholly), 1 => Just(Transferred::NotWholly)].prop_map(Accounted),
        3 => Just(Unseen),
        3 => Just(Seen),
        3 => Just(BridgeRestarts),
        2 => Just(Contends),
        1 => Just(OtherClaims),
        2 => Just(OtherLetsGo),
        1 => Just(Cleared),
        2 => prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(Legal),
        5 => prop::option::weighted(0.8, 1u8..4).prop_map(Declares),
    ]
}

/// A world with a device in it, and the controller's part.
struct Fleet {
    world: World,
    device: Device,
    /// Connections whose peer is gone without a word, and when that is found out.
    dead: Vec<(Link, Timestamp)>,
    impostors: Vec<Link>,
    /// Somebody else has spoken for the device: what is on record need not be true of it.
    deceived: bool,
    /// Connections that are closing after 2 or 6, since then.
    finishing: Vec<(Link, Timestamp)>,
    last_target: i64,
    /// A push counts as applied that nobody has confirmed.
    unconfirmed: bool,
    /// How many records have been held against the truth.
    audited: usize,
}

impl Fleet {
    fn new(tells: bool, listens: bool, habit: Habit) -> Self {
        Self {
            world: World::new(),
            device: Device::new(tells, listens, habit),
            dead: Vec::new(),
            impostors: Vec::new(),
            deceived: false,
            finishing: Vec::new(),
            last_target: 0,
            unconfirmed: false,
            audited: 0,
        }
    }

    fn happens(&mut self, happening: Happening) {
        // No two things happen in one millisecond.
        self.world.pass(SignedDuration::from_millis(1));
        let Self { world, device, .. } = self;
        world.note(format!("# {happening:?}"));
        match happening {
            Happening::Acts(luck) => device.acts(world, luck),
            Happening::Works(times) => {
                for _ in 0..times {
                    self.device.acts(&mut self.world, Luck::Good);
                    self.passes(1);
                }
            }
            Happening::Cut { acknowledged, arrived } => self.cut(acknowledged, arrived),
            Happening::Vanishes => {
                if let Some(link) = device.link.filter(|link| world.wires[link].open) {
                    device.loses_connection(world, Arrived::Nothing);
                    // An idle connection is found dead after 60 s and three keep-alives, 10 s apart.
                    self.dead.push((link, world.now + secs(90)));
                }
            }
            Happening::Babbles(kind) => {
                let detail = ErrorDetail::default();
                let message = match kind {
                    5 => DeviceMessage::VersionDownloaded(DownloadResult::Verified, detail),
                    7 => DeviceMessage::ProfileDownloaded(DownloadResult::CrcMismatch, detail),
                    // A strict device never says 9=0 of what it did not do: with a push unanswered it would be believed.
                    9 => DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(1), detail),
                    11 => DeviceMessage::LogUploaded(ExecutionResult::Success, detail),
                    other => DeviceMessage::Unknown(other),
                };
                device.babbles(world, message);
            }
            Happening::Reports(percent) => {
                device.babbles(world, DeviceMessage::Progress { percent: Some(percent), text: None });
            }
            Happening::BringsLog => drop(world.brings_log(world.now.as_millisecond() as u32)),
            Happening::FindsNoRoom => drop(world.log_is_refused()),
            Happening::Impostor => {
                if self.impostors.len() < 3 {
                    self.impostors.push(world.calls(device.info()));
                    self.deceived = true;
                }
            }
            Happening::Passes(seconds) => self.passes(seconds),
            Happening::Grants { firmware, config, logs, ahead } => {
                self.grants(|target, id| {
                    // Few, so that ways back are among them.
                    target.firmware = firmware.then(|| format!("{}.0", 1 + id % 3));
                    target.config = config.then(|| ["A", "B", "C"][(id % 3) as usize].to_owned());
                    (target.logs, target.stage) = ((logs, true), stage(ahead));
                });
            }
            Happening::Schedules { wait, ahead } => {
                self.grants(|target, id| {
                    // Datum 12 has whole seconds.
                    let at = Timestamp::from_second(granted_second(target) + i64::from(wait)).unwrap();
                    target.firmware = None;
                    target.config = Some(["A", "B", "C"][(id % 3) as usize].to_owned());
                    target.scheduled = Some(Scheduled { at, local: Some(clock(at)) });
                    target.stage = stage(ahead);
                    if !ahead {
                        target.until = at + mins(15);
                    }
                });
            }
            Happening::Activates => self.activates(),
            Happening::Withdraws => {
                if !self.has_begun() {
                    self.world.withdraw();
                }
            }
            Happening::Done => {
                if self.has_ended() {
                    self.world.change(|status| {
                        if let Some(target) = &mut status.target {
                            target.done = true;
                        }
                    });
                }
            }
            Happening::Api(answers) => world.api_answers = answers,
            Happening::WriteAnswered => {
                if world.write.is_some() {
                    world.write_is_answered();
                }
            }
            Happening::WriteUnanswered { done } => match (world.write.is_some(), done) {
                (true, true) => world.write_is_done_but_not_answered(),
                (true, false) => world.write_is_not_answered(),
                (false, _) => {}
            },
            Happening::Files(answers) => world.files_answer = answers,
            Happening::FileReady(ready) => match (world.preparing.is_some(), ready) {
                (true, true) => world.file_is_ready(),
                (true, false) => world.file_cannot_be_had(),
                (false, _) => {}
            },
            Happening::Accounted(transferred) => {
                if world.checking.is_some() {
                    world.accounting_says(transferred);
                }
            }
            Happening::Unseen => world.change_unseen(|_| {}),
            Happening::Seen => world.see(),
            Happening::BridgeRestarts => {
                world.bridge_restarts();
                device.loses_connection(world, Arrived::Everything);
                self.dead.clear();
                self.impostors.clear();
                self.finishing.clear();
            }
            Happening::Contends => {
                let contender = |status: &mut crate::api::Status| {
                    if let Some(holder) = &mut status.holder {
                        holder.contender = Some(if holder.by == OTHER { THIRD } else { OTHER });
                    }
                };
                world.change(contender);
            }
            Happening::OtherClaims => {
                if world.api.status.holder.is_none() && world.api.status.reported.is_some() {
                    world.other_claims(OTHER);
                }
            }
            Happening::OtherLetsGo => self.other_lets_go(),
            Happening::Cleared => world.change(|status| status.holder = None),
            Happening::Declares(release) => {
                world.declares(release.map(|number| format!("{number}.0")).as_deref());
            }
            Happening::Legal(legal) => world.change(|status| status.legal = legal),
        }
        self.settle();
    }

    fn cut(&mut self, acknowledged: bool, arrived: Arrived) {
        let Some(link) = self.device.link else { return };
        self.device.loses_connection(&mut self.world, arrived);
        self.world.drop_link(link, acknowledged);
    }

    fn other_lets_go(&mut self) {
        let held = self.world.api.status.holder.as_ref().is_some_and(|holder| holder.by == OTHER);
        if held {
            self.world.change(|status| status.holder = None);
        }
    }

    /// A second at a time, with what comes of it outside of the session.
    fn passes(&mut self, seconds: u16) {
        for _ in 0..seconds {
            self.world.pass(secs(1));
            self.settle();
        }
    }

    /// What follows by itself: dead and finished connections close, the controller does its part, and the books are right.
    fn settle(&mut self) {
        self.device.looks_at_clock(&mut self.world);
        let now = self.world.now;
        let wires = &self.world.wires;
        for (&link, wire) in wires {
            if wire.open && wire.finishing && !self.finishing.iter().any(|(of, _)| *of == link) {
                self.finishing.push((link, now + secs(5)));
            }
        }
        for (link, found) in &mut self.dead {
            let wire = &wires[&*link];
            if wire.probed > 0 {
                *found = (*found).min(now + secs(3));
            } else if wire.outstanding.is_some() {
                // Its own deadline counts.
                *found = (*found).max(now + secs(1));
            }
        }
        let over = |list: &mut Vec<(Link, Timestamp)>| -> Vec<Link> {
            list.extract_if(.., |(_, at)| *at <= now).map(|(link, _)| link).collect()
        };
        let (finished, found) = (over(&mut self.finishing), over(&mut self.dead));
        for link in finished {
            let alive = !found.contains(&link) && !self.dead.iter().any(|(of, _)| *of == link);
            if self.device.link == Some(link) {
                self.device.loses_connection(&mut self.world, Arrived::Everything);
            }
            self.world.drop_link(link, alive);
        }
        for link in found {
            self.world.drop_link(link, false);
        }
        self.control();
        self.audit();
    }

    fn has_begun(&self) -> bool {
        let target = self.world.api.status.target.as_ref().map(|target| target.id);
        let upgrade = self.world.api.status.upgrade.as_ref();
        !self.has_ended() && upgrade.is_some_and(|upgrade| Some(upgrade.target) == target && upgrade.phase.is_begun())
    }

    /// What was fetched ahead waits, and has no end.
    fn is_fetched(&self) -> bool {
        let status = &self.world.api.status;
        let fetched = status.upgrade.as_ref().filter(|upgrade| upgrade.phase == Phase::Downloaded);
        let target = status.target.as_ref().filter(|target| target.stage == Stage::Download);
        target.is_some_and(|target| fetched.is_some_and(|fetched| fetched.target == target.id))
    }

    fn activates(&mut self) {
        let target = self.world.api.status.target.as_ref();
        if !self.has_ended() && target.is_some_and(|target| target.stage == Stage::Download) {
            self.world.activate();
        }
    }

    /// There is no target, or it has ended.
    fn has_ended(&self) -> bool {
        let status = &self.world.api.status;
        status.target.as_ref().is_none_or(|target| {
            let done = |upgrade: &crate::api::Upgrade| upgrade.target == target.id && upgrade.phase == Phase::Done;
            status.outcome == Some(target.id) || status.upgrade.as_ref().is_some_and(done)
        })
    }

    /// A try that ends while nobody lives who could say how.
    fn control(&mut self) {
        let Some(Target { id, until, .. }) = self.world.api.status.target else { return };
        if self.has_ended() || self.is_fetched() || self.world.now < until || self.world.api.held_by_the_living() {
            return;
        }
        if self.has_begun() {
            self.world.change(|status| status.outcome = Some(id));
        } else {
            self.world.withdraw();
        }
    }

    /// A try, planned on what is on record; of a device that is in the middle of none.
    fn grants(&mut self, change: impl FnOnce(&mut Target, i64)) {
        let Some(from) = self.world.api.status.reported.as_ref().map(|info| info.version.clone()) else { return };
        if self.has_begun() {
            return;
        }
        self.last_target += 1;
        let id = self.last_target;
        self.world.grant_as(id, |target| {
            target.from = from;
            change(target, id);
        });
    }

    /// What is written is true.
    fn audit(&mut self) {
        self.world.check_announced();
        let session = self.world.session.as_ref();
        assert!(session.is_none_or(|session| !session.is_over()));
        if self.deceived {
            return;
        }
        let status = &self.world.api.status;
        for record in &self.world.api.written[self.audited..] {
            if record.forget_applied {
                self.unconfirmed = false;
            }
            let Some(end) = record.end.as_ref().filter(|end| end.reason.is_success()) else { continue };
            self.unconfirmed = end.reason == Reason::ResultLost || (self.unconfirmed && end.applied.is_none());
            let target = &self.world.targets[&end.target];
            assert_eq!(self.device.version, *target.firmware.as_ref().unwrap_or(&target.from), "{end:?}");
            if let (Some(config), false) = (&target.config, self.unconfirmed) {
                assert_eq!(self.device.config, *config, "{end:?}");
            }
        }
        self.audited = self.world.api.written.len();
        let known = status.upgrade.as_ref().is_none_or(|upgrade| upgrade.phase == Phase::Done);
        if let (Some(applied), true, false) = (&status.applied, known, self.unconfirmed) {
            assert_eq!(self.device.config, *applied, "what is on record as applied");
        }
    }

    /// All is well from here on.
    fn all_is_well(&mut self) {
        self.world.note("# all is well".to_owned());
        (self.world.api_answers, self.world.files_answer) = (Answers::Promptly, Answers::Promptly);
        for link in std::mem::take(&mut self.impostors) {
            self.world.drop_link(link, true);
        }
        self.other_lets_go();
        self.world.change(|status| {
            status.legal = true;
            if let Some(holder) = &mut status.holder {
                holder.contender = None;
            }
            if let Some(target) = &mut status.target {
                target.done = false;
            }
        });
        if self.world.write.is_some() {
            self.world.write_is_answered();
        }
        if self.world.preparing.is_some() {
            self.world.file_is_ready();
        }
        if self.world.checking.is_some() {
            self.world.accounting_says(Transferred::Wholly);
        }
        self.world.grace_is_over();
        self.activates();
        self.settle();
    }

    /// The device works on, a step a second, until the target has ended.
    fn until_ended(&mut self) {
        let until = self.world.api.status.target.as_ref().map_or(self.world.now, |target| target.until);
        let end = until.max(self.world.now) + mins(4);
        while self.world.now < end {
            if self.has_ended() {
                return;
            }
            self.device.acts(&mut self.world, Luck::Good);
            self.passes(1);
        }
        panic!("a target that does not end: {:?}", self.world.session.as_ref().map(Session::state_name));
    }
}

fn stage(ahead: bool) -> Stage {
    if ahead { Stage::Download } else { Stage::Activate }
}

/// The second in which the target was granted.
fn granted_second(target: &Target) -> i64 {
    target.start_by.as_second() - 60
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_rule_is_broken_and_every_target_ends(
        tells in any::<bool>(),
        listens in any::<bool>(),
        habit in prop_oneof![Just(Habit::Then), Just(Habit::AtOnce), Just(Habit::Both)],
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut fleet = Fleet::new(tells, listens, habit);
        fleet.happens(Happening::Acts(Luck::Good));
        for happening in happenings {
            fleet.happens(happening);
        }
        fleet.all_is_well();
        fleet.until_ended();
        // And the next try of an honest device succeeds.
        for _ in 0..200 {
            fleet.device.acts(&mut fleet.world, Luck::Good);
            fleet.passes(1);
        }
        let from = fleet.device.version.clone();
        prop_assert_eq!(fleet.world.api.status.reported.as_ref().map(|info| &info.version), Some(&from));
        fleet.last_target += 1;
        let id = fleet.last_target;
        fleet.world.grant_as(id, |target| {
            (target.from, target.firmware, target.config) = (from, Some("9.0".to_owned()), Some("Z".to_owned()));
        });
        fleet.until_ended();
        prop_assert_eq!(fleet.world.end(), Some(Reason::Upgraded));
        prop_assert_eq!((&*fleet.device.version, &*fleet.device.config), ("9.0", "Z"));
        prop_assert_eq!(fleet.world.api.status.applied.as_deref(), Some("Z"));
    }
}
