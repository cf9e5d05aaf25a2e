//! What the bridge does around a session: feeds it, carries out its effects, dies, and passes time. And the rules that
//! nothing that is said to a device may break.

use std::fmt;

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::{Capabilities, Transfer};
use fettle_protocol::message::{Download, Location, UpgradeAt, kind};
use fettle_protocol::session::{
    Command, ConnectionId, Effect, EndedBy, Event, File, Hold, Phase, Session, SourceError, Stage, Step, Transferred,
    View, WriteError,
};
use jiff::SignedDuration;

use super::{Answers, Link, World, secs};
use crate::api::Status;

/// More effects than an event has ever wanted at once.
const EFFECTS_MAX: usize = 6;
/// More ticks than a deadline that moves needs in one step of a test.
const TICKS_MAX: usize = 100;

/// What the session is to be fed next.
pub(super) enum Item {
    Event(Box<Event>),
    /// What the API says when its turn has come.
    View,
}

/// What happened, in words only where somebody reads it: the properties make millions.
pub(super) enum Line {
    Text(String),
    Fed(Box<Event>),
    Follows(&'static str, Vec<Effect>),
    Changed(Box<Status>),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text}"),
            Self::Fed(event) => write!(f, "{event:?}"),
            Self::Follows(state, effects) => write!(f, "-> {state} {effects:?}"),
            Self::Changed(status) => write!(f, "API changed: {status:?}"),
        }
    }
}

impl World {
    /// A session for the device, with what is on record now.
    pub(super) fn begin(&mut self) {
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
        (self.session, self.unanswered) = (None, false);
        (self.write, self.preparing, self.checking) = (None, None, None);
        for wire in self.wires.values_mut() {
            wire.open = false;
        }
        self.note(format!("bridge restarted as {:?}", self.us));
    }

    /// This bridge has a session for the device, which has not called.
    pub(crate) fn looks_after(&mut self) {
        if self.session.is_none() {
            self.begin();
        }
        self.feed(Event::Tick);
        self.pass(self.timing.drop_delay);
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
        self.api.now = self.now;
        let result = self.api.write(self.us, &record, base).map_err(|()| WriteError::Conflict);
        self.note(format!("written: {result:?}"));
        self.see();
        self.feed(Event::Written(result));
    }

    /// The write reaches the API, but the answer is lost.
    pub(crate) fn write_is_done_but_not_answered(&mut self) {
        let (record, base) = self.write.take().unwrap();
        self.api.now = self.now;
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
        if transferred != Transferred::Wholly {
            for wire in self.wires.values_mut() {
                wire.brought.take_if(|brought| *brought == command);
            }
        }
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
        self.enqueue(Item::Event(Box::new(event)));
    }

    /// Feeds the session, one event after the other: what follows from the effects of one comes after all of them.
    pub(super) fn enqueue(&mut self, item: Item) {
        self.queue.push_back(item);
        if std::mem::replace(&mut self.feeding, true) {
            return;
        }
        while let Some(item) = self.queue.pop_front() {
            let event = match item {
                Item::Event(event) => *event,
                Item::View => {
                    self.seen = self.api.version;
                    self.viewed = self.api.view(self.us);
                    self.unanswered &= self.viewed.hold == Hold::Us;
                    Event::Viewed(Box::new(self.viewed.clone()))
                }
            };
            self.feed_one(event);
        }
        self.feeding = false;
    }

