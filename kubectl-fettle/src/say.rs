//! The commands that say something to a rollout or a device: read, decide ([`crate::person`]), patch what was read.

use clap::Args;
use fettle_crds::{Abort, Device, DeviceGroup, DeviceRollout};
use jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::output;
use crate::person::{Answer, Promote, Wish, without_way_back};
use crate::view::{FleetView, State};

/// Who writes, as managedFields name it. What a manager whose name begins with `kubectl` changed in an object that Flux
/// applies, Flux takes back; what a person says by an annotation has to stay until it is heard.
pub const MANAGER: &str = "fettle-kubectl";
/// The controller writes a rollout's status once a second at most: this often nobody has bad luck.
const TRIES: usize = 8;
/// With this a person wants a device to be tried again.
const RETRY_AT: &str = "fettle.dev/retry-at";

/// A group, whose newest rollout is meant, or a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Group(String),
    Device(String),
}

impl std::str::FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |name: &str| if name.is_empty() { Err("a name is missing".to_owned()) } else { Ok(name.to_owned()) };
        match text.split_once('/') {
            None => name(text).map(Self::Group),
            Some(("device" | "devices" | "dev" | "device.fettle.dev", device)) => name(device).map(Self::Device),
            Some(("group" | "devicegroup" | "devicegroups" | "dg" | "devicegroup.fettle.dev", group)) => {
                name(group).map(Self::Group)
            }
            Some((kind, _)) => Err(format!("there is no kind {kind} here: write GROUP or device/NAME")),
        }
    }
}

/// Of all commands that change something.
#[derive(Debug, Args)]
pub struct SayArgs {
    /// Only say what would come of it
    #[arg(long)]
    pub dry_run: bool,
}

/// Pause the rollout of a group: nobody begins, what runs, finishes
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kubectl fettle pause access-switches")]
pub struct PauseArgs {
    /// The group
    pub group: String,
    #[command(flatten)]
    pub say: SayArgs,
}

/// Let a rollout go on that was paused or aborted, or stopped by failures
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle resume access-switches
  kubectl fettle resume access-switches --accept-failures 4   # the budget is exceeded, and that is all right")]
pub struct ResumeArgs {
    /// The group
    pub group: String,
    /// Let so many devices have failed, in all, whatever the failure budget says
    #[arg(long, value_name = "N")]
    pub accept_failures: Option<u32>,
    #[command(flatten)]
    pub say: SayArgs,
}

/// Approve the step that waits for it, or a device that nobody has declared
///
/// Of a group, the step that waits is approved, and only if it still is that step when the approval arrives.
/// A device that called without being declared is recorded, and served only when somebody approves it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle approve access-switches            # the step that waits
  kubectl fettle approve access-switches --step 2   # and those before, in advance
  kubectl fettle approve device/02-00-5e-00-54-01   # a device that was recorded")]
pub struct ApproveArgs {
    /// The group, or device/NAME
    #[arg(value_name = "GROUP|device/NAME")]
    pub subject: Subject,
    /// The rollout may go past this step, and those before, whether they wait yet or not
    #[arg(long, value_name = "N")]
    pub step: Option<u32>,
    #[command(flatten)]
    pub say: SayArgs,
}

/// Let a rollout go past the step that it is at, as soon as that is done
///
/// As approve, but also before the step waits for it. A soak is not cut short: what has not been watched is not
/// known to be good.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle promote access-switches
  kubectl fettle promote access-switches --full   # no step waits for approval any more")]
pub struct PromoteArgs {
    /// The group
    pub group: String,
    /// Past all steps
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub say: SayArgs,
}

/// End a rollout: nobody else begins; with --rollback all go back
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle abort access-switches
  kubectl fettle abort access-switches --rollback   # each device returns to what it ran before")]
pub struct AbortArgs {
    /// The group
    pub group: String,
    /// Take the devices that it has touched back to what they ran before
    #[arg(long)]
    pub rollback: bool,
    #[command(flatten)]
    pub say: SayArgs,
}

