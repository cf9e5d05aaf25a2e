//! `make bench`: how fast Fettle upgrades fleets through a real API server on this machine, and what it takes.
//!
//! A fleet of simulated devices, in one process, each of which fetches an image and takes two seconds to install it. All of
//! them may move at once. Beside Fettle's figures stand those of a bare client that makes the same API writes: what the API
//! server and the machine allow. Then the same in three steps. And `harm`: what a bad release does before it halts.

mod bare;
mod fleet;
mod harm;
mod requests;
mod run;
mod table;
mod usage;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::root;
use super::screen::print;
use crate::control_plane::LOGS;
use crate::say;

/// What one size may take at most: some three times what five thousand devices take on two cores.
const WITHIN: Duration = Duration::from_secs(8 * 60);

/// Sizes to measure.
#[derive(Args, Debug)]
pub struct Arguments {
    /// How many devices; several sizes are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000], value_parser = clap::value_parser!(u32).range(1..))]
    devices: Vec<u32>,
    /// Only how many of 200 devices a bad release harms before its rollout halts
    #[arg(long, conflicts_with = "devices")]
    harm: bool,
    /// Write the figures into a file, too; without a name, into target/bench/figures.json
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "target/bench/figures.json")]
    json: Option<PathBuf>,
}

/// Measures, and prints a table for each size.
pub async fn bench(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { devices, harm, json } = arguments;
    allow_files();
    let folder = root()?.join("target/bench");
    if harm {
        let folder = folder.join("harm");
        let harms = harm::run(&folder).await.with_context(|| format!("the logs are below {}", folder.display()))?;
        print(&harm::table(&harms));
        return write(json, &json!({"harm": harms}));
    }
    let mut sizes = Vec::new();
    for devices in devices {
        let folder = folder.join(devices.to_string());
        let devices = usize::try_from(devices)?;
        let figures = match tokio::time::timeout(WITHIN, run::run(devices, &folder)).await {
            Ok(Ok(figures)) => figures,
            failed => {
                match failed {
                    Ok(Err(error)) => say!("{devices} devices: {error:#}"),
                    _ => say!("{devices} devices: not done within {} s", WITHIN.as_secs()),
                }
                say!("the logs are in {}", folder.join(LOGS).display());
                return Ok(ExitCode::FAILURE);
            }
        };
        print(&table::of(&figures));
        sizes.push(figures);
    }
    write(json, &json!({"sizes": sizes}))
}

/// Writes figures where they are wanted in a file.
fn write(path: Option<PathBuf>, figures: &serde_json::Value) -> Result<ExitCode> {
    if let Some(path) = path {
        fs::write(&path, serde_json::to_vec_pretty(figures)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Each connection is a file. Children inherit what is allowed here, and many systems allow a thousand unless asked.
fn allow_files() {
    let Rlimit { current: _, maximum } = getrlimit(Resource::Nofile);
    // Failing leaves it as it was: a fleet that then does not connect says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
