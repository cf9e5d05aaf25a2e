//! The developer's tool behind the words of the Makefile: arguments and dispatch, no more.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fettle_tests::{dev, say};

/// What the Makefile's words do: run `make help` for those.
#[derive(Parser)]
#[command(name = "dev")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the foreign programs that tests and demo start, as far as they are not there yet
    Tools,
    /// Run a command with a control plane that all test programs of it share
    TestEnv {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Tools => dev::tools().await,
        Command::TestEnv { command } => dev::test_env(&command).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
