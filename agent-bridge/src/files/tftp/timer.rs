//! When to send again: from the round trips seen, as TCP does it (RFC 6298), or as the client wants it (RFC 2349). Pure.

use std::time::Duration;

/// Before anything was measured.
const FIRST: Duration = Duration::from_secs(1);

/// A device writes to its flash between two blocks: sooner, much would be sent twice for nothing.
const MIN: Duration = Duration::from_millis(200);

/// Waiting doubles up to this. It still sends several times before a silent peer is given up.
const MAX: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
pub(super) struct Timer {
    /// What the client asked for.
    fixed: Option<Duration>,
    smoothed: Option<(Duration, Duration)>,
    backoff: u32,
}

impl Timer {
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self { fixed, smoothed: None, backoff: 0 }
    }

    /// How long to wait for an answer now.
    pub(super) fn wait(&self) -> Duration {
        let base = self.fixed.unwrap_or_else(|| match self.smoothed {
            Some((mean, deviation)) => (mean + 4 * deviation).max(MIN),
            None => FIRST,
        });
        base.saturating_mul(2_u32.saturating_pow(self.backoff)).min(MAX.max(base))
    }

    /// The mean round trip, as far as one was seen.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed.map(|(mean, _)| mean)
    }

    /// An answer came. The round trip only where what it answers was sent once (Karn).
    pub(super) fn answered(&mut self, round_trip: Option<Duration>) {
        self.backoff = 0;
        let Some(sample) = round_trip else { return };
        self.smoothed = Some(match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, deviation)) => ((mean * 7 + sample) / 8, (deviation * 3 + mean.abs_diff(sample)) / 4),
        });
    }

    /// No answer came in time.
    pub(super) fn expired(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waiting_follows_the_round_trips_and_doubles_while_nothing_comes() {
        let mut timer = Timer::new(None);
        assert_eq!(timer.wait(), 1_000 * MS);
        timer.answered(Some(100 * MS));
        assert_eq!(timer.wait(), 300 * MS);
        timer.answered(Some(MS));
        for _ in 0..50 {
            timer.answered(Some(MS));
        }
        assert_eq!(timer.wait(), MIN);
        let mut waits = Vec::new();
        for _ in 0..7 {
            timer.expired();
            waits.push(timer.wait().as_millis());
        }
        assert_eq!(waits, [400, 800, 1_600, 3_200, 6_400, 8_000, 8_000]);
        timer.answered(None);
        assert_eq!(timer.wait(), MIN);
    }

    #[test]
    fn what_the_client_asks_for_is_where_waiting_begins() {
        let mut timer = Timer::new(Some(Duration::from_secs(6)));
        timer.answered(Some(MS));
        assert_eq!(timer.wait(), Duration::from_secs(6));
        timer.expired();
        assert_eq!(timer.wait(), MAX);
        assert_eq!(Timer::new(Some(Duration::from_secs(60))).wait(), Duration::from_secs(60));
    }
}
