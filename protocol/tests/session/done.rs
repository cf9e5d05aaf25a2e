//! 2, for devices that are illegal or done; and logs.

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult};
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{Reason, Record, SessionRecord};

use crate::api::{Holder, OTHER, US};
use crate::world::{ADDRESS, Answers, Link, World, info, mins, secs};

/// A device that runs what its target says, in a group that wants connections closed.
fn done() -> (World, Link) {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("B".to_owned()));
    world.grant_as(1, |target| (target.firmware, target.done) = (None, true));
    (world, link)
}

#[test]
fn a_device_that_is_done_is_told_when_to_call_again_where_it_takes_that() {
    let said = |world: &World, link: Link| world.wires[&link].inbox.last().cloned();
    let (world, link) = done();
    assert_eq!(said(&world, link), Some(ServerMessage::Interrupt(None)), "a base device");

    let mut world = World::new();
    let capable = DeviceInformation { capabilities: Capabilities::RETRY_AFTER, ..info("1.0") };
    let link = world.calls(capable.clone());
    world.change(|status| status.applied = Some("B".to_owned()));
    world.grant_as(1, |target| (target.firmware, target.done) = (None, true));
    assert_eq!(said(&world, link), Some(ServerMessage::Interrupt(Some(300))));
    // For how long one that is not served is sent away, the driver knows.
    world.drops(link);
    world.change(|status| status.legal = false);
    let link = world.calls(capable);
    assert_eq!(said(&world, link), Some(ServerMessage::Interrupt(None)));
}

// Illegal.

#[test]
fn a_device_that_may_not_be_served_is_told_two_and_nothing_is_written() {
    let mut world = World::new();
    world.change(|status| status.legal = false);
    let link = world.calls(info("1.0"));
    assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
    assert!(world.wires[&link].finishing);
    world.drops(link);
    assert_eq!(world.state(), "over");
}

#[test]
fn a_device_of_another_model_is_illegal_and_people_can_see_why() {
    let mut world = World::new();
    world.change(|status| status.model = Some("S5720".to_owned()));
    let link = world.calls(info("1.0"));
    let [record] = world.written().try_into().unwrap();
    assert_eq!((record.session, record.info), (SessionRecord::Unchanged, Some(info("1.0"))));
    assert_eq!((world.told(link), &world.api.status.holder), (vec![2], &None));
    // It calls again, and costs nothing.
    world.drops(link);
    let link = world.calls(info("1.0"));
    assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
}

#[test]
fn a_device_that_becomes_illegal_is_told_two_but_not_into_a_command() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), [2]);
    world.drops(link);
    world.pass(secs(5));
    assert_eq!(world.api.status.holder, None);

    let (mut world, link) = World::downloading();
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), []);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![2], None));
}

#[test]
fn a_device_that_becomes_illegal_while_nothing_is_outstanding_is_told_two_at_once() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), [2]);
    world.file_is_ready();

    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), [2]);

    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.change_unseen(|status| status.legal = false);
    world.write_is_answered();
    assert_eq!((world.told(link), world.phase()), (vec![2], None));
}

#[test]
fn a_device_that_has_begun_is_seen_through_although_it_has_become_illegal() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.change(|status| status.legal = false);
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.told(link), world.end()), (vec![8, 2], Some(Reason::Upgraded)));
    assert_eq!(world.api.status.reported, Some(info("2.0")));
}

#[test]
fn the_end_of_a_try_is_written_before_an_illegal_device_is_sent_away() {
    let (mut world, link) = World::downloading();
    world.change(|status| status.legal = false);
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), []);
    world.write_is_answered();
    assert_eq!((world.told(link), world.end()), (vec![2], Some(Reason::CrcMismatch)));
}

#[test]
fn a_device_whose_record_is_deleted_is_told_two_and_its_push_is_not_broken_off() {
    let (mut world, link) = World::applying();
    world.change(|status| {
        status.legal = false;
        (status.target, status.upgrade, status.holder, status.reported) = (None, None, None, None);
    });
    world.written();
    world.pass(secs(60));
    assert_eq!(world.told(link), []);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
    world.drops(link);
    assert_eq!(world.state(), "over");
}

// Done.

#[test]
fn done_is_what_the_controller_says_and_the_record_remembers_it() {
    let (mut world, link) = done();
    let [end, dismissed] = world.written().try_into().unwrap();
    assert_eq!(end.end.unwrap().reason, Reason::AlreadyCurrent);
    assert_eq!(dismissed.session, SessionRecord::Dismiss);
    assert_eq!(world.told(link), [2]);
    // It is away by our own word, until it is time to call again.
    world.drops(link);
    world.pass(mins(8));
    assert_eq!(world.written(), []);
    assert!(world.api.status.holder.as_ref().is_some_and(|holder| holder.dismissed));
}

