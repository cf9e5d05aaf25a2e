//! `kubectl fettle devices`: one line for each device.

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};
use crate::paint::{Line, Look, Tone, table};
use crate::time;
use crate::view::{DeviceView, FleetView, State};

/// List devices: what each runs, where it stands, and why
///
/// Filters are joined by and; a filter that is given twice, or with commas, by or.
#[derive(Debug, Args)]
#[command(
    visible_alias = "dev",
    after_help = "Examples:
  kubectl fettle devices --state failed,offline
  kubectl fettle devices --group access-switches --reason WaitingForSpread
  kubectl fettle devices --state failed -o name | xargs -n1 kubectl fettle retry"
)]
pub struct DevicesArgs {
    /// Only these [default: all]
    #[arg(value_name = "DEVICE")]
    pub names: Vec<String>,
    /// Only devices that this group selects
    #[arg(long, short, value_name = "GROUP", value_delimiter = ',')]
    pub group: Vec<String>,
    /// Only devices with this reason, such as WaitingForStep or CrcMismatch
    #[arg(long, short, value_name = "REASON", value_delimiter = ',', ignore_case = true)]
    pub reason: Vec<String>,
    /// Only devices in this state
    #[arg(long, short, value_enum, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<State>,
    /// How to print them
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub output: Option<DevicesFormat>,
}

/// How devices are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DevicesFormat {
    Json,
    Yaml,
    /// With model, configuration and address
    Wide,
    /// device/NAME, for other commands
    Name,
}

/// # Errors
/// There is no such device, or it cannot be read.
pub async fn run(args: &DevicesArgs, cluster: &Cluster, look: Look) -> Result<(), Failure> {
    let objects = cluster.objects().await?;
    let now = Timestamp::now();
    if let Some(missing) = args.names.iter().find(|name| !objects.devices.contains_key(*name)) {
        return Err(cluster.no_such::<fettle_crds::Device>(missing));
    }
    let fleet = FleetView::of(&objects, now).map_err(|error| Failure::new(Code::Error, error.to_string()))?;
    let devices: Vec<DeviceView> = fleet.into_devices().into_iter().filter(|device| args.wants(device)).collect();
    match args.output {
        Some(DevicesFormat::Json) => output::data(Format::Json, &devices),
        Some(DevicesFormat::Yaml) => output::data(Format::Yaml, &devices),
        Some(DevicesFormat::Name) => {
            output::write(&devices.iter().map(|device| format!("device/{}\n", device.name)).collect::<String>())
        }
        Some(DevicesFormat::Wide) | None if devices.is_empty() => {
            output::note(&format!("no such device in namespace {}", cluster.namespace));
            Ok(())
        }
        Some(DevicesFormat::Wide) => output::lines(look, list(&devices, Width::Wide, now)),
        None => output::lines(look, list(&devices, Width::Narrow, now)),
    }
}

impl DevicesArgs {
    /// Whether a device meets all filters.
    pub fn wants(&self, device: &DeviceView) -> bool {
        let Self { names, group, reason, state, output: _ } = self;
        let has = |reason: &String| device.reason.is_some_and(|has| has.eq_ignore_ascii_case(reason));
        (names.is_empty() || names.contains(&device.name))
            && (group.is_empty() || group.iter().any(|group| device.groups.contains(group)))
            && (reason.is_empty() || reason.iter().any(has))
            && (state.is_empty() || state.contains(&device.state))
    }
}

/// How much is said of each device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Narrow,
    Wide,
}

/// A table of devices.
pub fn list(devices: &[DeviceView], width: Width, now: Timestamp) -> Vec<Line> {
    let mut head = vec!["NAME", "GROUP", "RUNS", "STATE", "REASON", "SINCE"];
    if width == Width::Wide {
        head.extend(["MODEL", "CONFIG", "ADDRESS"]);
    }
    head.push("MESSAGE");
    let title = |text: &str| Line::new().with(Tone::Title, text);
    let rows = devices.iter().map(|device| {
        let text = |text: Option<&str>| Line::new().plain(text.unwrap_or("-"));
        let tone = match device.state {
            State::Failed => Tone::Bad,
            State::Updating => Tone::Busy,
            State::Current => Tone::Good,
            State::Waiting => Tone::Plain,
            State::Offline | State::None => Tone::Faint,
        };
        let version = device.version.as_deref().unwrap_or("-");
        let to = device.to.as_ref().and_then(|to| to.version.as_deref());
        let runs = to.map_or_else(|| version.to_owned(), |to| format!("{version} → {to}"));
        let groups = if device.groups.is_empty() { "-".to_owned() } else { device.groups.join(",") };
        let reason = device.doing.as_ref().map(|doing| doing.phase).or(device.reason);
        let since = device.doing.as_ref().map(|doing| doing.since).or(device.last_seen);
        let since = since.map(|since| time::between(since, now));
        let mut row = vec![
            text(Some(&device.name)),
            Line::new().plain(groups),
            Line::new().plain(runs),
            Line::new().with(tone, device.state.as_str()),
            text(reason),
            text(since.as_deref()),
        ];
        if width == Width::Wide {
            row.extend([
                text(device.model.as_deref()),
                text(device.config.as_deref()),
                text(device.address.as_deref()),
            ]);
        }
        row.push(Line::new().plain(device.message.as_deref().unwrap_or_default()));
        row
    });
    table(std::iter::once(head.into_iter().map(title).collect()).chain(rows).collect())
}
