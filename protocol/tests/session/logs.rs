//! Logs that have arrived, and when that goes on record.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::session::Phase;

use crate::api::OTHER;
use crate::world::{Answers, World, info, secs};

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
