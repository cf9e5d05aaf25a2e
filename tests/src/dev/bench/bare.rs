//! What a bare client reaches that makes the writes of a fleet's upgrade, and nothing else: the measure of what the API
//! server allows on this machine.
//!
//! It has as many fresh Devices, as large as Fettle's, and makes for each the writes that Fettle makes, read from a device
//! that Fettle has upgraded: the grant, by server-side apply; the write before message 6, and the result, by merge patch; each
//! on condition of the resourceVersion that the one before left. As many at a time as Fettle's programs, over connections of
//! as many clients. It watches nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fettle_crds::{Device, DeviceGroup};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fleet::mac;
use super::usage::Measured;
use crate::control_plane::ControlPlane;

const NAMESPACE: &str = "bare-client";

/// Writes at a time of either program: what `CONCURRENT` is in the controller's and in the bridge's writer.
const GRANTS: usize = 64;
const FACTS: usize = 32;

/// How often a watch's latency is measured; the middle one counts.
const WATCH_ROUNDS: usize = 11;
const WATCH_WITHIN: Duration = Duration::from_secs(10);

/// What the bare client reached.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bare {
    pub(super) seconds: f64,
    pub(super) devices_per_second: f64,
    /// What the API server took for it.
    pub(super) api_server_cpu_seconds: f64,
    /// From the request that makes an object until a watch has told of it.
    pub(super) watch_latency_seconds: f64,
}

/// Makes the writes that `upgraded`, a device of Fettle's after its upgrade from `from`, has seen, to `devices` fresh ones.
pub(super) async fn run(control_plane: &ControlPlane, devices: usize, upgraded: &Device, from: &str) -> Result<Bare> {
    // One client stands for the controller, one for the bridge.
    let (one, other) = (control_plane.client().await?, control_plane.client().await?);
    let api_server = control_plane.processes().into_iter().find(|(name, _, _)| name == "kube-apiserver");
    let (name, pid, _) = api_server.context("no kube-apiserver of our own")?;
    let api_server = Measured { name, pid };
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(one.clone()).create(&PostParams::default(), &namespace).await?;
    let watch_latency = watch_latency(&one).await?;

    let writes = Writes::of(upgraded, from)?;
    let devices = prepare(&one, &other, devices, &writes).await?;
    let (controller, bridge, writes) = (&api(&one), &api(&other), &writes);
    let count = devices.len();
    let (began, before) = (Instant::now(), api_server.usage()?);
    stream::iter(devices)
        .map(|fresh| async move { apply(controller, &fresh, &writes.grant).await })
        .buffer_unordered(GRANTS)
        .map(|granted| async move {
            let begun = merge(bridge, &granted?, &writes.begin).await?;
            merge(bridge, &begun, &writes.result).await
        })
        .buffer_unordered(FACTS)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Bare {
        seconds,
        devices_per_second: count as f64 / seconds,
        api_server_cpu_seconds: api_server.usage()?.cpu_seconds - before.cpu_seconds,
        watch_latency_seconds: watch_latency.as_secs_f64(),
    })
}

/// The statuses that are written to one device, in their order.
struct Writes {
    /// What a device's status says when it has called and is accepted.
    acceptance: Value,
    call: Value,
    grant: Value,
    begin: Value,
    result: Value,
}

impl Writes {
    fn of(upgraded: &Device, from: &str) -> Result<Self> {
        let status = serde_json::to_value(upgraded.status.as_ref().context("a device without a status")?)?;
        let pick = |names: &[&str]| -> Value {
            let there = names.iter().filter(|name| !status[**name].is_null());
            there.map(|name| ((*name).to_owned(), status[*name].clone())).collect::<Map<_, _>>().into()
        };
        let mut call = pick(&["session", "reported"]);
        call["reported"]["version"] = json!(from);
        let mut begin = pick(&["upgrade"]);
        begin["upgrade"]["phase"] = json!("Restarting");
        for end in ["result", "reason", "message"] {
            begin["upgrade"][end] = Value::Null;
        }
        Ok(Self {
            acceptance: pick(&["observedGeneration", "conditions"]),
            call,
            grant: pick(&["target", "lastTarget", "previous", "observedGeneration", "conditions"]),
            begin,
            result: pick(&["reported", "upgrade", "applied"]),
        })
    }
}

