//! Fleets: devices of a few models on a few releases, and groups with all that a strategy can say.

use std::collections::{BTreeMap, BTreeSet};

use fettle_controller::plan::model::{self as m, Snapshot, Text};
use fettle_controller::plan::profiles;
use fettle_controller::plan::rendering::Coverage;
use fettle_controller::reconcile::convert;
use fettle_crds::content::{ConfigContent, Form};
use fettle_crds::render::Quotes;
use fettle_crds::{Apply, ApplyMode, IntOrPercent};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The labels that the groups select by, each by its own.
pub const ROLES: [&str; 2] = ["access", "core"];
pub const MODELS: [&str; 2] = ["S1", "S2"];
/// What devices on the releases report. The last one is not its version; all versions are `n.0.0`.
pub const REPORTS: [&str; 5] = ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "V5-P1"];
/// What a device reports that came back with something nobody wanted.
pub const STRANGE: &str = "9.9.9";
pub const CONFIGS: [&str; 2] = ["a", "b"];

/// A fleet, as it is before anything happens.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub devices: Vec<Born>,
    pub groups: Vec<Group>,
    pub releases: Vec<Release>,
}

/// A device, as it is before anything happens.
#[derive(Debug, Clone)]
pub struct Born {
    /// The number of a role; 2: both.
    pub role: usize,
    pub canary: bool,
    pub site: usize,
    pub pair: usize,
    pub model: usize,
    pub release: usize,
    pub tells_config: bool,
}

/// A release that may have more models than one, and may not be for all who ask.
#[derive(Debug, Clone)]
pub struct Release {
    pub for_both_models: bool,
    /// The first release over which it can be installed.
    pub from: usize,
}

/// What a group wants, and how.
#[derive(Debug, Clone)]
pub struct Group {
    pub release: usize,
    /// 0: none.
    pub config: usize,
    pub exact: bool,
    pub steps: Vec<Step>,
    pub max_unavailable: IntOrPercent,
    pub per_site: Option<u32>,
    pub per_pair: Option<u32>,
    pub failure_budget: IntOrPercent,
    pub rollback: bool,
    pub timeout_minutes: i64,
    pub retries: u32,
    pub min_ready: i64,
    /// The hour at which its daily window opens, and for how many hours.
    pub window: Option<(i64, i64)>,
    /// The hour in which it puts configurations into force; where it has a window, that is the first of it.
    pub apply_at: Option<i64>,
    /// Devices fetch before the window.
    pub ahead: bool,
    pub close: bool,
}

/// A step.
#[derive(Debug, Clone)]
pub struct Step {
    pub canary: bool,
    pub devices: IntOrPercent,
    pub soak_minutes: i64,
    pub approval: bool,
}

fn percent_or(int: std::ops::Range<u32>) -> impl Strategy<Value = IntOrPercent> {
    let percents = prop::sample::select(vec![5u8, 10, 25, 50]);
    prop_oneof![int.prop_map(IntOrPercent::Int), percents.prop_map(IntOrPercent::Percent)]
}

fn step() -> impl Strategy<Value = Step> {
    let devices = prop_oneof![percent_or(1..6), Just(IntOrPercent::Percent(100))];
    let soak = prop::sample::select(vec![0, 0, 5, 60, 60 * 12]);
    (prop::bool::weighted(0.4), devices, soak, prop::bool::weighted(0.2))
        .prop_map(|(canary, devices, soak_minutes, approval)| Step { canary, devices, soak_minutes, approval })
}

fn group() -> impl Strategy<Value = Group> {
    let wish = (1..5usize, 0..3usize, prop::bool::weighted(0.3), prop::collection::vec(step(), 0..4));
    let per_site = prop::option::weighted(0.4, 1..4u32);
    let per_pair = prop::option::weighted(0.4, Just(1u32));
    let budget = prop_oneof![2 => Just(IntOrPercent::Int(0)), 3 => percent_or(0..4)];
    let limits = (percent_or(1..5), per_site, per_pair, budget, prop::bool::weighted(0.4));
    let times = (prop::sample::select(vec![5i64, 15, 40]), 0..3u32, prop::sample::select(vec![0i64, 0, 45]));
    let window = prop::option::weighted(0.3, (0..24i64, 1..6i64));
    let apply_at = prop::option::weighted(0.25, 0..24i64);
    let (ahead, close) = (any::<bool>(), prop::bool::weighted(0.15));
    let habits = (apply_at, ahead, close);
    (wish, limits, times, window, habits).prop_map(|(wish, limits, times, window, (apply_at, ahead, close))| {
        let (release, config, exact, steps) = wish;
        let (max_unavailable, per_site, per_pair, failure_budget, rollback) = limits;
        let (timeout_minutes, retries, min_ready) = times;
        Group {
            release,
            config,
            exact,
            steps,
            max_unavailable,
            per_site,
            per_pair,
            failure_budget,
            rollback,
            timeout_minutes,
            retries,
            min_ready,
            window,
            apply_at: apply_at.map(|hour| window.map_or(hour, |(opens, _)| opens)),
            ahead,
            close,
        }
    })
}

