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
