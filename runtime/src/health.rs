//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Whether the program serves, and what it has measured. Clones are the same one.
#[derive(Clone)]
pub struct Health {
    registry: Registry,
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Not ready yet. `registry` is what `/metrics` shows.
    pub fn new(registry: Registry) -> Self {
        Self { registry, ready: Arc::default() }
    }

    /// From now on `/readyz` says 200.
    pub fn ready(&self) {
        self.set(true);
    }

    /// From now on `/readyz` says 503.
    pub fn not_ready(&self) {
        self.set(false);
    }

    fn set(&self, ready: bool) {
        if self.ready.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(ready, "readiness changed");
        }
    }

    /// Serves until `shutdown`. Returns the address that was bound, and the task to join.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn serve(
        &self,
        address: SocketAddr,
        shutdown: CancellationToken,
    ) -> io::Result<(SocketAddr, JoinHandle<io::Result<()>>)> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(self.clone());
        tracing::info!(address = %bound, "metrics and probes listen");
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        Ok((bound, tokio::spawn(server.into_future())))
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    if health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&health.registry.gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            let text = format!("{error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}

/// Registers `fettle_build_info{program, version} 1`, and the `process_*` that Prometheus' client libraries have in common:
/// memory, CPU time, open files.
///
/// # Errors
/// Where the registry has one of them already.
pub fn build_info(registry: &Registry, program: &str, version: &str) -> prometheus::Result<()> {
    let options = Opts::new("fettle_build_info", "1, labelled with the program and its version");
    let gauge = IntGaugeVec::new(options, &["program", "version"])?;
    gauge.with_label_values(&[program, version]).set(1);
    registry.register(Box::new(gauge))?;
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_is_ready_when_it_says_so_and_tells_what_it_measured_until_shutdown() {
        let registry = Registry::new();
        build_info(&registry, "fettle-test", "1.2.3").unwrap();
        let health = Health::new(registry);
        let shutdown = CancellationToken::new();
        let (address, task) = health.serve("127.0.0.1:0".parse().unwrap(), shutdown.clone()).await.unwrap();

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains(r#"fettle_build_info{program="fettle-test",version="1.2.3"} 1"#), "{metrics}");

        shutdown.cancel();
        task.await.unwrap().unwrap();
    }
}
