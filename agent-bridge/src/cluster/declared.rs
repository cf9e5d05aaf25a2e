//! What a device runs, and is to run once its turn has come, as far as that can be seen from what is declared: for announcements
//! (message 35) and differences. Pure, but for who is told.
//!
//! It decides nothing: who moves when, and over which releases, is the controller's. It leaves out what the controller would
//! not do either, by the same order of versions; where it cannot be known, nothing is announced.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use fettle_crds::version::Version;
use fettle_crds::{DesiredFirmware, Device, Firmware, FirmwarePolicy, Reported};
use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::Release;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store as Cache;
use tokio::sync::watch;

use super::content::digest;
use super::groups::{Groups, Wish};
use crate::files::differences::Pair;

/// What groups and releases say, as they were last seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    groups: BTreeMap<String, Wish>,
    /// By name.
    releases: BTreeMap<String, Vec<Image>>,
}

/// An image of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    models: Vec<String>,
    /// Of the release, and what a device on it reports.
    version: String,
    reports: String,
    sha256: [u8; 32],
    /// Bytes, where it was fetched and verified.
    size: Option<u64>,
}

impl Declared {
    /// What these groups and releases say.
    pub fn new<'a>(groups: BTreeMap<String, Wish>, firmwares: impl IntoIterator<Item = &'a Firmware>) -> Self {
        let releases = firmwares.into_iter().map(|firmware| (firmware.name_any(), images(firmware))).collect();
        Self { groups, releases }
    }

    /// What the device is to run, where that is something else than it reports.
    pub fn release_for(&self, device: &Device) -> Option<Release> {
        let goal = self.goal_for(device)?;
        Some(Release { version: goal.reports.clone(), size: goal.size })
    }

    /// What would make of the image that the device runs the one that it is to run, where it can apply that.
    pub fn difference_for(&self, device: &Device) -> Option<Pair> {
        let (base, image) = (self.base_of(device)?, self.goal_for(device)?.sha256);
        (base != image).then(|| Pair::new(base, image))
    }

    /// The image that the device runs, where it can apply a difference to that and has another try after one that failed. It is
    /// none of which more than one release says that it reports so.
    pub fn base_of(&self, device: &Device) -> Option<[u8; 32]> {
        let reported = device.status.as_ref()?.reported.as_ref()?;
        let can = |capability| can(reported, capability);
        let takes = can(Capabilities::DELTA) && can(Capabilities::FILE_FACTS);
        self.group_of(device).filter(|wish| takes && wish.retries > 0)?;
        let of_model = self.releases.keys().filter_map(|release| self.image(release, &reported.model));
        let mut runs = of_model.filter(|image| image.reports == reported.version).peekable();
        let base = *runs.peek()?;
        (base.size.is_some() && runs.all(|image| image.sha256 == base.sha256)).then_some(base.sha256)
    }

    /// The verified image that the device is to run, where it reports another.
    fn goal_for(&self, device: &Device) -> Option<&Image> {
        let reported = device.status.as_ref()?.reported.as_ref()?;
        let DesiredFirmware { name, policy } = self.group_of(device)?.firmware.as_ref()?;
        let goal = self.image(name, &reported.model).filter(|goal| goal.size.is_some())?;
        if goal.reports == reported.version || (*policy == FirmwarePolicy::UpgradeOnly && self.is_older(goal, reported))
        {
            return None;
        }
        Some(goal)
    }

    /// What the one group of the device declares: where there are two, neither acts on it.
    fn group_of(&self, device: &Device) -> Option<&Wish> {
        if device.spec.held {
            return None;
        }
        let mut wishes = self.groups.values().filter(|wish| wish.selector.matches(device.labels()));
        match (wishes.next(), wishes.next()) {
            (Some(wish), None) if !wish.is_taken_back => Some(wish),
            (Some(_), _) | (None, _) => None,
        }
    }

    fn image(&self, release: &str, model: &str) -> Option<&Image> {
        self.releases.get(release)?.iter().find(|image| image.models.iter().any(|of| of == model))
    }

    /// Whether the goal is older than what the device runs, or has no order with it: by the version of each release that
    /// reports as it does, where there is one.
    fn is_older(&self, goal: &Image, reported: &Reported) -> bool {
        let to = Version::parse(&goal.version);
        let is_not_older = |order: Option<Ordering>| order.is_some_and(Ordering::is_le);
        let of_model = self.releases.keys().filter_map(|release| self.image(release, &reported.model));
        let mut runs = of_model.filter(|image| image.reports == reported.version).peekable();
        if runs.peek().is_some() {
            return !runs.all(|image| is_not_older(Version::parse(&image.version).partial_cmp(&to)));
        }
        let runs = Version::parse(&reported.version);
        !is_not_older(runs.partial_cmp(&Version::parse(&goal.reports)).or_else(|| runs.partial_cmp(&to)))
    }
}

