//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager, on loopback, with RBAC on.
//!
//! No kubelet and no scheduler: nothing here runs pods. What Fettle's tests need of Kubernetes is its API server, and
//! of its controllers those for namespaces, service accounts and garbage collection. Ready in about four seconds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::namespace::TestNamespace;
use crate::pki::Pki;
use crate::process::{Process, Spec};
use crate::tools::{self, Tool};
use crate::{kubeconfig, manifest, ports};

/// Names the kubeconfig of a cluster to use instead of starting a control plane. The user's own `KUBECONFIG` is
/// deliberately not looked at: nobody's tests should run against whatever cluster they worked on last.
pub const GIVEN_KUBECONFIG: &str = "FETTLE_KUBECONFIG";

/// The command that brings an image to that cluster: the archive becomes its last argument.
pub const GIVEN_LOAD: &str = "FETTLE_CLUSTER_LOAD";

/// Names the administrator's kubeconfig of a control plane that somebody started for this test run, and will throw away.
pub const SHARED_KUBECONFIG: &str = "FETTLE_TEST_RUN_KUBECONFIG";

/// Names a folder that goes with this test run. A test program cannot remove what all its tests share: nothing of it runs
/// after the last of them.
pub const RUN_FOLDER: &str = "FETTLE_TEST_RUN_FOLDER";

/// The folder of logs, in the folder of a control plane or an installation.
pub const LOGS: &str = "logs";

/// A machine that builds programs beside it takes its time; one that needs longer than this is stuck.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How often a start is tried, each time on other ports: another process may take a port between our look and our use.
const STARTS: usize = 4;

/// A control plane, or a handle to one that was there already. Clones are the same control plane, which ends with the
/// last of them.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Fields drop in this order: first the processes, then the folder that they write to.
    processes: Mutex<Option<Processes>>,
    kind: Kind,
    folder: PathBuf,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    _temporary: Option<TempDir>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Somebody's cluster: what a test makes there, it removes.
    Given,
    /// Thrown away as a whole after the test run.
    Disposable,
    /// As before, and its processes are ours.
    Ours(Box<Setup>),
}

/// What a start of the API server needs, and a start after a stop needs unchanged.
#[derive(Clone, Debug)]
struct Setup {
    pki: Pki,
    etcd_port: u16,
    etcd_peer_port: u16,
    api_port: u16,
    sweep: Option<PathBuf>,
}

#[derive(Debug)]
struct Processes {
    controller_manager: Process,
    api_server: Option<Process>,
    etcd: Process,
}

