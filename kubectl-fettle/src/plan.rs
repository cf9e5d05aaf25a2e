//! `kubectl fettle plan`: who would begin, in which order, and why the others wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::forecast::{Forecast, Grant};
use crate::manifest;
use crate::output::{self, Format};
use crate::overlay::{self, Change, Laid};
use crate::paint::{Line, Look, Tone};
use crate::time;
use crate::view::{DeviceView, GroupView, State};

/// So many names are given of devices that are alike.
const NAMES: usize = 6;

/// Say what would come of manifests, without applying them
///
/// Lays the manifests over what the cluster holds, and asks the controller's own planner: which devices would begin now,
/// in which order, why the others wait, and how it would go on, step by step, if every try succeeds and every step is
/// approved. Nothing is written. Images of a Firmware that the cluster does not have are taken as fetched.
///
/// Without -f it is told how what the cluster holds goes on.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 it can be acted on, 3 a group is Stalled by it, 1 and 2 it cannot be planned.

Examples:
  kubectl fettle plan -f fleet/
  kubectl kustomize overlays/prod | kubectl fettle plan -f -
  kubectl fettle plan access-switches            # how it goes on")]
pub struct PlanArgs {
    /// Only these groups [default: those that a manifest changes; without -f, all]
    #[arg(value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Files, folders, or - for standard input
    #[arg(long, short, value_name = "FILE", num_args = 1..)]
    pub filename: Vec<PathBuf>,
    /// Name every device
    #[arg(long)]
    pub all: bool,
    /// Print data instead
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// A plan as data.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned<'a> {
    manifests: &'a [Laid],
    #[serde(flatten)]
    forecast: &'a Forecast,
}

/// # Errors
/// The manifests cannot be read or applied, or a group would be stalled by them.
pub async fn run(args: &PlanArgs, cluster: &Cluster, look: Look) -> Result<(), Failure> {
    let documents = manifest::read(&args.filename)?;
    let mut objects = cluster.objects().await?;
    let before: BTreeMap<String, fettle_crds::DeviceGroup> = objects.groups.clone();
    let now = Timestamp::now();
    let laid = overlay::lay(&mut objects, &documents, &cluster.namespace, now)
        .map_err(|error| Failure::new(Code::Usage, error))?;
    cluster.refer(&mut objects).await?;
    if let Some(missing) = args.groups.iter().find(|name| !objects.groups.contains_key(*name)) {
        return Err(cluster.no_such::<fettle_crds::DeviceGroup>(missing));
    }
    if let Some(group) = objects.groups.values().find(|group| objects.is_unplannable(group)) {
        let name = group.metadata.name.clone().unwrap_or_default();
        output::note(&format!(
            "you may not read the text of the configuration of {name}: of that group nothing is planned"
        ));
    }
    let forecast = Forecast::of(objects, now).map_err(|error| Failure::new(Code::Error, error.to_string()))?;
    let shown = shown(args, &forecast, &before);
    match args.output {
        Some(format) => output::data(format, &Planned { manifests: &laid, forecast: &forecast })?,
        None => output::lines(look, Telling { forecast: &forecast, laid: &laid, now, all: args.all }.lines(&shown))?,
    }
    let stalled = forecast.then.groups.iter().filter(|group| shown.contains(&group.name) && is_stalled(group));
    let stalled: Vec<&str> = stalled.map(|group| group.name.as_str()).collect();
    if stalled.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, format!("{} would be Stalled", stalled.join(", "))))
}

fn is_stalled(group: &GroupView) -> bool {
    matches!(group.phase.as_deref(), Some("Stalled" | "RolledBack"))
}

/// The groups that are asked for; else those that come out otherwise than they are.
fn shown(
    args: &PlanArgs,
    forecast: &Forecast,
    before: &BTreeMap<String, fettle_crds::DeviceGroup>,
) -> BTreeSet<String> {
    let changed = |group: &&GroupView| {
        let was = before.get(&group.name).and_then(|group| group.status.clone()).unwrap_or_default();
        let begins = |grant: &Grant| group.rollout.as_ref().is_some_and(|rollout| rollout.name == grant.rollout);
        was.rollout != group.rollout.as_ref().map(|rollout| rollout.name.clone())
            || was.phase != group.phase
            || forecast.now.iter().any(begins)
    };
    let groups = forecast.then.groups.iter();
    let names = |group: &GroupView| group.name.clone();
    match (args.groups.is_empty(), args.filename.is_empty()) {
        (false, _) => args.groups.iter().cloned().collect(),
        (true, true) => groups.map(names).collect(),
        (true, false) => groups.filter(changed).map(names).collect(),
    }
}

