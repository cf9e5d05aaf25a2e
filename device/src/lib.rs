//! The reference device of Fettle: what a vendor can build a device's upgrade agent on, and a simulator of thousands of
//! devices for tests.
//!
//! To build a device: implement [`Hardware`] for the machine, and run a [`Device`] over it. The rules of the protocol are
//! [`agent::Agent`]'s, which is pure and can be driven by other means as well.
//!
//! To simulate a fleet: [`Fleet::start`], then look and wait through the [`FleetHandle`]. Each device keeps a [`journal`] of
//! what happened to it, which is the ground truth for tests: also of what the server must never do, its
//! [`Violation`](conformance::Violation)s.
//!
//! - [`agent`]: the device's side of the protocol, as a state machine. [`conformance`]: what the tables allow.
//! - [`device`]: drives the agent on a network. [`hardware`]: the machine under it. [`image`]: what a simulated one boots.
//! - [`fleet`], [`handle`], [`record`], [`journal`]: many of them, and what they do.
//! - [`spec`]: what a device is. [`faults`]: what goes wrong with it.

pub mod agent;
mod checked;
pub mod conformance;
pub mod device;
mod difference;
pub mod duration;
mod ear;
pub mod faults;
pub mod fleet;
pub mod fleet_file;
pub mod handle;
pub mod hardware;
pub mod image;
pub mod journal;
mod link;
mod operation;
pub mod record;
mod rudeness;
mod session;
mod signature;
pub mod spec;
mod transfer;

pub use device::{Device, Surroundings};
pub use faults::{Fault, FaultKind, Moment, Step};
pub use fleet::{Fleet, FleetConfig, FleetError, FleetHandle};
pub use handle::DeviceHandle;
pub use hardware::{Hardware, SimulatedHardware};
pub use signature::{ImageKey, KeyError};
pub use transfer::{Authorities, AuthoritiesError};

pub use spec::{DeviceSpec, PathStyle, Timings, Vocabulary};
