//! The stream under hyper: tells the account what has left, and ends a connection whose client takes nothing any more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::account::Account;
use crate::files::metrics::Outcome;

pub(super) struct Wire<S> {
    stream: S,
    account: Arc<Account>,
    /// How long a client may take nothing.
    stall: Duration,
    /// Runs while the client takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, account: Arc<Account>, stall: Duration) -> Self {
        Self { stream, account, stall, patience: None }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Passes on what came of trying to write; an error when nothing has come of it for too long.
    fn progress<T>(&mut self, tried: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.patience = None;
            return tried;
        }
        let until = || {
            let stalled = Instant::now() + self.stall;
            self.account.deadline().map_or(stalled, |deadline| deadline.min(stalled))
        };
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until())));
        ready!(patience.as_mut().poll(cx));
        self.account.fail(Outcome::TimedOut);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(tried, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.progress(tried, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_flush(cx);
        let flushed = ready!(self.progress(tried, cx));
        if flushed.is_ok() {
            self.account.flushed();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.progress(tried, cx)
    }
}
