//! Logs that stay in a bucket of S3, or of what speaks as S3 does.
//!
//! What has arrived in the folder is put there, the oldest first, and deleted when it is; what cannot be put waits, over
//! a restart too, and is tried again after growing pauses. A folder that is full of what waits takes in no more: nothing
//! that has arrived is lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::aws::AmazonS3Builder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio_util::sync::CancellationToken;

use super::shelf::{Key, Shelf, is_log};
use super::upload::blocking;
use super::{LogError, LogStore, is_device_name};

/// The largest log, with the smallest bandwidth that makes sense.
const PUT: Duration = Duration::from_secs(120);
/// A listing is answered a thousand at a time.
const LIST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(10);

/// Between two attempts: doubles from one to the other, less up to a half.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// How often the bucket is looked through for what has to go: each time costs a request for a thousand logs.
const SWEEP: Duration = Duration::from_secs(3600);

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("{0:?} is not a place for logs: want s3://BUCKET or s3://BUCKET/PREFIX")]
    Place(String),
    #[error("the client for it cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("what is said of it cannot be used")]
    Settings(#[from] object_store::Error),
}

/// Whether this bridge does what only one should.
pub type IsFirst = Arc<dyn Fn() -> bool + Send + Sync>;

/// A place in a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    place: String,
}

impl Bucket {
    /// The place that is called `s3://BUCKET/PREFIX`. Keys, and what else is not said, come from the environment, by the
    /// names that AWS gives them.
    ///
    /// # Errors
    /// [`BucketError`].
    pub fn of_s3(place: &str, region: Option<&str>, endpoint: Option<&str>) -> Result<Self, BucketError> {
        Self::with(AmazonS3Builder::from_env(), place, region, endpoint)
    }

