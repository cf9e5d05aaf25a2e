//! The simulated devices: one process, and what its journal says happened when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use crate::control_plane::LOGS;
use crate::installation::Bridge;
use crate::process::{Process, Spec};
use crate::program;

pub(super) const MODEL: &str = "S5700";
pub(super) const OLD_VERSION: &str = "4.9.0";

/// What each device fetches, and how long it takes to write it into its flash.
pub(super) const IMAGE_SIZE: &str = "1MiB";
const INSTALL: &str = "2s";

/// The first connections of a thousand devices are spread over this long: the way there is not what is measured.
const RAMP_PER_THOUSAND: Duration = Duration::from_secs(1);

const FIRST_MAC: u64 = 0x02_00_5e_00_00_01;

/// Message types: the two that command a download; and those that tell that all is done, device information after a restart
/// and the result of a configuration.
const DOWNLOADS: [u8; 2] = [3, 4];
const LAST_WORDS: [u8; 2] = [1, 9];
/// Those that command anything that changes a device.
const COMMANDS: [u8; 4] = [3, 4, 6, 8];

/// The MAC of the device with this index.
pub(super) fn mac(index: usize) -> String {
    let octets = (FIRST_MAC + index as u64).to_be_bytes();
    octets[2..].iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

/// Makes an image that devices of [`MODEL`] boot into `version`.
pub(super) async fn make_image(version: &str, file: &Path) -> Result<()> {
    let output = Command::new(program::find("fettle-device")?)
        .args(["image", "--model", MODEL, "--version", version, "--size", IMAGE_SIZE, "--out"])
        .arg(file)
        .output()
        .await?;
    ensure!(output.status.success(), "fettle-device image: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The devices, running.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) process: Process,
    journal: PathBuf,
}

impl Fleet {
    /// Switches `devices` strict devices on, which call `bridge` and do as they are told.
    pub(super) fn start(devices: usize, bridge: &Bridge, folder: &Path) -> Result<Self> {
        Self::start_with(&[Kind { count: devices, faults: &[] }], bridge, folder)
    }

    /// The same, of several kinds one after the other.
    pub(super) fn start_with(kinds: &[Kind], bridge: &Bridge, folder: &Path) -> Result<Self> {
        let mut devices = 0;
        let mut specs = Vec::new();
        for Kind { count, faults } in kinds {
            specs.push(json!({
                "count": count,
                "firstMac": mac(devices),
                "model": MODEL,
                "version": OLD_VERSION,
                // The restart is the installation, and nothing else.
                "timings": {"install": INSTALL, "restart": "0s"},
                "filePorts": {"ftp": bridge.ftp_port(), "tftp": bridge.tftp_port()},
                "faults": faults,
            }));
            devices += count;
        }
        let spec = json!({"devices": specs});
        let path = folder.join("fleet.json");
        fs::write(&path, serde_json::to_vec_pretty(&spec)?)?;
        let journal = folder.join("fleet.journal");
        let ramp = RAMP_PER_THOUSAND.as_secs() * devices as u64 / 1000;
        let process = Process::spawn(Spec {
            name: "fettle-device fleet".to_owned(),
            program: program::find("fettle-device")?,
            args: vec![
                "fleet".to_owned(),
                format!("--bridge={}", bridge.device_address()),
                format!("--spec={}", path.display()),
                format!("--journal={}", journal.display()),
                format!("--ramp={}s", ramp.max(1)),
            ],
            env: Vec::new(),
            log: folder.join(LOGS).join("fettle-device.log"),
            sweep: None,
        })?;
        Ok(Self { process, journal })
    }

    /// What happened to the devices from `from` on. The journal is behind by half a second.
    pub(super) fn milestones(&self, from: Timestamp) -> Result<Milestones> {
        let file = File::open(&self.journal).with_context(|| format!("no {}", self.journal.display()))?;
        Milestones::read(BufReader::new(file).lines(), from)
    }

    /// What has happened so far. The journal is behind by half a second.
    pub(super) fn record(&self) -> Result<Record> {
        let file = File::open(&self.journal).with_context(|| format!("no {}", self.journal.display()))?;
        Record::read(BufReader::new(file).lines())
    }
}

/// So many devices in a row that have the same faults, in the words of `fettle-device`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) count: usize,
    pub(super) faults: &'static [&'static str],
}

/// Which devices something happened to, by MAC.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Record {
    /// They were told to fetch, to restart or to apply something.
    pub(super) touched: BTreeSet<String>,
    /// They are not heard of again.
    pub(super) vanished: BTreeSet<String>,
}

