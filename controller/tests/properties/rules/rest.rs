//! Rule 9: passes come to rest, and time alone changes nothing before it was said to.

use std::sync::Arc;

use fettle_controller::plan::output::Plan;
use fettle_controller::plan::plan;
use jiff::{SignedDuration, Timestamp};

use super::broken;
use crate::world::World;

/// More passes than this without anything new are a busy loop: contents and a rollout, a first status, grants, and their
/// counts are four.
const PASSES: usize = 8;

/// Whether a plan wants nothing written.
fn is_empty(plan: &Plan) -> bool {
    let Plan {
        contents,
        rollouts,
        devices,
        groups,
        rollout_statuses,
        profiles,
        deletions,
        waits: _,
        current: _,
        next: _,
        offline: _,
    } = plan;
    contents.is_empty()
        && rollouts.is_empty()
        && devices.is_empty()
        && groups.is_empty()
        && rollout_statuses.is_empty()
        && profiles.is_empty()
        && *deletions == Default::default()
}

/// The same snapshot has the same plan, also where what devices share is not shared.
fn has_one_plan(world: &World) -> Result<(), String> {
    let mut apart = world.snapshot.clone();
    for mut device in world.snapshot.devices.values().cloned() {
        let decisions = &mut device.decisions;
        decisions.previous = decisions.previous.take().map(|previous| Arc::new((*previous).clone()));
        if let Some(target) = &mut decisions.target {
            target.firmware = target.firmware.take().map(|firmware| Arc::new((*firmware).clone()));
            target.config = target.config.take().map(|config| Arc::new((*config).clone()));
        }
        apart.devices.insert(device);
    }
    let one = format!("{:?}", plan(&world.snapshot, world.now));
    let another = format!("{:?}", plan(&apart, world.now));
    if one != another {
        broken!(9, "the same snapshot has two plans: {one} {another}");
    }
    Ok(())
}

/// Plans until nothing is left to do at this instant; and looks at the last instant at which that should still be so.
pub fn come_to_rest(world: &mut World) -> Result<Plan, String> {
    for _ in 0..PASSES {
        has_one_plan(world)?;
        let made = world.plan()?;
        if !is_empty(&made) {
            continue;
        }
        if made.next.is_some_and(|next| next <= world.now) {
            broken!(9, "a plan that wants nothing wants to look again at {:?}, and it is {}", made.next, world.now);
        }
        let second = SignedDuration::from_secs(1);
        let next = made.next.unwrap_or(Timestamp::MAX);
        let before = (world.now + SignedDuration::from_hours(24 * 30)).min(next) - second;
        if before > world.now {
            let then = plan(&world.snapshot, before);
            if let Some(write) = then.devices.first() {
                broken!(
                    9,
                    "{} is {:?} at {before} by time alone, and the plan wanted to look at {:?}",
                    write.device,
                    write.change,
                    made.next
                );
            }
            if then.waits != made.waits {
                let then = then.waiting(&world.snapshot);
                let differs = then.zip(made.waiting(&world.snapshot)).find(|(then, now)| then != now);
                broken!(
                    9,
                    "a reason is another at {before} by time alone: {differs:?}; the plan wanted to look at {:?}",
                    made.next
                );
            }
        }
        return Ok(made);
    }
    let made = plan(&world.snapshot, world.now);
    broken!(9, "passes do not come to rest: {:?} {:?} {:?}", made.devices, made.groups, made.rollout_statuses)
}
