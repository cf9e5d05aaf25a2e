//! What is believed of what the watches and our own writes say, in whatever order they come.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fettle_controller::metrics::{Kind, Metrics};
use fettle_controller::plan::model::{Snapshot, Source};
use fettle_controller::reconcile::index::{Index, News, Observed, Written};
use fettle_crds as api;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use prometheus::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn index() -> Index {
    Index::new(Snapshot::default(), Metrics::new(&Registry::new()).unwrap())
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn device(name: &str, version: u64, held: bool) -> Value {
    json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": name, "resourceVersion": version.to_string(), "generation": 1, "uid": name},
        "spec": {"mac": "02:00:5E:00:53:01", "held": held},
    })
}

fn applied(value: Value) -> Observed {
    Observed::Device(Event::Apply(read::<DeserializeGuard<api::Device>>(value)))
}

fn deleted(value: Value) -> Observed {
    Observed::Device(Event::Delete(read(value)))
}

fn listed(index: &mut Index, devices: &[Value]) {
    index.observe(Observed::Device(Event::Init));
    for device in devices {
        index.observe(Observed::Device(Event::InitApply(read(device.clone()))));
    }
    index.observe(Observed::Device(Event::InitDone));
}

fn wrote(index: &mut Index, value: Value) {
    index.wrote(Written::Device(read(value)), Timestamp::UNIX_EPOCH);
}

#[test]
fn what_a_watch_says_late_does_not_undo_a_write_of_ours() {
    let mut index = index();
    index.observe(applied(device("a", 5, false)));
    wrote(&mut index, device("a", 9, true));
    assert_eq!(index.observe(applied(device("a", 7, false))), News::No);
    assert!(index.snapshot.devices["a"].held);
    assert_eq!(index.snapshot.devices["a"].resource_version, 9);
    assert_eq!(index.observe(applied(device("a", 9, true))), News::No, "the echo of our own write is no news");
    assert_eq!(index.observe(applied(device("a", 10, false))), News::Yes);
}

#[test]
fn what_a_new_list_does_not_have_is_gone_but_not_what_was_written_while_it_was_made() {
    let mut index = index();
    listed(&mut index, &[device("a", 1, false), device("b", 2, false)]);
    index.observe(Observed::Device(Event::Init));
    index.observe(Observed::Device(Event::InitApply(read(device("a", 1, false)))));
    wrote(&mut index, device("c", 9, false));
    index.observe(Observed::Device(Event::InitDone));
    let names: Vec<&str> = index.snapshot.devices.keys().map(|name| &**name).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn a_deletion_counts_unless_something_newer_is_known_and_so_does_the_beginning_of_one() {
    let mut index = index();
    index.observe(applied(device("a", 5, false)));
    assert_eq!(index.observe(deleted(device("a", 4, false))), News::No);
    assert!(index.snapshot.devices.contains_key("a"));
    let mut going = device("a", 6, false);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(index.observe(applied(going)), News::Yes);
    assert!(index.snapshot.devices.is_empty());
}

#[test]
fn one_object_that_cannot_be_read_does_not_hold_up_the_others() {
    let mut index = index();
    let mut malformed = device("bad", 2, false);
    malformed["spec"] = json!({"mac": 7});
    listed(&mut index, &[device("a", 1, false), malformed, device("z", 3, false)]);
    let names: Vec<&str> = index.snapshot.devices.keys().map(|name| &**name).collect();
    assert_eq!(names, ["a", "z"]);
}

#[test]
fn nothing_is_complete_before_every_kind_was_listed() {
    let mut index = index();
    listed(&mut index, &[]);
    assert!(!index.is_complete());
}

fn lease(version: u64, holder: &str, renewed: &str) -> Observed {
    Observed::Lease(Event::Apply(read::<Lease>(json!({
        "metadata": {"name": "b0", "resourceVersion": version.to_string()},
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": renewed,
        },
    }))))
}

#[test]
fn a_renewal_is_no_news_and_a_new_run_or_a_return_from_silence_is() {
    let mut index = index();
    assert_eq!(index.observe(lease(1, "b0/i1", "2026-01-01T00:00:00.000000Z")), News::Yes);
    assert_eq!(&**index.snapshot.bridges["b0"].incarnation.as_ref().unwrap(), "i1");
    assert_eq!(index.observe(lease(2, "b0/i1", "2026-01-01T00:00:05.000000Z")), News::No);
    let expires: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
    assert_eq!(index.snapshot.bridges["b0"].expires, expires, "it counts all the same");
    assert_eq!(index.observe(lease(3, "b0/i1", "2026-01-01T00:01:00.000000Z")), News::Yes, "it had ended");
    assert_eq!(index.observe(lease(4, "b0/i2", "2026-01-01T00:01:05.000000Z")), News::Yes);
}

fn config_map(version: u64, data: Value) -> Observed {
    let metadata = json!({"name": "site", "resourceVersion": version.to_string()});
    Observed::ConfigMap(Event::Apply(read::<ConfigMap>(json!({"metadata": metadata, "data": data}))))
}

