//! What has to hold, by the numbers of the design: each rule is a function that says which rule is broken, by which device.

pub mod convergence;
mod grants;
mod limits;
mod reasons;
mod rest;
pub mod steps;

use fettle_controller::plan::model::{Open, Target};
use fettle_controller::plan::output::{Change, Plan};
use fettle_crds::Stage;

use crate::world::World;

pub use rest::come_to_rest;

/// Says that a rule is broken.
macro_rules! broken {
    ($rule:literal, $($why:tt)*) => {
        return Err(format!("rule {}: {}", $rule, format!($($why)*)))
    };
}
pub(crate) use broken;

/// Holds a plan against the rules, before it is written.
pub fn check(world: &World, made: &Plan) -> Result<(), String> {
    let mut planned = Vec::new();
    for write in &made.devices {
        let number = world.number(&write.device);
        what_has_begun_stays(world, number, write.decisions.target.as_ref())?;
        if write.change == Change::Granted {
            let Some(target) = &write.decisions.target else { broken!(2, "{} is granted nothing", write.device) };
            if target.stage == Stage::Download {
                grants::ahead(world, number, target)?;
                continue;
            }
            grants::grant(world, number, target, &planned)?;
            // Who is only to be sent away has nobody's place.
            planned.extend((!target.done).then_some(number));
        }
    }
    limits::of_groups(world, made)?;
    limits::of_domains(world, made)?;
    reasons::one_each(world, made)?;
    reasons::are_true(world, made)
}

/// Rule 6: a device in mid-flash finishes that flash, whatever else is wanted.
fn what_has_begun_stays(world: &World, number: usize, after: Option<&Target>) -> Result<(), String> {
    let device = world.device(number);
    if let Some(Open { target: before, has_begun: true }) = device.open_target()
        && after != Some(before)
    {
        broken!(6, "{} has begun {}, and is to have {after:?}", device.name, before.id);
    }
    Ok(())
}

/// Holds what is written after a pass against the rules.
pub fn after(world: &World, made: &Plan) -> Result<(), String> {
    reasons::counts_add_up(world)?;
    if world.wrote_all { grants::what_has_not_begun_is_backed(world, made) } else { Ok(()) }
}

/// Rules 2 and 3, where a bridge sends the first command of a target.
pub fn first_command(world: &World, number: usize, target: &Target) -> Result<(), String> {
    grants::first_command(world, number, target)
}
