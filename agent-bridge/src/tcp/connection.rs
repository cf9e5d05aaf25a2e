//! One connection: bytes in, messages out to the hub; orders in, bytes out.
//!
//! A bridge has tens of thousands of these, and nearly all of them wait: what a connection keeps while it waits is a few
//! hundred bytes, and buffers are there only while something is in them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::ConnectionId;
use fettle_protocol::{Decoder, DeviceMessage, Dialect, Mac};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::limits::Place;
use super::listener::Shared;
use super::{Inbox, Order, Told, orders, socket};
use crate::metrics::Closed;

/// Message 1 has 30 bytes or so: who has not sent it by then does not mean to.
const INFORMATION: Duration = Duration::from_secs(10);
/// For a message that has begun: 64 KiB at 2 KiB/s.
const MESSAGE: Duration = Duration::from_secs(30);
/// For the peer to take what we send: a few hundred bytes.
const SEND: Duration = Duration::from_secs(10);
/// For the peer's FIN after ours.
const DRAIN: Duration = Duration::from_secs(5);
/// After [`socket::UNANSWERED`], and before the session decides that a holder which is still there answers (4 s).
const PROBE_LOOK: Duration = Duration::from_millis(3500);
/// From that look until the socket's options are as before: the kernel's own verdict comes within four seconds.
const PROBE_REST: Duration = Duration::from_millis(1500);
/// Messages in [`FLOOD_WINDOW`] that are too many. A device with all extensions sends fewer than ten.
const FLOOD: u32 = 100;
const FLOOD_WINDOW: Duration = Duration::from_secs(10);
/// Between two messages 32 that the hub hears of: a device sends them about every 30 s.
const PROGRESS_MS: u32 = 1000;
/// What is read at once; messages of devices have some tens of bytes.
const READ: usize = 2048;

pub(super) struct Connection {
    id: ConnectionId,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    shared: Arc<Shared>,
    decoder: Decoder,
    /// Who it says it is; with it came the inbox.
    caller: Option<(Mac, Inbox)>,
    /// When the message that has begun, or message 1, must be complete.
    due: Option<Instant>,
    flood: Flood,
    /// What is to be sent then, and nothing before it.
    held: Option<(Instant, Box<[u8]>)>,
    /// When something was sent last.
    wrote: Option<Instant>,
    outstanding: bool,
    probing: Option<Probing>,
}

/// What the device has sent since the beginning of the window.
struct Flood {
    since: Instant,
    messages: u32,
    /// From which millisecond of the window on the hub hears again of how far the device is.
    progress: u32,
}

/// How far a probe is, and when it goes on.
#[derive(Debug, Clone, Copy)]
enum Probing {
    Looking(Instant),
    Resting(Instant),
}

/// How a connection ended.
struct End {
    reason: Closed,
    acknowledged: bool,
}

impl From<Closed> for End {
    fn from(reason: Closed) -> Self {
        Self { reason, acknowledged: true }
    }
}

