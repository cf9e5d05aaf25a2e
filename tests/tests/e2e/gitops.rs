//! What tools for GitOps make of live objects, phase by phase: kstatus by its published rules (Flux, `helm --wait`,
//! `kubectl wait`), and Argo CD by the Lua in `gitops/argocd`, run by a real Lua.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use fettle_crds::Device;
use fettle_device::{Fault, FaultKind, Step};
use fettle_tests::{ControlPlane, manifest};
use futures::StreamExt as _;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use mlua::{Lua, LuaSerdeExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::world::{NEW, PATIENCE, World, device_does, strict};

/// What kstatus makes of an object.
///
/// The rules for kinds that it does not know, from `sigs.k8s.io/cli-utils/pkg/kstatus`: a generation that was not observed is
/// in progress; then `Reconciling` and `Stalled` count where they are true; then `Ready`, where it is there.
fn kstatus(object: &Value) -> &'static str {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating";
    }
    let (status, generation) = (&object["status"], object["metadata"]["generation"].as_i64());
    if status["observedGeneration"].as_i64().is_some_and(|observed| Some(observed) != generation) {
        return "InProgress";
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |type_: &str| conditions.iter().find(|is| is["type"] == type_).and_then(|is| is["status"].as_str());
    match (is("Reconciling"), is("Stalled"), is("Ready")) {
        (Some("True"), ..) => "InProgress",
        (_, Some("True"), _) => "Failed",
        (.., Some("False" | "Unknown")) => "InProgress",
        (..) => "Current",
    }
}

/// What was judged live: the namespace, and kind and phase. Of kinds without phases, what their `Ready` says instead.
static VISITED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// The phases that the API says a kind has.
fn phases(kind: &str, file: &str) -> Result<BTreeSet<String>> {
    let path = manifest::chart().join("files/crds").join(file);
    let crd: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    let described = schema["phase"]["description"].as_str().context("a phase")?;
    // each stands in backticks
    Ok(described.split('`').skip(1).step_by(2).map(|phase| format!("{kind} {phase}")).collect())
}

fn argocd(file: &str) -> PathBuf {
    manifest::chart().join("../../gitops/argocd/fettle.dev").join(file)
}

/// Runs a script of Argo CD's on an object, and returns what it says.
fn lua(file: &str, object: &Value) -> Result<Value> {
    let script = std::fs::read_to_string(argocd(file)).with_context(|| file.to_owned())?;
    let lua = Lua::new();
    lua.globals().set("obj", lua.to_value(object)?)?;
    let said: mlua::Value = lua.load(script).set_name(file).eval()?;
    Ok(lua.from_value(said)?)
}

/// What Argo CD makes of an object.
fn health(object: &Value) -> Result<String> {
    let kind = object["kind"].as_str().context("a kind")?;
    let health = lua(&format!("{kind}/health.lua"), object)?;
    ensure!(health["message"].is_string(), "{kind}: {health}");
    Ok(health["status"].as_str().context("a status")?.to_owned())
}

#[test]
fn the_patch_for_argo_cd_has_the_scripts_that_are_tested() -> Result<()> {
    let patch: Value = serde_yaml::from_str(&std::fs::read_to_string(argocd("../argocd-cm.yaml"))?)?;
    let script = |file: &str| std::fs::read_to_string(argocd(file)).with_context(|| file.to_owned());
    for kind in ["ConfigProfile", "Device", "DeviceGroup", "DeviceRollout", "Firmware"] {
        let health = &patch["data"][format!("resource.customizations.health.fettle.dev_{kind}")];
        assert_eq!(health.as_str(), Some(&*script(&format!("{kind}/health.lua"))?), "{kind}");
    }
    let actions = patch["data"]["resource.customizations.actions.fettle.dev_DeviceRollout"].as_str();
    let actions: Value = serde_yaml::from_str(actions.context("actions")?)?;
    let folder = "DeviceRollout/actions";
    assert_eq!(actions["discovery.lua"].as_str(), Some(&*script(&format!("{folder}/discovery.lua"))?));
    let definitions = actions["definitions"].as_array().context("definitions")?;
    assert_eq!(definitions.len() + 1, std::fs::read_dir(argocd(folder))?.count(), "one for each script");
    for definition in definitions {
        let name = definition["name"].as_str().context("a name")?;
        assert_eq!(definition["action.lua"].as_str(), Some(&*script(&format!("{folder}/{name}.lua"))?), "{name}");
    }
    Ok(())
}

