//! The Devices of the namespace by name and by MAC, with as much of each as the bridge needs.
//!
//! Of a device that is neither connected here nor on record as ours, only its name, its MAC and how it stands are kept: a
//! namespace may have a hundred thousand, and most are another replica's.
//!
//! It hears of a Device twice: from the watch, and in the answers to our own requests, which may be ahead of the watch or
//! behind it. What is older than what is known changes nothing, and what the watch has shown to be deleted does not come
//! back by an answer that was under way.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use fettle_crds::content::MANAGED_BY;
use fettle_crds::render::offers_annotation;
use fettle_crds::{Device, LOG_AT, LOG_AT_MAX};
use fettle_protocol::Mac;
use kube::ResourceExt;

/// What is kept of every Device.
#[derive(Debug, Clone, Copy)]
struct Stub {
    mac: Mac,
    standing: Standing,
    version: Version,
    /// Where it is, or was last.
    address: Option<IpAddr>,
}

/// How a Device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A bridge recorded it, and nobody has approved it. It yields to a declared one.
    Pending,
    /// Declared, and not approved.
    Unapproved,
    Approved,
}

/// Resource versions of one kind count up, over all its objects (KEP-5504). `None`: it is not a number, and taken as news.
type Version = Option<NonZeroU64>;

/// Which Device a MAC is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// No Device has it.
    Unknown,
    /// A Device has it, which nobody has approved.
    Unapproved,
    /// More than one declared Device has it.
    Ambiguous,
    /// This one, by name.
    Known(Arc<str>),
}

/// The names of the Devices with one MAC: nearly always one.
#[derive(Debug)]
enum Names {
    One(Arc<str>),
    Many(Vec<Arc<str>>),
}

impl Names {
    fn as_slice(&self) -> &[Arc<str>] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// The Devices of the namespace.
#[derive(Debug, Default)]
pub struct Index {
    stubs: HashMap<Arc<str>, Stub>,
    by_mac: HashMap<Mac, Names>,
    /// Whole, but for what the bridge has no use for: of those that are ours.
    whole: HashMap<Arc<str>, Arc<Device>>,
    /// How many Devices are at an address, or were last.
    by_address: HashMap<IpAddr, usize>,
    /// Devices that a restart of the watch has not confirmed yet.
    unconfirmed: Option<HashSet<Arc<str>>>,
    /// The newest that the watch has shown.
    shown: Version,
    pending: usize,
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

    /// The watch shows a Device that cannot be read: it is as it was.
    pub fn unreadable(&mut self, name: &str) {
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.remove(name);
        }
    }