fn born() -> impl Strategy<Value = Born> {
    let role = prop::sample::select(vec![0, 0, 0, 0, 0, 1, 1, 1, 2]);
    let model = prop::sample::select(vec![0, 0, 0, 1]);
    let release = prop::sample::select(vec![0, 0, 1, 1, 2, 3, 4]);
    (role, prop::bool::weighted(0.25), 0..4usize, 0..20usize, model, release, any::<bool>()).prop_map(
        |(role, canary, site, pair, model, release, tells_config)| Born {
            role,
            canary,
            site,
            pair,
            model,
            release,
            tells_config,
        },
    )
}

/// Any fleet.
pub fn fleets() -> impl Strategy<Value = Fleet> {
    let release =
        |number: usize| (prop::bool::weighted(0.85), prop_oneof![2 => Just(0), 1 => 0..number.max(1)].boxed());
    let releases: Vec<_> = (0..REPORTS.len()).map(release).collect();
    let devices = prop::collection::vec(born(), 5..=40);
    (devices, prop::collection::vec(group(), ROLES.len()), releases).prop_map(|(devices, groups, releases)| Fleet {
        devices,
        groups,
        releases: releases.into_iter().map(|(for_both_models, from)| Release { for_both_models, from }).collect(),
    })
}

impl Fleet {
    /// The namespace, before any device has called.
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.settings.watching_since = now;
        for (number, release) in self.releases.iter().enumerate() {
            let firmware = release.model(number);
            snapshot.firmwares.insert(firmware.name.clone(), firmware);
        }
        for name in CONFIGS {
            let profile = profile(name, now);
            snapshot.profiles.insert(profile.name.clone(), profile);
        }
        for (group, role) in self.groups.iter().zip(ROLES) {
            let group: m::Group = object(group.spec(role), role, convert::group);
            snapshot.groups.insert(group.name.clone(), group);
        }
        let empty = json!({"selector": {}, "firmware": {"name": "fw-1"}});
        let empty = object(empty, "nobody", convert::group);
        snapshot.groups.insert(empty.name.clone(), empty);
        let mut interner = convert::Interner::default();
        for (number, born) in self.devices.iter().enumerate() {
            let mac = format!("02:00:00:00:00:{number:02x}");
            let mut device = object(json!({"mac": mac}), &name(number), |device| interner.device(device));
            device.labels = born.labels().into_iter().collect();
            snapshot.devices.insert(device);
        }
        snapshot
    }
}

/// How a group that puts configurations into force in that hour does so.
pub fn apply(hour: Option<i64>) -> Apply {
    match hour {
        // With room for a try before a window of an hour closes.
        Some(hour) => Apply { mode: ApplyMode::Scheduled, at: Some(format!("{hour:02}:10")) },
        None => Apply::default(),
    }
}

/// The name of a device.
pub fn name(number: usize) -> String {
    format!("d{number:02}")
}

/// An object with that spec, as the index would have it.
fn object<A: serde::de::DeserializeOwned, M>(spec: Value, name: &str, model: impl FnOnce(A) -> Option<M>) -> M {
    let metadata = json!({"name": name, "uid": format!("uid-{name}"), "generation": 1, "resourceVersion": "1"});
    let api: A = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    model(api).unwrap()
}

impl Born {
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = roles(self.role);
        labels.insert("ring".into(), if self.canary { "canary" } else { "wide" }.into());
        labels.insert("site".into(), format!("s{}", self.site));
        // Not every device has a partner.
        if self.pair < 12 {
            labels.insert("pair".into(), format!("p{}", self.pair));
        }
        labels
    }
}

