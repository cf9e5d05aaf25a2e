//! How many devices of a group may be away at once, how many are, and how many may fail.

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
    /// Of those that are away, the ones that failed in the rollout, which goes back: they take no slot.
    pub lost: usize,
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

    /// How many more may become unavailable on the way back: devices that the rollout has lost do not keep the others on
    /// a release that is no good, and one is always let through.
    pub fn room_on_the_way_back(&self, limit: IntOrPercent) -> usize {
        let taken = self.updating + self.away - self.lost;
        let room = limit.of_rounded_down(self.total).saturating_sub(taken);
        if self.updating == 0 { room.max(1) } else { room }
    }

    /// Whether the limit is filled without any try that runs: nothing will move unless somebody helps.
    pub fn is_blocked(&self, limit: IntOrPercent) -> bool {
        self.updating == 0 && self.room(limit) == 0
    }
}

/// How a rollout stands with its failure budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Devices that failed in this rollout and are not current since.
    pub failed: usize,
    /// So many may.
    pub allowed: usize,
    /// The step was full, and nobody in it is or can become current.
    pub whole_step_failed: bool,
}

impl Budget {
    /// `accepted` is what a person has said: so many, in all, whatever the budget.
    pub fn new(
        budget: IntOrPercent,
        step_size: usize,
        accepted: Option<u32>,
        failed: usize,
        whole_step_failed: bool,
    ) -> Self {
        match accepted {
            Some(accepted) => Self { failed, allowed: accepted as usize, whole_step_failed: false },
            None => Self { failed, allowed: budget.at_most_of(step_size), whole_step_failed },
        }
    }

    /// Whether nobody else may begin.
    pub fn is_exceeded(&self) -> bool {
        self.failed > self.allowed || self.whole_step_failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_PERCENT: IntOrPercent = IntOrPercent::Percent(5);

    #[test]
    fn the_dead_take_slots_on_the_way_there_and_none_on_the_way_back() {
        let usage = Usage { total: 100, updating: 1, away: 4, lost: 3 };
        assert_eq!(usage.room(FIVE_PERCENT), 0);
        assert_eq!(usage.room_on_the_way_back(FIVE_PERCENT), 3);
        let usage = Usage { total: 100, updating: 0, away: 7, lost: 1 };
        assert!(usage.is_blocked(FIVE_PERCENT));
        assert_eq!(usage.room_on_the_way_back(FIVE_PERCENT), 1);
    }

    #[test]
    fn more_failures_than_the_budget_stop_and_as_many_do_not() {
        let percent = |failed| Budget::new(IntOrPercent::Percent(2), 100, None, failed, false);
        assert!(!percent(2).is_exceeded());
        assert!(percent(3).is_exceeded());
        assert!(Budget::new(IntOrPercent::Int(0), 100, None, 1, false).is_exceeded());
    }

    #[test]
    fn what_a_person_accepts_replaces_the_budget_also_for_a_whole_step() {
        let budget = |accepted, failed| Budget::new(IntOrPercent::Int(5), 1, accepted, failed, true);
        assert!(budget(None, 1).is_exceeded());
        assert!(!budget(Some(1), 1).is_exceeded());
        assert!(budget(Some(1), 2).is_exceeded());
    }
}
