//! The objects of a namespace, and what the controller's planner makes of them.
//!
//! The planner that is asked here is the controller's own, over the same index: what it answers is what the controller
//! does, or would do, with these objects. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use fettle_controller::metrics::Metrics;
use fettle_controller::plan::model::{Bridge, Snapshot};
use fettle_controller::reconcile::index::{Index, Observed, Written};
use fettle_crds::content::LABEL;
use fettle_crds::{ConfigProfile, Device, DeviceGroup, DeviceRollout, Firmware};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;

use crate::manifest::Manifest;

/// What there is in a namespace, by name.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub devices: BTreeMap<String, Device>,
    pub groups: BTreeMap<String, DeviceGroup>,
    pub rollouts: BTreeMap<String, DeviceRollout>,
    pub firmwares: BTreeMap<String, Firmware>,
    pub profiles: BTreeMap<String, ConfigProfile>,
    /// Of bridges; `None`: they may not be read.
    pub leases: Option<Vec<Lease>>,
    /// That profiles refer to.
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// What devices are told to run, kept by content.
    pub contents: BTreeMap<String, Secret>,
    /// What may not be read: objects that profiles refer to.
    pub forbidden: BTreeSet<Reference>,
}

/// Another object that a profile takes its text from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    ConfigMap(String),
    Secret(String),
}

impl Reference {
    /// Where a profile takes its text from, if that is not in itself.
    pub fn of(profile: &ConfigProfile) -> Option<Self> {
        let map = profile.spec.config_map.as_ref().map(|source| Self::ConfigMap(source.name.clone()));
        map.or_else(|| profile.spec.secret.as_ref().map(|source| Self::Secret(source.name.clone())))
    }
}

impl Objects {
    /// Whether the planner lacks what this group's devices are to run.
    pub fn is_unplannable(&self, group: &DeviceGroup) -> bool {
        let profile = group.spec.config.as_ref().and_then(|config| self.profiles.get(&config.name));
        profile.and_then(Reference::of).is_some_and(|reference| self.forbidden.contains(&reference))
    }

    /// Takes in an object as it is, status and all.
    pub fn put(&mut self, manifest: Manifest) {
        match manifest {
            Manifest::Device(device) => drop(self.devices.insert(device.name_any(), device)),
            Manifest::Group(group) => drop(self.groups.insert(group.name_any(), group)),
            Manifest::Rollout(rollout) => drop(self.rollouts.insert(rollout.name_any(), rollout)),
            Manifest::Firmware(firmware) => drop(self.firmwares.insert(firmware.name_any(), firmware)),
            Manifest::Profile(profile) => drop(self.profiles.insert(profile.name_any(), profile)),
            Manifest::ConfigMap(map) => drop(self.config_maps.insert(map.name_any(), map)),
            Manifest::Secret(secret) if secret.labels().contains_key(LABEL) => {
                drop(self.contents.insert(secret.name_any(), secret));
            }
            Manifest::Secret(secret) => drop(self.secrets.insert(secret.name_any(), secret)),
            Manifest::Lease(lease) => self.leases.get_or_insert_default().push(lease),
            Manifest::Other => {}
        }
    }

    /// What the controller's planner looks at.
    ///
    /// # Errors
    /// None that can come about: the metrics that the index wants have fixed names.
    pub fn index(&self, now: Timestamp) -> Result<Index, prometheus::Error> {
        let metrics = Metrics::new(&prometheus::Registry::new())?;
        let mut index = Index::new(Snapshot::default(), metrics);
        for device in self.devices.values() {
            index.wrote(Written::Device(device.clone()), now);
        }
        for group in self.groups.values() {
            index.wrote(Written::Group(group.clone()), now);
        }
        for rollout in self.rollouts.values() {
            index.wrote(Written::Rollout(rollout.clone()), now);
        }
        for map in self.config_maps.values() {
            index.observe(Observed::ConfigMap(Event::Apply(map.clone())));
        }
        for secret in self.secrets.values() {
            index.observe(Observed::Secret(Event::Apply(secret.clone())));
        }
        for content in self.contents.values() {
            index.observe(Observed::Content(Event::Apply(content.clone())));
        }
        for profile in self.profiles.values() {
            index.wrote(Written::Profile(profile.clone()), now);
        }
        for firmware in self.firmwares.values() {
            index.observe(Observed::Firmware(Event::Apply(DeserializeGuard(Ok(firmware.clone())))));
        }
        match &self.leases {
            Some(leases) => {
                for lease in leases {
                    index.observe(Observed::Lease(Event::Apply(lease.clone())));
                }
            }
            None => self.believe_sessions(&mut index, now),
        }
        Ok(index)
    }

    /// Where the Leases of bridges may not be read, what their sessions say of them is believed.
    fn believe_sessions(&self, index: &mut Index, now: Timestamp) {
        let sessions = self.devices.values().filter_map(|device| device.status.as_ref()?.session.as_ref());
        for session in sessions {
            let bridge = Bridge {
                incarnation: Some(session.incarnation.as_str().into()),
                started: Timestamp::UNIX_EPOCH,
                renewed: now,
                expires: now + SignedDuration::from_hours(1),
            };
            index.snapshot.bridges.insert(session.bridge.as_str().into(), bridge);
        }
    }
}
