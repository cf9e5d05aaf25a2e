//! What `kubectl fettle lint` finds. That it finds what the API server refuses, and nothing else, `tests/tests/api.rs` sees to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use kubectl_fettle::lint::{Severity, lint};
use kubectl_fettle::manifest;
use kubectl_fettle::schema::{KEYWORDS, Schemas};
use serde_json::Value;

fn findings(yaml: &str) -> Vec<String> {
    let documents = manifest::split("fleet.yaml", yaml).unwrap();
    let now: Timestamp = "2026-11-21T22:22:04Z".parse().unwrap();
    let found = lint(&documents, now).into_iter().map(|finding| {
        let word = if finding.severity == Severity::Error { "error" } else { "warning" };
        format!("{}: {word}: {} {}", finding.at, finding.path, finding.message)
    });
    found.collect()
}

fn fleet(group: &str, more: &str) -> String {
    format!(
        "
apiVersion: fettle.dev/v1alpha1
kind: Firmware
metadata: {{name: fw}}
spec:
  version: '5.2.1'
  images: [{{models: [S5700], source: {{file: {{path: a.bin}}}}, sha256: 943ea7728bdae88944c8e3805b7d232645fe04e854afecf76f18ef020f0f8631}}]
---
apiVersion: fettle.dev/v1alpha1
kind: ConfigProfile
metadata: {{name: cp}}
spec: {{version: '17', template: \"vlan {{{{ device.labels['vlan'] }}}}\"}}
---
apiVersion: fettle.dev/v1alpha1
kind: DeviceGroup
metadata: {{name: access}}
spec:
  selector: {{matchLabels: {{role: access}}}}
  {group}
---
apiVersion: fettle.dev/v1alpha1
kind: Device
metadata: {{name: sw-1, labels: {{role: access, vlan: '7'}}}}
spec: {{mac: '02:00:5e:00:53:01', model: S5700}}
---
{more}
"
    )
}

fn device(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: fettle.dev/v1alpha1, kind: Device, metadata: {{name: {name}, labels: {{{labels}}}}}, spec: {{{spec}}}}}"
    )
}

#[track_caller]
fn one(yaml: &str, expected: &str) {
    let found = findings(yaml);
    assert!(found.len() == 1 && found[0].contains(expected), "{found:#?}");
}

const BOTH: &str = "firmware: {name: fw}\n  config: {name: cp}";

#[test]
fn good_manifests_have_no_findings() {
    assert_eq!(findings(&fleet(BOTH, "")), [""; 0]);
    for file in ["configuration.yaml", "devices.yaml", "firmware.yaml", "groups.yaml"] {
        let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
        let errors = findings(&std::fs::read_to_string(path).unwrap());
        assert!(errors.iter().all(|found| found.contains(": warning: ")), "{file}: {errors:#?}");
    }
}

#[test]
fn a_field_that_is_not_there_is_named_with_the_one_that_was_meant() {
    let group = format!("{BOTH}\n  rollout: {{max_unavailable: 2}}");
    one(&fleet(&group, ""), "spec.rollout.max_unavailable there is no such field: maxUnavailable is");
    one(
        &device("a", "", "mac: '02:00:5e:00:53:02', model: 5700"),
        "spec.model must be a string, and is a number: put it in quotes",
    );
}

#[test]
fn what_a_group_names_must_be_somewhere() {
    one(&fleet("firmware: {name: fw-2}", ""), "warning:  there is no Firmware fw-2 in these manifests");
    one(&fleet("config: {name: cp-2}", ""), "warning:  there is no ConfigProfile cp-2 in these manifests");
}

#[test]
fn a_model_without_an_image_is_named_with_its_devices() {
    let other = device("sw-2", "role: access, vlan: '8'", "mac: '02:00:5e:00:53:02', model: G200");
    one(&fleet(BOTH, &other), "error:  1 device of a model that the firmware has no image for (access): sw-2");
}

#[test]
fn a_device_that_two_groups_select_is_named_with_both() {
    let other = "{apiVersion: fettle.dev/v1alpha1, kind: DeviceGroup, metadata: {name: seven}, spec: {selector: {matchLabels: {vlan: '7'}}, firmware: {name: fw}}}";
    one(&fleet(BOTH, other), "error:  1 device selected by another group too (access, seven): sw-1");
}

#[test]
fn a_mac_and_a_name_belong_to_one_object() {
    let other = device("sw-2", "role: access, vlan: '8'", "mac: '02:00:5E:00:53:01', model: S5700");
    one(&fleet(BOTH, &other), "error:  2 devices with a MAC that another Device has too (access): sw-1, sw-2");
    let again = device("sw-1", "role: access, vlan: '8'", "mac: '02:00:5e:00:53:03', model: S5700");
    one(&fleet(BOTH, &again), "fleet.yaml#5: Device sw-1: error: metadata.name fleet.yaml#4 declares it, too");
}

#[test]
fn a_window_in_which_nobody_could_begin_and_a_zone_that_is_not_there_are_found() {
    let short = format!("{BOTH}\n  windows: [{{schedule: '0 2 * * 6', duration: 10m}}]");
    one(&fleet(&short, ""), "a window must not be shorter than rollout.deviceTimeout");
    let zone = format!("{BOTH}\n  timeZone: Europe/Berlim");
    one(&fleet(&zone, ""), "Europe/Berlim");
    let never = format!("{BOTH}\n  windows: [{{schedule: '0 2 31 2 *', duration: 1h}}]");
    one(&fleet(&never, ""), "error:");
}

#[test]
fn a_template_is_rendered_for_the_devices_that_are_there() {
    let other = device("sw-2", "role: access", "mac: '02:00:5e:00:53:02', model: S5700");
    one(&fleet(BOTH, &other), "error:  1 device with a template error (access): sw-2");
}

#[test]
fn every_keyword_of_our_schemas_is_looked_at() {
    fn walk(path: &str, schema: &Value) {
        let Some(object) = schema.as_object() else { return };
        for (key, value) in object {
            assert!(KEYWORDS.contains(&key.as_str()), "{path}: the linter does not know {key}");
            match key.as_str() {
                "properties" => {
                    value
                        .as_object()
                        .unwrap()
                        .iter()
                        .for_each(|(name, schema)| walk(&format!("{path}.{name}"), schema));
                }
                "items" | "additionalProperties" => walk(path, value),
                _ => {}
            }
        }
    }
    let schemas = Schemas::ours();
    assert_eq!(schemas.iter().count(), 5);
    schemas.iter().for_each(|(kind, schema)| walk(kind, schema));
}
