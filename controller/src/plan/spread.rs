//! Limits on devices that share a label: both members of a pair, all switches of a site.
//!
//! A domain is all devices of the namespace with that value, of whatever group. Where groups that have devices in a domain
//! set different limits for the label, the least counts, for all of them: what one group must not take down, another must
//! not either.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Map;
use super::model::{Device, Group, Text};

/// How a domain stands.
#[derive(Debug, Clone, Copy, Default)]
struct Domain {
    /// `None`: no group with a device here has a limit.
    limit: Option<usize>,
    updating: usize,
    /// Away without a try that runs.
    away: usize,
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
#[derive(Debug, Default)]
pub struct Domains<'a> {
    /// The labels that any group limits.
    labels: Vec<Label<'a>>,
    domains: Vec<Domain>,
    /// Where the domains of each device are in that: one after the other, as many as there are labels.
    of_devices: Vec<Option<usize>>,
}

/// A label that domains are made by.
#[derive(Debug)]
struct Label<'a> {
    key: &'a str,
    /// What each group says of it.
    limits: Vec<Option<usize>>,
    /// Where the domains are, by value.
    places: Map<&'a str, usize>,
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
    pub fn new(groups: &[&'a Group]) -> Self {
        let spreads = |group: &&'a Group| &group.strategy.spread;
        let mut keys: Vec<&str> = groups.iter().flat_map(spreads).map(|spread| spread.label.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let limit = |key: &str, group: &&'a Group| {
            let limits = spreads(group).iter().filter(|spread| spread.label == *key);
            limits.map(|spread| spread.max_unavailable as usize).min()
        };
        let label = |key: &&'a str| Label {
            key,
            limits: groups.iter().map(|group| limit(key, group)).collect(),
            places: Map::default(),
        };
        Self { labels: keys.iter().map(label).collect(), domains: Vec::new(), of_devices: Vec::new() }
    }

    /// Counts a device of these groups. Devices are counted one after the other, and known by their number from then on.
    pub fn count(&mut self, device: &'a Device, groups: &[usize], presence: Presence) {
        let at_grant = device.decisions.target.as_ref().filter(|_| presence == Presence::Updating);
        for label in &mut self.labels {
            if presence == Presence::LeftOut {
                self.of_devices.push(None);
                continue;
            }
            let value = device.labels.get(label.key).map(|value| &**value);
            let place = value.map(|value| label.place(value, &mut self.domains));
            self.of_devices.push(place);
            if let Some(place) = place {
                let domain = &mut self.domains[place];
                let limits = groups.iter().filter_map(|group| label.limits[*group]);
                domain.limit = domain.limit.into_iter().chain(limits).min();
                domain.add(presence);
            }
            // A device counts where it is now, and where it was when it was granted.
            let before = at_grant.and_then(|target| target.spread.get(label.key)).map(String::as_str);
            if let Some(before) = before.filter(|before| Some(*before) != value) {
                let place = label.place(before, &mut self.domains);
                self.domains[place].add(presence);
            }
        }
    }

    /// The domains of the device with that number, one for each label that it has.
    fn of_device(&self, number: usize) -> impl Iterator<Item = (&Label<'a>, usize)> {
        let places = &self.of_devices[number * self.labels.len()..][..self.labels.len()];
        self.labels.iter().zip(places).filter_map(|(label, place)| Some((label, (*place)?)))
    }

    /// Whether one more device may go down. `counted`: it is one of those that count already.
    pub fn place(&self, number: usize, counted: bool) -> Result<(), Full> {
        for (_, place) in self.of_device(number) {
            let domain = &self.domains[place];
            let Some(limit) = domain.limit else { continue };
            if domain.updating + domain.away - usize::from(counted) >= limit {
                return Err(if domain.updating > usize::from(counted) { Full::Updating } else { Full::Away });
            }
        }
        Ok(())
    }

    /// A device goes down.
    pub fn take(&mut self, number: usize) {
        let labels = self.labels.len();
        for place in self.of_devices[number * labels..][..labels].iter().flatten() {
            self.domains[*place].updating += 1;
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
            Some((format!("{}={value}", label.key).into(), limit))
        })
    }
}

impl<'a> Label<'a> {
    /// Where the domain of a value is; a new one, where there is none.
    fn place(&mut self, value: &'a str, domains: &mut Vec<Domain>) -> usize {
        *self.places.entry(value).or_insert_with(|| {
            domains.push(Domain::default());
            domains.len() - 1
        })
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
