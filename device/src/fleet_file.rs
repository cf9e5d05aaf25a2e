//! A fleet in a file, YAML or JSON.
//!
//! ```yaml
//! devices:
//! - count: 10
//!   firstMac: 02:00:5e:00:00:01
//!   model: S5700
//!   version: 4.9.0
//!   timings: {install: 2s, restart: 3s}
//! - firstMac: 02:00:5e:00:01:01
//!   model: S5720
//!   version: 4.9.0
//!   vocabulary: extended
//!   dialect: DataLenWithoutHeader+LittleEndian
//!   crc: BZIP2
//!   faults: ['boot=comeBackOld', 'apply8=slow:30s*2']
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use fettle_protocol::crc::CrcKind;
use fettle_protocol::datum::Capabilities;
use fettle_protocol::{Dialect, Mac};
use serde::{Deserialize, Deserializer};

use crate::duration;
use crate::faults::Fault;
use crate::signature::ImageKey;
use crate::spec::{self, DeviceSpec, FilePorts, PathStyle, ScheduledReply, Timings, Vocabulary};

/// Why there is no fleet in a file.
#[derive(Debug, thiserror::Error)]
pub enum FleetFileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} does not describe a fleet")]
    Parse { path: PathBuf, source: serde_yaml::Error },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FleetFile {
    devices: Vec<Devices>,
}

/// Devices that differ in nothing but their MAC.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Devices {
    #[serde(default = "one")]
    count: usize,
    #[serde(deserialize_with = "parsed")]
    first_mac: Mac,
    model: String,
    version: String,
    config: Option<String>,
    serial: Option<String>,
    #[serde(default)]
    vocabulary: Vocabulary,
    #[serde(default, deserialize_with = "parsed")]
    dialect: Dialect,
    #[serde(default, deserialize_with = "capabilities")]
    withheld: Capabilities,
    #[serde(default, deserialize_with = "parsed")]
    crc: CrcKind,
    /// In PEM or base64.
    #[serde(default, deserialize_with = "image_key")]
    image_key: Option<ImageKey>,
    #[serde(default)]
    path_style: PathStyle,
    file_ports: Option<FilePorts>,
    #[serde(default)]
    timings: Timings,
    #[serde(default)]
    scheduled_reply: ScheduledReply,
    #[serde(default)]
    late_results: bool,
    #[serde(default, deserialize_with = "time_zone")]
    time_zone: Option<jiff::tz::TimeZone>,
    local_address: Option<Ipv4Addr>,
    #[serde(default)]
    udp: bool,
    #[serde(default)]
    bridges: Vec<SocketAddr>,
    #[serde(default, with = "duration")]
    start_delay: Duration,
    #[serde(default)]
    faults: Vec<Fault>,
}

fn one() -> usize {
    1
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn capabilities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Capabilities, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().try_fold(Capabilities::default(), |all, name| {
        Ok(all.with(spec::capability(name).map_err(serde::de::Error::custom)?))
    })
}

fn image_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ImageKey>, D::Error> {
    ImageKey::parse(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn time_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::tz::TimeZone>, D::Error> {
    let name = String::deserialize(deserializer)?;
    jiff::tz::TimeZone::get(&name).map(Some).map_err(serde::de::Error::custom)
}

impl Devices {
    /// `ports`: where it says nothing of its own.
    fn specs(self, ports: FilePorts) -> Vec<DeviceSpec> {
        let Self {
            count,
            first_mac,
            model,
            version,
            config,
            serial,
            vocabulary,
            dialect,
            withheld,
            crc,
            image_key,
            path_style,
            file_ports,
            timings,
            scheduled_reply,
            late_results,
            time_zone,
            local_address,
            udp,
            bridges,
            start_delay,
            faults,
        } = self;
        let first = DeviceSpec {
            config,
            serial,
            vocabulary,
            dialect,
            withheld,
            crc,
            image_key,
            path_style,
            file_ports: file_ports.unwrap_or(ports),
            timings,
            scheduled_reply,
            late_results,
            time_zone: time_zone.unwrap_or(jiff::tz::TimeZone::UTC),
            local_address,
            udp,
            bridges,
            start_delay,
            faults,
            ..DeviceSpec::new(first_mac, model, version)
        };
        first.times(count)
    }
}

/// Reads the devices of a file.
///
/// `ports` stand in for 21 and 69 where the file says no `filePorts`.
///
/// # Errors
/// [`FleetFileError`]: the file, or what is in it; the source says where.
pub fn read(path: &Path, ports: FilePorts) -> Result<Vec<DeviceSpec>, FleetFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FleetFileError::Read { path: path.to_owned(), source })?;
    parse(&text, ports).map_err(|source| FleetFileError::Parse { path: path.to_owned(), source })
}

