//! `fettle-controller`: arguments and wiring.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use fettle_controller::lease::Elector;
use fettle_controller::metrics::Metrics;
use fettle_controller::reconcile::{self, Context, LastWrites};
use fettle_runtime::{Events, Health, LogArgs, build_info, chain, connect, hostname, install_crypto, shutdown_token};
use kube::Api;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

const PROGRAM: &str = "fettle-controller";

/// Decides which devices may move to which firmware and configuration, and when.
///
/// Watches the objects of fettle.dev in one namespace, and writes what it decides into their statuses: targets for
/// devices, progress of groups and rollouts. It never talks to a device: fettle-bridge does. Any number may run; one leads,
/// by a Lease, and the others stand by.
///
/// The cluster is found by KUBECONFIG or ~/.kube/config, or from inside a pod. Every flag can also be given as the
/// environment variable that is named with it. Durations are written as 90s or 1h30m.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100)]
struct Args {
    /// The namespace to serve [default: the pod's own, else that of the kubeconfig's context].
    #[arg(long, env = "FETTLE_NAMESPACE")]
    namespace: Option<String>,
    /// Where /metrics, /healthz and /readyz listen. Port 0 takes a free one.
    #[arg(long, env = "FETTLE_METRICS_ADDRESS", default_value = "0.0.0.0:9090")]
    metrics_address: SocketAddr,
    /// The name by which this controller is known in its Lease and its events [default: the name of the host].
    #[arg(long, env = "FETTLE_IDENTITY")]
    identity: Option<String>,
    /// The Lease that decides who leads.
    #[arg(long, env = "FETTLE_LEASE_NAME", default_value = PROGRAM)]
    lease_name: String,
    /// How long that Lease lasts: whole seconds. After a leader's death another leads no sooner than this.
    #[arg(long, env = "FETTLE_LEASE_DURATION", default_value = "15s", value_parser = fettle_runtime::duration)]
    lease_duration: Duration,
    /// How long a device or a bridge may be gone before it counts as gone. The bridges must be told the same.
    #[arg(long, env = "FETTLE_RECONNECT_GRACE", default_value = "60s", value_parser = fettle_runtime::duration)]
    reconnect_grace: Duration,
    /// The pause before a device's second try. It doubles with each further one, up to 10 minutes.
    #[arg(long, env = "FETTLE_RETRY_BACKOFF", default_value = "10s", value_parser = fettle_runtime::duration)]
    retry_backoff: Duration,
    /// Once all listens, write METRICS=host:port into this file.
    #[arg(long, env = "FETTLE_PORTS_FILE")]
    ports_file: Option<PathBuf>,
    #[command(flatten)]
    logs: LogArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    install_crypto();
    let args = Args::parse();
    if let Err(error) = args.logs.init() {
        // There is no log to say it in.
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{PROGRAM}: {}", chain(&error));
        }
        return ExitCode::from(2);
    }
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let stop = shutdown_token()?;
    let registry = Registry::new();
    build_info(&registry, PROGRAM, env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(&registry)?;
    let health = Health::new(registry);
    // Probes and metrics are answered to the end.
    let serving = CancellationToken::new();
    let (address, server) = health
        .serve(args.metrics_address, serving.clone())
        .await
        .with_context(|| format!("--metrics-address {} cannot be listened on", args.metrics_address))?;
    if let Some(path) = &args.ports_file {
        fettle_runtime::ports_file(path, &[("METRICS", address)])
            .with_context(|| format!("--ports-file {} cannot be written", path.display()))?;
    }

    let (client, namespace) = connect(args.namespace).await?;
    let identity = args.identity.unwrap_or_else(hostname);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace, identity, "started");
    let elector =
        Elector::new(Api::namespaced(client.clone(), &namespace), args.lease_name, &identity, args.lease_duration);
    let events = Events::new(client.clone(), PROGRAM, &identity);
    let Args { reconnect_grace, retry_backoff, .. } = args;
    let context = Context { client, namespace, reconnect_grace, retry_backoff, events, metrics };

    while let Some(leadership) = elector.lead(&stop, || health.ready()).await {
        tracing::info!("leading");
        context.metrics.leader.set(1);
        let written = CancellationToken::new();
        let act = async {
            let last_writes = reconcile::lead(&context, &leadership, &stop, || health.ready()).await;
            written.cancel();
            last_writes
        };
        let ((), last_writes) = tokio::join!(elector.keep(&leadership, &written), act);
        context.metrics.leader.set(0);
        match last_writes {
            LastWrites::Answered => elector.release().await,
            LastWrites::InDoubt => tracing::warn!("a write was not answered: the lease is left to expire"),
        }
        tracing::info!("not leading any more");
    }
    health.not_ready();
    serving.cancel();
    server.await??;
    Ok(())
}
