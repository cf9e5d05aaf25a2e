//! A session with a scripted driver around it: an API that holds the record, a clock, connections.
//!
//! Whatever a test does, each command is held against the rules that no command may break, and each effect against what a
//! driver can do: see [`World::send`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult, Transfer};
use fettle_protocol::message::{DeviceInformation, Download, ErrorDetail, Location, kind};
use fettle_protocol::session::{
    Command, ConnectionId, Counted, Effect, Event, File, Phase, Reason, Record, Session, SourceError, Step, Target,
    Timing, Transferred, View, WriteError,
};
use fettle_protocol::{DeviceMessage, Mac, ServerMessage};
use jiff::{SignedDuration, Timestamp};

use crate::api::{Api, Holder, Run, US};

/// More effects than an event has ever wanted at once.
const EFFECTS_MAX: usize = 6;
/// More ticks than a deadline that moves needs in one step of a test.
const TICKS_MAX: usize = 100;

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

/// What the session is to be fed next.
enum Item {
    Event(Event),
    /// What the API says when its turn has come.
    View,
}

/// What is known of a connection from outside.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) open: bool,
    /// 2 or 6 was said, and the sending side is shut.
    pub(crate) finishing: bool,
    pub(crate) probed: u32,
    pub(crate) closed_for: Option<Reason>,
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
    pub(crate) preparing: Option<Command>,
    pub(crate) checking: Option<Command>,
    /// The version that the driver has seen, and what it fed of it.
    seen: u64,
    viewed: View,
    queue: VecDeque<Item>,
    feeding: bool,
    /// Targets that got a first command; commands that were given numbers; targets with a 6 that may have arrived.
    pub(crate) commanded: BTreeSet<i64>,
    numbers: BTreeMap<u32, Command>,
    restarted: BTreeMap<i64, Link>,
    /// All targets there were.
    pub(crate) targets: BTreeMap<i64, Target>,
    /// Everything, for when a test fails.
    log: Vec<String>,
}

