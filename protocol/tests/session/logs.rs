//! Logs that have arrived, and when that goes on record; logs that a person asks for; logs of devices that are gone.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::message::ErrorDetail;
use fettle_protocol::session::{Change, Event, LogResult, Phase, Reason, Record, Transferred};

use crate::api::{Holder, OTHER};
use crate::world::{ADDRESS, Answers, Link, World, info, mins, secs};

#[test]
fn a_log_that_has_arrived_is_on_record_with_one_write() {
    let (mut world, link) = World::applying();
    world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
    world.says_nine(link, ExecutionResult::Failure(1));
    assert_eq!(world.told(link), [10]);
    world.written();
    let log = world.brings_log(1);
    assert_eq!(world.written(), [], "it has not said 11, and may be sent away next");
    world.says_eleven(link, ExecutionResult::Failure(1));
    assert_eq!(world.written().into_iter().map(|record| record.log).collect::<Vec<_>>(), [Some(log.clone())]);
    assert_eq!(world.api.status.log, Some(log));
    world.says_one(link, info("2.0"));
    assert_eq!(world.written(), []);
}

#[test]
fn a_log_goes_on_record_with_whatever_else_is_written() {
    // With 2.
    let (mut world, link) = World::applying();
    world.change(|status| {
        let target = status.target.as_mut().unwrap();
        (target.logs, target.done) = ((true, true), true);
    });
    world.says_nine(link, ExecutionResult::Success);
    world.written();
    let log = world.brings_log(1);
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!((world.told(link), world.written().len(), &world.api.status.log), (vec![10, 2], 1, &Some(log)));
    // With the end of the session.
    let (mut world, link) = World::downloading();
    world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    world.written();
    world.drops(link);
    let log = world.brings_log(1);
    assert_eq!(world.written(), []);
    world.pass(secs(5));
    assert_eq!((world.written().len(), &world.api.status.log), (1, &Some(log)));
    assert_eq!(world.api.status.holder, None);
    // With the beginning of the next try.
    let (mut world, link) = World::downloading();
    world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [10]);
    world.grant(2);
    world.written();
    let log = world.brings_log(1);
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!((world.told(link), world.written()), (vec![3], vec![]));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.phase(), world.written().len()), (Some(Phase::Restarting), 1));
    assert_eq!(world.api.status.log, Some(log));
}

#[test]
fn a_log_of_a_device_that_has_gone_is_on_record_whoever_holds_it_since() {
    for held in [true, false] {
        let (mut world, link) = World::downloading();
        world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
        world.says_five(link, DownloadResult::CrcMismatch);
        assert_eq!(world.told(link), [10]);
        world.drops(link);
        world.pass(secs(5));
        world.written();
        let log = world.brings_log(1);
        assert_eq!((world.written().len(), &world.api.status.log), (1, &Some(log)), "nobody holds it");
        if held {
            world.api_answers = Answers::Later;
            let log = world.brings_log(2);
            world.other_claims(OTHER);
            assert_eq!(world.state(), "Away", "what is to be on record is not forgotten");
            world.api_answers = Answers::Promptly;
            world.write_is_answered();
            assert_eq!(world.api.status.log, Some(log));
            assert_eq!(world.state(), "over");
        }
    }
}

#[test]
fn a_log_that_found_no_room_is_on_record_once_until_one_has_or_the_next_try_begins() {
    let failed = |bytes_room: bool| {
        let (mut world, link) = World::downloading();
        world.change(|status| status.target.as_mut().unwrap().logs = (false, true));
        world.says_five(link, DownloadResult::CrcMismatch);
        world.written();
        let refused = world.log_is_refused();
        assert_eq!(world.written(), [], "it may bring it again");
        if bytes_room {
            world.brings_log(1);
        }
        world.says_eleven(link, ExecutionResult::Failure(12));
        (world, link, refused)
    };
    let (mut world, _, _) = failed(true);
    let record = world.written().pop().unwrap();
    assert_eq!((record.log.is_some(), record.log_refused), (true, Change::Unchanged), "it found room at last");

    let (mut world, _, refused) = failed(false);
    let record = Record { log_refused: Change::Set(refused.clone()), ..Record::default() };
    assert_eq!(world.written(), [record]);
    world.log_is_refused();
    assert_eq!(world.written(), [], "once");
    world.brings_log(1);
    let record = world.written().pop().unwrap();
    assert_eq!((record.log.is_some(), record.log_refused), (true, Change::Clear));

    let (mut world, link, refused) = failed(false);
    world.written();
    assert_eq!(world.api.status.log_refused, Some(refused));
    world.grant(2);
    world.says_five(link, DownloadResult::Verified);
    let written = world.written();
    assert_eq!(written.iter().map(|record| &record.log_refused).collect::<Vec<_>>(), [&Change::Clear], "{written:?}");
    assert_eq!((world.phase(), &world.api.status.log_refused), (Some(Phase::Restarting), &None));
}

// What a person asks for.

impl World {
    fn person_asks(&mut self, word: &str) {
        let word = Some(word.to_owned());
        self.change(|status| status.log_request = word);
    }

