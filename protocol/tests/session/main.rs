//! The server's session, held against the words of the design: each test is named after what it proves.
//!
//! `world` is a scripted driver with an API that holds the record; the rules that no command may break are checked there,
//! in whatever test. `honest` is a device that does what it is told, for the properties.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod api;
mod world;

mod ahead;
mod announcements;
mod bounds;
mod done;
mod drops;
mod hold;
mod honest;
mod logs;
mod outage;
mod property;
mod reached;
mod reconnect;
mod restart;
mod scheduled;
mod sequence;
