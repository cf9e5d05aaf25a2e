//! One visit to the server: log in, do one thing, leave. Each step has a deadline.

use std::future::Future;
use std::io;
use std::time::Duration;

use suppaftp::tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream};
use suppaftp::types::FileType;
use suppaftp::{FtpError, Mode, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::server::PutServer;
use crate::files::logs::{LogError, Upload};
use crate::files::store::{Disk, Readable};

/// For the connection, and for each reply.
const STEP: Duration = Duration::from_secs(20);
/// For the next bytes to be taken or to come, and for the reply after the last one: servers write to disks then.
const STALL: Duration = Duration::from_secs(60);
/// What we came for is done; whether the server says goodbye is not worth more.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is sent and received at once.
const CHUNK: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("the external file server cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the external file server did not answer in time: {0}")]
    Silent(&'static str),
    #[error("the external file server broke the connection: {doing}")]
    Broken { doing: &'static str, source: io::Error },
    #[error("the external file server refused: {doing}: {reply}")]
    Refused { doing: &'static str, status: Status, reply: String },
    #[error("the external file server does not speak TLS as it should: {0}")]
    Tls(String),
    #[error("the external file server answered what is no FTP: {0}")]
    Gibberish(&'static str),
    #[error(
        "the external file server has {found} bytes of a file of {size}: it has no room, or another changes its files"
    )]
    WrongSize { found: u64, size: u64 },
    #[error("the file cannot be read from the cache")]
    Unreadable(#[source] io::Error),
    #[error("the log that lies on the external file server cannot be stored")]
    Log(#[from] LogError),
}

/// Logged in, where our files are.
pub(super) struct Visit {
    ftp: AsyncRustlsFtpStream,
}

impl Visit {
    pub(super) async fn begin(server: &PutServer) -> Result<Self, ExternalError> {
        let stream = timeout(STEP, TcpStream::connect((server.host.as_str(), server.port)))
            .await
            .map_err(|_| ExternalError::Silent("connecting"))?
            .map_err(ExternalError::Unreachable)?;
        let is_ipv6 = stream.peer_addr().is_ok_and(|peer| !peer.ip().to_canonical().is_ipv4());
        let mut ftp = step("its greeting", AsyncRustlsFtpStream::connect_with_stream(stream)).await?;
        if let Some(tls) = &server.tls {
            let connector = AsyncRustlsConnector::from(tls.as_ref().clone());
            ftp = step("beginning TLS", ftp.into_secure(connector, &server.host)).await?;
        }
        // Data connections go where this one went: what a server behind NAT says of itself is of no use, and what a
        // hostile one says would lead us elsewhere.
        ftp.set_passive_nat_workaround(true);
        if is_ipv6 {
            ftp.set_mode(Mode::ExtendedPassive);
        }
        step("login", ftp.login(&server.login.user, &server.login.password)).await?;
        step("binary mode", ftp.transfer_type(FileType::Binary)).await?;
        if !server.folder.is_empty() {
            step("changing to the folder", ftp.cwd(&server.folder)).await?;
        }
        Ok(Self { ftp })
    }

    /// Puts content there under this name, and sees to it that it is there.
    pub(super) async fn put(&mut self, name: &str, readable: &Readable) -> Result<(), ExternalError> {
        let doing = "putting a file";
        let mut data = step(doing, self.ftp.put_with_stream(name)).await?;
        let (mut sent, mut disk, mut chunk) = (0, Disk::Avoid, Vec::with_capacity(CHUNK));
        while sent < readable.size() {
            let read = readable.with_bytes(sent, CHUNK, disk, |bytes| {
                chunk.clear();
                chunk.extend_from_slice(bytes);
            });
            match read {
                Ok(()) => disk = Disk::Avoid,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    readable.load(sent).await.map_err(ExternalError::Unreadable)?;
                    disk = Disk::Loaded;
                    continue;
                }
                Err(error) => return Err(ExternalError::Unreadable(error)),
            }
            flowing(doing, data.write_all(&chunk)).await?;
            sent += chunk.len() as u64;
        }
        finished(doing, data.finish()).await?;
        match self.size(name).await? {
            // There are servers that do not tell.
            None => Ok(()),
            Some(found) if found == readable.size() => Ok(()),
            Some(found) => Err(ExternalError::WrongSize { found, size: readable.size() }),
        }
    }

    /// Makes an empty file that everybody may write to, as TFTP servers want it; where the server lets it be so.
    pub(super) async fn make_room(&mut self, name: &str) -> Result<(), ExternalError> {
        let doing = "making room for a log";
        let data = step(doing, self.ftp.put_with_stream(name)).await?;
        finished(doing, data.finish()).await?;
        let _ = step("permissions of a log", self.ftp.site(format!("CHMOD 666 {name}"))).await;
        Ok(())
    }

    /// The size of a file; `None`: there is none, or the server does not tell.
    pub(super) async fn size(&mut self, name: &str) -> Result<Option<u64>, ExternalError> {
        match step("the size of a file", self.ftp.size(name)).await {
            Ok(size) => Ok(u64::try_from(size).ok()),
            Err(ExternalError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a log from there.
    pub(super) async fn take(&mut self, name: &str, upload: &mut Upload) -> Result<(), ExternalError> {
        let doing = "fetching a log";
        let mut data = step(doing, self.ftp.retr_as_stream(name)).await?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match flowing(doing, data.read(&mut chunk)).await? {
                0 => break,
                len => upload.write(&chunk[..len]).await?,
            }
        }
        finished(doing, data.finish()).await
    }

    /// Removes a file. That there is none is as good.
    pub(super) async fn remove(&mut self, name: &str) -> Result<(), ExternalError> {
        match step("removing a file", self.ftp.rm(name)).await {
            Err(ExternalError::Refused { reply, .. }) if self.size(name).await?.is_none() => {
                tracing::debug!(reply, "a file on the external file server is gone already");
                Ok(())
            }
            removed => removed,
        }
    }

    /// The names of all files.
    pub(super) async fn names(&mut self) -> Result<Vec<String>, ExternalError> {
        match finished("listing files", self.ftp.nlst(None)).await {
            Ok(names) => Ok(names
                .into_iter()
                .map(|name| name.rsplit('/').next().unwrap_or_default().trim().to_owned())
                .collect()),
            // Some servers say so of a folder that is empty.
            Err(ExternalError::Refused { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn end(mut self) {
        let _ = timeout(GOODBYE, self.ftp.quit()).await;
    }
}

async fn step<T>(doing: &'static str, reply: impl Future<Output = Result<T, FtpError>>) -> Result<T, ExternalError> {
    reply_within(STEP, doing, reply).await
}

async fn finished<T>(
    doing: &'static str,
    reply: impl Future<Output = Result<T, FtpError>>,
) -> Result<T, ExternalError> {
    reply_within(STALL, doing, reply).await
}

async fn reply_within<T>(
    patience: Duration,
    doing: &'static str,
    reply: impl Future<Output = Result<T, FtpError>>,
) -> Result<T, ExternalError> {
    match timeout(patience, reply).await {
        Err(_) => Err(ExternalError::Silent(doing)),
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error {
            FtpError::ConnectionError(source) => ExternalError::Broken { doing, source },
            FtpError::SecureError(text) => ExternalError::Tls(text),
            FtpError::UnexpectedResponse(response) => {
                let status = response.status;
                ExternalError::Refused { doing, status, reply: said(&response.body, status) }
            }
            FtpError::BadResponse | FtpError::InvalidAddress(_) | FtpError::DataConnectionAlreadyOpen => {
                ExternalError::Gibberish(doing)
            }
        }),
    }
}

async fn flowing<T>(doing: &'static str, bytes: impl Future<Output = io::Result<T>>) -> Result<T, ExternalError> {
    match timeout(STALL, bytes).await {
        Err(_) => Err(ExternalError::Silent(doing)),
        Ok(moved) => moved.map_err(|source| ExternalError::Broken { doing, source }),
    }
}

/// The server's words, as far as they are worth passing on.
fn said(body: &[u8], status: Status) -> String {
    /// A sentence. What is longer is no sentence for an operator.
    const MAX: usize = 120;
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX).collect();
    if line.is_empty() { status.to_string() } else { line }
}
