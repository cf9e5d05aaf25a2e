//! `kubectl fettle status`: waits for a group, and ends with what a pipeline wants to know.

use std::time::Duration;

use clap::Args;
use fettle_crds::{DeviceGroup, DeviceRollout};
use futures::TryStreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::output;

/// What a rollout was told, and the controller has not seen yet, changes nothing in the group: it is looked at again
/// after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A watch that breaks is begun again by itself. One that cannot be is no use after this.
const PATIENCE_WITH_API: Duration = Duration::from_secs(60);

/// Wait until all of a group run what it wants, and say how it goes
///
/// Prints a line when something changes. Complete is a group whose devices that can be reached run what it wants;
/// devices that are offline or held do not hold it up. It ends at once where a person has to act: a step waits for
/// approval, or the rollout is paused.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 complete, 3 failed, aborted or rolled back, 4 a person has to act, 5 timeout, 6 not found.

Examples:
  kubectl fettle status access-switches --timeout 30m
  kubectl apply -f fleet/ && kubectl fettle status access-switches --timeout 2h --keep-waiting"
)]
pub struct StatusArgs {
    /// The group
    pub group: String,
    /// Give up after this, such as 90s or 2h [default: never]
    #[arg(long, value_name = "DURATION", value_parser = fettle_runtime::duration)]
    pub timeout: Option<Duration>,
    /// Wait on where a person has to act
    #[arg(long)]
    pub keep_waiting: bool,
}

/// Where a group stands, for one who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Complete(String),
    Going(String),
    Person(String),
    Failed(String),
}

/// Judges a group by its status, and by that of its newest rollout.
///
/// A rollout that the controller has not looked at since a person said something to it is going on. The two statuses are
/// written one after the other, and either may be the first: an end is one where both say so.
pub fn judge(group: &DeviceGroup, rollout: Option<&DeviceRollout>) -> Verdict {
    let status = group.status.clone().unwrap_or_default();
    if status.observed_generation != group.metadata.generation || status.conditions.is_empty() {
        return Verdict::Going("waiting for the controller to look at it".to_owned());
    }
    let message = status.message.clone().unwrap_or_default();
    let is = |type_: &str| status.conditions.iter().find(|is| is.type_ == type_ && is.status == "True");
    let agrees = |type_: &str, reason: &str| rollout.is_none_or(|rollout| says(rollout, type_, reason));
    match (is("Ready"), is("Stalled"), is("Reconciling")) {
        (Some(ready), ..) if agrees("Ready", &ready.reason) => Verdict::Complete(message),
        (_, Some(stalled), _) if !OF_ROLLOUT.contains(&&*stalled.reason) || agrees("Stalled", &stalled.reason) => {
            Verdict::Failed(message)
        }
        (.., Some(reconciling))
            if FOR_A_PERSON.contains(&&*reconciling.reason) && agrees("Reconciling", &reconciling.reason) =>
        {
            Verdict::Person(message)
        }
        _ => Verdict::Going(message),
    }
}

/// Reasons for which a group is stalled, and its rollout too. For others it has perhaps none.
const OF_ROLLOUT: [&str; 3] = ["DevicesFailed", "Aborted", "RolledBack"];
/// Reasons for which a group waits until a person acts.
const FOR_A_PERSON: [&str; 3] = ["Paused", "WaitingForApproval", "StepEmpty"];

/// Whether the status of a rollout says that, too. One that another has taken the place of says nothing of its group.
fn says(rollout: &DeviceRollout, type_: &str, reason: &str) -> bool {
    let status = rollout.status.clone().unwrap_or_default();
    let is_seen = status.observed_generation == rollout.metadata.generation;
    let is_it = |is: &fettle_crds::Condition| is.type_ == type_ && is.status == "True" && is.reason == reason;
    status.phase.as_deref() == Some("Superseded") || (is_seen && status.conditions.iter().any(is_it))
}

/// What was last said.
#[derive(Debug, Default)]
pub struct Said {
    rollout: Option<String>,
    step: Option<String>,
    message: Option<String>,
    failed: Vec<String>,
}

