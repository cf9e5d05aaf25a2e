//! The address of this replica's own Service: where devices outside of the cluster reach this very bridge.
//!
//! Who runs the load balancer chooses it, perhaps minutes after the bridge has started, so it is watched for. It decides what is
//! told to devices, and nothing else; a Service that goes away takes nothing back of what was told.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::str::FromStr;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::UNNAMED;

/// A Service, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    /// The bridge's own, which need not be the one that it serves.
    pub namespace: String,
    /// Of each replica its own.
    pub name: String,
}

/// A text that names no Service.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} names no Service: want NAMESPACE/NAME, such as fettle/fettle-bridge-0")]
pub struct NotAService(String);

impl FromStr for ServiceRef {
    type Err = NotAService;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(NotAService(text.to_owned())),
        }
    }
}

/// Why a Service has no address that devices could be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// It does not exist.
    #[error("there is no such Service")]
    Missing,
    /// Whoever balances loads in this cluster has not given it one yet, or nobody does.
    #[error("its load balancer has no address yet")]
    Pending,
    /// A message of the protocol has room for an IPv4 address only.
    #[error("its load balancer has a name or an IPv6 address only: devices are told IPv4 addresses")]
    NotIpv4,
}

/// The address at which a Service is reached from where its type promises: a load balancer's from outside, a cluster's from
/// wherever its network is routed.
pub fn address(service: Option<&Service>) -> Result<Ipv4Addr, NoAddress> {
    let service = service.ok_or(NoAddress::Missing)?;
    let spec = service.spec.as_ref().ok_or(NoAddress::Missing)?;
    if spec.type_.as_deref() != Some("LoadBalancer") {
        let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        return own.filter_map(|ip| ip.parse().ok()).next().ok_or(NoAddress::NotIpv4);
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    if given.is_empty() {
        return Err(NoAddress::Pending);
    }
    given.iter().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).next().ok_or(NoAddress::NotIpv4)
}

/// Whether the API server will not say, for want of a right.
fn is_forbidden(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code,
        watcher::Error::WatchError(status) => status.code,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return false,
    };
    code == 403
}

/// What the API says of the Service, as it changes.
pub struct OwnAddress {
    name: String,
    seen: Pin<Box<dyn Stream<Item = watcher::Result<Option<Service>>> + Send>>,
}

impl OwnAddress {
    /// Watches that one Service, and needs the right to.
    pub fn watch(client: Client, service: ServiceRef) -> Self {
        let ServiceRef { namespace, name } = service;
        let api = Api::namespaced(client, &namespace);
        let seen = Box::pin(watcher::watch_object(api, &name).default_backoff());
        Self { name, seen }
    }

    /// Returns once it has an address; says in the log what it waits for. For ever, where nobody gives it one: the bridge is not
    /// ready meanwhile, and has told nobody anything.
    pub async fn found(&mut self) -> Ipv4Addr {
        let mut said = None;
        loop {
            match self.next().await {
                Ok(address) => {
                    tracing::info!(service = self.name, %address, "files are fetched from the address of this replica's Service");
                    return address;
                }
                Err(reason) if said != Some(reason) => {
                    tracing::warn!(service = self.name, %reason, "waiting for an address at which devices reach this replica");
                    said = Some(reason);
                }
                Err(_) => {}
            }
        }
    }

    /// Returns when it has another address than `told`. Without any, what was told may come back.
    pub async fn changed(&mut self, told: Ipv4Addr) -> Ipv4Addr {
        loop {
            match self.next().await {
                Ok(address) if address != told => return address,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// What the next event says. A watch that broke says nothing; it is begun again, later and later.
    async fn next(&mut self) -> Result<Ipv4Addr, NoAddress> {
        loop {
            match self.seen.next().await {
                Some(Ok(service)) => return address(service.as_ref()),
                Some(Err(error)) => {
                    let hint = is_forbidden(&error).then_some(UNNAMED);
                    tracing::warn!(service = self.name, %error, hint, "the Service of this replica cannot be watched");
                }
                // a watcher does not end
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: serde_json::Value, status: serde_json::Value) -> Result<Ipv4Addr, NoAddress> {
        let service = json!({"metadata": {"name": "b-0"}, "spec": spec, "status": status});
        address(Some(&serde_json::from_value(service).unwrap()))
    }

    #[test]
    fn a_service_inside_has_its_own_address_and_a_balanced_one_what_it_was_given() {
        let inside = json!({"type": "ClusterIP", "clusterIP": "10.0.0.7", "clusterIPs": ["fd00::7", "10.0.0.7"]});
        assert_eq!(of(inside, json!({})), Ok(Ipv4Addr::new(10, 0, 0, 7)));

        let balanced = || json!({"type": "LoadBalancer", "clusterIP": "10.0.0.7"});
        let given = |ingress: serde_json::Value| json!({"loadBalancer": {"ingress": ingress}});
        assert_eq!(of(balanced(), given(json!([{"ip": "192.0.2.7"}]))), Ok(Ipv4Addr::new(192, 0, 2, 7)));
        let second = json!([{"ip": "2001:db8::7"}, {"ip": "192.0.2.7"}]);
        assert_eq!(of(balanced(), given(second)), Ok(Ipv4Addr::new(192, 0, 2, 7)));
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let balanced = || json!({"type": "LoadBalancer", "clusterIP": "10.0.0.7"});
        assert_eq!(address(None), Err(NoAddress::Missing));
        assert_eq!(of(balanced(), json!({})), Err(NoAddress::Pending));
        let named = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.net"}]}});
        assert_eq!(of(balanced(), named), Err(NoAddress::NotIpv4));
        assert_eq!(of(json!({"type": "ClusterIP", "clusterIP": "None"}), json!({})), Err(NoAddress::NotIpv4));
    }

    #[test]
    fn a_service_is_named_with_its_namespace() {
        let expected = ServiceRef { namespace: "a".to_owned(), name: "b-0".to_owned() };
        assert_eq!("a/b-0".parse::<ServiceRef>().unwrap(), expected);
        for text in ["b-0", "/b", "a/", "a/b/c", ""] {
            assert!(text.parse::<ServiceRef>().unwrap_err().to_string().contains("NAMESPACE/NAME"), "{text}");
        }
    }
}
