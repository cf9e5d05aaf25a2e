//! Rule 1: never more devices unavailable through us than any limit allows.

use std::collections::BTreeMap;

use fettle_controller::plan::model::Target;
use fettle_controller::plan::output::{Change, Plan};
use fettle_crds::Stage;

use super::broken;
use crate::world::World;

/// The targets that a plan grants, by the numbers of their devices.
fn granted<'a>(world: &World, made: &'a Plan) -> BTreeMap<usize, &'a Target> {
    let grants = made.devices.iter().filter(|write| write.change == Change::Granted);
    let targets = grants.filter_map(|write| Some((world.number(&write.device), write.decisions.target.as_ref()?)));
    // Who fetches ahead is in service.
    targets.filter(|(_, target)| target.stage == Stage::Activate).collect()
}

/// On its way by our word, as far as is known.
fn is_updating(world: &World, number: usize) -> bool {
    world.account.open.contains_key(&number) || world.snapshot.in_doubt.contains_key(&world.names[number])
}

/// Down, and nobody is about to bring it back: offline, or failed and not connected, or taken down by us and never back.
fn is_down(world: &World, number: usize) -> bool {
    let failed = world.groups_of(number).iter().any(|group| {
        // On the way back it is not where it was to go to, but may be where it is to be.
        let rollout = world.standing_rollout(group).filter(|rollout| rollout.status.rollback.is_none());
        rollout.is_some_and(|rollout| world.has_failed_for_certain(number, group, rollout))
    });
    let real = &world.real[number];
    let is_cut_off = real.lost.is_some_and(|lost| lost <= world.now) && !real.is_sent_away(world.now);
    // Those who look can know of it when the bridge has said that its try is over.
    world.is_away(number) || (is_cut_off && (failed || real.down_by.is_some()) && !bridge_is_starting(world, number))
}

/// For the grace after the start of a bridge nothing is said of its former sessions.
fn bridge_is_starting(world: &World, number: usize) -> bool {
    let session = world.device(number).facts.session.as_ref();
    session.is_some_and(|session| {
        let bridge = &world.snapshot.bridges[&session.bridge];
        bridge.incarnation.as_ref() != Some(&session.incarnation)
            && bridge.started + world.snapshot.settings.reconnect_grace > world.now
    })
}

/// Where a plan grants, no group has more devices unavailable than `maxUnavailable` allows.
pub fn of_groups(world: &World, made: &Plan) -> Result<(), String> {
    let grants = granted(world, made);
    for (number, target) in &grants {
        let groups = world.groups_of(*number);
        let Some(group) = groups.first() else { continue };
        let rollout = world.snapshot.rollouts.values().find(|rollout| rollout.uid == target.rollout_uid);
        let is_back = rollout.is_some_and(|rollout| rollout.status.rollback.is_some());
        let members: Vec<usize> = world.members(&group.name).collect();
        let total = members.iter().filter(|number| !world.device(**number).held).count();
        let limit = group.strategy.max_unavailable.of_rounded_down(total);
        let updating: Vec<usize> = (0..world.real.len())
            .filter(|number| {
                let was_ours = world.account.permission(*number).is_some_and(|open| open.group == group.name);
                (is_updating(world, *number) && (members.contains(number) || was_ours))
                    || grants.contains_key(number) && members.contains(number)
            })
            .collect();
        let down: Vec<usize> = members
            .iter()
            .copied()
            .filter(|number| !updating.contains(number) && !world.device(*number).held && is_down(world, *number))
            // On the way back those that failed in the rollout take no slot.
            .filter(|number| {
                !rollout.is_some_and(|it| world.may_be_lost_by(*number, it, group.strategy.device_timeout))
            })
            .collect();
        let away = updating.len() + down.len();
        if away > limit && !(is_back && updating.len() == 1) {
            broken!(
                1,
                "{} is granted, and then {updating:?} and {down:?} of {} are away: {limit} may",
                world.names[*number],
                group.name
            );
        }
    }
    Ok(())
}

/// Where a plan grants, no domain has more devices unavailable than any group with a device in it allows.
pub fn of_domains(world: &World, made: &Plan) -> Result<(), String> {
    let grants = granted(world, made);
    for number in grants.keys() {
        for label in ["site", "pair"] {
            let Some(value) = world.device(*number).labels.get(label) else { continue };
            let is_here = |number: &usize| world.device(*number).labels.get(label) == Some(value);
            let here = (0..world.real.len())
                .filter(is_here)
                .filter(|number| !world.device(*number).held || is_updating(world, *number));
            let limits = here.flat_map(|number| world.groups_of(number)).flat_map(|group| &group.strategy.spread);
            let limit = limits.filter(|spread| spread.label == label).map(|spread| spread.max_unavailable).min();
            let Some(limit) = limit else { continue };
            let counts = |number: &usize| {
                let was_here =
                    world.account.permission(*number).is_some_and(|open| open.labels.get(label) == Some(value));
                let updating = is_updating(world, *number) && (is_here(number) || was_here);
                let granted = grants.contains_key(number) && is_here(number);
                let down = !world.device(*number).held && is_here(number) && is_down(world, *number);
                updating || granted || down
            };
            let away: Vec<usize> = (0..world.real.len()).filter(counts).collect();
            if away.len() > limit as usize {
                broken!(
                    1,
                    "{} is granted, and then {away:?} of {label}={value} are away: {limit} may",
                    world.names[*number]
                );
            }
        }
    }
    Ok(())
}
