//! Completion: of shells, for `kubectl-fettle`, and of kubectl, for `kubectl fettle`.
//!
//! kubectl asks a program `kubectl_complete-fettle` on the PATH, with the words so far, and reads one candidate a line and
//! a last line of flags for itself, as cobra's `__complete` prints them.

use clap::{Args as _, Command, CommandFactory as _};
use fettle_crds::{Device, DeviceGroup};
use kube::api::ListParams;

use crate::args::Args;
use crate::cluster::{Cluster, ClusterArgs};
use crate::failure::Failure;
use crate::output;

/// cobra's ShellCompDirectiveNoFileComp: no names of files.
const NO_FILES: &str = ":4";
/// cobra's ShellCompDirectiveDefault: names of files are all right.
const FILES: &str = ":0";

/// What `kubectl_complete-fettle` is.
const SCRIPT: &str = "#!/bin/sh
# kubectl looks for this on the PATH, to complete `kubectl fettle`.
exec kubectl-fettle __complete \"$@\"
";

/// Print what completes the words of this command in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl fettle completion kubectl > ~/bin/kubectl_complete-fettle && chmod +x ~/bin/kubectl_complete-fettle
  kubectl fettle completion bash > /etc/bash_completion.d/kubectl-fettle")]
pub struct CompletionArgs {
    /// For whom: kubectl itself (any shell that completes kubectl), or a shell, for kubectl-fettle
    #[arg(value_enum)]
    pub shell: For,
}

/// Who completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum For {
    Kubectl,
    Bash,
    Zsh,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Elvish,
}

/// The words so far, the last of which is to be completed.
#[derive(Debug, clap::Args)]
pub struct CompleteArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

impl CompletionArgs {
    /// # Errors
    /// Standard output cannot be written to.
    pub fn run(&self) -> Result<(), Failure> {
        let shell = match self.shell {
            For::Kubectl => return output::write(SCRIPT),
            For::Bash => clap_complete::Shell::Bash,
            For::Zsh => clap_complete::Shell::Zsh,
            For::Fish => clap_complete::Shell::Fish,
            For::PowerShell => clap_complete::Shell::PowerShell,
            For::Elvish => clap_complete::Shell::Elvish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command().bin_name("kubectl-fettle"), "kubectl-fettle", &mut script);
        output::write(&String::from_utf8_lossy(&script))
    }
}

/// What a word may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    These(Vec<String>),
    Groups,
    Devices,
    /// Groups, and devices as device/NAME.
    Either,
    Files,
}

/// What the last of the words may be. Pure: names of objects are for others to look up.
pub fn candidates(words: &[String]) -> Candidates {
    let command = Args::command();
    let (last, before) = words.split_last().map_or(("", &[] as &[String]), |(last, before)| (last, before));
    let subcommand = before.iter().find_map(|word| command.find_subcommand(word));
    let flags = |of: &Command| {
        let flags = of.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}"));
        flags.collect::<Vec<_>>()
    };
    if let Some(argument) = before.last().and_then(|word| flag(subcommand.unwrap_or(&command), &command, word))
        && argument.get_num_args().is_none_or(|values| values.takes_values())
        && !matches!(argument.get_action(), clap::ArgAction::SetTrue)
    {
        let values = argument.get_possible_values();
        let values: Vec<String> = values.iter().map(|value| value.get_name().to_owned()).collect();
        return match argument.get_id().as_str() {
            "group" => Candidates::Groups,
            "filename" | "kubeconfig" => Candidates::Files,
            _ => Candidates::These(values),
        };
    }
    if last.starts_with('-') {
        let own = subcommand.map(flags).unwrap_or_default();
        return Candidates::These(own.into_iter().chain(flags(&command)).collect());
    }
    let Some(subcommand) = subcommand else {
        let visible = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
        return Candidates::These(visible.map(|subcommand| subcommand.get_name().to_owned()).collect());
    };
    match subcommand.get_name() {
        "devices" | "logs" => Candidates::Devices,
        "approve" | "retry" => Candidates::Either,
        "lint" | "help" => Candidates::These(Vec::new()),
        "completion" => {
            let shells = subcommand.get_positionals().flat_map(clap::Arg::get_possible_values);
            Candidates::These(shells.map(|shell| shell.get_name().to_owned()).collect())
        }
        _ => Candidates::Groups,
    }
}

/// The flag that a word is, of the subcommand or of all.
fn flag<'a>(subcommand: &'a Command, all: &'a Command, word: &str) -> Option<&'a clap::Arg> {
    let is_it = |argument: &&clap::Arg| {
        let long = word.strip_prefix("--").is_some_and(|word| argument.get_long() == Some(word));
        let short = word.strip_prefix('-').is_some_and(|word| {
            let mut letters = word.chars();
            letters.next().is_some_and(|letter| argument.get_short() == Some(letter)) && letters.next().is_none()
        });
        long || short
    };
    subcommand.get_arguments().chain(all.get_arguments()).find(is_it)
}

impl CompleteArgs {
    /// # Errors
    /// Standard output cannot be written to. That a cluster cannot be asked is no error: nothing is completed then.
    pub async fn run(&self) -> Result<(), Failure> {
        let last = self.words.last().cloned().unwrap_or_default();
        let found = candidates(&self.words);
        let rest = if found == Candidates::Files { FILES } else { NO_FILES };
        let names = match found {
            Candidates::These(these) => these,
            Candidates::Files => Vec::new(),
            Candidates::Groups => self.names(Names::Groups).await,
            Candidates::Devices => self.names(Names::Devices).await,
            Candidates::Either => {
                let kind = if last.starts_with("device/") { Names::WithKind } else { Names::Groups };
                self.names(kind).await
            }
        };
        let mut text: String =
            names.iter().filter(|name| name.starts_with(&last)).map(|name| format!("{name}\n")).collect();
        text.push_str(rest);
        text.push('\n');
        output::write(&text)
    }

    async fn names(&self, kind: Names) -> Vec<String> {
        let Ok(cluster) = Cluster::connect(&cluster_args(&self.words)).await else { return Vec::new() };
        let all = ListParams::default();
        match kind {
            Names::Groups => cluster.list::<DeviceGroup>(&all).await.unwrap_or_default().into_keys().collect(),
            Names::Devices => cluster.list::<Device>(&all).await.unwrap_or_default().into_keys().collect(),
            Names::WithKind => {
                let devices = cluster.list::<Device>(&all).await.unwrap_or_default();
                devices.into_keys().map(|name| format!("device/{name}")).collect()
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Names {
    Groups,
    Devices,
    WithKind,
}

/// Which cluster the words so far name.
fn cluster_args(words: &[String]) -> ClusterArgs {
    let command = ClusterArgs::augment_args(Command::new("complete")).ignore_errors(true);
    let command = command.arg(clap::Arg::new("rest").num_args(0..));
    let matches = command.try_get_matches_from(std::iter::once("complete").chain(words.iter().map(String::as_str)));
    let parsed =
        matches.ok().and_then(|matches| <ClusterArgs as clap::FromArgMatches>::from_arg_matches(&matches).ok());
    parsed.unwrap_or_default()
}
