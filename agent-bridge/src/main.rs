//! The bridge, wired up: arguments, what listens, what watches, and the order in which they begin and end.

#![allow(clippy::print_stderr, reason = "before logs are set up there is only standard error")]

mod print_log;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fettle_bridge::args::Args;
use fettle_bridge::cluster::address::OwnAddress;
use fettle_bridge::cluster::bridges::{self, Bridges};
use fettle_bridge::cluster::content::{Advertised, Contents, HttpBase, Scheme};
use fettle_bridge::cluster::declared::Declared;
use fettle_bridge::cluster::images::Images;
use fettle_bridge::cluster::lease::Heartbeat;
use fettle_bridge::cluster::notices::Notices;
use fettle_bridge::cluster::writer::Writer;
use fettle_bridge::cluster::{Identity, firmware};
use fettle_bridge::files::credentials::Credentials;
use fettle_bridge::files::differences::Differences;
use fettle_bridge::files::external::External;
use fettle_bridge::files::ledger::Transfers;
use fettle_bridge::files::logs::{Bucket, LogNews, LogSettings, LogStore, Retention};
use fettle_bridge::files::store::Store;
use fettle_bridge::files::{FileServerConfig, FileServers, TftpPorts, TlsFiles};
use fettle_bridge::hub::{Hub, Parts, Sources, Watches};
use fettle_bridge::metrics::Metrics;
use fettle_bridge::tcp::{Listener, ListenerConfig, descriptors};
use fettle_bridge::udp::Datagrams;
use fettle_crds::Device;
use fettle_protocol::session::Timing;
use fettle_runtime::{
    Events, Health, build_info, chain, connect, hostname, install_crypto, ports_file, shutdown_token,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::print_log::print_log;

/// What connections have told and the hub has not taken in: with more, they wait.
const TOLD: usize = 4096;
/// Logs that have arrived, or found no room, and the hub has not taken in: with more, uploads wait for their last answer. And answers over UDP:
/// with more, they are dropped.
const LOGS: usize = 256;
/// For whoever is reading metrics while the program ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    install_crypto();
    let args = Args::parse();
    if let Some(path) = &args.print_log {
        return match print_log(path, &args.data_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fettle-bridge: {}: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
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
    // Where devices fetch files from, before anything is served that could tell them.
    let own = args.advertise_service.clone().filter(|_| args.advertise_ipv4.is_none());
    let mut own = own.map(|service| OwnAddress::watch(client.clone(), service));
    let Some(advertise) = shutdown.run_until_cancelled(advertise(&args, own.as_mut())).await.transpose()? else {
        return Ok(());
    };
    let store = open_store(&args)?;
    store.register(&registry)?;
    let (differences, maker) = Differences::new(store.clone(), args.delta_max_image_size, &registry)?;
    let credentials = credentials(&args)?;
    let transfers = Arc::new(Transfers::new());
    let (news, log_news) = mpsc::channel(LOGS);
    let logs = Arc::new(open_logs(&args, &us, news, &registry)?);
    let files = FileServers::start(
        file_servers(&args, advertise),
        store.clone(),
        credentials.clone(),
        Arc::clone(&transfers),
        Arc::clone(&logs),
        &registry,
        shutdown.clone(),
    )?;
    let external = (args.external.config()?)
        .map(|config| External::new(config, store.clone(), Arc::clone(&logs), &registry))
        .transpose()?;
    let limit = descriptors::raise();
    let connections = descriptors::connections(args.max_connections, limit);
    if connections < args.max_connections {
        tracing::info!(wanted = args.max_connections, connections, limit, "limit of open files bounds the connections");
    }
    metrics.connections_limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
    let listener = Listener::bind(
        ListenerConfig {
            address: args.device_address,
            connections,
            connections_per_address: args.max_connections_per_address,
        },
        metrics.clone(),
    )
    .with_context(|| format!("cannot listen for devices on {} (--device-address)", args.device_address))?;
    let device_address = listener.local_addr()?;
    tracing::info!(address = %device_address, "devices may call once the API has been read");
    let udp = args.udp_address.unwrap_or(device_address);
    let called = args.advertise_device_port.unwrap_or(device_address.port());
    let datagrams = Datagrams::bind(udp, called, &registry)
        .await
        .with_context(|| format!("cannot use UDP on {udp} (--udp-address)"))?;
    let datagrams = Arc::new(datagrams);
    let ports: [(&str, SocketAddr); 6] = [
        ("DEVICE", device_address),
        ("UDP", datagrams.local_addr()?),
        ("FTP", files.ftp()),
        ("TFTP", files.tftp()),
        ("HTTP", files.http()),
        ("METRICS", metrics_address),
    ];
    if let Some(path) = &args.ports_file {
        ports_file(path, &ports).with_context(|| format!("{} cannot be written (--ports-file)", path.display()))?;
    }

    // What is watched and written.
    let devices: Api<Device> = Api::namespaced(client.clone(), &namespace);
    let mut heartbeat = Heartbeat::new(Api::namespaced(client.clone(), &namespace), us.clone(), args.lease_duration);
    match shutdown.run_until_cancelled(heartbeat.begin()).await {
        Some(begun) => begun?,
        None => {
            files.stopped().await;
            return Ok(());
        }
    }
    let advertised = Advertised {
        address: advertise,
        ftp_port: args.advertise_ftp_port.unwrap_or(files.ftp().port()),
        tftp_port: args.advertise_tftp_port.unwrap_or(files.tftp().port()),
        http: http_base(&args, advertise, files.http().port()),
    };
    let log_store = Arc::clone(&logs);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let (declares, declared) = watch::channel(Declared::default());
    let images = Images::new(secrets.clone(), store, args.signatures);
    let contents = Contents::new(secrets, images.clone(), credentials, transfers, logs, advertised, heartbeat.held())
        .with_external(external.clone())
        .with_differences(differences, declared.clone());
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
        metrics: metrics.clone(),
        bridges: Arc::clone(&living),
        datagrams: Arc::clone(&datagrams),
        declared,
    });
    let is_writer: firmware::IsWriter = {
        let (name, held) = (us.name.clone(), heartbeat.held());
        Arc::new(move || {
            let living = living.lock().unwrap_or_else(PoisonError::into_inner);
            held.now() && living.first() == Some(name.as_str())
        })
    };
    let maker = tokio::spawn(maker.run(shutdown.clone()));
    let log_keeper = tokio::spawn(log_store.keep(Arc::clone(&is_writer), shutdown.clone()));
    let (connections, told) = mpsc::channel(TOLD);
    let (synced, mut is_synced) = watch::channel(false);
    // The hub ends after the connections, so that each can say how it ended; the Lease after the hub.
    let (hub_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
    let (reply, replies) = mpsc::channel(LOGS);
    let answers = {
        let stop = shutdown.clone();
        tokio::spawn(async move { datagrams.serve(reply, stop).await })
    };
    let sources = Sources { connections: told, logs: log_news, replies };
    let mut hub = tokio::spawn(hub.run(watches(&client, &namespace), sources, synced, hub_stop.clone()));
    let keeper = firmware::keep(client.clone(), namespace.clone(), images, is_writer, declares, shutdown.clone());
    let keeper = tokio::spawn(keeper);
    let readiness =
        tokio::spawn(show_readiness(health, metrics, is_synced.clone(), heartbeat.changes(), shutdown.clone()));
    let tidier = external.map(|external| tokio::spawn(external.keep(hub_stop.clone())));
    let mut lease = tokio::spawn(heartbeat.run(lease_stop.clone()));

    let mut serving = pin!(async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            Ok(_) = is_synced.wait_for(|synced| *synced) => {
                tracing::info!("serving devices");
                listener.run(connections, shutdown.clone()).await;
            }
        }
    });
    // Until shutdown, or until something ends that must not. Whatever it is, the rest ends in its order.
    let early = tokio::select! {
        () = &mut serving => None,
        ended = &mut lease => Some(ended.context("the heartbeat broke").and_then(|ended| Ok(ended?))),
        ended = &mut hub => Some(ended.context("the hub broke")),
        // Told anew as a whole: what is out there names the former address, and reaches nobody any more.
        address = moved(own.as_mut(), advertise) => {
            Some(Err(anyhow::anyhow!("the Service of this replica has another address: {address} instead of {advertise}")))
        }
    };
    if early.is_some() {
        shutdown.cancel();
        serving.await;
    }
    hub_stop.cancel();
    if !hub.is_finished() {
        hub.await?;
    }
    // At once: what follows may take its time, and until the Lease is free devices that call elsewhere are contended for
    // with a bridge that has let go of them.
    lease_stop.cancel();
    keeper.await?;
    maker.await?;
    log_keeper.await?;
    answers.await?;
    if let Some(tidier) = tidier {
        tidier.await?;
    }
    readiness.await?;
    files.stopped().await;
    if !lease.is_finished() {
        lease.await??;
    }
    if let Ok(ended) = tokio::time::timeout(LAST_ANSWERS, probes).await {
        ended??;
    }
    early.unwrap_or(Ok(()))
}

