//! `make cluster`, `make cluster-down` and `make images`: a real node to install the chart on, and what it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::root;
use super::running::{Ending, Member, Running};
use crate::control_plane::LOGS;
use crate::image::{Image, USER};
use crate::node::{self, Node};
use crate::tools::{self, Tool};
use crate::{manifest, program, say};

/// What the image holds: the programs that the chart runs.
pub const IMAGE_PROGRAMS: [&str; 2] = ["fettle-controller", "fettle-bridge"];

/// Where `make cluster` keeps everything.
#[derive(Args, Debug)]
pub struct Place {
    /// Instead of target/cluster, for a second one
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Place {
    fn folder(&self) -> Result<PathBuf> {
        match &self.folder {
            Some(folder) => Ok(std::path::absolute(folder)?),
            None => Ok(root()?.join("target/cluster")),
        }
    }
}

/// Starts a node, and leaves it running.
pub async fn up(place: Place) -> Result<ExitCode> {
    let folder = place.folder()?;
    let running = Running::read(&folder)?;
    if !running.is_empty() {
        match running.dead() {
            None => {
                say!("The cluster is up already.");
                next(&folder)?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(_) => Running::forget(&folder)?,
        }
    }
    if let Some(obstacle) = node::obstacle() {
        say!("{obstacle}. With a cluster that you have (kind, k3d): docs/install.md");
        return Ok(ExitCode::FAILURE);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let started = Instant::now();
    say!("starting a node: etcd, API server, containerd, kubelet, kube-proxy, DNS; about ten seconds");
    let mut node = Node::start_at(&folder).await?;
    let (name, pid, program) = node.process();
    Running::new(vec![Member::new(&name, Ending::Killed, pid, &program)]).write(&folder)?;
    node.release();
    say!("The cluster is up after {} s.", started.elapsed().as_secs());
    next(&folder)?;
    Ok(ExitCode::SUCCESS)
}

/// What a person does next.
fn next(folder: &Path) -> Result<()> {
    let (kubectl, helm) = (tools::find(Tool::Kubectl)?, tools::find(Tool::Helm)?);
    say!("  export KUBECONFIG={}", node::admin(folder).display());
    say!("  {} get nodes", kubectl.display());
    say!("  make images      # builds Fettle's image and gives it to this node");
    say!("  {} install fettle charts/fettle --namespace fettle --create-namespace --wait", helm.display());
    say!(
        "Services of type LoadBalancer get addresses that this machine reaches. The logs are in {}.",
        folder.join(LOGS).display()
    );
    say!("`make cluster-down` ends it, and leaves nothing of it but the logs.");
    Ok(())
}

/// Ends what `up` started, and returns when nothing of it is left.
pub async fn down(place: Place) -> Result<ExitCode> {
    let folder = place.folder()?;
    let running = Running::read(&folder)?;
    if running.is_empty() {
        say!("no cluster is up");
        return Ok(ExitCode::SUCCESS);
    }
    let number = node::number(&folder);
    running.end().await;
    if let Some(number) = number {
        tokio::task::spawn_blocking(move || node::swept(number)).await??;
    }
    Running::forget(&folder)?;
    // it leads nowhere any more
    let _ = fs::remove_file(node::admin(&folder));
    say!("ended; the logs are in {}", folder.join(LOGS).display());
    Ok(ExitCode::SUCCESS)
}

/// What can be chosen about `make images`.
#[derive(Args, Debug)]
pub struct Images {
    /// The name of the image, with its tag, instead of the one that the chart has
    #[arg(long)]
    name: Option<String>,
    /// Where the archive goes, instead of target/images
    #[arg(long)]
    folder: Option<PathBuf>,
    #[command(flatten)]
    place: Cluster,
}

/// Which node gets it.
#[derive(Args, Debug)]
struct Cluster {
    /// The folder of the node that gets the image, instead of target/cluster
    #[arg(long)]
    cluster: Option<PathBuf>,
}

/// Writes the image of the programs beside this one, says what is in it, and gives it to the node that is up.
pub async fn images(arguments: Images) -> Result<ExitCode> {
    let folder = match arguments.folder {
        Some(folder) => std::path::absolute(folder)?,
        None => root()?.join("target/images"),
    };
    let name = match arguments.name {
        Some(name) => name,
        None => image_name()?,
    };
    let archive = folder.join("fettle.tar");
    let image = tokio::task::spawn_blocking({
        let (name, archive) = (name.clone(), archive.clone());
        move || fettle_image(&name)?.write(&archive)
    });
    let written = image.await??;
    say!("{name} consists of:");
    for (path, size) in &written.files {
        say!("  {:>9}  {}", people(*size), path.display());
    }
    say!("  {:>9}  {}", people(fs::metadata(&archive)?.len()), archive.display());
    let cluster = Place { folder: arguments.place.cluster }.folder()?;
    if node::number(&cluster).is_some() {
        node::load(&cluster, &archive).await?;
        say!("The node of `make cluster` has it.");
    } else {
        say!("No node of `make cluster` is up. Elsewhere, one of:");
        say!("  kind load image-archive {}", archive.display());
        say!("  k3d image import {}", archive.display());
        say!("  skopeo copy docker-archive:{} docker://REGISTRY/{name}", archive.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The image that the chart runs, of the programs beside this one.
pub fn fettle_image(name: &str) -> Result<Image> {
    let mut image = Image::new(name).user(USER).authorities()?;
    for wanted in IMAGE_PROGRAMS {
        image = image.program(&program::find(wanted)?)?;
    }
    Ok(image)
}

/// The image's name as the chart has it, where nobody chooses another.
pub fn image_name() -> Result<String> {
    let read = |file: &str| -> Result<serde_json::Value> {
        let text = fs::read_to_string(manifest::chart().join(file))?;
        manifest::parse(&text)?.into_iter().next().with_context(|| format!("{file} is empty"))
    };
    let (values, chart) = (read("values.yaml")?, read("Chart.yaml")?);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (repository, tag) = (text(&values["image"]["repository"]), text(&values["image"]["tag"]));
    let tag = if tag.is_empty() { text(&chart["appVersion"]) } else { tag };
    ensure!(!repository.is_empty() && !tag.is_empty(), "the chart names no image");
    Ok(format!("{repository}:{tag}"))
}

/// In MiB or KiB.
fn people(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