/// What is told of a plan.
pub struct Telling<'a> {
    pub forecast: &'a Forecast,
    pub laid: &'a [Laid],
    pub now: Timestamp,
    pub all: bool,
}

impl Telling<'_> {
    /// In lines, of these groups.
    pub fn lines(&self, groups: &BTreeSet<String>) -> Vec<Line> {
        let mut lines = Vec::new();
        for Laid { object, change, note } in self.laid {
            let (tone, word) = match change {
                Change::New => (Tone::Good, "new"),
                Change::Changed => (Tone::Waiting, "changed"),
                Change::Unchanged => (Tone::Faint, "unchanged"),
                Change::LeftOut => (Tone::Faint, "left out"),
            };
            let note = note.as_deref().map_or_else(String::new, |note| format!(": {note}"));
            lines.push(Line::new().plain(format!("{object}  ")).with(tone, word).with(Tone::Faint, note));
        }
        let told = self.forecast.then.groups.iter().filter(|group| groups.contains(&group.name));
        for group in told {
            if !lines.is_empty() {
                lines.push(Line::new());
            }
            self.group(&mut lines, group);
        }
        if groups.is_empty() {
            lines.push(Line::new().plain("nothing would change"));
        }
        if self.forecast.is_cut {
            lines
                .push(Line::new().with(Tone::Faint, "… and so on: the end is not worked out for a fleet of this size"));
        }
        lines
    }

    fn group(&self, lines: &mut Vec<Line>, group: &GroupView) {
        let title = Line::new().with(Tone::Title, &group.name);
        let desired = group.desired.as_deref().map_or_else(String::new, |desired| format!(" → {desired}"));
        let rollout = group.rollout.as_ref().map_or("", |rollout| rollout.name.as_str());
        let by = if rollout.is_empty() { String::new() } else { format!("   by {rollout}") };
        lines.push(title.with(Tone::Title, desired).with(Tone::Faint, by));
        if is_stalled(group) {
            lines.push(Line::new().plain("  ").with(Tone::Bad, group.message.as_deref().unwrap_or("Stalled")));
        }
        let begin: Vec<&Grant> = self.forecast.now.iter().filter(|grant| grant.rollout == rollout).collect();
        if begin.is_empty() {
            lines.push(Line::new().plain("  nobody begins now"));
        } else {
            lines
                .push(Line::new().plain("  ").with(Tone::Busy, format!("begin now, in this order ({}):", begin.len())));
        }
        let named = if self.all { begin.len() } else { begin.len().min(2 * NAMES) };
        let width = begin[..named].iter().map(|grant| grant.device.chars().count()).max().unwrap_or(0);
        for (index, grant) in begin[..named].iter().enumerate() {
            let what = moves(grant);
            lines.push(Line::new().plain(format!("  {:>4}. {:width$}   {what}", index + 1, grant.device)));
        }
        if named < begin.len() {
            lines.push(Line::new().with(Tone::Faint, format!("        … and {} more", begin.len() - named)));
        }
        let others = devices(group)
            .into_iter()
            .filter(|device| device.state != State::Current && !begin.iter().any(|grant| grant.device == device.name));
        self.reasons(lines, "  wait:", others.collect());
        self.later(lines, group, rollout);
    }

    /// Devices by the reason that each has.
    fn reasons(&self, lines: &mut Vec<Line>, title: &str, devices: Vec<&DeviceView>) {
        let mut by_reason: BTreeMap<(State, &str), Vec<&str>> = BTreeMap::new();
        for device in devices {
            let reason = device.doing.as_ref().map_or(device.reason, |_| Some("Updating"));
            by_reason.entry((device.state, reason.unwrap_or_default())).or_default().push(&device.name);
        }
        if by_reason.is_empty() {
            return;
        }
        lines.push(Line::new().plain(title));
        let width = by_reason.keys().map(|(_, reason)| reason.len()).max().unwrap_or(0);
        for ((state, reason), names) in by_reason {
            let tone = match state {
                State::Failed => Tone::Bad,
                State::Updating => Tone::Busy,
                State::Offline | State::None => Tone::Faint,
                State::Waiting | State::Current => Tone::Waiting,
            };
            let line = Line::new().plain("    ").with(tone, format!("{reason:width$}"));
            lines.push(line.plain(format!("   {:>4}: {}", names.len(), self.names(&names))));
        }
    }

    fn names(&self, names: &[&str]) -> String {
        let shown = if self.all { names.len() } else { names.len().min(NAMES) };
        let more = if shown < names.len() { format!(", … {} more", names.len() - shown) } else { String::new() };
        format!("{}{more}", names[..shown].join(", "))
    }

    fn later(&self, lines: &mut Vec<Line>, group: &GroupView, rollout: &str) {
        let mut steps = self.forecast.waves_of(rollout);
        if steps.is_empty() {
            return;
        }
        lines.push(Line::new().plain("  then, if every try succeeds and every step is approved:"));
        let listed = group.rollout.as_ref().map(|rollout| rollout.steps.as_slice()).unwrap_or_default();
        for step in listed {
            let begins_now =
                self.forecast.now.iter().any(|grant| grant.rollout == rollout && grant.step == step.number);
            let waves = steps.remove(&step.number).unwrap_or_default();
            if waves.is_empty() && !begins_now {
                continue;
            }
            let mut wants = Vec::new();
            wants.extend(step.soak.as_ref().map(|soak| format!("soak {soak}")));
            wants.extend(step.needs_approval.then(|| "approval".to_owned()));
            let wants = if wants.is_empty() { String::new() } else { format!("; then {}", wants.join(" and ")) };
            if listed.len() > 1 {
                let title = format!("    step {} of {}: {}", step.number, step.of, step.about);
                let begun = if begins_now { " begins now" } else { "" };
                lines.push(Line::new().plain(title).with(Tone::Busy, begun).with(Tone::Faint, wants));
            }
            let count = waves.len();
            let shown = if self.all { count } else { count.min(NAMES) };
            for (at, grants) in waves.iter().take(shown) {
                let names: Vec<&str> = grants.iter().map(|grant| grant.device.as_str()).collect();
                let is_download = grants.iter().all(|grant| grant.is_download);
                let what = if is_download { " to download" } else { "" };
                let when = match at.duration_since(self.now) {
                    wait if wait.as_secs() > 60 => format!(" (not before {} from now)", time::between(self.now, *at)),
                    _ => String::new(),
                };
                let line = Line::new().plain(format!("      {:>4}{what}: {}", names.len(), self.names(&names)));
                lines.push(line.with(Tone::Faint, when));
            }
            if shown < count {
                let devices: usize = waves[shown..].iter().map(|(_, grants)| grants.len()).sum();
                let more = format!("      … and {devices} more, in {} turns", count - shown);
                lines.push(Line::new().with(Tone::Faint, more));
            }
        }
        let end = self.forecast.end.groups.iter().find(|end| end.name == group.name);
        let left: Vec<&DeviceView> =
            end.map(devices).unwrap_or_default().into_iter().filter(|device| device.state != State::Current).collect();
        self.reasons(lines, "  left behind:", left);
    }
}

fn devices(group: &GroupView) -> Vec<&DeviceView> {
    let steps = group.rollout.iter().flat_map(|rollout| &rollout.steps);
    steps.flat_map(|step| &step.devices).chain(&group.devices).collect()
}

/// What a device begins with.
fn moves(grant: &Grant) -> String {
    let mut what = match (&grant.firmware, &grant.config) {
        (Some(version), _) => format!("{} → {version}", grant.from),
        (None, Some(config)) => format!("{}, config {config}", grant.from),
        (None, None) => grant.from.clone(),
    };
    if grant.attempt > 1 {
        what.push_str(&format!(", try {}", grant.attempt));
    }
    if grant.is_download {
        what.push_str(", download only");
    }
    what
}
