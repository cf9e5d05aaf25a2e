//! The connection of a device, in `Device.status`: which bridge holds it, who else asks for it, and what was lost.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A connection. It counts only while the Lease of its bridge holds and names the same incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Session {
    /// The bridge that holds it; also the name of that bridge's Lease.
    #[schemars(length(max = 253))]
    pub bridge: String,
    /// One run of that bridge.
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// The device's address.
    #[schemars(length(max = 64))]
    pub address: String,
    /// When the device called.
    pub since: Timestamp,
    /// The device was done and was told to disconnect: it is away by our own word.
    #[serde(default)]
    pub dismissed: bool,
    /// Another bridge where the same MAC called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contender: Option<Contender>,
}

/// A bridge that a MAC called while another held it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Contender {
    /// The bridge.
    #[schemars(length(max = 253))]
    pub bridge: String,
    /// Its run.
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// The newcomer's address.
    #[schemars(length(max = 64))]
    pub address: String,
    /// When it called.
    pub since: Timestamp,
}

/// Connections that a device has lost by itself: not told to close, not in its restart, and not with its bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Drops {
    /// The id of the target since whose end they are counted.
    pub target: i64,
    /// How many.
    pub count: i64,
}
