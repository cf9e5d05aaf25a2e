//! A configuration that is put into force at a time (mode 1).

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::message::UpgradeAt;
use fettle_protocol::session::{Phase, Reason, Scheduled, SessionRecord, Stage};

use crate::world::{Answers, Link, World, clock, info, mins, secs, telling};

/// What 8 said, as the last thing that was said.
fn eight(world: &World, link: Link) -> UpgradeAt {
    match world.wires[&link].inbox.last() {
        Some(ServerMessage::UpgradeProfile(at)) => *at,
        other => panic!("{other:?} is no 8"),
    }
}

/// It is done, and that costs no more than it has to.
fn assert_upgraded(world: &mut World, link: Link, writes: usize) {
    assert_eq!((world.end(), world.told(link)), (Some(Reason::Upgraded), vec![]));
    assert_eq!(world.api.status.applied.as_deref(), Some("B"));
    assert_eq!(world.written().len(), writes);
}

#[test]
fn eight_names_the_time_by_the_clock_of_the_device_once_that_is_on_record() {
    let (mut world, link) = World::waiting();
    let at = world.now + mins(480);
    world.grant_as(1, |target| {
        target.firmware = None;
        target.scheduled = Some(Scheduled { at, local: Some(clock(at + mins(60))) });
        target.until = at + mins(15);
    });
    world.api_answers = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4]);
    world.write_is_answered();
    assert_eq!((world.told(link), world.phase()), (vec![8], Some(Phase::Scheduled)));
    assert_eq!(eight(&world, link), UpgradeAt::Time("2026-11-20T21:00:00".parse().unwrap()));
    let [begun] = world.written().try_into().unwrap();
    assert_eq!((begun.progress, begun.end), (Some((1, Phase::Scheduled)), None));
}

#[test]
fn a_device_that_waits_for_its_time_is_left_alone() {
    let (mut world, link) = World::scheduled();
    world.written();
    assert_eq!(world.session.as_ref().unwrap().connection().map(|(_, outstanding)| outstanding), Some(false));
    // No answer within two minutes is no fault: a device may answer at its time alone.
    world.pass(mins(479));
    assert_eq!((world.told(link), world.closed_for(link), world.end()), (vec![], None, None));
    assert_eq!(world.written(), []);
}

#[test]
fn nine_at_the_time_means_applied() {
    let (mut world, link) = World::scheduled();
    world.pass(mins(480));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 2);
}

#[test]
fn nine_before_the_time_means_accepted_and_a_second_one_applied() {
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.end(), world.state(), world.told(link)), (None, "Scheduled", vec![]));
    world.pass(mins(480) - secs(1));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), None);
    world.pass(secs(1));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 2);
}

#[test]
fn accepted_and_connected_five_minutes_after_the_time_means_applied() {
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    world.pass(mins(485) - secs(1));
    assert_eq!(world.end(), None);
    world.pass(secs(1));
    assert_upgraded(&mut world, link, 2);
    assert_eq!(world.closed_for(link), None);
}

#[test]
fn accepted_and_away_means_applied_when_the_device_is_back_and_has_had_time_to_say_otherwise() {
    for (result, reason) in [(None, Reason::Upgraded), (Some(ExecutionResult::Failure(1)), Reason::ApplyFailed)] {
        let (mut world, link) = World::scheduled();
        world.says_nine(link, ExecutionResult::Success);
        world.pass(mins(470));
        world.drops(link);
        world.pass(mins(20));
        let link = world.calls(info("1.0"));
        assert_eq!(world.end(), None);
        if let Some(result) = result {
            world.says_nine(link, result);
        }
        world.pass(secs(5));
        assert_eq!((world.end(), world.told(link)), (Some(reason), vec![]));
    }
}

