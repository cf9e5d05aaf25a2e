//! The bridge's own Lease: its heartbeat, which carries its incarnation.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bridges::LABEL;
use super::request::{ApiError, backoff, patch_params, request, request_within};
use super::{FIELD_MANAGER, Identity, UNNAMED};

/// Between two attempts to take the Lease at the start.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// The release is a courtesy to the other bridges: without it they wait for the Lease to end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// Why the heartbeat ended before the program did, or never began.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("another run of bridge {name} has taken over its Lease ({holder}): two bridges must not share a name")]
    TakenOver { name: String, holder: String },
    #[error("Lease {name} is not a bridge's: this bridge needs another name (--name)")]
    Foreign { name: String },
    #[error("Lease {name} cannot be made: is {name:?} a name for an object (--name)?")]
    Invalid { name: String, source: ApiError },
}

/// Whether this bridge holds its Lease. Without it its sessions count for nobody, and another bridge may hold its
/// devices: it gives no first command then.
#[derive(Debug, Clone)]
pub struct Held(watch::Receiver<Instant>);

impl Held {
    /// Whether it is held now, by our own clock, counted from before it was asked for.
    pub fn now(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// Returns once it is held; never, where the heartbeat has ended.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|until| Instant::now() < *until).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps the Lease of this run of the bridge.
pub struct Heartbeat {
    api: Api<Lease>,
    us: Identity,
    duration: Duration,
    /// When this run took it.
    acquired: Timestamp,
    /// What the Lease was when we wrote it last.
    version: Option<String>,
    until: watch::Sender<Instant>,
    held: watch::Sender<bool>,
}

impl Heartbeat {
    /// A heartbeat whose Lease lasts `duration` (whole seconds).
    pub fn new(api: Api<Lease>, us: Identity, duration: Duration) -> Self {
        let (until, held) = (watch::Sender::new(Instant::now()), watch::Sender::new(false));
        Self { api, us, duration, acquired: Timestamp::now(), version: None, until, held }
    }

    /// For whoever must know at the moment of acting.
    pub fn held(&self) -> Held {
        Held(self.until.subscribe())
    }

    /// For whoever shows it: changes when the heartbeat notices.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }

    /// Takes the Lease over from a former run of this bridge, which is no more: no two pods have one name. Tries until
    /// the API server answers.
    ///
    /// # Errors
    /// [`LeaseError::Foreign`] and [`LeaseError::Invalid`]: under this name it will never be had.
    pub async fn begin(&mut self) -> Result<(), LeaseError> {
        for failures in 1_u32.. {
            let asked = Instant::now();
            self.acquired = Timestamp::now();
            let error = match self.take().await {
                Ok(Taken::Ours(version)) => {
                    self.renewed(version, asked);
                    return Ok(());
                }
                Ok(Taken::Foreign) => return Err(LeaseError::Foreign { name: self.us.name.clone() }),
                Err(error) if matches!(error.code(), Some(400 | 422)) => {
                    return Err(LeaseError::Invalid { name: self.us.name.clone(), source: error });
                }
                Err(error) => error,
            };
            // Not an end: roles may come after the pods that they are for.
            let hint = (error.code() == Some(403)).then_some(UNNAMED);
            tracing::warn!(error = %fettle_runtime::chain(&error), failures, hint, "lease not taken; trying again");
            tokio::time::sleep(backoff(FIRST_PAUSE, LAST_PAUSE, failures)).await;
        }
        Ok(())
    }

    async fn take(&self) -> Result<Taken, ApiError> {
        let Some(lease) = request(self.api.get_opt(&self.us.name)).await? else {
            return Ok(Taken::Ours(request(self.create()).await?.resource_version()));
        };
        if !lease.labels().contains_key(LABEL) {
            return Ok(Taken::Foreign);
        }
        let patch = Patch::Merge(self.body(lease.resource_version()));
        let lease = request(self.api.patch(&self.us.name, &patch_params(), &patch)).await?;
        Ok(Taken::Ours(lease.resource_version()))
    }

    /// Renews three times within each duration until `shutdown`, then releases.
    ///
    /// # Errors
    /// [`LeaseError::TakenOver`]: this run must end.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), LeaseError> {
        let mut ticks = tokio::time::interval(self.duration / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut failures = 0_u32;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let asked = Instant::now();
            match request_within(self.duration / 3, self.renew()).await {
                Ok(Renewed::Ours(version)) => {
                    self.renewed(version, asked);
                    failures = 0;
                }
                Ok(Renewed::TakenOver(holder)) => {
                    self.until.send_replace(Instant::now());
                    return Err(LeaseError::TakenOver { name: self.us.name.clone(), holder });
                }
                Err(error) => {
                    failures += 1;
                    // Each turn would be a line in a long outage; the first says it, and the end of it.
                    if failures == 1 {
                        tracing::warn!(error = %fettle_runtime::chain(&error), "lease not renewed; trying again");
                    } else {
                        tracing::debug!(error = %fettle_runtime::chain(&error), failures, "lease not renewed");
                    }
                }
            }
            if *self.until.borrow() <= Instant::now() && self.held.send_replace(false) {
                tracing::error!("lease lost: sessions do not count, and no command begins, until it is renewed");
            }
        }
        self.until.send_replace(Instant::now());
        self.release().await;
        Ok(())
    }

    fn renewed(&mut self, version: Option<String>, asked: Instant) {
        self.version = version;
        self.until.send_replace(asked + self.duration);
        if !self.held.send_replace(true) {
            tracing::info!(lease = self.us.name, incarnation = self.us.incarnation, "lease held");
        }
    }

    /// One write where nobody else has written; a look at who has, where somebody did.
    async fn renew(&self) -> kube::Result<Renewed> {
        let body = self.body(self.version.clone());
        match self.api.patch(&self.us.name, &patch_params(), &Patch::Merge(body)).await {
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
            answer => return answer.map(|lease| Renewed::Ours(lease.resource_version())),
        }
        let Some(lease) = self.api.get_opt(&self.us.name).await? else {
            return self.create().await.map(|lease| Renewed::Ours(lease.resource_version()));
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if !holder.is_empty() && holder != self.us.holder() {
            return Ok(Renewed::TakenOver(holder));
        }
        let body = self.body(lease.resource_version());
        let lease = self.api.patch(&self.us.name, &patch_params(), &Patch::Merge(body)).await?;
        Ok(Renewed::Ours(lease.resource_version()))
    }

    async fn create(&self) -> kube::Result<Lease> {
        // It is made from the very value that would be merged.
        let lease = serde_json::from_value(self.body(None)).map_err(kube::Error::SerdeError)?;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.api.create(&parameters, &lease).await
    }

    async fn release(&self) {
        let released = json!({
            "metadata": {"resourceVersion": self.version},
            "spec": {"holderIdentity": "", "renewTime": micro(Timestamp::now())},
        });
        let (parameters, patch) = (patch_params(), Patch::Merge(released));
        let released = self.api.patch(&self.us.name, &parameters, &patch);
        if let Err(error) = request_within(RELEASE_DEADLINE, released).await {
            tracing::warn!(error = %fettle_runtime::chain(&error), "lease not released");
        }
    }

    /// What the Lease is to be, where it still is what it was at `version`.
    fn body(&self, version: Option<String>) -> Value {
        let mut metadata = json!({"name": self.us.name, "labels": {LABEL: "true"}});
        if let Some(version) = version {
            metadata["resourceVersion"] = json!(version);
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.us.holder(),
                "leaseDurationSeconds": self.duration.as_secs().max(1),
                "acquireTime": micro(self.acquired),
                "renewTime": micro(Timestamp::now()),
            },
        })
    }
}

/// What came of taking the Lease.
enum Taken {
    Ours(Option<String>),
    /// It is there, and not a bridge's.
    Foreign,
}

/// What came of renewing it.
enum Renewed {
    Ours(Option<String>),
    /// Another run holds it.
    TakenOver(String),
}

/// A time as Leases have it: microseconds, always six digits.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_held_until_its_time_is_over_whether_or_not_anybody_notices() {
        let (until, seen) = watch::channel(Instant::now());
        let mut held = Held(seen);
        assert!(!held.now());
        until.send_replace(Instant::now() + Duration::from_secs(15));
        held.wait().await;
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(held.now());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!held.now());
        let waiting = tokio::time::timeout(Duration::from_secs(3600), held.wait());
        assert!(waiting.await.is_err());
    }
}