    /// The watch shows a Device. `keep`: it is ours, keep it whole. Returns the MACs that it concerns, or nothing where it
    /// is older than what is known.
    pub fn watched(&mut self, device: Device, keep: impl FnOnce(&Device, Mac) -> bool) -> Vec<Mac> {
        self.shown = self.shown.max(version(&device));
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.remove(device.name_any().as_str());
        }
        self.apply(device, keep)
    }

    /// An answer of the API server has a Device. As [`watched`](Self::watched); nothing, where the watch has shown that it
    /// was deleted since.
    pub fn answered(&mut self, device: Device, keep: impl FnOnce(&Device, Mac) -> bool) -> Vec<Mac> {
        let is_past = version(&device).is_some_and(|version| Some(version) <= self.shown);
        if is_past && !self.stubs.contains_key(device.name_any().as_str()) {
            return Vec::new();
        }
        self.apply(device, keep)
    }

    fn apply(&mut self, device: Device, keep: impl FnOnce(&Device, Mac) -> bool) -> Vec<Mac> {
        // The schema lets nothing else through.
        let Ok(mac) = device.spec.mac.parse::<Mac>() else { return Vec::new() };
        let name: Arc<str> = device.name_any().into();
        let stub = Stub { mac, standing: standing(&device), version: version(&device), address: address(&device) };
        if self.stubs.get(&name).is_some_and(|known| is_older(stub.version, known.version)) {
            return Vec::new();
        }
        let mut concerned = vec![mac];
        let former = self.stubs.insert(Arc::clone(&name), stub);
        self.pending += usize::from(stub.standing == Standing::Pending);
        self.arrives_at(stub.address);
        if let Some(former) = former {
            self.pending -= usize::from(former.standing == Standing::Pending);
            self.leaves(former.address);
        }
        if let Some(former) = former.filter(|former| former.mac != mac) {
            self.unlink(&name, former.mac);
            concerned.push(former.mac);
        }
        self.link(&name, mac);
        if keep(&device, mac) {
            self.whole.insert(name, Arc::new(trimmed(device)));
        } else {
            self.whole.remove(&name);
        }
        concerned
    }

    /// The watch shows that a Device was deleted; returns its MAC, unless there is another under its name already.
    pub fn deleted(&mut self, device_version: Option<&str>, name: &str) -> Option<Mac> {
        let version = device_version.and_then(number);
        self.shown = self.shown.max(version);
        let known = self.stubs.get(name)?;
        if is_older(version, known.version) {
            return None;
        }
        self.remove(name)
    }

    /// An answer of the API server says that the Device with this uid is no more; returns its MAC, unless there is another
    /// under its name already.
    pub fn gone(&mut self, name: &str, uid: Option<&str>) -> Option<Mac> {
        let known = self.whole.get(name)?;
        if known.metadata.uid.as_deref() != uid {
            return None;
        }
        self.remove(name)
    }

    fn remove(&mut self, name: &str) -> Option<Mac> {
        let stub = self.stubs.remove(name)?;
        self.pending -= usize::from(stub.standing == Standing::Pending);
        self.unlink(name, stub.mac);
        self.leaves(stub.address);
        self.whole.remove(name);
        Some(stub.mac)
    }

    fn arrives_at(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address {
            *self.by_address.entry(address).or_default() += 1;
        }
    }

    fn leaves(&mut self, address: Option<IpAddr>) {
        let Some((address, count)) = address.and_then(|at| Some((at, self.by_address.get_mut(&at)?))) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_address.remove(&address);
        }
    }

    /// No longer ours: keeps the least of it.
    pub fn slim(&mut self, name: &str) {
        self.whole.remove(name);
    }

    /// Which Device this MAC is.
    pub fn lookup(&self, mac: Mac) -> Lookup {
        let names = self.by_mac.get(&mac).map(Names::as_slice).unwrap_or_default();
        let standing = |name: &Arc<str>| self.stubs.get(name).map(|stub| stub.standing);
        let mut declared = names.iter().filter(|name| standing(name) != Some(Standing::Pending));
        match (declared.next(), declared.next()) {
            (None, _) if names.is_empty() => Lookup::Unknown,
            (None, _) => Lookup::Unapproved,
            (Some(name), None) if standing(name) == Some(Standing::Approved) => Lookup::Known(Arc::clone(name)),
            (Some(_), None) => Lookup::Unapproved,
            (Some(_), Some(_)) => Lookup::Ambiguous,
        }
    }

    /// The MAC of the Device with this name.
    pub fn mac(&self, name: &str) -> Option<Mac> {
        self.stubs.get(name).map(|stub| stub.mac)
    }

    /// Whether another Device than the one with this name is at an address, or was last.
    pub fn is_taken(&self, address: IpAddr, name: &str) -> bool {
        let own = self.stubs.get(name).is_some_and(|stub| stub.address == Some(address));
        self.by_address.get(&address).copied().unwrap_or_default() > usize::from(own)
    }

    /// The Device as it was last seen, where it is kept whole.
    pub fn whole(&self, name: &str) -> Option<&Arc<Device>> {
        self.whole.get(name)
    }

    /// All that are kept whole.
    pub fn all_whole(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.whole.values()
    }

    /// How many Devices there are.
    pub fn len(&self) -> usize {
        self.stubs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stubs.is_empty()
    }

    /// How many of them were recorded by a bridge and wait for a person.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn link(&mut self, name: &Arc<str>, mac: Mac) {
        let names = self.by_mac.entry(mac).or_insert_with(|| Names::One(Arc::clone(name)));
        match names {
            Names::One(known) if known == name => {}
            Names::One(known) => *names = Names::Many(vec![Arc::clone(known), Arc::clone(name)]),
            Names::Many(known) if known.contains(name) => {}
            Names::Many(known) => known.push(Arc::clone(name)),
        }
    }

    fn unlink(&mut self, name: &str, mac: Mac) {
        let Some(names) = self.by_mac.get_mut(&mac) else { return };
        let mut left = names.as_slice().iter().filter(|known| &***known != name).cloned();
        match (left.next(), left.next()) {
            (None, _) => drop(self.by_mac.remove(&mac)),
            (Some(only), None) => *names = Names::One(only),
            (Some(first), Some(second)) => *names = Names::Many([first, second].into_iter().chain(left).collect()),
        }
    }
}

fn standing(device: &Device) -> Standing {
    let ours = device.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
    match (device.spec.approved, ours) {
        (true, _) => Standing::Approved,
        (false, true) => Standing::Pending,
        (false, false) => Standing::Unapproved,
    }
}

