//! The logs of a device, as its status tells of them, and how a person asks for one.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The annotation of a Device by which a person asks for its log. What it says, of at most [`LOG_AT_MAX`] bytes, is theirs:
/// a new value is a new wish.
pub const LOG_AT: &str = "fettle.dev/log-at";
/// What is longer is not acted on.
pub const LOG_AT_MAX: usize = 64;

/// The newest log that a device brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LastLog {
    /// Where it is: `file://BRIDGE/PATH` is a file in the data folder of that bridge.
    #[schemars(length(max = 1024))]
    pub location: String,
    /// When it had arrived.
    pub at: Timestamp,
    /// Its bytes.
    pub size: i64,
    /// The id of the newest target when the device was asked for it: the log speaks of that try. 0: there was none.
    pub target: i64,
}

/// A log for which its bridge had no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LogRefused {
    /// The id of the newest target when the device was asked for it. 0: there was none.
    pub target: i64,
    /// Whose room it was, and what is full.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What became of a person's wish for a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LogRequest {
    /// The value of the annotation `fettle.dev/log-at` that was acted on.
    #[schemars(length(max = 64))]
    pub value: String,
    /// How that came out.
    pub result: LogResult,
    /// When.
    pub at: Timestamp,
    /// Why there is no log, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Whether there is a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LogResult {
    /// It has arrived: `lastLog` says where it is.
    Stored,
    Failed,
}
