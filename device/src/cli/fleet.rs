//! `fettle-device fleet`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use fettle_device::fleet::DEFAULT_TRANSFERS;
use fettle_device::record::{Condition, Summary};
use fettle_device::spec::mac_plus;
use fettle_device::{DeviceSpec, Fleet, FleetConfig, duration, fleet_file};
use fettle_protocol::Mac;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Behaviour, Interrupt};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the bridge listens, as HOST:PORT. Given more than once (in the environment: separated by commas), each device
    /// calls one after the other until one answers.
    #[arg(
        long = "bridge",
        env = "FETTLE_DEVICE_BRIDGE",
        value_name = "HOST:PORT",
        required = true,
        value_delimiter = ','
    )]
    bridges: Vec<String>,
    /// The devices, in YAML or JSON: a list `devices` of {count, firstMac, model, version, vocabulary, timings, faults, …}.
    /// Without it, the flags below say what all devices are; with it, only --http-ca does, and of devices that have no
    /// `filePorts`, --ftp-port and --tftp-port.
    #[arg(long, env = "FETTLE_DEVICE_SPEC", value_name = "FILE", conflicts_with_all = ["count", "models", "version", "first_mac"])]
    spec: Option<PathBuf>,
    /// How many devices.
    #[arg(long, env = "FETTLE_DEVICE_COUNT", default_value_t = 20)]
    count: usize,
    /// MAC of the first; the others count on from it.
    #[arg(long, env = "FETTLE_DEVICE_FIRST_MAC", default_value = "02:00:5e:00:00:01")]
    first_mac: Mac,
    /// Device types, which the devices have in turn. Separated by commas.
    #[arg(long, env = "FETTLE_DEVICE_MODELS", value_delimiter = ',', default_value = "S5700")]
    models: Vec<String>,
    /// The version that they run at first.
    #[arg(long, env = "FETTLE_DEVICE_VERSION", default_value = "4.9.0")]
    version: String,
    /// Over how long to spread the first connections.
    #[arg(long, env = "FETTLE_DEVICE_RAMP", value_parser = duration::parse, default_value = "0s")]
    ramp: Duration,
    /// How many transfers may run at once.
    #[arg(long, env = "FETTLE_DEVICE_TRANSFERS", default_value_t = DEFAULT_TRANSFERS)]
    transfers: usize,
    /// End as soon as every device runs this version and is connected.
    #[arg(long, env = "FETTLE_DEVICE_UNTIL", value_name = "VERSION")]
    until: Option<String>,
    /// Write everything that happens to each as lines of JSON into this file.
    #[arg(long, env = "FETTLE_DEVICE_JOURNAL", value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    behaviour: Behaviour,
}

/// How often a change is worth a line.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let devices = devices(&arguments)?;
        ensure!(!devices.is_empty(), "there are no devices");
        let Arguments { bridges, ramp, transfers, until, journal, .. } = arguments;
        allow_files(devices.len() as u64 + 2 * transfers as u64);
        let config = FleetConfig::new(super::resolve(&bridges).await?, devices);
        let fleet = Fleet::start(FleetConfig { ramp, transfers, journal, ..config })?;
        let end = async {
            match &until {
                Some(version) => fleet.wait_until(|summary| summary.is_all_on(version)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interrupt.arrives() => {}
            () = end => {}
            () = narrate(fleet.watch()) => {}
        }
        super::shut_down(&fleet).await?;
        account(&fleet.summary())
    })
}

fn devices(arguments: &Arguments) -> anyhow::Result<Vec<DeviceSpec>> {
    let Arguments { spec, count, first_mac, models, version, behaviour, .. } = arguments;
    if let Some(path) = spec {
        let devices = fleet_file::read(path, behaviour.file_ports())?.into_iter();
        return Ok(devices.map(|device| DeviceSpec { authorities: behaviour.http_ca.clone(), ..device }).collect());
    }
    let models = models.iter().cycle().take(*count);
    Ok(models
        .enumerate()
        .map(|(index, model)| behaviour.spec(mac_plus(*first_mac, index as u64), model, version))
        .collect())
}

/// Many systems allow a process a thousand files unless it asks for more.
fn allow_files(needed: u64) {
    // For the runtime, the journal and what else is open.
    let needed = needed + 64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return;
    }
    let current = Some(maximum.map_or(needed, |maximum| maximum.min(needed)));
    if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_err() || current < Some(needed) {
        tracing::warn!(needed, ?maximum, "more files are needed than the system allows; see ulimit -n");
    }
}

/// A line whenever something has changed, at most one a second. Returns never, but for a reader who has gone.
async fn narrate(mut summary: tokio::sync::watch::Receiver<Summary>) {
    let mut last = String::new();
    loop {
        let line = line(&summary.borrow_and_update());
        if line != last {
            if writeln!(std::io::stdout().lock(), "{line}").is_err() {
                return std::future::pending().await;
            }
            last = line;
        }
        tokio::time::sleep(LINE_INTERVAL).await;
        if summary.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn line(summary: &Summary) -> String {
    let Summary { devices, conditions, versions, configs: _, counters } = summary;
    let doing = |condition: &Condition| match condition {
        Condition::Calling => "calling",
        Condition::Connected => "connected",
        Condition::Restarting => "restarting",
        Condition::Off => "off",
        Condition::Vanished => "vanished",
        Condition::Bricked => "bricked",
    };
    let conditions: Vec<_> = conditions.iter().map(|(what, count)| format!("{count} {}", doing(what))).collect();
    let versions: Vec<_> = versions.iter().map(|(version, count)| format!("{version}: {count}")).collect();
    let mut line = format!("{devices} devices: {} | {}", conditions.join(", "), versions.join(", "));
    if counters.configs_applied > 0 {
        line.push_str(&format!(" | {} configurations applied", counters.configs_applied));
    }
    if counters.violations > 0 {
        line.push_str(&format!(" | {} VIOLATIONS", counters.violations));
    }
    line
}

/// Everything, at the end.
fn account(summary: &Summary) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, summary)?;
    writeln!(out)?;
    Ok(())
}