#[test]
fn accepted_and_gone_is_timed_out() {
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    // In the middle of it: as with any push the drop goes with the end of the try.
    world.pass(mins(480));
    world.drops(link);
    world.written();
    world.pass(mins(15) - secs(1));
    assert_eq!((world.written(), world.end()), (vec![], None));
    world.pass(secs(1));
    assert_eq!((world.end(), &world.api.status.holder), (Some(Reason::TimedOut), &None));
    assert_eq!(world.api.status.applied, None);
}

#[test]
fn nine_that_says_no_ends_the_try_at_whatever_time() {
    for wait in [mins(0), mins(240), mins(481)] {
        let (mut world, link) = World::scheduled();
        world.change(|status| status.applied = Some("A".to_owned()));
        world.pass(wait);
        world.says_nine(link, ExecutionResult::Failure(1));
        assert_eq!((world.end(), world.told(link), world.closed_for(link)), (Some(Reason::ApplyFailed), vec![], None));
        // Whatever the device makes of its time then.
        assert_eq!(world.api.status.applied, None);
    }
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!(world.end(), Some(Reason::ApplyFailed));
}

#[test]
fn a_lost_result_closes_the_connection_and_is_followed_by_one_more_push_at_once() {
    let (mut world, link) = World::scheduled();
    world.pass(mins(485));
    assert_eq!((world.told(link), world.closed_for(link)), (vec![], Some(Reason::DeadlineExceeded)));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), eight(&world, link)), (vec![8], UpgradeAt::Immediately));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 2);
}

#[test]
fn a_result_that_comes_after_the_new_connection_makes_the_push_needless() {
    let (mut world, link) = World::scheduled();
    world.pass(mins(485));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    let link = world.calls(info("1.0"));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 2);
}

#[test]
fn a_result_lost_twice_counts_as_applied_with_that_reason() {
    let (mut world, _) = World::scheduled();
    world.pass(mins(485));
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
fn a_device_that_reports_the_configuration_has_done_it() {
    let mut world = World::new();
    let link = world.calls(telling("1.0", "A"));
    world.grant_scheduled(1, mins(480));
    world.says_seven(link, DownloadResult::Verified);
    world.written();
    assert_eq!(world.told(link), [4, 8]);
    world.pass(mins(480));
    world.says_one(link, telling("1.0", "B"));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 1);
    // Also where 9 never comes, or comes to nobody.
    let mut world = World::new();
    let link = world.calls(telling("1.0", "A"));
    world.grant_scheduled(1, mins(480));
    world.says_seven(link, DownloadResult::Verified);
    world.pass(mins(480));
    world.says_one(link, telling("1.0", "B"));
    world.pass(mins(5));
    assert_eq!((world.end(), world.closed_for(link)), (Some(Reason::Upgraded), None));
}

#[test]
fn a_device_that_accepted_and_reports_something_else_is_told_once_more() {
    let mut world = World::new();
    let link = world.calls(telling("1.0", "A"));
    world.grant_scheduled(1, mins(480));
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Success);
    world.pass(mins(485));
    assert_eq!((world.told(link), world.end()), (vec![4, 8, 4], None));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(eight(&world, link), UpgradeAt::Immediately);
}

#[test]
fn it_is_not_pushed_again_after_a_reconnect() {
    let (mut world, mut link) = World::scheduled();
    for _ in 0..3 {
        world.drops(link);
        world.pass(secs(1));
        link = world.calls(info("1.0"));
        world.pass(mins(60));
        assert_eq!((world.told(link), world.end(), world.state()), (vec![], None, "Scheduled"));
    }
    world.pass(mins(299));
    world.drops(link);
    // It comes back from putting it into force.
    world.pass(mins(1));
    let link = world.calls(info("1.0"));
    world.says_nine(link, ExecutionResult::Success);
    // The last drop was one of a device that waits, and long.
    assert_upgraded(&mut world, link, 4);
}

