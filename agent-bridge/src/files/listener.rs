//! TCP connections as they come in: no more at once than there are places, and none that takes more of them than one address
//! may have.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::Places;
use super::metrics::Protocol;

/// Connections that wait to be accepted: a storm of thousands of devices queues in the kernel.
const BACKLOG: u32 = 4_096;

/// How long accepting pauses where it fails for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens, on which so many connections may wait.
pub(super) fn listen_with(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Where connections of one protocol come in.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    protocol: Protocol,
    places: Arc<Semaphore>,
    addresses: Arc<Places<IpAddr>>,
}

impl Listener {
    /// For so many connections in all, and of each address; in all, more wait, and of an address, more are refused.
    pub(super) fn bind(address: SocketAddr, protocol: Protocol, all: usize, of_an_address: usize) -> io::Result<Self> {
        let socket = listen_with(address, BACKLOG)?;
        let address = socket.local_addr()?;
        let (places, addresses) = (Arc::new(Semaphore::new(all)), Places::new(of_an_address));
        Ok(Self { socket, address, protocol, places, addresses })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has each connection served by a task of its own, until `stop`. What is to be said to one that is refused, `refuse` says.
    pub(super) async fn run<F>(
        self,
        tasks: TaskTracker,
        stop: CancellationToken,
        refuse: impl Fn(&TcpStream),
        serve: impl Fn(TcpStream, SocketAddr) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let accepting = async {
            loop {
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                let (stream, peer) = self.accept().await;
                let Some(address_place) = self.addresses.take(peer.ip().to_canonical()) else {
                    refuse(&stream);
                    tracing::warn!(protocol = ?self.protocol, %peer, "connection refused: too many from its address");
                    continue;
                };
                let served = serve(stream, peer);
                tasks.spawn(async move {
                    let _places = (place, address_place);
                    served.await;
                });
            }
        };
        stop.run_until_cancelled(accepting).await;
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(protocol = ?self.protocol, %error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
