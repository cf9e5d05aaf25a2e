//! Flux' own kustomize-controller applies a tree of manifests, and judges by the live objects when it is done: it waits through
//! a rollout, takes one that failed for failed and one that waits for a person for neither, prunes, and leaves alone what a
//! person says at run time.

mod controller;
mod repository;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fettle_device::{Fault, FaultKind, Step};
use fettle_tests::Program;
use serde_json::{Value, json};

use self::repository::Repository;
use crate::world::{NEW, OLD, PATIENCE, World, declaration, strict, versions};

/// The release after [`NEW`].
const NEXT: &str = "5.3.0";

/// How Flux calls a `Kustomization` of its own, which is not kustomize's.
const KUSTOMIZATION: &str = "kustomization.kustomize.toolkit.fluxcd.io";

/// The group of the tests. One device goes first, and a person lets the others follow.
const STEPS: &str = "steps: [{devices: 1, approval: Required}]";

fn group(release: &str, rollout: &str) -> String {
    format!(
        "apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {{name: access}}\nspec:\n  selector: {{matchLabels: {{role: access}}}}\n  firmware: {{name: access-{release}}}\n  logs: {{upload: Never}}\n  rollout: {{maxUnavailable: 100%, retries: 0, {rollout}}}\n"
    )
}

/// Declarations of devices with these numbers.
fn devices(numbers: &[u8]) -> String {
    let declared: Vec<String> = numbers
        .iter()
        .map(|number| declaration(&format!("sw-{number}"), strict(*number).mac, "{role: access}"))
        .collect();
    declared.join("---\n")
}

/// A world in which what is declared comes from a repository, by way of Flux.
struct Git {
    world: World,
    repository: Repository,
    requests: u32,
    _flux: Program,
}

impl Git {
    async fn start(name: &str) -> Result<Self> {
        let world = World::start_on(&controller::control_plane().await?, name, |builder| builder).await?;
        let repository = Repository::create(&world.namespace).await?;
        let flux = controller::start(&world.namespace).await?;
        Ok(Self { world, repository, requests: 0, _flux: flux })
    }

    async fn commit(&mut self, files: &[(&str, &str)]) -> Result<String> {
        self.repository.commit(&self.world.namespace, files).await
    }

