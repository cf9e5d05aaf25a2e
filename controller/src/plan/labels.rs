//! The labels of a device, as passes go over them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::model::Text;

/// The labels of a device, in the order of their keys. They never change: a device gets others.
///
/// They are one allocation, and keys and values are shared among devices: what selectors and limits ask for is then mostly
/// at hand. Still, to reach those of each device in each pass takes a third of it. So who selects them is remembered with
/// the device; that follows from them and from the selectors, and whoever asks cannot tell the difference but by the time.
#[derive(Debug, Default)]
pub struct Labels {
    all: Box<[(Text, Text)]>,
    /// The number of the selectors that were asked (from 1), and below it what they said.
    told: AtomicU64,
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

    /// What the selectors of that number said of them.
    pub(super) fn told(&self, selectors: u32) -> Option<u32> {
        let told = self.told.load(Ordering::Relaxed);
        (told >> 32 == u64::from(selectors)).then_some(told as u32)
    }

    /// Remembers it, in place of what others said.
    pub(super) fn tell(&self, selectors: u32, said: u32) {
        self.told.store(u64::from(selectors) << 32 | u64::from(said), Ordering::Relaxed);
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
        Self { all: labels, told: AtomicU64::default() }
    }
}

impl Clone for Labels {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), told: AtomicU64::new(self.told.load(Ordering::Relaxed)) }
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Labels {}
