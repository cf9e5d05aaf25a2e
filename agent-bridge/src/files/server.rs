//! The file servers, as one thing that is started and stopped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credentials::{Credentials, DeviceId, Login, Operation, Permission, Refusal};
use super::ledger::Transfers;
use super::limits::Places;
use super::listener::Listener;
use super::logs::LogStore;
use super::metrics::{Metrics, Outcome, Protocol};
use super::store::{Readable, Store};
use super::tls::{self, TlsError, TlsFiles};
use super::{ftp, http, tftp};

/// From which ports TFTP transfers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TftpPorts {
    /// A port of its own for each transfer, as RFC 1350 has it.
    #[default]
    PerTransfer,
    /// All from the port that is listened on: for servers behind NAT or a Kubernetes Service.
    Single,
}

/// Bounds on what strangers and devices can take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// FTP control connections in all; more wait to be accepted. Each takes two file descriptors and about 10 KiB.
    pub ftp_connections: usize,
    /// FTP control connections of one address; more are refused. High, since a whole site may be behind one address.
    pub ftp_connections_per_address: usize,
    /// HTTP connections in all; more wait to be accepted. Each takes a file descriptor and about 20 KiB, and while it sends
    /// a file that is not in memory, a piece of that.
    pub http_connections: usize,
    /// HTTP connections of one address; more are refused.
    pub http_connections_per_address: usize,
    /// TFTP transfers in all; a request over it is not answered, and its sender repeats it.
    pub tftp_transfers: usize,
    /// Connections, and transfers, of one device: one at a time is all that it needs, but it may begin again before we know
    /// that its former attempts are dead.
    pub per_device: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ftp_connections: 4_096,
            ftp_connections_per_address: 2_048,
            http_connections: 4_096,
            http_connections_per_address: 2_048,
            tftp_transfers: 4_096,
            per_device: 8,
        }
    }
}

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From an FTP connection to its login.
    pub login: Duration,
    /// For the next command.
    pub idle: Duration,
    /// For the whole head of an HTTP request, from the connection or from the request before; and for a TLS handshake.
    pub head: Duration,
    /// For the data connection to be made.
    pub data_connection: Duration,
    /// For the next byte to be taken or brought, and for the acknowledgement of a TFTP block: as long as a device may be
    /// busy with its flash.
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            head: Duration::from_secs(30),
            data_connection: Duration::from_secs(10),
            stall: Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Clone)]
