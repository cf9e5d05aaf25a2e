//! Targets that go no further than a download, until they say otherwise.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Counted, Phase, Reason, SessionRecord, Stage, Transferred};

use crate::api::OTHER;
use crate::world::{Answers, World, info, mins, secs, telling};

#[test]
fn a_download_alone_is_held_after_five_and_written_once() {
    let (mut world, link) = World::held();
    let [held] = world.written().try_into().unwrap();
    assert_eq!((held.progress, held.end, held.session), (Some((1, Phase::Downloaded)), None, SessionRecord::Unchanged));
    // It has no end of its own, and is no try that has begun.
    world.pass(mins(3 * 24 * 60));
    assert_eq!((world.told(link), world.written(), world.end(), world.closed_for(link)), (vec![], vec![], None, None));
    assert_eq!(world.session.as_ref().unwrap().deadline(), None);
    assert_eq!(world.session.as_ref().unwrap().connection().map(|(_, outstanding)| outstanding), Some(false));
}

#[test]
fn a_download_of_the_configuration_alone_is_held_after_seven() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| (target.firmware, target.stage) = (None, Stage::Download));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase(), world.state()), (vec![4], Some(Phase::Downloaded), "Held"));
    world.pass(mins(60));
    world.activate();
    assert_eq!((world.told(link), world.phase()), (vec![8], Some(Phase::Applying)));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.end(), world.written().len()), (Some(Reason::Upgraded), 3));
}

#[test]
fn of_firmware_and_configuration_the_firmware_is_fetched_ahead() {
    let (mut world, link) = World::held();
    world.pass(mins(60));
    world.activate();
    assert_eq!((world.told(link), world.phase()), (vec![6], Some(Phase::Restarting)));
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.told(link), world.end()), (vec![8], Some(Reason::Upgraded)));
    assert_eq!(world.written().len(), 3);
}

#[test]
fn where_the_firmware_runs_already_the_configuration_is_fetched_ahead() {
    let mut world = World::new();
    let link = world.calls(info("2.0"));
    world.grant_ahead(1);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![4], Some(Phase::Downloaded)));
}

#[test]
fn a_device_that_has_it_all_needs_no_download() {
    let mut world = World::new();
    let link = world.calls(telling("2.0", "B"));
    world.grant_ahead(1);
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::AlreadyCurrent)));
}

#[test]
fn a_held_device_that_turns_out_to_run_it_all_is_done() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| (target.config, target.stage) = (None, Stage::Download));
    world.says_five(link, DownloadResult::Verified);
    // It was switched off and on, which boots what it had fetched.
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::AlreadyCurrent)));
}

#[test]
fn a_download_that_fails_ends_the_try_as_ever() {
    for (result, reason) in
        [(DownloadResult::CrcMismatch, Reason::CrcMismatch), (DownloadResult::Failed(2), Reason::DownloadFailed)]
    {
        let (mut world, link) = World::waiting();
        world.grant_as(1, |target| (target.stage, target.logs) = (Stage::Download, (false, true)));
        world.says_five(link, result);
        // With its log, where that is wanted.
        assert_eq!((world.end(), world.told(link)), (Some(reason), vec![3, 10]));
    }
    let (mut world, link) = World::waiting();
    world.grant_ahead(1);
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.accounting_says(Transferred::NotWholly);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::NotTransferred), vec![3]));
}

#[test]
fn a_download_is_bounded_by_its_target() {
    let (mut world, link) = World::waiting();
    world.grant_ahead(1);
    world.pass(mins(15));
    assert_eq!((world.told(link), world.end()), (vec![3], Some(Reason::TimedOut)));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    // And its first command by `startBy`.
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.grant_ahead(1);
    world.pass(secs(61));
    let link = world.calls(info("1.0"));
    world.pass(mins(14));
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::TimedOut)));
}

#[test]
fn a_held_download_that_could_not_be_written_yet_is_no_less_done() {
    let (mut world, link) = World::waiting();
    world.grant_ahead(1);
    world.api_answers = Answers::Not;
    world.says_five(link, DownloadResult::Verified);
    world.pass(mins(20));
    assert_eq!((world.phase(), world.end()), (None, None));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.phase(), world.end(), world.state()), (Some(Phase::Downloaded), None, "Held"));
    world.activate();
    assert_eq!(world.told(link), [3, 6]);
}

#[test]
fn after_a_lost_connection_nothing_is_written_or_fetched_again_before_it_goes_on() {
    let (mut world, link) = World::held();
    world.written();
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(mins(60));
    assert_eq!((world.told(link), world.written(), world.end()), (vec![], vec![], None));
    world.activate();
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![6], Some(Phase::Restarting)));
}

#[test]
fn a_held_device_that_is_away_for_long_is_disconnected_and_goes_on_when_it_is_back() {
    let (mut world, link) = World::held();
    world.written();
    world.drops(link);
    world.pass(mins(24 * 60));
    let [release] = world.written().try_into().unwrap();
    assert!(matches!(release.session, SessionRecord::Release { .. }));
    assert_eq!((release.progress, world.state(), world.end()), (None, "over", None));
    let link = world.calls(info("1.0"));
    world.pass(secs(10));
    assert_eq!(world.told(link), []);
    world.activate();
    assert_eq!(world.told(link), [3]);
}

