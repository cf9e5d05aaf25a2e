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
pub(super) async fn download(inner: &Arc<Inner>, remote: &Remote, job: &Job) -> Result<Content, SourceError> {
    let parked = inner.parked().take(&job.expected, &job.source);
    let (result, pieced) = attempt(inner, remote, job, parked).await;
    match result {
        Err(SourceError::HashMismatch { .. }) if pieced => attempt(inner, remote, job, None).await.0,
        result => result,
    }
}

async fn attempt(
    inner: &Arc<Inner>,
    remote: &Remote,
    job: &Job,
    parked: Option<(Partial, String)>,
) -> (Result<Content, SourceError>, bool) {
    let (partial, version) = parked.unzip();
    let offset = partial.as_ref().map_or(0, |partial| partial.hashes.size);
    let mut progress = Progress { offset, version: version.clone(), pieced: offset > 0 };
    let (orders, received) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let writer = {
        let (inner, job) = (Arc::clone(inner), job.clone());
        spawn_blocking(move || write_down(&inner, &job, partial, version, received))
    };
    let stopped = pump(inner, remote, &mut progress, &orders, &job.origin).await.err();
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
    (result, progress.pieced)
}

/// Brings the bytes from the source to the writer, over as many connections as that takes.
async fn pump(
    inner: &Inner,
    remote: &Remote,
    progress: &mut Progress,
    orders: &mpsc::Sender<Order>,
    origin: &str,
) -> Result<(), Stopped> {
    let mut fruitless = 0;
    // A source that has not answered at all is asked again by whoever wants the file, at longer intervals.
    let mut answered = false;
    loop {
        let before = progress.offset;
        let broke = match piece(inner, remote, progress, orders, origin, &mut answered).await {
            Ok(()) => return send(orders, Order::Finish).await,
            Err(Stopped::Source(error)) if answered && error.aftermath() == Aftermath::Resume => error,
            Err(stopped) => return Err(stopped),
        };
        fruitless = if progress.offset > before { 1 } else { fruitless + 1 };
        if fruitless > FRUITLESS {
            return Err(Stopped::Source(broke));
        }
        inner.metrics.resumed.inc();
        tracing::info!(origin, offset = progress.offset, error = %broke, "fetch broke off; asking for the rest");
        tokio::time::sleep(inner.pause * 2_u32.pow(fruitless - 1)).await;
        progress.pieced |= progress.offset > 0;
    }
}

/// One connection's worth.
async fn piece(
    inner: &Inner,
    remote: &Remote,
    progress: &mut Progress,
    orders: &mpsc::Sender<Order>,
    origin: &str,
    answered: &mut bool,
) -> Result<(), Stopped> {
    let opened = remote.open(progress.offset, progress.version.as_deref()).await.map_err(Stopped::Source)?;
    *answered = true;
    if opened.offset != progress.offset {
        send(orders, Order::Restart).await?;
        progress.offset = 0;
        progress.pieced = false;
    }
    if opened.version != progress.version {
        progress.version = opened.version;
        send(orders, Order::Version(progress.version.clone())).await?;
    }
    let mut body = opened.body;
    loop {
        let next = tokio::time::timeout(inner.network.stall, body.next()).await.map_err(|_| {
            Stopped::Source(SourceError::Stalled { origin: origin.to_owned(), after: inner.network.stall })
        })?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(Stopped::Source)?;
        let len = chunk.len() as u64;
        send(orders, Order::Write(chunk)).await?;
        progress.offset += len;
    }
    match opened.total {
        Some(total) if total != progress.offset => Err(Stopped::Source(SourceError::Unreachable {
            origin: origin.to_owned(),
            detail: format!("it was to be {total} bytes, and ended after {}", progress.offset),
        })),
        _ => Ok(()),
    }
}

async fn send(orders: &mpsc::Sender<Order>, order: Order) -> Result<(), Stopped> {
    orders.send(order).await.map_err(|_| Stopped::Writer)
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
