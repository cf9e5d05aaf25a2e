//! An installation of Fettle in a namespace: the controller and its bridges, as the chart describes them.
//!
//! Each program is a process of its own, under its own service account, with the arguments and environment that the
//! chart's workloads have. Changed are only addresses, ports and folders, which on one machine must differ, and what a
//! test asks for.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fettle_crds::Device;
use kube::api::ListParams;

use crate::chart::{BRIDGES, Pod, Rendered};
use crate::control_plane::LOGS;
use crate::namespace::TestNamespace;
use crate::ports;
use crate::program::{self, Program};

/// FTP transfers at a time, for each bridge. As many as the chart has; blocks for many installations in one test
/// program have to fit into the range of ports.
const PASSIVE_PORTS: u16 = 64;

/// A watch tells within milliseconds; on a machine that compiles beside it, within seconds.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);

/// How often a start is tried, each time on other ports.
const STARTS: usize = 3;

/// Wishes about an installation that is to be started.
pub struct Builder<'a> {
    namespace: &'a TestNamespace,
    env: BTreeMap<String, String>,
    bridges: usize,
    address: Ipv4Addr,
    passive_ports: u16,
    ports: Ports,
    folder: Option<PathBuf>,
}

/// Ports to use; a free one where none is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    pub device: Option<u16>,
    pub ftp: Option<u16>,
    pub tftp: Option<u16>,
    pub http: Option<u16>,
    /// The one that devices call, unless given.
    pub udp: Option<u16>,
    pub controller_metrics: Option<u16>,
    pub bridge_metrics: Option<u16>,
}

/// Controller and bridges, which end with it.
#[derive(Debug)]
pub struct Installation {
    controller: Program,
    bridges: Vec<Bridge>,
    rendered: Rendered,
    settings: Settings,
}

/// A bridge, and where devices find it.
#[derive(Debug)]
pub struct Bridge {
    program: Program,
    device: SocketAddr,
    ftp_port: u16,
    tftp_port: u16,
    http_port: u16,
    udp_port: u16,
    data: PathBuf,
}

/// What all programs of an installation share.
#[derive(Clone, Debug)]
struct Settings {
    folder: PathBuf,
    files: PathBuf,
    env: BTreeMap<String, String>,
    address: Ipv4Addr,
    passive_ports: u16,
    ports: Ports,
}

impl Installation {
    pub fn builder(namespace: &TestNamespace) -> Builder<'_> {
        Builder {
            namespace,
            env: BTreeMap::new(),
            bridges: 1,
            address: Ipv4Addr::LOCALHOST,
            passive_ports: PASSIVE_PORTS,
            ports: Ports::default(),
            folder: None,
        }
    }

    pub fn controller(&self) -> &Program {
        &self.controller
    }

    /// The first bridge; in most tests, the only one.
    pub fn bridge(&self) -> &Bridge {
        &self.bridges[0]
    }

    pub fn bridges(&self) -> &[Bridge] {
        &self.bridges
    }

    /// Starts one bridge more.
    pub async fn add_bridge(&mut self, namespace: &TestNamespace) -> Result<&Bridge> {
        let ordinal = self.bridges.len();
        let bridge = self.settings.start_bridge(namespace, &self.rendered, ordinal).await?;
        self.bridges.push(bridge);
        Ok(&self.bridges[ordinal])
    }

    /// Returns when every bridge that runs knows of as many Devices as the namespace has: a device that calls earlier is
    /// told that it is not declared.
    pub async fn devices_known(&self, namespace: &TestNamespace) -> Result<()> {
        let devices = namespace.api::<Device>();
        for bridge in &self.bridges {
            let program = &bridge.program;
            let what = format!("{} knows of all Devices", program.name);
            let knows = || async {
                if program.pid().is_none() || program.has_ended() {
                    return Some(());
                }
                // Counted anew each time: a bridge may record a device meanwhile.
                let declared = devices.list_metadata(&ListParams::default()).await.ok()?.items.len();
                let known = program.metric("fettle_bridge_devices_known", &[]).await.ok()?;
                (known == declared as f64).then_some(())
            };
            namespace.eventually(&what, KNOWN_WITHIN, knows).await?;
        }
        Ok(())
    }

    /// What `source.file.path` of a Firmware is relative to, for all bridges.
    pub fn files_dir(&self) -> &Path {
        &self.settings.files
    }

    /// Lets its programs run on after this process has ended.
    pub fn release(&self) {
        self.controller.release();
        self.bridges.iter().for_each(|bridge| bridge.program.release());
    }

    /// Logs, kubeconfigs and data of all its programs.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }
}

