//! A fetch over a network: what comes is written down at once, and where the way breaks, the source is asked for the rest.
//!
//! It gives up when the source has broken off several times in a row without having sent anything; what came by then is
//! parked for whoever asks next. Pieces that do not make the declared whole are thrown away, and it begins anew, once.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::error::Aftermath;
use super::index::Need;
use super::ingest::{self, Ingest};
use super::partial::Partial;
use super::source::{Remote, Source};
use super::turn::Turn;
use super::{CHUNKS_IN_FLIGHT, Content, Inner, SourceError};

/// How often in a row a source may break off without having sent anything.
const FRUITLESS: u32 = 3;

/// What the writer is told. Its end is said expressly: a channel that just closes is a download that broke off.
enum Order {
    Write(Bytes),
    /// What was written is of no use.
    Restart,
    /// The source's name for the state that what follows is of.
    Version(Option<String>),
    Finish,
    /// What was written is of no use, and nothing follows.
    Discard,
}

/// What is being fetched, and for whom.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) origin: String,
    pub(super) expected: [u8; 32],
    pub(super) need: Need,
}

/// How a download goes on.
struct Progress {
    offset: u64,
    version: Option<String>,
    /// Whether what is written down came in more than one piece.
    pieced: bool,
}

/// Why the pump stopped.
enum Stopped {
    /// The writer has ended, and says why.
    Writer,
    Source(SourceError),
}

/// Fetches content from a source over a network.
pub(super) async fn download(
    inner: &Arc<Inner>,
    remote: &Remote,
    job: &Job,
    turn: &mut Turn<'_>,
) -> Result<Content, SourceError> {
    let parked = inner.parked().take(&job.expected, &job.source);
    let (result, pieced) = attempt(inner, remote, job, turn, parked).await;
    match result {
        Err(SourceError::HashMismatch { .. }) if pieced => attempt(inner, remote, job, turn, None).await.0,
        result => result,
    }
}

async fn attempt(
    inner: &Arc<Inner>,
    remote: &Remote,
    job: &Job,
    turn: &mut Turn<'_>,
    parked: Option<(Partial, String)>,
) -> (Result<Content, SourceError>, bool) {
    let (partial, version) = parked.unzip();
    let offset = partial.as_ref().map_or(0, |partial| partial.hashes.size);
    let progress = Progress { offset, version: version.clone(), pieced: offset > 0 };
    let (orders, received) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let writer = {
        let (inner, job) = (Arc::clone(inner), job.clone());
        spawn_blocking(move || write_down(&inner, &job, partial, version, received))
    };
    let mut pump = Pump { inner, remote, progress, orders: &orders, origin: &job.origin, turn, answered: false };
    let stopped = pump.run().await.err();
    let pieced = pump.progress.pieced;
    if let Some(Stopped::Source(error)) = &stopped
        && error.aftermath() == Aftermath::Discard
    {
        // Where the writer has ended meanwhile, there is nothing to discard.
        let _ = orders.send(Order::Discard).await;
    }
    drop(orders);
    let written = writer.await.unwrap_or_else(|error| Err(super::died(&job.origin, &error)));
    let result = match stopped {
        Some(Stopped::Source(error)) => Err(error),
        Some(Stopped::Writer) | None => written,
    };
    (result, pieced)
}

/// Brings the bytes from the source to the writer, over as many connections as that takes.
struct Pump<'a, 'turns> {
    inner: &'a Inner,
    remote: &'a Remote,
    progress: Progress,
    orders: &'a mpsc::Sender<Order>,
    origin: &'a str,
    turn: &'a mut Turn<'turns>,
    /// A source that has not answered at all is asked again by whoever wants the file, at longer intervals.
    answered: bool,
}

impl Pump<'_, '_> {
    async fn run(&mut self) -> Result<(), Stopped> {
        let mut fruitless = 0;
        loop {
            let before = self.progress.offset;
            let broke = match self.piece().await {
                Ok(()) => return self.send(Order::Finish).await,
                Err(Stopped::Source(error)) if self.answered && error.aftermath() == Aftermath::Resume => error,
                Err(stopped) => return Err(stopped),
            };
            let offset = self.progress.offset;
            fruitless = if offset > before { 1 } else { fruitless + 1 };
            if fruitless > FRUITLESS {
                return Err(Stopped::Source(broke));
            }
            self.inner.metrics.resumed.inc();
            tracing::info!(origin = self.origin, offset, error = %broke, "fetch broke off; asking for the rest");
            self.turn.wait_for(tokio::time::sleep(self.inner.pause * 2_u32.pow(fruitless - 1))).await;
            self.progress.pieced |= offset > 0;
        }
    }

    /// One connection's worth.
    async fn piece(&mut self) -> Result<(), Stopped> {
        let opening = self.remote.open(self.progress.offset, self.progress.version.as_deref());
        let opened = self.turn.wait_for(opening).await.map_err(Stopped::Source)?;
        self.answered = true;
        if opened.offset != self.progress.offset {
            self.send(Order::Restart).await?;
            self.progress.offset = 0;
            self.progress.pieced = false;
        }
        if opened.version != self.progress.version {
            self.progress.version = opened.version;
            self.send(Order::Version(self.progress.version.clone())).await?;
        }
        let mut body = opened.body;
        let stall = self.inner.network.stall;
        loop {
            let next =
                self.turn.wait_for(tokio::time::timeout(stall, body.next())).await.map_err(|_| {
                    Stopped::Source(SourceError::Stalled { origin: self.origin.to_owned(), after: stall })
                })?;
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(Stopped::Source)?;
            let len = chunk.len() as u64;
            self.turn.again().await;
            self.send(Order::Write(chunk)).await?;
            self.progress.offset += len;
        }
        match opened.total {
            Some(total) if total != self.progress.offset => Err(Stopped::Source(SourceError::Unreachable {
                origin: self.origin.to_owned(),
                detail: format!("it was to be {total} bytes, and ended after {}", self.progress.offset),
            })),
            _ => Ok(()),
        }
    }

    async fn send(&self, order: Order) -> Result<(), Stopped> {
        self.orders.send(order).await.map_err(|_| Stopped::Writer)
    }
}

/// The other side: blocks, and ends with the channel.
fn write_down(
    inner: &Inner,
    job: &Job,
    partial: Option<Partial>,
    mut version: Option<String>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<Content, SourceError> {
    let mut ingest = match partial {
        Some(partial) => Ingest::resume(inner, &job.origin, job.need, partial),
        None => Ingest::new(inner, &job.origin, job.need)?,
    };
    loop {
        match orders.blocking_recv() {
            Some(Order::Write(chunk)) => ingest.write::<Bytes>(&chunk)?,
            Some(Order::Restart) => ingest.restart()?,
            Some(Order::Version(now)) => version = now,
            Some(Order::Finish) => return ingest.finish(job.expected),
            Some(Order::Discard) => return Err(ingest::abandoned(&job.origin)),
            None => {
                if let Some(version) = version
                    && ingest.size() > 0
                    && let Some(partial) = ingest.park()
                {
                    inner.park(job.expected, job.source.clone().without_secrets(), version, partial);
                }
                return Err(ingest::abandoned(&job.origin));
            }
        }
    }
}
