//! One transfer: drives a sender or a receiver over a link.

use std::cell::RefCell;
use std::io;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::MAX_SMALL_BLOCK_FILE;
use super::link::Link;
use super::options::{self, DEFAULT_BLOCK, Terms};
use super::packet::{self, DATA_HEADER, ErrorCode, Packet};
use super::receiver::{self, Receiver};
use super::sender::{self, Sender};
use super::sessions::{MAX_SHARED_BLOCK, Session};
use super::timer::Timer;
use crate::files::credentials::{Operation, Permission};
use crate::files::ledger::Record;
use crate::files::logs::{LogError, Upload};
use crate::files::metrics::{Active, Outcome, Protocol};
use crate::files::server::Service;
use crate::files::store::{Disk, Readable};

/// What a client of a download sends: acknowledgements, and errors with a text.
const ANSWER_LEN: usize = 64;

/// Silence that is borne, as a multiple of the time after which the client wants packets repeated.
const TIMEOUTS_BORNE: u32 = 5;

/// How long the last acknowledgement of an upload is repeated where the client did not get it.
const DALLY: Duration = Duration::from_secs(5);

thread_local! {
    static PACKET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Transfer {
    pub(super) service: Arc<Service>,
    pub(super) permission: Permission,
    pub(super) link: Link,
    pub(super) options: Vec<(String, String)>,
}

impl Transfer {
    pub(super) async fn run(mut self, session: &Session) {
        match self.permission.operation {
            Operation::Download => self.download(session).await,
            Operation::Upload => self.upload(session).await,
        }
    }

    async fn download(&mut self, session: &Session) {
        let permission = self.permission;
        let readable = match self.service.open(Protocol::Tftp, &permission).await {
            Ok(readable) => readable,
            Err(Outcome::NotFound | Outcome::Refused) => {
                return self.error(ErrorCode::FileNotFound, "file not found").await;
            }
            Err(_) => return self.error(ErrorCode::NotDefined, "the server has a fault").await,
        };
        let (terms, granted) = options::negotiate(&self.options, Some(readable.size()));
        if readable.size() >= MAX_SMALL_BLOCK_FILE && terms.block <= DEFAULT_BLOCK {
            tracing::warn!(
                device = %permission.device, command = permission.command, size = readable.size(),
                "TFTP request refused: file too large for small blocks"
            );
            self.service.metrics.refused(Protocol::Tftp, Operation::Download, Outcome::TooLarge);
            let text = "a file of 32 MiB or more needs blocks over 512 bytes: ask for them with the blksize option";
            return self.error(ErrorCode::NotDefined, text).await;
        }

        let active = self.service.metrics.begin(Protocol::Tftp, Operation::Download);
        let record = self.service.transfers.begin(&permission);
        let patience = patience(&self.service, &terms);
        let download = Download {
            link: &mut self.link,
            readable: &readable,
            block: terms.block,
            blocks: readable.size() / terms.block as u64 + 1,
            options: (!granted.is_empty()).then(|| packet::oack(&granted)),
            record,
            all_sent: false,
            patience,
        };
        let timer = Timer::new(terms.timeout);
        let outcome = download.run(session, terms.window, timer, &active).await;
        tracing::debug!(device = %permission.device, command = permission.command, outcome = outcome.label(), "TFTP download ended");
        active.end(outcome);
    }

    async fn upload(&mut self, session: &Session) {
        let permission = self.permission;
        let mut asked = std::mem::take(&mut self.options);
        if self.link.is_shared() {
            for (name, value) in &mut asked {
                if name.eq_ignore_ascii_case("blksize")
                    && value.parse().is_ok_and(|size: usize| size > MAX_SHARED_BLOCK)
                {
                    *value = MAX_SHARED_BLOCK.to_string();
                }
            }
        }
        let (terms, granted) = options::negotiate(&asked, None);
        let begun = self.service.logs.begin(&permission).await;
        let begun = begun.and_then(|upload| match terms.announced {
            Some(size) if size > upload.limit() => Err(LogError::TooLarge { limit: upload.limit() }),
            _ => Ok(upload),
        });
        let upload = match begun {
            Ok(upload) => upload,
            Err(error) => {
                tracing::warn!(device = %permission.device, command = permission.command, %error, "upload refused");
                let outcome = Outcome::of_log_error(&error);
                self.service.metrics.refused(Protocol::Tftp, Operation::Upload, outcome);
                let (code, text) = upload_refusal(&error);
                return self.error(code, &text).await;
            }
        };

        let active = self.service.metrics.begin(Protocol::Tftp, Operation::Upload);
        let record = self.service.transfers.begin(&permission);
        let patience = patience(&self.service, &terms);
        let timer = Timer::new(terms.timeout);
        let receiver = Receiver::new(terms.block, terms.window, timer, patience, Instant::now());
        let options = (!granted.is_empty()).then(|| packet::oack(&granted));
        let receiving = Receiving { link: &mut self.link, receiver, options, block: terms.block };
        let outcome = receiving.run(session, upload, &active, &record, &permission).await;
        tracing::debug!(device = %permission.device, command = permission.command, outcome = outcome.label(), "TFTP upload ended");
        active.end(outcome);
    }

    async fn error(&self, code: ErrorCode, text: &str) {
        send_error(&self.link, code, text).await;
    }
}

fn patience(service: &Service, terms: &Terms) -> Duration {
    service.config.deadlines.stall.max(terms.timeout.unwrap_or_default() * TIMEOUTS_BORNE)
}

async fn send_error(link: &Link, code: ErrorCode, text: &str) {
    // If it is lost, the client repeats itself into silence, which is an answer too.
    let _ = link.send(&packet::error(code, text)).await;
}

struct Download<'a> {
    link: &'a mut Link,
    readable: &'a Readable,
    block: usize,
    blocks: u64,
    options: Option<Vec<u8>>,
    record: Record,
    all_sent: bool,
    patience: Duration,
}

