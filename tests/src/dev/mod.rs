//! What `dev` does: the words of the Makefile, on top of the harness.

pub mod bench;
pub mod cluster;
pub mod demo;
mod progress;
pub mod readme;
mod running;
mod screen;
pub mod up;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::control_plane::{ControlPlane, GIVEN_KUBECONFIG, RUN_FOLDER, SHARED_KUBECONFIG};
use crate::say;
use crate::tools::{self, Tool};

/// Makes sure that every foreign program is there, and says where.
pub async fn tools() -> Result<ExitCode> {
    for tool in Tool::ALL.into_iter().filter(|tool| tool.is_for_this_system()) {
        let path = tokio::task::spawn_blocking(move || tools::find(tool)).await??;
        say!("{tool}: {}", path.display());
    }
    if crate::node::obstacle().is_none() {
        let packages = tokio::task::spawn_blocking(tools::packages_of_a_node).await??;
        say!("containerd, runc, CNI plugins, nft: {}", packages.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `command` with one control plane for all the test programs in it; gives its exit status.
pub async fn test_env(command: &[String]) -> Result<ExitCode> {
    let [program, args @ ..] = command else { return Ok(ExitCode::SUCCESS) };
    // Before the tests, as a compiler beside them would make them slow.
    let has_node = crate::node::obstacle().is_none();
    for tool in Tool::ALL.into_iter().filter(|tool| has_node || !tool.is_of_a_node()) {
        tokio::task::spawn_blocking(move || tools::find(tool)).await??;
    }
    let mut command = tokio::process::Command::new(program);
    command.args(args).kill_on_drop(true);
    // A cluster that the caller gave serves all programs already.
    let (control_plane, given) = match env::var_os(GIVEN_KUBECONFIG) {
        Some(_) => (None, Some(tempfile::Builder::new().prefix("fettle-").tempdir()?)),
        None => (Some(ControlPlane::start().await.context("no control plane for the tests")?), None),
    };
    if let Some(control_plane) = &control_plane {
        command.env(SHARED_KUBECONFIG, control_plane.kubeconfig()).env(RUN_FOLDER, control_plane.folder());
    }
    if let Some(folder) = &given {
        command.env(RUN_FOLDER, folder.path());
    }
    let status = command.status().await.with_context(|| format!("cannot run {program}"))?;
    drop((control_plane, given));
    // More than a byte cannot be handed on, and a signal has no code.
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The repository's folder.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().with_context(|| format!("this was built in {}, which is not there any more", root.display()))
}
