//! What a person wants to know of each device and of each group, read from the API objects; pure.

use std::collections::{BTreeMap, BTreeSet};

use fettle_crds::{Device, DeviceGroup, Phase, TryResult};
use kube::ResourceExt as _;

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not called yet.
    Unseen,
    /// It waits for its turn.
    Waiting,
    /// It was granted, and fetches a file.
    Fetching,
    Restarting,
    Applying,
    /// A try has failed.
    Failed(&'static str),
    Current,
}

impl State {
    /// For a sentence.
    fn explained(self) -> &'static str {
        match self {
            State::Unseen => "has not connected",
            State::Waiting => "waits for its turn",
            State::Fetching => "was told to download",
            State::Restarting => "was told to restart",
            State::Applying => "was told to apply its configuration",
            State::Failed(reason) => reason,
            State::Current => "is current",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) config: String,
    pub(super) state: State,
}

impl Row {
    pub(super) fn of(device: &Device) -> Self {
        let status = device.status.as_ref();
        let reported = status.and_then(|status| status.reported.as_ref());
        let applied = status.and_then(|status| status.applied.as_ref()).map(|applied| &applied.config);
        let config = applied.or_else(|| reported.and_then(|reported| reported.config.as_ref()));
        Row {
            name: device.name_any(),
            version: reported.map(|reported| reported.version.clone()).unwrap_or_default(),
            config: config.map(|config| without_hashes(config)).unwrap_or_default(),
            state: state(device),
        }
    }
}

/// Identities of configurations as their versions: the hash behind it tells people nothing.
fn without_hashes(text: &str) -> String {
    let bare = |word: &str| word.split('+').next().unwrap_or_default().to_owned();
    text.split(' ').map(bare).collect::<Vec<_>>().join(" ")
}

fn state(device: &Device) -> State {
    let Some(status) = &device.status else { return State::Unseen };
    if status.reported.is_none() {
        return State::Unseen;
    }
    let Some(target) = &status.target else { return State::Waiting };
    match &status.upgrade {
        Some(upgrade) if upgrade.target == target.id => match (upgrade.phase, upgrade.result) {
            (Phase::Downloaded, _) => State::Fetching,
            (Phase::Scheduled, _) => State::Waiting,
            (Phase::Restarting | Phase::RestartLost, _) => State::Restarting,
            (Phase::Applying, _) => State::Applying,
            (Phase::Done, Some(TryResult::Failed)) => State::Failed(upgrade.reason.map_or("failed", |it| it.as_str())),
            (Phase::Done, _) => State::Current,
        },
        _ => State::Fetching,
    }
}

/// All that the demo watches.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    devices: BTreeMap<String, Device>,
    groups: BTreeMap<String, DeviceGroup>,
    /// Tries that failed on the way: the device, and why.
    failures: BTreeSet<(String, &'static str)>,
}

/// One group with its devices.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) desired: String,
    pub(super) rows: Vec<Row>,
}

impl Section {
    pub(super) fn current(&self) -> usize {
        self.rows.iter().filter(|row| row.state == State::Current).count()
    }
}

impl Progress {
    pub(super) fn device(&mut self, device: Device) {
        if let State::Failed(reason) = state(&device) {
            self.failures.insert((device.name_any(), reason));
        }
        self.devices.insert(device.name_any(), device);
    }

    pub(super) fn group(&mut self, group: DeviceGroup) {
        self.groups.insert(group.name_any(), group);
    }

    /// The groups with the devices that they select, by name.
    pub(super) fn sections(&self) -> Vec<Section> {
        let section = |(name, group): (&String, &DeviceGroup)| {
            let wanted = &group.spec.selector.match_labels;
            let selected =
                |device: &&Device| wanted.iter().all(|(label, value)| device.labels().get(label) == Some(value));
            let desired = group.status.as_ref().and_then(|status| status.desired.as_deref()).map(without_hashes);
            Section {
                name: name.clone(),
                desired: desired.unwrap_or_default(),
                rows: self.devices.values().filter(selected).map(Row::of).collect(),
            }
        };
        self.groups.iter().map(section).collect()
    }

    /// Whether every group says of itself, for what it wants now, that all of its devices are there. That is the
    /// controller's verdict; what the rows show are the devices'.
    pub(super) fn is_complete(&self, devices: usize) -> bool {
        let statuses = self.groups.values().map(|group| (group.metadata.generation, group.status.as_ref()));
        let mut total = 0;
        for (generation, status) in statuses {
            let Some(status) = status else { return false };
            if status.observed_generation != generation || status.counts.current != status.counts.total {
                return false;
            }
            total += usize::try_from(status.counts.total).unwrap_or_default();
        }
        total == devices
    }

    pub(super) fn failures(&self) -> &BTreeSet<(String, &'static str)> {
        &self.failures
    }

