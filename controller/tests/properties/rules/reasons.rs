//! Rules 4 and 8: every device that is not current has one reason, and that is true; the counts add up.

use std::collections::BTreeMap;

use fettle_controller::plan::Reason;
use fettle_controller::plan::model::Group;
use fettle_controller::plan::output::{Change, Plan};
use fettle_crds::{Abort, Counts, DownloadTime, FirmwarePolicy, Stage};

use super::broken;
use crate::world::World;
use crate::world::order;

/// Each device that does not run what its group wants has one reason; and who has none runs it.
pub fn one_each(world: &World, made: &Plan) -> Result<(), String> {
    let mut reasons: BTreeMap<&str, Vec<Reason>> = BTreeMap::new();
    for (device, reason) in made.waiting(&world.snapshot) {
        reasons.entry(device).or_default().push(reason);
    }
    if !made.waits.is_sorted_by(|one, next| one.0 < next.0) {
        broken!(8, "some device has two reasons: {:?}", made.waits);
    }
    for (number, name) in world.names.iter().enumerate() {
        let given = reasons.get(&**name).map_or(&[][..], Vec::as_slice);
        let groups = world.groups_of(number);
        let is_current = groups.len() == 1 && world.meets(number, groups[0]);
        match given {
            [] if is_current && is_to_be_brought_back(world, number, groups[0]) => {
                broken!(5, "{name} counts as current, and its rollout was to bring it back")
            }
            [] if groups.is_empty() || is_current => {}
            [] => broken!(8, "{name} is not current, and nothing says why"),
            [_] => {}
            more => broken!(8, "{name} has {more:?}"),
        }
    }
    let members = (0..world.real.len()).filter(|number| !world.groups_of(*number).is_empty()).count();
    let strays = reasons.keys().filter(|name| world.groups_of(world.number(name)).is_empty()).count();
    if made.current + reasons.len() - strays != members {
        broken!(8, "{} current and {} not, of {members}", made.current, reasons.len() - strays);
    }
    Ok(())
}

/// Rule 5: whether a rollout that goes back has taken a device to where it is.
fn is_to_be_brought_back(world: &World, number: usize, group: &Group) -> bool {
    let rollout = world.standing_rollout(group).filter(|rollout| rollout.status.rollback.is_some());
    rollout.is_some_and(|rollout| world.is_back(number, rollout) == Some(false))
}

/// The reasons are true, by the world's own account.
pub fn are_true(world: &World, made: &Plan) -> Result<(), String> {
    for (name, reason) in made.waiting(&world.snapshot) {
        let number = world.number(name);
        if !is_true(world, made, number, reason) {
            broken!(8, "{name} is said to be {reason:?}, and that is not so");
        }
    }
    Ok(())
}

fn is_true(world: &World, made: &Plan, number: usize, reason: Reason) -> bool {
    let (device, real, now) = (world.device(number), &world.real[number], world.now);
    let groups = world.groups_of(number);
    match reason {
        Reason::Updating => return is_updating(world, made, number),
        Reason::Overlap => return groups.len() > 1,
        Reason::NotApproved => return !device.approved,
        _ => {}
    }
    let [group] = groups.as_slice() else { return false };
    let rollout = world.standing_rollout(group);
    let wish = world.wish(group, number);
    let told = real.told.as_deref().map(order);
    let release = wish.as_ref().and_then(|wish| wish.release);
    match reason {
        Reason::Failed(_) => rollout.is_some_and(|rollout| world.may_have_failed(number, group, rollout)),
        Reason::Offline => real.told.is_some() && real.link.is_none() && !real.is_sent_away(now),
        Reason::NeverConnected => real.told.is_none(),
        Reason::Reconnecting | Reason::BridgeStarting => real.link.is_none() && !world.is_away(number),
        Reason::Dismissed => real.is_sent_away(now),
        Reason::Held => device.held,
        Reason::Settling => world.meets(number, group),
        Reason::Paused => group.paused || rollout.is_some_and(|rollout| rollout.spec.paused == Some(true)),
        Reason::Aborted => rollout.is_some_and(|rollout| rollout.spec.abort == Some(Abort::Stop)),
        Reason::Frozen => world.times[&group.name].is_frozen(now),
        Reason::WaitingForTime => {
            let has_time = world.times[&group.name].apply_at.is_some();
            has_time && told == release && wish.is_some_and(|wish| wish.config.is_some())
        }
        Reason::WaitingForWindow => {
            let timeout = group.strategy.device_timeout;
            world.times[&group.name].closes(now).is_none_or(|closes| now + timeout > closes)
        }
        Reason::GroupInvalid => !world.snapshot.firmwares.contains_key(group.firmware.as_ref().expect("all want one")),
        Reason::NoImageForModel => wish.is_none(),
        Reason::NewerThanDesired => group.policy == FirmwarePolicy::UpgradeOnly && told > release,
        Reason::NoUpgradePath => release.is_some_and(|release| !world.has_path(number, release, group.policy)),
        Reason::FirmwareNotReady => !world.everything_is_verified(),
        Reason::RolledBack => rollout
            .is_some_and(|rollout| rollout.status.rollback.is_some() && world.is_back(number, rollout) == Some(true)),
        Reason::Refused => rollout
            .is_some_and(|rollout| rollout.status.rollback.is_some() && world.is_back(number, rollout) != Some(false)),
        Reason::NoWayBack => rollout.is_some_and(|rollout| rollout.status.rollback.is_some()),
        Reason::RolloutStarting => rollout.is_none(),
        Reason::WaitingForApproval => rollout.is_some_and(|rollout| !rollout.spec.steps.is_empty()),
        Reason::Soaking | Reason::StepEmpty | Reason::WaitingForStep => {
            rollout.is_some_and(|rollout| !rollout.spec.steps.is_empty())
        }
        Reason::BackingOff => rollout.is_some_and(|rollout| world.account.has_tried(number, &rollout.uid)),
        Reason::WaitingForSlot | Reason::Retrying => (0..world.real.len()).any(|other| {
            let of_group = world.device(other).labels.contains_key(&group.name);
            let was_ours = world.account.permission(other).is_some_and(|open| open.group == group.name);
            (of_group || was_ours) && is_updating(world, made, other)
        }),
        Reason::WaitingForSpread => neighbours(world, number).any(|other| is_updating(world, made, other)),
        Reason::BlockedBySpread => neighbours(world, number).any(|other| world.real[other].link.is_none()),
        Reason::BlockedByUnavailable => world.members(&group.name).any(|other| world.real[other].link.is_none()),
        Reason::Stopped | Reason::RollbackStarting => rollout.is_some_and(|rollout| {
            let failed = |other| world.may_have_failed(other, group, rollout);
            rollout.spec.abort.is_some() || world.members(&group.name).any(failed)
        }),
        Reason::NextPass => made.next.is_some_and(|next| next <= now),
        Reason::Downloading | Reason::Downloaded => {
            let is_ahead = group.strategy.download == DownloadTime::Ahead;
            is_ahead && (device.download().is_some() || is_granted(made, &device.name, Stage::Download))
        }
        // Nothing of that is in this world.
        Reason::VersionsNotComparable
        | Reason::DuplicateMac
        | Reason::WrongModel
        | Reason::ConfigNotForModel
        | Reason::TemplateError
        | Reason::UnknownTimeZone
        | Reason::HttpNotAnnounced => false,
        Reason::Updating | Reason::Overlap | Reason::NotApproved => false,
    }
}

