//! Leadership: at most one controller writes, and none writes for a leader that is no more.
//!
//! Not kube-lease-manager: that does not say when the Lease was last renewed, nor how it was come by, and both are needed
//! here.
//!
//! - A leader renews every third of the duration. It counts the duration from *before* the request that renewed it, on its
//!   own monotonic clock, and each write is given no more time than is left of it ([`Leadership::time_to_write`]). So the
//!   last write of a leader has ended before its Lease has, whatever the clocks of others say.
//! - Whoever takes over from a leader that did not release the Lease has seen it unchanged for one whole duration, by its
//!   own clock. Nothing is read before that, so everything that the former leader wrote is read.
//! - A Lease that is not there, or was released, is taken at once: nobody writes under it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fettle_crds::content::MANAGED_BY;
use fettle_runtime::chain;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// A write is given this much at most. The API server answers in milliseconds, or something is wrong with it.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// The release on shutdown is a courtesy to the next leader: it is tried for no longer than this.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// A candidate for leadership.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    /// Unique to this run: a program that was started again is not the leader that it was.
    identity: String,
    duration: Duration,
}

/// Why a Lease could not be taken, renewed or released.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server refused or could not be asked")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Deadline,
}

/// A term of leadership. Clones are of the same one.
#[derive(Clone)]
pub struct Leadership {
    valid_until: Arc<Mutex<Instant>>,
    /// Cancelled when the term has ended.
    pub ended: CancellationToken,
}

impl Leadership {
    /// How long a write that begins now may take; `None`: it must not begin.
    pub fn time_to_write(&self) -> Option<Duration> {
        if self.ended.is_cancelled() {
            return None;
        }
        let valid_until = *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = valid_until.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then(|| left.min(WRITE_DEADLINE))
    }

    fn extend(&self, valid_until: Instant) {
        *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner) = valid_until;
    }

    fn valid_until(&self) -> Instant {
        *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a candidate makes of a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// Nobody holds it.
    Free,
    /// Somebody held it and has not been heard of for a whole duration.
    Expired,
    /// Somebody holds it; to be looked at again then.
    Held { look_again: Duration },
}

/// A Lease as a candidate has watched it.
#[derive(Default)]
struct Watched {
    /// What it looked like, and since when it has.
    last: Option<(Option<LeaseSpec>, Instant)>,
}

impl Watched {
    /// Judges the Lease by what was seen of it, never by the clock of who wrote it.
    fn judge(&mut self, spec: Option<&LeaseSpec>, fallback: Duration, now: Instant) -> Claim {
        let since = match &self.last {
            Some((last, since)) if last.as_ref() == spec => *since,
            _ => {
                self.last = Some((spec.cloned(), now));
                now
            }
        };
        let Some(spec) = spec else { return Claim::Free };
        if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return Claim::Free;
        }
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.filter(|seconds| *seconds > 0).map_or(fallback, Duration::from_secs);
        let expires = since + duration;
        if now >= expires {
            return Claim::Expired;
        }
        // Often enough to notice a release soon.
        Claim::Held { look_again: (expires - now).min(duration / 5) }
    }
}

impl Elector {
    /// A candidate. `identity` is for people; what makes it unique is added. The API counts whole seconds.
    pub fn new(api: Api<Lease>, name: String, identity: &str, duration: Duration) -> Self {
        let identity = format!("{identity}/{:016x}", rand::random::<u64>());
        Self { api, name, identity, duration: Duration::from_secs(duration.as_secs().max(1)) }
    }

