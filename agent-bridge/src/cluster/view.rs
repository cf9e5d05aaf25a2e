//! A Device of the API, as its session needs to see it.

use fettle_crds::{Device, Phase as RecordedPhase, Session as RecordedSession, UploadLogs};
use fettle_protocol::session::{Contender, Hold, Known, Phase, Progress, Target, View};
use jiff::SignedDuration;

use super::Identity;
use super::bridges::Bridges;

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
pub fn view(device: &Device, standing: Standing, us: &Identity, bridges: &Bridges) -> View {
    let status = device.status.clone().unwrap_or_default();
    let session = status.session.as_ref();
    let ended = status.outcome.as_ref().map(|outcome| outcome.target);
    View {
        legal: standing == Standing::Accepted && device.metadata.deletion_timestamp.is_none(),
        model: device.spec.model.clone(),
        hold: session.map_or(Hold::Nobody, |session| hold(session, us, bridges)),
        contender: session.map_or(Contender::Nobody, |session| contender(session, us, bridges)),
        dismissed: session.is_some_and(|session| session.dismissed),
        known: status.reported.map(|reported| Known {
            version: reported.version,
            model: reported.model,
            config: reported.config,
            serial: reported.serial,
            capabilities: reported.capabilities,
            address: session.map(|session| session.address.clone()),
        }),
        applied: status.applied.map(|applied| applied.config),
        target: status.target.map(|target| Target {
            id: target.id,
            from: target.from,
            firmware: target.firmware.map(|firmware| firmware.reports),
            config: target.config.map(|config| config.identity),
            start_by: target.start_by,
            until: target.until,
            margin: (target.until.duration_since(target.granted_at) / 10).min(MARGIN_MAX),
            logs: match target.logs {
                UploadLogs::Always => (true, true),
                UploadLogs::OnFailure => (false, true),
                UploadLogs::Never => (false, false),
            },
            done: target.done,
            ended: ended == Some(target.id),
        }),
        progress: status.upgrade.and_then(|upgrade| {
            let phase = match upgrade.phase {
                RecordedPhase::Downloaded | RecordedPhase::Scheduled => return None,
                RecordedPhase::Restarting => Phase::Restarting,
                RecordedPhase::Applying => Phase::Applying,
                RecordedPhase::Done => Phase::Done,
            };
            Some(Progress { target: upgrade.target, phase })
        }),
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
        let spec =
            DeviceSpec { mac: "02:00:5e:00:53:01".into(), model: None, approved: true, held: false, transfer: None };
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
        view(device, Standing::Accepted, &us(), &bridges())
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
        let refused = view(&device, Standing::NotAccepted, &us(), &bridges());
        assert!(!refused.legal);
        assert_eq!(refused.hold, Hold::Us, "what is on record of it is ours to take back");
        assert_eq!(refused.progress.map(|progress| progress.phase), Some(Phase::Restarting), "and to see through");
        device.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!seen(&device).legal);
    }
}
