//! What follows from a state: what is to be written, and which command comes next (design: "Judge").

use jiff::Timestamp;

use super::machine::is_on_record;
use super::types::*;
use super::{Connection, Session, State};
use crate::message::ServerMessage;

impl Session {
    /// The next instant at which [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.decide_at);
        let end_of_try = self.live_target().filter(|_| self.memory.end.is_none()).map(|target| target.until);
        // What waits for a write goes on when it is answered, not at a time.
        let quiet = |at: Option<Timestamp>| at.filter(|_| !self.writing);
        let state = match self.state {
            State::Away { since } => quiet(self.release_at(since)),
            State::Settling { until } => Some(until),
            State::Contending { decide_at, .. } => Some(decide_at),
            State::Downloading { deadline, .. } | State::Applying { deadline } => Some(deadline),
            State::Uploading { deadline } => Some(self.upload_deadline(deadline)),
            State::Idle => quiet(end_of_try),
            State::Preparing { .. } => end_of_try,
            State::Checking { .. } | State::Announcing { .. } | State::Restarting | State::Dismissed => None,
        };
        [newcomer, quiet(self.refuse_at), state].into_iter().flatten().min()
    }

    /// The target, unless it has ended.
    pub(super) fn live_target(&self) -> Option<&Target> {
        self.view.target.as_ref().filter(|target| !target.ended && self.phase_of(target) != Some(Phase::Done))
    }

    fn phase_of(&self, target: &Target) -> Option<Phase> {
        self.view.progress.filter(|progress| progress.target == target.id).map(|progress| progress.phase)
    }

    /// Whether the phase of the live target is on record.
    pub(super) fn has_begun(&self) -> bool {
        self.live_target().is_some_and(|target| self.phase_of(target).is_some())
    }

    /// Whether a 3, 4, 6 or 8 may still go; the first of a target has an end of its own.
    pub(super) fn may_command(&self, target: &Target, now: Timestamp) -> bool {
        let first = !self.memory.started && !self.has_begun();
        now <= target.last_command() && (!first || now <= target.start_by)
    }

    /// A log never keeps a try from beginning: it gives way in time for a reconnect and its settling.
    pub(super) fn upload_deadline(&self, deadline: Timestamp) -> Timestamp {
        match self.live_target() {
            Some(target) => deadline.min(target.start_by - self.timing.settle * 3),
            None => deadline,
        }
    }

    /// When a device that is away is to be written off as disconnected.
    fn release_at(&self, since: Timestamp) -> Option<Timestamp> {
        match self.view.hold {
            Hold::Nobody | Hold::Other => None,
            Hold::Us | Hold::Predecessor if self.view.dismissed => None,
            // A drop that the upgrade itself causes is written with its result.
            Hold::Us if self.has_begun() => self.live_target().map(|target| target.until),
            Hold::Us => Some(since + self.timing.drop_delay),
            Hold::Predecessor => Some(since),
        }
    }

    /// Does what follows from the state, until something has to be waited for.
    pub(super) fn advance(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.forget_recorded_end();
        self.yield_if_taken(now, effects);
        if self.writing {
            return;
        }
        match self.state {
            State::Away { since } => self.away(since, now, effects),
            State::Dismissed => {}
            _ => self.connected(now, effects),
        }
    }

    /// An end that is on record, or whose target has gone, is no longer ours to write.
    fn forget_recorded_end(&mut self) {
        let live = self.live_target().map(|target| target.id);
        self.memory.end.take_if(|end| live != Some(end.target));
    }

    /// We held the session, and another bridge has it now: it wins.
    fn yield_if_taken(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        if self.view.hold != Hold::Other {
            if matches!(self.state, State::Contending { .. }) {
                self.state = State::Idle;
            }
            return;
        }
        match self.state {
            State::Idle | State::Settling { .. } if self.is_legal() => {
                self.state = State::Contending { decide_at: now + self.timing.contend, asked: false };
            }
            State::Contending { asked: true, .. } if self.view.contender != Contender::Us && !self.writing => {
                effects.push(Effect::Close(connection, Reason::HeldElsewhere));
                self.gone(now);
            }
            State::Away { .. }
            | State::Idle
            | State::Settling { .. }
            | State::Contending { .. }
            | State::Restarting
            | State::Dismissed => {}
            State::Preparing { .. }
            | State::Downloading { .. }
            | State::Checking { .. }
            | State::Announcing { .. }
            | State::Applying { .. }
            | State::Uploading { .. } => {
                effects.push(Effect::Close(connection, Reason::HeldElsewhere));
                self.gone(now);
            }
        }
    }

    fn gone(&mut self, now: Timestamp) {
        self.connection = None;
        self.refuse_at = None;
        self.memory.unanswered = true;
        self.state = State::Away { since: now };
    }

    fn away(&mut self, since: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.has_begun()
            && let Some(target) = self.live_target().filter(|target| target.until <= now).map(|target| target.id)
        {
            let message = "the device went away with its command and did not come back before the end of the try";
            self.end(target, Reason::TimedOut, message.to_owned(), effects);
        }
        let asked_for = self.view.hold == Hold::Us && self.view.contender == Contender::Other;
        let due = self.release_at(since).is_some_and(|at| at <= now);
        let ours = matches!(self.view.hold, Hold::Us | Hold::Predecessor);
        if self.memory.end.is_some() || (ours && (due || asked_for)) {
            let session = if ours { SessionRecord::Release { last_seen: since } } else { SessionRecord::Unchanged };
            self.write(Record { session, ..Record::default() }, effects);
        }
    }

    fn connected(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(connection) = self.connection.clone() else { return };
        if let State::Contending { decide_at, asked: false } = self.state {
            self.state = State::Contending { decide_at, asked: true };
            let session = SessionRecord::Contend { address: connection.address };
            return self.write(Record { session, ..Record::default() }, effects);
        }
        if matches!(self.state, State::Contending { .. }) {
            return;
        }
        if !self.is_legal() && !self.has_begun() {
            return self.refuse_illegal(&connection, effects);
        }
        if self.answer_contender(connection.id, now, effects) || self.state == State::Restarting {
            return;
        }
        // Facts go with the end of a try, and wait for it where one has begun.
        let done = self.view.target.as_ref().is_some_and(|target| target.done);
        let claim = self.view.hold != Hold::Us || (self.view.dismissed && !done);
        let changed = !is_on_record(self.view.known.as_ref(), &connection.address, &connection.info);
        let session = if claim || changed {
            SessionRecord::Claim { address: connection.address.clone() }
        } else {
            SessionRecord::Unchanged
        };
        let info = changed.then(|| connection.info.clone());
        if self.memory.end.is_some() || claim || (changed && !self.has_begun()) {
            return self.write(Record { session, info, ..Record::default() }, effects);
        }
        match self.state {
            State::Announcing { command } if !self.has_begun() => {
                let phase = match command.step {
                    Step::Version => Phase::Restarting,
                    Step::Profile | Step::Log => Phase::Applying,
                };
                if self.live_target().is_none_or(|target| target.id != command.target) {
                    self.state = State::Idle;
                    return self.judge(now, effects);
                }
                let record = Record { progress: Some((command.target, phase)), ..Record::default() };
                self.write(record, effects);
            }
            State::Announcing { .. } => {
                self.command_activation(now, effects);
                if self.memory.end.is_some() {
                    self.advance(now, effects);
                }
            }
            State::Idle => self.judge(now, effects),
            _ => {}
        }
    }

    /// Whether the device may be served: declared, approved, and of the model that it was declared to be.
    fn is_legal(&self) -> bool {
        let model = self.connection.as_ref().map(|connection| &connection.info.model);
        self.view.legal && (self.view.model.is_none() || self.view.model.as_ref() == model)
    }

    /// 2, to a device that may not be served: at once, but not into a command. What a declared device says of itself is
    /// on record before, so that people can see what is wrong with it; its connection is not.
    fn refuse_illegal(&mut self, connection: &Connection, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::Idle | State::Settling { .. }) {
            return;
        }
        if self.view.legal && !self.view.known.as_ref().is_some_and(|known| known.is(&connection.info)) {
            return self.write(Record { info: Some(connection.info.clone()), ..Record::default() }, effects);
        }
        self.dismiss(connection.id, effects);
    }

    fn dismiss(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send(connection, ServerMessage::Interrupt));
        effects.push(Effect::Finish(connection));
        self.state = State::Dismissed;
    }

    /// Another bridge asks for the device: our connection is probed, and where it lives the other is refused.
    fn answer_contender(&mut self, connection: ConnectionId, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        if self.view.hold != Hold::Us || self.view.contender != Contender::Other {
            self.refuse_at = None;
            return false;
        }
        if self.state == State::Restarting {
            // 6 has ended our claim.
            let session = SessionRecord::Release { last_seen: now };
            self.write(Record { session, ..Record::default() }, effects);
            return true;
        }
        match self.refuse_at {
            None => {
                effects.push(Effect::Probe(connection));
                effects.push(Effect::Count(Counted::Contention));
                self.refuse_at = Some(now + self.timing.probe);
                false
            }
            Some(at) if at <= now => {
                self.refuse_at = None;
                self.write(Record { session: SessionRecord::Refuse, ..Record::default() }, effects);
                true
            }
            Some(_) => false,
        }
    }

    /// Which command comes next, if any.
    fn judge(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(connection) = self.connection.clone() else { return };
        let Some(target) = self.view.target.clone() else { return };
        if self.live_target().is_none() {
            return self.after_end(&target, connection.id, now, effects);
        }
        if target.until <= now {
            let message = "the time of the try was over before the device was done".to_owned();
            self.end(target.id, Reason::TimedOut, message, effects);
            return self.advance(now, effects);
        }
        match self.verdict(&target) {
            Next::Nothing => {}
            Next::Command(step) => self.prepare(&target, step, now, effects),
            Next::End(reason, message) => {
                self.end(target.id, reason, message, effects);
                self.advance(now, effects);
            }
        }
    }

    /// What the device's report means for the target.
    fn verdict(&self, target: &Target) -> Next {
        let Some(connection) = &self.connection else { return Next::Nothing };
        let info = &connection.info;
        let wanted = target.firmware.as_ref().unwrap_or(&target.from);
        let arrived = info.version == *wanted;
        let configured = target
            .config
            .as_ref()
            .is_none_or(|config| running_config(info, self.view.applied.as_deref()) == Some(config));
        match self.phase_of(target) {
            // Planned on something else: the controller plans anew.
            None if !arrived && info.version != target.from => Next::Nothing,
            None if !arrived => Next::Command(Step::Version),
            None if !configured => Next::Command(Step::Profile),
            None => Next::End(Reason::AlreadyCurrent, String::new()),
            Some(_) if arrived && configured => Next::End(Reason::Upgraded, String::new()),
            Some(_) if arrived && self.memory.losses >= 2 => {
                let message = "the device twice did not say how the configuration went, but it came back and serves";
                Next::End(Reason::ResultLost, message.to_owned())
            }
            Some(_) if arrived => Next::Command(Step::Profile),
            Some(Phase::Restarting) if info.version == target.from && self.memory.not_restarted => {
                Next::Command(Step::Version)
            }
            Some(Phase::Restarting) if info.version == target.from => {
                let message = format!("the device restarted and still reports {}", info.version);
                Next::End(Reason::CameBackUnchanged, message)
            }
            Some(_) => {
                let message =
                    format!("the device reports {}, which is neither {} nor {wanted}", info.version, target.from);
                Next::End(Reason::UnexpectedVersion, message)
            }
        }
    }

    fn prepare(&mut self, target: &Target, step: Step, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.may_command(target, now) {
            let command = self.new_command(target.id, step);
            self.state = State::Preparing { command };
            effects.push(Effect::Prepare(command, target.until));
        }
    }

    fn new_command(&mut self, target: i64, step: Step) -> Command {
        let number = self.next_command;
        self.next_command = self.next_command.wrapping_add(1);
        Command { number, target, step }
    }

    /// Nothing is left to do for the target: its log, where it is wanted, then 2, where it is.
    fn after_end(&mut self, target: &Target, connection: ConnectionId, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.memory.log_of.take_if(|of| *of == target.id).is_some() {
            let command = self.new_command(target.id, Step::Log);
            self.state = State::Preparing { command };
            effects.push(Effect::Prepare(command, now + self.timing.log));
        } else if target.done {
            self.dismiss(connection, effects);
            if !self.view.dismissed {
                self.write(Record { session: SessionRecord::Dismiss, ..Record::default() }, effects);
            }
        }
    }

    /// Writes, with the end of the try where there is one.
    fn write(&mut self, mut record: Record, effects: &mut Vec<Effect>) {
        if let Some(end) = &self.memory.end {
            record.progress = Some((end.target, Phase::Done));
            record.end = Some(end.clone());
        }
        self.writing = true;
        effects.push(Effect::Write(record));
    }
}

/// What is next for a device with a live target.
enum Next {
    Nothing,
    Command(Step),
    End(Reason, String),
}
