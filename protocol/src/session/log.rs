//! The log of a device: when it is asked for, on its connection or without one, and what is on record of it.
//!
//! 10 and 11 change no verdict and hold no slot. Whether a log has arrived is said by whoever takes it in, not by 11.

use jiff::{SignedDuration, Timestamp};

use super::types::*;
use super::{Session, State, after};
use crate::datum::ExecutionResult;
use crate::message::{ErrorDetail, Location};

/// Between one datagram that asks a device and the next; after the last of them nobody asks again. Together longer than a
/// network takes to find another way, and than a device that is busy with its flash takes to look.
const ASK_AGAIN: [SignedDuration; 2] = [SignedDuration::from_secs(5), SignedDuration::from_secs(10)];

/// A device without a connection that is asked for its log. Its credential lives until then.
#[derive(Debug, Clone)]
pub(super) enum Remote {
    /// The driver gets ready where the log goes.
    Preparing { command: Command, until: Timestamp },
    /// It was asked so often. Whatever it answers, its log is waited for.
    Asked { command: Command, until: Timestamp, location: Location, times: usize, next: Timestamp },
}

/// A person's wish that is acted on.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) value: String,
    /// How that came out, until it is on record.
    pub(super) ended: Option<LogResult>,
}

impl Session {
    /// What a person asks for, and nothing was done about yet.
    fn pending_request(&self) -> Option<&String> {
        let acted_on = self.request.as_ref().map(|request| &request.value);
        self.view.log_request.as_ref().filter(|value| acted_on != Some(value))
    }

    /// Whether the device is to be asked for its log once nothing else is wanted of it.
    pub(super) fn is_log_wished(&self) -> bool {
        self.memory.log_wanted || self.pending_request().is_some()
    }

    /// Whether the device is to be asked now that nothing else is wanted of it. What asks for it is served by that.
    pub(super) fn take_log_wish(&mut self) -> bool {
        let pending = self.pending_request().cloned();
        let wanted = std::mem::take(&mut self.memory.log_wanted) || pending.is_some();
        if let Some(value) = pending {
            self.request = Some(Request { value, ended: None });
        }
        wanted
    }

    /// What a person asked for was not even begun: it is as if nothing had been done.
    pub(super) fn give_back_request(&mut self) {
        self.request.take_if(|request| request.ended.is_none());
    }

    /// What a person asked for has come out like this, unless it is known already how.
    pub(super) fn answer_request(&mut self, result: LogResult) {
        if let Some(request) = self.request.as_mut().filter(|request| request.ended.is_none()) {
            request.ended = Some(result);
        }
    }

    /// Whether there is something about logs that is to be on record.
    pub(super) fn has_log_news(&self) -> bool {
        let refused = self.log_refused.as_ref().is_some_and(|refused| self.view.log_refused != Some(refused.target));
        self.log.is_some() || refused || self.request.as_ref().is_some_and(|request| request.ended.is_some())
    }

    pub(super) fn forget_recorded_logs(&mut self) {
        let View { log: recorded, log_refused, log_answer, .. } = &self.view;
        self.log.take_if(|log| recorded.as_ref() == Some(&log.location));
        // As long as the log is waited for, it may be why there is none.
        if !matches!(self.state, State::Uploading { .. }) && self.remote.is_none() {
            self.log_refused.take_if(|refused| *log_refused == Some(refused.target));
        }
        self.request.take_if(|request| request.ended.is_some() && log_answer.as_ref() == Some(&request.value));
    }

    /// What becomes of it on record that a log found no room: it is said once for a target, and until a log has found some or
    /// the next target begins.
    pub(super) fn log_refused_record(&self) -> Change<LogRefused> {
        let newest = self.view.target.as_ref().map_or(0, |target| target.id);
        match (&self.log_refused, self.view.log_refused) {
            (Some(refused), recorded) if recorded != Some(refused.target) => Change::Set(refused.clone()),
            (None, Some(recorded)) if self.log.is_some() || recorded != newest => Change::Clear,
            (Some(_) | None, _) => Change::Unchanged,
        }
    }

    /// The log is there.
    pub(super) fn logged(&mut self, log: Log) {
        (self.log, self.log_refused) = (Some(log), None);
        if self.remote.take().is_some() {
            self.memory.log_wanted = false;
        }
        if let Some(request) = &mut self.request {
            request.ended = Some(LogResult::Stored);
        }
    }

    /// 11, of the 10 that is outstanding.
    pub(super) fn said_eleven(
        &mut self,
        command: Command,
        result: ExecutionResult,
        detail: &ErrorDetail,
        effects: &mut Vec<Effect>,
    ) {
        match result {
            // A person is told what is there, and not what the device thinks.
            ExecutionResult::Success if self.request.as_ref().is_some_and(|request| request.ended.is_none()) => {
                effects.push(Effect::Check(command));
            }
            ExecutionResult::Success => {}
            ExecutionResult::Failure(code) => self.answer_request(self.not_uploaded(code, detail)),
        }
    }

    /// The device says that it could not bring its log. Where we know better why, that is said.
    fn not_uploaded(&self, code: u32, detail: &ErrorDetail) -> LogResult {
        let message = match &self.log_refused {
            Some(LogRefused { why, .. }) => format!("{why}; the device says result {code}"),
            None => format!("the device could not upload its log (result {code})"),
        };
        LogResult::Failed(super::machine::with_detail(message, detail))
    }

