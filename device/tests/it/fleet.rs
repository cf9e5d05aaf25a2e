//! Many devices at once.

use std::collections::BTreeSet;
use std::time::Duration;

use fettle_device::record::Summary;
use fettle_device::spec::mac_plus;
use fettle_device::{DeviceSpec, Fleet, FleetConfig, FleetError};
use fettle_protocol::ServerMessage;
use fettle_protocol::datum::Transfer;
use tokio::task::JoinSet;

use crate::support::{Bridge, Files, MAC, Talk, image, spec, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_devices_call_from_one_process_and_wait() {
    let bridge = Bridge::bind().await;
    let devices = DeviceSpec::new(MAC, "S5700", "4.9.0").times(1000);
    let ramp = Duration::from_millis(300);
    let fleet = Fleet::start(FleetConfig { ramp, ..FleetConfig::new(vec![bridge.address()], devices) }).unwrap();
    let mut talks: Vec<Talk> = Vec::new();
    let mut macs = BTreeSet::new();
    for _ in 0..1000 {
        let (talk, information) = bridge.greet().await;
        talks.push(talk);
        macs.insert(information.mac);
    }
    assert_eq!(macs.into_iter().collect::<Vec<_>>(), (0..1000).map(|i| mac_plus(MAC, i)).collect::<Vec<_>>());
    // A device notes what it has sent a moment after it is on its way.
    let all_have_called = |summary: &Summary| summary.is_all_on("4.9.0") && summary.counters.sent(1) >= 1000;
    within("all", fleet.wait_until(all_have_called)).await;
    assert_eq!(fleet.summary().counters.sent(1), 1000);
    within("the end", fleet.shutdown()).await;
    assert_eq!(fleet.summary().connected(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_upgraded_and_its_ground_truth_is_complete() {
    let bridge = Bridge::bind().await;
    let files = Files::serve().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let fleet = Fleet::start(FleetConfig {
        // Fewer than there are devices: some wait their turn.
        transfers: 4,
        journal: Some(journal.clone()),
        ..FleetConfig::new(vec![bridge.address()], spec(files.ports).times(30))
    })
    .unwrap();
    let downloads = [Transfer::Ftp, Transfer::Tftp].map(|transfer| files.put(transfer, "image.bin", &image("5.2.1")));
    let mut upgrades = JoinSet::new();
    for index in 0..30 {
        let (mut talk, _) = bridge.greet().await;
        let download = downloads[index % 2].clone();
        upgrades.spawn(async move {
            assert_eq!(talk.order_image(download).await, 0);
            talk.say(ServerMessage::Restart).await;
            talk.end().await;
        });
    }
    within("the upgrades", upgrades.join_all()).await;
    let mut talks = Vec::new();
    for _ in 0..30 {
        talks.push(bridge.greet().await);
    }
    within("all", fleet.wait_until(|summary| summary.is_all_on("5.2.1"))).await;
    within("each", fleet.wait_until_each(|record| record.journal().counters().boots == 1)).await;
    let most = fleet.most_down_at_once(|_| true);
    assert!((1..=30).contains(&most), "{most}");
    assert_eq!(fleet.most_down_at_once(|mac| mac == MAC), 1);
    assert_eq!(fleet.violations(), []);
    within("the end", fleet.shutdown()).await;

    let text = std::fs::read_to_string(journal).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["booted", "flashEnded", "downloaded"] {
        let macs: BTreeSet<_> = lines
            .iter()
            .filter(|line| line["event"] == event)
            .map(|line| line["mac"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(macs.len(), 30, "{event}");
    }
    let command = lines.iter().find(|line| line["event"] == "received" && line["message"] == 3).unwrap();
    assert_eq!((&command["path"], &command["server"]), (&"a1".into(), &"127.0.0.1".into()));
    assert!(!text.contains("p7"), "no password is written down");
}

#[tokio::test]
async fn a_device_that_could_not_say_who_it_is_is_refused_before_anything_starts() {
    let mut devices = DeviceSpec::new(MAC, "S5700", "4.9.0").times(2);
    devices[1].version = "5".repeat(249);
    let refused = Fleet::start(FleetConfig::new(vec![], devices)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, FleetError::Text { what: "version", .. }), "{refused}");
}

#[tokio::test]
async fn the_address_that_a_device_calls_from_can_be_chosen() {
    let bridge = Bridge::bind().await;
    let files = Files::serve().await;
    let local_address = Some("127.0.0.7".parse().unwrap());
    let devices = vec![DeviceSpec { local_address, ..spec(files.ports) }];
    let fleet = Fleet::start(FleetConfig::new(vec![bridge.address()], devices)).unwrap();
    let (mut talk, _) = bridge.greet().await;
    assert_eq!(talk.peer().ip(), std::net::Ipv4Addr::new(127, 0, 0, 7));
    for transfer in [Transfer::Ftp, Transfer::Tftp] {
        assert_eq!(talk.order_image(files.put(transfer, "image.bin", &image("5.2.1"))).await, 0);
    }
    within("the end", fleet.shutdown()).await;
}
