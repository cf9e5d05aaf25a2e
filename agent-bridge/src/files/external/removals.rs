//! What lies there and is of no use, until it is removed. Pure.
//!
//! A file that the server does not let go waits aside, longer each time, and holds up no other.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// What waits to be removed at most. What is forgotten is found again by its name.
const MAX_NAMES: usize = 10_000;

/// The pause after a file was refused to us; it doubles up to the other, after which it is as good as found again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = super::keeper::CLEAN;

/// Names of files that are to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    names: HashMap<String, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    failures: u32,
}

impl Removals {
    /// A file more; one that waits already goes on waiting.
    pub(super) fn add(&mut self, name: String, now: Instant) {
        if self.names.len() < MAX_NAMES {
            self.names.entry(name).or_insert(Waiting { due: now, failures: 0 });
        }
    }

    /// What is to be removed now.
    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        self.names.iter().filter(|(_, waiting)| waiting.due <= now).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn removed(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// It could not be removed.
    pub(super) fn refused(&mut self, name: &str, now: Instant) {
        if let Some(Waiting { due, failures }) = self.names.get_mut(name) {
            *due = now + FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(LAST_PAUSE);
            *failures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_refused_waits_longer_each_time_and_alone() {
        let (mut removals, begin) = (Removals::default(), Instant::now());
        removals.add("stuck".to_owned(), begin);
        let mut now = begin;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            removals.refused("stuck", now);
            // Found once more, it is no other.
            removals.add("stuck".to_owned(), now);
            removals.add("other".to_owned(), now);
            assert_eq!(removals.due(now), ["other"]);
            removals.removed("other");
            now += Duration::from_secs(pause);
            assert_eq!(removals.due(now - Duration::from_millis(1)), Vec::<String>::new());
            assert_eq!(removals.due(now), ["stuck"]);
        }
        removals.removed("stuck");
        removals.refused("stuck", now);
        assert_eq!(removals.due(now + LAST_PAUSE), Vec::<String>::new());
    }

    #[test]
    fn more_than_can_wait_are_forgotten() {
        let (mut removals, now) = (Removals::default(), Instant::now());
        for number in 0..=MAX_NAMES {
            removals.add(number.to_string(), now);
        }
        assert_eq!(removals.due(now).len(), MAX_NAMES);
    }
}
