//! How far a device says that it has come (32): written seldom, and never of what is quick.

use fettle_protocol::DeviceMessage;
use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::{Change, Reached, Reason, Record, Work};

use crate::world::{Answers, Link, World, info, mins, secs};

fn says(world: &mut World, link: Link, percent: u8) {
    world.says(link, DeviceMessage::Progress { percent: Some(percent), text: None });
}

/// What is on record, in percent.
fn percent(world: &World) -> Option<u8> {
    world.api.status.reached.as_ref().and_then(|reached| reached.percent)
}

#[test]
fn an_upgrade_that_is_quick_costs_no_write_more_however_much_the_device_says() {
    let (mut world, link) = World::downloading();
    for second in 0..29 {
        says(&mut world, link, second);
        world.pass(secs(1));
    }
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("2.0"));
    world.says_seven(link, DownloadResult::Verified);
    says(&mut world, link, 50);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
    let written = world.written();
    assert_eq!(written.len(), 2);
    assert!(written.iter().all(|record| record.reached == Change::Unchanged), "{written:?}");
}

#[test]
fn what_takes_long_is_written_once_in_thirty_seconds_with_the_newest_and_goes_with_the_next_write() {
    let (mut world, link) = World::downloading();
    for second in 0..100 {
        says(&mut world, link, second);
        world.pass(secs(1));
    }
    let reached: Vec<_> = world.written().into_iter().map(|record| record.reached).collect();
    let set = |percent| Change::Set(Reached { target: 1, percent: Some(percent), text: None });
    assert_eq!(reached, [set(29), set(59), set(89)]);
    world.says_five(link, DownloadResult::CrcMismatch);
    let [end] = world.written().try_into().unwrap();
    assert_eq!((end.end.map(|end| end.reason), end.reached), (Some(Reason::CrcMismatch), Change::Clear));
    assert_eq!(world.api.status.reached, None);
}

#[test]
fn each_command_begins_anew_and_the_restart_takes_the_download_off_the_record() {
    let (mut world, link) = World::downloading();
    world.pass(secs(40));
    says(&mut world, link, 70);
    assert_eq!(percent(&world), Some(70), "at once, where the command is out for long enough");
    assert_eq!(world.session.as_ref().unwrap().reached(), Some((Work::Version, Some(70))));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), percent(&world)), (vec![6], None));
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.session.as_ref().unwrap().reached(), None);
    world.says_seven(link, DownloadResult::Verified);
    world.pass(secs(30));
    let text = Some("reloading line card 3".to_owned());
    world.says(link, DeviceMessage::Progress { percent: None, text: text.clone() });
    assert_eq!(world.api.status.reached, Some(Reached { target: 1, percent: None, text }));
    world.says_nine(link, ExecutionResult::Success);
    // One for each of the two that took long, and the two of every upgrade.
    assert_eq!((world.end(), percent(&world), world.written().len()), (Some(Reason::Upgraded), None, 4));
}

#[test]
fn what_is_said_again_or_goes_back_or_says_nothing_does_no_harm() {
    let (mut world, link) = World::downloading();
    world.pass(secs(30));
    for said in [90, 90, 90] {
        says(&mut world, link, said);
        world.pass(secs(30));
    }
    assert_eq!(world.written().len(), 1, "nothing that would change nothing");
    says(&mut world, link, 10);
    assert_eq!(percent(&world), Some(10), "it may have begun again");
    world.says(link, DeviceMessage::Progress { percent: None, text: None });
    world.says(link, DeviceMessage::Progress { percent: None, text: Some(String::new()) });
    world.pass(secs(60));
    assert_eq!((world.written().len(), percent(&world)), (1, Some(10)));
}

#[test]
fn it_moves_no_deadline() {
    let (mut world, link) = World::downloading();
    for _ in 0..29 {
        world.pass(secs(30));
        says(&mut world, link, 99);
    }
    world.pass(secs(29));
    assert_eq!(world.closed_for(link), None);
    world.pass(secs(1));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    assert_eq!((world.end(), percent(&world)), (Some(Reason::TimedOut), None));
}

#[test]
fn a_device_that_is_at_nothing_or_at_what_nobody_wants_any_more_is_not_listened_to() {
    let (mut world, link) = World::waiting();
    says(&mut world, link, 10);
    world.pass(mins(5));
    assert_eq!(world.written(), []);
    world.grant(1);
    world.pass(secs(30));
    says(&mut world, link, 20);
    world.withdraw();
    says(&mut world, link, 30);
    world.pass(mins(1));
    assert_eq!(world.written().len(), 1);
    // It answers, and nothing else is going to be written.
    world.says_five(link, DownloadResult::Verified);
    let [cleared] = world.written().try_into().unwrap();
    assert_eq!(cleared, Record { reached: Change::Clear, ..Record::default() });
}

#[test]
fn what_cannot_be_written_is_left_for_the_next_time() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Not;
    world.pass(secs(30));
    for said in 1..20 {
        says(&mut world, link, said);
        world.pass(secs(2));
    }
    world.api_answers = Answers::Promptly;
    world.pass(secs(30));
    let written = world.written();
    assert_eq!((written.len(), percent(&world)), (1, Some(19)), "{written:?}");
    // Nor does it stand in the way of what matters.
    world.api_answers = Answers::Later;
    world.pass(secs(30));
    says(&mut world, link, 20);
    world.says_five(link, DownloadResult::Verified);
    world.write_is_not_answered();
    world.write_is_answered();
    assert_eq!(world.told(link), [6]);
}

#[test]
fn another_bridge_takes_it_off_the_record_with_its_claim() {
    let (mut world, link) = World::downloading();
    world.pass(secs(30));
    says(&mut world, link, 40);
    world.bridge_restarts();
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
    assert_eq!(percent(&world), None);
}
