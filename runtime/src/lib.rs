//! What controller and bridge need alike to run as programs: logs, probes and metrics over HTTP, a client for the API
//! server with a deadline on each request, a shutdown signal, events.
//!
//! It knows nothing of devices, rollouts or the API of Fettle, and it decides nothing.

mod cluster;
mod duration;
mod events;
mod health;
mod logs;
mod ports_file;
mod signals;

pub use cluster::{ConnectError, REQUEST_DEADLINE, client, connect, hostname};
pub use duration::{ParseDurationError, duration};
pub use events::{EventReason, Events, Severity};
pub use health::{Health, build_info};
pub use logs::{LogArgs, LogFormat, LogsError, chain};
pub use ports_file::ports_file;
pub use signals::{install_crypto, shutdown_token};
