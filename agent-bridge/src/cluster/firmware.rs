//! Fetches and verifies the images of every Firmware, and says so in its status where this bridge is the one to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fettle_crds::schema::message;
use fettle_crds::{Condition, Firmware, FirmwareStatus, ImageStatus};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Patch;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::Store as Cache;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::content::digest;
use super::declared::{Declared, Teller};
use super::groups::{Groups, groups};
use super::images::{Images, Wanted};
use super::request::{ApiError, backoff, patch_params, request};
use crate::files::store::Need;

/// A source that failed is asked again after this, then twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// At most: somebody who has put the file in its place does not wait long.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A verified release is looked at again, in case that its file was evicted.
const RECHECK: Duration = Duration::from_secs(600);
/// Where another bridge writes the statuses: whether that is still so.
const NOT_OURS: Duration = Duration::from_secs(15);
/// What takes no longer needs no word in between: a file of this machine is hashed by then.
const SOON: Duration = Duration::from_secs(2);
/// Releases at once. Each waits for its fetches most of the time; the store bounds those.
const CONCURRENT: u16 = 32;
/// Releases that are remembered before those that are no more are forgotten.
const REMEMBERED: usize = 256;

/// Whether this bridge is the one that writes the statuses.
pub type IsWriter = Arc<dyn Fn() -> bool + Send + Sync>;

struct Keeper {
    api: Api<Firmware>,
    images: Images,
    is_writer: IsWriter,
    /// What groups declare.
    groups: Groups,
    declared: Arc<Teller>,
    cache: Cache<DeserializeGuard<Firmware>>,
    /// How often a release, by uid, has failed in a row.
    failures: Mutex<HashMap<String, u32>>,
    /// What a release, by uid, was verified to be by this process.
    verified: Mutex<HashMap<String, Vec<ImageStatus>>>,
    shutdown: CancellationToken,
}

/// Why a release could not be dealt with; it is tried again.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("its status was not written")]
    Status(#[source] ApiError),
}

/// How far a release has come.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    /// Its images are being fetched for the first time.
    Fetching,
    Verified(Vec<ImageStatus>),
    /// Reason and sentence.
    Failed(&'static str, String),
}

/// Keeps all Firmwares of the namespace until `shutdown`, and tells what they and the groups declare.
pub async fn keep(
    client: Client,
    namespace: String,
    images: Images,
    is_writer: IsWriter,
    declared: watch::Sender<Declared>,
    shutdown: CancellationToken,
) {
    let watched: Api<DeserializeGuard<Firmware>> = Api::namespaced(client.clone(), &namespace);
    let (groups, declared_anew) = groups(Api::namespaced(client.clone(), &namespace));
    let controller = Controller::new(watched, watcher::Config::default());
    let declared = Arc::new(Teller { groups: groups.clone(), firmwares: controller.store(), tell: declared });
    let teller = Arc::clone(&declared);
    let declared_anew = declared_anew.inspect(move |()| teller.look());
    let teller = Arc::clone(&declared);
    let keeper = Arc::new(Keeper {
        api: Api::namespaced(client, &namespace),
        images,
        is_writer,
        groups,
        declared,
        cache: controller.store(),
        failures: Mutex::default(),
        verified: Mutex::default(),
        shutdown: shutdown.clone(),
    });
    controller
        .reconcile_all_on(declared_anew)
        .with_config(Config::default().concurrency(CONCURRENT))
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile, |firmware, _, keeper| Action::requeue(keeper.delay(&firmware)), keeper)
        .for_each(async |result| {
            // Also where a release is no more.
            teller.look();
            if let Err(error) = result {
                tracing::warn!(error = %fettle_runtime::chain(&error), "firmware not dealt with; trying again");
            }
        })
        .await;
}

async fn reconcile(guarded: Arc<DeserializeGuard<Firmware>>, keeper: Arc<Keeper>) -> Result<Action, KeepError> {
    let firmware = match &guarded.0 {
        Ok(firmware) => firmware,
        Err(error) => {
            tracing::warn!(firmware = error.metadata.name, error = error.error, "firmware cannot be read");
            return Ok(Action::await_change());
        }
    };
    match keeper.shutdown.run_until_cancelled(keeper.look_after(firmware)).await {
        Some(Ok(Next::In(delay))) => {
            keeper.failures().remove(&firmware.uid().unwrap_or_default());
            Ok(Action::requeue(delay))
        }
        Some(Ok(Next::Retry)) => Ok(Action::requeue(keeper.delay(&guarded))),
        Some(Err(error)) => Err(error),
        // The program ends: what is being fetched is left where it is.
        None => Ok(Action::await_change()),
    }
}

