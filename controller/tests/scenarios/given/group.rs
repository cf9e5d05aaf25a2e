//! A group with its rollouts, in a few words.

use std::collections::BTreeMap;
use std::sync::Arc;

use fettle_controller::plan::model as m;
use fettle_controller::plan::revision::Wanted;
use fettle_controller::reconcile::convert;
use fettle_crds::{
    Abort, Apply, ApplyMode, Condition, DeviceGroupStatus, DeviceRolloutSpec, DeviceRolloutStatus, DownloadTime,
    FinishedStep, FirmwarePolicy, Freeze, IntOrPercent, LabelSelector, Logs, OnFailure, RollbackStatus, SessionPolicy,
    Spread, Step, StepStatus, Transfer, Window,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use super::DEVICE_TIMEOUT;
use super::span::{Span, hours};

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Group {
    labels: BTreeMap<String, String>,
    firmware: Option<String>,
    config: Option<String>,
    max_unavailable: IntOrPercent,
    retries: u32,
    min_ready: Span,
    transfer: Transfer,
    session: SessionPolicy,
    /// `current`: stands for what it wants; `former`: for something else; `none`.
    rollout: String,
    /// Its rollout was complete for the first time that long ago.
    completed: Option<Span>,
    last_rollout: i64,
    /// So many rollouts before that one are kept, all complete.
    history: i64,
    /// The firmware that those were for, where that is not what the group wants now.
    history_of: Option<String>,
    /// Nothing has been written of it yet.
    is_new: bool,
    /// Somebody changed it that long ago.
    changed: Span,
    policy: FirmwarePolicy,
    steps: Vec<Step>,
    spread: Vec<Spread>,
    failure_budget: IntOrPercent,
    on_failure: OnFailure,
    windows: Vec<Window>,
    freezes: Vec<Freeze>,
    download: DownloadTime,
    /// The time of day at which configurations are put into force.
    apply_at: Option<String>,
    /// What is wrong with its windows, freezes or time zones by now.
    pub wrong_times: Option<String>,
    paused: bool,
    /// What a person has said in the spec of its rollout.
    person: Person,
    /// The step that its rollout is at, as it is written.
    at_step: Option<AtStep>,
    /// The steps that it has left behind, as it is written, and how long ago each had soaked.
    finished_steps: BTreeMap<u32, Span>,
    /// Its rollout began to go back that long ago.
    rolling_back: Option<Span>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Person {
    paused: Option<bool>,
    approved_step: Option<u32>,
    abort: Option<Abort>,
    /// How long ago.
    retry_at: Option<Span>,
    accept_failures: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtStep {
    number: u32,
    size: i64,
    /// How long ago.
    #[serde(default)]
    finished: Option<Span>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            labels: BTreeMap::from([("role".into(), "access".into())]),
            firmware: Some("fw-2".into()),
            config: None,
            max_unavailable: IntOrPercent::Int(1),
            retries: 2,
            min_ready: Span(SignedDuration::ZERO),
            transfer: Transfer::Auto,
            session: SessionPolicy::Keep,
            rollout: "current".into(),
            completed: None,
            last_rollout: 1,
            history: 0,
            history_of: None,
            is_new: false,
            changed: Span(SignedDuration::from_hours(1)),
            policy: FirmwarePolicy::UpgradeOnly,
            steps: Vec::new(),
            spread: Vec::new(),
            failure_budget: IntOrPercent::Int(0),
            on_failure: OnFailure::Pause,
            windows: Vec::new(),
            freezes: Vec::new(),
            download: DownloadTime::InWindow,
            apply_at: None,
            wrong_times: None,
            paused: false,
            person: Person::default(),
            at_step: None,
            finished_steps: BTreeMap::new(),
            rolling_back: None,
        }
    }
}
impl Group {
    fn apply(&self) -> Apply {
        let mode = if self.apply_at.is_some() { ApplyMode::Scheduled } else { ApplyMode::Immediate };
        Apply { mode, at: self.apply_at.clone() }
    }

    pub fn model(&self, name: m::Text, now: Timestamp) -> m::Group {
        let conditions = vec![Condition {
            type_: "Ready".into(),
            status: if self.completed.is_some() { "True" } else { "False" }.into(),
            observed_generation: Some(1),
            last_transition_time: Time(now),
            reason: "Progressing".into(),
            message: String::new(),
        }];
        let rollout = (self.rollout != "none").then(|| format!("{name}-{}", self.last_rollout));
        let status =
            DeviceGroupStatus { conditions, rollout, last_rollout: self.last_rollout, ..DeviceGroupStatus::default() };
        m::Group {
            uid: format!("uid-of-{name}").into(),
            name,
            generation: 1,
            changed_at: now - self.changed.0,
            selector: LabelSelector { match_labels: self.labels.clone(), match_expressions: Vec::new() },
            firmware: self.firmware.as_deref().map(Into::into),
            config: self.config.as_deref().map(Into::into),
            policy: self.policy,
            times: convert::times(&self.windows, &self.freezes, "UTC", &self.apply())
                .map(Arc::new)
                .map_err(|wrong| wrong.to_string().into()),
            paused: self.paused,
            history_limit: 9,
            strategy: m::Strategy {
                steps: self.steps.clone(),
                max_unavailable: self.max_unavailable,
                spread: self.spread.clone(),
                failure_budget: self.failure_budget,
                on_failure: self.on_failure,
                device_timeout: SignedDuration::try_from(DEVICE_TIMEOUT).unwrap(),
                retries: self.retries,
                min_ready: self.min_ready.0,
                download: self.download,
            },
            transfer: self.transfer,
            session: self.session,
            logs: Logs::default(),
            status: if self.is_new { DeviceGroupStatus::default() } else { status },
        }
    }

    pub fn rollouts(&self, name: &str, snapshot: &m::Snapshot, now: Timestamp) -> Vec<m::Rollout> {
        let group = &snapshot.groups[name];
        let rollout = |number: i64, revision: Option<&str>| {
            let Wanted::Revision(wanted) = Wanted::of(group, snapshot) else { return None };
            let mut spec = wanted.rollout(group, number).spec;
            if let Some(revision) = revision {
                spec.revision = revision.into();
            }
            let Person { paused, approved_step, abort, retry_at, accept_failures } = self.person;
            spec = DeviceRolloutSpec {
                paused,
                approved_step,
                abort,
                retry_at: retry_at.map(|ago| now - ago.0),
                accept_failures,
                ..spec
            };
            let step = self.at_step.as_ref().map(|at| {
                let finished_at = at.finished.map(|ago| now - ago.0);
                let soak = self.steps.get(at.number as usize - 1).and_then(|step| step.soak);
                let soak = soak.and_then(|soak| SignedDuration::try_from(soak.0).ok());
                StepStatus {
                    number: at.number,
                    progress: String::new(),
                    size: at.size,
                    granted: 0,
                    started_at: now - hours(1).0,
                    finished_at,
                    soak_until: finished_at.zip(soak).map(|(finished, soak)| finished + soak),
                }
            });
            let finished_steps = self.finished_steps.iter();
            let finished_steps =
                finished_steps.map(|(number, ago)| FinishedStep { number: *number, soaked_at: now - ago.0 }).collect();
            let rollback = self.rolling_back.map(|ago| RollbackStatus {
                reason: "BudgetExceeded".into(),
                started_at: now - ago.0,
                finished_at: None,
            });
            let conditions = group.status.conditions.clone();
            let completed_at = self.completed.map(|ago| now - ago.0);
            let name = m::Text::from(format!("{name}-{number}"));
            Some(m::Rollout {
                uid: format!("uid-of-{name}").into(),
                name,
                generation: 1,
                group_uid: group.uid.clone(),
                spec: Arc::new(spec),
                status: DeviceRolloutStatus {
                    conditions,
                    completed_at,
                    step,
                    finished_steps,
                    rollback,
                    ..DeviceRolloutStatus::default()
                },
            })
        };
        let history = (self.last_rollout - self.history..self.last_rollout).filter_map(|number| {
            let mut former = rollout(number, Some("something-else"))?;
            if let Some(firmware) = self.history_of.as_deref() {
                let before = m::Group { firmware: Some(firmware.into()), ..group.clone() };
                let Wanted::Revision(wanted) = Wanted::of(&before, snapshot) else { panic!("{firmware}?") };
                former.spec = Arc::new(wanted.rollout(&before, number).spec);
            }
            former.status.phase = Some("Complete".into());
            Some(former)
        });
        let newest: Vec<m::Rollout> = match self.rollout.as_str() {
            "current" => rollout(self.last_rollout, None).into_iter().collect(),
            "former" => rollout(self.last_rollout, Some("something-else")).into_iter().collect(),
            "none" => Vec::new(),
            other => panic!("group {name}: rollout {other}?"),
        };
        history.chain(newest).collect()
    }
}
