//! The two paths, command by command, and what their results mean.

use fettle_protocol::DeviceMessage;
use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, ErrorDetail};
use fettle_protocol::session::{Counted, Phase, Reason, SessionRecord, Transferred};

use crate::world::{Answers, World, info, secs, telling};

#[test]
fn a_device_is_taken_to_firmware_and_configuration_with_two_writes_of_the_bridge() {
    let (mut world, link) = World::waiting();
    world.grant(1);
    assert_eq!(world.told(link), [3]);
    assert_eq!(world.written(), []);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
    world.drops(link);
    world.pass(secs(90));
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [8]);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.told(link), []);

    let [begun, ended] = world.written().try_into().unwrap();
    assert_eq!((begun.session, begun.info), (SessionRecord::Unchanged, None));
    assert_eq!((begun.progress, begun.end), (Some((1, Phase::Restarting)), None));
    assert_eq!((ended.session, ended.info), (SessionRecord::Unchanged, Some(info("2.0"))));
    assert_eq!(ended.progress, Some((1, Phase::Done)));
    let end = ended.end.unwrap();
    assert_eq!((end.reason, end.applied.as_deref()), (Reason::Upgraded, Some("B")));
    assert_eq!(world.counted, [Counted::Ended(Reason::Upgraded)]);
}

#[test]
fn a_version_alone_is_done_when_the_device_reports_it() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.config = None);
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [3, 6]);
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), []);
    assert_eq!(world.end(), Some(Reason::Upgraded));
    assert_eq!(world.api.status.applied, None);
    assert_eq!(world.written().len(), 2);
}

#[test]
fn a_configuration_alone_is_done_when_nine_says_so() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.firmware = None);
    assert_eq!(world.told(link), [4]);
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [8]);
    assert_eq!(world.phase(), Some(Phase::Applying));
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.end(), Some(Reason::Upgraded));
    assert_eq!(world.api.status.applied.as_deref(), Some("B"));
    assert_eq!(world.written().len(), 2);
}

#[test]
fn a_configuration_that_is_on_record_as_applied_is_not_pushed_again_after_the_firmware() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("B".to_owned()));
    world.grant(1);
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    let link = world.calls(info("2.0"));
    assert_eq!(world.told(link), []);
    assert_eq!(world.end(), Some(Reason::Upgraded));
}

#[test]
fn one_that_waits_for_its_turn_is_kept_with_its_session_written() {
    let mut world = World::new();
    let link = world.calls(info("1.0"));
    let [claim] = world.written().try_into().unwrap();
    assert!(matches!(claim.session, SessionRecord::Claim { .. }));
    assert_eq!(claim.info, Some(info("1.0")));
    world.pass(secs(3600));
    assert_eq!(world.told(link), []);
    assert_eq!(world.closed_for(link), None);
    assert_eq!(world.written(), []);
}

#[test]
fn a_device_that_has_it_all_is_already_current_and_told_nothing() {
    let (mut world, link) = World::waiting();
    world.change(|status| status.applied = Some("B".to_owned()));
    world.grant_as(1, |target| target.firmware = None);
    assert_eq!(world.told(link), []);
    assert_eq!(world.end(), Some(Reason::AlreadyCurrent));
    assert_eq!(world.written().len(), 1);
}

#[test]
fn where_a_device_reports_its_configuration_that_counts_and_not_what_is_on_record() {
    let mut world = World::new();
    world.change(|status| status.applied = Some("B".to_owned()));
    let link = world.calls(telling("2.0", "A"));
    world.grant_as(1, |target| target.from = "2.0".to_owned());
    assert_eq!(world.told(link), [4]);
    world.says_one(link, telling("2.0", "B"));
    world.says_seven(link, DownloadResult::Failed(2));
    assert_eq!(world.end(), Some(Reason::DownloadFailed));
}

#[test]
fn a_device_that_no_longer_runs_what_the_target_was_planned_on_is_told_nothing() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.from = "0.9".to_owned());
    assert_eq!(world.told(link), []);
    assert_eq!(world.end(), None);
}

#[test]
fn message_one_is_legal_at_any_time_and_means_judge() {
    let (mut world, link) = World::waiting();
    world.grant_as(1, |target| target.from = "0.9".to_owned());
    world.says_one(link, info("0.9"));
    assert_eq!(world.told(link), [3]);
    assert_eq!(world.api.status.reported, Some(info("0.9")));
    // Not into what is outstanding.
    world.says_one(link, info("0.9"));
    world.says_one(link, info("2.0"));
    assert_eq!(world.told(link), []);
}

