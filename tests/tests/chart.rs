//! The chart, judged by helm, by the API server, and by the programs that it starts.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use fettle_tests::chart::Rendered;
use fettle_tests::{ControlPlane, TestNamespace, manifest, program};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret};
use serde_json::{Value, json};

fn chart() -> String {
    manifest::chart().display().to_string()
}

/// What helm says against these values; nothing where it takes them.
async fn refused(control_plane: &ControlPlane, set: &str) -> String {
    let rendered = control_plane.helm(&["template", "fettle", &chart(), "--set", set]).await;
    rendered.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    control_plane.helm(&["lint", "--strict", &chart()]).await?;
    let every_option = "bridge.persistence.enabled=true,bridge.files.emptyDir.sizeLimit=1Gi,controller.replicas=2,\
                        bridge.service.type=LoadBalancer,bridge.service.loadBalancerClass=a.b/c,bridge.extraEnv.A=b,\
                        bridge.credentialKey.existingSecret=key,bridge.logStore.place=s3://a/b,\
                        bridge.logStore.credentialsSecret=keys,bridge.advertiseIPv4=192.0.2.1,image.tag=v1,\
                        bridge.http.tlsSecret=files-tls,bridge.http.name=files.example.net,bridge.ftp.tlsSecret=ftp-tls,\
                        bridge.external.ftpURL=ftps://u@192.0.2.9/fw,bridge.external.secret=ftp,bridge.external.trustCA=true,\
                        bridge.external.ftpAddress=192.0.2.9:21,bridge.external.ftpPath=fw,bridge.external.deviceUser=d,\
                        bridge.external.tftpAddress=192.0.2.9,bridge.external.tftpPath=/";
    control_plane.helm(&["lint", "--strict", &chart(), "--set", every_option]).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_value_is_refused_by_its_name() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    for (set, named) in [
        ("bridge.settel=1s", "settel"),
        ("bridge.settle=soon", "/bridge/settle"),
        ("bridge.enrolment=Perhaps", "/bridge/enrolment"),
        ("bridge.signatures=Sometimes", "/bridge/signatures"),
        ("controller.retryBackoff=later", "/controller/retryBackoff"),
        ("bridge.ports.ftp=99999", "/bridge/ports/ftp"),
        ("bridge.cacheSize=big", "/bridge/cacheSize"),
        ("bridge.logStore.place=gs://a", "/bridge/logStore/place"),
        ("bridge.ports.http=0", "/bridge/ports/http"),
        ("bridge.http.tlsSecret=A_b", "/bridge/http/tlsSecret"),
        ("bridge.http.name=http://x", "/bridge/http/name"),
        ("bridge.replicas=2,bridge.http.name=x.example.net", "bridge.http.name"),
        ("bridge.advertiseIPv4=example.com", "/bridge/advertiseIPv4"),
        ("bridge.replicas=2,bridge.advertiseIPv4=192.0.2.1", "bridge.advertiseIPv4"),
        ("bridge.service.type=NodePort", "bridge.podServices.type"),
        ("bridge.podServices.perPod[0].adress=192.0.2.1", "adress"),
        ("bridge.podServices.perPod[1].loadBalancerIP=192.0.2.1", "bridge.podServices.perPod"),
        ("bridge.advertisePorts.http=0", "/bridge/advertisePorts/http"),
        ("bridge.resources.request.cpu=1", "request"),
        ("controller.tolerations[0].opperator=Exists", "opperator"),
        ("crds.keeep=true", "keeep"),
        ("clusterScoped=yes", "/clusterScoped"),
        ("networkPolicy.devicesFrom[0].cidr=10.0.0.0/8", "cidr"),
        ("monitoring.serviceMonitor.interval=soon", "/monitoring/serviceMonitor/interval"),
        ("bridge.ports.ftpPassive.first=2,bridge.ports.ftpPassive.last=1", "bridge.ports.ftpPassive"),
        ("bridge.external.ftpURL=http://192.0.2.9/", "/bridge/external/ftpURL"),
        ("bridge.external.tftpAddress=files", "/bridge/external/tftpAddress"),
        ("replicas=3", "replicas"),
    ] {
        let message = refused(&control_plane, set).await;
        assert!(message.contains(named), "{set}: {message}");
    }
    Ok(())
}

/// A control plane of its own, as Helm is to bring the CRDs.
#[tokio::test]
async fn helm_installs_upgrades_and_removes_it() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let namespace = control_plane.namespace("helm").await?;
    let release = ["fettle", &chart(), "--namespace", &namespace.name];
    control_plane.helm(&[&["install"], release.as_slice()].concat()).await?;

    assert_eq!(namespace.kubectl(&["get", "deployments,statefulsets", "-o", "name"]).await?.lines().count(), 2);
    // the definitions came with it
    namespace.kubectl(&["wait", "--for=condition=Established", "crd", "devices.fettle.dev", "--timeout=30s"]).await?;
    // and are found by their category once the API server has told of them
    let listed = || async { namespace.kubectl(&["get", "fettle"]).await.ok() };
    namespace.eventually("kubectl get fettle works", Duration::from_secs(30), listed).await?;

    let key = |secret: Secret| secret.data.unwrap()["key"].0.clone();
    let before = key(namespace.api().get("fettle-credentials").await?);
    assert!(before.len() >= 32);
    control_plane.helm(&[&["upgrade", "--set", "bridge.settle=6s"], release.as_slice()].concat()).await?;
    let after = key(namespace.api().get("fettle-credentials").await?);
    assert!(before == after, "an upgrade changed the key, and with it every credential out there");

    control_plane.helm(&["uninstall", "fettle", "--namespace", &namespace.name]).await?;
    let left = namespace.kubectl(&["get", "all,roles,rolebindings,serviceaccounts,secrets", "-o", "name"]).await?;
    assert!(!left.contains("fettle"), "{left}");
    Ok(())
}

