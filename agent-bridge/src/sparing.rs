//! Log lines that anybody who reaches a port can cause: so many, and then a number instead.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that may come at once: the first devices of a site with the same trouble are all named.
const BURST: u32 = 50;
/// After that, one for each.
const INTERVAL: Duration = Duration::from_secs(2);

/// Counts lines of one kind. What is left out is counted, and told with the next line that is not; metrics count it all.
#[derive(Debug)]
pub struct Sparing(Mutex<State>);

#[derive(Debug)]
struct State {
    left: u32,
    refilled: Instant,
    left_out: u64,
}

/// A line that may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// How many lines were left out before it, where some were.
    pub left_out: Option<u64>,
}

impl Sparing {
    /// None was written yet.
    pub fn new() -> Self {
        Self(Mutex::new(State { left: BURST, refilled: Instant::now(), left_out: 0 }))
    }

    /// Whether a line may be written now.
    pub fn line(&self) -> Option<Line> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = now.duration_since(state.refilled).as_secs() / INTERVAL.as_secs();
        if due > 0 {
            state.left = state.left.saturating_add(u32::try_from(due).unwrap_or(u32::MAX)).min(BURST);
            state.refilled = now;
        }
        let Some(left) = state.left.checked_sub(1) else {
            state.left_out += 1;
            return None;
        };
        state.left = left;
        let left_out = std::mem::take(&mut state.left_out);
        Some(Line { left_out: (left_out > 0).then_some(left_out) })
    }
}

impl Default for Sparing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_named_then_counted_and_named_again_when_it_is_over() {
        let lines = Sparing::new();
        let written = (0..1000).filter(|_| lines.line().is_some()).count();
        assert_eq!(written, 50);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(lines.line(), Some(Line { left_out: Some(950) }));
        assert_eq!(lines.line(), None);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..1000).filter(|_| lines.line().is_some()).count(), 50);
    }
}
