//! The TFTP server (RFC 1350, 2347, 2348, 2349, 7440): binary reads of what a device was told to fetch, binary writes of the
//! logs that it was told to bring, each named by a path that is its own capability.
//!
//! What the path does not allow is "file not found". A storm of requests, or one over a limit, goes unanswered: clients
//! repeat their requests, so it becomes a queue.

mod link;
mod options;
mod packet;
mod receiver;
mod sender;
mod sessions;
mod timer;
mod transfer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credentials::Operation;
use super::metrics::Protocol;
use super::server::{Service, TftpPorts};
use link::Link;
use packet::{Direction, ErrorCode, Mode, Packet, Request};
use sessions::{Registered, Sessions};
use transfer::Transfer;

/// The largest UDP payload: a block of 65464 bytes arrives here in single-port mode.
const MAX_PACKET: usize = 65_507;

/// What the kernel may hold of requests that we have not read: thousands at once, where the system allows it.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// From this size on a file needs blocks over 512 bytes: 65536 of those. Many clients that know no options do not survive
/// the wrap of block numbers either, and there is no way to ask them.
const MAX_SMALL_BLOCK_FILE: u64 = 32 * 1024 * 1024;

pub(super) fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    if let Err(error) = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "the receive buffer of TFTP cannot be enlarged");
    }
    UdpSocket::from_std(socket)
}

pub(super) async fn serve(socket: UdpSocket, service: Arc<Service>, tasks: TaskTracker, stop: CancellationToken) {
    let server = Server {
        socket: Arc::new(socket),
        places: Arc::new(Semaphore::new(service.config.limits.tftp_transfers)),
        sessions: Arc::new(Sessions::default()),
        service,
        tasks,
        stop: stop.clone(),
    };
    stop.run_until_cancelled(server.packets()).await;
}

struct Server {
    socket: Arc<UdpSocket>,
    service: Arc<Service>,
    sessions: Arc<Sessions>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    async fn packets(&self) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((len, peer)) => self.packet(&buffer[..len], peer),
                // An ICMP answer to something that we sent; the next packet has nothing to do with it.
                Err(error) => tracing::debug!(%error, "TFTP receive error"),
            }
            tokio::task::consume_budget().await;
        }
    }

    fn packet(&self, bytes: &[u8], peer: SocketAddr) {
        match Packet::parse(bytes) {
            Ok(Packet::Request(request)) => self.request(request, peer),
            Ok(Packet::Data { .. } | Packet::Ack { .. } | Packet::Error { .. }) => match self.service.config.tftp_ports
            {
                TftpPorts::Single => self.sessions.deliver(peer, bytes),
                // They belong to no transfer, for those have ports of their own.
                TftpPorts::PerTransfer => {}
            },
            Err(packet::Malformed) => tracing::debug!(%peer, "malformed TFTP packet"),
        }
    }

    fn request(&self, request: Request, peer: SocketAddr) {
        match request.mode {
            Mode::Octet => {}
            Mode::Netascii | Mode::Other => {
                tracing::info!(%peer, "TFTP request refused: not in octet mode");
                return self.refuse(peer, ErrorCode::IllegalOperation, "use octet (binary) mode");
            }
        }
        let operation = match request.direction {
            Direction::Read => Operation::Download,
            Direction::Write => Operation::Upload,
        };
        let Ok(permission) = self.service.authorise(Protocol::Tftp, &request.path, operation, None) else {
            return self.refuse(peer, ErrorCode::FileNotFound, "file not found");
        };

        let limited = || tracing::warn!(device = %permission.device, command = permission.command, "TFTP request over a limit, not answered");
        let inbox = match self.service.config.tftp_ports {
            TftpPorts::PerTransfer => None,
            TftpPorts::Single => Some(operation),
        };
        let Some(Registered { session, inbox }) = self.sessions.register(peer, permission, inbox) else {
            // It repeats a request whose transfer is on its way.
            return;
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return limited() };
        let Some(device_place) = self.service.devices.take(permission.device) else { return limited() };
        let link = match inbox {
            Some(packets) => Ok(Link::shared(Arc::clone(&self.socket), peer, packets)),
            None => self.socket.local_addr().and_then(|local| Link::own(local.ip(), peer)),
        };
        let link = match link {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(device = %permission.device, %error, "no socket for a TFTP transfer");
                return;
            }
        };
        let transfer = Transfer { service: Arc::clone(&self.service), permission, link, options: request.options };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _places = (place, device_place);
            let superseded = session.superseded();
            tokio::select! {
                () = transfer.run(&session) => {}
                () = superseded.cancelled() => {}
                () = tokio::time::sleep(permission.remaining(Timestamp::now())) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// An error packet, if there is room for it; the client repeats its request otherwise.
    fn refuse(&self, peer: SocketAddr, code: ErrorCode, text: &str) {
        let _ = self.socket.try_send_to(&packet::error(code, text), peer);
    }
}
