//! What a session wants written, as a merge patch of a Device's status.

use fettle_crds::schema::message;
use fettle_crds::{Device, TryResult, Verdict};
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{Phase, Reason, Record, SessionRecord, TryEnd};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Identity;

/// The patch that writes `record` to `device`, on condition that nobody has written to it since.
pub fn patch(record: &Record, device: &Device, us: &Identity, now: Timestamp) -> Value {
    let mut status = Map::new();
    session(&record.session, device, us, now, &mut status);
    if let Some(info) = &record.info {
        status.insert("reported".to_owned(), reported(info, now));
    }
    if let Some((target, phase)) = record.progress {
        let end = record.end.as_ref();
        status.insert("upgrade".to_owned(), upgrade(target, phase, end, now));
    }
    if let Some(TryEnd { applied: Some(config), reason, .. }) = &record.end {
        let reason = (*reason == Reason::ResultLost).then_some(Verdict::ResultLost);
        status.insert("applied".to_owned(), json!({"config": config, "at": now, "reason": reason}));
    }
    json!({"metadata": {"resourceVersion": device.metadata.resource_version}, "status": status})
}

fn session(record: &SessionRecord, device: &Device, us: &Identity, now: Timestamp, status: &mut Map<String, Value>) {
    let recorded = device.status.as_ref().and_then(|status| status.session.as_ref());
    let ours = recorded.filter(|session| session.bridge == us.name && session.incarnation == us.incarnation);
    let (session, last_seen) = match record {
        SessionRecord::Unchanged => return,
        SessionRecord::Claim { address } => {
            let since = ours.filter(|session| !session.dismissed).map_or(now, |session| session.since);
            let claim = json!({
                "bridge": us.name, "incarnation": us.incarnation, "address": address, "since": since,
                "dismissed": false, "contender": null,
            });
            (claim, Value::Null)
        }
        SessionRecord::Release { last_seen } => (Value::Null, json!(last_seen)),
        SessionRecord::Dismiss => (json!({"dismissed": true}), json!(now)),
        SessionRecord::Contend { address } => {
            let contender = json!({"bridge": us.name, "incarnation": us.incarnation, "address": address, "since": now});
            status.insert("session".to_owned(), json!({"contender": contender}));
            return;
        }
        SessionRecord::Refuse => {
            status.insert("session".to_owned(), json!({"contender": null}));
            return;
        }
    };
    status.insert("session".to_owned(), session);
    status.insert("lastSeen".to_owned(), last_seen);
}

fn reported(info: &DeviceInformation, now: Timestamp) -> Value {
    let DeviceInformation { mac: _, version, model, config, serial, capabilities } = info;
    let capabilities: Vec<_> = capabilities.names().collect();
    json!({
        "version": version, "model": model, "config": config, "serial": serial, "capabilities": capabilities, "at": now,
    })
}

fn upgrade(target: i64, phase: Phase, end: Option<&TryEnd>, now: Timestamp) -> Value {
    let phase = match phase {
        Phase::Restarting => fettle_crds::Phase::Restarting,
        Phase::Applying => fettle_crds::Phase::Applying,
        Phase::Done => fettle_crds::Phase::Done,
    };
    let result = end.map(|end| if end.reason.is_success() { TryResult::Succeeded } else { TryResult::Failed });
    let text = end.filter(|end| !end.message.is_empty()).map(|end| message(end.message.as_str()));
    let reason = end.and_then(|end| verdict(end.reason));
    json!({"target": target, "phase": phase, "since": now, "result": result, "reason": reason, "message": text})
}

/// The reason of a try as the API has it; `None` for what only ends connections.
fn verdict(reason: Reason) -> Option<Verdict> {
    Some(match reason {
        Reason::Upgraded => Verdict::Upgraded,
        Reason::ResultLost => Verdict::ResultLost,
        Reason::AlreadyCurrent => Verdict::AlreadyCurrent,
        Reason::CrcMismatch => Verdict::CrcMismatch,
        Reason::DownloadFailed => Verdict::DownloadFailed,
        Reason::NotTransferred => Verdict::NotTransferred,
        Reason::ApplyFailed => Verdict::ApplyFailed,
        Reason::CameBackUnchanged => Verdict::CameBackUnchanged,
        Reason::UnexpectedVersion => Verdict::UnexpectedVersion,
        Reason::TimedOut => Verdict::TimedOut,
        Reason::SourceUnavailable => Verdict::SourceUnavailable,
        Reason::DeadlineExceeded
        | Reason::HolderAnswers
        | Reason::HeldElsewhere
        | Reason::Replaced
        | Reason::Illegal => return None,
    })
}
