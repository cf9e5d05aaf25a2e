//! The labels of a device, as passes go over them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::model::Text;

/// The labels of a device, in the order of their keys. They never change: a device gets others.
///
/// They are one allocation, and keys and values are shared among devices: what selectors and limits ask for is then mostly
/// at hand. Still, to reach those of each device in each pass takes a third of it. So who selects them, and which domains
/// they are in, is remembered with the device; that follows from them and from who is asked, and whoever asks cannot tell
/// the difference but by the time.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    all: Box<[(Text, Text)]>,
    /// What [selectors](super::membership::Selectors) said of them.
    pub(super) membership: Remembered,
    /// What [places](super::places::Places) said of them.
    pub(super) domains: Remembered,
}

/// What was said of labels by the last that was asked.
#[derive(Debug, Default)]
pub struct Remembered {
    /// The number of who was asked (from 1), and below it what they said.
    said: AtomicU64,
}

impl Remembered {
    /// What the one of that number said, if nobody was asked since.
    pub(super) fn said_by(&self, number: u32) -> Option<u32> {
        let said = self.said.load(Ordering::Relaxed);
        (said >> 32 == u64::from(number)).then_some(said as u32)
    }

    /// Remembers it, in place of what others said.
    pub(super) fn remember(&self, number: u32, said: u32) {
        self.said.store(u64::from(number) << 32 | u64::from(said), Ordering::Relaxed);
    }
}

impl Clone for Remembered {
    fn clone(&self) -> Self {
        Self { said: AtomicU64::new(self.said.load(Ordering::Relaxed)) }
    }
}

impl Labels {
    /// The value of a label. Devices have few, of keys that mostly differ in length: going over them is quickest.
    pub fn get(&self, key: &str) -> Option<&Text> {
        self.all.iter().find(|(known, _)| **known == *key).map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.all.iter().map(|(key, value)| (key, value))
    }
}

impl fettle_crds::Labels for Labels {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(|value| &**value)
    }
}

impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let mut labels: Box<[(Text, Text)]> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        labels.sort_unstable();
        Self { all: labels, membership: Remembered::default(), domains: Remembered::default() }
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Labels {}