/// Take a group back to what it ran before its newest rollout
///
/// Also where that is complete. Each device that the rollout has taken on returns to what it ran before, within
/// maxUnavailable and spread, without steps, windows or soaks. What the rollout brought is refused from then on, so the
/// DeviceGroup should name something else: until it does, it is Stalled with the reason RolledBack.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kubectl fettle undo access-switches && kubectl fettle get access-switches -w")]
pub struct UndoArgs {
    /// The group
    pub group: String,
    #[command(flatten)]
    pub say: SayArgs,
}

/// Try failed devices again: all of a group, or one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle retry access-switches
  kubectl fettle retry device/access-berlin-07")]
pub struct RetryArgs {
    /// The group, or device/NAME
    #[arg(value_name = "GROUP|device/NAME")]
    pub subject: Subject,
    #[command(flatten)]
    pub say: SayArgs,
}

impl PauseArgs {
    /// # Errors
    /// What is said does not fit, or the API server refuses it.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        to_rollout(cluster, &self.group, Wish::Pause, &self.say).await
    }
}

impl ResumeArgs {
    /// # Errors
    /// What is said does not fit, or the API server refuses it.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        to_rollout(cluster, &self.group, Wish::Resume { accept_failures: self.accept_failures }, &self.say).await
    }
}

impl PromoteArgs {
    /// # Errors
    /// What is said does not fit, or the API server refuses it.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        let how = if self.full { Promote::Full } else { Promote::Step };
        to_rollout(cluster, &self.group, Wish::Promote(how), &self.say).await
    }
}

impl AbortArgs {
    /// # Errors
    /// What is said does not fit, or the API server refuses it.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        let abort = if self.rollback { Abort::Rollback } else { Abort::Stop };
        to_rollout(cluster, &self.group, Wish::Abort(abort), &self.say).await
    }
}

impl UndoArgs {
    /// # Errors
    /// What is said does not fit, or the API server refuses it.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        to_rollout(cluster, &self.group, Wish::Undo, &self.say).await
    }
}

impl ApproveArgs {
    /// # Errors
    /// It does not fit, or cannot be said; a device cannot be approved.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        match &self.subject {
            Subject::Group(group) => to_rollout(cluster, group, Wish::Approve { step: self.step }, &self.say).await,
            Subject::Device(_) if self.step.is_some() => {
                Err(Failure::new(Code::Usage, "--step is of a rollout: a device has none"))
            }
            Subject::Device(name) => {
                let device: Device = cluster.get(name).await?;
                if device.spec.approved {
                    return output::write(&format!("device {name} is approved already\n"));
                }
                let sentence =
                    format!("device {name} ({}) is approved: it is served when it calls next", device.spec.mac);
                to_device(cluster, &device, json!({"spec": {"approved": true}}), &sentence, &self.say).await
            }
        }
    }
}

impl RetryArgs {
    /// # Errors
    /// It does not fit, or cannot be said; the device has not failed.
    pub async fn run(&self, cluster: &Cluster) -> Result<(), Failure> {
        let name = match &self.subject {
            Subject::Group(group) => {
                return to_rollout(cluster, group, Wish::Retry { at: Timestamp::now() }, &self.say).await;
            }
            Subject::Device(name) => name,
        };
        let objects = cluster.objects().await?;
        let Some(device) = objects.devices.get(name) else { return Err(cluster.no_such::<Device>(name)) };
        let now = Timestamp::now();
        let fleet = FleetView::of(&objects, now).map_err(|error| Failure::new(Code::Error, error.to_string()))?;
        let stands = fleet.into_devices().into_iter().find(|device| device.name == *name);
        match stands.map(|device| (device.state, device.reason.unwrap_or_default())) {
            Some((State::Failed, _) | (_, "NotTold")) => {}
            Some((state, reason)) => {
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let state = state.as_str();
                let message =
                    format!("device {name} has not failed: it is {state}{why}, and a retry would change nothing");
                return Err(Failure::new(Code::Refused, message));
            }
            None => return Err(cluster.no_such::<Device>(name)),
        }
        let patch = json!({"metadata": {"annotations": {RETRY_AT: now}}});
        let sentence = format!("device {name} is tried again, within the limits of its group");
        to_device(cluster, device, patch, &sentence, &self.say).await
    }
}

