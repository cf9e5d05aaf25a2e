//! TFTP, RFC 1350 without options: the protocol by ttftp, the packets by us.
//!
//! ttftp does no I/O. What it leaves to us: sockets, who the peer is (the transfer identifiers of section 4), and saying
//! again what may have been lost.

use std::ffi::CString;
use std::net::SocketAddr;
use std::time::Duration;

use fettle_protocol::message::Location;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use ttftp::client::download::{self, BlockReceived};
use ttftp::client::upload::{self, AckReceived};
use ttftp::client::{PeerError, TransferError as PacketError};
use ttftp::{BLOCK_SIZE, Mode, PACKET_SIZE, UNKNOWN_TID_PACKET};

use super::{Route, Sink, TransferError};

/// How long to wait before saying the last packet again; doubles up to [`MAX_RESEND`] while nothing comes. On the networks
/// that TFTP is meant for an answer takes milliseconds.
const FIRST_RESEND: Duration = Duration::from_millis(500);
const MAX_RESEND: Duration = Duration::from_secs(4);

/// Room for a byte more than a packet may have: one that is too long is seen to be.
const RX_SIZE: usize = PACKET_SIZE + 1;

pub(super) async fn fetch(route: &Route, location: &Location, sink: &mut impl Sink) -> Result<(), TransferError> {
    let name = CString::new(route.name(location)).map_err(|_| TransferError::Name)?;
    let (mut tx, mut rx) = (Box::new([0; PACKET_SIZE]), Box::new([0; RX_SIZE]));
    let (mut state, length) = download::new(&mut tx, &name, Mode::Octect).map_err(|_| TransferError::Name)?;
    let mut peer = Peer::new(route, location, length).await?;
    loop {
        let received = peer.exchange(route, &tx, &mut rx).await?;
        let (result, answer) = state.process(&rx[..received], &mut tx);
        let progress = result.map_err(refused);
        if let Some(length) = answer {
            peer.say(length);
        }
        match progress {
            Ok(BlockReceived::Intermediate(next, block)) => {
                sink.take(block).await?;
                state = next;
            }
            Ok(BlockReceived::Final(block)) => {
                sink.take(block).await?;
                // The last acknowledgement. If it is lost the server sends the block again, in vain, and gives up: the
                // file is here all the same.
                return peer.send(&tx).await;
            }
            // The server did not hear our acknowledgement: it is said again.
            Ok(BlockReceived::Retransmission(next)) => {
                peer.repeat();
                state = next;
            }
            Err(error) => {
                if answer.is_some() {
                    peer.send(&tx).await?;
                }
                return Err(error);
            }
        }
    }
}

pub(super) async fn send(route: &Route, location: &Location, content: &[u8]) -> Result<(), TransferError> {
    let name = CString::new(route.name(location)).map_err(|_| TransferError::Name)?;
    let (mut tx, mut rx) = (Box::new([0; PACKET_SIZE]), Box::new([0; RX_SIZE]));
    let (mut state, length) = upload::new(&mut tx, &name, Mode::Octect).map_err(|_| TransferError::Name)?;
    let mut peer = Peer::new(route, location, length).await?;
    let mut left = content;
    loop {
        let received = peer.exchange(route, &tx, &mut rx).await?;
        let (result, answer) = state.process(&rx[..received], &mut tx, left.iter().copied());
        let progress = result.map_err(refused);
        if let Some(length) = answer {
            peer.say(length);
        }
        match progress {
            Ok(AckReceived::NextBlock(next, consumed)) => {
                left = &left[consumed..];
                state = next;
            }
            Ok(AckReceived::TransferComplete) => break,
            // An acknowledgement that came twice is not answered: RFC 1123, 4.2.3.1 (Sorcerer's Apprentice).
            Ok(AckReceived::Retransmission(next)) => state = next,
            Err(error) => {
                if answer.is_some() {
                    peer.send(&tx).await?;
                }
                return Err(error);
            }
        }
    }
    if content.len().is_multiple_of(BLOCK_SIZE) {
        // A block that is not full ends the file (RFC 1350, section 6). ttftp 0.2 does not send it where it is empty.
        let block = (content.len() / BLOCK_SIZE + 1) as u16;
        let [high, low] = block.to_be_bytes();
        tx[..4].copy_from_slice(&[0, 3, high, low]);
        peer.say(4);
        loop {
            let received = peer.exchange(route, &tx, &mut rx).await?;
            if rx[..received] == [0, 4, high, low] {
                break;
            }
        }
    }
    Ok(())
}

