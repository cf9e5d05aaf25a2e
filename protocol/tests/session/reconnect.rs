//! Connections that are lost and come again, and results that are lost with them.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Counted, Reason};

use crate::world::{World, info, mins, secs, telling};

#[test]
fn after_a_lost_connection_it_begins_again_with_three_after_settle() {
    let (mut world, link) = World::downloading();
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5) - jiff::SignedDuration::from_millis(1));
    assert_eq!((world.told(link), world.end()), (vec![], None));
    world.pass(secs(1));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn after_a_lost_connection_it_begins_again_with_four_after_settle() {
    let (mut world, link) = World::downloading_profile();
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), []);
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn settle_is_only_where_a_command_was_unanswered() {
    // None was sent.
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.grant(1);
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [3]);
    // It was answered.
    let (mut world, link) = World::downloading();
    world.files_answer = crate::world::Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.files_answer = crate::world::Answers::Promptly;
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_log_that_was_not_answered_is_settled_too() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [3, 10]);
    world.drops(link);
    world.grant(2);
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), []);
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn settling_begins_again_with_each_connection() {
    let (mut world, link) = World::downloading();
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(3));
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(3));
    assert_eq!(world.told(link), []);
    world.pass(secs(2));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_command_that_was_unanswered_is_remembered_longer_than_the_drop_stays_unwritten() {
    let (mut world, link) = World::downloading();
    world.pass(mins(2));
    world.drops(link);
    world.pass(mins(2));
    assert_eq!(world.api.status.holder, None);
    // Past start_by: but the first command of this target has gone long ago.
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), []);
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
    // Until the time of the try is over.
    world.drops(link);
    world.pass(mins(11));
    assert_eq!(world.state(), "over");
}

#[test]
fn a_first_command_is_remembered_also_where_it_was_answered() {
    let (mut world, link) = World::downloading();
    world.files_answer = crate::world::Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(2));
    world.files_answer = crate::world::Answers::Promptly;
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_device_that_comes_back_with_the_old_version_has_ended_its_try() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("1.0"));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));
    world.pass(mins(20));
    assert_eq!(world.told(link), []);
}

#[test]
fn a_device_that_comes_back_with_a_third_version_gets_no_further_command() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("1.5"));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::UnexpectedVersion), vec![]));
    assert_eq!(world.api.status.reported, Some(info("1.5")));
    world.pass(mins(20));
    assert_eq!(world.told(link), []);
}

#[test]
fn a_six_that_tcp_never_acknowledged_is_given_again_after_another_download() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
    world.drop_link(link, false);
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [3]);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
    world.drops(link);
    // Its phase was on record already.
    assert_eq!(world.written().len(), 1);
    let link = world.calls(info("1.0"));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));
}

#[test]
fn a_device_that_restarted_although_tcp_never_acknowledged_the_six_has_done_it() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drop_link(link, false);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), [4]);
}

#[test]
fn a_device_that_falls_back_while_it_is_configured_has_ended_its_try() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));

    // Also where the firmware was there before, so that no 6 was ever sent.
    let mut world = World::new();
    let link = world.calls(info("2.0"));
    world.grant(1);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));
}

#[test]
fn nine_after_a_new_message_one_answers_the_eight_before() {
    let (mut world, link) = World::applying();
    world.drops(link);
    world.pass(secs(60));
    let link = world.calls(info("2.0"));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::Upgraded), vec![]));
    assert_eq!(world.api.status.applied.as_deref(), Some("B"));

    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ApplyFailed), vec![]));
}

#[test]
fn nine_after_settle_answers_the_eight_before_although_the_next_four_is_out() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
    // 4 stays outstanding until its 7, which leads to no 8.
    world.grant_as(2, |target| target.from = "2.0".to_owned());
    world.grant_as(3, |target| (target.from, target.config) = ("2.0".to_owned(), Some("C".to_owned())));
    assert_eq!(world.told(link), []);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4]);
    assert_eq!(world.counted, [Counted::Ended(Reason::Upgraded)]);
}

#[test]
fn a_result_that_was_lost_is_followed_by_one_more_push() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [8]);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
}

#[test]
fn result_lost_twice_counts_as_applied_with_that_reason() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    // No answer, this time.
    world.pass(mins(2));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), None));
    let link = world.calls(info("2.0"));
    assert_eq!(world.end(), None);
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ResultLost), vec![]));
    assert_eq!(world.api.status.applied.as_deref(), Some("B"));
}

#[test]
fn result_lost_twice_does_not_count_as_applied_where_the_device_stays_away() {
    let (mut world, link) = World::applying();
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    world.says_seven(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(15));
    assert_eq!(world.end(), Some(Reason::TimedOut));
    assert_eq!(world.api.status.applied, None);
}

#[test]
fn result_lost_twice_does_not_count_as_applied_where_the_device_reports_another_configuration() {
    let mut world = World::new();
    let mut link = world.calls(telling("1.0", "A"));
    world.grant_as(1, |target| target.firmware = None);
    for _ in 0..2 {
        world.says_seven(link, DownloadResult::Verified);
        assert_eq!(world.told(link), [4, 8]);
        world.drops(link);
        link = world.calls(telling("1.0", "A"));
        world.pass(secs(5));
    }
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ApplyFailed), vec![]));
}

#[test]
fn a_device_that_reports_the_new_configuration_has_done_it_whatever_was_lost() {
    let mut world = World::new();
    let link = world.calls(telling("1.0", "A"));
    world.grant_as(1, |target| target.firmware = None);
    world.says_seven(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(telling("1.0", "B"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::Upgraded), vec![]));
}

#[test]
fn what_was_told_on_a_connection_that_is_gone_is_of_no_account() {
    let (mut world, first) = World::downloading();
    world.drops(first);
    let second = world.calls(info("1.0"));
    world.wires.get_mut(&first).unwrap().open = true;
    world.says_five(first, DownloadResult::CrcMismatch);
    world.drops(first);
    assert_eq!((world.end(), world.state()), (None, "Settling"));
    world.pass(secs(5));
    assert_eq!(world.told(second), [3]);
}