    /// What is on record of what a person asked for.
    fn answer(&self) -> Option<(&str, Option<&str>)> {
        let (word, result) = self.api.status.log_answer.as_ref()?;
        Some(match result {
            LogResult::Stored => (word, None),
            LogResult::Failed(why) => (word, Some(why)),
        })
    }

    fn replies(&mut self, result: ExecutionResult) {
        self.feed(Event::Replied(result, ErrorDetail::default()));
    }
}

#[test]
fn a_device_is_asked_for_its_log_once_for_each_word_of_a_person() {
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    assert_eq!((world.told(link), world.written()), (vec![10], vec![]));
    let log = world.brings_log(1);
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!(world.written().len(), 1, "with the log, in one write");
    assert_eq!(world.answer(), Some(("a", None)));
    assert_eq!(world.api.status.log, Some(log));
    world.says_one(link, info("1.0"));
    world.see();
    assert_eq!(world.told(link), []);
    world.person_asks("b");
    assert_eq!(world.told(link), [10]);
}

#[test]
fn why_there_is_no_log_is_on_record() {
    // It says so.
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    world.says_eleven(link, ExecutionResult::Failure(1));
    let (_, why) = world.answer().unwrap();
    assert!(why.unwrap().contains("result 1"), "{why:?}");
    // It was us who had no room.
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    world.log_is_refused();
    world.says_eleven(link, ExecutionResult::Failure(12));
    let (_, why) = world.answer().unwrap();
    assert_eq!(why, Some("there is no room; the device says result 12"));
    world.person_asks("b");
    world.log_is_refused();
    world.says_eleven(link, ExecutionResult::Failure(12));
    assert_eq!(world.answer(), Some(("b", Some("there is no room; the device says result 12"))), "again");
    world.person_asks("c");
    world.says_eleven(link, ExecutionResult::Failure(1));
    assert_eq!(world.answer(), Some(("c", Some("the device could not upload its log (result 1)"))), "but not for ever");
    // It says that it has, and has not.
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    world.files_answer = Answers::Later;
    world.says_eleven(link, ExecutionResult::Success);
    assert_eq!(world.answer(), None);
    world.accounting_says(Transferred::NotWholly);
    assert!(world.answer().unwrap().1.unwrap().contains("none has arrived"));
    // It has, where we do not get at it.
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    world.files_answer = Answers::Later;
    world.says_eleven(link, ExecutionResult::Success);
    world.accounting_says(Transferred::Unfetched("that server is away".to_owned()));
    let said = "the device says that it has uploaded its log, but it is not stored: that server is away";
    assert_eq!(world.answer(), Some(("a", Some(said))));
    // It says nothing.
    let (mut world, link) = World::waiting();
    world.person_asks("a");
    world.pass(mins(10));
    assert_eq!(world.closed_for(link), Some(Reason::DeadlineExceeded));
    world.written();
    world.pass(secs(5));
    assert!(world.answer().unwrap().1.unwrap().contains("in time"));
    assert_eq!(world.written().len(), 1, "with the end of its session");
    // There is nowhere to bring it.
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.person_asks("a");
    world.file_cannot_be_had();
    assert_eq!(world.told(link), []);
    assert!(world.answer().unwrap().1.unwrap().contains("vendor"));
}

#[test]
fn a_person_waits_until_the_try_is_over() {
    let (mut world, link) = World::downloading();
    world.person_asks("a");
    assert_eq!(world.told(link), []);
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [10]);
}

#[test]
fn a_device_that_is_away_is_asked_when_it_is_back() {
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.pass(mins(1));
    world.person_asks("a");
    assert_eq!((world.state(), &world.asked), ("over", &vec![]), "nobody said that it may be asked otherwise");
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [10]);
}

// Without a connection.

/// A device whose TCP is stuck, in a group that wants logs over UDP: the time of its try is over.
fn stuck() -> (World, Link) {
    let (mut world, link) = World::waiting();
    world.change(|status| status.udp = true);
    world.grant_as(1, |target| target.logs = (false, true));
    assert_eq!(world.told(link), [3]);
    world.pass(mins(15));
    assert_eq!((world.closed_for(link), world.end()), (Some(Reason::DeadlineExceeded), Some(Reason::TimedOut)));
    assert_eq!(world.asked, [], "it may be back at once");
    (world, link)
}

#[test]
fn a_device_that_is_gone_after_a_failure_is_asked_over_udp_three_times_with_one_credential() {
    let (mut world, _) = stuck();
    world.written();
    world.pass(secs(5));
    assert_eq!((world.asked.len(), world.asked[0].0.as_str()), (1, ADDRESS));
    world.pass(secs(5));
    assert_eq!(world.asked.len(), 2);
    world.pass(secs(10));
    assert_eq!(world.asked.len(), 3);
    world.pass(mins(5));
    let first = world.asked[0].clone();
    assert_eq!(world.asked, vec![first; 3]);
    // A log takes its time.
    let log = world.brings_log(1);
    assert_eq!(world.api.status.log, Some(log));
    // With the session, and for the log.
    assert!(world.written().len() <= 2);
    world.pass(mins(10));
    assert_eq!((world.asked.len(), world.state()), (3, "over"));
}

