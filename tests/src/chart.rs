//! The chart as Helm renders it, and what of it a control plane without nodes can use.
//!
//! Identities, roles and secrets are applied as they are. Workloads are not: nothing here runs pods. Their containers are
//! read instead, and started as local processes with the same arguments and environment, so that what the chart says
//! is said nowhere else, and a role that lacks a permission fails a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Secret, Volume};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::process::Command;

use crate::manifest;
use crate::tools::{self, Tool};

/// The release's name in tests; in `make up`, too.
const RELEASE: &str = "fettle";

/// How many bridges an installation may have.
pub const BRIDGES: usize = 3;

/// The manifests of one rendering. Rendered again, the credential key would be another.
#[derive(Clone, Debug)]
pub struct Rendered {
    manifests: Vec<Value>,
}

/// A pod that a workload of the chart would have.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub service_account: String,
    /// The program's name, by which it is found beside the tests.
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Rendered {
    /// Runs `helm template` with the chart's own values.
    pub async fn new(namespace: &str) -> Result<Self> {
        let helm = tokio::task::spawn_blocking(|| tools::find(Tool::Helm)).await??;
        let output = Command::new(helm)
            .args(["template", RELEASE, "--namespace", namespace])
            // what belongs to the whole cluster the harness applies once, for all installations
            .args(["--set", "clusterScoped=false"])
            // roles name the replicas: as many as an installation here may have
            .args(["--set", &format!("bridge.replicas={BRIDGES}")])
            .arg(manifest::chart())
            .output()
            .await
            .context("cannot start helm")?;
        ensure!(output.status.success(), "helm template: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Rendered { manifests: manifest::parse(&String::from_utf8_lossy(&output.stdout))? })
    }

    /// Applies all but the workloads.
    pub async fn apply_without_workloads(&self, client: &Client, namespace: &str) -> Result<()> {
        for manifest in &self.manifests {
            if !matches!(kind(manifest), "Deployment" | "StatefulSet") {
                manifest::apply(client, namespace, manifest).await?;
            }
        }
        Ok(())
    }

    /// The pod of the controller's Deployment. A real one would have a random name; one is enough here.
    pub fn controller(&self, folder: &Path) -> Result<Pod> {
        let deployment: Deployment = self.only("Deployment")?;
        let name = format!("{}-0", deployment.name_any());
        let template = deployment.spec.context("a Deployment without spec")?.template;
        self.pod(name, &template, folder)
    }

    /// A pod of the bridge's StatefulSet.
    pub fn bridge(&self, ordinal: usize, folder: &Path) -> Result<Pod> {
        let set: StatefulSet = self.only("StatefulSet")?;
        let name = format!("{}-{ordinal}", set.name_any());
        let mut spec = set.spec.context("a StatefulSet without spec")?;
        // a claim is to the container what any volume is: a folder of its own
        let claims = spec.volume_claim_templates.take().unwrap_or_default();
        let volumes = claims.iter().map(|claim| Volume { name: claim.name_any(), ..Volume::default() });
        let pod = spec.template.spec.as_mut().context("a StatefulSet without pod")?;
        pod.volumes.get_or_insert_default().extend(volumes);
        self.pod(name, &spec.template, folder)
    }

    /// The pods of its workloads, as they are rendered.
    pub fn pod_specs(&self) -> Result<Vec<PodSpec>> {
        let deployment: Deployment = self.only("Deployment")?;
        let set: StatefulSet = self.only("StatefulSet")?;
        let templates = [deployment.spec.map(|spec| spec.template), set.spec.map(|spec| spec.template)];
        templates
            .into_iter()
            .map(|template| template.and_then(|it| it.spec).context("a workload without pod"))
            .collect()
    }

    /// What a kubelet would make of a pod, with `folder` for its volumes.
    fn pod(&self, name: String, template: &PodTemplateSpec, folder: &Path) -> Result<Pod> {
        let spec = template.spec.as_ref().context("a workload without pod")?;
        let [container] = spec.containers.as_slice() else { bail!("the harness starts pods of one container") };
        let mounts = self.mounts(container, spec.volumes.as_deref().unwrap_or_default(), folder)?;
        let mut env = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            let field = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
            let value = match (&variable.value, field.map(|field| field.field_path.as_str())) {
                (Some(value), _) => local_path(&value.replace("$(FETTLE_NAME)", &name), &mounts),
                (None, Some("metadata.name")) => name.clone(),
                (None, Some("status.podIP")) => "127.0.0.1".to_owned(),
                (None, other) => bail!("{}: the harness knows no source {other:?}", variable.name),
            };
            env.insert(variable.name.clone(), value);
        }
        let command = container.command.as_deref().unwrap_or_default();
        let [program, args @ ..] = command else { bail!("{name}: the container has no command") };
        let args = args.iter().chain(container.args.iter().flatten());
        Ok(Pod {
            service_account: spec.service_account_name.clone().context("a pod without service account")?,
            program: program.clone(),
            args: args.map(|arg| local_path(arg, &mounts)).collect(),
            env,
            name,
        })
    }

    /// Makes a folder for each volume; gives where each path of the container lies, the longest paths first.
    fn mounts(&self, container: &Container, volumes: &[Volume], folder: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let path = folder.join(&mount.name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            if let Some(source) = volume.and_then(|volume| volume.secret.as_ref()) {
                self.write_secret(source.secret_name.as_deref().unwrap_or_default(), &path)?;
            }
            mounts.push((mount.mount_path.clone(), path));
        }
        mounts.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Ok(mounts)
    }

    fn write_secret(&self, name: &str, folder: &Path) -> Result<()> {
        let secrets = self.manifests.iter().filter(|manifest| kind(manifest) == "Secret");
        for secret in secrets {
            let secret: Secret = serde_json::from_value(secret.clone())?;
            if secret.name_any() == name {
                for (key, value) in secret.data.into_iter().flatten() {
                    fs::write(folder.join(key), value.0)?;
                }
                for (key, value) in secret.string_data.into_iter().flatten() {
                    fs::write(folder.join(key), value)?;
                }
                return Ok(());
            }
        }
        bail!("the chart mounts the Secret {name} and does not render it")
    }

    /// The one manifest of a kind.
    fn only<K: DeserializeOwned>(&self, wanted: &str) -> Result<K> {
        let mut found = self.manifests.iter().filter(|manifest| kind(manifest) == wanted);
        match (found.next(), found.next()) {
            (Some(manifest), None) => Ok(serde_json::from_value(manifest.clone())?),
            _ => bail!("the chart does not have exactly one {wanted}"),
        }
    }
}

fn kind(manifest: &Value) -> &str {
    manifest["kind"].as_str().unwrap_or_default()
}

/// `value`, where it is a path in the container, as the path outside.
fn local_path(value: &str, mounts: &[(String, PathBuf)]) -> String {
    for (inside, outside) in mounts {
        if let Some(rest) = value.strip_prefix(inside.as_str())
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return format!("{}{rest}", outside.display());
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_container_becomes_one_of_ours_and_all_else_stays() {
        let mounts =
            [("/data/files".to_owned(), PathBuf::from("/x/files")), ("/data".to_owned(), PathBuf::from("/x/d"))];
        assert_eq!(local_path("/data/files/a", &mounts), "/x/files/a");
        assert_eq!(local_path("/data", &mounts), "/x/d");
        assert_eq!(local_path("/database", &mounts), "/database");
        assert_eq!(local_path("info", &mounts), "info");
    }
}
