//! When a command may go, and for how long it may be outstanding.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Counted, Reason, Transferred};
use jiff::Timestamp;

use crate::world::{Answers, World, info, mins, secs};

#[test]
fn no_first_command_goes_after_start_by() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    world.pass(secs(61));
    // It was ready too late.
    world.file_is_ready();
    assert_eq!((world.told(link), world.state()), (vec![], "Idle"));
    // It waits, as any other, and the try ends with its time.
    world.pass(mins(13));
    assert_eq!(world.end(), None);
    world.pass(mins(1));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));
}

#[test]
fn a_first_command_may_go_at_start_by() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    world.pass(secs(60));
    world.file_is_ready();
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_device_that_calls_after_start_by_gets_no_first_command() {
    let mut world = World::new();
    let link = world.calls(info("1.0"));
    world.drops(link);
    world.grant(1);
    world.pass(secs(61));
    let link = world.calls(info("1.0"));
    world.pass(mins(5));
    assert_eq!((world.told(link), world.end()), (vec![], None));
}

#[test]
fn start_by_is_for_the_first_command_alone() {
    let (mut world, link) = World::downloading();
    world.pass(mins(5));
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn no_three_goes_after_until_less_the_margin() {
    let (mut world, link) = World::downloading();
    world.pass(mins(14) + secs(26));
    world.drops(link);
    let link = world.calls(info("1.0"));
    // Settling ends 31 s after the beginning of the last minute.
    world.pass(secs(20));
    assert_eq!(world.told(link), []);
    world.pass(secs(14));
    assert_eq!(world.end(), Some(Reason::TimedOut));
}

#[test]
fn no_six_goes_after_until_less_the_margin_nor_is_its_phase_written() {
    let (mut world, link) = World::downloading();
    world.pass(mins(14) + secs(30));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);

    let (mut world, link) = World::downloading();
    world.pass(mins(14) + secs(31));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));
    // The one write is the end: nobody may think that the device restarts.
    assert_eq!(world.written().len(), 1);
}

#[test]
fn a_six_whose_phase_was_written_too_slowly_does_not_go() {
    let (mut world, link) = World::downloading();
    world.pass(mins(14) + secs(29));
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.pass(secs(5));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));
}

#[test]
fn no_four_and_no_eight_goes_after_until_less_the_margin() {
    let (mut world, link) = World::downloading_profile();
    world.pass(mins(14) + secs(31));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));

    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(14) + secs(31));
    let link = world.calls(info("2.0"));
    assert_eq!((world.end(), world.told(link)), (None, vec![]));
    world.pass(secs(29));
    assert_eq!(world.end(), Some(Reason::TimedOut));
}

#[test]
fn the_deadline_of_five_and_seven_is_the_end_of_the_try() {
    for (mut world, link) in [World::downloading(), World::downloading_profile()] {
        world.pass(mins(15) - secs(1));
        assert_eq!(world.closed_for(link), None);
        world.pass(secs(1));
        assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
        assert_eq!(world.end(), Some(Reason::TimedOut));
    }
}

#[test]
fn a_device_that_was_late_is_written_off_only_when_it_does_not_call_again() {
    for (mut world, _) in [World::downloading(), World::downloading_profile()] {
        world.pass(mins(15));
        assert_eq!(world.end(), Some(Reason::TimedOut));
        assert!(world.api.status.holder.is_some(), "it lost its connection by us, a moment ago");
        world.pass(secs(5));
        assert_eq!(world.api.status.holder, None);
    }
    let (mut world, _) = World::downloading();
    world.pass(mins(15));
    world.pass(secs(4));
    world.calls(info("1.0"));
    world.pass(mins(1));
    assert!(world.api.status.holder.is_some());
}

#[test]
fn at_the_deadline_of_a_former_target_the_connection_is_closed_and_the_new_one_goes_on() {
    let (mut world, link) = World::downloading();
    world.pass(mins(14) + secs(30));
    world.grant(2);
    world.pass(secs(30));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    assert_eq!(world.end(), None);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn the_deadline_of_nine_is_two_minutes_also_past_the_end_of_the_try() {
    let (mut world, link) = World::applying();
    world.pass(secs(119));
    assert_eq!(world.closed_for(link), None);
    world.pass(secs(1));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));

    // What is under way when the try ends is seen through.
    let (mut world, link) = World::downloading_profile();
    world.pass(mins(14));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [8]);
    world.pass(secs(119));
    assert_eq!(world.end(), None);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));

    let (mut world, link) = World::downloading_profile();
    world.pass(mins(14));
    world.says_seven(link, DownloadResult::Verified);
    world.pass(secs(120));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), Some(Reason::TimedOut)));
}

