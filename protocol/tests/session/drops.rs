//! Connections that a device loses by itself, counted since the end of its last try, at no cost.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Drops, EndedBy, Reason, SessionRecord};

use crate::api::OTHER;
use crate::world::{Answers, Link, World, info, mins, secs};

/// A device that was upgraded as target 1 says, and connected ever since.
fn upgraded() -> (World, Link) {
    let (mut world, link) = World::applying();
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
    world.written();
    (world, link)
}

fn counted(world: &World) -> Option<(i64, i64)> {
    world.api.status.drops.map(|Drops { target, count }| (target, count))
}

#[test]
fn each_connection_that_is_lost_is_counted_with_the_write_that_says_so() {
    let (mut world, mut link) = upgraded();
    for count in 1..=3 {
        world.drop_link(link, false);
        world.pass(secs(5));
        let [release] = world.written().try_into().unwrap();
        assert!(matches!(release.session, SessionRecord::Release { .. }));
        assert_eq!((release.drops, counted(&world)), (Some(Drops { target: 1, count }), Some((1, count))));
        link = world.calls(info("2.0"));
        let [claim] = world.written().try_into().unwrap();
        assert_eq!(claim.drops, None);
    }
}

#[test]
fn a_device_that_was_never_upgraded_is_not_counted() {
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.pass(secs(5));
    assert_eq!((counted(&world), world.written().len()), (None, 1));
}

#[test]
fn the_count_starts_anew_with_the_end_of_another_try() {
    let (mut world, link) = upgraded();
    world.drops(link);
    world.pass(secs(5));
    let link = world.calls(info("2.0"));
    world.grant_as(2, |target| target.from = "2.0".to_owned());
    assert_eq!((world.end(), counted(&world)), (Some(Reason::AlreadyCurrent), None));
    world.drops(link);
    world.pass(secs(5));
    assert_eq!(counted(&world), Some((2, 1)));
}

#[test]
fn a_quick_reconnect_counts_for_nothing_and_is_not_written() {
    let (mut world, link) = upgraded();
    world.drops(link);
    world.pass(secs(4));
    let link = world.calls(info("2.0"));
    world.pass(mins(1));
    // Nor does one that a newcomer replaces.
    world.calls(info("2.0"));
    world.drop_link(link, false);
    world.pass(mins(1));
    assert_eq!((world.written(), counted(&world)), (vec![], None));
}

#[test]
fn what_the_bridge_does_is_not_counted() {
    // It closes for reasons of its own.
    let (mut world, link) = upgraded();
    world.end_link(link, true, EndedBy::Bridge);
    world.pass(secs(5));
    assert_eq!((counted(&world), &world.api.status.holder), (None, &None));
    // It dies.
    let (mut world, _) = upgraded();
    world.bridge_restarts();
    world.grace_is_over();
    assert_eq!((counted(&world), &world.api.status.holder), (None, &None));
    // It says 2, as its group wants it, or because nobody approves it any more.
    let (mut world, link) = upgraded();
    world.change(|status| status.target.as_mut().unwrap().done = true);
    assert_eq!(world.told(link), [2]);
    world.drops(link);
    world.pass(mins(60));
    assert_eq!(counted(&world), None);
    let (mut world, link) = upgraded();
    world.change(|status| status.legal = false);
    assert_eq!(world.told(link), [2]);
    world.drops(link);
    world.pass(secs(5));
    assert_eq!((counted(&world), &world.api.status.holder), (None, &None));
    // It closes at the deadline of a log.
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    world.pass(mins(10) + secs(5));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    assert_eq!((counted(&world), &world.api.status.holder), (None, &None));
}

#[test]
fn a_device_that_another_bridge_asks_for_at_once_is_not_counted() {
    let (mut world, link) = upgraded();
    world.drops(link);
    world.other_contends(OTHER);
    assert_eq!((counted(&world), &world.api.status.holder), (None, &None));
}

#[test]
fn what_the_upgrade_itself_causes_is_not_counted() {
    let (mut world, link) = upgraded();
    world.drops(link);
    world.pass(secs(5));
    let link = world.calls(info("2.0"));
    world.grant_as(2, |target| (target.from, target.firmware) = ("2.0".to_owned(), Some("3.0".to_owned())));
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("3.0"));
    assert_eq!(world.end(), Some(Reason::Upgraded));
    assert_eq!(counted(&world), None);
    // In its push, after which it stays away.
    world.grant_as(3, |target| {
        (target.from, target.firmware, target.config) = ("3.0".to_owned(), None, Some("C".to_owned()));
    });
    world.says_seven(link, DownloadResult::Verified);
    world.drops(link);
    world.pass(mins(15));
    assert_eq!((world.end(), counted(&world)), (Some(Reason::TimedOut), None));
    assert_eq!(world.api.status.holder, None);
}

#[test]
fn a_device_that_is_lost_before_its_next_try_has_begun_is_counted() {
    let (mut world, link) = upgraded();
    world.grant_as(2, |target| (target.from, target.firmware) = ("2.0".to_owned(), Some("3.0".to_owned())));
    world.drops(link);
    world.pass(secs(5));
    assert_eq!(counted(&world), Some((1, 1)));
}

#[test]
fn a_device_that_is_lost_before_the_end_of_its_try_is_on_record_is_counted_with_it() {
    // What says the end is under way when it is lost: the drop has a write of its own.
    let (mut world, link) = World::applying();
    world.api_answers = Answers::Later;
    world.says_nine(link, ExecutionResult::Success);
    world.drops(link);
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.end(), counted(&world)), (Some(Reason::Upgraded), None));
    world.pass(secs(5));
    assert_eq!((counted(&world), &world.api.status.holder), (Some((1, 1)), &None));
    // It goes out later: one write says both.
    let (mut world, link) = World::applying();
    world.api_answers = Answers::Not;
    world.says_nine(link, ExecutionResult::Success);
    world.drops(link);
    world.pass(mins(1));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!((world.end(), counted(&world)), (Some(Reason::Upgraded), Some((1, 1))));
    assert_eq!(world.api.status.holder, None);
}

#[test]
fn a_count_whose_answer_was_lost_is_not_counted_twice() {
    let (mut world, link) = upgraded();
    world.api_answers = Answers::Later;
    world.drops(link);
    world.pass(secs(5));
    world.write_is_done_but_not_answered();
    world.api_answers = Answers::Promptly;
    world.see();
    while world.write.is_some() {
        world.write_is_answered();
    }
    assert_eq!(counted(&world), Some((1, 1)));
    // And one that conflicts is counted on top of what is there.
    let (mut world, link) = upgraded();
    world.drops(link);
    world.change_unseen(|status| status.drops = Some(Drops { target: 1, count: 4 }));
    world.pass(secs(5));
    assert_eq!(counted(&world), Some((1, 5)));
}
