//! How a transfer reaches its client: from a port of its own, or from the one that all share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) enum Link {
    /// Connected: the kernel lets in only what the client sends.
    Own(UdpSocket),
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
        Ok(Self::Own(UdpSocket::from_std(socket)?))
    }

    pub(super) fn shared(socket: Arc<UdpSocket>, peer: SocketAddr, packets: mpsc::Receiver<Vec<u8>>) -> Self {
        Self::Shared { socket, peer, packets }
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }

    fn socket(&self) -> &UdpSocket {
        match self {
            Self::Own(socket) => socket,
            Self::Shared { socket, .. } => socket,
        }
    }

    /// The next packet of the client, cut to the buffer. May be dropped and called again.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Own(socket) => socket.recv(buffer).await,
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
            Self::Own(socket) => socket.try_send(packet)?,
            Self::Shared { socket, peer, .. } => socket.try_send_to(packet, *peer)?,
        };
        Ok(())
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket().writable().await
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