#[test]
fn the_deadline_of_eleven_is_ten_minutes() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [3, 10]);
    world.pass(mins(10) - secs(1));
    assert_eq!(world.closed_for(link), None);
    world.pass(secs(1));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    assert_eq!(world.end(), Some(Reason::CrcMismatch));
}

#[test]
fn a_try_ends_with_its_time_while_the_file_is_got_ready_or_our_accounting_is_asked() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    world.pass(mins(15));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));

    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.pass(mins(15));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::TimedOut), vec![]));
    world.accounting_says(Transferred::Wholly);
    assert_eq!(world.told(link), []);
}

#[test]
fn a_try_of_a_device_that_waits_for_another_plan_ends_with_its_time() {
    let (mut world, _) = World::waiting();
    world.grant_as(1, |target| target.from = "0.9".to_owned());
    world.pass(mins(15));
    assert_eq!(world.end(), Some(Reason::TimedOut));
}

#[test]
fn a_device_that_has_begun_and_vanishes_is_timed_out_at_the_end_of_its_try_and_not_before() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(15) - secs(1));
    assert_eq!(world.written().len(), 1);
    assert!(world.api.status.holder.is_some());
    world.pass(secs(1));
    let [end] = world.written().try_into().unwrap();
    assert_eq!(end.end.unwrap().reason, Reason::TimedOut);
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
}

#[test]
fn a_device_that_never_began_and_is_away_at_the_end_is_offline_and_not_failed() {
    let (mut world, link) = World::downloading();
    world.drops(link);
    world.pass(mins(20));
    assert_eq!((world.end(), &world.api.status.holder, world.state()), (None, &None, "over"));
}

#[test]
fn times_that_make_no_sense_do_no_harm() {
    for (start_by, until) in [(Timestamp::MIN, Timestamp::MIN), (Timestamp::MAX, Timestamp::MAX)] {
        let (mut world, link) = World::waiting();
        world.grant_as(1, |target| (target.start_by, target.until) = (start_by, until));
        let expected = if until == Timestamp::MIN { (Some(Reason::TimedOut), vec![]) } else { (None, vec![3]) };
        assert_eq!((world.end(), world.told(link)), expected);
    }
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    world.grant_as(2, |target| target.start_by = Timestamp::MIN);
    world.pass(secs(1));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
}

#[test]
fn a_download_of_which_nothing_came_in_its_time_is_told_from_one_that_was_slow() {
    for (transferred, reason) in
        [(Transferred::Nothing, Reason::NotTransferred), (Transferred::NotWholly, Reason::TimedOut)]
    {
        let (mut world, link) = World::downloading();
        world.files_answer = Answers::Later;
        world.pass(mins(15));
        assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));
        world.written();
        world.pass(secs(2));
        assert_eq!(world.written(), []);
        world.accounting_says(transferred);
        world.pass(secs(5));
        assert_eq!((world.end(), &world.api.status.holder), (Some(reason), &None));
        assert_eq!(world.counted, [Counted::Ended(reason)]);
    }
}

#[test]
fn nothing_of_a_configuration_came_in_its_time_although_the_firmware_did() {
    let (mut world, link) = World::downloading_profile();
    world.files_answer = Answers::Later;
    world.pass(mins(15));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));
    world.accounting_says(Transferred::Nothing);
    assert_eq!(world.end(), Some(Reason::NotTransferred));
}

#[test]
fn a_device_that_is_back_before_our_accounting_has_spoken_has_ended_its_try_too() {
    let (mut world, _) = World::downloading();
    world.files_answer = Answers::Later;
    world.pass(mins(15));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.told(link), world.end()), (vec![], None));
    world.accounting_says(Transferred::Nothing);
    assert_eq!((world.told(link), world.end()), (vec![], Some(Reason::NotTransferred)));
}
