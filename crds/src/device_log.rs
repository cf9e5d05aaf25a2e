//! The logs of a device, as its status tells of them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// The id of the target that the device was asked for it after.
    pub target: i64,
}
