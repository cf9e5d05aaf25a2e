//! The HTTP server: spoken to byte by byte, by other people's clients, and over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../files_support/mod.rs"]
mod files_support;

mod client;
mod downloads;
mod foreign;
mod hostile;
mod tls;
mod uploads;