    /// Lets Flux apply a folder of the repository as the page for people says, but for what `spec` says, and for intervals so long that
    /// it applies it again only when something is committed, or on request.
    async fn kustomization(&self, name: &str, spec: Value) -> Result<()> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gitops/README.md");
        let page = std::fs::read_to_string(page)?;
        let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
        let mut object: Value = serde_yaml::from_str(block.context("no YAML on the page")?)?;
        ensure!(object["kind"] == "Kustomization" && object["spec"]["wait"] == true, "{object:#}");
        object["metadata"] = json!({"name": name});
        object["spec"]["path"] = json!(format!("./{name}"));
        object["spec"]["interval"] = json!("1h");
        object["spec"]["retryInterval"] = json!("1h");
        object["spec"]["targetNamespace"] = json!(self.world.namespace.name);
        for (key, value) in spec.as_object().context("a spec")? {
            object["spec"][key] = value.clone();
        }
        let apply = ["apply", "--server-side", "-f", "-"];
        self.world.namespace.kubectl_with_input(&apply, &object.to_string()).await?;
        Ok(())
    }

    /// Waits until a Kustomization is as `is_so` says, by its status.
    async fn until(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let look = async || {
            let live = self.world.live(KUSTOMIZATION, name).await.ok()?;
            is_so(&live["status"]).then(|| live["status"].clone())
        };
        let what = format!("Kustomization {name} {what}");
        match self.world.namespace.eventually(&what, PATIENCE, look).await {
            Ok(status) => Ok(status),
            Err(error) => Err(error.context(format!("{:#}", self.world.live(KUSTOMIZATION, name).await?))),
        }
    }

    /// Asks Flux to apply once more, and waits until it has, or has given up.
    async fn reconciled(&mut self, name: &str) -> Result<Value> {
        self.requests += 1;
        let token = format!("request-{}", self.requests);
        let annotation = format!("reconcile.fluxcd.io/requestedAt={token}");
        self.world.namespace.kubectl(&["annotate", "--overwrite", KUSTOMIZATION, name, &annotation]).await?;
        self.until(name, "has done what was asked for", |status| status["lastHandledReconcileAt"] == *token).await
    }

    /// Lets Flux look at the group without patience, and checks what it takes it for.
    async fn impatient_sees(&mut self, kstatus: &str) -> Result<()> {
        let sees =
            format!("timeout waiting for: [DeviceGroup/{}/access status: '{kstatus}'", self.world.namespace.name);
        // On a machine that is busy it may have had no time to look at all, and then it says so.
        const TRIES: usize = 5;
        let mut said = String::new();
        for _ in 0..TRIES {
            let status = self.reconciled("impatient").await?;
            let (_, reason, message) = ready(&status);
            ensure!(reason == "HealthCheckFailed", "{status:#}");
            if message.contains(&sees) {
                return Ok(());
            }
            said = message.to_owned();
        }
        bail!("Flux does not take the group for {kstatus}: {said}")
    }

    /// Waits until Flux has given up on a revision, because the group failed.
    async fn fails(&self, name: &str, revision: &str) -> Result<()> {
        let sees = format!(
            "failed early due to stalled resources: [DeviceGroup/{}/access status: 'Failed'",
            self.world.namespace.name
        );
        let fails = |status: &Value| {
            let (is, reason, message) = ready(status);
            is == "False"
                && reason == "HealthCheckFailed"
                && message.contains(&sees)
                && status["lastAttemptedRevision"] == *revision
        };
        self.until(name, "has failed for the group", fails).await.map(|_| ())
    }

    /// Waits until Flux has applied a revision and all of it is as declared.
    async fn succeeds(&self, name: &str, revision: &str) -> Result<Value> {
        let succeeds = |status: &Value| ready(status).0 == "True" && status["lastAppliedRevision"] == *revision;
        self.until(name, &format!("is Ready at {revision}"), succeeds).await
    }

    /// Waits until Flux has declared these devices, and switches those of them on that are given.
    async fn switch_on(
        &mut self,
        declared: &[u8],
        switched_on: Vec<fettle_device::DeviceSpec>,
    ) -> Result<Vec<fettle_device::DeviceHandle>> {
        for number in declared {
            let name = format!("sw-{number}");
            let is_there = async || self.world.live("dev", &name).await.ok().map(|_| ());
            self.world.namespace.eventually(&format!("Flux has declared {name}"), PATIENCE, is_there).await?;
        }
        self.world.switch_on(switched_on).await
    }
}

