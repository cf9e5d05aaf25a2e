//! How many devices a bad release harms before the rollout halts, at several limits.
//!
//! Two hundred devices are to be upgraded in steps of 1, 19 and 180. A share of them is bricked by the release (they never
//! come up again), or reports that it failed; or the first one is bricked, which is the canary. Each case has a namespace,
//! a controller and a bridge of its own. What happened to each device is taken from the devices' own record.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use fettle_crds::{Device, DeviceGroup};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};

use super::fleet::{self, Fleet, Kind};
use super::run::{self, Bench, FIRMWARE, GROUP};
use crate::control_plane::ControlPlane;
use crate::installation::Installation;
use crate::namespace::TestNamespace;
use crate::say;

const DEVICES: usize = 200;
const CANARY: usize = 1;
/// So many in all, when the second step is done.
const SECOND_STEP: usize = 20;

/// A try ends with this, for a device that is not heard of again. One that is well takes three seconds.
const DEVICE_TIMEOUT: &str = "15s";
const HALTED_WITHIN: Duration = Duration::from_secs(120);
/// It is looked for so long after the halt whether anybody else is told anything.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What is wrong with the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Case {
    SomeBrick,
    SomeReport,
    CanaryBricks,
}

impl Case {
    const ALL: [Self; 3] = [Self::SomeBrick, Self::SomeReport, Self::CanaryBricks];

    fn words(self) -> &'static str {
        match self {
            Self::SomeBrick => "30 % brick",
            Self::SomeReport => "30 % report failure",
            Self::CanaryBricks => "the canary bricks",
        }
    }

    /// What goes wrong with the device of that number, in the order in which devices are granted. The canary of the first
    /// two is one that is well: else the first step stops it, as in the third.
    fn faults(self, number: usize) -> &'static [&'static str] {
        let is_one_of_thirty = matches!(number % 10, 2 | 5 | 8);
        match self {
            Self::SomeBrick if is_one_of_thirty => &["boot=vanish"],
            Self::SomeReport if is_one_of_thirty => &["download3=failDownload"],
            Self::CanaryBricks if number == 0 => &["boot=vanish"],
            Self::SomeBrick | Self::SomeReport | Self::CanaryBricks => &[],
        }
    }
}

/// What the group allows.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    max_unavailable: Share,
    failure_budget: Share,
}

#[derive(Clone, Copy, Debug, Serialize)]
enum Share {
    Devices(usize),
    Percent(usize),
}

const LIMITS: [Limits; 4] = [
    Limits { max_unavailable: Share::Devices(1), failure_budget: Share::Devices(0) },
    Limits { max_unavailable: Share::Percent(5), failure_budget: Share::Devices(0) },
    Limits { max_unavailable: Share::Percent(5), failure_budget: Share::Percent(10) },
    Limits { max_unavailable: Share::Percent(100), failure_budget: Share::Percent(10) },
];

