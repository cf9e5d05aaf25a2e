//! Fleets as the planner meets them: objects of the API that have come through the index.

use std::collections::BTreeMap;

use fettle_controller::metrics::Metrics;
use fettle_controller::plan::model::{Image, Settings, Snapshot};
use fettle_controller::plan::plan;
use fettle_controller::reconcile::index::{Index, Observed, Written};
use fettle_crds as api;
use jiff::{SignedDuration, Timestamp};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use prometheus::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const BRIDGES: usize = 4;
const MODELS: [&str; 3] = ["S5700", "S5720", "S6730"];
const OLD: &str = "4.9.0";
const NEW: &str = "5.2.1";
const DEVICES_PER_SITE: usize = 100;

/// A prime, to go over a fleet in an order that has nothing to do with names.
const STRIDE: usize = 7_919;

/// A Saturday, half an hour into the window.
const NOW: &str = "2026-11-21T02:30:00Z";
const TRY: SignedDuration = SignedDuration::from_secs(90);

/// What a fleet looks like. Shares are of a thousand devices; those that are left run the old version and wait.
pub struct Shape {
    pub devices: usize,
    pub groups: usize,
    pub current: usize,
    pub updating: usize,
    pub offline: usize,
    pub failed: usize,
    /// Of the groups.
    pub rollout: Value,
    pub windows: Value,
}

impl Shape {
    /// All are current.
    pub fn idle(devices: usize) -> Self {
        Self { current: 1_000, updating: 0, ..Self::rollout(devices) }
    }

    /// In the last of three steps: half are current, most of the slots are taken, and as many as may are granted.
    pub fn rollout(devices: usize) -> Self {
        let steps = json!([{"devices": 1}, {"devices": "10%"}, {"devices": "100%"}]);
        Self {
            devices,
            groups: 1,
            current: 500,
            updating: 45,
            offline: 0,
            failed: 0,
            rollout: json!({"steps": steps, "maxUnavailable": "5%"}),
            windows: json!([]),
        }
    }

    /// In groups of a thousand.
    pub fn groups(devices: usize) -> Self {
        Self { groups: (devices / 1_000).max(1), ..Self::rollout(devices) }
    }

    /// With limits on sites and pairs, a window, soaks and a failure budget; some are away, and some failed.
    pub fn limits(devices: usize) -> Self {
        let steps = json!([{"devices": 1, "soak": "10m"}, {"devices": "10%", "soak": "1h"}, {"devices": "100%"}]);
        let spread = json!([{"label": "pair", "maxUnavailable": 1}, {"label": "site", "maxUnavailable": 10}]);
        let rollout = json!({
            "steps": steps, "spread": spread, "maxUnavailable": "5%", "failureBudget": "2%", "minReady": "30s",
        });
        let windows = json!([{"schedule": "0 2 * * 6", "duration": "4h", "timeZone": "Europe/Berlin"}]);
        Self { updating: 25, offline: 20, failed: 10, rollout, windows, ..Self::rollout(devices) }
    }
}

/// A namespace with a fleet.
pub struct Fleet {
    pub index: Index,
    pub now: Timestamp,
    pub news: Watch,
}

/// How a device stands.
#[derive(Clone, Copy)]
enum Stand {
    Current,
    Updating,
    Waiting,
    Offline,
    Failed,
}

impl Fleet {
    pub fn new(shape: &Shape) -> Self {
        let now: Timestamp = NOW.parse().unwrap();
        let settings = Settings { watching_since: now - SignedDuration::from_hours(1), ..Settings::default() };
        let snapshot = Snapshot { settings, ..Snapshot::default() };
        let mut index = Index::new(snapshot, Metrics::new(&Registry::new()).unwrap());
        for bridge in 0..BRIDGES {
            index.observe(Observed::Lease(Event::Apply(lease(bridge, now))));
        }
        index.observe(Observed::Firmware(Event::Apply(guarded(firmware(OLD)))));
        index.observe(Observed::Firmware(Event::Apply(guarded(firmware(NEW)))));
        index.observe(Observed::Profile(Event::Apply(guarded(profile()))));
        for group in 0..shape.groups {
            index.observe(Observed::Group(Event::Apply(guarded(shape.group(group)))));
        }
        let made = plan(&index.snapshot, now);
        for content in &made.contents {
            index.wrote(Written::Content(content.name().clone()), now);
        }
        // What devices ran before is kept, too.
        let old = index.snapshot.firmwares[&*format!("access-{OLD}")].images.clone();
        for image in &old {
            index.wrote(Written::Content(image.name.clone()), now - SignedDuration::from_hours(9));
        }
        let mut rollouts: Vec<api::DeviceRollout> = Vec::new();
        for rollout in &made.rollouts {
            let rollout: api::DeviceRollout = read(json!({
                "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceRollout",
                "metadata": {
                    "name": *rollout.name, "uid": uid("rollout", rollouts.len()), "resourceVersion": "1", "generation": 1,
                    "ownerReferences": [{
                        "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceGroup", "controller": true,
                        "name": *rollout.group, "uid": *rollout.group_uid,
                    }],
                },
                "spec": rollout.spec,
                "status": {
                    "step": {"number": 3, "progress": "3/3", "size": 1, "granted": 1, "startedAt": now},
                    "startedAt": now - SignedDuration::from_hours(1),
                },
            }));
            index.observe(Observed::Rollout(Event::Apply(DeserializeGuard(Ok(rollout.clone())))));
            rollouts.push(rollout);
        }
        let devices: Vec<api::Device> =
            (0..shape.devices).map(|number| shape.device(number, &rollouts, &old, now)).collect();
        index.observe(Observed::Device(Event::Init));
        for device in &devices {
            index.observe(Observed::Device(Event::InitApply(DeserializeGuard(Ok(device.clone())))));
        }
        index.observe(Observed::Device(Event::InitDone));
        // A fleet that has lived for a while: each device was written to since the list, in no order.
        let mut news = Watch { devices, written: 0 };
        for _ in 0..shape.devices {
            index.observe(news.next());
        }
        settle(&mut index.snapshot, now);
        Self { index, now, news }
    }
}

