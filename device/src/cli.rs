//! What can be said on the command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use fettle_device::faults::Fault;
use fettle_device::spec::{
    Backoff, DeviceSpec, FilePorts, FlashAt, PathStyle, ScheduledReply, Timings, Vocabulary, capability,
};
use fettle_device::{Authorities, FleetHandle, ImageKey, duration};
use fettle_protocol::crc::CrcKind;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::{Dialect, Mac};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub mod fleet;
pub mod image;
pub mod run;

/// The reference device of Fettle, alone or by the thousand.
///
/// A simulated device speaks the upgrade protocol as a real one does: it calls a bridge, downloads what it is told to over
/// FTP, TFTP or HTTP, checks it, restarts into it, applies configurations, uploads its log. What it runs is in memory, and gone
/// when the program ends.
#[derive(Debug, Parser)]
#[command(name = "fettle-device", version)]
pub struct Cli {
    /// What to log, on standard error: a level, or a level for each module.
    #[arg(long, env = "FETTLE_DEVICE_LOG_FILTER", default_value = "warn", global = true)]
    pub log_filter: EnvFilter,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One device. Prints a line for everything that happens to it, until it is interrupted.
    Run(run::Arguments),
    /// Many devices. Prints how many are doing what when that changes, and the whole account at the end.
    Fleet(fleet::Arguments),
    /// Makes an image that simulated devices boot: a first line that names model and version, then bytes that are the same
    /// every time.
    Image(image::Arguments),
}

/// How a device behaves; the same for `run` and for `fleet`.
#[derive(Debug, Args)]
pub struct Behaviour {
    /// Know messages 1–11 and data 1–14, and nothing else. The default.
    #[arg(long, env = "FETTLE_DEVICE_STRICT", conflicts_with = "extended")]
    strict: bool,
    /// Know all extensions, and announce them.
    #[arg(long, env = "FETTLE_DEVICE_EXTENDED")]
    extended: bool,
    /// How it reads the layout of messages: Canonical, or any of DataLenWithoutHeader, DataLenWithoutPadding,
    /// LengthWithHeader and LittleEndian, joined by +.
    #[arg(long, env = "FETTLE_DEVICE_DIALECT", default_value_t)]
    dialect: Dialect,
    /// An extension that it does not announce although it is extended; can be given more than once.
    #[arg(long, env = "FETTLE_DEVICE_WITHOUT", value_name = "CAPABILITY", value_delimiter = ',', value_parser = capability)]
    without: Vec<Capabilities>,
    /// What it means by the CRC of a file: IEEE, BZIP2, MPEG2, CKSUM, POSIX, Castagnoli, JAMCRC, XFER or AUTOSAR.
    #[arg(long, env = "FETTLE_DEVICE_CRC", default_value_t)]
    crc: CrcKind,
    /// Configuration that it has at first (datum 64). Extended devices report it.
    #[arg(long, env = "FETTLE_DEVICE_CONFIG")]
    config: Option<String>,
    /// Serial number (datum 65) [default: one made from the MAC]. Extended devices report it.
    #[arg(long, env = "FETTLE_DEVICE_SERIAL")]
    serial: Option<String>,
    /// Port that stands in for 21.
    #[arg(long, env = "FETTLE_DEVICE_FTP_PORT", default_value_t = FilePorts::default().ftp)]
    ftp_port: u16,
    /// Port that stands in for 69.
    #[arg(long, env = "FETTLE_DEVICE_TFTP_PORT", default_value_t = FilePorts::default().tftp)]
    tftp_port: u16,
    /// Certificates, in PEM, of the authorities that it believes about HTTPS servers.
    #[arg(long, env = "FETTLE_DEVICE_HTTP_CA", value_name = "FILE", value_parser = authorities)]
    http_ca: Option<Authorities>,
    /// Ed25519 public key, in PEM or base64: images are then taken only with a signature by it. Extended devices announce that
    /// they check it.
    #[arg(long, env = "FETTLE_DEVICE_IMAGE_KEY", value_name = "FILE", value_parser = image_key)]
    image_key: Option<ImageKey>,
    /// The image that it runs at first: differences are applied to it. Extended devices announce that they can.
    #[arg(long, env = "FETTLE_DEVICE_IMAGE", value_name = "FILE", value_parser = running_image)]
    image: Option<Arc<[u8]>>,
    /// How to make one name of path and file name.
    #[arg(long, env = "FETTLE_DEVICE_PATH_STYLE", value_enum, default_value_t)]
    path_style: PathStyle,
    /// IPv4 address that its connections come from.
    #[arg(long, env = "FETTLE_DEVICE_LOCAL_ADDRESS")]
    local_address: Option<Ipv4Addr>,
    /// Also listen to datagrams, at that address and the port of the bridge: requests for logs come so where TCP is gone.
    #[arg(long, env = "FETTLE_DEVICE_UDP")]
    udp: bool,
    /// How long writing the flash takes.
    #[arg(long, env = "FETTLE_DEVICE_INSTALL_TIME", value_parser = duration::parse, default_value = "2s")]
    install_time: Duration,
    /// When the flash is written.
    #[arg(long, env = "FETTLE_DEVICE_FLASH_AT", value_enum, default_value_t)]
    flash_at: FlashAt,
    /// How long a restart takes, besides the flash.
    #[arg(long, env = "FETTLE_DEVICE_RESTART_TIME", value_parser = duration::parse, default_value = "1s")]
    restart_time: Duration,
    /// How long putting a profile into force takes.
    #[arg(long, env = "FETTLE_DEVICE_APPLY_TIME", value_parser = duration::parse, default_value = "500ms")]
    apply_time: Duration,
    /// First wait before calling again; doubles from there.
    #[arg(long, env = "FETTLE_DEVICE_BACKOFF_FIRST", value_parser = duration::parse, default_value = "1s")]
    backoff_first: Duration,
    /// Longest wait before calling again.
    #[arg(long, env = "FETTLE_DEVICE_BACKOFF_MAX", value_parser = duration::parse, default_value = "1m")]
    backoff_max: Duration,
    /// Between two progress messages of a long operation. Extended devices send them.
    #[arg(long, env = "FETTLE_DEVICE_PROGRESS_INTERVAL", value_parser = duration::parse, default_value = "30s")]
    progress_interval: Duration,
    /// Between two keep-alive messages. Extended devices send them.
    #[arg(long, env = "FETTLE_DEVICE_KEEP_ALIVE_INTERVAL", value_parser = duration::parse, default_value = "1m")]
    keep_alive_interval: Duration,
    /// When to answer a message 8 that names a time.
    #[arg(long, env = "FETTLE_DEVICE_SCHEDULED_REPLY", value_enum, default_value_t)]
    scheduled_reply: ScheduledReply,
    /// Time zone of its clock, by name.
    #[arg(long, env = "FETTLE_DEVICE_TIME_ZONE", value_parser = jiff::tz::TimeZone::get, default_value = "UTC")]
    time_zone: jiff::tz::TimeZone,
    /// Finish a transfer whose connection is lost, and tell its result on the next one.
    #[arg(long, env = "FETTLE_DEVICE_LATE_RESULTS")]
    late_results: bool,
    /// Something that goes wrong, as STEP=KIND[:ARGUMENT][*TIMES]; can be given more than once (in the environment:
    /// separated by commas). Steps: connect, information, download3, result5, restart6, boot, download4, result7, apply8,
    /// result9, upload10, result11. Kinds: dropConnection:before, dropConnection:after, resetConnection:…, vanish, slow:30s,
    /// throttle:BYTES_A_SECOND, corrupt, otherBase, failDownload, claimWithoutDownload, refuse, comeBackOld, comeBackWith:VERSION,
    /// loseResult, silent, halfOpen, stall, flood:COUNT, garbage, lyingLength, unknownMessage, wrongDirection,
    /// unasked:MESSAGE, raw:HEX. TIMES: a number, or always.
    #[arg(long = "fault", env = "FETTLE_DEVICE_FAULT", value_name = "FAULT", value_delimiter = ',')]
    faults: Vec<Fault>,
}

