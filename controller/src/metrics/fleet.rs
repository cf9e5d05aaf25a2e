//! How the groups stand, and what the devices that are not current wait for: what alerts and dashboards look at.
//!
//! A group is a label here, and so one that people choose: there are as many series as groups, a dozen for each, and they
//! go when the group goes. They are the leader's alone; what a former leader knew is taken away, or it would be counted
//! twice.

use std::collections::{BTreeMap, BTreeSet};

use fettle_crds::DeviceGroupStatus;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use crate::plan::model::Text;
use crate::plan::output::Plan;
use crate::plan::phase::Phase;
use crate::plan::reason::Class;

/// Gauges of the fleet. Clones are the same ones.
#[derive(Clone)]
pub struct Fleet {
    devices: IntGaugeVec,
    offline: IntGauge,
    waiting: IntGaugeVec,
    group_devices: IntGaugeVec,
    group_phase: IntGaugeVec,
    group_budget: IntGaugeVec,
}

/// The states of devices, as labels.
const STATES: [&str; 5] = ["current", "updating", "waiting", "failed", "offline"];

impl Fleet {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(format!("fettle_controller_{name}"), help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            prometheus::Result::Ok(gauges)
        };
        let offline =
            "Devices of groups that are offline, whether they are current or not; without those that are held";
        let offline = IntGauge::new("fettle_controller_devices_offline", offline)?;
        registry.register(Box::new(offline.clone()))?;
        Ok(Self {
            offline,
            devices: gauges("devices", "Devices of groups, by state; those that a group cannot have, too", &["state"])?,
            waiting: gauges("devices_not_current", "Devices that are not current, by the reason of each", &["reason"])?,
            group_devices: gauges("group_devices", "Devices of a group, by state", &["group", "state"])?,
            group_phase: gauges(
                "group_phase",
                "1 for the phase that a group is in, 0 for the others",
                &["group", "phase"],
            )?,
            group_budget: gauges(
                "group_budget_exceeded",
                "1 where more devices of a group failed than its failureBudget allows, else 0",
                &["group"],
            )?,
        })
    }
}

/// What the gauges show of one leadership, to be taken away at its end.
pub struct Shown {
    fleet: Fleet,
    groups: BTreeSet<Text>,
    reasons: BTreeSet<&'static str>,
}

impl Shown {
    pub fn new(fleet: &Fleet) -> Self {
        Self { fleet: fleet.clone(), groups: BTreeSet::new(), reasons: BTreeSet::new() }
    }

