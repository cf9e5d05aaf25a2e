//! Who holds the MAC: two connections at one bridge, and two bridges.

use fettle_protocol::datum::DownloadResult;
use fettle_protocol::session::{Counted, Phase, Reason, SessionRecord};

use crate::api::{Holder, OTHER, THIRD, US};
use crate::world::{ADDRESS, Answers, Link, World, info, mins, secs};

/// A device that is connected here while another bridge, which lives, holds it.
fn contending() -> (World, Link) {
    let mut world = World::new();
    world.other_claims(OTHER);
    let link = world.calls(info("1.0"));
    (world, link)
}

// At one bridge.

#[test]
fn a_newcomer_gets_no_command_while_the_holder_is_probed() {
    let (mut world, holder) = World::waiting();
    let newcomer = world.calls(info("1.0"));
    assert_eq!(world.wires[&holder].probed, 1);
    assert_eq!(world.counted, [Counted::Contention]);
    world.grant(1);
    world.pass(secs(3));
    // The holder does: it may well live.
    assert_eq!((world.told(holder), world.told(newcomer)), (vec![3], vec![]));
}

#[test]
fn a_holder_that_answers_stays_and_the_newcomer_is_closed() {
    let (mut world, holder) = World::downloading();
    let newcomer = world.calls(info("1.0"));
    world.pass(secs(4));
    assert_eq!(world.closed_for(newcomer), Some(Reason::HolderAnswers));
    assert_eq!((world.closed_for(holder), world.told(newcomer)), (None, vec![]));
    world.says_five(holder, DownloadResult::Verified);
    assert_eq!(world.told(holder), [6]);
}

#[test]
fn a_silent_holder_yields() {
    let (mut world, holder) = World::downloading();
    let newcomer = world.calls(info("1.0"));
    world.pass(secs(3));
    world.drop_link(holder, false);
    // Its command was unanswered.
    assert_eq!(world.told(newcomer), []);
    world.pass(secs(5));
    assert_eq!(world.told(newcomer), [3]);
    assert_eq!(world.written(), []);
}

#[test]
fn what_a_newcomer_says_counts_once_it_holds_the_mac() {
    let (mut world, holder) = World::waiting();
    world.grant_as(1, |target| target.from = "0.9".to_owned());
    let newcomer = world.calls(info("1.0"));
    world.says_one(newcomer, info("0.9"));
    world.says_five(newcomer, DownloadResult::CrcMismatch);
    assert_eq!((world.told(newcomer), world.written(), world.end()), (vec![], vec![], None));
    world.drop_link(holder, false);
    assert_eq!(world.told(newcomer), [3]);
}

#[test]
fn one_newcomer_waits_and_who_calls_often_does_not_put_the_answer_off() {
    let (mut world, holder) = World::waiting();
    let first = world.calls(info("1.0"));
    world.pass(secs(3));
    let second = world.calls(info("1.0"));
    assert_eq!(world.closed_for(first), Some(Reason::Replaced));
    world.pass(secs(1));
    assert_eq!(world.closed_for(second), Some(Reason::HolderAnswers));
    assert_eq!((world.closed_for(holder), world.wires[&holder].probed), (None, 1));
}

#[test]
fn a_newcomer_that_goes_by_itself_changes_nothing() {
    let (mut world, holder) = World::downloading();
    let newcomer = world.calls(info("1.0"));
    world.drops(newcomer);
    world.pass(secs(10));
    assert_eq!((world.closed_for(holder), world.state()), (None, "Downloading"));
}

#[test]
fn sending_six_ends_the_claim_of_the_holder() {
    let (mut world, holder) = World::downloading();
    world.says_five(holder, DownloadResult::Verified);
    // It restarted without a FIN; what it said last is not destroyed by closing at once.
    let newcomer = world.calls(info("2.0"));
    assert_eq!((world.closed_for(holder), world.wires[&holder].probed), (None, 0));
    world.pass(secs(5));
    assert_eq!((world.closed_for(newcomer), world.told(newcomer)), (None, vec![]));
    world.drops(holder);
    assert_eq!(world.told(newcomer), [4]);
}

#[test]
fn a_holder_that_was_told_to_restart_and_does_not_close_is_closed() {
    let (mut world, holder) = World::downloading();
    world.says_five(holder, DownloadResult::Verified);
    let newcomer = world.calls(info("2.0"));
    world.pass(secs(8));
    assert_eq!((world.closed_for(holder), world.told(newcomer)), (Some(Reason::Replaced), vec![4]));
}