fn refused(error: PacketError<'_>) -> TransferError {
    TransferError::Tftp(match error {
        PacketError::Peer(PeerError { code, message }) => format!("{code} {}", message.to_string_lossy()),
        _ => "a packet that is not TFTP".to_owned(),
    })
}

/// The server's end of the transfer.
struct Peer {
    socket: UdpSocket,
    server: SocketAddr,
    /// Its port is known: the first answer came.
    found: bool,
    /// How many bytes of the packet were last said, or are to be.
    length: usize,
    due: bool,
}

impl Peer {
    async fn new(route: &Route, location: &Location, length: usize) -> Result<Self, TransferError> {
        Ok(Self {
            socket: UdpSocket::bind(route.local()).await?,
            server: route.server(location),
            found: false,
            length,
            due: true,
        })
    }

    /// There is something new to say.
    fn say(&mut self, length: usize) {
        self.length = length;
        self.due = true;
    }

    fn repeat(&mut self) {
        self.due = true;
    }

    async fn send(&self, tx: &[u8; PACKET_SIZE]) -> Result<(), TransferError> {
        self.socket.send_to(&tx[..self.length], self.server).await?;
        Ok(())
    }

    /// Says what is due, and again while nothing comes; then the length of what the server says.
    async fn exchange(
        &mut self,
        route: &Route,
        tx: &[u8; PACKET_SIZE],
        rx: &mut [u8; RX_SIZE],
    ) -> Result<usize, TransferError> {
        let deadline = Instant::now() + route.idle;
        let mut wait = FIRST_RESEND;
        if std::mem::take(&mut self.due) {
            self.send(tx).await?;
        }
        loop {
            let resend = Instant::now() + wait;
            match timeout_at(resend.min(deadline), self.receive(rx)).await {
                Ok(length) => return length,
                Err(_elapsed) if resend < deadline => {
                    wait = (wait * 2).min(MAX_RESEND);
                    self.send(tx).await?;
                }
                Err(_elapsed) => return Err(TransferError::Silent(route.idle)),
            }
        }
    }