/// What is printed when a test fails.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.log {
                eprintln!("{line}");
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
        start_by: now + secs(60),
        until: now + mins(15),
        margin: secs(30),
        logs: (false, false),
        done: false,
        ended: false,
    }
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
            preparing: None,
            checking: None,
            seen: 0,
            viewed: View::default(),
            queue: VecDeque::new(),
            feeding: false,
            commanded: BTreeSet::new(),
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

    pub(crate) fn withdraw(&mut self) {
        self.change(|status| status.target = None);
    }

    /// Somebody else writes, and everybody sees it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut crate::api::Status)) {
        self.change_unseen(change);
        self.see();
    }

    /// Somebody else writes, and we do not see it yet.
    pub(crate) fn change_unseen(&mut self, change: impl FnOnce(&mut crate::api::Status)) {
        self.api.change(change);
        self.note(format!("API changed: {:?}", self.api.status));
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
        self.wires.insert(link, Wire { open: true, ..Wire::default() });
        if self.session.is_none() {
            self.begin();
        }
        self.feed(Event::Called { connection: ConnectionId(link), address: address.to_owned(), info });
        link
    }

    pub(crate) fn says(&mut self, link: Link, message: DeviceMessage) {
        let wire = self.wires.get_mut(&link).unwrap();
        assert!(wire.open, "a closed connection speaks");
        let kind = message.kind();
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

    /// The connection goes, with all that we said confirmed.
    pub(crate) fn drops(&mut self, link: Link) {
        self.drop_link(link, true);
    }

    pub(crate) fn drop_link(&mut self, link: Link, acknowledged: bool) {
        let wire = self.wires.get_mut(&link).unwrap();
        if std::mem::take(&mut wire.open) {
            if !acknowledged {
                self.restarted.retain(|_, on| *on != link);
            }
            self.feed(Event::Dropped { connection: ConnectionId(link), acknowledged });
        }
    }

    // What the bridge does.

    /// A session for the device, with what is on record now.
    fn begin(&mut self) {
        self.seen = self.api.version;
        self.viewed = self.api.view(self.us);
        self.session = Some(Session::new(self.timing, self.viewed.clone(), self.now));
    }

    /// This bridge dies, with all connections, and a new run begins.
    pub(crate) fn bridge_restarts(&mut self) {
        let dead = self.us;
        self.us.run += 1;
        self.api.alive.retain(|run| *run != dead);
        self.api.alive.push(self.us);
        self.session = None;
        (self.write, self.preparing, self.checking) = (None, None, None);
        for wire in self.wires.values_mut() {
            wire.open = false;
        }
        self.note(format!("bridge restarted as {:?}", self.us));
    }

    /// The time for devices to come back after a restart is over.
    pub(crate) fn grace_is_over(&mut self) {
        let ours = self.api.status.holder.as_ref().is_some_and(|holder| holder.by.bridge == self.us.bridge);
        if self.session.is_none() && ours {
            self.begin();
            self.feed(Event::Tick);
            self.pass(self.timing.drop_delay);
        }
    }

    /// The write that is wanted reaches the API and is answered.
    pub(crate) fn write_is_answered(&mut self) {
        let (record, base) = self.write.take().unwrap();
        let result = self.api.write(self.us, &record, base).map_err(|()| WriteError::Conflict);
        self.note(format!("written: {result:?}"));
        self.see();
        self.feed(Event::Written(result));
    }

    /// The write reaches the API, but the answer is lost.
    pub(crate) fn write_is_done_but_not_answered(&mut self) {
        let (record, base) = self.write.take().unwrap();
        let _ = self.api.write(self.us, &record, base);
        self.feed(Event::Written(Err(WriteError::Unavailable)));
    }

    pub(crate) fn write_is_not_answered(&mut self) {
        self.write.take().unwrap();
        self.feed(Event::Written(Err(WriteError::Unavailable)));
    }

    pub(crate) fn file_is_ready(&mut self) {
        let command = self.preparing.take().unwrap();
        self.feed(Event::Prepared(command, Ok(file(command))));
    }

    pub(crate) fn file_cannot_be_had(&mut self) {
        let command = self.preparing.take().unwrap();
        self.feed(Event::Prepared(command, Err(SourceError("the server of the vendor is away".to_owned()))));
    }

    pub(crate) fn accounting_says(&mut self, transferred: Transferred) {
        let command = self.checking.take().unwrap();
        self.feed(Event::Checked(command, transferred));
    }

    /// Time passes; what is due is done.
    pub(crate) fn pass(&mut self, time: SignedDuration) {
        let end = self.now.checked_add(time).unwrap();
        let mut ticks = 0;
        loop {
            let retry = (self.write.is_some() && self.api_answers == Answers::Not).then(|| self.now + secs(1));
            let deadline = self.session.as_ref().and_then(Session::deadline).map(|at| at.max(self.now));
            match (retry, deadline) {
                (Some(at), deadline) if at <= end && deadline.is_none_or(|deadline| at <= deadline) => {
                    self.now = at;
                    self.write_is_not_answered();
                }
                (_, Some(at)) if at <= end => {
                    ticks += 1;
                    assert!(ticks < TICKS_MAX, "deadlines come too thick");
                    self.now = at;
                    self.feed(Event::Tick);
                    let next = self.session.as_ref().and_then(Session::deadline);
                    assert!(next.is_none_or(|next| next > self.now), "a deadline that stays: {next:?}");
                }
                _ => break,
            }
        }
        self.now = end;
    }

    pub(crate) fn feed(&mut self, event: Event) {
        self.enqueue(Item::Event(event));
    }

    /// Feeds the session, one event after the other: what follows from the effects of one comes after all of them.
    fn enqueue(&mut self, item: Item) {
        self.queue.push_back(item);
        if std::mem::replace(&mut self.feeding, true) {
            return;
        }
        while let Some(item) = self.queue.pop_front() {
            let event = match item {
                Item::Event(event) => event,
                Item::View => {
                    self.seen = self.api.version;
                    self.viewed = self.api.view(self.us);
                    Event::Viewed(self.viewed.clone())
                }
            };
            self.feed_one(event);
        }
        self.feeding = false;
    }

    fn feed_one(&mut self, event: Event) {
        self.note(format!("{event:?}"));
        let Some(session) = self.session.take() else { return };
        let (session, effects) = session.on(event, self.now);
        self.note(format!("-> {} {effects:?}", session.state_name()));
        assert!(effects.len() <= EFFECTS_MAX, "{effects:?}");
        let over = session.is_over();
        self.session = Some(session);
        let last = effects.len().saturating_sub(1);
        for (index, effect) in effects.into_iter().enumerate() {
            assert!(index == last || effect != Effect::Refresh, "Refresh feeds a view: it comes last");
            self.carry_out(effect);
        }
        if over {
            assert!(self.write.is_none(), "a session is over with a write under way");
            self.note("session is over".to_owned());
            self.session = None;
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(ConnectionId(link), message) => self.send(link, message),
            Effect::Finish(ConnectionId(link)) => self.wires.get_mut(&link).unwrap().finishing = true,
            Effect::Close(ConnectionId(link), reason) => {
                let wire = self.wires.get_mut(&link).unwrap();
                assert!(wire.open && wire.closed_for.is_none(), "closed twice");
                wire.closed_for = Some(reason);
                self.drop_link(link, true);
            }
            Effect::Probe(ConnectionId(link)) => self.wires.get_mut(&link).unwrap().probed += 1,
            Effect::Prepare(command, until) => {
                assert!(until > self.now);
                assert!(self.numbers.insert(command.number, command).is_none(), "a number is given twice: {command:?}");
                self.preparing = Some(command);
                if self.files_answer == Answers::Promptly {
                    self.file_is_ready();
                }
            }
            Effect::Check(command) => {
                self.checking = Some(command);
                if self.files_answer == Answers::Promptly {
                    self.accounting_says(Transferred::Wholly);
                }
            }
            Effect::Write(record) => {
                assert!(self.write.is_none(), "two writes at once");
                self.write = Some((record, self.seen));
                if self.api_answers == Answers::Promptly {
                    self.write_is_answered();
                }
            }
            Effect::Refresh => {
                self.refreshed += 1;
                self.see();
            }
            Effect::Count(counted) => self.counted.push(counted),
        }
    }

    /// Something is said to the device: the rules that nothing may break.
    fn send(&mut self, link: Link, message: ServerMessage) {
        let kind = message.kind();
        let wire = self.wires.get_mut(&link).unwrap();
        assert!(wire.open && !wire.finishing, "{kind} on a connection that is closed");
        assert!(wire.outstanding.is_none(), "{kind} into {:?}", wire.outstanding);
        wire.told.push(kind);
        wire.inbox.push(message.clone());
        let prepared = match &message {
            ServerMessage::DownloadVersion(download) | ServerMessage::DownloadProfile(download) => {
                Some(self.numbers[&download.attempt.unwrap()])
            }
            _ => None,
        };
        match message {
            ServerMessage::Interrupt => return,
            ServerMessage::UploadLog(_) => {
                let command = *self.numbers.last_key_value().unwrap().1;
                wire.outstanding = Some((kind::LOG_RESULT, command));
                return;
            }
            ServerMessage::DownloadVersion(_) => wire.outstanding = prepared.map(|of| (kind::VERSION_RESULT, of)),
            ServerMessage::DownloadProfile(_) => wire.outstanding = prepared.map(|of| (kind::PROFILE_RESULT, of)),
            ServerMessage::Restart | ServerMessage::UpgradeProfile(_) | ServerMessage::Unknown(_) => {}
        }
        // By what the bridge could know.
        let View { target, progress, hold, .. } = &self.viewed;
        assert_eq!(*hold, fettle_protocol::session::Hold::Us, "{kind} by who does not hold the device");
        let target = target.as_ref().filter(|target| !target.ended).expect("a command without a target");
        let phase = progress.filter(|progress| progress.target == target.id).map(|progress| progress.phase);
        assert_ne!(phase, Some(Phase::Done), "{kind} for a target that has ended");
        assert!(self.now <= target.until - target.margin, "{kind} too late");
        if self.commanded.insert(target.id) {
            assert!(self.now <= target.start_by || phase.is_some(), "a first command too late");
        }
        if let Some(command) = prepared {
            assert_eq!(command.target, target.id, "{kind} for a former target");
        }
        let step = match kind {
            kind::RESTART => Step::Version,
            kind::UPGRADE_PROFILE => Step::Profile,
            _ => return,
        };
        let brought = wire.brought.take().expect("a restart or push that no result on this connection allows");
        assert_eq!((brought.target, brought.step), (target.id, step), "{kind} after the result of another command");
        assert!(phase.is_some(), "{kind} before its phase is on record");
        if step == Step::Version {
            assert!(
                self.restarted.insert(target.id, link).is_none(),
                "a second 6, where TCP may have brought the first"
            );
        } else {
            wire.outstanding = Some((kind::UPGRADE_RESULT, brought));
        }
    }

    // What a test looks at.

    /// The target of which this file was ordered.
    pub(crate) fn ordered(&self, download: &Download) -> Target {
        self.targets[&self.numbers[&download.attempt.unwrap()].target].clone()
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
        let line = format!("{} {line}", self.now);
        self.log.push(line);
    }
}

/// A file as the driver would name it; the attempt id tells us of which command it is.
fn file(command: Command) -> File {
    let location = Location {
        transfer: Transfer::Ftp,
        server: [192, 0, 2, 1],
        path: "p".to_owned(),
        file: "f".to_owned(),
        user: String::new(),
        password: String::new(),
        port: None,
    };
    match command.step {
        Step::Version | Step::Profile => File::Download(Download {
            location,
            crc: 0,
            config: None,
            attempt: Some(command.number),
            size: None,
            sha256: None,
        }),
        Step::Log => File::Upload(location),
    }
}
