//! Which group a device belongs to, and whether it is accepted at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fettle_crds::LabelSelector;
use jiff::Timestamp;

use super::devices::Devices;
use super::model::{Acceptance, Device, Group};

/// The group, or groups, of a device: indices into the groups of the snapshot, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    None,
    One(usize),
    /// None of them acts on it.
    Overlap(Vec<usize>),
}

impl Membership {
    /// The group that may act on it.
    pub fn only(&self) -> Option<usize> {
        match self {
            Self::One(group) => Some(*group),
            Self::None | Self::Overlap(_) => None,
        }
    }

    /// All groups that select it.
    pub fn all(&self) -> &[usize] {
        match self {
            Self::None => &[],
            Self::One(group) => std::slice::from_ref(group),
            Self::Overlap(groups) => groups,
        }
    }
}

/// Finds the groups of devices without holding every selector against every device.
#[derive(Debug)]
pub struct Selectors {
    /// Of all selectors that there ever were, these; from 1.
    number: u32,
    /// Of the groups, in order.
    selectors: Vec<LabelSelector>,
    /// Groups that demand a label, by the key and the value of one that they demand; the keys in order.
    by_label: Vec<(String, HashMap<String, Vec<usize>>)>,
    /// Groups that demand none.
    others: Vec<usize>,
}

/// The selectors that were asked last. They stay the same for as long as those of the groups do, so that what they said of
/// labels is remembered with those.
#[derive(Debug, Default)]
pub struct LastSelectors(Mutex<Option<Arc<Selectors>>>);

impl LastSelectors {
    /// The selectors of these groups.
    pub fn of(&self, groups: &[&Group]) -> Arc<Selectors> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) if last.are_of(groups) => Arc::clone(last),
            Some(_) | None => Arc::clone(last.insert(Arc::new(Selectors::new(groups)))),
        }
    }
}

impl Clone for LastSelectors {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// What is remembered of labels that nobody selects. Overlaps are rare, and not remembered; the index of a group comes after.
const NOBODY: u32 = 0;

impl Selectors {
    fn new(groups: &[&Group]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let mut by_label: BTreeMap<String, HashMap<String, Vec<usize>>> = BTreeMap::new();
        let mut others = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            match group.selector.match_labels.iter().next() {
                Some((key, value)) => {
                    by_label.entry(key.clone()).or_default().entry(value.clone()).or_default().push(index);
                }
                None => others.push(index),
            }
        }
        let selectors = groups.iter().map(|group| group.selector.clone()).collect();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { number, selectors, by_label: by_label.into_iter().collect(), others }
    }

    fn are_of(&self, groups: &[&Group]) -> bool {
        self.selectors.iter().eq(groups.iter().map(|group| &group.selector))
    }

    pub fn of(&self, device: &Device) -> Membership {
        match device.labels.membership.said_by(self.number) {
            Some(NOBODY) => return Membership::None,
            Some(group) => return Membership::One(group as usize - 1),
            None => {}
        }
        let found = self.find(device);
        match &found {
            Membership::None => device.labels.membership.remember(self.number, NOBODY),
            Membership::One(group) => device.labels.membership.remember(self.number, *group as u32 + 1),
            Membership::Overlap(_) => {}
        }
        found
    }

    fn find(&self, device: &Device) -> Membership {
        let labelled = device.labels.iter().filter_map(|(key, value)| {
            let at = self.by_label.binary_search_by(|(demanded, _)| (**demanded).cmp(&**key)).ok()?;
            self.by_label[at].1.get(&**value)
        });
        let candidates = labelled.flatten().chain(&self.others).copied();
        let mut found = candidates.filter(|index| self.selectors[*index].matches(&device.labels));
        let Some(first) = found.next() else { return Membership::None };
        let rest: BTreeSet<usize> = found.collect();
        if rest.is_empty() {
            Membership::One(first)
        } else {
            Membership::Overlap(rest.into_iter().chain([first]).collect::<BTreeSet<_>>().into_iter().collect())
        }
    }
}

/// Whether a device is accepted: approved, and the only one with its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Accepted,
    NotApproved,
    /// Others have its MAC.
    DuplicateMac,
    /// Recorded, and declared by somebody meanwhile: it is deleted.
    Yields,
}

/// So many others with the same MAC are named.
const NAMED: usize = 3;

impl Standing {
    /// The condition that says so, where it is not what is written.
    pub fn acceptance(self, device: &Device, devices: &Devices, now: Timestamp) -> Option<Acceptance> {
        let (accepted, reason, message) = match self {
            Self::Accepted => (true, "Accepted", Cow::from("it is approved, and no other Device has its MAC")),
            Self::NotApproved | Self::Yields => {
                (false, "NotApproved", Cow::from("nobody has approved it: set spec.approved"))
            }
            Self::DuplicateMac => {
                let others: Vec<&str> = devices.sharing_mac(device).take(NAMED).map(|name| &**name).collect();
                let others = others.join(", ");
                (false, "DuplicateMac", Cow::from(format!("it has the MAC of {others}: none of them is served")))
            }
        };
        let generation = device.generation;
        let before = device.decisions.acceptance.as_ref().filter(|before| before.accepted == accepted);
        if before.is_some_and(|before| {
            *before.reason == *reason && *before.message == *message && before.generation == generation
        }) {
            return None;
        }
        let since = before.map_or(now, |before| before.since);
        Some(Acceptance { accepted, reason: reason.into(), message: message.into(), generation, since })
    }
}
