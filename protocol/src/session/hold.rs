//! Who holds the MAC (design: "Who holds a MAC"): connections come, ask for it, and go; bridges ask one another.

use jiff::Timestamp;

use super::types::*;
use super::{Connection, Loss, Newcomer, Session, State, after};

/// How often a bridge that does not answer is looked at again, half of the time for its answer apart, before the device
/// is told to try elsewhere. With 10 s this waits 20 s, which is longer than a Lease of 15 s lives without its holder.
const PATIENCE: u8 = 2;

impl Session {
    pub(super) fn called(&mut self, connection: Connection, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(holder) = self.connection.as_ref().map(|holder| holder.id) else {
            return self.accept(connection, now);
        };
        if let Some(former) = &mut self.newcomer {
            effects.push(Effect::Close(former.connection.id, Reason::Replaced));
            // The holder is being asked already; who calls often does not put the answer off.
            former.connection = connection;
            return;
        }
        let wait = match self.state {
            // Sent away, or into a restart: it has given up its claim, and its connection is closing. Closed at once, what
            // it was just told might be lost.
            State::Restarting { .. } | State::Dismissed => self.timing.probe.saturating_mul(2),
            State::Away { .. }
            | State::Idle
            | State::Contending { .. }
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Downloading { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Applying { .. }
            | State::Scheduled { .. }
            | State::Uploading { .. } => {
                effects.push(Effect::Probe(holder));
                effects.push(Effect::Count(Counted::Contention));
                self.timing.probe
            }
        };
        self.newcomer = Some(Newcomer { connection, decide_at: after(now, wait) });
    }

    /// A connection that nobody disputes, on this bridge.
    fn accept(&mut self, connection: Connection, now: Timestamp) {
        self.stop_asking();
        self.state = self.at_rest(now);
        self.connection = Some(connection);
        self.unrecorded = None;
    }

    /// Nothing is outstanding on the connection; but the device may still be at what it did not answer.
    pub(super) fn at_rest(&self, now: Timestamp) -> State {
        if self.unanswered { State::Settling { until: after(now, self.timing.settle) } } else { State::Idle }
    }

    pub(super) fn dropped(&mut self, id: ConnectionId, acknowledged: bool, by: EndedBy, now: Timestamp) {
        if self.newcomer.take_if(|newcomer| newcomer.connection.id == id).is_some() {
            return;
        }
        if self.connection.as_ref().is_some_and(|connection| connection.id == id) {
            self.lose_connection(acknowledged, by, now);
        }
    }

    /// The connection is gone; the newcomer, where there is one, takes its place.
    pub(super) fn lose_connection(&mut self, acknowledged: bool, by: EndedBy, now: Timestamp) {
        let loss = self.loss(by);
        match self.state {
            State::Downloading { deadline, .. } | State::Scheduled { deadline, .. } => self.remember(deadline),
            State::Uploading { deadline, .. } => {
                self.remember(deadline);
                self.lost_with_ten();
            }
            // What it has to say of its configuration it says after its next message 1.
            State::Idle | State::Settling { .. } if self.is_scheduled() => self.unanswered = true,
            State::Applying { target, deadline } => {
                self.remember(deadline);
                if self.memory.target == Some(target) {
                    self.memory.losses = self.memory.losses.saturating_add(1);
                }
            }
            // Where TCP has confirmed all that was said, 6 has reached the device.
            State::Restarting { target } if self.memory.target == Some(target) => {
                self.memory.not_restarted = !acknowledged;
            }
            State::Away { .. }
            | State::Idle
            | State::Contending { .. }
            | State::Settling { .. }
            | State::Preparing { .. }
            | State::Checking { .. }
            | State::Held { .. }
            | State::Restarting { .. }
            | State::Dismissed => {}
        }
        let speaks = self.view.legal || self.has_begun();
        if let Some(connection) = self.connection.take().filter(|_| speaks) {
            self.unrecorded = (!self.is_known(&connection.info)).then_some(connection.info);
        }
        self.state = State::Away { since: now, loss };
        if self.memory.started || self.memory.accepted {
            // That the target has begun to be followed is on no record, nor is what the device has accepted.
            let until = self.live_target().and_then(|target| self.end_of_try(target));
            self.remember_until = self.remember_until.max(until);
        }
        if let Some(newcomer) = self.newcomer.take() {
            self.accept(newcomer.connection, now);
        }
    }

    /// By whom the device loses its connection. By itself is only what comes after its last try has ended and before the
    /// next has begun; a device that was told to go, or is in its restart, loses it neither way.
    fn loss(&self, by: EndedBy) -> Loss {
        let told = matches!(self.state, State::Restarting { .. } | State::Dismissed);
        let ended = self.memory.end.is_some() || self.last_end().is_some();
        match by {
            EndedBy::Device if !told && ended => Loss::ByItself,
            EndedBy::Bridge if !told => Loss::ByUs,
            EndedBy::Device | EndedBy::Bridge => Loss::Otherwise,
        }
    }

    /// A command was not answered; it has this deadline.
    fn remember(&mut self, deadline: Timestamp) {
        self.unanswered = true;
        self.remember_until = self.remember_until.max(Some(deadline));
    }

    /// The time of a newcomer is over: the holder answers, or its connection would be gone.
    pub(super) fn decide_newcomer(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(newcomer) = self.newcomer.as_mut().filter(|newcomer| newcomer.decide_at <= now) else { return };
        match (self.state, &self.connection) {
            (State::Restarting { .. } | State::Dismissed, Some(holder)) => {
                effects.push(Effect::Close(holder.id, Reason::Replaced));
                newcomer.decide_at = after(now, self.timing.probe);
            }
            _ => self.refuse_newcomer(effects),
        }
    }

    pub(super) fn refuse_newcomer(&mut self, effects: &mut Vec<Effect>) {
        if let Some(newcomer) = self.newcomer.take() {
            effects.push(Effect::Close(newcomer.connection.id, Reason::HolderAnswers));
        }
    }

    /// Whether another bridge has sent the device away, which is done: that one has no connection to be asked about.
    pub(super) fn is_dismissed_elsewhere(&self) -> bool {
        let done = self.view.target.as_ref().is_some_and(|target| target.done) && self.live_target().is_none();
        let at_rest = matches!(self.state, State::Idle | State::Settling { .. } | State::Dismissed);
        self.view.hold == Hold::Other && self.view.dismissed && done && at_rest
    }

    /// Another bridge holds the device: what is outstanding here is given up, and a device that is connected here is
    /// asked for. A claim that has ended is none to wait for.
    pub(super) fn yield_if_taken(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.view.hold != Hold::Other {
            if matches!(self.state, State::Contending { .. }) {
                self.state = self.at_rest(now);
            }
            return;
        }
        // How the try ended is the holder's to say.
        self.memory.end = None;
        if self.is_dismissed_elsewhere() && !matches!(self.state, State::Contending { .. }) {
            return;
        }
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id) else { return };
        let refused = match self.state {
            State::Idle | State::Settling { .. } | State::Held { .. } if self.may_be_served() => {
                let decide_at = after(now, self.timing.contend);
                self.state = State::Contending { decide_at, patience: PATIENCE, asked: false };
                false
            }
            State::Contending { asked, .. } => asked && !self.writing && self.view.contender != Contender::Us,
            State::Away { .. }
            | State::Idle
            | State::Settling { .. }
            | State::Held { .. }
            | State::Restarting { .. }
            | State::Dismissed => false,
            State::Preparing { .. }
            | State::Downloading { .. }
            | State::Checking { .. }
            | State::Applying { .. }
            | State::Scheduled { .. }
            | State::Uploading { .. } => true,
        };
        if refused {
            effects.push(Effect::Close(connection, Reason::HeldElsewhere));
            self.lose_connection(true, EndedBy::Bridge, now);
            // A newcomer that takes its place asks anew.
            self.yield_if_taken(now, effects);
        }
    }

