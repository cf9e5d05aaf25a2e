//! How a group gets from one revision to the next: steps, limits, windows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, IntOrPercent, LabelSelector, schema};

/// How a group gets from one revision to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// The stages of a rollout, one after the other. After the last come all devices that are left. Fixed when a rollout
    /// begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<Step>,
    /// How many devices of the group may be away at once: a number, or a percentage of the group, rounded down, at
    /// least 1.
    #[serde(default = "Strategy::default_max_unavailable")]
    pub max_unavailable: IntOrPercent,
    /// How many devices with the same value of a label may be away at once, of whatever group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::spreads")]
    pub spread: Vec<Spread>,
    /// How many devices may fail: a number, or a percentage of the step's size, rounded down. More than that, or all
    /// devices of a step: `onFailure`.
    #[serde(default = "Strategy::default_failure_budget")]
    #[schemars(schema_with = "schema::int_or_percent_from_0")]
    pub failure_budget: IntOrPercent,
    /// What is done when more devices failed than may.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long one try may take, from its grant until the device reports what it was to run.
    #[serde(default = "Strategy::default_device_timeout")]
    #[schemars(schema_with = "schema::duration_from_1s")]
    pub device_timeout: Duration,
    /// How many further tries a device gets after the first, each after a longer pause.
    #[serde(default = "Strategy::default_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub retries: u32,
    /// How long a device must have reported what it was to run before it counts as current.
    #[serde(default = "Strategy::default_min_ready")]
    #[schemars(schema_with = "schema::duration_from_0s")]
    pub min_ready: Duration,
    /// Whether devices fetch a firmware before the window in which they are to restart. Without windows it is the same.
    #[serde(default)]
    pub download: DownloadTime,
}

impl Strategy {
    fn default_max_unavailable() -> IntOrPercent {
        IntOrPercent::Int(1)
    }

    fn default_failure_budget() -> IntOrPercent {
        IntOrPercent::Int(0)
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
            steps: Vec::new(),
            max_unavailable: Self::default_max_unavailable(),
            spread: Vec::new(),
            failure_budget: Self::default_failure_budget(),
            on_failure: OnFailure::default(),
            device_timeout: Self::default_device_timeout(),
            retries: Self::default_retries(),
            min_ready: Self::default_min_ready(),
            download: DownloadTime::default(),
        }
    }
}

/// A stage of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// The devices of the group that it is about, and that its size is of. All, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// How many of them the rollout has taken on when the step is done, those of former steps included: a number, or a
    /// percentage, rounded up.
    pub devices: IntOrPercent,
    /// How long the rollout rests when they are done, before the next step; after the last, before it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_from_0s")]
    pub soak: Option<Duration>,
    /// Whether a person has to let the rollout go past the step.
    #[serde(default)]
    pub approval: Approval,
}

/// Whether a person has to let a rollout go past a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    #[default]
    None,
    /// By `approvedStep` in the spec of the DeviceRollout.
    Required,
}

/// A limit on the devices that share the value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label. A device without it shares it with nobody.
    #[schemars(length(min = 1, max = 317))]
    pub label: String,
    /// How many of them may be away at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_unavailable: u32,
}

/// What is done when more devices failed than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// Nobody else begins.
    #[default]
    Pause,
    /// The devices that the rollout has touched go back to what they ran before.
    Rollback,
}

/// When devices fetch a firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DownloadTime {
    /// When they are to restart into it.
    #[default]
    InWindow,
    /// Before the window opens. They wait with it, in service, and restart inside the window.
    Ahead,
}

/// A time at which devices may begin, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens: five fields of cron (minute, hour, day of the month, month, day of the week).
    #[schemars(regex(pattern = "^[0-9A-Za-z*,/#?-]+( [0-9A-Za-z*,/#?-]+){4}$"), length(max = 128))]
    pub schedule: String,
    /// How long it stays open.
    #[schemars(schema_with = "schema::duration_from_1s")]
    pub duration: Duration,
    /// The IANA time zone of the schedule. That of the group, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time_zone")]
    pub time_zone: Option<String>,
}

/// A time at which no device may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("(self.from.size() == 10 ? timestamp(self.from + 'T00:00:00Z') : timestamp(self.from)) <= (self.to.size() == 10 ? timestamp(self.to + 'T23:59:59Z') : timestamp(self.to))", "freezes: to must not be before from"))]
pub struct Freeze {
    /// Its beginning: a date (the beginning of that day), or an instant as RFC 3339 has it.
    #[schemars(schema_with = "schema::date_or_instant")]
    pub from: String,
    /// Its end: a date (the end of that day), or an instant.
    #[schemars(schema_with = "schema::date_or_instant")]
    pub to: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}
