//! What people see of a namespace in mid-rollout. `rollout.yaml` is such a namespace, as an API server had it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up fails")]

use clap::Parser;
use jiff::Timestamp;
use kubectl_fettle::devices::{DevicesArgs, Width, list};
use kubectl_fettle::manifest;
use kubectl_fettle::objects::Objects;
use kubectl_fettle::paint::{Colours, Look};
use kubectl_fettle::tree::Tree;
use kubectl_fettle::view::{FleetView, State};

const NARROW: Look = Look { colours: Colours::No, width: Some(80) };
const WIDE: Look = Look { colours: Colours::No, width: Some(120) };

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

fn tree(look: Look, objects: &Objects) -> String {
    let fleet = FleetView::of(objects, now()).unwrap();
    look.text(Tree { now: now(), all: false, width: look.width }.fleet(&fleet))
}

#[test]
fn the_tree_tells_at_a_glance_who_moves_who_failed_and_what_is_waited_for() {
    insta::assert_snapshot!(tree(NARROW, &objects()));
}

#[test]
fn a_wide_terminal_shows_what_a_narrow_one_cuts() {
    insta::assert_snapshot!(tree(WIDE, &objects()));
}

#[test]
fn colours_mark_what_moves_and_what_failed() {
    let look = Look { colours: Colours::Yes, width: Some(120) };
    let text = tree(look, &objects());
    assert!(text.contains("\x1b[1m\x1b[31m✖\x1b[0m") && text.contains("\x1b[36m▶\x1b[0m"), "{text:?}");
}

#[test]
fn of_many_devices_those_nobody_looks_for_are_counted() {
    let mut objects = objects();
    let model = objects.devices["access-hamburg-06"].clone();
    for number in 10..60 {
        let mut device = model.clone();
        device.metadata.name = Some(format!("access-hamburg-{number}"));
        device.spec.mac = format!("02:00:5e:00:60:{number}");
        objects.devices.insert(format!("access-hamburg-{number}"), device);
    }
    let text = tree(WIDE, &objects);
    assert!(text.contains("├─ · 11 waiting (NextPass)\n   ├─ · 41 waiting (WaitingForSlot)"), "{text}");
    assert!(text.contains("◌ access-hamburg-05"), "{text}");
    assert!(!text.contains("access-hamburg-44"), "{text}");
}

#[test]
fn devices_are_a_table_with_a_reason_for_each() {
    let devices = FleetView::of(&objects(), now()).unwrap().into_devices();
    insta::assert_snapshot!(WIDE.text(list(&devices, Width::Narrow, now())));
    let unlimited = Look { colours: Colours::No, width: None };
    insta::assert_snapshot!("devices_wide", unlimited.text(list(&devices, Width::Wide, now())));
}

#[test]
fn filters_are_joined_by_and_their_values_by_or() {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        devices: DevicesArgs,
    }
    let devices = FleetView::of(&objects(), now()).unwrap().into_devices();
    let names = |line: &str| {
        let args = Only::parse_from(std::iter::once("devices").chain(line.split_whitespace())).devices;
        devices.iter().filter(|device| args.wants(device)).map(|device| device.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(names("--state failed,offline"), ["access-hamburg-05", "gateway-hamburg-01"]);
    assert_eq!(names("--state failed,offline --group gateways"), ["gateway-hamburg-01"]);
    assert_eq!(names("--reason crcmismatch"), ["gateway-hamburg-01"]);
    assert_eq!(names("--state none"), ["02-00-5e-00-54-01"]);
}

#[test]
fn what_may_not_be_read_takes_the_reasons_of_its_group_alone() {
    let mut objects = objects();
    let profile = objects.profiles.get_mut("access-17").unwrap();
    profile.spec.template = None;
    let source = fettle_crds::ConfigRef { name: "vlans".into(), key: "access".into(), template: true };
    profile.spec.config_map = Some(source);
    objects.forbidden.insert(kubectl_fettle::objects::Reference::ConfigMap("vlans".into()));
    let devices = FleetView::of(&objects, now()).unwrap().into_devices();
    let of = |name: &str| devices.iter().find(|device| device.name == name).map(|device| (device.state, device.reason));
    assert_eq!(of("access-hamburg-06"), Some((State::Waiting, Some("NotTold"))));
    assert_eq!(of("access-hamburg-01"), Some((State::Updating, Some("NotTold"))));
    assert_eq!(of("access-hamburg-05"), Some((State::Offline, Some("NotTold"))));
    assert_eq!(of("access-berlin-01"), Some((State::Current, Some("NotTold"))));
    assert_eq!(of("gateway-hamburg-01"), Some((State::Failed, Some("CrcMismatch"))));
}

#[test]
fn without_the_leases_of_bridges_their_sessions_are_believed() {
    let mut objects = objects();
    let with = FleetView::of(&objects, now()).unwrap();
    objects.leases = None;
    assert_eq!(FleetView::of(&objects, now()).unwrap(), with);
}

#[test]
fn a_device_that_says_how_far_it_is_has_a_bar() {
    let mut objects = objects();
    let status = objects.devices.get_mut("access-hamburg-03").unwrap().status.as_mut().unwrap();
    status.upgrade = None;
    let target = status.target.as_ref().unwrap();
    let (percent, text) = (Some(40), Some("writing flash".to_owned()));
    status.progress = Some(fettle_crds::Progress { target: target.id, percent, text, at: now() });
    let text = tree(WIDE, &objects);
    let line = text.lines().find(|line| line.contains("access-hamburg-03")).unwrap();
    assert!(line.contains("updating, Downloading") && line.contains("████░░░░░░ 40% (writing flash)"), "{line}");
}
