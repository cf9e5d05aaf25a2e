//! What a device is and how it behaves when nothing goes wrong: identity, vocabulary, timings, habits of transfer.
//!
//! What goes wrong is in [`crate::faults`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fettle_protocol::crc::CrcKind;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::{Dialect, Mac};
use serde::{Deserialize, Serialize};

use crate::duration;
use crate::faults::Fault;
use crate::signature::ImageKey;
use crate::transfer::Authorities;

/// How much of the protocol a device knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum Vocabulary {
    /// Messages 1–11 and data 1–14, and nothing else.
    #[default]
    Strict,
    /// All extensions of [`Capabilities::NAMES`], announced in message 1.
    Extended,
}

impl Vocabulary {
    /// As it stands in the first line of an image.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Extended => "extended",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Strict, Self::Extended].into_iter().find(|vocabulary| vocabulary.name() == name)
    }

    /// What it announces in datum 66.
    pub fn capabilities(self) -> Capabilities {
        match self {
            Self::Strict => Capabilities::default(),
            Self::Extended => {
                Capabilities::NAMES.into_iter().fold(Capabilities::default(), |all, (bit, _)| all.with(bit))
            }
        }
    }
}

/// The capability of this name, as it stands in a file or on a command line.
///
/// # Errors
/// With a sentence that has all names.
pub fn capability(name: &str) -> Result<Capabilities, String> {
    Capabilities::named(name).ok_or_else(|| {
        let names: Vec<_> = Capabilities::NAMES.into_iter().map(|(_, name)| name).collect();
        format!("{name:?} is not a capability: want one of {}", names.join(", "))
    })
}

/// How a device makes one name of data 6 (path) and 7 (file name). The protocol leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum PathStyle {
    /// `path/file`
    #[default]
    Relative,
    /// `/path/file`
    Absolute,
    /// `pathfile`
    Concatenated,
    /// FTP: `CWD path`, then `file`. TFTP has no directories to change to: as `Relative`.
    ChangeDirectory,
}

/// When a verified image is written into the flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum FlashAt {
    /// On message 6, before the boot.
    #[default]
    Restart,
    /// After the download, before message 5.
    Download,
}

/// When a device answers a message 8 that names a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum ScheduledReply {
    /// When the profile has been applied at that time.
    #[default]
    Applied,
    /// At once, where 9=0 means that the time was accepted; and again when the profile has been applied.
    Accepted,
    /// At once, and no more unless it fails.
    AcceptedOnly,
}

/// The ports that stand in for 21 and 69 where a server cannot have those: what a strict device, which is never told a
/// port, fetches from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FilePorts {
    pub ftp: u16,
    pub tftp: u16,
}

impl Default for FilePorts {
    fn default() -> Self {
        Self { ftp: 21, tftp: 69 }
    }
}

/// A server that tells a device to stay away for longer is not believed: who would miss it would miss it for too long.
const LONGEST_TOLD: Duration = Duration::from_secs(3600);

/// How long to wait before the next connection: doubles from `first` to `max`, with up to a fifth more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    #[serde(with = "duration")]
    pub first: Duration,
    #[serde(with = "duration")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait before the connection that follows `failures` fruitless ones. `jitter` is random, in 0..1.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        // 2^16 times any first wait that makes sense is beyond every maximum that does.
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.max).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    }

    /// The wait that the server has told: no shorter, up to a fifth longer, and within what makes sense. `jitter` is random,
    /// in 0..1.
    pub fn told(&self, wait: Duration, jitter: f64) -> Duration {
        wait.clamp(self.first.min(LONGEST_TOLD), LONGEST_TOLD).mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0))
    }
}

/// How long everything takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timings {
    /// Writing an image into the flash.
    #[serde(with = "duration")]
    pub install: Duration,
    pub flash_at: FlashAt,
    /// From power-on to the first connection.
    #[serde(with = "duration")]
    pub restart: Duration,
    /// Putting a profile into force.
    #[serde(with = "duration")]
    pub apply: Duration,
    pub backoff: Backoff,
    /// Between two messages 32 of a long operation. Extended devices only.
    #[serde(with = "duration")]
    pub progress: Duration,
    /// Between two messages 34 on a connection that says nothing else. Extended devices only.
    #[serde(with = "duration")]
    pub keep_alive: Duration,
    /// For a TCP connection to stand.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// Without a byte from the file server, a transfer has failed.
    #[serde(with = "duration")]
    pub transfer_idle: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            install: Duration::from_millis(200),
            flash_at: FlashAt::default(),
            restart: Duration::from_millis(200),
            apply: Duration::from_millis(50),
            backoff: Backoff::default(),
            progress: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            transfer_idle: Duration::from_secs(60),
        }
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSpec {
    pub mac: Mac,
    /// Datum 3: one word.
    pub model: String,
    /// Datum 2, of what it runs at first: one word.
    pub version: String,
    /// Datum 64, of the configuration it has at first. Strict devices cannot report it.
    pub config: Option<String>,
    /// Datum 65. Strict devices cannot report it.
    pub serial: Option<String>,
    pub vocabulary: Vocabulary,
    /// How it reads and writes the layout of messages.
    pub dialect: Dialect,
    /// Capabilities of its vocabulary that it does not announce.
    pub withheld: Capabilities,
    /// What it means by the CRC of a file.
    pub crc: CrcKind,
    /// Who vouches for images. With it the device takes none without a signature; without it, it announces no `Signature`.
    pub image_key: Option<ImageKey>,
    /// The image that it runs at first. With it the device keeps the bytes of what it runs, and can apply differences to that;
    /// without it, it announces no `Delta`.
    pub image: Option<Arc<[u8]>>,
    pub path_style: PathStyle,
    pub file_ports: FilePorts,
    /// Whom it believes about HTTPS servers; without any it fetches from none.
    pub authorities: Option<Authorities>,
    pub timings: Timings,
    pub scheduled_reply: ScheduledReply,
    /// Finish a transfer whose connection is lost, and tell its result on the next connection: a late result. Else such
    /// a transfer is given up.
    pub late_results: bool,
    /// The clock by which a time in message 8 is meant.
    pub time_zone: jiff::tz::TimeZone,
    /// The address that all its connections come from.
    pub local_address: Option<Ipv4Addr>,
    /// Whether it also listens to datagrams, at its local address and the port of its first bridge. One that does not announces no
    /// `LogRequestAuth`.
    pub udp: bool,
    /// Where it calls, one after the other until one answers; empty: where the whole fleet does.
    pub bridges: Vec<SocketAddr>,
    /// How long it waits before its first connection.
    pub start_delay: Duration,
    pub faults: Vec<Fault>,
}

