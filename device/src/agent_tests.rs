use fettle_protocol::datum::Transfer;
use proptest::prelude::*;

use super::*;

fn identity(vocabulary: Vocabulary) -> Identity {
    Identity {
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        model: "S5700".to_owned(),
        serial: Some("SN1".to_owned()),
        vocabulary,
        withheld: Capabilities::default(),
        scheduled_reply: ScheduledReply::Applied,
        late_results: false,
    }
}

fn facts() -> Facts {
    Facts { version: "4.9.0".to_owned(), config: Some("16+1f3a09c2".to_owned()) }
}

fn download() -> Download {
    let location = Location {
        transfer: Transfer::Ftp,
        server: [127, 0, 0, 1],
        path: "p".to_owned(),
        file: "f".to_owned(),
        user: "u".to_owned(),
        password: "w".to_owned(),
        port: None,
        url: None,
        log_key: None,
    };
    Download::base(location, 7)
}

fn received(message: &ServerMessage) -> Input {
    Input::Received(message.to_frame())
}

/// All effects but those for the journal.
fn deeds(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Note(_))).collect()
}

fn violations(effects: &[Effect]) -> Vec<&Violation> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Note(Event::Violation(violation)) => Some(violation),
            _ => None,
        })
        .collect()
}

fn connected(vocabulary: Vocabulary) -> Agent {
    let mut agent = Agent::new(identity(vocabulary));
    agent.on(Input::Connected(facts()));
    agent
}

const OK_5: DeviceMessage =
    DeviceMessage::VersionDownloaded(DownloadResult::Verified, ErrorDetail { code: None, text: None });
const OK_7: DeviceMessage =
    DeviceMessage::ProfileDownloaded(DownloadResult::Verified, ErrorDetail { code: None, text: None });
const OK_9: DeviceMessage =
    DeviceMessage::ProfileUpgraded(ExecutionResult::Success, ErrorDetail { code: None, text: None });

#[test]
fn a_strict_device_says_who_it_is_in_three_data_and_an_extended_one_in_six() {
    let numbers = |vocabulary| {
        let effects = Agent::new(identity(vocabulary)).on(Input::Connected(facts()));
        let [Effect::Send(message)] = &effects[..] else { panic!("{effects:?}") };
        message.to_frame().data.iter().map(|(datum, _)| *datum).collect::<Vec<_>>()
    };
    assert_eq!(numbers(Vocabulary::Strict), [1, 2, 3]);
    assert_eq!(numbers(Vocabulary::Extended), [1, 2, 3, 64, 65, 66]);
}

#[test]
fn the_version_path_is_3_5_6_and_nothing_in_it_is_a_violation() {
    let mut agent = connected(Vocabulary::Strict);
    let effects = agent.on(received(&ServerMessage::DownloadVersion(download())));
    assert_eq!(violations(&effects), Vec::<&Violation>::new());
    assert_eq!(deeds(effects), [Effect::Fetch(FileKind::Image, Box::new(download()))]);
    assert_eq!(agent.on(Input::Fetched(FileKind::Image, Fetched::Verified)), [Effect::Send(OK_5)]);
    let effects = agent.on(received(&ServerMessage::Restart));
    assert_eq!(violations(&effects), Vec::<&Violation>::new());
    assert_eq!(deeds(effects), [Effect::Restart]);
}

#[test]
fn the_profile_path_is_4_7_8_9() {
    let mut agent = connected(Vocabulary::Strict);
    let effects = agent.on(received(&ServerMessage::DownloadProfile(download())));
    assert_eq!(deeds(effects), [Effect::Fetch(FileKind::Profile, Box::new(download()))]);
    assert_eq!(agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified)), [Effect::Send(OK_7)]);
    let effects = agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
    assert_eq!(violations(&effects), Vec::<&Violation>::new());
    assert_eq!(deeds(effects), [Effect::Apply]);
    assert_eq!(agent.on(Input::Applied(Ok(facts()))), [Effect::Send(OK_9)]);
}

#[test]
fn an_extended_device_says_what_it_now_runs_before_it_says_that_this_is_so() {
    let new = Facts { config: Some("17+77c0d1e2".to_owned()), ..facts() };
    for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
        let mut agent = connected(vocabulary);
        let mut kinds = |facts: &Facts| {
            agent.on(received(&ServerMessage::DownloadProfile(download())));
            agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
            agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
            let effects = agent.on(Input::Applied(Ok(facts.clone())));
            let kind = |effect: &Effect| match effect {
                Effect::Send(message) => message.to_frame().message,
                other => panic!("{other:?}"),
            };
            effects.iter().map(kind).collect::<Vec<_>>()
        };
        let expected: &[u8] = if vocabulary == Vocabulary::Extended { &[1, 9] } else { &[9] };
        assert_eq!(kinds(&new), expected);
        assert_eq!(kinds(&new), [9], "nothing has changed the second time");
    }
}