    /// Devices that are not there yet, and what their groups say.
    pub(super) fn what_stands_still(&self) -> String {
        let mut text = String::new();
        for section in self.sections() {
            let message = self.groups.get(&section.name).and_then(|group| group.status.as_ref()?.message.clone());
            text.push_str(&format!("{}: {}\n", section.name, message.unwrap_or_else(|| "says nothing".to_owned())));
            for row in section.rows.iter().filter(|row| row.state != State::Current) {
                text.push_str(&format!("  {} on {}: {}\n", row.name, row.version, row.state.explained()));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn device(status: Value) -> Device {
        let device = json!({"metadata": {"name": "d", "labels": {"role": "a"}}, "spec": {"mac": "02:00:00:00:00:01"}, "status": status});
        serde_json::from_value(device).unwrap()
    }

    fn target(id: i64) -> Value {
        let time = "2026-01-01T00:00:00Z";
        json!({"id": id, "rollout": "r", "rolloutUid": "u", "try": 1, "from": "1", "transfer": "FTP", "logs": "Never",
               "grantedAt": time, "startBy": time, "until": time, "done": false})
    }

    fn reported() -> Value {
        json!({"version": "1", "model": "m", "config": "16+aaaa", "at": "2026-01-01T00:00:00Z"})
    }

    fn upgrade(id: i64, phase: &str, result: Option<&str>, reason: Option<&str>) -> Value {
        let mut upgrade = json!({"target": id, "phase": phase, "since": "2026-01-01T00:00:00Z"});
        if let Some(result) = result {
            upgrade["result"] = json!(result);
        }
        if let Some(reason) = reason {
            upgrade["reason"] = json!(reason);
        }
        upgrade
    }

    #[test]
    fn the_state_of_a_device_is_that_of_its_newest_target() {
        for (status, expected) in [
            (json!({}), State::Unseen),
            (json!({"reported": reported()}), State::Waiting),
            (json!({"reported": reported(), "target": target(2)}), State::Fetching),
            (
                json!({"reported": reported(), "target": target(2), "upgrade": upgrade(1, "Done", Some("Failed"), Some("CrcMismatch"))}),
                State::Fetching,
            ),
            (
                json!({"reported": reported(), "target": target(2), "upgrade": upgrade(2, "Restarting", None, None)}),
                State::Restarting,
            ),
            (
                json!({"reported": reported(), "target": target(2), "upgrade": upgrade(2, "Applying", None, None)}),
                State::Applying,
            ),
            (
                json!({"reported": reported(), "target": target(2), "upgrade": upgrade(2, "Done", Some("Failed"), Some("CrcMismatch"))}),
                State::Failed("CrcMismatch"),
            ),
            (
                json!({"reported": reported(), "target": target(2), "upgrade": upgrade(2, "Done", Some("Succeeded"), Some("Upgraded"))}),
                State::Current,
            ),
        ] {
            assert_eq!(state(&device(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn a_row_shows_what_was_applied_rather_than_what_was_reported_before() {
        let mut status = json!({"reported": reported()});
        assert_eq!(Row::of(&device(status.clone())).config, "16");
        status["applied"] = json!({"config": "17+bbbb", "at": "2026-01-01T00:00:00Z"});
        assert_eq!(Row::of(&device(status)).config, "17");
    }

    #[test]
    fn complete_is_what_every_group_says_of_what_it_wants_now() {
        let group = |generation: i64, current: i64| -> DeviceGroup {
            let counts = json!({"total": 2, "current": current});
            let group = json!({
                "metadata": {"name": "g", "generation": generation},
                "spec": {"selector": {"matchLabels": {"role": "a"}}, "firmware": {"name": "f"}},
                "status": {"observedGeneration": 1, "counts": counts},
            });
            serde_json::from_value(group).unwrap()
        };
        let complete = |group: DeviceGroup, devices: usize| {
            let mut progress = Progress::default();
            progress.group(group);
            progress.is_complete(devices)
        };
        assert!(complete(group(1, 2), 2));
        assert!(!complete(group(1, 1), 2), "one is missing");
        assert!(!complete(group(2, 2), 2), "it speaks of an older generation");
        assert!(!complete(group(1, 2), 3), "a device is in no group");
    }

    #[test]
    fn failed_tries_are_remembered_after_the_next_has_begun() {
        let mut progress = Progress::default();
        let failed = upgrade(1, "Done", Some("Failed"), Some("CrcMismatch"));
        progress.device(device(json!({"reported": reported(), "target": target(1), "upgrade": failed})));
        progress.device(device(json!({"reported": reported(), "target": target(2)})));
        assert_eq!(progress.failures().iter().collect::<Vec<_>>(), [&("d".to_owned(), "CrcMismatch")]);
    }
}
