//! What is written, when, and what waits for it: also while the API server is down.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Phase, Reason, SessionRecord};

use crate::world::{Answers, World, info, mins, secs};

#[test]
fn the_phase_is_acknowledged_before_the_first_six() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.pass(secs(20));
    assert_eq!(world.told(link), []);
    world.write_is_answered();
    assert_eq!((world.phase(), world.told(link)), (Some(Phase::Restarting), vec![6]));
}

#[test]
fn the_phase_is_acknowledged_before_the_first_eight() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.firmware = None);
    world.api_answers = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    world.pass(secs(20));
    assert_eq!(world.told(link), [4]);
    world.write_is_answered();
    assert_eq!((world.phase(), world.told(link)), (Some(Phase::Applying), vec![8]));
}

#[test]
fn after_six_the_phase_before_eight_is_on_record_already() {
    let (mut world, link) = World::downloading_profile();
    world.written();
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.written()), (vec![8], vec![]));
}

#[test]
fn api_down_means_that_the_restart_waits() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Not;
    world.says_five(link, DownloadResult::Verified);
    world.pass(secs(45));
    assert_eq!((world.told(link), world.phase()), (vec![], None));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.told(link), [6]);
}

#[test]
fn a_phase_that_was_written_without_an_answer_is_not_written_twice() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.write_is_done_but_not_answered();
    assert_eq!((world.phase(), world.told(link)), (Some(Phase::Restarting), vec![]));
    // It is tried again, on what was seen before: the answer is a conflict, and the view says that it is there.
    world.write_is_answered();
    assert_eq!((world.written().len(), world.told(link)), (1, vec![6]));
}

#[test]
fn a_device_that_was_lost_between_the_phase_and_its_six_is_taken_on() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.phase(), Some(Phase::Restarting));
    world.pass(mins(2));
    // We know that no 6 was sent.
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
}

#[test]
fn nothing_is_sent_while_the_end_of_a_try_is_not_written() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (true, true));
    world.api_answers = Answers::Not;
    world.says_five(link, DownloadResult::CrcMismatch);
    world.says_one(link, info("1.0"));
    world.pass(mins(3));
    assert_eq!((world.told(link), world.end()), (vec![3], None));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.told(link), world.end()), (vec![10], Some(Reason::CrcMismatch)));
}

#[test]
fn nothing_is_sent_for_a_try_whose_late_result_is_not_written() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    world.api_answers = Answers::Later;
    world.says_nine(link, ExecutionResult::Success);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.end()), (vec![], None));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::Upgraded)));
}

#[test]
fn the_end_of_a_try_and_what_the_device_says_survive_an_outage_and_a_disconnect() {
    let (mut world, link) = World::applying();
    world.api_answers = Answers::Not;
    world.says_nine(link, ExecutionResult::Success);
    world.pass(mins(1));
    world.drops(link);
    world.pass(mins(30));
    assert_eq!(world.end(), None);
    world.written();
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    // All of it in one write.
    let [record] = world.written().try_into().unwrap();
    assert_eq!(record.info, Some(info("2.0")));
    assert_eq!(record.end.unwrap().reason, Reason::Upgraded);
    assert_eq!(world.api.status.applied.as_deref(), Some("B"));
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
}

#[test]
fn the_end_of_a_try_is_written_once_although_its_answer_was_lost() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::CrcMismatch);
    world.write_is_done_but_not_answered();
    world.write_is_answered();
    assert_eq!((world.written().len(), world.write.is_none()), (1, true));
}

#[test]
fn an_end_that_the_controller_has_told_meanwhile_is_not_ours_to_write() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::CrcMismatch);
    world.change_unseen(|status| status.outcome = Some(1));
    world.write_is_answered();
    assert_eq!((world.written(), world.end(), world.state()), (vec![], None, "Idle"));
}

#[test]
fn a_conflict_with_another_writer_only_delays() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.change_unseen(|status| status.applied = Some("A".to_owned()));
    world.write_is_answered();
    assert_eq!(world.told(link), []);
    world.write_is_answered();
    assert_eq!(world.told(link), [6]);
}

#[test]
fn a_reconnect_that_changes_nothing_writes_nothing() {
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.pass(secs(4));
    world.calls(info("1.0"));
    world.pass(mins(10));
    assert_eq!(world.written(), []);
}