#[test]
fn damage_and_failure_are_told_apart() {
    for (fetched, result) in [
        (Fetched::CrcMismatch, DownloadResult::CrcMismatch),
        (Fetched::Failed("no such file".to_owned()), DownloadResult::Failed(2)),
    ] {
        let mut agent = connected(Vocabulary::Strict);
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        assert_eq!(
            agent.on(Input::Fetched(FileKind::Image, fetched)),
            [Effect::Send(DeviceMessage::VersionDownloaded(result, ErrorDetail::default()))]
        );
    }
}

#[test]
fn only_an_extended_device_says_why_something_failed_and_that_it_has_restarted() {
    for (vocabulary, reason) in [(Vocabulary::Strict, None), (Vocabulary::Extended, Some("flash full".to_owned()))] {
        let mut agent = connected(vocabulary);
        agent.on(received(&ServerMessage::DownloadProfile(download())));
        agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
        agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
        let detail = ErrorDetail { code: None, text: reason };
        assert_eq!(
            agent.on(Input::Applied(Err("flash full".to_owned()))),
            [Effect::Send(DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(1), detail))]
        );
        agent.on(Input::Disconnected);
        agent.on(Input::Restarted);
        let said = agent.on(Input::Connected(facts()));
        let complete = said.contains(&Effect::Send(DeviceMessage::RestartComplete));
        assert_eq!(complete, vocabulary == Vocabulary::Extended);
        agent.on(Input::Disconnected);
        assert_eq!(agent.on(Input::Connected(facts())).len(), 1, "once");
    }
}

#[test]
fn a_profile_is_applied_though_the_connection_is_lost_and_9_follows_the_next_message_1() {
    let mut agent = connected(Vocabulary::Strict);
    agent.on(received(&ServerMessage::DownloadProfile(download())));
    agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
    agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
    assert_eq!(agent.on(Input::Disconnected), []);
    assert_eq!(agent.on(Input::Applied(Ok(facts()))), []);
    let effects = agent.on(Input::Connected(facts()));
    assert!(matches!(effects[..], [Effect::Send(DeviceMessage::Information(_)), Effect::Send(OK_9)]), "{effects:?}");
}

#[test]
fn a_transfer_is_given_up_with_its_connection_unless_the_device_is_told_to_be_late() {
    for (late_results, given_up) in [(false, vec![Effect::Abandon]), (true, vec![])] {
        let mut agent = Agent::new(Identity { late_results, ..identity(Vocabulary::Strict) });
        agent.on(Input::Connected(facts()));
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        assert_eq!(agent.on(Input::Disconnected), given_up);
        if late_results {
            agent.on(Input::Fetched(FileKind::Image, Fetched::Verified));
            let effects = agent.on(Input::Connected(facts()));
            assert_eq!(effects[1..], [Effect::Send(OK_5)]);
        }
    }
}

#[test]
fn a_result_of_an_earlier_connection_allows_no_restart_on_this_one() {
    let mut agent = connected(Vocabulary::Strict);
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    agent.on(Input::Fetched(FileKind::Image, Fetched::Verified));
    agent.on(Input::Disconnected);
    agent.on(Input::Connected(facts()));
    let effects = agent.on(received(&ServerMessage::Restart));
    assert_eq!(violations(&effects), [&Violation::RestartWithoutDownload]);
    assert_eq!(deeds(effects), [], "ignored");
    let effects = agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
    assert_eq!(violations(&effects), [&Violation::UpgradeWithoutDownload]);
    let refusal = DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(1), ErrorDetail::default());
    assert_eq!(deeds(effects), [Effect::Send(refusal)]);
}

#[test]
fn a_command_into_an_outstanding_one_is_a_violation_and_replaces_a_transfer() {
    let mut agent = connected(Vocabulary::Strict);
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    let effects = agent.on(received(&ServerMessage::DownloadProfile(download())));
    assert_eq!(violations(&effects), [&Violation::CommandWhileBusy { message: 4 }]);
    assert_eq!(deeds(effects), [Effect::Abandon, Effect::Fetch(FileKind::Profile, Box::new(download()))]);
}

