//! Which command comes next, if any, and when it may go (design: "Judge").

use jiff::Timestamp;

use super::types::*;
use super::{Session, State, after, before};
use crate::datum::Capabilities;
use crate::message::{Release, ServerMessage, UpgradeAt};

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

    /// When the try of a target is over. What has been fetched ahead waits for the target to go on, without an end.
    pub(super) fn end_of_try(&self, target: &Target) -> Option<Timestamp> {
        let is_held = matches!(self.state, State::Held { command } if command.target == target.id);
        let waits = target.stage == Stage::Download && (is_held || self.is_fetched(target));
        (!waits).then_some(target.until)
    }

    /// Whether the time of the try is over, where there is one that has not ended.
    pub(super) fn is_over_time(&self, now: Timestamp) -> bool {
        self.open_target().and_then(|target| self.end_of_try(target)).is_some_and(|end| end <= now)
    }

    /// Whether it is on record that the device has fetched what it may fetch, and may go no further.
    fn is_fetched(&self, target: &Target) -> bool {
        target.stage == Stage::Download && self.phase_of(target) == Some(Phase::Downloaded)
    }

    /// Whether the target goes no further than a download.
    pub(super) fn is_download(&self) -> bool {
        self.live_target().is_some_and(|target| target.stage == Stage::Download)
    }

    /// The target whose end is the latest on record.
    pub(super) fn last_end(&self) -> Option<i64> {
        self.view.progress.filter(|progress| progress.phase == Phase::Done).map(|progress| progress.target)
    }

    pub(super) fn phase_of(&self, target: &Target) -> Option<Phase> {
        self.view.progress.filter(|progress| progress.target == target.id).map(|progress| progress.phase)
    }

    /// Whether it is on record that a 6 or 8 of the live target may have gone out.
    pub(super) fn has_begun(&self) -> bool {
        self.live_target().is_some_and(|target| self.phase_of(target).is_some_and(Phase::is_begun))
    }

    /// Whether it is on record that the device waits for the time to put the profile into force.
    pub(super) fn is_scheduled(&self) -> bool {
        self.live_target().is_some_and(|target| self.phase_of(target) == Some(Phase::Scheduled))
    }

    /// Whether that time is still to come.
    pub(super) fn awaits_time(&self, now: Timestamp) -> bool {
        let at = self.live_target().and_then(|target| target.scheduled).map(|scheduled| scheduled.at);
        self.is_scheduled() && at.is_some_and(|at| now < at)
    }

    /// Whether the device was told of the configuration and the time that the target says, and nothing is amiss since: it is
    /// not told again. A session that has not told it itself has only the record to go by.
    fn is_waited_for(&self, target: &Target) -> bool {
        let told = |(config, at): &(Option<String>, Timestamp)| {
            *config == target.config && target.scheduled.is_some_and(|scheduled| scheduled.at == *at)
        };
        self.phase_of(target) == Some(Phase::Scheduled)
            && self.memory.pushed
            && self.memory.losses == 0
            && self.memory.scheduled.as_ref().map_or(target.scheduled.is_some(), told)
    }

    /// When the time is over in which a device that waits for its time says how that went.
    pub(super) fn confirmation(&self) -> Option<Timestamp> {
        let target = self.open_target().filter(|target| !self.memory.confirmed && self.is_waited_for(target))?;
        target.scheduled.map(|scheduled| after(scheduled.at, self.timing.confirm))
    }

    /// A device that accepted its time, and is there that long after it, has done it: unless it can tell what it runs, and
    /// that is something else. Any other has lost its result.
    fn note_confirmation(&mut self, now: Timestamp) {
        if self.confirmation().is_none_or(|at| now < at) {
            return;
        }
        let info = self.connection.as_ref().map(|connection| &connection.info);
        let tells = info.is_some_and(|info| info.capabilities.has(Capabilities::CONFIG_VERSION));
        if self.memory.accepted && !tells {
            self.memory.confirmed = true;
        } else {
            self.memory.losses = self.memory.losses.max(1);
        }
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
        self.view.progress.is_some_and(|progress| progress.phase.is_begun() && Some(progress.target) != current)
    }

    /// Whether the device itself reports the version and the configuration of the target.
    pub(super) fn is_configured(&self) -> bool {
        let wanted = self.live_target().map(|target| target.config.as_deref());
        let info = self.connection.as_ref().map(|connection| &connection.info);
        let reported = info.filter(|info| info.capabilities.has(Capabilities::CONFIG_VERSION));
        self.has_arrived() && reported.is_some_and(|info| wanted == Some(info.config.as_deref()))
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
        if let State::Preparing { command, .. } | State::Checking { command } | State::Held { command } = self.state
            && !self.is_wanted(command)
        {
            self.give_back_request();
            self.state = State::Idle;
        }
    }

    /// The phase that is to be on record: before the command that waits for it, or because the device waits.
    pub(super) fn due_announcement(&self, now: Timestamp) -> Option<(i64, Phase)> {
        let State::Held { command } = self.state else { return None };
        let target = self.open_target().filter(|_| self.is_wanted(command))?;
        let phase = match target.stage {
            Stage::Download => return self.phase_of(target).is_none().then_some((target.id, Phase::Downloaded)),
            Stage::Activate => match (command.step, upgrade_at(target, now)) {
                (Step::Version, _) => Phase::Restarting,
                (Step::Profile | Step::Log, UpgradeAt::Time(_)) => Phase::Scheduled,
                (Step::Profile | Step::Log, UpgradeAt::Immediately) => Phase::Applying,
            },
        };
        // Who waits for a time is on record as such, also where the firmware of the same target has begun it. And what was lost
        // is so no longer: nobody else may take it for that once it has gone out again, or the device has restarted all the same.
        let lost = self.phase_of(target) == Some(Phase::RestartLost);
        let recorded = self.has_begun() && !lost && (phase != Phase::Scheduled || self.is_scheduled());
        (!recorded && self.may_command(now)).then_some((target.id, phase))
    }

    /// What is to be on record where the 6 of the live target has not reached the device, and who meets it next may be another
    /// than we, who know.
    pub(super) fn lost_restart(&self) -> Option<(i64, Phase)> {
        let target = self.open_target()?;
        let lost = self.phase_of(target) == Some(Phase::Restarting)
            && self.memory.not_restarted
            && !matches!(self.state, State::Restarting { .. });
        lost.then_some((target.id, Phase::RestartLost))
    }

    /// 6 or 8, where the target says so and its phase is on record. Whether there is more to do at once.
    pub(super) fn activate(&mut self, command: Command, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let wanted = self.is_wanted(command);
        let Some(target) = self.open_target().filter(|_| wanted) else {
            self.state = State::Idle;
            return true;
        };
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return false };
        match target.stage {
            Stage::Download => return false,
            Stage::Activate => {}
        }
        // What was fetched ahead begins here: its phase may have been acknowledged too late for that.
        let too_late = self.has_begun() && !self.memory.started && target.start_by < now;
        if last_command(target) < now || target.until <= now || too_late {
            self.state = State::Idle;
            let message = "the time of the try was over before the command could go out".to_owned();
            self.end(Reason::TimedOut, message, effects);
            return true;
        }
        if !self.has_begun() || self.due_announcement(now).is_some() {
            return false;
        }
        let at = upgrade_at(target, now);
        let scheduled = target.scheduled.map(|scheduled| (target.config.clone(), scheduled.at));
        let confirmed_by = scheduled.as_ref().map(|(_, at)| after(*at, self.timing.confirm).min(target.until));
        self.memory.started = true;
        match command.step {
            Step::Version => {
                // It called before the restart: what it said then proves nothing about what comes after.
                self.refuse_newcomer(effects);
                effects.push(Effect::Send(connection, ServerMessage::Restart));
                effects.push(Effect::Finish(connection));
                self.state = State::Restarting { target: command.target };
            }
            Step::Profile | Step::Log => {
                effects.push(Effect::Send(connection, ServerMessage::UpgradeProfile(at)));
                self.memory.pushed = true;
                self.begin_to_hear(now);
                self.state = match (at, confirmed_by) {
                    (UpgradeAt::Time(_), Some(deadline)) => {
                        (self.memory.scheduled, self.memory.accepted) = (scheduled, false);
                        State::Scheduled { target: command.target, deadline }
                    }
                    (UpgradeAt::Immediately | UpgradeAt::Time(_), _) => {
                        State::Applying { target: command.target, deadline: after(now, self.timing.apply) }
                    }
                };
            }
        }
        false
    }

    /// Which command comes next, if any. Whether there is more to do at once.
    pub(super) fn judge(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        self.note_confirmation(now);
        let Some(target) = self.open_target() else {
            self.after_end(now, effects);
            return false;
        };
        if self.is_over_time(now) {
            if self.memory.late.is_some() {
                // How it ended is known in a moment.
                return false;
            }
            let message = "the time of the try was over before the device was done".to_owned();
            self.end(Reason::TimedOut, message, effects);
            return true;
        }
        let id = target.id;
        match self.next(target) {
            Next::Nothing => false,
            Next::Command(_) if self.is_fetched(target) => {
                self.announce(effects);
                false
            }
            Next::Command(step) => {
                let until = fetched_by(target, step, now);
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
        match self.phase_of(target).filter(|phase| phase.is_begun()) {
            // Planned on something else: the controller plans anew.
            None if !arrived && !unchanged => Next::Nothing,
            None if !arrived => Next::Command(Step::Version),
            None | Some(_) if arrived && !configured && target.scheduled.is_some_and(|it| it.local.is_none()) => {
                let message = "the time at which the configuration is to be put into force cannot be told to a device";
                Next::End(Reason::SourceUnavailable, message.to_owned())
            }
            None if !configured => Next::Command(Step::Profile),
            None => Next::End(Reason::AlreadyCurrent, String::new()),
            Some(_) if arrived && configured => Next::End(Reason::Upgraded, String::new()),
            Some(_) if arrived && self.memory.losses >= 2 => self.after_losses(target),
            Some(Phase::Scheduled) if arrived && self.memory.confirmed => Next::End(Reason::Upgraded, String::new()),
            Some(_) if arrived && self.is_waited_for(target) => Next::Nothing,
            Some(_) if arrived => Next::Command(Step::Profile),
            Some(Phase::Restarting | Phase::RestartLost) if unchanged && self.memory.not_restarted => {
                Next::Command(Step::Version)
            }
            Some(Phase::Restarting | Phase::RestartLost) if unchanged => {
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

    /// Nothing is left to do for the target: its log, where it is wanted, then 2, where it is. What can tell of a log that
    /// has arrived meanwhile is written before a write for that alone; as can what says that a command is over.
    fn after_end(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let target = self.view.target.as_ref().map(|target| (target.id, target.done));
        if self.take_log_wish() {
            let target = target.map_or(0, |(target, _)| target);
            return self.prepare(target, Step::Log, after(now, self.timing.log), now, effects);
        }
        match target {
            Some((_, true)) if !self.view.dismissed => {
                self.write(Record { session: SessionRecord::Dismiss, ..Record::default() }, effects);
            }
            Some((_, true)) => self.dismiss(u32::try_from(self.timing.call_again.as_secs()).ok(), effects),
            Some((_, false)) | None if self.has_log_news() || self.has_stale_reached() => {
                self.write(Record::default(), effects);
            }
            Some((_, false)) | None => self.announce(effects),
        }
    }

    /// Tells a device that waits for its turn what it is to run then, where it takes that and was told something else on
    /// this connection; also that there is nothing any more.
    fn announce(&mut self, effects: &mut Vec<Effect>) {
        let Some(connection) = &mut self.connection else { return };
        let can = |capability| connection.info.capabilities.has(capability);
        // What is on record may be older than what it has just said of itself.
        let news = self.view.declared.as_ref().filter(|release| release.version != connection.info.version);
        let news = news.map(|Release { version, size }| Release {
            version: version.clone(),
            size: size.filter(|_| can(Capabilities::FILE_FACTS)),
        });
        if can(Capabilities::ANNOUNCEMENT) && connection.announced != news {
            connection.announced.clone_from(&news);
            effects.push(Effect::Send(connection.id, ServerMessage::Announcement(news)));
        }
    }

    pub(super) fn prepare(
        &mut self,
        target: i64,
        step: Step,
        until: Timestamp,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let command = self.number(target, step, now);
        self.state = State::Preparing { command, until };
        effects.push(Effect::Prepare { command, can: self.capabilities(), until });
    }

    /// A command with a number of its own.
    pub(super) fn number(&mut self, target: i64, step: Step, now: Timestamp) -> Command {
        // The clock in milliseconds, in its low bits, or one more than the last where that is ahead: so that a later
        // session for the device, in this or another run of the bridge, does not give a number again while a credential
        // lives.
        let clock = now.as_millisecond() as u32;
        let ahead = |next: &u32| clock.wrapping_sub(*next) > u32::MAX / 2;
        let number = self.last_command.map(|last| last.wrapping_add(1)).filter(ahead).unwrap_or(clock);
        self.last_command = Some(number);
        Command { number, target, step }
    }

    /// 2, to a device that may not be served: at once, but not into a command.
    pub(super) fn refuse_illegal(&mut self, effects: &mut Vec<Effect>) {
        match self.state {
            State::Idle
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Scheduled { .. } => self.dismiss(None, effects),
            State::Downloading { .. } | State::Applying { .. } | State::Uploading { .. } => {}
            State::Away { .. } | State::Contending { .. } | State::Restarting { .. } | State::Dismissed => {}
        }
    }

    /// `again`: in how many seconds to call again, where that is known and the device takes it.
    fn dismiss(&mut self, again: Option<u32>, effects: &mut Vec<Effect>) {
        let Some((connection, can)) = self.connection.as_ref().map(|it| (it.id, it.info.capabilities)) else { return };
        let again = again.filter(|_| can.has(Capabilities::RETRY_AFTER));
        effects.push(Effect::Send(connection, ServerMessage::Interrupt(again)));
        effects.push(Effect::Finish(connection));
        self.state = State::Dismissed;
    }
}

/// What 8 says. A time that has come is now: that is how a device takes it, and for what happens at once a device has an
/// answer at once.
fn upgrade_at(target: &Target, now: Timestamp) -> UpgradeAt {
    match target.scheduled {
        Some(Scheduled { at, local: Some(local) }) if now < at => UpgradeAt::Time(local),
        Some(_) | None => UpgradeAt::Immediately,
    }
}

/// The deadline of a download. One that is put into force at a time, which may be days away, gets as long as it would have
/// from that time on, so that a device that vanishes in its download is not taken for one that downloads.
fn fetched_by(target: &Target, step: Step, now: Timestamp) -> Timestamp {
    let allowance = target.scheduled.map(|scheduled| target.until.duration_since(scheduled.at));
    match allowance.filter(|allowance| step == Step::Profile && allowance.is_positive()) {
        Some(allowance) => after(now, allowance).min(target.until),
        None => target.until,
    }
}

/// The last instant for a 3, 4, 6 or 8.
fn last_command(target: &Target) -> Timestamp {
    before(target.until, target.margin)
}
