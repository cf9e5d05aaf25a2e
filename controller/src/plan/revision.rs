//! What a group wants, as content: the revision, the rollout that stands for it, and what has to be kept for both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fettle_crds::content::{ConfigContent, ImageContent};
use fettle_crds::{Crc, DeviceRolloutSpec, RolloutConfig, RolloutFirmware, RolloutImage, TargetConfig, TargetFirmware};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::Map;
use super::model::{Config, Firmware, Group, Image, Profile, Rollout, Snapshot, Source, Text};

/// Content that nothing names is kept this long: it is made before the rollout that names it.
pub const UNNAMED_CONTENT_AGE: SignedDuration = SignedDuration::from_mins(10);

/// What a group wants.
pub enum Wanted<'a> {
    Revision(Box<Revision<'a>>),
    /// It names what does not exist or cannot be read.
    Invalid(Invalid),
}

/// The firmware and the configuration that a group wants, by content.
pub struct Revision<'a> {
    pub digest: String,
    pub firmware: Option<&'a Firmware>,
    pub config: Option<(&'a Profile, &'a Config)>,
}

/// Why a group cannot be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidReason {
    FirmwareNotFound,
    ConfigProfileNotFound,
    /// The profile is there, but the object or key that holds its text is not, or the text cannot be used.
    ConfigProfileNotReady,
    /// A window, a freeze or a time zone says nothing that a clock could mean.
    InvalidSchedule,
}

impl InvalidReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirmwareNotFound => "FirmwareNotFound",
            Self::ConfigProfileNotFound => "ConfigProfileNotFound",
            Self::ConfigProfileNotReady => "ConfigProfileNotReady",
            Self::InvalidSchedule => "InvalidSchedule",
        }
    }

    /// Whether another object, once it is there, can mend it.
    pub const fn is_missing(self) -> bool {
        match self {
            Self::FirmwareNotFound | Self::ConfigProfileNotFound => true,
            Self::ConfigProfileNotReady | Self::InvalidSchedule => false,
        }
    }
}

/// Why a group cannot be acted on, with names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub reason: InvalidReason,
    pub message: String,
}

impl<'a> Wanted<'a> {
    pub fn of(group: &Group, snapshot: &'a Snapshot) -> Self {
        match Revision::of(group, snapshot) {
            Ok(revision) => Self::Revision(Box::new(revision)),
            Err(invalid) => Self::Invalid(invalid),
        }
    }
}

impl<'a> Revision<'a> {
    fn of(group: &Group, snapshot: &'a Snapshot) -> Result<Self, Invalid> {
        if let Err(wrong) = &group.times {
            return Err(Invalid { reason: InvalidReason::InvalidSchedule, message: wrong.to_string() });
        }
        let firmware = match &group.firmware {
            None => None,
            Some(name) => Some(snapshot.firmwares.get(name).ok_or_else(|| Invalid {
                reason: InvalidReason::FirmwareNotFound,
                message: format!("there is no Firmware {name}"),
            })?),
        };
        let config = match &group.config {
            None => None,
            Some(name) => {
                let profile = snapshot.profiles.get(name).ok_or_else(|| Invalid {
                    reason: InvalidReason::ConfigProfileNotFound,
                    message: format!("there is no ConfigProfile {name}"),
                })?;
                Some((
                    profile,
                    profile.source.read().map_err(|(_, why)| Invalid {
                        reason: InvalidReason::ConfigProfileNotReady,
                        message: format!("ConfigProfile {name}: {why}"),
                    })?,
                ))
            }
        };
        Ok(Self { digest: digest(firmware, config), firmware, config })
    }

