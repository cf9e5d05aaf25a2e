//! How far a device has come, in `Device.status`: the bridge writes it, of devices that say so.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a device says that it has come with a download, or with putting a configuration into force. Nothing follows
/// from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Progress {
    /// The id of the target.
    pub target: i64,
    /// How much of it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u8>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub text: Option<String>,
    /// When this was written.
    pub at: Timestamp,
}
