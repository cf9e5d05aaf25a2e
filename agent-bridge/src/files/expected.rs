//! What is kept for each permission while it lives, bounded.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::credentials::Permission;

/// From this size on, expired entries are looked for whenever their number has doubled.
const FIRST_SWEEP: usize = 1_024;

/// How long an entry outlives its permission: a device may take a while to check what it fetched in the last second.
const KEPT_AFTER_EXPIRY: SignedDuration = SignedDuration::from_mins(5);

/// A map that forgets what has expired. At its limit it forgets what expires next.
#[derive(Debug)]
pub(super) struct Expected<V> {
    entries: HashMap<Permission, V>,
    limit: usize,
    next_sweep: usize,
}

impl<V> Expected<V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), limit, next_sweep: FIRST_SWEEP }
    }

    pub(super) fn insert(&mut self, permission: Permission, value: V, now: Timestamp) {
        if self.entries.len() >= self.next_sweep.min(self.limit) {
            self.sweep(now);
        }
        self.entries.insert(permission, value);
    }

    pub(super) fn get(&self, permission: &Permission) -> Option<&V> {
        self.entries.get(permission)
    }

    pub(super) fn get_mut(&mut self, permission: &Permission) -> Option<&mut V> {
        self.entries.get_mut(permission)
    }

    pub(super) fn remove(&mut self, permission: &Permission) -> Option<V> {
        self.entries.remove(permission)
    }

    /// An eighth at once, where all are alive: sorting for each new entry would cost too much.
    fn sweep(&mut self, now: Timestamp) {
        self.entries.retain(|permission, _| now.duration_since(permission.expires()) < KEPT_AFTER_EXPIRY);
        if self.entries.len() >= self.limit {
            let mut by_expiry: Vec<Permission> = self.entries.keys().copied().collect();
            by_expiry.sort_unstable_by_key(Permission::expires);
            by_expiry.truncate(self.limit.div_ceil(8));
            tracing::warn!(
                dropped = by_expiry.len(),
                "too many transfers are expected, the next to expire are forgotten"
            );
            for permission in by_expiry {
                self.entries.remove(&permission);
            }
        }
        self.next_sweep = (self.entries.len() * 2).max(FIRST_SWEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::credentials::DeviceId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn permission(command: u32) -> Permission {
        Permission::upload(DeviceId::of_uid("uid"), command, at(1_000 + i64::from(command)))
    }

    #[test]
    fn what_has_expired_goes_when_there_is_much_of_it() {
        let mut expected = Expected::new(100_000);
        for command in 0..1_024 {
            expected.insert(permission(command), command, at(0));
        }
        expected.insert(permission(5_000), 5_000, at(1_000 + 1_000 + 5 * 60));
        assert_eq!(expected.get(&permission(1_000)), None);
        assert_eq!(expected.get(&permission(1_001)), Some(&1_001));
        assert_eq!(expected.get(&permission(5_000)), Some(&5_000));
    }

    #[test]
    fn at_the_limit_the_next_to_expire_are_forgotten() {
        let mut expected = Expected::new(80);
        for command in 0..81 {
            expected.insert(permission(command), command, at(0));
        }
        assert_eq!(expected.entries.len(), 71);
        assert_eq!(expected.get(&permission(9)), None);
        assert_eq!(expected.get(&permission(10)), Some(&10));
        assert_eq!(expected.get(&permission(80)), Some(&80));
    }
}
