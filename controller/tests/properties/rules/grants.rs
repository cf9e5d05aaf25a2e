//! Rules 2 to 7, where a try is granted and where its first command is sent: by whom, to whom, when, and what.

use fettle_controller::plan::model::{Group, Open, Rollout, Target};
use fettle_controller::plan::output::{Change, Plan};
use fettle_crds::{Abort, DownloadTime, FirmwarePolicy, OnFailure, Stage};
use jiff::SignedDuration;

use super::{broken, steps};
use crate::world::World;
use crate::world::account::{Direction, scheduled};
use crate::world::fleet::REPORTS;

/// What has to hold where a device may fetch before its window: nothing stops its rollout, and it is the right thing.
pub fn ahead(world: &World, number: usize, target: &Target) -> Result<(), String> {
    let (name, now) = (&world.names[number], world.now);
    let groups = world.groups_of(number);
    let [group] = groups.as_slice() else {
        broken!(7, "{name} may fetch ahead, and {} groups select it", groups.len());
    };
    let rollout = world.standing_rollout(group).filter(|rollout| rollout.uid == target.rollout_uid);
    let Some(rollout) = rollout else { broken!(6, "{name} may fetch ahead for {}, which is over", target.rollout) };
    let is_stopped = group.paused || rollout.spec.paused == Some(true) || rollout.spec.abort.is_some();
    if is_stopped || rollout.status.rollback.is_some() || world.times[&group.name].is_frozen(now) {
        broken!(2, "{name} may fetch ahead, and {} is stopped", rollout.name);
    }
    if world.device(number).held || !world.device(number).approved || !world.seems_connected(number) {
        broken!(4, "{name} may fetch ahead, and is held, not approved, or not there");
    }
    if group.strategy.download != DownloadTime::Ahead || world.meets(number, group) || target.firmware.is_none() {
        broken!(4, "{name} may fetch ahead for nothing: {:?}", target.firmware);
    }
    release(world, number, target, group)
}

/// What has to hold of one grant. `planned`: whom the same plan grants before.
pub fn grant(world: &World, number: usize, target: &Target, planned: &[usize]) -> Result<(), String> {
    let (device, name, now) = (world.device(number), &world.names[number], world.now);
    let groups = world.groups_of(number);
    let [group] = groups.as_slice() else {
        broken!(7, "{name} is granted, and {} groups select it", groups.len());
    };
    let rollout = world.newest(&group.name).filter(|rollout| rollout.uid == target.rollout_uid);
    let Some(rollout) = rollout.filter(|rollout| world.stands(rollout, group)) else {
        broken!(6, "{name} is granted in {}, which does not stand for what {} wants", target.rollout, group.name);
    };
    if !device.approved || device.held {
        broken!(2, "{name} is granted, and is held or not approved");
    }
    if !world.seems_connected(number) {
        broken!(4, "{name} is granted, and is not there");
    }
    // What it has fetched goes on under its id.
    let fetched = device.download().map(|ahead| ahead.target.id);
    let last = world.account.last_id.get(&number).filter(|last| fetched != Some(**last) || target.id != **last);
    if last.is_some_and(|last| target.id <= *last) {
        broken!(6, "{name} is granted {}, and had that already", target.id);
    }
    if world.account.permission(number).is_some_and(|open| open.begun) {
        broken!(6, "{name} is granted, and its former try has begun");
    }
    let begins = scheduled(target).unwrap_or(now);
    if begins < now
        || target.until != begins + group.strategy.device_timeout
        || target.start_by > now + SignedDuration::from_secs(60)
    {
        broken!(2, "{name} is granted for too long: {} {}", target.start_by, target.until);
    }
    if world.real[number].told.as_deref() != Some(&*target.from) {
        broken!(3, "{name} is granted what was planned on {}, and said {:?}", target.from, world.real[number].told);
    }
    if group.paused || rollout.spec.paused == Some(true) {
        broken!(2, "{name} is granted, and {} is paused", rollout.name);
    }
    if rollout.spec.abort == Some(Abort::Stop) {
        broken!(2, "{name} is granted, and {} is aborted", rollout.name);
    }
    if rollout.status.rollback.is_some() {
        back(world, number, target, rollout)
    } else {
        forward(world, number, target, group, rollout, planned)
    }
}

/// Rule 5: on the way back, to what it ran before, and nobody else.
fn back(world: &World, number: usize, target: &Target, rollout: &Rollout) -> Result<(), String> {
    let name = &world.names[number];
    let Some(before) = world.account.before.get(&(rollout.uid.clone(), number)) else {
        broken!(5, "{name} is sent back, and {} has not granted it", rollout.name);
    };
    if target.firmware.as_ref().is_some_and(|firmware| Some(&firmware.reports) != before.version.as_ref()) {
        broken!(5, "{name} is sent to {:?}, and ran {before:?}", target.firmware);
    }
    if target.config.as_ref().is_some_and(|config| Some(config.identity.as_str()) != before.config.as_deref()) {
        broken!(5, "{name} is sent to {:?}, and ran {before:?}", target.config);
    }
    Ok(())
}

