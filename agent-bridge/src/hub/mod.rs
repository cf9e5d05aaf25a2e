//! The hub: one task that owns all sessions, takes in everything that happens, and has done what they want.
//!
//! It decides nothing about upgrades: [`Session`] does. What it does decide is which Device a MAC is, and that a device
//! which is none is sent away.
//!
//! It waits for nobody. What takes time is a task of its own, of which each brings back an `Outcome`; what a connection
//! is to do is an order, and one that takes no orders is let go. `callers`: who calls. `objects`: what the API says of
//! whom. `effects`: what sessions want done. `logs`: what devices bring. `repeat`: how long a 2 is held back.
//! `parting`: the end.

mod callers;
mod effects;
mod logs;
mod objects;
mod parting;
mod repeat;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::ready;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fettle_crds::Device;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{
    Command, ConnectionId, EndedBy, Event, File, Session, SourceError, Timing, Transferred, Work,
};
use fettle_protocol::{DeviceMessage, Dialect, Mac};
use futures::{Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::bridges::Bridges;
use crate::cluster::content::Contents;
use crate::cluster::declared::Declared;
use crate::cluster::enrolment::{Enrolment, Recorded};
use crate::cluster::index::Index;
use crate::cluster::notices::Notices;
use crate::cluster::writer::{Writer, Written};
use crate::cluster::{ApiError, Identity};
use crate::files::credentials::Permission;
use crate::files::logs::LogNews;
use crate::metrics::{Closed, Metrics, Stage};
use crate::sparing::Sparing;
use crate::tcp::{FromConnection, Order, Orders, Told};
use crate::udp::{Datagrams, Reply};
use repeat::Repeats;

/// Unknown devices that are being recorded at once; more wait.
const RECORDING: usize = 8;
/// Outcomes of our own tasks that may wait for the hub; tasks wait for room.
const OUTCOMES: usize = 1024;
/// Timers are not looked at more often.
const TICK_MIN: Duration = Duration::from_millis(20);
/// Nor less often: so long a step of the clock goes unnoticed.
const TICK_MAX: Duration = Duration::from_secs(60);

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
    /// To ask devices without a connection.
    pub datagrams: Arc<Datagrams>,
    /// What groups and releases declare.
    pub declared: watch::Receiver<Declared>,
}

/// The hub.
pub struct Hub {
    parts: Parts,
    index: Index,
    entries: HashMap<Mac, Entry>,
    connections: HashMap<ConnectionId, Connected>,
    /// Callers that wait until their Device is read, or has been made: one connection for each MAC.
    awaiting: HashMap<Mac, Waiting>,
    /// Whose Device is being read.
    reading: HashSet<Mac>,
    /// Whose Device is being made, or will be unless it comes by itself.
    recording: HashSet<Mac>,
    recording_places: Arc<Semaphore>,
    /// To whom it matters, and who was not looked at since something else was declared.
    listening: Vec<Mac>,
    timers: BTreeSet<(Timestamp, Mac)>,
    repeats: Repeats,
    started: Timestamp,
    grace: Grace,
    /// What came out without a task; taken in before anything else.
    at_once: VecDeque<Outcome>,
    outcomes: mpsc::Sender<Outcome>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Lines about callers.
    lines: Sparing,
}

/// The time in which devices come back after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grace {
    /// Nobody could call yet.
    NotBegun,
    Until(Timestamp),
    Over,
}

/// A device with a session.
struct Entry {
    /// Of the Device that the session is of.
    name: Arc<str>,
    uid: Option<Arc<str>>,
    /// Taken only while it is fed.
    session: Option<Session>,
    /// As the gauge has it.
    state: &'static str,
    /// How far it says it is, as the gauge has it.
    reached: Option<(Work, Option<u8>)>,
    timer: Option<Timestamp>,
    /// The credential of the newest command.
    permission: Option<(Command, Permission)>,
    /// Writes in a row that were not done.
    failures: u32,
    /// What the device is at, since when.
    stage: Option<(Stage, Instant)>,
    /// When the first command of the try went out.
    began: Option<Instant>,
    span: tracing::Span,
}

/// A connection that has said who it is.
struct Connected {
    mac: Mac,
    address: IpAddr,
    /// How it reads what it is sent.
    dialect: Dialect,
    /// It takes datum 77.
    retries: bool,
    /// What is declared matters to it: it takes message 35, or differences.
    listens: bool,
    orders: Orders,
    outstanding: bool,
}

/// A caller whose Device is not there yet.
struct Waiting {
    connection: ConnectionId,
    info: DeviceInformation,
    address: IpAddr,
}

