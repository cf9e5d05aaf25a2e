//! The bridge, wired up: arguments, what listens, what watches, and the order in which they begin and end.

#![allow(clippy::print_stderr, reason = "before logs are set up there is only standard error")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Parser;
use fettle_bridge::args::Args;
use fettle_bridge::cluster::bridges::{self, Bridges};
use fettle_bridge::cluster::content::{Advertised, Contents};
use fettle_bridge::cluster::lease::Heartbeat;
use fettle_bridge::cluster::notices::Notices;
use fettle_bridge::cluster::writer::Writer;
use fettle_bridge::cluster::{Identity, firmware};
use fettle_bridge::files::credentials::Credentials;
use fettle_bridge::files::ledger::Transfers;
use fettle_bridge::files::logs::LogStore;
use fettle_bridge::files::store::Store;
use fettle_bridge::files::{FileServerConfig, FileServers, TftpPorts};
use fettle_bridge::hub::{Hub, Parts, Watches};
use fettle_bridge::metrics::Metrics;
use fettle_bridge::tcp::{Listener, ListenerConfig};
use fettle_crds::Device;
use fettle_protocol::session::Timing;
use fettle_runtime::{
    Events, Health, build_info, chain, connect, hostname, install_crypto, ports_file, shutdown_token,
};
use jiff::{SignedDuration, Timestamp};
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What connections have told and the hub has not taken in: with more, they wait.
const TOLD: usize = 4096;

