//! `make up` and `make down`: Fettle on this machine, for people who bring their own devices.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use super::root;
use super::running::{Ending, Member, Running};
use crate::control_plane::{ControlPlane, GIVEN_KUBECONFIG, GIVEN_LOAD, LOGS, RUN_FOLDER, SHARED_KUBECONFIG};
use crate::installation::{Bridge, Installation, Ports};
use crate::namespace::TestNamespace;
use crate::say;

/// Variables that begin as those of the programs do and are the harness's own.
const NOT_FOR_PROGRAMS: &[&str] =
    &[GIVEN_KUBECONFIG, GIVEN_LOAD, SHARED_KUBECONFIG, RUN_FOLDER, "FETTLE_CACHE", crate::node::REQUIRED];

/// What can be chosen about `make up`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A cluster that exists, instead of a control plane of its own
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The namespace whose devices are served
    #[arg(long, default_value = "fettle")]
    namespace: String,
    /// Where devices connect; as all ports, a free one unless given
    #[arg(long)]
    bridge_port: Option<u16>,
    #[arg(long)]
    ftp_port: Option<u16>,
    #[arg(long)]
    tftp_port: Option<u16>,
    /// From where the bridge asks devices for logs over UDP: the port that devices call unless given
    #[arg(long)]
    udp_port: Option<u16>,
    #[arg(long)]
    http_port: Option<u16>,
    #[arg(long)]
    controller_metrics_port: Option<u16>,
    #[arg(long)]
    bridge_metrics_port: Option<u16>,
    #[command(flatten)]
    place: Place,
}

/// Where `make up` keeps everything.
#[derive(Args, Debug)]
pub struct Place {
    /// Instead of target/up, for a second one
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Place {
    fn folder(&self) -> Result<PathBuf> {
        match &self.folder {
            Some(folder) => Ok(std::path::absolute(folder)?),
            None => Ok(root()?.join("target/up")),
        }
    }
}

/// Starts everything, writes `target/up/env`, and leaves it running.
pub async fn up(arguments: Arguments) -> Result<ExitCode> {
    let folder = arguments.place.folder()?;
    let running = Running::read(&folder)?;
    match running.dead() {
        _ if running.is_empty() => {}
        None => {
            say!("Fettle is up already: {} has where. `make down` ends it.", environment(&folder).display());
            return Ok(ExitCode::SUCCESS);
        }
        Some(member) => {
            let (name, logs) = (&member.name, folder.join(LOGS));
            say!("{name} has ended, see {}. `make down`, then `make up`, starts anew.", logs.display());
            return Ok(ExitCode::FAILURE);
        }
    }
    let started = Instant::now();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;

    let control_plane = match &arguments.kubeconfig {
        Some(path) => ControlPlane::given(path)?,
        None => {
            say!("starting a control plane");
            ControlPlane::start_at(&folder).await?
        }
    };
    control_plane.install_crds().await?;
    let namespace = TestNamespace::existing_or_new(&control_plane, &arguments.namespace).await?;
    if arguments.kubeconfig.is_none() {
        let select = format!("--namespace={}", arguments.namespace);
        control_plane.kubectl(&["config", "set-context", "--current", &select]).await?;
    }
    say!("starting controller and bridge");
    let ports = Ports {
        device: arguments.bridge_port,
        ftp: arguments.ftp_port,
        tftp: arguments.tftp_port,
        http: arguments.http_port,
        udp: arguments.udp_port,
        controller_metrics: arguments.controller_metrics_port,
        bridge_metrics: arguments.bridge_metrics_port,
    };
    let mut builder = Installation::builder(&namespace).folder(&folder).ports(ports);
    for (name, value) in env::vars() {
        if name.starts_with("FETTLE_") && !NOT_FOR_PROGRAMS.contains(&name.as_str()) {
            builder = builder.env(&name, &value);
        }
    }
    let installation = builder.start().await?;

    let running = members(&control_plane, &installation);
    let text = describe(&folder, &control_plane, &namespace, &installation, &running);
    running.write(&folder)?;
    fs::write(environment(&folder), text)?;
    installation.release();
    control_plane.release();

    let (bridge, kubectl) = (installation.bridge().device_address(), control_plane.kubectl_program().display());
    say!("Fettle is up after {} s, and waits for devices at {bridge}.", started.elapsed().as_secs());
    say!("  . {}", environment(&folder).display());
    say!("  export KUBECONFIG; {kubectl} -n {} get fettle", namespace.name);
    say!("`make down` ends it.");
    Ok(ExitCode::SUCCESS)
}

/// Ends what `make up` started.
pub async fn down(place: Place) -> Result<ExitCode> {
    let folder = place.folder()?;
    let running = Running::read(&folder)?;
    if running.is_empty() {
        say!("nothing is up");
        return Ok(ExitCode::SUCCESS);
    }
    running.end().await;
    // the logs stay until the next start
    let _ = fs::remove_file(environment(&folder));
    Running::forget(&folder)?;
    say!("ended; the logs are in {}", folder.join(LOGS).display());
    Ok(ExitCode::SUCCESS)
}

fn environment(folder: &Path) -> PathBuf {
    folder.join("env")
}

/// In the order in which they end: first who would complain about the others.
fn members(control_plane: &ControlPlane, installation: &Installation) -> Running {
    let mut members = Vec::new();
    let programs = installation.bridges().iter().map(Bridge::program).chain([installation.controller()]);
    for program in programs {
        members.extend(program.pid().map(|pid| Member::new(&program.name, Ending::Asked, pid, program.path())));
    }
    for (name, pid, program) in control_plane.processes().into_iter().rev() {
        members.push(Member::new(&name, Ending::Killed, pid, &program));
    }
    Running::new(members)
}

/// The text of `target/up/env`, which a shell can read.
fn describe(
    folder: &Path,
    control_plane: &ControlPlane,
    namespace: &TestNamespace,
    installation: &Installation,
    running: &Running,
) -> String {
    let bridge = installation.bridge();
    let path = |path: &Path| path.display().to_string();
    let pid = |pid: Option<u32>| pid.map(|pid| pid.to_string()).unwrap_or_default();
    let values = BTreeMap::from([
        ("KUBECONFIG", path(control_plane.kubeconfig())),
        ("KUBECTL", path(control_plane.kubectl_program())),
        ("NAMESPACE", namespace.name.clone()),
        ("BRIDGE_ADDR", bridge.device_address().to_string()),
        ("FTP_PORT", bridge.ftp_port().to_string()),
        ("TFTP_PORT", bridge.tftp_port().to_string()),
        ("HTTP_PORT", bridge.http_port().to_string()),
        ("UDP_PORT", bridge.udp_port().to_string()),
        ("CONTROLLER_METRICS", installation.controller().metrics_address().to_string()),
        ("BRIDGE_METRICS", bridge.program().metrics_address().to_string()),
        ("FILES_DIR", path(installation.files_dir())),
        ("DATA_DIR", path(bridge.data_dir())),
        ("LOGS_DIR", path(&folder.join(LOGS))),
        ("PIDS", running.pids()),
        ("CONTROLLER_PID", pid(installation.controller().pid())),
        ("BRIDGE_PID", pid(bridge.program().pid())),
    ]);
    values.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect()
}

/// As a shell reads it; plain where nothing in it means anything to a shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@%=".contains(c);
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_a_shell_would_read_them_otherwise() {
        assert_eq!(quoted("127.0.0.1:7070"), "127.0.0.1:7070");
        assert_eq!(quoted(""), "");
        assert_eq!(quoted("1 2"), "'1 2'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
