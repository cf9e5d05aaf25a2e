//! The chart, judged by helm, by the API server, and by the programs that it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use fettle_tests::chart::Rendered;
use fettle_tests::dev::readme;
use fettle_tests::{ControlPlane, TestNamespace, manifest, program};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Secret};
use serde_json::{Value, json};

/// A cluster that has the Prometheus operator.
const OPERATOR: [&str; 4] = [
    "--api-versions",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions",
    "monitoring.coreos.com/v1/PrometheusRule",
];

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
    let mut tried = 0;
    for file in fs::read_dir(manifest::chart().join("ci"))? {
        let file = file?.path().display().to_string();
        control_plane.helm(&["lint", "--strict", &chart(), "--values", &file]).await?;
        // as a cluster that knows the kinds of the Prometheus operator, and as one that does not
        control_plane.helm(&["template", "fettle", &chart(), "--values", &file]).await?;
        control_plane
            .helm(&[&["template", "fettle", &chart(), "--values", &file], OPERATOR.as_slice()].concat())
            .await?;
        tried += 1;
    }
    assert!(tried >= 4, "only {tried} files in ci/");
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
        ("bridge.service.nodePort=node", "/bridge/service/nodePort"),
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

#[tokio::test]
async fn the_bridge_knows_which_port_devices_call_where_that_is_not_its_own() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    let node_port = "bridge.service.nodePort=30707";
    let of_nodes = format!("bridge.service.type=NodePort,bridge.podServices.type=ClusterIP,{node_port}");
    for (set, called, on_nodes) in [
        (node_port, Value::Null, Value::Null),
        (of_nodes.as_str(), json!("30707"), json!(30707)),
        (&format!("{of_nodes},bridge.advertisePorts.device=7071"), json!("7071"), json!(30707)),
        ("bridge.advertisePorts.device=7071", json!("7071"), Value::Null),
    ] {
        let all = rendered(&control_plane, &chart(), &["--set", set]).await?;
        let bridge = &all["StatefulSet fettle-bridge"]["spec"]["template"]["spec"]["containers"][0];
        let told = bridge["env"].as_array().into_iter().flatten();
        let told = told.filter(|env| env["name"] == "FETTLE_ADVERTISE_DEVICE_PORT").map(|env| &env["value"]).next();
        assert_eq!(told.unwrap_or(&Value::Null), &called, "{set}");
        assert_eq!(all["Service fettle-bridge"]["spec"]["ports"][0]["nodePort"], on_nodes, "{set}");
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

#[test]
fn its_readme_says_what_its_values_say() -> Result<()> {
    let readme = fs::read_to_string(manifest::chart().join("README.md"))?;
    assert!(readme == readme::text()?, "charts/fettle/README.md is out of date: run make generate");
    Ok(())
}

/// The manifests that helm makes of a chart, by kind and name.
async fn rendered(control_plane: &ControlPlane, chart: &str, args: &[&str]) -> Result<BTreeMap<String, Value>> {
    let text = control_plane.helm(&[&["template", "fettle", chart], args].concat()).await?;
    let name = |manifest: &Value| format!("{} {}", manifest["kind"], manifest["metadata"]["name"]).replace('"', "");
    Ok(manifest::parse(&text)?.into_iter().map(|manifest| (name(&manifest), manifest)).collect())
}

#[tokio::test]
async fn what_a_monitoring_stack_reads_is_as_it_lies_in_its_files_and_left_out_where_nobody_knows_it() -> Result<()> {
    let control_plane = ControlPlane::shared().await?;
    let folder = tempfile::tempdir()?;
    let copied = Command::new("cp").arg("-r").arg(manifest::chart()).arg(folder.path()).status()?;
    assert!(copied.success());
    let copy = folder.path().join("fettle");
    let alerts = "groups:\n- name: fettle\n  rules:\n  - {alert: A, expr: up == 0, annotations: {summary: 'in {{ $labels.namespace }}'}}\n";
    let dashboard = "{\"title\": \"Fettle\", \"expr\": \"sum by (le) ({{x}})\"}\n";
    fs::create_dir_all(copy.join("monitoring"))?;
    fs::write(copy.join("monitoring/alerts.yaml"), alerts)?;
    fs::write(copy.join("monitoring/dashboard.json"), dashboard)?;
    let copy = copy.display().to_string();

    let all =
        rendered(&control_plane, &copy, &[&OPERATOR[..], &["--set", "monitoring.dashboard.enabled=true"]].concat())
            .await?;
    let rule = &all["PrometheusRule fettle"]["spec"];
    assert_eq!(rule, &manifest::parse(alerts)?[0]);
    assert_eq!(all["ConfigMap fettle-dashboard"]["data"]["fettle.json"], dashboard);
    // what it scrapes are the Services with that label, one for each kind of pod
    let wanted = &all["ServiceMonitor fettle"]["spec"]["selector"]["matchLabels"];
    let wanted = wanted.as_object().unwrap();
    let scraped: Vec<&String> = all
        .iter()
        .filter(|(name, _)| name.starts_with("Service "))
        .filter(|(_, it)| wanted.iter().all(|(label, value)| &it["metadata"]["labels"][label] == value))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(scraped, ["Service fettle-bridge-pods", "Service fettle-controller"]);

    let none = rendered(&control_plane, &copy, &[]).await?;
    let off = "monitoring.serviceMonitor.enabled=false,monitoring.prometheusRule.enabled=false";
    let switched_off = rendered(&control_plane, &copy, &[&OPERATOR[..], &["--set", off]].concat()).await?;
    for some in [none, switched_off] {
        let names: Vec<&String> =
            some.keys().filter(|name| name.contains("Monitor") || name.contains("Rule ")).collect();
        assert!(names.is_empty() && !some.contains_key("ConfigMap fettle-dashboard"), "{names:?}");
    }
    Ok(())
}

/// Two installations in one cluster: one of them brings what belongs to all, and neither knows of the other.
#[tokio::test]
async fn it_is_installed_twice_side_by_side() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let (first, second) = (control_plane.namespace("first").await?, control_plane.namespace("second").await?);
    let install = |namespace: &str, set: &str| {
        let args = ["install", "fettle", &chart(), "--namespace", namespace, "--set", set].map(str::to_owned);
        let control_plane = control_plane.clone();
        async move { control_plane.helm(&args.each_ref().map(String::as_str)).await }
    };
    install(&first.name, "clusterScoped=true").await?;
    let refused = install(&second.name, "clusterScoped=true").await.err().map(|error| error.to_string());
    assert!(
        refused.is_some_and(|error| error.contains("invalid ownership metadata")),
        "the second took what is the first's"
    );
    install(&second.name, "clusterScoped=false").await?;

    // everything else is in its own namespace
    let chart = chart();
    let all = rendered(&control_plane, &chart, &["--namespace", "there", "--set", "clusterScoped=false"]).await?;
    let elsewhere: Vec<_> =
        all.iter().filter(|(_, it)| it["metadata"]["namespace"] != "there").map(|(name, _)| name).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");

    // the first goes, and what the second needs stays
    second
        .apply_yaml(
            "{apiVersion: fettle.dev/v1alpha1, kind: Device, metadata: {name: a}, spec: {mac: '02:00:5e:00:53:01'}}",
        )
        .await?;
    control_plane.helm(&["uninstall", "fettle", "--namespace", &first.name]).await?;
    second.kubectl(&["get", "device", "a"]).await?;
    let workloads = second.kubectl(&["get", "deployments,statefulsets,roles", "-o", "name"]).await?;
    assert!(
        workloads.contains("deployment.apps/fettle-controller") && workloads.contains("fettle-bridge"),
        "{workloads}"
    );

    // asked to, it takes the definitions away, too
    let gone = rendered(&control_plane, &chart, &["--set", "crds.keep=false"]).await?;
    let definitions: Vec<_> = gone.iter().filter(|(name, _)| name.starts_with("CustomResourceDefinition ")).collect();
    assert!(definitions.len() == 5 && definitions.iter().all(|(_, it)| it["metadata"]["annotations"].is_null()));
    Ok(())
}

