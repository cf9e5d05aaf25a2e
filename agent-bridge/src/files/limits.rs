//! How many of something there are for each key, with a limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts. An entry lives as long as one of its places is taken.
#[derive(Debug)]
pub(super) struct Places<K> {
    limit: usize,
    taken: Mutex<HashMap<K, usize>>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A place, given back when it is dropped. `None`: all that this key may have are taken.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Place { places: Arc::clone(self), key })
    }
}

#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash + Clone> {
    places: Arc<Places<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places_and_gets_them_back() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        let other = places.take("b").unwrap();
        drop((first, other));
        let _again = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        assert_eq!(places.taken.lock().unwrap().len(), 1);
    }
}
