//! Which blocks to send when: the sending side of RFC 1350 and 7440, as a state machine. Pure.
//!
//! A block is sent again because time has passed, never because an acknowledgement came twice: else every packet that the
//! network doubles would double all that follow (the sorcerer's apprentice, RFC 1123). With a window, a repeated
//! acknowledgement is how a client says that the first block of it was lost; it is believed once for each window, and only
//! if it can be an answer to that window.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::timer::Timer;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// The acknowledgement of options.
    Options,
    /// These blocks, counted from 1 without wrapping.
    Blocks(RangeInclusive<u64>),
    /// The last block was acknowledged.
    Done,
    /// The peer is silent.
    GiveUp,
}

#[derive(Debug)]
pub(super) struct Sender {
    blocks: u64,
    window: u64,
    patience: Duration,
    timer: Timer,
    /// The acknowledgement of options was not acknowledged yet.
    options: bool,
    /// All blocks up to this were acknowledged.
    acked: u64,
    /// All blocks up to this were sent.
    sent: u64,
    window_sent: Instant,
    /// The window has blocks that were sent before: its answer tells no round trip.
    repeated: bool,
    /// A loss in this window was reported already.
    loss_reported: bool,
    progressed: Instant,
}

impl Sender {
    /// For a file of so many blocks, the last of which is shorter than the others and perhaps empty. `patience` is how long a
    /// peer may be silent.
    pub(super) fn new(blocks: u64, window: u16, timer: Timer, patience: Duration, now: Instant) -> Self {
        Self {
            blocks,
            window: u64::from(window),
            patience,
            timer,
            options: false,
            acked: 0,
            sent: 0,
            window_sent: now,
            repeated: false,
            loss_reported: false,
            progressed: now,
        }
    }

