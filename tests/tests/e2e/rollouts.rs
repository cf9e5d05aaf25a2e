//! Rollouts in stages, with real parts: steps, approval, failures, the way back, revisions and groups that get in each
//! other's way.

use anyhow::{Context, Result};
use fettle_crds::{DeviceGroup, DeviceGroupStatus, DeviceRolloutStatus};
use fettle_device::faults::{Fault, FaultKind, Step};
use fettle_device::journal::{Entry, Event};
use fettle_device::{DeviceHandle, DeviceSpec};

use crate::world::{
    NEW, OLD, PATIENCE, World, booted, condition, device_does, most_restarting_at_once, received, strict, versions,
};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";
const NEXT: &str = "5.3.0";

impl World {
    /// Declares and switches on devices `sw-1` to `sw-N`, of which the first is labelled `ring: canary`. `faulty` says
    /// which downloads are damaged for ever.
    async fn ring(&mut self, devices: u8, faulty: impl Fn(u8) -> bool) -> Result<Vec<DeviceHandle>> {
        let mut specs = Vec::new();
        for number in 1..=devices {
            let mut spec = strict(number);
            if faulty(number) {
                spec.faults = vec![Fault::always(Step::Download3, FaultKind::Corrupt)];
            }
            let labels = if number == 1 { "{role: access, ring: canary}" } else { "{role: access}" };
            self.declare(&format!("sw-{number}"), spec.mac, labels).await?;
            specs.push(spec);
        }
        self.switch_on(specs).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_stops_the_rollout_before_anybody_else_is_touched_and_a_person_may_go_on() -> Result<()> {
    let mut world = World::start("canary-fails").await?;
    world.firmware(NEW).await?;
    let devices = world.ring(4, |number| number == 1).await?;
    let steps = "rollout: {maxUnavailable: 100%, retries: 0, steps: [{selector: {matchLabels: {ring: canary}}, devices: 100%}]}";
    world.group(&[FIRMWARE, steps, "logs: {upload: Never}"]).await?;
    let group = world.stalled("DevicesFailed").await?;
    assert_eq!(versions(&devices), [OLD; 4]);
    for untouched in &devices[1..] {
        assert_eq!(untouched.journal().counters().received(3), 0, "{}", untouched.journal());
    }
    let status = group.status.context("a stalled group has a status")?;
    assert_eq!(condition(&status.conditions, "BudgetHolds"), "False");
    assert_eq!(status.step.as_deref(), Some("1/2"));

    world.person("{\"acceptFailures\": 1}").await?;
    let rest = |group: &DeviceGroup| group.status.as_ref().is_some_and(|status| status.counts.current == 3);
    world.namespace.wait_for("access", "has 3 current devices", PATIENCE, rest).await?;
    assert_eq!(versions(&devices), [OLD, NEW, NEW, NEW]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_approval_which_applying_the_group_again_does_not_undo() -> Result<()> {
    let mut world = World::start("approval").await?;
    world.firmware(NEW).await?;
    let devices = world.ring(3, |_| false).await?;
    let lines = [FIRMWARE, "rollout: {maxUnavailable: 100%, steps: [{devices: 1, approval: Required}]}"];
    world.group(&lines).await?;
    let status = world.waits_for("Approval").await?;
    assert_eq!(condition(&status.conditions, "Stalled"), "False");
    assert_eq!(versions(&devices).iter().filter(|version| *version == NEW).count(), 1);

    world.person("{\"approvedStep\": 1}").await?;
    world.group(&lines).await?;
    world.all_current(3).await?;
    assert_eq!(versions(&devices), [NEW; 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_goes_back_to_what_each_device_ran_and_is_refused() -> Result<()> {
    let mut world = World::start("rollback").await?;
    world.firmware(OLD).await?;
    world.firmware(NEW).await?;
    let devices = world.ring(6, |number| number == 6).await?;
    world.firmware_is("access-4.9.0", "True", "Verified").await?;
    let rollout = "rollout: {maxUnavailable: 2, retries: 0, onFailure: Rollback}";
    world.group(&[FIRMWARE, rollout, "logs: {upload: Never}"]).await?;
    let group = world.stalled("RolledBack").await?;
    assert_eq!(versions(&devices), [OLD; 6], "{:?}", group.status);
    assert!(devices[..5].iter().any(|device| device.journal().boots().len() >= 2), "nobody had gone forward");
    let finished = |status: &DeviceRolloutStatus| {
        let rollback = status.rollback.as_ref();
        rollback.is_some_and(|rollback| rollback.reason == "BudgetExceeded" && rollback.finished_at.is_some())
    };
    world.rollout_until("access-1", "has finished its rollback", finished).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_devices_go_back_when_a_release_that_worked_at_first_fails_later() -> Result<()> {
    /// The release works on all before this one.
    const FAILS: u8 = 120;
    let mut world = World::start("rollback-200").await?;
    world.firmware(OLD).await?;
    world.firmware(NEW).await?;
    let specs = (1..=200).map(|number| {
        let mut spec = strict(number);
        if number == FAILS {
            spec.faults = vec![Fault::once(Step::Boot, FaultKind::ComeBackOld)];
        }
        (format!("sw-{number:03}"), "{role: access}", spec)
    });
    let devices = world.fleet(specs.collect()).await?;
    world.firmware_is("access-4.9.0", "True", "Verified").await?;
    let rollout =
        "rollout: {maxUnavailable: 10%, retries: 0, onFailure: Rollback, steps: [{devices: 1}, {devices: 10%}]}";
    let lines = [FIRMWARE, rollout, "logs: {upload: Never}"];
    world.group(&lines).await?;

    let status = world.stalled("RolledBack").await?.status.context("a stalled group has a status")?;
    let mut touched = 0;
    for device in &devices {
        assert_eq!(device.version(), OLD, "{}", device.journal());
        // Who has only fetched the image when the rollout turns is left as it is.
        let began = received(device).contains_key(&6);
        let expected: &[&str] = match (began, device.mac() == strict(FAILS).mac) {
            (false, _) => &[],
            (true, true) => &[OLD],
            (true, false) => &[NEW, OLD],
        };
        assert_eq!(booted(device), expected, "{}", device.journal());
        touched += i64::from(began);
    }
    // When the one that fails is granted, at most 20 before it are on their way; how many the other slots take
    // through before its failure is known is a matter of speed, but never all.
    assert!((i64::from(FAILS) - 20..200).contains(&touched), "{touched} devices were touched");
    let most = most_restarting_at_once(&devices);
    assert!(most <= 20, "{most} devices were down at once");
    let counts = status.counts;
    assert_eq!((counts.total, counts.current, counts.updating, counts.failed), (200, 0, 0, 0), "{status:?}");
    assert_eq!((counts.granted, counts.rolled_back), (touched, touched), "{status:?}");
    assert_eq!(status.reasons.get("RolledBack"), Some(&touched), "{status:?}");
    assert_eq!(status.reasons.get("Refused"), Some(&(200 - touched)), "{status:?}");

    // The revision stays refused: for who joins, and for who applies it again.
    let joins = world.device("sw-201", strict(201)).await?;
    world.connected("sw-201").await?;
    world.group(&[lines[0], lines[1], lines[2], "revisionHistoryLimit: 5"]).await?;
    let refused = |group: &DeviceGroup| {
        let Some(status) = &group.status else { return false };
        status.observed_generation == group.metadata.generation
            && status.counts.total == 201
            && status.reasons.get("Refused") == Some(&(201 - touched))
            && condition(&status.conditions, "Stalled") == "True"
    };
    let group = world.namespace.wait_for("access", "refuses the revision to who joins", PATIENCE, refused).await?;
    let status = group.status.context("it was just there")?;
    assert_eq!((status.last_rollout, status.counts.rolled_back), (1, touched), "{status:?}");
    assert!(received(&joins).is_empty(), "{}", joins.journal());

    // Another is not.
    world.firmware(NEXT).await?;
    world.group(&["firmware: {name: access-5.3.0}", "rollout: {maxUnavailable: 10%}"]).await?;
    world.all_current(201).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_comes_in_mid_rollout_waits_for_the_flash_that_runs_and_begins_with_the_canary() -> Result<()> {
    let mut world = World::start("supersede").await?;
    world.firmware(NEW).await?;
    world.firmware(NEXT).await?;
    // The rollout is at its second step when the next comes, with this device in the middle of its flash.
    let flashing = |number, spec: DeviceSpec| match number {
        2 => DeviceSpec { faults: vec![Fault::once(Step::Restart6, FaultKind::Freeze)], ..spec },
        _ => spec,
    };
    let specs = (1..=5).map(|number| {
        let labels = if number == 1 { "{role: access, ring: canary}" } else { "{role: access}" };
        (format!("sw-{number}"), labels, flashing(number, strict(number)))
    });
    let devices = world.fleet(specs.collect()).await?;
    let rollout = "rollout: {maxUnavailable: 1, steps: [{selector: {matchLabels: {ring: canary}}, devices: 100%}, {devices: 60%}]}";
    world.group(&[FIRMWARE, rollout]).await?;
    let (canary, in_flash, rest) = (&devices[0], &devices[1], &devices[2..]);
    device_does(in_flash, "is in the middle of its flash", |record| record.journal().counters().faults == 1).await?;
    assert_eq!(canary.version(), NEW, "{}", canary.journal());

    world.group(&["firmware: {name: access-5.3.0}", rollout]).await?;
    let superseded = |status: &DeviceRolloutStatus| status.phase.as_deref() == Some("Superseded");
    world.rollout_until("access-1", "is superseded", superseded).await?;
    // The flash that runs keeps the only slot, also from the canary.
    let holds = |status: &DeviceRolloutStatus| {
        status.counts.updating == 1
            && status.reasons.get("WaitingForSlot") == Some(&1)
            && status.reasons.get("WaitingForStep") == Some(&3)
            && status.step.as_ref().is_some_and(|step| step.progress == "1/3" && step.granted == 0)
    };
    world.rollout_until("access-2", "waits for the flash that runs", holds).await?;
    assert_eq!(received(canary).get(&3), Some(&1), "{}", canary.journal());

    in_flash.thaw();
    world.all_current(5).await?;
    assert_eq!(booted(canary), [NEW, NEXT], "{}", canary.journal());
    assert_eq!(booted(in_flash), [NEW, NEXT], "what was begun was finished\n{}", in_flash.journal());
    for device in rest {
        assert_eq!(booted(device), [NEXT], "{}", device.journal());
    }
    let canary_done = entry(canary, "runs the second release", |event| *event == booting(NEXT))?;
    for device in &devices[1..] {
        let commanded = device.journal().commands(3).last().map(|(at, _)| *at);
        assert!(commanded > Some(canary_done.at), "before the canary was done\n{}", device.journal());
    }
    assert_eq!(most_restarting_at_once(&devices), 1);
    Ok(())
}

fn booting(version: &str) -> Event {
    Event::Booted { version: version.to_owned() }
}

/// The first entry in the journal of a device that is so.
fn entry(device: &DeviceHandle, what: &str, is_so: impl Fn(&Event) -> bool) -> Result<Entry> {
    let journal = device.journal();
    let found = journal.entries().into_iter().find(|entry| is_so(&entry.event)).cloned();
    found.with_context(|| format!("{} never {what}\n{journal}", device.mac()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_two_groups_is_left_alone_by_both_which_say_so_until_one_of_them_lets_go() -> Result<()> {
    let mut world = World::start("overlap").await?;
    world.firmware(NEW).await?;
    world.firmware(NEXT).await?;
    let labels = [
        "{role: access, ring: canary}",
        // in both groups, and of the first step in one of them
        "{role: access, ring: canary, site: berlin}",
        "{role: access}",
        "{role: access}",
        "{role: edge, site: berlin}",
    ];
    let specs = (1..).zip(labels).map(|(number, labels)| (format!("sw-{number}"), labels, strict(number)));
    let devices = world.fleet(specs.collect()).await?;
    let berlin = |selector: &str| {
        format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {{name: berlin}}\nspec:\n  selector: {{matchLabels: {selector}}}\n  firmware: {{name: access-5.3.0}}\n"
        )
    };
    world.apply(&berlin("{site: berlin}")).await?;
    let overlap = |group: &'static str, other: &'static str, current: i64| {
        let is_so = move |group: &DeviceGroup| {
            let Some(DeviceGroupStatus { conditions, counts, reasons, message, .. }) = &group.status else {
                return false;
            };
            let stalled = conditions.iter().find(|is| is.type_ == "Stalled" && is.status == "True");
            let message = message.as_deref().unwrap_or_default();
            counts.current == current
                && reasons.get("Overlap") == Some(&1)
                && stalled.is_some_and(|stalled| stalled.reason == "OverlappingGroups")
                && message.contains(&format!("DeviceGroup {other} selects 1 of them too (sw-2)"))
        };
        let what = format!("has {current} current devices and says that it shares sw-2 with {other}");
        let namespace = &world.namespace;
        async move { namespace.wait_for::<DeviceGroup>(group, &what, PATIENCE, is_so).await }
    };
    let steps = "rollout: {steps: [{selector: {matchLabels: {ring: canary}}, devices: 100%}, {devices: 2}]}";
    world.group(&[FIRMWARE, steps]).await?;
    // Both go on with the devices that are theirs alone.
    overlap("access", "berlin", 3).await?;
    overlap("berlin", "access", 1).await?;
    assert_eq!(versions(&devices), [NEW, OLD, NEW, NEW, NEXT]);
    assert!(received(&devices[1]).is_empty(), "{}", devices[1].journal());

    world.apply(&berlin("{role: edge}")).await?;
    world.all_current(4).await?;
    let alone = |group: &DeviceGroup| {
        let Some(status) = &group.status else { return false };
        status.counts.total == 1 && condition(&status.conditions, "Ready") == "True"
    };
    world.namespace.wait_for::<DeviceGroup>("berlin", "is Ready with one device", PATIENCE, alone).await?;
    assert_eq!(versions(&devices), [NEW, NEW, NEW, NEW, NEXT]);
    for device in &devices {
        assert_eq!(booted(device).len(), 1, "{}", device.journal());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_return_after_the_rollout_is_complete_are_caught_up_once_and_within_its_limits() -> Result<()> {
    let mut world = World::start("catch-up").await?;
    world.firmware(NEW).await?;
    let specs = (1..=8).map(|number| (format!("sw-{number}"), "{role: access}", strict(number)));
    let devices = world.fleet(specs.collect()).await?;
    let (here, away) = devices.split_at(4);
    for number in 1..=8 {
        world.connected(&format!("sw-{number}")).await?;
    }
    away.iter().for_each(DeviceHandle::power_cut);
    for number in 5..=8 {
        let is_gone = |status: &fettle_crds::DeviceStatus| status.session.is_none();
        world.device_until(&format!("sw-{number}"), "is written off as disconnected", is_gone).await?;
    }
    let steps = "steps: [{devices: 1}, {devices: 50%}]";
    world.group(&[FIRMWARE, &format!("rollout: {{maxUnavailable: 6, {steps}}}")]).await?;
    let complete = |status: &DeviceRolloutStatus| {
        let (counts, is_ready) = (status.counts, condition(&status.conditions, "Ready") == "True");
        is_ready && status.completed_at.is_some() && counts.current == 4 && counts.offline == 4 && counts.failed == 0
    };
    let completed = world.rollout_until("access-1", "is complete with four devices offline", complete).await?;
    assert_eq!(versions(here), [NEW; 4]);

    // A limit acts at once, also on what is left of a rollout that is complete.
    world.group(&[FIRMWARE, &format!("rollout: {{maxUnavailable: 1, {steps}}}")]).await?;
    let known = |group: &DeviceGroup| {
        group.status.as_ref().is_some_and(|status| status.observed_generation == group.metadata.generation)
    };
    world.namespace.wait_for::<DeviceGroup>("access", "has seen its new limit", PATIENCE, known).await?;
    away.iter().for_each(DeviceHandle::power_on);
    world.all_current(8).await?;
    assert_eq!(versions(away), [NEW; 4]);
    for device in away {
        assert_eq!(device.journal().flashes().len(), 1, "{}", device.journal());
    }
    assert_eq!(most_restarting_at_once(away), 1);
    let after =
        world.rollout_until("access-1", "has eight current devices", |status| status.counts.current == 8).await?;
    assert_eq!(after.completed_at, completed.completed_at, "it was complete, and stayed so");
    Ok(())
}
