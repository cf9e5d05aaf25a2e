//! Each thing that can go wrong, does.

use fettle_device::record::{Condition, Record};
use fettle_device::{Fault, FaultKind, Moment, Step};
use fettle_protocol::datum::Transfer;
use fettle_protocol::message::UpgradeAt;
use fettle_protocol::{Decoder, DeviceMessage, MessageError, ServerMessage};

use crate::support::{Ended, Scene, Talk, image, within};

const PROFILE: &[u8] = b"hostname sw-berlin-014\n";

async fn scene(faults: &[&str]) -> Scene {
    Scene::set(|spec| spec.faults = faults.iter().map(|fault| fault.parse().unwrap()).collect()).await
}

impl Scene {
    async fn image(&self, talk: &mut Talk) -> u32 {
        talk.order_image(self.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"))).await
    }

    async fn say_image(&self, talk: &mut Talk) {
        talk.say(ServerMessage::DownloadVersion(self.files.put(Transfer::Ftp, "image.bin", &image("5.2.1")))).await;
    }

    async fn profile(&self, talk: &mut Talk) -> u32 {
        talk.order_profile(self.files.put(Transfer::Ftp, "profile.cfg", PROFILE)).await
    }

    /// A device that is as if nothing had been: takes an image, and comes up with it.
    async fn recovers(self, mut talk: Talk) {
        assert_eq!(self.image(&mut talk).await, 0);
        talk.say(ServerMessage::Restart).await;
        assert_eq!(talk.end().await, Ended::Finished);
        let (_talk, information) = self.bridge.greet().await;
        assert_eq!(information.version, "5.2.1");
        self.close().await;
    }

    fn downloads(&self) -> u64 {
        self.device.journal().counters().downloads
    }
}

#[tokio::test]
async fn connect_dropped_before_is_no_connection_and_after_one_without_a_word() {
    let scene =
        scene(&["connect=dropConnection:before", "connect=dropConnection:after", "connect=resetConnection:after"])
            .await;
    assert_eq!(scene.bridge.accept().await.end().await, Ended::Finished);
    assert_eq!(scene.bridge.accept().await.end().await, Ended::Reset);
    let (talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.device.journal().counters().faults, 3);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn information_dropped_before_and_after() {
    let scene = scene(&["information=dropConnection:before", "information=dropConnection:after"]).await;
    assert_eq!(scene.bridge.accept().await.end().await, Ended::Finished);
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(talk.end().await, Ended::Finished);
    let (talk, _) = scene.bridge.greet().await;
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_download_dropped_before_has_not_happened_and_after_it_has() {
    for (fault, downloads) in [
        ("download3=dropConnection:before", 0),
        ("download3=dropConnection:after", 1),
        ("result5=dropConnection:before", 1),
    ] {
        let scene = scene(&[fault]).await;
        let (mut talk, _) = scene.bridge.greet().await;
        scene.say_image(&mut talk).await;
        assert_eq!(talk.end().await, Ended::Finished, "{fault}");
        let (talk, information) = scene.bridge.greet().await;
        assert_eq!(information.version, "4.9.0");
        assert_eq!(scene.downloads(), downloads, "{fault}");
        scene.recovers(talk).await;
    }
}

#[tokio::test]
async fn a_result_dropped_after_has_been_said() {
    let scene = scene(&["result5=resetConnection:after"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.image(&mut talk).await, 0);
    assert_eq!(talk.end().await, Ended::Reset);
    let (talk, _) = scene.bridge.greet().await;
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_restart_dropped_before_or_refused_does_not_happen() {
    let scene = scene(&["restart6=refuse", "restart6=dropConnection:before"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.image(&mut talk).await, 0);
    talk.say(ServerMessage::Restart).await;
    talk.say(ServerMessage::Restart).await;
    assert_eq!(talk.end().await, Ended::Finished);
    let (talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "4.9.0");
    assert_eq!(scene.device.journal().counters().restarts, 0);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn an_application_dropped_before_is_forgotten_and_after_it_is_told_on_the_next_connection() {
    for (moment, applied) in [(Moment::Before, false), (Moment::After, true)] {
        let scene =
            Scene::set(|spec| spec.faults = vec![Fault::once(Step::Apply8, FaultKind::DropConnection(moment))]).await;
        let (mut talk, _) = scene.bridge.greet().await;
        assert_eq!(scene.profile(&mut talk).await, 0);
        talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
        assert_eq!(talk.end().await, Ended::Finished);
        let (mut talk, _) = scene.bridge.greet().await;
        if applied {
            assert_eq!(talk.result(9).await, 0);
        }
        assert_eq!(scene.device.config().is_some(), applied);
        scene.recovers(talk).await;
    }
}

#[tokio::test]
async fn a_result_is_lost_and_the_thing_is_done_all_the_same() {
    let scene = scene(&["result9=loseResult", "result5=loseResult"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.profile(&mut talk).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
    within("the application", scene.device.wait_until(|record| record.config().is_some())).await;
    // What comes next is the answer to what comes next.
    assert_eq!(scene.profile(&mut talk).await, 0);
    scene.say_image(&mut talk).await;
    within("the download", scene.device.wait_until(|record| record.journal().counters().downloads == 3)).await;
    assert_eq!(scene.profile(&mut talk).await, 0);
    assert_eq!(scene.device.journal().results(9), []);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_download_is_damaged_fails_or_is_only_claimed() {
    for (step, message) in [("download3", 5), ("download4", 7)] {
        for (fault, result, downloads) in [
            ("corrupt", 1, 0),
            ("failDownload", 2, 0),
            ("refuse", 2, 0),
            ("claimWithoutDownload", 0, 0),
            ("slow:5ms", 0, 1),
            ("throttle:10000000", 0, 1),
        ] {
            let scene = scene(&[&format!("{step}={fault}")]).await;
            let (mut talk, _) = scene.bridge.greet().await;
            let told = if message == 5 { scene.image(&mut talk).await } else { scene.profile(&mut talk).await };
            assert_eq!((told, scene.downloads()), (result, downloads), "{step}={fault}");
            scene.recovers(talk).await;
        }
    }
}

#[tokio::test]
async fn a_device_that_only_claimed_a_download_comes_back_with_what_it_had() {
    let scene = scene(&["download3=claimWithoutDownload"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.image(&mut talk).await, 0);
    talk.say(ServerMessage::Restart).await;
    let (talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "4.9.0");
    assert_eq!(scene.device.journal().flashes(), []);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn an_application_and_an_upload_are_refused() {
    let scene = scene(&["apply8=refuse", "upload10=refuse"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.profile(&mut talk).await, 0);
    assert_eq!(talk.order_upgrade().await, 1);
    let location = scene.files.location(Transfer::Tftp, "device.log");
    talk.say(ServerMessage::UploadLog(location.clone())).await;
    assert_eq!(talk.result(11).await, 1);
    assert!(!scene.files.path("a1/device.log").exists());
    talk.say(ServerMessage::UploadLog(location)).await;
    assert_eq!(talk.result(11).await, 0);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_device_comes_back_with_the_old_or_with_a_third_version() {
    let scene = scene(&["boot=comeBackOld", "boot=comeBackWith:5.0.0"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    for expected in ["4.9.0", "5.0.0"] {
        assert_eq!(scene.image(&mut talk).await, 0);
        talk.say(ServerMessage::Restart).await;
        assert_eq!(talk.end().await, Ended::Finished);
        let (next, information) = scene.bridge.greet().await;
        assert_eq!(information.version, expected);
        talk = next;
    }
    assert_eq!(scene.device.journal().flashes().len(), 2, "both were written");
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_device_vanishes_until_its_power_is_switched_on() {
    for fault in ["information=vanish", "download3=vanish", "restart6=vanish", "boot=vanish"] {
        let scene = scene(&[fault]).await;
        let mut talk = scene.bridge.accept().await;
        let mut version = "4.9.0";
        if fault != "information=vanish" {
            talk.hear_information().await;
            if fault == "download3=vanish" {
                scene.say_image(&mut talk).await;
            } else {
                assert_eq!(scene.image(&mut talk).await, 0);
                talk.say(ServerMessage::Restart).await;
            }
        }
        if fault == "boot=vanish" {
            version = "5.2.1";
        }
        assert_eq!(talk.end().await, Ended::Finished);
        within("it to vanish", scene.device.wait_until(|record| record.condition() == Condition::Vanished)).await;
        scene.device.power_on();
        let (talk, information) = scene.bridge.greet().await;
        assert_eq!(information.version, version, "{fault}");
        scene.recovers(talk).await;
    }
}

#[tokio::test]
async fn a_silent_device_hears_nothing_and_notices_the_end() {
    for fault in ["connect=silent", "information=silent"] {
        let scene = scene(&[fault]).await;
        let mut talk = scene.bridge.accept().await;
        scene.say_image(&mut talk).await;
        within("the fault", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
        drop(talk);
        let (talk, _) = scene.bridge.greet().await;
        let journal = scene.device.journal();
        assert_eq!((journal.counters().received(3), journal.counters().sent(1)), (0, 1), "{fault}");
        scene.recovers(talk).await;
    }
}

#[tokio::test]
async fn a_half_open_device_reads_nothing_until_its_connection_is_taken_from_it() {
    let scene = scene(&["result5=halfOpen"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.say_image(&mut talk).await;
    within("the fault", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    talk.say(ServerMessage::Interrupt(None)).await;
    drop(talk);
    assert!(scene.device.read(Record::is_connected), "it has not noticed");
    scene.device.reconnect();
    let (talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.device.journal().counters().received(2), 0);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_device_freezes_before_a_step_and_goes_on_when_it_is_thawed() {
    let scene = scene(&["result5=freeze", "restart6=freeze"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    scene.say_image(&mut talk).await;
    within("the first", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    let counters = scene.device.journal().counters().clone();
    assert_eq!((counters.downloads, counters.sent(5)), (1, 0));
    scene.device.thaw();
    assert_eq!(talk.result(5).await, 0);
    talk.say(ServerMessage::Restart).await;
    within("the second", scene.device.wait_until(|record| record.journal().counters().faults == 2)).await;
    assert_eq!(scene.device.journal().counters().restarts, 0);
    scene.device.thaw();
    assert_eq!(talk.end().await, Ended::Finished);
    let (_talk, information) = scene.bridge.greet().await;
    assert_eq!(information.version, "5.2.1");
    scene.close().await;
}

#[tokio::test]
async fn a_device_stalls_in_the_middle_of_a_message() {
    let scene = scene(&["connect=stall"]).await;
    let mut talk = scene.bridge.accept().await;
    within("the fault", scene.device.wait_until(|record| record.journal().counters().faults == 1)).await;
    let bytes = talk.read_bytes().await;
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    assert_eq!(decoder.next_frame(), Ok(None), "half a message");
    drop(talk);
    let (talk, _) = scene.bridge.greet().await;
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_device_floods() {
    let scene = scene(&["information=flood:1000"]).await;
    let mut talk = scene.bridge.accept().await;
    for _ in 0..1001 {
        talk.hear_information().await;
    }
    scene.recovers(talk).await;
}

#[tokio::test]
async fn a_device_sends_what_is_no_message() {
    for fault in ["connect=garbage", "connect=lyingLength", "connect=raw:03000001"] {
        let scene = scene(&[fault]).await;
        let mut talk = scene.bridge.accept().await;
        let mut decoder = Decoder::new();
        decoder.push(&talk.read_bytes().await);
        assert!(decoder.next_frame().is_err(), "{fault}");
        drop(talk);
        let (talk, _) = scene.bridge.greet().await;
        scene.recovers(talk).await;
    }
}

#[tokio::test]
async fn a_device_speaks_out_of_turn_in_every_way() {
    let scene =
        scene(&["information=unknownMessage", "download3=wrongDirection", "download4=unasked:9", "apply8=unasked:5"])
            .await;
    let mut talk = scene.bridge.accept().await;
    assert_eq!(talk.hear().await, DeviceMessage::Unknown(200));
    talk.hear_information().await;
    scene.say_image(&mut talk).await;
    let frame = talk.next().await.unwrap();
    assert!(matches!(DeviceMessage::from_frame(&frame), Err(MessageError::WrongDirection { message: 6 })));
    assert_eq!(talk.result(5).await, 0);
    talk.say(ServerMessage::DownloadProfile(scene.files.put(Transfer::Ftp, "profile.cfg", PROFILE))).await;
    assert_eq!(talk.result(9).await, 0);
    assert_eq!(talk.result(7).await, 0);
    talk.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
    assert_eq!(talk.result(5).await, 0);
    assert_eq!(talk.result(9).await, 0);
    scene.recovers(talk).await;
}

#[tokio::test]
async fn every_step_can_be_slow() {
    let steps = [
        "connect",
        "information",
        "download3",
        "result5",
        "restart6",
        "boot",
        "download4",
        "result7",
        "apply8",
        "result9",
        "upload10",
        "result11",
    ];
    let faults: Vec<_> = steps.iter().map(|step| format!("{step}=slow:20ms")).collect();
    let faults: Vec<_> = faults.iter().map(String::as_str).collect();
    let scene = scene(&faults).await;
    let (mut talk, _) = scene.bridge.greet().await;
    assert_eq!(scene.profile(&mut talk).await, 0);
    assert_eq!(talk.order_upgrade().await, 0);
    talk.say(ServerMessage::UploadLog(scene.files.location(Transfer::Ftp, "device.log"))).await;
    assert_eq!(talk.result(11).await, 0);
    assert_eq!(scene.image(&mut talk).await, 0);
    talk.say(ServerMessage::Restart).await;
    let (talk, _) = scene.bridge.greet().await;
    let journal = scene.device.journal();
    assert_eq!(journal.counters().faults, steps.len() as u64);
    let (first, last) = (journal.entries()[0].at, journal.entries().last().unwrap().at);
    assert!(last.duration_since(first).as_millis() >= 20 * steps.len() as i128, "{journal}");
    scene.recovers(talk).await;
}

#[tokio::test]
async fn faults_can_be_changed_while_the_device_runs() {
    let scene = scene(&["download3=failDownload*always"]).await;
    let (mut talk, _) = scene.bridge.greet().await;
    for _ in 0..3 {
        assert_eq!(scene.image(&mut talk).await, 2);
    }
    scene.device.set_faults(vec![Fault::times(Step::Download3, FaultKind::Corrupt, 1)]);
    assert_eq!(scene.image(&mut talk).await, 1);
    scene.recovers(talk).await;
}
