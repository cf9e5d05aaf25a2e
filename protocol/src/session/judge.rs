//! Which command comes next, if any, and when it may go (design: "Judge").

use jiff::Timestamp;

use super::types::*;
use super::{Session, State, after, before};
use crate::datum::Capabilities;
use crate::message::{ServerMessage, UpgradeAt};

/// What is next for a device with a live target.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Command(Step),
    End(Reason, String),
}

impl Session {
    /// The target, unless it is on record that it has ended.
    pub(super) fn live_target(&self) -> Option<&Target> {
        self.view.target.as_ref().filter(|target| !target.ended && self.phase_of(target) != Some(Phase::Done))
    }

    /// The target, unless it has ended: nothing more may be done for one whose end is still being written.
    pub(super) fn open_target(&self) -> Option<&Target> {
        self.live_target().filter(|_| self.memory.end.is_none())
    }

    pub(super) fn phase_of(&self, target: &Target) -> Option<Phase> {
        self.view.progress.filter(|progress| progress.target == target.id).map(|progress| progress.phase)
    }

    /// Whether the phase of the live target is on record.
    pub(super) fn has_begun(&self) -> bool {
        self.live_target().is_some_and(|target| self.phase_of(target).is_some())
    }

    /// Whether the device may be served: declared, approved, and of the model that it was declared to be. One that has
    /// begun is seen through: a flash is not broken off.
    pub(super) fn may_be_served(&self) -> bool {
        let model = self.connection.as_ref().map(|connection| &connection.info.model);
        let legal = self.view.legal && (self.view.model.is_none() || self.view.model.as_ref() == model);
        legal || self.has_begun()
    }

    /// Whether a 3, 4, 6 or 8 may still go; the first of a target has an end of its own.
    pub(super) fn may_command(&self, now: Timestamp) -> bool {
        let first = !self.memory.started && !self.has_begun();
        self.open_target().is_some_and(|target| now <= last_command(target) && (!first || now <= target.start_by))
    }

    /// A log never keeps a try from beginning: it gives way in time for a reconnect and its settling.
    pub(super) fn upload_deadline(&self, deadline: Timestamp) -> Timestamp {
        match self.live_target() {
            Some(target) => deadline.min(before(target.start_by, self.timing.settle.saturating_mul(3))),
            None => deadline,
        }
    }

    /// Whether the device reports the version of the target.
    pub(super) fn has_arrived(&self) -> bool {
        let version = self.connection.as_ref().map(|connection| &connection.info.version);
        self.live_target().is_some_and(|target| version == Some(target.firmware.as_ref().unwrap_or(&target.from)))
    }

    /// Whether somebody began a try that ended without a word on how: the configuration may be another since.
    pub(super) fn applied_in_doubt(&self) -> bool {
        let current = self.view.target.as_ref().map(|target| target.id);
        self.view.progress.is_some_and(|progress| progress.phase != Phase::Done && Some(progress.target) != current)
    }

    /// The configuration that the device runs, as far as is known: what it reports, else what is on record as applied.
    fn running_config(&self) -> Option<&str> {
        let info = &self.connection.as_ref()?.info;
        if info.capabilities.has(Capabilities::CONFIG_VERSION) {
            info.config.as_deref()
        } else {
            self.view.applied.as_deref().filter(|_| !self.applied_in_doubt())
        }
    }

    /// Whether this command is what the device needs, by what it last said and by what the API says, and ours to give.
    pub(super) fn is_wanted(&self, command: Command) -> bool {
        if self.view.hold != Hold::Us || !self.may_be_served() {
            return false;
        }
        match command.step {
            Step::Log => self.live_target().is_none(),
            Step::Version | Step::Profile => self
                .open_target()
                .is_some_and(|target| target.id == command.target && self.next(target) == Next::Command(command.step)),
        }
    }

    /// Gives up what was being got ready for a command that has no purpose any more.
    pub(super) fn drop_unwanted(&mut self) {
        if let State::Preparing { command } | State::Checking { command } = self.state
            && !self.is_wanted(command)
        {
            self.state = State::Idle;
        }
    }

    /// The phase that is to be on record before the command that waits for it.
    pub(super) fn due_announcement(&self, now: Timestamp) -> Option<(i64, Phase)> {
        let State::Announcing { command } = self.state else { return None };
        let due = self.is_wanted(command) && self.may_command(now) && !self.has_begun();
        due.then_some(match command.step {
            Step::Version => (command.target, Phase::Restarting),
            Step::Profile | Step::Log => (command.target, Phase::Applying),
        })
    }

