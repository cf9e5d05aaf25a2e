//! The watches: one task for each kind, all into one bounded channel.

use std::fmt::Debug;
use std::time::Duration;

use fettle_crds::content;
use fettle_runtime::chain;
use futures::{Stream, TryStreamExt};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::index::Observed;
use crate::metrics::{Kind, Metrics};

/// The label that the Leases of bridges carry.
const BRIDGES: &str = "fettle.dev/bridge=true";
/// Helm keeps its releases in Secrets of up to 1 MiB each. No configuration is in there.
const NOT_HELM: &str = "type!=helm.sh/release.v1";
/// A broken watch is tried again after this, doubling up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Starts all watches. They end when `stop` is cancelled or nobody listens any more.
pub fn start(
    client: &Client,
    namespace: &str,
    to: &Sender<Observed>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let plain = watcher::Config::default();
    let contents = plain.clone().labels(content::LABEL);
    let secrets = plain.clone().labels(&format!("!{}", content::LABEL)).fields(NOT_HELM);

    let mut watches = Watches { client, namespace, to, metrics, stop, tasks: &mut tasks };
    watches.start(Kind::Device, plain.clone(), Observed::Device);
    watches.start(Kind::Group, plain.clone(), Observed::Group);
    watches.start(Kind::Rollout, plain.clone(), Observed::Rollout);
    watches.start(Kind::Firmware, plain.clone(), Observed::Firmware);
    watches.start(Kind::Profile, plain.clone(), Observed::Profile);
    watches.start(Kind::Lease, plain.clone().labels(BRIDGES), Observed::Lease);
    watches.start(Kind::ConfigMap, plain, Observed::ConfigMap);
    watches.start(Kind::Secret, secrets, Observed::Secret);
    watches.start(Kind::Content, contents, Observed::Content);
    tasks
}

struct Watches<'a> {
    client: &'a Client,
    namespace: &'a str,
    to: &'a Sender<Observed>,
    metrics: &'a Metrics,
    stop: &'a CancellationToken,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    fn start<K>(&mut self, kind: Kind, config: watcher::Config, wrap: fn(Event<K>) -> Observed)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let stream = watcher(Api::<K>::namespaced(self.client.clone(), self.namespace), config);
        let (to, metrics, stop) = (self.to.clone(), self.metrics.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = forward(kind, stream, wrap, to, metrics) => {}
            }
        });
    }
}

async fn forward<E>(
    kind: Kind,
    stream: impl Stream<Item = watcher::Result<E>>,
    wrap: fn(E) -> Observed,
    to: Sender<Observed>,
    metrics: Metrics,
) {
    let mut stream = std::pin::pin!(stream);
    let mut pause = BACKOFF.0;
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => {
                pause = BACKOFF.0;
                if to.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                metrics.watch_broke(kind);
                tracing::warn!(kind = kind.as_str(), error = %chain(&error), "watch broken");
                tokio::time::sleep(pause.mul_f64(1.0 + 0.5 * rand::random::<f64>())).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}
