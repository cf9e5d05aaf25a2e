//! A log that a device brings with `PUT`.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response, StatusCode, header};
use jiff::Timestamp;
use tokio::time::timeout;

use super::answer::{busy, empty, plain, refusal};
use super::body::Content;
use crate::files::credentials::{Operation, Permission};
use crate::files::logs::{LogError, Upload};
use crate::files::metrics::{Active, Outcome, Protocol};
use crate::files::server::Service;

/// Why an upload did not arrive.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("the connection broke")]
    Peer(#[source] hyper::Error),
    #[error("nothing has come for too long")]
    Stalled,
    #[error("it cannot be stored")]
    Store(#[from] LogError),
}

/// Takes the body of a request, and stores it.
pub(super) async fn receive(
    service: &Service,
    permission: &Permission,
    request: Request<Incoming>,
) -> Response<Content> {
    // A part of a log is no log (RFC 9110, 14.5).
    if request.headers().contains_key(header::CONTENT_RANGE) {
        return plain(StatusCode::BAD_REQUEST, "A file is brought as a whole.\n");
    }
    let announced = request.body().size_hint().exact();
    let begun = service.logs.begin(permission).await.and_then(|upload| match announced {
        Some(size) if size > upload.limit() => Err(LogError::TooLarge { limit: upload.limit() }),
        _ => Ok(upload),
    });
    let upload = match begun {
        Ok(upload) => upload,
        Err(error) => {
            tracing::warn!(device = %permission.device, command = permission.command, %error, "upload refused");
            service.metrics.refused(Protocol::Http, Operation::Upload, Outcome::of_log_error(&error));
            return refused(&error);
        }
    };
    let active = service.metrics.begin(Protocol::Http, Operation::Upload);
    let receiving = take(service, permission, upload, request.into_body(), &active);
    let received = timeout(permission.remaining(Timestamp::now()), receiving).await;
    let (outcome, response) = match received.unwrap_or(Err(ReceiveError::Stalled)) {
        Ok(()) => (Outcome::Complete, empty(StatusCode::CREATED)),
        Err(error) => {
            tracing::warn!(
                device = %permission.device, command = permission.command, error = %fettle_runtime::chain(&error),
                "upload not stored"
            );
            match error {
                ReceiveError::Peer(_) => (Outcome::Aborted, plain(StatusCode::BAD_REQUEST, "It broke off.\n")),
                ReceiveError::Stalled => (Outcome::TimedOut, plain(StatusCode::REQUEST_TIMEOUT, "It took too long.\n")),
                ReceiveError::Store(error) => (Outcome::of_log_error(&error), refused(&error)),
            }
        }
    };
    tracing::debug!(device = %permission.device, command = permission.command, outcome = outcome.label(), "HTTP upload ended");
    active.end(outcome);
    response
}

async fn take(
    service: &Service,
    permission: &Permission,
    mut upload: Upload,
    mut body: Incoming,
    active: &Active,
) -> Result<(), ReceiveError> {
    let record = service.transfers.begin(permission);
    let stall: Duration = service.config.deadlines.stall;
    loop {
        let frame = timeout(stall, body.frame()).await.map_err(|_| ReceiveError::Stalled)?;
        let Some(frame) = frame else { break };
        // Trailers say nothing that is looked at.
        let Ok(piece) = frame.map_err(ReceiveError::Peer)?.into_data() else { continue };
        active.bytes(piece.len() as u64);
        upload.write(&piece).await?;
        record.reached(upload.received());
    }
    upload.finish().await?;
    record.complete();
    Ok(())
}

fn refused(error: &LogError) -> Response<Content> {
    match error {
        LogError::Busy => busy("Too many uploads: try again.\n"),
        LogError::NotExpected
        | LogError::TooLarge { .. }
        | LogError::Full { .. }
        | LogError::DiskFull
        | LogError::Io(_) => refusal(Outcome::of_log_error(error)),
    }
}
