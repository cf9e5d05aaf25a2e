//! What a hub does for targets and writes of devices, as far as that is not the session's.

#![allow(clippy::unwrap_used, reason = "test code")]

mod hub_support;

use std::time::Duration;

use fettle_bridge::cluster::declared::Declared;
use fettle_bridge::cluster::enrolment::Enrolment;
use fettle_bridge::cluster::groups::Wish;
use fettle_bridge::metrics::Closed;
use fettle_bridge::tcp::Order;
use fettle_crds::{Device, DeviceStatus, Firmware, LabelSelector};
use fettle_protocol::ServerMessage;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::Release;
use hub_support::{ApiServer, Rig, connected, declared};
use serde_json::{Value, json};

const SINCE: &str = "2026-11-20T12:00:00Z";

/// A device of ours, with this on record besides.
fn ours(more: Value) -> Device {
    let mut device = connected(declared("sw-1", 1, 10), "b-0", "ours");
    let mut status = serde_json::to_value(&device.status).unwrap();
    for (key, value) in more.as_object().unwrap() {
        status[key] = value.clone();
    }
    device.status = Some(serde_json::from_value::<DeviceStatus>(status).unwrap());
    device
}

/// A target of which there is all the time in the world.
fn target(stage: &str) -> Value {
    json!({
        "id": 3, "rollout": "edge-4", "rolloutUid": "u", "try": 1, "from": "4.9.0", "transfer": "FTP", "logs": "Never",
        "config": {"identity": "17+77c0d1e2", "content": "fettle-config-0"}, "stage": stage,
        "grantedAt": SINCE, "startBy": "2999-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z",
    })
}

#[tokio::test]
async fn what_was_fetched_ahead_waits_until_the_target_goes_on() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let upgrade = json!({"target": 3, "phase": "Downloaded", "since": SINCE});
    rig.listed(vec![ours(json!({"target": target("Download"), "upgrade": upgrade}))]).await;
    let mut caller = rig.call(1).await;
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    assert_eq!((rig.requests.count(), caller.try_next()), (0, None));
    let mut goes_on = ours(json!({"target": target("Activate"), "upgrade": upgrade}));
    goes_on.metadata.resource_version = Some("11".into());
    rig.changed(goes_on);
    rig.until("fettle_bridge_sessions{state=\"Preparing\"}", 1).await;
}

#[tokio::test]
async fn a_device_that_waits_for_its_time_is_seen_as_such_and_left_alone() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let mut target = target("Activate");
    target["config"]["scheduled"] = json!({"at": "2998-01-01T00:00:00Z", "local": "2998-01-01 01:00:00"});
    let upgrade = json!({"target": 3, "phase": "Scheduled", "since": SINCE});
    rig.listed(vec![ours(json!({"target": target, "upgrade": upgrade}))]).await;
    let mut caller = rig.call(1).await;
    rig.until("fettle_bridge_sessions{state=\"Scheduled\"}", 1).await;
    assert_eq!((rig.requests.count(), caller.try_next()), (0, None));
}

#[tokio::test]
async fn a_connection_that_the_device_loses_is_counted_and_one_that_the_bridge_ends_is_not() {
    for (reason, drops) in [
        (Closed::ByDevice, Some(json!({"target": 3, "count": 2}))),
        (Closed::Silent, Some(json!({"target": 3, "count": 2}))),
        (Closed::TooMany, None),
    ] {
        let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
        let upgrade =
            json!({"target": 3, "phase": "Done", "since": SINCE, "result": "Succeeded", "reason": "Upgraded"});
        rig.listed(vec![ours(json!({"upgrade": upgrade, "drops": {"target": 3, "count": 1}}))]).await;
        let caller = rig.call(1).await;
        rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
        rig.ends(caller, reason).await;
        rig.requests.until(|requests| requests.with("\"session\":null").is_some()).await;
        let request = rig.requests.with("\"session\":null").unwrap();
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let patch: Value = serde_json::from_str(body).unwrap();
        assert_eq!(patch["status"].get("drops"), drops.as_ref(), "{reason:?}");
    }
}

/// One group of all devices at `site: b`, and the release that it names.
fn declare(version: &str) -> Declared {
    let image = json!({"models": ["S5700"], "source": {"file": {"path": "a"}}, "sha256": "a".repeat(64)});
    let mut firmware =
        Firmware::new("fw", serde_json::from_value(json!({"version": version, "images": [image]})).unwrap());
    let status = json!({"images": [{"sha256": "a".repeat(64), "size": 7}]});
    firmware.status = Some(serde_json::from_value(status).unwrap());
    let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"site": "b"}})).unwrap();
    let named = serde_json::from_value(json!({"name": "fw"})).unwrap();
    let wish = Wish { selector, firmware: Some(named), retries: 2, is_taken_back: false };
    Declared::new([("g".to_owned(), wish)].into(), &[firmware])
}

#[tokio::test]
async fn what_is_declared_is_announced_to_who_takes_that_when_it_calls_and_when_it_changes() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let at_site = |number: u16, capabilities: Value| {
        let name = format!("sw-{number}");
        let mut device = connected(declared(&name, number, 10), "b-0", "ours");
        device.metadata.labels = Some([("site".to_owned(), "b".to_owned())].into());
        let mut status = serde_json::to_value(&device.status).unwrap();
        status["reported"]["capabilities"] = capabilities;
        device.status = Some(serde_json::from_value(status).unwrap());
        device
    };
    rig.declares.send_replace(declare("5.2.1"));
    rig.listed(vec![at_site(1, json!(["FileFacts", "Announcement"])), at_site(2, json!(["FileFacts"]))]).await;
    let mut deaf = rig.call_with(Capabilities::FILE_FACTS, 2).await;
    let mut listens = rig.call_with(Capabilities::FILE_FACTS.with(Capabilities::ANNOUNCEMENT), 1).await;
    let announcement = |version: Option<&str>| {
        let release = version.map(|version| Release { version: version.to_owned(), size: Some(7) });
        let mut bytes = Vec::new();
        ServerMessage::Announcement(release).encode(&mut bytes).unwrap();
        Order::Send { bytes: bytes.into_boxed_slice(), after: Duration::ZERO }
    };
    assert_eq!(listens.next().await, announcement(Some("5.2.1")));
    rig.declares.send_replace(declare("5.3.0"));
    assert_eq!(listens.next().await, announcement(Some("5.3.0")));
    rig.declares.send_replace(Declared::default());
    assert_eq!(listens.next().await, announcement(None));
    assert_eq!((rig.requests.count(), deaf.try_next(), listens.try_next()), (0, None, None));
    assert_eq!(rig.metric("fettle_bridge_messages_total{direction=\"out\",type=\"35\"}"), 3);
}
