//! Carries a plan out: what it says, under the conditions that it says, as long as this controller leads.
//!
//! Nothing is retried here. A write that failed is planned anew, on what is known then.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fettle_crds as api;
use fettle_crds::content::MANAGED_BY;
use fettle_runtime::chain;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::convert::decisions_patch;
use super::index::Written;
use crate::lease::Leadership;
use crate::metrics::{Kind, Metrics, Result as Outcome};
use crate::plan::model::Text;
use crate::plan::output::{Change, DeviceWrite};
use crate::plan::revision::{Content, NewRollout};

/// The field manager of the controller.
pub const MANAGER: &str = "fettle-controller";

/// So many requests at once: enough to fill the time that one takes, and far from what an API server queues for a client.
const CONCURRENT: usize = 64;

/// A write that was not answered is carried out within this, or not at all: an API server ends requests after a minute.
const DOUBT: Duration = Duration::from_secs(60);

/// Writes for a term of leadership.
pub struct Writer {
    client: Client,
    namespace: String,
    leadership: Leadership,
    metrics: Metrics,
    /// When a write was last given up without an answer.
    unanswered: Mutex<Option<Instant>>,
}

/// What came of a batch of writes.
#[derive(Default)]
pub struct Batch {
    pub written: Vec<Written>,
    /// Some could not be made, for a reason that time may mend.
    pub failed: bool,
    /// Devices of which it is not known whether they were granted a try. It will be by then.
    pub in_doubt: Vec<(Text, Timestamp)>,
}

impl Batch {
    fn add(&mut self, result: Result<Option<Written>, Outcome>) {
        match result {
            Ok(written) => self.written.extend(written),
            // The watch will tell what happened, and that is planned on.
            Err(Outcome::Ok | Outcome::Gone) => {}
            Err(
                Outcome::Conflict | Outcome::Refused | Outcome::Unavailable | Outcome::Unanswered | Outcome::NotLeading,
            ) => {
                self.failed = true;
            }
        }
    }

    /// Whether this content was kept in this batch.
    pub fn has_content(&self, name: &str) -> bool {
        self.written.iter().any(|written| matches!(written, Written::Content(kept) if **kept == *name))
    }

    pub fn append(&mut self, other: Self) {
        self.written.extend(other.written);
        self.failed |= other.failed;
        self.in_doubt.extend(other.in_doubt);
    }
}

impl Writer {
    pub fn new(client: Client, namespace: String, leadership: Leadership, metrics: Metrics) -> Self {
        Self { client, namespace, leadership, metrics, unanswered: Mutex::default() }
    }