impl Bridge {
    /// To kill it, start it again, and read its metrics.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Where devices connect.
    pub fn device_address(&self) -> SocketAddr {
        self.device
    }

    pub fn ftp_port(&self) -> u16 {
        self.ftp_port
    }

    pub fn tftp_port(&self) -> u16 {
        self.tftp_port
    }

    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// From where it asks devices over UDP.
    pub fn udp_port(&self) -> u16 {
        self.udp_port
    }

    /// Its cache, and under `logs/` what devices uploaded.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }
}

impl Builder<'_> {
    /// Sets an environment variable of both programs: `FETTLE_SETTLE`, and any other of their flags.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Timings for tests that do not test the timings: what takes a minute in production takes seconds.
    pub fn quick(self) -> Self {
        self.env("FETTLE_LEASE_DURATION", "3s")
            .env("FETTLE_RECONNECT_GRACE", "3s")
            .env("FETTLE_SETTLE", "300ms")
            .env("FETTLE_RETRY_BACKOFF", "200ms")
    }

    /// How many bridges, instead of one.
    pub fn bridges(mut self, count: usize) -> Self {
        self.bridges = count;
        self
    }

    /// The address on which the bridges serve devices, and which they tell them; loopback otherwise.
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = address;
        self
    }

    /// How many FTP transfers at a time each bridge has ports for.
    pub fn passive_ports(mut self, count: u16) -> Self {
        self.passive_ports = count;
        self
    }

    /// Ports of the controller and the first bridge.
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// Where to keep logs, kubeconfigs and data, instead of a folder that ends with the control plane.
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Renders the chart, applies its identities and roles, and starts the programs; returns when all are ready.
    pub async fn start(self) -> Result<Installation> {
        let Builder { namespace, env, bridges, address, passive_ports, ports, folder } = self;
        if bridges == 0 || bridges > BRIDGES {
            bail!("an installation has between one and {BRIDGES} bridges");
        }
        let folder = folder.unwrap_or_else(|| namespace.control_plane().folder().join(&namespace.name));
        let files = folder.join("files");
        fs::create_dir_all(folder.join(LOGS))?;
        fs::create_dir_all(&files).with_context(|| format!("cannot make {}", files.display()))?;
        let settings = Settings { folder, files, env, address, passive_ports, ports };

        let rendered = Rendered::new(&namespace.name).await?;
        rendered.apply_without_workloads(&namespace.client, &namespace.name).await?;
        let controller = settings.start_controller(namespace, &rendered).await?;
        let mut started = Vec::new();
        for ordinal in 0..bridges {
            started.push(settings.start_bridge(namespace, &rendered, ordinal).await?);
        }
        Ok(Installation { controller, bridges: started, rendered, settings })
    }
}

