//! What has to hold for every fleet and every history.
//!
//! A [`world`] of generated devices, groups, bridges and people goes through generated histories, a thousand ticks deep and
//! days long; its devices fail in every way that is known, its bridges die, its controllers lose what they write. It keeps
//! its own account of what each device was permitted and did, and by that account the [`rules`] are judged after each tick.
//!
//! `PROPTEST_CASES` is the number of histories, `PROPTEST_RNG_SEED` a number that stands for other ones. What breaks a rule is
//! cut down to what matters of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rules;
mod world;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::rules::convergence;
use self::world::World;
use self::world::fleet::{Fleet, fleets};
use self::world::history::{Histories, Luck, Tick};

/// How deep a history is.
const TICKS: usize = 1000;
/// In so many ticks it is seen to that passes come to rest.
const RESTS: usize = 16;

/// Histories that are run where nobody says how many: as many as keep all of these tests under half a minute; and always
/// the same, where nobody says which: what stops a change must come from that change.
fn config(cases: u32) -> ProptestConfig {
    let asked = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    ProptestConfig {
        cases: asked("PROPTEST_CASES").and_then(|cases| u32::try_from(cases).ok()).unwrap_or(cases),
        rng_seed: RngSeed::Fixed(asked("PROPTEST_RNG_SEED").unwrap_or_default()),
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    }
}

/// Goes through a history, and then through what comes after it.
fn live(
    fleet: &Fleet,
    history: &[Tick],
    after: impl FnOnce(&mut World) -> Result<(), String>,
) -> Result<(), TestCaseError> {
    let mut world = World::new(fleet);
    let through = || {
        for (number, tick) in history.iter().enumerate() {
            world.tick(tick)?;
            if number % RESTS == 0 {
                rules::come_to_rest(&mut world)?;
            }
        }
        after(&mut world)
    };
    through().map_err(|why| TestCaseError::fail(world.dump(&why)))
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn whatever_befalls_a_fleet_the_rules_hold_and_what_keeps_a_device_is_named(
        history in Histories { ticks: TICKS, luck: Luck::Hostile }, fleet in fleets()
    ) {
        live(&fleet, &history, convergence::what_keeps_devices_is_named)?;
    }

    #[test]
    fn whatever_befell_a_fleet_it_arrives_once_people_have_made_right_what_only_they_can(
        history in Histories { ticks: TICKS / 4, luck: Luck::Hostile }, fleet in fleets()
    ) {
        live(&fleet, &history, convergence::every_device_becomes_current)?;
    }

    #[test]
    fn honest_devices_arrive_through_every_outage(
        history in Histories { ticks: TICKS / 4, luck: Luck::Honest }, fleet in fleets()
    ) {
        live(&fleet, &history, convergence::honest_devices_arrive)?;
    }
}

proptest! {
    // What is rare here is a target that is taken back at the wrong moment; it takes some histories to come about.
    #![proptest_config(config(16))]

    #[test]
    fn people_who_go_back_and_forth_leave_no_device_where_it_must_not_be(
        history in Histories { ticks: TICKS / 4, luck: Luck::Fickle }, fleet in fleets()
    ) {
        live(&fleet, &history, convergence::what_keeps_devices_is_named)?;
    }
}