    /// The image for a model, where the revision has firmware.
    pub fn image(&self, model: &str) -> Result<Option<&'a Image>, NoImage> {
        self.firmware.map(|firmware| firmware.image(model).ok_or(NoImage)).transpose()
    }

    /// The configuration for a model, where the revision has one.
    pub fn config(&self, model: &str) -> Result<Option<&'a Config>, NotForModel> {
        let Some((profile, config)) = self.config else { return Ok(None) };
        let fits = profile.models.is_empty() || profile.models.iter().any(|known| known == model);
        if fits { Ok(Some(config)) } else { Err(NotForModel) }
    }

    /// What devices of a model mean by CRC, where the profile or the image for them says so.
    pub fn crc(&self, model: &str) -> Option<Crc> {
        let of_profile = self.config.and_then(|(profile, _)| profile.crc);
        let image = self.firmware.and_then(|firmware| firmware.image(model));
        of_profile.or(image.map(|image| image.content.crc).filter(|crc| !crc.is_default()))
    }

    /// In words, for people.
    pub fn describe(&self) -> String {
        match (self.firmware, self.config) {
            (Some(firmware), Some((_, config))) => format!("{}, config {}", firmware.version, config.identity),
            (Some(firmware), None) => firmware.version.to_string(),
            (None, Some((_, config))) => format!("config {}", config.identity),
            (None, None) => String::new(),
        }
    }

    /// What has to be kept for it.
    fn contents(&self) -> impl Iterator<Item = Content> {
        let images = self.firmware.into_iter().flat_map(|firmware| &firmware.images).map(Content::image);
        images.chain(self.config.map(|(_, config)| Content::config(config)))
    }

    /// The rollout that stands for it.
    pub fn rollout(&self, group: &Group, number: i64) -> NewRollout {
        let firmware = self.firmware.map(|firmware| RolloutFirmware {
            name: firmware.name.to_string(),
            version: firmware.version.to_string(),
            images: firmware.images.iter().map(Image::in_rollout).collect(),
        });
        let config = self.config.map(|(profile, config)| RolloutConfig {
            name: profile.name.to_string(),
            identity: config.identity.to_string(),
            models: profile.models.clone(),
            content: config.name.to_string(),
        });
        NewRollout {
            name: format!("{}-{number}", group.name).into(),
            group: group.name.clone(),
            group_uid: group.uid.clone(),
            contents: self.contents().map(|content| content.name().clone()).collect(),
            spec: DeviceRolloutSpec {
                group: group.name.to_string(),
                number,
                revision: self.digest.clone(),
                firmware,
                config,
                steps: group.strategy.steps.clone(),
                paused: None,
                approved_step: None,
                abort: None,
                retry_at: None,
                accept_failures: None,
            },
        }
    }
}

/// The release has no image for the model.
pub struct NoImage;

/// The configuration is not for the model.
pub struct NotForModel;

impl Firmware {
    pub fn image(&self, model: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.models.iter().any(|known| known == model))
    }
}

impl Image {
    fn in_rollout(&self) -> RolloutImage {
        RolloutImage {
            models: self.models.clone(),
            reports: self.reports.to_string(),
            sha256: self.content.sha256.clone(),
            content: self.name.to_string(),
        }
    }

    /// As a target names it.
    pub fn in_target(&self) -> TargetFirmware {
        TargetFirmware {
            version: self.content.version.clone(),
            reports: self.reports.to_string(),
            sha256: self.content.sha256.clone(),
            content: self.name.to_string(),
        }
    }
}

impl Config {
    /// As a target names it.
    pub fn in_target(&self) -> TargetConfig {
        TargetConfig { identity: self.identity.to_string(), content: self.name.to_string(), scheduled: None, crc: None }
    }
}

impl Source {
    /// The configuration; or why there is none, in a word and in a sentence.
    pub fn read(&self) -> Result<&Config, (&'static str, String)> {
        match self {
            Self::Read(config) => Ok(config),
            Self::ObjectMissing { kind, object } => Err(("NotFound", format!("there is no {kind} {object}"))),
            Self::KeyMissing { kind, object, key } => {
                Err(("KeyNotFound", format!("the {kind} {object} has no key {key}")))
            }
            Self::TooLarge { bytes, limit } => {
                Err(("TooLarge", format!("the text has {bytes} bytes, more than the {limit} that can be kept")))
            }
            Self::Broken { error, quotes } => Err(("TemplateError", error.sentence(*quotes))),
        }
    }
}

/// Equal for equal content, whatever the objects are called.
fn digest(firmware: Option<&Firmware>, config: Option<(&Profile, &Config)>) -> String {
    // A tag before each part and a NUL after each text keep parts apart.
    let mut sha = Sha256::new();
    for image in firmware.into_iter().flat_map(|firmware| &firmware.images) {
        sha.update(b"image\0");
        for text in [&*image.name, &*image.reports].into_iter().chain(image.models.iter().map(String::as_str)) {
            sha.update(text);
            sha.update([0]);
        }
    }
    if let Some((profile, config)) = config {
        sha.update(b"config\0");
        for text in [&*config.name].into_iter().chain(profile.models.iter().map(String::as_str)) {
            sha.update(text);
            sha.update([0]);
        }
    }
    data_encoding::HEXLOWER.encode(&sha.finalize()[..8])
}

/// Something that is kept by content: the name of its Secret, and what to write there.
#[derive(Clone)]
pub enum Content {
    Image(Text, Arc<ImageContent>),
    Config(Text, Arc<ConfigContent>),
}

impl Content {
    pub(super) fn image(image: &Image) -> Self {
        Self::Image(image.name.clone(), image.content.clone())
    }

    pub(super) fn config(config: &Config) -> Self {
        Self::Config(config.name.clone(), config.content.clone())
    }

    /// The name of the Secret.
    pub fn name(&self) -> &Text {
        match self {
            Self::Image(name, _) | Self::Config(name, _) => name,
        }
    }
}

impl std::fmt::Debug for Content {
    /// Without what it holds: that may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Content").field(self.name()).finish()
    }
}

/// A rollout that is to be made.
#[derive(Debug, Clone)]
pub struct NewRollout {
    pub name: Text,
    pub group: Text,
    pub group_uid: Text,
    /// The content that must be there before.
    pub contents: Vec<Text>,
    pub spec: DeviceRolloutSpec,
}

