//! Rule 10: when the faults end, every device that can be reached becomes current, or what keeps it is named.

use std::collections::BTreeSet;

use fettle_controller::plan::Reason;
use fettle_controller::plan::model::Readiness;
use fettle_controller::plan::output::Plan;
use jiff::SignedDuration;

use super::{broken, come_to_rest};
use crate::world::World;
use crate::world::bridge::BRIDGES;
use crate::world::fleet::{self, ROLES};

/// In so many jumps of the clock, each to when something happens next, any fleet of the test has arrived: of 40 devices, one
/// by one, each takes five hops of a dozen things that happen, and a window of an hour lets through a few a day.
const JUMPS: usize = 6000;

/// When for so long nobody is granted anything, nobody will be: windows open each day, and no soak is longer than one.
const QUIET: SignedDuration = SignedDuration::from_hours(72);

/// No group of the test lists more steps.
const STEPS: usize = 3;

/// The faults end: who can come back does, and nothing goes wrong any more.
fn the_faults_end(world: &mut World) {
    for bridge in 0..BRIDGES.len() {
        if !world.lives[bridge] {
            world.start(bridge);
        }
    }
    for real in &mut world.real {
        real.tempers.clear();
        real.drops_at.clear();
        real.falls_back = None;
        real.come_back(world.now);
    }
    for firmware in world.snapshot.firmwares.values_mut() {
        firmware.readiness = Readiness::Ready;
    }
}

/// Lets the world go on until nothing moves any more.
fn go_on(world: &mut World, mut help: impl FnMut(&mut World)) -> Result<Plan, String> {
    let mut last = (world.account.happened, world.now);
    for _ in 0..JUMPS {
        help(world);
        let made = come_to_rest(world)?;
        if world.account.happened != last.0 || !world.account.open.is_empty() {
            last = (world.account.happened, world.now);
        }
        if last.1 + QUIET < world.now && !world.somebody_moves() {
            return Ok(made);
        }
        let known = world.version;
        world.live_until(world.now + SignedDuration::from_secs(1))?;
        if world.version > known {
            continue;
        }
        let horizon = world.now + SignedDuration::from_hours(24 * 14);
        let next = made.next.into_iter().chain(world.next_act()).filter(|at| *at < horizon).min();
        let Some(next) = next else {
            // Of steps that nobody is in, each has to be let past.
            let happened = world.account.happened;
            for _ in 0..STEPS {
                help(world);
                come_to_rest(world)?;
            }
            let made = come_to_rest(world)?;
            if world.account.happened == happened {
                return Ok(made);
            }
            continue;
        };
        world.live_until(next.max(world.now))?;
    }
    let made = come_to_rest(world)?;
    let waiting: Vec<_> = made.waiting(&world.snapshot).collect();
    broken!(10, "the fleet does not come to rest in {JUMPS} jumps: {waiting:?}")
}

/// What keeps a device is something that is really there, when no fault is left and nobody helps.
pub fn what_keeps_devices_is_named(world: &mut World) -> Result<(), String> {
    the_faults_end(world);
    let made = go_on(world, |_| {})?;
    let said: BTreeSet<Reason> = made.waits.iter().map(|(_, reason)| *reason).collect();
    for (name, reason) in made.waiting(&world.snapshot) {
        let is_named = match reason {
            // Nothing moves any more, so nobody is on the way.
            Reason::Updating
            | Reason::Settling
            | Reason::WaitingForSlot
            | Reason::Retrying
            | Reason::BackingOff
            | Reason::WaitingForSpread
            | Reason::Soaking
            | Reason::RollbackStarting
            | Reason::RolloutStarting
            | Reason::NextPass
            | Reason::FirmwareNotReady
            | Reason::BridgeStarting
            | Reason::Reconnecting => false,
            // Who was sent away is sent away again until it is known what the group wants.
            Reason::Dismissed => {
                let groups = world.groups_of(world.number(name));
                groups.iter().any(|group| world.standing_rollout(group).is_none())
            }
            // Somebody else of the group is kept, for a reason that is a way out.
            Reason::WaitingForStep => said.iter().any(|reason| {
                matches!(
                    reason,
                    Reason::BlockedByUnavailable | Reason::BlockedBySpread | Reason::Offline | Reason::Failed(_)
                ) || reason.is_left_behind()
            }),
            _ => true,
        };
        if !is_named {
            broken!(10, "nothing moves any more, and {name} is {reason:?}");
        }
    }
    Ok(())
}

/// With a new revision, and a person who takes the dead out, lets go on what is held, and approves, every device that has a
/// way becomes current, and the groups say so.
pub fn every_device_becomes_current(world: &mut World) -> Result<(), String> {
    the_faults_end(world);
    let now = world.now;
    for number in 0..world.real.len() {
        world.make_right(number);
    }
    let profile = fleet::profile("calm", now);
    let name = profile.name.clone();
    world.snapshot.profiles.insert(name.clone(), profile);
    for number in 0..ROLES.len() {
        world.set_freeze(number, None);
        world.want(number, "fw-5".to_owned(), Some(name.to_string()));
        world.group(number, |group| group.paused = false);
    }
    let made = go_on(world, |world| {
        for number in 0..ROLES.len() {
            world.approve(number);
        }
        // A flash that had begun before the faults ended may be the end of a device yet.
        for number in 0..world.real.len() {
            if world.real[number].is_dead() && !world.snapshot.devices[&world.names[number]].held {
                world.make_right(number);
            }
        }
    })?;
    for (name, reason) in made.waiting(&world.snapshot) {
        let number = world.number(name);
        let is_dead = world.real[number].is_dead();
        let has_no_way = match reason {
            Reason::NewerThanDesired | Reason::NoUpgradePath | Reason::NoImageForModel => true,
            _ => is_dead && reason == Reason::Held,
        };
        if !has_no_way {
            broken!(10, "{name} is not current in the end: {reason:?}");
        }
    }
    for role in ROLES {
        let status = &world.snapshot.groups[role].status;
        let somebody = status.counts.current > 0 || status.counts.total == 0;
        if somebody && !matches!(status.phase.as_deref(), Some("Complete" | "Empty")) {
            broken!(10, "{role} is not complete in the end: {status:?}");
        }
    }
    Ok(())
}

/// Devices that did as they were told, with nobody in the way but approvals: all are current, and none has failed.
pub fn honest_devices_arrive(world: &mut World) -> Result<(), String> {
    the_faults_end(world);
    let made = go_on(world, |world| {
        for number in 0..ROLES.len() {
            world.approve(number);
        }
    })?;
    for (name, reason) in made.waiting(&world.snapshot) {
        let has_no_way = matches!(
            reason,
            Reason::NewerThanDesired | Reason::NoUpgradePath | Reason::NoImageForModel | Reason::Overlap
        );
        if !has_no_way {
            broken!(10, "{name} did all that it was told, and is not current in the end: {reason:?}");
        }
    }
    Ok(())
}
