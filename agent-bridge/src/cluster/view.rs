//! A Device of the API, as its session needs to see it.

use fettle_crds::{
    Device, LOG_AT, LOG_AT_MAX, Phase as RecordedPhase, Session as RecordedSession, Stage as RecordedStage,
    Target as RecordedTarget, UploadLogs,
};
use fettle_protocol::Dialect;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::UpgradeAt;
use fettle_protocol::session::{
    Contender, Drops, Hold, Known, Phase, Progress, Reached, Scheduled, Stage, Target, View,
};
use jiff::SignedDuration;

use super::Identity;
use super::bridges::Bridges;
use super::declared::{Declared, can};

/// The most that a command must go before the end of its try: for clocks that differ.
const MARGIN_MAX: SignedDuration = SignedDuration::from_secs(30);

/// Whether a Device is the one that its MAC stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Accepted,
    /// Nobody has approved it, or others have its MAC.
    NotAccepted,
}

/// What `device` says to a session of this run of this bridge.
pub fn view(device: &Device, standing: Standing, us: &Identity, bridges: &Bridges, declared: &Declared) -> View {
    let status = device.status.clone().unwrap_or_default();
    let session = status.session.as_ref();
    let udp = status.target.as_ref().is_some_and(|target| target.udp_logs);
    let ended = status.outcome.as_ref().map(|outcome| outcome.target);
    View {
        legal: standing == Standing::Accepted && device.metadata.deletion_timestamp.is_none(),
        model: device.spec.model.clone(),
        hold: session.map_or(Hold::Nobody, |session| hold(session, us, bridges)),
        contender: session.map_or(Contender::Nobody, |session| contender(session, us, bridges)),
        dismissed: session.is_some_and(|session| session.dismissed),
        last_seen: status.last_seen,
        declared: listens(device).then(|| declared.release_for(device)).flatten(),
        known: status.reported.map(|reported| Known {
            version: reported.version,
            model: reported.model,
            config: reported.config,
            serial: reported.serial,
            capabilities: reported.capabilities,
            dialect: Dialect::from_names(reported.dialect.iter().map(String::as_str)),
            address: session.map(|session| session.address.clone()),
        }),
        applied: status.applied.map(|applied| applied.config),
        target: status.target.map(|recorded| {
            let ended = ended == Some(recorded.id);
            Target { ended, ..target(recorded) }
        }),
        progress: status.upgrade.map(|upgrade| {
            let phase = match upgrade.phase {
                RecordedPhase::Downloaded => Phase::Downloaded,
                RecordedPhase::Scheduled => Phase::Scheduled,
                RecordedPhase::Restarting => Phase::Restarting,
                RecordedPhase::RestartLost => Phase::RestartLost,
                RecordedPhase::Applying => Phase::Applying,
                RecordedPhase::Done => Phase::Done,
            };
            Progress { target: upgrade.target, phase }
        }),
        reached: status.progress.map(|progress| Reached {
            target: progress.target,
            percent: progress.percent,
            text: progress.text,
        }),
        drops: status.drops.map(|drops| Drops { target: drops.target, count: drops.count }),
        log: status.last_log.map(|log| log.location),
        log_refused: status.log_refused.map(|refused| refused.target),
        log_request: log_request(device).map(str::to_owned),
        log_answer: status.log_request.map(|request| request.value),
        udp,
        address: session.map(|session| session.address.clone()).or(status.last_address),
    }
}

/// Whether the device takes announcements, as far as is on record: for all others nobody need look up what is declared.
fn listens(device: &Device) -> bool {
    let reported = device.status.as_ref().and_then(|status| status.reported.as_ref());
    reported.is_some_and(|reported| can(reported, Capabilities::ANNOUNCEMENT))
}

/// What a person asks for and was not acted on: the value of the annotation. One that the status could not say is none.
pub fn log_request(device: &Device) -> Option<&str> {
    let wanted = device.metadata.annotations.as_ref()?.get(LOG_AT)?.as_str();
    let acted_on = device.status.as_ref().and_then(|status| status.log_request.as_ref());
    let news = acted_on.is_none_or(|request| request.value != wanted);
    (news && (1..=LOG_AT_MAX).contains(&wanted.len())).then_some(wanted)
}