/// Writes the statuses as a controller has written them before, until there is nothing new to say.
fn settle(snapshot: &mut Snapshot, now: Timestamp) {
    for _ in 0..4 {
        let plan = plan(snapshot, now);
        for write in plan.groups {
            snapshot.groups.get_mut(&write.group).unwrap().status = write.status;
        }
        for (rollout, status) in plan.rollout_statuses {
            snapshot.rollouts.get_mut(&rollout).unwrap().status = status;
        }
        for (profile, status) in plan.profiles {
            snapshot.profiles.get_mut(&profile).unwrap().status = status;
        }
    }
}

/// What a watch has to say: one device after the other, each as it was, but newer.
pub struct Watch {
    devices: Vec<api::Device>,
    written: usize,
}

impl Watch {
    pub fn next(&mut self) -> Observed {
        self.written += 1;
        let mut device = self.devices[self.written * STRIDE % self.devices.len()].clone();
        device.metadata.resource_version = Some((self.written + 1).to_string());
        Observed::Device(Event::Apply(DeserializeGuard(Ok(device))))
    }

    pub fn burst(&mut self, count: usize) -> Vec<Observed> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn guarded<T: DeserializeOwned>(value: Value) -> DeserializeGuard<T> {
    DeserializeGuard(Ok(read(value)))
}

fn uid(kind: &str, number: usize) -> String {
    format!("{kind:.8}-0000-4000-8000-{number:012}")
}

fn lease(bridge: usize, now: Timestamp) -> k8s_openapi::api::coordination::v1::Lease {
    let micros = |at: Timestamp| format!("{at:.6}");
    read(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("fettle-bridge-{bridge}"), "resourceVersion": "1"},
        "spec": {
            "holderIdentity": format!("fettle-bridge-{bridge}/{}", uid("bridge", bridge)),
            "acquireTime": micros(now - SignedDuration::from_hours(8)),
            "renewTime": micros(now - SignedDuration::from_secs(5)),
            "leaseDurationSeconds": 15,
        },
    }))
}

fn firmware(version: &str) -> Value {
    let images: Vec<Value> = MODELS
        .iter()
        .enumerate()
        .map(|(at, model)| {
            let seed = format!("{at}{version}");
            let sha256: String = seed.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect();
            json!({
                "models": [model], "source": {"file": {"path": format!("{model}-{version}.bin")}},
                "sha256": sha256, "upgradableFrom": ">=4.8.0",
            })
        })
        .collect();
    let verified: Vec<Value> = images.iter().map(|image| json!({"sha256": image["sha256"], "size": 1})).collect();
    json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "Firmware",
        "metadata": {"name": format!("access-{version}"), "uid": uid("firmware", 0), "resourceVersion": "1", "generation": 1},
        "spec": {"version": version, "images": images},
        "status": {
            "observedGeneration": 1, "images": verified,
            "conditions": [{
                "type": "Ready", "status": "True", "observedGeneration": 1, "reason": "Verified", "message": "",
                "lastTransitionTime": "2026-11-20T00:00:00Z",
            }],
        },
    })
}

fn profile() -> Value {
    json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "ConfigProfile",
        "metadata": {"name": "access-17", "uid": uid("profile", 0), "resourceVersion": "1", "generation": 1},
        "spec": {"version": "17", "text": "ntp server 192.0.2.1\n"},
    })
}

impl Shape {
    fn group(&self, number: usize) -> Value {
        json!({
            "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceGroup",
            "metadata": {
                "name": format!("area-{number:03}"), "uid": uid("group", number), "resourceVersion": "1", "generation": 1,
            },
            "spec": {
                "selector": {"matchLabels": {"area": format!("a{number:03}"), "role": "access"}},
                "firmware": {"name": format!("access-{NEW}")}, "config": {"name": "access-17"},
                "rollout": self.rollout, "windows": self.windows,
            },
        })
    }