    /// Shows a pass. `written` is how the groups stood before it, which says all of those that it leaves as they are.
    pub fn pass<'a>(&mut self, plan: &Plan, written: impl Iterator<Item = (&'a Text, &'a DeviceGroupStatus)>) {
        self.devices(plan);
        let mut gone = std::mem::take(&mut self.groups);
        for (group, status) in written {
            if !gone.remove(group) {
                self.group(group, status);
            }
            self.groups.insert(group.clone());
        }
        for write in &plan.groups {
            self.group(&write.group, &write.status);
        }
        gone.iter().for_each(|group| self.forget(group));
    }

    fn devices(&mut self, plan: &Plan) {
        let mut reasons: BTreeMap<&'static str, i64> = self.reasons.iter().map(|reason| (*reason, 0)).collect();
        let mut counts = [i64::try_from(plan.current).unwrap_or(i64::MAX), 0, 0, 0, 0];
        for (_, reason) in &plan.waits {
            *reasons.entry(reason.as_str()).or_default() += 1;
            counts[match reason.class() {
                Class::Updating => 1,
                Class::Waiting => 2,
                Class::Failed => 3,
                Class::Offline => 4,
            }] += 1;
        }
        self.fleet.offline.set(i64::try_from(plan.offline).unwrap_or(i64::MAX));
        for (state, count) in STATES.into_iter().zip(counts) {
            self.fleet.devices.with_label_values(&[state]).set(count);
        }
        for (reason, count) in reasons {
            self.fleet.waiting.with_label_values(&[reason]).set(count);
            self.reasons.insert(reason);
        }
    }

    fn group(&self, group: &str, status: &DeviceGroupStatus) {
        let counts = &status.counts;
        let counts = [counts.current, counts.updating, counts.waiting, counts.failed, counts.offline];
        for (state, count) in STATES.into_iter().zip(counts) {
            self.fleet.group_devices.with_label_values(&[group, state]).set(count);
        }
        for phase in Phase::ALL.map(Phase::as_str) {
            let is_in_it = status.phase.as_deref() == Some(phase);
            self.fleet.group_phase.with_label_values(&[group, phase]).set(i64::from(is_in_it));
        }
        let holds = status.conditions.iter().find(|condition| condition.type_ == "BudgetHolds");
        let is_exceeded = holds.is_some_and(|condition| condition.status == "False");
        self.fleet.group_budget.with_label_values(&[group]).set(i64::from(is_exceeded));
    }

    fn forget(&self, group: &str) {
        // A series that is not there is as good as removed.
        for state in STATES {
            let _ = self.fleet.group_devices.remove_label_values(&[group, state]);
        }
        for phase in Phase::ALL.map(Phase::as_str) {
            let _ = self.fleet.group_phase.remove_label_values(&[group, phase]);
        }
        let _ = self.fleet.group_budget.remove_label_values(&[group]);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.fleet.devices.reset();
        self.fleet.offline.set(0);
        self.fleet.waiting.reset();
        self.groups.iter().for_each(|group| self.forget(group));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fettle_crds::Counts;

    use super::*;
    use crate::plan::output::GroupWrite;
    use crate::plan::reason::Reason;

    fn status(phase: Phase, current: i64) -> DeviceGroupStatus {
        let counts = Counts { current, ..Counts::default() };
        DeviceGroupStatus { phase: Some(phase.as_str().to_owned()), counts, ..DeviceGroupStatus::default() }
    }

    #[test]
    fn groups_are_shown_as_they_stand_and_go_with_the_group_and_with_the_leadership() {
        let registry = Registry::new();
        let fleet = Fleet::new(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let (access, core): (Text, Text) = (Arc::from("access"), Arc::from("core"));
        let (written, other) = (status(Phase::Progressing, 3), status(Phase::Complete, 7));
        let mut shown = Shown::new(&fleet);

        let plan = Plan { current: 10, offline: 2, waits: vec![(0, Reason::Soaking)], ..Plan::default() };
        shown.pass(&plan, [(&access, &written), (&core, &other)].into_iter());
        for series in [
            r#"fettle_controller_devices{state="current"} 10"#,
            r#"fettle_controller_devices{state="waiting"} 1"#,
            "fettle_controller_devices_offline 2",
            r#"fettle_controller_devices_not_current{reason="Soaking"} 1"#,
            r#"fettle_controller_group_devices{group="access",state="current"} 3"#,
            r#"fettle_controller_group_phase{group="access",phase="Progressing"} 1"#,
            r#"fettle_controller_group_phase{group="core",phase="Stalled"} 0"#,
            r#"fettle_controller_group_budget_exceeded{group="core"} 0"#,
        ] {
            assert!(text().contains(series), "{series}\n{}", text());
        }

        // What a pass has found is shown before it is written.
        let stalled = GroupWrite { group: access.clone(), status: status(Phase::Stalled, 4), notices: Vec::new() };
        shown.pass(&Plan { groups: vec![stalled], ..Plan::default() }, [(&access, &written)].into_iter());
        assert!(text().contains(r#"group_phase{group="access",phase="Stalled"} 1"#), "{}", text());
        assert!(text().contains(r#"group_phase{group="access",phase="Progressing"} 0"#), "{}", text());
        assert!(text().contains(r#"devices_not_current{reason="Soaking"} 0"#), "{}", text());
        assert!(!text().contains(r#"group="core""#), "it is gone\n{}", text());

        drop(shown);
        assert!(text().contains("fettle_controller_devices_offline 0"), "{}", text());
        assert!(!text().contains('{'), "what another leader says now must not stand beside this\n{}", text());
    }
}
