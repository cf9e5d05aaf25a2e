//! `Device`: one device, by MAC. Facts in its status are the bridge's, decisions the controller's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device_group::{Transfer, UploadLogs, WireTransfer};
use crate::device_log::{LastLog, LogRefused, LogRequest};
use crate::device_progress::Progress;
use crate::device_session::{Drops, Session};
use crate::{Condition, Crc, schema};

/// One device, by MAC.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "Device",
    shortname = "dev",
    category = "fettle",
    namespaced,
    status = "DeviceStatus",
    derive = "PartialEq",
    doc = "One network device, by its MAC address.",
    printcolumn(name = "Model", type_ = "string", json_path = ".status.reported.model"),
    printcolumn(name = "Current", type_ = "string", json_path = ".status.reported.version"),
    printcolumn(name = "Desired", type_ = "string", json_path = ".status.target.firmware.version"),
    printcolumn(name = "Config", type_ = "string", json_path = ".status.applied.config"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.upgrade.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent"),
    printcolumn(name = "Result", type_ = "string", json_path = ".status.upgrade.reason"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.session.address", priority = 1),
    printcolumn(name = "Transfer", type_ = "string", json_path = ".status.target.transfer", priority = 1),
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.mac", priority = 1),
    printcolumn(name = "Doing", type_ = "string", json_path = ".status.progress.text", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.upgrade.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// Its MAC address, compared without case. Immutable.
    #[schemars(regex(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"), length(max = 17))]
    #[x_kube(validation = ("self.lowerAscii() == oldSelf.lowerAscii()", "mac is immutable: delete the Device and create another"))]
    pub mac: String,
    /// The model that it must report, where given: a device that reports another is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub model: Option<String>,
    /// Whether it may be served. The bridge records an unknown device with `false`.
    #[serde(default = "DeviceSpec::default_approved")]
    pub approved: bool,
    /// In repair: never granted, and left out of all limits.
    #[serde(default)]
    pub held: bool,
    /// How it fetches its files, where that is not what its group says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// The IANA time zone of its clock, where that is not its group's: for configurations that it applies at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time_zone")]
    pub time_zone: Option<String>,
}

impl DeviceSpec {
    fn default_approved() -> bool {
        true
    }
}

/// Facts (`session`, `lastSeen`, `lastAddress`, `reported`, `applied`, `upgrade`, `progress`, `drops`, `lastLog`, `logRefused`, `logRequest`), written by the bridge that holds the session; and
/// decisions (all else), written by the controller.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Its connection, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// When it was last known to be connected, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Where it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_address: Option<String>,
    /// What it said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// The configuration that was last put into force, as its result told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// How far the bridge has come with a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// How far it says that it has come with what it was last told, where that takes long: its own word, seldom written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How often it has lost its connection by itself since the end of a try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drops: Option<Drops>,
    /// The newest log that it brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log: Option<LastLog>,
    /// There was no room for the log of its newest target, and has not been since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_refused: Option<LogRefused>,
    /// What became of the last wish for its log, the annotation `fettle.dev/log-at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_request: Option<LogRequest>,

    /// What the device may become: one try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The highest id of a target so far: ids only count up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_target: Option<i64>,
    /// The rollout that has granted it last, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
    /// What it ran before that rollout's first grant to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// The ways in which it could not fetch its files, and has not done since: what `transfer: Auto` does not begin with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub failed_transfers: Vec<WireTransfer>,
    /// How a target ended, where the bridge could not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The last value of the annotation `fettle.dev/retry-at` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub retried_at: Option<String>,
    /// The generation that the decisions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the device is accepted (valid, its MAC unique, approved).
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What a device said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Reported {
    /// Datum 2.
    #[schemars(length(max = 256))]
    pub version: String,
    /// Datum 3.
    #[schemars(length(max = 256))]
    pub model: String,
    /// Datum 64, from devices that can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub config: Option<String>,
    /// Datum 65.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub serial: Option<String>,
    /// The names of the capabilities it announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 32)))]
    pub capabilities: Vec<String>,
    /// Where it reads the layout of messages otherwise than documented: in what. The bridge has inferred this from
    /// message 1, and answers likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 32)))]
    pub dialect: Vec<String>,
    /// When it said this first.
    pub at: Timestamp,
}

/// A configuration that was put into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Applied {
    /// Its identity, `version+hash8`.
    #[schemars(length(max = 80))]
    pub config: String,
    /// When.
    pub at: Timestamp,
    /// `ResultLost` where the device never said so but came back and serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Verdict>,
}

/// How far the bridge has come with a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Upgrade {
    /// The id of the target.
    pub target: i64,
    /// Where it is: `Restarting` and `Applying` are written before the first message 6 or 8 of the target.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// How it ended, in phase `Done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TryResult>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Verdict>,
    /// In a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Where an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// The device has fetched what it is to run, and waits to be told to go on.
    Downloaded,
    /// The device has been told to put the profile into force at a time, and waits for it.
    Scheduled,
    /// The device was, or is just being, told to restart into what it downloaded.
    Restarting,
    /// That never reached the device: nothing was sent, or TCP did not confirm it. It is told again.
    RestartLost,
    /// The device was, or is just being, told to put the profile into force.
    Applying,
    /// The try has ended.
    Done,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TryResult {
    Succeeded,
    Failed,
}

/// Why a try ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// The device runs what the target says.
    Upgraded,
    /// The device runs the configuration, as far as can be known: it never said so, but it came back and serves.
    ResultLost,
    /// It ran what the target says before anything was sent.
    AlreadyCurrent,
    /// It downloaded the file, and the CRC was wrong.
    CrcMismatch,
    /// It said that it could not download the file.
    DownloadFailed,
    /// It said that it has the file, but our server never sent it whole; or its time was over before our server sent any.
    NotTransferred,
    /// It said that it could not put the profile into force.
    ApplyFailed,
    /// It came back from its restart with the version that it had before.
    CameBackUnchanged,
    /// It came back with a version that is neither the one before nor the one wanted.
    UnexpectedVersion,
    /// The try's time ran out.
    TimedOut,
    /// The file could not be had, so nothing was sent.
    SourceUnavailable,
}

