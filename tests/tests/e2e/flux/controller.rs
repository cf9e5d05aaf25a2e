//! Flux' own kustomize-controller as a process, which serves the namespace of a test with an identity of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use fettle_tests::tools::{self, Tool};
use fettle_tests::{ControlPlane, Program, TestNamespace, ports};
use tokio::sync::OnceCell;

const SOURCES: &str = include_str!("sources.yaml");
const ROLE: &str = include_str!("role.yaml");

/// How often a start is tried, each time on other ports.
const STARTS: usize = 3;

/// A control plane of their own for the tests with Flux: its definitions are for the whole cluster, and on somebody's cluster
/// there may be another Flux, which would act as well.
pub async fn control_plane() -> Result<ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = || async {
        let control_plane = ControlPlane::start().await?;
        control_plane.install_crds().await?;
        let program = tokio::task::spawn_blocking(|| tools::find(Tool::KustomizeController)).await??;
        let definitions = tools::definitions_beside(&program);
        let definitions = std::fs::read_to_string(&definitions).with_context(|| definitions.display().to_string())?;
        for manifests in [SOURCES, &definitions] {
            control_plane.kubectl_with_input(&["apply", "--server-side", "-f", "-"], manifests).await?;
        }
        let all = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        control_plane.kubectl(&all).await?;
        anyhow::Ok(control_plane)
    };
    SHARED.get_or_try_init(start).await.cloned()
}

/// Starts it; it ends with what is returned.
pub async fn start(namespace: &TestNamespace) -> Result<Program> {
    let program = tokio::task::spawn_blocking(|| tools::find(Tool::KustomizeController)).await??;
    let role = ROLE.replace("NAMESPACE", &namespace.name);
    namespace.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &role).await?;
    let folder = namespace.control_plane().folder().join(format!("{}-flux", namespace.name));
    // What an earlier one left in the common folder for temporary files, it would take for its own and remove.
    let temporary = folder.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    let kubeconfig = folder.join("kubeconfig");
    namespace.kubeconfig_for_service_account("flux", &kubeconfig).await?;
    let log = folder.join("kustomize-controller.log");
    namespace.watch_log(log.clone());
    let mut attempt = 1;
    loop {
        let health = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let args = vec![
            format!("--health-addr={health}"),
            format!("--metrics-addr={metrics}"),
            "--watch-all-namespaces=false".to_owned(),
            "--log-encoding=console".to_owned(),
        ];
        let env = BTreeMap::from([
            ("KUBECONFIG".to_owned(), kubeconfig.display().to_string()),
            ("RUNTIME_NAMESPACE".to_owned(), namespace.name.clone()),
            ("TMPDIR".to_owned(), temporary.display().to_string()),
        ]);
        let flux = Program::new("kustomize-controller", program.clone(), args, env, health, log.clone());
        match flux.start().await {
            Ok(()) => return Ok(flux),
            // somebody else was faster at a port
            Err(_) if attempt < STARTS && std::fs::read_to_string(&log)?.contains("address already in use") => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
