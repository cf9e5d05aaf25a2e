//! Who calls: which Device a MAC is, and what becomes of a device that is none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fettle_protocol::Mac;
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{ConnectionId, Event, Reason};
use kube::ResourceExt;

use super::repeat::Answer;
use super::{Hub, Outcome, Waiting};
use crate::cluster::ApiError;
use crate::cluster::enrolment::{self, Enrolment, Recorded};
use crate::cluster::index::Lookup;
use crate::metrics::Closed;
use crate::tcp::Order;

/// Recorded devices that wait for a person: more are not recorded. Anybody who reaches the port can make one.
const PENDING_MAX: usize = 1000;
/// Devices of a namespace in all, above which none is taken in unasked: more than a bridge has connections for.
const TAKEN_IN_MAX: usize = 100_000;
/// A Device that is applied at the moment when its device calls is on its way here: the watch is behind by milliseconds, on
/// a busy machine by a second. Recorded at once, the device would be there twice; taken in unasked, it would be served no
/// more. Nobody who has to approve it notices this long.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

impl Hub {
    /// A device has said who it is.
    pub(super) fn called(&mut self, connection: ConnectionId, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        if self.reading.contains(&mac) && self.view(mac).is_none() {
            return self.wait(mac, Waiting { connection, info, address });
        }
        self.judge(connection, info, address);
    }

    fn judge(&mut self, connection: ConnectionId, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        if self.entries.contains_key(&mac) {
            // Also of a device that may not be served any more: its session knows what is to be seen through.
            return self.feed(mac, Event::Called { connection, address: address.to_string(), info });
        }
        match self.index.lookup(mac) {
            Lookup::Known(name) => match self.index.whole(&name).cloned() {
                Some(device) => {
                    self.begin(mac, name, &device);
                    self.feed(mac, Event::Called { connection, address: address.to_string(), info });
                }
                None => {
                    self.wait(mac, Waiting { connection, info, address });
                    self.read(mac, name);
                }
            },
            Lookup::Unknown => self.enrol(connection, info, address),
            Lookup::Unapproved => self.send_away(connection, mac, "nobody has approved it"),
            Lookup::Ambiguous => self.send_away(connection, mac, "more than one declared Device has its MAC"),
        }
    }

    /// Keeps a caller until its Device is there. A second one with its MAC replaces it.
    fn wait(&mut self, mac: Mac, waiting: Waiting) {
        if let Some(former) = self.awaiting.insert(mac, waiting) {
            self.order(former.connection, Order::Close(Closed::Session(Reason::Replaced)));
        }
    }

    /// Something about this MAC has changed in the API: who waits for that is judged anew, unless the answer that it waits
    /// for is still to come.
    pub(super) fn judge_waiting(&mut self, mac: Mac) {
        let comes = match self.index.lookup(mac) {
            Lookup::Unknown => self.recording.contains(&mac),
            Lookup::Known(name) => self.index.whole(&name).is_none(),
            Lookup::Unapproved | Lookup::Ambiguous => false,
        };
        if !comes && let Some(Waiting { connection, info, address }) = self.awaiting.remove(&mac) {
            self.judge(connection, info, address);
        }
    }

    /// Who waits for an answer that did not help calls again later.
    pub(super) fn let_go_of_waiting(&mut self, mac: Mac) {
        if let Some(waiting) = self.awaiting.remove(&mac) {
            self.order(waiting.connection, Order::Close(Closed::ApiUnavailable));
        }
    }

    fn enrol(&mut self, connection: ConnectionId, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        let approved = match self.parts.enrolment {
            Enrolment::Deny => return self.send_away(connection, mac, "it is not declared, and enrolment is Deny"),
            Enrolment::Approve => false,
            Enrolment::Auto => true,
        };
        let begun = self.recording.contains(&mac);
        if !begun && !approved && self.index.pending() + self.recording.len() >= PENDING_MAX {
            return self.send_away(connection, mac, "it is not declared, and too many devices wait for approval");
        }
        if !begun && approved && self.index.len() + self.recording.len() >= TAKEN_IN_MAX {
            return self.send_away(connection, mac, "it is not declared, and there are too many devices");
        }
        if approved {
            self.wait(mac, Waiting { connection, info: info.clone(), address });
        } else {
            self.send_away(connection, mac, "it is not declared; it is recorded and waits for approval");
        }
        if begun {
            return;
        }
        self.recording.insert(mac);
        self.spawn(async move {
            tokio::time::sleep(ON_ITS_WAY).await;
            Outcome::Overdue(Box::new(info), address)
        });
    }

    /// A caller was unknown a moment ago: if it still is, it is recorded.
    pub(super) fn record(&mut self, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        if self.index.lookup(mac) != Lookup::Unknown {
            // Whoever waits for it was judged when it came.
            self.recording.remove(&mac);
            return;
        }
        let approved = match self.parts.enrolment {
            Enrolment::Deny => return,
            Enrolment::Approve => false,
            Enrolment::Auto => true,
        };
        let (devices, places) = (self.parts.devices.clone(), Arc::clone(&self.recording_places));
        self.spawn(async move {
            // Never closed. Boxed: a storm of unknown devices waits here.
            let _place = places.acquire().await;
            Outcome::Recorded(mac, Box::pin(enrolment::record(&devices, &info, address, approved)).await)
        });
    }

    pub(super) fn has_recorded(&mut self, mac: Mac, recorded: Result<Recorded, ApiError>) {
        self.recording.remove(&mac);
        let taken = match recorded {
            Ok(Recorded::Created(device)) => {
                self.parts.metrics.enrolled.inc();
                self.answered(*device);
                false
            }
            Ok(Recorded::Exists(device)) => {
                let taken = device.spec.mac.parse() != Ok(mac);
                if taken && let Some(line) = self.lines.line() {
                    let (device, left_out) = (device.name_any(), line.left_out);
                    tracing::warn!(%mac, device, left_out, "unknown device not recorded: its name is another device's");
                }
                self.answered(*device);
                taken
            }
            Err(error) => {
                if let Some(line) = self.lines.line() {
                    let (error, left_out) = (fettle_runtime::chain(&error), line.left_out);
                    tracing::warn!(%mac, %error, left_out, "unknown device not recorded");
                }
                false
            }
        };
        if !taken {
            return self.let_go_of_waiting(mac);
        }
        if let Some(waiting) = self.awaiting.remove(&mac) {
            self.send_away(waiting.connection, mac, "it is not declared, and its name is another device's");
        }
    }

    /// 2, to a caller that is no Device of ours. The first time it is worth a line; whoever repeats itself is counted.
    pub(super) fn send_away(&mut self, connection: ConnectionId, mac: Mac, why: &'static str) {
        self.parts.metrics.illegal.inc();
        let Some(connected) = self.connections.get(&connection) else { return };
        let address = connected.address;
        let Some(Answer { hold, again, first }) = self.interrupt(connection, mac, None) else { return };
        if first && let Some(line) = self.lines.line() {
            tracing::warn!(%mac, %address, connection = connection.0, why, left_out = line.left_out, "device sent away");
        } else {
            tracing::debug!(%mac, %address, connection = connection.0, why, ?hold, ?again, "device sent away");
        }
        self.order(connection, Order::Finish);
    }
}
