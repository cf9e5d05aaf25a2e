//! What a device does about what it is told: the device's side of the protocol as a state machine. Pure.
//!
//! [`Agent::on`] takes what happened and says what is to be done, in order. It owns the rules of the conversation: what
//! is answered by what, what may be outstanding, what is told on the next connection. It knows no socket, no file and no
//! clock; whoever drives it does the [`Effect`]s and decides nothing.
//!
//! What outlives a connection: a profile that is being applied is applied to its end, and message 9 follows the next
//! message 1. A transfer is given up with its connection (unless the device is told to be late), because the server
//! begins again. A scheduled profile keeps its time, also where the device restarts or loses its power.

use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, Download, ErrorDetail, Location, UpgradeAt};
use fettle_protocol::{DeviceMessage, Dialect, Frame, FrameError, Mac, ServerMessage};

use crate::conformance::{self, Violation};
use crate::journal::{Event, FileKind, Received};
use crate::spec::{ScheduledReply, Vocabulary};

/// What never changes about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub mac: Mac,
    pub model: String,
    pub serial: Option<String>,
    pub vocabulary: Vocabulary,
    /// Capabilities of its vocabulary that it does not announce.
    pub withheld: Capabilities,
    pub scheduled_reply: ScheduledReply,
    /// Finish a transfer whose connection is lost, and tell its result on the next one.
    pub late_results: bool,
}

impl Identity {
    /// Whether it announces this.
    fn can(&self, capability: Capabilities) -> bool {
        self.vocabulary.capabilities().without(self.withheld).has(capability)
    }
}

/// What the device runs when it reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Datum 2.
    pub version: String,
    /// Datum 64.
    pub config: Option<String>,
}

/// What became of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// All of it, and its CRC is right.
    Verified,
    /// All of it, damaged.
    CrcMismatch,
    /// All of a difference, which makes something else than was promised of what runs.
    OtherImage,
    /// Why not.
    Failed(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A connection stands.
    Connected(Facts),
    Received(Frame),
    Malformed(FrameError),
    /// The connection is gone.
    Disconnected,
    /// The download ended.
    Fetched(FileKind, Fetched),
    /// The application of the profile ended: what the device runs now, or why it failed.
    Applied(Result<Facts, String>),
    /// The upload ended; `Err` says why it failed.
    Uploaded(Result<(), String>),
    /// The time that [`Effect::Schedule`] named has come.
    ScheduledTime,
    /// The device has booted after message 6.
    Restarted,
    /// The device has booted after anything else: it remembers nothing of what it was doing.
    PoweredOn,
    /// What was being done was dropped, by a fault: nothing will be heard of it.
    Dropped,
    /// A long operation has gone on for another while.
    ProgressDue(Option<u8>),
    /// Nothing has been said for a while.
    KeepAliveDue,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// To be written into the journal.
    Note(Event),
    Send(DeviceMessage),
    /// Fetch and check this; then [`Input::Fetched`].
    Fetch(FileKind, Box<Download>),
    /// Put the profile that was fetched into force; then [`Input::Applied`].
    Apply,
    /// At that time by the device's clock, [`Input::ScheduledTime`]. Replaces an earlier one.
    Schedule(jiff::civil::DateTime),
    /// Forget that time.
    Unschedule,
    /// Send the log there; then [`Input::Uploaded`].
    Upload(Box<Location>),
    /// Stop what [`Effect::Fetch`] or [`Effect::Upload`] began; nothing is to be heard of it.
    Abandon,
    /// Close the connection, write the flash, boot; then [`Input::Restarted`].
    Restart,
    /// Close the connection, and call again after a wait.
    HangUp(HangUp),
}

/// Why the device closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUp {
    /// Message 2 told it to, and perhaps in how many seconds to call again.
    Told(Option<u32>),
    /// The server sends bytes that are no message.
    Malformed,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Fetching(FileKind),
    Applying(Because),
    Uploading,
}

/// Why a profile is put into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Because {
    /// Message 8 said so, just now.
    Told,
    /// Its time has come.
    ItIsTime,
}

/// What was said on the connection that stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Link {
    /// 5=0
    image_reported: bool,
    /// 7=0
    profile_reported: bool,
    /// What is being done was commanded here: the server knows of it. It cannot know of what an earlier connection or a
    /// schedule began.
    commanded: bool,
    /// Datum 64 of the last message 1.
    config: Option<String>,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Agent {
    identity: Identity,
    link: Option<Link>,
    work: Option<Work>,
    /// A result that had no connection to go out on.
    owed: Option<DeviceMessage>,
    /// A profile is to be put into force at a time that has not come.
    scheduled: bool,
    /// The time has come, but something else is being done.
    apply_next: bool,
    /// The boot was one that message 6 asked for, and message 33 is due.
    restarted: bool,
}