/// Status, reason and message of `Ready`, in the status of a Kustomization.
fn ready(status: &Value) -> (&str, &str, &str) {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().find(|is| is["type"] == "Ready").unwrap_or(&Value::Null);
    let text = |key: &str| ready[key].as_str().unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_waits_through_a_rollout_with_people_in_it_and_what_it_prunes_is_no_way_lost() -> Result<()> {
    let mut git = Git::start("flux").await?;
    let (first, second) = (git.world.release(NEW, NEW)?, git.world.release(NEXT, NEXT)?);
    // The third of them is away for ever.
    let declared = devices(&[1, 2, 3]);
    let (to_first, to_second) = (group(NEW, STEPS), group(NEXT, STEPS));
    let nothing = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nothing}\n";
    let (devices, group) = ("fleet/devices.yaml", "fleet/group.yaml");
    let (release, empty) = ("fleet/release.yaml", "impatient/nothing.yaml");
    let revision = git.commit(&[(devices, &declared), (release, &first), (group, &to_first), (empty, nothing)]).await?;
    // Nobody waits for longer than that.
    git.kustomization("fleet", json!({"timeout": "1h"})).await?;
    let devices_on = git.switch_on(&[1, 2, 3], vec![strict(1), strict(2)]).await?;

    // One device is there, and a person is asked; then the rollout is paused. Neither is a failure, nor done.
    git.world.judged("dg/access", "WaitingForApproval", "InProgress", "Suspended").await?;
    let namespace = &git.world.namespace.name;
    let check = json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceGroup", "name": "access", "namespace": namespace
    });
    git.kustomization("impatient", json!({"wait": false, "healthChecks": [check], "timeout": "6s"})).await?;
    git.impatient_sees("InProgress").await?;
    git.world.person("{\"paused\": true}").await?;
    git.world.judged("dg/access", "Paused", "InProgress", "Suspended").await?;
    git.impatient_sees("InProgress").await?;
    let waits = git.world.live(KUSTOMIZATION, "fleet").await?;
    assert_eq!(ready(&waits["status"]).0, "Unknown", "{waits:#}");

    git.world.person("{\"paused\": false, \"approvedStep\": 1}").await?;
    let status = git.succeeds("fleet", &revision).await?;
    assert_eq!(versions(&devices_on), [NEW; 2]);
    let history = status["history"].as_array().context("a history")?;
    assert_eq!(history.len(), 1, "{status:#}");
    assert_eq!(history[0]["lastReconciledStatus"], "ReconciliationSucceeded", "{status:#}");
    assert_eq!(history[0]["totalReconciliations"], 1, "it did not wait through in one go: {status:#}");
    let complete = git.world.judged("dg/access", "Complete", "Current", "Healthy").await?;
    assert_eq!(complete["status"]["counts"]["offline"], 1, "{complete:#}");

    // Flux takes back what somebody changed in what Git has, and leaves the rest.
    let namespace = &git.world.namespace;
    let by_hand = "{\"spec\": {\"rollout\": {\"maxUnavailable\": 1}}}";
    namespace.kubectl(&["patch", "dg", "access", "--type=merge", "-p", by_hand]).await?;
    git.world.person("{\"retryAt\": \"2026-01-01T00:00:00Z\", \"acceptFailures\": 1}").await?;
    let manager = format!("--field-manager={}", kubectl_fettle::say::MANAGER);
    let retry = "fettle.dev/retry-at=2026-01-01T00:00:00Z";
    namespace.kubectl(&["annotate", &manager, "device", "sw-1", retry]).await?;
    let said = git.world.live("drol", "access-1").await?["spec"].clone();
    let status = git.reconciled("fleet").await?;
    assert_eq!(ready(&status).0, "True", "{status:#}");
    assert_eq!(git.world.live("dg", "access").await?["spec"]["rollout"]["maxUnavailable"], "100%");
    assert_eq!(git.world.live("drol", "access-1").await?["spec"], said);
    let device = git.world.live("dev", "sw-1").await?;
    assert_eq!(device["metadata"]["annotations"]["fettle.dev/retry-at"], "2026-01-01T00:00:00Z", "{device:#}");

    // The next release; the one before it leaves the tree.
    let revision =
        git.commit(&[(devices, &declared), (release, &second), (group, &to_second), (empty, nothing)]).await?;
    git.world.judged("drol/access-2", "WaitingForApproval", "InProgress", "Suspended").await?;
    assert!(versions(&devices_on).iter().any(|version| version == NEXT), "{:?}", versions(&devices_on));
    git.world.judged("drol/access-1", "Complete", "Current", "Healthy").await?;
    let releases = git.world.namespace.kubectl(&["get", "fw", "-o", "name"]).await?;
    assert_eq!(releases.trim(), format!("firmware.fettle.dev/access-{NEXT}"), "what left the tree was not pruned");
    let back = ["patch", "drol", "access-2", "--type=merge", "-p", "{\"spec\": {\"abort\": \"Rollback\"}}"];
    git.world.namespace.kubectl(&back).await?;
    git.world.judged("dg/access", "RolledBack", "Failed", "Degraded").await?;
    assert_eq!(versions(&devices_on), [NEW; 2]);
    git.fails("fleet", &revision).await
}

#[tokio::test(flavor = "multi_thread")]
async fn flux_takes_a_rollout_that_failed_for_failed_until_a_person_accepts_that() -> Result<()> {
    let mut git = Git::start("flux-fails").await?;
    let (release, declared, group) = (git.world.release(NEW, NEW)?, devices(&[1, 2]), group(NEW, "failureBudget: 0"));
    let files = [("fleet/devices.yaml", &*declared), ("fleet/release.yaml", &release), ("fleet/group.yaml", &group)];
    let revision = git.commit(&files).await?;
    git.kustomization("fleet", json!({"timeout": "1h"})).await?;
    let mut bad = strict(2);
    bad.faults = vec![Fault::always(Step::Download3, FaultKind::FailDownload)];
    let devices = git.switch_on(&[1, 2], vec![strict(1), bad]).await?;
    git.fails("fleet", &revision).await?;

    git.world.person("{\"acceptFailures\": 1}").await?;
    git.world.judged("dg/access", "Complete", "Current", "Healthy").await?;
    git.reconciled("fleet").await?;
    git.succeeds("fleet", &revision).await?;
    assert_eq!(versions(&devices), [NEW, OLD]);
    Ok(())
}