fn api(client: &Client) -> Api<Device> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Makes devices that have called and wait, as Fettle's did before their upgrade.
async fn prepare(one: &Client, other: &Client, count: usize, writes: &Writes) -> Result<Vec<Device>> {
    let (controller, bridge) = (api(one), api(other));
    let made = stream::iter(0..count).map(|index| {
        let (controller, bridge) = (&controller, &bridge);
        async move {
            let device = controller.create(&PostParams::default(), &declared(index)?).await?;
            let accepted = apply(controller, &device, &writes.acceptance).await?;
            merge(bridge, &accepted, &writes.call).await
        }
    });
    made.buffer_unordered(FACTS).try_collect().await
}

/// Device number `index`, as a person declares it.
pub(super) fn declared(index: usize) -> Result<Device> {
    let device = json!({
        "apiVersion": "fettle.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": format!("sw-{index:05}"), "labels": {"role": "access"}},
        "spec": {"mac": mac(index)},
    });
    Ok(serde_json::from_value(device)?)
}

/// As the controller writes decisions.
async fn apply(api: &Api<Device>, device: &Device, status: &Value) -> Result<Device> {
    let name = device.name_any();
    let patch = json!({
        "apiVersion": "fettle.dev/v1alpha1",
        "kind": "Device",
        "metadata": {"name": name, "resourceVersion": device.metadata.resource_version},
        "status": status,
    });
    let parameters = PatchParams::apply("fettle-controller").force();
    Ok(api.patch_status(&name, &parameters, &Patch::Apply(patch)).await?)
}

/// As the bridge writes facts.
async fn merge(api: &Api<Device>, device: &Device, status: &Value) -> Result<Device> {
    let patch = json!({"metadata": {"resourceVersion": device.metadata.resource_version}, "status": status});
    let parameters = PatchParams { field_manager: Some("fettle-bridge".to_owned()), ..PatchParams::default() };
    Ok(api.patch_status(&device.name_any(), &parameters, &Patch::Merge(patch)).await?)
}

/// From the request that makes a DeviceGroup until a watch has told of it: the middle of some rounds.
async fn watch_latency(client: &Client) -> Result<Duration> {
    let groups: Api<DeviceGroup> = Api::namespaced(client.clone(), NAMESPACE);
    let mut events = Box::pin(watcher(groups.clone(), watcher::Config::default()).applied_objects());
    let mut latencies = Vec::new();
    // The watch begins when it is first asked, and what was made before comes with its list: the first round does not count.
    for round in 0..=WATCH_ROUNDS {
        let name = format!("watched-{round}");
        let group = json!({
            "apiVersion": "fettle.dev/v1alpha1",
            "kind": "DeviceGroup",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"role": "nothing"}}, "firmware": {"name": "nothing"}},
        });
        let group: DeviceGroup = serde_json::from_value(group)?;
        let began = Instant::now();
        groups.create(&PostParams::default(), &group).await?;
        let seen = async {
            while let Some(event) = events.next().await {
                if event.is_ok_and(|seen| seen.name_any() == name) {
                    break;
                }
            }
        };
        tokio::time::timeout(WATCH_WITHIN, seen).await.context("a watch did not tell of a new object")?;
        if round > 0 {
            latencies.push(began.elapsed());
        }
    }
    latencies.sort_unstable();
    Ok(latencies[latencies.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writes_are_those_that_the_upgraded_device_has_seen() {
        let device: Device = serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"mac": "02:00:00:00:00:01"},
            "status": {
                "session": {"bridge": "b", "incarnation": "i", "address": "a", "since": "2026-01-01T00:00:00Z"},
                "reported": {"version": "2", "model": "m", "at": "2026-01-01T00:00:00Z"},
                "upgrade": {"target": 1, "phase": "Done", "since": "2026-01-01T00:00:00Z", "result": "Succeeded"},
                "lastTarget": 1,
            },
        }))
        .unwrap();
        let writes = Writes::of(&device, "1").unwrap();
        assert_eq!(writes.call["reported"]["version"], "1");
        assert_eq!(writes.begin["upgrade"]["phase"], "Restarting");
        assert_eq!(writes.begin["upgrade"]["result"], Value::Null);
        assert_eq!(writes.result["reported"]["version"], "2");
        assert_eq!(writes.result["upgrade"]["result"], "Succeeded");
        assert_eq!(writes.grant["lastTarget"], 1);
    }
}
