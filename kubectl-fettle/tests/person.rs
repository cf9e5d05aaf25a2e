//! What people may say to a rollout, in each state that it can be in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fettle_crds::{Abort, Device, DeviceGroup, DeviceRollout};
use jiff::Timestamp;
use kubectl_fettle::person::{Answer, Promote, Wish, without_way_back};
use kubectl_fettle::status::{Said, Verdict, judge};
use serde_json::{Value, json};

/// A group whose rollout has three steps, of which the second wants approval.
fn group() -> DeviceGroup {
    let group = json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceGroup", "metadata": {"name": "access", "generation": 2},
        "spec": {"selector": {"matchLabels": {"role": "access"}}, "firmware": {"name": "a"}},
        "status": {"observedGeneration": 2, "rollout": "access-3", "message": "3 of 9", "conditions": []}
    });
    serde_json::from_value(group).unwrap()
}

fn rollout(spec: Value, status: Value) -> DeviceRollout {
    let mut rollout = json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "DeviceRollout",
        "metadata": {"name": "access-3", "uid": "u", "generation": 1},
        "spec": {"group": "access", "number": 3, "revision": "r",
            "steps": [{"devices": 1}, {"devices": "50%", "soak": "10m", "approval": "Required"}, {"devices": "100%"}]},
        "status": {"observedGeneration": 1, "phase": "Progressing", "counts": {"granted": 3, "failed": 0}, "step": step(2)}
    });
    for (into, from) in [("spec", spec), ("status", status)] {
        for (key, value) in from.as_object().unwrap() {
            rollout[into][key] = value.clone();
        }
    }
    serde_json::from_value(rollout).unwrap()
}

fn step(number: u32) -> Value {
    json!({"number": number, "progress": format!("{number}/3"), "size": 5, "granted": 3, "startedAt": "2026-11-21T02:00:00Z"})
}

fn waits(reason: &str) -> Value {
    json!({"phase": "Waiting", "waiting": {"for": reason, "since": "2026-11-21T02:00:00Z"}})
}

fn at() -> Timestamp {
    "2026-11-21T03:00:00Z".parse().unwrap()
}

#[track_caller]
fn patches(wish: Wish, rollout: &DeviceRollout, expected: Value) -> String {
    match wish.answer(&group(), rollout) {
        Ok(Answer::Patch { spec, sentence }) => {
            assert_eq!(spec, expected);
            sentence
        }
        other => panic!("{wish:?}: {other:?}"),
    }
}

#[track_caller]
fn refuses(wish: Wish, rollout: &DeviceRollout, because: &str) {
    match wish.answer(&group(), rollout) {
        Err(why) => assert!(why.contains(because), "{why}"),
        other => panic!("{wish:?}: {other:?}"),
    }
}

#[track_caller]
fn changes_nothing(wish: Wish, rollout: &DeviceRollout) {
    let answer = wish.answer(&group(), rollout);
    assert!(matches!(answer, Ok(Answer::Already(_))), "{wish:?}: {answer:?}");
}

const APPROVE: Wish = Wish::Approve { step: None };
const PROMOTE: Wish = Wish::Promote(Promote::Step);
const RESUME: Wish = Wish::Resume { accept_failures: None };

#[test]
fn only_the_step_that_waits_is_approved() {
    let waiting = rollout(json!({}), waits("Approval"));
    patches(APPROVE, &waiting, json!({"approvedStep": 2}));
    let empty = rollout(json!({}), waits("Step"));
    let sentence = patches(APPROVE, &empty, json!({"approvedStep": 2}));
    assert!(sentence.contains("nothing is proven"), "{sentence}");
    let running = rollout(json!({}), json!({}));
    refuses(APPROVE, &running, "does not wait for approval: it is at step 2 of 3 (progressing)");
    let soaking = rollout(json!({}), waits("Soak"));
    refuses(APPROVE, &soaking, "approve access --step 2");
    changes_nothing(APPROVE, &rollout(json!({"approvedStep": 2}), json!({})));
}

#[test]
fn a_step_that_is_named_is_approved_in_advance() {
    let running = rollout(json!({}), json!({}));
    patches(Wish::Approve { step: Some(3) }, &running, json!({"approvedStep": 3}));
    changes_nothing(Wish::Approve { step: Some(1) }, &running);
    refuses(Wish::Approve { step: Some(4) }, &running, "lists 3 steps");
    // What was approved further ahead is not taken back.
    changes_nothing(Wish::Approve { step: Some(2) }, &rollout(json!({"approvedStep": 3}), waits("Approval")));
}

#[test]
fn an_approval_is_for_the_step_that_was_seen() {
    let seen = rollout(json!({}), waits("Approval"));
    let mut next = rollout(json!({}), json!({"step": step(3)}));
    assert!(APPROVE.still_means(&seen, &next).unwrap_err().contains("gone on to another step"));
    assert!(PROMOTE.still_means(&seen, &next).is_err());
    assert_eq!(Wish::Pause.still_means(&seen, &next), Ok(()));
    assert_eq!(APPROVE.still_means(&seen, &seen), Ok(()));
    next.metadata.uid = Some("another".into());
    assert!(Wish::Pause.still_means(&seen, &next).unwrap_err().contains("has begun meanwhile"));
}

