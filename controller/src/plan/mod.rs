//! The planner: from what is known of a namespace to what is to be done, and why the rest waits.
//!
//! [`plan`] is a pure function. It has no clock (`now` is an argument), does no I/O and knows no client; it goes over
//! groups and devices in the order of their names, so that equal input has equal output. One pass plans a whole namespace,
//! because limits span groups.
//!
//! The rules, by file: who belongs to what ([`membership`]), who is there ([`availability`]), what a group wants
//! ([`revision`]), where a device stands with that ([`progress`]), how many may be away ([`limits`]), which targets are
//! given and taken back ([`grants`]), and how it is all told ([`status`]).

pub mod availability;
pub mod grants;
pub mod limits;
pub mod membership;
pub mod model;
pub mod output;
mod pass;
pub mod paths;
pub mod progress;
pub mod reason;
pub mod revision;
mod scope;
pub mod status;
pub mod versions;
pub mod windows;

pub use output::Plan;
pub use pass::plan;
pub use reason::Reason;