#[test]
fn a_device_that_was_sent_away_and_does_not_call_again_in_its_time_is_given_up() {
    let (mut world, link) = done();
    let went = world.now;
    world.drops(link);
    world.written();
    // Each call begins that time anew, and costs nothing.
    world.pass(mins(8));
    let link = world.calls(info("1.0"));
    world.drops(link);
    world.pass(mins(8));
    assert_eq!(world.written(), []);
    world.pass(mins(1));
    let [gone] = world.written().try_into().unwrap();
    assert_eq!(gone.session, SessionRecord::Release { last_seen: went + mins(8) });
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
    assert_eq!(world.api.status.drops, None);
    // Whoever comes back all the same is sent away again.
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [2]);
    assert!(world.api.status.holder.as_ref().is_some_and(|holder| holder.dismissed));
}

#[test]
fn a_device_that_was_told_to_stay_away_for_long_has_as_long_but_no_longer_than_devices_wait() {
    for (told, away) in [(mins(30), mins(39)), (mins(480), mins(75))] {
        let mut world = World::new();
        world.timing.call_again = told;
        let link = world.calls(info("1.0"));
        world.change(|status| status.applied = Some("B".to_owned()));
        world.grant_as(1, |target| (target.firmware, target.done) = (None, true));
        world.drops(link);
        world.pass(away - secs(1));
        assert!(world.api.status.holder.is_some(), "{told}");
        world.pass(secs(1));
        assert_eq!(world.api.status.holder, None, "{told}");
    }
}

#[test]
fn a_device_whose_try_has_ended_is_kept_where_the_controller_does_not_say_done() {
    let (mut world, link) = World::applying();
    world.says_nine(link, ExecutionResult::Success);
    world.pass(mins(60));
    assert_eq!((world.told(link), world.closed_for(link)), (vec![], None));
    world.change(|status| status.target.as_mut().unwrap().done = true);
    assert_eq!(world.told(link), [2]);
}

#[test]
fn two_waits_until_it_is_on_record() {
    let (mut world, link) = World::applying();
    world.says_nine(link, ExecutionResult::Success);
    world.api_answers = Answers::Not;
    world.change(|status| status.target.as_mut().unwrap().done = true);
    world.pass(secs(30));
    assert_eq!(world.told(link), []);
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.told(link), [2]);
}

#[test]
fn a_dismissed_device_that_calls_again_is_told_two_again_and_costs_nothing() {
    let (mut world, link) = done();
    world.drops(link);
    world.written();
    world.pass(mins(8));
    let link = world.calls_from("192.0.2.99", info("1.0"));
    assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
}

/// A device that another bridge, which lives, has sent away just now.
fn done_elsewhere() -> World {
    let (mut world, link) = done();
    world.drops(link);
    let now = world.now;
    world.change(|status| {
        status.last_seen = Some(now);
        let address = ADDRESS.to_owned();
        status.holder = Some(Holder { by: OTHER, address, dismissed: true, contender: None });
    });
    assert_eq!(world.state(), "over");
    world.written();
    world
}

#[test]
fn a_device_that_another_bridge_has_sent_away_is_sent_away_here_and_costs_nothing() {
    let mut world = done_elsewhere();
    for _ in 0..3 {
        world.pass(mins(1));
        let link = world.calls_from("192.0.2.99", info("1.0"));
        assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
        world.drops(link);
        assert_eq!(world.state(), "over");
    }
}

#[test]
fn a_device_that_another_bridge_has_not_seen_for_long_is_sent_away_in_the_name_of_this_one() {
    let mut world = done_elsewhere();
    world.pass(mins(5));
    let link = world.calls(info("1.0"));
    let [inherited] = world.written().try_into().unwrap();
    assert_eq!(inherited, Record { session: SessionRecord::Inherit { address: ADDRESS.into() }, ..Record::default() });
    assert_eq!(world.told(link), [2]);
    assert!(world.api.status.holder.as_ref().is_some_and(|holder| holder.by == US && holder.dismissed));
    world.drops(link);
    world.pass(mins(8));
    assert_eq!(world.written(), []);
}

#[test]
fn what_is_new_or_wanted_of_a_device_that_another_bridge_has_sent_away_is_this_ones() {
    let mut world = done_elsewhere();
    let link = world.calls(info("0.9"));
    let [news] = world.written().try_into().unwrap();
    assert_eq!((news.session, news.info), (SessionRecord::Inherit { address: ADDRESS.into() }, Some(info("0.9"))));
    assert_eq!(world.told(link), [2]);

    let mut world = done_elsewhere();
    world.change(|status| status.log_request = Some("now".to_owned()));
    let link = world.calls(info("1.0"));
    assert_eq!((world.told(link), world.written().len()), (vec![10], 1));
    world.says_eleven(link, ExecutionResult::Failure(1));
    assert_eq!(world.told(link), [2]);

    // Something is to be done: the other is asked, as for any device.
    let mut world = done_elsewhere();
    world.grant(2);
    world.calls(info("1.0"));
    let [asked] = world.written().try_into().unwrap();
    assert!(matches!(asked.session, SessionRecord::Contend { .. }));
}

