//! Our file servers, in a process of their own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use fettle_bridge::files::FileServers;
use fettle_bridge::files::credentials::{Credentials, DeviceId, Minted, Permission};
use fettle_bridge::files::ledger::Transfers;
use fettle_bridge::files::logs::LogStore;
use fettle_bridge::files::store::{Need, Source, Store};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::setting;

/// Parent and child mint and check with it.
const KEY: [u8; 32] = [7; 32];

/// No bench takes as long.
const LIFE: Duration = Duration::from_secs(3600);

/// The child's part: serves until its standard input ends.
pub fn serve(folder: &Path, files: &[String]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let work = tempfile::tempdir().unwrap();
        let store = Store::open(&work.path().join("cache"), folder, 1 << 31, 1 << 32).unwrap();
        for file in files {
            let (name, sha256) = file.split_once('=').unwrap();
            let sha256 = HEXLOWER.decode(sha256.as_bytes()).unwrap().try_into().unwrap();
            store.fetch(&Source::File { path: name.to_owned() }, sha256, Need::Device).await.unwrap();
        }
        let registry = prometheus::Registry::new();
        let (settings, _news) = setting::log_settings(work.path().join("logs"), 1 << 30, 1 << 20);
        let logs = Arc::new(LogStore::open(settings, &registry).unwrap());
        let stop = CancellationToken::new();
        let servers = FileServers::start(
            setting::config(),
            store,
            Credentials::new(&KEY),
            Arc::new(Transfers::new()),
            logs,
            &registry,
            stop.clone(),
        )
        .unwrap();
        println!("{} {} {}", servers.ftp(), servers.tftp(), servers.http());
        std::io::stdout().flush().unwrap();
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        stop.cancel();
        servers.stopped().await;
    });
}

/// The parent's: the servers, for files of a folder.
pub struct Ours {
    pub ftp: SocketAddr,
    pub tftp: SocketAddr,
    pub http: SocketAddr,
    child: Child,
    sha256: HashMap<String, [u8; 32]>,
    credentials: Credentials,
    commands: AtomicU32,
}

impl Ours {
    pub fn start(folder: &Path, files: &[&str]) -> Self {
        let mut sha256 = HashMap::new();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve").arg(folder);
        for file in files {
            let digest: [u8; 32] = Sha256::digest(std::fs::read(folder.join(file)).unwrap()).into();
            command.arg(format!("{file}={}", HEXLOWER.encode(&digest)));
            sha256.insert((*file).to_owned(), digest);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let addresses: Vec<SocketAddr> = line.split_whitespace().map(|address| address.parse().unwrap()).collect();
        let &[ftp, tftp, http] = addresses.as_slice() else { panic!("the servers do not start: {line}") };
        Self { ftp, tftp, http, child, sha256, credentials: Credentials::new(&KEY), commands: AtomicU32::new(1) }
    }

    /// What a device is told, to fetch this file.
    pub fn order(&self, device: &str, file: &str) -> Minted {
        let command = self.commands.fetch_add(1, Ordering::Relaxed);
        let expires = Timestamp::now() + LIFE;
        let device = DeviceId::of_uid(device);
        self.credentials.mint(&Permission::download(device, &self.sha256[file], command, expires))
    }

    /// The most memory that the servers ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{}/status", self.child.id()))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Makes a file of bytes that do not repeat.
pub fn file(folder: &Path, name: &str, size: usize) {
    let words = (0_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    let bytes: Vec<u8> = words.take(size / 8).flat_map(u64::to_be_bytes).collect();
    std::fs::write(folder.join(name), bytes).unwrap();
}
