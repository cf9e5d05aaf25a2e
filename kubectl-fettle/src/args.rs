//! The command line: what it takes, and what it says of itself.

use clap::{Parser, Subcommand};

use crate::cluster::ClusterArgs;
use crate::output::Colour;
use crate::{complete, devices, get, lint, logs, plan, say, status};

/// Look at fleets of network devices, and steer their rollouts.
///
/// What a group of devices runs is declared in its DeviceGroup, which Git may own. What a person says at run time
/// (pause, approve, abort, retry) is in its newest DeviceRollout, where Git does not take it back: these commands put
/// it there, and change nothing where it does not fit what there is now.
#[derive(Debug, Parser)]
#[command(name = "kubectl-fettle", bin_name = "kubectl fettle", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Colour,
}

/// Of all commands.
const EXIT_CODES: &str = "Exit codes: 0 done or complete, 1 error, 2 usage, 3 failed, 4 a person has to act, 5 timeout, \
6 not found, 7 refused because it does not fit what there is now.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Get(get::GetArgs),
    Devices(devices::DevicesArgs),
    Status(status::StatusArgs),
    Plan(plan::PlanArgs),
    Pause(say::PauseArgs),
    Resume(say::ResumeArgs),
    Approve(say::ApproveArgs),
    Promote(say::PromoteArgs),
    Abort(say::AbortArgs),
    Undo(say::UndoArgs),
    Retry(say::RetryArgs),
    Logs(logs::LogsArgs),
    Lint(lint::LintArgs),
    Completion(complete::CompletionArgs),
    /// What kubectl asks, to complete words
    #[command(name = "__complete", hide = true)]
    Complete(complete::CompleteArgs),
}