/// The rollouts of a group, by number.
pub struct Rollouts<'a> {
    /// Of this group.
    own: BTreeMap<i64, &'a Rollout>,
    /// The highest number that was ever used under the group's name, also by a group of the same name that is gone.
    last: i64,
}

impl<'a> Rollouts<'a> {
    /// Of all groups, in the order of the snapshot.
    pub fn of_all(snapshot: &'a Snapshot, groups: &[&Group]) -> Vec<Self> {
        let mut by_group: Map<&str, Vec<&Rollout>> = Map::default();
        for rollout in snapshot.rollouts.values() {
            by_group.entry(rollout.spec.group.as_str()).or_default().push(rollout);
        }
        let of = |group: &&Group| {
            let named = by_group.get(&*group.name).map(Vec::as_slice).unwrap_or_default();
            let highest = named.iter().map(|rollout| rollout.spec.number).max().unwrap_or(0);
            let own = named.iter().filter(|rollout| rollout.group_uid == group.uid);
            Self {
                own: own.map(|rollout| (rollout.spec.number, *rollout)).collect(),
                last: highest.max(group.status.last_rollout),
            }
        };
        groups.iter().map(of).collect()
    }

    pub fn newest(&self) -> Option<&'a Rollout> {
        self.own.values().next_back().copied()
    }

    pub fn all(&self) -> impl Iterator<Item = &'a Rollout> {
        self.own.values().copied()
    }

    /// All but the newest.
    pub fn former(&self) -> impl Iterator<Item = &'a Rollout> {
        self.own.values().rev().skip(1).copied()
    }

    /// The number of the newest one that ever was.
    pub fn last_number(&self) -> i64 {
        self.last
    }

    /// Those that the history of that length has no place for; `busy` says which devices are still on the way to.
    pub fn surplus(&self, limit: usize, busy: &BTreeSet<&str>) -> impl Iterator<Item = &'a Rollout> {
        self.own.values().rev().skip(1 + limit).copied().filter(|rollout| !busy.contains(&*rollout.uid))
    }
}

/// What has to be kept and is not, of what groups want.
pub fn missing<'a>(wanted: &'a [Wanted<'a>], snapshot: &Snapshot) -> BTreeMap<Text, Content> {
    let revisions = wanted.iter().filter_map(|wanted| match wanted {
        Wanted::Revision(revision) => Some(revision),
        Wanted::Invalid(_) => None,
    });
    let contents = revisions.flat_map(|revision| revision.contents());
    let missing = contents.filter(|content| !snapshot.contents.contains_key(content.name()));
    missing.map(|content| (content.name().clone(), content)).collect()
}

/// The content that nothing names, of a certain age; and when the next will be of that age.
pub fn unnamed(snapshot: &Snapshot, wanted: &[Wanted<'_>], now: Timestamp) -> (Vec<Text>, Option<Timestamp>) {
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for rollout in snapshot.rollouts.values() {
        named.extend(rollout.spec.firmware.iter().flat_map(|firmware| &firmware.images).map(|image| &*image.content));
        named.extend(rollout.spec.config.as_ref().map(|config| &*config.content));
    }
    for wanted in wanted {
        let Wanted::Revision(revision) = wanted else { continue };
        named.extend(revision.firmware.iter().flat_map(|firmware| &firmware.images).map(|image| &*image.name));
        named.extend(revision.config.map(|(_, config)| &*config.name));
    }
    let mut left: BTreeMap<&str, (&Text, Timestamp)> = snapshot
        .contents
        .iter()
        .filter(|(name, _)| !named.contains(&***name))
        .map(|(name, made)| (&**name, (name, *made)))
        .collect();
    // Mostly rollouts name it all, and no device has to be asked.
    for decisions in snapshot.devices.values().map(|device| &device.decisions) {
        if left.is_empty() {
            break;
        }
        let target = decisions.target.as_ref();
        let previous = decisions.previous.as_ref();
        let of_target = [
            target.and_then(|target| target.firmware.as_ref()).map(|firmware| &*firmware.content),
            target.and_then(|target| target.config.as_ref()).map(|config| &*config.content),
        ];
        let of_previous = [
            previous.and_then(|previous| previous.firmware.content.as_deref()),
            previous.and_then(|previous| previous.config.as_ref()).map(|config| &*config.content),
        ];
        for content in of_target.into_iter().chain(of_previous).flatten() {
            left.remove(content);
        }
    }
    let is_old = |(_, (_, made)): &(&str, (&Text, Timestamp))| *made + UNNAMED_CONTENT_AGE <= now;
    let (old, young): (Vec<_>, Vec<_>) = left.into_iter().partition(is_old);
    let next = young.into_iter().map(|(_, (_, made))| made + UNNAMED_CONTENT_AGE).min();
    (old.into_iter().map(|(_, (name, _))| name.clone()).collect(), next)
}
