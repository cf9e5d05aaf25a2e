//! A session with a scripted driver around it: an API that holds the record, a clock, connections.
//!
//! Whatever a test does, each command is held against the rules that no command may break, and each effect against what a
//! driver can do: see [`driver`].

mod driver;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, Download, ErrorDetail, Release, kind};
use fettle_protocol::session::{
    Command, ConnectionId, Counted, EndedBy, Event, Log, LogRefused, Phase, Reason, Record, Scheduled, Session, Stage,
    Target, Timing, View,
};
use fettle_protocol::{DeviceMessage, Dialect, Mac, ServerMessage};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use self::driver::{Item, Line};
use crate::api::{Api, Holder, Run, Status, US};

pub(crate) const ADDRESS: &str = "192.0.2.14";

pub(crate) const fn secs(secs: i64) -> SignedDuration {
    SignedDuration::from_secs(secs)
}

pub(crate) const fn mins(mins: i64) -> SignedDuration {
    SignedDuration::from_mins(mins)
}

/// A connection.
pub(crate) type Link = u64;

/// How something answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// At once.
    Promptly,
    /// When the test says so.
    Later,
    /// Never: a write comes back `Unavailable` after a second of the clock.
    Not,
}

/// What is known of a connection from outside.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) open: bool,
    opened: Timestamp,
    /// 2 or 6 was said, and the sending side is shut.
    pub(crate) finishing: bool,
    pub(crate) probed: u32,
    pub(crate) closed_for: Option<Reason>,
    /// Message 1, as it was last said here.
    info: Option<DeviceInformation>,
    /// What was announced here last.
    pub(crate) announced: Option<Release>,
    /// The command that has got no answer, by the message that answers it.
    pub(crate) outstanding: Option<(u8, Command)>,
    /// The download that was last called good, on this connection, of the commands that it got.
    brought: Option<Command>,
    /// Kinds of what was said, since the test last looked.
    told: Vec<u8>,
    /// All that was said and the device has not taken in.
    pub(crate) inbox: Vec<ServerMessage>,
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) api: Api,
    pub(crate) us: Run,
    pub(crate) timing: Timing,
    pub(crate) session: Option<Session>,
    pub(crate) api_answers: Answers,
    pub(crate) files_answer: Answers,
    pub(crate) wires: BTreeMap<Link, Wire>,
    pub(crate) counted: Vec<Counted>,
    pub(crate) refreshed: u32,
    /// What is to be written, on top of which version.
    pub(crate) write: Option<(Record, u64)>,
    /// Whom we asked for a log over UDP, with which command.
    pub(crate) asked: Vec<(String, u32)>,
    pub(crate) preparing: Option<Command>,
    /// For devices that take what the files of commands were got ready.
    pub(crate) prepared_for: Vec<Capabilities>,
    pub(crate) checking: Option<Command>,
    /// The version that the driver has seen, and what it fed of it.
    seen: u64,
    viewed: View,
    queue: VecDeque<Item>,
    feeding: bool,
    /// A command went unanswered with its connection, and the session has been there ever since and held the device.
    unanswered: bool,
    /// Targets that got a first command, and those whose device was let go on with what it had fetched ahead, or was
    /// fetching; commands that were given numbers; targets with a 6 that may have arrived; with an 8 for a later time.
    pub(crate) commanded: BTreeSet<i64>,
    activated: BTreeSet<i64>,
    pub(crate) scheduled: BTreeSet<i64>,
    numbers: BTreeMap<u32, Command>,
    restarted: BTreeMap<i64, Link>,
    /// All targets there were.
    pub(crate) targets: BTreeMap<i64, Target>,
    /// Everything, for when a test fails.
    log: Vec<(Timestamp, Line)>,
}

/// What is printed when a test fails.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (at, line) in &self.log {
                eprintln!("{at} {line}");
            }
            eprintln!("{:?}\n{:?}", self.session, self.api.status);
        }
    }
}

/// Message 1 of a strict device.
pub(crate) fn info(version: &str) -> DeviceInformation {
    DeviceInformation {
        mac: Mac::new([2, 0, 0x5e, 0, 0x53, 0x0e]),
        version: version.to_owned(),
        model: "S5700".to_owned(),
        config: None,
        serial: None,
        capabilities: Capabilities::default(),
        dialect: Dialect::CANONICAL,
    }
}