impl World {
    pub async fn live(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.namespace.kubectl(&["get", kind, name, "-o", "json"]).await?;
        Ok(serde_json::from_str(&object)?)
    }

    /// Waits until an object is in a phase, or has a reason for being Ready or not, and both judges take it for that. The
    /// first thing that is said of any object is that it is not ready, so that nobody who waits is early.
    pub async fn judged(&self, object: &str, at: &str, by_kstatus: &str, by_argocd: &str) -> Result<Value> {
        let (kind, name) = object.split_once('/').context("KIND/NAME")?;
        let judged = async || {
            let object = self.live(kind, name).await.ok()?;
            let status = &object["status"];
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready_for = conditions.iter().any(|is| is["type"] == "Ready" && is["reason"] == at);
            let is_at = status["phase"] == at || is_ready_for;
            (is_at && kstatus(&object) == by_kstatus && health(&object).ok()? == by_argocd).then_some(object)
        };
        let what = format!("{object} is at {at}, {by_kstatus} to kstatus, and {by_argocd} to Argo CD");
        let live = self.namespace.eventually(&what, PATIENCE, judged).await;
        match live {
            Ok(live) => {
                let phase = live["status"]["phase"].as_str().unwrap_or(at);
                let at = format!("{} {phase}", live["kind"].as_str().context("a kind")?);
                let visited = (self.namespace.name.clone(), at);
                VISITED.lock().unwrap_or_else(PoisonError::into_inner).insert(visited);
                Ok(live)
            }
            Err(error) => {
                let live = self.live(kind, name).await?;
                Err(error.context(format!("{}, {:?}: {live:#}", kstatus(&live), health(&live))))
            }
        }
    }

