//! `DeviceRollout`: one attempt to bring one group to one revision.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::strategy::Step;
use crate::{Condition, schema};

/// What was rolled out does not change.
const RECORD_RULE: &str = "self.group == oldSelf.group && self.number == oldSelf.number && self.revision == oldSelf.revision \
    && has(self.firmware) == has(oldSelf.firmware) && (!has(self.firmware) || self.firmware == oldSelf.firmware) \
    && has(self.config) == has(oldSelf.config) && (!has(self.config) || self.config == oldSelf.config) \
    && has(self.steps) == has(oldSelf.steps) && (!has(self.steps) || self.steps == oldSelf.steps)";

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
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step.progress"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (RECORD_RULE, "only paused, approvedStep, abort, retryAt and acceptFailures of a DeviceRollout can be changed: the rest is what was rolled out, so change the DeviceGroup instead"),
    validation = ("!has(self.approvedStep) || self.approvedStep <= (has(self.steps) ? self.steps.size() : 0)", "approvedStep: the rollout has not that many steps")
)]
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
    /// Its steps, as the group had them when the rollout began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<Step>,

    /// A person's: nobody begins while this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// A person's: the rollout may go past this step, and those before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub approved_step: Option<u32>,
    /// A person's: the rollout ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// A person's: devices that had failed by then get a fresh set of tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// A person's: so many failed devices, in all, do not stop the rollout, whatever the budget says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub accept_failures: Option<u32>,
}

/// How a person ends a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Abort {
    /// Nobody else begins.
    Stop,
    /// The devices that it has touched go back to what they ran before.
    Rollback,
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
    /// Its identity, `version+hash8`: of a template, where it is one; what a device gets of that is in its target.
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
    /// In a word: `Complete`, `Progressing`, `Waiting`, `Paused`, `RollingBack`, `RolledBack`, `Stalled`, `Empty`,
    /// `Superseded`.
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
    /// The first devices that the template of the configuration cannot be rendered for, by name, each with line and reason;
    /// `reasons.TemplateError` says how many wait for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub template_errors: Vec<Failure>,
    /// The step that it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepStatus>,
    /// The steps that it has left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 17))]
    pub finished_steps: Vec<FinishedStep>,
    /// What it waits for, where no device moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// When the first device was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it will be complete if it goes on as it went so far; windows, soaks and people apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_end: Option<Timestamp>,
    /// When it was complete for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
}

/// The step that a rollout is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct StepStatus {
    /// Its number, from 1. One more than there are steps: all devices that are left.
    pub number: u32,
    /// `2/3`.
    #[schemars(length(max = 16))]
    pub progress: String,
    /// How many devices the rollout is to have taken on when it is done.
    pub size: i64,
    /// How many of them it has.
    pub granted: i64,
    /// When it began.
    pub started_at: Timestamp,
    /// When all of them were current or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Until then the rollout rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<Timestamp>,
}

/// A step that a rollout has left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct FinishedStep {
    /// Its number, from 1.
    pub number: u32,
    /// When its soak was over; without one, when all its devices were current or failed. One of them that had gone away, or
    /// lost its connection again and again, by then has failed until it reports again.
    pub soaked_at: Timestamp,
}

/// What a rollout waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Waiting {
    /// In a word: `Approval`, `Soak`, `Window`, `Freeze`, `Paused` and others.
    #[serde(rename = "for")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct RollbackStatus {
    /// Why: `BudgetExceeded` or `Aborted`.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When nobody was left that could be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
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
    /// Of those, the ones that are away.
    #[serde(default)]
    pub current_offline: i64,
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
    /// Of all of these, those that the rollout has granted a try.
    #[serde(default)]
    pub granted: i64,
    /// Of all of these, those that it has brought back to what they ran before.
    #[serde(default)]
    pub rolled_back: i64,
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
