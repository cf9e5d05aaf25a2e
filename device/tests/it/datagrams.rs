//! Requests for logs over UDP: who is believed, and what is done once.

use std::net::{Ipv4Addr, SocketAddr};

use fettle_device::Vocabulary;
use fettle_device::journal::Event;
use fettle_protocol::datum::{Capabilities, ExecutionResult, Transfer};
use fettle_protocol::message::{Download, Location};
use fettle_protocol::proof::{self, LogKey, Nonce};
use fettle_protocol::{DeviceMessage, Dialect, ServerMessage, datagram};
use tokio::net::UdpSocket;

use crate::support::{Scene, image, within};

/// A server's socket, and where the device of a scene listens.
struct Asker {
    socket: UdpSocket,
    device: SocketAddr,
}

impl Asker {
    /// `last`: of the device's address, so that tests beside one another have their own.
    async fn of(scene: &Scene, last: u8) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { socket, device: (Ipv4Addr::new(127, 0, 3, last), scene.bridge.address().port()).into() }
    }

    async fn sends(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.device).await.unwrap();
    }

    async fn answer(&self) -> ExecutionResult {
        let mut buffer = [0; datagram::MAX_LEN];
        let (len, from) = within("an answer", self.socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(from, self.device);
        match datagram::read_reply(Dialect::CANONICAL, &buffer[..len]) {
            Ok(DeviceMessage::LogUploaded(result, _)) => result,
            other => panic!("{other:?} is no answer"),
        }
    }
}

fn plain(location: &Location) -> Vec<u8> {
    datagram::write(Dialect::CANONICAL, &ServerMessage::UploadLog(location.clone()).to_frame()).unwrap()
}

fn proven(location: &Location, millisecond: i64, key: &LogKey) -> Vec<u8> {
    let frame = ServerMessage::UploadLog(location.clone()).to_frame();
    proof::write(Dialect::CANONICAL, &frame, Nonce::new(millisecond, [0; 8]), key).unwrap()
}

async fn refused(scene: &Scene, count: u64) {
    let so_many = scene.device.wait_until(|record| record.journal().counters().requests_refused == count);
    within("the refusal", so_many).await;
}

#[tokio::test]
async fn a_base_device_brings_its_log_to_who_asks_and_only_once() {
    let scene = Scene::set(|spec| {
        spec.udp = true;
        spec.local_address = Some(Ipv4Addr::new(127, 0, 3, 1));
    })
    .await;
    let (_talk, _) = scene.bridge.greet().await;
    let asker = Asker::of(&scene, 1).await;
    let request = plain(&scene.files.location(Transfer::Ftp, "device.log"));
    for _ in 0..2 {
        asker.sends(&request).await;
        assert_eq!(asker.answer().await, ExecutionResult::Success);
    }
    assert_eq!(scene.device.journal().counters().logs_uploaded, 1, "{}", scene.device.journal());
    scene.close().await;
}

#[tokio::test]
async fn a_device_that_wants_a_proof_believes_nobody_else_and_nobody_twice() {
    let scene = Scene::set(|spec| {
        spec.udp = true;
        spec.vocabulary = Vocabulary::Extended;
        spec.local_address = Some(Ipv4Addr::new(127, 0, 3, 2));
    })
    .await;
    let (mut talk, information) = scene.bridge.greet().await;
    assert!(information.capabilities.has(Capabilities::LOG_REQUEST_AUTH));
    let asker = Asker::of(&scene, 2).await;
    let (key, location) = (LogKey::new([7; 32]), scene.files.location(Transfer::Ftp, "device.log"));
    asker.sends(&proven(&location, 1000, &key)).await;
    refused(&scene, 1).await;

    // A command brings the key.
    let download = scene.files.put(Transfer::Ftp, "image.bin", &image("5.2.1"));
    let location_with_key = Location { log_key: Some(key), ..download.location.clone() };
    assert_eq!(talk.order_image(Download { location: location_with_key, ..download }).await, 0);
    let mut tampered = proven(&location, 1000, &key);
    tampered[20] ^= 1;
    for (refusals, bytes) in [(2, plain(&location)), (3, proven(&location, 1000, &LogKey::new([8; 32]))), (4, tampered)]
    {
        asker.sends(&bytes).await;
        refused(&scene, refusals).await;
    }
    assert_eq!(scene.device.journal().counters().logs_uploaded, 0, "{}", scene.device.journal());

    asker.sends(&proven(&location, 1000, &key)).await;
    assert_eq!(asker.answer().await, ExecutionResult::Success);
    // Who has listened says it again; and something older.
    for (refusals, millisecond) in [(5, 1000), (6, 999)] {
        asker.sends(&proven(&location, millisecond, &key)).await;
        refused(&scene, refusals).await;
    }
    // The server itself asks once more, as its first attempt might have been lost.
    asker.sends(&proven(&location, 1001, &key)).await;
    assert_eq!(asker.answer().await, ExecutionResult::Success);
    let journal = scene.device.journal();
    assert_eq!(journal.counters().logs_uploaded, 1, "{journal}");
    let refusals = journal.events().into_iter().filter(|event| matches!(event, Event::RequestRefused { .. })).count();
    assert_eq!(refusals, 6, "{journal}");
    scene.close().await;
}