/// Says something to the newest rollout of a group.
///
/// # Errors
/// There is no such group, it has no rollout yet, what is said does not fit, or the API server refuses it.
async fn to_rollout(cluster: &Cluster, group: &str, wish: Wish, args: &SayArgs) -> Result<(), Failure> {
    let refused = |why: String| Failure::new(Code::Refused, why);
    let mut seen: Option<DeviceRollout> = None;
    for _ in 0..TRIES {
        let (group, rollout) = newest(cluster, group).await?;
        if let Some(seen) = &seen {
            wish.still_means(seen, &rollout).map_err(refused)?;
        }
        match wish.answer(&group, &rollout).map_err(refused)? {
            Answer::Already(sentence) => return output::write(&format!("{sentence}\n")),
            Answer::Patch { spec, mut sentence } => {
                if matches!(wish, Wish::Undo | Wish::Abort(Abort::Rollback)) {
                    let devices = cluster.list::<Device>(&ListParams::default()).await?;
                    if let Some(stay) = without_way_back(&rollout, devices.values()).map_err(refused)? {
                        sentence = format!("{sentence}. {stay}");
                    }
                }
                let patch = json!({"spec": spec});
                match patch_as_read(&cluster.api(), &rollout, patch, args).await {
                    Ok(()) => return say(&sentence, args),
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(cluster.explain::<DeviceRollout>("patch", &error)),
                }
            }
        }
        seen.get_or_insert(rollout);
    }
    Err(Failure::new(Code::Error, format!("somebody else writes to the rollout of {group} all the time: try again")))
}

/// A group, and its newest rollout.
///
/// # Errors
/// There is none, or the controller has not looked at the group since it was changed.
pub async fn newest(cluster: &Cluster, group: &str) -> Result<(DeviceGroup, DeviceRollout), Failure> {
    let group: DeviceGroup = cluster.get(group).await?;
    let name = group.name_any();
    let status = group.status.clone().unwrap_or_default();
    if status.observed_generation != group.metadata.generation {
        let message = format!(
            "the controller has not looked at {name} since it was changed: try again, or see whether fettle-controller runs"
        );
        return Err(Failure::new(Code::Refused, message));
    }
    let Some(rollout) = status.rollout else {
        let message = format!("{name} has no rollout yet: {}", status.message.unwrap_or_default());
        return Err(Failure::new(Code::Refused, message));
    };
    let rollout = cluster.get(&rollout).await?;
    Ok((group, rollout))
}

async fn to_device(
    cluster: &Cluster,
    device: &Device,
    patch: Value,
    sentence: &str,
    args: &SayArgs,
) -> Result<(), Failure> {
    match patch_as_read(&cluster.api(), device, patch, args).await {
        Ok(()) => say(sentence, args),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let name = device.name_any();
            Err(Failure::new(Code::Refused, format!("device {name} has changed since it was read: look again")))
        }
        Err(error) => Err(cluster.explain::<Device>("patch", &error)),
    }
}

fn say(sentence: &str, args: &SayArgs) -> Result<(), Failure> {
    output::write(&format!("{sentence}{}\n", if args.dry_run { " (dry run)" } else { "" }))
}

/// Patches an object if nobody has written to it since it was read.
pub async fn patch_as_read<K>(api: &Api<K>, read: &K, mut patch: Value, args: &SayArgs) -> kube::Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    patch["metadata"]["resourceVersion"] = json!(read.resource_version());
    let params = PatchParams { dry_run: args.dry_run, ..PatchParams::apply(MANAGER) };
    api.patch(&read.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ())
}
