//! How many devices may be away at once, how many are, and how many may have failed.

use fettle_crds::IntOrPercent;

/// How a group stands with `maxUnavailable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Devices of the group, without those that are held.
    pub total: usize,
    /// Those that have a target whose outcome is not known.
    pub updating: usize,
    /// Those that are away without that.
    pub away: usize,
}

impl Usage {
    /// Devices that are unavailable: updating, offline, or failed and not connected.
    pub fn unavailable(&self) -> usize {
        self.updating + self.away
    }

    /// How many more may become unavailable.
    pub fn room(&self, limit: IntOrPercent) -> usize {
        limit.of_rounded_down(self.total).saturating_sub(self.unavailable())
    }

    /// Whether the limit is filled without any try that runs: nothing will move unless somebody helps.
    pub fn is_blocked(&self, limit: IntOrPercent) -> bool {
        self.updating == 0 && self.room(limit) == 0
    }
}

/// Whether a rollout stops, with so many failed devices. The failure budget is 0 devices, its default in the design: a
/// release that fails anywhere is looked at by a person before it goes on. It goes on when a new revision comes, or when the
/// failed devices are current after all, held, or gone.
pub const fn is_stopped(failed: usize) -> bool {
    failed > 0
}
