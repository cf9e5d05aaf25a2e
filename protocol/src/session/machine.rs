//! Events, one by one: what each changes. What follows from a state is in [`judge`](super::judge),
//! [`record`](super::record) and [`hold`](super::hold).

use jiff::Timestamp;

use super::types::*;
use super::{Connection, Memory, Session, State, after};
use crate::datum::{DownloadResult, ExecutionResult};
use crate::message::{DeviceMessage, ErrorDetail, ServerMessage, kind};

impl Session {
    pub(super) fn take_in(&mut self, event: Event, now: Timestamp, effects: &mut Vec<Effect>) {
        match event {
            Event::Called { connection, address, info } => {
                self.called(Connection { id: connection, address, info, announced: None }, now, effects);
            }
            Event::Said { connection, message } => self.said(connection, message, now, effects),
            Event::Dropped { connection, acknowledged, by } => self.dropped(connection, acknowledged, by, now),
            Event::Viewed(view) => self.adopt(*view, now),
            Event::Written(result) => self.written(result),
            Event::Prepared(command, file) => self.prepared(command, file, now, effects),
            Event::Checked(command, transferred) => self.checked(command, transferred, now, effects),
            Event::Logged(log) => self.logged(log),
            Event::LogRefused(refused) => self.log_refused = Some(refused),
            Event::Replied(result, detail) => self.replied(result, &detail, effects),
            Event::Tick => self.tick(now, effects),
        }
    }

    /// Takes over what the API says.
    pub(super) fn adopt(&mut self, view: View, now: Timestamp) {
        let target = view.target.as_ref().map(|target| target.id);
        if target != self.memory.target {
            self.memory = Memory { target, not_restarted: true, ..Memory::default() };
        } else if let Some(target) = view.target.as_ref().filter(|target| target.stage == Stage::Activate)
            && self.is_download()
        {
            // The grant begins here. What is under way already is its first command; what waits is not.
            let under_way = matches!(self.state, State::Downloading { .. } | State::Checking { .. });
            self.memory.started &= under_way && now <= target.start_by;
        }
        self.view = view;
        if self.view.hold != Hold::Us {
            self.allow_for_others();
        }
        let known = self.view.known.as_ref();
        self.unrecorded.take_if(|info| known.is_some_and(|known| known.is(info)));
    }

    /// Who held the device meanwhile, or before, may have sent it what the target allows; of that, only the phase is on
    /// record.
    pub(super) fn allow_for_others(&mut self) {
        let Some(target) = self.live_target() else { return };
        let (phase, has_config) = (self.phase_of(target), target.config.is_some());
        self.unanswered = true;
        match phase {
            None | Some(Phase::Downloaded | Phase::Done) => {}
            Some(Phase::Scheduled) => self.memory.pushed = true,
            Some(Phase::RestartLost) => self.memory.not_restarted = true,
            Some(Phase::Restarting) => {
                self.memory.not_restarted = false;
                self.memory.pushed |= has_config;
            }
            Some(Phase::Applying) => {
                self.memory.pushed = true;
                self.memory.losses = self.memory.losses.max(1);
            }
        }
    }

    fn written(&mut self, result: Result<(), WriteError>) {
        self.writing = false;
        if let State::Contending { asked, .. } = &mut self.state {
            // A question that is not on record will get no answer: it is asked again.
            *asked &= result.is_ok();
        }
    }