#[test]
fn a_file_is_got_ready_for_what_the_device_takes_by_its_last_word() {
    let (less, more) = (Capabilities::default(), Capabilities::HTTP.with(Capabilities::FILE_FACTS));
    for (before, after) in [(less, more), (more, less)] {
        let mut world = World::new();
        let link = world.calls(DeviceInformation { capabilities: before, ..info("1.0") });
        world.grant_as(1, |target| target.logs = (true, true));
        world.says_five(link, DownloadResult::Verified);
        world.drops(link);
        // What is on record stays that of the old firmware until the try has ended.
        let link = world.calls(DeviceInformation { capabilities: after, ..info("2.0") });
        assert_eq!(world.api.status.reported.as_ref().map(|known| known.capabilities), Some(before));
        world.says_seven(link, DownloadResult::Verified);
        world.says_nine(link, ExecutionResult::Success);
        assert_eq!(world.told(link), [4, 8, 10]);
        assert_eq!(world.prepared_for, [before, after, after]);
    }
}

#[test]
fn a_file_that_is_being_got_ready_for_what_the_device_took_before_its_new_message_one_is_got_ready_anew() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    let former = world.preparing.unwrap();
    world.says_one(link, DeviceInformation { capabilities: Capabilities::HTTP, ..info("1.0") });
    assert_eq!(world.prepared_for, [Capabilities::default(), Capabilities::HTTP]);
    let latter = world.preparing.replace(former);
    world.file_is_ready();
    assert_eq!(world.told(link), []);
    world.preparing = latter;
    world.file_is_ready();
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_device_that_says_something_else_after_its_download_gets_no_six() {
    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.says_one(link, info("3.0"));
    assert_eq!(world.state(), "Idle");
    // The same while the phase is being written.
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.says_one(link, info("3.0"));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.told(link), []);
    assert_eq!(world.end(), Some(Reason::UnexpectedVersion));
}

#[test]
fn another_mac_on_the_same_connection_ends_it() {
    let (mut world, link) = World::downloading();
    let mut other = info("1.0");
    other.mac = fettle_protocol::Mac::new([2, 0, 0, 0, 0, 1]);
    world.says_one(link, other);
    assert_eq!(world.closed_for(link), Some(Reason::Illegal));
    assert_eq!(world.api.status.reported, Some(info("1.0")));
}

#[test]
fn a_crc_mismatch_and_a_failed_transfer_end_the_try_and_are_told_apart() {
    for (result, reason) in [
        (DownloadResult::CrcMismatch, Reason::CrcMismatch),
        (DownloadResult::Failed(2), Reason::DownloadFailed),
        (DownloadResult::Failed(77), Reason::DownloadFailed),
    ] {
        let (mut world, link) = World::downloading();
        world.says_five(link, result);
        assert_eq!((world.end(), world.told(link)), (Some(reason), vec![]));
        let (mut world, link) = World::downloading_profile();
        world.says_seven(link, result);
        assert_eq!((world.end(), world.told(link)), (Some(reason), vec![]));
    }
}

#[test]
fn a_push_that_failed_ends_the_try() {
    let (mut world, link) = World::applying();
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ApplyFailed), vec![]));
    // What it runs is on record all the same.
    assert_eq!(world.api.status.reported, Some(info("2.0")));
}

#[test]
fn what_a_device_adds_to_a_failure_is_in_the_sentence() {
    let (mut world, link) = World::downloading();
    let detail = ErrorDetail { code: Some(17), text: Some("no route to host".to_owned()) };
    world.says(link, DeviceMessage::VersionDownloaded(DownloadResult::Failed(2), detail));
    let end = world.api.status.upgrade.clone().unwrap().end.unwrap();
    assert!(end.message.contains("17") && end.message.contains("no route to host"), "{}", end.message);
}

#[test]
fn the_bridge_never_retries() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Failed(2));
    world.says_one(link, info("1.0"));
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(3600));
    assert_eq!(world.told(link), []);
    // The controller does.
    world.grant(2);
    assert_eq!(world.told(link), [3]);
}

#[test]
fn five_is_believed_only_if_our_server_has_sent_the_last_byte() {
    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.written()), (vec![], vec![]));
    world.accounting_says(Transferred::NotWholly);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::NotTransferred), vec![]));

    let (mut world, link) = World::downloading_profile();
    world.files_answer = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    world.accounting_says(Transferred::NotWholly);
    assert_eq!((world.end(), world.told(link)), (Some(Reason::NotTransferred), vec![]));
}

#[test]
fn a_file_that_cannot_be_had_ends_the_try_before_anything_is_sent() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    world.file_cannot_be_had();
    assert_eq!((world.end(), world.told(link)), (Some(Reason::SourceUnavailable), vec![]));
}

#[test]
fn a_result_that_nothing_asked_for_is_counted_and_ignored() {
    let (mut world, link) = World::waiting();
    world.says_five(link, DownloadResult::Verified);
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Success);
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!(world.counted, [5, 7, 9, 11].map(Counted::Unasked));
    // Nor does one of another command answer this one.
    let (mut world, link) = World::downloading();
    world.says_seven(link, DownloadResult::Verified);
    world.says_nine(link, ExecutionResult::Failure(1));
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!(world.counted, [7, 9, 11].map(Counted::Unasked));
    assert_eq!((world.told(link), world.written(), world.end()), (vec![], vec![], None));
}