#[test]
fn a_newcomer_that_called_before_six_proves_nothing_about_what_comes_after() {
    let (mut world, holder) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(holder, DownloadResult::Verified);
    let newcomer = world.calls(info("1.0"));
    world.files_answer = Answers::Promptly;
    world.accounting_says(fettle_protocol::session::Transferred::Wholly);
    assert_eq!((world.told(holder), world.closed_for(newcomer)), (vec![6], Some(Reason::HolderAnswers)));
    world.drops(holder);
    assert_eq!(world.end(), None);
}

#[test]
fn a_newcomer_is_judged_when_the_holder_is_closed_at_its_deadline() {
    let (mut world, holder) = World::downloading();
    world.pass(mins(15) - secs(1));
    let newcomer = world.calls(info("1.0"));
    world.pass(secs(1));
    assert_eq!(world.closed_for(holder), Some(Reason::DeadlineExceeded));
    assert_eq!((world.end(), world.closed_for(newcomer)), (Some(Reason::TimedOut), None));
    assert!(world.api.status.holder.is_some());
}

// Two bridges: here is the newcomer.

#[test]
fn the_bridge_of_a_newcomer_asks_the_holder_and_tells_the_device_nothing() {
    let (mut world, link) = contending();
    world.grant(1);
    let [asked] = world.written().try_into().unwrap();
    assert_eq!(asked.session, SessionRecord::Contend { address: ADDRESS.to_owned() });
    world.pass(secs(9));
    assert_eq!((world.told(link), world.closed_for(link)), (vec![], None));
}

#[test]
fn a_holder_that_clears_its_session_has_yielded() {
    let (mut world, link) = contending();
    world.change(|status| status.holder = None);
    assert_eq!(world.api.status.holder.as_ref().unwrap().by, US);
    world.grant(1);
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_device_with_a_target_that_moves_here_settles() {
    let mut world = World::new();
    world.other_claims(OTHER);
    world.grant(1);
    let link = world.calls(info("1.0"));
    world.change(|status| status.holder = None);
    assert_eq!(world.told(link), []);
    world.pass(secs(5));
    assert_eq!(world.told(link), [3]);
}

#[test]
fn a_holder_that_clears_the_contender_stays_and_the_newcomer_is_closed() {
    let (mut world, link) = contending();
    world.change(|status| status.holder.as_mut().unwrap().contender = None);
    assert_eq!((world.closed_for(link), world.state()), (Some(Reason::HeldElsewhere), "over"));
}

#[test]
fn a_question_that_did_not_reach_the_record_is_asked_again() {
    let mut world = World::new();
    world.other_claims(OTHER);
    world.api_answers = Answers::Later;
    let link = world.calls(info("1.0"));
    world.change_unseen(|status| status.reported = Some(info("1.0")));
    world.write_is_answered();
    assert_eq!((world.closed_for(link), world.written()), (None, vec![]));
    world.write_is_answered();
    assert!(matches!(world.written()[..], [ref asked] if matches!(asked.session, SessionRecord::Contend { .. })));
    assert_eq!(world.closed_for(link), None);
}

#[test]
fn a_third_bridge_that_asks_later_is_the_one_that_is_answered() {
    let (mut world, link) = contending();
    world.other_contends(THIRD);
    assert_eq!(world.closed_for(link), Some(Reason::HeldElsewhere));
}

#[test]
fn a_claim_ends_with_its_lease() {
    let (mut world, link) = contending();
    world.pass(secs(12));
    // Nobody tells us that a Lease is over.
    world.api.alive.retain(|run| *run != OTHER);
    world.pass(secs(3));
    assert_eq!((world.closed_for(link), world.refreshed), (None, 2));
    assert_eq!(world.api.status.holder.as_ref().unwrap().by, US);
}

#[test]
fn a_device_whose_holder_never_answers_is_told_to_try_elsewhere() {
    let (mut world, link) = contending();
    world.pass(secs(19));
    assert_eq!(world.closed_for(link), None);
    world.pass(secs(1));
    assert_eq!((world.closed_for(link), world.state()), (Some(Reason::HeldElsewhere), "over"));
}

#[test]
fn a_second_connection_while_we_ask_takes_the_place_of_the_first_that_is_gone() {
    let (mut world, first) = contending();
    let second = world.calls(info("1.0"));
    world.drop_link(first, false);
    assert_eq!(world.state(), "Contending");
    world.change(|status| status.holder = None);
    assert_eq!((world.closed_for(second), world.state()), (None, "Idle"));
}

#[test]
fn a_device_that_is_illegal_here_does_not_disturb_the_holder() {
    let mut world = World::new();
    world.change(|status| status.model = Some("S5720".to_owned()));
    world.other_claims(OTHER);
    let link = world.calls(info("1.0"));
    assert_eq!((world.told(link), world.written()), (vec![2], vec![]));
    assert_eq!(world.api.status.reported, None);
}

#[test]
fn a_device_that_has_begun_is_asked_for_although_it_is_illegal_by_now() {
    let mut world = World::new();
    world.grant(1);
    world.change(|status| {
        status.upgrade = Some(crate::api::Upgrade { target: 1, phase: Phase::Restarting, end: None });
        status.legal = false;
    });
    world.other_claims(OTHER);
    world.calls(info("2.0"));
    let [asked] = world.written().try_into().unwrap();
    assert!(matches!(asked.session, SessionRecord::Contend { .. }));
}

// Two bridges: here is the holder.

#[test]
fn a_holder_probes_and_refuses_the_contender_where_its_connection_lives() {
    let (mut world, link) = World::waiting();
    world.other_contends(OTHER);
    assert_eq!((world.wires[&link].probed, world.written()), (1, vec![]));
    world.pass(secs(4));
    let [refused] = world.written().try_into().unwrap();
    assert_eq!(refused.session, SessionRecord::Refuse);
    assert_eq!(world.api.status.holder.as_ref().unwrap().contender, None);
    assert_eq!(world.counted, [Counted::Contention]);
    world.pass(mins(5));
    assert_eq!(world.written(), []);
}

#[test]
fn a_holder_whose_connection_is_dead_clears_its_session_at_once() {
    let (mut world, link) = World::waiting();
    world.other_contends(OTHER);
    world.pass(secs(3));
    world.drop_link(link, false);
    assert_eq!((&world.api.status.holder, world.state()), (&None, "over"));
}

#[test]
fn a_holder_that_is_away_clears_its_session_at_once_also_where_the_device_has_begun() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    assert!(world.api.status.holder.is_some());
    world.other_contends(OTHER);
    assert_eq!((&world.api.status.holder, world.end()), (&None, None));
}

