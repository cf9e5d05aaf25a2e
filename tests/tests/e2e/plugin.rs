//! The plugin of kubectl, run as people run it, with the rights that people have.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use crate::world::{NEW, OLD, PATIENCE, World, strict, versions};

/// What whoever edits a namespace may do with the objects of Fettle, and what whoever views it.
const PEOPLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: view}
rules:
- apiGroups: [fettle.dev]
  resources: [devices, devicegroups, devicerollouts, firmwares, configprofiles]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: edit}
rules:
- apiGroups: [fettle.dev]
  resources: [devices, devicegroups, firmwares, configprofiles]
  verbs: [create, update, patch, delete, deletecollection]
- apiGroups: [fettle.dev]
  resources: [devicerollouts]
  verbs: [update, patch]
";

/// The plugin, as somebody runs it.
struct Person {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// How the plugin ended, and what it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Person {
    /// With these roles, in the namespace of the test.
    async fn with(world: &World, name: &str, roles: &[&str]) -> Result<Self> {
        let mut manifests = format!("{PEOPLE}---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n");
        for role in roles {
            let namespace = &world.namespace.name;
            manifests.push_str(&format!(
                "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}-{role}}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {role}}}\nsubjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]\n"
            ));
        }
        world.apply(&manifests).await?;
        let kubeconfig = world.fettle.folder().join(format!("{name}.kubeconfig"));
        world.namespace.kubeconfig_for_service_account(name, &kubeconfig).await?;
        Ok(Self { program: fettle_tests::program::find("kubectl-fettle")?, kubeconfig })
    }

    async fn says(&self, line: &str) -> Result<Said> {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace()).env("KUBECONFIG", &self.kubeconfig).env_remove("NO_COLOR");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.with_context(|| format!("kubectl fettle {line} did not end"))??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }

    /// What it prints, where it ends well.
    async fn gets(&self, line: &str) -> Result<String> {
        let said = self.says(line).await?;
        anyhow::ensure!(said.code == Some(0), "kubectl fettle {line}: {said:?}");
        Ok(said.out)
    }

    /// What it complains of, where it ends with this code.
    async fn fails(&self, line: &str, code: i32) -> Result<String> {
        let said = self.says(line).await?;
        anyhow::ensure!(said.code == Some(code), "kubectl fettle {line}: not {code}: {said:?}");
        Ok(said.err)
    }
}

