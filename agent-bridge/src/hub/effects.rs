//! Carries out what sessions want done.

use std::sync::Arc;
use std::time::Duration;

use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::{DeviceMessage, UpgradeAt};
use fettle_protocol::session::{
    Command, ConnectionId, Counted, Effect, Event, Phase, Reason, Record, SourceError, Step, Transferred,
};
use fettle_protocol::{Mac, ServerMessage};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::Instrument;

use super::repeat::Answer;
use super::{Hub, Outcome};
use crate::cluster::notices::Notice;
use crate::cluster::record::patch;
use crate::cluster::writer::Written;
use crate::files::credentials::Permission;
use crate::metrics::{Closed, Stage, reason_label};
use crate::tcp::{NotTaken, Order};

/// Before a write is said to have failed for which there is nothing to write to.
const NOTHING_THERE: Duration = Duration::from_secs(1);

impl Hub {
    /// Feeds an event to the session of this MAC, if there is one, and does what follows.
    pub(super) fn feed(&mut self, mac: Mac, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            if self.feed_one(mac, event) {
                next = self.view(mac).map(|view| Event::Viewed(Box::new(view)));
            }
        }
    }

    /// Whether the session wants to be fed the view anew.
    fn feed_one(&mut self, mac: Mac, event: Event) -> bool {
        let now = Timestamp::now();
        let Some(entry) = self.entries.get_mut(&mac) else { return false };
        let Some(session) = entry.session.take() else { return false };
        let took = answered(&event).and_then(|stage| entry.stage.take_if(|(current, _)| *current == stage));
        if let Some((stage, since)) = took {
            self.parts.metrics.took(stage, since.elapsed());
        }
        if let (
            Event::Said { message: DeviceMessage::LogUploaded(..), .. } | Event::Replied(..),
            Some((_, permission)),
        ) = (&event, &entry.permission)
        {
            self.parts.contents.brought(permission);
        }
        let span = entry.span.clone();
        let _entered = span.enter();
        let (session, effects) = session.on(event, now);
        tracing::trace!(state = session.state_name(), ?effects, "fed");
        let (over, deadline, connection) = (session.is_over(), session.deadline(), session.connection());
        self.parts.metrics.session(Some(entry.state), Some(session.state_name()));
        entry.state = session.state_name();
        let reached = std::mem::replace(&mut entry.reached, session.reached());
        self.parts.metrics.reached(reached, entry.reached);
        entry.session = Some(session);
        let former = std::mem::replace(&mut entry.timer, deadline);
        if former != deadline {
            if let Some(at) = former {
                self.timers.remove(&(at, mac));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, mac));
            }
        }
        let mut refresh = false;
        for effect in effects {
            refresh |= self.carry_out(mac, effect, now);
        }
        if let Some((id, outstanding)) = connection {
            self.note_outstanding(id, outstanding);
        }
        if over {
            self.forget(mac);
        }
        refresh
    }

    fn note_outstanding(&mut self, id: ConnectionId, outstanding: bool) {
        let Some(connected) = self.connections.get_mut(&id).filter(|known| known.outstanding != outstanding) else {
            return;
        };
        connected.outstanding = outstanding;
        self.order(id, Order::Outstanding(outstanding));
    }

    /// Whether the session wants to be fed the view anew.
    fn carry_out(&mut self, mac: Mac, effect: Effect, now: Timestamp) -> bool {
        match effect {
            Effect::Send(connection, message) => self.command(mac, connection, &message),
            Effect::Finish(connection) => self.order(connection, Order::Finish),
            Effect::Close(connection, reason) => {
                if let Some(line) = self.lines.line() {
                    let (reason, left_out) = (reason_label(reason), line.left_out);
                    tracing::info!(connection = connection.0, reason, left_out, "connection closed by its session");
                }
                if matches!(reason, Reason::HolderAnswers | Reason::HeldElsewhere) {
                    self.tell_of_contention(mac, connection);
                }
                self.order(connection, Order::Close(Closed::Session(reason)));
            }
            Effect::Probe(connection) => self.order(connection, Order::Probe),
            Effect::Write(record) => self.write(mac, &record, now),
            Effect::Prepare { command, can, until } => self.prepare(mac, command, can, until),
            Effect::Check(command) => self.check(mac, command),
            Effect::Ask { to, command: _, location, until } => self.ask_for_log(mac, &to, location, until),
            Effect::Refresh => return true,
            Effect::Count(counted) => self.count(mac, counted),
        }
        false
    }

    fn command(&mut self, mac: Mac, connection: ConnectionId, message: &ServerMessage) {
        // The two that change a device are worth a line each; the others are there for who looks closer.
        match message {
            ServerMessage::Restart => tracing::info!(connection = connection.0, "restart ordered"),
            ServerMessage::UpgradeProfile(UpgradeAt::Immediately) => {
                tracing::info!(connection = connection.0, "profile upgrade ordered");
            }
            ServerMessage::UpgradeProfile(UpgradeAt::Time(local)) => {
                tracing::info!(connection = connection.0, %local, "profile upgrade ordered for a time");
            }
            ServerMessage::Interrupt(_)
            | ServerMessage::DownloadVersion(_)
            | ServerMessage::DownloadProfile(_)
            | ServerMessage::UploadLog(_)
            | ServerMessage::Announcement(_)
            | ServerMessage::Unknown(_) => {
                tracing::debug!(connection = connection.0, kind = message.kind(), "told the device");
            }
        }
        if let (Some(stage), Some(entry)) = (ordered(message), self.entries.get_mut(&mac)) {
            let now = Instant::now();
            entry.stage = Some((stage, now));
            if stage != Stage::Log {
                entry.began.get_or_insert(now);
            }
        }
        match message {
            ServerMessage::Interrupt(again) => drop(self.interrupt(connection, mac, *again)),
            _ => self.send_after(connection, message, Duration::ZERO),
        }
    }

    fn prepare(&mut self, mac: Mac, command: Command, can: Capabilities, until: Timestamp) {
        let Some(entry) = self.entries.get(&mac) else { return };
        let Some(device) = self.index.whole(&entry.name).cloned() else {
            let gone = SourceError("the Device is no more".to_owned());
            return self.at_once.push_back(Outcome::Prepared(mac, command, Box::new(Err(gone))));
        };
        let contents = self.parts.contents.clone();
        let prepare = async move {
            let prepared = contents.prepare(&device, command, can, until).await;
            Outcome::Prepared(mac, command, Box::new(prepared))
        };
        self.spawn(prepare.instrument(entry.span.clone()));
    }

    /// Notes the credential of the newest command: the one before is not asked about any more. A file that took long may
    /// be ready after that of a later command.
    pub(super) fn permit(&mut self, mac: Mac, command: Command, permission: Permission) {
        let Some(entry) = self.entries.get_mut(&mac) else { return self.parts.contents.forget(&permission) };
        let over = match &mut entry.permission {
            Some((known, _)) if is_later(*known, command) => Some(permission),
            known => known.replace((command, permission)).map(|(_, former)| former),
        };
        if let Some(over) = over {
            self.parts.contents.forget(&over);
        }
    }

    fn check(&mut self, mac: Mac, command: Command) {
        let permission = self.entries.get(&mac).and_then(|entry| entry.permission);
        let Some((_, permission)) = permission.filter(|(of, _)| *of == command) else {
            // Nothing shows that anything was sent.
            return self.at_once.push_back(Outcome::Checked(mac, command, Transferred::NotWholly));
        };
        let contents = self.parts.contents.clone();
        self.spawn(async move {
            let transferred = contents.check(&permission).await;
            Outcome::Checked(mac, command, transferred)
        });
    }

    fn tell_of_contention(&self, mac: Mac, newcomer: ConnectionId) {
        let device = self.entries.get(&mac).and_then(|entry| self.index.whole(&entry.name)).cloned();
        let (Some(device), Some(connected)) = (device, self.connections.get(&newcomer)) else { return };
        let note = format!(
            "a second connection with MAC {mac} from {} was closed: the device that holds it answers. \
             Two devices must not share a MAC.",
            connected.address
        );
        let (notices, closing) = (self.parts.notices.clone(), self.closing.clone());
        self.tasks.spawn(async move {
            closing.run_until_cancelled_owned(notices.publish(&device, Notice::MacContention, &note)).await;
        });
    }

    fn write(&mut self, mac: Mac, record: &Record, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&mac) else { return };
        if let Some((_, Phase::Downloaded | Phase::Scheduled)) = record.progress {
            // What follows may follow in days: that is no time that the device takes.
            entry.began = None;
        }
        let (name, uid, failures) = (Arc::clone(&entry.name), entry.uid.clone(), entry.failures);
        let device = self.index.whole(&name).filter(|device| device.metadata.uid.as_deref() == uid.as_deref());
        let Some(device) = device else {
            // The session learns of it as of a conflict, and not so fast that it could run in circles.
            return self.spawn(async move {
                tokio::time::sleep(NOTHING_THERE).await;
                Outcome::Written { mac, name, uid, written: Written::Gone }
            });
        };
        let patch = patch(record, device, &self.parts.us, now);
        tracing::debug!(%patch, "writing");
        let (writer, outcomes, closing) = (self.parts.writer.clone(), self.outcomes.clone(), self.closing.clone());
        // Not given up at the end of the program: what the API server has taken in is better known to have been.
        let write = async move {
            let written = writer.write(&name, patch, failures, &closing).await;
            let _ = outcomes.send(Outcome::Written { mac, name, uid, written }).await;
        };
        self.tasks.spawn(write.instrument(entry.span.clone()));
    }

    fn count(&mut self, mac: Mac, counted: Counted) {
        let metrics = &self.parts.metrics;
        match counted {
            Counted::Unasked(message) => {
                metrics.unasked.inc();
                if let Some(line) = self.lines.line() {
                    tracing::warn!(kind = message, left_out = line.left_out, "result that nothing asked for, ignored");
                }
            }
            Counted::UnknownMessage(message) => {
                metrics.unknown_messages.inc();
                tracing::debug!(kind = message, "message of unknown type, skipped");
            }
            Counted::Contention => {
                metrics.contentions.inc();
                if let Some(line) = self.lines.line() {
                    let left_out = line.left_out;
                    tracing::warn!(left_out, "second connection with one MAC; asking whether the first still lives");
                }
            }
            Counted::Ended(reason) => {
                let entry = self.entries.get_mut(&mac);
                let (began, over) = entry
                    .map(|entry| (entry.began.take(), entry.permission.take_if(|(of, _)| of.step != Step::Log)))
                    .unwrap_or_default();
                if let Some((_, permission)) = over {
                    self.parts.contents.forget(&permission);
                }
                metrics.try_ended(reason, began.map(|began| began.elapsed()));
                let reason_text = reason_label(reason);
                let device = self.entries.get(&mac).and_then(|entry| self.index.whole(&entry.name));
                let target = device.and_then(|device| device.status.as_ref()?.target.as_ref());
                let (rollout, target) = target.map(|target| (target.rollout.as_str(), target.id)).unzip();
                if reason.is_success() {
                    tracing::info!(rollout, target, reason = reason_text, "try succeeded");
                } else {
                    tracing::warn!(rollout, target, reason = reason_text, "try failed");
                }
            }
        }
    }

    /// 2, held back from a device that repeats itself, or with the word to stay away: for no less than `again` seconds.
    pub(super) fn interrupt(&mut self, connection: ConnectionId, mac: Mac, again: Option<u32>) -> Option<Answer> {
        let connected = self.connections.get(&connection)?;
        let least = connected.retries.then(|| Duration::from_secs(again.unwrap_or_default().into()));
        let answer = self.repeats.answer(mac, connected.address, least, Timestamp::now());
        let again = answer.again.map(|again| u32::try_from(again.as_secs()).unwrap_or(u32::MAX));
        self.send_after(connection, &ServerMessage::Interrupt(again), answer.hold);
        Some(answer)
    }

    /// Sends a message, after a while where one is given.
    pub(super) fn send_after(&mut self, connection: ConnectionId, message: &ServerMessage, after: Duration) {
        let Some(dialect) = self.connections.get(&connection).map(|connected| connected.dialect) else { return };
        let mut bytes = Vec::new();
        if let Err(error) = message.encode_in(dialect, &mut bytes) {
            tracing::error!(kind = message.kind(), %error, "message cannot be encoded");
            return self.order(connection, Order::Close(Closed::Malformed));
        }
        self.parts.metrics.sent(message.kind());
        self.order(connection, Order::Send { bytes: bytes.into_boxed_slice(), after });
    }

    /// Gives an order. A connection that has not taken so many is not worth waiting for: it is let go.
    pub(super) fn order(&mut self, connection: ConnectionId, order: Order) {
        let Some(connected) = self.connections.get(&connection) else { return };
        match connected.orders.give(order) {
            Ok(()) | Err(NotTaken::Ended) => {}
            Err(NotTaken::Full) => {
                let mac = connected.mac;
                self.connections.remove(&connection);
                self.at_once.push_back(Outcome::Lost(mac, connection));
            }
        }
    }
}

