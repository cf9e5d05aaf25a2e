//! The device port with real sockets: what ends a connection, and how. Time is paused: where a test waits for a deadline,
//! it comes as soon as nothing else happens.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::net::SocketAddr;
use std::time::Duration;

use fettle_bridge::metrics::{Closed, Metrics};
use fettle_bridge::tcp::{FromConnection, Listener, ListenerConfig, Order, Orders, Told};
use fettle_protocol::datum::DownloadResult;
use fettle_protocol::message::{DeviceMessage, ErrorDetail};
use fettle_protocol::session::{ConnectionId, Reason};
use fettle_protocol::{Dialect, Frame, ServerMessage};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Message 1 of 02:00:5e:00:53:NN.
fn information(number: u8) -> Vec<u8> {
    encoded(1, &[(1, &[0x02, 0x00, 0x5e, 0x00, 0x53, number]), (2, b"4.9.0"), (3, b"S5700")])
}

fn encoded(message: u8, data: &[(u8, &[u8])]) -> Vec<u8> {
    encoded_in(Dialect::CANONICAL, message, data)
}

fn encoded_in(dialect: Dialect, message: u8, data: &[(u8, &[u8])]) -> Vec<u8> {
    let data = data.iter().map(|(number, value)| (*number, value.to_vec())).collect();
    let mut bytes = Vec::new();
    Frame { message, data }.encode_in(dialect, &mut bytes).unwrap();
    bytes
}

fn message(message: &ServerMessage) -> Order {
    sent_after(message, Duration::ZERO)
}

fn sent_after(message: &ServerMessage, after: Duration) -> Order {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).unwrap();
    Order::Send { bytes: bytes.into(), after }
}

const INTERRUPT: [u8; 4] = [2, 0, 0, 0];
const NOTHING: [u8; 0] = [];

