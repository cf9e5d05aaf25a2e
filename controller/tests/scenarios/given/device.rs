//! A device, in a few words: what it says, where it is, and what was decided of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fettle_controller::plan::model as m;
use fettle_controller::plan::revision::Wanted;
use fettle_crds::{
    Drops, Logs, Outcome, Phase, Previous, PreviousFirmware, Scheduled, Stage, TargetConfig, Transfer, TryResult,
    Verdict, WireTransfer,
};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::DEVICE_TIMEOUT;
use super::span::{Span, an_hour, hours};

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    mac: Option<String>,
    model: Option<String>,
    approved: bool,
    held: bool,
    pending: bool,
    transfer: Option<Transfer>,
    time_zone: Option<String>,
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
    pub doubt: Option<Span>,
    /// The step in which its group's rollout has granted it; 1, where it has a target of that.
    granted_in: Option<u32>,
    /// A try of its group's rollout has ended.
    tried: bool,
    /// A person had it tried again after the failure of that target.
    forgiven: Option<i64>,
    /// What it ran before the rollout, whether that is kept, and whether that was noted for a rollout before: `1`, `1 kept`,
    /// `1 kept former`.
    before: Option<String>,
    /// The profile of the configuration that it ran before the rollout, and what its identity was.
    before_config: Option<(String, String)>,
    /// That was put into force at a time of day, so long ago.
    before_at: Option<Span>,
    /// The annotation `fettle.dev/retry-at`.
    retry_at: Option<String>,
    /// How often it has lost its connection by itself since its last try.
    drops: i64,
    /// There was no room for its log.
    log_refused: bool,
    /// The ways in which it could not fetch its files.
    failed_transfers: Vec<WireTransfer>,
    /// How long ago it called; an hour, where this is not given.
    called: Option<Span>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            labels: BTreeMap::from([("role".into(), "access".into())]),
            annotations: BTreeMap::new(),
            mac: None,
            model: None,
            approved: true,
            held: false,
            pending: false,
            transfer: None,
            time_zone: None,
            says: Some(Says::default()),
            applied: None,
            session: "connected".into(),
            lost: None,
            target: None,
            is_new: false,
            doubt: None,
            granted_in: None,
            tried: false,
            forgiven: None,
            before: None,
            before_config: None,
            before_at: None,
            retry_at: None,
            drops: 0,
            log_refused: false,
            failed_transfers: Vec::new(),
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
    /// It announces that it fetches over HTTP.
    http: bool,
    ago: Span,
}

impl Default for Says {
    fn default() -> Self {
        Self { version: "1".into(), model: "S1".into(), config: None, http: false, ago: hours(1) }
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
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Target {
    id: i64,
    r#try: u32,
    from: String,
    /// Of which group; `access` where not given. Before a name, `former ` means its rollout before.
    of: String,
    granted: Span,
    /// It may only fetch what it is to run: `Downloading`, `Downloaded`.
    ahead: Option<String>,
    /// It has only a configuration, to be put into force in so long.
    scheduled: Option<Span>,
    /// The same, for a time that was so long ago.
    was_scheduled: Option<Span>,
    begun: bool,
    /// How it ended, in the words of the bridge, and how long ago.
    ended: Option<(String, Span)>,
    /// How it ended, in the words of the controller.
    judged: Option<String>,
    done: bool,
    /// Its release, where that is not what its group wants.
    firmware: Option<String>,
    /// The identity of its configuration, where that was rendered for it when it was declared otherwise.
    identity: Option<String>,
    over: WireTransfer,
    /// The labels that limits are set by, as they were at the grant.
    spread: BTreeMap<String, String>,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            id: 1,
            r#try: 1,
            from: "1".into(),
            of: "access".into(),
            granted: Span(SignedDuration::from_mins(1)),
            ahead: None,
            scheduled: None,
            was_scheduled: None,
            begun: false,
            ended: None,
            judged: None,
            done: false,
            firmware: None,
            identity: None,
            over: WireTransfer::Ftp,
            spread: BTreeMap::new(),
        }
    }
}