    fn said(&mut self, id: ConnectionId, message: DeviceMessage, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(newcomer) = self.newcomer.as_mut().filter(|newcomer| newcomer.connection.id == id) {
            // Nothing was asked of it. What it says of itself counts once it holds the MAC.
            if let DeviceMessage::Information(info) = message {
                newcomer.connection.info = info;
            }
            return;
        }
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.id == id) else { return };
        match message {
            DeviceMessage::Information(info) if info.mac == connection.info.mac => {
                let takes_another = info.capabilities != connection.info.capabilities;
                connection.info = info;
                if let State::Preparing { command, until } = self.state
                    && takes_another
                {
                    // What is being got ready is for what it took before.
                    self.prepare(command.target, command.step, until, now, effects);
                }
            }
            // Another device on this connection: nothing that it says is of this one.
            DeviceMessage::Information(_) => {
                effects.push(Effect::Close(id, Reason::Illegal));
                self.lose_connection(true, EndedBy::Device, now);
            }
            DeviceMessage::VersionDownloaded(result, detail) => {
                self.downloaded(Step::Version, kind::VERSION_RESULT, result, &detail, effects);
            }
            DeviceMessage::ProfileDownloaded(result, detail) => {
                self.downloaded(Step::Profile, kind::PROFILE_RESULT, result, &detail, effects);
            }
            DeviceMessage::ProfileUpgraded(result, detail) => self.upgraded(result, &detail, now, effects),
            DeviceMessage::LogUploaded(result, detail) => match self.state {
                State::Uploading { command, .. } => {
                    self.state = State::Idle;
                    self.said_eleven(command, result, &detail, effects);
                }
                _ => effects.push(Effect::Count(Counted::Unasked(kind::LOG_RESULT))),
            },
            DeviceMessage::Progress { percent, text } => self.hear(percent, text),
            DeviceMessage::RestartComplete | DeviceMessage::KeepAlive => {}
            DeviceMessage::Unknown(kind) => effects.push(Effect::Count(Counted::UnknownMessage(kind))),
        }
    }

    /// 5 or 7.
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
        if self.open_target().is_none_or(|target| target.id != command.target) {
            return;
        }
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
                self.end(Reason::CrcMismatch, with_detail(message, detail), effects);
            }
            DownloadResult::Failed(code) => {
                let message = format!("the device could not download {what} (result {code})");
                self.end(Reason::DownloadFailed, with_detail(message, detail), effects);
            }
        }
    }

    /// 9: of the 8 that is outstanding, or of the 8 before, where its result was lost and the device has said 1 since. 9=0
    /// before the time that the 8 named says no more than that the device has accepted it.
    fn upgraded(&mut self, result: ExecutionResult, detail: &ErrorDetail, now: Timestamp, effects: &mut Vec<Effect>) {
        let asked = match self.state {
            State::Applying { target, .. } | State::Scheduled { target, .. } => {
                self.state = State::Idle;
                Some(target)
            }
            State::Idle
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Downloading { .. } => self.memory.target.filter(|_| self.memory.pushed && self.has_arrived()),
            State::Away { .. }
            | State::Contending { .. }
            | State::Restarting { .. }
            | State::Uploading { .. }
            | State::Dismissed => None,
        };
        if self.open_target().is_none_or(|target| asked != Some(target.id)) {
            return effects.push(Effect::Count(Counted::Unasked(kind::UPGRADE_RESULT)));
        }
        // A 4 that has gone out meanwhile stays outstanding until its 7.
        if !matches!(self.state, State::Downloading { .. }) {
            self.state = State::Idle;
        }
        self.unanswered = false;
        match result {
            ExecutionResult::Success if self.awaits_time(now) => self.memory.accepted = true,
            ExecutionResult::Success => self.end(Reason::Upgraded, String::new(), effects),
            ExecutionResult::Failure(code) => {
                let message = format!("the device could not put the configuration into force (result {code})");
                self.end(Reason::ApplyFailed, with_detail(message, detail), effects);
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
        if self.prepared_remotely(command, &file, now, effects) {
            return;
        }
        let deadline = match self.state {
            State::Preparing { command: of, until } if of == command => until,
            _ => return,
        };
        self.state = State::Idle;
        if !self.is_wanted(command) {
            return self.give_back_request();
        }
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        let in_time = self.may_command(now);
        let (message, state) = match (command.step, file) {
            (Step::Log, Ok(File::Upload(location))) => {
                let deadline = after(now, self.timing.log);
                (ServerMessage::UploadLog(location), State::Uploading { command, deadline })
            }
            (Step::Version, Ok(File::Download(download))) if in_time => {
                (ServerMessage::DownloadVersion(download), State::Downloading { command, deadline })
            }
            (Step::Profile, Ok(File::Download(download))) if in_time => {
                (ServerMessage::DownloadProfile(download), State::Downloading { command, deadline })
            }
            (Step::Version | Step::Profile, Err(SourceError(why))) => {
                return self.end(Reason::SourceUnavailable, why, effects);
            }
            (Step::Log, Err(SourceError(why))) => return self.answer_request(LogResult::Failed(why)),
            // A log that cannot be taken in is none; a command that is too late is left out.
            (Step::Log | Step::Version | Step::Profile, Ok(_)) => return,
        };
        self.memory.started |= command.step != Step::Log;
        self.state = state;
        self.begin_to_hear(now);
        effects.push(Effect::Send(connection, message));
    }

    fn checked(&mut self, command: Command, transferred: Transferred, now: Timestamp, effects: &mut Vec<Effect>) {
        if command.step == Step::Log {
            return self.checked_log(transferred);
        }
        if self.memory.late.take_if(|late| *late == command).is_some() {
            return self.ended_late(&transferred, now, effects);
        }
        if self.state != (State::Checking { command }) {
            return;
        }
        match transferred {
            Transferred::Wholly => self.state = State::Held { command },
            // The latter is said of logs alone.
            Transferred::NotWholly | Transferred::Nothing | Transferred::Unfetched(_) => {
                self.state = State::Idle;
                let message = "the device says that it has the file, but our server has not sent it whole".to_owned();
                self.end(Reason::NotTransferred, message, effects);
            }
        }
    }

    /// The time of a try was over in a download, of which our own accounting says this. A way on which nothing came is another
    /// matter than a device that is slow.
    fn ended_late(&mut self, transferred: &Transferred, now: Timestamp, effects: &mut Vec<Effect>) {
        if !self.is_over_time(now) {
            return;
        }
        match transferred {
            Transferred::Nothing => {
                let message = "the device fetched nothing from our server before the end of the try".to_owned();
                self.end(Reason::NotTransferred, message, effects);
            }
            Transferred::Wholly | Transferred::NotWholly | Transferred::Unfetched(_) => {
                let message = "the device did not finish its download before the end of the try".to_owned();
                self.end(Reason::TimedOut, message, effects);
            }
        }
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.decide_newcomer(now, effects);
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        match self.state {
            State::Settling { until } if until <= now => {
                self.unanswered = false;
                self.state = State::Idle;
            }
            // Whatever the driver still brings is too late.
            State::Preparing { until, .. } if until <= now => {
                self.give_back_request();
                self.state = State::Idle;
            }
            State::Checking { .. } if self.is_over_time(now) => self.state = State::Idle,
            State::Contending { decide_at, .. } if decide_at <= now => self.grow_impatient(connection, now, effects),
            State::Downloading { command, deadline } if deadline <= now => {
                self.hang_up(connection, now, effects);
                // Where its end was moved, it goes on.
                if self.open_target().is_some_and(|target| target.id == command.target) && self.is_over_time(now) {
                    self.memory.late = Some(command);
                    effects.push(Effect::Check(command));
                }
            }
            State::Applying { deadline, .. } if deadline <= now => self.hang_up(connection, now, effects),
            State::Scheduled { deadline, .. } if deadline <= now => self.give_up_schedule(connection, now, effects),
            State::Uploading { deadline, .. } if self.upload_deadline(deadline) <= now => {
                self.hang_up(connection, now, effects);
            }
            State::Away { .. }
            | State::Idle
            | State::Contending { .. }
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Downloading { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Restarting { .. }
            | State::Applying { .. }
            | State::Scheduled { .. }
            | State::Uploading { .. }
            | State::Dismissed => {}
        }
    }

    /// The deadline of what is outstanding has passed.
    fn hang_up(&mut self, connection: ConnectionId, now: Timestamp, effects: &mut Vec<Effect>) {
        effects.push(Effect::Close(connection, Reason::DeadlineExceeded));
        self.lose_connection(true, EndedBy::Bridge, now);
    }

    /// The time that an 8 named, and that for its answer, are over.
    fn give_up_schedule(&mut self, connection: ConnectionId, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.is_configured() {
            // What it reports says it all.
            self.state = State::Idle;
            return;
        }
        self.memory.losses = self.memory.losses.max(1);
        self.hang_up(connection, now, effects);
        if self.is_over_time(now) {
            let message = "the device did not say that the configuration is in force before the end of the try";
            self.end(Reason::TimedOut, message.to_owned(), effects);
        }
    }

    /// Notes how the try of the live target ended, unless it has ended already.
    pub(super) fn end(&mut self, reason: Reason, message: String, effects: &mut Vec<Effect>) {
        let Some(target) = self.open_target() else { return };
        let applied = reason.is_success().then(|| target.config.clone()).flatten();
        let (after_success, after_failure) = target.logs;
        let target = target.id;
        self.memory.log_wanted = if reason.is_success() { after_success } else { after_failure };
        self.memory.end = Some(TryEnd { target, reason, message, applied });
        effects.push(Effect::Count(Counted::Ended(reason)));
    }
}

/// What the device itself adds.
pub(super) fn with_detail(message: String, detail: &ErrorDetail) -> String {
    let ErrorDetail { code, text } = detail;
    match (code, text) {
        (None, None) => message,
        (Some(code), None) => format!("{message}; it says: error {code}"),
        (None, Some(text)) => format!("{message}; it says: {text}"),
        (Some(code), Some(text)) => format!("{message}; it says: error {code}, {text}"),
    }
}