/// On its way by our word, or about to be.
fn is_updating(world: &World, made: &Plan, number: usize) -> bool {
    let name = &world.names[number];
    is_granted(made, name, Stage::Activate)
        || world.account.open.contains_key(&number)
        || world.snapshot.in_doubt.contains_key(name)
}

/// A plan gives it a target of that stage.
fn is_granted(made: &Plan, name: &str, stage: Stage) -> bool {
    let mut grants = made.devices.iter().filter(|write| write.change == Change::Granted && *write.device == *name);
    grants.any(|write| write.decisions.target.as_ref().is_some_and(|target| target.stage == stage))
}

/// The other devices that share a value with a device, or did when they were granted.
fn neighbours(world: &World, number: usize) -> impl Iterator<Item = usize> {
    (0..world.real.len()).filter(move |other| {
        let shares = |label: &str| {
            let value = world.device(number).labels.get(label);
            let before = world.account.permission(*other).and_then(|open| open.labels.get(label));
            value.is_some() && (value == world.device(*other).labels.get(label) || value == before)
        };
        *other != number && (shares("site") || shares("pair"))
    })
}

/// What is written of groups and rollouts adds up, and never says two things at once.
pub fn counts_add_up(world: &World) -> Result<(), String> {
    for group in world.snapshot.groups.values() {
        let status = &group.status;
        let holds = |type_: &str| {
            status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
        };
        if holds("Reconciling") && holds("Stalled") || holds("Ready") && (holds("Reconciling") || holds("Stalled")) {
            broken!(8, "{} says two things at once: {:?}", group.name, status.conditions);
        }
        adds_up(&group.name, &status.counts, &status.reasons)?;
        if world.wrote_all && status.counts.total as usize != world.members(&group.name).count() {
            broken!(8, "{} counts {:?}, and has others", group.name, status.counts);
        }
        if world.wrote_all && group.selector.match_labels.is_empty() && status.counts.total > 0 {
            broken!(7, "{} selects nothing, and counts {:?}", group.name, status.counts);
        }
        let shared = world.members(&group.name).find(|number| world.groups_of(*number).len() > 1);
        if let Some(number) = shared.filter(|_| world.wrote_all && !status.conditions.is_empty()) {
            let message = status.message.as_deref().unwrap_or_default();
            let invalid = world.snapshot.groups[&group.name]
                .firmware
                .as_ref()
                .is_none_or(|name| !world.snapshot.firmwares.contains_key(name));
            let other = world.groups_of(number).into_iter().find(|other| other.name != group.name);
            if !invalid && !other.is_some_and(|other| message.contains(&*other.name)) {
                broken!(
                    7,
                    "{} does not say that {:?} selects d{number} too: {message}",
                    group.name,
                    other.map(|it| &it.name)
                );
            }
        }
    }
    for rollout in world.snapshot.rollouts.values() {
        adds_up(&rollout.name, &rollout.status.counts, &rollout.status.reasons)?;
    }
    Ok(())
}

fn adds_up(name: &str, counts: &Counts, reasons: &BTreeMap<String, i64>) -> Result<(), String> {
    let parts = counts.current + counts.updating + counts.waiting + counts.failed + counts.offline;
    if counts.total != parts || reasons.values().sum::<i64>() != counts.total - counts.current {
        broken!(8, "{name} counts {counts:?}, and says {reasons:?}");
    }
    Ok(())
}
