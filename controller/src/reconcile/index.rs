//! What is known of the namespace: the watches' events, overlaid with our own writes that no watch has returned yet.
//!
//! Everything that comes in carries a resourceVersion, and the newer one wins, whichever way it came. Memory is the only
//! thing touched here; when to look at it is for others to say.

use std::collections::HashMap;
use std::sync::Arc;

use fettle_crds::content::{CONFIG, ConfigContent, Form, LABEL};
use fettle_crds::render::Quotes;
use fettle_crds::{self as api, ConfigRef};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::convert::{self, Interner, ProfileObject, Values, identity};
use crate::metrics::{Kind, Metrics};
use crate::plan::model::{Config, Profile, Snapshot, Source, Text};
use crate::plan::rendering::Template;

/// A Secret holds 1 MiB; so much of it is for the configuration, the rest for its version.
const CONFIG_MAX: usize = 1024 * 1024 - 1024;

/// An event of one of the watches.
#[allow(clippy::large_enum_variant, reason = "most of them are of devices, and none lives long")]
pub enum Observed {
    Device(Event<DeserializeGuard<api::Device>>),
    Group(Event<DeserializeGuard<api::DeviceGroup>>),
    Rollout(Event<DeserializeGuard<api::DeviceRollout>>),
    Firmware(Event<DeserializeGuard<api::Firmware>>),
    Profile(Event<DeserializeGuard<api::ConfigProfile>>),
    Lease(Event<Lease>),
    ConfigMap(Event<ConfigMap>),
    Secret(Event<Secret>),
    Content(Event<Secret>),
}

/// An object as a write of ours has left it.
#[allow(clippy::large_enum_variant, reason = "most of them are of devices, and none lives long")]
pub enum Written {
    Device(api::Device),
    Group(api::DeviceGroup),
    Rollout(api::DeviceRollout),
    Profile(api::ConfigProfile),
    Content(Text),
    Deleted(Kind, Text),
}

/// Whether there is something to plan anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Yes,
    No,
}

/// What is known of the namespace.
pub struct Index {
    pub snapshot: Snapshot,
    interner: Interner,
    ledgers: HashMap<Kind, Ledger>,
    profiles: HashMap<Text, ProfileObject>,
    /// The values of ConfigMaps and Secrets, by name.
    config_maps: HashMap<Text, Values>,
    secrets: HashMap<Text, Values>,
    metrics: Metrics,
}

/// Every kind that is watched.
const WATCHED: [Kind; 9] = [
    Kind::Device,
    Kind::Group,
    Kind::Rollout,
    Kind::Firmware,
    Kind::Profile,
    Kind::Lease,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::Content,
];

/// Which versions are held of the objects of one kind.
#[derive(Default)]
struct Ledger {
    held: HashMap<Text, Entry>,
    /// Counts listings.
    listing: u64,
    is_complete: bool,
}

struct Entry {
    version: u64,
    /// In which listing it was last seen or written.
    listing: u64,
}

impl Ledger {
    /// Takes note of an object; `false`: something newer is held.
    fn take(&mut self, name: &Text, version: u64) -> bool {
        let listing = self.listing;
        match self.held.get_mut(name) {
            Some(entry) => {
                entry.listing = listing;
                let newer = version > entry.version;
                entry.version = entry.version.max(version);
                newer
            }
            None => {
                self.held.insert(name.clone(), Entry { version, listing });
                true
            }
        }
    }

    /// Takes note of a deletion; `false`: something newer is held.
    fn drop(&mut self, name: &Text, version: u64) -> bool {
        if self.held.get(name).is_some_and(|entry| entry.version > version) {
            return false;
        }
        self.held.remove(name).is_some()
    }

    /// The end of a listing: what was not in it, and was not written since it began, is gone.
    fn complete(&mut self) -> Vec<Text> {
        self.is_complete = true;
        let listing = self.listing;
        let gone: Vec<Text> =
            self.held.iter().filter(|(_, entry)| entry.listing < listing).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.held.remove(name);
        }
        gone
    }
}

impl Index {
    pub fn new(snapshot: Snapshot, metrics: Metrics) -> Self {
        Self {
            snapshot,
            interner: Interner::default(),
            ledgers: WATCHED.into_iter().map(|kind| (kind, Ledger::default())).collect(),
            profiles: HashMap::new(),
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
            metrics,
        }
    }

