//! Free TCP and UDP ports on loopback.
//!
//! They are taken from below the range that systems use for outgoing connections (from 32768 on Linux): a server that
//! is restarted finds its port free again, and nobody's outgoing connection has slipped in. Another process can still
//! be faster between the look and the use, so whoever starts a server tries again with another port.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt as _;

/// Where single ports are taken from, and where those in a row: else the single ones leave no room for a row.
const SINGLE: RangeInclusive<u16> = 26_000..=31_999;
const IN_A_ROW: RangeInclusive<u16> = 15_000..=25_999;

/// What this process gave out already; a port is given once.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody on this machine listens on, for TCP as for UDP.
pub fn free() -> Result<u16> {
    search(&SINGLE, 1)
}

/// The first of `count` free ports in a row.
pub fn free_range(count: u16) -> Result<u16> {
    search(if count == 1 { &SINGLE } else { &IN_A_ROW }, count)
}

/// Looks at each place of that size once, beginning anywhere, so that it fails only where all are taken.
fn search(among: &RangeInclusive<u16>, count: u16) -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let places: Vec<u16> =
        among.clone().step_by(count.into()).filter(|first| among.end() - first >= count - 1).collect();
    let begin = rand::rng().random_range(0..places.len().max(1));
    let (before, after) = places.split_at(begin.min(places.len()));
    for first in after.iter().chain(before).copied() {
        let mut ports = first..=first + (count - 1);
        if ports.all(|port| !given.contains(&port) && is_free(port)) {
            given.extend(first..=first + (count - 1));
            return Ok(first);
        }
    }
    bail!("no {count} free ports in a row between {} and {}", among.start(), among.end());
}

fn is_free(port: u16) -> bool {
    // On all addresses: what listens on another address of this machine may be in the way, too.
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_beside_many_single_ports_and_none_is_given_twice() {
        let mut all = BTreeSet::new();
        for _ in 0..100 {
            for _ in 0..10 {
                assert!(all.insert(free().unwrap()));
            }
            let first = free_range(64).unwrap();
            assert!((first..first + 64).all(|port| all.insert(port)), "{first}");
        }
    }
}