impl Download<'_> {
    async fn run(mut self, session: &Session, window: u16, timer: Timer, active: &Active) -> Outcome {
        let mut sender = Sender::new(self.blocks, window, timer, self.patience, Instant::now());
        let mut step = sender.start(self.options.is_some(), Instant::now());
        let mut answer = [0; ANSWER_LEN];
        // One for all packets: that it moves on costs less than a new one.
        let mut late = pin!(sleep_until(sender.deadline()));
        loop {
            let done = match step {
                sender::Step::Wait => Ok(()),
                sender::Step::Options => {
                    self.link.send(self.options.as_deref().unwrap_or_default()).await.map_err(gone)
                }
                sender::Step::Blocks(blocks) => self.send(blocks).await,
                sender::Step::Done => Err(Outcome::Complete),
                sender::Step::GiveUp => Err(Outcome::TimedOut),
            };
            if let Err(outcome) = done {
                return self.outcome(outcome);
            }
            let acked = sender.acked();
            late.as_mut().reset(sender.deadline());
            let received = tokio::select! {
                biased;
                received = self.link.receive(&mut answer) => Some(received),
                () = &mut late => None,
            };
            step = match received {
                None => sender.on_timeout(Instant::now()),
                Some(Err(error)) => return self.outcome(gone(error)),
                Some(Ok(len)) => match Packet::parse(&answer[..len]) {
                    Ok(Packet::Ack { block }) => {
                        session.answered();
                        sender.on_ack(block, Instant::now())
                    }
                    Ok(Packet::Error { code }) => {
                        tracing::debug!(code, "TFTP client ended the transfer");
                        return Outcome::Aborted;
                    }
                    Ok(Packet::Request(_) | Packet::Data { .. }) | Err(packet::Malformed) => sender::Step::Wait,
                },
            };
            let bytes = |blocks: u64| (blocks * self.block as u64).min(self.readable.size());
            active.bytes(bytes(sender.acked()) - bytes(acked));
            self.record.reached(bytes(sender.acked()));
            // A flood of packets that mean nothing must not keep the time from passing.
            if step == sender::Step::Wait {
                step = sender.on_timeout(Instant::now());
            }
            tokio::task::consume_budget().await;
        }
    }

    /// A client that has gone after the last block was sent has it, as far as anyone can tell.
    fn outcome(&self, outcome: Outcome) -> Outcome {
        if outcome == Outcome::Aborted && self.all_sent { Outcome::Complete } else { outcome }
    }

    async fn send(&mut self, blocks: RangeInclusive<u64>) -> Result<(), Outcome> {
        for block in blocks {
            let offset = (block - 1) * self.block as u64;
            let mut disk = Disk::Avoid;
            loop {
                let sent = self.readable.with_bytes(offset, self.block, disk, |bytes| {
                    PACKET.with_borrow_mut(|packet| {
                        packet::data(packet, sender::wire(block), bytes);
                        self.link.try_send(packet)
                    })
                });
                match sent {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.link.writable().await.map_err(gone)?;
                    }
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(gone(error)),
                    // No buffers, no route at the moment: as good as lost on the way, and sent again as such.
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "TFTP block not sent");
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.readable.load(offset).await.map_err(|error| unreadable(&error))?;
                        disk = Disk::Loaded;
                    }
                    Err(error) => {
                        send_error(self.link, ErrorCode::NotDefined, "the server has a fault").await;
                        return Err(unreadable(&error));
                    }
                }
            }
            if block == self.blocks {
                self.all_sent = true;
                self.record.complete();
            }
        }
        Ok(())
    }
}

