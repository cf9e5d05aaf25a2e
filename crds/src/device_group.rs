//! `DeviceGroup`: what a group of devices should run, and how they get there.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device_rollout::Counts;
use crate::{Condition, Duration, IntOrPercent, LabelSelector, schema};

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
    printcolumn(name = "Offline", type_ = "integer", json_path = ".status.counts.offline", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = ("has(self.firmware) || has(self.config)", "give firmware or config or both: the group says nothing that its devices should run"))]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroupSpec {
    /// Which devices, by their labels. An empty selector selects nothing.
    pub selector: LabelSelector,
    /// The firmware that they should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Reference>,
    /// The configuration that they should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Reference>,
    /// How they get there.
    #[serde(default)]
    pub rollout: Strategy,
    /// How devices fetch their files. `Auto` is FTP.
    #[serde(default)]
    pub transfer: Transfer,
    /// What becomes of a device's connection when there is nothing left to do.
    #[serde(default)]
    pub session: SessionPolicy,
    /// When devices are asked for their logs.
    #[serde(default)]
    pub logs: Logs,
}

/// An object in the same namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// Its name.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
}

/// How a group gets from one revision to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// How many devices of the group may be away at once: a number, or a percentage of the group, rounded down, at
    /// least 1.
    #[serde(default = "Strategy::default_max_unavailable")]
    pub max_unavailable: IntOrPercent,
    /// How long one try may take, from its grant until the device reports what it was to run.
    #[serde(default = "Strategy::default_device_timeout")]
    #[schemars(schema_with = "schema::duration_from_1s")]
    pub device_timeout: Duration,
    /// How many further tries a device gets after the first.
    #[serde(default = "Strategy::default_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub retries: u32,
    /// How long a device must have reported what it was to run before it counts as current.
    #[serde(default = "Strategy::default_min_ready")]
    #[schemars(schema_with = "schema::duration_from_0s")]
    pub min_ready: Duration,
}

impl Strategy {
    fn default_max_unavailable() -> IntOrPercent {
        IntOrPercent::Int(1)
    }

    fn default_device_timeout() -> Duration {
        Duration::from_secs(15 * 60)
    }

    fn default_retries() -> u32 {
        2
    }

    fn default_min_ready() -> Duration {
        Duration::from_secs(0)
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            max_unavailable: Self::default_max_unavailable(),
            device_timeout: Self::default_device_timeout(),
            retries: Self::default_retries(),
            min_ready: Self::default_min_ready(),
        }
    }
}

/// How devices fetch their files, as people say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Transfer {
    /// What suits the device: FTP.
    #[default]
    Auto,
    #[serde(rename = "FTP")]
    Ftp,
    #[serde(rename = "TFTP")]
    Tftp,
}

/// How a device fetches its files, as a target says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WireTransfer {
    #[serde(rename = "FTP")]
    Ftp,
    #[serde(rename = "TFTP")]
    Tftp,
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
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), and `Progressing`.
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
    /// In a word: `Complete`, `Progressing`, `Waiting`, `Stalled`, `Empty`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub phase: Option<String>,
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
}