/// When the devices reached what.
#[derive(Debug, PartialEq)]
pub(super) struct Milestones {
    /// The first command to any device.
    pub(super) first_command: Option<Timestamp>,
    /// The last word of each device, in the order of time: that it runs the new version, or has applied its configuration.
    pub(super) finished: Vec<Timestamp>,
}

/// A line of the journal, as far as it is of interest.
#[derive(Deserialize)]
struct Line {
    mac: String,
    at: Timestamp,
    event: String,
    message: Option<u8>,
}

impl Record {
    fn read(lines: impl Iterator<Item = std::io::Result<String>>) -> Result<Self> {
        let mut record = Self::default();
        for line in lines {
            let Ok(Line { mac, event, message, .. }) = serde_json::from_str::<Line>(&line?) else { continue };
            match (event.as_str(), message) {
                ("received", Some(message)) if COMMANDS.contains(&message) => drop(record.touched.insert(mac)),
                ("vanished" | "bricked", _) => drop(record.vanished.insert(mac)),
                _ => {}
            }
        }
        Ok(record)
    }
}

impl Milestones {
    fn read(lines: impl Iterator<Item = std::io::Result<String>>, from: Timestamp) -> Result<Self> {
        let mut first_command: Option<Timestamp> = None;
        let mut finished: BTreeMap<String, Timestamp> = BTreeMap::new();
        for line in lines {
            let Ok(line) = serde_json::from_str::<Line>(&line?) else { continue };
            let Line { mac, at, event, message: Some(message) } = line else { continue };
            if at < from {
                continue;
            }
            if event == "received" && DOWNLOADS.contains(&message) {
                first_command = Some(first_command.map_or(at, |first| first.min(at)));
            }
            if event == "sent" && LAST_WORDS.contains(&message) {
                finished.insert(mac, at);
            }
        }
        let mut finished: Vec<Timestamp> = finished.into_values().collect();
        finished.sort_unstable();
        Ok(Self { first_command, finished })
    }

    /// Devices per second between the tenth and the ninetieth of a hundred: without the beginning and the end, where there is
    /// not enough to do for everybody.
    pub(super) fn steady_rate(&self) -> Option<f64> {
        let count = self.finished.len();
        let (first, last) = (count / 10, count.checked_sub(1)? * 9 / 10);
        let seconds = self.finished.get(last)?.duration_since(*self.finished.get(first)?).as_secs_f64();
        (seconds > 0.0).then(|| (last - first) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn macs_count_on() {
        assert_eq!((mac(0), mac(255)), ("02:00:5e:00:00:01".to_owned(), "02:00:5e:00:01:00".to_owned()));
    }

    #[test]
    fn milestones_are_the_first_command_and_the_last_word_of_each_device() {
        let line = |second: i64, mac: &str, event: &str, message: u8| {
            Ok(format!(r#"{{"mac":"{mac}","seq":1,"at":"{}","event":"{event}","message":{message}}}"#, at(second)))
        };
        let lines = vec![
            line(1, "a", "sent", 1),
            line(10, "b", "received", 3),
            line(9, "a", "received", 3),
            line(11, "a", "sent", 5),
            line(12, "a", "sent", 1),
            line(14, "a", "sent", 7),
            line(15, "a", "sent", 9),
            line(13, "b", "sent", 1),
            Ok(r#"{"mac":"a","at":"1970-01-01T00:00:16Z","event":"flashBegan"}"#.to_owned()),
            Ok("half a li".to_owned()),
        ];
        let milestones = Milestones::read(lines.into_iter(), at(5)).unwrap();
        assert_eq!(milestones, Milestones { first_command: Some(at(9)), finished: vec![at(13), at(15)] });
    }

    #[test]
    fn touched_is_who_was_told_to_change_anything() {
        let line = |mac: &str, event: &str| Ok(format!(r#"{{"mac":"{mac}","at":"{}",{event}}}"#, at(1)));
        let lines = vec![
            line("a", r#""event":"sent","message":1"#),
            line("b", r#""event":"received","message":3"#),
            line("b", r#""event":"vanished""#),
            line("c", r#""event":"received","message":2"#),
        ];
        let record = Record::read(lines.into_iter()).unwrap();
        let b = || BTreeSet::from(["b".to_owned()]);
        assert_eq!(record, Record { touched: b(), vanished: b() });
    }

    #[test]
    fn the_steady_rate_leaves_out_beginning_and_end() {
        let finished = (0..=100).map(|second| at(second.clamp(10, 90) * 2)).collect();
        let rate = Milestones { first_command: None, finished }.steady_rate().unwrap();
        assert!((rate - 0.5).abs() < 0.01, "{rate}");
        assert_eq!(Milestones { first_command: None, finished: vec![] }.steady_rate(), None);
    }
}
