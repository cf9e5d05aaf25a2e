//! From objects of the API to what the planner looks at; and which of them are not there at all, as far as it is concerned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use fettle_crds as api;
use fettle_crds::content::{ImageContent, MANAGED_BY};
use fettle_crds::render::offers_annotation;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectMeta;

use crate::plan::model::{
    Acceptance, Applied, Bridge, Decisions, Device, Facts, Firmware, Granted, Group, Image, Mac, Origin, Readiness,
    Reported, Rollout, Session, Strategy, Target, Text, Times, Upgrade,
};
use crate::plan::rendering::Renderings;
use crate::plan::versions::Requirement;
use crate::plan::windows::{Calendar, Freeze, FreezeError, LocalTimeError, UnknownZone, Window, WindowError, Zone};

/// The name of the capability with which a device says that it reports its configuration.
const TELLS_CONFIG: &str = "ConfigVersion";

/// The name of the capability with which a device says that it can be told to fetch over HTTP.
const TAKES_HTTP: &str = "Http";

/// With this a person wants a device to be tried again.
const RETRY_AT: &str = "fettle.dev/retry-at";

/// Shares the texts that many objects have.
#[derive(Default)]
pub struct Interner {
    texts: HashSet<Text>,
    firmwares: HashMap<String, Arc<api::TargetFirmware>>,
    configs: HashMap<String, Arc<api::TargetConfig>>,
    previous: HashMap<String, Arc<api::Previous>>,
    spreads: HashMap<String, Arc<BTreeMap<String, String>>>,
}

/// So many texts are kept before those that nobody uses any more are dropped.
const PURGE_ABOVE: usize = 4096;

impl Interner {
    fn text(&mut self, text: &str) -> Text {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= PURGE_ABOVE && self.texts.len().is_power_of_two() {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
        }
        let text = Text::from(text);
        self.texts.insert(text.clone());
        text
    }

    fn firmware(&mut self, firmware: api::TargetFirmware) -> Arc<api::TargetFirmware> {
        share(&mut self.firmwares, firmware.content.clone(), firmware)
    }

    fn config(&mut self, config: api::TargetConfig) -> Arc<api::TargetConfig> {
        share(&mut self.configs, format!("{} {}", config.content, config.identity), config)
    }

    fn spread(&mut self, spread: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        let key = spread.iter().map(|(label, value)| format!("{label}={value},")).collect();
        share(&mut self.spreads, key, spread)
    }

    fn previous(&mut self, previous: api::Previous) -> Arc<api::Previous> {
        let config = previous.config.as_ref().map_or(("", ""), |config| (&*config.content, &*config.identity));
        let key = format!("{} {} {} {}", previous.rollout_uid, previous.firmware.version, config.0, config.1);
        share(&mut self.previous, key, previous)
    }

