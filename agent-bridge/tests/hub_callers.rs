//! Who calls, and what becomes of a device that is none, is not known yet, or was replaced.

mod hub_support;

use std::time::Duration;

use fettle_bridge::cluster::enrolment::Enrolment;
use fettle_bridge::metrics::Closed;
use fettle_bridge::tcp::Order;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::session::Reason;
use fettle_protocol::{Dialect, ServerMessage};
use fettle_runtime::REQUEST_DEADLINE;
use hub_support::{ApiServer, Rig, connected, declared, lease};
use jiff::SignedDuration;

#[tokio::test]
async fn who_is_no_device_of_ours_is_sent_away_each_time_a_little_later() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Deny).await;
    let mut unapproved = declared("sw-2", 2, 12);
    unapproved.spec.approved = false;
    rig.listed(vec![unapproved, declared("sw-3", 3, 13), declared("also-sw-3", 3, 14)]).await;
    for number in [1, 2, 3] {
        rig.call(number).await.is_sent_away_after(0).await;
    }
    for delay in [1, 2, 4, 8] {
        rig.call(1).await.is_sent_away_after(delay).await;
    }
    assert_eq!(rig.metric("fettle_bridge_illegal_calls_total"), 7);
    assert_eq!(rig.metric("fettle_bridge_sessions"), 0);
}

#[tokio::test]
async fn who_takes_it_is_told_when_to_call_again_and_keeps_no_connection_for_that() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Deny).await;
    rig.listed(Vec::new()).await;
    let mut caller = rig.call_with(Capabilities::RETRY_AFTER, 1).await;
    let told = |seconds| {
        let mut bytes = Vec::new();
        ServerMessage::Interrupt(Some(seconds)).encode(&mut bytes).unwrap();
        move |after| Order::Send { bytes: bytes.clone().into(), after: Duration::from_secs(after) }
    };
    assert_eq!(caller.next().await, told(1)(0));
    assert_eq!(caller.next().await, Order::Finish);
    // It has let no second pass, so that it is told as anybody is, and held back by the delay that is told.
    let mut caller = rig.call_with(Capabilities::RETRY_AFTER, 1).await;
    caller.next().await;
    let mut caller = rig.call_with(Capabilities::RETRY_AFTER, 1).await;
    caller.next().await;
    let mut caller = rig.call_with(Capabilities::RETRY_AFTER, 1).await;
    assert_eq!(caller.next().await, told(4)(4));
}

#[tokio::test]
async fn a_device_is_answered_in_the_dialect_that_it_speaks() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Deny).await;
    rig.listed(Vec::new()).await;
    for (number, dialect) in Dialect::all().enumerate() {
        let mut caller = rig.call_in(dialect, number as u16).await;
        let mut bytes = Vec::new();
        ServerMessage::Interrupt(None).encode_in(dialect, &mut bytes).unwrap();
        let expected = Order::Send { bytes: bytes.into(), after: Duration::ZERO };
        assert_eq!(caller.next().await, expected, "{dialect}");
    }
}

#[tokio::test]
async fn a_storm_of_unknown_devices_is_sent_away_at_once_and_recorded_a_few_at_a_time() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    rig.listed(Vec::new()).await;
    let mut callers = Vec::new();
    for number in 0..10_000 {
        callers.push(rig.call(number).await);
        if callers.len() == 500 {
            for mut caller in callers.drain(..) {
                caller.is_sent_away_after(0).await;
            }
        }
    }
    rig.requests.until(|requests| requests.count() >= 8).await;
    // What waits for the API server is not waited for at the end.
    rig.shutdown.cancel();
    rig.task.await.unwrap();
    assert_eq!(rig.requests.count(), 8);
}

