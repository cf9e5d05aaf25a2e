//! The TFTP server over a network that loses and doubles packets, and against clients that do not behave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fettle_bridge::files::TftpPorts;
use fettle_bridge::files::store::{Need, Source};
use files_support::network::{Fate, Network, Way, loses_and_doubles};
use files_support::{PATIENCE, Servers, UPLOAD_SIZE, assert_same, bytes};
use tokio::net::UdpSocket;

const RRQ: u8 = 1;
const WRQ: u8 = 2;
const DATA: u8 = 3;
const ACK: u8 = 4;
const ERROR: u8 = 5;
const OACK: u8 = 6;

/// After which the client repeats what it sent last.
const REPEAT: Duration = Duration::from_millis(200);

/// What the server refused, by code and text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused(u16, String);

struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    /// The port of the transfer, once it is known.
    transfer: Option<SocketAddr>,
    block: usize,
    window: u16,
    granted: HashMap<String, u64>,
}

impl Client {
    async fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self { socket, server, transfer: None, block: 512, window: 1, granted: HashMap::new() }
    }

    async fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.transfer.unwrap_or(self.server)).await.unwrap();
    }

    /// The next packet of the transfer; after [`REPEAT`] without one, `None`.
    async fn receive(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0; 65_536];
        let (len, from) = tokio::time::timeout(REPEAT, self.socket.recv_from(&mut packet)).await.ok()?.unwrap();
        assert_eq!(*self.transfer.get_or_insert(from), from, "the port of a transfer does not change");
        packet.truncate(len);
        Some(packet)
    }

    /// Waits for a packet that begins so; what the server repeats meanwhile is passed over.
    async fn hears(&mut self, head: [u8; 4]) {
        let heard = async {
            loop {
                match self.receive().await {
                    Some(packet) if packet.starts_with(&head) => return,
                    Some(packet) if packet[1] == ERROR => panic!("{:?} instead of {head:?}", refused(&packet)),
                    Some(_) | None => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the packet does not come");
    }

    fn request(&self, opcode: u8, path: &str, options: &[(&str, &str)]) -> Vec<u8> {
        let mut packet = vec![0, opcode];
        for text in [path, "octet"].into_iter().chain(options.iter().flat_map(|(name, value)| [*name, *value])) {
            packet.extend_from_slice(text.as_bytes());
            packet.push(0);
        }
        packet
    }

    fn grant(&mut self, oack: &[u8]) {
        let mut texts = oack[2..].split(|b| *b == 0).map(|text| String::from_utf8(text.to_vec()).unwrap());
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            self.granted.insert(name, value.parse().unwrap());
        }
        self.block = self.granted.get("blksize").map_or(512, |size| usize::try_from(*size).unwrap());
        self.window = self.granted.get("windowsize").map_or(1, |size| u16::try_from(*size).unwrap());
    }

    /// Reads a file as RFC 1350 and 7440 have it: acknowledges each window, and the last good block where there is a gap.
    async fn read(&mut self, path: &str, options: &[(&str, &str)]) -> Result<Vec<u8>, Refused> {
        tokio::time::timeout(PATIENCE, self.reading(path, options)).await.expect("the download does not end")
    }

    async fn reading(&mut self, path: &str, options: &[(&str, &str)]) -> Result<Vec<u8>, Refused> {
        let mut last_sent = self.request(RRQ, path, options);
        let (mut file, mut received, mut in_window) = (Vec::new(), 0_u64, 0);
        self.send(&last_sent).await;
        loop {
            let Some(packet) = self.receive().await else {
                self.send(&last_sent).await;
                continue;
            };
            let number = u16::from_be_bytes([packet[2], packet[3]]);
            let next = (received + 1) as u16;
            let acknowledge = match packet[1] {
                ERROR => return Err(refused(&packet)),
                OACK => {
                    self.grant(&packet);
                    true
                }
                DATA if number == next => {
                    (received, in_window) = (received + 1, in_window + 1);
                    file.extend_from_slice(&packet[4..]);
                    in_window == self.window || packet.len() < 4 + self.block
                }
                DATA => true,
                other => panic!("opcode {other}"),
            };
            if acknowledge {
                let [high, low] = (received as u16).to_be_bytes();
                last_sent = vec![0, ACK, high, low];
                in_window = 0;
                self.send(&last_sent).await;
            }
            if packet[1] == DATA && number == received as u16 && packet.len() < 4 + self.block {
                return Ok(file);
            }
        }
    }

    /// Writes a file in windows, going back to what was acknowledged last when that is not all.
    async fn write(&mut self, path: &str, options: &[(&str, &str)], file: &[u8]) -> Result<(), Refused> {
        tokio::time::timeout(PATIENCE, self.writing(path, options, file)).await.expect("the upload does not end")
    }

    async fn writing(&mut self, path: &str, options: &[(&str, &str)], file: &[u8]) -> Result<(), Refused> {
        let request = self.request(WRQ, path, options);
        let mut acked: Option<u64> = None;
        self.send(&request).await;
        loop {
            let packet = self.receive().await;
            let progress = match packet {
                None => true,
                Some(packet) if packet[1] == ERROR => return Err(refused(&packet)),
                Some(packet) if packet[1] == OACK => {
                    self.grant(&packet);
                    acked.replace(acked.unwrap_or(0)).is_none()
                }
                Some(packet) => {
                    let number = u16::from_be_bytes([packet[2], packet[3]]);
                    let before = acked.unwrap_or(0);
                    let ahead = u64::from(number.wrapping_sub(before as u16));
                    let first = acked.is_none();
                    if ahead <= u64::from(self.window) {
                        acked = Some(before + ahead);
                    }
                    first || (1..=u64::from(self.window)).contains(&ahead)
                }
            };
            let blocks = (file.len() / self.block + 1) as u64;
            match acked {
                None => self.send(&request).await,
                Some(acked) if acked == blocks => return Ok(()),
                Some(acked) if progress => {
                    for block in acked..(acked + u64::from(self.window)).min(blocks) {
                        let start = usize::try_from(block).unwrap() * self.block;
                        let [high, low] = ((block + 1) as u16).to_be_bytes();
                        let mut packet = vec![0, DATA, high, low];
                        packet.extend_from_slice(&file[start..file.len().min(start + self.block)]);
                        self.send(&packet).await;
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn refused(packet: &[u8]) -> Refused {
    let text = String::from_utf8(packet[4..packet.len() - 1].to_vec()).unwrap();
    Refused(u16::from_be_bytes([packet[2], packet[3]]), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_arrive_over_a_network_that_loses_and_doubles() {
    let servers = Servers::start();
    let image = bytes(25_000);
    let content = servers.content(&image).await;
    for options in [&[][..], &[("blksize", "1024"), ("tsize", "0")], &[("windowsize", "8")]] {
        let command = servers.order_download("uid-1", &content);
        let network = Network::new(servers.tftp(), loses_and_doubles()).await;
        let read = Client::new(network.address).await.read(&command.path(), options).await.unwrap();
        assert_same(&read, &image);
        assert!(servers.is_complete(&command).await, "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_arrive_over_a_network_that_loses_and_doubles() {
    let servers = Servers::start();
    let log = bytes(12_000);
    for (name, options) in
        [("sw-1", &[][..]), ("sw-2", &[("blksize", "1024"), ("tsize", "12000")]), ("sw-3", &[("windowsize", "8")])]
    {
        let command = servers.order_upload("uid-1", name);
        let network = Network::new(servers.tftp(), loses_and_doubles()).await;
        Client::new(network.address).await.write(&command.path(), options, &log).await.unwrap();
        assert!(servers.is_complete(&command).await, "{name}");
        let stored = servers.stored_logs(name);
        assert_eq!(stored.len(), 1);
        assert_same(&std::fs::read(&stored[0]).unwrap(), &log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_acknowledgement_comes_twice_no_block_is_sent_twice() {
    let servers = Servers::start();
    let image = bytes(100_000);
    let content = servers.content(&image).await;
    // With a time-out that a busy machine does not reach either.
    for (options, lockstep) in [(&[("timeout", "20")][..], true), (&[("timeout", "20"), ("windowsize", "4")], false)] {
        let command = servers.order_download("uid-1", &content);
        let twice = |way, packet: &[u8]| match (way, packet[1]) {
            (Way::ToServer, ACK) => Fate::ComesTwice,
            _ => Fate::Passes,
        };
        let network = Network::new(servers.tftp(), twice).await;
        let read = Client::new(network.address).await.read(&command.path(), options).await.unwrap();
        assert_same(&read, &image);
        let blocks = network.blocks();
        assert_eq!(blocks.len(), 196);
        let repeated = blocks.iter().filter(|count| **count > 1).count();
        // In lockstep none. With a window, a doubled acknowledgement may look like the report of a loss.
        assert!(repeated == 0 || (!lockstep && blocks.iter().all(|count| *count <= 2)), "{options:?}: {repeated}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_twice_begins_one_transfer() {
    let servers = Servers::start();
    let image = bytes(5_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let twice = |way, packet: &[u8]| match (way, packet[1]) {
        (Way::ToServer, RRQ) => Fate::ComesTwice,
        _ => Fate::Passes,
    };
    let network = Network::new(servers.tftp(), twice).await;
    let read = Client::new(network.address).await.read(&command.path(), &[]).await.unwrap();
    assert_same(&read, &image);
    servers.ended("download", "tftp", "complete").await;
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "tftp", "complete"]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_numbers_wrap_in_windows_and_both_ways() {
    let servers = Servers::start_with_logs(|_| {}, 1 << 20, 1 << 20);
    let image = bytes(8 * 66_000 + 5);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let options = [("blksize", "8"), ("windowsize", "64")];
    let read = Client::new(servers.tftp()).await.read(&command.path(), &options).await.unwrap();
    assert_same(&read, &image);

    let upload = servers.order_upload("uid-1", "sw-1");
    Client::new(servers.tftp()).await.write(&upload.path(), &options, &image).await.unwrap();
    assert_same(&std::fs::read(&servers.stored_logs("sw-1")[0]).unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_granted_as_asked_within_bounds() {
    let servers = Servers::start();
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::new(servers.tftp()).await;
    let options = [("blksize", "1468"), ("tsize", "0"), ("timeout", "3"), ("windowsize", "500"), ("x", "y")];
    let read = client.read(&command.path(), &options).await.unwrap();
    assert_same(&read, &image);
    let granted = [("blksize", 1468), ("tsize", 3_000_000), ("timeout", 3), ("windowsize", 64)];
    assert_eq!(client.granted, granted.map(|(name, value)| (name.to_owned(), value)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_needs_larger_blocks() {
    let servers = Servers::start();
    let path = servers.dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(32 * 1024 * 1024).unwrap();
    // Of 32 MiB of zeros.
    let hash = data_encoding::HEXLOWER
        .decode(b"83ee47245398adee79bd9c0a8bc57b821e92aba10f5f9ade8a5d1fae4d8c4302")
        .unwrap()
        .try_into()
        .unwrap();
    let content = servers.store.fetch(&Source::File { path: "image".into() }, hash, Need::Device).await.unwrap();
    let command = servers.order_download("uid-1", &content);
    let refused = Client::new(servers.tftp()).await.read(&command.path(), &[]).await.unwrap_err();
    assert!(refused.0 == 0 && refused.1.contains("blksize"), "{refused:?}");
    servers.ended("download", "tftp", "too_large").await;
    let options = [("blksize", "8192"), ("windowsize", "500")];
    let read = Client::new(servers.tftp()).await.read(&command.path(), &options).await.unwrap();
    assert_eq!(read.len(), 32 * 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_minted_is_not_found_and_what_has_no_room_is_error_3() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let download = servers.order_download("uid-1", &content);
    let upload = servers.order_upload("uid-1", "sw-1");
    let not_found = Refused(1, "file not found".into());
    for path in ["pxelinux.0", "../../etc/passwd", "", &upload.path(), &download.minted.path] {
        let refused = Client::new(servers.tftp()).await.read(path, &[]).await.unwrap_err();
        assert_eq!(refused, not_found, "{path}");
    }
    let refused = Client::new(servers.tftp()).await.write(&download.path(), &[], b"x").await.unwrap_err();
    assert_eq!(refused, not_found);

    let announced = (UPLOAD_SIZE + 1).to_string();
    let refused = Client::new(servers.tftp()).await.write(&upload.path(), &[("tsize", &announced)], b"x").await;
    assert_eq!(refused.unwrap_err().0, 3);
    let large = bytes(usize::try_from(UPLOAD_SIZE).unwrap() + 1);
    let refused = Client::new(servers.tftp()).await.write(&upload.path(), &[], &large).await.unwrap_err();
    assert_eq!(refused.0, 3);
    assert_eq!(servers.stored_logs("sw-1").len(), 0);
    assert!(servers.stays_incomplete(&upload).await);
    Client::new(servers.tftp()).await.write(&upload.path(), &[], b"log").await.unwrap();
    assert!(servers.is_complete(&upload).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_packet_ends_the_transfer_at_once_and_it_is_not_complete() {
    let servers = Servers::start();
    let content = servers.content(&bytes(5_000)).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(RRQ, &command.path(), &[])).await;
    client.hears([0, DATA, 0, 1]).await;
    client.send(&[0, ERROR, 0, 3, b'f', b'u', b'l', b'l', 0]).await;
    servers.ended("download", "tftp", "aborted").await;
    assert!(!servers.transfers.progress(&command.permission).unwrap().complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_begins_again_from_the_same_port_is_served_anew() {
    let servers = Servers::start();
    let image = bytes(5_000);
    let content = servers.content(&image).await;
    for ports in [TftpPorts::PerTransfer, TftpPorts::Single] {
        let servers = match ports {
            TftpPorts::PerTransfer => &servers,
            TftpPorts::Single => &Servers::start_with(|config| config.tftp_ports = TftpPorts::Single),
        };
        servers.content(&image).await;
        let command = servers.order_download("uid-1", &content);
        let mut client = Client::new(servers.tftp()).await;
        client.send(&client.request(RRQ, &command.path(), &[])).await;
        client.hears([0, DATA, 0, 1]).await;
        client.send(&[0, ACK, 0, 1]).await;
        client.hears([0, DATA, 0, 2]).await;
        client.transfer = None;
        let read = client.read(&command.path(), &[]).await.unwrap();
        assert_same(&read, &image);
        servers.ended("download", "tftp", "aborted").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_of_strangers_do_not_disturb_a_transfer() {
    let servers = Servers::start_with(|config| config.tftp_ports = TftpPorts::Single);
    let image = bytes(2_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(RRQ, &command.path(), &[])).await;
    client.hears([0, DATA, 0, 1]).await;
    let stranger = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    for packet in [&[0, ACK, 0, 1][..], &[0, ERROR, 0, 0, 0], &[0, DATA, 0, 1, 9], &[], &[0], &[9; 600]] {
        stranger.send_to(packet, servers.tftp()).await.unwrap();
    }
    client.send(&[0, ACK, 0, 1]).await;
    client.hears([0, DATA, 0, 2]).await;
    client.send(&[0, ERROR, 0, 0, 0]).await;
    servers.ended("download", "tftp", "aborted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_limit_a_request_is_not_answered_until_there_is_room() {
    let servers = Servers::start_with(|config| config.limits.tftp_transfers = 1);
    let image = bytes(2_000);
    let content = servers.content(&image).await;
    let (first, second) = (servers.order_download("uid-1", &content), servers.order_download("uid-2", &content));
    let mut holder = Client::new(servers.tftp()).await;
    holder.send(&holder.request(RRQ, &first.path(), &[])).await;
    holder.hears([0, DATA, 0, 1]).await;
    let mut waiting = Client::new(servers.tftp()).await;
    waiting.send(&waiting.request(RRQ, &second.path(), &[])).await;
    assert_eq!(waiting.receive().await, None);
    holder.send(&[0, ERROR, 0, 0, 0]).await;
    let read = waiting.read(&second.path(), &[]).await.unwrap();
    assert_same(&read, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_given_up() {
    let servers = Servers::start_with(|config| config.deadlines.stall = Duration::from_millis(100));
    let content = servers.content(&bytes(2_000)).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(RRQ, &command.path(), &[])).await;
    client.hears([0, DATA, 0, 1]).await;
    servers.ended("download", "tftp", "timeout").await;
    let upload = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(WRQ, &upload.path(), &[])).await;
    client.hears([0, ACK, 0, 0]).await;
    servers.ended("upload", "tftp", "timeout").await;
    assert_eq!(servers.stored_logs("sw-1").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_with_its_credential() {
    let servers = Servers::start();
    let content = servers.content(&bytes(2_000)).await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(5);
    let command = servers.order_download_until("uid-1", &content, soon);
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(RRQ, &command.path(), &[])).await;
    client.hears([0, DATA, 0, 1]).await;
    servers.ended("download", "tftp", "aborted").await;
    let refused = Client::new(servers.tftp()).await.read(&command.path(), &[]).await.unwrap_err();
    assert_eq!(refused, Refused(1, "file not found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_transfers() {
    let servers = Servers::start();
    let content = servers.content(&bytes(2_000)).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::new(servers.tftp()).await;
    client.send(&client.request(RRQ, &command.path(), &[])).await;
    client.hears([0, DATA, 0, 1]).await;
    servers.stop().await;
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "tftp"]), 0.0);
}
