//! `make demo`: twenty simulated devices are taken to what `examples/` declares, through real parts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fettle_crds::{Device, DeviceGroup};
use futures::{Stream, StreamExt as _};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::process::Command;

use super::progress::Progress;
use super::root;
use super::screen::{Screen, print};
use crate::control_plane::{ControlPlane, LOGS};
use crate::installation::{Bridge, Installation};
use crate::namespace::TestNamespace;
use crate::process::{Process, Spec};
use crate::{manifest, program, say};

const NAMESPACE: &str = "fettle";

/// A device's longest silence is a download and a restart, a few seconds here. When nothing at all has changed for this
/// long, nothing will.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// Fast enough to look alive, slow enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(200);

/// What else has to fit on the terminal beside the rows of the longest column: the head of a column, and the clock.
const TABLE_ROWS: usize = 12 + 5;
const TABLE_COLUMNS: usize = 80;

/// Where `make demo` keeps everything; what it was stays there until the next.
#[derive(Args, Debug)]
pub struct Place {
    /// Instead of target/demo
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Runs the whole demonstration.
pub async fn demo(place: Place) -> Result<ExitCode> {
    let folder = match place.folder {
        Some(folder) => std::path::absolute(folder)?,
        None => root()?.join("target/demo"),
    };
    if let Err(error) = run(&folder).await {
        say!("{error:#}");
        say!("the logs are in {}", folder.join(LOGS).display());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(folder: &Path) -> Result<()> {
    let examples = root()?.join("examples");
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;

    say!("starting a control plane: etcd, kube-apiserver, kube-controller-manager");
    let control_plane = ControlPlane::start_at(folder).await?;
    control_plane.install_crds().await?;
    let namespace = TestNamespace::existing_or_new(&control_plane, NAMESPACE).await?;

    say!("starting controller and bridge, with the roles that the chart gives them");
    let fettle = Installation::builder(&namespace).quick().folder(folder).start().await?;

    let manifests = read_manifests(&examples)?;
    make_images(&manifests, fettle.files_dir()).await?;
    let devices = manifests.iter().filter(|manifest| manifest["kind"] == "Device").count();
    say!("applying the manifests of examples/, and switching on {devices} simulated devices");
    for manifest in &manifests {
        manifest::apply(&namespace.client, &namespace.name, manifest).await?;
    }
    fettle.devices_known(&namespace).await?;
    let mut fleet = start_fleet(&examples, folder, fettle.bridge())?;

    let started = Instant::now();
    let progress = follow(&namespace, &fettle, &mut fleet, devices).await?;
    print(&conclusion(&progress, devices, started.elapsed(), folder));
    Ok(())
}

/// Every manifest of `examples/`, file by file.
pub fn read_manifests(examples: &Path) -> Result<Vec<Value>> {
    let files = fs::read_dir(examples).with_context(|| format!("cannot read {}", examples.display()))?;
    let files: BTreeSet<PathBuf> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    let mut manifests = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let text = fs::read_to_string(file)?;
        manifests.extend(manifest::parse(&text).with_context(|| file.display().to_string())?);
    }
    Ok(manifests)
}

/// Makes the file of each image that a Firmware names, for the model and the version that it is for.
pub async fn make_images(manifests: &[Value], files: &Path) -> Result<()> {
    let device = program::find("fettle-device")?;
    for firmware in manifests.iter().filter(|manifest| manifest["kind"] == "Firmware") {
        let images = firmware["spec"]["images"].as_array().context("a Firmware without images")?;
        for image in images {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let model = text(&image["models"][0]).context("an image without models")?;
            let version = text(&image["reports"]).or_else(|| text(&firmware["spec"]["version"]));
            let file = text(&image["source"]["file"]["path"]).context("an image that is no file")?;
            let output = Command::new(&device)
                .args(["image", "--model", &model, "--version", &version.context("a Firmware without version")?])
                .arg("--out")
                .arg(files.join(file))
                .output()
                .await?;
            ensure!(output.status.success(), "fettle-device image: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// Starts the devices, which fetch their files from the ports that the bridge has here instead of 21 and 69.
fn start_fleet(examples: &Path, folder: &Path, bridge: &Bridge) -> Result<Process> {
    Process::spawn(Spec {
        name: "fettle-device".to_owned(),
        program: program::find("fettle-device")?,
        args: vec![
            "fleet".to_owned(),
            format!("--bridge={}", bridge.device_address()),
            format!("--ftp-port={}", bridge.ftp_port()),
            format!("--tftp-port={}", bridge.tftp_port()),
            format!("--spec={}", examples.join("simulation/fleet.yaml").display()),
            format!("--journal={}", folder.join(LOGS).join("fettle-device.journal").display()),
        ],
        env: Vec::new(),
        log: folder.join(LOGS).join("fettle-device.log"),
        sweep: None,
    })
}

/// Shows what happens until all groups say that they are complete.
async fn follow(
    namespace: &TestNamespace,
    fettle: &Installation,
    fleet: &mut Process,
    devices: usize,
) -> Result<Progress> {
    let mut progress = Progress::default();
    let mut screen = Screen::open(TABLE_ROWS, TABLE_COLUMNS);
    let mut device_events = objects::<Device>(namespace);
    let mut group_events = objects::<DeviceGroup>(namespace);
    let mut redraw = tokio::time::interval(REDRAW);
    let mut changed = Instant::now();
    loop {
        tokio::select! {
            Some(device) = device_events.next() => {
                changed = Instant::now();
                progress.device(device);
            }
            Some(group) = group_events.next() => {
                changed = Instant::now();
                progress.group(group);
            }
            _ = redraw.tick() => {
                let sections = progress.sections();
                if progress.is_complete(devices) {
                    screen.finish(&sections);
                    return Ok(progress);
                }
                screen.show(&sections);
                ensure_alive(fettle, fleet)?;
                if changed.elapsed() > STANDS_STILL {
                    bail!("nothing has moved for {} s\n{}", STANDS_STILL.as_secs(), progress.what_stands_still());
                }
            }
        }
    }
}

/// The objects of a kind as they are now and as they change. A watch that breaks is begun again.
fn objects<K>(namespace: &TestNamespace) -> impl Stream<Item = K> + Unpin
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let events = watcher(namespace.api::<K>(), watcher::Config::default()).default_backoff().applied_objects();
    Box::pin(events.filter_map(|event| std::future::ready(event.ok())))
}

fn ensure_alive(fettle: &Installation, fleet: &mut Process) -> Result<()> {
    for program in [fettle.controller(), fettle.bridge().program()] {
        ensure!(!program.has_ended(), "{} has ended, see {}", program.name, program.log().display());
    }
    if let Some(status) = fleet.exited() {
        bail!("the simulated devices have ended ({status}), see {}", fleet.log().display());
    }
    Ok(())
}

fn conclusion(progress: &Progress, devices: usize, took: Duration, folder: &Path) -> String {
    let mut text = format!("\nAll {devices} devices run what their groups want, after {} s.\n", took.as_secs());
    for (device, reason) in progress.failures() {
        text.push_str(&format!("  {device} needed another try: its first ended with {reason}.\n"));
    }
    let folder = folder.display();
    text.push_str(&format!(
        "
What you saw: the manifests of examples/ in a real API server; a controller that decided who may
move; a bridge that told each device what to do, over its own protocol, and served its files. Each
device fetched an image, checked it, restarted into it, and took its new configuration: one switch
first, then half of them, then the rest, never more at once than maxUnavailable allows. Their logs are in {folder}/{LOGS}.

Try next:
  make up       the same without devices, and it stays: connect your own; `make down` ends it
  examples/     read what was applied, change it, apply it (examples/README.md)
  make test     everything that is claimed, as tests
"
    ));
    text
}
