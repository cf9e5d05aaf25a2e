//! What is known, in a few words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fettle_controller::plan::model as m;
use fettle_controller::plan::revision::Wanted;
use fettle_controller::plan::versions::Requirement;
use fettle_controller::reconcile::convert;
use fettle_crds::content::{ConfigContent, ImageContent};
use fettle_crds::{
    Abort, Condition, DeviceGroupStatus, DeviceRolloutSpec, DeviceRolloutStatus, Drops, FileSource, FirmwarePolicy,
    Freeze, IntOrPercent, LabelSelector, OnFailure, Outcome, Phase, Previous, PreviousFirmware, RollbackStatus,
    SessionPolicy, Source, Spread, Stage, Step, StepStatus, Transfer, TryResult, UploadLogs, Verdict, Window,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

/// A namespace. A rollout stands for what each group wants, unless the group says otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Given {
    bridges: BTreeMap<String, Bridge>,
    firmwares: BTreeMap<String, Firmware>,
    profiles: BTreeMap<String, Profile>,
    groups: BTreeMap<String, Group>,
    devices: BTreeMap<String, Device>,
    /// Content Secrets besides those of the rollouts, and how long ago they were made.
    contents: BTreeMap<String, Span>,
    /// How long this controller has looked.
    watching: Span,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            bridges: BTreeMap::from([("b0".into(), Bridge::default())]),
            firmwares: BTreeMap::from([("fw-2".into(), Firmware::default())]),
            profiles: BTreeMap::new(),
            groups: BTreeMap::from([("access".into(), Group::default())]),
            devices: BTreeMap::new(),
            contents: BTreeMap::new(),
            watching: hours(1),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Bridge {
    incarnation: String,
    started: Span,
    /// How long ago its Lease ended; it holds where this is not given.
    expired: Option<Span>,
    /// It gave its Lease back that long ago.
    released: Option<Span>,
}

impl Default for Bridge {
    fn default() -> Self {
        Self { incarnation: "i1".into(), started: hours(2), expired: None, released: None }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Firmware {
    version: String,
    reports: Option<String>,
    models: Vec<String>,
    /// `True`, `Unknown`, or the reason why not.
    ready: String,
    upgradable_from: Option<String>,
}

impl Default for Firmware {
    fn default() -> Self {
        Self {
            version: "2".into(),
            reports: None,
            models: vec!["S1".into()],
            ready: "True".into(),
            upgradable_from: None,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    version: String,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    text: Option<String>,
    /// The ConfigMap and the key that are not there.
    #[serde(default)]
    missing: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Group {
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
    /// Its rollout has been complete.
    completed: bool,
    last_rollout: i64,
    /// So many rollouts before that one are kept, all complete.
    history: i64,
    /// Nothing has been written of it yet.
    is_new: bool,
    policy: FirmwarePolicy,
    steps: Vec<Step>,
    spread: Vec<Spread>,
    failure_budget: IntOrPercent,
    on_failure: OnFailure,
    windows: Vec<Window>,
    freezes: Vec<Freeze>,
    paused: bool,
    /// What a person has said in the spec of its rollout.
    person: Person,
    /// The step that its rollout is at, as it is written.
    at_step: Option<AtStep>,
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
            completed: false,
            last_rollout: 1,
            history: 0,
            is_new: false,
            policy: FirmwarePolicy::UpgradeOnly,
            steps: Vec::new(),
            spread: Vec::new(),
            failure_budget: IntOrPercent::Int(0),
            on_failure: OnFailure::Pause,
            windows: Vec::new(),
            freezes: Vec::new(),
            paused: false,
            person: Person::default(),
            at_step: None,
            rolling_back: None,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    labels: BTreeMap<String, String>,
    mac: Option<String>,
    model: Option<String>,
    approved: bool,
    held: bool,
    pending: bool,
    transfer: Option<Transfer>,
    says: Option<Says>,
    applied: Option<Applied>,
    /// `connected`, `dismissed`, `former` (with the incarnation before), `elsewhere` (a bridge that is gone), `none`.
    session: String,
    /// When it was last seen, where there is no session.
    lost: Option<Span>,
    target: Option<Target>,
    /// Whether it is accepted has not been written.
    is_new: bool,
    /// A write to it was not answered; that is settled in so long.
    doubt: Option<Span>,
    /// The step in which its group's rollout has granted it; 1, where it has a target of that.
    granted_in: Option<u32>,
    /// A person had it tried again after the failure of that target.
    forgiven: Option<i64>,
    /// What it ran before the rollout, and whether that is kept: `1`, `1 kept`.
    before: Option<String>,
    /// The annotation `fettle.dev/retry-at`.
    retry_at: Option<String>,
    /// How often it has lost its connection by itself since its last try.
    drops: i64,
    /// How long ago it called; an hour, where this is not given.
    called: Option<Span>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            labels: BTreeMap::from([("role".into(), "access".into())]),
            mac: None,
            model: None,
            approved: true,
            held: false,
            pending: false,
            transfer: None,
            says: Some(Says::default()),
            applied: None,
            session: "connected".into(),
            lost: None,
            target: None,
            is_new: false,
            doubt: None,
            granted_in: None,
            forgiven: None,
            before: None,
            retry_at: None,
            drops: 0,
            called: None,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Says {
    version: String,
    model: String,
    /// It can tell; `none`: it has none.
    config: Option<String>,
    ago: Span,
}

impl Default for Says {
    fn default() -> Self {
        Self { version: "1".into(), model: "S1".into(), config: None, ago: hours(1) }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Applied {
    config: String,
    #[serde(default = "an_hour")]
    ago: Span,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Target {
    id: i64,
    r#try: u32,
    from: String,
    /// Of which group; `access` where not given. Before a name, `former ` means its rollout before.
    of: String,
    granted: Span,
    begun: bool,
    /// How it ended, in the words of the bridge, and how long ago.
    ended: Option<(String, Span)>,
    /// How it ended, in the words of the controller.
    judged: Option<String>,
    done: bool,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            id: 1,
            r#try: 1,
            from: "1".into(),
            of: "access".into(),
            granted: Span(SignedDuration::from_mins(1)),
            begun: false,
            ended: None,
            judged: None,
            done: false,
        }
    }
}

/// A length of time, as Go writes it.
#[derive(Debug, Clone, Copy)]
pub struct Span(SignedDuration);

fn hours(hours: i64) -> Span {
    Span(SignedDuration::from_hours(hours))
}

fn an_hour() -> Span {
    hours(1)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = fettle_crds::Duration::deserialize(deserializer)?;
        Ok(Self(SignedDuration::try_from(duration.0).unwrap()))
    }
}

const DEVICE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

impl Given {
    /// The namespace, and the time.
    pub fn snapshot(&self) -> (m::Snapshot, Timestamp) {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let mut snapshot = m::Snapshot {
            settings: m::Settings { watching_since: now - self.watching.0, ..m::Settings::default() },
            bridges: self.bridges.iter().map(|(name, bridge)| (name.as_str().into(), bridge.model(now))).collect(),
            firmwares: named(&self.firmwares, Firmware::model),
            profiles: named(&self.profiles, |profile, name| profile.model(name, now)),
            groups: named(&self.groups, |group, name| group.model(name, now)),
            contents: self.contents.iter().map(|(name, ago)| (name.as_str().into(), now - ago.0)).collect(),
            ..m::Snapshot::default()
        };
        for (name, group) in &self.groups {
            for rollout in group.rollouts(name, &snapshot, now) {
                let firmware = rollout.spec.firmware.iter().flat_map(|firmware| &firmware.images);
                let contents = firmware.map(|image| &image.content);
                let contents = contents.chain(rollout.spec.config.as_ref().map(|config| &config.content));
                let contents: Vec<m::Text> = contents.map(|content| content.as_str().into()).collect();
                snapshot.contents.extend(contents.into_iter().map(|content| (content, now)));
                snapshot.rollouts.insert(rollout.name.clone(), rollout);
            }
        }
        for (number, (name, device)) in self.devices.iter().enumerate() {
            if let Some(ahead) = device.doubt {
                snapshot.in_doubt.insert(name.as_str().into(), now + ahead.0);
            }
            let device = device.model(name, number, &snapshot, now);
            snapshot.devices.insert(name.as_str().into(), device);
        }
        (snapshot, now)
    }
}

fn named<G, M>(given: &BTreeMap<String, G>, model: impl Fn(&G, m::Text) -> M) -> BTreeMap<m::Text, M> {
    given.iter().map(|(name, given)| (name.as_str().into(), model(given, name.as_str().into()))).collect()
}

impl Bridge {
    fn model(&self, now: Timestamp) -> m::Bridge {
        let lease = SignedDuration::from_secs(15);
        // A Lease that holds goes on holding: it is renewed in time.
        let holds = self.expired.is_none() && self.released.is_none();
        let renewed = match (self.expired, self.released) {
            (Some(ago), _) => now - ago.0 - lease,
            (None, Some(ago)) => now - ago.0,
            (None, None) => now,
        };
        let incarnation = self.released.is_none().then(|| self.incarnation.as_str().into());
        let expires = if holds { Timestamp::MAX } else { renewed + lease };
        m::Bridge { incarnation, started: now - self.started.0, renewed, expires }
    }
}

impl Firmware {
    fn model(&self, name: m::Text) -> m::Firmware {
        let reports = self.reports.as_ref().unwrap_or(&self.version);
        let content = ImageContent {
            version: self.version.clone(),
            reports: reports.clone(),
            source: Source { file: Some(FileSource { path: format!("{name}.bin") }), http: None },
            sha256: format!("sha-of-{name}"),
        };
        let image = m::Image {
            models: self.models.clone(),
            reports: reports.as_str().into(),
            upgradable_from: self.upgradable_from.as_deref().map(|text| Arc::new(Requirement::parse(text).unwrap())),
            name: content.name().into(),
            content: Arc::new(content),
        };
        let (readiness, is_verified) = match self.ready.as_str() {
            "True" => (m::Readiness::Ready, true),
            "Unknown" => (m::Readiness::Unknown, false),
            reason => {
                let message = format!("the file is not what it should be ({reason})");
                (m::Readiness::Failed { reason: reason.into(), message }, false)
            }
        };
        let verified = is_verified.then(|| image.content.sha256.as_str().into()).into_iter().collect();
        m::Firmware { name, version: self.version.as_str().into(), images: vec![image], readiness, verified }
    }
}

impl Profile {
    fn model(&self, name: m::Text, now: Timestamp) -> m::Profile {
        let source = match (&self.text, self.missing.as_slice()) {
            (Some(text), _) => {
                let content = ConfigContent { version: self.version.clone(), bytes: text.clone().into_bytes() };
                m::Source::Read(m::Config {
                    identity: content.identity().into(),
                    name: content.name().into(),
                    content: Arc::new(content),
                })
            }
            (None, [object]) => m::Source::ObjectMissing { kind: "ConfigMap", object: object.as_str().into() },
            (None, [object, key]) => {
                m::Source::KeyMissing { kind: "ConfigMap", object: object.as_str().into(), key: key.as_str().into() }
            }
            (None, _) => panic!("profile {name}: give text, or what is missing"),
        };
        let mut profile =
            m::Profile { name, generation: 1, models: self.models.clone(), source, status: Default::default() };
        // What is readable is told already.
        if self.text.is_some() {
            profile.status = fettle_controller::plan::status::of_profile(&profile, now).unwrap().1;
        }
        profile
    }
}

impl Group {
    fn model(&self, name: m::Text, now: Timestamp) -> m::Group {
        let conditions = vec![Condition {
            type_: "Ready".into(),
            status: if self.completed { "True" } else { "False" }.into(),
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
            selector: LabelSelector { match_labels: self.labels.clone(), match_expressions: Vec::new() },
            firmware: self.firmware.as_deref().map(Into::into),
            config: self.config.as_deref().map(Into::into),
            policy: self.policy,
            times: convert::times(&self.windows, &self.freezes, "UTC")
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
            },
            transfer: self.transfer,
            session: self.session,
            logs: UploadLogs::OnFailure,
            status: if self.is_new { DeviceGroupStatus::default() } else { status },
        }
    }

    fn rollouts(&self, name: &str, snapshot: &m::Snapshot, now: Timestamp) -> Vec<m::Rollout> {
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
            let step = self.at_step.as_ref().map(|at| StepStatus {
                number: at.number,
                progress: String::new(),
                size: at.size,
                granted: 0,
                started_at: now - hours(1).0,
                finished_at: at.finished.map(|ago| now - ago.0),
                soak_until: None,
            });
            let rollback = self.rolling_back.map(|ago| RollbackStatus {
                reason: "BudgetExceeded".into(),
                started_at: now - ago.0,
                finished_at: None,
            });
            let conditions = group.status.conditions.clone();
            let completed_at = self.completed.then_some(now);
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
                    rollback,
                    ..DeviceRolloutStatus::default()
                },
            })
        };
        let history = (self.last_rollout - self.history..self.last_rollout).filter_map(|number| {
            let mut former = rollout(number, Some("something-else"))?;
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

impl Device {
    fn model(&self, name: &str, number: usize, snapshot: &m::Snapshot, now: Timestamp) -> m::Device {
        let session = |bridge: &str, incarnation: &str, dismissed| m::Session {
            bridge: bridge.into(),
            incarnation: incarnation.into(),
            since: now - self.called.unwrap_or(hours(1)).0,
            dismissed,
        };
        let session = match self.session.as_str() {
            "connected" => Some(session("b0", "i1", false)),
            "dismissed" => Some(session("b0", "i1", true)),
            "former" => Some(session("b0", "i0", false)),
            "elsewhere" => Some(session("b9", "i1", false)),
            "none" => None,
            other => panic!("device {name}: session {other}?"),
        };
        let reported = self.says.as_ref().map(|says| m::Reported {
            version: says.version.as_str().into(),
            model: says.model.as_str().into(),
            config: says.config.as_deref().filter(|config| *config != "none").map(Into::into),
            tells_config: says.config.is_some(),
            at: now - says.ago.0,
        });
        let applied = self
            .applied
            .as_ref()
            .map(|applied| m::Applied { config: applied.config.as_str().into(), at: now - applied.ago.0 });
        let mut device = m::Device {
            name: name.into(),
            resource_version: 1,
            generation: 1,
            labels: self.labels.clone(),
            mac: m::Mac::parse(&self.mac.clone().unwrap_or_else(|| format!("02:00:00:00:00:{number:02x}"))).unwrap(),
            origin: if self.pending { m::Origin::Pending } else { m::Origin::Declared },
            model: self.model.as_deref().map(Into::into),
            approved: self.approved && !self.pending,
            held: self.held,
            transfer: self.transfer,
            retry_at: self.retry_at.as_deref().map(Into::into),
            facts: m::Facts {
                session,
                last_seen: self.lost.map(|ago| now - ago.0),
                reported,
                applied,
                upgrade: None,
                drops: None,
            },
            decisions: m::Decisions::default(),
        };
        if let Some(target) = &self.target {
            target.put(&mut device, snapshot, now);
        }
        self.take_part(&mut device, snapshot);
        if !self.is_new {
            device.decisions.observed_generation = Some(1);
            device.decisions.acceptance = Some(m::Acceptance {
                accepted: true,
                reason: "Accepted".into(),
                message: "it is approved, and no other Device has its MAC".into(),
                generation: 1,
                since: now,
            });
        }
        device
    }
}

impl Device {
    /// What its group's rollout has done with it.
    fn take_part(&self, device: &mut m::Device, snapshot: &m::Snapshot) {
        let target = device.decisions.target.as_ref().map(|target| target.id).unwrap_or_default();
        device.facts.drops = (self.drops > 0).then_some(Drops { target, count: self.drops });
        let of = self.target.as_ref().map_or("access", |target| target.of.as_str());
        let rollout = snapshot.rollouts.values().rev().find(|rollout| rollout.spec.group == of);
        let Some(rollout) = rollout else { return };
        if let Some(step) = self.granted_in {
            let granted = m::Granted { rollout_uid: rollout.uid.clone(), step, tries: 0, forgiven: None };
            device.decisions.granted.get_or_insert(granted).step = step;
        }
        if let Some(granted) = &mut device.decisions.granted {
            granted.forgiven = self.forgiven;
        }
        device.decisions.previous = self.before.as_deref().map(|before| {
            let (version, kept) = before.split_once(' ').unwrap_or((before, ""));
            let is_kept = kept == "kept";
            Arc::new(Previous {
                rollout_uid: rollout.uid.to_string(),
                firmware: PreviousFirmware {
                    version: version.to_owned(),
                    sha256: is_kept.then(|| format!("sha-of-{version}")),
                    content: is_kept.then(|| format!("content-of-{version}")),
                },
                config: None,
            })
        });
    }
}

impl Target {
    fn put(&self, device: &mut m::Device, snapshot: &m::Snapshot, now: Timestamp) {
        let (group, is_former) = match self.of.strip_prefix("former ") {
            Some(group) => (group, true),
            None => (self.of.as_str(), false),
        };
        let of_group = snapshot.rollouts.values().filter(|rollout| *rollout.spec.group == *group);
        let current = of_group.max_by_key(|rollout| rollout.spec.number);
        let name = if is_former { format!("{group}-0") } else { current.unwrap().name.to_string() };
        let Wanted::Revision(revision) = Wanted::of(&snapshot.groups[group], snapshot) else { panic!("{group}?") };
        let model = device.facts.reported.as_ref().map_or("S1", |reported| &*reported.model).to_owned();
        let firmware = revision.image(&model).ok().flatten().map(|image| Arc::new(image.in_target()));
        let config = revision.config(&model).ok().flatten().map(|config| Arc::new(config.in_target()));
        let granted_at = now - self.granted.0;
        device.decisions.target = Some(m::Target {
            id: self.id,
            rollout_uid: format!("uid-of-{name}").into(),
            rollout: name.into(),
            attempt: self.r#try,
            from: self.from.as_str().into(),
            firmware,
            config,
            transfer: fettle_crds::WireTransfer::Ftp,
            logs: UploadLogs::OnFailure,
            stage: Stage::Activate,
            granted_at,
            start_by: granted_at + SignedDuration::from_secs(60),
            until: granted_at + SignedDuration::try_from(DEVICE_TIMEOUT).unwrap(),
            spread: Arc::default(),
            done: self.done,
        });
        device.decisions.last_target = self.id;
        if !is_former {
            device.decisions.granted = Some(m::Granted {
                rollout_uid: device.decisions.target.as_ref().unwrap().rollout_uid.clone(),
                step: 1,
                tries: 0,
                forgiven: None,
            });
        }
        let verdict = |text: &str| serde_yaml::from_str::<Verdict>(text).unwrap();
        let result = |reason: Verdict| match reason {
            Verdict::Upgraded | Verdict::ResultLost | Verdict::AlreadyCurrent => TryResult::Succeeded,
            _ => TryResult::Failed,
        };
        let upgrade = |phase, ago: Span, reason: Option<Verdict>| m::Upgrade {
            target: self.id,
            phase,
            since: now - ago.0,
            result: reason.map(result),
            reason,
            message: reason.map(|_| "as the device says".into()),
        };
        device.facts.upgrade = match &self.ended {
            Some((reason, ago)) => Some(upgrade(Phase::Done, *ago, Some(verdict(reason)))),
            None => self.begun.then(|| upgrade(Phase::Restarting, self.granted, None)),
        };
        device.decisions.outcome = self.judged.as_ref().map(|reason| Outcome {
            target: self.id,
            result: result(verdict(reason)),
            reason: verdict(reason),
        });
    }
}
