//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Limits,
    address: IpAddr,
}

impl Limits {
    pub(super) fn new(in_all: usize, per_address: usize) -> Self {
        Self { counts: Arc::default(), in_all, per_address }
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.in_all >= self.in_all || here >= self.per_address {
            return None;
        }
        counts.in_all += 1;
        counts.by_address.insert(address, here + 1);
        Some(Place { limits: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_address_and_come_back() {
        let limits = Limits::new(3, 2);
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = limits.take(a).unwrap();
        let _second = limits.take(a).unwrap();
        assert!(limits.take(a).is_none(), "two from one address are enough");
        let _third = limits.take(b).unwrap();
        assert!(limits.take(c).is_none(), "three in all are enough");
        drop(first);
        assert!(limits.take(a).is_some());
    }
}
