//! Accepts device connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fettle_protocol::session::ConnectionId;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::limits::Limits;
use super::{FromConnection, socket};
use crate::metrics::{Closed, Metrics};
use crate::sparing::Sparing;

/// The kernel's queue of connections that were not accepted yet: tokio's own `bind` takes 128, and a site that comes
/// back from a power cut would lose calls.
const BACKLOG: u32 = 4096;
/// After an error of accept (no file descriptors left): connections that end free some.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen and how much to take.
#[derive(Debug, Clone, Copy)]
pub struct ListenerConfig {
    /// The device port.
    pub address: SocketAddr,
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address: sites behind one NAT share it.
    pub connections_per_address: usize,
}

/// The device port, listening.
pub struct Listener {
    listener: TcpListener,
    limits: Limits,
    metrics: Metrics,
}

/// What all connections have in common.
pub(super) struct Shared {
    pub(super) hub: mpsc::Sender<FromConnection>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
    /// Lines about peers that break rules.
    pub(super) lines: Sparing,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// Those of the operating system: the port is taken, or not ours to take.
    pub fn bind(config: ListenerConfig, metrics: Metrics) -> io::Result<Self> {
        let socket = if config.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(config.address)?;
        let limits = Limits::new(config.connections, config.connections_per_address);
        Ok(Self { listener: socket.listen(BACKLOG)?, limits, metrics })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until `shutdown`, then waits for the connections to end: they carry out what was ordered, and drain.
    pub async fn run(self, hub: mpsc::Sender<FromConnection>, shutdown: CancellationToken) {
        let Self { listener, limits, metrics } = self;
        let shared = Arc::new(Shared { hub, metrics, shutdown: shutdown.clone(), lines: Sparing::new() });
        let tasks = TaskTracker::new();
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(line) = shared.lines.line() {
                        tracing::warn!(%error, left_out = line.left_out, "connection not accepted");
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            let Some(place) = limits.take(peer.ip()) else {
                shared.metrics.closed(Closed::TooMany);
                if let Some(line) = shared.lines.line() {
                    let reason = Closed::TooMany.as_str();
                    tracing::warn!(%peer, reason, left_out = line.left_out, "connection refused");
                }
                continue;
            };
            if let Err(error) = stream.set_nodelay(true).and_then(|()| socket::keep_alive(&stream)) {
                tracing::debug!(%peer, %error, "socket options not set");
            }
            next += 1;
            shared.metrics.accepted.inc();
            tasks.spawn(Connection::new(ConnectionId(next), stream, peer, place, Arc::clone(&shared)).run());
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}