#[test]
fn a_holder_that_has_sent_six_clears_its_session_as_soon_as_it_knows_what_became_of_it() {
    for (acknowledged, phase) in [(true, Phase::Restarting), (false, Phase::RestartLost)] {
        let (mut world, link) = World::downloading();
        world.says_five(link, DownloadResult::Verified);
        world.written();
        world.other_contends(OTHER);
        // The driver closes within 5 s what has been told to restart.
        assert_eq!((world.wires[&link].probed, world.written()), (0, vec![]));
        world.drop_link(link, acknowledged);
        assert_eq!((&world.api.status.holder, world.phase(), world.end()), (&None, Some(phase), None));
        assert_eq!(world.written().len(), 1);
    }
}

#[test]
fn a_six_that_did_not_reach_the_device_is_given_again_by_whoever_meets_it_and_by_nobody_after_that() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drop_link(link, false);
    world.other_contends(OTHER);
    assert_eq!(world.phase(), Some(Phase::RestartLost));
    // It knows no more than what is on record.
    world.bridge_restarts();
    world.written();
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    world.says_five(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase(), world.end()), (vec![3, 6], Some(Phase::Restarting), None));
    world.bridge_restarts();
    world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.end(), Some(Reason::CameBackUnchanged));
}

#[test]
fn a_device_that_restarted_although_the_six_seemed_lost_goes_on_and_is_not_flashed_again_should_it_fall_back() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drop_link(link, false);
    world.other_contends(OTHER);
    world.bridge_restarts();
    let link = world.calls(info("2.0"));
    world.pass(secs(5));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!((world.told(link), world.phase()), (vec![4, 8], Some(Phase::Applying)));
    world.bridge_restarts();
    world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!(world.end(), Some(Reason::CameBackUnchanged));
}

#[test]
fn a_contender_that_dies_is_not_refused() {
    let (mut world, _) = World::waiting();
    world.other_contends(OTHER);
    world.api.alive.retain(|run| *run != OTHER);
    world.see();
    world.pass(mins(1));
    assert_eq!(world.written(), []);
}

