//! What the groups of the namespace declare about firmware, as the watch shows it.

use std::collections::BTreeMap;
use std::future::ready;

use fettle_crds::{DesiredFirmware, DeviceGroup, LabelSelector};
use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

/// What a group declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub selector: LabelSelector,
    /// `None`: a configuration alone.
    pub firmware: Option<DesiredFirmware>,
    /// Further tries of a device, after its first.
    pub retries: u32,
    /// The controller takes the devices back, or has: what the group declares is refused.
    pub is_taken_back: bool,
}

/// The groups as they were last seen, by name. One that cannot be read is not there: it declares nothing that anybody could
/// act on.
pub type Groups = watch::Receiver<BTreeMap<String, Wish>>;

/// Watches the groups. The stream says each time that something else is declared than before; it must be polled.
pub fn groups(groups: Api<DeserializeGuard<DeviceGroup>>) -> (Groups, impl Stream<Item = ()> + Send + 'static) {
    let (tell, wishes) = watch::channel(BTreeMap::new());
    let mut known = Known::default();
    let events = watch_objects(groups, watcher::Config::default()).default_backoff();
    let changes = events.filter_map(move |event| {
        match event {
            Ok(event) => known.on(event),
            Err(error) => {
                let error = fettle_runtime::chain(&error).to_string();
                tracing::warn!(error, "watch of the DeviceGroups broke; it goes on");
            }
        }
        let changed = tell.send_if_modified(|wishes| {
            let changed = *wishes != known.by_group;
            if changed {
                wishes.clone_from(&known.by_group);
            }
            changed
        });
        ready(changed.then_some(()))
    });
    (wishes, changes)
}

#[derive(Debug, Default)]
struct Known {
    by_group: BTreeMap<String, Wish>,
    /// The same, of a list that is not complete yet.
    listed: BTreeMap<String, Wish>,
}

impl Known {
    fn on(&mut self, event: Event<DeserializeGuard<DeviceGroup>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(group) => note(&mut self.listed, &group),
            Event::InitDone => self.by_group = std::mem::take(&mut self.listed),
            Event::Apply(group) => note(&mut self.by_group, &group),
            Event::Delete(group) => drop(self.by_group.remove(&group.name_any())),
        }
    }
}

fn note(by_group: &mut BTreeMap<String, Wish>, group: &DeserializeGuard<DeviceGroup>) {
    match &group.0 {
        Ok(group) => {
            let wish = Wish {
                selector: group.spec.selector.clone(),
                firmware: group.spec.firmware.clone(),
                retries: group.spec.rollout.retries,
                is_taken_back: is_taken_back(group),
            };
            by_group.insert(group.name_any(), wish);
        }
        Err(_) => drop(by_group.remove(&group.name_any())),
    }
}

/// Whether the controller says so, in the words of the API, of the group as it is declared now.
fn is_taken_back(group: &DeviceGroup) -> bool {
    let status = group.status.as_ref().filter(|status| status.observed_generation == group.metadata.generation);
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("RollingBack" | "RolledBack"))
}

#[cfg(test)]
mod tests {
    use fettle_crds::DeviceGroupStatus;
    use serde_json::json;

    use super::*;

    fn group(name: &str, firmware: Option<&str>) -> DeviceGroup {
        let mut spec = json!({"selector": {}, "config": {"name": "cp"}});
        if let Some(firmware) = firmware {
            spec["firmware"] = json!({"name": firmware});
        }
        DeviceGroup::new(name, serde_json::from_value(spec).unwrap())
    }

    fn guarded(name: &str, firmware: Option<&str>) -> DeserializeGuard<DeviceGroup> {
        DeserializeGuard(Ok(group(name, firmware)))
    }

    #[test]
    fn what_groups_declare_follows_them_also_through_a_new_list() {
        let mut known = Known::default();
        let named = |known: &Known| -> Vec<String> {
            let firmware = known.by_group.values().filter_map(|wish| wish.firmware.as_ref());
            firmware.map(|firmware| firmware.name.clone()).collect()
        };
        known.on(Event::Init);
        known.on(Event::InitApply(guarded("a", Some("one"))));
        known.on(Event::InitApply(guarded("b", Some("one"))));
        assert!(named(&known).is_empty(), "the list is not complete");
        known.on(Event::InitDone);
        known.on(Event::Apply(guarded("c", Some("two"))));
        assert_eq!(named(&known), ["one", "one", "two"]);
        known.on(Event::Delete(guarded("a", Some("one"))));
        known.on(Event::Apply(guarded("b", None)));
        assert_eq!((named(&known), known.by_group.len()), (vec!["two".to_owned()], 2), "b is still a group");
        known.on(Event::Init);
        known.on(Event::InitDone);
        assert!(known.by_group.is_empty(), "what a new list lacks is gone");
    }

    #[test]
    fn what_was_rolled_back_is_taken_back_until_something_else_is_declared() {
        let taken_back = |phase: &str, observed| {
            let mut group = group("a", Some("one"));
            group.metadata.generation = Some(2);
            let status = DeviceGroupStatus {
                phase: Some(phase.to_owned()),
                observed_generation: Some(observed),
                ..Default::default()
            };
            group.status = Some(status);
            is_taken_back(&group)
        };
        assert!(taken_back("RollingBack", 2) && taken_back("RolledBack", 2));
        assert!(!taken_back("RolledBack", 1), "said of what was declared before");
        assert!(!taken_back("Stalled", 2) && !taken_back("Progressing", 2));
    }
}