pub struct FileServerConfig {
    /// Where to listen; port 0 is a free one.
    pub ftp: SocketAddr,
    pub tftp: SocketAddr,
    pub http: SocketAddr,
    /// Certificate and key of the HTTP server, which then speaks HTTPS alone.
    pub http_tls: Option<TlsFiles>,
    /// Certificate and key of the FTP server, for clients that ask for TLS (RFC 4217). Others are served as ever.
    pub ftp_tls: Option<TlsFiles>,
    /// Ports for FTP data connections; `0..=0` is any free one.
    pub ftp_passive_ports: RangeInclusive<u16>,
    /// What devices reach this replica by: the address in the answer to `PASV`.
    pub advertise: Ipv4Addr,
    pub tftp_ports: TftpPorts,
    pub limits: Limits,
    pub deadlines: Deadlines,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen for FTP on {address}")]
    Ftp { address: SocketAddr, source: io::Error },
    #[error("cannot listen for TFTP on {address}")]
    Tftp { address: SocketAddr, source: io::Error },
    #[error("cannot listen for HTTP on {address}")]
    Http { address: SocketAddr, source: io::Error },
    #[error("HTTPS cannot be served")]
    Tls(#[source] TlsError),
    #[error("FTP cannot be served over TLS")]
    FtpTls(#[source] TlsError),
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// What serves a transfer, whichever way it comes.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) store: Store,
    pub(super) credentials: Credentials,
    pub(super) transfers: Arc<Transfers>,
    pub(super) logs: Arc<LogStore>,
    pub(super) metrics: Metrics,
    pub(super) config: FileServerConfig,
    pub(super) devices: Arc<Places<DeviceId>>,
}

impl Service {
    /// Whether a path allows the operation; over FTP, to the device that has logged in.
    pub(super) fn authorise(
        &self,
        protocol: Protocol,
        path: &str,
        operation: Operation,
        login: Option<Login>,
    ) -> Result<Permission, Refusal> {
        let checked = self.credentials.check_path(path, operation, Timestamp::now());
        let checked = match (checked, login) {
            (Ok(permission), Some(login)) if login.device != permission.device => Err(Refusal::WrongDevice),
            (checked, _) => checked,
        };
        checked.inspect_err(|refusal| {
            self.metrics.refused(protocol, operation, Outcome::Refused);
            tracing::info!(?protocol, ?operation, device = login.map(|l| l.device.to_string()), %refusal, "transfer refused");
        })
    }

    /// The content that a permission names.
    pub(super) async fn open(&self, protocol: Protocol, permission: &Permission) -> Result<Readable, Outcome> {
        let outcome = match self.store.open_content(&permission.content).await {
            Ok(Some(readable)) => return Ok(readable),
            Ok(None) => Outcome::NotFound,
            Err(error) => {
                tracing::error!(device = %permission.device, command = permission.command, %error, "content cannot be opened");
                Outcome::Failed
            }
        };
        self.metrics.refused(protocol, permission.operation, outcome);
        tracing::warn!(device = %permission.device, command = permission.command, outcome = outcome.label(), "file not served");
        Err(outcome)
    }
}

/// The file servers, running.
#[derive(Debug)]
pub struct FileServers {
    ftp: SocketAddr,
    tftp: SocketAddr,
    http: SocketAddr,
    tasks: TaskTracker,
}

impl FileServers {
    /// Listens and serves until the token is cancelled.
    pub fn start(
        config: FileServerConfig,
        store: Store,
        credentials: Credentials,
        transfers: Arc<Transfers>,
        logs: Arc<LogStore>,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let limits = config.limits;
        let (all, of_an_address) = (limits.ftp_connections, limits.ftp_connections_per_address);
        let ftp_listener = Listener::bind(config.ftp, Protocol::Ftp, all, of_an_address)
            .map_err(|source| StartError::Ftp { address: config.ftp, source })?;
        let tftp_socket =
            tftp::listen(config.tftp).map_err(|source| StartError::Tftp { address: config.tftp, source })?;
        let (all, of_an_address) = (limits.http_connections, limits.http_connections_per_address);
        let http_listener = Listener::bind(config.http, Protocol::Http, all, of_an_address)
            .map_err(|source| StartError::Http { address: config.http, source })?;
        let (ftp, http) = (ftp_listener.address(), http_listener.address());
        let tftp = tftp_socket.local_addr().map_err(|source| StartError::Tftp { address: config.tftp, source })?;

        let tls = config.http_tls.clone().map(tls::Keeper::load).transpose().map_err(StartError::Tls)?;
        let ftp_tls = config.ftp_tls.clone().map(tls::Keeper::load).transpose().map_err(StartError::FtpTls)?;

        let metrics = Metrics::register(registry)?;
        let devices = Places::new(config.limits.per_device);
        let service = Arc::new(Service { store, credentials, transfers, logs, metrics, config, devices });
        let tasks = TaskTracker::new();
        let ftp_acceptor = ftp_tls.as_ref().map(tls::Keeper::acceptor);
        tasks.spawn(ftp::serve(ftp_listener, ftp_acceptor, Arc::clone(&service), tasks.clone(), stop.clone()));
        tasks.spawn(tftp::serve(tftp_socket, Arc::clone(&service), tasks.clone(), stop.clone()));
        let acceptor = tls.as_ref().map(tls::Keeper::acceptor);
        for keeper in [tls, ftp_tls].into_iter().flatten() {
            tasks.spawn(keeper.run(stop.clone()));
        }
        let secure = acceptor.is_some();
        tasks.spawn(http::serve(http_listener, acceptor, service, tasks.clone(), stop));
        tasks.close();
        tracing::info!(%ftp, %tftp, %http, secure, "serving files");
        Ok(Self { ftp, tftp, http, tasks })
    }

    /// Where FTP listens.
    pub fn ftp(&self) -> SocketAddr {
        self.ftp
    }

    /// Where TFTP listens.
    pub fn tftp(&self) -> SocketAddr {
        self.tftp
    }

    /// Where HTTP listens, or HTTPS.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Returns when everything has ended, after the token was cancelled.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