#[test]
fn promotion_goes_ahead_of_the_approval_but_cuts_no_soak_short() {
    let mut soaking = waits("Soak");
    soaking["step"] = step(2);
    soaking["step"]["soakUntil"] = json!("2026-11-21T02:30:00Z");
    let sentence = patches(PROMOTE, &rollout(json!({}), soaking), json!({"approvedStep": 2}));
    assert!(sentence.contains("its soak lasts until 2026-11-21T02:30:00Z"), "{sentence}");
    refuses(PROMOTE, &rollout(json!({}), json!({"step": step(1)})), "step 1 of 3 of access-3 needs no approval");
    let all = patches(Wish::Promote(Promote::Full), &rollout(json!({}), json!({})), json!({"approvedStep": 3}));
    assert!(all.contains("no further approval"), "{all}");
    refuses(PROMOTE, &rollout(json!({}), json!({"completedAt": "2026-11-21T02:00:00Z"})), "is complete");
    refuses(PROMOTE, &rollout(json!({"steps": []}), json!({})), "has no steps");
    refuses(PROMOTE, &rollout(json!({"abort": "Stop"}), json!({})), "resume access");
}

#[test]
fn what_was_paused_or_aborted_goes_on_when_it_is_resumed() {
    changes_nothing(Wish::Pause, &rollout(json!({"paused": true}), json!({})));
    patches(Wish::Pause, &rollout(json!({}), json!({})), json!({"paused": true}));
    refuses(Wish::Pause, &rollout(json!({"abort": "Stop"}), json!({})), "was aborted");
    changes_nothing(RESUME, &rollout(json!({}), json!({})));
    let both = rollout(json!({"paused": true, "abort": "Stop"}), json!({}));
    patches(RESUME, &both, json!({"paused": null, "abort": null}));
    // A rollback is not taken back half-way.
    changes_nothing(RESUME, &rollout(json!({"abort": "Rollback"}), json!({})));
}

#[test]
fn a_pause_that_git_holds_is_gits_to_end() {
    let mut held = group();
    held.spec.paused = true;
    let why = RESUME.answer(&held, &rollout(json!({}), json!({}))).unwrap_err();
    assert!(why.contains("DeviceGroup access itself is paused"), "{why}");
    let Ok(Answer::Patch { sentence, .. }) = RESUME.answer(&held, &rollout(json!({"paused": true}), json!({}))) else {
        panic!("the rollout's own pause can end")
    };
    assert!(sentence.contains("but DeviceGroup access itself is paused"), "{sentence}");
}

#[test]
fn a_rollout_that_failures_have_stopped_names_the_ways_on() {
    let stalled = json!({"type": "Stalled", "status": "True", "reason": "DevicesFailed", "message": "",
        "lastTransitionTime": "2026-11-21T02:00:00Z"});
    let stopped = rollout(json!({}), json!({"conditions": [stalled], "counts": {"granted": 3, "failed": 2}}));
    refuses(RESUME, &stopped, "--accept-failures 2");
    refuses(Wish::Resume { accept_failures: Some(1) }, &stopped, "--accept-failures 2 would let it go on");
    patches(Wish::Resume { accept_failures: Some(2) }, &stopped, json!({"acceptFailures": 2}));
    patches(Wish::Retry { at: at() }, &stopped, json!({"retryAt": "2026-11-21T03:00:00Z"}));
    refuses(Wish::Retry { at: at() }, &rollout(json!({}), json!({})), "no device of access-3 has failed");
}

#[test]
fn the_way_back_is_open_also_when_all_is_done() {
    let (abort, rollback) = (Wish::Abort(Abort::Stop), Wish::Abort(Abort::Rollback));
    let running = rollout(json!({}), json!({}));
    patches(abort, &running, json!({"abort": "Stop"}));
    patches(rollback, &running, json!({"abort": "Rollback"}));
    patches(rollback, &rollout(json!({"abort": "Stop"}), json!({})), json!({"abort": "Rollback"}));
    let complete = rollout(json!({}), json!({"completedAt": "2026-11-21T02:00:00Z"}));
    refuses(abort, &complete, "undo access");
    refuses(rollback, &complete, "undo access");
    let sentence = patches(Wish::Undo, &complete, json!({"abort": "Rollback"}));
    assert!(sentence.contains("each of the 3 devices"), "{sentence}");
    refuses(Wish::Undo, &rollout(json!({}), json!({"counts": {"granted": 0}})), "nothing to undo");
    let back = json!({"rollback": {"reason": "Aborted", "startedAt": "2026-11-21T02:00:00Z"}});
    let back = rollout(json!({"abort": "Rollback"}), back);
    changes_nothing(Wish::Undo, &back);
    changes_nothing(rollback, &back);
    patches(abort, &back, json!({"abort": "Stop"}));
    let paused = patches(Wish::Undo, &rollout(json!({"paused": true}), json!({})), json!({"abort": "Rollback"}));
    assert!(paused.contains("resume access` lets it begin"), "{paused}");
}