impl Settings {
    async fn start_controller(&self, namespace: &TestNamespace, rendered: &Rendered) -> Result<Program> {
        let mut attempt = 1;
        loop {
            let pod = rendered.controller(&self.folder.join("controller"))?;
            let metrics = loopback(port(self.ports.controller_metrics)?);
            let controller = self.program(namespace, pod, metrics, BTreeMap::new()).await?;
            match controller.start().await {
                Ok(()) => return Ok(controller),
                Err(_) if attempt < STARTS && lost_a_port(&controller) => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_bridge(&self, namespace: &TestNamespace, rendered: &Rendered, ordinal: usize) -> Result<Bridge> {
        // Given ports are the first bridge's.
        let given = if ordinal == 0 { self.ports } else { Ports::default() };
        let mut attempt = 1;
        loop {
            let folder = self.folder.join(format!("bridge-{ordinal}"));
            let pod = rendered.bridge(ordinal, &folder)?;
            let data = PathBuf::from(pod.env.get("FETTLE_DATA_DIR").context("the chart sets no FETTLE_DATA_DIR")?);
            let device = SocketAddr::new(IpAddr::V4(self.address), port(given.device)?);
            let (ftp_port, tftp_port, http_port) = (port(given.ftp)?, port(given.tftp)?, port(given.http)?);
            let udp_port = given.udp.unwrap_or(device.port());
            let passive = ports::free_range(self.passive_ports)?;
            let metrics = loopback(port(given.bridge_metrics)?);
            let addresses = BTreeMap::from([
                ("FETTLE_ADVERTISE_IPV4".to_owned(), self.address.to_string()),
                ("FETTLE_ADVERTISE_FTP_PORT".to_owned(), ftp_port.to_string()),
                ("FETTLE_ADVERTISE_TFTP_PORT".to_owned(), tftp_port.to_string()),
                ("FETTLE_ADVERTISE_HTTP_PORT".to_owned(), http_port.to_string()),
                ("FETTLE_DEVICE_ADDRESS".to_owned(), device.to_string()),
                ("FETTLE_FTP_ADDRESS".to_owned(), format!("{}:{ftp_port}", self.address)),
                ("FETTLE_TFTP_ADDRESS".to_owned(), format!("{}:{tftp_port}", self.address)),
                ("FETTLE_HTTP_ADDRESS".to_owned(), format!("{}:{http_port}", self.address)),
                ("FETTLE_UDP_ADDRESS".to_owned(), format!("{}:{udp_port}", self.address)),
                (
                    "FETTLE_FTP_PASSIVE_PORTS".to_owned(),
                    format!("{passive}-{}", passive + self.passive_ports.saturating_sub(1)),
                ),
                ("FETTLE_FILES_DIR".to_owned(), self.files.display().to_string()),
            ]);
            let program = self.program(namespace, pod, metrics, addresses).await?;
            match program.start().await {
                Ok(()) => return Ok(Bridge { program, device, ftp_port, tftp_port, http_port, udp_port, data }),
                Err(_) if attempt < STARTS && lost_a_port(&program) => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// A pod of the chart as a process of this machine, not started yet.
    async fn program(
        &self,
        namespace: &TestNamespace,
        pod: Pod,
        metrics: SocketAddr,
        addresses: BTreeMap<String, String>,
    ) -> Result<Program> {
        let kubeconfig = self.folder.join(format!("{}.kubeconfig", pod.service_account));
        namespace.kubeconfig_for_service_account(&pod.service_account, &kubeconfig).await?;
        let mut env = pod.env;
        env.extend(addresses);
        env.insert("FETTLE_METRICS_ADDRESS".to_owned(), metrics.to_string());
        env.insert("FETTLE_LOG_FORMAT".to_owned(), "text".to_owned());
        env.insert("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
        env.extend(self.env.clone());
        let log = self.folder.join(LOGS).join(format!("{}.log", pod.name));
        namespace.watch_log(log.clone());
        Ok(Program::new(&pod.name, program::find(&pod.program)?, pod.args, env, metrics, log))
    }
}

fn port(given: Option<u16>) -> Result<u16> {
    given.map_or_else(ports::free, Ok)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Whether a program ended because somebody else was faster at a port: how systems name it, whatever the program says.
fn lost_a_port(program: &Program) -> bool {
    let log = fs::read_to_string(program.log()).unwrap_or_default();
    crate::process::tail(&log, 5).contains("Address already in use")
}
