//! What is known of each device and of the whole fleet, as it changes: for those who watch.
//!
//! A device writes into its notebook; handles read its [`Record`] and wait on it. A ledger adds up all devices as
//! they change, so that waiting for a thousand of them costs no more than waiting for one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fettle_protocol::Mac;
use serde::Serialize;
use tokio::sync::watch;

use crate::hardware::AppliedConfig;
use crate::journal::{Counters, Disconnect, Entry, Event, Journal};

/// What a device is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// Has power, and no connection.
    Calling,
    Connected,
    /// Between message 6 (or its power coming back) and its boot.
    Restarting,
    /// Without power.
    Off,
    /// By a fault: as `Off`.
    Vanished,
    /// For good.
    Bricked,
}

/// One device, as it is now, and how it came to be so.
#[derive(Debug, Clone)]
pub struct Record {
    condition: Condition,
    version: String,
    config: Option<AppliedConfig>,
    bridge: Option<SocketAddr>,
    journal: Journal,
}

impl Record {
    /// What it is about.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether it has a connection to a bridge.
    pub fn is_connected(&self) -> bool {
        self.condition == Condition::Connected
    }

    /// The version it runs, or last ran.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The profile that it last put into force; `None` before the first.
    pub fn config(&self) -> Option<&AppliedConfig> {
        self.config.as_ref()
    }

    /// Where its connection goes, if it has one.
    pub fn bridge(&self) -> Option<SocketAddr> {
        self.bridge
    }

    /// What happened to it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::PoweredOn => self.condition = Condition::Calling,
            Event::PoweredOff => self.condition = Condition::Off,
            Event::Connected { bridge, local: _ } => {
                self.condition = Condition::Connected;
                self.bridge = Some(*bridge);
            }
            Event::Disconnected { reason } => {
                self.bridge = None;
                self.condition = match reason {
                    Disconnect::Restarting => Condition::Restarting,
                    Disconnect::PowerCut => Condition::Off,
                    Disconnect::Interrupted
                    | Disconnect::Closed
                    | Disconnect::Failed(_)
                    | Disconnect::Malformed
                    | Disconnect::LetGo
                    | Disconnect::Shutdown => Condition::Calling,
                };
            }
            Event::RestartBegan => self.condition = Condition::Restarting,
            Event::Booted { version } => {
                self.version.clone_from(version);
                self.condition = Condition::Calling;
            }
            Event::Bricked { reason: _ } => self.condition = Condition::Bricked,
            Event::Vanished => self.condition = Condition::Vanished,
            Event::ConnectFailed { .. }
            | Event::Sent { .. }
            | Event::Received(_)
            | Event::Downloaded { .. }
            | Event::DownloadFailed { .. }
            | Event::GivenUp
            | Event::FlashBegan
            | Event::FlashEnded { .. }
            | Event::ConfigApplied { .. }
            | Event::ApplyFailed { .. }
            | Event::LogUploaded { .. }
            | Event::UploadFailed { .. }
            | Event::RequestRefused { .. }
            | Event::Violation(_)
            | Event::Fault { .. } => {}
        }
    }
}

/// The whole fleet, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub devices: usize,
    /// Devices by what they are about.
    pub conditions: BTreeMap<Condition, usize>,
    /// Devices by the version that they run.
    pub versions: BTreeMap<String, usize>,
    /// Devices by the SHA-256 of the profile in force; those that never applied one are in none.
    pub configs: BTreeMap<String, usize>,
    /// Of all devices together.
    pub counters: Counters,
}

impl Summary {
    /// Devices that have a connection.
    pub fn connected(&self) -> usize {
        self.in_condition(Condition::Connected)
    }

    /// Devices in this condition.
    pub fn in_condition(&self, condition: Condition) -> usize {
        self.conditions.get(&condition).copied().unwrap_or(0)
    }

    /// Devices that run this version.
    pub fn on_version(&self, version: &str) -> usize {
        self.versions.get(version).copied().unwrap_or(0)
    }

    /// Whether every device runs this version and has a connection.
    pub fn is_all_on(&self, version: &str) -> bool {
        self.on_version(version) == self.devices && self.connected() == self.devices
    }
}

fn move_one<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, from: Option<&K>, to: Option<&K>) {
    if from == to {
        return;
    }
    if let Some(from) = from
        && let Some(count) = counts.get_mut(from)
    {
        *count -= 1;
        if *count == 0 {
            counts.remove(from);
        }
    }
    if let Some(to) = to {
        *counts.entry(to.clone()).or_default() += 1;
    }
}

/// Sees every entry of every device as it is made, on the device's task: it must be quick.
pub type Observer = Box<dyn Fn(Mac, &Entry) + Send + Sync>;

/// Adds up the fleet, and writes its journal to a file.
pub(crate) struct Ledger {
    summary: watch::Sender<Summary>,
    file: Option<Mutex<BufWriter<File>>>,
    observer: Option<Observer>,
}

impl Ledger {
    pub(crate) fn new(file: Option<&Path>, observer: Option<Observer>) -> std::io::Result<Self> {
        let file = file.map(File::create).transpose()?.map(|file| Mutex::new(BufWriter::new(file)));
        Ok(Self { summary: watch::Sender::new(Summary::default()), file, observer })
    }

