//! What an answer carries: nothing, a line, or a part of a file, read as the network takes it.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::account::Account;
use crate::files::metrics::Outcome;
use crate::files::store::{Disk, Readable};

/// The most that is handed over at once, and held until the kernel takes it.
const LARGEST_PIECE: usize = 64 * 1024;
/// The least, however many read at the same time: with less, each byte costs noticeably more.
const SMALLEST_PIECE: usize = 16 * 1024;
/// What all pieces together may take up as long as none is smaller than that.
const PIECES: usize = 16 * 1024 * 1024;

/// Files that are being read piece by piece.
static READING: AtomicUsize = AtomicUsize::new(0);

pub(super) enum Content {
    Text(Option<&'static str>),
    File(Box<Part>),
}

/// A part of a file.
pub(super) struct Part {
    readable: Arc<Readable>,
    left: Range<u64>,
    /// The file, where it is in memory anyway.
    memory: Option<Bytes>,
    disk: Disk,
    loading: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
    account: Arc<Account>,
    deadline: Instant,
}

impl Part {
    pub(super) fn new(readable: Readable, range: Range<u64>, account: Arc<Account>, deadline: Instant) -> Self {
        READING.fetch_add(1, Ordering::Relaxed);
        let memory = readable.memory();
        Self { readable: Arc::new(readable), left: range, memory, disk: Disk::Avoid, loading: None, account, deadline }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // Others have their turn, also where the client is so fast that nothing ever waits.
        let turn = ready!(tokio::task::coop::poll_proceed(cx));
        if Instant::now() >= self.deadline {
            self.account.fail(Outcome::TimedOut);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        loop {
            if let Some(loading) = &mut self.loading {
                let loaded = ready!(loading.as_mut().poll(cx));
                self.loading = None;
                loaded?;
                self.disk = Disk::Loaded;
            }
            let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
            let len = left.min((PIECES / READING.load(Ordering::Relaxed).max(1)).clamp(SMALLEST_PIECE, LARGEST_PIECE));
            let piece = match &self.memory {
                Some(file) => {
                    let start = usize::try_from(self.left.start).unwrap_or(usize::MAX).min(file.len());
                    Ok(file.slice(start..file.len().min(start + len)))
                }
                None => self.readable.with_bytes(self.left.start, len, self.disk, Bytes::copy_from_slice),
            };
            match piece {
                Ok(piece) => {
                    turn.made_progress();
                    self.disk = Disk::Avoid;
                    return Poll::Ready(Ok(piece));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (readable, start) = (Arc::clone(&self.readable), self.left.start);
                    self.loading = Some(Box::pin(async move { readable.load(start).await }));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        READING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Text(text) => {
                Poll::Ready(text.take().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
            Self::File(part) if part.left.is_empty() => Poll::Ready(None),
            Self::File(part) => {
                let piece = ready!(part.poll_piece(cx));
                Poll::Ready(Some(match piece {
                    Ok(piece) => {
                        part.left.start += piece.len() as u64;
                        part.account.hand_over(piece.len() as u64);
                        Ok(Frame::data(piece))
                    }
                    Err(error) => {
                        // What ended it already keeps its outcome.
                        part.account.fail(Outcome::Failed);
                        tracing::error!(%error, "content cannot be sent");
                        Err(error)
                    }
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::File(part) => part.left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.map_or(0, |text| text.len() as u64),
            Self::File(part) => part.left.end - part.left.start,
        })
    }
}
