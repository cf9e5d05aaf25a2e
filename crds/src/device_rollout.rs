//! `DeviceRollout`: one attempt to bring one group to one revision.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, schema};

/// One attempt to bring one group to one revision. Made by the controller, numbered, kept as history.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "DeviceRollout",
    shortname = "drol",
    category = "fettle",
    namespaced,
    status = "DeviceRolloutStatus",
    derive = "PartialEq",
    doc = "One attempt to bring one DeviceGroup to one revision. The controller makes them; they are its history.",
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.group"),
    printcolumn(name = "Firmware", type_ = "string", json_path = ".spec.firmware.version"),
    printcolumn(name = "Config", type_ = "string", json_path = ".spec.config.identity"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = ("self == oldSelf", "the spec of a DeviceRollout is what was rolled out: change the DeviceGroup instead"))]
#[serde(rename_all = "camelCase")]
pub struct DeviceRolloutSpec {
    /// The DeviceGroup.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub group: String,
    /// Counted from 1 for each group, never reused.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// A digest of the firmware and of the source of the configuration: equal revisions have equal digests.
    #[schemars(length(min = 1, max = 64))]
    pub revision: String,
    /// The firmware, as it was when the rollout began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<RolloutFirmware>,
    /// The configuration, as it was when the rollout began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RolloutConfig>,
}

/// The firmware of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutFirmware {
    /// The name of the Firmware.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// Its version.
    #[schemars(length(min = 1, max = 128))]
    pub version: String,
    /// Its images.
    #[schemars(length(min = 1, max = 16))]
    pub images: Vec<RolloutImage>,
}

/// An image of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutImage {
    /// The models it is for.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 64)))]
    pub models: Vec<String>,
    /// What a device on it reports as its version.
    #[schemars(length(min = 1, max = schema::TEXT_MAX))]
    pub reports: String,
    /// Its SHA-256, in lower-case hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// The Secret that keeps what it is (`content::ImageContent`).
    #[schemars(length(min = 1, max = 64))]
    pub content: String,
}

/// The configuration of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutConfig {
    /// The name of the ConfigProfile.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// Its identity, `version+hash8`.
    #[schemars(length(min = 1, max = 80))]
    pub identity: String,
    /// The models it is for; all, where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub models: Vec<String>,
    /// The Secret that keeps its text (`content::ConfigContent`).
    #[schemars(length(min = 1, max = 64))]
    pub content: String,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRolloutStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus).
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// In a word: `Complete`, `Progressing`, `Waiting`, `Stalled`, `Superseded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,
    /// `current/total`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// In a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// How many devices are in which state.
    #[serde(default)]
    pub counts: Counts,
    /// For the devices that are not current: how many for each reason.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub reasons: BTreeMap<String, i64>,
    /// The first devices that failed, by name; `counts.failed` says how many there are.
    #[serde(default)]
    #[schemars(length(max = 10))]
    pub failures: Vec<Failure>,
    /// When the first device was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was complete for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
}

/// How many devices are in which state. A device is in exactly one of `current`, `updating`, `waiting`, `failed` and
/// `offline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Devices of the group.
    #[serde(default)]
    pub total: i64,
    /// They run what the group wants.
    #[serde(default)]
    pub current: i64,
    /// They are on their way.
    #[serde(default)]
    pub updating: i64,
    /// They wait, each for its reason.
    #[serde(default)]
    pub waiting: i64,
    /// They are out of tries.
    #[serde(default)]
    pub failed: i64,
    /// They are away, and were before we touched them.
    #[serde(default)]
    pub offline: i64,
}

/// A device that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Its name.
    #[schemars(length(max = 253))]
    pub device: String,
    /// Why.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// In a sentence.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
}
