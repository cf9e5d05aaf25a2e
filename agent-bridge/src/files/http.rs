//! The HTTP server (RFC 9110, 9112), as far as a device needs one: `GET` of one file, whole or from where it broke off, and
//! `PUT` of one log; with TLS where there is a certificate. hyper reads and writes what stands on the wire.
//!
//! Refuses what nobody told a device to do: every other path is "not found", with which there is no folder, no list and no
//! redirect. The path is the permission (see `credentials`), so it is in no log line. Connections are bounded in all and for
//! each address, transfers for each device; a head has a length and a time, and whoever stands still is left.

mod account;
mod answer;
mod body;
mod connection;
mod range;
mod upload;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::Places;
use super::server::Service;
use super::tls::Acceptor;

pub(super) use super::ftp::listen;

/// How long accepting pauses where it fails for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Acceptor>,
    service: Arc<Service>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let served = async {
        let limits = service.config.limits;
        let places = Arc::new(Semaphore::new(limits.http_connections));
        let addresses = Places::new(limits.http_connections_per_address);
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (stream, peer) = accept(&listener).await;
            let Some(address_place) = addresses.take(peer.ip().to_canonical()) else {
                tracing::warn!(%peer, "HTTP connection refused: too many from its address");
                continue;
            };
            let (service, stop, tls) = (Arc::clone(&service), stop.clone(), tls.clone());
            tasks.spawn(async move {
                let _places = (place, address_place);
                stop.run_until_cancelled(connection::run(stream, peer, tls, service)).await;
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
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