/// Message 1 of a device that can tell its configuration.
pub(crate) fn telling(version: &str, config: &str) -> DeviceInformation {
    DeviceInformation { config: Some(config.to_owned()), capabilities: Capabilities::CONFIG_VERSION, ..info(version) }
}

/// From 1.0 to 2.0, to configuration B, in 15 minutes from `now`; the first command within 60 s.
pub(crate) fn target(id: i64, now: Timestamp) -> Target {
    Target {
        id,
        from: "1.0".to_owned(),
        firmware: Some("2.0".to_owned()),
        config: Some("B".to_owned()),
        scheduled: None,
        stage: Stage::Activate,
        start_by: now + secs(60),
        until: now + mins(15),
        margin: secs(30),
        logs: (false, false),
        done: false,
        ended: false,
    }
}

/// What the device's clock says at `at`.
pub(crate) fn clock(at: Timestamp) -> DateTime {
    at.to_zoned(TimeZone::UTC).datetime()
}

impl World {
    /// A device that is declared and has never called.
    pub(crate) fn new() -> Self {
        Self {
            now: "2026-11-20T12:00:00Z".parse().unwrap(),
            api: Api::new(),
            us: US,
            timing: Timing::default(),
            session: None,
            api_answers: Answers::Promptly,
            files_answer: Answers::Promptly,
            wires: BTreeMap::new(),
            counted: Vec::new(),
            refreshed: 0,
            write: None,
            asked: Vec::new(),
            preparing: None,
            prepared_for: Vec::new(),
            checking: None,
            seen: 0,
            viewed: View::default(),
            queue: VecDeque::new(),
            feeding: false,
            unanswered: false,
            commanded: BTreeSet::new(),
            activated: BTreeSet::new(),
            scheduled: BTreeSet::new(),
            numbers: BTreeMap::new(),
            restarted: BTreeMap::new(),
            targets: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// A strict device on 1.0 that is connected and waits, with that on record.
    pub(crate) fn waiting() -> (Self, Link) {
        let mut world = Self::new();
        let link = world.calls(info("1.0"));
        world.api.written.clear();
        (world, link)
    }

    /// The same, with target 1 granted and 3 sent.
    pub(crate) fn downloading() -> (Self, Link) {
        let (mut world, link) = Self::waiting();
        world.grant(1);
        assert_eq!(world.told(link), [3]);
        (world, link)
    }

    /// The same, for a download alone, which is done.
    pub(crate) fn held() -> (Self, Link) {
        let (mut world, link) = Self::waiting();
        world.grant_ahead(1);
        world.says_five(link, DownloadResult::Verified);
        assert_eq!((world.told(link), world.state()), (vec![3], "Held"));
        (world, link)
    }

    /// A strict device that was told to put B into force in 8 hours.
    pub(crate) fn scheduled() -> (Self, Link) {
        let (mut world, link) = Self::waiting();
        world.grant_scheduled(1, mins(480));
        world.says_seven(link, DownloadResult::Verified);
        assert_eq!((world.told(link), world.state()), (vec![4, 8], "Scheduled"));
        (world, link)
    }

    /// The same, restarted into 2.0 and called again, with 4 sent.
    pub(crate) fn downloading_profile() -> (Self, Link) {
        let (mut world, link) = Self::downloading();
        world.says_five(link, DownloadResult::Verified);
        world.drops(link);
        let link = world.calls(info("2.0"));
        assert_eq!(world.told(link), [4]);
        (world, link)
    }

    /// The same, with 8 sent.
    pub(crate) fn applying() -> (Self, Link) {
        let (mut world, link) = Self::downloading_profile();
        world.says_seven(link, DownloadResult::Verified);
        assert_eq!(world.told(link), [8]);
        (world, link)
    }

    // What the controller does.

    /// Grants `target(id, now)`.
    pub(crate) fn grant(&mut self, id: i64) {
        self.grant_as(id, |_| {});
    }

    /// Grants `target(id, now)` with changes.
    pub(crate) fn grant_as(&mut self, id: i64, change: impl FnOnce(&mut Target)) {
        let mut target = target(id, self.now);
        change(&mut target);
        self.targets.insert(id, target.clone());
        self.change(|status| status.target = Some(target));
    }

    /// Grants `target(id, now)` for a download alone.
    pub(crate) fn grant_ahead(&mut self, id: i64) {
        self.grant_as(id, |target| target.stage = Stage::Download);
    }

    /// Grants the configuration alone, to be put into force `wait` from now; its try ends 15 minutes after that.
    pub(crate) fn grant_scheduled(&mut self, id: i64, wait: SignedDuration) {
        let at = self.now + wait;
        self.grant_as(id, |target| {
            target.firmware = None;
            target.scheduled = Some(Scheduled { at, local: Some(clock(at)) });
            target.until = at + mins(15);
        });
    }

    /// The target that was for a download alone goes on: its grant is now.
    pub(crate) fn activate(&mut self) {
        let now = self.now;
        let mut activated = self.api.status.target.clone().unwrap();
        let wait = activated.scheduled.map_or(now, |scheduled| scheduled.at.max(now));
        (activated.stage, activated.start_by, activated.until) = (Stage::Activate, now + secs(60), wait + mins(15));
        let fetching =
            |wire: &Wire| wire.open && wire.outstanding.is_some_and(|(_, command)| command.target == activated.id);
        if self.wires.values().any(fetching) || self.checking.is_some_and(|command| command.target == activated.id) {
            self.activated.insert(activated.id);
        }
        self.targets.insert(activated.id, activated.clone());
        self.change(|status| status.target = Some(activated));
    }

    pub(crate) fn withdraw(&mut self) {
        self.change(|status| status.target = None);
    }

    /// Somebody else writes, and everybody sees it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Status)) {
        self.change_unseen(change);
        self.see();
    }

    /// Somebody else writes, and we do not see it yet.
    pub(crate) fn change_unseen(&mut self, change: impl FnOnce(&mut Status)) {
        self.api.change(change);
        self.log.push((self.now, Line::Changed(Box::new(self.api.status.clone()))));
    }

    /// The watch brings what is on record.
    pub(crate) fn see(&mut self) {
        self.enqueue(Item::View);
    }

    /// Another bridge holds the device.
    pub(crate) fn other_claims(&mut self, run: Run) {
        let address = ADDRESS.to_owned();
        self.change(|status| {
            status.holder = Some(Holder { by: run, address, dismissed: false, contender: None });
        });
    }

    /// Another bridge asks for the device.
    pub(crate) fn other_contends(&mut self, run: Run) {
        self.change(|status| status.holder.as_mut().unwrap().contender = Some(run));
    }

    // What the device does.

    /// A new connection says 1.
    pub(crate) fn calls(&mut self, info: DeviceInformation) -> Link {
        self.calls_from(ADDRESS, info)
    }

    pub(crate) fn calls_from(&mut self, address: &str, info: DeviceInformation) -> Link {
        let link = self.wires.len() as Link + 1;
        self.wires.insert(link, Wire { open: true, opened: self.now, info: Some(info.clone()), ..Wire::default() });
        if self.session.is_none() {
            self.begin();
        }
        self.feed(Event::Called { connection: ConnectionId(link), address: address.to_owned(), info });
        link
    }

    pub(crate) fn says(&mut self, link: Link, message: DeviceMessage) {
        let wire = self.wires.get_mut(&link).unwrap();
        assert!(wire.open, "a closed connection speaks");
        if let DeviceMessage::Information(info) = &message {
            wire.info = Some(info.clone());
        }
        let kind = message.kind();
        // A late 9 answers what was unanswered.
        self.unanswered &= kind != kind::UPGRADE_RESULT;
        if let Some((_, command)) = wire.outstanding.take_if(|(answer, _)| *answer == kind) {
            wire.brought = match message {
                DeviceMessage::VersionDownloaded(DownloadResult::Verified, _)
                | DeviceMessage::ProfileDownloaded(DownloadResult::Verified, _) => Some(command),
                _ => None,
            };
        }
        self.feed(Event::Said { connection: ConnectionId(link), message });
    }

    pub(crate) fn says_one(&mut self, link: Link, info: DeviceInformation) {
        self.says(link, DeviceMessage::Information(info));
    }

    pub(crate) fn says_five(&mut self, link: Link, result: DownloadResult) {
        self.says(link, DeviceMessage::VersionDownloaded(result, ErrorDetail::default()));
    }

    pub(crate) fn says_seven(&mut self, link: Link, result: DownloadResult) {
        self.says(link, DeviceMessage::ProfileDownloaded(result, ErrorDetail::default()));
    }

    pub(crate) fn says_nine(&mut self, link: Link, result: ExecutionResult) {
        self.says(link, DeviceMessage::ProfileUpgraded(result, ErrorDetail::default()));
    }

    pub(crate) fn says_eleven(&mut self, link: Link, result: ExecutionResult) {
        self.says(link, DeviceMessage::LogUploaded(result, ErrorDetail::default()));
    }

    /// Its log has arrived, the one of this number.
    pub(crate) fn brings_log(&mut self, number: u32) -> Log {
        let target = self.api.status.target.as_ref().map_or(0, |target| target.id);
        let log = Log { target, location: format!("file:///logs/{number}.log"), at: self.now, size: 7 };
        self.feed(Event::Logged(log.clone()));
        log
    }

    /// There is no room for its log.
    pub(crate) fn log_is_refused(&mut self) -> LogRefused {
        let target = self.api.status.target.as_ref().map_or(0, |target| target.id);
        let refused = LogRefused { target, why: "there is no room".to_owned() };
        self.feed(Event::LogRefused(refused.clone()));
        refused
    }

    /// The connection goes, with all that we said confirmed.
    pub(crate) fn drops(&mut self, link: Link) {
        self.drop_link(link, true);
    }

    pub(crate) fn drop_link(&mut self, link: Link, acknowledged: bool) {
        self.end_link(link, acknowledged, EndedBy::Device);
    }

    pub(crate) fn end_link(&mut self, link: Link, acknowledged: bool, by: EndedBy) {
        let wire = self.wires.get_mut(&link).unwrap();
        if std::mem::take(&mut wire.open) {
            // A connection that was quiet for long enough has settled it.
            let settled = self.now >= wire.opened + self.timing.settle;
            self.unanswered = wire.outstanding.is_some() || (self.unanswered && !settled);
            if !acknowledged {
                self.restarted.retain(|_, on| *on != link);
            }
            self.feed(Event::Dropped { connection: ConnectionId(link), acknowledged, by });
        }
    }

    // What a test looks at.

    /// The target of which this file was ordered.
    pub(crate) fn ordered(&self, download: &Download) -> Target {
        self.targets[&self.numbers[&download.attempt.unwrap()].target].clone()
    }

    /// What the group of the device declares is another.
    pub(crate) fn declares(&mut self, version: Option<&str>) {
        let declared = version.map(|version| Release { version: version.to_owned(), size: Some(7) });
        self.change(|status| status.declared = declared);
    }

    /// What a device that takes announcements and is connected has been told, where it waits for its turn.
    pub(crate) fn check_announced(&self) {
        let Some(session) = &self.session else { return };
        let Some((ConnectionId(link), false)) = session.connection() else { return };
        let waits = session.state_name() == "Idle" && self.write.is_none() && self.seen == self.api.version;
        let target = self.viewed.target.as_ref().filter(|target| !target.ended);
        let ended =
            |target: &Target| self.viewed.progress.is_some_and(|at| at.target == target.id && at.phase == Phase::Done);
        let wire = &self.wires[&link];
        let Some(info) = wire.info.as_ref().filter(|info| info.capabilities.has(Capabilities::ANNOUNCEMENT)) else {
            return;
        };
        if waits && wire.open && self.viewed.legal && target.is_none_or(ended) {
            let due = self.viewed.declared.as_ref().filter(|release| release.version != info.version);
            let version = |release: &Release| release.version.clone();
            assert_eq!(wire.announced.as_ref().map(version), due.map(version), "what a waiting device was told");
        }
    }

    /// What was said on the connection since it was last asked, by message numbers.
    pub(crate) fn told(&mut self, link: Link) -> Vec<u8> {
        std::mem::take(&mut self.wires.get_mut(&link).unwrap().told)
    }

    /// Why we closed the connection, if we did.
    pub(crate) fn closed_for(&self, link: Link) -> Option<Reason> {
        self.wires[&link].closed_for
    }

    /// How the target on record ended.
    pub(crate) fn end(&self) -> Option<Reason> {
        let upgrade = self.api.status.upgrade.as_ref()?;
        let current = self.api.status.target.as_ref().map(|target| target.id);
        upgrade.end.as_ref().filter(|end| current == Some(end.target)).map(|end| end.reason)
    }

    /// The phase on record.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.api.status.upgrade.as_ref().map(|upgrade| upgrade.phase)
    }

    /// What was written since it was last asked.
    pub(crate) fn written(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.api.written)
    }

    pub(crate) fn state(&self) -> &'static str {
        self.session.as_ref().map_or("over", Session::state_name)
    }

    pub(crate) fn note(&mut self, line: String) {
        self.log.push((self.now, Line::Text(line)));
    }
}
