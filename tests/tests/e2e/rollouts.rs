//! Rollouts in stages, with real parts: steps, approval, failures, the way back, windows.

use anyhow::{Context, Result};
use fettle_crds::{DeviceGroup, DeviceRollout};
use fettle_device::DeviceHandle;
use fettle_device::faults::{Fault, FaultKind, Step};

use crate::world::{NEW, OLD, PATIENCE, World, condition, strict};

const FIRMWARE: &str = "firmware: {name: access-5.2.1}";

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

    async fn rollout_until(&self, what: &str, ready: impl Fn(&DeviceRollout) -> bool) -> Result<DeviceRollout> {
        self.namespace.wait_for("access-1", what, PATIENCE, ready).await
    }

    async fn waits_for(&self, reason: &str) -> Result<DeviceRollout> {
        let waits = |rollout: &DeviceRollout| {
            let waiting = rollout.status.as_ref().and_then(|status| status.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason == reason)
        };
        self.rollout_until(&format!("waits for {reason}"), waits).await
    }

    async fn person(&self, says: &str) -> Result<()> {
        let patch = format!("{{\"spec\": {says}}}");
        self.namespace.kubectl(&["patch", "drol", "access-1", "--type=merge", "-p", &patch]).await?;
        Ok(())
    }
}

fn versions(devices: &[DeviceHandle]) -> Vec<String> {
    devices.iter().map(|device| device.version().to_string()).collect()
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
    let rollout = world.waits_for("Approval").await?;
    let status = rollout.status.context("a rollout that waits has a status")?;
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
    let finished = |rollout: &DeviceRollout| {
        let rollback = rollout.status.as_ref().and_then(|status| status.rollback.as_ref());
        rollback.is_some_and(|rollback| rollback.reason == "BudgetExceeded" && rollback.finished_at.is_some())
    };
    world.rollout_until("has finished its rollback", finished).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_begins_in_a_freeze_and_all_do_when_it_is_lifted() -> Result<()> {
    let mut world = World::start("freeze").await?;
    world.firmware(NEW).await?;
    let devices = world.ring(2, |_| false).await?;
    let freeze = "freezes: [{from: \"2020-01-01\", to: \"2100-01-01\", reason: quarter end}]";
    world.group(&[FIRMWARE, "rollout: {maxUnavailable: 2}", freeze]).await?;
    let rollout = world.waits_for("Freeze").await?;
    let message = rollout.status.and_then(|status| status.message).unwrap_or_default();
    assert!(message.contains("quarter end"), "{message}");
    assert_eq!(versions(&devices), [OLD; 2]);
    world.group(&[FIRMWARE, "rollout: {maxUnavailable: 2}"]).await?;
    world.all_current(2).await?;
    Ok(())
}
