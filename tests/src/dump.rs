//! The state of a namespace as text, for whoever has to find out why a test failed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};

use crate::process::tail;

/// An API server that is down must not hold up the end of a test.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Enough to see what a program did last; the whole log's path stands beside it.
const LOG_LINES: usize = 60;

/// A fleet of thousands would bury what matters.
const OBJECTS_OF_A_KIND: u32 = 40;

const KINDS: &[(&str, &str, &str, &str)] = &[
    ("fettle.dev", "v1alpha1", "Firmware", "firmwares"),
    ("fettle.dev", "v1alpha1", "ConfigProfile", "configprofiles"),
    ("fettle.dev", "v1alpha1", "DeviceGroup", "devicegroups"),
    ("fettle.dev", "v1alpha1", "DeviceRollout", "devicerollouts"),
    ("fettle.dev", "v1alpha1", "Device", "devices"),
    ("coordination.k8s.io", "v1", "Lease", "leases"),
    ("events.k8s.io", "v1", "Event", "events"),
];

pub(crate) async fn of(client: &Client, namespace: &str, logs: &[PathBuf]) -> String {
    let mut text = format!("──── namespace {namespace}\n");
    for (group, version, kind, plural) in KINDS {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let params = ListParams::default().limit(OBJECTS_OF_A_KIND);
        let listed = tokio::time::timeout(ANSWER_WITHIN, api.list(&params)).await;
        // Writing to a String cannot fail.
        let _ = match listed {
            Err(_) => writeln!(text, "── {plural}: no answer"),
            Ok(Err(error)) => writeln!(text, "── {plural}: {error}"),
            Ok(Ok(list)) if list.items.is_empty() => Ok(()),
            Ok(Ok(list)) => {
                let more = list.metadata.remaining_item_count.map(|n| format!(", and {n} more")).unwrap_or_default();
                let shown = list.items.into_iter().map(brief).collect::<String>();
                writeln!(text, "── {plural}{more}\n{shown}")
            }
        };
    }
    for log in logs {
        let content = fs::read(log).unwrap_or_default();
        let _ = writeln!(text, "── {}\n{}", log.display(), tail(&String::from_utf8_lossy(&content), LOG_LINES));
    }
    text
}

/// An object without what only the API server needs.
fn brief(mut object: DynamicObject) -> String {
    object.metadata.managed_fields = None;
    serde_yaml::to_string(&object).unwrap_or_else(|error| error.to_string())
}
