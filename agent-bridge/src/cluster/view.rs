//! A Device of the API, as its session needs to see it.

use fettle_crds::{Device, Phase as RecordedPhase, Session as RecordedSession, UploadLogs};
use fettle_protocol::session::{Contender, Hold, Known, Phase, Progress, Target, View};
use jiff::{SignedDuration, Timestamp};

use super::Identity;
use super::bridges::Bridges;

/// The most that a command must go before the end of its try: for clocks that differ.
const MARGIN_MAX: SignedDuration = SignedDuration::from_secs(30);

/// What `device` says to a session of this run of this bridge.
pub fn view(device: &Device, us: &Identity, bridges: &Bridges, now: Timestamp) -> View {
    let status = device.status.clone().unwrap_or_default();
    let session = status.session.as_ref();
    let ended = status.outcome.as_ref().map(|outcome| outcome.target);
    View {
        legal: device.spec.approved && device.metadata.deletion_timestamp.is_none(),
        model: device.spec.model.clone(),
        hold: session.map_or(Hold::Nobody, |session| hold(session, us, bridges, now)),
        contender: session.map_or(Contender::Nobody, |session| contender(session, us, bridges, now)),
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
        progress: status.upgrade.map(|upgrade| Progress {
            target: upgrade.target,
            phase: match upgrade.phase {
                RecordedPhase::Restarting => Phase::Restarting,
                RecordedPhase::Applying => Phase::Applying,
                RecordedPhase::Done => Phase::Done,
            },
        }),
    }
}

fn hold(session: &RecordedSession, us: &Identity, bridges: &Bridges, now: Timestamp) -> Hold {
    if session.bridge == us.name {
        return if session.incarnation == us.incarnation { Hold::Us } else { Hold::Predecessor };
    }
    if bridges.lives(&session.bridge, &session.incarnation, now) { Hold::Other } else { Hold::Nobody }
}

fn contender(session: &RecordedSession, us: &Identity, bridges: &Bridges, now: Timestamp) -> Contender {
    match &session.contender {
        Some(asks) if asks.bridge == us.name && asks.incarnation == us.incarnation => Contender::Us,
        // A claim ends with its Lease.
        Some(asks) if bridges.lives(&asks.bridge, &asks.incarnation, now) => Contender::Other,
        Some(_) | None => Contender::Nobody,
    }
}