#[test]
fn after_a_restart_of_the_bridge_it_begins_again_when_it_goes_on() {
    let (mut world, _) = World::held();
    world.written();
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.pass(mins(60));
    assert_eq!((world.told(link), world.state()), (vec![], "Idle"));
    let [claim] = world.written().try_into().unwrap();
    assert_eq!((claim.progress, claim.end), (None, None));
    world.activate();
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
}

#[test]
fn what_begins_again_begins_within_the_new_grant() {
    let (mut world, link) = World::held();
    world.drops(link);
    world.activate();
    world.pass(secs(61));
    let link = world.calls(info("1.0"));
    world.pass(mins(13));
    assert_eq!((world.told(link), world.end()), (vec![], None));
    world.pass(mins(1));
    assert_eq!(world.end(), Some(Reason::TimedOut));
}

#[test]
fn a_restart_that_could_not_be_announced_within_the_grant_does_not_happen() {
    let (mut world, link) = World::held();
    world.api_answers = Answers::Not;
    world.activate();
    world.pass(secs(90));
    world.api_answers = Answers::Promptly;
    // It waits as any other that could not begin.
    assert_eq!((world.told(link), world.phase(), world.end()), (vec![], Some(Phase::Downloaded), None));
    world.pass(mins(14));
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::TimedOut)));
}

#[test]
fn a_restart_that_was_acknowledged_after_the_grant_does_not_happen() {
    let (mut world, link) = World::held();
    world.api_answers = Answers::Later;
    world.activate();
    world.pass(secs(61));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::TimedOut)));
}

#[test]
fn the_phase_is_acknowledged_before_a_held_device_restarts() {
    let (mut world, link) = World::held();
    world.api_answers = Answers::Later;
    world.activate();
    assert_eq!(world.told(link), []);
    world.write_is_answered();
    assert_eq!(world.told(link), [6]);
}

#[test]
fn a_target_that_goes_on_in_the_middle_of_its_download_needs_no_second_one() {
    let (mut world, link) = World::waiting();
    world.grant_ahead(1);
    world.pass(mins(10));
    world.activate();
    // The download was granted until then; what comes of it is the new grant's.
    world.pass(mins(4));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![3, 6], Some(Phase::Restarting)));

    let (mut world, link) = World::waiting();
    world.grant_ahead(1);
    world.pass(mins(10));
    world.activate();
    world.pass(mins(5));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_held_download_is_superseded_or_withdrawn_at_once() {
    let (mut world, link) = World::held();
    world.grant_as(2, |target| (target.firmware, target.stage) = (Some("3.0".to_owned()), Stage::Download));
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.state()), (vec![], "Held"));

    let (mut world, link) = World::held();
    world.withdraw();
    assert_eq!((world.told(link), world.state()), (vec![], "Idle"));
    // What was held is of no account for what comes then, although it is the same.
    world.grant(2);
    assert_eq!(world.told(link), [3]);
}

#[test]
fn what_is_known_to_be_in_force_stays_known_where_a_held_download_is_superseded() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("A".to_owned()));
    world.grant_ahead(1);
    world.says_five(link, DownloadResult::Verified);
    world.grant_as(2, |target| (target.firmware, target.config) = (None, Some("A".to_owned())));
    assert_eq!((world.end(), world.api.status.applied.as_deref()), (Some(Reason::AlreadyCurrent), Some("A")));
}

#[test]
fn a_held_device_that_says_something_else_is_not_restarted() {
    let (mut world, link) = World::held();
    world.says_one(link, info("1.5"));
    assert_eq!(world.state(), "Idle");
    world.activate();
    assert_eq!(world.told(link), []);
    // And where it says again what it said, it begins anew.
    world.says_one(link, info("1.0"));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_second_five_of_a_held_device_is_one_that_nothing_asked_for() {
    let (mut world, link) = World::held();
    world.says_five(link, DownloadResult::CrcMismatch);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.counted, [Counted::Unasked(5), Counted::Unasked(9)]);
    world.activate();
    assert_eq!(world.told(link), [6]);
}

#[test]
fn a_held_device_that_becomes_illegal_is_told_two() {
    let (mut world, link) = World::held();
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), [2]);
}

#[test]
fn a_held_device_that_another_bridge_claims_is_asked_for_and_begins_again() {
    let (mut world, link) = World::held();
    world.other_claims(OTHER);
    assert_eq!((world.state(), world.closed_for(link)), ("Contending", None));
    world.change(|status| status.holder = None);
    world.pass(secs(10));
    world.activate();
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_newcomer_that_takes_the_place_of_a_held_device_begins_again() {
    let (mut world, held) = World::held();
    let link = world.calls(info("1.0"));
    world.drop_link(held, false);
    world.activate();
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_target_that_goes_back_to_a_download_restarts_nobody() {
    let (mut world, link) = World::held();
    world.api_answers = Answers::Later;
    world.activate();
    world.change(|status| status.target.as_mut().unwrap().stage = Stage::Download);
    world.write_is_answered();
    world.api_answers = Answers::Promptly;
    world.see();
    assert_eq!((world.told(link), world.phase(), world.state()), (vec![], Some(Phase::Downloaded), "Held"));
}
