//! One connection: bytes in, messages out to the hub; orders in, bytes out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fettle_protocol::session::ConnectionId;
use fettle_protocol::{Decoder, DeviceMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{FromConnection, ORDERS, Order, Told, socket};
use crate::metrics::{Closed, Metrics};

/// Message 1 has 30 bytes or so: who has not sent it by then does not mean to.
const INFORMATION: Duration = Duration::from_secs(10);
/// For a message that has begun: 64 KiB at 2 KiB/s.
const MESSAGE: Duration = Duration::from_secs(30);
/// For the peer to take what we send: a few hundred bytes.
const SEND: Duration = Duration::from_secs(10);
/// For the peer's FIN after ours.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a probe may take: the socket's options are then as before.
const PROBED: Duration = Duration::from_secs(5);
/// Messages in [`FLOOD_WINDOW`] that are too many. A device with all extensions sends fewer than ten.
const FLOOD: u32 = 100;
const FLOOD_WINDOW: Duration = Duration::from_secs(10);
/// What is read at once; messages of devices have some tens of bytes.
const READ: usize = 512;

pub(super) struct Connection {
    id: ConnectionId,
    stream: TcpStream,
    peer: SocketAddr,
    hub: mpsc::Sender<FromConnection>,
    metrics: Metrics,
    shutdown: CancellationToken,
    decoder: Decoder,
    /// When the message that has begun, or message 1, must be complete.
    due: Option<Instant>,
    /// Messages since the beginning of the window.
    flood: (Instant, u32),
    orders: Option<mpsc::Receiver<Order>>,
}

/// How a connection ended.
struct End {
    reason: Closed,
    acknowledged: bool,
}

impl From<Closed> for End {
    fn from(reason: Closed) -> Self {
        Self { reason, acknowledged: true }
    }
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        stream: TcpStream,
        peer: SocketAddr,
        hub: mpsc::Sender<FromConnection>,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let (due, flood) = (Some(now + INFORMATION), (now, 0));
        Self { id, stream, peer, hub, metrics, shutdown, decoder: Decoder::new(), due, flood, orders: None }
    }

    pub(super) async fn run(mut self) {
        self.metrics.connections.inc();
        let end = self.serve().await;
        self.metrics.connections.dec();
        self.metrics.closed(end.reason);
        tracing::debug!(connection = self.id.0, peer = %self.peer, reason = end.reason.as_str(), "connection closed");
        if self.orders.is_some() {
            // The hub outlives the connections; where it has gone, nobody is left to tell.
            let _ = self.hub.send((self.id, Told::Gone { acknowledged: end.acknowledged })).await;
        }
    }

    /// Until the connection is to be closed.
    async fn serve(&mut self) -> End {
        let mut buffer = [0; READ];
        let mut probed: Option<Instant> = None;
        loop {
            let order = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Closed::Shutdown.into(),
                order = next_order(&mut self.orders) => order,
                () = until(self.due) => {
                    let reason = if self.orders.is_none() { Closed::NoInformation } else { Closed::Stalled };
                    return self.faulty(reason, "no complete message in time");
                }
                () = until(probed) => {
                    probed = None;
                    Some(Order::Outstanding(false))
                }
                read = self.stream.read(&mut buffer) => match read {
                    Ok(0) => return Closed::ByDevice.into(),
                    Ok(count) => match self.take_in(&buffer[..count]).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    },
                    Err(_) => return Closed::Broken.into(),
                }
            };
            match order {
                Some(Order::Send { bytes, after }) => {
                    tokio::select! {
                        () = self.shutdown.cancelled() => return Closed::Shutdown.into(),
                        () = sleep(after) => {}
                    }
                    match timeout(SEND, self.stream.write_all(&bytes)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Closed::Broken.into(),
                        Err(_) => return Closed::NotReading.into(),
                    }
                }
                Some(Order::Finish) => return self.finish().await,
                Some(Order::Close(reason)) => return reason.into(),
                Some(Order::Probe) => {
                    probed = Some(Instant::now() + PROBED);
                    self.set(socket::probe);
                }
                Some(Order::Outstanding(true)) => self.set(socket::be_patient),
                Some(Order::Outstanding(false)) => self.set(socket::keep_alive),
                // The hub has forgotten this connection.
                None => return Closed::Shutdown.into(),
            }
        }
    }

    fn set(&self, option: impl FnOnce(&TcpStream) -> io::Result<()>) {
        if let Err(error) = option(&self.stream) {
            tracing::debug!(connection = self.id.0, %error, "socket options not set");
        }
    }

    /// A peer that broke a rule.
    fn faulty(&self, reason: Closed, detail: &str) -> End {
        tracing::warn!(connection = self.id.0, peer = %self.peer, reason = reason.as_str(), detail, "device cut off");
        reason.into()
    }

    /// Decodes what came and tells the hub.
    async fn take_in(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.decoder.push(bytes);
        loop {
            let frame = match self.decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return Err(self.faulty(Closed::Malformed, &error.to_string())),
            };
            self.metrics.received(frame.message);
            self.count()?;
            let message = match DeviceMessage::from_frame(&frame) {
                Ok(message) => message,
                Err(error) => return Err(self.faulty(Closed::Malformed, &error.to_string())),
            };
            self.tell(message).await?;
        }
        let information = self.due.filter(|_| self.orders.is_none());
        self.due = match (information, self.decoder.is_partial()) {
            (Some(due), _) => Some(due),
            (None, true) => Some(self.due.unwrap_or_else(|| Instant::now() + MESSAGE)),
            (None, false) => None,
        };
        Ok(())
    }

    fn count(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let (since, count) = &mut self.flood;
        if now.duration_since(*since) > FLOOD_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > FLOOD { Err(self.faulty(Closed::Flood, "too many messages")) } else { Ok(()) }
    }

    async fn tell(&mut self, message: DeviceMessage) -> Result<(), End> {
        let told = match (message, &self.orders) {
            (DeviceMessage::Information(info), None) => {
                let (sender, receiver) = mpsc::channel(ORDERS);
                self.orders = Some(receiver);
                self.due = None;
                Told::Called { info: Box::new(info), address: self.peer.ip().to_canonical(), orders: sender }
            }
            // An unknown type is skipped, also as the first.
            (DeviceMessage::Unknown(_), None) => {
                self.metrics.unknown_messages.inc();
                return Ok(());
            }
            (_, None) => return Err(self.faulty(Closed::NoInformation, "the first message is not message 1")),
            // Progress is for people who watch; nothing follows from it.
            (DeviceMessage::Progress { percent, text }, Some(_)) => {
                tracing::debug!(connection = self.id.0, percent, text, "progress");
                return Ok(());
            }
            (DeviceMessage::KeepAlive, Some(_)) => return Ok(()),
            (message, Some(_)) => Told::Said(message),
        };
        self.hub.send((self.id, told)).await.map_err(|_| Closed::Shutdown.into())
    }

    /// Half-closes and drains, so that what we said last is not destroyed by an RST.
    async fn finish(&mut self) -> End {
        let drained = timeout(DRAIN, async {
            self.stream.shutdown().await?;
            let mut rest = [0; READ];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        });
        if let Ok(Ok(()) | Err(_)) = drained.await {
            return Closed::Finished.into();
        }
        let acknowledged = match (self.stream.local_addr(), self.stream.peer_addr()) {
            (Ok(local), Ok(peer)) => socket::is_acknowledged(local, peer).await,
            _ => true,
        };
        End { reason: Closed::Finished, acknowledged }
    }
}

async fn next_order(orders: &mut Option<mpsc::Receiver<Order>>) -> Option<Order> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