impl DeviceSpec {
    /// A strict device without faults.
    pub fn new(mac: Mac, model: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            mac,
            model: model.into(),
            version: version.into(),
            config: None,
            serial: None,
            vocabulary: Vocabulary::default(),
            dialect: Dialect::CANONICAL,
            withheld: Capabilities::default(),
            crc: CrcKind::Ieee,
            image_key: None,
            image: None,
            path_style: PathStyle::default(),
            file_ports: FilePorts::default(),
            authorities: None,
            timings: Timings::default(),
            scheduled_reply: ScheduledReply::default(),
            late_results: false,
            time_zone: jiff::tz::TimeZone::UTC,
            local_address: None,
            udp: false,
            bridges: Vec::new(),
            start_delay: Duration::ZERO,
            faults: Vec::new(),
        }
    }

    /// `count` devices like this one, with consecutive MACs from this one's on. Every one gets its own serial number
    /// where this one has one: with its index appended.
    pub fn times(&self, count: usize) -> Vec<Self> {
        (0..count)
            .map(|index| Self {
                mac: mac_plus(self.mac, index as u64),
                serial: self.serial.as_ref().map(|serial| format!("{serial}-{index}")),
                ..self.clone()
            })
            .collect()
    }

    /// The capabilities of its vocabulary that it does not announce.
    pub(crate) fn withheld(&self) -> Capabilities {
        let of = |withheld: bool, one| if withheld { one } else { Capabilities::default() };
        self.withheld
            .with(of(self.image_key.is_none(), Capabilities::SIGNATURE))
            .with(of(self.image.is_none(), Capabilities::DELTA))
            .with(of(!self.udp, Capabilities::LOG_REQUEST_AUTH))
    }

    /// Whether it announces this.
    pub(crate) fn announces(&self, capability: Capabilities) -> bool {
        self.vocabulary.capabilities().without(self.withheld()).has(capability)
    }

    /// What it says once it can: what it boots may teach it.
    pub(crate) fn serial(&self) -> String {
        self.serial.clone().unwrap_or_else(|| format!("SIM-{}", self.mac.dns_label().to_uppercase()))
    }
}

/// The MAC that is `offset` after `mac`, counting through all 48 bits.
pub fn mac_plus(mac: Mac, offset: u64) -> Mac {
    let [a, b, c, d, e, f] = mac.octets();
    let [_, _, octets @ ..] = u64::from_be_bytes([0, 0, a, b, c, d, e, f]).wrapping_add(offset).to_be_bytes();
    Mac::new(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_count_through_their_octets() {
        let mac: Mac = "02:00:00:00:00:ff".parse().unwrap();
        assert_eq!(mac_plus(mac, 1).to_string(), "02:00:00:00:01:00");
        assert_eq!(mac_plus(mac, 0x1_0000).to_string(), "02:00:00:01:00:ff");
    }

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_stays_within_a_fifth_of_it() {
        let backoff = Backoff::default();
        let middle: Vec<_> = (1..=8).map(|failures| backoff.delay(failures, 0.5).as_secs()).collect();
        assert_eq!(middle, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), Duration::from_secs(48));
        assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_secs(72));
    }

    #[test]
    fn the_wait_that_the_server_tells_is_kept_within_bounds() {
        let told = |seconds, jitter| Backoff::default().told(Duration::from_secs(seconds), jitter).as_secs();
        assert_eq!([told(300, 0.0), told(300, 1.0)], [300, 360]);
        assert_eq!([told(0, 0.0), told(u64::from(u32::MAX), 0.0)], [1, 3600]);
    }

    #[test]
    fn an_extended_device_announces_every_known_capability_and_a_strict_one_none() {
        assert_eq!(Vocabulary::Extended.capabilities().names().count(), Capabilities::NAMES.len());
        assert_eq!(Vocabulary::Strict.capabilities(), Capabilities::default());
    }
}
