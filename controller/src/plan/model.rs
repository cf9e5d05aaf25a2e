//! What the planner looks at: the namespace as plain data, without what it does not need.
//!
//! Texts that many devices share (versions, digests, names of bridges) are one allocation. Nothing here is ever changed by
//! the planner; the index in `reconcile` keeps it up to date, event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fettle_crds::content::{ConfigContent, ImageContent};
use fettle_crds::render::{Quotes, TemplateError};
use fettle_crds::{
    ConfigProfileStatus, Crc, DeviceGroupStatus, DeviceRolloutSpec, DeviceRolloutStatus, DownloadTime, Drops,
    FirmwarePolicy, IntOrPercent, LabelSelector, Logs, OnFailure, Phase, SessionPolicy, Spread, Stage, Step,
    TargetConfig, TargetFirmware, Transfer, TryResult, Verdict, WireTransfer,
};
use jiff::{SignedDuration, Timestamp};

pub use super::attempt::{Ahead, End, Open, Progress};
use super::devices::Devices;
use super::labels::Labels;
use super::membership::LastSelectors;
use super::places::LastPlaces;
use super::rendering::{Renderings, Template};
use super::transfer::Ways;
use super::versions::Requirement;
use super::windows::{Calendar, LocalTime, Zone};

/// A text that many share.
pub type Text = Arc<str>;

/// A namespace, as it is known.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub settings: Settings,
    pub devices: Devices,
    pub groups: BTreeMap<Text, Group>,
    pub rollouts: BTreeMap<Text, Rollout>,
    pub firmwares: BTreeMap<Text, Firmware>,
    pub profiles: BTreeMap<Text, Profile>,
    /// By name, which is also the name of their Lease.
    pub bridges: BTreeMap<Text, Bridge>,
    /// Devices to which a grant was not answered, and when at the latest it will have been carried out or not.
    pub in_doubt: BTreeMap<Text, Timestamp>,
    /// The content Secrets that there are, and when they were made.
    pub contents: BTreeMap<Text, Timestamp>,
    /// The templates in those, and in the profiles, by the names of the Secrets.
    pub templates: BTreeMap<Text, Arc<Template>>,
    pub selectors: LastSelectors,
    pub places: LastPlaces,
}

/// What the planner is told from outside the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a device, or a bridge, may be gone before it counts as gone.
    pub reconnect_grace: SignedDuration,
    /// The pause after a first try that failed; it doubles with each.
    pub retry_backoff: SignedDuration,
    /// Since when this controller has looked. What was true before is known from what was written, and no verdict rests
    /// on an absence that nobody watched.
    pub watching_since: Timestamp,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reconnect_grace: SignedDuration::from_secs(60),
            retry_backoff: SignedDuration::from_secs(10),
            watching_since: Timestamp::UNIX_EPOCH,
        }
    }
}

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    pub name: Text,
    /// What a write depends on.
    pub resource_version: u64,
    pub generation: i64,
    pub labels: Labels,
    /// Those that templates can see.
    pub annotations: Labels,
    /// What was rendered for it.
    pub renderings: Renderings,
    pub mac: Mac,
    pub origin: Origin,
    /// Of the spec: a device that reports another is not served.
    pub model: Option<Text>,
    pub approved: bool,
    pub held: bool,
    pub transfer: Option<Transfer>,
    /// Of its clock, where that is not its group's.
    pub time_zone: Option<Text>,
    /// A person's wish that it be tried again: the value of the annotation `fettle.dev/retry-at`.
    pub retry_at: Option<Text>,
    pub facts: Facts,
    pub decisions: Decisions,
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(u64);

impl Mac {
    /// Reads six pairs of hexadecimal digits with colons between; the API server lets nothing else in.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pairs = text.split(':');
        let mac = pairs.by_ref().take(6).try_fold(0, |mac, pair| {
            let byte = (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten()?;
            Some(mac << 8 | u64::from(byte))
        })?;
        (text.len() == 17 && pairs.next().is_none()).then_some(Self(mac))
    }
}

/// Whose object a Device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// A user's.
    #[default]
    Declared,
    /// A bridge recorded an unknown device, and nobody has approved it. It yields to a declared one.
    Pending,
}

/// What the bridge says of a device.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub session: Option<Session>,
    pub last_seen: Option<Timestamp>,
    pub reported: Option<Reported>,
    pub applied: Option<Applied>,
    pub upgrade: Option<Upgrade>,
    pub drops: Option<Drops>,
    /// Its newest log found no room.
    pub log_refused: bool,
}