    fn feed_one(&mut self, event: Event) {
        self.log.push((self.now, Line::Fed(Box::new(event.clone()))));
        let Some(session) = self.session.take() else { return };
        let (session, effects) = session.on(event, self.now);
        self.log.push((self.now, Line::Follows(session.state_name(), effects.clone())));
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
            (self.session, self.unanswered) = (None, false);
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
                self.end_link(link, true, EndedBy::Bridge);
            }
            Effect::Probe(ConnectionId(link)) => self.wires.get_mut(&link).unwrap().probed += 1,
            Effect::Prepare { command, can, until } => {
                assert!(until > self.now);
                if let Some((ConnectionId(link), _)) = self.session.as_ref().and_then(Session::connection) {
                    let said = self.wires[&link].info.as_ref().map(|info| info.capabilities);
                    assert_eq!(Some(can), said, "a file for what the device does not say that it takes");
                }
                assert!(self.numbers.insert(command.number, command).is_none(), "a number is given twice: {command:?}");
                self.preparing = Some(command);
                self.prepared_for.push(can);
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
            Effect::Ask { to, command, location: _, until } => {
                assert!(self.viewed.udp && self.viewed.hold != Hold::Other, "asked over UDP, which it must not be");
                assert!(self.wires.values().all(|wire| !wire.open || wire.finishing || wire.closed_for.is_some()));
                assert_eq!(self.numbers.get(&command.number), Some(&command));
                assert!(self.now < until);
                self.asked.push((to, command.number));
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
        let mode = match message {
            ServerMessage::UpgradeProfile(at) => Some(at),
            _ => None,
        };
        let prepared = match &message {
            ServerMessage::DownloadVersion(download) | ServerMessage::DownloadProfile(download) => {
                Some(self.numbers[&download.attempt.unwrap()])
            }
            _ => None,
        };
        match message {
            ServerMessage::Interrupt(_) => return,
            ServerMessage::Announcement(release) => {
                let info = wire.info.as_ref().unwrap();
                assert!(info.capabilities.has(Capabilities::ANNOUNCEMENT), "announced to who does not take it");
                assert_ne!(wire.announced, release, "announced again");
                assert!(release.as_ref().is_none_or(|release| release.version != info.version), "it runs that");
                let facts = info.capabilities.has(Capabilities::FILE_FACTS);
                assert!(release.as_ref().is_none_or(|release| release.size.is_some() == facts));
                assert_eq!(self.viewed.hold, Hold::Us, "announced by who does not hold the device");
                wire.announced = release;
                return;
            }
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
        assert_eq!(*hold, Hold::Us, "{kind} by who does not hold the device");
        let target = target.as_ref().filter(|target| !target.ended).expect("a command without a target");
        let phase = progress.filter(|progress| progress.target == target.id).map(|progress| progress.phase);
        assert_ne!(phase, Some(Phase::Done), "{kind} for a target that has ended");
        assert!(self.now <= target.until - target.margin, "{kind} too late");
        let begun = phase.is_some_and(Phase::is_begun);
        let was_first = match target.stage {
            Stage::Download => self.commanded.insert(target.id),
            // What was granted for a download alone is granted anew.
            Stage::Activate => self.commanded.insert(target.id) | self.activated.insert(target.id),
        };
        if was_first {
            let recorded = begun && !matches!(kind, kind::RESTART | kind::UPGRADE_PROFILE);
            assert!(self.now <= target.start_by || recorded, "a first command too late");
        }
        if self.unanswered {
            assert!(self.now >= wire.opened + self.timing.settle, "{kind} before the device has settled");
            self.unanswered = false;
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
        assert!(begun, "{kind} before its phase is on record");
        assert_eq!(target.stage, Stage::Activate, "{kind} for a target of a download alone");
        if step == Step::Version {
            assert!(
                self.restarted.insert(target.id, link).is_none(),
                "a second 6, where TCP may have brought the first"
            );
        } else {
            wire.outstanding = Some((kind::UPGRADE_RESULT, brought));
            let due = target.scheduled.map(|scheduled| (scheduled.at, scheduled.local));
            match (mode, due) {
                (Some(UpgradeAt::Time(local)), Some((at, due))) => {
                    assert!(self.now < at && due == Some(local), "8 names another time than the target");
                    assert_eq!(phase, Some(Phase::Scheduled), "8 for a later time before that is on record");
                    assert!(self.scheduled.insert(target.id), "8 for a later time is said again");
                }
                (Some(UpgradeAt::Time(_)), None) => panic!("8 for a time that nobody named"),
                (_, due) => assert!(due.is_none_or(|(at, _)| at <= self.now), "8 before the time"),
            }
        }
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
        url: None,
        log_key: None,
    };
    match command.step {
        Step::Version | Step::Profile => {
            File::Download(Download { attempt: Some(command.number), ..Download::base(location, 0) })
        }
        Step::Log => File::Upload(location),
    }
}