impl Device {
    pub fn model(&self, name: &str, number: usize, snapshot: &m::Snapshot, now: Timestamp) -> m::Device {
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
            takes_http: says.http,
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
            labels: self.labels.clone().into_iter().collect(),
            annotations: self.annotations.clone().into_iter().collect(),
            renderings: Default::default(),
            mac: m::Mac::parse(&self.mac.clone().unwrap_or_else(|| format!("02:00:00:00:00:{number:02x}"))).unwrap(),
            origin: if self.pending { m::Origin::Pending } else { m::Origin::Declared },
            model: self.model.as_deref().map(Into::into),
            approved: self.approved && !self.pending,
            held: self.held,
            transfer: self.transfer,
            time_zone: self.time_zone.as_deref().map(Into::into),
            retry_at: self.retry_at.as_deref().map(Into::into),
            facts: m::Facts {
                session,
                last_seen: self.lost.map(|ago| now - ago.0),
                reported,
                applied,
                upgrade: None,
                drops: None,
                log_refused: self.log_refused,
            },
            decisions: m::Decisions::default(),
        };
        if let Some(target) = &self.target {
            target.put(&mut device, snapshot, now);
        }
        self.take_part(&mut device, snapshot, now);
        device.decisions.failed_ways = self.failed_transfers.iter().copied().collect();
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
    fn take_part(&self, device: &mut m::Device, snapshot: &m::Snapshot, now: Timestamp) {
        let target = device.decisions.target.as_ref().map(|target| target.id).unwrap_or_default();
        device.facts.drops = (self.drops > 0).then_some(Drops { target, count: self.drops });
        let of = self.target.as_ref().map_or("access", |target| target.of.as_str());
        let rollout = snapshot.rollouts.values().rev().find(|rollout| rollout.spec.group == of);
        let Some(rollout) = rollout else { return };
        if let Some(step) = self.granted_in {
            let granted = m::Granted { rollout_uid: rollout.uid.clone(), step, tries: 0, tried: false, forgiven: None };
            device.decisions.granted.get_or_insert(granted).step = step;
        }
        if let Some(granted) = &mut device.decisions.granted {
            (granted.forgiven, granted.tried) = (self.forgiven, self.tried);
        }
        device.decisions.previous = self.before.as_deref().map(|before| {
            let words: Vec<&str> = before.split(' ').collect();
            let (version, is_kept, is_former) = match words.as_slice() {
                [version] => (*version, false, false),
                [version, "kept"] => (*version, true, false),
                [version, "kept", "former"] => (*version, true, true),
                other => panic!("before: {other:?}?"),
            };
            Arc::new(Previous {
                rollout_uid: if is_former { "uid-of-access-0".to_owned() } else { rollout.uid.to_string() },
                firmware: PreviousFirmware {
                    version: version.to_owned(),
                    sha256: is_kept.then(|| format!("sha-of-{version}")),
                    content: is_kept.then(|| format!("content-of-{version}")),
                },
                config: self.before_config.as_ref().map(|(profile, identity)| {
                    let config = snapshot.profiles[profile.as_str()].source.read().unwrap();
                    let scheduled = self.before_at.map(|ago| scheduled(now - ago.0));
                    TargetConfig { identity: identity.clone(), scheduled, ..config.in_target() }
                }),
            })
        });
    }
}

/// A time of day, by a clock that shows UTC.
fn scheduled(at: Timestamp) -> Scheduled {
    Scheduled { at, local: at.strftime("%Y-%m-%d %H:%M:%S").to_string() }
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
        let at = self.scheduled.map(|ahead| now + ahead.0).or(self.was_scheduled.map(|ago| now - ago.0));
        let image = match &self.firmware {
            Some(name) => snapshot.firmwares[name.as_str()].image(&model),
            None => revision.image(&model).ok().flatten(),
        };
        let firmware = image.map(|image| Arc::new(image.in_target()));
        let firmware = firmware.filter(|_| at.is_none());
        let scheduled = at.map(scheduled);
        let config = revision.config(&model).ok().flatten();
        let config = config.map(|config| {
            let rendered = config.template.as_deref().and_then(|template| device.rendered(template).ok());
            let told = rendered.map_or_else(|| config.in_target(), |rendered| (*rendered).clone());
            let identity = self.identity.clone().unwrap_or_else(|| told.identity.clone());
            Arc::new(TargetConfig { scheduled, identity, ..told })
        });
        let granted_at = now - self.granted.0;
        device.decisions.target = Some(m::Target {
            id: self.id,
            rollout_uid: format!("uid-of-{name}").into(),
            rollout: name.into(),
            attempt: self.r#try,
            from: self.from.as_str().into(),
            firmware,
            config,
            transfer: self.over,
            logs: Logs::default(),
            stage: if self.ahead.is_some() { Stage::Download } else { Stage::Activate },
            granted_at,
            start_by: granted_at + SignedDuration::from_secs(60),
            until: at.unwrap_or(granted_at) + SignedDuration::try_from(DEVICE_TIMEOUT).unwrap(),
            spread: Arc::new(self.spread.clone()),
            done: self.done,
        });
        device.decisions.last_target = self.id;
        if !is_former && self.ahead.is_none() {
            device.decisions.granted = Some(m::Granted {
                rollout_uid: device.decisions.target.as_ref().unwrap().rollout_uid.clone(),
                step: 1,
                tries: 0,
                tried: false,
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
            None if self.ahead.as_deref() == Some("Downloaded") => Some(upgrade(Phase::Downloaded, self.granted, None)),
            None if self.scheduled.is_some() => self.begun.then(|| upgrade(Phase::Scheduled, self.granted, None)),
            None => self.begun.then(|| upgrade(Phase::Restarting, self.granted, None)),
        };
        device.decisions.outcome = self.judged.as_ref().map(|reason| Outcome {
            target: self.id,
            result: result(verdict(reason)),
            reason: verdict(reason),
        });
    }
}