#[test]
fn a_reconnect_that_changes_something_writes_just_that() {
    let (mut world, link) = World::waiting();
    world.drops(link);
    let link = world.calls_from("192.0.2.99", info("1.0"));
    let [moved] = world.written().try_into().unwrap();
    assert_eq!(moved.session, SessionRecord::Claim { address: "192.0.2.99".to_owned() });
    assert_eq!(moved.info, None);
    world.says_one(link, info("1.1"));
    let [changed] = world.written().try_into().unwrap();
    assert_eq!((changed.session, changed.info), (SessionRecord::Unchanged, Some(info("1.1"))));
}

#[test]
fn a_drop_is_written_after_a_few_seconds() {
    let (mut world, link) = World::waiting();
    world.pass(secs(100));
    world.drops(link);
    let dropped = world.now;
    world.pass(secs(4));
    assert_eq!(world.written(), []);
    world.pass(secs(1));
    let [release] = world.written().try_into().unwrap();
    assert_eq!(release.session, SessionRecord::Release { last_seen: dropped });
    assert_eq!(world.state(), "over");
}

#[test]
fn a_drop_takes_along_what_could_not_be_written_before() {
    let (mut world, link) = World::waiting();
    world.api_answers = Answers::Later;
    world.says_one(link, info("1.1"));
    world.drops(link);
    world.write_is_not_answered();
    world.pass(secs(5));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((&world.api.status.holder, &world.api.status.reported), (&None, &Some(info("1.1"))));
}

#[test]
fn a_drop_that_the_upgrade_itself_causes_is_not_written_before_the_try_ends() {
    let (mut world, link) = World::applying();
    world.written();
    world.drops(link);
    world.pass(mins(5));
    assert_eq!(world.written(), []);
    // Nor the address from which it comes back.
    let link = world.calls_from("192.0.2.99", info("2.0"));
    assert_eq!(world.written(), []);
    world.says_nine(link, ExecutionResult::Success);
    let [end] = world.written().try_into().unwrap();
    assert_eq!(end.session, SessionRecord::Claim { address: "192.0.2.99".to_owned() });
    assert_eq!((end.info, end.end.unwrap().reason), (Some(info("2.0")), Reason::Upgraded));
}

#[test]
fn a_push_that_failed_leaves_unknown_what_is_in_force() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("A".to_owned()));
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!((world.end(), &world.api.status.applied), (Some(Reason::ApplyFailed), &None));
    // The way back is a push, and not a wrong `AlreadyCurrent`.
    world.grant_as(2, |target| (target.firmware, target.config) = (None, Some("A".to_owned())));
    assert_eq!(world.told(link), [4, 8, 4]);
}

#[test]
fn a_push_whose_result_never_came_leaves_unknown_what_is_in_force() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("A".to_owned()));
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(15));
    assert_eq!((world.end(), &world.api.status.applied), (Some(Reason::TimedOut), &None));
}

#[test]
fn a_try_without_a_push_leaves_what_is_in_force() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("A".to_owned()));
    world.grant(1);
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.calls(info("1.0"));
    assert_eq!((world.end(), world.api.status.applied.as_deref()), (Some(Reason::CameBackUnchanged), Some("A")));
}

#[test]
fn a_try_of_which_nobody_could_say_how_it_ended_leaves_unknown_what_is_in_force() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("A".to_owned()));
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    world.bridge_restarts();
    world.pass(mins(15));
    world.change(|status| status.outcome = Some(1));
    let link = world.calls(info("1.0"));
    world.grant_as(2, |target| (target.firmware, target.config) = (None, Some("A".to_owned())));
    // A is on record, and a push of B was under way when the bridge died.
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), &world.api.status.applied), (vec![8], &None));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.api.status.applied.as_deref(), Some("A"));
}

#[test]
fn what_was_left_in_doubt_stays_unknown_although_the_next_try_ends_without_a_push() {
    let in_doubt = || {
        let (mut world, link) = World::waiting();
        world.change(|status| status.applied = Some("A".to_owned()));
        world.grant_as(1, |target| target.firmware = None);
        world.says_seven(link, DownloadResult::Verified);
        world.bridge_restarts();
        world.pass(mins(15));
        world.change(|status| status.outcome = Some(1));
        let link = world.calls(info("1.0"));
        (world, link)
    };
    let (mut world, link) = in_doubt();
    world.grant(2);
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!((world.end(), &world.api.status.applied), (Some(Reason::CrcMismatch), &None));
    let (mut world, _) = in_doubt();
    world.grant_as(2, |target| (target.firmware, target.config) = (None, None));
    assert_eq!((world.end(), &world.api.status.applied), (Some(Reason::AlreadyCurrent), &None));
}