/// Whether `one` was given after `other`. Numbers count up, and wrap.
const fn is_later(one: Command, other: Command) -> bool {
    let ahead = one.number.wrapping_sub(other.number);
    ahead != 0 && ahead <= u32::MAX / 2
}

/// What a device begins with a message.
const fn ordered(message: &ServerMessage) -> Option<Stage> {
    match message {
        ServerMessage::DownloadVersion(_) => Some(Stage::Version),
        ServerMessage::DownloadProfile(_) => Some(Stage::Profile),
        ServerMessage::Restart => Some(Stage::Restart),
        ServerMessage::UpgradeProfile(UpgradeAt::Immediately) => Some(Stage::Apply),
        ServerMessage::UploadLog(_) => Some(Stage::Log),
        // How long a device waits for its time says nothing of how long it takes.
        ServerMessage::UpgradeProfile(UpgradeAt::Time(_))
        | ServerMessage::Interrupt(_)
        | ServerMessage::Announcement(_)
        | ServerMessage::Unknown(_) => None,
    }
}

/// What an event shows a device to have done.
const fn answered(event: &Event) -> Option<Stage> {
    match event {
        Event::Called { .. } => Some(Stage::Restart),
        Event::Said { message, .. } => match message {
            DeviceMessage::VersionDownloaded(..) => Some(Stage::Version),
            DeviceMessage::ProfileDownloaded(..) => Some(Stage::Profile),
            DeviceMessage::ProfileUpgraded(..) => Some(Stage::Apply),
            DeviceMessage::LogUploaded(..) => Some(Stage::Log),
            DeviceMessage::Information(_)
            | DeviceMessage::Progress { .. }
            | DeviceMessage::RestartComplete
            | DeviceMessage::KeepAlive
            | DeviceMessage::Unknown(_) => None,
        },
        Event::Dropped { .. }
        | Event::Viewed(_)
        | Event::Written(_)
        | Event::Prepared(..)
        | Event::Checked(..)
        | Event::Logged(_)
        | Event::LogRefused(_)
        | Event::Replied(..)
        | Event::Tick => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_commands_are_told_from_earlier_ones_also_where_their_numbers_wrap() {
        let command = |number| Command { number, target: 1, step: Step::Version };
        assert!(is_later(command(2), command(1)));
        assert!(!is_later(command(1), command(2)));
        assert!(!is_later(command(1), command(1)));
        assert!(is_later(command(3), command(u32::MAX - 3)));
        assert!(!is_later(command(u32::MAX - 3), command(3)));
    }
}
