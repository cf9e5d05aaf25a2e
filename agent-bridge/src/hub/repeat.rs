//! How long 2 is held back from a device that calls again and again; or how long a device that takes datum 77 is told to stay
//! away, which spares its connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use fettle_protocol::Mac;
use jiff::{SignedDuration, Timestamp};

/// MACs and addresses that are remembered. Who invents more is answered at once, and costs no memory.
const REMEMBERED: usize = 4096;
/// After this the first call is a first call again.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(10);
/// A full table is looked through for what can be forgotten no more often.
const SWEEP: SignedDuration = SignedDuration::from_secs(1);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(60);

/// A device that takes datum 77 is told no less: it need not call in a circle.
const SHORTEST_TOLD: Duration = Duration::from_secs(1);
/// A clock that is a little fast keeps its word all the same.
const SLACK: SignedDuration = SignedDuration::from_secs(1);

/// Who was told to disconnect, how often, and when last.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    seen: HashMap<(Mac, IpAddr), Seen>,
    swept: Option<Timestamp>,
}

#[derive(Debug)]
struct Seen {
    times: u32,
    last: Timestamp,
    /// How long it was told to stay away then.
    told: Duration,
}

impl Seen {
    fn told_for(&self) -> SignedDuration {
        SignedDuration::try_from(self.told).unwrap_or(SignedDuration::MAX)
    }
}

/// How a device is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// How long to hold back the 2.
    pub(super) hold: Duration,
    /// What it is told, where it takes that.
    pub(super) again: Option<Duration>,
    /// It has not been sent away for a while.
    pub(super) first: bool,
}

impl Repeats {
    /// How to answer a device. One that takes datum 77 is told at least `least`, and otherwise what the 2 is held back from
    /// all others; one that does not keep to it is treated as they are.
    pub(super) fn answer(&mut self, mac: Mac, address: IpAddr, least: Option<Duration>, now: Timestamp) -> Answer {
        let told = |delay: Duration| least.map(|least| delay.max(least).max(SHORTEST_TOLD));
        let key = (mac, address);
        let early = self
            .seen
            .get(&key)
            .is_some_and(|seen| now.duration_since(seen.last).saturating_add(SLACK) < seen.told_for());
        let delay = self.delay(key, now);
        let again = told(delay);
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.told = again.unwrap_or_default();
        }
        let hold = if again.is_some() && !early { Duration::ZERO } else { delay };
        Answer { hold, again, first: delay.is_zero() }
    }

    /// 0, 1, 2, 4 … 60 s.
    fn delay(&mut self, key: (Mac, IpAddr), now: Timestamp) -> Duration {
        if self.seen.len() >= REMEMBERED && !self.seen.contains_key(&key) {
            if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
                self.seen.retain(|_, seen| now.duration_since(seen.last) < FORGOTTEN);
                self.swept = Some(now);
            }
            if self.seen.len() >= REMEMBERED {
                return Duration::ZERO;
            }
        }
        let Seen { times, last, .. } =
            self.seen.entry(key).or_insert(Seen { times: 0, last: now, told: Duration::ZERO });
        if now.duration_since(*last) >= FORGOTTEN {
            *times = 0;
        }
        let delay = match *times {
            0 => Duration::ZERO,
            times => LONGEST.min(Duration::from_secs(1 << (times - 1).min(6))),
        };
        (*times, *last) = (times.saturating_add(1), now);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(repeats: &mut Repeats, mac: Mac, at: i64) -> u64 {
        let address = "192.0.2.1".parse().unwrap();
        let answer = repeats.answer(mac, address, None, Timestamp::from_second(at).unwrap());
        assert_eq!(answer.again, None);
        answer.hold.as_secs()
    }

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_is_forgotten_after_ten() {
        let (mut repeats, mac) = (Repeats::default(), Mac::new([2, 0, 0, 0, 0, 1]));
        let delays: Vec<_> = (0..9).map(|at| seconds(&mut repeats, mac, at)).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(&mut repeats, Mac::new([2, 0, 0, 0, 0, 2]), 9), 0, "another device");
        assert_eq!(seconds(&mut repeats, mac, 700), 0);
    }

    #[test]
    fn who_can_be_told_is_told_and_held_back_only_where_it_does_not_keep_to_it() {
        let (mut repeats, mac) = (Repeats::default(), Mac::new([2, 0, 0, 0, 0, 1]));
        let mut answer = |least, at| {
            let least = Some(Duration::from_secs(least));
            let now = Timestamp::from_second(at).unwrap();
            let Answer { hold, again, first: _ } = repeats.answer(mac, "192.0.2.1".parse().unwrap(), least, now);
            (hold.as_secs(), again.unwrap_or_default().as_secs())
        };
        assert_eq!([answer(0, 0), answer(0, 1), answer(0, 2), answer(0, 4)], [(0, 1), (0, 1), (0, 2), (0, 4)]);
        assert_eq!(answer(0, 5), (8, 8), "too early");
        assert_eq!(answer(300, 13), (0, 300), "a device that is done");
        assert_eq!([answer(300, 313), answer(300, 400)], [(0, 300), (60, 300)]);
        assert_eq!(answer(300, 1100), (0, 300));
    }

    #[test]
    fn the_table_is_bounded_and_has_room_again_when_it_has_forgotten() {
        let mut repeats = Repeats::default();
        for number in 0..2 * REMEMBERED {
            let [.., a, b] = number.to_be_bytes();
            seconds(&mut repeats, Mac::new([2, 0, 0, 0, a, b]), 0);
        }
        assert_eq!(repeats.seen.len(), REMEMBERED);
        let late = Mac::new([2, 0, 0, 0, 0xff, 0xff]);
        assert_eq!([0, 599].map(|at| seconds(&mut repeats, late, at)), [0, 0], "no room, no delay");
        assert_eq!([601, 602].map(|at| seconds(&mut repeats, late, at)), [0, 1]);
        assert_eq!(repeats.seen.len(), 1);
    }
}