#[test]
fn a_device_that_has_answered_over_udp_is_asked_no_more() {
    let (mut world, _) = stuck();
    world.pass(secs(5));
    world.replies(ExecutionResult::Success);
    world.pass(mins(9));
    assert_eq!((world.asked.len(), world.state()), (1, "Away"), "its log may be a moment behind");
    world.pass(mins(2));
    assert_eq!(world.state(), "over");
    let (mut world, _) = stuck();
    world.pass(secs(5));
    world.replies(ExecutionResult::Failure(1));
    world.pass(mins(10));
    assert_eq!((world.asked.len(), world.state()), (1, "over"));
}

#[test]
fn what_a_device_says_over_udp_of_its_log_is_held_against_what_has_come() {
    let asked = || {
        let (mut world, _) = stuck();
        world.person_asks("a");
        world.pass(secs(5));
        world.files_answer = Answers::Later;
        world.replies(ExecutionResult::Success);
        assert_eq!((world.asked.len(), world.answer()), (1, None));
        world
    };
    let mut world = asked();
    let log = world.brings_log(1);
    world.accounting_says(Transferred::Wholly);
    assert_eq!((world.answer(), world.api.status.log.as_ref()), (Some(("a", None)), Some(&log)));
    let mut world = asked();
    world.accounting_says(Transferred::NotWholly);
    assert!(world.answer().unwrap().1.unwrap().contains("none has arrived"), "it did answer: {:?}", world.answer());
}

#[test]
fn nobody_is_asked_over_udp_where_that_is_not_wanted() {
    for (udp, failure) in [(false, true), (true, false)] {
        let (mut world, _) = World::waiting();
        world.change(|status| status.udp = udp);
        world.grant_as(1, |target| target.logs = (true, failure));
        world.pass(mins(60));
        assert_eq!((world.end(), &world.asked), (Some(Reason::TimedOut), &vec![]));
    }
}

#[test]
fn a_device_that_calls_again_is_asked_on_its_connection_and_a_reply_from_elsewhere_counts_for_nothing() {
    let (mut world, _) = stuck();
    world.pass(secs(5));
    let link = world.calls(info("1.0"));
    world.pass(secs(6));
    assert_eq!((world.told(link), world.asked.len()), (vec![10], 1));
    world.replies(ExecutionResult::Success);
    assert_eq!(world.state(), "Uploading");
    assert_eq!(world.counted.len(), 2, "{:?}", world.counted);
}

#[test]
fn a_device_that_another_bridge_holds_is_not_asked_over_udp() {
    let (mut world, _) = stuck();
    world.pass(secs(5));
    world.other_claims(OTHER);
    world.pass(mins(20));
    assert_eq!((world.asked.len(), world.state()), (1, "over"));
}

#[test]
fn a_connection_that_breaks_under_ten_is_made_up_for_over_udp() {
    let (mut world, link) = World::downloading();
    world.change(|status| {
        status.target.as_mut().unwrap().logs = (false, true);
        status.udp = true;
    });
    world.says_five(link, DownloadResult::CrcMismatch);
    assert_eq!(world.told(link), [10]);
    world.drops(link);
    world.pass(secs(5));
    assert_eq!(world.asked.len(), 1);
    // One that breaks whenever it is asked, not for ever.
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.told(link), [10]);
    world.drops(link);
    world.pass(mins(1));
    assert_eq!(world.asked.len(), 1);
}

#[test]
fn a_person_gets_the_log_of_a_device_that_is_gone_or_the_reason_why_not() {
    let away = || {
        let (mut world, link) = World::waiting();
        world.change(|status| status.udp = true);
        world.drops(link);
        world.pass(mins(1));
        assert_eq!(world.state(), "over");
        world.person_asks("a");
        // Whoever looks after devices that nobody holds has a session for it.
        world.looks_after();
        world.written();
        assert_eq!((world.asked.len(), world.state()), (1, "Away"));
        world
    };
    let mut world = away();
    let log = world.brings_log(1);
    assert_eq!((world.written().len(), world.state()), (1, "over"));
    assert_eq!(world.answer(), Some(("a", None)));
    assert_eq!(world.api.status.log, Some(log));
    let mut world = away();
    world.pass(mins(10));
    assert_eq!((world.asked.len(), world.state()), (3, "over"));
    assert!(world.answer().unwrap().1.unwrap().contains("UDP"));
    // Until it is back.
    let mut world = away();
    let link = world.calls(info("1.0"));
    assert_eq!(world.told(link), [10]);
}

#[test]
fn a_device_that_was_sent_away_can_be_asked_over_udp() {
    let (mut world, link) = World::waiting();
    world.drops(link);
    world.pass(mins(1));
    let address = ADDRESS.to_owned();
    world.change(|status| {
        status.holder = Some(Holder { by: crate::api::US, address, dismissed: true, contender: None });
        status.udp = true;
    });
    world.person_asks("a");
    world.looks_after();
    assert_eq!(world.asked.len(), 1);
}