/// A connection, as the bridge wrote it.
#[derive(Debug, Clone)]
pub struct Session {
    pub bridge: Text,
    pub incarnation: Text,
    pub since: Timestamp,
    pub dismissed: bool,
}

/// What a device said of itself.
#[derive(Debug, Clone)]
pub struct Reported {
    pub version: Text,
    pub model: Text,
    pub config: Option<Text>,
    /// It can report its configuration, so its silence means that it has none that it knows.
    pub tells_config: bool,
    /// It can be told to fetch over HTTP.
    pub takes_http: bool,
    pub at: Timestamp,
}

/// The configuration that was last put into force.
#[derive(Debug, Clone)]
pub struct Applied {
    pub config: Text,
    pub at: Timestamp,
}

/// How far the bridge has come with a target.
#[derive(Debug, Clone)]
pub struct Upgrade {
    pub target: i64,
    pub phase: Phase,
    pub since: Timestamp,
    pub result: Option<TryResult>,
    pub reason: Option<Verdict>,
    pub message: Option<Text>,
}

/// What the controller has decided of a device: all that it writes, together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decisions {
    pub target: Option<Target>,
    pub last_target: i64,
    pub granted: Option<Granted>,
    pub previous: Option<Arc<fettle_crds::Previous>>,
    pub outcome: Option<fettle_crds::Outcome>,
    /// The ways in which it could not fetch its files, and has not done since.
    pub failed_ways: Ways,
    /// The last value of the annotation that was acted on.
    pub retried_at: Option<Text>,
    pub observed_generation: Option<i64>,
    pub acceptance: Option<Acceptance>,
}

/// What a rollout has done with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub rollout_uid: Text,
    /// In which it was granted first.
    pub step: u32,
    /// Tries that were used up before a target was taken back.
    pub tries: u32,
    /// A try of it has ended, whose target may be gone.
    pub tried: bool,
    /// Failures of targets up to this id are forgiven.
    pub forgiven: Option<i64>,
}

/// The condition `Ready` of a device: whether it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    pub accepted: bool,
    pub reason: Text,
    pub message: Text,
    pub generation: i64,
    /// When it flipped.
    pub since: Timestamp,
}

/// A permission with an end: one try of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: i64,
    pub rollout: Text,
    pub rollout_uid: Text,
    pub attempt: u32,
    pub from: Text,
    pub firmware: Option<Arc<TargetFirmware>>,
    pub config: Option<Arc<TargetConfig>>,
    pub transfer: WireTransfer,
    pub logs: Logs,
    pub stage: Stage,
    pub granted_at: Timestamp,
    pub start_by: Timestamp,
    pub until: Timestamp,
    /// The values of the labels that limits are set by, as they were at the grant.
    pub spread: Arc<BTreeMap<String, String>>,
    pub done: bool,
}

/// One group.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: Text,
    pub uid: Text,
    pub generation: i64,
    /// When somebody last changed what is wanted of it.
    pub changed_at: Timestamp,
    pub selector: LabelSelector,
    pub firmware: Option<Text>,
    pub policy: FirmwarePolicy,
    pub config: Option<Text>,
    pub strategy: Strategy,
    /// When devices may begin; or what is wrong with what was written of that.
    pub times: Result<Arc<Times>, Text>,
    pub paused: bool,
    /// So many rollouts are kept besides the newest.
    pub history_limit: usize,
    pub transfer: Transfer,
    pub session: SessionPolicy,
    pub logs: Logs,
    /// As it is written now.
    pub status: DeviceGroupStatus,
}

/// When the devices of a group may begin.
#[derive(Debug, Clone, Default)]
pub struct Times {
    pub calendar: Calendar,
    /// Of devices that name none.
    pub zone: Zone,
    /// The time of day at which configurations are put into force; `None`: at once.
    pub apply_at: Option<LocalTime>,
}

/// How a group gets from one revision to the next.
#[derive(Debug, Clone)]
pub struct Strategy {
    pub steps: Vec<Step>,
    pub max_unavailable: IntOrPercent,
    pub spread: Vec<Spread>,
    pub failure_budget: IntOrPercent,
    pub on_failure: OnFailure,
    pub device_timeout: SignedDuration,
    pub retries: u32,
    pub min_ready: SignedDuration,
    pub download: DownloadTime,
}

