//! Which logs there are, and which of them have to go: by age, by number for each device and in all, by bytes.
//!
//! Pure: no I/O and no clock. When a log had arrived is what its name says, `<time>-<command>.log`, so that it is the
//! same after a restart, on a copied disk and in a bucket.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";
pub(super) const SUFFIX: &str = ".log";

/// What is kept; whatever of it is exceeded, the oldest logs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all logs together.
    pub bytes: u64,
    /// Logs of all devices together, and of one.
    pub logs: usize,
    pub per_device: usize,
    /// Since a log had arrived.
    pub age: SignedDuration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { bytes: 1 << 30, logs: 16_384, per_device: 20, age: SignedDuration::from_hours(30 * 24) }
    }
}

/// Why a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Why {
    Age,
    PerDevice,
    Number,
    Bytes,
}

impl Why {
    pub(super) const ALL: [Self; 4] = [Self::Age, Self::PerDevice, Self::Number, Self::Bytes];

    /// The label in metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::PerDevice => "per_device",
            Self::Number => "number",
            Self::Bytes => "bytes",
        }
    }
}

/// A log: its name, which begins with the time, and whose it is. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) device: String,
}

/// All logs, with what each takes.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_time: BTreeMap<Key, u64>,
    by_device: HashMap<String, BTreeSet<String>>,
    used: u64,
}

impl Shelf {
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn insert(&mut self, key: Key, size: u64) {
        self.by_device.entry(key.device.clone()).or_default().insert(key.name.clone());
        self.used += size;
        self.used -= self.by_time.insert(key, size).unwrap_or(0);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(size) = self.by_time.remove(key) else { return };
        self.used -= size;
        if let Some(names) = self.by_device.get_mut(&key.device) {
            names.remove(&key.name);
            if names.is_empty() {
                self.by_device.remove(&key.device);
            }
        }
    }

    /// The oldest of all.
    pub(super) fn oldest(&self) -> Option<&Key> {
        self.by_time.keys().next()
    }

    /// The next that has to go, and why, where so many bytes are taken by what is no log yet.
    pub(super) fn over(&self, retention: &Retention, arriving: u64, now: Timestamp) -> Option<(Key, Why)> {
        let oldest = self.oldest()?;
        let why = if arrived(&oldest.name).is_none_or(|at| retention.age < now.duration_since(at)) {
            Why::Age
        } else if self.by_time.len() > retention.logs {
            Why::Number
        } else if self.used + arriving > retention.bytes {
            Why::Bytes
        } else {
            return None;
        };
        Some((oldest.clone(), why))
    }

    /// The same, of one device.
    pub(super) fn over_of_device(&self, device: &str, retention: &Retention) -> Option<(Key, Why)> {
        let names = self.by_device.get(device).filter(|names| names.len() > retention.per_device)?;
        let name = names.first()?.clone();
        Some((Key { name, device: device.to_owned() }, Why::PerDevice))
    }

    /// Whose logs there are.
    pub(super) fn devices(&self) -> Vec<String> {
        self.by_device.keys().cloned().collect()
    }
}

/// The name of a log that a command has brought.
pub(super) fn name(at: Timestamp, command: u32) -> String {
    format!("{}-{command}{SUFFIX}", at.strftime(TIME_FORMAT))
}

/// When a log of this name had arrived, to the second; `None`: it is not the name of a log.
fn arrived(name: &str) -> Option<Timestamp> {
    let (time, _) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let time = DateTime::strptime(TIME_FORMAT, time).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Whether this is the name of a log: whatever else somebody puts there is not ours to delete.
pub(super) fn is_log(name: &str) -> bool {
    arrived(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn key(device: &str, second: i64) -> Key {
        Key { name: name(at(second), 7), device: device.to_owned() }
    }

    /// One log a second, of two devices in turn, of ten bytes each.
    fn shelf(logs: i64) -> Shelf {
        let mut shelf = Shelf::default();
        for second in 0..logs {
            shelf.insert(key(["a", "b"][second as usize % 2], second), 10);
        }
        shelf
    }

    fn retention() -> Retention {
        Retention { bytes: 1000, logs: 1000, per_device: 1000, age: SignedDuration::from_secs(1000) }
    }

    /// What goes, until nothing has to.
    fn removed(shelf: &mut Shelf, retention: &Retention, arriving: u64, now: i64) -> Vec<(Key, Why)> {
        let mut removed = Vec::new();
        while let Some((key, why)) = (shelf.over(retention, arriving, at(now)))
            .or_else(|| shelf.devices().iter().find_map(|device| shelf.over_of_device(device, retention)))
        {
            shelf.remove(&key);
            removed.push((key, why));
        }
        removed
    }

    #[test]
    fn a_log_that_is_too_old_goes_and_none_before() {
        let mut shelf = shelf(4);
        assert_eq!(removed(&mut shelf, &retention(), 0, 1000), []);
        assert_eq!(removed(&mut shelf, &retention(), 0, 1002), [(key("a", 0), Why::Age), (key("b", 1), Why::Age)]);
        assert_eq!((shelf.len(), shelf.used()), (2, 20));
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many_of_one_device_or_in_all() {
        let mut devices = shelf(5);
        let two = Retention { per_device: 2, ..retention() };
        assert_eq!(removed(&mut devices, &two, 0, 5), [(key("a", 0), Why::PerDevice)]);
        let mut all = shelf(5);
        let three = Retention { logs: 3, ..retention() };
        assert_eq!(removed(&mut all, &three, 0, 5), [(key("a", 0), Why::Number), (key("b", 1), Why::Number)]);
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn the_oldest_make_room_for_what_arrives() {
        let mut shelf = shelf(4);
        let narrow = Retention { bytes: 45, ..retention() };
        assert_eq!(removed(&mut shelf, &narrow, 0, 4), []);
        assert_eq!(removed(&mut shelf, &narrow, 25, 4), [(key("a", 0), Why::Bytes), (key("b", 1), Why::Bytes)]);
        assert_eq!(shelf.used(), 20);
    }

    #[test]
    fn a_log_that_is_there_twice_counts_once() {
        let mut shelf = shelf(1);
        shelf.insert(key("a", 0), 30);
        assert_eq!((shelf.len(), shelf.used()), (1, 30));
        shelf.remove(&key("a", 0));
        shelf.remove(&key("a", 0));
        assert_eq!((shelf.len(), shelf.used(), shelf.devices()), (0, 0, vec![]));
    }

    #[test]
    fn a_name_says_when_the_log_had_arrived() {
        let name = name(at(0), 7);
        assert_eq!(name, "20270115T080000Z-7.log");
        assert_eq!(arrived(&name), Some(at(0)));
        for other in ["", "readme.txt", "core.log", "20270115T080000Z.log", "20271315T080000Z-7.log", "x-7.log"] {
            assert!(!is_log(other), "{other}");
        }
    }
}
