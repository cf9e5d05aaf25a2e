//! Limits on devices that share a label: both members of a pair, all switches of a site.
//!
//! A domain is all devices of the namespace with that value, of whatever group. Where groups that have devices in a domain
//! set different limits for the label, the least counts, for all of them: what one group must not take down, another must
//! not either.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Device, Group, Snapshot, Text};
use super::places::{LastPlaces, Places, Row};

/// How a domain stands.
#[derive(Debug, Clone, Copy, Default)]
struct Domain {
    /// `None`: no group with a device here has a limit.
    limit: Option<u32>,
    updating: u32,
    /// Away without a try that runs.
    away: u32,
}

/// Why a device has no place in one of its domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Others are on the way.
    Updating,
    /// Others are away, and none is on the way: nothing will move unless somebody helps.
    Away,
}

/// The domains of a namespace.
#[derive(Debug)]
pub struct Domains<'a> {
    /// The labels that any group limits, and what each group says of them.
    labels: Vec<Label<'a>>,
    /// The domain of each value, and of each device.
    places: Places,
    /// Where those are kept until the next pass.
    last: &'a LastPlaces,
    domains: Vec<Domain>,
    /// Those of each device that was counted; `None`: it counts nowhere.
    of_devices: Vec<Option<Row>>,
}

/// A label that domains are made by.
#[derive(Debug)]
struct Label<'a> {
    key: &'a str,
    /// What each group says of it.
    limits: Vec<Option<u32>>,
}

/// What a device does to its domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Available,
    Updating,
    Away,
    /// It is held, and counts nowhere.
    LeftOut,
}

impl<'a> Domains<'a> {
    pub fn new(groups: &[&'a Group], snapshot: &'a Snapshot) -> Self {
        let spreads = |group: &&'a Group| &group.strategy.spread;
        let mut keys: Vec<&str> = groups.iter().flat_map(spreads).map(|spread| spread.label.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let limit = |key: &str, group: &&'a Group| {
            let limits = spreads(group).iter().filter(|spread| spread.label == *key);
            limits.map(|spread| spread.max_unavailable).min()
        };
        let label = |key: &&'a str| Label { key, limits: groups.iter().map(|group| limit(key, group)).collect() };
        let devices = snapshot.devices.len();
        let places = snapshot.places.take(keys.iter().map(|key| (*key).to_owned()).collect(), devices);
        Self {
            labels: keys.iter().map(label).collect(),
            domains: vec![Domain::default(); places.domains()],
            places,
            last: &snapshot.places,
            of_devices: Vec::with_capacity(if keys.is_empty() { 0 } else { devices }),
        }
    }

    /// Counts a device of these groups. Devices are counted one after the other, and known by their number from then on.
    pub fn count(&mut self, device: &'a Device, groups: &[usize], presence: Presence) {
        if self.labels.is_empty() {
            return;
        }
        if presence == Presence::LeftOut {
            return self.of_devices.push(None);
        }
        let row = self.places.of(&device.labels);
        self.of_devices.push(Some(row));
        self.domains.resize(self.places.domains(), Domain::default());
        for (label, place) in self.labels.iter().zip(self.places.row(row)) {
            let Some(place) = place else { continue };
            let domain = &mut self.domains[place];
            let limits = groups.iter().filter_map(|group| label.limits[*group]);
            domain.limit = domain.limit.into_iter().chain(limits).min();
            domain.add(presence);
        }
        if let Some(target) = device.decisions.target.as_ref().filter(|_| presence == Presence::Updating) {
            self.count_at_grant(device, &target.spread, presence);
        }
    }

    /// A device counts where it is now, and where it was when it was granted.
    fn count_at_grant(&mut self, device: &Device, values: &BTreeMap<String, String>, presence: Presence) {
        for (at, label) in self.labels.iter().enumerate() {
            let now = device.labels.get(label.key).map(|value| &**value);
            let before = values.get(label.key).map(String::as_str);
            if let Some(before) = before.filter(|before| Some(*before) != now) {
                let place = self.places.of_value(at, &before.into());
                self.domains.resize(self.places.domains(), Domain::default());
                self.domains[place].add(presence);
            }
        }
    }

    /// The domains of the device with that number, one for each label that it has.
    fn of_device(&self, number: usize) -> impl Iterator<Item = (&Label<'a>, usize)> {
        let row = self.of_devices.get(number).copied().flatten();
        let places = row.into_iter().flat_map(|row| self.labels.iter().zip(self.places.row(row)));
        places.filter_map(|(label, place)| Some((label, place?)))
    }

    /// Whether one more device may go down. `counted`: it is one of those that count already.
    pub fn place(&self, number: usize, counted: bool) -> Result<(), Full> {
        for (_, place) in self.of_device(number) {
            let domain = &self.domains[place];
            let Some(limit) = domain.limit else { continue };
            if domain.updating + domain.away - u32::from(counted) >= limit {
                return Err(if domain.updating > u32::from(counted) { Full::Updating } else { Full::Away });
            }
        }
        Ok(())
    }

    /// A device goes down.
    pub fn take(&mut self, number: usize) {
        let Some(row) = self.of_devices.get(number).copied().flatten() else { return };
        for place in self.places.row(row).flatten() {
            self.domains[place].updating += 1;
        }
    }

    /// The values of a device that a target of it remembers.
    pub fn values(&self, device: &Device) -> Arc<BTreeMap<String, String>> {
        let value = |label: &Label<'_>| Some((label.key.to_owned(), device.labels.get(label.key)?.to_string()));
        Arc::new(self.labels.iter().filter_map(value).collect())
    }

    /// The first domain in which there is no place for a device, for a sentence.
    pub fn full_domain(&self, number: usize, device: &Device) -> Option<(Text, usize)> {
        self.of_device(number).find_map(|(label, place)| {
            let domain = &self.domains[place];
            let limit = domain.limit.filter(|limit| domain.updating + domain.away >= *limit)?;
            let value = device.labels.get(label.key)?;
            Some((format!("{}={value}", label.key).into(), limit as usize))
        })
    }
}

impl Drop for Domains<'_> {
    fn drop(&mut self) {
        self.last.keep(&mut self.places);
    }
}

impl Domain {
    fn add(&mut self, presence: Presence) {
        match presence {
            Presence::Updating => self.updating += 1,
            Presence::Away => self.away += 1,
            Presence::Available | Presence::LeftOut => {}
        }
    }
}
