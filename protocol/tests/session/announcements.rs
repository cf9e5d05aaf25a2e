//! What a device is to run is announced (35) to who takes that, while nothing else is asked of it, and once.

use fettle_protocol::ServerMessage;
use fettle_protocol::datum::{Capabilities, DownloadResult};
use fettle_protocol::message::{DeviceInformation, Release};

use crate::world::{Answers, Link, World, info};

/// Message 1 of a device that takes announcements.
fn listening(version: &str) -> DeviceInformation {
    DeviceInformation { capabilities: Capabilities::ANNOUNCEMENT, ..info(version) }
}

fn release(version: &str, size: Option<u64>) -> Option<Release> {
    Some(Release { version: version.to_owned(), size })
}

/// What was said last.
fn said(world: &World, link: Link) -> Option<ServerMessage> {
    world.wires[&link].inbox.last().cloned()
}

#[test]
fn who_takes_it_is_told_what_is_declared_once_and_when_that_changes() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    let link = world.calls(listening("1.0"));
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(release("2.0", None))));
    assert_eq!(world.told(link), [35]);
    let written = world.written().len();
    world.change(|_| {});
    world.says_one(link, listening("1.0"));
    assert_eq!(world.told(link), [0; 0], "nothing has changed");
    world.declares(Some("3.0"));
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(release("3.0", None))));
    world.declares(Some("1.0"));
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(None)), "it runs that");
    world.declares(None);
    assert_eq!(world.told(link), [35, 35], "that it is nothing is not said twice");
    assert_eq!((written, world.written().len()), (1, 0), "an announcement costs no write");
}

#[test]
fn who_does_not_take_it_is_told_nothing_and_who_takes_sizes_is_told_that_too() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    let link = world.calls(DeviceInformation { capabilities: Capabilities::FILE_FACTS, ..info("1.0") });
    assert_eq!(world.told(link), [0; 0]);
    let both = Capabilities::FILE_FACTS.with(Capabilities::ANNOUNCEMENT);
    world.says_one(link, DeviceInformation { capabilities: both, ..info("1.0") });
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(release("2.0", Some(7)))));
}

#[test]
fn a_device_is_told_anew_on_a_new_connection_and_not_of_what_it_runs() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    let link = world.calls(listening("1.0"));
    world.drops(link);
    let link = world.calls(listening("1.0"));
    assert_eq!(world.told(link), [35]);
    world.says_one(link, listening("2.0"));
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(None)), "it has got there");
    world.drops(link);
    let link = world.calls(listening("2.0"));
    assert_eq!(world.told(link), [0; 0]);
}

#[test]
fn nothing_is_announced_into_a_command_and_what_has_changed_meanwhile_comes_after_it() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    let link = world.calls(listening("1.0"));
    world.grant(1);
    assert_eq!(world.told(link), [35, 3]);
    world.declares(Some("3.0"));
    assert_eq!(world.told(link), [0; 0]);
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(said(&world, link), Some(ServerMessage::Announcement(release("3.0", None))));
}

#[test]
fn nothing_is_announced_before_the_session_is_ours_nor_to_who_is_refused() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    world.api_answers = Answers::Later;
    let link = world.calls(listening("1.0"));
    assert_eq!(world.told(link), [0; 0], "its claim is not on record");
    world.write_is_answered();
    assert_eq!(world.told(link), [35]);
    let mut world = World::new();
    world.declares(Some("2.0"));
    world.change(|status| status.legal = false);
    let link = world.calls(listening("1.0"));
    assert_eq!(world.told(link), [2]);
}

#[test]
fn who_has_fetched_ahead_and_lost_its_connection_is_told_again_what_it_waits_for() {
    let mut world = World::new();
    world.declares(Some("2.0"));
    let link = world.calls(listening("1.0"));
    world.grant_ahead(1);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.state()), (vec![35, 3], "Held"));
    world.drops(link);
    let link = world.calls(listening("1.0"));
    assert_eq!(world.told(link), [35]);
}
