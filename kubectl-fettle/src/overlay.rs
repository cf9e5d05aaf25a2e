//! Manifests laid over what a cluster holds, as `kubectl apply` would. Pure.

use std::collections::BTreeMap;

use fettle_crds::{Condition, Firmware, FirmwareStatus, ImageStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;
use serde::Serialize;

use crate::manifest::{Document, Manifest};
use crate::objects::Objects;

/// What a manifest comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Change {
    New,
    Changed,
    Unchanged,
    /// It is not applied.
    LeftOut,
}

/// One manifest, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Laid {
    pub object: String,
    pub change: Change,
    /// What is assumed of it, or why it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Lays documents over objects, in their order.
///
/// # Errors
/// One cannot be read, or the API server would not take it.
pub fn lay(
    objects: &mut Objects,
    documents: &[Document],
    namespace: &str,
    now: Timestamp,
) -> Result<Vec<Laid>, String> {
    let mut laid = Vec::new();
    for document in documents {
        let manifest = document.read().map_err(|error| format!("{}: {error}", document.title()))?;
        let elsewhere = !document.namespace().is_empty() && document.namespace() != namespace;
        let (change, note) = match manifest {
            Manifest::Other => continue,
            _ if elsewhere => (Change::LeftOut, Some(format!("it is of namespace {}", document.namespace()))),
            Manifest::Rollout(_) => (Change::LeftOut, Some("rollouts are made by the controller".to_owned())),
            Manifest::Lease(_) => (Change::LeftOut, Some("it says which bridges live".to_owned())),
            manifest => put(objects, manifest, now).map_err(|error| format!("{}: {error}", document.title()))?,
        };
        let object = format!("{} {}", document.kind(), document.name());
        laid.push(Laid { object, change, note });
    }
    Ok(laid)
}

/// The API server gives an object these.
fn made(mut metadata: ObjectMeta, kind: &str) -> ObjectMeta {
    let name = metadata.name.clone().unwrap_or_default();
    metadata.uid = Some(format!("planned-{kind}-{name}"));
    metadata.resource_version = Some("1".to_owned());
    metadata.generation = Some(1);
    metadata
}

/// What is there, with the labels and annotations of a manifest; those that others have set stay.
fn merged(before: &ObjectMeta, manifest: ObjectMeta, spec_differs: bool) -> ObjectMeta {
    let with = |before: &Option<BTreeMap<String, String>>, more: Option<BTreeMap<String, String>>| {
        let mut all = before.clone().unwrap_or_default();
        all.extend(more.unwrap_or_default());
        Some(all)
    };
    ObjectMeta {
        labels: with(&before.labels, manifest.labels),
        annotations: with(&before.annotations, manifest.annotations),
        generation: before.generation.map(|generation| generation + i64::from(spec_differs)),
        ..before.clone()
    }
}

fn put(objects: &mut Objects, manifest: Manifest, now: Timestamp) -> Result<(Change, Option<String>), String> {
    macro_rules! lay {
        ($held:expr, $new:ident, $kind:literal) => {{
            let name = $new.name_any();
            match $held.get_mut(&name) {
                Some(before) => {
                    let metadata = merged(&before.metadata, $new.metadata, before.spec != $new.spec);
                    let differs = before.spec != $new.spec
                        || before.metadata.labels.clone().unwrap_or_default()
                            != metadata.labels.clone().unwrap_or_default();
                    before.metadata = metadata;
                    before.spec = $new.spec;
                    if differs { Change::Changed } else { Change::Unchanged }
                }
                None => {
                    $new.metadata = made($new.metadata, $kind);
                    $new.status = None;
                    $held.insert(name, $new);
                    Change::New
                }
            }
        }};
    }
    let change = match manifest {
        Manifest::Device(mut device) => lay!(objects.devices, device, "device"),
        Manifest::Group(mut group) => lay!(objects.groups, group, "group"),
        Manifest::Profile(mut profile) => lay!(objects.profiles, profile, "profile"),
        Manifest::Firmware(firmware) => return firmware_laid(objects, firmware, now),
        Manifest::ConfigMap(mut map) => {
            let before = objects.config_maps.get(&map.name_any());
            let change = match before {
                Some(before) if before.data == map.data && before.binary_data == map.binary_data => Change::Unchanged,
                Some(_) => Change::Changed,
                None => Change::New,
            };
            map.metadata.resource_version = Some("1".to_owned());
            objects.config_maps.insert(map.name_any(), map);
            change
        }
        Manifest::Secret(mut secret) => {
            let texts = secret.string_data.take().unwrap_or_default();
            let data = secret.data.get_or_insert_default();
            data.extend(texts.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))));
            let change = match objects.secrets.get(&secret.name_any()) {
                Some(before) if before.data == secret.data => Change::Unchanged,
                Some(_) => Change::Changed,
                None => Change::New,
            };
            secret.metadata.resource_version = Some("1".to_owned());
            objects.secrets.insert(secret.name_any(), secret);
            change
        }
        Manifest::Rollout(_) | Manifest::Lease(_) | Manifest::Other => Change::LeftOut,
    };
    Ok((change, None))
}

/// Whether an image can be had, only the bridge finds out. Planned is as if it can.
fn firmware_laid(
    objects: &mut Objects,
    mut firmware: Firmware,
    now: Timestamp,
) -> Result<(Change, Option<String>), String> {
    let name = firmware.name_any();
    match objects.firmwares.get_mut(&name) {
        Some(before) if before.spec != firmware.spec => Err(format!(
            "a Firmware is immutable, and the cluster has another {name}: give this one another name, and name that in the \
             DeviceGroup"
        )),
        Some(before) => {
            before.metadata = merged(&before.metadata, firmware.metadata, false);
            Ok((Change::Unchanged, None))
        }
        None => {
            firmware.metadata = made(firmware.metadata, "firmware");
            let images = firmware.spec.images.iter();
            firmware.status = Some(FirmwareStatus {
                observed_generation: Some(1),
                conditions: vec![Condition {
                    type_: "Ready".to_owned(),
                    status: "True".to_owned(),
                    observed_generation: Some(1),
                    last_transition_time: Time(now),
                    reason: "Planned".to_owned(),
                    message: String::new(),
                }],
                images: images.map(|image| ImageStatus { sha256: image.sha256.clone(), size: 0 }).collect(),
            });
            objects.firmwares.insert(name, firmware);
            Ok((Change::New, Some("its images are taken as fetched and verified".to_owned())))
        }
    }
}
