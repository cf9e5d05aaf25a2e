//! Limits on devices that share a label: both members of a pair, all switches of a site.
//!
//! A domain is all devices of the namespace with that value, of whatever group. Where groups that have devices in a domain
//! set different limits for the label, the least counts, for all of them: what one group must not take down, another must
//! not either.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
    labels: Vec<&'a str>,
    /// By label, as an index into those, and value.
    domains: HashMap<(usize, &'a str), Domain>,
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
        let mut labels: Vec<&str> =
            groups.iter().flat_map(|group| &group.strategy.spread).map(|spread| spread.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        Self { labels, domains: HashMap::new() }
    }

    /// Counts a device of these groups.
    pub fn count(&mut self, device: &'a Device, groups: impl Iterator<Item = &'a Group> + Clone, presence: Presence) {
        if self.labels.is_empty() || presence == Presence::LeftOut {
            return;
        }
        let at_grant = device.decisions.target.as_ref().filter(|_| presence == Presence::Updating);
        for (index, label) in self.labels.iter().enumerate() {
            let value = device.labels.get(label).map(|value| &**value);
            if let Some(value) = value {
                let domain = self.domains.entry((index, value)).or_default();
                let limits = groups.clone().flat_map(|group| &group.strategy.spread);
                let limit =
                    limits.filter(|spread| spread.label == *label).map(|spread| spread.max_unavailable as usize);
                domain.limit = domain.limit.into_iter().chain(limit).min();
                domain.add(presence);
            }
            // A device counts where it is now, and where it was when it was granted.
            let before = at_grant.and_then(|target| target.spread.get(*label)).map(String::as_str);
            if let Some(before) = before.filter(|before| Some(*before) != value) {
                self.domains.entry((index, before)).or_default().add(presence);
            }
        }
    }

    /// Whether one more device may go down. `counted`: it is one of those that count already.
    pub fn place(&self, device: &Device, counted: bool) -> Result<(), Full> {
        for (index, label) in self.labels.iter().enumerate() {
            let domain = device.labels.get(label).and_then(|value| self.domains.get(&(index, &**value)));
            let Some((domain, limit)) = domain.and_then(|domain| Some((domain, domain.limit?))) else { continue };
            if domain.updating + domain.away - usize::from(counted) >= limit {
                return Err(if domain.updating > usize::from(counted) { Full::Updating } else { Full::Away });
            }
        }
        Ok(())
    }

    /// A device goes down.
    pub fn take(&mut self, device: &'a Device) {
        for (index, label) in self.labels.iter().enumerate() {
            if let Some(value) = device.labels.get(label) {
                self.domains.entry((index, &**value)).or_default().updating += 1;
            }
        }
    }

    /// The values of a device that a target of it remembers.
    pub fn values(&self, device: &Device) -> Arc<BTreeMap<String, String>> {
        let value = |label: &&str| Some(((*label).to_owned(), device.labels.get(label)?.to_string()));
        Arc::new(self.labels.iter().filter_map(value).collect())
    }

    /// The first domain in which there is no place for a device, for a sentence.
    pub fn full_domain(&self, device: &Device) -> Option<(Text, usize)> {
        self.labels.iter().enumerate().find_map(|(index, label)| {
            let value = device.labels.get(label)?;
            let domain = self.domains.get(&(index, &**value))?;
            let limit = domain.limit.filter(|limit| domain.updating + domain.away >= *limit)?;
            Some((format!("{label}={value}").into(), limit))
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
