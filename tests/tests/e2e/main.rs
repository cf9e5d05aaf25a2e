//! End to end: the real API server, controller and bridge as processes of their own, devices that speak the protocol.

mod main_path;
mod world;