#[test]
fn what_an_earlier_connection_or_a_schedule_began_is_not_held_against_the_server() {
    let mut agent = Agent::new(Identity { late_results: true, ..identity(Vocabulary::Strict) });
    agent.on(Input::Connected(facts()));
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    agent.on(Input::Disconnected);
    agent.on(Input::Connected(facts()));
    let effects = agent.on(received(&ServerMessage::DownloadVersion(download())));
    assert_eq!(violations(&effects), Vec::<&Violation>::new());
    agent.on(Input::Fetched(FileKind::Image, Fetched::Verified));
    assert_eq!(agent.on(Input::ScheduledTime), [Effect::Apply]);
    let effects = agent.on(received(&ServerMessage::DownloadVersion(download())));
    assert_eq!(violations(&effects), Vec::<&Violation>::new());
}

#[test]
fn what_comes_while_a_profile_is_applied_is_refused() {
    let mut agent = connected(Vocabulary::Strict);
    agent.on(received(&ServerMessage::DownloadProfile(download())));
    agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
    agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
    let refused = DeviceMessage::VersionDownloaded(DownloadResult::Failed(2), ErrorDetail::default());
    assert_eq!(deeds(agent.on(received(&ServerMessage::DownloadVersion(download())))), [Effect::Send(refused)]);
    let again = agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)));
    assert_eq!(deeds(again), [], "one 9 answers both");
    assert_eq!(agent.on(Input::Applied(Ok(facts()))), [Effect::Send(OK_9)]);
}

#[test]
fn message_2_ends_the_connection_whatever_is_going_on() {
    let mut agent = connected(Vocabulary::Strict);
    assert_eq!(deeds(agent.on(received(&ServerMessage::Interrupt(None)))), [Effect::HangUp(HangUp::Told(None))]);
    let mut capable = connected(Vocabulary::Extended);
    let told = capable.on(received(&ServerMessage::Interrupt(Some(300))));
    assert_eq!(deeds(told), [Effect::HangUp(HangUp::Told(Some(300)))]);
    let effects = agent.on(Input::Malformed(FrameError::TrailingBytes { message: 3, extra: 1 }));
    assert_eq!(deeds(effects), [Effect::HangUp(HangUp::Malformed)]);
}

#[test]
fn a_scheduled_profile_is_applied_at_its_time_or_when_the_device_is_done_with_what_it_does() {
    let time: jiff::civil::DateTime = "2026-12-01 03:00:00".parse().unwrap();
    for reply in [ScheduledReply::Applied, ScheduledReply::Accepted, ScheduledReply::AcceptedOnly] {
        let mut agent = Agent::new(Identity { scheduled_reply: reply, ..identity(Vocabulary::Strict) });
        agent.on(Input::Connected(facts()));
        agent.on(received(&ServerMessage::DownloadProfile(download())));
        agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
        let effects = deeds(agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Time(time)))));
        match reply {
            ScheduledReply::Applied => assert_eq!(effects, [Effect::Schedule(time)]),
            ScheduledReply::Accepted | ScheduledReply::AcceptedOnly => {
                assert_eq!(effects, [Effect::Schedule(time), Effect::Send(OK_9)]);
            }
        }
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        assert_eq!(agent.on(Input::ScheduledTime), [], "one thing at a time");
        let effects = agent.on(Input::Fetched(FileKind::Image, Fetched::Verified));
        assert_eq!(effects, [Effect::Send(OK_5), Effect::Apply]);
        let said = agent.on(Input::Applied(Ok(facts())));
        match reply {
            ScheduledReply::Applied | ScheduledReply::Accepted => assert_eq!(said, [Effect::Send(OK_9)]),
            ScheduledReply::AcceptedOnly => assert_eq!(said, []),
        }
    }
}

/// An agent that waits for this time to put a profile into force.
fn scheduled(reply: ScheduledReply) -> Agent {
    let mut agent = Agent::new(Identity { scheduled_reply: reply, ..identity(Vocabulary::Strict) });
    agent.on(Input::Connected(facts()));
    agent.on(received(&ServerMessage::DownloadProfile(download())));
    agent.on(Input::Fetched(FileKind::Profile, Fetched::Verified));
    let time = UpgradeAt::Time("2026-12-01 03:00:00".parse().unwrap());
    assert_eq!(violations(&agent.on(received(&ServerMessage::UpgradeProfile(time)))), Vec::<&Violation>::new());
    agent
}

#[test]
fn a_device_that_has_accepted_its_time_says_all_the_same_that_it_failed() {
    for reply in [ScheduledReply::Applied, ScheduledReply::Accepted, ScheduledReply::AcceptedOnly] {
        let mut agent = scheduled(reply);
        agent.on(Input::ScheduledTime);
        let failed = DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(1), ErrorDetail::default());
        assert_eq!(agent.on(Input::Applied(Err("no".to_owned()))), [Effect::Send(failed)]);
    }
}