/// As `restricted` is enforced on pods, and only warned about on workloads, the pods are created, in a dry run.
#[tokio::test]
async fn its_pods_are_admitted_where_the_strictest_pod_security_is_enforced() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    let namespace = control_plane.namespace("restricted").await?;
    namespace
        .kubectl(&["label", "namespace", &namespace.name, "pod-security.kubernetes.io/enforce=restricted"])
        .await?;
    let release = ["fettle", &chart(), "--namespace", &namespace.name, "--set", "clusterScoped=false"];
    control_plane.helm(&[&["install"], release.as_slice()].concat()).await?;

    let controller: Deployment = namespace.api().get("fettle-controller").await?;
    let bridge: StatefulSet = namespace.api().get("fettle-bridge").await?;
    try_pod(&namespace, controller.spec.unwrap().template).await?;
    try_pod(&namespace, bridge.spec.unwrap().template).await?;
    Ok(())
}

async fn try_pod(namespace: &TestNamespace, template: PodTemplateSpec) -> Result<String> {
    let mut pod: Value = serde_json::to_value(template)?;
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("try");
    namespace.kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &pod.to_string()).await
}

/// Which rights each component has, and above all which it has not.
#[tokio::test]
async fn each_component_may_do_its_own_work_and_nothing_else() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    let namespace = control_plane.namespace("roles").await?;
    Rendered::new(&namespace.name).await?.apply_without_workloads(&namespace.client, &namespace.name).await?;

    let (controller, bridge) = ("fettle-controller", "fettle-bridge");
    for (who, verb, what, expected) in [
        (controller, "patch", "devices.fettle.dev/status", "yes"),
        (controller, "create", "devicerollouts.fettle.dev", "yes"),
        (controller, "watch", "leases.coordination.k8s.io", "yes"),
        (controller, "create", "secrets", "yes"),
        // a person's or Git's
        (controller, "patch", "devicegroups.fettle.dev", "no"),
        (controller, "patch", "devices.fettle.dev", "no"),
        (controller, "update", "secrets", "no"),
        // the bridge's
        (controller, "patch", "firmwares.fettle.dev/status", "no"),
        (bridge, "patch", "devices.fettle.dev/status", "yes"),
        (bridge, "create", "devices.fettle.dev", "yes"),
        (bridge, "get", "secrets", "yes"),
        (bridge, "list", "secrets", "no"),
        (bridge, "create", "secrets", "no"),
        (bridge, "patch", "devices.fettle.dev", "no"),
        (bridge, "delete", "devices.fettle.dev", "no"),
        // what is next is the controller's
        (bridge, "get", "devicegroups.fettle.dev", "no"),
        (bridge, "get", "devicerollouts.fettle.dev", "no"),
        (bridge, "list", "pods", "no"),
    ] {
        let user = format!("--as=system:serviceaccount:{}:{who}", namespace.name);
        let (resource, subresource) = what
            .split_once('/')
            .map_or((what, String::new()), |(resource, sub)| (resource, format!("--subresource={sub}")));
        let mut args = vec!["auth", "can-i", verb, resource, &user];
        args.extend((!subresource.is_empty()).then_some(subresource.as_str()));
        // kubectl's exit status says no, too
        let may = || async { namespace.kubectl(&args).await.is_ok_and(|said| said.trim() == "yes") };
        if expected == "no" {
            assert!(!may().await, "{who} {verb} {what}");
            continue;
        }
        // the API server hears of roles as everybody does, by a watch; each component's rights begin with those it has
        let granted = || async { may().await.then_some(()) };
        namespace.eventually(&format!("{who} may {verb} {what}"), Duration::from_secs(30), granted).await?;
    }
    // Roles, and so nothing outside its namespace
    let user = format!("--as=system:serviceaccount:{}:{controller}", namespace.name);
    let elsewhere =
        control_plane.kubectl(&["auth", "can-i", "get", "devices.fettle.dev", "-n", "default", &user]).await;
    assert!(elsewhere.is_err(), "the controller reads devices of another namespace");
    Ok(())
}

#[tokio::test]
async fn every_variable_that_it_sets_is_a_flag_of_the_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rendered = Rendered::new("any").await?;
    for pod in [rendered.controller(folder.path())?, rendered.bridge(0, folder.path())?] {
        let known = flags(&program::find(&pod.program)?)?;
        let unknown: Vec<&String> = pod.env.keys().filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{} knows no {unknown:?}; it knows {known:?}", pod.program);
    }
    Ok(())
}

/// The environment variables that `--help` names.
fn flags(program: &Path) -> Result<BTreeSet<String>> {
    let help = Command::new(program).arg("--help").output()?;
    let help = String::from_utf8(help.stdout)?;
    let names = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    Ok(names.map(str::to_owned).collect())
}