    /// Lets a person do one of Argo CD's actions on a rollout, as Argo CD does it: by what the script changes.
    async fn action(&self, rollout: &str, action: &str) -> Result<()> {
        let live = self.live("drol", rollout).await?;
        let actions = lua("DeviceRollout/actions/discovery.lua", &live)?;
        ensure!(actions[action]["disabled"] == json!(false), "{action} is not offered: {actions:#}\n{live:#}");
        let changed = lua(&format!("DeviceRollout/actions/{action}.lua"), &live)?;
        let patch = json!({"spec": changed["spec"]}).to_string();
        self.namespace.kubectl(&["patch", "drol", rollout, "--type=merge", "-p", &patch]).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_phase_of_every_kind_is_what_tools_for_gitops_take_it_for() -> Result<()> {
    let worlds = tokio::try_join!(a_rollout_with_people_in_it(), a_rollout_that_rests_and_moves(), what_never_works())?;
    let worlds = [worlds.0, worlds.1, worlds.2];
    let visited = VISITED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let visited: BTreeSet<String> =
        visited.into_iter().filter(|(world, _)| worlds.contains(world)).map(|(_, at)| at).collect();
    let mut all = phases("DeviceGroup", "devicegroups.yaml")?;
    all.extend(phases("DeviceRollout", "devicerollouts.yaml")?);
    assert!(all.len() > 16, "{all:?}");
    // A ConfigProfile cannot be read, or rendered; whatever is wrong with a Firmware is told in the same way.
    let of_others = [
        "ConfigProfile NotFound",
        "ConfigProfile Read",
        "ConfigProfile TemplateError",
        "Device Accepted",
        "Device DuplicateMac",
        "Device NotApproved",
        "Firmware Fetching",
        "Firmware NotFound",
        "Firmware Verified",
    ];
    all.extend(of_others.map(str::to_owned));
    assert_eq!(visited, all);
    Ok(())
}

/// Judges every state of the Devices of a namespace that the API server ever showed, until it is told to end. How far a device is with an upgrade is
/// nothing that Git declares: it is Current throughout, once it is accepted.
async fn devices_are_current(devices: Api<Device>, end: CancellationToken) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let mut states = pin!(watcher(devices, watcher::Config::default()).applied_objects());
    loop {
        let device = tokio::select! {
            device = states.next() => device.context("the watch ended")?,
            () = end.cancelled() => return Ok(seen),
        };
        // a watch that broke begins anew by itself
        let Ok(device) = device else { continue };
        let mut live = serde_json::to_value(&device)?;
        live["kind"] = json!("Device");
        let is_accepted = live["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
        let expected = if is_accepted { ("Current", "Healthy") } else { ("InProgress", "Progressing") };
        ensure!((kstatus(&live), &*health(&live)?) == expected, "not {expected:?}: {live:#}");
        seen.extend(live["status"]["upgrade"]["phase"].as_str().map(str::to_owned));
    }
}

async fn a_rollout_with_people_in_it() -> Result<String> {
    let mut world = World::start("gitops").await?;
    let end = CancellationToken::new();
    let watched = tokio::spawn(devices_are_current(world.namespace.api(), end.clone()));
    let group = |more: &str| {
        format!("rollout: {{maxUnavailable: 100%, retries: 0, steps: [{{devices: 1, approval: Required}}]{more}}}")
    };
    world.firmware(NEW).await?;
    world.judged("fw/access-5.2.1", "Verified", "Current", "Healthy").await?;
    world.group(&["firmware: {name: access-5.2.1}", &group("")]).await?;
    world.judged("dg/access", "Empty", "Current", "Healthy").await?;

    // A bad image for one of two, of which one waits for approval.
    world.device("sw-1", strict(1)).await?;
    world.judged("dev/sw-1", "Accepted", "Current", "Healthy").await?;
    world.judged("dg/access", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.judged("drol/access-1", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.action("access-1", "pause").await?;
    world.judged("dg/access", "Paused", "InProgress", "Suspended").await?;
    world.judged("drol/access-1", "Paused", "InProgress", "Suspended").await?;
    world.action("access-1", "resume").await?;
    let mut bad = strict(2);
    bad.faults = vec![Fault::always(Step::Download3, FaultKind::FailDownload)];
    world.device("sw-2", bad).await?;
    world.judged("dg/access", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.judged("drol/access-1", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.action("access-1", "approve").await?;
    world.judged("dg/access", "Stalled", "Failed", "Degraded").await?;
    world.judged("drol/access-1", "Stalled", "Failed", "Degraded").await?;
    world.action("access-1", "abort-rollback").await?;
    world.judged("dg/access", "RolledBack", "Failed", "Degraded").await?;
    world.judged("drol/access-1", "RolledBack", "Failed", "Degraded").await?;

    // Another revision, with which both can live; the one before it is history.
    world.config("17", "hostname a").await?;
    world.judged("cp/access-17", "Read", "Current", "Healthy").await?;
    world.group(&["config: {name: access-17}", &group("")]).await?;
    world.judged("dg/access", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.judged("drol/access-2", "WaitingForApproval", "InProgress", "Suspended").await?;
    world.action("access-2", "approve").await?;
    world.judged("dg/access", "Complete", "Current", "Healthy").await?;
    world.judged("drol/access-2", "Complete", "Current", "Healthy").await?;
    let former = world.judged("drol/access-1", "Superseded", "Current", "Healthy").await?;
    let conditions = former["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.iter().all(|is| is["type"] != "Ready"), "its revision did not arrive: {former:#}");
    let offered = lua("DeviceRollout/actions/discovery.lua", &former)?;
    for (action, is) in offered.as_object().context("actions")? {
        assert_eq!(is["disabled"], true, "{action} of a rollout that is history");
    }

    // Nobody is left of the group.
    world.namespace.kubectl(&["label", "device", "--all", "role-"]).await?;
    world.judged("dg/access", "Empty", "Current", "Healthy").await?;
    world.judged("drol/access-2", "Empty", "Current", "Healthy").await?;
    end.cancel();
    let seen = watched.await??;
    assert!(["Restarting", "Done"].iter().all(|phase| seen.contains(*phase)), "{seen:?}");
    Ok(world.namespace.name.clone())
}

async fn a_rollout_that_rests_and_moves() -> Result<String> {
    let mut world = World::start("gitops-moves").await?;
    world.firmware(NEW).await?;
    let mut stuck = strict(1);
    stuck.faults = vec![Fault::always(Step::Restart6, FaultKind::Freeze)];
    let device = world.device("sw-1", stuck).await?;
    world.connected("sw-1").await?;
    let frozen = "freezes: [{from: 2020-01-01, to: 2099-12-31, reason: year end}]";
    world.group(&["firmware: {name: access-5.2.1}", frozen]).await?;
    world.judged("dg/access", "Frozen", "InProgress", "Progressing").await?;
    world.judged("drol/access-1", "Frozen", "InProgress", "Progressing").await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    world.judged("dg/access", "Progressing", "InProgress", "Progressing").await?;
    world.judged("drol/access-1", "Progressing", "InProgress", "Progressing").await?;
    // It was told to flash: nobody can call it back before it has come back.
    device_does(&device, "is told to restart", |record| record.journal().counters().received(6) > 0).await?;
    world.action("access-1", "abort-rollback").await?;
    world.judged("dg/access", "RollingBack", "InProgress", "Progressing").await?;
    world.judged("drol/access-1", "RollingBack", "InProgress", "Progressing").await?;
    Ok(world.namespace.name.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_looked_at_yet_is_not_done() -> Result<()> {
    // nothing of Fettle runs here
    let namespace = ControlPlane::shared().await?.namespace("gitops-new").await?;
    let sha = "0".repeat(64);
    let kinds = [
        ("ConfigProfile", "{version: \"1\", text: a}".to_owned()),
        ("Device", "{mac: \"02:00:5e:00:53:77\"}".to_owned()),
        ("DeviceGroup", "{selector: {matchLabels: {role: access}}, config: {name: new}}".to_owned()),
        (
            "Firmware",
            format!("{{version: \"1\", images: [{{models: [S5700], source: {{file: {{path: a}}}}, sha256: {sha}}}]}}"),
        ),
    ];
    for (kind, spec) in kinds {
        let manifest =
            format!("apiVersion: fettle.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: new}}\nspec: {spec}\n");
        namespace.apply_yaml(&manifest).await?;
        let live: Value = serde_json::from_str(&namespace.kubectl(&["get", kind, "new", "-o", "json"]).await?)?;
        assert_eq!((kstatus(&live), &*health(&live)?), ("InProgress", "Progressing"), "{live:#}");
    }
    Ok(())
}

async fn what_never_works() -> Result<String> {
    let world = World::start("gitops-bad").await?;
    world.apply(&format!(
        "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: access-9}}\nspec:\n  version: \"9\"\n  images:\n  - {{models: [S5700], source: {{file: {{path: not-there.bin}}}}, sha256: {}}}\n",
        "0".repeat(64)
    ))
    .await?;
    world.judged("fw/access-9", "NotFound", "Failed", "Degraded").await?;
    world.apply("apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {name: broken}\nspec: {version: \"1\", template: \"{{ device.\"}\n").await?;
    world.judged("cp/broken", "TemplateError", "Failed", "Degraded").await?;
    world.group(&["firmware: {name: nowhere}"]).await?;
    world.judged("dg/access", "FirmwareNotFound", "Failed", "Degraded").await?;
    world.apply("apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {name: stranger}\nspec: {mac: \"02:00:5e:00:53:77\", approved: false}\n").await?;
    world.judged("dev/stranger", "NotApproved", "InProgress", "Suspended").await?;
    for twin in ["twin-1", "twin-2"] {
        world.declare(twin, strict(3).mac, "{role: access}").await?;
    }
    world.judged("dev/twin-1", "DuplicateMac", "InProgress", "Degraded").await?;
    world.apply("apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {name: lost}\nspec: {version: \"1\", configMap: {name: nowhere, key: a}}\n").await?;
    world.judged("cp/lost", "NotFound", "Failed", "Degraded").await?;
    // A server that takes a call, and never says anything: it is waited for.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    world.apply(&format!(
        "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: slow}}\nspec:\n  version: \"8\"\n  images:\n  - {{models: [S5700], source: {{http: {{url: \"http://{}/a.bin\"}}}}, sha256: {}}}\n",
        silent.local_addr()?,
        "0".repeat(64)
    ))
    .await?;
    world.judged("fw/slow", "Fetching", "InProgress", "Progressing").await?;
    Ok(world.namespace.name.clone())
}