    /// The other bridge has not answered in its time. It may be no more: its claim ends with its Lease.
    pub(super) fn grow_impatient(&mut self, connection: ConnectionId, now: Timestamp, effects: &mut Vec<Effect>) {
        let State::Contending { patience, asked, .. } = self.state else { return };
        if let Some(patience) = patience.checked_sub(1) {
            let decide_at = after(now, self.timing.contend / 2);
            self.state = State::Contending { decide_at, patience, asked };
            effects.push(Effect::Refresh);
        } else {
            effects.push(Effect::Close(connection, Reason::HeldElsewhere));
            self.lose_connection(true, EndedBy::Bridge, now);
        }
    }

    /// Another bridge asks for the device: our connection is probed, and where it lives the other is refused. Whether
    /// this wants something written.
    pub(super) fn answer_contender(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let Some(connection) = self.connection.as_ref().map(|connection| connection.id).filter(|_| self.is_asked_for())
        else {
            return false;
        };
        let session = match self.refuse_at {
            Some(at) if at <= now => {
                self.refuse_at = None;
                SessionRecord::Refuse
            }
            Some(_) => return false,
            None => {
                effects.push(Effect::Probe(connection));
                effects.push(Effect::Count(Counted::Contention));
                self.refuse_at = Some(after(now, self.timing.probe));
                return false;
            }
        };
        self.write(Record { session, ..Record::default() }, effects);
        true
    }

    /// Whether another bridge asks for what we hold.
    pub(super) fn is_asked_for(&self) -> bool {
        self.view.hold == Hold::Us && self.view.contender == Contender::Other
    }
}