#[test]
fn a_drop_before_the_time_is_written_and_the_try_goes_on() {
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    world.written();
    world.drops(link);
    let dropped = world.now;
    world.pass(mins(120));
    let [release] = world.written().try_into().unwrap();
    assert_eq!((release.session, release.drops), (SessionRecord::Release { last_seen: dropped }, None));
    let link = world.calls_from("192.0.2.99", info("1.0"));
    let [claim] = world.written().try_into().unwrap();
    assert_eq!(claim.session, SessionRecord::Claim { address: "192.0.2.99".to_owned() });
    // That it had accepted is not forgotten.
    world.pass(mins(365));
    assert_upgraded(&mut world, link, 1);
}

#[test]
fn where_the_device_is_found_is_written_while_it_waits() {
    let (mut world, link) = World::scheduled();
    world.written();
    world.drops(link);
    world.calls_from("192.0.2.99", info("1.0"));
    assert_eq!(world.written().len(), 1);
}

#[test]
fn a_device_that_is_away_from_before_its_time_to_the_end_is_left_to_the_controller() {
    let (mut world, link) = World::scheduled();
    world.drops(link);
    world.pass(mins(500));
    assert_eq!((world.end(), &world.api.status.holder, world.state()), (None, &None, "over"));
}

#[test]
fn it_is_not_pushed_again_after_a_restart_of_the_bridge() {
    // The record says it all, before the time,
    let (mut world, _) = World::scheduled();
    world.bridge_restarts();
    world.pass(secs(10));
    let link = world.calls(info("1.0"));
    world.pass(mins(470));
    assert_eq!((world.told(link), world.state()), (vec![], "Scheduled"));
    world.pass(mins(10));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 3);
    // and after it.
    let (mut world, _) = World::scheduled();
    world.bridge_restarts();
    world.pass(mins(484));
    let link = world.calls(info("1.0"));
    world.says_nine(link, ExecutionResult::Success);
    assert_upgraded(&mut world, link, 3);
}

#[test]
fn after_a_restart_of_the_bridge_a_result_that_never_comes_is_followed_by_one_more_push() {
    // Whether the device had accepted died with the bridge.
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.pass(mins(484));
    assert_eq!(world.told(link), []);
    world.pass(mins(1));
    assert_eq!((world.told(link), world.closed_for(link)), (vec![4], None));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), eight(&world, link)), (vec![8], UpgradeAt::Immediately));
}

#[test]
fn killed_between_the_phase_and_its_eight_it_is_pushed_after_the_time() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    world.api_answers = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    world.write_is_done_but_not_answered();
    world.bridge_restarts();
    world.api_answers = Answers::Promptly;
    let link = world.calls(info("1.0"));
    world.pass(mins(485));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn a_connection_that_is_lost_between_the_phase_and_its_eight_is_followed_by_another_four() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    world.api_answers = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    world.drops(link);
    world.write_is_answered();
    world.api_answers = Answers::Promptly;
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), eight(&world, link)), (vec![8], UpgradeAt::Time(clock(world.now + mins(480)))));
}

#[test]
fn a_time_that_has_come_by_then_is_now() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(5));
    world.pass(mins(6));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((eight(&world, link), world.phase()), (UpgradeAt::Immediately, Some(Phase::Applying)));
    world.pass(mins(2));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
}

#[test]
fn the_try_ends_with_its_time_also_where_nothing_was_said() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    world.change(|status| {
        let target = status.target.as_mut().unwrap();
        target.until = target.scheduled.unwrap().at + mins(3);
    });
    world.says_seven(link, DownloadResult::Verified);
    world.pass(mins(483));
    assert_eq!((world.end(), world.closed_for(link)), (Some(Reason::TimedOut), Some(Reason::DeadlineExceeded)));
}

