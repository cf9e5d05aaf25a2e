//! How much there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that hold more of an unfinished message than [`SHORT`]: at most 64 MiB of such beginnings.
const LONG: usize = 1024;

/// Every message that the protocol knows is shorter. What is longer is of an unknown type, to be skipped once it is
/// whole.
pub(super) const SHORT: usize = 4 * 1024;

/// Counts connections. Clones are the same counter.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    counts: Arc<Mutex<Counts>>,
    in_all: usize,
    per_address: usize,
}

#[derive(Debug, Default)]
struct Counts {
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
    long: usize,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Limits,
    address: IpAddr,
    long: bool,
}

impl Limits {
    pub(super) fn new(in_all: usize, per_address: usize) -> Self {
        Self { counts: Arc::default(), in_all, per_address }
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.in_all >= self.in_all || here >= self.per_address {
            return None;
        }
        counts.in_all += 1;
        counts.by_address.insert(address, here + 1);
        Some(Place { limits: self.clone(), address, long: false })
    }
}

impl Place {
    /// Notes how much of an unfinished message the connection holds, in bytes; `false`: that is more than there is room
    /// for.
    pub(super) fn holds(&mut self, bytes: usize) -> bool {
        // What was grown is given back only with the whole message.
        let long = bytes > SHORT || (self.long && bytes > 0);
        if long == self.long {
            return true;
        }
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if !long {
            counts.long -= 1;
        } else if counts.long < LONG {
            counts.long += 1;
        } else {
            return false;
        }
        self.long = long;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.holds(0);
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.in_all -= 1;
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address. With IPv6 a single machine has a whole /64 to call from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_in_all_and_by_address_and_come_back() {
        let limits = Limits::new(3, 2);
        let first = limits.take(ip("192.0.2.1")).unwrap();
        let _second = limits.take(ip("192.0.2.1")).unwrap();
        assert!(
            limits.take(ip("::ffff:192.0.2.1")).is_none(),
            "two from one address are enough, however it is written"
        );
        let _third = limits.take(ip("192.0.2.2")).unwrap();
        assert!(limits.take(ip("192.0.2.3")).is_none(), "three in all are enough");
        drop(first);
        assert!(limits.take(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_of_64_bits_counts_as_one_address() {
        let limits = Limits::new(10, 1);
        let _place = limits.take(ip("2001:db8::1")).unwrap();
        assert!(limits.take(ip("2001:db8::ffff:1")).is_none());
        assert!(limits.take(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn so_many_long_messages_may_be_under_way_and_no_more() {
        let limits = Limits::new(LONG + 2, LONG + 2);
        let mut places: Vec<_> = (0..=LONG).map(|_| limits.take(ip("192.0.2.1")).unwrap()).collect();
        let last = places.len() - 1;
        for place in &mut places[..last] {
            assert!(place.holds(SHORT + 1));
        }
        assert!(places[last].holds(SHORT));
        assert!(!places[last].holds(SHORT + 1));
        assert!(places[0].holds(1), "still the same message");
        assert!(!places[last].holds(SHORT + 1));
        assert!(places[0].holds(0));
        assert!(places[last].holds(SHORT + 1));
        places.remove(0);
        places.remove(0);
        assert!(places[0].holds(SHORT + 1));
        drop(places);
        let counts = limits.counts.lock().unwrap();
        assert_eq!((counts.in_all, counts.by_address.len(), counts.long), (0, 0, 0));
    }
}
