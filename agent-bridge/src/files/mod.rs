//! Files for devices and from them: what a device was told to fetch, served over FTP, TFTP and HTTP from a verified local
//! copy, and the logs that it was told to bring.
//!
//! ```text
//!  source ─► store ─► ftp, tftp, http ─► device   device ─► ftp, tftp, http ─► logs
//!            verified   │  ▲                                   │
//!            bytes      │  └ credentials: may it? ─────────────┤
//!                       └──► ledger: was the last byte sent? ◄─┘
//! ```
//!
//! Nothing here knows of sessions, targets or Kubernetes: the session mints a credential, says what it expects, and asks
//! the ledger. Only what a credential names can be fetched or brought; everything else is "no such file". Paths and
//! passwords are never logged: log lines name the device and the command.

pub mod credentials;
pub mod differences;
mod expected;
pub mod external;
mod ftp;
mod http;
pub mod ledger;
mod limits;
mod listener;
pub mod logs;
mod metrics;
mod server;
pub mod store;
mod tftp;
mod tls;

pub use server::{Deadlines, FileServerConfig, FileServers, Limits, StartError, TftpPorts};
pub use tls::{TlsError, TlsFiles};
