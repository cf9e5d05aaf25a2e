//! The ear that a device has beside its connection: message 10 over UDP, for when TCP is gone, and its 11
//! (`docs/protocol.md`, "Without a connection").
//!
//! It lives as long as the device has power, whatever its connection is at, and does one upload at a time. A request that
//! comes again is the one that is being done, or has been: it is answered, and not done anew. Where the device announces that it
//! wants a proof of who asks, nothing without one is so much as answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use fettle_protocol::datum::{Capabilities, ExecutionResult};
use fettle_protocol::message::{ErrorDetail, kind};
use fettle_protocol::proof::{self, Nonce};
use fettle_protocol::{DeviceMessage, Frame, ServerMessage, datagram};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::conformance;
use crate::faults::{FaultKind, FaultPlan, Step};
use crate::hardware::Hardware;
use crate::journal::{Event, Received};
use crate::operation::{Bench, Finished};
use crate::record::Condition;
use crate::spec::DeviceSpec;

/// What it listens with.
pub(crate) struct Ear<H> {
    pub(crate) spec: Arc<DeviceSpec>,
    pub(crate) bench: Bench<H>,
    pub(crate) faults: Arc<FaultPlan>,
    /// The number that the port has which the device calls.
    pub(crate) port: u16,
}

/// What tells one request from the next: path and file name of the credential.
type Key = (String, String);

/// An upload that runs, for whom.
struct Upload {
    key: Key,
    from: SocketAddr,
    future: Pin<Box<dyn Future<Output = Finished> + Send>>,
}

impl<H: Hardware> Ear<H> {
    /// Listens until the shutdown.
    pub(crate) async fn listen(self, shutdown: CancellationToken) {
        let address = IpAddr::V4(self.spec.local_address.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let socket = match UdpSocket::bind((address, self.port)).await {
            Ok(socket) => socket,
            Err(error) => {
                return tracing::error!(mac = %self.spec.mac, %address, port = self.port, %error, "cannot listen on UDP");
            }
        };
        let mut buffer = [0; datagram::MAX_LEN + 1];
        let mut upload: Option<Upload> = None;
        let mut answered: Option<(Key, ExecutionResult)> = None;
        let mut last: Option<Nonce> = None;
        loop {
            let done = async {
                match &mut upload {
                    Some(upload) => upload.future.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                finished = done => {
                    let Some(Upload { key, from, .. }) = upload.take() else { continue };
                    let result = match finished {
                        Finished::Uploaded(Ok(())) => ExecutionResult::Success,
                        _ => ExecutionResult::Failure(1),
                    };
                    answered = Some((key, result));
                    self.answer(&socket, from, result).await;
                }
                received = socket.recv_from(&mut buffer) => {
                    // An error is what became of an answer: nobody listens there any more.
                    let Ok((len, from)) = received else { continue };
                    let datagram = &buffer[..len];
                    let Ok(frame) = datagram::read(self.spec.dialect, datagram, kind::UPLOAD_LOG) else { continue };
                    if !self.is_on() || !self.believes(datagram, &frame, &mut last) {
                        continue;
                    }
                    self.hear(&socket, &frame, from, &mut upload, answered.as_ref()).await;
                }
            }
        }
    }

    /// Whether it has power, and is not in a restart.
    fn is_on(&self) -> bool {
        match self.bench.notebook.read(crate::record::Record::condition) {
            Condition::Calling | Condition::Connected => true,
            Condition::Restarting | Condition::Off | Condition::Vanished | Condition::Bricked => false,
        }
    }

    /// Whether the request comes from who has given it the key, and has not come before; a device that announces no
    /// `LogRequestAuth` asks for no proof.
    fn believes(&self, datagram: &[u8], frame: &Frame, last: &mut Option<Nonce>) -> bool {
        if !self.spec.announces(Capabilities::LOG_REQUEST_AUTH) {
            return true;
        }
        let refused = |error: String| {
            self.bench.notebook.note(Event::RequestRefused { error });
            false
        };
        let Some(key) = self.bench.log_key() else { return refused("no command has brought a key yet".to_owned()) };
        match proof::check(datagram, frame, &key) {
            Ok(nonce) if last.is_none_or(|last| last < nonce) => {
                *last = Some(nonce);
                true
            }
            Ok(_) => refused("it has come before, or one after it".to_owned()),
            Err(error) => refused(error.to_string()),
        }
    }

    async fn hear(
        &self,
        socket: &UdpSocket,
        frame: &Frame,
        from: SocketAddr,
        upload: &mut Option<Upload>,
        answered: Option<&(Key, ExecutionResult)>,
    ) {
        let notebook = &self.bench.notebook;
        let (message, violations) = conformance::read(frame, self.spec.vocabulary);
        let Some(message @ ServerMessage::UploadLog(_)) = message else { return };
        let received = Received::from(&message);
        let ServerMessage::UploadLog(location) = message else { return };
        notebook.note(Event::Received(received));
        for violation in violations {
            notebook.note(Event::Violation(violation));
        }
        let key = (location.path.clone(), location.file.clone());
        match answered {
            Some((of, result)) if *of == key => return self.answer(socket, from, *result).await,
            Some(_) | None => {}
        }
        if upload.as_ref().is_some_and(|upload| upload.key == key) {
            return;
        }
        let strike = self.faults.strike(Step::Upload10);
        if let Some(kind) = strike.kind {
            notebook.note(Event::Fault { at: Step::Upload10, kind: kind.clone() });
            if kind == FaultKind::Refuse {
                self.answer(socket, from, ExecutionResult::Failure(1)).await;
            }
            // Whatever else happens to a datagram: it is lost.
            return;
        }
        *upload = Some(Upload { key, from, future: self.bench.upload(location, strike.delay).future });
    }

    async fn answer(&self, socket: &UdpSocket, to: SocketAddr, result: ExecutionResult) {
        let frame = DeviceMessage::LogUploaded(result, ErrorDetail::default()).to_frame();
        let sent: io::Result<()> = match datagram::write(self.spec.dialect, &frame) {
            Ok(bytes) => socket.send_to(&bytes, to).await.map(drop),
            Err(error) => Err(io::Error::other(error)),
        };
        match sent {
            Ok(()) => {
                let code = match result {
                    ExecutionResult::Success => 0,
                    ExecutionResult::Failure(code) => code,
                };
                self.bench.notebook.note(Event::Sent { message: kind::LOG_RESULT, result: Some(code) });
            }
            Err(error) => tracing::warn!(mac = %self.spec.mac, %error, "cannot answer over UDP"),
        }
    }
}
