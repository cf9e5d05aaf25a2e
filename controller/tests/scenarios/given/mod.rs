//! What is known, in a few words.

mod device;
mod group;
mod span;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fettle_controller::plan::model as m;
use fettle_controller::plan::profiles;
use fettle_controller::plan::rendering::Coverage;
use fettle_controller::plan::versions::Requirement;
use fettle_crds::content::{ConfigContent, Form, ImageContent};
use fettle_crds::render::Quotes;
use fettle_crds::{Crc, FileSource, Source};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use self::device::Device;
use self::group::Group;
use self::span::{Span, hours};

/// A namespace. A rollout stands for what each group wants, unless the group says otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Given {
    bridges: BTreeMap<String, Bridge>,
    firmwares: BTreeMap<String, Firmware>,
    profiles: BTreeMap<String, Profile>,
    groups: BTreeMap<String, Group>,
    devices: BTreeMap<String, Device>,
    /// Content Secrets besides those of the rollouts, and how long ago they were made.
    contents: BTreeMap<String, Span>,
    /// How long this controller has looked.
    watching: Span,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            bridges: BTreeMap::from([("b0".into(), Bridge::default())]),
            firmwares: BTreeMap::from([("fw-2".into(), Firmware::default())]),
            profiles: BTreeMap::new(),
            groups: BTreeMap::from([("access".into(), Group::default())]),
            devices: BTreeMap::new(),
            contents: BTreeMap::new(),
            watching: hours(1),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bridge {
    incarnation: String,
    started: Span,
    /// How long ago its Lease ended; it holds where this is not given.
    expired: Option<Span>,
    /// It gave its Lease back that long ago.
    released: Option<Span>,
}