    /// How the device with this number stands: all groups and sites have their share of each.
    fn stand(&self, number: usize) -> Stand {
        let mut at = (number / 2 * STRIDE + number % 2 * 500) % 1_000;
        let stands = [Stand::Current, Stand::Updating, Stand::Offline, Stand::Failed];
        for (stand, share) in stands.into_iter().zip([self.current, self.updating, self.offline, self.failed]) {
            if at < share {
                return stand;
            }
            at -= share;
        }
        Stand::Waiting
    }

    fn device(&self, number: usize, rollouts: &[api::DeviceRollout], old: &[Image], now: Timestamp) -> api::Device {
        let (area, model) = (number * self.groups / self.devices, number % MODELS.len());
        let rollout = &rollouts[area];
        let spec = &rollout.spec;
        let (firmware, config) = (spec.firmware.as_ref().unwrap(), spec.config.as_ref().unwrap());
        let image = &firmware.images[model];
        let bridge = number % BRIDGES;
        let mac = (0x0200_5e00_0000 + number * STRIDE % 0x0100_0000).to_be_bytes();
        let mac: Vec<String> = mac[2..].iter().map(|byte| format!("{byte:02x}")).collect();
        let stand = self.stand(number);
        let granted_at = now - SignedDuration::from_mins(4);
        let ended_at = granted_at + TRY;
        let before = json!({"version": OLD, "model": MODELS[model], "at": now - SignedDuration::from_hours(9)});
        let after = json!({
            "version": NEW, "model": MODELS[model], "config": config.identity, "capabilities": ["ConfigVersion"],
            "at": ended_at,
        });
        let session = json!({
            "bridge": format!("fettle-bridge-{bridge}"), "incarnation": uid("bridge", bridge), "address": "192.0.2.14",
            "since": now - SignedDuration::from_hours(2),
        });
        let target = json!({
            "id": 1, "rollout": rollout.metadata.name, "rolloutUid": rollout.metadata.uid, "try": 3, "from": OLD,
            "firmware": {
                "version": NEW, "reports": image.reports, "sha256": image.sha256, "content": image.content,
            },
            "config": {"identity": config.identity, "content": config.content},
            "transfer": "FTP", "logs": "OnFailure", "stage": "Activate", "grantedAt": granted_at,
            "startBy": granted_at + SignedDuration::from_secs(60), "until": granted_at + SignedDuration::from_mins(15),
            "spread": self.spread(number), "done": false,
        });
        let mut status = json!({
            "session": session, "reported": before, "observedGeneration": 1,
            "conditions": [{
                "type": "Ready", "status": "True", "observedGeneration": 1, "reason": "Accepted",
                "message": "it is approved, and no other Device has its MAC",
                "lastTransitionTime": "2026-11-20T00:00:00Z",
            }],
        });
        if matches!(stand, Stand::Current | Stand::Updating | Stand::Failed) {
            status["target"] = target;
            status["lastTarget"] = json!(1);
            status["granted"] = json!({"rolloutUid": rollout.metadata.uid, "step": 3, "tries": 0});
            let Image { name, content, .. } = &old[model];
            let previous = json!({"version": OLD, "sha256": content.sha256, "content": **name});
            status["previous"] = json!({"rolloutUid": rollout.metadata.uid, "firmware": previous});
        }
        match stand {
            Stand::Current => {
                status["reported"] = after;
                status["upgrade"] = json!({"target": 1, "phase": "Done", "since": ended_at, "result": "Succeeded"});
            }
            Stand::Updating => status["upgrade"] = json!({"target": 1, "phase": "Restarting", "since": granted_at}),
            Stand::Failed => {
                status["upgrade"] = json!({
                    "target": 1, "phase": "Done", "since": ended_at, "result": "Failed", "reason": "CrcMismatch",
                });
            }
            Stand::Offline => {
                status["session"] = Value::Null;
                status["lastSeen"] = json!(now - SignedDuration::from_hours(1));
            }
            Stand::Waiting => {}
        }
        let labels = self.labels(number);
        read(json!({
            "apiVersion": "fettle.dev/v1alpha1", "kind": "Device",
            "metadata": {
                "name": format!("switch-{number:06}"), "uid": uid("device", number), "resourceVersion": "1",
                "generation": 1, "labels": labels,
            },
            "spec": {"mac": mac.join(":"), "model": MODELS[model], "approved": true},
            "status": status,
        }))
    }

    fn labels(&self, number: usize) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("area", format!("a{:03}", number * self.groups / self.devices)),
            ("role", "access".to_owned()),
            ("ring", format!("{}", number % 10)),
            ("site", format!("s{:04}", number / DEVICES_PER_SITE)),
            ("pair", format!("p{:06}", number / 2)),
        ])
    }

    /// What a target remembers of the labels that limits are set by.
    fn spread(&self, number: usize) -> BTreeMap<&'static str, String> {
        let mut labels = self.labels(number);
        let limited = |label: &str| {
            self.rollout["spread"].as_array().is_some_and(|all| all.iter().any(|spread| spread["label"] == label))
        };
        labels.retain(|label, _| limited(label));
        labels
    }
}
