//! The chart's NetworkPolicies, enforced: what is needed passes, and nothing else.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fettle_tests::image::{Image, USER};
use fettle_tests::{Node, TestNamespace, say, tools};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::enforcer::Enforcer;
use crate::site::{Cluster, PATIENCE, Site, VERSIONS};

/// An image with a shell, which can call, and sleeps otherwise.
const CALLER: &str = "localhost/caller:1";

const DEVICES: u8 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn policies_let_devices_metrics_and_the_api_through_and_nobody_else() -> Result<()> {
    let Some(cluster) = Cluster::find().await? else { return Ok(()) };
    let Some(node) = &cluster.node else {
        say!("left out: a cluster that was given enforces policies itself, or not at all");
        return Ok(());
    };
    give_caller(node).await?;
    let _enforcer = Enforcer::start(node).await?;

    let mut site = Site::new(&cluster, "policies").await?;
    let watching = node.control_plane().namespace("monitoring").await?;
    watching.kubectl(&["label", "namespace", &watching.name, "metrics=watched"]).await?;
    let devices_from = format!("networkPolicy.devicesFrom[0].ipBlock.cidr={}/32", node.host_address());
    let metrics_from = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.metrics=watched";
    // Probes of kubelet, the API server and DNS pass, or this does not become ready.
    site.helm("install", &format!("{devices_from},{metrics_from}")).await?;
    site.releases().await?;
    site.switch_on("ftp", 1, DEVICES).await?;
    site.switch_on("tftp", 101, DEVICES).await?;
    site.wants("ftp", "FTP", VERSIONS[1]).await?;
    site.wants("tftp", "TFTP", VERSIONS[1]).await?;
    site.all_current("ftp", usize::from(DEVICES)).await?;
    site.all_current("tftp", usize::from(DEVICES)).await?;

    let prometheus = Caller::start(&watching, "prometheus", "{}").await?;
    let stranger = Caller::start(&site.namespace, "stranger", "{}").await?;
    // It is held to what the controller may do.
    let as_controller =
        "{app.kubernetes.io/name: fettle, app.kubernetes.io/instance: fettle, app.kubernetes.io/component: controller}";
    let controller = Caller::start(&site.namespace, "as-controller", as_controller).await?;
    let bridge = pod_of(&site.namespace, "app.kubernetes.io/component=bridge").await?;
    let leads = pod_of(&site.namespace, "app.kubernetes.io/component=controller,pod-template-hash").await?;
    let api: IpAddr = node
        .control_plane()
        .kubectl(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"])
        .await?
        .parse()?;
    let own = IpAddr::V4(site.address("fettle-bridge-0").await?);
    let dns = IpAddr::V4(node.dns());

    for (who, address, port, passes) in [
        (&prometheus, bridge, 9090, true),
        (&prometheus, leads, 9090, true),
        (&prometheus, bridge, 7070, false),
        (&prometheus, bridge, 2121, false),
        (&stranger, bridge, 9090, false),
        (&stranger, leads, 9090, false),
        (&stranger, bridge, 7070, false),
        (&stranger, bridge, 2121, false),
        (&stranger, bridge, 8080, false),
        (&stranger, own, 21, false),
        // it can call, where nobody minds
        (&stranger, api, 443, true),
        (&controller, api, 443, true),
        (&controller, dns, 53, true),
        (&controller, bridge, 7070, false),
        (&controller, bridge, 9090, false),
    ] {
        let (name, passed) = (&who.name, who.reaches(address, port).await);
        ensure!(
            passed == passes,
            "{name} calls {address}:{port}: passes: {passed}, should: {passes}\n{}",
            site.pods().await
        );
    }
    Ok(())
}

async fn give_caller(node: &Node) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("caller.tar");
    let mut image = Image::new(CALLER).user(USER).entry_point(&["sleep", "infinity"]);
    for program in ["sleep", "bash", "timeout"] {
        image = image.program(&tools::installed(program).with_context(|| format!("no {program}"))?)?;
    }
    image.write(&archive)?;
    node.load(&archive).await
}

/// The address of a pod with these labels.
async fn pod_of(namespace: &TestNamespace, labels: &str) -> Result<IpAddr> {
    let pods: Api<Pod> = namespace.api();
    let found = pods.list(&ListParams::default().labels(labels)).await?;
    let address = found.items.into_iter().find_map(|pod| pod.status?.pod_ip);
    Ok(address.with_context(|| format!("no pod has {labels}"))?.parse()?)
}

/// A pod that calls.
struct Caller<'a> {
    name: String,
    namespace: &'a TestNamespace,
}

impl<'a> Caller<'a> {
    async fn start(namespace: &'a TestNamespace, name: &str, labels: &str) -> Result<Self> {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  automountServiceAccountToken: false\n  securityContext: {{runAsNonRoot: true, runAsUser: {USER}, seccompProfile: {{type: RuntimeDefault}}}}\n  containers:\n  - {{name: caller, image: '{CALLER}', imagePullPolicy: Never, securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}\n"
        );
        namespace.kubectl_with_input(&["apply", "-f", "-"], &pod).await?;
        let caller = Caller { name: name.to_owned(), namespace };
        let runs = || async { caller.runs("true").await.then_some(()) };
        namespace.eventually(&format!("the pod {name} runs"), PATIENCE, runs).await?;
        Ok(caller)
    }

    async fn runs(&self, command: &str) -> bool {
        self.namespace.kubectl(&["exec", &self.name, "--", "bash", "-c", command]).await.is_ok()
    }

    /// Whether it gets a TCP connection. What is closed says so at once; the time is for a slow machine.
    async fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.runs(&format!("timeout 20 bash -c '</dev/tcp/{address}/{port}'")).await
    }
}