#[test]
fn a_contender_is_answered_also_while_the_device_has_become_illegal_in_its_download() {
    let (mut world, link) = World::downloading();
    world.other_contends(OTHER);
    world.change(|status| status.legal = false);
    world.pass(secs(30));
    assert_eq!((world.told(link), world.api.status.holder.as_ref().unwrap().contender), (vec![], None));
}

#[test]
fn a_refusal_that_conflicts_is_tried_again() {
    let (mut world, link) = World::waiting();
    world.other_contends(OTHER);
    world.api_answers = Answers::Later;
    world.pass(secs(4));
    world.change_unseen(|status| status.applied = Some("A".to_owned()));
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    world.pass(secs(4));
    assert_eq!(world.api.status.holder.as_ref().unwrap().contender, None);
    assert_eq!((world.wires[&link].probed, world.closed_for(link)), (2, None));
}

#[test]
fn what_another_bridge_holds_is_given_up_with_what_is_outstanding() {
    let (mut world, link) = World::downloading();
    world.other_claims(OTHER);
    assert_eq!((world.closed_for(link), world.state()), (Some(Reason::HeldElsewhere), "over"));
    world.pass(mins(20));
    assert_eq!((world.written(), world.end()), (vec![], None));
}

#[test]
fn an_end_that_is_not_written_is_the_new_holders_to_say() {
    let (mut world, link) = World::downloading();
    world.api_answers = Answers::Later;
    world.says_five(link, DownloadResult::CrcMismatch);
    world.change_unseen(|status| {
        let address = ADDRESS.to_owned();
        status.holder = Some(Holder { by: OTHER, address, dismissed: false, contender: None });
    });
    world.api_answers = Answers::Promptly;
    world.write_is_answered();
    // Nothing but a question is written.
    let [asked] = world.written().try_into().unwrap();
    assert!(matches!(asked.session, SessionRecord::Contend { .. }), "{asked:?}");
    assert_eq!(world.end(), None);
}

#[test]
fn nothing_is_sent_by_who_does_not_hold_the_device_on_record() {
    let (mut world, link) = World::waiting();
    world.files_answer = Answers::Later;
    world.grant(1);
    let first = world.preparing.unwrap();
    world.api_answers = Answers::Later;
    world.change(|status| status.holder = None);
    world.preparing = Some(first);
    world.file_is_ready();
    assert_eq!(world.told(link), []);
    world.files_answer = Answers::Promptly;
    world.write_is_answered();
    assert_eq!(world.told(link), [3]);

    let (mut world, link) = World::downloading();
    world.files_answer = Answers::Later;
    world.says_five(link, DownloadResult::Verified);
    world.api_answers = Answers::Later;
    world.change(|status| status.holder = None);
    world.accounting_says(fettle_protocol::session::Transferred::Wholly);
    assert_eq!(world.told(link), []);
}

// A device that moves.

#[test]
fn a_device_that_was_flashed_through_another_bridge_is_not_flashed_again_here() {
    let (mut world, link) = contending();
    // This bridge sees the target before it has begun.
    world.grant(1);
    world.change(|status| {
        status.upgrade = Some(crate::api::Upgrade { target: 1, phase: Phase::Restarting, end: None });
    });
    world.change(|status| status.holder = None);
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::CameBackUnchanged), vec![]));
}

#[test]
fn a_push_through_another_bridge_counts_as_one_of_the_two() {
    let (mut world, link) = contending();
    world.grant_as(1, |target| target.firmware = None);
    world.change(|status| {
        status.upgrade = Some(crate::api::Upgrade { target: 1, phase: Phase::Applying, end: None });
    });
    world.change(|status| status.holder = None);
    world.pass(secs(5));
    world.says_seven(link, DownloadResult::Verified);
    assert_eq!(world.told(link), [4, 8]);
    world.drops(link);
    let link = world.calls(info("1.0"));
    world.pass(secs(5));
    assert_eq!((world.end(), world.told(link)), (Some(Reason::ResultLost), vec![]));
}

#[test]
fn a_device_that_left_in_its_restart_for_another_bridge_is_that_ones() {
    let (mut world, link) = World::downloading();
    world.says_five(link, DownloadResult::Verified);
    world.drops(link);
    world.other_contends(OTHER);
    world.other_claims(OTHER);
    world.written();
    world.pass(mins(20));
    assert_eq!((world.written(), world.end(), world.state()), (vec![], None, "over"));
}
