//! Events, one by one: what each changes. What follows from a state is in [`judge`](super::judge).

use jiff::Timestamp;

use super::types::*;
use super::{Connection, Memory, Newcomer, Session, State};
use crate::datum::{DownloadResult, ExecutionResult};
use crate::message::{DeviceInformation, DeviceMessage, ErrorDetail, ServerMessage, UpgradeAt, kind};

impl Session {
    /// A device that is not connected to this bridge.
    pub fn new(timing: Timing, view: View, now: Timestamp) -> Self {
        let mut session = Self {
            timing,
            view: View::default(),
            connection: None,
            newcomer: None,
            state: State::Away { since: now },
            memory: Memory::default(),
            writing: false,
            refuse_at: None,
            next_command: 1,
        };
        session.adopt(view);
        session
    }

    /// Whether nothing is left to remember: the device is away and the API has all that is known.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Away { .. })
            && self.newcomer.is_none()
            && !self.writing
            && self.memory.end.is_none()
            && !matches!(self.view.hold, Hold::Us | Hold::Predecessor)
    }

    /// The connection that holds the MAC, and whether a command is outstanding on it, so that its own deadline counts
    /// and keep-alive does not.
    pub fn connection(&self) -> Option<(ConnectionId, bool)> {
        let outstanding =
            matches!(self.state, State::Downloading { .. } | State::Applying { .. } | State::Uploading { .. });
        self.connection.as_ref().map(|connection| (connection.id, outstanding))
    }

    /// What is going on, in a word: for logs and metrics.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Away { .. } => "Away",
            State::Idle => "Idle",
            State::Contending { .. } => "Contending",
            State::Settling { .. } => "Settling",
            State::Preparing { .. } => "Preparing",
            State::Downloading { .. } => "Downloading",
            State::Checking { .. } => "Checking",
            State::Announcing { .. } => "Announcing",
            State::Restarting => "Restarting",
            State::Applying { .. } => "Applying",
            State::Uploading { .. } => "Uploading",
            State::Dismissed => "Dismissed",
        }
    }

    /// Takes in an event and says what is to be done.
    #[must_use]
    pub fn on(mut self, event: Event, now: Timestamp) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        match event {
            Event::Called { connection, address, info } => {
                self.called(Connection { id: connection, address, info }, now, &mut effects);
            }
            Event::Said { connection, message } => self.said(connection, message, &mut effects),
            Event::Dropped { connection, acknowledged } => self.dropped(connection, acknowledged, now),
            Event::Viewed(view) => self.adopt(view),
            Event::Written(_) => self.writing = false,
            Event::Prepared(command, file) => self.prepared(command, file, now, &mut effects),
            Event::Checked(command, transferred) => self.checked(command, transferred, now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.advance(now, &mut effects);
        (self, effects)
    }

    /// Takes over what the API says. Memory is about one target.
    fn adopt(&mut self, view: View) {
        let target = view.target.as_ref().map(|target| target.id);
        if target != self.memory.target {
            self.memory = Memory {
                target,
                // The device may still be at what the former target told it.
                unanswered: self.memory.unanswered,
                // What was begun before this process is not known to it.
                not_restarted: !matches!(view.progress, Some(Progress { target: of, phase: Phase::Restarting }) if Some(of) == target),
                losses: u8::from(
                    matches!(view.progress, Some(Progress { target: of, phase: Phase::Applying }) if Some(of) == target),
                ),
                ..Memory::default()
            };
        }
        self.view = view;
    }

    fn called(&mut self, connection: Connection, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(holder) = &self.connection else { return self.accept(connection, now) };
        if let Some(former) = self.newcomer.take() {
            effects.push(Effect::Close(former.connection.id, Reason::Replaced));
        }
        // What was sent away, or into a restart, has given up its claim; all others are asked.
        effects.push(match self.state {
            State::Restarting | State::Dismissed => Effect::Close(holder.id, Reason::Replaced),
            _ => Effect::Probe(holder.id),
        });
        effects.push(Effect::Count(Counted::Contention));
        self.newcomer = Some(Newcomer { connection, decide_at: now + self.timing.probe });
    }

    fn accept(&mut self, connection: Connection, now: Timestamp) {
        // A former run of this bridge may have sent a command that nobody remembers.
        let inherited = self.view.hold == Hold::Predecessor && self.live_target().is_some();
        self.state = if self.memory.unanswered || inherited {
            State::Settling { until: now + self.timing.settle }
        } else {
            State::Idle
        };
        self.connection = Some(connection);
    }

    fn dropped(&mut self, id: ConnectionId, acknowledged: bool, now: Timestamp) {
        if self.newcomer.as_ref().is_some_and(|newcomer| newcomer.connection.id == id) {
            self.newcomer = None;
            return;
        }
        if self.connection.as_ref().is_none_or(|connection| connection.id != id) {
            return;
        }
        match self.state {
            State::Downloading { .. } | State::Checking { .. } => self.memory.unanswered = true,
            State::Applying { .. } => self.lose_result(),
            State::Restarting => self.memory.not_restarted = !acknowledged,
            State::Away { .. }
            | State::Idle
            | State::Contending { .. }
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Announcing { .. }
            | State::Uploading { .. }
            | State::Dismissed => {}
        }
        self.connection = None;
        self.refuse_at = None;
        self.state = State::Away { since: now };
        if let Some(newcomer) = self.newcomer.take() {
            self.accept(newcomer.connection, now);
        }
    }

    fn lose_result(&mut self) {
        self.memory.unanswered = true;
        self.memory.losses = self.memory.losses.saturating_add(1);
    }

    fn said(&mut self, id: ConnectionId, message: DeviceMessage, effects: &mut Vec<Effect>) {
        if let Some(newcomer) = self.newcomer.as_mut().filter(|newcomer| newcomer.connection.id == id) {
            if let DeviceMessage::Information(info) = message {
                newcomer.connection.info = info;
            }
            return;
        }
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.id == id) else { return };
        match message {
            DeviceMessage::Information(info) => connection.info = info,
            DeviceMessage::VersionDownloaded(result, detail) => {
                self.downloaded(Step::Version, kind::VERSION_RESULT, result, &detail, effects);
            }
            DeviceMessage::ProfileDownloaded(result, detail) => {
                self.downloaded(Step::Profile, kind::PROFILE_RESULT, result, &detail, effects);
            }
            DeviceMessage::ProfileUpgraded(result, detail) => self.applied(result, &detail, effects),
            DeviceMessage::LogUploaded(ExecutionResult::Success | ExecutionResult::Failure(_), _) => match self.state {
                State::Uploading { .. } => self.state = State::Idle,
                _ => effects.push(Effect::Count(Counted::Unasked(kind::LOG_RESULT))),
            },
            DeviceMessage::Progress { .. } | DeviceMessage::RestartComplete | DeviceMessage::KeepAlive => {}
            DeviceMessage::Unknown(kind) => effects.push(Effect::Count(Counted::UnknownMessage(kind))),
        }
    }

    fn downloaded(
        &mut self,
        step: Step,
        kind: u8,
        result: DownloadResult,
        detail: &ErrorDetail,
        effects: &mut Vec<Effect>,
    ) {
        let command = match self.state {
            State::Downloading { command, .. } if command.step == step => command,
            _ => return effects.push(Effect::Count(Counted::Unasked(kind))),
        };
        self.state = State::Idle;
        let what = match step {
            Step::Version => "the image",
            Step::Profile => "the configuration",
            Step::Log => "the log",
        };
        match result {
            DownloadResult::Verified => {
                self.state = State::Checking { command };
                effects.push(Effect::Check(command));
            }
            DownloadResult::CrcMismatch => {
                let message = format!("the device downloaded {what} and found its CRC wrong");
                self.end(command.target, Reason::CrcMismatch, with_detail(message, detail), effects);
            }
            DownloadResult::Failed(code) => {
                let message = format!("the device could not download {what} (result {code})");
                self.end(command.target, Reason::DownloadFailed, with_detail(message, detail), effects);
            }
        }
    }

    fn applied(&mut self, result: ExecutionResult, detail: &ErrorDetail, effects: &mut Vec<Effect>) {
        // 9 after a new message 1 answers the 8 before.
        let late = matches!(self.state, State::Settling { .. }) && self.memory.losses > 0;
        let asked = late || matches!(self.state, State::Applying { .. });
        let Some(target) = self.live_target().filter(|_| asked).cloned() else {
            if matches!(self.state, State::Applying { .. }) {
                self.state = State::Idle;
            }
            return effects.push(Effect::Count(Counted::Unasked(kind::UPGRADE_RESULT)));
        };
        self.state = State::Idle;
        self.memory.unanswered = false;
        match result {
            ExecutionResult::Success => self.end(target.id, Reason::Upgraded, String::new(), effects),
            ExecutionResult::Failure(code) => {
                let message = format!("the device could not put the configuration into force (result {code})");
                self.end(target.id, Reason::ApplyFailed, with_detail(message, detail), effects);
            }
        }
    }

    fn prepared(
        &mut self,
        command: Command,
        file: Result<File, SourceError>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.state != (State::Preparing { command }) {
            return;
        }
        self.state = State::Idle;
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        if command.step == Step::Log {
            if let Ok(File::Upload(location)) = file {
                effects.push(Effect::Send(connection, ServerMessage::UploadLog(location)));
                self.state = State::Uploading { deadline: now + self.timing.log };
            }
            return;
        }
        let Some(target) = self.live_target().filter(|target| target.id == command.target) else { return };
        let (deadline, may) = (target.until, self.may_command(target, now));
        match file {
            Err(SourceError(why)) => self.end(command.target, Reason::SourceUnavailable, why, effects),
            Ok(File::Download(download)) if may => {
                let message = match command.step {
                    Step::Version => ServerMessage::DownloadVersion(download),
                    Step::Profile | Step::Log => ServerMessage::DownloadProfile(download),
                };
                effects.push(Effect::Send(connection, message));
                self.memory.started = true;
                self.state = State::Downloading { command, deadline };
            }
            Ok(File::Download(_) | File::Upload(_)) => {}
        }
    }

    fn checked(&mut self, command: Command, transferred: Transferred, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.state != (State::Checking { command }) {
            return;
        }
        self.state = State::Idle;
        if self.live_target().is_none_or(|target| target.id != command.target) {
            return;
        }
        match transferred {
            Transferred::Wholly => {
                self.state = State::Announcing { command };
                self.command_activation(now, effects);
            }
            Transferred::NotWholly => {
                let message = "the device says that it has the file, but our server has not sent it whole".to_owned();
                self.end(command.target, Reason::NotTransferred, message, effects);
            }
        }
    }

    /// Sends 6 or 8 where its phase is on record.
    pub(super) fn command_activation(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let State::Announcing { command } = self.state else { return };
        let Some(target) = self.live_target().filter(|target| target.id == command.target).cloned() else {
            self.state = State::Idle;
            return;
        };
        if !self.has_begun() || self.writing {
            return;
        }
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        if now > target.last_command() {
            let message = "the time of the try was over before the command could go out".to_owned();
            self.state = State::Idle;
            return self.end(target.id, Reason::TimedOut, message, effects);
        }
        match command.step {
            Step::Version => {
                effects.push(Effect::Send(connection, ServerMessage::Restart));
                effects.push(Effect::Finish(connection));
                self.memory.not_restarted = false;
                self.state = State::Restarting;
            }
            Step::Profile | Step::Log => {
                effects.push(Effect::Send(connection, ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
                self.state = State::Applying { deadline: now + self.timing.apply };
            }
        }
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(newcomer) = self.newcomer.take_if(|newcomer| newcomer.decide_at <= now) {
            effects.push(Effect::Close(newcomer.connection.id, Reason::HolderAnswers));
        }
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        match self.state {
            State::Settling { until } if until <= now => {
                self.memory.unanswered = false;
                self.state = State::Idle;
            }
            // Whatever the driver still brings is too late.
            State::Preparing { .. } if self.live_target().is_some_and(|target| target.until <= now) => {
                self.state = State::Idle;
            }
            State::Contending { decide_at, .. } if decide_at <= now => {
                effects.push(Effect::Close(connection, Reason::HeldElsewhere));
                self.dropped(connection, true, now);
            }
            State::Downloading { command, deadline } if deadline <= now => {
                effects.push(Effect::Close(connection, Reason::DeadlineExceeded));
                self.dropped(connection, true, now);
                let message = "the device did not finish its download before the end of the try".to_owned();
                self.end(command.target, Reason::TimedOut, message, effects);
            }
            State::Applying { deadline } if deadline <= now => {
                effects.push(Effect::Close(connection, Reason::DeadlineExceeded));
                self.dropped(connection, true, now);
            }
            State::Uploading { deadline } if self.upload_deadline(deadline) <= now => {
                effects.push(Effect::Close(connection, Reason::DeadlineExceeded));
                self.memory.unanswered = true;
                self.dropped(connection, true, now);
            }
            _ => {}
        }
    }

    /// Notes how the try of `target` ended, unless another target has come or it has ended already.
    pub(super) fn end(&mut self, target: i64, reason: Reason, message: String, effects: &mut Vec<Effect>) {
        let Some(live) = self.live_target().filter(|live| live.id == target) else { return };
        if self.memory.end.is_some() {
            return;
        }
        let applied = reason.is_success().then(|| live.config.clone()).flatten();
        let (after_success, after_failure) = live.logs;
        let wanted = if reason.is_success() { after_success } else { after_failure };
        self.memory.log_of = wanted.then_some(target);
        self.memory.end = Some(TryEnd { target, reason, message, applied });
        effects.push(Effect::Count(Counted::Ended(reason)));
    }
}

/// What the device itself adds.
fn with_detail(message: String, detail: &ErrorDetail) -> String {
    match (&detail.code, &detail.text) {
        (None, None) => message,
        (Some(code), None) => format!("{message}; it says: error {code}"),
        (None, Some(text)) => format!("{message}; it says: {text}"),
        (Some(code), Some(text)) => format!("{message}; it says: error {code}, {text}"),
    }
}

/// What the device would have to say of itself for nothing to be written.
pub(super) fn is_on_record(known: Option<&Known>, address: &str, info: &DeviceInformation) -> bool {
    known.is_some_and(|known| known.is(info) && known.address.as_deref() == Some(address))
}