impl Share {
    fn of(self, devices: usize) -> usize {
        match self {
            Self::Devices(count) => count,
            Self::Percent(percent) => devices * percent / 100,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Devices(count) => count.to_string(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }

    fn value(self) -> Value {
        match self {
            Self::Devices(count) => json!(count),
            Self::Percent(_) => json!(self.text()),
        }
    }
}

impl Limits {
    /// Devices that may come to harm at most: as many failures as the step allows, and whoever was on the way when there
    /// was one more; never more than the step takes on.
    fn allowed(&self, case: Case) -> usize {
        let step = if case == Case::CanaryBricks { CANARY } else { SECOND_STEP };
        (self.failure_budget.of(step) + self.max_unavailable.of(DEVICES)).min(step)
    }
}

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Harm {
    case: Case,
    limits: Limits,
    bricked: usize,
    /// By the group's own count, when it had halted.
    failed: usize,
    /// Devices that were told anything.
    touched: usize,
    allowed: usize,
    /// Why the group says that it halted.
    reason: String,
    /// Devices that run what they ran, connected, and have no target.
    untouched: usize,
}

impl Harm {
    fn is_within_limits(&self) -> bool {
        let may_be_away = self.limits.max_unavailable.of(DEVICES);
        let harmed = self.failed.max(self.bricked);
        self.bricked <= may_be_away && harmed <= self.allowed && self.touched + self.untouched == DEVICES
    }
}

/// Goes through all cases; logs and data stay in `folder`.
pub(super) async fn run(folder: &Path) -> Result<Vec<Harm>> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    say!("harm: starting a control plane");
    let control_plane = ControlPlane::start_at(folder).await?;
    control_plane.install_crds().await?;
    let mut harms = Vec::new();
    for case in Case::ALL {
        say!("harm: {}, at {} limits", case.words(), LIMITS.len());
        // Most of the time they wait for devices that will not come back, so they wait together.
        let fleets = LIMITS.iter().enumerate().map(|(index, limits)| {
            let name = format!("harm-{}", harms.len() + index + 1);
            halt(&control_plane, case, *limits, name, folder)
        });
        let halted = try_join_all(fleets).await?;
        harms.extend(halted);
    }
    Ok(harms)
}

/// Upgrades a fleet until it halts.
async fn halt(control_plane: &ControlPlane, case: Case, limits: Limits, name: String, folder: &Path) -> Result<Harm> {
    let folder = &folder.join(&name);
    fs::create_dir_all(folder)?;
    let namespace = TestNamespace::existing_or_new(control_plane, &name).await?;
    let fettle = Installation::builder(&namespace).quick().passive_ports(64).folder(folder).start().await?;
    let bench = Bench { devices: DEVICES, namespace: &namespace, fettle: &fettle };
    bench.firmware(FIRMWARE).await?;
    bench.declare().await?;
    fettle.devices_known(&namespace).await?;
    let kinds: Vec<Kind> = (0..DEVICES).map(|number| Kind { count: 1, faults: case.faults(number) }).collect();
    let mut fleet = Fleet::start_with(&kinds, fettle.bridge(), folder)?;
    bench.connected(&mut fleet).await?;

    bench.apply(&limits.group()).await?;
    let is_stalled = |group: &DeviceGroup| {
        let status = group.status.as_ref();
        // Those that were on the way have come to their end, too.
        status.is_some_and(|status| status.phase.as_deref() == Some("Stalled") && status.counts.updating == 0)
    };
    let group: DeviceGroup = namespace.wait_for(GROUP, "has halted", HALTED_WITHIN, is_stalled).await?;
    tokio::time::sleep(AFTERWARDS).await;
    let status = group.status.context("a group without a status")?;
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled");

    let record = fleet.record()?;
    let devices = namespace.api::<Device>().list(&kube::api::ListParams::default()).await?.items;
    let untouched = devices.iter().filter(|device| is_untouched(device, &record.touched)).count();
    Ok(Harm {
        case,
        limits,
        bricked: record.vanished.len(),
        failed: usize::try_from(status.counts.failed)?,
        touched: record.touched.len(),
        allowed: limits.allowed(case),
        reason: stalled.map(|condition| condition.reason.clone()).unwrap_or_default(),
        untouched,
    })
}

fn is_untouched(device: &Device, touched: &BTreeSet<String>) -> bool {
    let status = device.status.as_ref();
    let runs = status.and_then(|status| status.reported.as_ref()).map(|reported| reported.version.as_str());
    let is_connected = status.is_some_and(|status| status.session.is_some());
    let has_target = status.is_some_and(|status| status.target.is_some());
    !touched.contains(&device.spec.mac) && runs == Some(fleet::OLD_VERSION) && is_connected && !has_target
}

impl Limits {
    fn group(&self) -> Value {
        run::group(
            FIRMWARE,
            None,
            json!({
                "steps": [{"devices": CANARY}, {"devices": SECOND_STEP}],
                "maxUnavailable": self.max_unavailable.value(), "failureBudget": self.failure_budget.value(),
                "deviceTimeout": DEVICE_TIMEOUT, "retries": 0,
            }),
        )
    }
}

/// The cases in a table.
pub(super) fn table(harms: &[Harm]) -> String {
    let mut text = format!(
        "\n{DEVICES} devices in steps of 1, 19 and 180: what a bad release does before it halts; no retries\n\n  \
         {:<21} {:>14} {:>13} {:>8} {:>7} {:>8} {:>8} {:>10}   halted with\n",
        "case", "maxUnavailable", "failureBudget", "bricked", "failed", "allowed", "touched", "untouched"
    );
    for harm in harms {
        let Harm { case, limits, bricked, failed, touched, allowed, reason, untouched } = harm;
        let missed = if harm.is_within_limits() { "" } else { "   missed" };
        let (unavailable, budget) = (limits.max_unavailable.text(), limits.failure_budget.text());
        let _ = writeln!(
            text,
            "  {:<21} {unavailable:>14} {budget:>13} {bricked:>8} {failed:>7} {allowed:>8} {touched:>8} {untouched:>10}   \
             {reason}{missed}",
            case.words()
        );
    }
    text.push_str(
        "\n  Allowed: as many failures as the step's budget, and whoever is on the way when there is one more. Bricked ones\n  \
         hold their slot, so there are never more of those than maxUnavailable. Untouched: still connected, on the old\n  \
         version, told nothing.\n",
    );
    text
}
