//! Rules 2 and 4: whom a step takes on, and that none begins before the ones before it are done.
//!
//! A step is watched from outside. The earliest instant at which it could be over is kept; a grant in a later step must not
//! be earlier than that.

use std::collections::BTreeMap;

use fettle_controller::plan::model::{Group, Rollout};
use fettle_crds::{Approval, Step};
use jiff::SignedDuration;

use super::broken;
use crate::world::World;
use crate::world::account::{StepSeen, Uid};

/// The devices that a step is about.
fn about<'a>(world: &'a World, group: &'a Group, step: Option<&'a Step>) -> impl Iterator<Item = usize> + 'a {
    world.members(&group.name).filter(move |number| {
        let device = world.device(*number);
        let is_chosen = step
            .and_then(|step| step.selector.as_ref())
            .is_none_or(|_| device.labels.get("ring").is_some_and(|ring| **ring == *"canary"));
        is_chosen && device.approved && !device.held && world.groups_of(*number).len() == 1
    })
}

/// Looks at the steps of all rollouts that stand for what their groups want.
pub fn observe(world: &mut World) {
    let mut observed: BTreeMap<Uid, Vec<StepSeen>> = BTreeMap::new();
    for group in world.snapshot.groups.values() {
        let Some(rollout) = world.standing_rollout(group) else { continue };
        let mut seen = world.account.steps.get(&rollout.uid).cloned().unwrap_or_default();
        seen.resize(rollout.spec.steps.len() + 1, StepSeen::default());
        for number in 1..=seen.len() {
            let step = rollout.spec.steps.get(number - 1);
            let devices: Vec<usize> = about(world, group, step).collect();
            let size = step.map_or(devices.len(), |step| step.devices.of_rounded_up(devices.len()));
            let (least, most) = seen[number - 1].sizes.unwrap_or((size, size));
            seen[number - 1].sizes = Some((least.min(size), most.max(size)));
            let Some(step) = step else { break };
            look_at(world, group, rollout, number, step, &devices, &mut seen[number - 1]);
            if !seen[number - 1].passed {
                break;
            }
        }
        observed.insert(rollout.uid.clone(), seen);
    }
    world.account.steps.extend(observed);
}

/// Whether a step may be over.
fn look_at(
    world: &World,
    group: &Group,
    rollout: &Rollout,
    number: usize,
    step: &Step,
    devices: &[usize],
    seen: &mut StepSeen,
) {
    let is_granted = |number: &&usize| world.account.granted.contains_key(&(rollout.uid.clone(), **number));
    let granted: Vec<usize> = devices.iter().filter(is_granted).copied().collect();
    let meets = |number: &usize| world.meets(*number, group);
    let is_settled = |number: &usize| {
        let open = world.account.open.contains_key(number);
        !open && (meets(number) || world.may_have_failed(*number, group, rollout))
    };
    let everybody_is_there = !devices.is_empty() && devices.iter().all(meets);
    let somebody_is_current = granted.iter().any(meets)
        || (granted.is_empty() && devices.iter().any(meets))
        || rollout.spec.accept_failures.is_some();
    let least = seen.sizes.map_or(0, |(least, _)| least);
    let is_full = granted.len() >= least
        || !devices.iter().any(|number| could_begin(world, group, *number) && !granted.contains(number));
    let is_done = is_full && granted.iter().all(is_settled) && somebody_is_current && !devices.is_empty();
    let is_approved = rollout.spec.approved_step.is_some_and(|approved| approved as usize >= number);
    if is_done {
        seen.done_since.get_or_insert(world.now);
    } else if world.wrote_all {
        // Else the rollout may not have been told that it is not.
        seen.done_since = None;
    }
    let soak = step.soak.and_then(|soak| SignedDuration::try_from(soak.0).ok()).unwrap_or_default();
    let has_soaked = seen.done_since.filter(|_| is_done).is_some_and(|since| since + soak <= world.now);
    let may_go_on = step.approval == Approval::None || is_approved;
    let is_let_pass = is_approved && granted.is_empty() && !devices.iter().any(meets);
    seen.passed |= everybody_is_there || (has_soaked && may_go_on) || is_let_pass;
}

/// Whether it is plain that a device could be granted, limits apart.
fn could_begin(world: &World, group: &Group, number: usize) -> bool {
    let Some(wish) = world.wish(group, number) else { return false };
    let has_way = wish.release.is_none_or(|release| world.has_path(number, release, group.policy));
    world.seems_connected(number) && !world.meets(number, group) && has_way
}

/// The largest number of devices that a step that may have begun can be about, or that the group has.
pub fn largest(world: &World, group: &Group, rollout: &Rollout) -> usize {
    let seen = world.account.steps.get(&rollout.uid);
    let reached = seen.map_or(0, |seen| seen.iter().filter_map(|step| Some(step.sizes?.1)).max().unwrap_or(0));
    let is_last = seen.is_some_and(|seen| seen.iter().rev().skip(1).all(|step| step.passed));
    let takes_all = rollout.spec.steps.last().is_some_and(|step| step.selector.is_none());
    if is_last || takes_all { reached.max(world.members(&group.name).count()) } else { reached }
}

/// A first grant in a rollout is within the step that the rollout is at. `planned`: whom the same plan grants before.
pub fn grant(world: &World, number: usize, group: &Group, rollout: &Rollout, planned: &[usize]) -> Result<(), String> {
    let name = &world.names[number];
    if world.account.granted.contains_key(&(rollout.uid.clone(), number)) {
        return Ok(());
    }
    let seen = &world.account.steps[&rollout.uid];
    let passed = seen.iter().take_while(|step| step.passed).count();
    let reached = passed.min(rollout.spec.steps.len());
    // It may be taken on by any step that was reached, for the rollout may not have seen yet that it is over.
    let takes = (0..=reached).any(|step| {
        let listed = rollout.spec.steps.get(step);
        let devices: Vec<usize> = about(world, group, listed).collect();
        let granted = |number: &&usize| {
            planned.contains(number) || world.account.granted.contains_key(&(rollout.uid.clone(), **number))
        };
        let taken = devices.iter().filter(granted).count();
        let most = seen[step].sizes.map_or(0, |(_, most)| most);
        devices.contains(&number) && (listed.is_none() || is_all(listed) || taken < most)
    });
    if !takes {
        broken!(2, "{name} is granted in {}, and no step that was reached takes it on: {seen:?}", rollout.name);
    }
    Ok(())
}

/// The last step may be listed.
fn is_all(step: Option<&Step>) -> bool {
    step.is_some_and(|step| step.selector.is_none() && step.devices == fettle_crds::IntOrPercent::Percent(100))
}
