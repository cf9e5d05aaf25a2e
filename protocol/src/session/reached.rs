//! How far a device says that it has come with its command (message 32): what of it is put on record, and when.
//!
//! It is for people who watch, and nothing follows from it: it extends no deadline and answers nothing, so one that is made up
//! does no harm. It is written seldom, and only of a command that takes long: an upgrade that is quick costs no write more.
//! What is on record goes with whatever is written next after the command.

use jiff::Timestamp;

use super::types::*;
use super::{Session, State, after};

/// What the device has said of the command that is outstanding.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// When that command went out.
    since: Timestamp,
    /// The newest.
    newest: Option<Reached>,
    /// When such a thing was last to be written, of any command.
    written: Option<Timestamp>,
}

impl Session {
    /// A command goes out of which a device may say how far it has come.
    pub(super) fn begin_to_hear(&mut self, now: Timestamp) {
        (self.heard.since, self.heard.newest) = (now, None);
    }

    /// 32.
    pub(super) fn hear(&mut self, percent: Option<u8>, text: Option<String>) {
        let text = text.filter(|text| !text.is_empty());
        if let Some((target, _)) = self.at_work()
            && (percent.is_some() || text.is_some())
        {
            self.heard.newest = Some(Reached { target, percent, text });
        }
    }

    /// What the device is at, for which target.
    fn at_work(&self) -> Option<(i64, Work)> {
        let (target, work) = match self.state {
            State::Downloading { command: Command { target, step: Step::Version, .. }, .. } => (target, Work::Version),
            State::Downloading { command: Command { target, step: Step::Profile, .. }, .. } => (target, Work::Profile),
            State::Applying { target, .. } | State::Scheduled { target, .. } => (target, Work::Apply),
            State::Downloading { .. }
            | State::Away { .. }
            | State::Idle
            | State::Contending { .. }
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Restarting { .. }
            | State::Uploading { .. }
            | State::Dismissed => return None,
        };
        self.open_target().is_some_and(|open| open.id == target).then_some((target, work))
    }

    /// What the device is at, and how many percent of it are done, where it has said how far it is: for metrics.
    pub fn reached(&self) -> Option<(Work, Option<u8>)> {
        let (_, work) = self.at_work()?;
        self.heard.newest.as_ref().map(|newest| (work, newest.percent))
    }

    /// When what the device has said is to be written, where that is news.
    pub(super) fn reached_due(&self) -> Option<Timestamp> {
        let newest = self.heard.newest.as_ref().filter(|newest| self.view.reached.as_ref() != Some(*newest))?;
        let (target, _) = self.at_work()?;
        let may_write = newest.target == target && self.view.hold == Hold::Us && self.may_be_served();
        let last = self.heard.written.map_or(self.heard.since, |written| written.max(self.heard.since));
        may_write.then(|| after(last, self.timing.reached))
    }

    /// Writes how far the device has come, where that is due.
    pub(super) fn write_reached(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.reached_due().is_none_or(|due| now < due) {
            return;
        }
        let Some(newest) = self.heard.newest.clone() else { return };
        self.heard.written = Some(now);
        self.write(Record { reached: Change::Set(newest), ..Record::default() }, effects);
    }

    /// Whether what is on record is of a command that is over, and ours to take off the record.
    pub(super) fn has_stale_reached(&self) -> bool {
        let at_work = self.at_work().map(|(target, _)| target);
        let recorded = self.view.reached.as_ref().filter(|_| self.view.hold != Hold::Other);
        recorded.is_some_and(|reached| Some(reached.target) != at_work)
    }
}
