//! `Firmware`: one release, with an image for each family of models.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Crc, Signature, Source, schema};

/// One release: a version, and an image for each family of models. Immutable once created.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "Firmware",
    plural = "firmwares",
    shortname = "fw",
    category = "fettle",
    namespaced,
    status = "FirmwareStatus",
    derive = "PartialEq",
    doc = "One release of firmware: a version, and an image for each family of models.",
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Models", type_ = "string", json_path = ".spec.images[*].models[*]"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = ("self == oldSelf", "a Firmware is immutable: create one with another name, and name that in the DeviceGroup"),
    validation = ("self.images.all(i, i.models.all(m, self.images.exists_one(j, m in j.models)))", "images: a model must stand in one image only")
)]
#[serde(rename_all = "camelCase")]
pub struct FirmwareSpec {
    /// The version of the release. Compared exactly with what devices report, unless the image says `reports`.
    #[schemars(length(min = 1, max = 128))]
    pub version: String,
    /// An image for each family of models.
    #[schemars(length(min = 1, max = 16))]
    pub images: Vec<Image>,
}

/// The image of a release for some models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The models it is for, as devices report their type.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 64)))]
    pub models: Vec<String>,
    /// Where the image comes from.
    pub source: Source,
    /// The SHA-256 of the image, in lower-case hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"), length(max = 64))]
    pub sha256: String,
    /// Who vouches for the image. The bridge may have been told to take none without (`--signatures`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// The versions that a device may run to get this image. One that runs another goes over a release that it may
    /// get. Any, where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::requirement")]
    pub upgradable_from: Option<String>,
    /// What a device on this release reports as its version, where that is not `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = schema::TEXT_MAX))]
    pub reports: Option<String>,
    /// The kind of CRC-32 that devices of these models check their files with, images and configurations.
    #[serde(default, skip_serializing_if = "Crc::is_default")]
    pub crc: Crc,
}

/// What the bridge knows of a release.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FirmwareStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: every image is fetched and verified.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Each image that was fetched and verified.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub images: Vec<ImageStatus>,
}

/// An image that was fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Its SHA-256.
    #[schemars(length(max = 64))]
    pub sha256: String,
    /// Its size in bytes.
    pub size: i64,
}
