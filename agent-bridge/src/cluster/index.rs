//! The Devices of the namespace by name and by MAC, with as much of each as the bridge needs.
//!
//! Of a device that is neither connected here nor on record as ours, only MAC, name, uid and whether it is approved are
//! kept: a namespace may have a hundred thousand, and most are another replica's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fettle_crds::Device;
use fettle_protocol::Mac;
use kube::ResourceExt;

/// What is kept of every Device.
#[derive(Debug, Clone)]
struct Stub {
    mac: Mac,
    approved: bool,
}

/// Which Device a MAC is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// No Device has it.
    Unknown,
    /// There are Devices with it, none of them approved.
    Unapproved,
    /// More than one approved Device has it.
    Ambiguous,
    /// This one, by name.
    Known(String),
}

/// The Devices of the namespace.
#[derive(Debug, Default)]
pub struct Index {
    stubs: HashMap<String, Stub>,
    by_mac: HashMap<Mac, BTreeSet<String>>,
    /// Whole, without managed fields: of those that are ours.
    whole: HashMap<String, Arc<Device>>,
    /// Devices that a restart of the watch has not confirmed yet.
    unconfirmed: Option<BTreeSet<String>>,
}

impl Index {
    /// The watch begins anew: what it does not list is gone.
    pub fn restart(&mut self) {
        self.unconfirmed = Some(self.stubs.keys().cloned().collect());
    }

    /// The watch has listed everything; returns the MACs of what is gone.
    pub fn restarted(&mut self) -> Vec<Mac> {
        let gone = self.unconfirmed.take().unwrap_or_default();
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }

    /// Notes a Device. `keep`: it is ours, keep it whole. Returns the MACs that it concerns, or nothing where it is older
    /// than what is known.
    pub fn apply(&mut self, mut device: Device, keep: impl FnOnce(&Device, Mac) -> bool) -> Vec<Mac> {
        let name = device.name_any();
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.remove(&name);
        }
        // The schema lets nothing else through.
        let Ok(mac) = device.spec.mac.parse::<Mac>() else { return Vec::new() };
        if self.whole.get(&name).is_some_and(|known| is_older(&device, known)) {
            return Vec::new();
        }
        let former = self.stubs.insert(name.clone(), Stub { mac, approved: device.spec.approved });
        let mut concerned = vec![mac];
        if let Some(former) = former.filter(|former| former.mac != mac) {
            self.unlink(&name, former.mac);
            concerned.push(former.mac);
        }
        self.by_mac.entry(mac).or_default().insert(name.clone());
        if keep(&device, mac) {
            device.metadata.managed_fields = None;
            self.whole.insert(name, Arc::new(device));
        } else {
            self.whole.remove(&name);
        }
        concerned
    }

    /// Forgets a Device; returns its MAC.
    pub fn remove(&mut self, name: &str) -> Option<Mac> {
        let stub = self.stubs.remove(name)?;
        self.unlink(name, stub.mac);
        self.whole.remove(name);
        Some(stub.mac)
    }

    /// No longer ours: keeps the least of it.
    pub fn slim(&mut self, name: &str) {
        self.whole.remove(name);
    }

    /// Which Device this MAC is.
    pub fn lookup(&self, mac: Mac) -> Lookup {
        let Some(names) = self.by_mac.get(&mac) else { return Lookup::Unknown };
        let mut approved = names.iter().filter(|name| self.stubs.get(*name).is_some_and(|stub| stub.approved));
        match (approved.next(), approved.next()) {
            (None, _) => Lookup::Unapproved,
            (Some(name), None) => Lookup::Known(name.clone()),
            (Some(_), Some(_)) => Lookup::Ambiguous,
        }
    }

    /// The Device as it was last seen, where it is kept whole.
    pub fn whole(&self, name: &str) -> Option<&Arc<Device>> {
        self.whole.get(name)
    }

    /// All that are kept whole.
    pub fn all_whole(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.whole.values()
    }

    /// How many Devices there are, and how many of them nobody has approved.
    pub fn len(&self) -> (usize, usize) {
        (self.stubs.len(), self.stubs.values().filter(|stub| !stub.approved).count())
    }

    fn unlink(&mut self, name: &str, mac: Mac) {
        if let Some(names) = self.by_mac.get_mut(&mac) {
            names.remove(name);
            if names.is_empty() {
                self.by_mac.remove(&mac);
            }
        }
    }
}

/// Whether `device` is an older state of the same object than `known`. Resource versions of one kind count up
/// (KEP-5504); one that is not a number is taken as news.
fn is_older(device: &Device, known: &Device) -> bool {
    let number =
        |device: &Device| device.metadata.resource_version.as_ref().and_then(|version| version.parse::<u128>().ok());
    device.metadata.uid == known.metadata.uid
        && matches!((number(device), number(known)), (Some(new), Some(old)) if new < old)
}

#[cfg(test)]
mod tests {
    use fettle_crds::DeviceSpec;

    use super::*;

    const MAC: &str = "02:00:5E:00:53:0E";

    fn device(name: &str, mac: &str, approved: bool, version: u32) -> Device {
        let spec = DeviceSpec { mac: mac.into(), model: None, approved, held: false, transfer: None };
        let mut device = Device::new(name, spec);
        device.metadata.uid = Some(format!("uid-{name}"));
        device.metadata.resource_version = Some(version.to_string());
        device
    }

    fn mac() -> Mac {
        MAC.parse().unwrap()
    }

    #[test]
    fn a_mac_is_the_one_approved_device_that_has_it() {
        let mut index = Index::default();
        assert_eq!(index.lookup(mac()), Lookup::Unknown);
        index.apply(device("02-00-5e-00-53-0e", &MAC.to_lowercase(), false, 1), |_, _| false);
        assert_eq!(index.lookup(mac()), Lookup::Unapproved);
        index.apply(device("sw-1", MAC, true, 2), |_, _| false);
        assert_eq!(index.lookup(mac()), Lookup::Known("sw-1".into()), "a recorded device yields to a declared one");
        index.apply(device("sw-2", MAC, true, 3), |_, _| false);
        assert_eq!(index.lookup(mac()), Lookup::Ambiguous, "two declared ones: neither");
        index.remove("sw-1");
        assert_eq!(index.lookup(mac()), Lookup::Known("sw-2".into()));
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let mut index = Index::default();
        index.apply(device("sw-1", MAC, true, 10), |_, _| true);
        assert!(index.apply(device("sw-1", MAC, false, 9), |_, _| true).is_empty());
        assert_eq!(index.lookup(mac()), Lookup::Known("sw-1".into()));
        assert_eq!(index.whole("sw-1").unwrap().metadata.resource_version.as_deref(), Some("10"));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut index = Index::default();
        index.apply(device("sw-1", MAC, true, 1), |_, _| true);
        index.apply(device("sw-2", "02:00:00:00:00:02", true, 2), |_, _| false);
        index.restart();
        index.apply(device("sw-2", "02:00:00:00:00:02", true, 2), |_, _| false);
        assert_eq!(index.restarted(), [mac()]);
        assert_eq!(index.lookup(mac()), Lookup::Unknown);
        assert_eq!(index.len(), (1, 0));
    }
}
