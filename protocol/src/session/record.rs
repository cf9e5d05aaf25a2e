//! What is written, and when: facts, the phase before 6 and 8, the end of a try. As few writes as will do (design:
//! "at most 3 API writes per device upgrade"; two of them are the bridge's).

use jiff::Timestamp;

use super::types::*;
use super::{Loss, Session, State, after};
use crate::message::DeviceInformation;

impl Session {
    /// Does what follows from the state, until something has to be waited for.
    pub(super) fn advance(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.forget_recorded_end();
        self.forget_recorded_logs();
        self.yield_if_taken(now, effects);
        self.drop_unwanted();
        if !self.is_asked_for()
            || matches!(self.state, State::Away { .. } | State::Restarting { .. } | State::Dismissed)
        {
            self.refuse_at = None;
        }
        // Ends: each turn goes on to a later state, or writes.
        while !self.writing && self.step(now, effects) {}
    }

    /// An end that is on record, or whose target has gone, is no longer ours to write.
    fn forget_recorded_end(&mut self) {
        let live = self.live_target().map(|target| target.id);
        self.memory.end.take_if(|end| live != Some(end.target));
    }

    /// Whether there is more to do at once.
    fn step(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        match self.state {
            State::Away { since, loss } => {
                self.away(since, loss, now, effects);
                false
            }
            // Its connection is closing: how that ends tells whether 6 or 2 has reached it.
            State::Restarting { .. } | State::Dismissed => false,
            State::Contending { decide_at, patience, asked } => {
                if asked {
                    return false;
                }
                self.state = State::Contending { decide_at, patience, asked: true };
                // A question that an earlier connection left is as good as ours.
                let address = self.connection.as_ref().map(|connection| connection.address.clone());
                if let Some(address) = address.filter(|_| self.view.contender != Contender::Us) {
                    let session = SessionRecord::Contend { address };
                    self.write(Record { session, ..Record::default() }, effects);
                }
                false
            }
            State::Idle
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Downloading { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Applying { .. }
            | State::Scheduled { .. }
            | State::Uploading { .. } => self.connected(now, effects),
        }
    }

    fn connected(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        if self.answer_contender(now, effects) || self.record_facts(now, effects) {
            return false;
        }
        if !self.may_be_served() {
            self.refuse_illegal(effects);
            return false;
        }
        match self.state {
            State::Held { command } => self.activate(command, now, effects),
            State::Idle => self.judge(now, effects),
            State::Scheduled { target, .. } => {
                let left = self.leave_schedule(target, now, effects);
                if !left {
                    self.write_reached(now, effects);
                }
                left
            }
            State::Downloading { .. } | State::Applying { .. } => {
                self.write_reached(now, effects);
                false
            }
            State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Uploading { .. }
            | State::Away { .. }
            | State::Contending { .. }
            | State::Restarting { .. }
            | State::Dismissed => false,
        }
    }

    /// Nobody waits any more for the answer to an 8 that may come in days, but the connection is one with a command
    /// outstanding: nothing else may go there. Whether there is more to do at once.
    fn leave_schedule(&mut self, target: i64, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        if self.open_target().is_some_and(|open| open.id == target) {
            return false;
        }
        if let Some(connection) = &self.connection {
            effects.push(Effect::Close(connection.id, Reason::Replaced));
        }
        self.lose_connection(true, EndedBy::Bridge, now);
        true
    }

    /// Writes what is to be on record before anything further is done: that the device is ours, what it says of itself,
    /// how its try ended, or that it begins. Whether there is something of it to write.
    fn record_facts(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let Some(connection) = &self.connection else { return false };
        if self.is_dismissed_elsewhere() && self.may_be_served() {
            let info = (!self.is_known(&connection.info)).then(|| connection.info.clone());
            // Who sent it away writes it off when it is late, and does not know that it was here. What is half that old is said
            // anew; before that, to call here costs nothing.
            let stale = self.view.last_seen.is_none_or(|seen| after(seen, self.timing.away() / 2) <= now);
            let wanted = stale || info.is_some() || self.is_log_wished();
            if wanted {
                let session = SessionRecord::Inherit { address: connection.address.clone() };
                self.write(Record { session, info, ..Record::default() }, effects);
            }
            return wanted;
        }
        let View { legal, hold, dismissed, known, target, .. } = &self.view;
        let (served, ours) = (self.may_be_served(), *hold == Hold::Us);
        let done = target.as_ref().is_some_and(|target| target.done);
        let claim = served && (!ours || (*dismissed && !done));
        // A device that is told to go at once need not be found.
        let moved = served
            && !(*dismissed && done)
            && known.as_ref().and_then(|known| known.address.as_ref()) != Some(&connection.address);
        // What a declared device of the wrong model says of itself is on record, so that people can see what is wrong
        // with it; its connection is not. While another bridge holds the device, nothing is ours to say.
        let news = (*legal || served) && *hold != Hold::Other && !self.is_known(&connection.info);
        let announcement = self.due_announcement(now);
        // Facts go with the end of a try, and wait for it where one has begun; but not for days.
        let facts = (moved || news) && (!self.has_begun() || self.awaits_time(now));
        if self.memory.end.is_none() && announcement.is_none() && !claim && !facts {
            return false;
        }
        let session = if claim || moved {
            SessionRecord::Claim { address: connection.address.clone() }
        } else {
            SessionRecord::Unchanged
        };
        let info = news.then(|| connection.info.clone());
        self.write(Record { session, info, progress: announcement, ..Record::default() }, effects);
        true
    }

    /// Whether just this is on record as what the device says of itself.
    pub(super) fn is_known(&self, info: &DeviceInformation) -> bool {
        self.view.known.as_ref().is_some_and(|known| known.is(info))
    }

    /// When a device that is away is to be written off as disconnected.
    pub(super) fn release_at(&self, since: Timestamp) -> Option<Timestamp> {
        let until = self.live_target().map(|target| target.until);
        let drop = after(since, self.timing.drop_delay);
        match self.view.hold {
            Hold::Nobody | Hold::Other => None,
            // It waits for its time, and may be gone for days before that.
            Hold::Us | Hold::Predecessor if self.awaits_time(since) => Some(drop),
            // A drop that the upgrade itself causes is written with its result, at the latest when its time is over.
            Hold::Us if self.has_begun() => until,
            // No living bridge holds it: the controller says how its try ended.
            Hold::Predecessor if self.has_begun() => None,
            // It is away by our own word, and comes back by itself; or it is gone like any other.
            Hold::Us | Hold::Predecessor if self.view.dismissed => {
                let gone = after(since, self.timing.away());
                Some(until.map_or(gone, |until| until.min(gone)))
            }
            Hold::Us | Hold::Predecessor => Some(drop),
        }
    }

    fn away(&mut self, since: Timestamp, loss: Loss, now: Timestamp, effects: &mut Vec<Effect>) {
        let (hold, release) = (self.view.hold, self.release_at(since));
        let due = release.is_some_and(|at| at <= now);
        if self.memory.late.is_some() && hold == Hold::Us {
            // It is away with how its try ended, which is known in a moment.
            return;
        }
        if hold == Hold::Us && self.has_begun() && due && self.is_over_time(now) {
            let message = "the device went away with its command and did not come back before the end of the try";
            self.end(Reason::TimedOut, message.to_owned(), effects);
        }
        self.ask_remotely(since, now, effects);
        // A device that timed out has a log that is worth waiting for.
        if self.memory.log_wanted {
            self.remember_until = self.remember_until.max(Some(after(since, self.timing.log)));
        }
        if hold == Hold::Nobody {
            let begun = self.memory.started && self.live_target().is_some();
            let of_use = self.unanswered || begun || self.memory.log_wanted;
            self.remember_until.take_if(|at| *at <= now || !of_use);
        }
        let ours = matches!(hold, Hold::Us | Hold::Predecessor);
        if self.memory.end.is_some() || (ours && (due || self.is_asked_for())) {
            // Whose connection we have closed ourselves has the usual while to call again: who was only late is not gone.
            let may_return = loss == Loss::ByUs && now < after(since, self.timing.drop_delay) && !self.is_asked_for();
            let session = match ours && !may_return {
                true => SessionRecord::Release { last_seen: since },
                false => SessionRecord::Unchanged,
            };
            let info = self.unrecorded.clone().filter(|_| ours);
            // Who was asked for by another bridge before the drop was to be written may have moved there quickly.
            let counts = self.memory.end.is_some() || after(since, self.timing.drop_delay) <= now;
            let drops = (ours && counts && loss == Loss::ByItself).then(|| self.next_drop()).flatten();
            let progress = self.lost_restart().filter(|_| matches!(session, SessionRecord::Release { .. }));
            self.write(Record { session, info, progress, drops, ..Record::default() }, effects);
        } else if self.has_log_news() && release.is_none_or(|at| after(now, self.timing.drop_delay) < at) {
            // Nothing else is about to be written.
            self.write(Record::default(), effects);
        }
    }

    /// One more of the connections that the device has lost by itself since its last try has ended.
    fn next_drop(&self) -> Option<Drops> {
        let target = self.memory.end.as_ref().map(|end| end.target).or_else(|| self.last_end())?;
        let known = self.view.drops.filter(|drops| drops.target == target).map_or(0, |drops| drops.count);
        Some(Drops { target, count: known.saturating_add(1) })
    }

    /// Writes, with the end of the try where there is one.
    pub(super) fn write(&mut self, mut record: Record, effects: &mut Vec<Effect>) {
        if let Some(end) = &self.memory.end {
            record.progress = Some((end.target, Phase::Done));
            record.end = Some(end.clone());
        }
        // Whatever this target puts on record about its way hides that a former one left the configuration in doubt.
        let doubtful = match &record.end {
            Some(end) => self.applied_in_doubt() || (self.memory.pushed && !end.reason.is_success()),
            None => self.applied_in_doubt() && record.progress.is_some(),
        };
        let renewed = record.end.as_ref().is_some_and(|end| end.applied.is_some());
        record.forget_applied = doubtful && !renewed && self.view.applied.is_some();
        if record.reached == Change::Unchanged && self.has_stale_reached() {
            record.reached = Change::Clear;
        }
        record.log = self.log.clone();
        record.log_refused = self.log_refused_record();
        record.log_answer =
            self.request.as_ref().and_then(|request| Some((request.value.clone(), request.ended.clone()?)));
        self.writing = true;
        effects.push(Effect::Write(record));
    }
}