#[test]
fn a_device_that_vanishes_in_its_download_has_as_long_as_it_would_have_from_its_time_on() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    assert_eq!(world.told(link), [4]);
    world.pass(mins(15));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));
    // It has hours to begin again.
    world.pass(mins(60));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn another_time_or_configuration_is_told() {
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    // The rules of `World` take the second 8 for one too many.
    world.scheduled.clear();
    let later = world.now + mins(600);
    world.change(|status| {
        let target = status.target.as_mut().unwrap();
        (target.scheduled, target.until) = (Some(Scheduled { at: later, local: Some(clock(later)) }), later + mins(15));
    });
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), eight(&world, link)), (vec![8], UpgradeAt::Time(clock(later))));
    // That the former one was accepted says nothing of this one.
    world.pass(mins(605));
    assert_eq!((world.end(), world.closed_for(link)), (None, Some(Reason::DeadlineExceeded)));
}

#[test]
fn a_time_that_is_none_ends_the_try_before_anything_is_sent() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    let (mut other, _) = World::waiting();
    other.grant_as(1, |target| {
        target.firmware = None;
        target.scheduled = Some(Scheduled { at: target.until, local: None });
    });
    assert_eq!((other.end(), other.written().len()), (Some(Reason::SourceUnavailable), 1));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn a_device_that_says_something_else_meanwhile_gets_no_further_command() {
    let (mut world, link) = World::scheduled();
    world.drops(link);
    let link = world.calls(info("1.5"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::UnexpectedVersion), vec![]));
}

#[test]
fn nothing_goes_to_a_device_whose_eight_for_a_time_nobody_waits_for_any_more() {
    // The Device was replaced: a new one, of whose target nothing is known.
    let (mut world, link) = World::scheduled();
    world.change(|status| (status.target, status.upgrade) = (None, None));
    assert_eq!(world.closed_for(link), Some(Reason::Replaced));
    world.grant_as(1, |target| target.firmware = None);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    // One that has accepted has answered, and is free.
    let (mut world, link) = World::scheduled();
    world.says_nine(link, ExecutionResult::Success);
    world.change(|status| (status.target, status.upgrade) = (None, None));
    world.grant_as(2, |target| target.firmware = None);
    assert_eq!((world.told(link), world.closed_for(link)), (vec![4], None));
}

#[test]
fn a_device_that_waits_for_its_time_is_seen_through_although_it_has_become_illegal() {
    let (mut world, link) = World::scheduled();
    world.change(|status| status.legal = false);
    world.pass(mins(480));
    assert_eq!(world.told(link), []);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::Upgraded), vec![2]));
}

#[test]
fn the_log_is_asked_for_when_the_configuration_is_in_force() {
    let (mut world, link) = World::waiting();
    world.grant_scheduled(1, mins(480));
    world.change(|status| status.target.as_mut().unwrap().logs = (true, true));
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.told(link), [4, 8]);
    world.pass(mins(480));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.told(link), [10]);
}

#[test]
fn what_was_fetched_ahead_is_scheduled_when_it_goes_on() {
    let (mut world, link) = World::waiting();
    let at = world.now + mins(480);
    world.grant_scheduled(1, mins(480));
    world.change(|status| status.target = None);
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    world.grant_as(2, |target| {
        (target.firmware, target.stage) = (None, Stage::Download);
        target.scheduled = Some(Scheduled { at, local: Some(clock(at)) });
    });
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![4], Some(Phase::Downloaded)));
    world.pass(mins(60));
    world.activate();
    assert_eq!((world.told(link), world.phase()), (vec![8], Some(Phase::Scheduled)));
    assert_eq!(eight(&world, link), UpgradeAt::Time(clock(at)));
}

#[test]
fn after_the_firmware_of_the_same_target_the_time_is_on_record_before_eight() {
    let (mut world, link) = World::waiting();
    let at = world.now + mins(60);
    world.grant_as(1, |target| {
        target.scheduled = Some(Scheduled { at, local: Some(clock(at)) });
        target.until = at + mins(15);
    });
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![4, 8], Some(Phase::Scheduled)));
    world.pass(mins(60));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
}