fn forward(
    world: &World,
    number: usize,
    target: &Target,
    group: &Group,
    rollout: &Rollout,
    planned: &[usize],
) -> Result<(), String> {
    let (name, now) = (&world.names[number], world.now);
    clock(world, number, target, group)?;
    if rollout.spec.abort.is_some() {
        broken!(2, "{name} is granted, and {} is aborted", rollout.name);
    }
    let (meets, is_farewell) = (world.meets(number, group), target.done);
    if meets != is_farewell {
        broken!(4, "{name} is granted for {:?}, and what it said makes that {meets}", target.firmware);
    }
    if target.attempt > group.strategy.retries + 1 {
        broken!(2, "{name} is granted its try {}", target.attempt);
    }
    release(world, number, target, group)?;
    if is_farewell {
        return Ok(());
    }
    let is_retried = world.account.has_tried(number, &rollout.uid)
        && (world.account.retried.contains(&(rollout.uid.clone(), number))
            || rollout.spec.retry_at.is_some_and(|at| at <= now));
    if !is_retried {
        let used = world.account.used(number, &rollout.uid, Direction::Forward);
        if target.attempt != used + 1 {
            broken!(2, "{name} is granted its try {}, and {used} have failed", target.attempt);
        }
        budget(world, name, group, rollout)?;
    }
    steps::grant(world, number, group, rollout, planned)
}

/// Rule 2: no window is closed, no freeze holds, and nobody begins who would not finish.
fn clock(world: &World, number: usize, target: &Target, group: &Group) -> Result<(), String> {
    let (name, now) = (&world.names[number], world.now);
    let times = &world.times[&group.name];
    if times.is_frozen(now) {
        broken!(2, "{name} is granted in a freeze: {times:?}");
    }
    // What has a time of its own may be told before the window that this is in.
    let begins = scheduled(target).unwrap_or(now);
    let Some(closes) = times.closes(begins) else {
        broken!(2, "{name} is granted outside a window, or in a freeze: {times:?}");
    };
    let timeout = group.strategy.device_timeout;
    let expected = world.account.shortest.get(&group.name).map_or(timeout, |shortest| timeout.min(*shortest));
    if begins + expected > closes || target.start_by + expected > closes {
        broken!(2, "{name} is granted, may begin until {}, and would not finish by {closes}", target.start_by);
    }
    Ok(())
}

/// Rule 3: the right image, verified, not older, and no stepping stone left out.
fn release(world: &World, number: usize, target: &Target, group: &Group) -> Result<(), String> {
    let name = &world.names[number];
    let Some(wish) = world.wish(group, number) else {
        broken!(3, "{name} is granted, and {} wants nothing that is for it", group.name);
    };
    let is_scheduled = world.times[&group.name].apply_at.is_some() && wish.config.is_some();
    let is_there = wish.release.is_some_and(|release| REPORTS[release] == &*target.from);
    let to = match &target.firmware {
        // Its configuration goes by itself, where it has a time, when the firmware is there.
        None if is_scheduled && is_there => wish.release,
        None if wish.release.is_some() => broken!(3, "{name} is granted no firmware, and release {wish:?} is wanted"),
        None => None,
        Some(firmware) => match world.release_of(&firmware.content, number) {
            None => broken!(3, "{name} is granted {}, which is not for {}", firmware.version, world.real[number].model),
            Some(release) if REPORTS[release] != firmware.reports => {
                broken!(3, "{name} is granted {}, under the report of another: {}", firmware.version, firmware.reports);
            }
            release => release,
        },
    };
    let config = target.config.as_ref().map(|config| config.identity.as_str());
    let goes_along = !is_scheduled || target.firmware.is_none();
    if to == wish.release && config != wish.config.as_deref().filter(|_| goes_along) {
        broken!(3, "{name} is granted {config:?} with the last release, and {wish:?} is wanted");
    }
    if to != wish.release && config.is_some() {
        broken!(3, "{name} is granted {config:?} with a stepping stone");
    }
    if !target.done && scheduled(target).is_some() != (is_scheduled && config.is_some()) {
        broken!(2, "{name} is granted {:?}, and its group has {:?}", target.config, world.times[&group.name]);
    }
    let Some(to) = to else { return Ok(()) };
    let from = crate::world::order(&target.from);
    if from == to {
        return Ok(());
    }
    if !world.is_verified(to) {
        broken!(3, "{name} is granted release {}, which is not verified", to + 1);
    }
    if group.policy == FirmwarePolicy::UpgradeOnly && to < from {
        broken!(3, "{name} is taken from {} to the older {}", from + 1, to + 1);
    }
    if world.fleet.releases[to].from > from {
        broken!(3, "{name} is taken from {} to {} past a stepping stone", from + 1, to + 1);
    }
    Ok(())
}