    /// Waits until this candidate leads; `None`: it was told to stop. `alive` is called whenever the API server has answered.
    pub async fn lead(&self, stop: &CancellationToken, alive: impl Fn()) -> Option<Leadership> {
        let mut watched = Watched::default();
        while !stop.is_cancelled() {
            let pause = match self.try_to_lead(&mut watched, &alive).await {
                Ok(Ok(leadership)) => return Some(leadership),
                Ok(Err(pause)) => pause,
                Err(error) => {
                    tracing::warn!(lease = self.name, error = %chain(&error), "leadership cannot be asked for");
                    self.duration / 5
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(jittered(pause)) => {}
            }
        }
        None
    }

    async fn try_to_lead(
        &self,
        watched: &mut Watched,
        alive: impl Fn(),
    ) -> Result<Result<Leadership, Duration>, LeaseError> {
        let lease = self.within(self.api.get_opt(&self.name)).await?;
        alive();
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        match watched.judge(spec, self.duration, Instant::now()) {
            Claim::Held { look_again } => return Ok(Err(look_again)),
            Claim::Free => tracing::info!(lease = self.name, identity = self.identity, "taking a free lease"),
            Claim::Expired => {
                tracing::info!(lease = self.name, identity = self.identity, holder, "taking over an expired lease");
            }
        }
        let asked = Instant::now();
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(spec.and_then(|spec| spec.lease_transitions).map_or(0, |count| count + 1)),
            ..LeaseSpec::default()
        };
        let taken = match lease {
            Some(lease) => self.within(self.replace(&Lease { spec: Some(spec), ..lease })).await,
            None => {
                let labels = [MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
                let metadata =
                    ObjectMeta { name: Some(self.name.clone()), labels: Some(labels.into()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.within(self.api.create(&PostParams::default(), &lease)).await
            }
        };
        match taken {
            Ok(_) => Ok(Ok(Leadership {
                valid_until: Arc::new(Mutex::new(asked + self.duration)),
                ended: CancellationToken::new(),
            })),
            // Somebody else was faster.
            Err(LeaseError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(Err(self.duration / 5)),
            Err(error) => Err(error),
        }
    }

    /// Keeps leading until `stop`, or until the Lease is lost. Either way the term has ended after.
    pub async fn keep(&self, leadership: &Leadership, stop: &CancellationToken) {
        let mut pause = self.duration / 3;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(leadership.valid_until()) => {
                    tracing::warn!(lease = self.name, "leadership lost: the lease was not renewed in time");
                    return leadership.ended.cancel();
                }
                () = sleep(pause) => {}
            }
            let asked = Instant::now();
            let renewal = self.change(|spec| spec.renew_time = Some(MicroTime(Timestamp::now())));
            match timeout_at(leadership.valid_until(), renewal).await.unwrap_or(Err(LeaseError::Deadline)) {
                Ok(true) => {
                    leadership.extend(asked + self.duration);
                    pause = self.duration / 3;
                }
                Ok(false) => {
                    tracing::warn!(lease = self.name, "leadership lost: the lease has another holder");
                    return leadership.ended.cancel();
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, error = %chain(&error), "lease not renewed");
                    pause = self.duration / 15;
                }
            }
        }
        leadership.ended.cancel();
    }

    /// Releases the Lease where it is still held: the next leader need not wait. Only after the last write was answered.
    pub async fn release(&self) {
        let release = self.change(|spec| {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        });
        match timeout(RELEASE_DEADLINE, release).await {
            Ok(Ok(true)) => tracing::info!(lease = self.name, "lease released"),
            Ok(Ok(false)) => tracing::info!(lease = self.name, "lease not released: it has another holder"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, error = %chain(&error), "lease not released"),
            Err(_) => tracing::warn!(lease = self.name, error = "deadline", "lease not released"),
        }
    }

    /// Changes the Lease where this candidate still holds it; `false`: it does not.
    async fn change(&self, change: impl Fn(&mut LeaseSpec)) -> Result<bool, LeaseError> {
        let Some(mut lease) = self.within(self.api.get_opt(&self.name)).await? else { return Ok(false) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(false) };
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(false);
        }
        change(spec);
        match self.within(self.replace(&lease)).await {
            Ok(_) => Ok(true),
            // Changed since it was read, by whom will be seen when it is read again.
            Err(LeaseError::Api(kube::Error::Api(status))) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.api.replace(&self.name, &PostParams::default(), lease).await
    }

    async fn within<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
        match timeout(WRITE_DEADLINE.min(self.duration / 3), request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(LeaseError::Deadline),
        }
    }
}

/// Up to a fifth longer, so that candidates do not ask in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.2 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(renewed: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some("other/1".to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(renewed.parse().unwrap())),
            ..LeaseSpec::default()
        }
    }

    const ANY: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_there_or_was_released_is_taken_at_once() {
        let mut watched = Watched::default();
        assert_eq!(watched.judge(None, ANY, Instant::now()), Claim::Free);
        let released = LeaseSpec { holder_identity: None, ..held("2026-01-01T00:00:00Z") };
        assert_eq!(watched.judge(Some(&released), ANY, Instant::now()), Claim::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_over_after_a_whole_duration_of_silence_however_old_it_claims_to_be() {
        let mut watched = Watched::default();
        let old = held("2001-01-01T00:00:00Z");
        assert!(matches!(watched.judge(Some(&old), ANY, Instant::now()), Claim::Held { .. }));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(watched.judge(Some(&old), ANY, Instant::now()), Claim::Held { look_again: Duration::from_secs(1) });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watched.judge(Some(&old), ANY, Instant::now()), Claim::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_starts_the_wait_anew() {
        let mut watched = Watched::default();
        watched.judge(Some(&held("2026-01-01T00:00:00Z")), ANY, Instant::now());
        tokio::time::advance(Duration::from_secs(14)).await;
        let renewed = held("2026-01-01T00:00:05Z");
        assert!(matches!(watched.judge(Some(&renewed), ANY, Instant::now()), Claim::Held { .. }));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(matches!(watched.judge(Some(&renewed), ANY, Instant::now()), Claim::Held { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn no_write_is_given_more_time_than_the_lease_has_left() {
        let leadership = Leadership {
            valid_until: Arc::new(Mutex::new(Instant::now() + Duration::from_secs(8))),
            ended: CancellationToken::new(),
        };
        assert_eq!(leadership.time_to_write(), Some(WRITE_DEADLINE));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(leadership.time_to_write(), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(leadership.time_to_write(), None);
    }
}
