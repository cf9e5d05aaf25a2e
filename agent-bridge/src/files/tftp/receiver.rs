//! What to acknowledge when: the receiving side of RFC 1350 and 7440, as a state machine. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::sender::wire;
use super::timer::Timer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// The block is the next one: its bytes are the file's. Then, maybe, it is acknowledged.
    Take {
        acknowledge: bool,
    },
    /// The block is the last one: its bytes are the file's, which is then stored, and then acknowledged.
    TakeLast,
    /// What came last is acknowledged again.
    Again,
    /// The peer is silent.
    GiveUp,
}

#[derive(Debug)]
pub(super) struct Receiver {
    block: usize,
    window: u64,
    patience: Duration,
    timer: Timer,
    /// All blocks up to this have arrived.
    received: u64,
    /// This was acknowledged last.
    acked: u64,
    /// The gap after the last block was reported.
    gap_reported: bool,
    waiting_since: Instant,
    progressed: Instant,
}

impl Receiver {
    pub(super) fn new(block: usize, window: u16, timer: Timer, patience: Duration, now: Instant) -> Self {
        Self {
            block,
            window: u64::from(window),
            patience,
            timer,
            received: 0,
            acked: 0,
            gap_reported: false,
            waiting_since: now,
            progressed: now,
        }
    }

    /// The number to acknowledge.
    pub(super) fn last(&self) -> u16 {
        wire(self.received)
    }

    /// No block has arrived yet.
    pub(super) fn is_new(&self) -> bool {
        self.received == 0
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    pub(super) fn deadline(&self) -> Instant {
        self.waiting_since + self.timer.wait()
    }

    pub(super) fn on_data(&mut self, block: u16, len: usize, now: Instant) -> Step {
        if block != wire(self.received + 1) {
            // What has arrived already, up to a window back, was sent again because our acknowledgement was lost.
            let behind = u64::from(wire(self.received).wrapping_sub(block));
            let repeated = behind == 0 && self.received > 0;
            let gap = behind > self.window && !self.gap_reported;
            self.gap_reported |= gap;
            if repeated || gap {
                (self.acked, self.waiting_since) = (self.received, now);
                return Step::Again;
            }
            return Step::Wait;
        }
        self.received += 1;
        self.timer.answered(None);
        (self.gap_reported, self.progressed, self.waiting_since) = (false, now, now);
        if len < self.block {
            return Step::TakeLast;
        }
        let acknowledge = self.received - self.acked >= self.window;
        if acknowledge {
            self.acked = self.received;
        }
        Step::Take { acknowledge }
    }

    pub(super) fn on_timeout(&mut self, now: Instant) -> Step {
        if now < self.deadline() {
            return Step::Wait;
        }
        if now.duration_since(self.progressed) >= self.patience {
            return Step::GiveUp;
        }
        self.timer.expired();
        (self.acked, self.gap_reported, self.waiting_since) = (self.received, false, now);
        Step::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn receiver(window: u16, now: Instant) -> Receiver {
        Receiver::new(512, window, Timer::new(None), Duration::from_secs(60), now)
    }

    #[test]
    fn each_block_is_acknowledged_and_a_short_one_is_the_last() {
        let now = Instant::now();
        let mut receiver = receiver(1, now);
        assert_eq!(receiver.on_data(1, 512, now), Step::Take { acknowledge: true });
        assert_eq!(receiver.last(), 1);
        assert_eq!(receiver.on_data(2, 0, now), Step::TakeLast);
        assert_eq!(receiver.last(), 2);
    }

    #[test]
    fn a_block_that_comes_again_is_acknowledged_again_and_not_taken_twice() {
        let now = Instant::now();
        let mut receiver = receiver(1, now);
        receiver.on_data(1, 512, now);
        assert_eq!(receiver.on_data(1, 512, now), Step::Again);
        assert_eq!(receiver.on_data(1, 512, now), Step::Again);
        assert_eq!(receiver.on_data(0, 512, now), Step::Wait);
        assert_eq!(receiver.on_data(2, 512, now), Step::Take { acknowledge: true });
    }

    #[test]
    fn a_window_is_acknowledged_at_its_end_and_a_gap_in_it_once() {
        let now = Instant::now();
        let mut receiver = receiver(4, now);
        for block in 1..=3 {
            assert_eq!(receiver.on_data(block, 512, now), Step::Take { acknowledge: false });
        }
        assert_eq!(receiver.on_data(4, 512, now), Step::Take { acknowledge: true });
        assert_eq!(receiver.on_data(5, 512, now), Step::Take { acknowledge: false });
        assert_eq!(receiver.on_data(7, 512, now), Step::Again, "6 was lost");
        assert_eq!(receiver.last(), 5);
        assert_eq!(receiver.on_data(8, 512, now), Step::Wait);
        for block in 6..=8 {
            assert_eq!(receiver.on_data(block, 512, now), Step::Take { acknowledge: false });
        }
        assert_eq!(receiver.on_data(9, 512, now), Step::Take { acknowledge: true }, "four after the gap");
    }

    #[test]
    fn a_window_that_comes_again_is_acknowledged_at_its_last_block() {
        let now = Instant::now();
        let mut receiver = receiver(3, now);
        for block in 1..=3 {
            receiver.on_data(block, 512, now);
        }
        assert_eq!(receiver.on_data(1, 512, now), Step::Wait);
        assert_eq!(receiver.on_data(2, 512, now), Step::Wait);
        assert_eq!(receiver.on_data(3, 512, now), Step::Again);
    }

    #[test]
    fn silence_repeats_the_acknowledgement_and_then_ends_it() {
        let now = Instant::now();
        let mut receiver = receiver(1, now);
        receiver.on_data(1, 512, now);
        assert_eq!(receiver.on_timeout(now + 999 * MS), Step::Wait);
        assert_eq!(receiver.on_timeout(now + 1_000 * MS), Step::Again);
        assert_eq!(receiver.on_timeout(now + 61_000 * MS), Step::GiveUp);
    }

    #[test]
    fn block_numbers_wrap() {
        let now = Instant::now();
        let mut receiver = receiver(1, now);
        for block in 1..200_000_u64 {
            assert_eq!(receiver.on_data(wire(block), 512, now), Step::Take { acknowledge: true });
        }
    }
}