/// Rules 2 and 5: not when more have failed than may.
fn budget(world: &World, name: &str, group: &Group, rollout: &Rollout) -> Result<(), String> {
    let failed = |number: &usize| world.has_failed_for_certain(*number, group, rollout);
    let failed: Vec<usize> = world.members(&group.name).filter(failed).collect();
    let allowed = match rollout.spec.accept_failures {
        Some(accepted) => accepted as usize,
        None => group.strategy.failure_budget.at_most_of(steps::largest(world, group, rollout)),
    };
    if failed.len() > allowed {
        broken!(5, "{name} is granted, and {failed:?} of {} have failed: {allowed} may", rollout.name);
    }
    Ok(())
}

/// Rules 2 and 3, where the first command is sent: what held at the grant holds still, as far as the controller has looked.
pub fn first_command(world: &World, number: usize, target: &Target) -> Result<(), String> {
    let name = &world.names[number];
    if world.real[number].version != *target.from && !is_there(world, number, target) {
        broken!(3, "{name} is commanded what was planned on {}, and runs {}", target.from, world.real[number].version);
    }
    if target.stage == Stage::Download {
        return Ok(());
    }
    let rollout = world.snapshot.rollouts.values().find(|rollout| rollout.uid == target.rollout_uid);
    let Some(rollout) = rollout.filter(|rollout| rollout.status.rollback.is_none()) else { return Ok(()) };
    let Some(times) = world.times.get(rollout.spec.group.as_str()) else { return Ok(()) };
    // A person may say something between two passes.
    let is_open = match scheduled(target) {
        Some(_) => !times.is_frozen(world.now),
        None => times.closes(world.now).is_some(),
    };
    if world.wrote_all && times.changed_at < world.planned_at && !is_open {
        broken!(2, "{name} is commanded outside a window, or in a freeze: {times:?}");
    }
    Ok(())
}

fn is_there(world: &World, number: usize, target: &Target) -> bool {
    target.firmware.as_ref().is_none_or(|firmware| firmware.reports == world.real[number].version)
}

/// Rule 2, after a pass: no target that has not begun is left without what it was granted on.
pub fn what_has_not_begun_is_backed(world: &World, made: &Plan) -> Result<(), String> {
    for (number, permission) in &world.account.open {
        let (device, name) = (world.device(*number), &world.names[*number]);
        let Some(Open { target, has_begun: false }) = device.open_target() else { continue };
        if world.snapshot.in_doubt.contains_key(name) {
            continue;
        }
        let groups = world.groups_of(*number);
        let [group] = groups.as_slice() else {
            broken!(7, "{name} keeps {}, and {} groups select it", permission.id, groups.len());
        };
        if world.standing_rollout(group).is_none_or(|rollout| rollout.uid != permission.rollout) {
            broken!(6, "{name} keeps {} of {}, which is superseded", permission.id, target.rollout);
        }
        let rollout = world.standing_rollout(group).expect("it was just found");
        let is_back = rollout.status.rollback.is_some();
        let is_turning = rollout.spec.abort == Some(Abort::Rollback) && !is_back;
        let is_stopped = group.paused || rollout.spec.paused == Some(true) || rollout.spec.abort == Some(Abort::Stop);
        if is_stopped || is_turning || device.held || !device.approved {
            broken!(2, "{name} keeps {}, and {} or the device is stopped", permission.id, rollout.name);
        }
        let told = world.real[*number].told.as_deref();
        if told != Some(&*target.from) && target.firmware.as_ref().is_none_or(|it| told != Some(&*it.reports)) {
            broken!(3, "{name} keeps {} from {}, and said {told:?}", permission.id, target.from);
        }
        let was_retried =
            world.account.retried.contains(&(rollout.uid.clone(), *number)) || rollout.spec.retry_at.is_some();
        let goes_on = is_back || was_retried || made.devices.iter().any(|write| write.device == *name);
        // A try that the controller itself has ended just now counts in the pass that follows.
        let is_counted = made.devices.iter().all(|write| write.change != Change::Judged);
        if group.strategy.on_failure == OnFailure::Pause && !goes_on && is_counted {
            budget(world, name, group, rollout)?;
        }
    }
    Ok(())
}
