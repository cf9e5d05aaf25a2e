//! What the bridge is told on its command line, or by its environment.

mod external;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use fettle_runtime::{LogArgs, duration};

use crate::cluster::address::ServiceRef;
use crate::cluster::enrolment::Enrolment;
use crate::cluster::images::SignaturePolicy;
pub use external::ExternalArgs;

/// Holds the connections of network devices, upgrades them as their targets in the Kubernetes API say, serves them their
/// files over FTP, TFTP and HTTP, and reports what is. Which device may move to what, and when, the controller decides.
#[derive(Debug, clap::Parser)]
#[command(name = "fettle-bridge", version)]
pub struct Args {
    /// Namespace to serve [default: the pod's own, or that of the kubeconfig's context].
    #[arg(long, env = "FETTLE_NAMESPACE")]
    pub namespace: Option<String>,
    /// Name of this bridge and of its Lease; no two bridges of a namespace may share one [default: the host name].
    #[arg(long, env = "FETTLE_NAME")]
    pub name: Option<String>,
    /// Address and port that devices call. Port 0 takes a free one, here and below.
    #[arg(long, env = "FETTLE_DEVICE_ADDRESS", default_value = "0.0.0.0:7070")]
    pub device_address: SocketAddr,
    /// Address and port from which devices are asked for their logs over UDP, where their group allows that [default: the
    /// address and port that devices call].
    #[arg(long, env = "FETTLE_UDP_ADDRESS")]
    pub udp_address: Option<SocketAddr>,
    /// Address and port of the FTP server. Devices that know no extension call port 21.
    #[arg(long, env = "FETTLE_FTP_ADDRESS", default_value = "0.0.0.0:21")]
    pub ftp_address: SocketAddr,
    /// Ports for passive FTP, first-last; 0-0: any free ones. Devices must reach them under the numbers that they have
    /// here.
    #[arg(long, env = "FETTLE_FTP_PASSIVE_PORTS", default_value = "50000-50255", value_parser = port_range)]
    pub ftp_passive_ports: (u16, u16),
    /// Address and port of the TFTP server. Devices that know no extension call port 69.
    #[arg(long, env = "FETTLE_TFTP_ADDRESS", default_value = "0.0.0.0:69")]
    pub tftp_address: SocketAddr,
    /// Answer TFTP from the port that was called, for NAT and Services, instead of from a port for each transfer.
    #[arg(long, env = "FETTLE_TFTP_SINGLE_PORT", default_value_t = false, action = clap::ArgAction::Set)]
    pub tftp_single_port: bool,
    /// Address and port of the HTTP server, for devices that announce that they fetch over HTTP.
    #[arg(long, env = "FETTLE_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,
    /// Certificate of the HTTP server, in PEM, with those between it and its root: it then speaks HTTPS, and nothing else.
    /// Read again when it changes.
    #[arg(long, env = "FETTLE_HTTP_TLS_CERT", requires = "http_tls_key")]
    pub http_tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM.
    #[arg(long, env = "FETTLE_HTTP_TLS_KEY", requires = "http_tls_cert")]
    pub http_tls_key: Option<PathBuf>,
    /// Certificate of the FTP server, in PEM, with those between it and its root, for clients that ask for TLS (AUTH TLS);
    /// all others are served as without it. Read again when it changes.
    #[arg(long, env = "FETTLE_FTP_TLS_CERT", requires = "ftp_tls_key")]
    pub ftp_tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM.
    #[arg(long, env = "FETTLE_FTP_TLS_KEY", requires = "ftp_tls_cert")]
    pub ftp_tls_key: Option<PathBuf>,
    /// Address and port of /metrics, /healthz and /readyz.
    #[arg(long, env = "FETTLE_METRICS_ADDRESS", default_value = "0.0.0.0:9090")]
    pub metrics_address: SocketAddr,
    /// IPv4 address at which devices reach the file servers of this very replica [default: that of the Service that is this
    /// replica's own].
    #[arg(long, env = "FETTLE_ADVERTISE_IPV4", required_unless_present_any = ["advertise_service", "print_log"])]
    pub advertise_ipv4: Option<Ipv4Addr>,
    /// Service that leads to this very replica, as NAMESPACE/NAME: devices are told its address, once it has one.
    #[arg(long, env = "FETTLE_ADVERTISE_SERVICE")]
    pub advertise_service: Option<ServiceRef>,
    /// Port that devices call, where a NAT, a proxy or a NodePort gives it another number than it has here: at that number they
    /// listen for what is asked over UDP [default: the one listened on].
    #[arg(long, env = "FETTLE_ADVERTISE_DEVICE_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub advertise_device_port: Option<u16>,
    /// Port at which devices reach its FTP server, told to those that can take it [default: the one listened on].
    #[arg(long, env = "FETTLE_ADVERTISE_FTP_PORT")]
    pub advertise_ftp_port: Option<u16>,
    /// Port at which devices reach its TFTP server, told to those that can take it [default: the one listened on].
    #[arg(long, env = "FETTLE_ADVERTISE_TFTP_PORT")]
    pub advertise_tftp_port: Option<u16>,
    /// Port at which devices reach its HTTP server [default: the one listened on].
    #[arg(long, env = "FETTLE_ADVERTISE_HTTP_PORT")]
    pub advertise_http_port: Option<u16>,
    /// Name by which devices are told the HTTP server, instead of the IPv4 address: with HTTPS, one that its certificate has.
    #[arg(long, env = "FETTLE_ADVERTISE_HTTP_NAME", value_parser = host_name)]
    pub advertise_http_name: Option<String>,
    /// Folder for the cache of verified files and the logs that devices upload.
    #[arg(long, env = "FETTLE_DATA_DIR", default_value = "/var/lib/fettle")]
    pub data_dir: PathBuf,
    /// Print a log that a device brought, and do nothing else: `kubectl exec fettle-bridge-0 -- fettle-bridge --print-log
    /// /var/lib/fettle/logs/…`. `status.lastLog` of a Device says the path.
    #[arg(long, value_name = "PATH")]
    pub print_log: Option<PathBuf>,
    /// Folder that `source.file.path` of a Firmware is relative to [default: files in the data folder].
    #[arg(long, env = "FETTLE_FILES_DIR")]
    pub files_dir: Option<PathBuf>,
    /// What becomes of a device that calls and that nobody declared.
    #[arg(long, env = "FETTLE_ENROLMENT", value_enum, default_value_t = Enrolment::Approve)]
    pub enrolment: Enrolment,
    /// Whether images are taken that no signature vouches for. Where there is one, it is checked in any case.
    #[arg(long, env = "FETTLE_SIGNATURES", value_enum, default_value_t = SignaturePolicy::Optional)]
    pub signatures: SignaturePolicy,
    /// The largest file that is fetched, in bytes, or with KiB, MiB, GiB.
    #[arg(long, env = "FETTLE_MAX_FILE_SIZE", default_value = "1GiB", value_parser = size)]
    pub max_file_size: u64,
    /// How much the cache of verified files may take.
    #[arg(long, env = "FETTLE_CACHE_SIZE", default_value = "10GiB", value_parser = size)]
    pub cache_size: u64,
    /// The largest image of which differences are made, for devices that announce Delta: making one takes memory for twice as
    /// much, for as long as it takes. 0: none are made.
    #[arg(long, env = "FETTLE_DELTA_MAX_IMAGE_SIZE", default_value = "0", value_parser = size)]
    pub delta_max_image_size: u64,
    /// How much the uploaded logs may take; the oldest go first.
    #[arg(long, env = "FETTLE_LOG_STORE_SIZE", default_value = "1GiB", value_parser = size)]
    pub log_store_size: u64,
    /// Where logs stay, as s3://BUCKET or s3://BUCKET/PREFIX, with the keys in the environment as AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY [default: the logs folder in the data folder].
    #[arg(long, env = "FETTLE_LOG_STORE")]
    pub log_store: Option<String>,
    /// Region of that bucket [default: AWS_REGION, or us-east-1].
    #[arg(long, env = "FETTLE_LOG_STORE_REGION")]
    pub log_store_region: Option<String>,
    /// URL of the server that has that bucket, where it is not one of AWS.
    #[arg(long, env = "FETTLE_LOG_STORE_ENDPOINT")]
    pub log_store_endpoint: Option<String>,
    /// How many logs are kept, of all devices together; the oldest go first. Each takes about 200 bytes of memory.
    #[arg(long, env = "FETTLE_LOG_STORE_LOGS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub log_store_logs: u32,
    /// How many logs of one device are kept; its oldest go first.
    #[arg(long, env = "FETTLE_LOGS_PER_DEVICE", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub logs_per_device: u32,
    /// How long a log is kept.
    #[arg(long, env = "FETTLE_LOG_RETENTION", default_value = "720h", value_parser = duration)]
    pub log_retention: Duration,
    /// The largest log that a device may upload.
    #[arg(long, env = "FETTLE_LOG_SIZE", default_value = "16MiB", value_parser = size)]
    pub log_size: u64,
    /// File with 32 bytes or more from which transfer credentials are made; the same for all replicas [default: random
    /// at each start].
    #[arg(long, env = "FETTLE_CREDENTIAL_KEY_FILE")]
    pub credential_key_file: Option<PathBuf>,
    /// How long the bridge's Lease lasts without renewal; whole seconds.
    #[arg(long, env = "FETTLE_LEASE_DURATION", default_value = "15s", value_parser = whole_seconds)]
    pub lease_duration: Duration,
    /// How long devices have, after this bridge started, to call again before their sessions are given up.
    #[arg(long, env = "FETTLE_RECONNECT_GRACE", default_value = "60s", value_parser = duration)]
    pub reconnect_grace: Duration,
    /// How long to leave a device alone that came back with a command unanswered.
    #[arg(long, env = "FETTLE_SETTLE", default_value = "5s", value_parser = duration)]
    pub settle: Duration,
    /// How long a device may take to put a configuration into force (message 9).
    #[arg(long, env = "FETTLE_APPLY_DEADLINE", default_value = "2m", value_parser = duration)]
    pub apply_deadline: Duration,
    /// How long a device may take to upload its log (message 11).
    #[arg(long, env = "FETTLE_LOG_DEADLINE", default_value = "10m", value_parser = duration)]
    pub log_deadline: Duration,
    /// How often at most it is written to the status of a device how far it has come, and how long a command takes before
    /// that is done at all.
    #[arg(long, env = "FETTLE_PROGRESS_INTERVAL", default_value = "30s", value_parser = duration)]
    pub progress_interval: Duration,
    /// For how long a device stays away that is done and was told to disconnect (`session: Close`), where it can be told: it
    /// learns no sooner of what it should run then. One that is away for a fifth longer, and three minutes, is gone. Whole
    /// seconds.
    #[arg(long, env = "FETTLE_CALL_AGAIN", default_value = "5m", value_parser = whole_seconds)]
    pub call_again: Duration,
    /// Device connections in all.
    #[arg(long, env = "FETTLE_MAX_CONNECTIONS", default_value_t = 100_000)]
    pub max_connections: usize,
    /// Device connections from one address: a site behind one NAT has one.
    #[arg(long, env = "FETTLE_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 10_000)]
    pub max_connections_per_address: usize,
    /// File to write the listening addresses to, as NAME=host:port lines, once all are bound.
    #[arg(long, env = "FETTLE_PORTS_FILE")]
    pub ports_file: Option<PathBuf>,
    #[command(flatten)]
    pub external: ExternalArgs,
    #[command(flatten)]
    pub logs: LogArgs,
}