/// Where the device is, or was last; of one that was recorded for it, that says nothing.
fn address(device: &Device) -> Option<IpAddr> {
    let status = device.status.as_ref()?;
    let session = status.session.as_ref().map(|session| &session.address);
    session.or(status.last_address.as_ref())?.parse().ok()
}

fn number(version: &str) -> Version {
    version.parse().ok().and_then(NonZeroU64::new)
}

fn version(device: &Device) -> Version {
    device.metadata.resource_version.as_deref().and_then(number)
}

fn is_older(new: Version, known: Version) -> bool {
    matches!((new, known), (Some(new), Some(known)) if new < known)
}

/// Without what the bridge has no use for. Labels and annotations are what its configuration may be rendered from; the
/// annotations of tools are not, and may hold the whole manifest once more.
fn trimmed(mut device: Device) -> Device {
    let metadata = &mut device.metadata;
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        let wish = |key: &str, value: &str| key == LOG_AT && value.len() <= LOG_AT_MAX;
        annotations.retain(|key, value| wish(key, value) || offers_annotation(key, value));
    }
    metadata.owner_references = None;
    if let Some(status) = &mut device.status {
        status.conditions = Vec::new();
        status.previous = None;
    }
    device
}

#[cfg(test)]
mod tests {
    use fettle_crds::DeviceSpec;

    use super::*;

    const MAC: &str = "02:00:5E:00:53:0E";
    const RECORDED: &str = "02-00-5e-00-53-0e";

    fn device(name: &str, mac: &str, approved: bool, version: u32) -> Device {
        let spec = DeviceSpec { mac: mac.into(), model: None, approved, held: false, transfer: None, time_zone: None };
        let mut device = Device::new(name, spec);
        device.metadata.uid = Some(format!("uid-{name}"));
        device.metadata.resource_version = Some(version.to_string());
        device
    }