#[tokio::test]
async fn no_more_devices_are_recorded_than_people_can_look_through() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let recorded = |number| {
        let mut device = declared(&format!("recorded-{number}"), number, 10);
        device.spec.approved = false;
        device.metadata.labels = Some([("app.kubernetes.io/managed-by".into(), "fettle".into())].into());
        device
    };
    rig.listed((1..=1000).map(recorded).collect()).await;
    rig.call(2000).await.is_sent_away_after(0).await;
    // Somebody has approved one, or deleted it.
    rig.deleted(declared("recorded-1", 1, 11));
    rig.until("fettle_bridge_devices_known", 999).await;
    rig.call(2001).await.is_sent_away_after(0).await;
    rig.call(2002).await.is_sent_away_after(0).await;
    rig.deleted(declared("recorded-2", 2, 12));
    rig.until("fettle_bridge_devices_known", 998).await;
    rig.call(2003).await.is_sent_away_after(0).await;
    rig.requests.until(|requests| requests.record(2003)).await;
    let recorded: Vec<_> = (2000..=2003).filter(|number| rig.requests.record(*number)).collect();
    assert_eq!(recorded, [2001, 2003], "there was room for one, and then for another");
}

#[tokio::test]
async fn a_device_that_is_declared_right_after_it_called_is_not_recorded_besides() {
    for enrolment in [Enrolment::Approve, Enrolment::Auto] {
        let mut rig = Rig::start(ApiServer::Hangs, enrolment).await;
        rig.listed(Vec::new()).await;
        let mut early = rig.call(1).await;
        let _again = match enrolment {
            // The one that replaces it waits when it hears of that.
            Enrolment::Auto => {
                let again = rig.call(1).await;
                assert_eq!(early.next().await, Order::Close(Closed::Session(Reason::Replaced)));
                Some(again)
            }
            Enrolment::Approve | Enrolment::Deny => {
                early.is_sent_away_after(0).await;
                None
            }
        };
        rig.changed(declared("sw-1", 1, 10));
        rig.until("fettle_bridge_devices_known", 1).await;
        let served = if enrolment == Enrolment::Auto { 1 } else { 0 };
        assert_eq!(rig.metric("fettle_bridge_sessions"), served, "who waits is served at once");
        // When this one is recorded, that of the other would have been.
        let _unknown = rig.call(2).await;
        rig.requests.until(|requests| requests.record(2)).await;
        assert!(!rig.requests.record(1), "{enrolment:?}");
    }
}

#[tokio::test]
async fn a_device_that_is_taken_in_unasked_waits_until_it_is_recorded() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Auto).await;
    rig.listed(Vec::new()).await;
    let mut first = rig.call(1).await;
    let mut again = rig.call(1).await;
    assert_eq!(first.next().await, Order::Close(Closed::Session(Reason::Replaced)));
    rig.requests.until(|requests| requests.record(1)).await;
    // Another bridge was faster.
    rig.changed(connected(declared("02-00-5e-00-00-01", 1, 20), "b-0", "ours"));
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    // It is served on the connection that it has.
    rig.deleted(declared("02-00-5e-00-00-01", 1, 21));
    again.is_sent_away_after(0).await;
    assert_eq!(rig.requests.count(), 1, "one MAC is recorded once");
}

#[tokio::test]
async fn a_device_that_cannot_be_recorded_is_not_told_that_it_is_unknown() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Auto).await;
    rig.listed(Vec::new()).await;
    assert_eq!(rig.call(1).await.next().await, Order::Close(Closed::ApiUnavailable));
}

#[tokio::test]
async fn a_legal_device_whose_object_is_still_to_be_read_is_not_sent_away() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let elsewhere = connected(declared("sw-1", 1, 10), "b-1", "x");
    rig.listed(vec![elsewhere, connected(declared("sw-2", 2, 11), "b-1", "x")]).await;
    let mut moved = rig.call(1).await;
    let mut gone = rig.call(2).await;
    let _again = rig.call(2).await;
    assert_eq!(gone.next().await, Order::Close(Closed::Session(Reason::Replaced)));
    // The watch has something to say before the answer comes.
    rig.changed(connected(declared("sw-1", 1, 12), "b-0", "ours"));
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    rig.deleted(declared("sw-1", 1, 13));
    moved.is_sent_away_after(0).await;
    assert_eq!(rig.requests.count(), 2, "each is read once");
}

#[tokio::test]
async fn a_legal_device_that_cannot_be_read_is_not_told_that_it_is_illegal() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Approve).await;
    rig.listed(vec![connected(declared("sw-1", 1, 10), "b-1", "x")]).await;
    assert_eq!(rig.call(1).await.next().await, Order::Close(Closed::ApiUnavailable));
    assert_eq!(rig.metric("fettle_bridge_illegal_calls_total"), 0);
}

