//! What tools for GitOps make of live objects, phase by phase: kstatus by its published rules (Flux, `helm --wait`,
//! `kubectl wait`), and Argo CD by the Lua in `gitops/argocd`, run by a real Lua.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use fettle_device::{Fault, FaultKind, Step};
use fettle_tests::manifest;
use mlua::{Lua, LuaSerdeExt};
use serde_json::{Value, json};

use crate::world::{NEW, PATIENCE, World, strict};

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
    async fn live(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.namespace.kubectl(&["get", kind, name, "-o", "json"]).await?;
        Ok(serde_json::from_str(&object)?)
    }

    /// Waits until an object is in a phase, or has a reason for being Ready or not, and both judges take it for that. The
    /// first thing that is said of any object is that it is not ready, so that nobody who waits is early.
    async fn judged(&self, object: &str, at: &str, by_kstatus: &str, by_argocd: &str) -> Result<Value> {
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
            Ok(live) => Ok(live),
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
async fn every_phase_of_a_rollout_is_what_tools_for_gitops_take_it_for() -> Result<()> {
    let mut world = World::start("gitops").await?;
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
    let former = world.live("drol", "access-1").await?;
    assert_eq!(health(&former)?, "Healthy", "{former:#}");
    let offered = lua("DeviceRollout/actions/discovery.lua", &former)?;
    for (action, is) in offered.as_object().context("actions")? {
        assert_eq!(is["disabled"], true, "{action} of a rollout that is history");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_work_as_it_is_declared_is_a_failure_at_once() -> Result<()> {
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
    Ok(())
}