impl Said {
    /// The lines that say what has changed.
    pub fn news(&mut self, group: &DeviceGroup, rollout: Option<&DeviceRollout>, verdict: &Verdict) -> Vec<String> {
        let mut lines = Vec::new();
        let status = group.status.clone().unwrap_or_default();
        if status.rollout != self.rollout {
            lines.extend(rollout.map(|rollout| format!("{}: {}", rollout.name_any(), brings(rollout))));
            self.rollout = status.rollout;
            self.step = None;
            self.failed.clear();
        }
        if status.step != self.step {
            lines.extend(status.step.as_ref().map(|step| format!("step {step}")));
            self.step = status.step;
        }
        let failures = rollout.and_then(|rollout| rollout.status.as_ref()).map(|status| status.failures.as_slice());
        for failure in failures.unwrap_or_default() {
            if !self.failed.contains(&failure.device) {
                let colon = if failure.message.is_empty() { "" } else { ": " };
                lines.push(format!("{} failed ({}){colon}{}", failure.device, failure.reason, failure.message));
                self.failed.push(failure.device.clone());
            }
        }
        let (Verdict::Complete(message)
        | Verdict::Going(message)
        | Verdict::Person(message)
        | Verdict::Failed(message)) = verdict;
        if self.message.as_ref() != Some(message) {
            lines.push(message.clone());
            self.message = Some(message.clone());
        }
        lines
    }
}

/// What a rollout brings, for people.
fn brings(rollout: &DeviceRollout) -> String {
    let firmware = rollout.spec.firmware.as_ref().map(|firmware| firmware.version.clone());
    let config = rollout.spec.config.as_ref().map(|config| format!("config {}", config.identity));
    firmware.into_iter().chain(config).collect::<Vec<_>>().join(", ")
}

/// # Errors
/// It did not become complete: the code says why.
pub async fn run(args: &StatusArgs, cluster: &Cluster) -> Result<(), Failure> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", args.group));
    // Also says in a sentence that there is no such group, or that it may not be read.
    let mut group: DeviceGroup = cluster.get(&args.group).await?;
    let watch = watcher(cluster.api::<DeviceGroup>(), config).default_backoff();
    let mut watch = std::pin::pin!(watch);
    let mut said = Said::default();
    // Since when the cluster has not answered.
    let mut silent: Option<Instant> = None;
    // Whether the group was in the listing that is under way.
    let mut is_listed = true;
    loop {
        let newest = group.status.as_ref().and_then(|status| status.rollout.clone());
        let rollout: Option<DeviceRollout> = match newest {
            Some(name) => cluster.api().get_opt(&name).await.unwrap_or_default(),
            None => None,
        };
        let verdict = judge(&group, rollout.as_ref());
        for line in said.news(&group, rollout.as_ref(), &verdict) {
            output::write(&format!("{}: {line}\n", args.group))?;
        }
        let name = &args.group;
        match verdict {
            Verdict::Complete(_) => return output::write(&format!("{name}: complete\n")),
            Verdict::Failed(_) => return Err(Failure::new(Code::Failed, format!("{name} has failed"))),
            Verdict::Person(_) if !args.keep_waiting => {
                return Err(Failure::new(Code::Person, format!("{name} does not go on unless a person acts")));
            }
            Verdict::Person(_) | Verdict::Going(_) => {}
        }
        let look_again = Instant::now() + LOOK_AGAIN;
        let until = deadline.map_or(look_again, |deadline| deadline.min(look_again));
        match timeout_at(until, watch.try_next()).await {
            Ok(Ok(Some(event))) => {
                silent = None;
                match event {
                    watcher::Event::Init => is_listed = false,
                    watcher::Event::Apply(changed) | watcher::Event::InitApply(changed) => {
                        is_listed = true;
                        group = changed;
                    }
                    watcher::Event::InitDone if is_listed => {}
                    watcher::Event::InitDone | watcher::Event::Delete(_) => {
                        return Err(Failure::new(Code::NotFound, format!("{name} was deleted")));
                    }
                }
            }
            Ok(Ok(None)) => return Err(Failure::new(Code::Error, "the watch has ended".to_owned())),
            Ok(Err(error)) => {
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE_WITH_API {
                    let why = fettle_runtime::chain(&error);
                    return Err(Failure::new(Code::Error, format!("the cluster does not answer any more: {why}")));
                }
            }
            Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Err(Failure::new(Code::Timeout, format!("{} is not complete in time", group.name_any())));
            }
            Err(_) => {}
        }
    }
}