/// The target, of which nothing is known but what it says.
fn target(recorded: RecordedTarget) -> Target {
    let scheduled = recorded.config.as_ref().and_then(|config| config.scheduled.as_ref());
    let scheduled =
        scheduled.map(|scheduled| Scheduled { at: scheduled.at, local: UpgradeAt::parse_time(&scheduled.local) });
    // A device has its time from the grant, or from the time that it waits for.
    let begin = scheduled.map_or(recorded.granted_at, |scheduled| scheduled.at.max(recorded.granted_at));
    Target {
        id: recorded.id,
        from: recorded.from,
        firmware: recorded.firmware.map(|firmware| firmware.reports),
        config: recorded.config.map(|config| config.identity),
        scheduled,
        stage: match recorded.stage {
            RecordedStage::Download => Stage::Download,
            RecordedStage::Activate => Stage::Activate,
        },
        start_by: recorded.start_by,
        until: recorded.until,
        margin: (recorded.until.duration_since(begin) / 10).clamp(SignedDuration::ZERO, MARGIN_MAX),
        logs: match recorded.logs {
            UploadLogs::Always => (true, true),
            UploadLogs::OnFailure => (false, true),
            UploadLogs::Never => (false, false),
        },
        done: recorded.done,
        ended: false,
    }
}

fn hold(session: &RecordedSession, us: &Identity, bridges: &Bridges) -> Hold {
    if session.bridge == us.name {
        return if session.incarnation == us.incarnation { Hold::Us } else { Hold::Predecessor };
    }
    if bridges.lives(&session.bridge, &session.incarnation) { Hold::Other } else { Hold::Nobody }
}