    /// Whether every watch has listed once.
    pub fn is_complete(&self) -> bool {
        self.ledgers.values().all(|ledger| ledger.is_complete)
    }

    /// Takes an event in.
    pub fn observe(&mut self, observed: Observed) -> News {
        match observed {
            Observed::Device(event) => self.guarded(Kind::Device, event, Self::put_device),
            Observed::Group(event) => self.guarded(Kind::Group, event, Self::put_group),
            Observed::Rollout(event) => self.guarded(Kind::Rollout, event, Self::put_rollout),
            Observed::Firmware(event) => self.guarded(Kind::Firmware, event, Self::put_firmware),
            Observed::Profile(event) => self.guarded(Kind::Profile, event, Self::put_profile),
            Observed::Lease(event) => self.event(Kind::Lease, event, Self::put_lease),
            Observed::ConfigMap(event) => self.event(Kind::ConfigMap, event, Self::put_config_map),
            Observed::Secret(event) => self.event(Kind::Secret, event, Self::put_secret),
            Observed::Content(event) => self.event(Kind::Content, event, Self::put_content),
        }
    }

    /// It is not known whether a grant to this device was carried out; it will be by then.
    pub fn doubt(&mut self, device: Text, until: Timestamp) {
        self.snapshot.in_doubt.insert(device, until);
    }

    /// Takes in what a write of ours has left. It is what the watch will return, only sooner.
    pub fn wrote(&mut self, written: Written, now: Timestamp) {
        match written {
            Written::Device(device) => self.apply(Kind::Device, device, Self::put_device),
            Written::Group(group) => self.apply(Kind::Group, group, Self::put_group),
            Written::Rollout(rollout) => self.apply(Kind::Rollout, rollout, Self::put_rollout),
            Written::Profile(profile) => self.apply(Kind::Profile, profile, Self::put_profile),
            Written::Content(name) => {
                self.snapshot.contents.entry(name).or_insert(now);
                News::Yes
            }
            // What the watch says of it meanwhile is older than the deletion and does no harm: nothing is ever made again
            // under the same name, but by its owner.
            Written::Deleted(kind, name) => self.remove(kind, &name),
        };
    }

