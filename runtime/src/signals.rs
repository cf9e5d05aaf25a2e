//! The beginning and the end of a program.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Makes ring the TLS provider of the program. First thing in `main`, before anything speaks TLS.
pub fn install_crypto() {
    // It fails only where a provider is installed already: by ourselves, in a test.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A token that is cancelled by SIGTERM or SIGINT. The second signal ends the program at once, for impatient people.
///
/// # Errors
/// Where the handlers cannot be installed.
pub fn shutdown_token() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    // Lives as long as the program: there is nobody to join it.
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal = name, "shutting down");
                cancelled.cancel();
            } else {
                tracing::warn!(signal = name, "second signal: not waiting any longer");
                std::process::exit(130);
            }
        }
    });
    Ok(token)
}