impl ControlPlane {
    /// The control plane of this test run: the one that [`SHARED_KUBECONFIG`] or [`GIVEN_KUBECONFIG`] leads to, else
    /// one that the first test of the process starts. Has the CRDs.
    pub async fn shared() -> Result<ControlPlane> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        let start = || async {
            let control_plane = if let Some(path) = env::var_os(SHARED_KUBECONFIG) {
                Self::attach(Path::new(&path), Kind::Disposable)?
            } else if let Some(path) = env::var_os(GIVEN_KUBECONFIG) {
                Self::given(Path::new(&path))?
            } else {
                Self::start().await?
            };
            control_plane.install_crds().await?;
            anyhow::Ok(control_plane)
        };
        SHARED.get_or_try_init(start).await.cloned()
    }

    /// A control plane of one's own, for tests that stop its API server. It has no CRDs yet.
    pub async fn start() -> Result<ControlPlane> {
        let folder = tempfile::Builder::new().prefix("fettle-").tempdir()?;
        let path = folder.path().to_owned();
        Self::start_in(&path, Some(folder)).await
    }

    /// A control plane that keeps its data in `folder`, which stays.
    pub async fn start_at(folder: &Path) -> Result<ControlPlane> {
        Self::start_in(folder, None).await
    }

    /// The cluster that `kubeconfig` leads to.
    pub fn given(kubeconfig: &Path) -> Result<ControlPlane> {
        Self::attach(kubeconfig, Kind::Given)
    }

    /// The one that `kubeconfig` leads to, which somebody started and will throw away.
    pub(crate) fn disposable(kubeconfig: &Path) -> Result<ControlPlane> {
        Self::attach(kubeconfig, Kind::Disposable)
    }

    async fn start_in(folder: &Path, temporary: Option<TempDir>) -> Result<ControlPlane> {
        let programs = tokio::task::spawn_blocking(Programs::find).await??;
        fs::create_dir_all(folder.join(LOGS))?;
        let pki = Pki::create(&folder.join("pki"))?;
        let admin = folder.join("admin.kubeconfig");
        let mut attempt = 1;
        let (setup, processes) = loop {
            let setup = Setup {
                pki: pki.clone(),
                etcd_port: ports::free()?,
                etcd_peer_port: ports::free()?,
                api_port: ports::free()?,
                sweep: temporary.as_ref().map(|folder| folder.path().to_owned()),
            };
            kubeconfig::write_admin(&admin, &format!("https://127.0.0.1:{}", setup.api_port), &pki)?;
            match start_processes(folder, &programs, &setup, &admin).await {
                Ok(processes) => break (setup, processes),
                Err(Failure::PortTaken(_)) if attempt < STARTS => attempt += 1,
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
            }
        };
        Ok(ControlPlane {
            inner: Arc::new(Inner {
                processes: Mutex::new(Some(processes)),
                kind: Kind::Ours(Box::new(setup)),
                folder: folder.to_owned(),
                kubeconfig: admin,
                kubectl: programs.kubectl,
                _temporary: temporary,
            }),
        })
    }

    fn attach(kubeconfig: &Path, kind: Kind) -> Result<ControlPlane> {
        let mut names = tempfile::Builder::new();
        names.prefix("fettle-");
        let (folder, temporary) = match env::var_os(RUN_FOLDER) {
            Some(run) => (names.tempdir_in(run)?.keep(), None),
            None => {
                let folder = names.tempdir()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let kubeconfig =
            kubeconfig.canonicalize().with_context(|| format!("no kubeconfig {}", kubeconfig.display()))?;
        Ok(ControlPlane {
            inner: Arc::new(Inner {
                processes: Mutex::new(None),
                kind,
                folder,
                kubeconfig,
                kubectl: tools::find(Tool::Kubectl)?,
                _temporary: temporary,
            }),
        })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.inner.kubeconfig
    }

    /// The program kubectl of the version that fits.
    pub fn kubectl_program(&self) -> &Path {
        &self.inner.kubectl
    }

    /// A folder of this control plane's, for kubeconfigs, logs and data of what runs on it.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Whether all that was made on it is thrown away with it.
    pub(crate) fn is_disposable(&self) -> bool {
        match self.inner.kind {
            Kind::Given => false,
            Kind::Disposable | Kind::Ours(_) => true,
        }
    }

    /// Name, pid and program of each process that was started for it, in the order of their start.
    pub fn processes(&self) -> Vec<(String, u32, PathBuf)> {
        let processes = self.lock();
        let Some(Processes { controller_manager, api_server, etcd }) = processes.as_ref() else { return Vec::new() };
        let running = [Some(etcd), api_server.as_ref(), Some(controller_manager)].into_iter().flatten();
        running.map(|process| (process.name().to_owned(), process.pid(), process.program().to_owned())).collect()
    }

    /// Lets its processes run on after this one has ended.
    pub fn release(&self) {
        if let Some(Processes { controller_manager, api_server, etcd }) = self.lock().as_mut() {
            [Some(etcd), api_server.as_mut(), Some(controller_manager)]
                .into_iter()
                .flatten()
                .for_each(Process::release);
        }
    }

    /// An administrator's client, for the current async runtime.
    pub async fn client(&self) -> Result<Client> {
        kubeconfig::client(&self.inner.kubeconfig).await
    }

    /// A namespace with a name of its own that begins with `prefix`.
    pub async fn namespace(&self, prefix: &str) -> Result<TestNamespace> {
        TestNamespace::create(self, prefix).await
    }

    /// Applies the chart's CRDs, and returns when the API server serves them.
    pub async fn install_crds(&self) -> Result<()> {
        manifest::install_crds(&self.client().await?).await
    }

    /// Runs kubectl as administrator; gives what it printed, and as error what it complained about.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with_input(args, "").await
    }

    /// As [`ControlPlane::kubectl`], with text for `-f -`.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.run(&self.inner.kubectl, args, input).await
    }

    /// Runs helm as administrator.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        let helm = tokio::task::spawn_blocking(|| tools::find(Tool::Helm)).await??;
        self.run(&helm, args, "").await
    }

    /// Runs a client program, which keeps its caches here and not in the user's home.
    async fn run(&self, program: &Path, args: &[&str], input: &str) -> Result<String> {
        let name = program.file_name().unwrap_or_default().display();
        let mut child = Command::new(program)
            .args(args)
            .env("KUBECONFIG", &self.inner.kubeconfig)
            .env("KUBECACHEDIR", self.inner.folder.join("kubectl-cache"))
            .env("HELM_CACHE_HOME", self.inner.folder.join("helm/cache"))
            .env("HELM_CONFIG_HOME", self.inner.folder.join("helm/config"))
            .env("HELM_DATA_HOME", self.inner.folder.join("helm/data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // The program may end before it has read all: its exit status tells why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            // helm's linter complains on standard output
            let said = [output.stderr, output.stdout].concat();
            bail!("{name} {}: {}", args.join(" "), String::from_utf8_lossy(&said).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills the API server; etcd keeps what it knew. Only for a control plane of one's own.
    pub fn stop_api_server(&self) -> Result<()> {
        let mut processes = self.lock();
        let processes = processes.as_mut().context("this API server was not started here")?;
        if let Some(mut api_server) = processes.api_server.take() {
            api_server.kill();
        }
        Ok(())
    }

    /// Starts the API server again, at the address that it had, and returns when it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        let Kind::Ours(setup) = &self.inner.kind else { bail!("this API server was not started here") };
        let program = tokio::task::spawn_blocking(|| tools::find(Tool::KubeApiServer)).await??;
        let mut api_server = Process::spawn(setup.api_server(&self.inner.folder, &program))?;
        wait_ready(&self.client().await?, &mut [&mut api_server]).await.map_err(Failure::into_error)?;
        if let Some(processes) = self.lock().as_mut() {
            processes.api_server = Some(api_server);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Processes>> {
        self.inner.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Processes {
    /// From the top down, so that none complains into its log about the one below.
    fn drop(&mut self) {
        self.controller_manager.kill();
        if let Some(api_server) = &mut self.api_server {
            api_server.kill();
        }
        self.etcd.kill();
    }
}

struct Programs {
    etcd: PathBuf,
    api_server: PathBuf,
    controller_manager: PathBuf,
    kubectl: PathBuf,
}

impl Programs {
    fn find() -> Result<Self> {
        Ok(Programs {
            etcd: tools::find(Tool::Etcd)?,
            kubectl: tools::find(Tool::Kubectl)?,
            api_server: tools::find(Tool::KubeApiServer)?,
            controller_manager: tools::find(Tool::KubeControllerManager)?,
        })
    }
}

impl Setup {
    fn spec(&self, name: &str, folder: &Path, program: &Path, args: Vec<String>) -> Spec {
        Spec {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            env: Vec::new(),
            log: folder.join(LOGS).join(format!("{name}.log")),
            sweep: None,
        }
    }

    fn etcd(&self, folder: &Path, program: &Path) -> Spec {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        let args = vec![
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // nothing here has to survive a power cut, and a disk's flush is what etcd waits for most
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        Spec { sweep: self.sweep.clone(), ..self.spec("etcd", folder, program, args) }
    }

    fn api_server(&self, folder: &Path, program: &Path) -> Spec {
        let Pki { ca, server_certificate, server_key, token_key, token_public_key, .. } = &self.pki;
        let args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.api_port),
            format!("--tls-cert-file={}", server_certificate.display()),
            format!("--tls-private-key-file={}", server_key.display()),
            format!("--client-ca-file={}", ca.display()),
            format!("--service-account-key-file={}", token_public_key.display()),
            format!("--service-account-signing-key-file={}", token_key.display()),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            // loopback is no address for the Service `kubernetes`
            "--endpoint-reconciler-type=none".to_owned(),
            // One tenant on two cores: queues would only add their own cost. The plain limits stay, far above what a
            // fleet in a test reaches.
            "--enable-priority-and-fairness=false".to_owned(),
            "--max-requests-inflight=1000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.spec("kube-apiserver", folder, program, args)
    }

    fn controller_manager(&self, folder: &Path, program: &Path, kubeconfig: &Path) -> Spec {
        let args = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            // the others would watch for pods and nodes that never come
            "--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        self.spec("kube-controller-manager", folder, program, args)
    }
}

/// Why a start failed, as far as it matters for trying again.
enum Failure {
    PortTaken(anyhow::Error),
    Other(anyhow::Error),
}

impl Failure {
    fn into_error(self) -> anyhow::Error {
        match self {
            Failure::PortTaken(error) | Failure::Other(error) => error,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Other(error.into())
    }
}

async fn start_processes(
    folder: &Path,
    programs: &Programs,
    setup: &Setup,
    admin: &Path,
) -> Result<Processes, Failure> {
    let _ = fs::remove_dir_all(folder.join("etcd"));
    let mut etcd = Process::spawn(setup.etcd(folder, &programs.etcd))?;
    let mut api_server = Process::spawn(setup.api_server(folder, &programs.api_server))?;
    let client = kubeconfig::client(admin).await?;
    if let Err(failure) = wait_ready(&client, &mut [&mut etcd, &mut api_server]).await {
        api_server.kill();
        etcd.kill();
        return Err(failure);
    }
    // It gives up where no API server answers within ten seconds, so it comes last. Nothing has to wait for it.
    let controller_manager = Process::spawn(setup.controller_manager(folder, &programs.controller_manager, admin))?;
    Ok(Processes { controller_manager, api_server: Some(api_server), etcd })
}

/// Waits for `/readyz`, which turns good when all that a start does is done; a port is open long before.
async fn wait_ready(client: &Client, processes: &mut [&mut Process]) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new()).map_err(anyhow::Error::from)?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
        if matches!(answer, Ok(Ok(_))) {
            return Ok(());
        }
        for process in processes.iter_mut() {
            if let Some(status) = process.exited() {
                let log = process.log_tail(200);
                let error = anyhow::anyhow!("{} ended ({status}):\n{}", process.name(), process.log_tail(10));
                let taken = log.contains("address already in use");
                return Err(if taken { Failure::PortTaken(error) } else { Failure::Other(error) });
            }
        }
        if Instant::now() > deadline {
            let logs: Vec<String> = processes.iter().map(|p| format!("{}:\n{}", p.name(), p.log_tail(20))).collect();
            let seconds = READY_WITHIN.as_secs();
            return Err(Failure::Other(anyhow::anyhow!("no API server after {seconds} s\n{}", logs.join("\n"))));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