impl Default for Bridge {
    fn default() -> Self {
        Self { incarnation: "i1".into(), started: hours(2), expired: None, released: None }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Firmware {
    version: String,
    reports: Option<String>,
    models: Vec<String>,
    /// `True`, `Unknown`, or the reason why not.
    ready: String,
    upgradable_from: Option<String>,
    crc: Crc,
    /// Its object is gone; former rollouts were for it.
    pruned: bool,
}

impl Default for Firmware {
    fn default() -> Self {
        Self {
            version: "2".into(),
            reports: None,
            models: vec!["S1".into()],
            ready: "True".into(),
            upgradable_from: None,
            crc: Crc::Ieee,
            pruned: false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    version: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    crc: Option<Crc>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    template: Option<String>,
    /// The ConfigMap and the key that are not there.
    #[serde(default)]
    missing: Vec<String>,
}
const DEVICE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

impl Given {
    /// The namespace, and the time.
    pub fn snapshot(&self) -> (m::Snapshot, Timestamp) {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let mut snapshot = m::Snapshot {
            settings: m::Settings { watching_since: now - self.watching.0, ..m::Settings::default() },
            bridges: self.bridges.iter().map(|(name, bridge)| (name.as_str().into(), bridge.model(now))).collect(),
            firmwares: named(&self.firmwares, Firmware::model),
            profiles: named(&self.profiles, |profile, name| profile.model(name, now)),
            groups: named(&self.groups, |group, name| group.model(name, now)),
            contents: self.contents.iter().map(|(name, ago)| (name.as_str().into(), now - ago.0)).collect(),
            ..m::Snapshot::default()
        };
        let read = snapshot.profiles.values().filter_map(|profile| profile.source.read().ok());
        let templates = read.filter_map(|config| config.template.clone());
        snapshot.templates = templates.map(|template| (template.name().clone(), template)).collect();
        for (name, group) in &self.groups {
            for rollout in group.rollouts(name, &snapshot, now) {
                let firmware = rollout.spec.firmware.iter().flat_map(|firmware| &firmware.images);
                let contents = firmware.map(|image| &image.content);
                let contents = contents.chain(rollout.spec.config.as_ref().map(|config| &config.content));
                let contents: Vec<m::Text> = contents.map(|content| content.as_str().into()).collect();
                snapshot.contents.extend(contents.into_iter().map(|content| (content, now)));
                snapshot.rollouts.insert(rollout.name.clone(), rollout);
            }
        }
        for (number, (name, device)) in self.devices.iter().enumerate() {
            if let Some(ahead) = device.doubt {
                snapshot.in_doubt.insert(name.as_str().into(), now + ahead.0);
            }
            let device = device.model(name, number, &snapshot, now);
            snapshot.devices.insert(device);
        }
        let is_pruned = |name: &m::Text| self.firmwares.get(&**name).is_some_and(|firmware| firmware.pruned);
        snapshot.firmwares.retain(|name, _| !is_pruned(name));
        for (name, group) in &self.groups {
            if let Some(wrong) = &group.wrong_times {
                snapshot.groups.get_mut(name.as_str()).unwrap().times = Err(wrong.as_str().into());
            }
        }
        (snapshot, now)
    }
}

fn named<G, M>(given: &BTreeMap<String, G>, model: impl Fn(&G, m::Text) -> M) -> BTreeMap<m::Text, M> {
    given.iter().map(|(name, given)| (name.as_str().into(), model(given, name.as_str().into()))).collect()
}

impl Bridge {
    fn model(&self, now: Timestamp) -> m::Bridge {
        let lease = SignedDuration::from_secs(15);
        // A Lease that holds goes on holding: it is renewed in time.
        let holds = self.expired.is_none() && self.released.is_none();
        let renewed = match (self.expired, self.released) {
            (Some(ago), _) => now - ago.0 - lease,
            (None, Some(ago)) => now - ago.0,
            (None, None) => now,
        };
        let incarnation = self.released.is_none().then(|| self.incarnation.as_str().into());
        let expires = if holds { Timestamp::MAX } else { renewed + lease };
        m::Bridge { incarnation, started: now - self.started.0, renewed, expires }
    }
}

impl Firmware {
    fn model(&self, name: m::Text) -> m::Firmware {
        let reports = self.reports.as_ref().unwrap_or(&self.version);
        let content = ImageContent {
            version: self.version.clone(),
            reports: reports.clone(),
            source: Source { file: Some(FileSource { path: format!("{name}.bin") }), ..Source::default() },
            sha256: format!("sha-of-{name}"),
            signature: None,
            crc: self.crc,
        };
        let image = m::Image {
            models: self.models.clone(),
            reports: reports.as_str().into(),
            upgradable_from: self.upgradable_from.as_deref().map(|text| Arc::new(Requirement::parse(text).unwrap())),
            name: content.name().into(),
            content: Arc::new(content),
        };
        let (readiness, is_verified) = match self.ready.as_str() {
            "True" => (m::Readiness::Ready, true),
            "Unknown" => (m::Readiness::Unknown, false),
            reason => {
                let message = format!("the file is not what it should be ({reason})");
                (m::Readiness::Failed { reason: reason.into(), message }, false)
            }
        };
        let verified = is_verified.then(|| image.content.sha256.as_str().into()).into_iter().collect();
        m::Firmware { name, version: self.version.as_str().into(), images: vec![image], readiness, verified }
    }
}

impl Profile {
    fn model(&self, name: m::Text, now: Timestamp) -> m::Profile {
        let read = |content| match m::Config::of(content, Quotes::Yes) {
            Ok(config) => m::Source::Read(config),
            Err(error) => m::Source::Broken { error, quotes: Quotes::Yes },
        };
        let source = match (&self.text, self.missing.as_slice()) {
            _ if self.template.is_some() => read(ConfigContent {
                version: self.version.clone(),
                form: Form::Template,
                bytes: self.template.clone().unwrap_or_default().into_bytes(),
            }),
            (Some(text), _) => {
                let form = Form::Text;
                let content = ConfigContent { version: self.version.clone(), form, bytes: text.clone().into_bytes() };
                read(content)
            }
            (None, [object]) => m::Source::ObjectMissing { kind: "ConfigMap", object: object.as_str().into() },
            (None, [object, key]) => {
                m::Source::KeyMissing { kind: "ConfigMap", object: object.as_str().into(), key: key.as_str().into() }
            }
            (None, _) => panic!("profile {name}: give text, or what is missing"),
        };
        let mut profile = m::Profile {
            name,
            generation: 1,
            models: self.models.clone(),
            crc: self.crc,
            source,
            status: Default::default(),
        };
        // What is readable is told already.
        if profile.source.read().is_ok() {
            profile.status = profiles::status(&profile, &Coverage::default(), now).unwrap().1;
        }
        profile
    }
}