impl Verdict {
    /// The name by which it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upgraded => "Upgraded",
            Self::ResultLost => "ResultLost",
            Self::AlreadyCurrent => "AlreadyCurrent",
            Self::CrcMismatch => "CrcMismatch",
            Self::DownloadFailed => "DownloadFailed",
            Self::NotTransferred => "NotTransferred",
            Self::ApplyFailed => "ApplyFailed",
            Self::CameBackUnchanged => "CameBackUnchanged",
            Self::UnexpectedVersion => "UnexpectedVersion",
            Self::TimedOut => "TimedOut",
            Self::SourceUnavailable => "SourceUnavailable",
        }
    }
}

/// A permission with an end: one try of one device, planned on what it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Target {
    /// Counts up for each device.
    pub id: i64,
    /// The rollout that it belongs to.
    #[schemars(length(max = 253))]
    pub rollout: String,
    /// And its uid.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// Which try, from 1.
    #[serde(rename = "try")]
    #[schemars(range(min = 1))]
    pub attempt: u32,
    /// The version that the device reported when this was planned.
    #[schemars(length(max = 256))]
    pub from: String,
    /// The firmware to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<TargetFirmware>,
    /// The configuration to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<TargetConfig>,
    /// How it fetches its files.
    pub transfer: WireTransfer,
    /// When it is asked for its log.
    pub logs: UploadLogs,
    /// It may be asked for its log over UDP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub udp_logs: bool,
    /// How far it may go.
    #[serde(default)]
    pub stage: Stage,
    /// When the try began.
    pub granted_at: Timestamp,
    /// No first command after this.
    pub start_by: Timestamp,
    /// The end of the try.
    pub until: Timestamp,
    /// The values that the device's labels had then, of the labels that limits are set by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub spread: BTreeMap<String, String>,
    /// The device is current, and its group wants connections closed.
    #[serde(default)]
    pub done: bool,
}

/// How far a target lets a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// It may fetch what it is to run, and no more.
    Download,
    /// All the way.
    #[default]
    Activate,
}

/// A time at which a device puts a profile into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// When.
    pub at: Timestamp,
    /// What the device's clock says then, as datum 12 has it: `2026-11-21 03:00:00`.
    #[schemars(length(max = 19))]
    pub local: String,
}

/// The firmware of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct TargetFirmware {
    /// The version of the release.
    #[schemars(length(max = 128))]
    pub version: String,
    /// What a device on it reports.
    #[schemars(length(max = 256))]
    pub reports: String,
    /// The SHA-256 of its image.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// The Secret that keeps what it is.
    #[schemars(length(max = 64))]
    pub content: String,
}

/// The configuration of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct TargetConfig {
    /// Its identity, `version+hash8`.
    #[schemars(length(max = 80))]
    pub identity: String,
    /// The Secret that keeps its text.
    #[schemars(length(max = 64))]
    pub content: String,
    /// When it is put into force; at once, without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Scheduled>,
    /// The kind of CRC-32 that the device checks it with. Without this, that of the firmware of the target, or IEEE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
}

/// What a rollout has done with a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Granted {
    /// The uid of the rollout.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// The step in which it granted the device first, from 1.
    pub step: u32,
    /// Tries that were used up before a target was taken back.
    #[serde(default)]
    pub tries: u32,
    /// A try of it has ended, whose target may be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tried: bool,
    /// Failures of targets up to this id do not keep the device from being tried again: a person said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<i64>,
}

/// What a device ran before a rollout's first grant to it. It is noted when the device may fetch ahead, and again when it is
/// granted, where it runs something else by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Previous {
    /// The rollout.
    #[schemars(length(max = 64))]
    pub rollout_uid: String,
    /// The firmware.
    pub firmware: PreviousFirmware,
    /// The configuration, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<TargetConfig>,
}

/// The firmware that a device ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PreviousFirmware {
    /// What it reported.
    #[schemars(length(max = 256))]
    pub version: String,
    /// The SHA-256 of the image, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sha256: Option<String>,
    /// The Secret that keeps what it is, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub content: Option<String>,
}

/// How a target ended, in the words of the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Outcome {
    /// The id of the target.
    pub target: i64,
    /// How it ended.
    pub result: TryResult,
    /// Why.
    pub reason: Verdict,
}
