//! A real node of Kubernetes, with its control plane: pods really run, Services and DNS work, and Services of type
//! LoadBalancer get addresses that this machine reaches.
//!
//! It lives in namespaces of its own (processes, mounts, network), as root on Linux. Of what it does the machine sees one
//! end of a cable (`fettle-nN`) with a route to `198.18.0.0/15`, the networks for benchmarks, which are nobody's; its
//! control groups; and its folder. All of that goes with the node, also when its starter is killed. Several can be up
//! at a time: each has a number. Ready in about ten seconds, with 0.7 GiB before the first pod.
//!
//! [`setup`](self) says what the programs are told; `enter.sh` makes the namespaces, and sweeps; `init.sh` is the node's
//! first process.

mod setup;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command as BlockingCommand;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::{Api, Client};
use tempfile::TempDir;
use tokio::process::Command;

use crate::control_plane::{ControlPlane, LOGS};
use crate::process::{Process, Spec};
use crate::{kubeconfig, manifest, tools};
use setup::{NODE, Numbered, Programs};

/// Set where the tests of a node have to run, and leaving them out is a failure.
pub const REQUIRED: &str = "FETTLE_NODE_REQUIRED";

/// A machine that builds programs beside it takes its time; one that needs longer than this is stuck.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// Processes that were killed have to be counted out of their control groups, and mounts to be undone.
const SWEPT_WITHIN: Duration = Duration::from_secs(20);

/// What `enter.sh` ends with where another node has the number.
const TAKEN: i32 = 75;

/// A node that runs, and ends with this.
#[derive(Debug)]
pub struct Node {
    process: Process,
    numbered: Numbered,
    folder: PathBuf,
    control_plane: ControlPlane,
    state: State,
    _temporary: Option<TempDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Released,
}

/// Why no node can run here, in one line that says what to do; nothing where one can.
pub fn obstacle() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("a node runs on Linux alone".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("a node needs root: run it with sudo, or as root".to_owned());
    }
    for (program, package) in [("unshare", "util-linux"), ("flock", "util-linux"), ("ip", "iproute2")] {
        if tools::installed(program).is_none() {
            return Some(format!("{program} is missing, which a node needs: apt-get install -y {package}"));
        }
    }
    let namespaces = ["--fork", "--pid", "--mount", "--uts", "--ipc", "--net", "true"];
    let tried = BlockingCommand::new("unshare").args(namespaces).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return Some("root may not make namespaces here: run it outside of this container, or privileged".to_owned());
    }
    None
}

impl Node {
    /// One whose folder goes with it.
    pub async fn start() -> Result<Node> {
        let folder = tempfile::Builder::new().prefix("fettle-node-").tempdir()?;
        let path = folder.path().to_owned();
        Self::start_in(&path, Some(folder)).await
    }

    /// One that keeps its logs in `folder`.
    pub async fn start_at(folder: &Path) -> Result<Node> {
        Self::start_in(folder, None).await
    }

    async fn start_in(folder: &Path, temporary: Option<TempDir>) -> Result<Node> {
        if let Some(obstacle) = obstacle() {
            bail!(obstacle);
        }
        let programs = tokio::task::spawn_blocking(Programs::find).await??;
        fs::create_dir_all(folder.join(LOGS))?;
        let sweep = temporary.as_ref().map(TempDir::path);
        for number in 0..Numbered::COUNT {
            let numbered = Numbered(number);
            let data = folder.join("node");
            let _ = fs::remove_dir_all(&data);
            let env = setup::write(folder, &data, numbered, &programs, sweep)?;
            let mut process = Process::spawn(Spec {
                name: numbered.name(),
                program: Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/enter.sh"),
                args: Vec::new(),
                env,
                log: folder.join(LOGS).join("node.log"),
                sweep: None,
            })?;
            match wait_ready(&mut process, folder).await {
                Ok(()) => {
                    let control_plane = ControlPlane::disposable(&admin(folder))?;
                    let state = State::Held;
                    let folder = folder.to_owned();
                    return Ok(Node { process, numbered, folder, control_plane, state, _temporary: temporary });
                }
                Err(Failure::Taken) => {}
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        bail!("{} nodes are up on this machine, and there are no further numbers", Numbered::COUNT)
    }

    /// The node's own control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        admin(&self.folder)
    }

    /// Which of the nodes of this machine it is.
    pub fn number(&self) -> u8 {
        self.numbered.0
    }

    /// The address at which pods reach this machine.
    pub fn host_address(&self) -> Ipv4Addr {
        self.numbered.host()
    }

    /// Name, pid and program of the process with which the node ends.
    pub fn process(&self) -> (String, u32, PathBuf) {
        (self.process.name().to_owned(), self.process.pid(), setup::unshare())
    }

    /// A program of those that the node runs on, such as `nft`, in the node's network.
    pub async fn in_network(&self, program: &str) -> Result<Command> {
        let first = fs::read_to_string(self.folder.join("node/first.pid")).context("this node is not up")?;
        let packages = tokio::task::spawn_blocking(tools::packages_of_a_node).await??;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", first.trim()))
            .arg(packages.join("usr/sbin").join(program))
            .env("LD_LIBRARY_PATH", setup::libraries(&packages))
            .kill_on_drop(true);
        Ok(command)
    }

    /// The addresses that its pods have, as a prefix.
    pub fn pods(&self) -> String {
        self.numbered.pods()
    }

    /// The address of its DNS.
    pub fn dns(&self) -> Ipv4Addr {
        self.numbered.dns()
    }

    /// Gives an image to the node.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        load(&self.folder, archive).await
    }