#[tokio::test]
async fn a_device_that_is_deleted_while_it_waits_to_be_read_is_judged_as_what_it_is_then() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Deny).await;
    rig.listed(vec![connected(declared("sw-1", 1, 10), "b-1", "x")]).await;
    let mut caller = rig.call(1).await;
    rig.deleted(declared("sw-1", 1, 11));
    caller.is_sent_away_after(0).await;
}

#[tokio::test]
async fn a_second_device_with_the_mac_of_a_connected_one_ends_its_session_on_record_too() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let ours = connected(declared("sw-1", 1, 10), "b-0", "ours");
    rig.listed(vec![ours]).await;
    let mut caller = rig.call(1).await;
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    rig.changed(declared("also-sw-1", 1, 11));
    caller.is_sent_away_after(0).await;
    rig.hangs_up(caller).await;
    // Its session is taken off the record, where people would take it for connected.
    rig.until("fettle_bridge_status_writes_pending", 1).await;
}

#[tokio::test]
async fn a_device_whose_object_was_replaced_stays_connected_and_is_claimed_anew() {
    let mut rig = Rig::start(ApiServer::Hangs, Enrolment::Approve).await;
    let ours = connected(declared("sw-1", 1, 10), "b-0", "ours");
    rig.listed(vec![ours]).await;
    let mut caller = rig.call(1).await;
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    assert_eq!(rig.metric("fettle_bridge_status_writes_pending"), 0);
    // The watch was interrupted, and shows the deletion and the creation as one.
    let mut successor = declared("sw-1", 1, 20);
    successor.metadata.uid = Some("uid-of-another".into());
    rig.list(vec![successor]);
    rig.until("fettle_bridge_status_writes_pending", 1).await;
    assert_eq!(rig.metric("fettle_bridge_illegal_calls_total"), 0);
    assert_eq!(caller.try_next(), None, "it was told nothing, and its connection stays");
}

#[tokio::test]
async fn a_device_that_another_bridge_holds_is_asked_for_and_taken_when_that_bridge_ends() {
    let mut rig = Rig::start(ApiServer::IsAway, Enrolment::Approve).await;
    let theirs = connected(declared("sw-1", 1, 10), "b-1", "x");
    // On record as ours by name, so that it is kept whole, until the watch says whose it is now.
    rig.listed(vec![connected(declared("sw-1", 1, 9), "b-0", "before")]).await;
    let _caller = rig.call(1).await;
    rig.until("fettle_bridge_sessions{state=\"Idle\"}", 1).await;
    rig.changed(theirs);
    rig.until("fettle_bridge_sessions{state=\"Contending\"}", 1).await;
    rig.lease(lease("b-1", ""));
    rig.until("fettle_bridge_sessions{state=\"Contending\"}", 0).await;
    assert_eq!(rig.metric("fettle_bridge_sessions"), 1);
}

#[tokio::test]
async fn sessions_of_the_run_before_are_given_up_only_once_devices_could_call() {
    let mut rig = Rig::start_with(ApiServer::Hangs, Enrolment::Approve, SignedDuration::ZERO).await;
    // However long the first list takes: the grace begins with it.
    tokio::task::yield_now().await;
    let before = |name, number| connected(declared(name, number, 10), "b-0", "before");
    rig.listed(vec![before("sw-1", 1), before("sw-2", 2)]).await;
    rig.until("fettle_bridge_status_writes_pending", 2).await;
}

#[tokio::test]
async fn the_end_of_the_program_waits_for_writes_that_have_begun_and_for_no_other() {
    let mut rig = Rig::start_with(ApiServer::Hangs, Enrolment::Approve, SignedDuration::ZERO).await;
    let before = |number| connected(declared(&format!("sw-{number}"), number, 10), "b-0", "before");
    rig.listed((1..=200).map(before).collect()).await;
    rig.until("fettle_bridge_status_writes_pending", 200).await;
    let began = tokio::time::Instant::now();
    rig.shutdown.cancel();
    rig.task.await.unwrap();
    assert!(began.elapsed() < REQUEST_DEADLINE + Duration::from_secs(5), "{:?}", began.elapsed());
}
