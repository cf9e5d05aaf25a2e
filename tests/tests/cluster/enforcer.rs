//! Enforces the NetworkPolicies of a node, which has nothing else that does: what the API holds becomes rules of nft in the
//! node's network, anew whenever policies or pods change. A pod that the rules do not know yet reaches nobody, so that nothing
//! slips through before they do.
//!
//! As everywhere, the node itself may call its pods (probes), and answers to what was let through come back. What a policy says in
//! a way that is not translated here is an error, and never left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fettle_tests::{Node, say};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Between two looks at the API.
const LOOK: Duration = Duration::from_millis(100);

/// Enforces until it is dropped.
pub struct Enforcer(JoinHandle<()>);

impl Enforcer {
    /// Returns once the rules are in force.
    pub async fn start(node: &Node) -> Result<Enforcer> {
        let client = node.control_plane().client().await?;
        let rules = Rules { client, pods: node.pods() };
        let mut before = rules.now().await?;
        let mut nft = node.in_network("nft").await?;
        nft.args(["-f", "-"]);
        load(&mut nft, &before).await?;
        Ok(Enforcer(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = match rules.now().await {
                    Ok(now) => now,
                    Err(error) => {
                        say!("policies are not enforced anew: {error:#}");
                        continue;
                    }
                };
                if now != before {
                    match load(&mut nft, &now).await {
                        Ok(()) => before = now,
                        Err(error) => say!("policies are not enforced anew: {error:#}"),
                    }
                }
            }
        })))
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn load(nft: &mut Command, rules: &str) -> Result<()> {
    let mut child =
        nft.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start nft")?;
    child.stdin.take().context("nft reads")?.write_all(rules.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "{}\n{rules}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

struct Rules {
    client: Client,
    /// The addresses of pods, as a prefix.
    pods: String,
}

/// A pod as policies see it.
struct Seen {
    pod: Pod,
    address: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Rules {
    /// What nft is to be told.
    async fn now(&self) -> Result<String> {
        let all = ListParams::default();
        let policies = Api::<NetworkPolicy>::all(self.client.clone()).list(&all).await?.items;
        let namespaces = Api::<Namespace>::all(self.client.clone()).list(&all).await?.items;
        let pods = Api::<Pod>::all(self.client.clone()).list(&all).await?.items;
        let pods: Vec<Seen> = pods.into_iter().filter_map(seen).collect();
        let known: Vec<&str> = pods.iter().map(|pod| pod.address.as_str()).collect();

        for selector in policies.iter().filter_map(|policy| policy.spec.as_ref()?.pod_selector.as_ref()) {
            translated(selector)?;
        }

        let (mut out, mut into) = (String::new(), String::new());
        for seen in &pods {
            for (way, rules, its) in [(Way::Out, &mut out, "saddr"), (Way::In, &mut into, "daddr")] {
                let applies = |policy: &&NetworkPolicy| selects(policy, seen, way);
                let applying: Vec<&NetworkPolicy> = policies.iter().filter(applies).collect();
                for policy in &applying {
                    for allowed in allowed(policy, way, seen, &pods, &namespaces)? {
                        writeln!(rules, "    ip {its} {} {allowed} return", seen.address)?;
                    }
                }
                if !applying.is_empty() {
                    writeln!(rules, "    ip {its} {} reject with icmpx admin-prohibited", seen.address)?;
                }
            }
        }
        let elements = if known.is_empty() { String::new() } else { format!("elements = {{ {} }};", known.join(", ")) };
        let pods = &self.pods;
        Ok(format!(
            "table inet policies
delete table inet policies
table inet policies {{
  set known {{ type ipv4_addr; {elements} }}
  chain out {{
    ip saddr {pods} ip saddr != @known drop
{out}  }}
  chain into {{
    ip daddr {pods} ip daddr != @known drop
{into}  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    jump out
    jump into
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ct state established,related accept
    jump out
  }}
}}
"
        ))
    }
}

fn seen(pod: Pod) -> Option<Seen> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let address = status.pod_ip.clone().filter(|_| !ended)?;
    Some(Seen { pod, address })
}

/// Whether a policy is about a pod, in that direction.
fn selects(policy: &NetworkPolicy, seen: &Seen, way: Way) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let named = match way {
        Way::In => "Ingress",
        Way::Out => "Egress",
    };
    policy.namespace() == seen.pod.namespace()
        && spec.policy_types.iter().flatten().any(|is| is == named)
        && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, seen.pod.labels()))
}