fn images(firmware: &Firmware) -> Vec<Image> {
    let verified = firmware.status.as_ref().map(|status| status.images.as_slice()).unwrap_or_default();
    let images = firmware.spec.images.iter().filter_map(|image| {
        Some(Image {
            models: image.models.clone(),
            version: firmware.spec.version.clone(),
            reports: image.reports.clone().unwrap_or_else(|| firmware.spec.version.clone()),
            // The schema lets nothing else through.
            sha256: digest(&image.sha256).ok()?,
            size: verified.iter().find(|it| it.sha256 == image.sha256).and_then(|it| u64::try_from(it.size).ok()),
        })
    });
    images.collect()
}

/// Whether the device has announced this, as far as is on record.
pub(super) fn can(reported: &Reported, capability: Capabilities) -> bool {
    reported.capabilities.iter().any(|name| Capabilities::named(name) == Some(capability))
}

/// Tells whoever listens what is declared.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) groups: Groups,
    pub(super) firmwares: Cache<DeserializeGuard<Firmware>>,
    pub(super) tell: watch::Sender<Declared>,
}

impl Teller {
    /// What is declared may have changed.
    pub(super) fn look(&self) {
        let firmwares = self.firmwares.state();
        let readable = firmwares.iter().filter_map(|guarded| guarded.0.as_ref().ok());
        let declared = Declared::new(self.groups.borrow().clone(), readable);
        self.tell.send_if_modified(|known| {
            let changed = *known != declared;
            *known = declared;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use fettle_crds::{DeviceGroup, DeviceSpec, DeviceStatus, FirmwareStatus};
    use serde_json::{Value, json};

    use super::*;

    const SIZE: u64 = 7;

    /// A release with images for `S1`, verified, and for `S2`, not verified.
    fn firmware(version: &str, reports: &str) -> Firmware {
        let image = |model: &str, sha: char| json!({"models": [model], "source": {"file": {"path": "a"}}, "sha256": sha.to_string().repeat(64), "reports": reports});
        let spec = json!({"version": version, "images": [image("S1", 'a'), image("S2", 'b')]});
        let mut firmware = Firmware::new(&format!("fw-{version}"), serde_json::from_value(spec).unwrap());
        let status = json!({"images": [{"sha256": "a".repeat(64), "size": SIZE}]});
        firmware.status = Some(serde_json::from_value::<FirmwareStatus>(status).unwrap());
        firmware
    }

    fn wish(firmware: Value) -> Wish {
        let spec = json!({"selector": {"matchLabels": {"role": "access"}}, "firmware": firmware});
        let group = DeviceGroup::new("g", serde_json::from_value(spec).unwrap());
        Wish { selector: group.spec.selector, firmware: group.spec.firmware, retries: 2, is_taken_back: false }
    }

    fn device(model: &str, version: &str) -> Device {
        let spec: DeviceSpec = serde_json::from_value(json!({"mac": "02:00:5e:00:53:01"})).unwrap();
        let mut device = Device::new("sw-1", spec);
        device.metadata.labels = Some([("role".to_owned(), "access".to_owned())].into());
        let reported = json!({"version": version, "model": model, "at": "2026-11-20T12:00:00Z"});
        device.status =
            Some(DeviceStatus { reported: Some(serde_json::from_value(reported).unwrap()), ..DeviceStatus::default() });
        device
    }

    fn declared(wishes: Vec<Wish>) -> Declared {
        let groups = wishes.into_iter().enumerate().map(|(index, wish)| (index.to_string(), wish)).collect();
        Declared::new(groups, &[firmware("4.9.0", "4.9.0"), firmware("5.2.1", "V5.2.1-P3"), firmware("6.0", "banana")])
    }

    fn announced(declared: &Declared, device: &Device) -> Option<String> {
        declared.release_for(device).map(|release| release.version)
    }

    #[test]
    fn a_device_is_to_run_what_its_one_group_names_as_it_will_report_it() {
        let group = || wish(json!({"name": "fw-5.2.1"}));
        let one = declared(vec![group()]);
        let release = one.release_for(&device("S1", "4.9.0"));
        assert_eq!(release, Some(Release { version: "V5.2.1-P3".into(), size: Some(SIZE) }));
        assert_eq!(announced(&one, &device("S1", "V5.2.1-P3")), None, "it runs that");
        assert_eq!(announced(&one, &device("S2", "4.9.0")), None, "its image is not verified");
        assert_eq!(announced(&one, &device("S3", "4.9.0")), None, "there is no image for it");
        let mut other = device("S1", "4.9.0");
        other.metadata.labels = None;
        assert_eq!(announced(&one, &other), None, "no group selects it");
        let mut held = device("S1", "4.9.0");
        held.spec.held = true;
        assert_eq!(announced(&one, &held), None, "it is held");
        assert_eq!(announced(&declared(vec![group(), group()]), &device("S1", "4.9.0")), None, "two groups select it");
        assert_eq!(announced(&declared(vec![wish(Value::Null)]), &device("S1", "4.9.0")), None);
        let gone = declared(vec![wish(json!({"name": "fw-9"}))]);
        assert_eq!(announced(&gone, &device("S1", "4.9.0")), None, "there is no such release");
        let taken_back = declared(vec![Wish { is_taken_back: true, ..group() }]);
        assert_eq!(announced(&taken_back, &device("S1", "4.9.0")), None, "it was rolled back");
    }

    #[test]
    fn a_difference_is_from_the_one_image_that_the_device_runs_for_who_can_apply_it_and_has_another_try() {
        let group = || wish(json!({"name": "fw-5.2.1"}));
        let firmwares = |bases: &[(&str, char)]| {
            let mut all = vec![firmware("5.2.1", "5.2.1")];
            for (name, sha) in bases {
                let mut base = firmware(name, "4.9.0");
                base.spec.images[0].sha256 = sha.to_string().repeat(64);
                base.status.as_mut().unwrap().images[0].sha256 = sha.to_string().repeat(64);
                all.push(base);
            }
            all
        };
        let capable = |capabilities: &[&str]| {
            let mut device = device("S1", "4.9.0");
            let reported = device.status.as_mut().and_then(|status| status.reported.as_mut()).unwrap();
            reported.capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
            device
        };
        let pair = |wish: Wish, bases: &[(&str, char)], capabilities: &[&str]| {
            let declared = Declared::new([("g".to_owned(), wish)].into(), &firmwares(bases));
            declared.difference_for(&capable(capabilities))
        };
        let (both, one) = (["FileFacts", "Delta"], [("4.9.0", 'c')]);
        assert_eq!(pair(group(), &one, &both), Some(Pair::new([0xcc; 32], [0xaa; 32])));
        assert_eq!(pair(group(), &one, &["Delta"]), None, "it could not tell what comes out of it");
        assert_eq!(pair(group(), &one, &["FileFacts"]), None);
        assert_eq!(pair(group(), &[], &both), None, "nobody knows what it runs");
        assert_eq!(pair(group(), &[("4.9.0", 'c'), ("4.9.0-b", 'c')], &both).map(|pair| pair.base), Some([0xcc; 32]));
        assert_eq!(pair(group(), &[("4.9.0", 'c'), ("4.9.0-b", 'd')], &both), None, "it may run either");
        assert_eq!(pair(group(), &[("4.9.0", 'a')], &both), None, "it runs the image already");
        assert_eq!(pair(Wish { retries: 0, ..group() }, &one, &both), None, "it has but one try");
        assert_eq!(pair(Wish { is_taken_back: true, ..group() }, &one, &both), None);
    }

    #[test]
    fn what_runs_something_newer_or_without_order_is_announced_a_release_only_by_who_wants_exactly_that() {
        let only = declared(vec![wish(json!({"name": "fw-5.2.1"}))]);
        let exact = declared(vec![wish(json!({"name": "fw-5.2.1", "policy": "Exact"}))]);
        for (runs, by_order) in
            [("4.9.0", true), ("5.2.1", true), ("5.3", false), ("unknown", false), ("banana", false)]
        {
            assert_eq!(announced(&only, &device("S1", runs)).is_some(), by_order, "{runs}");
            assert!(announced(&exact, &device("S1", runs)).is_some(), "{runs}");
        }
    }
}