#[test]
fn a_dismissed_device_that_calls_with_news_has_them_written_and_stays_dismissed() {
    let (mut world, link) = done();
    world.drops(link);
    world.written();
    let link = world.calls(info("0.9"));
    let [news] = world.written().try_into().unwrap();
    assert_eq!((news.session, news.info), (SessionRecord::Unchanged, Some(info("0.9"))));
    assert_eq!(world.told(link), [2]);
}

#[test]
fn a_dismissed_device_of_which_something_is_wanted_is_connected_again() {
    let (mut world, link) = done();
    assert_eq!(world.told(link), [2]);
    world.drops(link);
    world.grant(2);
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [3]);
    assert!(world.api.status.holder.as_ref().is_some_and(|holder| !holder.dismissed));
}

#[test]
fn a_dismissed_device_that_does_not_come_for_its_try_is_given_up_when_that_ends() {
    let (mut world, link) = done();
    world.drops(link);
    world.grant(2);
    world.pass(mins(15));
    assert_eq!((&world.api.status.holder, world.end(), world.state()), (&None, None, "over"));
}

#[test]
fn a_device_that_calls_while_it_is_sent_away_waits_for_its_connection_to_close() {
    let (mut world, link) = done();
    assert_eq!(world.told(link), [2]);
    let next = world.calls(info("1.0"));
    assert_eq!(world.told(next), []);
    world.drops(link);
    assert_eq!(world.told(next), [2]);
}

// Logs.

#[test]
fn a_log_is_wanted_after_a_success_or_a_failure_or_never() {
    for (logs, success, failure) in
        [((true, true), vec![10], vec![10]), ((false, true), vec![], vec![10]), ((false, false), vec![], vec![])]
    {
        let (mut world, link) = World::applying();
        world.change(|status| status.target.as_mut().unwrap().logs = logs);
        world.says_nine(link, ExecutionResult::Success);
        assert_eq!(world.told(link), success);
        let (mut world, link) = World::applying();
        world.change(|status| status.target.as_mut().unwrap().logs = logs);
        world.says_nine(link, ExecutionResult::Failure(1));
        assert_eq!(world.told(link), failure);
    }
}

#[test]
fn eleven_changes_no_verdict() {
    for result in [ExecutionResult::Success, ExecutionResult::Failure(1)] {
        let (mut world, link) = World::applying();
        world.change(|status| status.target.as_mut().unwrap().logs = (true, true));
        world.says_nine(link, ExecutionResult::Success);
        assert_eq!(world.told(link), [10]);
        world.written();
        world.says_eleven(link, result);
        assert_eq!((world.end(), world.written(), world.state()), (Some(Reason::Upgraded), vec![], "Idle"));
        // Once.
        world.says_one(link, info("2.0"));
        assert_eq!(world.told(link), []);
    }
}

#[test]
fn the_log_comes_before_two() {
    let (mut world, link) = World::applying();
    world.change(|status| {
        let target = status.target.as_mut().unwrap();
        (target.logs, target.done) = ((true, true), true);
    });
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.told(link), [10]);
    world.says_eleven(link, ExecutionResult::Failure(1));
    assert_eq!(world.told(link), [2]);
}

#[test]
fn the_log_of_a_device_that_timed_out_is_asked_for_when_it_is_back() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (false, true));
    world.pass(mins(15));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), Some(Reason::TimedOut)));
    world.pass(mins(9));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [10]);
    // For as long as a log may take, and once.
    world.drops(link);
    world.pass(mins(11));
    assert_eq!(world.state(), "over");
}

#[test]
fn a_log_never_keeps_a_try_from_beginning() {
    let (mut world, link) = World::downloading();
    world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [10]);
    world.grant(2);
    world.pass(secs(44));
    assert_eq!((world.told(link), world.closed_for(link)), (vec![], None));
    world.pass(secs(1));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_log_that_was_not_asked_for_yet_gives_way_to_a_new_try() {
    let (mut world, link) = World::downloading();
    world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::CrcMismatch);
    let log = world.preparing.unwrap();
    world.files_answer = Answers::Promptly;
    world.grant(2);
    assert_eq!(world.told(link), [3]);
    world.preparing = Some(log);
    world.file_is_ready();
    assert_eq!(world.told(link), []);
}

#[test]
fn a_log_that_cannot_be_taken_in_is_none() {
    let (mut world, link) = World::applying();
    world.change(|status| status.target.as_mut().unwrap().logs = (true, true));
    world.files_answer = Answers::Later;
    world.says_nine(link, ExecutionResult::Success);
    world.file_cannot_be_had();
    assert_eq!((world.told(link), world.state(), world.end()), (vec![], "Idle", Some(Reason::Upgraded)));
}