/// When a release is looked at again.
enum Next {
    In(Duration),
    Retry,
}

impl Keeper {
    async fn look_after(&self, firmware: &Firmware) -> Result<Next, KeepError> {
        let mut firmware = firmware.clone();
        self.tell_needs();
        self.declared.look();
        let declared = firmware.clone();
        let verified = self.verify(&declared);
        tokio::pin!(verified);
        let found = match tokio::time::timeout(SOON, &mut verified).await {
            Ok(found) => found,
            Err(_) => {
                // Whoever looks sees that something is being done about it. A release that has a verdict keeps it until
                // there is another.
                if firmware.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
                    self.say(&mut firmware, Found::Fetching).await?;
                }
                verified.await
            }
        };
        let failed = matches!(found, Found::Failed(..));
        if let Found::Failed(reason, detail) = &found
            && !(self.is_writer)()
            && !self.failures().contains_key(&firmware.uid().unwrap_or_default())
        {
            // The status is another bridge's, and may say that all is well there.
            let name = firmware.name_any();
            tracing::warn!(firmware = name, reason, detail, "firmware cannot be given to the devices of this bridge");
        }
        self.say(&mut firmware, found).await?;
        Ok(match (failed, (self.is_writer)()) {
            (true, _) => Next::Retry,
            (false, true) => Next::In(RECHECK),
            (false, false) => Next::In(NOT_OURS),
        })
    }

    /// Has all images in the cache, or says why not. A release that no group names has been there once: when others have
    /// taken its room since, it is fetched again for a group or a device.
    async fn verify(&self, firmware: &Firmware) -> Found {
        let uid = firmware.uid().unwrap_or_default();
        let need = self.need(firmware);
        let before = if need < Need::Group { self.verified().get(&uid).cloned() } else { None };
        let mut verified = Vec::new();
        for image in &firmware.spec.images {
            let known = before.iter().flatten().find(|known| known.sha256 == image.sha256);
            if let Some(known) = known
                && let Ok(sha256) = digest(&image.sha256)
                && self.images.store().get(&sha256).await.is_none()
            {
                verified.push(known.clone());
                continue;
            }
            let signature = image.signature.as_ref();
            let wanted = Wanted { source: &image.source, sha256: &image.sha256, signature };
            match self.images.fetch(wanted, need).await {
                Ok(content) => {
                    let size = i64::try_from(content.size).unwrap_or(i64::MAX);
                    verified.push(ImageStatus { sha256: image.sha256.clone(), size });
                }
                Err(error) => return Found::Failed(error.reason(), fettle_runtime::chain(&error).to_string()),
            }
        }
        let mut remembered = self.verified();
        self.forget_the_gone(&mut remembered);
        remembered.insert(uid, verified.clone());
        Found::Verified(verified)
    }

    fn need(&self, firmware: &Firmware) -> Need {
        let name = firmware.name_any();
        let groups = self.groups.borrow();
        let mut named = groups.values().filter_map(|wish| wish.firmware.as_ref());
        if named.any(|firmware| firmware.name == name) { Need::Group } else { Need::Declared }
    }

    /// Says to the cache what is needed now.
    fn tell_needs(&self) {
        let mut needs = HashMap::new();
        for guarded in self.cache.state() {
            let Ok(firmware) = &guarded.0 else { continue };
            let need = self.need(firmware);
            for sha256 in firmware.spec.images.iter().filter_map(|image| digest(&image.sha256).ok()) {
                let known = needs.entry(sha256).or_insert(need);
                *known = need.max(*known);
            }
        }
        self.images.store().set_needs(needs);
    }

    /// Writes the status, where this bridge is the one to and something would change, on condition that nobody wrote since.
    async fn say(&self, firmware: &mut Firmware, found: Found) -> Result<(), KeepError> {
        let name = firmware.name_any();
        let status = status(firmware, found);
        if !(self.is_writer)() || firmware.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let ready = status.conditions.first();
        let (reason, detail) = ready.map(|ready| (ready.reason.as_str(), ready.message.as_str())).unzip();
        if ready.is_some_and(|ready| ready.reason == "Verified" || ready.reason == "Fetching") {
            tracing::info!(firmware = name, reason, detail, "firmware looked at");
        } else {
            tracing::warn!(firmware = name, reason, detail, "firmware cannot be given to devices");
        }
        let version = &firmware.metadata.resource_version;
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        *firmware = request(self.api.patch_status(&name, &patch_params(), &patch)).await.map_err(KeepError::Status)?;
        Ok(())
    }

    /// How long to wait after one more failure.
    fn delay(&self, firmware: &DeserializeGuard<Firmware>) -> Duration {
        let mut failures = self.failures();
        self.forget_the_gone(&mut failures);
        let times = failures.entry(firmware.uid().unwrap_or_default()).or_insert(0);
        *times = times.saturating_add(1);
        backoff(FIRST_RETRY, LAST_RETRY, *times)
    }

    fn forget_the_gone<T>(&self, remembered: &mut HashMap<String, T>) {
        if remembered.len() >= REMEMBERED {
            let alive: Vec<_> = self.cache.state().iter().filter_map(|firmware| firmware.uid()).collect();
            remembered.retain(|uid, _| alive.contains(uid));
        }
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<ImageStatus>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(firmware: &Firmware, found: Found) -> FirmwareStatus {
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
    // As kstatus reads them: never both of the last two.
    let conditions = |ready, reconciling, stalled, reason: &str, text: &str| {
        vec![
            condition("Ready", ready, reason, text),
            condition("Reconciling", reconciling, reason, text),
            condition("Stalled", stalled, reason, text),
        ]
    };
    let (conditions, images) = match found {
        Found::Fetching => {
            (conditions(false, true, false, "Fetching", "the images are being fetched and verified"), Vec::new())
        }
        Found::Verified(images) => {
            let text = match images.len() {
                1 => "1 image is verified".to_owned(),
                count => format!("{count} images are verified"),
            };
            (conditions(true, false, false, "Verified", &text), images)
        }
        Found::Failed(reason, text) => (conditions(false, false, true, reason, &text), Vec::new()),
    };
    FirmwareStatus { observed_generation: generation, conditions, images }
}

#[cfg(test)]
mod tests {
    use fettle_crds::FirmwareSpec;

    use super::*;

    fn firmware() -> Firmware {
        let mut firmware = Firmware::new("fw", FirmwareSpec { version: "1".into(), images: Vec::new() });
        firmware.metadata.generation = Some(1);
        firmware
    }

    /// Type and status of each condition that is not False.
    fn hold(status: &FirmwareStatus) -> Vec<&str> {
        let holds = status.conditions.iter().filter(|condition| condition.status != "False");
        holds.map(|condition| condition.type_.as_str()).collect()
    }

    #[test]
    fn a_release_is_being_fetched_then_verified_or_stalled() {
        let mut firmware = firmware();
        let fetching = status(&firmware, Found::Fetching);
        assert_eq!(hold(&fetching), ["Reconciling"]);
        assert_eq!(fetching.conditions[0].type_, "Ready", "and it is said at once that it is not ready");
        firmware.status = Some(fetching);
        let failed = status(&firmware, Found::Failed("NotFound", "file a does not exist".into()));
        assert_eq!(hold(&failed), ["Stalled"]);
        assert_eq!(
            (failed.conditions[0].reason.as_str(), failed.conditions[0].message.as_str()),
            ("NotFound", "file a does not exist")
        );
        let verified = status(&firmware, Found::Verified(vec![ImageStatus { sha256: "00".into(), size: 7 }]));
        assert_eq!((hold(&verified), verified.images.len()), (vec!["Ready"], 1));
    }

    #[test]
    fn what_has_not_changed_is_the_same_and_a_transition_is_as_old_as_it_is() {
        let mut firmware = firmware();
        let failed = || Found::Failed("NotFound", "no".into());
        let mut first = status(&firmware, failed());
        let long_ago = Time(Timestamp::from_second(1).unwrap());
        first.conditions.iter_mut().for_each(|condition| condition.last_transition_time = long_ago.clone());
        firmware.status = Some(first.clone());
        assert_eq!(status(&firmware, failed()), first, "nothing to write");
        let verified = status(&firmware, Found::Verified(Vec::new()));
        let since: Vec<_> =
            verified.conditions.iter().map(|condition| condition.last_transition_time == long_ago).collect();
        assert_eq!(since, [false, true, false], "Reconciling was False before");
    }
}
