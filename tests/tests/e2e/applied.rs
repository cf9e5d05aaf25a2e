//! What people keep in Git, applied by the real kubectl: the examples, plain and by kustomize, client-side and server-side; and
//! applied once more, which changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fettle_tests::dev::demo::make_images;
use fettle_tests::{ControlPlane, manifest};
use serde_json::Value;

use crate::world::{PATIENCE, World};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// What is to be applied, as kubectl is told: the plain files of the folder, and what kustomize makes of another.
fn trees() -> [[String; 2]; 2] {
    let path = |path: PathBuf| path.display().to_string();
    [["-f".to_owned(), path(examples())], ["-k".to_owned(), path(examples().join("kustomize"))]]
}

impl World {
    /// Applies all that the examples have, and returns what kubectl says, a line for each object.
    async fn apply_examples(&self, how: &[&str]) -> Result<Vec<String>> {
        let mut said = Vec::new();
        for [flag, path] in trees() {
            let args = [&["apply"], how, &[&*flag, &*path]].concat();
            said.extend(self.namespace.kubectl(&args).await?.lines().map(str::to_owned));
        }
        Ok(said)
    }

    /// All objects of Fettle, and the ConfigMaps that kustomize made.
    async fn objects(&self) -> Result<Vec<Value>> {
        let all = ["get", "fettle,configmaps", "-o", "json", "--show-managed-fields"];
        let mut list: Value = serde_json::from_str(&self.namespace.kubectl(&all).await?)?;
        let items = list["items"].take();
        let ours = |object: &Value| object["metadata"]["name"] != "kube-root-ca.crt";
        Ok(items.as_array().context("a list")?.iter().filter(|object| ours(object)).cloned().collect())
    }

    /// Waits until all that is declared was looked at, and the groups are paused, as is said in their rollouts: nothing moves.
    async fn paused_by_a_person(&self) -> Result<()> {
        let groups = ["access-switches", "gateways", "office-berlin", "office-hamburg"];
        for group in groups {
            let rollout = format!("{group}-1");
            let made = async || self.live("drol", &rollout).await.ok().map(|_| ());
            self.namespace.eventually(&format!("there is a rollout {rollout}"), PATIENCE, made).await?;
            let pause = "{\"spec\": {\"paused\": true}}";
            self.namespace.kubectl(&["patch", "drol", &rollout, "--type=merge", "-p", pause]).await?;
        }
        let retry = "fettle.dev/retry-at=2026-01-01T00:00:00Z";
        self.namespace.kubectl(&["annotate", "device", "--all", retry]).await?;
        let rests = async || {
            let objects = self.objects().await.ok()?;
            let rests = |object: &Value| match object["kind"].as_str() {
                Some("ConfigMap") => true,
                Some("DeviceGroup" | "DeviceRollout") if object["status"]["phase"] != "Paused" => false,
                _ => object["status"]["observedGeneration"] == object["metadata"]["generation"],
            };
            objects.iter().all(rests).then_some(())
        };
        self.namespace.eventually("all was looked at, and every rollout is paused", PATIENCE, rests).await
    }
}

/// What only who applies can change, and, where nobody wrote a status meanwhile, the version of the whole object.
fn applied(before: &Value, after: &Value) -> [Value; 2] {
    let of = |object: &Value, is_told: bool| {
        let mut metadata = object["metadata"].clone();
        if is_told && let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("resourceVersion");
        }
        if let Some(managers) = metadata["managedFields"].as_array_mut() {
            managers.retain(|manager| manager["subresource"] != "status");
        }
        serde_json::json!({"kind": object["kind"], "metadata": metadata, "spec": object["spec"], "data": object["data"]})
    };
    let is_told = before["status"] != after["status"];
    [of(before, is_told), of(after, is_told)]
}