/// What a task of ours brings back.
enum Outcome {
    /// A write to the Device with this name and uid.
    Written {
        mac: Mac,
        name: Arc<str>,
        uid: Option<Arc<str>>,
        written: Written,
    },
    Read(Mac, Written),
    Prepared(Mac, Command, Box<Result<(File, Permission), SourceError>>),
    Checked(Mac, Command, Transferred),
    /// The Device of an unknown caller has had the time to come by itself.
    Overdue(Box<DeviceInformation>, IpAddr),
    Recorded(Mac, Result<Recorded, ApiError>),
    /// A connection that was let go.
    Lost(Mac, ConnectionId),
}

/// What the hub hears of, apart from its own tasks.
pub struct Sources {
    /// What connections tell.
    pub connections: mpsc::Receiver<FromConnection>,
    /// What became of logs.
    pub logs: mpsc::Receiver<LogNews>,
    /// What devices without a connection answer.
    pub replies: mpsc::Receiver<Reply>,
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
            reading: HashSet::new(),
            recording: HashSet::new(),
            recording_places: Arc::new(Semaphore::new(RECORDING)),
            listening: Vec::new(),
            timers: BTreeSet::new(),
            repeats: Repeats::default(),
            started: Timestamp::now(),
            grace: Grace::NotBegun,
            at_once: VecDeque::new(),
            outcomes,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            lines: Sparing::new(),
        }
    }

    /// Runs until `shutdown`. `synced` becomes true when Devices and Leases have been listed once: before that nobody
    /// can be judged, and no connection may be taken in.
    pub async fn run<D, L>(
        mut self,
        watches: Watches<D, L>,
        sources: Sources,
        synced: watch::Sender<bool>,
        shutdown: CancellationToken,
    ) where
        D: Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<Device>>>> + Unpin + Send,
        L: Stream<Item = watcher::Result<watcher::Event<Lease>>> + Unpin + Send,
    {
        let Watches { mut devices, mut leases } = watches;
        let Sources { mut connections, mut logs, mut replies } = sources;
        let (sender, mut outcomes) = mpsc::channel(OUTCOMES);
        (self.outcomes, self.closing) = (sender, shutdown.clone());
        let (mut devices_listed, mut leases_listed) = (false, false);
        loop {
            let sleep = self.until_next();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = devices.next() => devices_listed |= self.device_event(event),
                Some(event) = leases.next() => leases_listed |= self.lease_event(event),
                Some(outcome) = outcomes.recv() => self.outcome(outcome),
                Some((connection, told)) = connections.recv() => {
                    self.heard_of_logs(&mut logs);
                    self.told(connection, told);
                }
                Ok(()) = self.parts.declared.changed() => self.declared_anew(),
                () = ready(()), if !self.listening.is_empty() => self.look_at_listening(),
                Some(log) = logs.recv() => self.log_news(log),
                Some(Reply { mac, result, detail }) = replies.recv() => {
                    self.heard_of_logs(&mut logs);
                    self.feed(mac, Event::Replied(result, detail));
                }
                () = tokio::time::sleep(sleep) => self.tick(),
            }
            while let Some(outcome) = self.at_once.pop_front() {
                self.outcome(outcome);
            }
            self.parts.metrics.devices_known.set(i64::try_from(self.index.len()).unwrap_or(i64::MAX));
            if devices_listed && leases_listed && self.grace == Grace::NotBegun {
                self.grace = Grace::Until(self.grace_from(Timestamp::now()));
                synced.send_replace(true);
            }
        }
        self.part(connections, outcomes).await;
    }

    fn grace_from(&self, begin: Timestamp) -> Timestamp {
        begin.checked_add(self.parts.reconnect_grace).unwrap_or(Timestamp::MAX)
    }

    fn until_next(&self) -> Duration {
        let grace = match self.grace {
            Grace::Until(at) => Some(at),
            Grace::NotBegun | Grace::Over => None,
        };
        let next = self.timers.first().map(|(at, _)| *at).into_iter().chain(grace).min();
        let now = Timestamp::now();
        next.map_or(TICK_MAX, |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default().clamp(TICK_MIN, TICK_MAX)
        })
    }

    fn tick(&mut self) {
        let now = Timestamp::now();
        if matches!(self.grace, Grace::Until(at) if at <= now) {
            self.grace = Grace::Over;
            self.adopt_orphans();
        }
        // All that are due are taken first: a session that is due again at once waits for the next turn.
        let mut due = Vec::new();
        while let Some((at, mac)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, mac));
            due.push(mac);
        }
        for mac in due {
            if let Some(entry) = self.entries.get_mut(&mac) {
                entry.timer = None;
            }
            self.feed(mac, Event::Tick);
        }
    }

    fn told(&mut self, id: ConnectionId, told: Told) {
        match told {
            Told::Called { info, address, orders } => {
                let (mac, dialect, can) = (info.mac, info.dialect, info.capabilities);
                let (retries, listens) = (can.has(Capabilities::RETRY_AFTER), listens(can));
                let connected = Connected { mac, address, dialect, retries, listens, orders, outstanding: false };
                self.connections.insert(id, connected);
                self.called(id, *info, address);
            }
            Told::Said(message) => self.said(id, message),
            Told::Gone { reason, acknowledged } => {
                let Some(Connected { mac, .. }) = self.connections.remove(&id) else { return };
                if self.awaiting.get(&mac).is_some_and(|waiting| waiting.connection == id) {
                    self.awaiting.remove(&mac);
                }
                if let Some(entry) = self.entries.get(&mac) {
                    let _entered = entry.span.enter();
                    if !reason.is_loss() {
                        tracing::debug!(connection = id.0, reason = reason.as_str(), "connection ended");
                    } else if let Some(line) = self.lines.line() {
                        let (reason, left_out) = (reason.as_str(), line.left_out);
                        tracing::info!(connection = id.0, reason, left_out, "connection lost");
                    }
                }
                self.feed(mac, Event::Dropped { connection: id, acknowledged, by: ended_by(reason) });
            }
        }
    }

    fn said(&mut self, id: ConnectionId, message: DeviceMessage) {
        let Some(connected) = self.connections.get_mut(&id) else { return };
        let mac = connected.mac;
        if let DeviceMessage::Information(info) = &message {
            connected.listens = listens(info.capabilities);
            connected.retries = info.capabilities.has(Capabilities::RETRY_AFTER);
            if info.mac != mac {
                if let Some(line) = self.lines.line() {
                    let (claimed, left_out) = (info.mac, line.left_out);
                    tracing::warn!(connection = id.0, %mac, %claimed, left_out, "device changed its MAC on a connection");
                }
                return self.order(id, Order::Close(Closed::Malformed));
            }
            if let Some(waiting) = self.awaiting.get_mut(&mac).filter(|waiting| waiting.connection == id) {
                waiting.info = info.clone();
                return;
            }
        }
        self.feed(mac, Event::Said { connection: id, message });
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Written { mac, name, uid, written } => self.written(mac, &name, uid, written),
            Outcome::Read(mac, read) => self.has_read(mac, read),
            Outcome::Prepared(mac, command, prepared) => {
                let prepared = (*prepared).map(|(file, permission)| {
                    self.permit(mac, command, permission);
                    file
                });
                self.feed(mac, Event::Prepared(command, prepared));
            }
            Outcome::Checked(mac, command, transferred) => self.feed(mac, Event::Checked(command, transferred)),
            Outcome::Overdue(info, address) => self.record(*info, address),
            Outcome::Recorded(mac, recorded) => self.has_recorded(mac, recorded),
            // Whatever it still had to send will not go out.
            Outcome::Lost(mac, connection) => {
                // Nor is it known which side was too slow.
                self.feed(mac, Event::Dropped { connection, acknowledged: false, by: EndedBy::Bridge });
            }
        }
    }

    /// Has something done that is given up when the program ends.
    fn spawn(&self, task: impl Future<Output = Outcome> + Send + 'static) {
        let (outcomes, closing) = (self.outcomes.clone(), self.closing.clone());
        self.tasks.spawn(async move {
            if let Some(outcome) = closing.run_until_cancelled_owned(task).await {
                // The hub has ended: nobody is left to tell.
                let _ = outcomes.send(outcome).await;
            }
        });
    }
}

/// Whether what is declared matters to a device that can do this.
const fn listens(can: Capabilities) -> bool {
    can.has(Capabilities::ANNOUNCEMENT) || can.has(Capabilities::DELTA)
}

/// Who ended a connection: what a device does not live up to is its own doing.
const fn ended_by(reason: Closed) -> EndedBy {
    match reason {
        Closed::ByDevice
        | Closed::Broken
        | Closed::Silent
        | Closed::NotReading
        | Closed::Malformed
        | Closed::NoInformation
        | Closed::Stalled
        | Closed::Flood => EndedBy::Device,
        Closed::Finished | Closed::TooMany | Closed::ApiUnavailable | Closed::Session(_) | Closed::Shutdown => {
            EndedBy::Bridge
        }
    }
}