#[tokio::main]
async fn main() -> ExitCode {
    install_crypto();
    let args = Args::parse();
    if let Err(error) = args.logs.init() {
        eprintln!("fettle-bridge: {}", chain(&error));
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
    let shutdown = shutdown_token().context("signals cannot be handled")?;
    let (client, namespace) = connect(args.namespace.clone()).await?;
    let us = Identity::new(args.name.clone().unwrap_or_else(hostname));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace,
        bridge = us.name,
        incarnation = us.incarnation,
        "starting"
    );
    let registry = Registry::new();
    build_info(&registry, "fettle-bridge", env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(&registry)?;
    let health = Health::new(registry.clone());

    // What listens.
    let (metrics_address, probes) = (health.serve(args.metrics_address, shutdown.clone()).await)
        .with_context(|| format!("cannot listen for metrics on {} (--metrics-address)", args.metrics_address))?;
    let store = open_store(&args)?;
    let credentials = credentials(&args)?;
    let transfers = Arc::new(Transfers::new());
    let log_dir = args.data_dir.join("logs");
    let logs = LogStore::open(&log_dir, args.log_store_size, args.log_size)
        .with_context(|| format!("the log folder {} cannot be used (--data-dir)", log_dir.display()))?;
    let logs = Arc::new(logs);
    let files = FileServers::start(
        file_servers(&args),
        store.clone(),
        credentials.clone(),
        Arc::clone(&transfers),
        Arc::clone(&logs),
        &registry,
        shutdown.clone(),
    )?;
    let listener = Listener::bind(
        ListenerConfig {
            address: args.device_address,
            connections: args.max_connections,
            connections_per_address: args.max_connections_per_address,
        },
        metrics.clone(),
    )
    .with_context(|| format!("cannot listen for devices on {} (--device-address)", args.device_address))?;
    let device_address = listener.local_addr()?;
    tracing::info!(address = %device_address, "devices may call once the API has been read");
    let ports: [(&str, SocketAddr); 4] =
        [("DEVICE", device_address), ("FTP", files.ftp()), ("TFTP", files.tftp()), ("METRICS", metrics_address)];
    if let Some(path) = &args.ports_file {
        ports_file(path, &ports).with_context(|| format!("{} cannot be written (--ports-file)", path.display()))?;
    }

    // What is watched and written.
    let devices: Api<Device> = Api::namespaced(client.clone(), &namespace);
    let heartbeat = Heartbeat::new(Api::namespaced(client.clone(), &namespace), us.clone(), args.lease_duration);
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = heartbeat.begin() => {}
    }
    let advertised = Advertised {
        address: args.advertise_ipv4,
        ftp_port: args.advertise_ftp_port.unwrap_or(files.ftp().port()),
        tftp_port: args.advertise_tftp_port.unwrap_or(files.tftp().port()),
    };
    let secrets = Api::namespaced(client.clone(), &namespace);
    let contents = Contents::new(secrets, store.clone(), credentials, transfers, logs, advertised);
    let living = Arc::new(Mutex::new(Bridges::default()));
    let hub = Hub::new(Parts {
        us: us.clone(),
        timing: timing(&args)?,
        enrolment: args.enrolment,
        reconnect_grace: SignedDuration::try_from(args.reconnect_grace)?,
        devices: devices.clone(),
        contents,
        writer: Writer::new(devices, metrics.clone()),
        notices: Notices::new(Events::new(client.clone(), "fettle-bridge", &us.name)),
        metrics,
        bridges: Arc::clone(&living),
    });
    let is_writer = {
        let name = us.name.clone();
        let living = Arc::clone(&living);
        Arc::new(move || {
            let living = living.lock().unwrap_or_else(PoisonError::into_inner);
            living.first(Timestamp::now()) == Some(name.as_str())
        })
    };
    let (connections, told) = mpsc::channel(TOLD);
    let (synced, mut is_synced) = watch::channel(false);
    // The hub ends after the connections, so that each can say how it ended; the Lease after the hub.
    let (hub_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
    let hub = tokio::spawn(hub.run(watches(&client, &namespace), told, synced, hub_stop.clone()));
    let firmware_api = Api::namespaced(client, &namespace);
    let firmware_shutdown = shutdown.clone();
    let keeper_us = us.clone();
    let keeper = tokio::spawn(async move {
        firmware::keep(firmware_api, store, &keeper_us, is_writer, firmware_shutdown).await;
    });
    let mut lease = tokio::spawn(heartbeat.run(lease_stop.clone()));

    tokio::select! {
        () = shutdown.cancelled() => {}
        synced = is_synced.wait_for(|synced| *synced) => {
            synced.context("the hub ended early")?;
            health.ready();
            tracing::info!("serving devices");
            tokio::select! {
                () = listener.run(connections, shutdown.clone()) => {}
                ended = &mut lease => {
                    shutdown.cancel();
                    ended??;
                }
            }
        }
    }
    hub_stop.cancel();
    hub.await?;
    keeper.await?;
    files.stopped().await;
    lease_stop.cancel();
    if !lease.is_finished() {
        lease.await??;
    }
    probes.await??;
    Ok(())
}

fn open_store(args: &Args) -> anyhow::Result<Store> {
    let cache = args.data_dir.join("cache");
    let files = args.files_dir.clone().unwrap_or_else(|| args.data_dir.join("files"));
    Store::open(&cache, &files, args.max_file_size, args.cache_size)
        .with_context(|| format!("the cache {} cannot be used (--data-dir)", cache.display()))
}

fn credentials(args: &Args) -> anyhow::Result<Credentials> {
    let Some(path) = &args.credential_key_file else { return Ok(Credentials::random()) };
    let material = std::fs::read(path)
        .with_context(|| format!("the key {} cannot be read (--credential-key-file)", path.display()))?;
    Credentials::from_key_material(&material).with_context(|| format!("the key {} cannot be used", path.display()))
}

fn file_servers(args: &Args) -> FileServerConfig {
    let (first, last) = args.ftp_passive_ports;
    FileServerConfig {
        ftp: args.ftp_address,
        tftp: args.tftp_address,
        ftp_passive_ports: first..=last,
        advertise: args.advertise_ipv4,
        tftp_ports: if args.tftp_single_port { TftpPorts::Single } else { TftpPorts::PerTransfer },
        limits: fettle_bridge::files::Limits::default(),
        deadlines: fettle_bridge::files::Deadlines::default(),
    }
}

fn timing(args: &Args) -> anyhow::Result<Timing> {
    Ok(Timing {
        settle: SignedDuration::try_from(args.settle)?,
        apply: SignedDuration::try_from(args.apply_deadline)?,
        log: SignedDuration::try_from(args.log_deadline)?,
        drop_delay: SignedDuration::try_from(args.settle)?,
        ..Timing::default()
    })
}

fn watches(
    client: &Client,
    namespace: &str,
) -> Watches<
    impl futures::Stream<Item = watcher::Result<watcher::Event<DeserializeGuard<Device>>>> + Unpin + Send + use<>,
    impl futures::Stream<Item = watcher::Result<watcher::Event<k8s_openapi::api::coordination::v1::Lease>>>
    + Unpin
    + Send
    + use<>,
> {
    let devices: Api<DeserializeGuard<Device>> = Api::namespaced(client.clone(), namespace);
    let leases = Api::namespaced(client.clone(), namespace);
    let of_bridges = watcher::Config::default().labels(&format!("{}=true", bridges::LABEL));
    Watches {
        devices: Box::pin(watcher(devices, watcher::Config::default()).default_backoff()),
        leases: Box::pin(watcher(leases, of_bridges).default_backoff()),
    }
}