fn contender(session: &RecordedSession, us: &Identity, bridges: &Bridges) -> Contender {
    match &session.contender {
        Some(asks) if asks.bridge == us.name && asks.incarnation == us.incarnation => Contender::Us,
        // A claim ends with its Lease.
        Some(asks) if bridges.lives(&asks.bridge, &asks.incarnation) => Contender::Other,
        Some(_) | None => Contender::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use fettle_crds::{Contender as RecordedContender, DeviceSpec, DeviceStatus, TryResult, Upgrade};
    use jiff::Timestamp;
    use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn us() -> Identity {
        Identity { name: "b-0".into(), incarnation: "two".into() }
    }

    /// `b-1/x` lives, and nobody else.
    fn bridges() -> Bridges {
        let mut lease = Lease::default();
        lease.metadata.name = Some("b-1".into());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some("b-1/x".into()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        });
        let mut bridges = Bridges::default();
        bridges.apply(&lease, Instant::now());
        bridges
    }

    fn device(bridge: &str, incarnation: &str) -> Device {
        let spec: DeviceSpec = serde_json::from_value(json!({"mac": "02:00:5e:00:53:01"})).unwrap();
        let mut device = Device::new("sw-1", spec);
        let session = RecordedSession {
            bridge: bridge.into(),
            incarnation: incarnation.into(),
            address: "192.0.2.1".into(),
            since: Timestamp::UNIX_EPOCH,
            dismissed: false,
            contender: None,
        };
        device.status = Some(DeviceStatus { session: Some(session), ..DeviceStatus::default() });
        device
    }

    fn seen(device: &Device) -> View {
        view(device, Standing::Accepted, &us(), &bridges(), &Declared::default())
    }

    #[test]
    fn a_session_is_ours_our_predecessors_anothers_or_nobodys() {
        let hold = |bridge, incarnation| seen(&device(bridge, incarnation)).hold;
        assert_eq!(hold("b-0", "two"), Hold::Us);
        assert_eq!(hold("b-0", "one"), Hold::Predecessor);
        assert_eq!(hold("b-1", "x"), Hold::Other);
        assert_eq!(hold("b-1", "before"), Hold::Nobody, "that run has ended");
        assert_eq!(hold("b-2", "x"), Hold::Nobody);
    }

    #[test]
    fn a_claim_ends_with_its_lease() {
        let contender = |bridge: &str, incarnation: &str| {
            let mut device = device("b-0", "two");
            let session = device.status.as_mut().and_then(|status| status.session.as_mut()).unwrap();
            session.contender = Some(RecordedContender {
                bridge: bridge.into(),
                incarnation: incarnation.into(),
                address: "192.0.2.2".into(),
                since: Timestamp::UNIX_EPOCH,
            });
            seen(&device).contender
        };
        assert_eq!(contender("b-0", "two"), Contender::Us);
        assert_eq!(contender("b-1", "x"), Contender::Other);
        assert_eq!(contender("b-1", "before"), Contender::Nobody);
    }

    /// A target of a configuration, with what the controller says besides.
    fn seen_with_target(more: serde_json::Value) -> Target {
        let mut target = json!({
            "id": 3, "rollout": "edge-4", "rolloutUid": "u", "try": 1, "from": "4.9.0", "transfer": "FTP", "logs": "Never",
            "config": {"identity": "17+77c0d1e2", "content": "fettle-config-0"},
            "grantedAt": "2026-11-20T12:00:00Z", "startBy": "2026-11-20T12:01:00Z", "until": "2026-11-20T12:15:00Z",
        });
        for (key, value) in more.as_object().unwrap() {
            target[key] = value.clone();
        }
        let mut device = device("b-0", "two");
        device.status.as_mut().unwrap().target = Some(serde_json::from_value(target).unwrap());
        seen(&device).target.unwrap()
    }

    #[test]
    fn what_a_person_asks_for_is_news_until_it_was_acted_on() {
        let mut device = device("b-0", "two");
        assert_eq!(seen(&device).log_request, None);
        let mut ask = |value: &str, acted_on: Option<&str>| {
            device.metadata.annotations = Some([(LOG_AT.to_owned(), value.to_owned())].into());
            device.status.as_mut().unwrap().log_request = acted_on.map(|value| fettle_crds::LogRequest {
                value: value.to_owned(),
                result: fettle_crds::LogResult::Stored,
                at: Timestamp::UNIX_EPOCH,
                message: None,
            });
            let view = seen(&device);
            (view.log_request, view.log_answer)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ask("now", None), (some("now"), None));
        assert_eq!(ask("now", Some("now")), (None, some("now")));
        assert_eq!(ask("again", Some("now")), (some("again"), some("now")));
        assert_eq!((ask("", None).0, ask(&"x".repeat(65), None).0), (None, None), "not what a status can say");
    }

    #[test]
    fn a_device_was_last_where_its_session_is_or_was() {
        let mut device = device("b-0", "two");
        assert_eq!(seen(&device).address.as_deref(), Some("192.0.2.1"));
        let status = device.status.as_mut().unwrap();
        (status.session, status.last_address) = (None, Some("192.0.2.7".into()));
        assert_eq!(seen(&device).address.as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn a_target_goes_all_the_way_unless_it_says_otherwise() {
        assert_eq!(seen_with_target(json!({})).stage, Stage::Activate);
        assert_eq!(seen_with_target(json!({"stage": "Download"})).stage, Stage::Download);
    }

    #[test]
    fn a_time_is_what_the_clock_of_the_device_says_and_the_try_begins_then() {
        let scheduled = |local: &str| {
            let at = "2026-11-21T02:00:00Z";
            let config = json!({
                "identity": "17+77c0d1e2", "content": "fettle-config-0", "scheduled": {"at": at, "local": local},
            });
            seen_with_target(json!({"config": config, "until": "2026-11-21T02:01:00Z"}))
        };
        let target = scheduled("2026-11-21 03:00:00");
        let expected = Scheduled {
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            local: Some("2026-11-21T03:00:00".parse().unwrap()),
        };
        assert_eq!(target.scheduled, Some(expected));
        // A tenth of the minute that it has, and not of the hours before.
        assert_eq!(target.margin, SignedDuration::from_secs(6));
        for none in ["2026-11-21T03:00:00", "2026-11-21 3:00:00", "tonight", ""] {
            assert_eq!(scheduled(none).scheduled, Some(Scheduled { local: None, ..expected }), "{none}");
        }
        assert_eq!(seen_with_target(json!({})).margin, SignedDuration::from_secs(30));
        assert_eq!(seen_with_target(json!({"until": "2026-11-20T11:00:00Z"})).margin, SignedDuration::ZERO);
    }

    #[test]
    fn phases_and_drops_are_as_they_are_on_record() {
        for (phase, expected) in [
            ("Downloaded", Phase::Downloaded),
            ("Scheduled", Phase::Scheduled),
            ("Restarting", Phase::Restarting),
            ("RestartLost", Phase::RestartLost),
            ("Applying", Phase::Applying),
            ("Done", Phase::Done),
        ] {
            let mut device = device("b-0", "two");
            let status = device.status.as_mut().unwrap();
            let upgrade = json!({"target": 3, "phase": phase, "since": Timestamp::UNIX_EPOCH});
            status.upgrade = Some(serde_json::from_value(upgrade).unwrap());
            status.drops = Some(fettle_crds::Drops { target: 3, count: 2 });
            let view = seen(&device);
            assert_eq!(view.progress, Some(Progress { target: 3, phase: expected }));
            assert_eq!(view.drops, Some(Drops { target: 3, count: 2 }));
        }
    }

    #[test]
    fn a_device_that_is_not_accepted_or_is_being_deleted_is_not_legal_and_all_else_of_it_still_counts() {
        let mut device = device("b-0", "two");
        let upgrade = Upgrade {
            target: 3,
            phase: RecordedPhase::Restarting,
            since: Timestamp::UNIX_EPOCH,
            result: None::<TryResult>,
            reason: None,
            message: None,
        };
        device.status.as_mut().unwrap().upgrade = Some(upgrade);
        assert!(seen(&device).legal);
        let refused = view(&device, Standing::NotAccepted, &us(), &bridges(), &Declared::default());
        assert!(!refused.legal);
        assert_eq!(refused.hold, Hold::Us, "what is on record of it is ours to take back");
        assert_eq!(refused.progress.map(|progress| progress.phase), Some(Phase::Restarting), "and to see through");
        device.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!seen(&device).legal);
    }
}