/// The devices that begin, of a plan.
fn begin(grants: &Value) -> Vec<&str> {
    grants.as_array().into_iter().flatten().filter_map(|grant| grant["device"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_takes_a_rollout_through_its_steps_and_back_again_with_an_editors_rights() -> Result<()> {
    let mut world = World::start("plugin").await?;
    let editor = Person::with(&world, "editor", &["view", "edit"]).await?;
    let viewer = Person::with(&world, "viewer", &["view"]).await?;
    world.firmware(OLD).await?;
    world.firmware(NEW).await?;
    let devices = (1..=3).map(|number| (format!("sw-{number}"), "{role: access}", strict(number))).collect();
    let devices = world.fleet(devices).await?;
    // What is foretold rests on who is connected.
    for device in ["sw-1", "sw-2", "sw-3"] {
        world.connected(device).await?;
    }
    let refused = editor.fails("status access", 6).await?;
    assert!(refused.contains("there is no DeviceGroup access"), "{refused}");
    // What is foretold is what then happens.
    let group = "apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {name: access}\nspec:\n  selector: {matchLabels: {role: access}}\n  firmware: {name: access-5.2.1}\n  rollout: {steps: [{devices: 1, approval: Required}], maxUnavailable: 3}\n";
    let manifest = world.fettle.folder().join("group.yaml");
    std::fs::write(&manifest, group)?;
    world.firmware_is("access-5.2.1", "True", "Verified").await?;
    let plan: Value = serde_json::from_str(&viewer.gets(&format!("plan -f {} -o json", manifest.display())).await?)?;
    assert_eq!(begin(&plan["now"]), ["sw-1"], "{plan}");
    assert_eq!(begin(&plan["later"][0]["grants"]), ["sw-2", "sw-3"], "{plan}");
    world
        .group(&[
            "firmware: {name: access-5.2.1}",
            "rollout: {steps: [{devices: 1, approval: Required}], maxUnavailable: 3}",
        ])
        .await?;

    // It ends where a person has to act, and that is all that has been done.
    let waits = viewer.fails("status access --timeout 80s", 4).await?;
    assert!(waits.contains("unless a person acts"), "{waits}");
    assert_eq!(versions(&devices), [NEW, OLD, OLD]);
    world.waits_for("Approval").await?;
    let tree = viewer.gets("get access").await?;
    for line in [
        "? step 1 of 2: 1 device, wants approval",
        "✔ sw-1   5.2.1   current",
        "· sw-2   4.9.0   waiting (WaitingForApproval)",
    ] {
        assert!(tree.contains(line), "no {line:?} in\n{tree}");
    }
    assert!(!tree.contains('\x1b'), "nobody has a terminal here\n{tree}");
    let refused = viewer.fails("approve access", 1).await?;
    assert!(refused.contains("you may not patch devicerollouts"), "{refused}");

    // What does not fit is refused, and changes nothing; a dry run changes nothing either.
    assert!(editor.fails("retry access", 7).await?.contains("no device of access-1 has failed"));
    assert!(editor.fails("retry device/sw-1", 7).await?.contains("it is current"));
    assert!(editor.fails("promote nope", 6).await?.contains("there is no DeviceGroup nope"));
    assert!(editor.gets("abort access --rollback --dry-run").await?.contains("(dry run)"));
    editor.gets("pause access").await?;
    assert!(editor.gets("pause access").await?.contains("paused already"));
    // Whether it is seen to wait for approval still, or to be paused already: it is approved.
    editor.gets("approve access --step 1").await?;
    assert!(viewer.fails("status access", 4).await?.contains("unless a person acts"));
    assert_eq!(versions(&devices), [NEW, OLD, OLD]);

    editor.gets("resume access").await?;
    let done = viewer.gets("status access --timeout 80s").await?;
    assert!(done.ends_with("access: complete\n"), "{done}");
    assert_eq!(versions(&devices), [NEW, NEW, NEW]);
    assert!(editor.fails("approve access", 7).await?.contains("is complete"));
    assert!(editor.fails("abort access", 7).await?.contains("kubectl fettle undo access"));
    let data: Value = serde_json::from_str(&viewer.gets("devices --state current -o json").await?)?;
    assert_eq!(data.as_array().map(Vec::len), Some(3), "{data}");

    // Back, also from there.
    editor.gets("undo access").await?;
    let back = viewer.fails("status access --timeout 80s", 3).await?;
    assert!(back.contains("has failed"), "{back}");
    assert_eq!(versions(&devices), [OLD, OLD, OLD]);
    assert!(editor.gets("undo access").await?.contains("was rolled back already"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nobody_declared_is_approved_by_name_and_brings_its_log() -> Result<()> {
    let mut world = World::start("plugin-approves").await?;
    let editor = Person::with(&world, "editor", &["view", "edit"]).await?;
    world.switch_on(vec![strict(1)]).await?;
    let pending = "02-00-5e-00-53-01";
    world.device_until(pending, "is recorded", |status| !status.conditions.is_empty()).await?;
    let listed = editor.gets("devices --reason NotApproved -o name").await?;
    assert_eq!(listed, format!("device/{pending}\n"));
    editor.gets(&format!("approve device/{pending}")).await?;
    assert!(editor.gets(&format!("approve device/{pending}")).await?.contains("approved already"));
    world.connected(pending).await?;
    assert!(editor.fails(&format!("logs {pending}"), 6).await?.contains("has brought no log"));
    let location = editor.gets(&format!("logs {pending} --request --timeout 80s")).await?;
    assert!(location.starts_with("file://") && location.contains(pending), "{location}");
    assert_eq!(editor.gets(&format!("logs {pending}")).await?, location);
    Ok(())
}
