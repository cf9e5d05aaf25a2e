//! The bridge's own Lease: its heartbeat, which carries its incarnation.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bridges::LABEL;
use super::{FIELD_MANAGER, Identity};

/// Why the heartbeat ended before the program did.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("another run of bridge {name} has taken over its Lease ({holder}): two bridges must not share a name")]
    TakenOver { name: String, holder: String },
}

/// Keeps the Lease of this run of the bridge.
pub struct Heartbeat {
    api: Api<Lease>,
    us: Identity,
    duration: Duration,
}

impl Heartbeat {
    /// A heartbeat whose Lease lasts `duration` (whole seconds).
    pub fn new(api: Api<Lease>, us: Identity, duration: Duration) -> Self {
        Self { api, us, duration }
    }

    /// Takes the Lease over from a former run of this bridge, which is no more: no two pods have one name. Tries until
    /// the API server answers.
    pub async fn begin(&self) {
        loop {
            match self.write(true).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(error = %fettle_runtime::chain(&error), "lease not taken; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Renews three times within each duration until `shutdown`, then releases.
    ///
    /// # Errors
    /// [`LeaseError::TakenOver`]: this run must end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), LeaseError> {
        let mut ticks = tokio::time::interval(self.duration / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            match self.api.get_opt(&self.us.name).await {
                Ok(lease) => {
                    let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
                    if !holder.is_empty() && holder != self.us.holder() {
                        return Err(LeaseError::TakenOver { name: self.us.name.clone(), holder });
                    }
                    if let Err(error) = self.write(false).await {
                        tracing::warn!(error = %fettle_runtime::chain(&error), "lease not renewed");
                    }
                }
                Err(error) => tracing::warn!(error = %fettle_runtime::chain(&error), "lease not read"),
            }
        }
        let released = json!({"spec": {"holderIdentity": "", "renewTime": micro(Timestamp::now())}});
        if let Err(error) = self.api.patch(&self.us.name, &parameters(), &Patch::Merge(released)).await {
            tracing::warn!(error = %fettle_runtime::chain(&error), "lease not released");
        }
        Ok(())
    }

    async fn write(&self, first: bool) -> kube::Result<Lease> {
        let now = micro(Timestamp::now());
        let mut spec = json!({
            "holderIdentity": self.us.holder(),
            "leaseDurationSeconds": self.duration.as_secs().max(1),
            "renewTime": now,
        });
        if first {
            spec["acquireTime"] = json!(now);
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.us.name, "labels": {LABEL: "true"}},
            "spec": spec,
        });
        match self.api.patch(&self.us.name, &parameters(), &Patch::Merge(&lease)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // It is made from the very value that was to be merged.
                let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
                self.api.create(&kube::api::PostParams::default(), &lease).await
            }
            answer => answer,
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// A time as Leases have it: microseconds, always six digits.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}