/// The labels that say to whom a device belongs: 2 is both groups, 3 is none.
fn roles(role: usize) -> BTreeMap<String, String> {
    let roles: &[&str] = match role {
        2 => &ROLES,
        3 => &[],
        role => &ROLES[role..=role],
    };
    roles.iter().map(|role| ((*role).to_owned(), "yes".to_owned())).collect()
}

/// Changes the labels of a device.
pub fn relabel(device: &mut m::Device, change: impl FnOnce(&mut BTreeMap<String, String>)) {
    let mut labels = device.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    change(&mut labels);
    device.labels = labels.into_iter().collect();
}

/// Takes a device to the group, or the groups, of that number.
pub fn move_to(device: &mut m::Device, role: usize) {
    relabel(device, |labels| {
        labels.retain(|label, _| !ROLES.contains(&label.as_str()));
        labels.extend(roles(role));
    });
}

impl Release {
    fn model(&self, number: usize) -> m::Firmware {
        let version = format!("{}.0.0", number + 1);
        let models = if self.for_both_models { &MODELS[..] } else { &MODELS[..1] };
        let mut image = json!({"models": models, "source": {"file": {"path": "image.bin"}}, "sha256": sha(number), "reports": REPORTS[number]});
        if self.from > 0 {
            image["upgradableFrom"] = json!(format!(">={}.0.0", self.from + 1));
        }
        let spec = json!({"version": version, "images": [image]});
        let mut firmware: m::Firmware = object(spec, &format!("fw-{}", number + 1), convert::firmware);
        firmware.readiness = m::Readiness::Ready;
        firmware.verified = BTreeSet::from([sha(number).into()]);
        firmware
    }
}

fn sha(number: usize) -> String {
    format!("{number}").repeat(64)
}

/// A configuration of that version.
pub fn profile(version: &str, now: Timestamp) -> m::Profile {
    let content = ConfigContent { version: version.to_owned(), form: Form::Text, bytes: version.as_bytes().to_owned() };
    let config = m::Config::of(content, Quotes::Yes).unwrap();
    let name: Text = format!("config-{version}").into();
    let mut profile = m::Profile {
        name,
        generation: 1,
        models: Vec::new(),
        crc: None,
        source: m::Source::Read(config),
        status: Default::default(),
    };
    profile.status = profiles::status(&profile, &Coverage::default(), now).unwrap().1;
    profile
}

impl Group {
    fn spec(&self, role: &str) -> Value {
        let steps: Vec<Value> = self.steps.iter().map(Step::spec).collect();
        let spread = [("site", self.per_site), ("pair", self.per_pair)];
        let spread = spread.into_iter().filter_map(|(label, limit)| Some((label, limit?)));
        let spread: Vec<Value> =
            spread.map(|(label, limit)| json!({"label": label, "maxUnavailable": limit})).collect();
        let window = |(hour, hours)| json!({"schedule": format!("0 {hour} * * *"), "duration": format!("{hours}h")});
        let mut spec = json!({
            "selector": {"matchLabels": {role: "yes"}},
            "firmware": {"name": format!("fw-{}", self.release + 1), "policy": if self.exact { "Exact" } else { "UpgradeOnly" }},
            "rollout": {
                "steps": steps,
                "maxUnavailable": self.max_unavailable,
                "spread": spread,
                "failureBudget": self.failure_budget,
                "onFailure": if self.rollback { "Rollback" } else { "Pause" },
                "deviceTimeout": format!("{}m", self.timeout_minutes),
                "retries": self.retries,
                "minReady": format!("{}s", self.min_ready),
                "download": if self.ahead { "Ahead" } else { "InWindow" },
            },
            "windows": self.window.map(window).into_iter().collect::<Vec<Value>>(),
            "session": if self.close { "Close" } else { "Keep" },
        });
        if let Some(config) = self.config.checked_sub(1) {
            spec["config"] = json!({"name": format!("config-{}", CONFIGS[config]), "apply": apply(self.apply_at)});
        }
        spec
    }
}

impl Step {
    fn spec(&self) -> Value {
        let mut step = json!({"devices": self.devices, "soak": format!("{}m", self.soak_minutes)});
        if self.canary {
            step["selector"] = json!({"matchLabels": {"ring": "canary"}});
        }
        if self.approval {
            step["approval"] = json!("Required");
        }
        step
    }
}