impl Agent {
    /// A device that has just been switched on.
    pub fn new(identity: Identity) -> Self {
        Self { identity, link: None, work: None, owed: None, scheduled: false, apply_next: false, restarted: false }
    }

    /// Whether [`Input::ProgressDue`] and [`Input::KeepAliveDue`] do anything.
    pub fn has_timers(&self) -> bool {
        self.identity.vocabulary == Vocabulary::Extended
    }

    /// What has booted knows this much of the protocol.
    pub fn speaks(&mut self, vocabulary: Vocabulary) {
        self.identity.vocabulary = vocabulary;
    }

    /// Takes what happened, and says what to do about it, in order.
    pub fn on(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.take(input);
        // A device that goes down comes back to it.
        if self.work.is_none() && self.apply_next && !effects.contains(&Effect::Restart) {
            self.apply_next = false;
            effects.push(self.apply_unasked());
        }
        effects
    }

    fn take(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Connected(facts) => self.connected(facts),
            Input::Received(frame) => self.received(&frame),
            Input::Malformed(error) => {
                vec![Effect::Note(Event::Violation(Violation::from(error))), Effect::HangUp(HangUp::Malformed)]
            }
            Input::Disconnected => self.disconnected(),
            Input::Fetched(file, fetched) => self.fetched(file, fetched),
            Input::Applied(applied) => self.applied(applied),
            Input::Uploaded(uploaded) => {
                self.work = None;
                let (result, detail) = self.execution(uploaded);
                self.report(DeviceMessage::LogUploaded(result, detail))
            }
            Input::ScheduledTime => self.scheduled_time(),
            Input::Restarted => {
                self.forget();
                self.restarted = true;
                vec![]
            }
            Input::PoweredOn => {
                self.forget();
                vec![]
            }
            Input::Dropped => {
                self.work = None;
                vec![]
            }
            Input::ProgressDue(percent) => self.progress(percent),
            Input::KeepAliveDue => match self.link {
                Some(_) if self.identity.can(Capabilities::KEEP_ALIVE) && self.work.is_none() => {
                    vec![Effect::Send(DeviceMessage::KeepAlive)]
                }
                _ => vec![],
            },
        }
    }

    fn forget(&mut self) {
        let Self { scheduled, apply_next, .. } = *self;
        *self = Self { scheduled, apply_next, ..Self::new(self.identity.clone()) };
    }

    fn connected(&mut self, facts: Facts) -> Vec<Effect> {
        self.link = Some(Link { config: facts.config.clone(), ..Link::default() });
        let information = self.information(facts);
        let mut effects = vec![Effect::Send(DeviceMessage::Information(information))];
        if std::mem::take(&mut self.restarted) && self.identity.can(Capabilities::RESTART_COMPLETE) {
            effects.push(Effect::Send(DeviceMessage::RestartComplete));
        }
        if let Some(owed) = self.owed.take() {
            effects.extend(self.report(owed));
        }
        effects
    }

    /// Message 1.
    pub fn information(&self, facts: Facts) -> DeviceInformation {
        let Identity { mac, model, serial, vocabulary, withheld, scheduled_reply: _, late_results: _ } = &self.identity;
        match vocabulary {
            Vocabulary::Strict => DeviceInformation {
                mac: *mac,
                version: facts.version,
                model: model.clone(),
                config: None,
                serial: None,
                capabilities: Capabilities::default(),
                dialect: Dialect::CANONICAL,
            },
            Vocabulary::Extended => DeviceInformation {
                mac: *mac,
                version: facts.version,
                model: model.clone(),
                config: facts.config,
                serial: serial.clone(),
                capabilities: vocabulary.capabilities().without(*withheld),
                dialect: Dialect::CANONICAL,
            },
        }
    }

    fn received(&mut self, frame: &Frame) -> Vec<Effect> {
        let (message, violations) = conformance::read(frame, self.identity.vocabulary);
        let mut effects = Vec::new();
        let violation = |violation| Effect::Note(Event::Violation(violation));
        let Some(message) = message else {
            // Nothing to obey, but it came.
            let received = Received { message: frame.message, place: None, at: None, announced: None };
            effects.push(Effect::Note(Event::Received(received)));
            effects.extend(violations.into_iter().map(violation));
            return effects;
        };
        effects.push(Effect::Note(Event::Received(Received::from(&message))));
        effects.extend(violations.into_iter().map(violation));
        let busy = self.work.is_some() && self.link.as_ref().is_some_and(|link| link.commanded);
        if matches!(message, ServerMessage::Announcement(_)) && !self.identity.can(Capabilities::ANNOUNCEMENT) {
            effects.push(violation(Violation::UnknownMessage { message: message.kind() }));
        }
        if busy && !matches!(message, ServerMessage::Interrupt(_)) {
            effects.push(violation(Violation::CommandWhileBusy { message: message.kind() }));
        }
        match message {
            ServerMessage::Interrupt(again) => effects.push(Effect::HangUp(HangUp::Told(again))),
            ServerMessage::DownloadVersion(download) => self.fetch(FileKind::Image, download, &mut effects),
            ServerMessage::DownloadProfile(download) => self.fetch(FileKind::Profile, download, &mut effects),
            ServerMessage::Restart => {
                self.abandon(&mut effects);
                if self.link.as_ref().is_some_and(|link| link.image_reported) {
                    effects.push(Effect::Restart);
                } else {
                    // Ignored: there is nothing that it was promised to become.
                    effects.push(violation(Violation::RestartWithoutDownload));
                }
            }
            ServerMessage::UpgradeProfile(at) => {
                if self.link.as_ref().is_some_and(|link| link.profile_reported) {
                    self.upgrade(at, &mut effects);
                } else {
                    effects.push(violation(Violation::UpgradeWithoutDownload));
                    let (result, detail) = self.execution(Err("there is no profile".to_owned()));
                    effects.extend(self.report(DeviceMessage::ProfileUpgraded(result, detail)));
                }
            }
            ServerMessage::UploadLog(location) => {
                if self.is_applying() {
                    effects.extend(self.report(DeviceMessage::LogUploaded(ExecutionResult::Failure(1), self.busy())));
                } else {
                    self.abandon(&mut effects);
                    self.begin(Work::Uploading);
                    effects.push(Effect::Upload(Box::new(location)));
                }
            }
            // Noted as received, for whoever looks at the device; nothing is done about it.
            ServerMessage::Announcement(_) => {}
            // Not one that `conformance::read` lets through.
            ServerMessage::Unknown(_) => {}
        }
        effects
    }

    /// What a command that has just come asks for.
    fn begin(&mut self, work: Work) {
        self.work = Some(work);
        if let Some(link) = &mut self.link {
            link.commanded = true;
        }
    }

    fn is_applying(&self) -> bool {
        matches!(self.work, Some(Work::Applying(_)))
    }

    fn busy(&self) -> ErrorDetail {
        self.detail("another command is being done".to_owned())
    }

    /// Data 75 and 76 are for those who announced more than the base protocol.
    fn detail(&self, text: String) -> ErrorDetail {
        match self.identity.vocabulary {
            Vocabulary::Strict => ErrorDetail::default(),
            // A datum holds 248 bytes; what does not fit says no more.
            Vocabulary::Extended => {
                ErrorDetail { code: None, text: Some(text.chars().take(60).filter(|c| !c.is_control()).collect()) }
            }
        }
    }

    fn execution(&self, done: Result<(), String>) -> (ExecutionResult, ErrorDetail) {
        match done {
            Ok(()) => (ExecutionResult::Success, ErrorDetail::default()),
            Err(why) => (ExecutionResult::Failure(1), self.detail(why)),
        }
    }

    fn download_message(file: FileKind, result: DownloadResult, detail: ErrorDetail) -> DeviceMessage {
        match file {
            FileKind::Image => DeviceMessage::VersionDownloaded(result, detail),
            FileKind::Profile => DeviceMessage::ProfileDownloaded(result, detail),
        }
    }

    fn fetch(&mut self, file: FileKind, download: Download, effects: &mut Vec<Effect>) {
        if self.is_applying() {
            let refusal = Self::download_message(file, DownloadResult::Failed(2), self.busy());
            effects.extend(self.report(refusal));
            return;
        }
        self.abandon(effects);
        if file == FileKind::Profile {
            // It takes the place of the one that waits for its time.
            self.unschedule(effects);
        }
        self.begin(Work::Fetching(file));
        if let Some(link) = &mut self.link {
            // What was reported before is being overwritten.
            match file {
                FileKind::Image => link.image_reported = false,
                FileKind::Profile => link.profile_reported = false,
            }
        }
        effects.push(Effect::Fetch(file, Box::new(download)));
    }

    fn fetched(&mut self, file: FileKind, fetched: Fetched) -> Vec<Effect> {
        self.work = None;
        let (result, detail) = match fetched {
            Fetched::Verified => (DownloadResult::Verified, ErrorDetail::default()),
            Fetched::CrcMismatch => (DownloadResult::CrcMismatch, ErrorDetail::default()),
            Fetched::OtherImage => {
                let why = "the difference does not make that image of what runs".to_owned();
                (DownloadResult::CrcMismatch, self.detail(why))
            }
            Fetched::Failed(why) => (DownloadResult::Failed(2), self.detail(why)),
        };
        self.report(Self::download_message(file, result, detail))
    }

    fn applied(&mut self, applied: Result<Facts, String>) -> Vec<Effect> {
        let because = self.work.take();
        let mut effects = Vec::new();
        let done = applied.map(|facts| {
            // Message 1 again, as what it says has changed; before the result, so that the server knows both at once.
            let is_extended = self.identity.vocabulary == Vocabulary::Extended;
            let information = self.information(facts.clone());
            if let Some(link) = self.link.as_mut().filter(|link| is_extended && link.config != facts.config) {
                link.config = facts.config;
                effects.push(Effect::Send(DeviceMessage::Information(information)));
            }
        });
        let is_said = self.identity.scheduled_reply == ScheduledReply::AcceptedOnly
            && because == Some(Work::Applying(Because::ItIsTime))
            && done.is_ok();
        if !is_said {
            let (result, detail) = self.execution(done);
            effects.extend(self.report(DeviceMessage::ProfileUpgraded(result, detail)));
        }
        effects
    }

    fn upgrade(&mut self, at: UpgradeAt, effects: &mut Vec<Effect>) {
        match at {
            // The 9 that is to come answers both.
            UpgradeAt::Immediately if self.is_applying() => self.work = Some(Work::Applying(Because::Told)),
            UpgradeAt::Immediately => {
                self.abandon(effects);
                self.unschedule(effects);
                self.begin(Work::Applying(Because::Told));
                effects.push(Effect::Apply);
            }
            UpgradeAt::Time(time) => {
                effects.push(Effect::Schedule(time));
                (self.scheduled, self.apply_next) = (true, false);
                match self.identity.scheduled_reply {
                    ScheduledReply::Applied => {}
                    ScheduledReply::Accepted | ScheduledReply::AcceptedOnly => effects.extend(
                        self.report(DeviceMessage::ProfileUpgraded(ExecutionResult::Success, ErrorDetail::default())),
                    ),
                }
            }
        }
    }

    /// What is done at once if nothing else is.
    fn scheduled_time(&mut self) -> Vec<Effect> {
        (self.scheduled, self.apply_next) = (false, true);
        vec![]
    }

    fn unschedule(&mut self, effects: &mut Vec<Effect>) {
        self.apply_next = false;
        if std::mem::take(&mut self.scheduled) {
            effects.push(Effect::Unschedule);
        }
    }

    /// What no command of this connection asked for.
    fn apply_unasked(&mut self) -> Effect {
        self.work = Some(Work::Applying(Because::ItIsTime));
        if let Some(link) = &mut self.link {
            link.commanded = false;
        }
        Effect::Apply
    }

    fn abandon(&mut self, effects: &mut Vec<Effect>) {
        match self.work {
            Some(Work::Fetching(_) | Work::Uploading) => {
                self.work = None;
                effects.push(Effect::Abandon);
            }
            Some(Work::Applying(_)) | None => {}
        }
    }

    fn disconnected(&mut self) -> Vec<Effect> {
        self.link = None;
        let mut effects = Vec::new();
        if !self.identity.late_results {
            self.abandon(&mut effects);
        }
        effects
    }

    /// Sends a result, or keeps it for the next connection.
    fn report(&mut self, message: DeviceMessage) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(link) = &mut self.link {
            match message {
                DeviceMessage::VersionDownloaded(result, _) => {
                    link.image_reported = result == DownloadResult::Verified;
                }
                DeviceMessage::ProfileDownloaded(result, _) => {
                    link.profile_reported = result == DownloadResult::Verified;
                }
                _ => {}
            }
            effects.push(Effect::Send(message));
        } else {
            self.owed = Some(message);
        }
        effects
    }

    fn progress(&self, percent: Option<u8>) -> Vec<Effect> {
        let text = match self.work {
            Some(Work::Fetching(_)) => "downloading",
            Some(Work::Applying(_)) => "applying",
            Some(Work::Uploading) => "uploading",
            None => return vec![],
        };
        match self.link {
            Some(_) if self.identity.can(Capabilities::PROGRESS) => {
                vec![Effect::Send(DeviceMessage::Progress { percent, text: Some(text.to_owned()) })]
            }
            _ => vec![],
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