#[test]
fn a_second_result_is_one_that_nothing_asked_for() {
    let (mut world, link) = World::downloading_profile();
    world.files_answer = Answers::Later;
    world.says_seven(link, DownloadResult::Verified);
    world.says_seven(link, DownloadResult::CrcMismatch);
    assert_eq!(world.counted, [Counted::Unasked(7)]);
    world.accounting_says(Transferred::Wholly);
    assert_eq!(world.told(link), [8]);
    world.says_seven(link, DownloadResult::CrcMismatch);
    world.says_nine(link, ExecutionResult::Success);
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!(world.end(), Some(Reason::Upgraded));
}

#[test]
fn unknown_messages_are_skipped_and_counted_and_extensions_are_no_answers() {
    let (mut world, link) = World::downloading();
    world.says(link, DeviceMessage::Unknown(99));
    world.says(link, DeviceMessage::Progress { percent: Some(50), text: None });
    world.says(link, DeviceMessage::RestartComplete);
    world.says(link, DeviceMessage::KeepAlive);
    assert_eq!(world.counted, [Counted::UnknownMessage(99)]);
    assert_eq!((world.state(), world.told(link), world.written()), ("Downloading", vec![], vec![]));
}

#[test]
fn no_next_command_goes_into_an_outstanding_one_whatever_new_target_has_come() {
    let (mut world, link) = World::downloading();
    world.grant(2);
    world.pass(secs(30));
    assert_eq!(world.told(link), []);
    // The result is of the former target: no 6, but the first command of the new one.
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.written()), (vec![3], vec![]));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [6]);
}

#[test]
fn the_failure_of_a_former_target_is_none_of_the_new_one() {
    let (mut world, link) = World::downloading();
    world.grant(2);
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!((world.told(link), world.end()), (vec![3], None));
}

#[test]
fn a_target_that_was_withdrawn_in_its_download_gets_no_six() {
    let (mut world, link) = World::downloading();
    world.withdraw();
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.written(), world.state()), (vec![], vec![], "Idle"));
    // Nor one that is withdrawn while our accounting is asked, or while the phase is being written.
    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.withdraw();
    world.accounting_says(Transferred::Wholly);
    assert_eq!((world.told(link), world.written()), (vec![], vec![]));
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.change_unseen(|status| status.target = None);
    world.write_is_answered();
    assert_eq!((world.told(link), world.written(), world.state()), (vec![], vec![], "Idle"));
}

#[test]
fn a_target_that_comes_while_a_file_is_got_ready_does_not_wait_for_it() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    let first = world.preparing.unwrap();
    world.grant(2);
    let second = world.preparing.unwrap();
    assert_eq!((first.target, second.target), (1, 2));
    // The file of the first comes after all.
    world.preparing = Some(first);
    world.file_cannot_be_had();
    assert_eq!((world.told(link), world.end()), (vec![], None));
    world.preparing = Some(second);
    world.file_is_ready();
    assert_eq!(world.told(link), [3]);
}

#[test]
fn the_nine_of_a_former_target_says_nothing_of_the_new_one() {
    let (mut world, link) = World::applying();
    // The controller took us for dead and decided.
    world.change(|status| status.outcome = Some(1));
    world.grant_as(2, |target| {
        target.from = "2.0".to_owned();
        target.config = Some("C".to_owned());
    });
    assert_eq!(world.told(link), []);
    world.says_nine(link, ExecutionResult::Success);
    assert_eq!(world.counted, [Counted::Unasked(9)]);
    assert_eq!((world.told(link), world.end()), (vec![4], None));
}

#[test]
fn six_goes_only_on_the_connection_that_brought_the_result() {
    let (mut world, first) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(first, DownloadResult::Verified);
    world.drops(first);
    let second = world.calls(info("1.0"));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.phase(), Some(Phase::Restarting));
    // The phase is on record, but this connection has brought nothing.
    assert_eq!((world.told(first), world.told(second)), (vec![], vec![3]));
    world.says_five(second, DownloadResult::Verified);
    assert_eq!(world.told(second), [6]);
    assert_eq!(world.written().len(), 1);
}

#[test]
fn eight_goes_only_on_the_connection_that_brought_the_result() {
    let (mut world, first) = World::downloading_profile();
    world.files_answer = Answers::Later;
    world.says_seven(first, DownloadResult::Verified);
    let stale = world.checking.unwrap();
    world.drops(first);
    world.files_answer = Answers::Promptly;
    let second = world.calls(info("2.0"));
    world.checking = Some(stale);
    world.accounting_says(Transferred::Wholly);
    assert_eq!((world.told(first), world.told(second)), (vec![], vec![4]));
    world.says_seven(second, DownloadResult::Verified);
    assert_eq!(world.told(second), [8]);
}
