//! `kubectl fettle`: what a person sees of a fleet, and says to it.
//!
//! What is shown is decided purely ([`view`], [`tree`], [`devices`]), by the controller's own planner where it is about
//! what is to come. It talks to the Kubernetes API alone, and never writes into what Git owns.

pub mod args;
pub mod cluster;
pub mod complete;
pub mod devices;
pub mod failure;
pub mod forecast;
pub mod get;
pub mod lint;
mod live;
pub mod logs;
pub mod manifest;
pub mod objects;
pub mod output;
pub mod overlay;
pub mod paint;
pub mod person;
pub mod plan;
pub mod say;
pub mod schema;
pub mod status;
pub mod time;
pub mod tree;
pub mod view;

use args::{Args, Command};
use cluster::Cluster;
use failure::Failure;

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done, with the exit code.
pub async fn run(args: Args) -> Result<(), Failure> {
    let look = output::look(args.color);
    // What needs no cluster must not ask for one.
    match &args.command {
        Command::Lint(lint) => return lint::run(lint, look),
        Command::Completion(completion) => return completion.run(),
        Command::Complete(complete) => return complete.run().await,
        _ => {}
    }
    let cluster = Cluster::connect(&args.cluster).await?;
    match &args.command {
        Command::Get(get) => get::run(get, &cluster, look).await,
        Command::Devices(devices) => devices::run(devices, &cluster, look).await,
        Command::Status(status) => status::run(status, &cluster).await,
        Command::Plan(plan) => plan::run(plan, &cluster, look).await,
        Command::Pause(pause) => pause.run(&cluster).await,
        Command::Resume(resume) => resume.run(&cluster).await,
        Command::Approve(approve) => approve.run(&cluster).await,
        Command::Promote(promote) => promote.run(&cluster).await,
        Command::Abort(abort) => abort.run(&cluster).await,
        Command::Undo(undo) => undo.run(&cluster).await,
        Command::Retry(retry) => retry.run(&cluster).await,
        Command::Logs(logs) => logs::run(logs, &cluster).await,
        Command::Lint(_) | Command::Completion(_) | Command::Complete(_) => Ok(()),
    }
}