impl Default for Strategy {
    /// As the API defaults it.
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            max_unavailable: IntOrPercent::Int(1),
            spread: Vec::new(),
            failure_budget: IntOrPercent::Int(0),
            on_failure: OnFailure::Pause,
            device_timeout: SignedDuration::from_mins(15),
            retries: 2,
            min_ready: SignedDuration::ZERO,
            download: DownloadTime::InWindow,
        }
    }
}

/// One rollout.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub name: Text,
    pub uid: Text,
    pub generation: i64,
    /// The uid of the group that owns it.
    pub group_uid: Text,
    pub spec: Arc<DeviceRolloutSpec>,
    /// As it is written now.
    pub status: DeviceRolloutStatus,
}

/// One release.
#[derive(Debug, Clone)]
pub struct Firmware {
    pub name: Text,
    pub version: Text,
    pub images: Vec<Image>,
    pub readiness: Readiness,
    /// The digests that are fetched and verified.
    pub verified: BTreeSet<Text>,
}

/// The image of a release for some models.
#[derive(Debug, Clone)]
pub struct Image {
    pub models: Vec<String>,
    /// What a device on it reports.
    pub reports: Text,
    /// What a device may run to get it.
    pub upgradable_from: Option<Arc<Requirement>>,
    /// The Secret that keeps what it is.
    pub name: Text,
    pub content: Arc<ImageContent>,
}

/// Whether a release can be had, in the words of the bridge on its current generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing was said yet, or it is being fetched.
    Unknown,
    Ready,
    /// It cannot be had as it is.
    Failed {
        reason: String,
        message: String,
    },
}

/// One configuration.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: Text,
    pub generation: i64,
    pub models: Vec<String>,
    /// What its devices mean by CRC, where it says so.
    pub crc: Option<Crc>,
    pub source: Source,
    /// As it is written now.
    pub status: ConfigProfileStatus,
}

/// What came of reading the text of a configuration.
#[derive(Debug, Clone)]
pub enum Source {
    Read(Config),
    ObjectMissing {
        kind: &'static str,
        object: Text,
    },
    KeyMissing {
        kind: &'static str,
        object: Text,
        key: Text,
    },
    TooLarge {
        bytes: usize,
        limit: usize,
    },
    /// It is a template that cannot be rendered for any device.
    Broken {
        error: TemplateError,
        quotes: Quotes,
    },
}

/// A configuration as it was read.
#[derive(Clone)]
pub struct Config {
    /// Of the source. What is rendered has another for each device.
    pub identity: Text,
    /// The Secret that keeps it.
    pub name: Text,
    pub content: Arc<ConfigContent>,
    /// Where it is one.
    pub template: Option<Arc<Template>>,
    /// Whether errors in it may quote it.
    pub quotes: Quotes,
}

impl Config {
    /// # Errors
    /// Where it is a template that could not be rendered for any device.
    pub fn of(content: ConfigContent, quotes: Quotes) -> Result<Self, TemplateError> {
        let name: Text = content.name().into();
        let template = Template::of(&content, &name)?;
        Ok(Self { identity: content.identity().into(), name, content: Arc::new(content), template, quotes })
    }
}

impl std::fmt::Debug for Config {
    /// Without the text: it may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { identity, name, content: _, template: _, quotes: _ } = self;
        f.debug_struct("Config").field("identity", identity).field("name", name).finish_non_exhaustive()
    }
}

/// A bridge, by its Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The incarnation that holds the Lease; `None`: it was released.
    pub incarnation: Option<Text>,
    /// When that incarnation took it.
    pub started: Timestamp,
    pub renewed: Timestamp,
    /// When it ends, unless it is renewed.
    pub expires: Timestamp,
}

impl Device {
    /// The configuration that it runs, as far as is known. What it reports counts, unless something was put into force
    /// since it said so. A report that is written together with a result was made before it.
    pub fn running_config(&self) -> Option<&Text> {
        let applied = self.facts.applied.as_ref();
        match &self.facts.reported {
            Some(reported) if reported.tells_config => match applied {
                Some(applied) if applied.at >= reported.at => Some(&applied.config),
                _ => reported.config.as_ref(),
            },
            _ => applied.map(|applied| &applied.config),
        }
    }

    /// Whether its clock can be told a time.
    pub fn has_known_zone(&self) -> bool {
        self.time_zone.as_deref().is_none_or(|zone| Zone::named(zone).is_ok())
    }
}
