//! The FTP server (RFC 959, 1123, 2389, 2428, 3659, 4217), as far as a device needs one: log in, fetch one file, bring one file,
//! over passive data connections.
//!
//! Refuses what a file server in a hostile place need not do: data connections to an address that the client names (`PORT`,
//! `EPRT`), listing what there is, deleting, renaming. Everything a peer sends is bounded before it is looked at.

mod command;
mod control;
mod passive;
mod session;
mod transfer;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::Places;
use super::server::Service;
use super::tls::Acceptor;
use passive::PassivePorts;
use session::Session;

/// Connections that wait to be accepted: a storm of thousands of devices queues in the kernel.
const BACKLOG: u32 = 4_096;

/// How long accepting pauses where it fails for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_with(address, BACKLOG)
}

fn listen_with(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Serves; with a certificate also those who ask for TLS.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Acceptor>,
    service: Arc<Service>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let served = async {
        let limits = service.config.limits;
        let places = Arc::new(Semaphore::new(limits.ftp_connections));
        let addresses = Places::new(limits.ftp_connections_per_address);
        // The listener has a local address, and so has the range of its data connections.
        let local = listener.local_addr().map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let ports = Arc::new(PassivePorts::new(local, service.config.ftp_passive_ports.clone()));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, peer) = accept(&listener).await;
            let Some(address_place) = addresses.take(peer.ip().to_canonical()) else {
                // Into an empty send buffer: it fits, or the peer is gone.
                let _ = stream.try_write(b"421 Too many connections from this address.\r\n");
                tracing::warn!(%peer, "FTP connection refused: too many from its address");
                continue;
            };
            let (service, ports, tls, stop) = (Arc::clone(&service), Arc::clone(&ports), tls.clone(), stop.clone());
            tasks.spawn(async move {
                let _places = (place, address_place);
                if let Ok(session) = Session::new(stream, peer.ip().to_canonical(), service, ports, tls) {
                    session.run(&stop).await;
                }
            });
        }
    };
    stop.run_until_cancelled(served).await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept FTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
