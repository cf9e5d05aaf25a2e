//! What `kubectl fettle plan` foretells, of manifests laid over the namespace of `rollout.yaml`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubectl_fettle::forecast::Forecast;
use kubectl_fettle::manifest;
use kubectl_fettle::objects::Objects;
use kubectl_fettle::overlay::{Change, Laid, lay};
use kubectl_fettle::paint::{Colours, Look};
use kubectl_fettle::plan::Telling;
use kubectl_fettle::view::State;

const NEXT: &str = "
apiVersion: fettle.dev/v1alpha1
kind: Firmware
metadata: {name: access-5.3.0}
spec:
  version: 5.3.0
  images:
  - models: [S5700]
    source: {file: {path: s5700-5.3.0.bin}}
    sha256: 943ea7728bdae88944c8e3805b7d232645fe04e854afecf76f18ef020f0f8631
    upgradableFrom: '>=5.0.0'
---
apiVersion: fettle.dev/v1alpha1
kind: DeviceGroup
metadata: {name: access-switches}
spec:
  selector: {matchLabels: {role: access}}
  firmware: {name: access-5.3.0}
  config: {name: access-17}
  rollout:
    steps:
    - {selector: {matchLabels: {site: berlin}}, devices: 2, soak: 1h, approval: Required}
    - {devices: 50%}
    maxUnavailable: 4
    deviceTimeout: 2m
  WINDOWS
";

fn now() -> Timestamp {
    "2026-11-21T22:22:04Z".parse().unwrap()
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    for document in manifest::split("rollout.yaml", include_str!("rollout.yaml")).unwrap() {
        objects.put(document.read().unwrap());
    }
    objects
}

fn next(windows: &str) -> String {
    NEXT.replace("WINDOWS", windows)
}

fn laid(manifests: &str) -> (Objects, Vec<Laid>) {
    let mut objects = objects();
    let documents = manifest::split("next.yaml", manifests).unwrap();
    let laid = lay(&mut objects, &documents, "fettle", now()).unwrap();
    (objects, laid)
}

fn told(manifests: &str) -> String {
    let (objects, laid) = laid(manifests);
    let forecast = Forecast::of(objects, now()).unwrap();
    let telling = Telling { forecast: &forecast, laid: &laid, now: now(), all: false };
    let look = Look { colours: Colours::No, width: Some(120) };
    look.text(telling.lines(&BTreeSet::from(["access-switches".to_owned()])))
}

#[test]
fn a_plan_names_who_begins_now_why_others_wait_and_how_it_goes_on() {
    insta::assert_snapshot!(told(&next("")));
}

#[test]
fn outside_a_window_nobody_begins_and_the_next_one_is_waited_for() {
    insta::assert_snapshot!(told(&next("windows: [{schedule: '0 2 * * *', duration: 1h}]")));
}

#[test]
fn in_the_end_all_that_can_be_reached_run_what_is_wanted() {
    let (objects, _) = laid(&next(""));
    let forecast = Forecast::of(objects, now()).unwrap();
    assert!(!forecast.is_cut);
    let group = forecast.end.groups.iter().find(|group| group.name == "access-switches").unwrap();
    assert_eq!(group.phase.as_deref(), Some("Complete"), "{:?}", group.message);
    let devices = forecast.end.clone().into_devices();
    for device in devices.iter().filter(|device| device.groups == ["access-switches"]) {
        match device.name.as_str() {
            "access-hamburg-05" => assert_eq!(device.state, State::Offline),
            _ => assert_eq!((device.state, device.version.as_deref()), (State::Current, Some("5.3.0")), "{device:?}"),
        }
    }
    // Whoever ran 4.9.0 went over the release that 5.3.0 may be installed over.
    let waves = forecast.now.iter().chain(forecast.later.iter().flat_map(|wave| &wave.grants));
    let hops = waves.filter(|grant| grant.device == "access-hamburg-06").map(|grant| grant.firmware.as_deref());
    assert_eq!(hops.collect::<Vec<_>>(), [Some("5.2.1"), Some("5.3.0")]);
}

#[test]
fn what_is_laid_over_is_as_kubectl_apply_would_leave_it() {
    let manifests = "
apiVersion: fettle.dev/v1alpha1
kind: Device
metadata: {name: access-berlin-01, labels: {site: hamburg}}
spec: {mac: '02:00:5e:00:53:01', held: true}
---
apiVersion: fettle.dev/v1alpha1
kind: Device
metadata: {name: elsewhere, namespace: other}
spec: {mac: '02:00:5e:00:99:01'}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}
";
    let (objects, laid) = laid(manifests);
    let device = &objects.devices["access-berlin-01"];
    let labels = device.metadata.labels.clone().unwrap();
    assert_eq!((labels["role"].as_str(), labels["site"].as_str()), ("access", "hamburg"));
    assert!(device.spec.held && device.status.is_some());
    let changes: Vec<(&str, Change)> = laid.iter().map(|laid| (laid.object.as_str(), laid.change)).collect();
    assert_eq!(changes, [("Device access-berlin-01", Change::Changed), ("Device elsewhere", Change::LeftOut)]);
}

#[test]
fn a_manifest_that_the_api_server_would_not_take_is_no_plan() {
    let mut objects = objects();
    let firmware = NEXT.split("---").next().unwrap().replace("access-5.3.0", "access-5.2.1");
    let documents = manifest::split("next.yaml", &firmware).unwrap();
    let refused = lay(&mut objects, &documents, "fettle", now()).unwrap_err();
    assert!(refused.starts_with("next.yaml#1: Firmware access-5.2.1: a Firmware is immutable"), "{refused}");
    let documents =
        manifest::split("x", "{apiVersion: fettle.dev/v1alpha1, kind: Device, metadata: {name: a}, spec: {}}");
    let refused = lay(&mut objects, &documents.unwrap(), "fettle", now()).unwrap_err();
    assert!(refused.contains("missing field `mac`"), "{refused}");
}
