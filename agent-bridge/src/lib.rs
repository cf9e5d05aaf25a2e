//! The agent-bridge: holds the devices' connections, runs the upgrade sequence, serves and receives files, reports what
//! is. It never decides who is next.

pub mod args;
pub mod cluster;
pub mod files;
pub mod hub;
pub mod metrics;
pub mod sparing;
pub mod tcp;
pub mod udp;
