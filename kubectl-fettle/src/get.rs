//! `kubectl fettle get`: the tree of groups, rollouts, steps and devices.

use clap::Args;
use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::live;
use crate::objects::Objects;
use crate::output::{self, Format};
use crate::paint::Look;
use crate::tree::Tree;
use crate::view::FleetView;

/// Show groups, their rollouts, steps and devices, and why each device waits
///
/// Why a device waits is what the controller's own planner says of the objects as they are. Of more than 16 devices in
/// one place only those are shown that fail or move; --all shows all.
#[derive(Debug, Args)]
#[command(
    visible_alias = "tree",
    after_help = "Examples:
  kubectl fettle get                       # all groups
  kubectl fettle get access-switches -w    # one, as it changes
  kubectl fettle get access-switches -o json | jq '.groups[].counts'"
)]
pub struct GetArgs {
    /// Groups [default: all, and the devices of none]
    #[arg(value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Every device, however many there are
    #[arg(long)]
    pub all: bool,
    /// Show it as it changes, until Ctrl-C
    #[arg(long, short, conflicts_with = "output")]
    pub watch: bool,
    /// Print data instead
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// # Errors
/// There is no such group, or it cannot be read.
pub async fn run(args: &GetArgs, cluster: &Cluster, look: Look) -> Result<(), Failure> {
    if args.watch {
        return live::show(cluster, look, |objects, look| {
            let now = Timestamp::now();
            let fleet = view(args, cluster, objects, now)?;
            let tree = Tree { now, all: args.all, width: look.width };
            Ok(tree.fleet(&fleet))
        })
        .await;
    }
    let objects = cluster.objects().await?;
    let now = Timestamp::now();
    let fleet = view(args, cluster, &objects, now)?;
    match args.output {
        Some(format) => output::data(format, &fleet),
        None if fleet.groups.is_empty() && fleet.others.is_empty() => {
            output::note(&format!("there is no DeviceGroup and no Device in namespace {}", cluster.namespace));
            Ok(())
        }
        None => {
            let tree = Tree { now, all: args.all, width: look.width };
            output::lines(look, tree.fleet(&fleet))
        }
    }
}

/// What was asked for.
pub fn view(args: &GetArgs, cluster: &Cluster, objects: &Objects, now: Timestamp) -> Result<FleetView, Failure> {
    if let Some(missing) = args.groups.iter().find(|name| !objects.groups.contains_key(*name)) {
        return Err(cluster.no_such::<fettle_crds::DeviceGroup>(missing));
    }
    let mut fleet = FleetView::of(objects, now).map_err(|error| Failure::new(Code::Error, error.to_string()))?;
    if !args.groups.is_empty() {
        fleet.groups.retain(|group| args.groups.contains(&group.name));
        fleet.others.retain(|device| device.groups.iter().any(|group| args.groups.contains(group)));
    }
    Ok(fleet)
}
