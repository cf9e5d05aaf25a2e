//! The planner: from what is known of a namespace to what is to be done, and why the rest waits.
//!
//! [`plan`] is a pure function. It has no clock (`now` is an argument), does no I/O and knows no client; it goes over
//! groups and devices in the order of their names, so that equal input has equal output. One pass plans a whole namespace,
//! because limits span groups.
//!
//! The rules, by file: who belongs to what ([`membership`]) and whose a MAC is ([`devices`]), who is there
//! ([`availability`]), what a group wants ([`revision`]) and what that is for a device ([`goal`], [`rendering`]), where a
//! device stands with it ([`progress`]), which way a rollout goes and whether anybody may begin ([`course`], [`windows`],
//! [`schedule`]), whom a step takes on ([`steps`]), how many may be away ([`limits`], [`spread`], [`places`]), over which releases a
//! device gets there ([`paths`], [`versions`]), which targets are given and taken back ([`grants`]), what devices ran before
//! (`known`), and how it is all told ([`status`], `verdict`, [`profiles`]).

mod attempt;
pub mod availability;
mod conditions;
pub mod course;
mod decide;
pub mod devices;
pub mod goal;
pub mod grants;
mod known;
pub mod labels;
pub mod limits;
pub mod membership;
pub mod model;
pub mod output;
mod pass;
pub mod paths;
pub mod phase;
pub mod places;
pub mod profiles;
pub mod progress;
pub mod reason;
pub mod rendering;
pub mod revision;
pub mod schedule;
mod scope;
mod seen;
pub mod spread;
pub mod status;
pub mod steps;
mod tally;
pub mod transfer;
mod verdict;
pub mod versions;
pub mod windows;

/// A map that is asked for each device in each pass.
type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

pub use output::Plan;
pub use pass::plan;
pub use reason::Reason;
