//! End to end: the real API server, controller and bridge as processes of their own, devices that speak the protocol.

#[path = "../../../agent-bridge/tests/files_support/foreign.rs"]
mod foreign;

mod announcements;
mod applied;
mod bridges;
mod clock;
mod differences;
mod documented_device;
mod enrolment;
mod external;
mod failures;
mod flux;
mod gitops;
mod logs;
mod main_path;
mod monitoring;
mod objects;
mod outages;
mod ownership;
mod plugin;
mod readings;
mod rollouts;
mod sources;
mod templates;
mod times;
mod ways;
mod wire;
mod world;
