//! The hub: one task that owns all sessions, takes in everything that happens, and has done what they want.
//!
//! It decides nothing about upgrades: [`Session`] does. What it does decide is which Device a MAC is, and that a device
//! which is none is sent away.

mod effects;
mod repeat;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fettle_crds::Device;
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{Command, ConnectionId, Event, File, Session, SourceError, Timing, Transferred, View};
use fettle_protocol::{DeviceMessage, Mac, ServerMessage};
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Identity;
use crate::cluster::bridges::Bridges;
use crate::cluster::content::Contents;
use crate::cluster::enrolment::{self, Enrolment};
use crate::cluster::index::{Index, Lookup};
use crate::cluster::notices::Notices;
use crate::cluster::view::view;
use crate::cluster::writer::{Writer, Written};
use crate::files::credentials::Permission;
use crate::metrics::{Closed, Metrics};
use crate::tcp::{FromConnection, Order, Told};
use repeat::Repeats;

/// Recorded devices that wait for a person: more are not recorded. Anybody who reaches the port can make one.
const PENDING_MAX: usize = 1000;
/// Outcomes of our own tasks that may wait for the hub; tasks wait for room.
const OUTCOMES: usize = 1024;
/// Timers are not looked at more often.
const TICK_MIN: Duration = Duration::from_millis(20);

/// What the hub works with.
pub struct Parts {
    pub us: Identity,
    pub timing: Timing,
    pub enrolment: Enrolment,
    /// For how long after the start sessions of the run before are left alone.
    pub reconnect_grace: SignedDuration,
    pub devices: Api<Device>,
    pub contents: Contents,
    pub writer: Writer,
    pub notices: Notices,
    pub metrics: Metrics,
    /// Which bridges live, for others to read.
    pub bridges: Arc<Mutex<Bridges>>,
}

/// The hub.
pub struct Hub {
    parts: Parts,
    index: Index,
    entries: HashMap<Mac, Entry>,
    connections: HashMap<ConnectionId, Connected>,
    /// Devices that wait until their Device is read, or has been made: one connection for each MAC.
    awaiting: HashMap<Mac, Waiting>,
    timers: BTreeSet<(Timestamp, Mac)>,
    repeats: Repeats,
    started: Timestamp,
    grace_over: bool,
    outcomes: mpsc::Sender<Outcome>,
    tasks: TaskTracker,
}

/// A device with a session.
struct Entry {
    name: String,
    /// Taken only while it is fed.
    session: Option<Session>,
    timer: Option<Timestamp>,
    /// The credential of the newest command.
    permission: Option<(Command, Permission)>,
    span: tracing::Span,
}

/// A connection that has said who it is.
struct Connected {
    mac: Mac,
    address: IpAddr,
    orders: mpsc::Sender<Order>,
    outstanding: bool,
}

struct Waiting {
    connection: ConnectionId,
    info: DeviceInformation,
    address: IpAddr,
}

/// What a task of ours brings back.
enum Outcome {
    Written(Mac, Written),
    Read(Mac, Written),
    Prepared(Mac, Command, Result<(File, Permission), SourceError>),
    Checked(Mac, Command, Transferred),
    NotRecorded(Mac),
    /// A connection that takes no orders.
    Lost(Mac, ConnectionId),
}

/// What is watched.
pub struct Watches<D, L> {
    pub devices: D,
    pub leases: L,
}

impl Hub {
    /// A hub with no session yet.
    pub fn new(parts: Parts) -> Self {
        let (outcomes, _) = mpsc::channel(1);
        Self {
            parts,
            index: Index::default(),
            entries: HashMap::new(),
            connections: HashMap::new(),
            awaiting: HashMap::new(),
            timers: BTreeSet::new(),
            repeats: Repeats::default(),
            started: Timestamp::now(),
            grace_over: false,
            outcomes,
            tasks: TaskTracker::new(),
        }
    }

