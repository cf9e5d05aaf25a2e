//! Carries out what sessions want done.

use std::time::Duration;

use fettle_protocol::session::{ConnectionId, Counted, Effect, Event, Reason, Record};
use fettle_protocol::{Mac, ServerMessage};
use jiff::Timestamp;

use super::{Hub, Outcome};
use crate::cluster::notices::Notice;
use crate::cluster::record::patch;
use crate::cluster::writer::Written;
use crate::metrics::Closed;
use crate::tcp::Order;

impl Hub {
    /// Feeds an event to the session of this MAC, if there is one, and does what follows.
    pub(super) fn feed(&mut self, mac: Mac, event: Event) {
        let now = Timestamp::now();
        let Some(entry) = self.entries.get_mut(&mac) else { return };
        let Some(session) = entry.session.take() else { return };
        let span = entry.span.clone();
        let _entered = span.enter();
        let (session, effects) = session.on(event, now);
        tracing::trace!(state = session.state_name(), ?effects, "fed");
        let (over, deadline, connection) = (session.is_over(), session.deadline(), session.connection());
        entry.session = Some(session);
        let former = entry.timer;
        entry.timer = deadline;
        if former != deadline {
            if let Some(at) = former {
                self.timers.remove(&(at, mac));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, mac));
            }
        }
        for effect in effects {
            self.carry_out(mac, effect, now);
        }
        if let Some((id, outstanding)) = connection {
            self.note_outstanding(id, outstanding);
        }
        if over {
            self.forget(mac);
        }
    }

    fn forget(&mut self, mac: Mac) {
        let Some(entry) = self.entries.remove(&mac) else { return };
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, mac));
        }
        self.index.slim(&entry.name);
        self.parts.metrics.sessions.set(self.entries.len() as i64);
    }

    fn note_outstanding(&mut self, id: ConnectionId, outstanding: bool) {
        let Some(connected) = self.connections.get_mut(&id).filter(|known| known.outstanding != outstanding) else {
            return;
        };
        connected.outstanding = outstanding;
        self.order(id, Order::Outstanding(outstanding));
    }

    fn carry_out(&mut self, mac: Mac, effect: Effect, now: Timestamp) {
        match effect {
            Effect::Send(connection, message) => {
                tracing::info!(connection = connection.0, message = message.kind(), "told the device");
                self.send(connection, &message);
            }
            Effect::Finish(connection) => self.order(connection, Order::Finish),
            Effect::Close(connection, reason) => {
                tracing::info!(connection = connection.0, reason = ?reason, "connection closed by the session");
                if matches!(reason, Reason::HolderAnswers | Reason::HeldElsewhere) {
                    self.tell_of_contention(mac, connection);
                }
                self.order(connection, Order::Close(Closed::Session(reason)));
            }
            Effect::Probe(connection) => self.order(connection, Order::Probe),
            Effect::Write(record) => self.write(mac, &record, now),
            Effect::Prepare(command, until) => {
                let Some(device) = self.entries.get(&mac).and_then(|entry| self.index.whole(&entry.name)).cloned()
                else {
                    return;
                };
                let (contents, outcomes) = (self.parts.contents.clone(), self.outcomes.clone());
                self.tasks.spawn(async move {
                    let prepared = contents.prepare(&device, command, until).await;
                    let _ = outcomes.send(Outcome::Prepared(mac, command, prepared)).await;
                });
            }
            Effect::Check(command) => {
                let permission = self.entries.get(&mac).and_then(|entry| entry.permission);
                let Some((_, permission)) = permission.filter(|(of, _)| *of == command) else { return };
                let (contents, outcomes) = (self.parts.contents.clone(), self.outcomes.clone());
                self.tasks.spawn(async move {
                    let transferred = contents.check(&permission).await;
                    let _ = outcomes.send(Outcome::Checked(mac, command, transferred)).await;
                });
            }
            Effect::Refresh => {
                let view = self.view(mac);
                self.feed(mac, Event::Viewed(view));
            }
            Effect::Count(counted) => self.count(counted),
        }
    }

    fn tell_of_contention(&self, mac: Mac, newcomer: ConnectionId) {
        let device = self.entries.get(&mac).and_then(|entry| self.index.whole(&entry.name)).cloned();
        let (Some(device), Some(connected)) = (device, self.connections.get(&newcomer)) else { return };
        let note = format!(
            "a second connection with MAC {mac} from {} was closed: the device that holds it answers. \
             Two devices must not share a MAC.",
            connected.address
        );
        let notices = self.parts.notices.clone();
        self.tasks.spawn(async move { notices.publish(&device, Notice::MacContention, &note).await });
    }

    fn write(&mut self, mac: Mac, record: &Record, now: Timestamp) {
        let Some(name) = self.entries.get(&mac).map(|entry| entry.name.clone()) else { return };
        let (writer, outcomes) = (self.parts.writer.clone(), self.outcomes.clone());
        let Some(device) = self.index.whole(&name) else {
            // Nothing to write to; the session learns of it as of a conflict.
            self.tasks.spawn(async move {
                let _ = outcomes.send(Outcome::Written(mac, Written::Gone)).await;
            });
            return;
        };
        let patch = patch(record, device, &self.parts.us, now);
        tracing::debug!(%patch, "writing");
        self.tasks.spawn(async move {
            let written = writer.write(&name, patch).await;
            let _ = outcomes.send(Outcome::Written(mac, written)).await;
        });
    }

    fn count(&self, counted: Counted) {
        let metrics = &self.parts.metrics;
        match counted {
            Counted::Unasked(message) => {
                metrics.unasked.inc();
                tracing::warn!(message, "result that nothing asked for, ignored");
            }
            Counted::UnknownMessage(message) => {
                metrics.unknown_messages.inc();
                tracing::debug!(message, "message of unknown type, skipped");
            }
            Counted::Contention => {
                metrics.contentions.inc();
                tracing::warn!("second connection with one MAC; asking whether the first still lives");
            }
            Counted::Ended(reason) => {
                metrics.try_ended(reason);
                let reason_text = crate::metrics::reason_label(reason);
                if Reason::is_success(reason) {
                    tracing::info!(reason = reason_text, "try succeeded");
                } else {
                    tracing::warn!(reason = reason_text, "try failed");
                }
            }
        }
    }

    /// Sends a message; 2 is held back from who repeats itself.
    pub(super) fn send(&mut self, connection: ConnectionId, message: &ServerMessage) {
        let Some(connected) = self.connections.get(&connection) else { return };
        let after = match message {
            ServerMessage::Interrupt => self.repeats.delay(connected.mac, connected.address, Timestamp::now()),
            _ => Duration::ZERO,
        };
        let mut bytes = Vec::new();
        if let Err(error) = message.encode(&mut bytes) {
            tracing::error!(message = message.kind(), %error, "message cannot be encoded");
            return self.order(connection, Order::Close(Closed::Malformed));
        }
        self.parts.metrics.sent(message.kind());
        self.order(connection, Order::Send { bytes: bytes.into_boxed_slice(), after });
    }

    /// Gives an order. A connection that has not taken eight is not worth waiting for: it is let go.
    pub(super) fn order(&mut self, connection: ConnectionId, order: Order) {
        let Some(connected) = self.connections.get(&connection) else { return };
        if connected.orders.try_send(order).is_err()
            && let Some(connected) = self.connections.remove(&connection)
        {
            self.tasks.spawn({
                let outcomes = self.outcomes.clone();
                async move {
                    let _ = outcomes.send(Outcome::Lost(connected.mac, connection)).await;
                }
            });
        }
    }
}