impl Behaviour {
    fn file_ports(&self) -> FilePorts {
        FilePorts { ftp: self.ftp_port, tftp: self.tftp_port }
    }

    fn spec(&self, mac: Mac, model: &str, version: &str) -> DeviceSpec {
        let vocabulary = if self.extended && !self.strict { Vocabulary::Extended } else { Vocabulary::Strict };
        DeviceSpec {
            config: self.config.clone(),
            serial: self.serial.clone(),
            vocabulary,
            dialect: self.dialect,
            withheld: self.without.iter().fold(Capabilities::default(), |all, one| all.with(*one)),
            crc: self.crc,
            image_key: self.image_key,
            image: self.image.clone(),
            path_style: self.path_style,
            file_ports: self.file_ports(),
            authorities: self.http_ca.clone(),
            timings: Timings {
                install: self.install_time,
                flash_at: self.flash_at,
                restart: self.restart_time,
                apply: self.apply_time,
                backoff: Backoff { first: self.backoff_first, max: self.backoff_max },
                progress: self.progress_interval,
                keep_alive: self.keep_alive_interval,
                ..Timings::default()
            },
            scheduled_reply: self.scheduled_reply,
            late_results: self.late_results,
            time_zone: self.time_zone.clone(),
            local_address: self.local_address,
            udp: self.udp,
            faults: self.faults.clone(),
            ..DeviceSpec::new(mac, model, version)
        }
    }
}

fn authorities(path: &str) -> anyhow::Result<Authorities> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    Authorities::from_pem(&pem).with_context(|| format!("{path} cannot be used"))
}

fn image_key(path: &str) -> anyhow::Result<ImageKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    ImageKey::parse(&text).with_context(|| format!("{path} cannot be used"))
}

fn running_image(path: &str) -> anyhow::Result<Arc<[u8]>> {
    Ok(std::fs::read(path).with_context(|| format!("cannot read {path}"))?.into())
}

/// Where devices call.
async fn resolve(bridges: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for bridge in bridges {
        let found = tokio::net::lookup_host(bridge).await.with_context(|| format!("cannot resolve {bridge}"))?;
        addresses.extend(found);
    }
    Ok(addresses)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// SIGINT and SIGTERM. To be made before anything starts that they end.
struct Interrupt {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupt {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }

    /// Returns at the first.
    async fn arrives(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How long a fleet may take to end: a write of a journal, at most.
const SHUTDOWN: Duration = Duration::from_secs(5);

async fn shut_down(fleet: &FleetHandle) -> anyhow::Result<()> {
    tokio::time::timeout(SHUTDOWN, fleet.shutdown()).await.context("the devices did not end in time")
}
