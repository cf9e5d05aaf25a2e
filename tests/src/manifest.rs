//! Manifests: reading several from one text, applying them, and the CRDs of the chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::Value;

/// Who applies, in `managedFields`.
const FIELD_MANAGER: &str = "fettle-tests";

/// The API server serves a new CRD within a second; longer than this, it is stuck.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// Every kind that is applied here, by its plural: no discovery, which would cost more requests than the objects.
const PLURALS: &[(&str, &str)] = &[
    ("ClusterRole", "clusterroles"),
    ("ClusterRoleBinding", "clusterrolebindings"),
    ("ConfigMap", "configmaps"),
    ("ConfigProfile", "configprofiles"),
    ("CustomResourceDefinition", "customresourcedefinitions"),
    ("Deployment", "deployments"),
    ("Device", "devices"),
    ("DeviceGroup", "devicegroups"),
    ("DeviceRollout", "devicerollouts"),
    ("Firmware", "firmwares"),
    ("Lease", "leases"),
    ("Namespace", "namespaces"),
    ("NetworkPolicy", "networkpolicies"),
    ("PodDisruptionBudget", "poddisruptionbudgets"),
    ("Role", "roles"),
    ("RoleBinding", "rolebindings"),
    ("Secret", "secrets"),
    ("Service", "services"),
    ("ServiceAccount", "serviceaccounts"),
    ("StatefulSet", "statefulsets"),
];

/// Kinds without a namespace.
const CLUSTER_WIDE: &[&str] = &["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"];

/// The repository's folder `charts/fettle`.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/fettle")
}

/// The documents of a YAML text, without empty ones.
pub fn parse(yaml: &str) -> Result<Vec<Value>> {
    let mut manifests = Vec::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document).context("not YAML")?;
        if !value.is_null() {
            manifests.push(value);
        }
    }
    Ok(manifests)
}

/// Applies one manifest, server-side; one without a namespace of its own goes to `namespace`.
pub async fn apply(client: &Client, namespace: &str, manifest: &Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(manifest.clone()).context("not a Kubernetes object")?;
    let types = object.types.clone().context("a manifest without apiVersion and kind")?;
    let Some((_, plural)) = PLURALS.iter().find(|(kind, _)| *kind == types.kind) else {
        bail!("{} is not a kind that the harness applies: see PLURALS", types.kind);
    };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::try_from(&types)?, plural);
    let api: Api<DynamicObject> = if CLUSTER_WIDE.contains(&types.kind.as_str()) {
        Api::all_with(client.clone(), &resource)
    } else {
        let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let name = object.name_any();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(manifest)).await;
    applied.with_context(|| format!("cannot apply {} {name}", types.kind))
}

/// Applies the chart's CRDs and waits until they are served.
pub(crate) async fn install_crds(client: &Client) -> Result<()> {
    let folder = chart().join("files/crds");
    let files = fs::read_dir(&folder).with_context(|| format!("no CRDs in {}", folder.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for manifest in parse(&fs::read_to_string(&path)?)? {
            names.push(apply(client, "", &manifest).await?.name_any());
        }
    }
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for name in names {
        let established = await_condition(crds.clone(), &name, conditions::is_crd_established());
        let waited = tokio::time::timeout(ESTABLISHED_WITHIN, established).await;
        waited.with_context(|| format!("the CRD {name} is not served"))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_are_read_from_one_text_and_empty_ones_skipped() {
        let manifests = parse("---\nkind: A\n---\n# nothing\n---\nkind: B\n").unwrap();
        assert_eq!(manifests.iter().map(|m| m["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["A", "B"]);
    }
}