#[test]
fn a_profile_is_read_anew_when_the_object_with_its_text_changes() {
    let mut index = index();
    let profile = json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "ConfigProfile",
        "metadata": {"name": "cp", "resourceVersion": "1", "generation": 1},
        "spec": {"version": "17", "configMap": {"name": "site", "key": "text"}},
    });
    index.observe(Observed::Profile(Event::Apply(read(profile))));
    let source = |index: &Index| index.snapshot.profiles["cp"].source.clone();
    assert!(matches!(source(&index), Source::ObjectMissing { .. }));

    assert_eq!(index.observe(config_map(2, json!({"other": "x"}))), News::Yes);
    assert!(matches!(source(&index), Source::KeyMissing { .. }));

    assert_eq!(index.observe(config_map(3, json!({"text": "vlan 7\n"}))), News::Yes);
    let Source::Read(config) = source(&index) else { panic!("not read") };
    assert_eq!(&*config.identity, "17+9b2d0486");
    assert!(!format!("{config:?}").contains("vlan"), "the text may hold secrets");

    let big = "x".repeat(1024 * 1024);
    index.observe(config_map(4, json!({"text": big})));
    assert!(matches!(source(&index), Source::TooLarge { .. }));
}

fn profile(version: u64, name: &str, template: &str) -> Observed {
    let profile = json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "ConfigProfile",
        "metadata": {"name": name, "resourceVersion": version.to_string(), "generation": 1},
        "spec": {"version": "17", "template": template},
    });
    Observed::Profile(Event::Apply(read(profile)))
}

#[test]
fn a_template_is_known_as_long_as_a_profile_or_a_content_has_it() {
    let mut index = index();
    index.observe(profile(1, "one", "vlan {{ device.labels.vlan }}\n"));
    index.observe(profile(2, "other", "vlan {{ device.labels.vlan }}\n"));
    let Source::Read(config) = index.snapshot.profiles["one"].source.clone() else { panic!("not read") };
    assert!(index.snapshot.templates.contains_key(&config.name));
    index.observe(profile(3, "one", "vlan 7\n"));
    assert_eq!(index.snapshot.templates.len(), 2, "the other profile has it still");

    let mut content = config.content.to_secret();
    content.metadata.resource_version = Some("4".into());
    index.observe(Observed::Content(Event::Apply(content.clone())));
    index.observe(profile(5, "other", "vlan 7\n"));
    assert!(index.snapshot.templates.contains_key(&config.name), "a device may have to go back to it");
    content.metadata.resource_version = Some("6".into());
    index.observe(Observed::Content(Event::Delete(content)));
    assert!(!index.snapshot.templates.contains_key(&config.name));

    index.observe(profile(7, "one", "a\n{{ b"));
    assert!(matches!(index.snapshot.profiles["one"].source, Source::Broken { .. }));
}

#[test]
fn a_device_is_rendered_anew_when_something_has_changed_that_templates_know() {
    let mut index = index();
    index.observe(profile(
        1,
        "one",
        "{{ device.name }} {{ device.labels.vlan|d('-') }} {{ device.annotations.note|d('-') }}",
    ));
    let Source::Read(config) = index.snapshot.profiles["one"].source.clone() else { panic!("not read") };
    let template = config.template.unwrap();
    let mut rendered = |version: u64, labels: Value, annotations: Value| {
        let mut device = device("a", version, false);
        device["metadata"]["labels"] = labels;
        device["metadata"]["annotations"] = annotations;
        index.observe(applied(device));
        index.snapshot.devices["a"].rendered(&template).unwrap()
    };
    let first = rendered(1, json!({}), json!({}));
    let again = rendered(2, json!({}), json!({"fettle.dev/retry-at": "now"}));
    assert!(std::sync::Arc::ptr_eq(&first, &again), "what templates do not know changes nothing");
    let labelled = rendered(3, json!({"vlan": "7"}), json!({}));
    let noted = rendered(4, json!({"vlan": "7"}), json!({"note": "x"}));
    assert!(
        first.identity != labelled.identity && labelled.identity != noted.identity,
        "{first:?} {labelled:?} {noted:?}"
    );
    assert_eq!(first.content, &*config.name);
}

#[test]
fn an_object_that_no_profile_reads_is_no_news() {
    assert_eq!(index().observe(config_map(1, json!({"text": "x"}))), News::No);
}

#[test]
fn a_deletion_of_ours_is_believed_before_the_watch_tells_of_it() {
    let mut index = index();
    index.observe(applied(device("a", 5, false)));
    index.wrote(Written::Deleted(Kind::Device, "a".into()), Timestamp::UNIX_EPOCH);
    assert!(index.snapshot.devices.is_empty());
    assert_eq!(index.observe(applied(device("a", 5, false))), News::No);
    assert!(index.snapshot.devices.is_empty());
}

#[test]
fn a_grant_in_doubt_is_settled_by_whatever_is_heard_of_the_device_next() {
    let mut index = index();
    index.observe(applied(device("a", 5, false)));
    index.doubt("a".into(), Timestamp::MAX);
    index.observe(applied(device("a", 5, false)));
    assert!(index.snapshot.in_doubt.contains_key("a"), "that was known before");
    index.observe(applied(device("a", 6, false)));
    assert!(index.snapshot.in_doubt.is_empty());
}