/// The bridge is ready while it serves and holds its Lease: without that, a device that calls now is better off elsewhere.
/// Those that are connected it keeps.
async fn show_readiness(
    health: Health,
    metrics: Metrics,
    mut synced: watch::Receiver<bool>,
    mut held: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let synced = synced.wait_for(|synced| *synced);
    if !matches!(shutdown.run_until_cancelled(synced).await, Some(Ok(_))) {
        return;
    }
    loop {
        let holds = *held.borrow_and_update();
        metrics.lease_held.set(i64::from(holds));
        if holds {
            health.ready();
        } else {
            health.not_ready();
        }
        if !matches!(shutdown.run_until_cancelled(held.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn open_store(args: &Args) -> anyhow::Result<Store> {
    let cache = args.data_dir.join("cache");
    let files = args.files_dir.clone().unwrap_or_else(|| args.data_dir.join("files"));
    Store::open(&cache, &files, args.max_file_size, args.cache_size)
        .with_context(|| format!("the cache {} cannot be used (--data-dir)", cache.display()))
}

fn open_logs(args: &Args, us: &Identity, news: mpsc::Sender<LogNews>, registry: &Registry) -> anyhow::Result<LogStore> {
    let wrong = || format!("the log folder in {} cannot be used (--data-dir)", args.data_dir.display());
    let dir = std::path::absolute(args.data_dir.join("logs")).with_context(wrong)?;
    let settings = LogSettings {
        place: format!("file://{}{}", us.name, dir.display()),
        dir,
        retention: Retention {
            bytes: args.log_store_size,
            logs: args.log_store_logs as usize,
            per_device: args.logs_per_device as usize,
            age: SignedDuration::try_from(args.log_retention)?,
        },
        bucket: open_bucket(args)?,
        upload_size: args.log_size,
        news,
    };
    LogStore::open(settings, registry).with_context(wrong)
}

/// Empty is as good as not given: that is how an environment says it.
fn open_bucket(args: &Args) -> anyhow::Result<Option<Bucket>> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let Some(place) = given(&args.log_store) else { return Ok(None) };
    let (region, endpoint) = (given(&args.log_store_region), given(&args.log_store_endpoint));
    let bucket = Bucket::of_s3(&place, region.as_deref(), endpoint.as_deref());
    bucket.map(Some).with_context(|| format!("logs cannot be kept in {place} (--log-store)"))
}

fn credentials(args: &Args) -> anyhow::Result<Credentials> {
    let Some(path) = &args.credential_key_file else { return Ok(Credentials::random()) };
    let material = std::fs::read(path)
        .with_context(|| format!("the key {} cannot be read (--credential-key-file)", path.display()))?;
    Credentials::from_key_material(&material).with_context(|| format!("the key {} cannot be used", path.display()))
}

/// The address that devices are told: the one that was given, else that of the replica's own Service.
async fn advertise(args: &Args, own: Option<&mut OwnAddress>) -> anyhow::Result<Ipv4Addr> {
    match (args.advertise_ipv4, own) {
        (Some(given), _) => Ok(given),
        (None, Some(own)) => Ok(own.found().await),
        (None, None) => anyhow::bail!("no address to tell devices (--advertise-ipv4, --advertise-service)"),
    }
}

/// Returns when the replica's own Service has another address than devices were told.
async fn moved(own: Option<&mut OwnAddress>, told: Ipv4Addr) -> Ipv4Addr {
    match own {
        Some(own) => own.changed(told).await,
        None => std::future::pending().await,
    }
}

fn file_servers(args: &Args, advertise: Ipv4Addr) -> FileServerConfig {
    let (first, last) = args.ftp_passive_ports;
    FileServerConfig {
        ftp: args.ftp_address,
        tftp: args.tftp_address,
        http: args.http_address,
        http_tls: tls_files(args.http_tls_cert.as_ref(), args.http_tls_key.as_ref()),
        ftp_tls: tls_files(args.ftp_tls_cert.as_ref(), args.ftp_tls_key.as_ref()),
        ftp_passive_ports: first..=last,
        advertise,
        tftp_ports: if args.tftp_single_port { TftpPorts::Single } else { TftpPorts::PerTransfer },
        limits: fettle_bridge::files::Limits::default(),
        deadlines: fettle_bridge::files::Deadlines::default(),
    }
}

/// Where devices are told the HTTP server that listens on that port.
fn http_base(args: &Args, advertise: Ipv4Addr, listening: u16) -> HttpBase {
    let scheme = if args.http_tls_cert.is_some() { Scheme::Https } else { Scheme::Http };
    let port = args.advertise_http_port.unwrap_or(listening);
    HttpBase::new(scheme, args.advertise_http_name.as_deref(), advertise, port)
}

fn tls_files(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<TlsFiles> {
    Some(TlsFiles { certificate: certificate?.clone(), key: key?.clone() })
}

fn timing(args: &Args) -> anyhow::Result<Timing> {
    Ok(Timing {
        settle: SignedDuration::try_from(args.settle)?,
        apply: SignedDuration::try_from(args.apply_deadline)?,
        log: SignedDuration::try_from(args.log_deadline)?,
        drop_delay: SignedDuration::try_from(args.settle)?,
        reached: SignedDuration::try_from(args.progress_interval)?,
        call_again: SignedDuration::try_from(args.call_again)?,
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
