//! `fettle-device run`.

use std::io::Write;
use std::path::PathBuf;

use fettle_device::{Fleet, FleetConfig};
use fettle_protocol::Mac;

use super::{Behaviour, Interrupt};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the bridge listens, as HOST:PORT. Given more than once (in the environment: separated by commas), it calls one
    /// after the other until one answers.
    #[arg(
        long = "bridge",
        env = "FETTLE_DEVICE_BRIDGE",
        value_name = "HOST:PORT",
        required = true,
        value_delimiter = ','
    )]
    bridges: Vec<String>,
    /// Who it is, such as 02:00:5e:00:53:0e.
    #[arg(long, env = "FETTLE_DEVICE_MAC")]
    mac: Mac,
    /// What it is: the device type, as firmware lists it.
    #[arg(long, env = "FETTLE_DEVICE_MODEL")]
    model: String,
    /// The version that it runs at first.
    #[arg(long, env = "FETTLE_DEVICE_VERSION")]
    version: String,
    /// Write everything that happens as lines of JSON into this file as well.
    #[arg(long, env = "FETTLE_DEVICE_JOURNAL", value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    behaviour: Behaviour,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        let interrupt = Interrupt::listen()?;
        let Arguments { bridges, mac, model, version, journal, behaviour } = arguments;
        let spec = behaviour.spec(mac, &model, &version);
        let fleet = Fleet::start(FleetConfig {
            journal,
            observer: Some(Box::new(|_, entry| {
                // Nobody may be reading.
                let _ = writeln!(std::io::stdout().lock(), "{:.3} {}", entry.at, entry.event);
            })),
            ..FleetConfig::new(super::resolve(&bridges).await?, vec![spec])
        })?;
        interrupt.arrives().await;
        super::shut_down(&fleet).await
    })
}
