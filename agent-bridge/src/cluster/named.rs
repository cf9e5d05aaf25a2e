//! Which releases the groups of the namespace name: what the cache keeps before all else.

use std::collections::{BTreeMap, HashSet};
use std::future::ready;

use fettle_crds::DeviceGroup;
use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

/// The names of the releases that groups name, as they were last seen.
pub type Names = watch::Receiver<HashSet<String>>;

/// Watches the groups. The stream says each time that other releases are named than before; it must be polled.
pub fn names(groups: Api<DeserializeGuard<DeviceGroup>>) -> (Names, impl Stream<Item = ()> + Send + 'static) {
    let (tell, names) = watch::channel(HashSet::new());
    let mut named = Named::default();
    let events = watch_objects(groups, watcher::Config::default()).default_backoff();
    let changes = events.filter_map(move |event| {
        match event {
            Ok(event) => named.on(event),
            Err(error) => {
                let error = fettle_runtime::chain(&error).to_string();
                tracing::warn!(error, "watch of the DeviceGroups broke; it goes on");
            }
        }
        let now = named.firmwares();
        let changed = tell.send_if_modified(|names| {
            let changed = *names != now;
            *names = now;
            changed
        });
        ready(changed.then_some(()))
    });
    (names, changes)
}

/// The release that each group names.
#[derive(Debug, Default)]
struct Named {
    by_group: BTreeMap<String, String>,
    /// The same, of a list that is not complete yet.
    listed: BTreeMap<String, String>,
}

impl Named {
    fn on(&mut self, event: Event<DeserializeGuard<DeviceGroup>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(group) => note(&mut self.listed, &group),
            Event::InitDone => self.by_group = std::mem::take(&mut self.listed),
            Event::Apply(group) => note(&mut self.by_group, &group),
            Event::Delete(group) => drop(self.by_group.remove(&group.name_any())),
        }
    }

    fn firmwares(&self) -> HashSet<String> {
        self.by_group.values().cloned().collect()
    }
}

/// A group that cannot be read names nothing that anybody could act on.
fn note(by_group: &mut BTreeMap<String, String>, group: &DeserializeGuard<DeviceGroup>) {
    let firmware = group.0.as_ref().ok().and_then(|group| group.spec.firmware.as_ref());
    match firmware {
        Some(firmware) => by_group.insert(group.name_any(), firmware.name.clone()),
        None => by_group.remove(&group.name_any()),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(name: &str, firmware: Option<&str>) -> DeserializeGuard<DeviceGroup> {
        let mut spec = json!({"selector": {}, "config": {"name": "cp"}});
        if let Some(firmware) = firmware {
            spec["firmware"] = json!({"name": firmware});
        }
        let group = DeviceGroup::new(name, serde_json::from_value(spec).unwrap());
        DeserializeGuard(Ok(group))
    }

    #[test]
    fn what_groups_name_follows_them_also_through_a_new_list() {
        let mut named = Named::default();
        let names = |named: &Named| {
            let mut names: Vec<_> = named.firmwares().into_iter().collect();
            names.sort();
            names
        };
        named.on(Event::Init);
        named.on(Event::InitApply(group("a", Some("one"))));
        named.on(Event::InitApply(group("b", Some("one"))));
        assert!(names(&named).is_empty(), "the list is not complete");
        named.on(Event::InitDone);
        named.on(Event::Apply(group("c", Some("two"))));
        assert_eq!(names(&named), ["one", "two"]);
        named.on(Event::Delete(group("a", Some("one"))));
        assert_eq!(names(&named), ["one", "two"], "b still names it");
        named.on(Event::Apply(group("b", None)));
        assert_eq!(names(&named), ["two"]);
        named.on(Event::Init);
        named.on(Event::InitDone);
        assert!(names(&named).is_empty(), "what a new list lacks is gone");
    }
}
