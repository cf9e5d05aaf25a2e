//! The data connection: a file out, a file in.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::wire::Wire;
use crate::files::credentials::{Operation, Permission};
use crate::files::logs::{LogError, Upload};
use crate::files::metrics::{Outcome, Protocol};
use crate::files::server::Service;
use crate::files::store::{Disk, Readable};

/// What is handed to the kernel at once. Then it is another's turn, also where the network takes everything: what many
/// devices get at the same time differs by a few of these.
const SEND_LEN: usize = 64 * 1024;

/// What is encrypted at once: as much as a record of TLS holds.
const TLS_LEN: usize = 16 * 1024;

/// How much the kernel may hold that it has not sent yet. Without this it takes up to 4 MiB for each of thousands of slow
/// devices, and we would believe to have sent what is still here.
const UNSENT: u32 = 128 * 1024;

/// How long a client may take to close its side after it has everything. Most do it at once; some wait for our reply
/// first, which is why it is short.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

const RECEIVE_LEN: usize = 16 * 1024;

/// How much a client may go on sending of a file that was refused: the largest log by default, so that most come to their end.
const MAX_DRAIN: usize = 16 * 1024 * 1024;

/// Sends a file from `offset` on and closes the connection.
pub(super) async fn send(
    service: &Service,
    permission: &Permission,
    readable: &Readable,
    offset: u64,
    mut data: Wire,
) -> Outcome {
    let active = service.metrics.begin(Protocol::Ftp, Operation::Download);
    let record = service.transfers.begin(permission);
    let stall = service.config.deadlines.stall;
    if let Wire::Plain(data) = &data
        && let Err(error) = socket2::SockRef::from(data).set_tcp_notsent_lowat(UNSENT)
    {
        tracing::debug!(%error, "the unsent data of a connection cannot be limited");
    }

    let mut sent = offset;
    let mut disk = Disk::Avoid;
    // Only what goes through TLS is copied.
    let mut chunk = Vec::new();
    let result = loop {
        if sent == readable.size() {
            break closed(&mut data).await;
        }
        match hand(&mut data, readable, sent, disk, &mut chunk, stall).await {
            Ok(Handed::Bytes(len)) => {
                sent += len as u64;
                active.bytes(len as u64);
                record.reached(sent);
                disk = Disk::Avoid;
            }
            Ok(Handed::Nothing) => {}
            Ok(Handed::NotLoaded) => match readable.load(sent).await {
                Ok(()) => disk = Disk::Loaded,
                Err(error) => break Err(unreadable(permission, &error)),
            },
            Err(NotHanded::Peer(outcome)) => break Err(outcome),
            Err(NotHanded::Content(error)) => break Err(unreadable(permission, &error)),
        }
        tokio::task::yield_now().await;
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

/// What came of handing bytes to the network.
enum Handed {
    Bytes(usize),
    /// It takes none at the moment.
    Nothing,
    /// They have to be brought from the disk first.
    NotLoaded,
}

enum NotHanded {
    Peer(Outcome),
    Content(io::Error),
}

/// Hands to the network what follows `sent`: in the clear as it is, else through `chunk`.
async fn hand(
    data: &mut Wire,
    readable: &Readable,
    sent: u64,
    disk: Disk,
    chunk: &mut Vec<u8>,
    stall: Duration,
) -> Result<Handed, NotHanded> {
    let late = |_| NotHanded::Peer(Outcome::TimedOut);
    let lost = |error: io::Error| NotHanded::Peer(broken(&error));
    let not_read = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Handed::NotLoaded),
        _ => Err(NotHanded::Content(error)),
    };
    match data {
        Wire::Plain(stream) => {
            timeout(stall, stream.writable()).await.map_err(late)?.map_err(lost)?;
            match readable.with_bytes(sent, SEND_LEN, disk, |bytes| stream.try_write(bytes)) {
                Ok(Ok(len)) => Ok(Handed::Bytes(len)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(Handed::Nothing),
                Ok(Err(error)) => Err(lost(error)),
                Err(error) => not_read(error),
            }
        }
        Wire::Tls(_) => {
            let read = readable.with_bytes(sent, TLS_LEN, disk, |bytes| {
                chunk.clear();
                chunk.extend_from_slice(bytes);
            });
            if let Err(error) = read {
                return not_read(error);
            }
            timeout(stall, data.write_all(chunk)).await.map_err(late)?.map_err(lost)?;
            Ok(Handed::Bytes(chunk.len()))
        }
    }
}

/// Ends the file, and sees to it that the client did not refuse it at the last moment.
async fn closed(data: &mut Wire) -> Result<(), Outcome> {
    data.shutdown().await.map_err(|error| broken(&error))?;
    let gone = async {
        let mut ignored = [0; 512];
        while data.read(&mut ignored).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    match timeout(CLOSE_PATIENCE, gone).await {
        // A client that has everything may leave TLS without a word.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
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
    /// The client may still be sending: see [`drain`].
    Store(LogError, Wire),
}

/// Takes a file until the client closes the connection, and stores it.
pub(super) async fn receive(
    service: &Service,
    permission: &Permission,
    upload: Upload,
    mut data: Wire,
) -> Result<(), ReceiveError> {
    let active = service.metrics.begin(Protocol::Ftp, Operation::Upload);
    let record = service.transfers.begin(permission);
    let result = async {
        // Dropped with what has come of it, whatever the client still sends.
        let mut upload = upload;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let len = match timeout(service.config.deadlines.stall, data.read(&mut buffer)).await {
                Err(_) => return Err(NotTaken::Stalled),
                // Within TLS that is an end without a word for it: nobody knows whether that was all.
                Ok(Err(_)) => return Err(NotTaken::Peer),
                Ok(Ok(0)) => break,
                Ok(Ok(len)) => len,
            };
            active.bytes(len as u64);
            upload.write(&buffer[..len]).await?;
            record.reached(upload.received());
            tokio::task::consume_budget().await;
        }
        if data.is_secure() {
            // Clients wait for our side of the end, too.
            let _ = timeout(CLOSE_PATIENCE, data.shutdown()).await;
        }
        Ok(upload.finish().await?)
    }
    .await;
    let outcome = match &result {
        Ok(()) => {
            record.complete();
            Outcome::Complete
        }
        Err(NotTaken::Peer) => Outcome::Aborted,
        Err(NotTaken::Stalled) => Outcome::TimedOut,
        Err(NotTaken::Store(error)) => {
            tracing::warn!(device = %permission.device, command = permission.command, %error, "upload not stored");
            Outcome::of_log_error(error)
        }
    };
    tracing::debug!(device = %permission.device, command = permission.command, outcome = outcome.label(), "FTP upload ended");
    active.end(outcome);
    result.map_err(|why| match why {
        NotTaken::Peer => ReceiveError::Peer,
        NotTaken::Stalled => ReceiveError::Stalled,
        NotTaken::Store(error) => ReceiveError::Store(error, data),
    })
}

/// Why a file was not taken to its end.
enum NotTaken {
    Peer,
    Stalled,
    Store(LogError),
}

impl From<LogError> for NotTaken {
    fn from(error: LogError) -> Self {
        Self::Store(error)
    }
}

/// Takes in what a client still sends of a file that was refused: a reset, which unread input would cause, is all that many
/// clients would hear of, and not the reply that says why.
pub(super) async fn drain(service: &Service, mut data: Wire) {
    let mut buffer = vec![0; RECEIVE_LEN];
    let _ = timeout(service.config.deadlines.stall, async {
        let mut drained = 0;
        while drained < MAX_DRAIN {
            match data.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(len) => drained += len,
            }
            tokio::task::consume_budget().await;
        }
    })
    .await;
}