    /// A device, as the planner looks at it; `None`: it is being deleted, or is no object of a real API server.
    pub fn device(&mut self, device: api::Device) -> Option<Device> {
        let api::Device { metadata, spec, status } = device;
        let (name, resource_version) = identity(&metadata)?;
        let status = status.unwrap_or_default();
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let annotations = metadata.annotations.iter().flatten();
        let annotations = annotations.filter(|(key, value)| offers_annotation(key, value));
        let is_ours = label(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
        Some(Device {
            name,
            resource_version,
            generation: metadata.generation.unwrap_or_default(),
            mac: Mac::parse(&spec.mac)?,
            origin: if is_ours && !spec.approved { Origin::Pending } else { Origin::Declared },
            model: spec.model.map(|model| self.text(&model)),
            approved: spec.approved,
            held: spec.held,
            transfer: spec.transfer,
            time_zone: spec.time_zone.map(|zone| self.text(&zone)),
            retry_at: metadata.annotations.as_ref().and_then(|all| all.get(RETRY_AT)).map(|at| self.text(at)),
            facts: self.facts(&status),
            decisions: self.decisions(status),
            annotations: annotations.map(|(key, value)| (self.text(key), Text::from(value.as_str()))).collect(),
            renderings: Renderings::default(),
            labels: metadata.labels.iter().flatten().map(|(key, value)| (self.text(key), self.text(value))).collect(),
        })
    }

    fn facts(&mut self, status: &api::DeviceStatus) -> Facts {
        Facts {
            session: status.session.as_ref().map(|session| Session {
                bridge: self.text(&session.bridge),
                incarnation: self.text(&session.incarnation),
                since: session.since,
                dismissed: session.dismissed,
            }),
            last_seen: status.last_seen,
            reported: status.reported.as_ref().map(|reported| Reported {
                version: self.text(&reported.version),
                model: self.text(&reported.model),
                config: reported.config.as_ref().map(|config| self.text(config)),
                tells_config: reported.capabilities.iter().any(|name| name == TELLS_CONFIG),
                takes_http: reported.capabilities.iter().any(|name| name == TAKES_HTTP),
                at: reported.at,
            }),
            applied: status
                .applied
                .as_ref()
                .map(|applied| Applied { config: self.text(&applied.config), at: applied.at }),
            upgrade: status.upgrade.as_ref().map(|upgrade| Upgrade {
                target: upgrade.target,
                phase: upgrade.phase,
                since: upgrade.since,
                result: upgrade.result,
                reason: upgrade.reason,
                message: upgrade.message.as_deref().map(|message| self.text(message)),
            }),
            drops: status.drops,
            log_refused: status.log_refused.is_some(),
        }
    }

    fn decisions(&mut self, status: api::DeviceStatus) -> Decisions {
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready");
        Decisions {
            target: status.target.map(|target| self.target(target)),
            last_target: status.last_target.unwrap_or_default(),
            granted: status.granted.map(|granted| Granted {
                rollout_uid: self.text(&granted.rollout_uid),
                step: granted.step,
                tries: granted.tries,
                tried: granted.tried,
                forgiven: granted.forgiven,
            }),
            previous: status.previous.map(|previous| self.previous(previous)),
            outcome: status.outcome,
            failed_ways: status.failed_transfers.into_iter().collect(),
            retried_at: status.retried_at.map(|at| self.text(&at)),
            observed_generation: status.observed_generation,
            acceptance: ready.map(|ready| Acceptance {
                accepted: ready.status == "True",
                reason: self.text(&ready.reason),
                message: self.text(&ready.message),
                generation: ready.observed_generation.unwrap_or_default(),
                since: ready.last_transition_time.0,
            }),
        }
    }

    fn target(&mut self, target: api::Target) -> Target {
        let api::Target {
            id,
            rollout,
            rollout_uid,
            attempt,
            from,
            firmware,
            config,
            transfer,
            logs: upload,
            udp_logs: udp,
            stage,
            granted_at,
            start_by,
            until,
            spread,
            done,
        } = target;
        Target {
            id,
            rollout: self.text(&rollout),
            rollout_uid: self.text(&rollout_uid),
            attempt,
            from: self.text(&from),
            firmware: firmware.map(|firmware| self.firmware(firmware)),
            config: config.map(|config| self.config(config)),
            transfer,
            logs: api::Logs { upload, udp },
            stage,
            granted_at,
            start_by,
            until,
            spread: self.spread(spread),
            done,
        }
    }
}

fn share<T: PartialEq>(known: &mut HashMap<String, Arc<T>>, key: String, value: T) -> Arc<T> {
    if let Some(known) = known.get(&key).filter(|known| ***known == value) {
        return known.clone();
    }
    if known.len() >= PURGE_ABOVE && known.len().is_power_of_two() {
        known.retain(|_, value| Arc::strong_count(value) > 1);
    }
    let value = Arc::new(value);
    known.insert(key, value.clone());
    value
}

/// The name and the resourceVersion of an object; `None`: it is being deleted, and so it is gone for the planner.
///
/// Resource versions are numbers that count up, in every API server that conforms (KEP-5504).
pub fn identity(metadata: &ObjectMeta) -> Option<(Text, u64)> {
    if metadata.deletion_timestamp.is_some() {
        return None;
    }
    let version = metadata.resource_version.as_ref()?.parse().ok()?;
    Some((metadata.name.as_deref()?.into(), version))
}

fn uid(metadata: &ObjectMeta) -> Option<Text> {
    metadata.uid.as_deref().map(Text::from)
}

/// A group, as the planner looks at it.
pub fn group(group: api::DeviceGroup) -> Option<Group> {
    let api::DeviceGroup { metadata, spec, status } = group;
    let (name, _) = identity(&metadata)?;
    let api::DeviceGroupSpec {
        selector,
        firmware,
        config,
        rollout,
        windows,
        freezes,
        time_zone,
        paused,
        revision_history_limit,
        transfer,
        session,
        logs,
    } = spec;
    let api::Strategy {
        steps,
        max_unavailable,
        spread,
        failure_budget,
        on_failure,
        device_timeout,
        retries,
        min_ready,
        download,
    } = rollout;
    let apply = config.as_ref().map(|desired| desired.apply.clone()).unwrap_or_default();
    let times = times(&windows, &freezes, &time_zone, &apply);
    Some(Group {
        name,
        uid: uid(&metadata)?,
        generation: metadata.generation.unwrap_or_default(),
        changed_at: changed_at(&metadata),
        selector,
        policy: firmware.as_ref().map_or_else(Default::default, |desired| desired.policy),
        firmware: firmware.map(|desired| desired.name.into()),
        config: config.map(|desired| desired.name.into()),
        strategy: Strategy {
            steps,
            max_unavailable,
            spread,
            failure_budget,
            on_failure,
            device_timeout: signed(device_timeout),
            retries,
            min_ready: signed(min_ready),
            download,
        },
        times: times.map(Arc::new).map_err(|wrong| wrong.to_string().into()),
        paused,
        history_limit: revision_history_limit as usize,
        transfer,
        session,
        logs,
        status: status.unwrap_or_default(),
    })
}

/// What is wrong with windows, freezes or zones.
#[derive(Debug, thiserror::Error)]
pub enum TimesError {
    #[error(transparent)]
    Window(#[from] WindowError),
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    #[error("timeZone: {0}")]
    Zone(#[from] UnknownZone),
    #[error("config.apply.at: {0}")]
    Apply(#[from] LocalTimeError),
}

/// When devices may begin.
///
/// # Errors
/// What is wrong, in words for the one who wrote it.
pub fn times(
    windows: &[api::Window],
    freezes: &[api::Freeze],
    zone: &str,
    apply: &api::Apply,
) -> Result<Times, TimesError> {
    let read = |window: &api::Window| {
        let zone = window.time_zone.as_deref().unwrap_or(zone);
        Window::parse(&window.schedule, signed(window.duration), zone)
    };
    let zone = Zone::named(zone)?;
    let windows = windows.iter().map(read).collect::<Result<_, _>>()?;
    let freeze = |freeze: &api::Freeze| {
        Freeze::parse(&freeze.from, &freeze.to, freeze.reason.as_deref().unwrap_or_default(), &zone)
    };
    let freezes = freezes.iter().map(freeze).collect::<Result<_, _>>()?;
    let at = apply.at.as_deref().filter(|_| apply.mode == api::ApplyMode::Scheduled);
    let apply_at = at.map(str::parse).transpose()?;
    Ok(Times { calendar: Calendar::new(windows, freezes), zone, apply_at })
}

/// The API bounds durations to 30 days.
fn signed(duration: api::Duration) -> SignedDuration {
    SignedDuration::try_from(duration.0).unwrap_or(SignedDuration::MAX)
}

/// A rollout, as the planner looks at it.
pub fn rollout(rollout: api::DeviceRollout) -> Option<Rollout> {
    let api::DeviceRollout { metadata, spec, status } = rollout;
    let (name, _) = identity(&metadata)?;
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true));
    Some(Rollout {
        name,
        uid: uid(&metadata)?,
        generation: metadata.generation.unwrap_or_default(),
        group_uid: owner.map_or("", |owner| &*owner.uid).into(),
        spec: Arc::new(spec),
        status: status.unwrap_or_default(),
    })
}

/// A release, as the planner looks at it.
pub fn firmware(firmware: api::Firmware) -> Option<Firmware> {
    let api::Firmware { metadata, spec, status } = firmware;
    let (name, _) = identity(&metadata)?;
    let mut unreadable = None;
    let images = spec.images.into_iter().map(|image| {
        let reports = image.reports.unwrap_or_else(|| spec.version.clone());
        let content = ImageContent {
            version: spec.version.clone(),
            reports: reports.clone(),
            source: image.source,
            sha256: image.sha256,
            signature: image.signature,
            crc: image.crc,
        };
        Image {
            models: image.models,
            reports: reports.into(),
            upgradable_from: image.upgradable_from.as_deref().and_then(|text| match Requirement::parse(text) {
                Ok(requirement) => Some(Arc::new(requirement)),
                Err(error) => {
                    unreadable.get_or_insert_with(|| format!("upgradableFrom: {}", fettle_runtime::chain(&error)));
                    None
                }
            }),
            name: content.name().into(),
            content: Arc::new(content),
        }
    });
    let images = images.collect();
    let unreadable: Option<String> = unreadable;
    let status = status.unwrap_or_default();
    let generation = metadata.generation.unwrap_or_default();
    let speaks_of_this = |condition: &&api::Condition| {
        condition.observed_generation.or(status.observed_generation).unwrap_or_default() == generation
    };
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").filter(speaks_of_this);
    let readiness = match ready {
        _ if unreadable.is_some() => {
            Readiness::Failed { reason: "InvalidUpgradableFrom".to_owned(), message: unreadable.unwrap_or_default() }
        }
        Some(ready) if ready.status == "True" => Readiness::Ready,
        Some(ready) if ready.status == "False" => {
            Readiness::Failed { reason: ready.reason.clone(), message: ready.message.clone() }
        }
        _ => Readiness::Unknown,
    };
    let verified = status.images.into_iter().map(|image| image.sha256.into()).collect();
    Some(Firmware { name, version: spec.version.into(), images, readiness, verified })
}

/// When somebody last wrote something else than a status.
fn changed_at(metadata: &ObjectMeta) -> Timestamp {
    let writers = metadata.managed_fields.iter().flatten().filter(|writer| writer.subresource.is_none());
    let written = writers.filter_map(|writer| writer.time.as_ref());
    let all = written.chain(metadata.creation_timestamp.as_ref()).map(|time| time.0);
    all.max().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A bridge, by its Lease. The Lease's holder is `<bridge>/<incarnation>`.
pub fn bridge(lease: Lease) -> Option<(Text, Bridge)> {
    let (name, _) = identity(&lease.metadata)?;
    let spec = lease.spec?;
    let renewed = spec.renew_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let started = spec.acquire_time.map_or(renewed, |time| time.0);
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
    let incarnation = holder.map(|holder| match holder.split_once('/') {
        Some((_, incarnation)) => incarnation.into(),
        None => holder.into(),
    });
    let expires = renewed + SignedDuration::from_secs(seconds.into());
    Some((name, Bridge { incarnation, started, renewed, expires }))
}

/// The decisions on a device, as they are applied: all of them, so that what is left out is taken away.
pub fn decisions_patch(name: &str, resource_version: u64, decisions: &Decisions) -> serde_json::Value {
    let Decisions {
        target,
        last_target,
        granted,
        previous,
        outcome,
        failed_ways,
        retried_at,
        observed_generation,
        acceptance,
    } = decisions;
    let conditions: Vec<api::Condition> = acceptance.iter().map(condition).collect();
    let status = api::DeviceStatus {
        target: target.as_ref().map(api_target),
        last_target: (*last_target > 0).then_some(*last_target),
        granted: granted.as_ref().map(|Granted { rollout_uid, step, tries, tried, forgiven }| api::Granted {
            rollout_uid: rollout_uid.to_string(),
            step: *step,
            tries: *tries,
            tried: *tried,
            forgiven: *forgiven,
        }),
        previous: previous.as_deref().cloned(),
        outcome: outcome.clone(),
        failed_transfers: failed_ways.iter().collect(),
        retried_at: retried_at.as_deref().map(str::to_owned),
        observed_generation: *observed_generation,
        conditions,
        ..api::DeviceStatus::default()
    };
    serde_json::json!({
        "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
        "kind": "Device",
        "metadata": {"name": name, "resourceVersion": resource_version.to_string()},
        "status": status,
    })
}

fn condition(acceptance: &Acceptance) -> api::Condition {
    let Acceptance { accepted, reason, message, generation, since } = acceptance;
    api::Condition {
        type_: "Ready".to_owned(),
        status: if *accepted { "True" } else { "False" }.to_owned(),
        observed_generation: Some(*generation),
        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(*since),
        reason: reason.to_string(),
        message: message.to_string(),
    }
}

fn api_target(target: &Target) -> api::Target {
    let Target {
        id,
        rollout,
        rollout_uid,
        attempt,
        from,
        firmware,
        config,
        transfer,
        logs,
        stage,
        granted_at,
        start_by,
        until,
        spread,
        done,
    } = target;
    api::Target {
        id: *id,
        rollout: rollout.to_string(),
        rollout_uid: rollout_uid.to_string(),
        attempt: *attempt,
        from: from.to_string(),
        firmware: firmware.as_deref().cloned(),
        config: config.as_deref().cloned(),
        transfer: *transfer,
        logs: logs.upload,
        udp_logs: logs.udp,
        stage: *stage,
        granted_at: *granted_at,
        start_by: *start_by,
        until: *until,
        spread: BTreeMap::clone(spread),
        done: *done,
    }
}

/// What a profile says where its text is.
#[derive(Debug, Clone)]
pub struct ProfileObject {
    pub name: Text,
    pub generation: i64,
    pub spec: api::ConfigProfileSpec,
    pub status: api::ConfigProfileStatus,
}

/// A profile, before its text was read.
pub fn profile(profile: api::ConfigProfile) -> Option<ProfileObject> {
    let api::ConfigProfile { metadata, spec, status } = profile;
    let (name, _) = identity(&metadata)?;
    let generation = metadata.generation.unwrap_or_default();
    Some(ProfileObject { name, generation, spec, status: status.unwrap_or_default() })
}

/// The values of a ConfigMap or Secret.
pub type Values = BTreeMap<String, Arc<[u8]>>;
