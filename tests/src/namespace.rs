//! What one test has for itself on a shared control plane: a namespace, and the means to look at it.

use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource};
use rand::distr::{Alphanumeric, SampleString as _};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::control_plane::ControlPlane;
use crate::{dump, kubeconfig, manifest, say};

/// Longer than any test run; a kubeconfig of `make up` lives as long.
const TOKEN_SECONDS: i64 = 7 * 24 * 3600;

/// How often a condition that cannot be watched is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A namespace of one's own. When the test panics, or a wait runs out, its state is printed.
///
/// It goes with its control plane; on a cluster that was given, it is deleted.
pub struct TestNamespace {
    pub client: Client,
    pub name: String,
    control_plane: ControlPlane,
    /// Whether it is deleted at the end.
    temporary: bool,
    logs: Mutex<Vec<PathBuf>>,
    dumped: AtomicBool,
}

impl TestNamespace {
    pub(crate) async fn create(control_plane: &ControlPlane, prefix: &str) -> Result<Self> {
        let suffix = Alphanumeric.sample_string(&mut rand::rng(), 6).to_lowercase();
        let name = format!("{prefix}-{suffix}");
        let client = control_plane.client().await?;
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &namespace).await?;
        let temporary = !control_plane.is_disposable();
        Ok(Self::open(control_plane, client, name, temporary))
    }

    /// One of that name, which exists or is made, and stays.
    pub async fn existing_or_new(control_plane: &ControlPlane, name: &str) -> Result<Self> {
        let client = control_plane.client().await?;
        let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        manifest::apply(&client, "", &manifest).await?;
        Ok(Self::open(control_plane, client, name.to_owned(), false))
    }

    fn open(control_plane: &ControlPlane, client: Client, name: String, temporary: bool) -> Self {
        TestNamespace {
            client,
            name,
            control_plane: control_plane.clone(),
            temporary,
            logs: Mutex::default(),
            dumped: AtomicBool::new(false),
        }
    }

    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The typed API of this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Runs kubectl in this namespace as administrator.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with_input(args, "").await
    }

    /// As [`TestNamespace::kubectl`], with text for `-f -`.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let args: Vec<&str> = [&["--namespace", &self.name], args].concat();
        self.control_plane.kubectl_with_input(&args, input).await
    }

    /// Applies every manifest of a YAML text; the error of the first that is refused is the API server's.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        for manifest in manifest::parse(yaml)? {
            manifest::apply(&self.client, &self.name, &manifest).await?;
        }
        Ok(())
    }

    /// Writes a kubeconfig with a token of that service account, as a pod of it would have.
    pub async fn kubeconfig_for_service_account(&self, service_account: &str, path: &Path) -> Result<()> {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = self.api();
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await?;
        let token = answer.status.context("a token request was answered without a token")?.token;
        kubeconfig::write_with_token(path, self.control_plane.kubeconfig(), &token, &self.name)
    }

    /// Waits until the object `name` is as `ready` says, and returns it.
    ///
    /// Watches, so it sees every state that lasts. `what` completes "did not see that …" in the error.
    pub async fn wait_for<K>(&self, name: &str, what: &str, within: Duration, ready: impl Fn(&K) -> bool) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let deadline = Instant::now() + within;
        loop {
            let condition = |object: Option<&K>| object.is_some_and(&ready);
            match timeout_at(deadline, await_condition(self.api::<K>(), name, condition)).await {
                Ok(Ok(Some(object))) => return Ok(object),
                // The watch broke, as it does when a test restarts the API server: watch again.
                Ok(Ok(None) | Err(_)) => sleep(LOOK_EVERY).await,
                Err(_) => {
                    self.dump_once().await;
                    bail!("did not see within {within:?} that {} {name} {what}", K::kind(&()));
                }
            }
        }
    }

    /// Waits until `look` finds what it looks for; for what cannot be watched.
    pub async fn eventually<T, F>(&self, what: &str, within: Duration, mut look: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Option<T>>,
    {
        let deadline = Instant::now() + within;
        loop {
            if let Ok(Some(found)) = timeout_at(deadline, look()).await {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                self.dump_once().await;
                bail!("did not see within {within:?} that {what}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Adds a log whose last lines belong into the dump.
    pub fn watch_log(&self, log: PathBuf) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
    }

    /// All of Fettle's objects in this namespace, leases, events and the ends of the logs, as text.
    pub async fn dump(&self) -> String {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        dump::of(&self.client, &self.name, &logs).await
    }

    /// Prints the dump, but once for a test: the first is nearest to the cause. For tests that find by other means than a
    /// wait that something is wrong.
    pub async fn dump_once(&self) {
        if !self.dumped.swap(true, Ordering::Relaxed) {
            say!("{}", self.dump().await);
        }
    }

    /// Runs async code where there is none any more: in a thread and a runtime of its own, for the end of a test.
    fn at_the_end<F: Future>(&self, work: impl FnOnce(TestNamespaceEnd) -> F + Send) {
        let end = TestNamespaceEnd {
            kubeconfig: self.control_plane.kubeconfig().to_owned(),
            name: self.name.clone(),
            logs: self.logs.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    runtime.block_on(work(end));
                }
            });
        });
    }
}

/// What the end of a test needs of its namespace.
struct TestNamespaceEnd {
    kubeconfig: PathBuf,
    name: String,
    logs: Vec<PathBuf>,
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.dumped.swap(true, Ordering::Relaxed) {
            self.at_the_end(|end| async move {
                if let Ok(client) = kubeconfig::client(&end.kubeconfig).await {
                    say!("{}", dump::of(&client, &end.name, &end.logs).await);
                }
            });
        }
        if self.temporary {
            self.at_the_end(|end| async move {
                if let Ok(client) = kubeconfig::client(&end.kubeconfig).await {
                    let namespaces: Api<Namespace> = Api::all(client);
                    // Failing leaves a namespace behind, which the person who gave the cluster can see and delete.
                    let _ = namespaces.delete(&end.name, &DeleteParams::default()).await;
                }
            });
        }
    }
}
