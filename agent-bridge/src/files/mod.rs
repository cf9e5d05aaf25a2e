//! Files for devices.
pub mod credentials;
pub mod ledger;
pub mod store;