async fn applying_the_examples_twice_changes_nothing(name: &str, how: &[&str], says: &str) -> Result<()> {
    let world = World::start(name).await?;
    let firmware = std::fs::read_to_string(examples().join("firmware.yaml"))?;
    make_images(&manifest::parse(&firmware)?, world.fettle.files_dir()).await?;
    world.apply_examples(how).await?;
    world.paused_by_a_person().await?;

    let before = world.objects().await?;
    let said = world.apply_examples(how).await?;
    let after = world.objects().await?;
    let other: Vec<&String> = said.iter().filter(|line| !line.ends_with(says)).collect();
    assert!(other.is_empty() && said.len() > 30, "{said:#?}");
    let name = |object: &Value| format!("{}/{}", object["kind"], object["metadata"]["name"]);
    assert_eq!(before.iter().map(name).collect::<Vec<_>>(), after.iter().map(name).collect::<Vec<_>>());
    for (before, after) in before.iter().zip(&after) {
        let [before, after] = applied(before, after);
        ensure!(before == after, "applying it again changed {before:#}\nto {after:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_examples_twice_by_the_client_changes_nothing() -> Result<()> {
    applying_the_examples_twice_changes_nothing("twice-client", &[], "unchanged").await
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_the_examples_twice_by_the_server_changes_nothing() -> Result<()> {
    applying_the_examples_twice_changes_nothing("twice-server", &["--server-side"], "serverside-applied").await
}

#[tokio::test]
async fn what_kustomize_renames_is_found_under_its_new_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let copied =
        Command::new("cp").arg("-R").arg(examples().join("kustomize")).arg(folder.path().join("fleet")).status()?;
    ensure!(copied.success(), "the examples were not copied");
    std::fs::create_dir(folder.path().join("lab"))?;
    std::fs::write(folder.path().join("lab/kustomization.yaml"), "namePrefix: lab-\nresources: [../fleet]\n")?;
    let lab = folder.path().join("lab").display().to_string();
    let built = manifest::parse(&ControlPlane::shared().await?.kubectl(&["kustomize", &lab]).await?)?;
    let named = |kind: &str, name: &str| built.iter().any(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    let of_kind = |kind: &'static str| built.iter().filter(move |manifest| manifest["kind"] == kind);
    assert_eq!(of_kind("DeviceGroup").count(), 2);
    for group in of_kind("DeviceGroup") {
        let name = |key: &str| group["spec"][key]["name"].as_str().unwrap_or_default().to_owned();
        assert!(named("Firmware", &name("firmware")) && named("ConfigProfile", &name("config")), "{group:#}");
    }
    for profile in of_kind("ConfigProfile") {
        let name = profile["spec"]["configMap"]["name"].as_str().context("a ConfigMap")?;
        assert!(name.starts_with("lab-") && named("ConfigMap", name), "{profile:#}");
    }
    Ok(())
}

/// The paths of a schema, as kustomize writes them, at which an object names another.
fn references(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        // a list of a kind is written as the kind itself is
        let inner = if property["items"].is_object() { &property["items"] } else { property };
        let names_another =
            name.ends_with("Secret") || ["configMap", "secret", "firmware", "config"].contains(&&**name);
        if names_another && inner["properties"]["name"].is_object() {
            found.insert(format!("{path}/name"));
        }
        references(inner, &path, found);
    }
}

#[test]
fn kustomize_knows_each_place_where_an_object_names_another() -> Result<()> {
    let text = std::fs::read_to_string(examples().join("kustomize/releases/references.yaml"))?;
    let known: Value = serde_yaml::from_str(&text)?;
    let fields = known["nameReference"].as_array().context("a list")?.iter();
    let known: BTreeSet<String> = fields
        .flat_map(|reference| reference["fieldSpecs"].as_array().cloned().unwrap_or_default())
        .map(|field| {
            let text = |key: &str| field[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("kind"), text("path"))
        })
        .collect();
    let mut wanted = BTreeSet::new();
    for file in ["configprofiles", "devicegroups", "firmwares"] {
        let path = manifest::chart().join(format!("files/crds/{file}.yaml"));
        let crd: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let kind = crd["spec"]["names"]["kind"].as_str().context("a kind")?;
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut found = BTreeSet::new();
        references(schema, "spec", &mut found);
        wanted.extend(found.iter().map(|path| format!("{kind} {path}")));
    }
    assert!(wanted.len() > 8, "{wanted:#?}");
    assert_eq!(known, wanted);
    Ok(())
}
