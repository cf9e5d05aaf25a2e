//! What happened to a device, as it happened: the ground truth that tests judge the rest of Fettle by.
//!
//! The journal keeps the latest entries and counts all of them. It never says what should have happened.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;

use crate::conformance::Violation;

mod event;

pub use event::{Announced, Digest, Disconnect, Event, FileKind, Place, Received};

/// An event with its time and its place among all events of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counts through all devices of the process: says what came first where times are equal.
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

/// How often each thing happened. Never forgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub connected: u64,
    pub connect_failed: u64,
    /// By message type.
    pub sent: BTreeMap<u8, u64>,
    /// By message type.
    pub received: BTreeMap<u8, u64>,
    pub downloads: u64,
    pub crc_mismatches: u64,
    pub downloads_failed: u64,
    pub flashes: u64,
    pub restarts: u64,
    pub boots: u64,
    pub bricked: u64,
    pub configs_applied: u64,
    pub applies_failed: u64,
    pub logs_uploaded: u64,
    pub uploads_failed: u64,
    pub requests_refused: u64,
    pub violations: u64,
    pub faults: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, event: &Event) {
        match event {
            Event::PoweredOn
            | Event::PoweredOff
            | Event::Disconnected { .. }
            | Event::Vanished
            | Event::GivenUp
            | Event::FlashBegan => {}
            Event::Connected { .. } => self.connected += 1,
            Event::ConnectFailed { .. } => self.connect_failed += 1,
            Event::Sent { message, result: _ } => *self.sent.entry(*message).or_default() += 1,
            Event::Received(received) => *self.received.entry(received.message).or_default() += 1,
            Event::Downloaded { crc_ok: true, .. } => self.downloads += 1,
            Event::Downloaded { crc_ok: false, .. } => self.crc_mismatches += 1,
            Event::DownloadFailed { .. } => self.downloads_failed += 1,
            Event::FlashEnded { .. } => self.flashes += 1,
            Event::RestartBegan => self.restarts += 1,
            Event::Booted { .. } => self.boots += 1,
            Event::Bricked { .. } => self.bricked += 1,
            Event::ConfigApplied { .. } => self.configs_applied += 1,
            Event::ApplyFailed { .. } => self.applies_failed += 1,
            Event::LogUploaded { .. } => self.logs_uploaded += 1,
            Event::UploadFailed { .. } => self.uploads_failed += 1,
            Event::RequestRefused { .. } => self.requests_refused += 1,
            Event::Violation(_) => self.violations += 1,
            Event::Fault { .. } => self.faults += 1,
        }
    }

    /// How many messages of this type were sent.
    pub fn sent(&self, message: u8) -> u64 {
        self.sent.get(&message).copied().unwrap_or(0)
    }

    /// How many commands of this type came.
    pub fn received(&self, message: u8) -> u64 {
        self.received.get(&message).copied().unwrap_or(0)
    }
}

/// One write of the flash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flash {
    pub began: Timestamp,
    /// `None`: not yet, or cut off.
    pub ended: Option<Timestamp>,
    /// What the written image calls itself; `None` where it is no image.
    pub version: Option<String>,
}

/// A time in which the device did not do its work: from message 6 or the loss of its power until it has booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    pub from: Timestamp,
    /// `None`: it still is.
    pub to: Option<Timestamp>,
}

/// The most of these that overlap at any time. One that ends when another begins does not overlap it.
pub fn most_at_once(outages: impl IntoIterator<Item = Outage>) -> usize {
    let mut edges = Vec::new();
    for Outage { from, to } in outages {
        edges.push((from, 1));
        edges.extend(to.map(|to| (to, -1)));
    }
    edges.sort_unstable();
    let mut now = 0;
    edges.into_iter().fold(0, |most, (_, step)| {
        now += step;
        most.max(now as usize)
    })
}

/// How many entries of talk, and how many others, a journal keeps: some forty whole upgrades' worth. Every device of a
/// fleet has a journal; an upgrade leaves about 4 KiB, and no device more than 100 KiB.
const KEPT: usize = 512;

/// The latest entries of one device, and counts of all.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    talk: VecDeque<Entry>,
    deeds: VecDeque<Entry>,
    counters: Counters,
    forgotten: u64,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(1);

impl Journal {
    pub(crate) fn push(&mut self, event: Event) -> &Entry {
        self.counters.count(&event);
        let ring = if event.is_talk() { &mut self.talk } else { &mut self.deeds };
        if ring.len() == KEPT {
            ring.pop_front();
            self.forgotten += 1;
        }
        let index = ring.len();
        ring.push_back(Entry { seq: SEQUENCE.fetch_add(1, Ordering::Relaxed), at: Timestamp::now(), event });
        &ring[index]
    }

