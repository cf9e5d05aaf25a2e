//! `DeviceGroup`: what a group of devices should run, and how they get there.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device_rollout::Counts;
use crate::strategy::{Freeze, Strategy, Window};
use crate::{Condition, LabelSelector, schema};

/// What the devices of a group should run, and how they get there.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "DeviceGroup",
    shortname = "dg",
    category = "fettle",
    namespaced,
    status = "DeviceGroupStatus",
    derive = "PartialEq",
    doc = "What the devices of a group should run, and how they get there.",
    printcolumn(name = "Desired", type_ = "string", json_path = ".status.desired"),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.counts.current"),
    printcolumn(name = "Updating", type_ = "integer", json_path = ".status.counts.updating"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Offline", type_ = "integer", json_path = ".status.counts.offline", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = ("has(self.firmware) || has(self.config)", "give firmware or config or both: the group says nothing that its devices should run"),
    validation = ("!has(self.windows) || self.windows.all(w, duration(w.duration) >= duration(self.rollout.deviceTimeout))", "windows: a window must not be shorter than rollout.deviceTimeout, or no device could ever begin in it")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroupSpec {
    /// Which devices, by their labels. An empty selector selects nothing.
    pub selector: LabelSelector,
    /// The firmware that they should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<DesiredFirmware>,
    /// The configuration that they should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<DesiredConfig>,
    /// How they get there.
    #[serde(default)]
    pub rollout: Strategy,
    /// When devices may begin. Always, where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<Window>,
    /// When no device may begin, whatever the windows say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub freezes: Vec<Freeze>,
    /// The IANA time zone of windows without one, and of freezes that are dates.
    #[serde(default = "schema::default_time_zone")]
    #[schemars(schema_with = "schema::time_zone_or_utc")]
    pub time_zone: String,
    /// Nobody begins while this is set. What runs, finishes.
    #[serde(default)]
    pub paused: bool,
    /// How many rollouts are kept, besides the newest.
    #[serde(default = "DeviceGroupSpec::default_revision_history_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: u32,
    /// How devices fetch their files, and bring their logs. With `Auto`, HTTP where a device announces it, else FTP; and after a
    /// try in which a device could not fetch its files, another way, which it then keeps to.
    #[serde(default)]
    pub transfer: Transfer,
    /// What becomes of a device's connection when there is nothing left to do.
    #[serde(default)]
    pub session: SessionPolicy,
    /// When devices are asked for their logs.
    #[serde(default)]
    pub logs: Logs,
}

impl DeviceGroupSpec {
    /// What a Deployment keeps too.
    fn default_revision_history_limit() -> u32 {
        10
    }
}

/// The firmware that a group should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredFirmware {
    /// The name of the Firmware.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// Whether devices that run something newer are taken back to it.
    #[serde(default)]
    pub policy: FirmwarePolicy,
}

/// What becomes of devices that run something newer than their group wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum FirmwarePolicy {
    /// They stay as they are.
    #[default]
    UpgradeOnly,
    /// They are taken to exactly the version that the group names.
    Exact,
}

/// The configuration that a group should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredConfig {
    /// The name of the ConfigProfile.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// When a device puts it into force.
    #[serde(default)]
    pub apply: Apply,
}

/// When a device puts a configuration into force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = ("self.mode != 'Scheduled' || has(self.at)", "apply: mode Scheduled needs a time of day, such as at: \"03:00\""),
    validation = ("self.mode == 'Scheduled' || !has(self.at)", "apply.at is a time for mode Scheduled: set mode: Scheduled, or leave at out")
)]
pub struct Apply {
    #[serde(default)]
    pub mode: ApplyMode,
    /// The time of day, in hours and minutes, on the clock of the device's time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"), length(max = 5))]
    pub at: Option<String>,
}

/// When a device puts a configuration into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ApplyMode {
    /// When it has fetched it.
    #[default]
    Immediate,
    /// It is told within the hour before, and does it by its own clock, each device of its own time zone. A time that is
    /// outside all windows, or in a freeze, is left out.
    Scheduled,
}

/// How devices fetch their files, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Transfer {
    /// What suits the device, and what experience says: HTTP where it announces it, then FTP, then TFTP.
    #[default]
    Auto,
    #[serde(rename = "FTP")]
    Ftp,
    #[serde(rename = "TFTP")]
    Tftp,
    /// For devices that announce it. Others are not upgraded, with the reason `HttpNotAnnounced`.
    #[serde(rename = "HTTP")]
    Http,
}

/// How a device fetches its files, as a target says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WireTransfer {
    #[serde(rename = "FTP")]
    Ftp,
    #[serde(rename = "TFTP")]
    Tftp,
    #[serde(rename = "HTTP")]
    Http,
}

/// What becomes of a device's connection when there is nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SessionPolicy {
    /// It stays.
    #[default]
    Keep,
    /// The device is told to disconnect.
    Close,
}

/// When devices are asked for their logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Logs {
    /// After which tries.
    #[serde(default)]
    pub upload: UploadLogs,
    /// Whether a device whose TCP connection is gone is asked over UDP, at the address that it had. Off, because whoever has
    /// that address by then may send something in its stead.
    #[serde(default)]
    pub udp: bool,
}

/// After which tries a device is asked for its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum UploadLogs {
    /// After tries that failed.
    #[default]
    OnFailure,
    Always,
    Never,
}

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroupStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus); `Progressing`, `WindowOpen`, `BudgetHolds`, `LogStoreFull`.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// What the group wants, for people: version and configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub desired: Option<String>,
    /// The newest rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub rollout: Option<String>,
    /// The number of the newest rollout: numbers only count up.
    #[serde(default)]
    pub last_rollout: i64,
    /// In a word: `Complete`, `Progressing`, `Waiting`, `Paused`, `RollingBack`, `RolledBack`, `Stalled`, `Empty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,
    /// In a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// The step that the newest rollout is at, of how many: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub step: Option<String>,
    /// How many devices are in which state.
    #[serde(default)]
    pub counts: Counts,
    /// For the devices that are not current: how many for each reason.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub reasons: BTreeMap<String, i64>,
}
