//! The bridge dies, at every step, and goes on from what the API and the device say.

use std::collections::BTreeSet;

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{EndedBy, Phase, Reason, Record, SessionRecord};

use crate::world::{Answers, World, info, mins, secs};

#[test]
fn a_device_that_comes_back_costs_one_write_and_is_told_nothing() {
    let (mut world, _) = World::waiting();
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    let [claim] = world.written().try_into().unwrap();
    assert!(matches!(claim.session, SessionRecord::Claim { .. }));
    assert_eq!((claim.info, world.told(link)), (None, vec![]));
}

#[test]
fn a_device_that_waited_without_a_target_does_not_settle() {
    let (mut world, _) = World::waiting();
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.grant(1);
    assert_eq!(world.told(link), [3]);
}

#[test]
fn killed_during_the_download_it_begins_again_after_settle_where_a_first_command_may_go() {
    let (mut world, _) = World::downloading();
    world.bridge_restarts();
    world.pass(secs(10));
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), []);
    // The device still answers the former command.
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), []);
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);

    // Whether there was a first command is not known: after `startBy` there is none.
    let (mut world, _) = World::downloading();
    world.bridge_restarts();
    world.pass(mins(2));
    let link = world.calls(info("1.0"));
    world.pass(mins(13));
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::TimedOut)));
}

#[test]
fn killed_before_the_phase_is_written_it_begins_again() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.bridge_restarts();
    world.api_answers = Answers::Promptly;
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn killed_between_the_phase_and_its_six_it_does_not_send_one() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    let (record, base) = world.write.clone().unwrap();
    world.api.write(world.us, &record, base).unwrap();
    world.bridge_restarts();
    world.api_answers = Answers::Promptly;
    assert_eq!(world.phase(), Some(Phase::Restarting));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    // A flash is never done twice because somebody forgot.
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));
}

#[test]
fn killed_right_after_six_it_goes_on_with_what_the_device_reports() {
    for (version, end, told) in [
        ("2.0", None, vec![4]),
        ("1.0", Some(Reason::CameBackUnchanged), vec![]),
        ("3.0", Some(Reason::UnexpectedVersion), vec![]),
    ] {
        let (mut world, link) = World::downloading();
        world.says_five(link, DownloadResult::Verified);
        assert_eq!(world.told(link), [6]);
        world.bridge_restarts();
        world.pass(secs(90));
        let link = world.calls(info(version));
        world.pass(secs(5));
        assert_eq!((world.end(), world.told(link)), (end, told));
    }
}

#[test]
fn killed_during_the_download_of_the_profile_it_begins_again_with_four() {
    let (mut world, _) = World::downloading_profile();
    world.bridge_restarts();
    world.pass(mins(3));
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [8]);
}

#[test]
fn killed_after_eight_the_nine_still_answers_it() {
    // Firmware and configuration: the phase on record is `Restarting`.
    let (mut world, _) = World::applying();
    world.bridge_restarts();
    let link = world.calls(info("2.0"));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::Upgraded), vec![]));
    // The configuration alone: `Applying`.
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ApplyFailed), vec![]));
}

#[test]
fn killed_after_eight_there_is_one_more_push_and_no_third() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ResultLost), vec![]));
}

#[test]
fn a_nine_from_before_the_restart_of_the_device_answers_nothing() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.bridge_restarts();
    // Still on the old version: whatever this 9 is of, it is not of this target's 8.
    let link = world.calls(info("1.0"));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), None);
}

#[test]
fn a_bridge_that_ends_before_the_six_goes_out_says_so() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    let session = world.session.clone().unwrap();
    assert_eq!(session.parting(world.api.view(world.us)), None, "it is not on record that it was to restart");
    world.end_link(link, true, EndedBy::Bridge);
    let session = world.session.clone().unwrap();
    world.write_is_done_but_not_answered();
    let parting = session.parting(world.api.view(world.us)).unwrap();
    assert_eq!(parting, Record { progress: Some((1, Phase::RestartLost)), ..Record::default() });
    world.change(|status| status.upgrade.as_mut().unwrap().phase = Phase::RestartLost);
    world.bridge_restarts();
    world.api_answers = Answers::Promptly;
    world.write = None;
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.told(link), world.end()), (vec![3], None));
}

#[test]
fn a_bridge_that_ends_after_the_six_has_nothing_to_say_unless_it_was_lost() {
    for (acknowledged, lost) in [(true, None), (false, Some((1, Phase::RestartLost)))] {
        let (mut world, link) = World::downloading();
        world.says_five(link, DownloadResult::Verified);
        let parting = |world: &World| world.session.as_ref().unwrap().parting(world.api.view(world.us));
        assert_eq!((world.phase(), parting(&world)), (Some(Phase::Restarting), None), "what became of it is not known");
        world.end_link(link, acknowledged, EndedBy::Bridge);
        assert_eq!(parting(&world).and_then(|record| record.progress), lost);
    }
}

#[test]
fn an_end_that_was_not_written_is_found_out_again() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.api_answers = Answers::Later;
    world.calls(info("1.0"));
    world.bridge_restarts();
    world.api_answers = Answers::Promptly;
    world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.end(), Some(Reason::CameBackUnchanged));
}

#[test]
fn sessions_of_the_run_before_that_stayed_away_are_cleared_after_the_grace() {
    let (mut world, _) = World::waiting();
    world.bridge_restarts();
    world.pass(secs(60));
    assert!(world.api.status.holder.is_some());
    world.grace_is_over();
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
}

#[test]
fn a_device_that_began_under_the_run_before_is_left_to_the_controller() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.bridge_restarts();
    world.grace_is_over();
    world.pass(mins(20));
    assert_eq!((world.end(), world.state()), (None, "Away"));
    assert!(world.api.status.holder.is_some());
    world.change(|status| status.outcome = Some(1));
    world.pass(secs(5));
    assert_eq!((world.end(), &world.api.status.holder, world.state()), (None, &None, "over"));
}

#[test]
fn a_device_that_began_under_the_run_before_and_calls_too_late_is_timed_out() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.bridge_restarts();
    world.pass(mins(20));
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));
    assert_eq!(world.api.status.reported, Some(info("2.0")));
}

#[test]
fn a_device_that_was_dismissed_by_the_run_before_stays_dismissed_until_it_is_time_to_call_again() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("B".to_owned()));
    world.grant_as(1, |target| (target.firmware, target.done) = (None, true));
    assert_eq!(world.told(link), [2]);
    world.bridge_restarts();
    world.grace_is_over();
    world.pass(mins(8));
    assert!(world.api.status.holder.as_ref().is_some_and(|holder| holder.dismissed));
    world.pass(mins(1));
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
}

#[test]
fn numbers_of_commands_are_not_given_again() {
    let mut numbers = BTreeSet::new();
    let (mut world, mut link) = World::waiting();
    world.files_answer = Answers::Later;
    for id in 1..=17 {
        world.grant(id);
        assert!(numbers.insert(world.preparing.unwrap().number));
        if id % 3 == 0 {
            // The session is over, and another one begins.
            world.withdraw();
            world.drops(link);
            world.pass(secs(5));
            assert_eq!(world.state(), "over");
            link = world.calls(info("1.0"));
        }
        if id % 7 == 0 {
            world.bridge_restarts();
            world.pass(secs(1));
            link = world.calls(info("1.0"));
            world.pass(secs(5));
            assert!(numbers.insert(world.preparing.unwrap().number));
        }
    }
}
