//! Message 10 to devices whose TCP connection is gone, and their 11 (`docs/protocol.md`, "Without a connection").
//!
//! What comes in is looked at only where a device at that very address and port has been asked, and only while it may
//! answer. All else is dropped, and counted: nobody who was not asked makes the bridge send, or remember, anything.

mod metrics;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fettle_protocol::datum::ExecutionResult;
use fettle_protocol::message::{ErrorDetail, Location};
use fettle_protocol::proof::{LogKey, Nonce};
use fettle_protocol::{DeviceMessage, Dialect, Mac, ServerMessage, datagram, proof};
use jiff::Timestamp;
use prometheus::Registry;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::metrics::NotSent;
use self::metrics::{Dropped, Metrics};
use crate::sparing::Sparing;

/// Devices that may answer at the same time: as many as a replica may have devices that time out at once. An entry takes
/// about 100 bytes.
const MAX_ASKED: usize = 65_536;

/// One more than the longest that is looked at, so that what is longer shows.
const BUFFER_LEN: usize = datagram::MAX_LEN + 1;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("the address cannot be had")]
    Io(#[from] io::Error),
    #[error("its metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// What a device has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub mac: Mac,
    pub result: ExecutionResult,
    pub detail: ErrorDetail,
}

/// A device that is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub mac: Mac,
    /// As it reads messages.
    pub dialect: Dialect,
    /// By what it knows us, where it takes nothing without a proof.
    pub key: Option<LogKey>,
    /// How long its answer counts.
    pub until: Timestamp,
}

/// The bridge's UDP socket.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    /// Where devices listen.
    device_port: u16,
    asked: Mutex<HashMap<IpAddr, Asked>>,
    metrics: Metrics,
    lines: Sparing,
}

impl Datagrams {
    /// Binds to `address`; port 0 is a free one. Devices are asked at `device_port`.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(address: SocketAddr, device_port: u16, registry: &Registry) -> Result<Self, BindError> {
        let socket = UdpSocket::bind(address).await?;
        // What is sent without waiting is sent only once this is known.
        socket.writable().await?;
        let metrics = Metrics::register(registry)?;
        Ok(Self { socket, device_port, asked: Mutex::default(), metrics, lines: Sparing::new() })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends 10 to the device at `to`. What cannot be sent now is lost, as datagrams are: whoever asks asks again.
    pub fn ask(&self, to: IpAddr, asked: Asked, location: Location) {
        let (mac, dialect) = (asked.mac, asked.dialect);
        // The key goes over TCP, and never here.
        let frame = ServerMessage::UploadLog(Location { log_key: None, ..location }).to_frame();
        let datagram = match &asked.key {
            Some(key) => {
                proof::write(dialect, &frame, Nonce::new(Timestamp::now().as_millisecond(), rand::random()), key)
            }
            None => datagram::write(dialect, &frame),
        };
        let datagram = match datagram {
            Ok(datagram) => datagram,
            Err(error) => return tracing::error!(%error, "message cannot be encoded"),
        };
        self.expect(to, asked);
        match self.socket.try_send_to(&datagram, self.peer(to)) {
            Ok(_) => {
                self.metrics.sent.inc();
                tracing::debug!(%mac, address = %to, "device without a connection asked for its log");
            }
            Err(error) => {
                self.not_sent(NotSent::Unreachable);
                if let Some(line) = self.lines.line() {
                    let left_out = line.left_out;
                    tracing::warn!(%mac, address = %to, %error, left_out, "device cannot be asked for its log over UDP");
                }
            }
        }
    }

    /// Counts a device that was not asked.
    pub fn not_sent(&self, why: NotSent) {
        self.metrics.not_sent(why);
    }

    /// Takes in what devices answer, until `stop`.
    pub async fn serve(&self, replies: mpsc::Sender<Reply>, stop: CancellationToken) {
        let mut buffer = [0; BUFFER_LEN];
        loop {
            let received = match stop.run_until_cancelled(self.socket.recv_from(&mut buffer)).await {
                None => return,
                Some(received) => received,
            };
            // An error is what became of a datagram that we sent: nobody listens there.
            let Ok((len, from)) = received else { continue };
            match self.read(&buffer[..len], from, Timestamp::now()) {
                // The hub has other things to do than to wait for those who answer: with so many it is lost.
                Ok(reply) => {
                    if replies.try_send(reply).is_err() {
                        self.metrics.dropped(Dropped::TooMany);
                    }
                }
                Err(why) => {
                    self.metrics.dropped(why);
                    if let Some(line) = self.lines.line() {
                        let (reason, left_out) = (why.label(), line.left_out);
                        tracing::info!(%from, reason, left_out, "datagram dropped");
                    }
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    fn read(&self, datagram: &[u8], from: SocketAddr, now: Timestamp) -> Result<Reply, Dropped> {
        let address = from.ip().to_canonical();
        let asked = self.asked().get(&address).cloned().filter(|asked| now <= asked.until);
        let asked = asked.filter(|_| from.port() == self.device_port).ok_or(Dropped::NotAsked)?;
        let message = datagram::read_reply(asked.dialect, datagram).map_err(|_| Dropped::Malformed)?;
        let DeviceMessage::LogUploaded(result, detail) = message else { return Err(Dropped::Malformed) };
        // It has said what it had to say.
        self.asked().remove(&address);
        Ok(Reply { mac: asked.mac, result, detail })
    }

    fn expect(&self, to: IpAddr, new: Asked) {
        let mut asked = self.asked();
        if asked.len() >= MAX_ASKED && !asked.contains_key(&to) {
            let now = Timestamp::now();
            asked.retain(|_, asked| now <= asked.until);
            if asked.len() >= MAX_ASKED {
                // It is asked all the same, and its log is taken: only its answer counts for nothing.
                return;
            }
        }
        asked.insert(to, new);
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<IpAddr, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device at this address, as the socket names it.
    fn peer(&self, to: IpAddr) -> SocketAddr {
        let of_six = self.socket.local_addr().is_ok_and(|local| local.is_ipv6());
        let to = match to {
            IpAddr::V4(four) if of_six => IpAddr::V6(four.to_ipv6_mapped()),
            to => to,
        };
        SocketAddr::new(to, self.device_port)
    }
}

#[cfg(test)]
mod tests;
