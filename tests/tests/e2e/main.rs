//! End to end: the real API server, controller and bridge as processes of their own, devices that speak the protocol.

mod documented_device;
mod enrolment;
mod failures;
mod main_path;
mod outages;
mod ownership;
mod wire;
mod world;
