//! The developer's tool behind the words of the Makefile: arguments and dispatch, no more.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use fettle_tests::{dev, say};
use tokio::signal::unix::{SignalKind, signal};

/// What the Makefile's words do: run `make help` for those.
#[derive(Parser)]
#[command(name = "dev")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take twenty simulated devices to what examples/ declares, and show how
    Demo(dev::demo::Place),
    /// Start control plane, controller and bridge, and leave them running
    Up(dev::up::Arguments),
    /// End what `up` started
    Down(dev::up::Place),
    /// Start a real node of Kubernetes, which runs pods, and leave it running; as root on Linux
    Cluster(dev::cluster::Place),
    /// End what `cluster` started
    ClusterDown(dev::cluster::Place),
    /// Make the container image of the programs beside this one, and give it to the node of `cluster`
    Images(dev::cluster::Images),
    /// Write the chart's README anew, from its values
    ChartReadme,
    /// Measure how fast fleets are upgraded, and what it takes
    Bench(dev::bench::Arguments),
    /// Build the foreign programs that tests and demo start, as far as they are not there yet
    Tools,
    /// Run a command with a control plane that all test programs of it share
    TestEnv {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            done = run(arguments.command) => done,
            interrupted = interrupted() => interrupted,
        }
    });
    // A build of a tool may still be running in a thread: it is of no use any more.
    runtime.shutdown_background();
    code.unwrap_or_else(|error| {
        say!("{error:#}");
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(place) => dev::demo::demo(place).await,
        Command::Up(arguments) => dev::up::up(arguments).await,
        Command::Down(place) => dev::up::down(place).await,
        Command::Cluster(place) => dev::cluster::up(place).await,
        Command::ClusterDown(place) => dev::cluster::down(place).await,
        Command::Images(arguments) => dev::cluster::images(arguments).await,
        Command::ChartReadme => dev::readme::write(),
        Command::Bench(arguments) => dev::bench::bench(arguments).await,
        Command::Tools => dev::tools().await,
        Command::TestEnv { command } => dev::test_env(&command).await,
    }
}

/// Returns when somebody wants this to end. What was started ends with whoever waited for it.
async fn interrupted() -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say!("interrupted; all that was started ends");
    Ok(ExitCode::from(INTERRUPTED))
}
