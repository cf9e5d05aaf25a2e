//! The data connection: a file out, a file in.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::files::credentials::{Operation, Permission};
use crate::files::logs::{LogError, Upload};
use crate::files::metrics::{Outcome, Protocol};
use crate::files::server::Service;
use crate::files::store::{Disk, Readable};

/// What is handed to the kernel at once.
const SEND_LEN: usize = 256 * 1024;

/// How much the kernel may hold that it has not sent yet. Without this it takes up to 4 MiB for each of thousands of slow
/// devices, and we would believe to have sent what is still here.
const UNSENT: u32 = 128 * 1024;

/// How long a client may take to close its side after it has everything. Most do it at once; some wait for our reply
/// first, which is why it is short.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

const RECEIVE_LEN: usize = 16 * 1024;

/// Sends a file from `offset` on and closes the connection.
pub(super) async fn send(
    service: &Service,
    permission: &Permission,
    readable: &Readable,
    offset: u64,
    mut data: TcpStream,
) -> Outcome {
    let active = service.metrics.begin(Protocol::Ftp, Operation::Download);
    let record = service.transfers.begin(permission);
    let stall = service.config.deadlines.stall;
    if let Err(error) = socket2::SockRef::from(&data).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "the unsent data of a connection cannot be limited");
    }

    let mut sent = offset;
    let mut disk = Disk::Avoid;
    let result = loop {
        if sent == readable.size() {
            break closed(&mut data).await;
        }
        match timeout(stall, data.writable()).await {
            Err(_) => break Err(Outcome::TimedOut),
            Ok(Err(error)) => break Err(broken(&error)),
            Ok(Ok(())) => {}
        }
        match readable.with_bytes(sent, SEND_LEN, disk, |bytes| data.try_write(bytes)) {
            Ok(Ok(len)) => {
                sent += len as u64;
                active.bytes(len as u64);
                record.reached(sent);
                disk = Disk::Avoid;
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Err(error)) => break Err(broken(&error)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match readable.load(sent).await {
                Ok(()) => disk = Disk::Loaded,
                Err(error) => break Err(unreadable(permission, &error)),
            },
            Err(error) => break Err(unreadable(permission, &error)),
        }
        // A fast reader never lets the socket block: others have their turn nevertheless.
        tokio::task::consume_budget().await;
    };
    let outcome = match result {
        Ok(()) => {
            record.complete();
            Outcome::Complete
        }
        Err(outcome) => outcome,
    };
    tracing::debug!(device = %permission.device, command = permission.command, sent, outcome = outcome.label(), "FTP download ended");
    active.end(outcome);
    outcome
}

/// Ends the file, and sees to it that the client did not refuse it at the last moment.
async fn closed(data: &mut TcpStream) -> Result<(), Outcome> {
    data.shutdown().await.map_err(|error| broken(&error))?;
    let gone = async {
        let mut ignored = [0; 512];
        loop {
            data.readable().await?;
            match data.try_read(&mut ignored) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    match timeout(CLOSE_PATIENCE, gone).await {
        Ok(Err(error)) => Err(broken(&error)),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

fn broken(error: &io::Error) -> Outcome {
    tracing::debug!(%error, "FTP data connection broken");
    Outcome::Aborted
}

fn unreadable(permission: &Permission, error: &io::Error) -> Outcome {
    tracing::error!(device = %permission.device, command = permission.command, %error, "content cannot be read");
    Outcome::Failed
}

/// Why an upload did not arrive.
pub(super) enum ReceiveError {
    Peer,
    Stalled,
    Store(LogError),
}

/// Takes a file until the client closes the connection, and stores it.
pub(super) async fn receive(
    service: &Service,
    permission: &Permission,
    upload: Upload,
    data: TcpStream,
) -> Result<(), ReceiveError> {
    let active = service.metrics.begin(Protocol::Ftp, Operation::Upload);
    let record = service.transfers.begin(permission);
    let result = async {
        let mut upload = upload;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            match timeout(service.config.deadlines.stall, data.readable()).await {
                Err(_) => return Err(ReceiveError::Stalled),
                Ok(Err(_)) => return Err(ReceiveError::Peer),
                Ok(Ok(())) => {}
            }
            match data.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    active.bytes(len as u64);
                    upload.write(&buffer[..len]).await.map_err(ReceiveError::Store)?;
                    record.reached(upload.received());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(ReceiveError::Peer),
            }
            tokio::task::consume_budget().await;
        }
        upload.finish().await.map_err(ReceiveError::Store)
    }
    .await;
    let outcome = match &result {
        Ok(_) => {
            record.complete();
            Outcome::Complete
        }
        Err(ReceiveError::Peer) => Outcome::Aborted,
        Err(ReceiveError::Stalled) => Outcome::TimedOut,
        Err(ReceiveError::Store(error)) => {
            tracing::warn!(device = %permission.device, command = permission.command, %error, "upload not stored");
            Outcome::of_log_error(error)
        }
    };
    tracing::debug!(device = %permission.device, command = permission.command, outcome = outcome.label(), "FTP upload ended");
    active.end(outcome);
    result.map(|_| ())
}