    /// Counts of everything since the device exists.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many entries are no longer kept.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The kept entries in the order in which they happened.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut all: Vec<&Entry> = self.talk.iter().chain(&self.deeds).collect();
        all.sort_unstable_by_key(|entry| entry.seq);
        all
    }

    /// The kept events in the order in which they happened.
    pub fn events(&self) -> Vec<&Event> {
        self.entries().into_iter().map(|entry| &entry.event).collect()
    }

    /// The commands of this type, with their times.
    pub fn commands(&self, message: u8) -> Vec<(Timestamp, &Received)> {
        self.talk
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Received(received) if received.message == message => Some((entry.at, received)),
                _ => None,
            })
            .collect()
    }

    /// The results that messages of this type (5, 7, 9, 11) told, with their times.
    pub fn results(&self, message: u8) -> Vec<(Timestamp, u32)> {
        self.talk
            .iter()
            .filter_map(|entry| match entry.event {
                Event::Sent { message: sent, result: Some(result) } if sent == message => Some((entry.at, result)),
                _ => None,
            })
            .collect()
    }

    /// Every write of the flash.
    pub fn flashes(&self) -> Vec<Flash> {
        let mut flashes: Vec<Flash> = Vec::new();
        for entry in &self.deeds {
            match &entry.event {
                Event::FlashBegan => flashes.push(Flash { began: entry.at, ended: None, version: None }),
                Event::FlashEnded { version } => {
                    if let Some(flash) = flashes.last_mut() {
                        flash.ended = Some(entry.at);
                        flash.version.clone_from(version);
                    }
                }
                _ => {}
            }
        }
        flashes
    }

    /// Every boot, with the version that came up. That with which the device began is not one.
    pub fn boots(&self) -> Vec<(Timestamp, &str)> {
        self.deeds
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Booted { version } => Some((entry.at, version.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Every profile that was put into force: digest and identity.
    pub fn configs(&self) -> Vec<(Timestamp, Digest, Option<&str>)> {
        self.deeds
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::ConfigApplied { sha256, bytes: _, identity } => Some((entry.at, *sha256, identity.as_deref())),
                _ => None,
            })
            .collect()
    }

    /// What the server did and must never do.
    pub fn violations(&self) -> Vec<&Violation> {
        self.deeds
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Violation(violation) => Some(violation),
                _ => None,
            })
            .collect()
    }

    /// When the device was down.
    pub fn outages(&self) -> Vec<Outage> {
        let mut outages: Vec<Outage> = Vec::new();
        let mut down = false;
        for entry in &self.deeds {
            match entry.event {
                Event::RestartBegan | Event::PoweredOff | Event::Vanished if !down => {
                    outages.push(Outage { from: entry.at, to: None });
                    down = true;
                }
                Event::Booted { .. } if down => {
                    if let Some(outage) = outages.last_mut() {
                        outage.to = Some(entry.at);
                    }
                    down = false;
                }
                _ => {}
            }
        }
        outages
    }
}

/// One entry a line: what to show when a test fails.
impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in self.entries() {
            writeln!(f, "{} {}", entry.at, entry.event)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_flood_of_talk_is_forgotten_and_counted_and_pushes_no_deed_out() {
        let mut journal = Journal::default();
        journal.push(Event::Booted { version: "1".to_owned() });
        for _ in 0..KEPT + 10 {
            journal.push(Event::Sent { message: 34, result: None });
        }
        journal.push(Event::Sent { message: 5, result: Some(0) });
        assert_eq!(journal.counters().sent(34), KEPT as u64 + 10);
        assert_eq!(journal.forgotten(), 11);
        assert_eq!(journal.entries().len(), KEPT + 1);
        assert_eq!(journal.boots().len(), 1);
        assert_eq!(journal.results(5).len(), 1);
        assert!(journal.entries().is_sorted_by_key(|entry| entry.seq));
    }

    #[test]
    fn an_outage_lasts_from_the_restart_or_the_loss_of_power_to_the_boot() {
        let mut journal = Journal::default();
        journal.push(Event::PoweredOn);
        journal.push(Event::RestartBegan);
        journal.push(Event::FlashBegan);
        journal.push(Event::PoweredOff);
        journal.push(Event::PoweredOn);
        journal.push(Event::Booted { version: "1".to_owned() });
        journal.push(Event::Vanished);
        let outages = journal.outages();
        assert_eq!(outages.len(), 2);
        assert!(outages[0].to.is_some() && outages[1].to.is_none(), "{outages:?}");
        assert_eq!(journal.flashes().len(), 1);
        assert_eq!(journal.flashes()[0].ended, None, "cut off");
    }

    #[test]
    fn outages_that_touch_do_not_overlap() {
        let outage = |from, to: Option<i64>| Outage { from: at(from), to: to.map(at) };
        assert_eq!(most_at_once([]), 0);
        assert_eq!(most_at_once([outage(0, Some(5)), outage(5, Some(9))]), 1);
        assert_eq!(most_at_once([outage(0, Some(5)), outage(4, None), outage(8, Some(9))]), 2);
    }

    #[test]
    fn an_entry_is_one_flat_line_of_json() {
        let mut journal = Journal::default();
        let entry = journal.push(Event::Violation(Violation::UnknownDatum { message: 3, datum: 67 }));
        let line: serde_json::Value = serde_json::from_str(&serde_json::to_string(entry).unwrap()).unwrap();
        assert_eq!(line["event"], "violation");
        assert_eq!(line["violation"], "unknownDatum");
        assert_eq!(line["datum"], 67);
        assert!(line["at"].is_string() && line["seq"].is_u64());
    }
}
