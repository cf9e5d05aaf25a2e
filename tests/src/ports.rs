//! Free TCP and UDP ports on loopback.
//!
//! They are taken from below the range that systems use for outgoing connections (from 32768 on Linux): a server that
//! is restarted finds its port free again, and nobody's outgoing connection has slipped in. Another process can still
//! be faster between the look and the use, so whoever starts a server tries again with another port.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt as _;

const LOWEST: u16 = 15_000;
const HIGHEST: u16 = 31_999;

/// What this process gave out already; a port is given once.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody on this machine listens on, for TCP as for UDP.
pub fn free() -> Result<u16> {
    free_range(1)
}

/// The first of `count` free ports in a row.
pub fn free_range(count: u16) -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Sized so that it fails only where the range is full.
    for _ in 0..500 {
        let first = rand::rng().random_range(LOWEST..=HIGHEST - count);
        let mut ports = first..first + count;
        if ports.all(|port| !given.contains(&port) && is_free(port)) {
            given.extend(first..first + count);
            return Ok(first);
        }
    }
    bail!("no {count} free ports in a row between {LOWEST} and {HIGHEST}");
}

fn is_free(port: u16) -> bool {
    // On all addresses: what listens on another address of this machine may be in the way, too.
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}