    /// What our own accounting says of the log that the device says it has brought.
    pub(super) fn checked_log(&mut self, transferred: Transferred) {
        match transferred {
            // It is about to be told of.
            Transferred::Wholly => {}
            Transferred::NotWholly | Transferred::Nothing => {
                let why = "the device says that it has uploaded its log, but none has arrived";
                self.answer_request(LogResult::Failed(why.to_owned()));
            }
            Transferred::Unfetched(why) => {
                let why = format!("the device says that it has uploaded its log, but it is not stored: {why}");
                self.answer_request(LogResult::Failed(why));
            }
        }
    }

    /// The connection is gone, and 10 was outstanding on it.
    pub(super) fn lost_with_ten(&mut self) {
        if self.view.udp {
            // Asked otherwise, and once more when it is back: but one that loses its connection by that, not for ever.
            self.memory.log_wanted = !std::mem::replace(&mut self.memory.log_lost, true);
            self.give_back_request();
        } else {
            let why = "the device lost its connection, or did not answer in time";
            self.answer_request(LogResult::Failed(why.to_owned()));
        }
    }

    /// The device is back: it is asked on its connection.
    pub(super) fn stop_asking(&mut self) {
        if self.remote.take().is_some() {
            self.give_back_request();
        }
    }

    /// Whether a device without a connection is to be asked for its log.
    pub(super) fn is_to_be_asked(&self) -> bool {
        let wanted = (self.memory.log_wanted && !self.memory.log_asked) || self.pending_request().is_some();
        wanted
            && self.view.udp
            && self.view.legal
            && self.view.address.is_some()
            && self.view.hold != Hold::Other
            && self.remote.is_none()
            && self.memory.end.is_none()
            && self.open_target().is_none()
    }

    /// When something is due about the log of a device that is away since then.
    pub(super) fn remote_deadline(&self, since: Timestamp) -> Option<Timestamp> {
        match &self.remote {
            Some(Remote::Preparing { until, .. }) => Some(*until),
            Some(Remote::Asked { next, .. }) => Some(*next),
            None if self.is_to_be_asked() => Some(after(since, self.timing.drop_delay)),
            None => None,
        }
    }

    /// Asks a device that is away for its log, where it is to be, and not one that may be about to call again.
    pub(super) fn ask_remotely(&mut self, since: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.view.hold == Hold::Other {
            return self.stop_asking();
        }
        match self.remote.take() {
            None if self.is_to_be_asked() && after(since, self.timing.drop_delay) <= now => {
                self.memory.log_asked = true;
                if let Some(value) = self.pending_request().cloned() {
                    self.request = Some(Request { value, ended: None });
                }
                let target = self.view.target.as_ref().map_or(0, |target| target.id);
                let (command, until) = (self.number(target, Step::Log, now), after(now, self.timing.log));
                self.remote = Some(Remote::Preparing { command, until });
                effects.push(Effect::Prepare { command, can: self.capabilities(), until });
            }
            Some(Remote::Preparing { until, .. } | Remote::Asked { until, .. }) if until <= now => {
                let why =
                    "the device has no connection, and did not answer over UDP, or another has its address by now";
                self.answer_request(LogResult::Failed(why.to_owned()));
            }
            Some(Remote::Asked { command, until, location, times, next }) if next <= now => {
                self.ask(command, until, location, times, now, effects);
            }
            remote => self.remote = remote,
        }
    }

    /// Where the log of a device without a connection goes is ready, or cannot be had. Whether this was about that.
    pub(super) fn prepared_remotely(
        &mut self,
        command: Command,
        file: &Result<File, SourceError>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(Remote::Preparing { until, .. }) =
            self.remote.take_if(|remote| matches!(remote, Remote::Preparing { command: of, .. } if *of == command))
        else {
            return false;
        };
        match file {
            Ok(File::Upload(location)) => self.ask(command, until, location.clone(), 0, now, effects),
            Ok(File::Download(_)) => {}
            Err(SourceError(why)) => self.answer_request(LogResult::Failed(why.clone())),
        }
        true
    }

    /// Asks once more.
    fn ask(
        &mut self,
        command: Command,
        until: Timestamp,
        location: Location,
        times: usize,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let next = ASK_AGAIN.get(times).map_or(until, |pause| after(now, *pause).min(until));
        if let Some(to) = self.view.address.clone() {
            effects.push(Effect::Ask { to, command, location: location.clone(), until });
        }
        self.remote = Some(Remote::Asked { command, until, location, times: times + 1, next });
    }

    /// 11, from a device without a connection.
    pub(super) fn replied(&mut self, result: ExecutionResult, detail: &ErrorDetail, effects: &mut Vec<Effect>) {
        match (&mut self.remote, result) {
            (Some(Remote::Asked { command, until, next, .. }), ExecutionResult::Success) => {
                // The log may be a moment behind its word.
                *next = *until;
                self.memory.log_wanted = false;
                let command = *command;
                self.said_eleven(command, result, detail, effects);
            }
            (Some(Remote::Asked { .. }), ExecutionResult::Failure(code)) => {
                (self.remote, self.memory.log_wanted) = (None, false);
                self.answer_request(self.not_uploaded(code, detail));
            }
            (Some(Remote::Preparing { .. }) | None, _) => {
                effects.push(Effect::Count(Counted::Unasked(crate::message::kind::LOG_RESULT)));
            }
        }
    }
}