    /// What a person or a test looks for when something does not run.
    pub fn logs(&self) -> PathBuf {
        self.folder.join(LOGS)
    }

    /// Lets it run on after this process has ended.
    pub fn release(&mut self) {
        self.process.release();
        self.state = State::Released;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.state == State::Held {
            self.process.kill();
            let _ = swept(self.numbered.0);
        }
    }
}

/// Gives an image to the node whose folder this is.
pub async fn load(folder: &Path, archive: &Path) -> Result<()> {
    let first = fs::read_to_string(folder.join("node/first.pid")).context("this node is not up")?;
    // through the node's own view of files: the path of a socket may not be long
    let socket = format!("/proc/{}/root{}", first.trim(), setup::CONTAINERD);
    let packages = tokio::task::spawn_blocking(tools::packages_of_a_node).await??;
    let output = Command::new(packages.join("usr/bin/ctr"))
        .args(["--address", &socket, "--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start ctr")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the node does not take {}: {}", archive.display(), complaint.trim());
    Ok(())
}

/// Waits until nothing is left of the node of this number.
pub fn swept(number: u8) -> Result<()> {
    let deadline = Instant::now() + SWEPT_WITHIN;
    let lock = Numbered(number).lock()?;
    let file: File = OpenOptions::new().create(true).append(true).open(&lock)?;
    // the sweeper has it until the end
    while file.try_lock().is_err() {
        ensure!(Instant::now() < deadline, "node {number} has ended, and is not swept: {}", lock.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The number of the node whose folder this is, while it is up.
pub fn number(folder: &Path) -> Option<u8> {
    fs::read_to_string(folder.join("node/number")).ok()?.trim().parse().ok()
}

/// The administrator's kubeconfig of the node whose folder this is.
pub fn admin(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

enum Failure {
    Taken,
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Other(error.into())
    }
}

/// Waits for the API server, for the node, and for what each namespace needs before the first pod.
async fn wait_ready(process: &mut Process, folder: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    let client = kubeconfig::client(&admin(folder)).await?;
    let mut step = Step::ApiServer;
    loop {
        if let Some(status) = process.exited() {
            if status.code() == Some(TAKEN) {
                return Err(Failure::Taken);
            }
            return Err(anyhow::anyhow!("the node ended ({status}):\n{}", process.log_tail(10)).into());
        }
        match tokio::time::timeout(Duration::from_secs(5), step.is_done(&client)).await {
            Ok(Ok(true)) => match step.next() {
                Some(next) => step = next,
                None => return Ok(()),
            },
            _ if Instant::now() > deadline => {
                let logs = folder.join(LOGS);
                let (what, seconds) = (step.what(), READY_WITHIN.as_secs());
                let tail = fs::read_to_string(logs.join(step.log())).unwrap_or_default();
                let tail = crate::process::tail(&tail, 20);
                return Err(anyhow::anyhow!("{what} after {seconds} s, see {}:\n{tail}", logs.display()).into());
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    ApiServer,
    Dns,
    Node,
    ServiceAccount,
}

impl Step {
    fn next(self) -> Option<Step> {
        match self {
            Step::ApiServer => Some(Step::Dns),
            Step::Dns => Some(Step::Node),
            Step::Node => Some(Step::ServiceAccount),
            Step::ServiceAccount => None,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Step::ApiServer => "no API server",
            Step::Dns => "no rights for DNS",
            Step::Node => "the node is not ready",
            Step::ServiceAccount => "no service accounts",
        }
    }

    fn log(self) -> &'static str {
        match self {
            Step::ApiServer | Step::Dns => "kube-apiserver.log",
            Step::Node => "kubelet.log",
            Step::ServiceAccount => "kube-controller-manager.log",
        }
    }

    async fn is_done(self, client: &Client) -> Result<bool> {
        match self {
            Step::ApiServer => {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                Ok(client.request_text(request).await.is_ok())
            }
            Step::Dns => {
                for manifest in manifest::parse(setup::DNS_ROLES)? {
                    manifest::apply(client, "", &manifest).await?;
                }
                Ok(true)
            }
            Step::Node => {
                let node = Api::<NodeObject>::all(client.clone()).get(NODE).await?;
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                Ok(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
            }
            Step::ServiceAccount => {
                Ok(Api::<ServiceAccount>::namespaced(client.clone(), "default").get_opt("default").await?.is_some())
            }
        }
    }
}