    fn guarded<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: Kind,
        event: Event<DeserializeGuard<K>>,
        put: fn(&mut Self, K) -> News,
    ) -> News {
        self.event(kind, event, move |index, DeserializeGuard(object)| match object {
            Ok(object) => put(index, object),
            Err(invalid) => {
                // One object that cannot be read is as good as absent; it must not hold up the others.
                let name = invalid.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(kind = kind.as_str(), name, error = %invalid, "object cannot be read");
                index.metrics.malformed(kind);
                index.remove(kind, &name.into())
            }
        })
    }

    fn event<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: Kind,
        event: Event<K>,
        put: impl FnOnce(&mut Self, K) -> News,
    ) -> News {
        match event {
            Event::Init => {
                self.ledger(kind).listing += 1;
                News::No
            }
            Event::InitApply(object) | Event::Apply(object) => self.apply(kind, object, put),
            Event::Delete(object) => {
                let metadata = object.meta();
                let name: Text = metadata.name.as_deref().unwrap_or_default().into();
                let version = metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
                if self.ledger(kind).drop(&name, version.unwrap_or(u64::MAX)) {
                    self.remove(kind, &name)
                } else {
                    News::No
                }
            }
            Event::InitDone => {
                for name in self.ledger(kind).complete() {
                    self.remove(kind, &name);
                }
                News::Yes
            }
        }
    }

    fn apply<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: Kind,
        object: K,
        put: impl FnOnce(&mut Self, K) -> News,
    ) -> News {
        match identity(object.meta()) {
            Some((name, version)) => {
                if self.ledger(kind).take(&name, version) {
                    put(self, object)
                } else {
                    News::No
                }
            }
            // It is being deleted.
            None => {
                let ObjectMeta { name, .. } = object.meta();
                let name: Text = name.as_deref().unwrap_or_default().into();
                self.ledger(kind).held.remove(&name);
                self.remove(kind, &name)
            }
        }
    }

    fn ledger(&mut self, kind: Kind) -> &mut Ledger {
        self.ledgers.entry(kind).or_default()
    }

    fn remove(&mut self, kind: Kind, name: &Text) -> News {
        let snapshot = &mut self.snapshot;
        let was_there = match kind {
            Kind::Device => {
                snapshot.in_doubt.remove(name);
                snapshot.devices.remove(name).is_some()
            }
            Kind::Group => snapshot.groups.remove(name).is_some(),
            Kind::Rollout => snapshot.rollouts.remove(name).is_some(),
            Kind::Firmware => snapshot.firmwares.remove(name).is_some(),
            Kind::Lease => snapshot.bridges.remove(name).is_some(),
            Kind::Content => {
                let was_there = snapshot.contents.remove(name).is_some();
                self.forget_template(name);
                was_there
            }
            Kind::Profile => {
                self.profiles.remove(name);
                snapshot.profiles.remove(name).is_some()
            }
            Kind::ConfigMap => return self.text_changed(|index| index.config_maps.remove(name).is_some(), kind, name),
            Kind::Secret => return self.text_changed(|index| index.secrets.remove(name).is_some(), kind, name),
        };
        if was_there { News::Yes } else { News::No }
    }

    fn put_device(&mut self, device: api::Device) -> News {
        if let Some(mut device) = self.interner.device(device) {
            if let Some(former) = self.snapshot.devices.get(&device.name) {
                device.remember(former);
            }
            // Whatever was in doubt depended on what this has changed: it is in here, or will never be.
            self.snapshot.in_doubt.remove(&device.name);
            self.snapshot.devices.insert(device);
        }
        News::Yes
    }

    fn put_group(&mut self, group: api::DeviceGroup) -> News {
        if let Some(group) = convert::group(group) {
            self.snapshot.groups.insert(group.name.clone(), group);
        }
        News::Yes
    }

    fn put_rollout(&mut self, rollout: api::DeviceRollout) -> News {
        if let Some(rollout) = convert::rollout(rollout) {
            self.snapshot.rollouts.insert(rollout.name.clone(), rollout);
        }
        News::Yes
    }

    fn put_firmware(&mut self, firmware: api::Firmware) -> News {
        if let Some(firmware) = convert::firmware(firmware) {
            self.snapshot.firmwares.insert(firmware.name.clone(), firmware);
        }
        News::Yes
    }

    /// A renewal is no news: it changes nothing but when the bridge would be missed.
    fn put_lease(&mut self, lease: Lease) -> News {
        let Some((name, bridge)) = convert::bridge(lease) else { return News::No };
        let incarnation = bridge.incarnation.clone();
        let renewed = bridge.renewed;
        let before = self.snapshot.bridges.insert(name, bridge);
        let is_renewal = before.is_some_and(|before| before.incarnation == incarnation && renewed <= before.expires);
        if is_renewal { News::No } else { News::Yes }
    }

    fn put_profile(&mut self, profile: api::ConfigProfile) -> News {
        if let Some(profile) = convert::profile(profile) {
            let name = profile.name.clone();
            self.profiles.insert(name.clone(), profile);
            self.read_profile(&name);
        }
        News::Yes
    }

    fn put_config_map(&mut self, map: ConfigMap) -> News {
        let Some((name, _)) = identity(&map.metadata) else { return News::No };
        let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
        let values: Values = texts.chain(bytes).map(|(key, bytes)| (key, bytes.into())).collect();
        self.text_changed(|index| index.config_maps.insert(name.clone(), values).is_none(), Kind::ConfigMap, &name)
    }

    fn put_secret(&mut self, secret: Secret) -> News {
        let Some((name, _)) = identity(&secret.metadata) else { return News::No };
        let data = secret.data.unwrap_or_default();
        let values: Values = data.into_iter().map(|(key, bytes)| (key, bytes.0.into())).collect();
        self.text_changed(|index| index.secrets.insert(name.clone(), values).is_none(), Kind::Secret, &name)
    }

    /// Reads the profiles anew whose text is in that object.
    fn text_changed(&mut self, change: impl FnOnce(&mut Self) -> bool, kind: Kind, name: &Text) -> News {
        change(self);
        let refers = |profile: &&ProfileObject| {
            let source = if kind == Kind::ConfigMap { &profile.spec.config_map } else { &profile.spec.secret };
            source.as_ref().is_some_and(|source| *source.name == **name)
        };
        let profiles: Vec<Text> = self.profiles.values().filter(refers).map(|profile| profile.name.clone()).collect();
        for profile in &profiles {
            self.read_profile(profile);
        }
        if profiles.is_empty() { News::No } else { News::Yes }
    }

    fn read_profile(&mut self, name: &Text) {
        let Some(object) = self.profiles.get(name) else { return };
        let profile = Profile {
            name: name.clone(),
            generation: object.generation,
            models: object.spec.models.clone(),
            crc: object.spec.crc,
            source: self.read(&object.spec),
            status: object.status.clone(),
        };
        let template = template_of(&profile);
        self.snapshot.templates.extend(template.map(|template| (template.name().clone(), template)));
        let former = self.snapshot.profiles.insert(name.clone(), profile);
        if let Some(former) = former.as_ref().and_then(template_of) {
            self.forget_template(former.name());
        }
    }

    /// Keeps the template in a content, which may be all that is left of it.
    fn put_content(&mut self, content: Secret) -> News {
        let Some(name) = content.metadata.name.as_deref().map(Text::from) else { return News::No };
        let made = content.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let is_config = content.labels().get(LABEL).is_some_and(|kind| kind == CONFIG);
        if is_config && !self.snapshot.templates.contains_key(&name) {
            // What is not what its name says, or cannot be rendered, is found out by the bridge, with a reason.
            let template =
                ConfigContent::from_secret(&content).ok().and_then(|content| Template::of(&content, &name).ok());
            self.snapshot.templates.extend(template.flatten().map(|template| (name.clone(), template)));
        }
        self.snapshot.contents.insert(name, made);
        News::Yes
    }

    /// A template that neither a content nor a profile has any more.
    fn forget_template(&mut self, name: &Text) {
        let snapshot = &mut self.snapshot;
        let is_wanted =
            || snapshot.profiles.values().any(|profile| template_of(profile).is_some_and(|it| it.name() == name));
        if !snapshot.contents.contains_key(name) && !is_wanted() {
            snapshot.templates.remove(name);
        }
    }

    fn read(&self, spec: &api::ConfigProfileSpec) -> Source {
        let value = |objects: &HashMap<Text, Values>, kind: &'static str, source: &ConfigRef| {
            let ConfigRef { name, key, template } = source;
            let object: Text = name.as_str().into();
            let values = objects.get(&object).ok_or(Source::ObjectMissing { kind, object: object.clone() })?;
            let bytes = values.get(key).cloned();
            let bytes = bytes.ok_or_else(|| Source::KeyMissing { kind, object, key: key.as_str().into() })?;
            Ok((bytes, if *template { Form::Template } else { Form::Text }))
        };
        let quotes = if spec.secret.is_some() { Quotes::No } else { Quotes::Yes };
        let api::ConfigProfileSpec { version, models: _, crc: _, text, template, config_map, secret } = spec;
        let read: Result<(Arc<[u8]>, Form), Source> = match (text, template, config_map, secret) {
            (Some(text), ..) => Ok((text.as_bytes().into(), Form::Text)),
            (None, Some(template), ..) => Ok((template.as_bytes().into(), Form::Template)),
            (None, None, Some(source), _) => value(&self.config_maps, "ConfigMap", source),
            (None, None, None, Some(source)) => value(&self.secrets, "Secret", source),
            // The API server lets no such profile in.
            (None, None, None, None) => Ok((Arc::from([]), Form::Text)),
        };
        match read {
            Err(missing) => missing,
            Ok((bytes, _)) if bytes.len() > CONFIG_MAX => Source::TooLarge { bytes: bytes.len(), limit: CONFIG_MAX },
            Ok((bytes, form)) => {
                let content = ConfigContent { version: version.clone(), form, bytes: bytes.to_vec() };
                match Config::of(content, quotes) {
                    Ok(config) => Source::Read(config),
                    Err(error) => Source::Broken { error, quotes },
                }
            }
        }
    }
}

fn template_of(profile: &Profile) -> Option<Arc<Template>> {
    profile.source.read().ok()?.template.clone()
}
