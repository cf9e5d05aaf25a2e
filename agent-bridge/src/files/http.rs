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

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listener::Listener;
use super::server::Service;
use super::tls::Acceptor;

pub(super) async fn serve(
    listener: Listener,
    tls: Option<Acceptor>,
    service: Arc<Service>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let stopped = stop.clone();
    // What could be said to one that is refused would have to be said within TLS.
    let connections = listener.run(
        tasks,
        stop,
        |_| {},
        |stream, peer| {
            let (service, tls, stop) = (Arc::clone(&service), tls.clone(), stopped.clone());
            async move {
                stop.run_until_cancelled(connection::run(stream, peer, tls, service)).await;
            }
        },
    );
    connections.await;
}
