//! The controller: decides which device may move to what, and when. It never talks to a device.
//!
//! [`plan`] decides, purely; [`reconcile`] does what it says; [`lease`] sees to it that only one controller does.

pub mod lease;
pub mod metrics;
pub mod plan;
pub mod reconcile;
