//! `fettle-device`: arguments and wiring.

use std::process::ExitCode;

use clap::Parser;

mod cli;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli { log_filter, command } = Cli::parse();
    tracing_subscriber::fmt().with_env_filter(log_filter).with_writer(std::io::stderr).init();
    let done = match command {
        Command::Run(arguments) => cli::run::run(arguments),
        Command::Fleet(arguments) => cli::fleet::run(arguments),
        Command::Image(arguments) => cli::image::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