/// A device port, and what its connections tell.
struct Port {
    address: SocketAddr,
    told: mpsc::Receiver<FromConnection>,
    registry: Registry,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Port {
    fn open() -> Self {
        Self::open_for(100, 100)
    }

    fn open_for(connections: usize, connections_per_address: usize) -> Self {
        let registry = Registry::new();
        let config = ListenerConfig { address: "127.0.0.1:0".parse().unwrap(), connections, connections_per_address };
        let listener = Listener::bind(config, Metrics::new(&registry).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (hub, told) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(listener.run(hub, shutdown.clone()));
        Self { address, told, registry, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A device that has said who it is, and where to order its connection about.
    async fn called(&mut self, number: u8) -> (TcpStream, ConnectionId, Orders) {
        let mut device = self.connect().await;
        device.write_all(&information(number)).await.unwrap();
        match self.told.recv().await.unwrap() {
            (id, Told::Called { info, orders, .. }) => {
                assert_eq!(info.version, "4.9.0");
                (device, id, orders)
            }
            (_, told) => panic!("{told:?} is no call"),
        }
    }

    /// How the connection ended of which the hub hears next, and whether all was acknowledged.
    async fn gone(&mut self) -> (Closed, bool) {
        match self.told.recv().await.unwrap().1 {
            Told::Gone { reason, acknowledged } => (reason, acknowledged),
            told => panic!("{told:?} is no end"),
        }
    }

    fn metric(&self, line: &str) -> Option<u64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        text.lines().find_map(|is| is.strip_prefix(line)?.trim().parse().ok())
    }

    fn closed(&self, reason: &str) -> u64 {
        self.metric(&format!("fettle_bridge_connections_closed_total{{reason=\"{reason}\"}}")).unwrap_or_default()
    }
}

/// What a device reads until the end; an error where the end is a reset.
async fn rest(device: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    device.read_to_end(&mut bytes).await.map(|_| bytes)
}

#[tokio::test]
async fn the_dialect_of_message_1_is_found_is_that_of_all_that_follows_and_is_counted() {
    let mut port = Port::open();
    for dialect in Dialect::all() {
        let mut device = port.connect().await;
        let information =
            |version| encoded_in(dialect, 1, &[(1, &[2, 0, 0x5e, 0, 0x53, 1]), (2, version), (3, b"S5700")]);
        let result = encoded_in(dialect, 5, &[(10, &[0, 0, 0, 1])]);
        device.write_all(&[information(b"4.9.0"), result, information(b"5.2.1")].concat()).await.unwrap();
        let (_, Told::Called { info, orders: _orders, .. }) = port.told.recv().await.unwrap() else {
            panic!("no call")
        };
        assert_eq!((info.version.as_str(), info.dialect), ("4.9.0", dialect));
        let Told::Said(result) = port.told.recv().await.unwrap().1 else { panic!("no result in {dialect}") };
        let expected = DeviceMessage::VersionDownloaded(DownloadResult::CrcMismatch, ErrorDetail::default());
        assert_eq!(result, expected, "{dialect}");
        let Told::Said(DeviceMessage::Information(info)) = port.told.recv().await.unwrap().1 else {
            panic!("no further message 1 in {dialect}")
        };
        assert_eq!((info.version.as_str(), info.dialect), ("5.2.1", dialect));
        assert_eq!(port.metric(&format!("fettle_bridge_calls_total{{dialect=\"{dialect}\"}}")), Some(1));
        // Whoever changes it makes no sense any more.
        let other = Dialect::all().find(|other| *other != dialect).unwrap();
        device.write_all(&encoded_in(other, 1, &[(1, &[2, 0, 0x5e, 0, 0x53, 1])])).await.unwrap();
        assert_eq!(port.gone().await.0, Closed::Malformed, "{other} after {dialect}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_who_it_is_is_cut_off_and_the_hub_never_hears_of_it() {
    let port = Port::open();
    let began = Instant::now();
    let mut silent = port.connect().await;
    assert_eq!(rest(&mut silent).await.unwrap(), NOTHING);
    assert_eq!(began.elapsed().as_secs(), 10);

    // Byte by byte does not help, nor do messages of unknown types.
    let mut dripping = port.connect().await;
    let began = Instant::now();
    let first = [encoded(200, &[]), information(1)].concat();
    for byte in &first[..first.len() - 1] {
        if dripping.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::advance(Duration::from_millis(400)).await;
    }
    assert!(rest(&mut dripping).await.map_or(true, |bytes| bytes.is_empty()));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(port.closed("NoInformation"), 2);
    assert_eq!(port.metric("fettle_bridge_connections "), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_first_message_that_is_not_message_1_or_no_message_ends_the_connection() {
    let mut port = Port::open();
    let mut result = port.connect().await;
    result.write_all(&encoded(5, &[(10, &[0, 0, 0, 0])])).await.unwrap();
    rest(&mut result).await.ok();
    assert_eq!(port.closed("NoInformation"), 1);

    let mut nonsense = port.connect().await;
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    rest(&mut nonsense).await.ok();
    assert_eq!(port.closed("Malformed"), 1);

    // An unknown type is skipped, also as the first.
    let mut device = port.connect().await;
    device.write_all(&[encoded(200, &[(250, b"new")]), information(1)].concat()).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((_, Told::Called { .. }))));
    assert_eq!(port.metric("fettle_bridge_unknown_messages_total "), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_end_ends_the_connection_and_each_message_has_its_own_time() {
    let mut port = Port::open();
    let (mut device, _, _orders) = port.called(1).await;
    let result = encoded(5, &[(10, &[0, 0, 0, 0])]);
    // Always in the middle of a message, and never long in the same one.
    device.write_all(&result[..6]).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        device.write_all(&[&result[6..], &result[..6]].concat()).await.unwrap();
        assert!(matches!(port.told.recv().await, Some((_, Told::Said(DeviceMessage::VersionDownloaded(..))))));
    }
    let began = Instant::now();
    assert_eq!(port.gone().await, (Closed::Stalled, true));
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_for_days() {
    let mut port = Port::open();
    let (mut device, _, _orders) = port.called(1).await;
    tokio::time::sleep(Duration::from_secs(30 * 24 * 3600)).await;
    device.write_all(&information(1)).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((_, Told::Said(DeviceMessage::Information(_))))));
}

#[tokio::test(start_paused = true)]
async fn a_flood_ends_its_connection_and_no_other() {
    let mut port = Port::open();
    let (mut quiet, quiet_id, _quiet_orders) = port.called(1).await;
    let (mut flooding, flooding_id, _orders) = port.called(2).await;
    flooding.write_all(&encoded(34, &[]).repeat(101)).await.unwrap();
    assert!(matches!(
        port.told.recv().await,
        Some((id, Told::Gone { reason: Closed::Flood, .. })) if id == flooding_id
    ));
    quiet.write_all(&information(1)).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((id, Told::Said(_))) if id == quiet_id));

    // As many over a longer time are none.
    for _ in 0..20 {
        quiet.write_all(&encoded(34, &[]).repeat(50)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
    quiet.write_all(&information(1)).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((id, Told::Said(_))) if id == quiet_id));
}

#[tokio::test(start_paused = true)]
async fn the_hub_hears_no_more_than_once_a_second_how_far_a_device_is() {
    let mut port = Port::open();
    let (mut device, id, _orders) = port.called(1).await;
    for percent in [1u8, 2] {
        // A crowd of them, of which the first counts.
        for more in 0..10 {
            device.write_all(&encoded(32, &[(78, &[0, 0, 0, percent + more])])).await.unwrap();
        }
        let (of, told) = port.told.recv().await.unwrap();
        let said = matches!(&told, Told::Said(DeviceMessage::Progress { percent: Some(said), .. }) if *said == percent);
        assert!(of == id && said, "{told:?}");
        device.write_all(&information(1)).await.unwrap();
        assert!(matches!(port.told.recv().await, Some((_, Told::Said(DeviceMessage::Information(_))))));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_and_those_that_end_make_room() {
    let mut port = Port::open_for(100, 2);
    let (first, _) = port.called_kept(1).await;
    let (_second, _) = port.called_kept(2).await;
    assert!(rest(&mut port.connect().await).await.map_or(true, |bytes| bytes.is_empty()));
    assert_eq!(port.closed("TooMany"), 1);
    drop(first);
    port.gone().await;
    port.called(3).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_said_last_is_read_whatever_the_device_still_sends() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    let (mut reads, mut writes) = device.split();
    orders.give(message(&ServerMessage::Interrupt(None))).unwrap();
    orders.give(Order::Finish).unwrap();
    let mut came = [0; 4];
    reads.read_exact(&mut came).await.unwrap();
    assert_eq!(came, INTERRUPT);
    // More than any buffer between us holds, all of it after the end of what we are told.
    for _ in 0..200 {
        writes.write_all(&[0xff; 64 * 1024]).await.unwrap();
    }
    let mut end = Vec::new();
    reads.read_to_end(&mut end).await.unwrap();
    assert_eq!(end, NOTHING, "a FIN, and no reset");
    drop(device);
    assert_eq!(port.gone().await, (Closed::Finished, true));
}

/// In real time: what a kernel has acknowledged is the matter, and kernels take their time.
#[tokio::test]
async fn a_device_that_does_not_hang_up_is_given_five_seconds_and_has_got_what_its_kernel_acknowledged() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    let began = Instant::now();
    orders.give(message(&ServerMessage::Restart)).unwrap();
    orders.give(Order::Finish).unwrap();
    assert_eq!(port.gone().await, (Closed::Finished, true));
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert_eq!(rest(&mut device).await.unwrap(), [6, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_2_that_is_held_back_comes_in_its_time_and_nothing_before_it() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    let began = Instant::now();
    orders.give(sent_after(&ServerMessage::Interrupt(None), Duration::from_secs(32))).unwrap();
    orders.give(Order::Finish).unwrap();
    assert_eq!(rest(&mut device).await.unwrap(), INTERRUPT);
    assert_eq!(began.elapsed().as_secs(), 32);
    drop(device);
    assert_eq!(port.gone().await, (Closed::Finished, true));
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_its_2_is_held_back_is_gone_at_once() {
    let mut port = Port::open();
    let (device, _, orders) = port.called(1).await;
    let began = Instant::now();
    orders.give(sent_after(&ServerMessage::Interrupt(None), Duration::from_secs(60))).unwrap();
    orders.give(Order::Finish).unwrap();
    drop(device);
    assert_eq!(port.gone().await.0, Closed::ByDevice);
    assert_eq!(began.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_hung_up_is_told_nothing_more() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    device.shutdown().await.unwrap();
    // Both are there before the connection looks again.
    orders.give(message(&ServerMessage::Restart)).unwrap();
    orders.give(Order::Finish).unwrap();
    assert_eq!(port.gone().await, (Closed::ByDevice, false));
    assert_eq!(rest(&mut device).await.unwrap(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_read_is_given_up_and_has_not_got_it() {
    let mut port = Port::open();
    let (_device, _, orders) = port.called(1).await;
    let began = Instant::now();
    let bytes = vec![0; 64 << 20].into_boxed_slice();
    orders.give(Order::Send { bytes, after: Duration::ZERO }).unwrap();
    assert_eq!(port.gone().await, (Closed::NotReading, false));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_hub_lets_go_of_sends_nothing_of_what_waited() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    orders.give(sent_after(&ServerMessage::Interrupt(None), Duration::from_secs(60))).unwrap();
    while orders.give(message(&ServerMessage::Restart)).is_ok() {}
    drop(orders);
    assert_eq!(port.gone().await, (Closed::NotReading, false));
    assert_eq!(rest(&mut device).await.unwrap_or_default(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_its_session_closes_is_counted_with_the_reason() {
    let mut port = Port::open();
    let (mut device, _, orders) = port.called(1).await;
    orders.give(Order::Close(Closed::Session(Reason::HolderAnswers))).unwrap();
    assert_eq!(port.gone().await.0, Closed::Session(Reason::HolderAnswers));
    assert_eq!(rest(&mut device).await.unwrap(), NOTHING);
    assert_eq!(port.closed("HolderAnswers"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_carries_out_what_was_ordered_before_it_and_leaves_nothing_behind() {
    let mut port = Port::open();
    let (mut commanded, _, orders) = port.called(1).await;
    let (mut idle, _, _idle_orders) = port.called(2).await;
    let mut unknown = port.connect().await;
    orders.give(message(&ServerMessage::Restart)).unwrap();
    orders.give(Order::Finish).unwrap();
    port.shutdown.cancel();
    assert_eq!(rest(&mut commanded).await.unwrap(), [6, 0, 0, 0]);
    drop(commanded);
    assert_eq!(rest(&mut idle).await.unwrap(), NOTHING);
    assert_eq!(rest(&mut unknown).await.unwrap_or_default(), NOTHING);
    let ends = [port.gone().await.0, port.gone().await.0];
    assert!(ends.contains(&Closed::Finished) && ends.contains(&Closed::Shutdown), "{ends:?}");
    port.task.await.unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn many_long_messages_at_once_are_bounded_in_all() {
    let mut port = Port::open_for(2000, 2000);
    // A message of an unknown type, of 64 KiB, of which all comes but the end.
    let data: Vec<(u8, &[u8])> = vec![(250, &[0; 248]); 255];
    let long = encoded(200, &data);
    let mut devices = Vec::new();
    for number in 0..1026_u32 {
        let (mut device, _) = port.called_kept(number as u8).await;
        device.write_all(&long[..8192]).await.unwrap();
        devices.push(device);
        if number >= 1024 {
            assert_eq!(port.gone().await.0, Closed::TooMany);
        }
    }
    // One that is whole makes room, and was skipped as what it is.
    devices[0].write_all(&long[8192..]).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((_, Told::Said(DeviceMessage::Unknown(200))))));
    let (mut device, _) = port.called_kept(1).await;
    device.write_all(&long).await.unwrap();
    assert!(matches!(port.told.recv().await, Some((_, Told::Said(DeviceMessage::Unknown(200))))));
}

impl Port {
    /// As [`called`](Self::called), with orders that live as long as the test.
    async fn called_kept(&mut self, number: u8) -> (TcpStream, ConnectionId) {
        let (device, id, orders) = self.called(number).await;
        std::mem::forget(orders);
        (device, id)
    }
}
