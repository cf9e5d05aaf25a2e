//! The way to the API server: where it is, as whom, in which namespace, and how long it may take to answer.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// How long the API server may take to begin its answer. After this a request has failed, whatever became of it.
///
/// It is below every Lease that the programs hold (15 s), so that a write of a holder that has lost its Lease has ended
/// before the next holder acts. Watches are not cut by it: their answer begins at once.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The address of the API server is routed and listened on, or it is not: waiting longer does not help.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("there is no way to a cluster: no usable kubeconfig, and this is not a pod")]
    NoConfig(#[source] Box<kube::config::InferConfigError>),
    #[error("the client for the API server cannot be made")]
    Client(#[source] Box<kube::Error>),
}

/// A client, from `KUBECONFIG`, `~/.kube/config` or the pod's service account; and the namespace to serve: the one
/// given, else the pod's own or the context's.
///
/// # Errors
/// [`ConnectError`]. Nothing is asked of the API server yet.
pub async fn connect(namespace: Option<String>) -> Result<(Client, String), ConnectError> {
    let config = Config::infer().await.map_err(|error| ConnectError::NoConfig(Box::new(error)))?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    Ok((client(config)?, namespace))
}

/// A client as [`connect`] makes it, for a configuration that was found otherwise.
///
/// # Errors
/// [`ConnectError::Client`]. Nothing is asked of the API server yet.
pub fn client(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_DEADLINE);
    config.write_timeout = Some(REQUEST_DEADLINE);
    // The callers plan anew where a write failed. A client that repeats it by itself would write old decisions late.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
    Ok(builder.with_layer(&TimeoutLayer::new(REQUEST_DEADLINE)).build())
}

/// The name of this machine; in a pod, the name of the pod.
pub fn hostname() -> String {
    let name = hostname::get().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned()).to_lowercase()
}
