//! `ConfigProfile`: one configuration version for some models, as a text or as a template.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Crc, schema};

/// One configuration version: a version, and the text of it, or a template that is rendered for each device.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "ConfigProfile",
    shortname = "cp",
    category = "fettle",
    namespaced,
    status = "ConfigProfileStatus",
    derive = "PartialEq",
    doc = "One configuration version for some models: its text, or a template of it, inline or from a ConfigMap or Secret.",
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"),
    printcolumn(name = "Identity", type_ = "string", json_path = ".status.config"),
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
    validation = ("[has(self.text), has(self.template), has(self.configMap), has(self.secret)].filter(x, x).size() == 1", "give exactly one of text, template, configMap and secret")
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigProfileSpec {
    /// The version of the configuration: the first half of its identity.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    pub version: String,
    /// The models it is for, as devices report their type. All, where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub models: Vec<String>,
    /// The kind of CRC-32 that its devices check it with. Without this, that of the image in the same group; IEEE where
    /// there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<Crc>,
    /// The configuration itself, as each device gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub text: Option<String>,
    /// A template of the configuration, rendered for each device from its name, labels, annotations and model:
    /// `hostname {{ device.name }}`, `vlan {{ device.labels['vlan'] }}`. What is not defined is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub template: Option<String>,
    /// The configuration, or a template of it, is this key of this ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigRef>,
    /// The configuration, or a template of it, is this key of this Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ConfigRef>,
}

/// A key of a ConfigMap or Secret in the same namespace, and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigRef {
    /// The name of the object.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// The key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// It is a template, to be rendered for each device.
    #[serde(default)]
    pub template: bool,
}

/// What the controller knows of a configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigProfileStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the text was read, or the template, and that can be rendered; else `Stalled` (kstatus).
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Its identity as it was read: `version+hash8`. Of a template; what is rendered of it has another for each device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub config: Option<String>,
}
