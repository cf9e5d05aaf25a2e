//! How long a session waits for what, and why so long.

use jiff::SignedDuration;

/// How long the server waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After a reconnect, where a command was unanswered, before the next.
    pub settle: SignedDuration,
    /// For 9.
    pub apply: SignedDuration,
    /// For 11.
    pub log: SignedDuration,
    /// For a holder of a MAC to answer a probe: three keep-alives a second apart, and one second for the answer.
    pub probe: SignedDuration,
    /// For another bridge to answer a contender.
    pub contend: SignedDuration,
    /// Between a drop and its record, so that a device that is back at once costs no write.
    pub drop_delay: SignedDuration,
    /// After the time at which a device puts a profile into force, for it to say how that went.
    pub confirm: SignedDuration,
    /// Between two writes of how far a device has come, and before the first of a command.
    pub reached: SignedDuration,
    /// For how long a device that is done may stay away, where it takes that.
    pub call_again: SignedDuration,
}

/// No device stays away for longer, whatever it is told (protocol page, 77), but for the fifth by which calls are spread.
const LONGEST_TOLD: SignedDuration = SignedDuration::from_hours(1);
/// A device that is told no time waits for up to 60 s and a fifth (protocol page, 2), has its 2 held back for up to 60 s
/// and its connection closed within 5 s: 137 s. One whose call was lost calls again within that, too. The rest is for a
/// busy bridge.
const UNTOLD: SignedDuration = SignedDuration::from_mins(3);

impl Timing {
    /// For how long a device that was sent away when it was done is away by our own word. After that it is gone.
    pub fn away(&self) -> SignedDuration {
        let told = self.call_again.min(LONGEST_TOLD);
        told + told / 5 + UNTOLD
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: SignedDuration::from_secs(5),
            apply: SignedDuration::from_mins(2),
            log: SignedDuration::from_mins(10),
            probe: SignedDuration::from_secs(4),
            contend: SignedDuration::from_secs(10),
            drop_delay: SignedDuration::from_secs(5),
            confirm: SignedDuration::from_mins(5),
            reached: SignedDuration::from_secs(30),
            call_again: SignedDuration::from_mins(5),
        }
    }
}
