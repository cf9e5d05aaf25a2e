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

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listener::Listener;
use super::server::Service;
use super::tls::Acceptor;
use passive::PassivePorts;
use session::Session;

/// Serves; with a certificate also those who ask for TLS.
pub(super) async fn serve(
    listener: Listener,
    tls: Option<Acceptor>,
    service: Arc<Service>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    // The listener has a local address, and so has the range of its data connections.
    let ports = PassivePorts::new(listener.address().ip(), service.config.ftp_passive_ports.clone());
    let (ports, stopped) = (Arc::new(ports), stop.clone());
    let refuse = |stream: &tokio::net::TcpStream| {
        // Into an empty send buffer: it fits, or the peer is gone.
        let _ = stream.try_write(b"421 Too many connections from this address.\r\n");
    };
    let connections = listener.run(tasks, stop, refuse, |stream, peer| {
        let (service, ports, tls, stop) = (Arc::clone(&service), Arc::clone(&ports), tls.clone(), stopped.clone());
        async move {
            if let Ok(session) = Session::new(stream, peer.ip().to_canonical(), service, ports, tls) {
                session.run(&stop).await;
            }
        }
    });
    connections.await;
}