    fn recorded(version: u32) -> Device {
        let mut device = device(RECORDED, &MAC.to_lowercase(), false, version);
        device.metadata.labels = Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into());
        device
    }

    fn mac() -> Mac {
        MAC.parse().unwrap()
    }

    fn known(name: &str) -> Lookup {
        Lookup::Known(name.into())
    }

    fn deleted(index: &mut Index, name: &str, version: u32) -> Option<Mac> {
        index.deleted(Some(&version.to_string()), name)
    }

    #[test]
    fn a_mac_is_the_one_declared_device_that_has_it() {
        let mut index = Index::default();
        assert_eq!((index.lookup(mac()), index.mac(RECORDED)), (Lookup::Unknown, None));
        index.watched(recorded(1), |_, _| false);
        assert_eq!((index.lookup(mac()), index.pending()), (Lookup::Unapproved, 1));
        assert_eq!(index.mac(RECORDED), Some(mac()));
        index.watched(device("sw-1", MAC, true, 2), |_, _| false);
        assert_eq!(index.lookup(mac()), known("sw-1"), "a recorded device yields to a declared one");
        index.watched(device("sw-2", MAC, true, 3), |_, _| false);
        assert_eq!(index.lookup(mac()), Lookup::Ambiguous, "two declared ones: neither");
        index.watched(device("sw-2", MAC, false, 4), |_, _| false);
        assert_eq!(index.lookup(mac()), Lookup::Ambiguous, "declared is declared, approved or not");
        deleted(&mut index, "sw-1", 5);
        assert_eq!(index.lookup(mac()), Lookup::Unapproved);
        index.watched(device("sw-2", MAC, true, 6), |_, _| false);
        assert_eq!(index.lookup(mac()), known("sw-2"));
        deleted(&mut index, RECORDED, 7);
        deleted(&mut index, "sw-2", 8);
        assert_eq!((index.lookup(mac()), index.pending(), index.len()), (Lookup::Unknown, 0, 0));
        assert!(index.by_mac.is_empty());
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let mut index = Index::default();
        index.watched(device("sw-1", MAC, true, 10), |_, _| true);
        assert!(index.watched(device("sw-1", MAC, false, 9), |_, _| true).is_empty());
        assert!(index.answered(device("sw-1", MAC, false, 9), |_, _| true).is_empty());
        assert_eq!(index.lookup(mac()), known("sw-1"));
        assert_eq!(index.whole("sw-1").unwrap().metadata.resource_version.as_deref(), Some("10"));
        // Also of one that is not kept whole.
        index.watched(device("sw-1", MAC, true, 11), |_, _| false);
        assert!(index.watched(device("sw-1", MAC, false, 10), |_, _| false).is_empty());
    }

    #[test]
    fn an_answer_that_was_under_way_does_not_bring_back_what_was_deleted() {
        let mut index = Index::default();
        index.watched(device("sw-1", MAC, true, 10), |_, _| true);
        assert_eq!(deleted(&mut index, "sw-1", 12), Some(mac()));
        assert!(index.answered(device("sw-1", MAC, true, 11), |_, _| true).is_empty());
        assert_eq!(index.lookup(mac()), Lookup::Unknown);
        // One that is ahead of the watch counts: the watch brings it as well, later.
        assert_eq!(index.answered(device("sw-1", MAC, true, 13), |_, _| true), [mac()]);
        assert_eq!(index.lookup(mac()), known("sw-1"));
    }

    #[test]
    fn what_is_said_of_a_former_object_does_not_hit_its_successor() {
        let mut index = Index::default();
        index.watched(device("sw-1", MAC, true, 10), |_, _| true);
        let mut successor = device("sw-1", MAC, true, 20);
        successor.metadata.uid = Some("uid-new".into());
        index.answered(successor, |_, _| true);
        assert_eq!(deleted(&mut index, "sw-1", 15), None, "that was its predecessor");
        assert_eq!(index.gone("sw-1", Some("uid-sw-1")), None);
        assert_eq!(index.lookup(mac()), known("sw-1"));
        assert_eq!(index.gone("sw-1", Some("uid-new")), Some(mac()));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut index = Index::default();
        index.watched(device("sw-1", MAC, true, 1), |_, _| true);
        index.watched(device("sw-2", "02:00:00:00:00:02", true, 2), |_, _| false);
        index.watched(device("sw-3", "02:00:00:00:00:03", true, 3), |_, _| false);
        index.restart();
        index.watched(device("sw-2", "02:00:00:00:00:02", true, 2), |_, _| false);
        index.unreadable("sw-3");
        assert_eq!(index.restarted(), [mac()]);
        assert_eq!(index.lookup(mac()), Lookup::Unknown);
        assert_eq!(index.lookup("02:00:00:00:00:03".parse().unwrap()), known("sw-3"), "it is there, though unreadable");
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn an_address_is_taken_where_another_device_is_or_was_last() {
        let at = |name: &str, session: Option<&str>, last: Option<&str>, version| {
            let mut device = device(name, if name == "sw-1" { MAC } else { "02:00:00:00:00:02" }, true, version);
            let session = session.map(|address| fettle_crds::Session {
                bridge: "b-0".into(),
                incarnation: "x".into(),
                address: address.into(),
                since: jiff::Timestamp::UNIX_EPOCH,
                dismissed: false,
                contender: None,
            });
            let last_address = last.map(str::to_owned);
            device.status = Some(fettle_crds::DeviceStatus { session, last_address, ..Default::default() });
            device
        };
        let (mut index, address) = (Index::default(), IpAddr::from([192, 0, 2, 1]));
        index.watched(at("sw-1", None, Some("192.0.2.1"), 1), |_, _| false);
        assert!(!index.is_taken(address, "sw-1"));
        assert!(index.is_taken(address, "sw-2"));
        index.watched(at("sw-2", Some("192.0.2.1"), None, 2), |_, _| false);
        assert!(index.is_taken(address, "sw-1"));
        index.watched(at("sw-2", Some("192.0.2.9"), Some("192.0.2.1"), 3), |_, _| false);
        assert!(!index.is_taken(address, "sw-1"), "it is elsewhere by now");
        index.watched(at("sw-2", None, Some("192.0.2.1"), 4), |_, _| false);
        assert!(index.is_taken(address, "sw-1"));
        deleted(&mut index, "sw-2", 5);
        assert!(!index.is_taken(address, "sw-1"));
        deleted(&mut index, "sw-1", 6);
        assert!(index.by_address.is_empty());
    }

    #[test]
    fn what_is_kept_whole_has_no_more_than_is_used() {
        let mut index = Index::default();
        let mut device = recorded(1);
        let annotations = [
            ("kubectl.kubernetes.io/last-applied-configuration", "x"),
            ("vlan", "7"),
            (LOG_AT, "now"),
            ("fettle.dev/x", "y"),
        ];
        device.metadata.annotations = Some(annotations.map(|(key, value)| (key.into(), value.into())).into());
        let labels = device.metadata.labels.clone();
        index.watched(device, |_, _| true);
        let whole = index.whole(RECORDED).unwrap();
        assert_eq!(
            whole.metadata.annotations,
            Some([("vlan".into(), "7".into()), (LOG_AT.into(), "now".into())].into())
        );
        assert_eq!(whole.metadata.labels, labels, "templates know them");
        assert_eq!(index.pending(), 1, "but how it stands is known");
        index.slim(RECORDED);
        assert!(index.whole(RECORDED).is_none());
        assert_eq!(index.lookup(mac()), Lookup::Unapproved);
    }
}
