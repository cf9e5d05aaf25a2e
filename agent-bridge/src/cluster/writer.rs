//! Writes to Device statuses: each on condition that nobody wrote since, bounded in number, with a deadline.

use std::sync::Arc;
use std::time::Duration;

use fettle_crds::Device;
use fettle_protocol::session::WriteError;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::FIELD_MANAGER;
use crate::metrics::{Metrics, WriteOutcome};

/// Writes at once. More would only queue in the API server, which gives one client a share of its 400 places.
const CONCURRENT: usize = 32;
/// How long a write that the API server would not take is left alone; the session then says whether it still wants it.
const PAUSE: Duration = Duration::from_secs(1);

/// How a write came out.
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
}

impl Written {
    /// As the session understands it.
    pub fn result(&self) -> Result<(), WriteError> {
        match self {
            Self::Done(_) => Ok(()),
            Self::Conflict(_) | Self::Gone => Err(WriteError::Conflict),
            Self::Unavailable => Err(WriteError::Unavailable),
        }
    }
}

/// Writes Device statuses.
#[derive(Clone)]
pub struct Writer {
    api: Api<Device>,
    places: Arc<Semaphore>,
    metrics: Metrics,
}

impl Writer {
    /// A writer for the Devices of the namespace of `api`.
    pub fn new(api: Api<Device>, metrics: Metrics) -> Self {
        Self { api, places: Arc::new(Semaphore::new(CONCURRENT)), metrics }
    }

    /// Patches the status of the Device `name`.
    pub async fn write(&self, name: &str, patch: Value) -> Written {
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let written = match self.api.patch_status(name, &parameters, &Patch::Merge(patch)).await {
            Ok(device) => Written::Done(Box::new(device)),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => self.look(name).await,
            Err(error) => {
                tracing::warn!(device = name, error = %fettle_runtime::chain(&error), "status not written; trying again");
                Written::Unavailable
            }
        };
        self.metrics.written(match written {
            Written::Done(_) => WriteOutcome::Done,
            Written::Conflict(_) | Written::Gone => WriteOutcome::Conflict,
            Written::Unavailable => WriteOutcome::Unavailable,
        });
        if matches!(written, Written::Unavailable) {
            tokio::time::sleep(PAUSE).await;
        }
        written
    }

    /// The Device as it stands, after a conflict or for a first look.
    pub async fn look(&self, name: &str) -> Written {
        match self.api.get_opt(name).await {
            Ok(Some(device)) => Written::Conflict(Box::new(device)),
            Ok(None) => Written::Gone,
            Err(error) => {
                tracing::warn!(device = name, error = %fettle_runtime::chain(&error), "device not read; trying again");
                Written::Unavailable
            }
        }
    }
}