    /// Whether a write was given up so lately that the API server may yet carry it out.
    pub fn is_in_doubt(&self) -> bool {
        let unanswered = *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.is_some_and(|at| at.elapsed() < DOUBT)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Keeps contents, and then makes the rollouts that name them, and no rollout without its contents.
    pub async fn contents_and_rollouts(&self, contents: Vec<Content>, rollouts: Vec<NewRollout>) -> Batch {
        let missing: Vec<Text> = contents.iter().map(|content| content.name().clone()).collect();
        let mut batch = self.each(contents, |content| self.content(content)).await;
        let lacking: Vec<&Text> = missing.iter().filter(|name| !batch.has_content(name)).collect();
        let can_be_made = |rollout: &NewRollout| !rollout.contents.iter().any(|name| lacking.contains(&name));
        let rollouts: Vec<NewRollout> = rollouts.into_iter().filter(can_be_made).collect();
        let made = self.each(rollouts, |rollout| self.rollout(rollout)).await;
        batch.append(made);
        batch
    }

    /// Writes decisions on devices.
    pub async fn devices(&self, writes: Vec<DeviceWrite>) -> Batch {
        let doubts = Mutex::new(Vec::new());
        let write = async |write: DeviceWrite| {
            let (device, change) = (write.device.clone(), write.change);
            let result = self.device(write).await;
            if change == Change::Granted && matches!(result, Err(Outcome::Unanswered)) {
                doubts.lock().unwrap_or_else(PoisonError::into_inner).push((device, Timestamp::now() + DOUBT));
            }
            result
        };
        let mut batch = self.each(writes, write).await;
        batch.in_doubt = doubts.into_inner().unwrap_or_else(PoisonError::into_inner);
        batch
    }

    /// Runs writes side by side.
    async fn each<T, F>(&self, items: Vec<T>, write: impl Fn(T) -> F) -> Batch
    where
        F: Future<Output = Result<Option<Written>, Outcome>>,
    {
        let mut batch = Batch::default();
        let mut results = stream::iter(items).map(write).buffer_unordered(CONCURRENT);
        while let Some(result) = results.next().await {
            batch.add(result);
        }
        batch
    }

    async fn content(&self, content: Content) -> Result<Option<Written>, Outcome> {
        let (name, secret) = match content {
            Content::Image(name, image) => (name, image.to_secret()),
            Content::Config(name, config) => (name, config.to_secret()),
        };
        let api: Api<Secret> = self.api();
        let created = self.attempt(Kind::Content, &name, api.create(&created_by_us(), &secret)).await;
        match created {
            // Its name says what it holds, and it cannot be changed.
            Ok(_) | Err(Outcome::Conflict) => Ok(Some(Written::Content(name))),
            Err(outcome) => Err(outcome),
        }
    }

    async fn rollout(&self, new: NewRollout) -> Result<Option<Written>, Outcome> {
        let NewRollout { name, group, group_uid, contents: _, spec } = new;
        let owner = OwnerReference {
            api_version: format!("{}/{}", api::GROUP, api::VERSION),
            kind: "DeviceGroup".to_owned(),
            name: group.to_string(),
            uid: group_uid.to_string(),
            controller: Some(true),
            // The group may go at any time: its rollouts go after it.
            block_owner_deletion: Some(false),
        };
        let labels = [MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut rollout = api::DeviceRollout::new(&name, spec);
        rollout.metadata.owner_references = Some(vec![owner]);
        rollout.metadata.labels = Some(labels.into());
        let api: Api<api::DeviceRollout> = self.api();
        let created = self.attempt(Kind::Rollout, &name, api.create(&created_by_us(), &rollout)).await?;
        tracing::info!(rollout = &*name, group = &*group, "rollout made");
        Ok(Some(Written::Rollout(created)))
    }

    async fn device(&self, write: DeviceWrite) -> Result<Option<Written>, Outcome> {
        let DeviceWrite { device, resource_version, decisions, change } = write;
        let patch = decisions_patch(&device, resource_version, &decisions);
        let api: Api<api::Device> = self.api();
        let written = self.attempt(Kind::Device, &device, apply(&api, &device, &patch)).await?;
        let target = decisions.target.as_ref();
        let (id, attempt) = target.map_or((decisions.last_target, 0), |target| (target.id, target.attempt));
        match change {
            Change::Granted => {
                self.metrics.grants.inc();
                let stage = target.map_or(api::Stage::Activate, |target| target.stage);
                tracing::info!(device = &*device, target = id, attempt, ?stage, "granted");
            }
            Change::Withdrawn => {
                self.metrics.withdrawals.inc();
                tracing::info!(device = &*device, target = id, "withdrawn");
            }
            Change::Judged => tracing::info!(device = &*device, target = id, "timed out with no bridge there"),
            Change::Retried => {
                let forgiven = decisions.granted.as_ref().and_then(|granted| granted.forgiven);
                tracing::info!(device = &*device, forgiven_target = forgiven, "a person asks for another try");
            }
            Change::Done => tracing::debug!(device = &*device, target = id, "done changed"),
            Change::Accepted => tracing::debug!(device = &*device, "acceptance written"),
        }
        Ok(Some(Written::Device(written)))
    }

    pub async fn group_status(&self, name: &str, status: &api::DeviceGroupStatus) -> Batch {
        self.status(Kind::Group, "DeviceGroup", name, status, Written::Group).await
    }

    pub async fn rollout_status(&self, name: &str, status: &api::DeviceRolloutStatus) -> Batch {
        self.status(Kind::Rollout, "DeviceRollout", name, status, Written::Rollout).await
    }

    pub async fn profile_status(&self, name: &str, status: &api::ConfigProfileStatus) -> Batch {
        self.status(Kind::Profile, "ConfigProfile", name, status, Written::Profile).await
    }

    /// The whole status is the controller's: what is left out is taken away.
    async fn status<K>(
        &self,
        kind: Kind,
        api_kind: &str,
        name: &str,
        status: &impl Serialize,
        wrap: fn(K) -> Written,
    ) -> Batch
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + DeserializeOwned,
    {
        let patch = serde_json::json!({
            "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
            "kind": api_kind,
            "metadata": {"name": name},
            "status": status,
        });
        let api: Api<K> = self.api();
        let mut batch = Batch::default();
        let written = self.attempt(kind, name, apply(&api, name, &patch)).await;
        batch.add(written.map(|object| Some(wrap(object))));
        batch
    }

    /// Deletes a recorded device, if nobody has touched it since.
    pub async fn delete_device(&self, name: &Text, resource_version: u64) -> Batch {
        let only = Preconditions { resource_version: Some(resource_version.to_string()), uid: None };
        self.delete::<api::Device>(Kind::Device, name, Some(only)).await
    }

    pub async fn delete_rollout(&self, name: &Text, uid: &str) -> Batch {
        let only = Preconditions { resource_version: None, uid: Some(uid.to_owned()) };
        self.delete::<api::DeviceRollout>(Kind::Rollout, name, Some(only)).await
    }

    pub async fn delete_content(&self, name: &Text) -> Batch {
        self.delete::<Secret>(Kind::Content, name, None).await
    }

    async fn delete<K>(&self, kind: Kind, name: &Text, preconditions: Option<Preconditions>) -> Batch
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let mut batch = Batch::default();
        match self.attempt(kind, name, async { api.delete(name, &params).await.map(|_| ()) }).await {
            Ok(()) | Err(Outcome::Gone) => batch.add(Ok(Some(Written::Deleted(kind, name.clone())))),
            Err(outcome) => batch.add(Err(outcome)),
        }
        batch
    }

    /// One write, in the time that the Lease leaves for it.
    async fn attempt<T>(
        &self,
        kind: Kind,
        name: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Outcome> {
        let Some(time) = self.leadership.time_to_write() else {
            self.metrics.wrote(kind, Outcome::NotLeading);
            return Err(Outcome::NotLeading);
        };
        let result = within(time, request).await;
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(Failure::Deadline) => Outcome::Unanswered,
            Err(Failure::Api(error)) => classify(error),
        };
        self.metrics.wrote(kind, outcome);
        if outcome == Outcome::Unanswered {
            *self.unanswered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        result.map_err(|failure| {
            let kind = kind.as_str();
            match (outcome, &failure) {
                (Outcome::Conflict | Outcome::Gone, _) => {
                    tracing::debug!(kind, name, outcome = outcome.as_str(), "write dropped");
                }
                (_, Failure::Api(error)) => tracing::warn!(kind, name, error = %chain(error), "write failed"),
                (_, Failure::Deadline) => tracing::warn!(kind, name, error = "deadline", "write failed"),
            }
            outcome
        })
    }
}

enum Failure {
    Deadline,
    Api(Box<kube::Error>),
}

async fn within<T>(time: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(time, request).await {
        Ok(result) => result.map_err(|error| Failure::Api(Box::new(error))),
        Err(_) => Err(Failure::Deadline),
    }
}

fn classify(error: &kube::Error) -> Outcome {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => Outcome::Conflict,
            404 => Outcome::Gone,
            429 | 503 => Outcome::Unavailable,
            500..=599 => Outcome::Unanswered,
            _ => Outcome::Refused,
        },
        error if was_never_sent(error) => Outcome::Unavailable,
        _ => Outcome::Unanswered,
    }
}

/// Whether nobody listened where the request was to go.
fn was_never_sent(error: &kube::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        next = error.source();
    }
    false
}

async fn apply<K: Clone + DeserializeOwned>(api: &Api<K>, name: &str, patch: &serde_json::Value) -> kube::Result<K> {
    api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await
}

fn created_by_us() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// How an object is named in an event.
pub fn reference(kind: &str, namespace: &str, name: Option<&str>, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", api::GROUP, api::VERSION)),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: name.map(str::to_owned),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}
