//! File servers on free loopback ports, and a log store for them, as tests and benches have them.

#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use fettle_bridge::files::logs::{LogNews, LogSettings, Retention};
use fettle_bridge::files::{Deadlines, FileServerConfig, Limits, TftpPorts};
use tokio::sync::mpsc;

pub fn config() -> FileServerConfig {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    FileServerConfig {
        ftp: free,
        tftp: free,
        http: free,
        http_tls: None,
        ftp_tls: None,
        ftp_passive_ports: 0..=0,
        advertise: Ipv4Addr::LOCALHOST,
        tftp_ports: TftpPorts::PerTransfer,
        limits: Limits::default(),
        deadlines: Deadlines::default(),
    }
}

/// With room for so many bytes of logs, in all and for each.
pub fn log_settings(dir: PathBuf, total: u64, each: u64) -> (LogSettings, mpsc::Receiver<LogNews>) {
    let (sender, news) = mpsc::channel(64);
    let settings = LogSettings {
        dir,
        place: "file://b-0/logs".into(),
        retention: Retention { bytes: total, ..Retention::default() },
        bucket: None,
        upload_size: each,
        news: sender,
    };
    (settings, news)
}
