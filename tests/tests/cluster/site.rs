//! What these tests have: a cluster that runs pods and has the image, a namespace with a release of the chart, and devices on
//! this machine, outside of the cluster.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::HEXLOWER;
use fettle_crds::{Device, DeviceGroup};
use fettle_device::{DeviceHandle, DeviceSpec, Fleet, FleetConfig, FleetHandle, image};
use fettle_protocol::Mac;
use fettle_tests::control_plane::{GIVEN_KUBECONFIG, GIVEN_LOAD};
use fettle_tests::dev::cluster::{fettle_image, image_name};
use fettle_tests::{ControlPlane, Node, TestNamespace, manifest, node, say};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;
use kube::api::{ListParams, PostParams};
use sha2::{Digest, Sha256};

/// On a machine that compiles beside it.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// What helm waits, likewise.
const HELM_WAITS: &str = "--timeout=240s";

pub const MODEL: &str = "S5700";

/// What devices have at first, and what they are taken to, one after the other.
pub const VERSIONS: [&str; 5] = ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"];

/// A cluster, and what keeps it alive.
pub struct Cluster {
    control_plane: ControlPlane,
    pub node: Option<Node>,
}

impl Cluster {
    /// The one that was given, else one of our own; nothing where there can be none, after a line that says why.
    pub async fn find() -> Result<Option<Cluster>> {
        let archive = tempfile::Builder::new().prefix("fettle-image-").tempdir()?;
        let path = archive.path().join("fettle.tar");
        let write = {
            let path = path.clone();
            move || fettle_image(&image_name()?)?.write(&path)
        };
        if let Some(kubeconfig) = env::var_os(GIVEN_KUBECONFIG) {
            let Some(load) = env::var(GIVEN_LOAD).ok().filter(|load| !load.is_empty()) else {
                return left_out(
                    "a cluster was given, and not how an image gets there: LOAD='kind load image-archive'",
                );
            };
            tokio::task::spawn_blocking(write).await??;
            let loaded = Command::new("sh").args(["-c", &format!("{load} \"$0\"")]).arg(&path).status()?;
            ensure!(loaded.success(), "{load} {}: {loaded}", path.display());
            let control_plane = ControlPlane::given(&PathBuf::from(kubeconfig))?;
            return Ok(Some(Cluster { control_plane, node: None }));
        }
        if let Some(obstacle) = node::obstacle() {
            return left_out(&obstacle);
        }
        // the one takes the disk, the other the processor
        let (node, written) = tokio::join!(Node::start(), tokio::task::spawn_blocking(write));
        let node = node?;
        written??;
        node.load(&path).await?;
        Ok(Some(Cluster { control_plane: node.control_plane().clone(), node: Some(node) }))
    }
}

/// Where all tests have to run, leaving some out is a failure.
fn left_out(why: &str) -> Result<Option<Cluster>> {
    ensure!(env::var_os(node::REQUIRED).is_none(), "{why}, and {} is set", node::REQUIRED);
    say!("left out: tests of the chart on a real node. {why}");
    Ok(None)
}

/// A namespace in which the strictest pod security is enforced, with images for the bridge.
pub struct Site {
    pub namespace: TestNamespace,
    fleets: Vec<FleetHandle>,
}

impl Site {
    pub async fn new(cluster: &Cluster, name: &str) -> Result<Site> {
        let namespace = cluster.control_plane.namespace(name).await?;
        let enforce = "pod-security.kubernetes.io/enforce=restricted";
        namespace.kubectl(&["label", "namespace", &namespace.name, enforce]).await?;
        let images = VERSIONS.map(|version| (version.to_owned(), ByteString(built(version))));
        let mut map = ConfigMap { binary_data: Some(images.into_iter().collect()), ..ConfigMap::default() };
        map.metadata.name = Some("images".to_owned());
        namespace.api::<ConfigMap>().create(&PostParams::default(), &map).await?;
        Ok(Site { namespace, fleets: Vec::new() })
    }

    /// Runs `helm WORD fettle CHART` with values that make seconds of what takes minutes otherwise, and waits as helm does.
    pub async fn helm(&self, word: &str, set: &str) -> Result<()> {
        let chart = manifest::chart().display().to_string();
        let quick = "bridge.service.type=LoadBalancer,bridge.replicas=2,bridge.files.configMap.name=images,leaseDuration=4s,\
                     reconnectGrace=5s,bridge.settle=300ms,controller.retryBackoff=300ms,logs.format=text";
        let mut args = vec![word, "fettle", &chart, "--set", quick, "--set", set];
        args.extend((word == "install").then_some("--take-ownership"));
        self.helm_waits(&args).await
    }

    /// Runs helm, and waits until what it did is in force.
    pub async fn helm_waits(&self, args: &[&str]) -> Result<()> {
        let namespace = ["--namespace", &self.namespace.name, "--wait", HELM_WAITS];
        let done = self.namespace.control_plane().helm(&[args, &namespace].concat()).await;
        if done.is_err() {
            say!("{}", self.pods().await);
        }
        done.map(drop)
    }

