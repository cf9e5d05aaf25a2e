//! The devices of a namespace, by name, and whose a MAC is.
//!
//! Passes ask for each device whether others have its MAC, and hardly any has. So that is kept as devices come and go,
//! and not found out in each pass.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::Map;
use super::membership::Standing;
use super::model::{Device, Mac, Origin, Text};

/// Devices by name. They are read as a map is, and changed only in the ways that are here.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    by_name: BTreeMap<Text, Device>,
    /// The declared devices by MAC: one of each, and all of those that have it in common with others.
    declared: Map<Mac, Text>,
    doubled: BTreeMap<Mac, BTreeSet<Text>>,
}

impl Devices {
    /// Puts a device in the place of the one of its name.
    pub fn insert(&mut self, device: Device) -> Option<Device> {
        let (name, claim) = (device.name.clone(), Claim::of(&device));
        let former = self.by_name.insert(name.clone(), device);
        let released = former.as_ref().map(Claim::of);
        if released != Some(claim) {
            released.into_iter().for_each(|released| self.release(released, &name));
            self.register(claim, &name);
        }
        former
    }

    pub fn remove(&mut self, name: &str) -> Option<Device> {
        let device = self.by_name.remove(name)?;
        self.release(Claim::of(&device), &device.name);
        Some(device)
    }

    /// Whether a device of these is accepted: approved, and the only one with its MAC.
    pub fn standing(&self, device: &Device) -> Standing {
        match device.origin {
            Origin::Pending if self.declared.contains_key(&device.mac) => Standing::Yields,
            Origin::Pending => Standing::NotApproved,
            Origin::Declared => match self.doubled.get(&device.mac) {
                Some(_) => Standing::DuplicateMac,
                None if !device.approved => Standing::NotApproved,
                None => Standing::Accepted,
            },
        }
    }

    /// The other declared devices with the MAC of one, by name.
    pub fn sharing_mac(&self, device: &Device) -> impl Iterator<Item = &Text> {
        let all = self.doubled.get(&device.mac).into_iter().flatten();
        all.filter(|name| **name != device.name)
    }

    fn register(&mut self, claim: Claim, name: &Text) {
        let Claim(Some(mac)) = claim else { return };
        let first = self.declared.entry(mac).or_insert_with(|| name.clone());
        if first != name {
            let names = self.doubled.entry(mac).or_default();
            names.extend([first.clone(), name.clone()]);
        }
    }

    fn release(&mut self, claim: Claim, name: &Text) {
        let Claim(Some(mac)) = claim else { return };
        let Some(names) = self.doubled.get_mut(&mac) else {
            self.declared.remove(&mac);
            return;
        };
        names.remove(name);
        if let Some(first) = names.first() {
            self.declared.insert(mac, first.clone());
        }
        if names.len() == 1 {
            self.doubled.remove(&mac);
        }
    }
}

/// The MAC that a device has by being declared.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim(Option<Mac>);

impl Claim {
    fn of(device: &Device) -> Self {
        match device.origin {
            Origin::Declared => Self(Some(device.mac)),
            Origin::Pending => Self(None),
        }
    }
}

impl Deref for Devices {
    type Target = BTreeMap<Text, Device>;

    fn deref(&self) -> &Self::Target {
        &self.by_name
    }
}
