//! What a node's programs are told: files in its folder, and the variables of its two scripts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::image::Image;
use crate::kubeconfig;
use crate::pki::{Authority, Pki, Place};
use crate::tools::{self, Tool};

/// The one node's name.
pub(super) const NODE: &str = "node";

/// containerd's socket, as the node sees it.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The image that holds a pod's namespaces together. It is never pulled.
const PAUSE: &str = "localhost/pause:1";

/// What DNS reads. Its identity is a certificate, as it runs outside of pods.
pub(super) const DNS_ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
- {apiGroups: [''], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: coredns}]
";

/// A node among those of this machine. Each has 1024 addresses of 198.18.0.0/15: the cable and the load balancer's, those
/// of Services, those of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbered(pub(super) u8);

impl Numbered {
    /// As many as the networks of 198.18.0.0/16 are enough for, sixteen for each.
    pub(super) const COUNT: u8 = 16;

    /// Of its control groups.
    pub(super) fn name(self) -> String {
        format!("fettle-node-{}", self.0)
    }

    /// The names of network interfaces have 15 characters at most.
    fn link(self) -> String {
        format!("fettle-n{}", self.0)
    }

    fn address(self, net: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.0 * 16 + net, host)
    }

    pub(super) fn host(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    fn node(self) -> Ipv4Addr {
        self.address(0, 2)
    }

    /// The first address of Services, which Kubernetes takes for the API server.
    fn api_server(self) -> Ipv4Addr {
        self.address(1, 1)
    }

    pub(super) fn dns(self) -> Ipv4Addr {
        self.address(1, 10)
    }

    pub(super) fn pods(self) -> String {
        format!("{}/24", self.address(2, 0))
    }

    /// Held by all of its processes, and by who sweeps after them.
    pub(super) fn lock(self) -> Result<PathBuf> {
        let folder = tools::cache()?.join("nodes");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder.join(format!("{}.lock", self.0)))
    }
}