fn translated(selector: &LabelSelector) -> Result<()> {
    ensure!(selector.match_expressions.iter().flatten().next().is_none(), "matchExpressions are not translated");
    Ok(())
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value))
}

/// What a policy lets through in that direction, each as the rest of a rule about this pod.
fn allowed(
    policy: &NetworkPolicy,
    way: Way,
    seen: &Seen,
    pods: &[Seen],
    namespaces: &[Namespace],
) -> Result<Vec<String>> {
    let spec = policy.spec.as_ref().context("a policy without spec")?;
    let namespace = policy.namespace().unwrap_or_default();
    let rules: Vec<_> = match way {
        Way::In => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
        Way::Out => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
    };
    let mut allowed = Vec::new();
    for (peers, ports) in rules {
        let peers = match peers.as_deref() {
            None | Some([]) => vec![String::new()],
            Some(peers) => {
                let other = if way == Way::In { "saddr" } else { "daddr" };
                let mut all = Vec::new();
                for peer in peers {
                    all.extend(addresses(peer, &namespace, pods, namespaces)?);
                }
                all.into_iter().map(|address| format!("ip {other} {address}")).collect()
            }
        };
        let ports = match ports.as_deref() {
            None | Some([]) => vec![String::new()],
            Some(ports) => {
                ports.iter().filter_map(|port| said(port, &seen.pod, way).transpose()).collect::<Result<_>>()?
            }
        };
        allowed.extend(peers.iter().flat_map(|peer| ports.iter().map(move |port| format!("{peer} {port}"))));
    }
    Ok(allowed)
}

/// Whom a peer means.
fn addresses(peer: &NetworkPolicyPeer, own: &str, pods: &[Seen], namespaces: &[Namespace]) -> Result<Vec<String>> {
    if let Some(block) = &peer.ip_block {
        ensure!(block.except.iter().flatten().next().is_none(), "exceptions of an ipBlock are not translated");
        return Ok(vec![block.cidr.clone()]);
    }
    for selector in peer.pod_selector.iter().chain(&peer.namespace_selector) {
        translated(selector)?;
    }
    let of_namespace = |pod: &Seen| match (&peer.namespace_selector, pod.pod.namespace()) {
        (None, namespace) => namespace.as_deref() == Some(own),
        (Some(selector), namespace) => {
            namespaces.iter().any(|it| Some(it.name_any()) == namespace && matches(selector, it.labels()))
        }
    };
    let meant = |pod: &&Seen| {
        of_namespace(pod) && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.pod.labels()))
    };
    Ok(pods.iter().filter(meant).map(|pod| pod.address.clone()).collect())
}

/// A port as nft has it. A name is that of a port of the pod that is called; where it has none of that name, nothing is let through.
fn said(port: &NetworkPolicyPort, pod: &Pod, way: Way) -> Result<Option<String>> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let word = protocol.to_lowercase();
    let first = match &port.port {
        None => return Ok(Some(format!("meta l4proto {word}"))),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            ensure!(way == Way::In, "a named port that is called elsewhere is not translated");
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let named =
                ports.find(|it| it.name.as_ref() == Some(name) && it.protocol.as_deref().unwrap_or("TCP") == protocol);
            match named {
                Some(named) => named.container_port,
                None => return Ok(None),
            }
        }
    };
    let last = port.end_port.unwrap_or(first);
    Ok(Some(format!("{word} dport {first}-{last}")))
}
