//! The controller: decides which device may move to what, and when. It never talks to a device.

pub mod plan;
