//! What a session wants written, as a merge patch of a Device's status.

use fettle_crds::schema::message;
use fettle_crds::{Device, TryResult, Verdict};
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{
    Change, Drops, Log, LogRefused, LogResult, Phase, Reached, Reason, Record, SessionRecord, TryEnd,
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Identity;

/// The patch that writes `record` to `device`, on condition that nobody has written to it since.
pub fn patch(record: &Record, device: &Device, us: &Identity, now: Timestamp) -> Value {
    let Record {
        session: of_session,
        info,
        progress,
        end,
        reached,
        drops,
        forget_applied,
        log,
        log_refused,
        log_answer,
    } = record;
    let mut status = Map::new();
    session(of_session, device, us, now, &mut status);
    if let Some(info) = info {
        status.insert("reported".to_owned(), reported(info, now));
    }
    if let Some((target, phase)) = progress {
        status.insert("upgrade".to_owned(), upgrade(*target, *phase, end.as_ref(), now));
    }
    match reached {
        Change::Unchanged => {}
        Change::Set(Reached { target, percent, text }) => {
            // What is absent takes what was there before off the record.
            let progress = json!({"target": target, "percent": percent, "text": text, "at": now});
            status.insert("progress".to_owned(), progress);
        }
        Change::Clear => {
            status.insert("progress".to_owned(), Value::Null);
        }
    }
    match (drops, end) {
        (Some(Drops { target, count }), _) => {
            status.insert("drops".to_owned(), json!({"target": target, "count": count}));
        }
        (None, Some(_)) => {
            status.insert("drops".to_owned(), Value::Null);
        }
        (None, None) => {}
    }
    if *forget_applied {
        status.insert("applied".to_owned(), Value::Null);
    }
    if let Some(TryEnd { target: _, reason, message: _, applied: Some(config) }) = end {
        let reason = (*reason == Reason::ResultLost).then_some(Verdict::ResultLost);
        status.insert("applied".to_owned(), json!({"config": config, "at": now, "reason": reason}));
    }
    if let Some(Log { target, location, at, size }) = log {
        status.insert("lastLog".to_owned(), json!({"location": location, "at": at, "size": size, "target": target}));
    }
    match log_refused {
        Change::Unchanged => {}
        Change::Set(LogRefused { target, why }) => {
            let refused = json!({"target": target, "message": message(why.as_str()), "at": now});
            status.insert("logRefused".to_owned(), refused);
        }
        Change::Clear => {
            status.insert("logRefused".to_owned(), Value::Null);
        }
    }
    if let Some((value, result)) = log_answer {
        let (result, why) = match result {
            LogResult::Stored => (fettle_crds::LogResult::Stored, None),
            LogResult::Failed(why) => (fettle_crds::LogResult::Failed, Some(message(why.as_str()))),
        };
        status.insert("logRequest".to_owned(), json!({"value": value, "result": result, "at": now, "message": why}));
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
            status.insert("lastAddress".to_owned(), Value::Null);
            (claim, Value::Null)
        }
        SessionRecord::Release { last_seen } => {
            status.insert("lastAddress".to_owned(), json!(recorded.map(|session| &session.address)));
            (Value::Null, json!(last_seen))
        }
        SessionRecord::Inherit { address } => {
            let inherited = json!({
                "bridge": us.name, "incarnation": us.incarnation, "address": address, "since": now,
                "dismissed": true, "contender": null,
            });
            status.insert("lastAddress".to_owned(), Value::Null);
            (inherited, json!(now))
        }
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

/// What a device says of itself, as `status.reported`.
pub(super) fn reported(info: &DeviceInformation, now: Timestamp) -> Value {
    let DeviceInformation { mac: _, version, model, config, serial, capabilities, dialect } = info;
    let names = |names: Vec<&str>| if names.is_empty() { Value::Null } else { json!(names) };
    let (capabilities, dialect) = (names(capabilities.names().collect()), names(dialect.names().collect()));
    json!({
        "version": version, "model": model, "config": config, "serial": serial, "capabilities": capabilities,
        "dialect": dialect, "at": now,
    })
}

fn upgrade(target: i64, phase: Phase, end: Option<&TryEnd>, now: Timestamp) -> Value {
    let phase = match phase {
        Phase::Downloaded => fettle_crds::Phase::Downloaded,
        Phase::Scheduled => fettle_crds::Phase::Scheduled,
        Phase::Restarting => fettle_crds::Phase::Restarting,
        Phase::RestartLost => fettle_crds::Phase::RestartLost,
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

#[cfg(test)]
mod tests {
    use fettle_crds::{Applied, Contender, DeviceSpec, DeviceStatus, Session};
    use fettle_protocol::datum::Capabilities;
    use fettle_protocol::{Dialect, Mac};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn us() -> Identity {
        Identity { name: "b-0".into(), incarnation: "two".into() }
    }

    /// A device with a session of this run of this bridge, at resourceVersion 7.
    fn device() -> Device {
        let spec: DeviceSpec = serde_json::from_value(json!({"mac": "02:00:5e:00:53:01"})).unwrap();
        let mut device = Device::new("sw-1", spec);
        device.metadata.resource_version = Some("7".into());
        let contender =
            Contender { bridge: "b-1".into(), incarnation: "x".into(), address: "192.0.2.2".into(), since: at(5) };
        let session = Session {
            bridge: "b-0".into(),
            incarnation: "two".into(),
            address: "192.0.2.1".into(),
            since: at(1),
            dismissed: false,
            contender: Some(contender),
        };
        let applied = Applied { config: "16+aaaaaaaa".into(), at: at(2), reason: None };
        device.status =
            Some(DeviceStatus { session: Some(session), applied: Some(applied), ..DeviceStatus::default() });
        device
    }

    /// The status of the device once the API server has merged the patch into it.
    fn merged(device: &Device, record: &Record) -> DeviceStatus {
        fn merge(into: &mut Value, patch: Value) {
            match (into, patch) {
                (Value::Object(into), Value::Object(patch)) => {
                    for (key, value) in patch {
                        match value {
                            Value::Null => drop(into.remove(&key)),
                            value => merge(into.entry(key).or_insert(Value::Null), value),
                        }
                    }
                }
                (into, Value::Object(patch)) => {
                    *into = json!({});
                    merge(into, Value::Object(patch));
                }
                (into, patch) => *into = patch,
            }
        }
        let patch = patch(record, device, &us(), at(100));
        assert_eq!(patch["metadata"], json!({"resourceVersion": "7"}), "on condition that nobody wrote since");
        let mut status = serde_json::to_value(&device.status).unwrap();
        merge(&mut status, patch["status"].clone());
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_claim_names_this_run_and_ends_whoever_else_asked() {
        let record = Record { session: SessionRecord::Claim { address: "192.0.2.9".into() }, ..Record::default() };
        let renewed = merged(&device(), &record).session.unwrap();
        assert_eq!((renewed.address.as_str(), renewed.since), ("192.0.2.9", at(1)), "our own goes on");
        assert_eq!(renewed.contender, None);

        let mut former = device();
        former.status.as_mut().unwrap().session.as_mut().unwrap().incarnation = "one".into();
        let taken = merged(&former, &record);
        let session = taken.session.unwrap();
        assert_eq!((session.incarnation.as_str(), session.since), ("two", at(100)));
        assert_eq!(taken.last_seen, None);
    }

    #[test]
    fn a_release_a_dismissal_and_the_answer_to_a_contender_change_no_more_than_they_say() {
        let of = |session| merged(&device(), &Record { session, ..Record::default() });
        let released = of(SessionRecord::Release { last_seen: at(90) });
        assert_eq!((released.session, released.last_seen), (None, Some(at(90))));
        assert_eq!(released.last_address.as_deref(), Some("192.0.2.1"), "where it may be asked for its log");
        let dismissed = of(SessionRecord::Dismiss);
        assert_eq!(dismissed.last_seen, Some(at(100)));
        assert!(dismissed.session.is_some_and(|session| session.dismissed && session.since == at(1)));
        let inherited = of(SessionRecord::Inherit { address: "192.0.2.3".into() });
        assert_eq!(inherited.last_seen, Some(at(100)));
        let session = inherited.session.unwrap();
        assert_eq!((session.bridge.as_str(), session.address.as_str()), (us().name.as_str(), "192.0.2.3"));
        assert_eq!((session.dismissed, session.since, session.contender), (true, at(100), None));
        let refused = of(SessionRecord::Refuse).session.unwrap();
        assert_eq!((refused.contender, refused.bridge.as_str()), (None, "b-0"));
        let asked = of(SessionRecord::Contend { address: "192.0.2.3".into() }).session.unwrap();
        assert_eq!(asked.contender.map(|contender| contender.address).as_deref(), Some("192.0.2.3"));
        assert_eq!(of(SessionRecord::Unchanged), device().status.unwrap());
    }

    #[test]
    fn the_end_of_a_try_stands_with_its_reason_and_with_the_configuration_in_force() {
        let end = TryEnd {
            target: 3,
            reason: Reason::ResultLost,
            message: "x".repeat(5000),
            applied: Some("17+bbbbbbbb".into()),
        };
        let record = Record { progress: Some((3, Phase::Done)), end: Some(end), ..Record::default() };
        let status = merged(&device(), &record);
        let applied = status.applied.unwrap();
        assert_eq!((applied.config.as_str(), applied.reason), ("17+bbbbbbbb", Some(Verdict::ResultLost)));
        let upgrade = status.upgrade.unwrap();
        assert_eq!((upgrade.target, upgrade.phase), (3, fettle_crds::Phase::Done));
        assert_eq!((upgrade.result, upgrade.reason), (Some(TryResult::Succeeded), Some(Verdict::ResultLost)));
        assert!(upgrade.message.unwrap().chars().count() <= 1024, "as long as the schema allows");
    }

    #[test]
    fn a_new_phase_leaves_nothing_of_the_try_before_and_a_doubtful_configuration_goes_off_the_record() {
        let mut device = device();
        let end = TryEnd { target: 3, reason: Reason::ApplyFailed, message: "no".into(), applied: None };
        let ended = Record { progress: Some((3, Phase::Done)), end: Some(end), ..Record::default() };
        device.status = Some(merged(&device, &ended));
        let begun = Record { progress: Some((4, Phase::Restarting)), forget_applied: true, ..Record::default() };
        let status = merged(&device, &begun);
        let upgrade = status.upgrade.unwrap();
        assert_eq!((upgrade.target, upgrade.result, upgrade.reason, upgrade.message), (4, None, None, None));
        assert_eq!(status.applied, None);
    }

    #[test]
    fn what_a_device_has_fetched_or_waits_for_stands_as_its_phase() {
        for (phase, expected) in [
            (Phase::Downloaded, fettle_crds::Phase::Downloaded),
            (Phase::Scheduled, fettle_crds::Phase::Scheduled),
            (Phase::Restarting, fettle_crds::Phase::Restarting),
            (Phase::RestartLost, fettle_crds::Phase::RestartLost),
            (Phase::Applying, fettle_crds::Phase::Applying),
        ] {
            let upgrade =
                merged(&device(), &Record { progress: Some((4, phase)), ..Record::default() }).upgrade.unwrap();
            assert_eq!((upgrade.target, upgrade.phase, upgrade.since, upgrade.result), (4, expected, at(100), None));
        }
    }

    #[test]
    fn how_far_a_device_has_come_leaves_nothing_of_what_it_said_before_and_goes_when_it_is_over() {
        let mut device = device();
        let set = |percent, text: Option<&str>| {
            let reached = Reached { target: 3, percent, text: text.map(str::to_owned) };
            Record { reached: Change::Set(reached), ..Record::default() }
        };
        device.status = Some(merged(&device, &set(Some(25), Some("erasing slot B"))));
        let progress = device.status.as_ref().and_then(|status| status.progress.clone()).unwrap();
        assert_eq!((progress.target, progress.percent, progress.at), (3, Some(25), at(100)));
        assert_eq!(progress.text.as_deref(), Some("erasing slot B"));
        device.status = Some(merged(&device, &set(Some(50), None)));
        let progress = device.status.as_ref().and_then(|status| status.progress.clone()).unwrap();
        assert_eq!((progress.percent, progress.text), (Some(50), None));
        assert!(merged(&device, &Record::default()).progress.is_some());
        assert_eq!(merged(&device, &Record { reached: Change::Clear, ..Record::default() }).progress, None);
    }

    #[test]
    fn drops_go_with_the_release_and_end_with_another_try() {
        let mut device = device();
        let drops = |count| Some(Drops { target: 3, count });
        for count in [1, 2] {
            let session = SessionRecord::Release { last_seen: at(90) };
            let released = Record { session, drops: drops(count), ..Record::default() };
            let status = merged(&device, &released);
            assert_eq!(status.drops, Some(fettle_crds::Drops { target: 3, count }));
            assert_eq!(status.session, None);
            device.status = Some(status);
        }
        let begun = Record { progress: Some((4, Phase::Restarting)), ..Record::default() };
        assert!(
            merged(&device, &begun).drops.is_some(),
            "it is still the end of the former that they are counted from"
        );
        let end = TryEnd { target: 4, reason: Reason::Upgraded, message: String::new(), applied: None };
        let ended = Record { progress: Some((4, Phase::Done)), end: Some(end), ..Record::default() };
        assert_eq!(merged(&device, &ended).drops, None);
        let drops = Some(Drops { target: 4, count: 1 });
        assert_eq!(merged(&device, &Record { drops, ..ended }).drops, Some(fettle_crds::Drops { target: 4, count: 1 }));
    }

    #[test]
    fn a_log_that_found_no_room_is_on_record_until_it_is_taken_off() {
        let refused = LogRefused { target: 3, why: "b-0 has no room for its log: the disk is full".into() };
        let mut device = device();
        let status = merged(&device, &Record { log_refused: Change::Set(refused.clone()), ..Record::default() });
        let recorded = status.log_refused.clone().unwrap();
        assert_eq!((recorded.target, &recorded.message, recorded.at), (refused.target, &refused.why, at(100)));
        device.status = Some(status);
        assert!(merged(&device, &Record::default()).log_refused.is_some());
        assert_eq!(merged(&device, &Record { log_refused: Change::Clear, ..Record::default() }).log_refused, None);
    }

    #[test]
    fn a_log_is_on_record_with_where_it_is() {
        let log = Log { target: 3, location: "file://b-0/logs/sw-1/x.log".into(), at: at(90), size: 7 };
        let status = merged(&device(), &Record { log: Some(log), ..Record::default() });
        let location = "file://b-0/logs/sw-1/x.log".to_owned();
        assert_eq!(status.last_log, Some(fettle_crds::LastLog { location, at: at(90), size: 7, target: 3 }));
    }

    #[test]
    fn what_became_of_a_persons_wish_is_on_record_in_their_words() {
        let mut device = device();
        let answer = |result| Record { log_answer: Some(("now".into(), result)), ..Record::default() };
        let why = LogResult::Failed("x".repeat(5000));
        device.status = Some(merged(&device, &answer(why)));
        let request = device.status.as_ref().and_then(|status| status.log_request.clone()).unwrap();
        assert_eq!((request.value.as_str(), request.result), ("now", fettle_crds::LogResult::Failed));
        assert!(request.message.unwrap().chars().count() <= 1024, "as long as the schema allows");
        let request = merged(&device, &answer(LogResult::Stored)).log_request.unwrap();
        assert_eq!((request.result, request.message), (fettle_crds::LogResult::Stored, None));
    }

    #[test]
    fn what_a_device_no_longer_says_of_itself_goes_off_the_record() {
        let info = DeviceInformation {
            mac: Mac::new([2, 0, 0x5e, 0, 0x53, 1]),
            version: "5.2.1".into(),
            model: "S5700".into(),
            config: Some("17+bbbbbbbb".into()),
            serial: Some("SN-1".into()),
            capabilities: Capabilities::default().with(Capabilities::CONFIG_VERSION),
            dialect: Dialect::LITTLE_ENDIAN,
        };
        let mut device = device();
        let full = Record { info: Some(info.clone()), ..Record::default() };
        device.status = Some(merged(&device, &full));
        let before = device.status.as_ref().and_then(|status| status.reported.as_ref());
        assert_eq!(before.map(|reported| reported.dialect.as_slice()), Some(&["LittleEndian".to_owned()][..]));
        let strict = DeviceInformation {
            config: None,
            serial: None,
            capabilities: Capabilities::default(),
            dialect: Dialect::CANONICAL,
            ..info
        };
        let reported = merged(&device, &Record { info: Some(strict), ..Record::default() }).reported.unwrap();
        assert_eq!((reported.config, reported.serial), (None, None));
        assert_eq!((reported.capabilities, reported.dialect), (Vec::new(), Vec::new()));
    }
}
