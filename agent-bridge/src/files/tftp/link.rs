//! How a transfer reaches its client: from a port of its own, or from the one that all share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) enum Link {
    /// Connected: the kernel lets in only what the client sends. Woken by what comes, and not by each packet that has left: in
    /// lockstep that would be once more for each block.
    Own(AsyncFd<std::net::UdpSocket>),
    Shared {
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
        packets: mpsc::Receiver<Vec<u8>>,
    },
}

impl Link {
    pub(super) fn own(local: IpAddr, peer: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.connect(peer)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Own(watched(socket, Interest::READABLE)?))
    }

    pub(super) fn shared(socket: Arc<UdpSocket>, peer: SocketAddr, packets: mpsc::Receiver<Vec<u8>>) -> Self {
        Self::Shared { socket, peer, packets }
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }

    /// The next packet of the client, cut to the buffer. May be dropped and called again.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Own(socket) => socket.async_io(Interest::READABLE, |socket| socket.recv(buffer)).await,
            Self::Shared { packets, .. } => {
                let packet = packets.recv().await.ok_or(io::ErrorKind::ConnectionAborted)?;
                let len = packet.len().min(buffer.len());
                buffer[..len].copy_from_slice(&packet[..len]);
                Ok(len)
            }
        }
    }

    /// Sends at once, or fails with `WouldBlock`.
    pub(super) fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        match self {
            Self::Own(socket) => socket.get_ref().send(packet)?,
            Self::Shared { socket, peer, .. } => socket.try_send_to(packet, *peer)?,
        };
        Ok(())
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Own(socket) => {
                let socket = watched(socket.get_ref().try_clone()?, Interest::WRITABLE)?;
                socket.writable().await.map(|mut ready| ready.retain_ready())
            }
            Self::Shared { socket, .. } => socket.writable().await,
        }
    }

    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match self.try_send(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                sent => return sent,
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "what follows it is an unsafe function, for types that give out others' descriptors; this is no such type"
)]
fn watched(socket: std::net::UdpSocket, interest: Interest) -> io::Result<AsyncFd<std::net::UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}
