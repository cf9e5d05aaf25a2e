//! Writes to Device statuses: each on condition that nobody wrote since, bounded in number, with a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fettle_crds::Device;
use fettle_protocol::session::WriteError;
use kube::Api;
use kube::api::Patch;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::request::{ApiError, backoff, patch_params, request};
use crate::metrics::{Metrics, WriteOutcome};
use crate::sparing::Sparing;

/// Requests at once, writes and reads each. More would only queue in the API server, which gives one client a share of its
/// 400 places.
const CONCURRENT: usize = 32;
/// How long a write that brought nothing is left alone; the session then says whether it still wants it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// With an API server that is away: all that waits goes on within seconds of its return.
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// With one that refuses: until a person has changed something.
const LAST_PAUSE_REFUSED: Duration = Duration::from_secs(60);

/// How a write, or a look, came out.
#[derive(Debug)]
pub enum Written {
    /// Done, and this is the Device since.
    Done(Box<Device>),
    /// Not done: this is the Device as it stands.
    Conflict(Box<Device>),
    /// Not done: there is no such Device any more.
    Gone,
    /// Perhaps done: no answer.
    Unavailable,
    /// Not done: the API server understood, and will not.
    Refused,
}

impl Written {
    /// As the session understands it.
    pub fn result(&self) -> Result<(), WriteError> {
        match self {
            Self::Done(_) => Ok(()),
            Self::Conflict(_) | Self::Gone => Err(WriteError::Conflict),
            Self::Unavailable | Self::Refused => Err(WriteError::Unavailable),
        }
    }

    const fn outcome(&self) -> WriteOutcome {
        match self {
            Self::Done(_) => WriteOutcome::Done,
            Self::Conflict(_) | Self::Gone => WriteOutcome::Conflict,
            Self::Unavailable => WriteOutcome::Unavailable,
            Self::Refused => WriteOutcome::Refused,
        }
    }
}

/// Writes Device statuses. Clones share what bounds them.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api<Device>,
    writes: Semaphore,
    reads: Semaphore,
    metrics: Metrics,
    /// Whether the last write brought no answer, so that an outage is two lines in the log and not thousands.
    away: AtomicBool,
    refusals: Sparing,
}

impl Writer {
    /// A writer for the Devices of the namespace of `api`.
    pub fn new(api: Api<Device>, metrics: Metrics) -> Self {
        let (writes, reads) = (Semaphore::new(CONCURRENT), Semaphore::new(CONCURRENT));
        let (away, refusals) = (AtomicBool::new(false), Sparing::new());
        Self { shared: Arc::new(Shared { api, writes, reads, metrics, away, refusals }) }
    }

    /// Patches the status of the Device `name`. After `failures` attempts in a row that brought nothing, this one is
    /// answered later if it brings nothing either. Once `closing` is cancelled no write begins, and none is waited for
    /// after it has failed.
    pub async fn write(&self, name: &str, patch: Value, failures: u32, closing: &CancellationToken) -> Written {
        let shared = &self.shared;
        shared.metrics.writes_pending.inc();
        let written = match closing.run_until_cancelled(shared.writes.acquire()).await {
            // Boxed: what waits for its turn, in a storm everything, takes no more than it needs.
            Some(Ok(_place)) => Box::pin(shared.write(name, patch)).await,
            // The semaphore is never closed.
            Some(Err(_)) | None => Written::Unavailable,
        };
        shared.metrics.writes_pending.dec();
        let last = match written {
            Written::Done(_) | Written::Conflict(_) | Written::Gone => return written,
            Written::Unavailable => LAST_PAUSE,
            Written::Refused => LAST_PAUSE_REFUSED,
        };
        let pause = tokio::time::sleep(backoff(FIRST_PAUSE, last, failures.saturating_add(1)));
        closing.run_until_cancelled(pause).await;
        written
    }

    /// The Device as it stands, for a first look.
    pub async fn look(&self, name: &str) -> Written {
        match self.shared.reads.acquire().await {
            Ok(_place) => Box::pin(self.shared.look(name)).await,
            Err(_) => Written::Unavailable,
        }
    }
}

impl Shared {
    async fn write(&self, name: &str, patch: Value) -> Written {
        let began = Instant::now();
        let (parameters, patch) = (patch_params(), Patch::Merge(patch));
        let written = match request(self.api.patch_status(name, &parameters, &patch)).await {
            Ok(device) => Written::Done(Box::new(device)),
            // 404 is also what a resource or a namespace says that is not there: the look tells.
            Err(error) if matches!(error.code(), Some(404 | 409)) => self.look(name).await,
            Err(error) => self.failed(name, &error),
        };
        self.metrics.written(written.outcome(), began.elapsed());
        let away = matches!(written, Written::Unavailable);
        if self.away.swap(away, Ordering::Relaxed) && !away {
            tracing::info!("statuses are written again");
        }
        written
    }

    async fn look(&self, name: &str) -> Written {
        match request(self.api.get_opt(name)).await {
            Ok(Some(device)) => Written::Conflict(Box::new(device)),
            Ok(None) => Written::Gone,
            Err(error) => self.failed(name, &error),
        }
    }

    fn failed(&self, device: &str, error: &ApiError) -> Written {
        let text = fettle_runtime::chain(error);
        if error.is_refusal() {
            if let Some(line) = self.refusals.line() {
                tracing::error!(device, error = %text, left_out = line.left_out, "the API server refuses what is asked");
            }
            return Written::Refused;
        }
        if self.away.load(Ordering::Relaxed) {
            tracing::debug!(device, error = %text, "the API server gives no answer; trying again");
        } else {
            tracing::warn!(device, error = %text, "the API server gives no answer; trying again until it does");
        }
        Written::Unavailable
    }
}