/// A duration that an object of the API can say.
fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration.subsec_nanos() > 0 || i32::try_from(duration.as_secs()).is_err() {
        return Err(format!("{text:?} is not a whole number of seconds, from one up: want such as 15s"));
    }
    Ok(duration)
}

/// The longest host that leaves room for the rest of a URL within the 248 bytes of a datum: `https://`, a port, and a path of
/// twice 32 characters.
pub(crate) const MAX_HOST: usize = 160;

/// A name as DNS has it.
fn host_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > MAX_HOST || !text.split('.').all(is_label) {
        return Err(format!(
            "{text:?} is not the name of a host, of at most {MAX_HOST} characters: want such as files.example.net"
        ));
    }
    Ok(text.to_owned())
}

/// `first-last`.
fn port_range(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    range
        .filter(|(first, last)| first <= last && (*first > 0 || *last == 0))
        .ok_or_else(|| format!("{text:?} is not a range of ports: want first-last, such as 50000-50255"))
}

/// Bytes, or a number with KiB, MiB or GiB.
fn size(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not a size: want bytes, or a number with KiB, MiB or GiB, such as 512MiB");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(error()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed_and_each_has_an_environment_variable() {
        let command = Args::command();
        command.clone().debug_assert();
        // What a bridge does once for whoever calls it so is no setting.
        let is_setting = |id: &str| !matches!(id, "help" | "version" | "print_log");
        for argument in command.get_arguments().filter(|argument| is_setting(argument.get_id().as_str())) {
            let flag = argument.get_long().unwrap();
            let wanted = format!("FETTLE_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(wanted.as_str()), "--{flag}");
        }
    }

    #[test]
    fn a_lease_lasts_whole_seconds() {
        assert_eq!(whole_seconds("1m30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "500ms", "1500ms", "1000000h", "soon"] {
            assert!(whole_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_has_a_name_that_fits_into_a_url() {
        let longest = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(32));
        for name in ["files.example.net", "bridge-0", "10.0.0.1", &longest] {
            assert_eq!(host_name(name), Ok(name.to_owned()));
        }
        for name in ["", "a b", "http://x", "x:80", "x/", "-x", "x..y", ".", &format!("{longest}c")] {
            assert!(host_name(name).unwrap_err().contains("files.example.net"), "{name}");
        }
    }

    #[test]
    fn sizes_and_ranges_say_what_they_want() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512"), Ok(512));
        assert!(size("1GB").unwrap_err().contains("512MiB"));
        assert_eq!(port_range("50000-50255"), Ok((50000, 50255)));
        assert!(port_range("5-4").unwrap_err().contains("first-last"));
    }
}