    /// Without a file, and without an observer.
    pub(crate) fn in_memory() -> Self {
        Self { summary: watch::Sender::new(Summary::default()), file: None, observer: None }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Summary> {
        self.summary.subscribe()
    }

    /// What was written so far is in the file.
    pub(crate) fn flush(&self) {
        if let Some(file) = &self.file {
            report_write(locked(file).flush());
        }
    }

    fn write(&self, mac: Mac, entry: &Entry) {
        if let Some(observer) = &self.observer {
            observer(mac, entry);
        }
        if let Some(file) = &self.file {
            #[derive(Serialize)]
            struct Line<'a> {
                mac: String,
                #[serde(flatten)]
                entry: &'a Entry,
            }
            // One write for each line: a reader never sees half of one for long.
            let line = serde_json::to_vec(&Line { mac: mac.to_string(), entry }).map_err(std::io::Error::from);
            report_write(line.and_then(|mut line| {
                line.push(b'\n');
                locked(file).write_all(&line)
            }));
        }
    }
}

fn report_write(done: std::io::Result<()>) {
    if let Err(error) = done {
        tracing::error!(%error, "cannot write the journal");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole after every call; a panic of a predicate elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One device's record, shared between the device and its handles.
pub(crate) struct Notebook {
    mac: Mac,
    record: Mutex<Record>,
    changed: watch::Sender<()>,
    ledger: Arc<Ledger>,
}

impl Notebook {
    /// A device that has just been made.
    pub(crate) fn new(mac: Mac, version: &str, ledger: Arc<Ledger>) -> Self {
        let record = Record {
            condition: Condition::Calling,
            version: version.to_owned(),
            config: None,
            bridge: None,
            journal: Journal::default(),
        };
        ledger.summary.send_modify(|summary| {
            summary.devices += 1;
            move_one(&mut summary.conditions, None, Some(&record.condition));
            move_one(&mut summary.versions, None, Some(&record.version));
        });
        Self { mac, record: Mutex::new(record), changed: watch::Sender::new(()), ledger }
    }

    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    pub(crate) fn note(&self, event: Event) {
        self.write(event, None);
    }

    /// A profile is in force.
    pub(crate) fn note_config(&self, config: AppliedConfig) {
        let event = Event::ConfigApplied {
            sha256: config.sha256,
            bytes: config.content.len() as u64,
            identity: config.identity.clone(),
        };
        self.write(event, Some(config));
    }

    fn write(&self, event: Event, config: Option<AppliedConfig>) {
        tracing::debug!(mac = %self.mac, %event, "device event");
        let mut record = locked(&self.record);
        let before = (record.condition, record.version.clone(), record.config.as_ref().map(|c| c.sha256.to_string()));
        record.follow(&event);
        if config.is_some() {
            record.config = config;
        }
        let after = (record.condition, record.version.clone(), record.config.as_ref().map(|c| c.sha256.to_string()));
        self.ledger.summary.send_modify(|summary| {
            move_one(&mut summary.conditions, Some(&before.0), Some(&after.0));
            move_one(&mut summary.versions, Some(&before.1), Some(&after.1));
            move_one(&mut summary.configs, before.2.as_ref(), after.2.as_ref());
            summary.counters.count(&event);
        });
        // Within the lock, so that the lines of one device are in its order.
        self.ledger.write(self.mac, record.journal.push(event));
        drop(record);
        self.changed.send_replace(());
    }

    /// Looks at the record; the device waits meanwhile.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&locked(&self.record))
    }

    /// Returns as soon as the record is so.
    pub(crate) async fn wait_until(&self, is_so: impl Fn(&Record) -> bool) {
        let mut changed = self.changed.subscribe();
        while !self.read(&is_so) {
            if changed.changed().await.is_err() {
                // The sender is `self`'s: it outlives this call.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notebook(ledger: &Arc<Ledger>, octet: u8) -> Notebook {
        Notebook::new(Mac::new([2, 0, 0, 0, 0, octet]), "1", ledger.clone())
    }

    #[test]
    fn the_summary_is_the_sum_of_the_devices() {
        let ledger = Arc::new(Ledger::new(None, None).unwrap());
        let summary = ledger.watch();
        let [a, b] = [1, 2].map(|octet| notebook(&ledger, octet));
        assert_eq!(summary.borrow().on_version("1"), 2);
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for device in [&a, &b] {
            device.note(Event::Connected { bridge: address, local: address });
        }
        assert!(summary.borrow().is_all_on("1"));
        a.note(Event::Disconnected { reason: Disconnect::Restarting });
        a.note(Event::Booted { version: "2".to_owned() });
        let now = summary.borrow().clone();
        assert_eq!((now.on_version("1"), now.on_version("2"), now.connected(), now.devices), (1, 1, 1, 2));
        assert_eq!(now.counters.boots, 1);
        assert_eq!(now.conditions.values().sum::<usize>(), 2);
    }

    #[test]
    fn the_file_has_a_line_for_each_entry_of_each_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let ledger = Arc::new(Ledger::new(Some(&path), None).unwrap());
        let [a, b] = [1, 2].map(|octet| notebook(&ledger, octet));
        a.note(Event::PoweredOn);
        b.note(Event::Booted { version: "2".to_owned() });
        ledger.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["mac"], "02:00:00:00:00:01");
        assert_eq!((&lines[1]["event"], &lines[1]["version"]), (&"booted".into(), &"2".into()));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_change() {
        let ledger = Arc::new(Ledger::new(None, None).unwrap());
        let notebook = Arc::new(notebook(&ledger, 1));
        let waiting = tokio::spawn({
            let notebook = notebook.clone();
            async move { notebook.wait_until(|record| record.version() == "2").await }
        });
        tokio::task::yield_now().await;
        notebook.note(Event::Booted { version: "2".to_owned() });
        waiting.await.unwrap();
    }
}