/// What people may do who have a role of Kubernetes' own, to which ours are added.
#[tokio::test]
async fn who_may_edit_may_declare_and_say_something_of_a_rollout_and_writes_no_status() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let namespace = control_plane.namespace("people").await?;
    control_plane.helm(&["install", "fettle", &chart(), "--namespace", &namespace.name]).await?;
    for role in ["view", "edit", "admin"] {
        let label = format!("--selector=rbac.authorization.k8s.io/aggregate-to-{role}=true");
        let found = namespace.kubectl(&["get", "clusterroles", &label, "-o", "name"]).await?;
        assert!(found.contains(&format!("/fettle-{role}")), "{found}");
        let (role, user) = (format!("--clusterrole=fettle-{role}"), format!("--user={role}"));
        namespace.kubectl(&["create", "rolebinding", user.trim_start_matches("--user="), &role, &user]).await?;
    }
    for (who, verb, what, expected) in [
        ("view", "watch", "devicerollouts.fettle.dev", true),
        ("view", "patch", "devicegroups.fettle.dev", false),
        ("edit", "create", "firmwares.fettle.dev", true),
        ("edit", "patch", "devicerollouts.fettle.dev", true),
        ("edit", "create", "devicerollouts.fettle.dev", false),
        ("edit", "delete", "devicerollouts.fettle.dev", false),
        ("edit", "patch", "devices.fettle.dev/status", false),
        ("admin", "delete", "devicerollouts.fettle.dev", true),
    ] {
        let user = format!("--as={who}");
        let (resource, sub) = what.split_once('/').unwrap_or((what, ""));
        let sub = format!("--subresource={sub}");
        let args = ["auth", "can-i", verb, resource, &user, &sub];
        let may = || async { namespace.kubectl(&args).await.is_ok_and(|said| said.trim() == "yes") };
        if !expected {
            assert!(!may().await, "{who} may {verb} {what}");
            continue;
        }
        let granted = || async { may().await.then_some(()) };
        namespace.eventually(&format!("{who} may {verb} {what}"), Duration::from_secs(30), granted).await?;
    }
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
    // each its own Lease
    for (who, lease, expected) in [
        (controller, "fettle-controller", true),
        (controller, "fettle-bridge-0", false),
        (bridge, "fettle-bridge-0", true),
        (bridge, "fettle-controller", false),
    ] {
        let user = format!("--as=system:serviceaccount:{}:{who}", namespace.name);
        let lease = format!("leases.coordination.k8s.io/{lease}");
        let may = namespace.kubectl(&["auth", "can-i", "update", &lease, &user]).await;
        assert_eq!(may.is_ok_and(|said| said.trim() == "yes"), expected, "{who} {lease}");
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