    async fn receive(&mut self, rx: &mut [u8; RX_SIZE]) -> Result<usize, TransferError> {
        loop {
            let (length, from) = self.socket.recv_from(&mut rx[..]).await?;
            let is_peer = if self.found { from == self.server } else { from.ip() == self.server.ip() };
            if is_peer {
                self.server = from;
                self.found = true;
                return Ok(length);
            }
            // Somebody else's transfer: told so, and no reason to end this one.
            self.socket.send_to(&UNKNOWN_TID_PACKET, from).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fettle_protocol::Mac;
    use fettle_protocol::datum::Transfer;

    use super::*;
    use crate::hardware::HardwareError;
    use crate::spec::{DeviceSpec, FilePorts};

    impl Sink for Vec<u8> {
        async fn take(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
            self.extend_from_slice(chunk);
            Ok(())
        }
    }

    fn location(file: &str) -> Location {
        Location {
            transfer: Transfer::Tftp,
            server: [127, 0, 0, 1],
            path: String::new(),
            file: file.to_owned(),
            user: String::new(),
            password: String::new(),
            port: None,
            url: None,
            log_key: None,
        }
    }

    fn route(port: u16) -> Route {
        let mut spec = DeviceSpec::new(Mac::new([2; 6]), "m", "1");
        spec.file_ports = FilePorts { ftp: 0, tftp: port };
        spec.timings.transfer_idle = Duration::from_secs(5);
        Route::of(&spec)
    }

    async fn serve(folder: &Path) -> Route {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = async_tftp::server::TftpServerBuilder::with_dir_rw(folder).unwrap().std_socket(socket).unwrap();
        tokio::spawn(server.build().await.unwrap().serve());
        route(port)
    }

    /// Around the limits of a block.
    const LENGTHS: [usize; 7] = [0, 1, 511, 512, 513, 1024, 5000];

    #[tokio::test]
    async fn files_of_every_length_come_whole() {
        let folder = tempfile::tempdir().unwrap();
        let route = serve(folder.path()).await;
        for length in LENGTHS {
            let content: Vec<u8> = (0..length).map(|i| i as u8).collect();
            std::fs::write(folder.path().join("f"), &content).unwrap();
            let mut fetched = Vec::new();
            fetch(&route, &location("f"), &mut fetched).await.unwrap();
            assert_eq!(fetched, content, "{length}");
        }
    }

    #[tokio::test]
    async fn files_of_every_length_are_sent_whole() {
        let folder = tempfile::tempdir().unwrap();
        let route = serve(folder.path()).await;
        for length in LENGTHS {
            let content: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let name = format!("f{length}");
            send(&route, &location(&name), &content).await.unwrap();
            let path = folder.path().join(name);
            // It acknowledges before it has written.
            while std::fs::read(&path).unwrap() != content {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test]
    async fn what_the_server_says_of_a_missing_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let route = serve(folder.path()).await;
        let error = fetch(&route, &location("none"), &mut Vec::new()).await.unwrap_err();
        assert!(matches!(&error, TransferError::Tftp(text) if text.contains("not found")), "{error}");
    }

    /// A server that is made to say each thing twice, and to lose the first acknowledgement.
    #[tokio::test]
    async fn blocks_that_come_twice_are_taken_once_and_lost_acknowledgements_are_said_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let route = route(socket.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let mut buffer = [0; PACKET_SIZE];
            let (_, peer) = socket.recv_from(&mut buffer).await.unwrap();
            // From a port of its own, as section 4 has it.
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for (block, length) in [(1_u8, BLOCK_SIZE), (2, BLOCK_SIZE), (3, 10)] {
                let packet = [&[0, 3, 0, block][..], &vec![block; length]].concat();
                socket.send_to(&packet, peer).await.unwrap();
                stranger.send_to(&[0, 3, 0, block, 0xff], peer).await.unwrap();
                let (read, _) = socket.recv_from(&mut buffer).await.unwrap();
                assert_eq!(buffer[..read], [0, 4, 0, block]);
                if block < 3 {
                    socket.send_to(&packet, peer).await.unwrap();
                    let (read, _) = socket.recv_from(&mut buffer).await.unwrap();
                    assert_eq!(buffer[..read], [0, 4, 0, block], "again");
                }
            }
            let (read, _) = stranger.recv_from(&mut buffer).await.unwrap();
            assert_eq!(buffer[..read][..4], [0, 5, 0, 5], "the stranger is told");
        });
        let mut fetched = Vec::new();
        fetch(&route, &location("f"), &mut fetched).await.unwrap();
        assert_eq!(fetched, [vec![1; BLOCK_SIZE], vec![2; BLOCK_SIZE], vec![3; 10]].concat());
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_said_again_until_the_server_has_been_silent_for_too_long() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let route = route(socket.local_addr().unwrap().port());
        let error = fetch(&route, &location("f"), &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, TransferError::Silent(_)), "{error}");
        let mut requests = 0;
        let mut buffer = [0; PACKET_SIZE];
        while let Ok((read, _)) = socket.try_recv_from(&mut buffer) {
            assert_eq!(buffer[..read], *b"\0\x01f\0octet\0");
            requests += 1;
        }
        assert_eq!(requests, 4, "at once, and after 0.5, 1.5 and 3.5 seconds");
    }
}
