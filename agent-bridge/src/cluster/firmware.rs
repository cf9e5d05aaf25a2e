//! Fetches and verifies the images of every Firmware, and says so in its status where this bridge is the one to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fettle_crds::schema::message;
use fettle_crds::{Condition, Firmware, FirmwareStatus, Image, ImageStatus};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config};
use kube::runtime::{Controller, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::content::{digest, source};
use super::{FIELD_MANAGER, Identity};
use crate::files::store::Store;

/// A source that failed is asked again after this, then twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// At most: somebody who has put the file in its place does not wait long.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A verified release is looked at again, in case that its file was evicted.
const RECHECK: Duration = Duration::from_secs(600);
/// Where another bridge writes the statuses: whether that is still so.
const NOT_OURS: Duration = Duration::from_secs(15);
/// Releases at once. Each may fetch several images.
const CONCURRENT: u16 = 4;

/// Whether this bridge is the one that writes the statuses.
pub type IsWriter = Arc<dyn Fn() -> bool + Send + Sync>;

struct Keeper {
    api: Api<Firmware>,
    store: Store,
    is_writer: IsWriter,
    failures: Mutex<HashMap<String, u32>>,
}

/// Why a release could not be dealt with; it is tried again.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("its status was not written")]
    Status(#[source] Box<kube::Error>),
}

/// Keeps all Firmwares of the namespace until `shutdown`.
pub async fn keep(api: Api<Firmware>, store: Store, us: &Identity, is_writer: IsWriter, shutdown: CancellationToken) {
    tracing::debug!(bridge = us.name, "keeping firmware");
    let keeper = Arc::new(Keeper { api: api.clone(), store, is_writer, failures: Mutex::default() });
    let watched: Api<DeserializeGuard<Firmware>> = retyped(&api);
    Controller::new(watched, watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENT))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |_, error, keeper| Action::requeue(keeper.delay(&error.to_string())), keeper)
        .for_each(async |result| {
            if let Err(error) = result {
                tracing::warn!(error = %fettle_runtime::chain(&error), "firmware not dealt with");
            }
        })
        .await;
}

async fn reconcile(firmware: Arc<DeserializeGuard<Firmware>>, keeper: Arc<Keeper>) -> Result<Action, KeepError> {
    let firmware = match &firmware.0 {
        Ok(firmware) => firmware,
        Err(error) => {
            tracing::warn!(firmware = error.metadata.name, error = error.error, "firmware cannot be read");
            return Ok(Action::await_change());
        }
    };
    let name = firmware.name_any();
    let found = keeper.verify(&firmware.spec.images).await;
    let failed = found.is_err();
    let status = status(firmware, found);
    if !(keeper.is_writer)() {
        return Ok(Action::requeue(NOT_OURS));
    }
    if firmware.status.as_ref().is_none_or(|former| !same(former, &status)) {
        let condition = status.conditions.first();
        let reason = condition.map(|condition| condition.reason.as_str());
        tracing::info!(
            firmware = name,
            reason,
            detail = condition.map(|condition| condition.message.as_str()),
            "firmware checked"
        );
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"status": status}));
        let written = keeper.api.patch_status(&name, &parameters, &patch).await;
        written.map_err(|error| KeepError::Status(Box::new(error)))?;
    }
    if failed {
        return Ok(Action::requeue(keeper.delay(&name)));
    }
    keeper.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    Ok(Action::requeue(RECHECK))
}

impl Keeper {
    /// Has all images in the cache, or says why not: reason and sentence.
    async fn verify(&self, images: &[Image]) -> Result<Vec<ImageStatus>, (&'static str, String)> {
        let mut verified = Vec::new();
        for image in images {
            let sha256 = digest(&image.sha256).map_err(|error| ("InvalidHash", error.0))?;
            let fetched = self.store.fetch(&source(&image.source), sha256).await;
            let content = fetched.map_err(|error| (error.reason(), fettle_runtime::chain(&error).to_string()))?;
            let size = i64::try_from(content.size).unwrap_or(i64::MAX);
            verified.push(ImageStatus { sha256: image.sha256.clone(), size });
        }
        Ok(verified)
    }

    /// How long to wait after one more failure of `name`.
    fn delay(&self, name: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let times = failures.entry(name.to_owned()).or_insert(0);
        let delay = FIRST_RETRY.saturating_mul(1 << (*times).min(5)).min(LAST_RETRY);
        *times = times.saturating_add(1);
        // Up to a quarter less, so that what failed together does not come back together.
        delay.mul_f64(1.0 - rand::random::<f64>() / 4.0)
    }
}

fn status(firmware: &Firmware, found: Result<Vec<ImageStatus>, (&'static str, String)>) -> FirmwareStatus {
    let generation = firmware.metadata.generation;
    let former = firmware.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let condition = |type_: &str, holds: bool, reason: &str, text: &str| {
        let status = if holds { "True" } else { "False" };
        let unflipped = former.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message(text),
            observed_generation: generation,
            last_transition_time: unflipped
                .map_or_else(|| Time(Timestamp::now()), |condition| condition.last_transition_time.clone()),
        }
    };
    let (conditions, images) = match found {
        Ok(images) => {
            let text = match images.len() {
                1 => "1 image is verified".to_owned(),
                count => format!("{count} images are verified"),
            };
            (vec![condition("Ready", true, "Verified", &text), condition("Stalled", false, "Verified", &text)], images)
        }
        Err((reason, text)) => {
            (vec![condition("Ready", false, reason, &text), condition("Stalled", true, reason, &text)], Vec::new())
        }
    };
    FirmwareStatus { observed_generation: generation, conditions, images }
}

fn same(former: &FirmwareStatus, status: &FirmwareStatus) -> bool {
    former == status
}

fn retyped(api: &Api<Firmware>) -> Api<DeserializeGuard<Firmware>> {
    let namespace = api.namespace().unwrap_or("default");
    Api::namespaced(api.clone().into_client(), namespace)
}