    /// Runs until `shutdown`. `synced` becomes true when Devices and Leases have been listed once: before that nobody
    /// can be judged, and no connection may be taken in.
    pub async fn run<D, L>(
        mut self,
        watches: Watches<D, L>,
        mut connections: mpsc::Receiver<FromConnection>,
        synced: watch::Sender<bool>,
        shutdown: CancellationToken,
    ) where
        D: Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<Device>>>> + Unpin + Send,
        L: Stream<Item = watcher::Result<watcher::Event<Lease>>> + Unpin + Send,
    {
        let Watches { mut devices, mut leases } = watches;
        let (sender, mut outcomes) = mpsc::channel(OUTCOMES);
        self.outcomes = sender;
        let (mut devices_listed, mut leases_listed) = (false, false);
        loop {
            let sleep = self.until_next();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = devices.next() => devices_listed |= self.device_event(event),
                Some(event) = leases.next() => leases_listed |= self.lease_event(event),
                Some(outcome) = outcomes.recv() => self.outcome(outcome),
                Some((connection, told)) = connections.recv() => self.told(connection, told),
                () = tokio::time::sleep(sleep) => self.tick(),
            }
            if devices_listed && leases_listed {
                synced.send_if_modified(|synced| !std::mem::replace(synced, true));
            }
        }
        self.tasks.close();
        drop(outcomes);
        self.tasks.wait().await;
    }

    fn until_next(&self) -> Duration {
        let grace = (!self.grace_over).then(|| self.started + self.parts.reconnect_grace);
        let next = self.timers.first().map(|(at, _)| *at).into_iter().chain(grace).min();
        let now = Timestamp::now();
        next.map_or(Duration::from_secs(60), |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default().max(TICK_MIN)
        })
    }

    fn tick(&mut self) {
        let now = Timestamp::now();
        if !self.grace_over && self.started + self.parts.reconnect_grace <= now {
            self.grace_over = true;
            self.adopt_orphans();
        }
        while let Some((at, mac)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, mac));
            if let Some(entry) = self.entries.get_mut(&mac) {
                entry.timer = None;
            }
            self.feed(mac, Event::Tick);
        }
    }

    /// Sessions of the run before whose devices stayed away are given up.
    fn adopt_orphans(&mut self) {
        let us = &self.parts.us;
        let orphans: Vec<_> = (self.index.all_whole())
            .filter(|device| {
                let session = device.status.as_ref().and_then(|status| status.session.as_ref());
                session.is_some_and(|session| session.bridge == us.name && session.incarnation != us.incarnation)
            })
            .filter_map(|device| Some((device.spec.mac.parse().ok()?, device.name_any())))
            .collect();
        for (mac, name) in orphans {
            if !self.entries.contains_key(&mac) && self.index.lookup(mac) == Lookup::Known(name.clone()) {
                self.begin(mac, name);
                self.feed(mac, Event::Tick);
            }
        }
    }

    fn lease_event(&mut self, event: watcher::Result<watcher::Event<Lease>>) -> bool {
        let now = Timestamp::now();
        let mut bridges = self.parts.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease)) => bridges.apply(&lease, now),
            Ok(watcher::Event::Delete(lease)) => bridges.remove(&lease.name_any()),
            Ok(watcher::Event::InitDone) => return true,
            Ok(watcher::Event::Init) => {}
            Err(error) => tracing::warn!(error = %fettle_runtime::chain(&error), "leases not watched; trying again"),
        }
        false
    }

    fn device_event(&mut self, event: watcher::Result<watcher::Event<DeserializeGuard<Device>>>) -> bool {
        match event {
            Ok(watcher::Event::Init) => self.index.restart(),
            Ok(watcher::Event::Apply(device) | watcher::Event::InitApply(device)) => match device.0 {
                Ok(device) => self.device(device),
                Err(error) => {
                    self.parts.metrics.malformed.inc();
                    tracing::warn!(device = error.metadata.name, error = error.error, "device cannot be read");
                }
            },
            Ok(watcher::Event::Delete(device)) => {
                let name = device.name_any();
                if let Some(mac) = self.index.remove(&name) {
                    self.changed(mac);
                }
            }
            Ok(watcher::Event::InitDone) => {
                for mac in self.index.restarted() {
                    self.changed(mac);
                }
                return true;
            }
            Err(error) => tracing::warn!(error = %fettle_runtime::chain(&error), "devices not watched; trying again"),
        }
        false
    }

    /// A Device as it stands.
    fn device(&mut self, device: Device) {
        let (us, entries, awaiting) = (&self.parts.us.name, &self.entries, &self.awaiting);
        let concerned = self.index.apply(device, |device, mac| {
            let session = device.status.as_ref().and_then(|status| status.session.as_ref());
            entries.contains_key(&mac)
                || awaiting.contains_key(&mac)
                || session.is_some_and(|session| session.bridge == *us)
        });
        for mac in concerned {
            self.changed(mac);
        }
    }

    /// Something about this MAC has changed in the API.
    fn changed(&mut self, mac: Mac) {
        if self.entries.contains_key(&mac) {
            let view = self.view(mac);
            self.feed(mac, Event::Viewed(view));
        } else if let Lookup::Known(name) = self.index.lookup(mac)
            && self.index.whole(&name).is_some()
            && let Some(waiting) = self.awaiting.remove(&mac)
        {
            self.begin(mac, name);
            let Waiting { connection, info, address } = waiting;
            self.feed(mac, Event::Called { connection, address: address.to_string(), info });
        }
    }

    /// What the API says of the device with this MAC; of one that is none, that it may not be served.
    fn view(&mut self, mac: Mac) -> View {
        let Lookup::Known(name) = self.index.lookup(mac) else { return View::default() };
        let Some(device) = self.index.whole(&name).cloned() else {
            self.read(mac, name);
            return View::default();
        };
        if let Some(entry) = self.entries.get_mut(&mac) {
            entry.name = name;
        }
        let bridges = self.parts.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        view(&device, &self.parts.us, &bridges, Timestamp::now())
    }

    /// A session for the device with this MAC, which is kept whole.
    fn begin(&mut self, mac: Mac, name: String) {
        let span = tracing::info_span!("session", device = name, %mac);
        self.entries.insert(mac, Entry { name, session: None, timer: None, permission: None, span });
        let view = self.view(mac);
        if let Some(entry) = self.entries.get_mut(&mac) {
            entry.session = Some(Session::new(self.parts.timing, view, self.started));
        }
        self.parts.metrics.sessions.set(self.entries.len() as i64);
    }

    fn told(&mut self, id: ConnectionId, told: Told) {
        match told {
            Told::Called { info, address, orders } => {
                let connected = Connected { mac: info.mac, address, orders, outstanding: false };
                self.connections.insert(id, connected);
                self.called(id, *info, address);
            }
            Told::Said(message) => self.said(id, message),
            Told::Gone { acknowledged } => {
                let Some(connected) = self.connections.remove(&id) else { return };
                self.awaiting.retain(|_, waiting| waiting.connection != id);
                self.feed(connected.mac, Event::Dropped { connection: id, acknowledged });
            }
        }
    }

    fn said(&mut self, id: ConnectionId, message: DeviceMessage) {
        let Some(connected) = self.connections.get(&id) else { return };
        let mac = connected.mac;
        if let DeviceMessage::Information(info) = &message
            && info.mac != mac
        {
            tracing::warn!(connection = id.0, %mac, claimed = %info.mac, "device changed its MAC on one connection");
            return self.order(id, Order::Close(Closed::Malformed));
        }
        self.feed(mac, Event::Said { connection: id, message });
    }

    /// A device has said who it is.
    fn called(&mut self, connection: ConnectionId, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        match self.index.lookup(mac) {
            Lookup::Known(name) if self.entries.contains_key(&mac) || self.index.whole(&name).is_some() => {
                if !self.entries.contains_key(&mac) {
                    self.begin(mac, name);
                }
                self.feed(mac, Event::Called { connection, address: address.to_string(), info });
            }
            Lookup::Known(name) => {
                self.wait(mac, Waiting { connection, info, address });
                self.read(mac, name);
            }
            Lookup::Unknown => self.enrol(connection, info, address),
            Lookup::Unapproved => self.send_away(connection, mac, "nobody has approved it"),
            Lookup::Ambiguous => self.send_away(connection, mac, "two approved Devices have its MAC"),
        }
    }

    /// Keeps a caller until its Device is there. A second one with its MAC replaces it.
    fn wait(&mut self, mac: Mac, waiting: Waiting) {
        if let Some(former) = self.awaiting.insert(mac, waiting) {
            self.order(former.connection, Order::Close(Closed::Session(fettle_protocol::session::Reason::Replaced)));
        }
    }

    fn read(&mut self, mac: Mac, name: String) {
        let (writer, outcomes) = (self.parts.writer.clone(), self.outcomes.clone());
        self.tasks.spawn(async move {
            let read = writer.look(&name).await;
            let _ = outcomes.send(Outcome::Read(mac, read)).await;
        });
    }

    fn enrol(&mut self, connection: ConnectionId, info: DeviceInformation, address: IpAddr) {
        let mac = info.mac;
        let approved = match self.parts.enrolment {
            Enrolment::Deny => return self.send_away(connection, mac, "it is not declared, and enrolment is Deny"),
            Enrolment::Approve => false,
            Enrolment::Auto => true,
        };
        let (_, pending) = self.index.len();
        if pending >= PENDING_MAX {
            return self.send_away(connection, mac, "it is not declared, and too many devices wait for approval");
        }
        if approved {
            self.wait(mac, Waiting { connection, info: info.clone(), address });
        } else {
            self.send_away(connection, mac, "it is not declared; it is recorded and waits for approval");
        }
        self.parts.metrics.enrolled.inc();
        let (devices, outcomes) = (self.parts.devices.clone(), self.outcomes.clone());
        self.tasks.spawn(async move {
            if let Err(error) = enrolment::record(&devices, &info, address, approved).await {
                tracing::warn!(%mac, error = %fettle_runtime::chain(&error), "unknown device not recorded");
                let _ = outcomes.send(Outcome::NotRecorded(mac)).await;
            }
        });
    }

    /// 2, to a caller that is no Device of ours.
    fn send_away(&mut self, connection: ConnectionId, mac: Mac, why: &'static str) {
        tracing::warn!(%mac, connection = connection.0, why, "device sent away");
        self.parts.metrics.illegal.inc();
        self.send(connection, &ServerMessage::Interrupt);
        self.order(connection, Order::Finish);
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Written(mac, written) => {
                let result = written.result();
                self.learn(mac, written);
                self.feed(mac, Event::Written(result));
            }
            Outcome::Read(mac, Written::Unavailable) => {
                if let Some(waiting) = self.awaiting.remove(&mac) {
                    self.order(waiting.connection, Order::Close(Closed::Shutdown));
                }
            }
            Outcome::Read(mac, read) => self.learn(mac, read),
            Outcome::Prepared(mac, command, prepared) => {
                let prepared = prepared.map(|(file, permission)| {
                    if let Some(entry) = self.entries.get_mut(&mac) {
                        entry.permission = Some((command, permission));
                    }
                    file
                });
                self.feed(mac, Event::Prepared(command, prepared));
            }
            Outcome::Checked(mac, command, transferred) => self.feed(mac, Event::Checked(command, transferred)),
            Outcome::Lost(mac, connection) => self.feed(mac, Event::Dropped { connection, acknowledged: true }),
            Outcome::NotRecorded(mac) => {
                if let Some(waiting) = self.awaiting.remove(&mac) {
                    self.order(waiting.connection, Order::Close(Closed::Shutdown));
                }
            }
        }
    }

    /// Takes over what the API answered.
    fn learn(&mut self, mac: Mac, written: Written) {
        match written {
            Written::Done(device) | Written::Conflict(device) => self.device(*device),
            Written::Gone => {
                let name = self.entries.get(&mac).map(|entry| entry.name.clone());
                if let Some(name) = name {
                    self.index.remove(&name);
                }
                self.changed(mac);
            }
            Written::Unavailable => {}
        }
    }
}