#[test]
fn who_has_no_way_back_is_told_beforehand() {
    let device = |name: &str, rollout: &str, sha256: Value| -> Device {
        let content = if sha256.is_null() { Value::Null } else { json!("image-1") };
        let previous =
            json!({"rolloutUid": rollout, "firmware": {"version": "4.9.0", "sha256": sha256, "content": content}});
        serde_json::from_value(
            json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "Device", "metadata": {"name": name},
            "spec": {"mac": "02:00:5e:00:53:01"}, "status": {"previous": previous}}),
        )
        .unwrap()
    };
    let rollout = rollout(json!({"firmware": {"name": "a", "version": "5.2.1", "images": []}}), json!({}));
    let (known, lost, other) =
        (device("sw-1", "u", json!("ab")), device("sw-2", "u", Value::Null), device("sw-3", "else", Value::Null));
    assert_eq!(without_way_back(&rollout, [&known, &other]), Ok(None));
    let some = without_way_back(&rollout, [&known, &lost, &other]).unwrap().unwrap();
    assert!(some.starts_with("1 of them stay where they are: they ran 4.9.0"), "{some}");
    let none = without_way_back(&rollout, [&lost, &other]).unwrap_err();
    assert!(none.contains("no device of access-3 has a way back") && none.contains("policy: Exact"), "{none}");
}

fn conditions(type_: &str, reason: &str) -> Value {
    json!([{"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-11-21T02:00:00Z"}])
}

/// The group, with that condition.
fn with(type_: &str, reason: &str) -> DeviceGroup {
    let mut group = serde_json::to_value(group()).unwrap();
    group["status"]["conditions"] = conditions(type_, reason);
    serde_json::from_value(group).unwrap()
}

/// Its rollout, with that condition.
fn rollout_with(type_: &str, reason: &str) -> DeviceRollout {
    rollout(json!({}), json!({"conditions": conditions(type_, reason)}))
}

#[test]
fn whoever_waits_is_told_of_the_end_and_of_what_only_a_person_can_change() {
    let message = || "3 of 9".to_owned();
    let judged = |type_: &str, reason: &str| judge(&with(type_, reason), Some(&rollout_with(type_, reason)));
    assert_eq!(judged("Ready", "Complete"), Verdict::Complete(message()));
    assert_eq!(judged("Stalled", "DevicesFailed"), Verdict::Failed(message()));
    assert_eq!(judged("Reconciling", "Soaking"), Verdict::Going(message()));
    for reason in ["WaitingForApproval", "Paused", "StepEmpty"] {
        assert_eq!(judged("Reconciling", reason), Verdict::Person(message()));
    }
    assert_eq!(judge(&with("Ready", "NoDevices"), None), Verdict::Complete(message()));
    let broken = judge(&with("Stalled", "FirmwareNotFound"), Some(&rollout_with("Ready", "Complete")));
    assert_eq!(broken, Verdict::Failed(message()), "no rollout is made of that");
}

#[test]
fn an_end_is_one_that_was_looked_at_since_anybody_changed_anything() {
    let ends = [("Ready", "Complete"), ("Stalled", "DevicesFailed"), ("Reconciling", "WaitingForApproval")];
    for (type_, reason) in ends {
        let (group, seen) = (with(type_, reason), rollout_with(type_, reason));
        let mut changed = group.clone();
        changed.metadata.generation = Some(3);
        assert!(matches!(judge(&changed, Some(&seen)), Verdict::Going(_)), "{reason}: of the group before");
        let mut told = seen.clone();
        told.metadata.generation = Some(2);
        assert!(matches!(judge(&group, Some(&told)), Verdict::Going(_)), "{reason}: of the rollout before");
        let other = rollout_with("Reconciling", "RollingBack");
        assert!(matches!(judge(&group, Some(&other)), Verdict::Going(_)), "{reason}: the rollout goes on");
    }
}

#[test]
fn a_line_is_printed_when_something_has_changed_and_each_failure_once() {
    let failed =
        json!({"failures": [{"device": "sw-1", "reason": "TimedOut", "message": "the time of the try is over"}]});
    let failed = rollout(json!({"firmware": {"name": "a", "version": "5.2.1", "images": []}}), failed);
    let mut said = Said::default();
    let going = Verdict::Going("3 of 9".into());
    let lines = said.news(&group(), Some(&failed), &going);
    assert_eq!(lines, ["access-3: 5.2.1", "sw-1 failed (TimedOut): the time of the try is over", "3 of 9"]);
    assert!(said.news(&group(), Some(&failed), &going).is_empty());
    assert_eq!(said.news(&group(), Some(&failed), &Verdict::Going("4 of 9".into())), ["4 of 9"]);
}
