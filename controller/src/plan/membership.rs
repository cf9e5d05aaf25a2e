//! Which group a device belongs to, and whether it is accepted at all.

use std::collections::{BTreeSet, HashMap};

use super::model::{Device, Group, Origin, Snapshot, Text};

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
pub struct Selectors<'a> {
    groups: &'a [&'a Group],
    /// Groups that demand a label, by one label that they demand.
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Groups that demand none.
    others: Vec<usize>,
}

impl<'a> Selectors<'a> {
    pub fn new(groups: &'a [&'a Group]) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        let mut others = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            match group.selector.match_labels.iter().next() {
                Some((key, value)) => by_label.entry((key.as_str(), value.as_str())).or_default().push(index),
                None => others.push(index),
            }
        }
        Self { groups, by_label, others }
    }

    pub fn of(&self, device: &Device) -> Membership {
        let labelled =
            device.labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let candidates = labelled.flatten().chain(&self.others).copied();
        let mut found = candidates.filter(|index| self.groups[*index].selector.matches(&device.labels));
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Accepted,
    NotApproved,
    /// The others with its MAC.
    DuplicateMac(Vec<Text>),
    /// Recorded, and declared by somebody meanwhile: it is deleted.
    Yields,
}

/// Whether devices are accepted, by the MACs of all.
pub struct Macs<'a> {
    /// How many declared devices there are with each MAC that any device has.
    declared: HashMap<&'a str, usize>,
    snapshot: &'a Snapshot,
}

/// So many others with the same MAC are named.
const NAMED: usize = 3;

impl<'a> Macs<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut declared = HashMap::with_capacity(snapshot.devices.len());
        for device in snapshot.devices.values().filter(|device| device.origin == Origin::Declared) {
            *declared.entry(&*device.mac).or_default() += 1;
        }
        Self { declared, snapshot }
    }

    pub fn standing(&self, device: &Device) -> Standing {
        let declared = self.declared.get(&*device.mac).copied().unwrap_or(0);
        match device.origin {
            Origin::Pending if declared > 0 => Standing::Yields,
            Origin::Pending => Standing::NotApproved,
            Origin::Declared if declared > 1 => Standing::DuplicateMac(self.others(device)),
            Origin::Declared if !device.approved => Standing::NotApproved,
            Origin::Declared => Standing::Accepted,
        }
    }

    fn others(&self, device: &Device) -> Vec<Text> {
        let same =
            self.snapshot.devices.values().filter(|other| {
                other.origin == Origin::Declared && other.mac == device.mac && other.name != device.name
            });
        same.take(NAMED).map(|other| other.name.clone()).collect()
    }
}