/// Where everything is that a node runs.
pub(super) struct Programs {
    variables: Vec<(&'static str, PathBuf)>,
    packages: PathBuf,
}

impl Programs {
    /// Builds and fetches what is not there yet.
    pub(super) fn find() -> Result<Self> {
        let packages = tools::packages_of_a_node()?;
        let mut variables = Vec::new();
        for (variable, tool) in [
            ("ETCD", Tool::Etcd),
            ("KUBECTL", Tool::Kubectl),
            ("KUBE_APISERVER", Tool::KubeApiServer),
            ("KUBE_CONTROLLER_MANAGER", Tool::KubeControllerManager),
            ("KUBE_SCHEDULER", Tool::KubeScheduler),
            ("KUBELET", Tool::Kubelet),
            ("KUBE_PROXY", Tool::KubeProxy),
            ("COREDNS", Tool::CoreDns),
        ] {
            variables.push((variable, tools::find(tool)?));
        }
        Ok(Programs { variables, packages })
    }
}

/// The program that a node's process is, in the end.
pub(super) fn unshare() -> PathBuf {
    tools::installed("unshare").unwrap_or_else(|| PathBuf::from("/usr/bin/unshare"))
}

/// Where the programs among the packages find what they load, as a search path.
pub(super) fn libraries(packages: &Path) -> String {
    let libraries = format!("{}-linux-gnu", std::env::consts::ARCH);
    ["usr/lib", "lib"].map(|lib| packages.join(lib).join(&libraries).display().to_string()).join(":")
}

/// Writes all files; gives the variables of `enter.sh` and `init.sh`.
pub(super) fn write(
    folder: &Path,
    data: &Path,
    numbered: Numbered,
    programs: &Programs,
    sweep: Option<&Path>,
) -> Result<Vec<(String, String)>> {
    let pki = data.join("pki");
    for made in [data, &pki, &data.join("cni")] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    identities(folder, data, &pki, numbered)?;
    let write =
        |name: &str, text: String| fs::write(data.join(name), text).with_context(|| format!("cannot write {name}"));
    write("number", numbered.0.to_string())?;
    write("containerd.toml", containerd(data, &programs.packages))?;
    write("cni/10-bridge.conflist", serde_json::to_string_pretty(&network(numbered))?)?;
    write("kubelet.yaml", serde_json::to_string_pretty(&kubelet(&pki, numbered))?)?;
    write("kube-proxy.yaml", serde_json::to_string_pretty(&kube_proxy(data, numbered))?)?;
    write("Corefile", corefile(data, numbered))?;
    let pause = data.join("pause.tar");
    let sleep = tools::installed("sleep").context("sleep is missing: apt-get install -y coreutils (as root)")?;
    Image::new(PAUSE).program(&sleep)?.entry_point(&["sleep", "infinity"]).write(&pause)?;

    let path = |path: &Path| path.display().to_string();
    let mut variables = vec![
        ("NAME", numbered.name()),
        ("LINK", numbered.link()),
        ("LOCK", path(&numbered.lock()?)),
        ("DATA", path(data)),
        ("LOGS", path(&folder.join(crate::control_plane::LOGS))),
        ("PKI", path(&pki)),
        ("SWEEP", sweep.map(path).unwrap_or_default()),
        ("UNSHARE", path(&unshare())),
        ("INIT", path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/init.sh"))),
        ("HOST_ADDRESS", numbered.host().to_string()),
        ("NODE_ADDRESS", numbered.node().to_string()),
        ("DNS_ADDRESS", numbered.dns().to_string()),
        ("NET", format!("{}/22", numbered.address(0, 0))),
        ("SERVICES", format!("{}/24", numbered.address(1, 0))),
        ("PODS", numbered.pods()),
        ("BALANCED_NET", format!("198.18.{}", numbered.0 * 16)),
        ("BALANCED_FIRST", "16".to_owned()),
        ("BALANCED_LAST", "250".to_owned()),
        ("CONTAINERD", CONTAINERD.to_owned()),
        ("PAUSE", path(&pause)),
        ("PACKAGES", path(&programs.packages)),
        ("LIBRARIES", libraries(&programs.packages)),
    ];
    variables.extend(programs.variables.iter().map(|(name, program)| (*name, path(program))));
    Ok(variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Certificates of servers, and a kubeconfig for each who calls.
fn identities(folder: &Path, data: &Path, pki: &Path, numbered: Numbered) -> Result<()> {
    let authority = Authority::new()?;
    let mut places = vec![
        Place::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Place::Address(IpAddr::V4(numbered.node())),
        Place::Address(IpAddr::V4(numbered.api_server())),
    ];
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    places.extend(names.map(|name| Place::Name(name.to_owned())));
    let issued = Pki::issue(&authority, pki, &places)?;
    let server = format!("https://{}:6443", numbered.node());
    // as kubelet's client, and for people
    fs::write(pki.join("admin.crt"), &issued.admin_certificate_pem)?;
    fs::write(pki.join("admin.key"), &issued.admin_key_pem)?;
    kubeconfig::write_admin(&super::admin(folder), &server, &issued)?;
    kubeconfig::write_admin(&data.join("admin.kubeconfig"), &server, &issued)?;

    let places = [Place::Name(NODE.to_owned()), Place::Address(IpAddr::V4(numbered.node()))];
    let kubelet = authority.server(&format!("system:node:{NODE}"), Some("system:nodes"), &places)?;
    fs::write(pki.join("kubelet.crt"), &kubelet.certificate_pem)?;
    fs::write(pki.join("kubelet.key"), &kubelet.key_pem)?;
    kubeconfig::write_with_certificate(&data.join("kubelet.kubeconfig"), &server, &authority, &kubelet)?;
    for (file, name) in [
        ("controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("kube-proxy", "system:kube-proxy"),
        ("coredns", "coredns"),
    ] {
        let client = authority.client(name, None)?;
        let path = data.join(format!("{file}.kubeconfig"));
        kubeconfig::write_with_certificate(&path, &server, &authority, &client)?;
    }
    Ok(())
}

/// Without what needs CAP_SYS_RESOURCE, AppArmor or systemd.
fn containerd(data: &Path, packages: &Path) -> String {
    let (data, packages) = (data.display(), packages.display());
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages}/usr/lib/cni"
    conf_dir = "{data}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{packages}/usr/sbin/runc"
"#
    )
}

/// A cable for each pod, so that all that one sends to another is routed, and can be filtered; pods keep their addresses
/// wherever they call.
fn network(numbered: Numbered) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "node",
        "plugins": [{
            "type": "ptp", "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": numbered.pods()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet(pki: &Path, numbered: Numbered) -> Value {
    // a developer's full disk is no reason to turn pods away: they write little
    let enough = json!({
        "memory.available": "100Mi", "nodefs.available": "50Mi", "imagefs.available": "50Mi",
        "nodefs.inodesFree": "1000", "imagefs.inodesFree": "1000",
    });
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.join("kubelet.crt"),
        "tlsPrivateKeyFile": pki.join("kubelet.key"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", numbered.name()),
        "failCgroupV1": false,
        "failSwapOn": false,
        // less would need CAP_SYS_RESOURCE
        "oomScoreAdj": 0,
        "clusterDNS": [numbered.dns().to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": "/run/resolv.conf",
        "makeIPTablesUtilChains": false,
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": enough,
        "imageGCHighThresholdPercent": 100,
        "volumeStatsAggPeriod": "0s",
        "nodeStatusUpdateFrequency": "2s",
        // how soon a pod sees a ConfigMap that has changed
        "syncFrequency": "5s",
        "fileCheckFrequency": "0s",
        "httpCheckFrequency": "0s",
        "shutdownGracePeriod": "0s",
        "maxPods": 100,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
    })
}

fn kube_proxy(data: &Path, numbered: Numbered) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": data.join("kube-proxy.kubeconfig")},
        "clusterCIDR": numbered.pods(),
        "hostnameOverride": NODE,
        "oomScoreAdj": 0,
        // the machine's, and not to be changed from here
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    })
}

/// The cluster's names, and no others: what runs in tests asks nobody outside.
fn corefile(data: &Path, numbered: Numbered) -> String {
    let (address, data) = (numbered.dns(), data.display());
    format!(
        "cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {data}/coredns.kubeconfig fettle
        ttl 1
    }}
}}
.:53 {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"
    )
}