/// The client's port is closed.
fn gone(error: io::Error) -> Outcome {
    tracing::debug!(%error, "TFTP client has gone");
    Outcome::Aborted
}

fn unreadable(error: &io::Error) -> Outcome {
    tracing::error!(%error, "content cannot be read");
    Outcome::Failed
}

struct Receiving<'a> {
    link: &'a mut Link,
    receiver: Receiver,
    /// Sent in place of the acknowledgement of block 0.
    options: Option<Vec<u8>>,
    block: usize,
}

impl Receiving<'_> {
    async fn run(
        mut self,
        session: &Session,
        mut upload: Upload,
        active: &Active,
        record: &Record,
        permission: &Permission,
    ) -> Outcome {
        let mut buffer = vec![0; DATA_HEADER + self.block];
        let mut acknowledge = true;
        loop {
            if acknowledge && let Err(error) = self.acknowledge().await {
                return gone(error);
            }
            let (step, bytes) = match timeout_at(self.receiver.deadline(), self.link.receive(&mut buffer)).await {
                Err(_) => (self.receiver.on_timeout(Instant::now()), &[][..]),
                Ok(Err(error)) => return gone(error),
                Ok(Ok(len)) => match Packet::parse(&buffer[..len]) {
                    Ok(Packet::Data { block, bytes }) => {
                        session.answered();
                        (self.receiver.on_data(block, bytes.len(), Instant::now()), bytes)
                    }
                    Ok(Packet::Error { code }) => {
                        tracing::debug!(code, "TFTP client ended the transfer");
                        return Outcome::Aborted;
                    }
                    Ok(Packet::Request(_) | Packet::Ack { .. }) | Err(packet::Malformed) => {
                        (self.receiver.on_timeout(Instant::now()), &[][..])
                    }
                },
            };
            acknowledge = match step {
                receiver::Step::Wait => false,
                receiver::Step::Again => true,
                receiver::Step::GiveUp => return Outcome::TimedOut,
                receiver::Step::Take { .. } | receiver::Step::TakeLast => {
                    if let Err(error) = upload.write(bytes).await {
                        // What it took is given back before the client hears of it, and may try again.
                        drop(upload);
                        return self.refuse(&error, permission).await;
                    }
                    active.bytes(bytes.len() as u64);
                    record.reached(upload.received());
                    if step == receiver::Step::TakeLast {
                        break;
                    }
                    step == receiver::Step::Take { acknowledge: true }
                }
            };
            tokio::task::consume_budget().await;
        }
        // The last acknowledgement says that the file is stored.
        if let Err(error) = upload.finish().await {
            return self.refuse(&error, permission).await;
        }
        record.complete();
        self.dally(&mut buffer).await;
        Outcome::Complete
    }

    async fn acknowledge(&self) -> io::Result<()> {
        match &self.options {
            Some(options) if self.receiver.is_new() => self.link.send(options).await,
            _ => self.link.send(&packet::ack(self.receiver.last())).await,
        }
    }

    /// Sends the last acknowledgement, and again for as long as the client repeats its last block.
    async fn dally(&mut self, buffer: &mut [u8]) {
        let until = Instant::now() + DALLY;
        loop {
            if self.link.send(&packet::ack(self.receiver.last())).await.is_err() {
                return;
            }
            match timeout_at(until, self.link.receive(buffer)).await {
                Ok(Ok(len)) if matches!(Packet::parse(&buffer[..len]), Ok(Packet::Data { .. })) => {}
                _ => return,
            }
        }
    }

    async fn refuse(&self, error: &LogError, permission: &Permission) -> Outcome {
        tracing::warn!(device = %permission.device, command = permission.command, %error, "upload not stored");
        let (code, text) = upload_refusal(error);
        send_error(self.link, code, &text).await;
        Outcome::of_log_error(error)
    }
}

fn upload_refusal(error: &LogError) -> (ErrorCode, String) {
    match error {
        LogError::NotExpected => (ErrorCode::FileNotFound, "file not found".into()),
        LogError::TooLarge { limit } => (ErrorCode::DiskFull, format!("the file is larger than {limit} bytes")),
        LogError::Full { .. } | LogError::DiskFull => (ErrorCode::DiskFull, "there is no room".into()),
        LogError::Busy => (ErrorCode::NotDefined, "too many uploads, try again".into()),
        LogError::Io(_) => (ErrorCode::NotDefined, "the server has a fault".into()),
    }
}