    pub(super) fn start(&mut self, options: bool, now: Instant) -> Step {
        self.options = options;
        if options {
            self.window_sent = now;
            return Step::Options;
        }
        self.next_window(now)
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    pub(super) fn deadline(&self) -> Instant {
        self.window_sent + self.timer.wait()
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn on_ack(&mut self, block: u16, now: Instant) -> Step {
        // The number wraps from 65535 to 0; a window is far shorter than that, so it tells which block is meant.
        let ahead = u64::from(block.wrapping_sub(wire(self.acked)));
        if self.options {
            if block != 0 {
                return Step::Wait;
            }
            self.options = false;
        } else if ahead == 0 {
            return self.on_repeated_ack(now);
        } else if ahead > self.sent - self.acked {
            return Step::Wait;
        }
        let whole_window = self.acked + ahead == self.sent;
        let round_trip = (!self.repeated && whole_window).then(|| now.duration_since(self.window_sent));
        self.timer.answered(round_trip);
        self.progressed = now;
        self.acked += ahead;
        if self.acked == self.blocks {
            return Step::Done;
        }
        self.next_window(now)
    }

    fn on_repeated_ack(&mut self, now: Instant) -> Step {
        let can_be_answer = self.timer.round_trip().is_some_and(|usual| now.duration_since(self.window_sent) >= usual);
        if self.window == 1 || self.loss_reported || !can_be_answer || self.sent == self.acked {
            return Step::Wait;
        }
        self.loss_reported = true;
        self.again(now)
    }

    pub(super) fn on_timeout(&mut self, now: Instant) -> Step {
        if now < self.deadline() {
            return Step::Wait;
        }
        if now.duration_since(self.progressed) >= self.patience {
            return Step::GiveUp;
        }
        self.timer.expired();
        self.loss_reported = false;
        if self.options {
            (self.window_sent, self.repeated) = (now, true);
            return Step::Options;
        }
        self.again(now)
    }

    fn next_window(&mut self, now: Instant) -> Step {
        let (first, last) = (self.acked + 1, (self.acked + self.window).min(self.blocks));
        (self.repeated, self.loss_reported, self.window_sent) = (first <= self.sent, false, now);
        self.sent = self.sent.max(last);
        Step::Blocks(first..=last)
    }

    fn again(&mut self, now: Instant) -> Step {
        (self.repeated, self.window_sent) = (true, now);
        Step::Blocks(self.acked + 1..=self.sent)
    }
}

/// The number that a block has in a packet.
pub(super) fn wire(block: u64) -> u16 {
    // Wraps, as it is meant to.
    (block & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const MS: Duration = Duration::from_millis(1);

    fn sender(blocks: u64, window: u16, now: Instant) -> Sender {
        Sender::new(blocks, window, Timer::new(None), PATIENCE, now)
    }

    #[test]
    fn in_lockstep_each_acknowledgement_brings_one_block_until_the_last() {
        let now = Instant::now();
        let mut sender = sender(3, 1, now);
        assert_eq!(sender.start(false, now), Step::Blocks(1..=1));
        assert_eq!(sender.on_ack(1, now), Step::Blocks(2..=2));
        assert_eq!(sender.on_ack(2, now), Step::Blocks(3..=3));
        assert_eq!(sender.on_ack(3, now), Step::Done);
    }

    #[test]
    fn options_come_first_and_are_acknowledged_as_block_0() {
        let now = Instant::now();
        let mut sender = sender(2, 1, now);
        assert_eq!(sender.start(true, now), Step::Options);
        assert_eq!(sender.on_ack(1, now), Step::Wait);
        assert_eq!(sender.on_timeout(now + 1_000 * MS), Step::Options);
        assert_eq!(sender.on_ack(0, now), Step::Blocks(1..=1));
        assert_eq!(sender.on_ack(0, now), Step::Wait, "the second one is a duplicate");
        assert_eq!(sender.on_ack(1, now), Step::Blocks(2..=2));
    }

    #[test]
    fn a_doubled_acknowledgement_doubles_nothing() {
        let now = Instant::now();
        let mut sender = sender(10, 1, now);
        sender.start(false, now);
        assert_eq!(sender.on_ack(1, now), Step::Blocks(2..=2));
        for _ in 0..5 {
            assert_eq!(sender.on_ack(1, now + 500 * MS), Step::Wait);
        }
        assert_eq!(sender.on_ack(0, now), Step::Wait);
        assert_eq!(sender.on_ack(3, now), Step::Wait, "it was not sent yet");
    }

    #[test]
    fn silence_brings_the_same_block_again_ever_more_slowly_and_then_the_end() {
        let start = Instant::now();
        let mut sender = sender(10, 1, start);
        sender.start(false, start);
        sender.on_ack(1, start);
        assert_eq!(sender.on_timeout(start), Step::Wait, "it is not due");
        let mut repeated = 0;
        let end = loop {
            let now = sender.deadline();
            match sender.on_timeout(now) {
                Step::Blocks(blocks) => assert_eq!(blocks, 2..=2),
                step => break (step, now - start),
            }
            repeated += 1;
        };
        assert_eq!(end.0, Step::GiveUp);
        assert!(end.1 >= PATIENCE && end.1 < PATIENCE + Duration::from_secs(9), "{end:?}");
        assert!((8..20).contains(&repeated), "{repeated}");
    }

    #[test]
    fn a_window_is_sent_for_one_acknowledgement_and_goes_on_after_what_arrived() {
        let now = Instant::now();
        let mut sender = sender(10, 4, now);
        assert_eq!(sender.start(false, now), Step::Blocks(1..=4));
        assert_eq!(sender.on_ack(4, now + 10 * MS), Step::Blocks(5..=8));
        assert_eq!(sender.on_ack(6, now + 20 * MS), Step::Blocks(7..=10), "7 was lost");
        assert_eq!(sender.on_ack(10, now + 30 * MS), Step::Done);
    }

    #[test]
    fn the_loss_of_a_windows_first_block_is_believed_once() {
        let now = Instant::now();
        let mut sender = sender(20, 4, now);
        sender.start(false, now);
        assert_eq!(sender.on_ack(4, now + 10 * MS), Step::Blocks(5..=8));
        assert_eq!(sender.on_ack(4, now + 11 * MS), Step::Wait, "too soon to be an answer to 5 to 8");
        assert_eq!(sender.on_ack(4, now + 20 * MS), Step::Blocks(5..=8));
        assert_eq!(sender.on_ack(4, now + 40 * MS), Step::Wait);
        assert_eq!(sender.on_ack(8, now + 50 * MS), Step::Blocks(9..=12));
    }

    #[test]
    fn block_numbers_wrap() {
        let now = Instant::now();
        let mut sender = sender(200_000, 1, now);
        sender.start(false, now);
        for block in 1..200_000_u64 {
            assert_eq!(sender.on_ack(wire(block), now), Step::Blocks(block + 1..=block + 1));
        }
        assert_eq!(sender.on_ack(wire(200_000), now), Step::Done);
    }

    #[test]
    fn a_window_across_the_wrap_is_acknowledged_by_its_last_number() {
        let now = Instant::now();
        let mut sender = sender(200_000, 64, now);
        let mut step = sender.start(false, now);
        while let Step::Blocks(blocks) = step {
            assert_eq!(*blocks.start(), sender.acked() + 1);
            step = sender.on_ack(wire(*blocks.end()), now);
        }
        assert_eq!(step, Step::Done);
    }
}
