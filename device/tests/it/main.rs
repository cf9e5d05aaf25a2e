//! The device on a real network: against a scripted server that speaks the protocol, and other people's file servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod datagrams;
mod extended;
mod faults;
mod fleet;
mod handles;
mod http;
mod program;
mod scheduled;
mod support;
mod upgrade;