fn parse(text: &str, ports: FilePorts) -> Result<Vec<DeviceSpec>, serde_yaml::Error> {
    let FleetFile { devices } = serde_yaml::from_str(text)?;
    Ok(devices.into_iter().flat_map(|devices| devices.specs(ports)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultKind, Step};

    #[test]
    fn a_fleet_is_read_from_yaml() {
        let devices = parse(
            "devices:
- count: 3
  firstMac: 02:00:5e:00:00:ff
  model: S5700
  version: 4.9.0
  timings: {install: 2s, restart: 3s}
- firstMac: 02:00:5e:00:01:01
  model: S5720
  version: 4.9.0
  vocabulary: extended
  dialect: DataLenWithoutHeader+LittleEndian
  withheld: [Http, KeepAlive]
  serial: SN7
  timeZone: Europe/Berlin
  filePorts: {ftp: 2121}
  faults: ['boot=comeBackOld', 'apply8=slow:30s*2']
",
            FilePorts { ftp: 21, tftp: 6969 },
        )
        .unwrap();
        let macs: Vec<_> = devices.iter().map(|device| device.mac.to_string()).collect();
        assert_eq!(macs, ["02:00:5e:00:00:ff", "02:00:5e:00:01:00", "02:00:5e:00:01:01", "02:00:5e:00:01:01"]);
        assert_eq!(devices[0].timings.install, Duration::from_secs(2));
        assert_eq!(devices[0].timings.apply, Timings::default().apply);
        assert_eq!(devices[0].file_ports, FilePorts { ftp: 21, tftp: 6969 }, "where it says nothing: as the flags say");
        assert_eq!(devices[3].file_ports, FilePorts { ftp: 2121, tftp: 69 });
        let dialect = Dialect::DATA_LEN_WITHOUT_HEADER.with(Dialect::LITTLE_ENDIAN);
        assert_eq!((devices[0].dialect, devices[3].dialect), (Dialect::CANONICAL, dialect));
        assert_eq!(devices[3].withheld, Capabilities::HTTP.with(Capabilities::KEEP_ALIVE));
        assert_eq!(
            devices[3].faults,
            [
                Fault::once(Step::Boot, FaultKind::ComeBackOld),
                Fault::times(Step::Apply8, FaultKind::Slow(Duration::from_secs(30)), 2)
            ]
        );
    }

    #[test]
    fn json_is_read_as_well() {
        let text = r#"{"devices": [{"firstMac": "02:00:5e:00:00:01", "model": "S5700", "version": "4.9.0"}]}"#;
        assert_eq!(
            parse(text, FilePorts::default()).unwrap(),
            [DeviceSpec::new("02:00:5e:00:00:01".parse().unwrap(), "S5700", "4.9.0")]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (text, named) in [
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m, version: '1', colour: red}]", "colour"),
            ("devices: [{firstMac: 'two', model: m, version: '1'}]", "MAC address"),
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m}]", "version"),
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m, version: '1', faults: [boot]}]", "is not a fault"),
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m, version: '1', startDelay: soon}]", "soon"),
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m, version: '1', dialect: Klingon}]", "no dialect"),
            ("devices: [{firstMac: 02:00:5e:00:00:01, model: m, version: '1', withheld: [http]}]", "ServerPort, Http"),
        ] {
            let error = parse(text, FilePorts::default()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
