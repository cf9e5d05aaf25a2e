//! The harness itself: a control plane starts, serves, survives a restart of its API server, and leaves nothing behind.

#![allow(clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use fettle_tests::{ControlPlane, Node, node, say};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Api;

/// Whether a process of that pid is there; one that has ended and waits to be reaped is not.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn gone(what: &str, check: impl Fn() -> bool) {
    // A minute: the machine may be busy.
    for _ in 0..2400 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} is still there");
}

#[tokio::test]
async fn a_control_plane_ends_without_a_trace() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let folder = control_plane.folder().to_owned();
    let processes = control_plane.processes();
    assert_eq!(processes.len(), 3);
    assert!(processes.iter().all(|(_, pid, _)| runs(*pid)));
    assert!(control_plane.kubectl(&["version"]).await?.contains("Server Version: v1."));

    drop(control_plane);
    for (name, pid, _) in processes {
        assert!(!runs(pid), "{name} still runs");
    }
    assert!(!folder.exists(), "{} was left behind", folder.display());
    Ok(())
}

#[tokio::test]
async fn an_api_server_keeps_address_and_data_over_a_restart() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let namespace = control_plane.namespace("restart").await?;
    namespace.apply_yaml("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}, data: {a: b}}").await?;

    control_plane.stop_api_server()?;
    assert!(namespace.kubectl(&["get", "configmap", "kept"]).await.is_err());
    control_plane.start_api_server().await?;

    let kept = namespace.api::<ConfigMap>().get("kept").await?;
    assert_eq!(kept.data.unwrap()["a"], "b");
    Ok(())
}

#[tokio::test]
async fn a_namespace_has_kubectl_and_its_service_accounts_only_the_rights_they_were_given() -> Result<()> {
    let control_plane = ControlPlane::start().await?;
    let namespace = control_plane.namespace("identity").await?;
    assert!(control_plane.kubectl(&["get", "namespaces", "-o", "name"]).await?.contains(&namespace.name));
    namespace
        .apply_yaml(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [''], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: greeting}
data: {text: hello}
",
        )
        .await?;
    // made by the controller manager, so that one works, too
    namespace.wait_for::<ServiceAccount>("default", "is there", Duration::from_secs(30), |_| true).await?;

    let path = control_plane.folder().join("reader.kubeconfig");
    namespace.kubeconfig_for_service_account("reader", &path).await?;
    let client = fettle_tests::kubeconfig::client(&path).await?;
    let configmaps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    // The API server hears of roles as everybody does, by a watch.
    let may_read = || async { configmaps.get("greeting").await.ok() };
    namespace.eventually("the reader may read", Duration::from_secs(30), may_read).await?;
    let refused = configmaps.list(&Default::default()).await.unwrap_err();
    assert!(refused.to_string().contains("forbidden"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn everything_ends_when_the_starter_is_killed() -> Result<()> {
    // ends with the pipe, so that nothing of this test stays either
    let script = r#"echo "$FETTLE_TEST_RUN_KUBECONFIG"; cat"#;
    let mut starter = std::process::Command::new(env!("CARGO_BIN_EXE_dev"))
        .args(["test-env", "--", "sh", "-c", script])
        // also where this test run has a cluster that was given
        .env_remove("FETTLE_KUBECONFIG")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let _stdin = starter.stdin.take();
    let stdout = starter.stdout.take().unwrap();
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map(|_| line)
    })
    .await??;
    let folder = Path::new(line.trim()).parent().unwrap().to_owned();
    let folder_text = folder.display().to_string();
    let processes_of_it = || {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let uses_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            runs(*pid) && String::from_utf8_lossy(&line).contains(&folder_text)
        };
        all.filter(uses_it).collect::<Vec<u32>>()
    };
    assert!(processes_of_it().len() >= 3);

    starter.kill()?;
    starter.wait()?;
    gone("a process of the control plane", || processes_of_it().is_empty()).await;
    gone("the folder of the control plane", || !folder.exists()).await;
    Ok(())
}

/// What a node leaves on a machine while it is up, by the name that has its number in it.
fn traces(number: u8) -> Vec<String> {
    let mut traces = Vec::new();
    for folder in ["/sys/fs/cgroup", "/sys/class/net"] {
        let mut look = vec![PathBuf::from(folder)];
        // the hierarchies of control groups lie one deeper
        look.extend(fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
        for parent in look {
            for name in [format!("fettle-node-{number}"), format!("fettle-n{number}")] {
                let path = parent.join(name);
                traces.extend(path.exists().then(|| path.display().to_string()));
            }
        }
    }
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let of_it = routes.lines().filter(|line| line.starts_with(&format!("fettle-n{number}\t")));
    traces.extend(of_it.map(str::to_owned));
    traces
}

/// Says in one line why a test of a node is left out, where none can run. Where all tests have to run, that is a failure.
fn left_out() -> bool {
    let Some(obstacle) = node::obstacle() else { return false };
    assert!(std::env::var_os(node::REQUIRED).is_none(), "{obstacle}, and {} is set", node::REQUIRED);
    say!("left out: tests of a node. {obstacle}");
    true
}

#[tokio::test]
async fn a_node_ends_without_a_trace_also_when_its_starter_is_killed() -> Result<()> {
    if left_out() {
        return Ok(());
    }
    let node = Node::start().await?;
    let number = node.number();
    assert!(!traces(number).is_empty(), "this test does not see what a node leaves");
    let folder = node.logs().parent().unwrap().to_owned();
    drop(node);
    assert_eq!(traces(number), Vec::<String>::new());
    gone("the folder of the node", || !folder.exists()).await;

    // `make cluster`, killed while its node begins
    let folder = tempfile::tempdir()?;
    let starter = std::process::Command::new(env!("CARGO_BIN_EXE_dev"))
        .args(["cluster", "--folder"])
        .arg(folder.path())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut starter = starter?;
    let cable = folder.path().join("node/cable");
    gone("the time before the cable is plugged in", || cable.exists()).await;
    let number = node::number(folder.path()).unwrap();
    starter.kill()?;
    starter.wait()?;
    node::swept(number)?;
    assert_eq!(traces(number), Vec::<String>::new());
    assert!(!folder.path().join("node").exists());
    Ok(())
}

#[tokio::test]
async fn a_cluster_stays_until_it_is_taken_down_and_says_what_to_do_next() -> Result<()> {
    if left_out() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let dev = |word: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dev"));
        command.arg(word).arg("--folder").arg(folder.path()).output()
    };
    let up = dev("cluster")?;
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(up.status.success(), "{said}");
    let number = node::number(folder.path()).unwrap();
    let kubeconfig = said.lines().find_map(|line| line.trim().strip_prefix("export KUBECONFIG=")).unwrap();
    let nodes = ControlPlane::given(Path::new(kubeconfig))?.kubectl(&["get", "nodes"]).await?;
    assert!(nodes.contains(" Ready "), "{nodes}");
    // once more is no second one
    assert!(String::from_utf8_lossy(&dev("cluster")?.stderr).contains("up already"));

    let down = dev("cluster-down")?;
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!(traces(number), Vec::<String>::new());
    assert!(String::from_utf8_lossy(&dev("cluster-down")?.stderr).contains("no cluster is up"));
    Ok(())
}