#[test]
fn a_later_profile_or_8_takes_the_place_of_what_waits_for_its_time() {
    let mut agent = scheduled(ScheduledReply::Accepted);
    let fetch = Effect::Fetch(FileKind::Profile, Box::new(download()));
    let effects = deeds(agent.on(received(&ServerMessage::DownloadProfile(download()))));
    assert_eq!(effects, [Effect::Unschedule, fetch]);
    let mut agent = scheduled(ScheduledReply::Accepted);
    let effects = deeds(agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately))));
    assert_eq!(effects, [Effect::Unschedule, Effect::Apply]);
    // Whatever the profile is that is put into force by then: it is asked for, and answered.
    let mut agent = scheduled(ScheduledReply::AcceptedOnly);
    agent.on(Input::ScheduledTime);
    assert_eq!(deeds(agent.on(received(&ServerMessage::UpgradeProfile(UpgradeAt::Immediately)))), []);
    assert_eq!(agent.on(Input::Applied(Ok(facts()))), [Effect::Send(OK_9)]);
}

#[test]
fn what_waits_for_its_time_outlives_connections_restarts_and_losses_of_power() {
    for boot in [Input::Restarted, Input::PoweredOn] {
        let mut agent = scheduled(ScheduledReply::Applied);
        agent.on(Input::Disconnected);
        agent.on(boot.clone());
        assert_eq!(agent.on(Input::ScheduledTime), [Effect::Apply], "without a connection");
        agent.on(Input::Applied(Ok(facts())));
        let effects = agent.on(Input::Connected(facts()));
        assert!(
            matches!(effects[..], [Effect::Send(DeviceMessage::Information(_)), Effect::Send(OK_9)]),
            "{effects:?}"
        );
        // Also where its time came while something else was done.
        let mut agent = scheduled(ScheduledReply::Applied);
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        agent.on(Input::ScheduledTime);
        assert_eq!(agent.on(boot), [Effect::Apply]);
    }
}

#[test]
fn a_transfer_that_is_given_up_makes_way_for_the_profile_whose_time_has_come() {
    let mut agent = scheduled(ScheduledReply::Applied);
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    agent.on(Input::ScheduledTime);
    assert_eq!(agent.on(Input::Disconnected), [Effect::Abandon, Effect::Apply]);
}

#[test]
fn what_was_fetched_ahead_is_kept_for_as_long_as_the_connection_stands() {
    for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
        let mut agent = connected(vocabulary);
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        agent.on(Input::Fetched(FileKind::Image, Fetched::Verified));
        for _ in 0..3 * 24 * 60 {
            agent.on(Input::KeepAliveDue);
        }
        let effects = agent.on(received(&ServerMessage::Restart));
        assert_eq!(violations(&effects), Vec::<&Violation>::new());
        assert_eq!(deeds(effects), [Effect::Restart]);
    }
}

#[test]
fn progress_and_keep_alive_are_said_by_extended_devices_alone() {
    for vocabulary in [Vocabulary::Strict, Vocabulary::Extended] {
        let mut agent = connected(vocabulary);
        let said = usize::from(vocabulary == Vocabulary::Extended);
        assert_eq!(agent.on(Input::KeepAliveDue).len(), said);
        assert_eq!(agent.on(Input::ProgressDue(None)), [], "nothing is being done");
        agent.on(received(&ServerMessage::DownloadVersion(download())));
        assert_eq!(agent.on(Input::KeepAliveDue), []);
        assert_eq!(agent.on(Input::ProgressDue(Some(50))).len(), said);
        agent.on(Input::Disconnected);
        assert_eq!(agent.on(Input::KeepAliveDue), []);
    }
    let withheld = Capabilities::PROGRESS.with(Capabilities::KEEP_ALIVE);
    let mut agent = Agent::new(Identity { withheld, ..identity(Vocabulary::Extended) });
    agent.on(Input::Connected(facts()));
    assert_eq!(agent.on(Input::KeepAliveDue), [], "not announced");
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    assert_eq!(agent.on(Input::ProgressDue(Some(50))), [], "not announced");
}