    fn with(
        builder: AmazonS3Builder,
        place: &str,
        region: Option<&str>,
        endpoint: Option<&str>,
    ) -> Result<Self, BucketError> {
        let wrong = || BucketError::Place(place.to_owned());
        let rest = place.strip_prefix("s3://").map(|rest| rest.trim_end_matches('/')).ok_or_else(wrong)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = Path::parse(prefix).ok().filter(|_| !bucket.is_empty()).ok_or_else(wrong)?;
        let client = reqwest::Client::builder().connect_timeout(CONNECT).timeout(PUT).build()?;
        let builder = builder
            .with_bucket_name(bucket)
            .with_http_connector(Ours(client))
            // Who waits here has pauses of its own.
            .with_retry(RetryConfig { max_retries: 1, ..RetryConfig::default() });
        let builder = match region {
            Some(region) => builder.with_region(region),
            None => builder,
        };
        let builder = match endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://")),
            None => builder,
        };
        Ok(Self { store: Arc::new(builder.build()?), prefix, place: format!("s3://{rest}") })
    }

    /// As people find it.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, key: &Key) -> Path {
        self.prefix.clone().join(key.device.as_str()).join(key.name.as_str())
    }

    async fn put(&self, key: &Key, log: Vec<u8>) -> Result<(), object_store::Error> {
        let path = self.path(key);
        within(PUT, self.store.put(&path, PutPayload::from(log))).await.map(drop)
    }

    /// All logs that are there.
    async fn list(&self) -> Result<Shelf, object_store::Error> {
        let mut shelf = Shelf::default();
        let mut objects = self.store.list(Some(&self.prefix));
        let listing = async {
            while let Some(object) = objects.try_next().await? {
                let mut parts = object.location.prefix_match(&self.prefix).into_iter().flatten();
                let (device, name, more) = (parts.next(), parts.next(), parts.next());
                let (Some(device), Some(name), None) = (device, name, more) else { continue };
                let (device, name) = (device.as_ref().to_owned(), name.as_ref().to_owned());
                // Whatever else somebody keeps there is not ours to delete.
                if is_device_name(&device) && is_log(&name) {
                    shelf.insert(Key { name, device }, object.size);
                }
            }
            Ok(())
        };
        within(LIST, listing).await?;
        Ok(shelf)
    }
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, object_store::Error> {
    let late = |elapsed| object_store::Error::Generic { store: "S3", source: Box::new(io::Error::other(elapsed)) };
    tokio::time::timeout(limit, request).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

impl LogStore {
    /// Puts into the bucket what arrives, and deletes there what has to go where this bridge is the first, until `stop`.
    pub(super) async fn keep_in(self: &Arc<Self>, bucket: &Bucket, is_first: IsFirst, stop: CancellationToken) {
        let mut sweep = tokio::time::Instant::now() + SWEEP;
        let mut failures = 0_u32;
        loop {
            let oldest = self.state().shelf.oldest().cloned();
            let Some(key) = oldest else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.arrivals.notified() => {}
                    () = tokio::time::sleep_until(sweep) => {
                        sweep += SWEEP;
                        // What is left goes an hour later, here or elsewhere.
                        if is_first()
                            && stop.run_until_cancelled(self.sweep(bucket, Timestamp::now())).await.is_none()
                        {
                            return;
                        }
                    }
                }
                continue;
            };
            let Some(put) = stop.run_until_cancelled(self.put(bucket, &key)).await else { return };
            match put {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.metrics.put_failed.inc();
                    let error = fettle_runtime::chain(&error).to_string();
                    tracing::warn!(device = key.device, log = key.name, error, failures, "log waits for its bucket");
                    if stop.run_until_cancelled(tokio::time::sleep(pause(failures))).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Moves one log from the folder to the bucket.
    async fn put(self: &Arc<Self>, bucket: &Bucket, key: &Key) -> Result<(), object_store::Error> {
        let path = self.path(key);
        let read = blocking(move || Ok(std::fs::read(path)?)).await;
        match read {
            Ok(log) => {
                bucket.put(key, log).await?;
                self.metrics.put.inc();
                let (store, key) = (Arc::clone(self), key.clone());
                let forgotten = blocking(move || {
                    store.forget(&key, true);
                    Ok(())
                });
                drop(forgotten.await);
            }
            // It is not in the way of the others; if it is there after all, the next start finds it.
            Err(error) => {
                tracing::error!(device = key.device, log = key.name, %error, "log cannot be read any more");
                self.forget(key, false);
            }
        }
        Ok(())
    }

    /// It does not wait any more.
    fn forget(&self, key: &Key, delete: bool) {
        let mut state = self.state();
        state.shelf.remove(key);
        if delete {
            self.delete(key);
        }
        self.measure(&state);
    }

    /// Deletes in the bucket what has to go.
    pub(super) async fn sweep(&self, bucket: &Bucket, now: Timestamp) {
        let mut shelf = match bucket.list().await {
            Ok(shelf) => shelf,
            Err(error) => {
                let error = fettle_runtime::chain(&error).to_string();
                return tracing::warn!(error, "old logs are not looked for");
            }
        };
        let mut devices = shelf.devices();
        let retention = &self.settings.retention;
        loop {
            let of_device = devices.last().and_then(|device| shelf.over_of_device(device, retention));
            if of_device.is_none() && devices.pop().is_some() {
                continue;
            }
            let Some((key, why)) = of_device.or_else(|| shelf.over(retention, 0, now)) else { return };
            shelf.remove(&key);
            match within(PUT, bucket.store.delete(&bucket.path(&key))).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => self.metrics.removed(why),
                Err(error) => {
                    let error = fettle_runtime::chain(&error).to_string();
                    tracing::warn!(device = key.device, log = key.name, error, "old log cannot be deleted");
                }
            }
        }
    }

    /// Whether the folder has room for what waits for the bucket.
    pub(super) fn may_wait(&self, waiting: usize) -> Result<(), LogError> {
        let retention = &self.settings.retention;
        if waiting < retention.logs { Ok(()) } else { Err(LogError::Full { limit: retention.bytes }) }
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_PAUSE);
    doubled.mul_f64(1.0 - rand::random::<f64>() / 2.0)
}

/// The library asks by our client, which has the crypto provider and the deadlines that we chose.
#[derive(Debug)]
struct Ours(reqwest::Client);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests;