/// What a connection has to deal with next.
enum Step {
    Readable(io::Result<()>),
    Order(Option<Order>),
    Timer,
    Shutdown,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
        shared: Arc<Shared>,
    ) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            id,
            stream,
            peer,
            place,
            shared,
            decoder: Decoder::inferring(),
            caller: None,
            due: Some(now + INFORMATION),
            flood: Flood { since: now, messages: 0, progress: 0 },
            held: None,
            wrote: None,
            outstanding: false,
            probing: None,
        })
    }

    /// Boxed: an async function keeps what it is given by value twice.
    pub(super) async fn run(mut self: Box<Self>) {
        self.shared.metrics.connections.inc();
        let End { reason, acknowledged } = self.serve().await;
        self.shared.metrics.connections.dec();
        self.shared.metrics.closed(reason);
        tracing::debug!(connection = self.id.0, peer = %self.peer, reason = reason.as_str(), "connection closed");
        // Closed before the hub hears of it: it may tell the next connection something.
        let Self { id, caller, shared, stream, place, .. } = *self;
        drop((stream, place));
        if caller.is_some() {
            // The hub outlives the connections; where it has gone, nobody is left to tell.
            let _ = shared.hub.send((id, Told::Gone { reason, acknowledged })).await;
        }
    }

    /// Until the connection is to be closed.
    async fn serve(&mut self) -> End {
        loop {
            let went = match self.next().await {
                Step::Readable(Ok(())) => match self.read() {
                    Ok(0) => Err(Closed::ByDevice.into()),
                    Ok(_) => self.take_in().await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    Err(error) => Err(broken(&error).into()),
                },
                Step::Readable(Err(error)) => Err(broken(&error).into()),
                Step::Order(order) => self.carry_out(order).await,
                Step::Timer => self.on_time().await,
                Step::Shutdown => Err(Closed::Shutdown.into()),
            };
            if let Err(end) = went {
                return end;
            }
        }
    }

    /// In this order: what the peer said counts before what it is told, and what was ordered before the shutdown is
    /// carried out. Reading cannot keep orders waiting: who sends that much is cut off.
    async fn next(&mut self) -> Step {
        let at = self.wakes_at();
        let inbox = self.caller.as_mut().map(|(_, inbox)| inbox).filter(|_| self.held.is_none());
        let order = async {
            match inbox {
                Some(inbox) => inbox.next().await,
                None => std::future::pending().await,
            }
        };
        let time = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = self.stream.readable() => Step::Readable(ready),
            order = order => Step::Order(order),
            () = time => Step::Timer,
            () = self.shared.shutdown.cancelled() => Step::Shutdown,
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        let probing = self.probing.map(|probing| match probing {
            Probing::Looking(at) | Probing::Resting(at) => at,
        });
        [self.due, probing, self.held.as_ref().map(|(at, _)| *at)].into_iter().flatten().min()
    }

    /// One of the instants of [`wakes_at`](Self::wakes_at) has come.
    async fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.due.is_some_and(|at| at <= now) {
            let reason = if self.caller.is_none() { Closed::NoInformation } else { Closed::Stalled };
            return Err(self.faulty(reason, "no complete message in time"));
        }
        if let Some((_, bytes)) = self.held.take_if(|(at, _)| *at <= now) {
            self.send(&bytes).await?;
        }
        match self.probing {
            Some(Probing::Looking(at)) if at <= now => {
                self.probing = Some(Probing::Resting(now + PROBE_REST));
                let unanswered = self.wrote.is_some_and(|at| at.elapsed() >= socket::UNANSWERED);
                if unanswered && !Box::pin(socket::is_acknowledged(&self.stream)).await {
                    return Err(End { reason: Closed::Silent, acknowledged: false });
                }
            }
            Some(Probing::Resting(at)) if at <= now => {
                self.probing = None;
                self.rest();
            }
            Some(Probing::Looking(_) | Probing::Resting(_)) | None => {}
        }
        Ok(())
    }

    async fn carry_out(&mut self, order: Option<Order>) -> Result<(), End> {
        match order {
            Some(Order::Send { bytes, after }) if after.is_zero() => self.send(&bytes).await?,
            Some(Order::Send { bytes, after }) => self.held = Some((Instant::now() + after, bytes)),
            // Boxed, as all that is rare: the task of a connection is as large as the largest thing that it may do.
            Some(Order::Finish) => return Err(Box::pin(self.finish()).await),
            Some(Order::Close(reason)) => return Err(reason.into()),
            Some(Order::Probe) => {
                // One that is under way is not put off by who calls often.
                if self.probing.is_none() {
                    self.probing = Some(Probing::Looking(Instant::now() + PROBE_LOOK));
                    self.set(socket::probe);
                }
            }
            Some(Order::Outstanding(outstanding)) => {
                self.outstanding = outstanding;
                if self.probing.is_none() {
                    self.rest();
                }
            }
            // The hub has let go of a connection that took no orders.
            None => return Err(End { reason: Closed::NotReading, acknowledged: false }),
        }
        Ok(())
    }

    /// The socket's options while nobody asks whether the peer is there.
    fn rest(&self) {
        self.set(if self.outstanding { socket::be_patient } else { socket::keep_alive });
    }

    fn set(&self, option: fn(&TcpStream) -> io::Result<()>) {
        if let Err(error) = option(&self.stream) {
            tracing::debug!(connection = self.id.0, %error, "socket options not set");
        }
    }

    /// A peer that broke a rule.
    fn faulty(&self, reason: Closed, detail: &str) -> End {
        if let Some(line) = self.shared.lines.line() {
            let mac = self.caller.as_ref().map(|(mac, _)| tracing::field::display(mac));
            let (reason, left_out, dialect) = (reason.as_str(), line.left_out, self.decoder.dialect());
            let (peer, connection) = (self.peer, self.id.0);
            tracing::warn!(%peer, mac, connection, reason, detail, %dialect, left_out, "device cut off");
        }
        reason.into()
    }

    /// What has arrived, into the decoder. Apart from [`take_in`](Self::take_in), so that no connection that waits has
    /// this buffer.
    fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; READ];
        let count = self.stream.try_read(&mut buffer)?;
        self.decoder.push(&buffer[..count]);
        Ok(count)
    }

    /// Decodes what came and tells the hub.
    async fn take_in(&mut self) -> Result<(), End> {
        while let Some(told) = self.take_one()? {
            if let Some(told) = told {
                // The hub is slow: so is this device, then.
                let Ok(room) = self.shared.hub.reserve().await else { return Err(Closed::Shutdown.into()) };
                room.send((self.id, told));
            }
        }
        if !self.place.holds(self.decoder.buffered()) {
            return Err(self.faulty(Closed::TooMany, "too many long messages are under way"));
        }
        if self.caller.is_some() {
            self.due = match self.decoder.is_partial() {
                true => Some(self.due.unwrap_or_else(|| Instant::now() + MESSAGE)),
                false => None,
            };
        }
        Ok(())
    }

    /// The next message, if a whole one is there: what the hub is to hear of it. Apart from [`take_in`](Self::take_in), so
    /// that a connection that waits for the hub does not have the message twice.
    fn take_one(&mut self) -> Result<Option<Option<Told>>, End> {
        let frame = match self.decoder.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.faulty(Closed::Malformed, &error.to_string())),
        };
        self.shared.metrics.received(frame.message);
        self.count()?;
        let mut message = match DeviceMessage::from_frame(&frame) {
            Ok(message) => message,
            Err(error) => return Err(self.faulty(Closed::Malformed, &error.to_string())),
        };
        if let DeviceMessage::Information(info) = &mut message {
            info.dialect = self.decoder.dialect();
        }
        if self.caller.is_some() {
            // The time for the next begins with its first byte.
            self.due = None;
        }
        self.told(message).map(Some)
    }

    fn count(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now.duration_since(self.flood.since) > FLOOD_WINDOW {
            self.flood = Flood { since: now, messages: 0, progress: 0 };
        }
        self.flood.messages += 1;
        if self.flood.messages > FLOOD { Err(self.faulty(Closed::Flood, "too many messages")) } else { Ok(()) }
    }

    /// What the hub is to hear of a message.
    fn told(&mut self, message: DeviceMessage) -> Result<Option<Told>, End> {
        Ok(match (message, &self.caller) {
            (DeviceMessage::Information(info), None) => {
                let (orders, inbox) = orders();
                self.note_dialect(&info);
                self.caller = Some((info.mac, inbox));
                self.due = None;
                Some(Told::Called { info: Box::new(info), address: self.peer.ip().to_canonical(), orders })
            }
            // An unknown type is skipped, also as the first.
            (DeviceMessage::Unknown(_), None) => {
                self.shared.metrics.unknown_messages.inc();
                None
            }
            (_, None) => return Err(self.faulty(Closed::NoInformation, "the first message is not message 1")),
            // It is for people who watch, and not worth the hub's time more often.
            (message @ DeviceMessage::Progress { .. }, Some(_)) => {
                let Flood { since, progress, .. } = &mut self.flood;
                // A window has no more than ten thousand.
                let now = u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX);
                (now >= *progress).then(|| {
                    *progress = now.saturating_add(PROGRESS_MS);
                    Told::Said(message)
                })
            }
            (DeviceMessage::KeepAlive, Some(_)) => None,
            (message, Some(_)) => Some(Told::Said(message)),
        })
    }

    /// What the device has shown about how it reads messages.
    fn note_dialect(&self, info: &DeviceInformation) {
        let dialect = info.dialect;
        self.shared.metrics.called(dialect);
        if dialect != Dialect::CANONICAL
            && let Some(line) = self.shared.lines.line()
        {
            let (mac, connection, left_out) = (info.mac, self.id.0, line.left_out);
            tracing::info!(%mac, connection, %dialect, left_out, "device reads messages otherwise than documented");
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if socket::is_ended(&self.stream) {
            return Err(End { reason: Closed::ByDevice, acknowledged: false });
        }
        self.wrote = Some(Instant::now());
        let reason = match Box::pin(timeout(SEND, self.stream.write_all(bytes))).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => broken(&error),
            Err(_) => Closed::NotReading,
        };
        // Not even the kernel has taken it.
        Err(End { reason, acknowledged: false })
    }

    /// Half-closes and drains, so that what we said last is not destroyed by an RST.
    async fn finish(&mut self) -> End {
        let drained = timeout(DRAIN, async {
            self.stream.shutdown().await?;
            loop {
                self.stream.readable().await?;
                match discard(&self.stream) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        });
        let acknowledged = match drained.await {
            Ok(Ok(())) => true,
            // The kernel gave up, or the peer said something: that it is there.
            Ok(Err(error)) => broken(&error) != Closed::Silent,
            Err(_) => socket::is_acknowledged(&self.stream).await,
        };
        End { reason: Closed::Finished, acknowledged }
    }
}

/// Reads something and forgets it.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; READ])
}

/// A connection that failed: because nobody answered, or because somebody did not want it.
fn broken(error: &io::Error) -> Closed {
    if error.kind() == io::ErrorKind::TimedOut { Closed::Silent } else { Closed::Broken }
}

#[cfg(test)]
mod tests;