fn any_input() -> impl Strategy<Value = Input> {
    let file = prop_oneof![Just(FileKind::Image), Just(FileKind::Profile)];
    let fetched =
        prop_oneof![Just(Fetched::Verified), Just(Fetched::CrcMismatch), Just(Fetched::Failed("reason".to_owned()))];
    let done = prop_oneof![Just(Ok(())), Just(Err("reason".to_owned()))];
    let command = prop_oneof![
        Just(ServerMessage::Interrupt(None)),
        Just(ServerMessage::DownloadVersion(download())),
        Just(ServerMessage::DownloadProfile(Download { config: Some("c".to_owned()), ..download() })),
        Just(ServerMessage::Restart),
        Just(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)),
        Just(ServerMessage::UpgradeProfile(UpgradeAt::Time("2026-12-01 03:00:00".parse().unwrap()))),
        Just(ServerMessage::UploadLog(download().location)),
        any::<u8>().prop_map(ServerMessage::Unknown),
    ];
    prop_oneof![
        4 => command.prop_map(|message| received(&message)),
        1 => (any::<u8>(), prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..8)), 0..5))
            .prop_map(|(message, data)| Input::Received(Frame { message, data })),
        1 => Just(Input::Connected(facts())),
        1 => Just(Input::Disconnected),
        2 => (file, fetched).prop_map(|(file, fetched)| Input::Fetched(file, fetched)),
        1 => done.clone().prop_map(|done| Input::Applied(done.map(|()| facts()))),
        1 => done.prop_map(Input::Uploaded),
        1 => Just(Input::ScheduledTime),
        1 => Just(Input::Restarted),
        1 => Just(Input::PoweredOn),
        1 => Just(Input::ProgressDue(Some(1))),
        1 => Just(Input::KeepAliveDue),
    ]
}

proptest! {
    /// Whatever happens to it, in whatever order.
    #[test]
    fn a_strict_device_never_says_anything_outside_the_tables(
        inputs in prop::collection::vec(any_input(), 0..60),
        late_results in any::<bool>(),
    ) {
        let mut agent = Agent::new(Identity { late_results, ..identity(Vocabulary::Strict) });
        for input in inputs {
            for effect in agent.on(input) {
                let Effect::Send(message) = effect else { continue };
                let frame = message.to_frame();
                let numbers: Vec<u8> = frame.data.iter().map(|(datum, _)| *datum).collect();
                let expected: &[u8] = match frame.message {
                    1 => &[1, 2, 3],
                    5 | 7 => &[10],
                    9 | 11 => &[13],
                    other => return Err(TestCaseError::fail(format!("said {other}"))),
                };
                prop_assert_eq!(&numbers[..], expected);
            }
        }
    }

    /// An abandoned or refused command starts nothing: what runs is what was last begun.
    #[test]
    fn no_two_things_are_ever_done_at_once(inputs in prop::collection::vec(any_input(), 0..60)) {
        let mut agent = Agent::new(identity(Vocabulary::Strict));
        let mut running = false;
        for input in inputs {
            // Only what runs can end.
            if matches!(input, Input::Fetched(..) | Input::Applied(_) | Input::Uploaded(_)) {
                if !running {
                    continue;
                }
                running = false;
            }
            if matches!(input, Input::Restarted | Input::PoweredOn) {
                running = false;
            }
            for effect in agent.on(input) {
                match effect {
                    Effect::Fetch(..) | Effect::Apply | Effect::Upload(_) => {
                        prop_assert!(!running, "begun while another runs");
                        running = true;
                    }
                    Effect::Abandon => running = false,
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn an_announcement_is_noted_and_nothing_is_done_about_it() {
    let release = Some(fettle_protocol::message::Release { version: "5.2.1".to_owned(), size: Some(7) });
    let mut agent = connected(Vocabulary::Extended);
    for announcement in [ServerMessage::Announcement(release.clone()), ServerMessage::Announcement(None)] {
        let effects = agent.on(received(&announcement));
        assert!(
            matches!(&effects[..], [Effect::Note(Event::Received(noted))] if noted.announced.is_some()),
            "{effects:?}"
        );
    }
    agent.on(received(&ServerMessage::DownloadVersion(download())));
    let effects = agent.on(received(&ServerMessage::Announcement(release.clone())));
    assert_eq!(violations(&effects), [&Violation::CommandWhileBusy { message: 35 }], "into a command");
    let mut agent = connected(Vocabulary::Strict);
    let effects = agent.on(received(&ServerMessage::Announcement(release.clone())));
    assert_eq!(violations(&effects), [&Violation::UnknownMessage { message: 35 }]);
    let withheld = Identity { withheld: Capabilities::ANNOUNCEMENT, ..identity(Vocabulary::Extended) };
    let mut agent = Agent::new(withheld);
    agent.on(Input::Connected(facts()));
    let effects = agent.on(received(&ServerMessage::Announcement(release)));
    assert_eq!(violations(&effects), [&Violation::UnknownMessage { message: 35 }]);
}