    /// What runs and what it said last.
    pub async fn pods(&self) -> String {
        let pods = self.namespace.kubectl(&["get", "pods,services,leases", "-o", "wide"]).await;
        let described = self.namespace.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).await;
        let all = ["logs", "--selector=app.kubernetes.io/instance=fettle", "--tail=40", "--prefix", "--ignore-errors"];
        let logs = self.namespace.kubectl(&all).await;
        [pods, described, logs].map(|part| part.unwrap_or_else(|error| error.to_string())).join("\n")
    }

    /// Declares the release of each version.
    pub async fn releases(&self) -> Result<()> {
        for version in &VERSIONS[1..] {
            let sha256 = HEXLOWER.encode(&Sha256::digest(built(version)));
            self.apply(&format!(
                "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: access-{version}}}\nspec:\n  version: {version}\n  images: [{{models: [{MODEL}], source: {{file: {{path: {version}}}}}, sha256: {sha256}}}]\n"
            ))
            .await?;
        }
        Ok(())
    }

    /// Declares that the group, which has the devices with its name as their role, wants that version.
    pub async fn wants(&self, group: &str, transfer: &str, version: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {{name: {group}}}\nspec:\n  selector: {{matchLabels: {{role: {group}}}}}\n  firmware: {{name: access-{version}}}\n  transfer: {transfer}\n  logs: {{upload: Never}}\n  rollout: {{maxUnavailable: 3, deviceTimeout: 60s, retries: 5}}\n"
        ))
        .await
    }

    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.namespace.apply_yaml(yaml).await
    }

    /// Declares strict devices and switches them on: they call the Service, and know no ports but the standard ones.
    pub async fn switch_on(&mut self, group: &str, first: u8, count: u8) -> Result<Vec<DeviceHandle>> {
        let mut devices = Vec::new();
        for number in first..first + count {
            let mac = Mac::new([0x02, 0x00, 0x5e, 0x00, 0x53, number]);
            self.apply(&format!(
                "apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: {group}-{number}, labels: {{role: {group}}}}}\nspec: {{mac: \"{mac}\"}}\n"
            ))
            .await?;
            let mut device = DeviceSpec::new(mac, MODEL, VERSIONS[0]);
            device.timings.install = Duration::from_millis(500);
            device.timings.restart = Duration::from_millis(500);
            device.timings.backoff.first = Duration::from_millis(300);
            device.timings.backoff.max = Duration::from_secs(2);
            // a packet to an address that nobody has any more is lost, not refused
            device.timings.connect = Duration::from_secs(2);
            device.timings.transfer_idle = Duration::from_secs(10);
            devices.push(device);
        }
        let fleet = Fleet::start(FleetConfig::new(vec![self.bridge().await?], devices))?;
        let handles = fleet.devices();
        self.fleets.push(fleet);
        Ok(handles)
    }

    /// Where devices call: any replica may answer.
    pub async fn bridge(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(IpAddr::V4(self.address("fettle-bridge").await?), 7070))
    }

    /// The address that the load balancer gave to a Service.
    pub async fn address(&self, service: &str) -> Result<Ipv4Addr> {
        let found: Service = self.namespace.api().get(service).await?;
        let status = found.status.and_then(|status| status.load_balancer?.ingress?.into_iter().next()?.ip);
        let address = status.with_context(|| format!("the Service {service} has no address"))?;
        Ok(address.parse()?)
    }

    /// Waits until the group says that all of its devices are current, and that none of them has failed.
    pub async fn all_current(&self, group: &str, devices: usize) -> Result<()> {
        let ready = |group: &DeviceGroup| {
            let Some(status) = &group.status else { return false };
            status.observed_generation == group.metadata.generation
                && status.counts.current == devices as i64
                && status.conditions.iter().any(|is| is.type_ == "Ready" && is.status == "True")
        };
        let waited = self.namespace.wait_for(group, "has all devices current", PATIENCE, ready).await;
        if waited.is_err() {
            say!("{}\n{}", self.pods().await, self.fleets.iter().map(FleetHandle::dump).collect::<String>());
        }
        let failed = waited?.status.map(|status| status.counts.failed);
        ensure!(failed == Some(0), "{failed:?} devices of {group} have failed");
        Ok(())
    }

    /// The names of all Devices that have a session.
    pub async fn connected(&self) -> Result<Vec<String>> {
        let devices = self.namespace.api::<Device>().list(&ListParams::default()).await?;
        let has = |device: &Device| device.status.as_ref().is_some_and(|status| status.session.is_some());
        Ok(devices.items.iter().filter(|device| has(device)).map(Device::name_any).collect())
    }
}

/// The image of a version: the same bytes each time.
fn built(version: &str) -> Vec<u8> {
    image::build(MODEL, version, 48 * 1024)
}
