//! The file servers on free loopback ports, with everything that they need, for tests.

// Each test program uses its part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod certificates;
pub mod foreign;
pub mod network;
pub mod programs;
pub mod setting;
pub mod small_disk;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fettle_bridge::files::credentials::{Credentials, DeviceId, Minted, Permission};
use fettle_bridge::files::ledger::Transfers;
use fettle_bridge::files::logs::{LogNews, LogStore};
use fettle_bridge::files::store::{Content, Store};
use fettle_bridge::files::{FileServerConfig, FileServers};
use jiff::Timestamp;
use prometheus::Registry;
use prometheus::proto::{LabelPair, MetricFamily};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// No step of a test that goes well takes as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The most that one upload may bring, and that all logs together may take.
pub const UPLOAD_SIZE: u64 = 64 * 1024;
pub const LOG_STORE_SIZE: u64 = 96 * 1024;

pub struct Servers {
    pub dir: TempDir,
    pub store: Store,
    pub credentials: Credentials,
    pub transfers: Arc<Transfers>,
    pub logs: Arc<LogStore>,
    pub news: mpsc::Receiver<LogNews>,
    pub registry: Registry,
    pub running: FileServers,
    stop: CancellationToken,
    next_command: std::sync::atomic::AtomicU32,
}

/// What a device was told: data 6–9, and what they allow.
pub struct Command {
    pub permission: Permission,
    pub minted: Minted,
}

impl Command {
    /// Data 6 and 7 as one path.
    pub fn path(&self) -> String {
        format!("{}/{}", self.minted.path, self.minted.file)
    }
}

impl Servers {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(configure: impl FnOnce(&mut FileServerConfig)) -> Self {
        Self::start_with_logs(configure, LOG_STORE_SIZE, UPLOAD_SIZE)
    }

    /// With room for so many bytes of logs, in all and for each.
    pub fn start_with_logs(configure: impl FnOnce(&mut FileServerConfig), total: u64, each: u64) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), configure, total, each)
    }

    /// With cache and logs in this folder.
    pub fn start_in(dir: TempDir, configure: impl FnOnce(&mut FileServerConfig), total: u64, each: u64) -> Self {
        let mut config = setting::config();
        configure(&mut config);
        let (cache, logs) = (dir.path().join("cache"), dir.path().join("logs"));
        let store = Store::open(&cache, dir.path(), 1 << 30, 1 << 30).unwrap();
        let credentials = Credentials::random();
        let transfers = Arc::new(Transfers::new());
        let registry = Registry::new();
        let (settings, news) = setting::log_settings(logs, total, each);
        let logs = Arc::new(LogStore::open(settings, &registry).unwrap());
        let stop = CancellationToken::new();
        let running = FileServers::start(
            config,
            store.clone(),
            credentials.clone(),
            Arc::clone(&transfers),
            Arc::clone(&logs),
            &registry,
            stop.clone(),
        )
        .unwrap();
        let next_command = std::sync::atomic::AtomicU32::new(1);
        Self { dir, store, credentials, transfers, logs, news, registry, running, stop, next_command }
    }

    pub fn ftp(&self) -> SocketAddr {
        self.running.ftp()
    }

    pub fn tftp(&self) -> SocketAddr {
        self.running.tftp()
    }

    pub fn http(&self) -> SocketAddr {
        self.running.http()
    }

    pub async fn content(&self, bytes: &[u8]) -> Content {
        self.store.put(bytes.to_vec()).await.unwrap()
    }

    /// Orders the device with this uid to fetch it, within a minute.
    pub fn order_download(&self, uid: &str, content: &Content) -> Command {
        self.order_download_until(uid, content, Timestamp::now() + Duration::from_secs(60))
    }

    pub fn order_download_until(&self, uid: &str, content: &Content, expires: Timestamp) -> Command {
        let permission = Permission::download(DeviceId::of_uid(uid), &content.sha256, self.command(), expires);
        self.transfers.expect(&permission, Some(content.size));
        Command { permission, minted: self.credentials.mint(&permission) }
    }

    /// Orders the device with this uid to bring its log, within a minute.
    pub fn order_upload(&self, uid: &str, device_name: &str) -> Command {
        let expires = Timestamp::now() + Duration::from_secs(60);
        let permission = Permission::upload(DeviceId::of_uid(uid), self.command(), expires);
        self.transfers.expect(&permission, None);
        self.logs.expect_upload(&permission, device_name, 1).unwrap();
        Command { permission, minted: self.credentials.mint(&permission) }
    }

    fn command(&self) -> u32 {
        self.next_command.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether the ledger says so, now or soon.
    pub async fn is_complete(&self, command: &Command) -> bool {
        self.transfers.wait_complete(&command.permission, PATIENCE).await
    }

    /// Whether the ledger does not say so, for a while.
    pub async fn stays_incomplete(&self, command: &Command) -> bool {
        !self.transfers.wait_complete(&command.permission, Duration::from_secs(2)).await
    }

    /// Where content lies in the cache.
    pub fn cached(&self, content: &Content) -> PathBuf {
        self.dir.path().join("cache").join(data_encoding::HEXLOWER.encode(&content.sha256))
    }

    /// The logs that are stored for a device, oldest first, and what else lies there.
    pub fn stored_logs(&self, device_name: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("logs").join(device_name)) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// A counter or gauge by its name and the values of its labels, in the order of the labels' names.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(MetricFamily::get_metric);
        let wanted =
            metrics.filter(|metric| metric.get_label().iter().map(LabelPair::value).eq(labels.iter().copied()));
        wanted.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }

    /// Waits until a transfer of this protocol and operation has ended so.
    pub async fn ended(&self, operation: &str, protocol: &str, result: &str) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while self.metric("fettle_bridge_transfers_total", &[operation, protocol, result]) == 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "no {protocol} {operation} ended as {result}:\n{}", self.dump());
    }

    /// All that the servers counted.
    pub fn dump(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    pub async fn stop(&self) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(PATIENCE, self.running.stopped());
        assert!(stopped.await.is_ok(), "the file servers do not stop");
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Bytes that are different everywhere, so that a block at the wrong place is seen.
pub fn bytes(len: usize) -> Vec<u8> {
    let words = (0_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    words.flat_map(u64::to_be_bytes).take(len).collect()
}

/// Asserts equality without printing megabytes.
pub fn assert_same(found: &[u8], expected: &[u8]) {
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(found == expected, "{} bytes instead of {}, first difference at {differ:?}", found.len(), expected.len(),);
}
