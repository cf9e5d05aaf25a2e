//! `kubectl-fettle`: arguments and wiring.

use std::process::ExitCode;

use clap::Parser as _;
use kubectl_fettle::args::Args;
use kubectl_fettle::output;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    fettle_runtime::install_crypto();
    match kubectl_fettle::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("error: {failure}"));
            failure.code.into()
        }
    }
}