    /// 6 or 8, whose phase is on record. Whether there is more to do at once.
    pub(super) fn activate(&mut self, command: Command, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        self.state = State::Idle;
        if !self.is_wanted(command) {
            return true;
        }
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return false };
        if !self.may_command(now) {
            let message = "the time of the try was over before the command could go out".to_owned();
            self.end(Reason::TimedOut, message, effects);
            return true;
        }
        if !self.has_begun() {
            return true;
        }
        match command.step {
            Step::Version => {
                // It called before the restart: what it said then proves nothing about what comes after.
                self.refuse_newcomer(effects);
                effects.push(Effect::Send(connection, ServerMessage::Restart));
                effects.push(Effect::Finish(connection));
                self.state = State::Restarting { target: command.target };
            }
            Step::Profile | Step::Log => {
                effects.push(Effect::Send(connection, ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
                self.memory.pushed = true;
                self.state = State::Applying { target: command.target, deadline: after(now, self.timing.apply) };
            }
        }
        false
    }

    /// Which command comes next, if any. Whether there is more to do at once.
    pub(super) fn judge(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let Some(target) = self.open_target() else {
            self.after_end(now, effects);
            return false;
        };
        if target.until <= now {
            let message = "the time of the try was over before the device was done".to_owned();
            self.end(Reason::TimedOut, message, effects);
            return true;
        }
        let (id, until) = (target.id, target.until);
        match self.next(target) {
            Next::Nothing => false,
            Next::Command(step) => {
                if self.may_command(now) {
                    self.prepare(id, step, until, now, effects);
                }
                false
            }
            Next::End(reason, message) => {
                self.end(reason, message, effects);
                true
            }
        }
    }

    /// What the device's report means for the target.
    fn next(&self, target: &Target) -> Next {
        let Some(connection) = &self.connection else { return Next::Nothing };
        let info = &connection.info;
        let wanted = target.firmware.as_ref().unwrap_or(&target.from);
        let (arrived, unchanged) = (info.version == *wanted, info.version == target.from);
        let configured = target.config.as_deref().is_none_or(|config| self.running_config() == Some(config));
        match self.phase_of(target) {
            // Planned on something else: the controller plans anew.
            None if !arrived && !unchanged => Next::Nothing,
            None if !arrived => Next::Command(Step::Version),
            None if !configured => Next::Command(Step::Profile),
            None => Next::End(Reason::AlreadyCurrent, String::new()),
            Some(_) if arrived && configured => Next::End(Reason::Upgraded, String::new()),
            Some(_) if arrived && self.memory.losses >= 2 => self.after_losses(target),
            Some(_) if arrived => Next::Command(Step::Profile),
            Some(Phase::Restarting) if unchanged && self.memory.not_restarted => Next::Command(Step::Version),
            Some(Phase::Restarting) if unchanged => {
                let message = format!("the device restarted and still reports {}", info.version);
                Next::End(Reason::CameBackUnchanged, message)
            }
            Some(_) if unchanged => {
                let message = format!("the device reported {wanted} and went back to {}", info.version);
                Next::End(Reason::CameBackUnchanged, message)
            }
            Some(_) => {
                let message =
                    format!("the device reports {}, which is neither {} nor {wanted}", info.version, target.from);
                Next::End(Reason::UnexpectedVersion, message)
            }
        }
    }

    /// The result of 8 was lost twice, and the device is back and serves. That counts as applied, unless the device can
    /// tell what it runs, and it is something else.
    fn after_losses(&self, target: &Target) -> Next {
        let info = self.connection.as_ref().map(|connection| &connection.info);
        match info.filter(|info| info.capabilities.has(Capabilities::CONFIG_VERSION)) {
            None => {
                let message = "the device twice did not say how the configuration went, but it came back and serves";
                Next::End(Reason::ResultLost, message.to_owned())
            }
            Some(info) => {
                let message = format!(
                    "the device twice did not say how the configuration went, and it reports {} and not {}",
                    info.config.as_deref().unwrap_or("none"),
                    target.config.as_deref().unwrap_or("none"),
                );
                Next::End(Reason::ApplyFailed, message)
            }
        }
    }

    /// Nothing is left to do for the target: its log, where it is wanted, then 2, where it is.
    fn after_end(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some((target, done)) = self.view.target.as_ref().map(|target| (target.id, target.done)) else { return };
        if std::mem::take(&mut self.memory.log_wanted) {
            self.prepare(target, Step::Log, after(now, self.timing.log), now, effects);
        } else if done && !self.view.dismissed {
            self.write(Record { session: SessionRecord::Dismiss, ..Record::default() }, effects);
        } else if done {
            self.dismiss(effects);
        }
    }

    fn prepare(&mut self, target: i64, step: Step, until: Timestamp, now: Timestamp, effects: &mut Vec<Effect>) {
        // The clock in milliseconds, in its low bits, or one more than the last where that is ahead: so that a later
        // session for the device, in this or another run of the bridge, does not give a number again while a credential
        // lives.
        let clock = now.as_millisecond() as u32;
        let ahead = |next: &u32| clock.wrapping_sub(*next) > u32::MAX / 2;
        let number = self.last_command.map(|last| last.wrapping_add(1)).filter(ahead).unwrap_or(clock);
        self.last_command = Some(number);
        let command = Command { number, target, step };
        self.state = State::Preparing { command };
        effects.push(Effect::Prepare(command, until));
    }

    /// 2, to a device that may not be served: at once, but not into a command.
    pub(super) fn refuse_illegal(&mut self, effects: &mut Vec<Effect>) {
        match self.state {
            State::Idle
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Announcing { .. } => self.dismiss(effects),
            State::Downloading { .. } | State::Applying { .. } | State::Uploading { .. } => {}
            State::Away { .. } | State::Contending { .. } | State::Restarting { .. } | State::Dismissed => {}
        }
    }

    fn dismiss(&mut self, effects: &mut Vec<Effect>) {
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        effects.push(Effect::Send(connection, ServerMessage::Interrupt));
        effects.push(Effect::Finish(connection));
        self.state = State::Dismissed;
    }
}

/// The last instant for a 3, 4, 6 or 8.
fn last_command(target: &Target) -> Timestamp {
    before(target.until, target.margin)
}
