//! How long 2 is held back from a device that calls again and again.

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

/// Who was told to disconnect, how often, and when last.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    seen: HashMap<(Mac, IpAddr), (u32, Timestamp)>,
    swept: Option<Timestamp>,
}

impl Repeats {
    /// How long to hold back the next 2: 0, 1, 2, 4 … 60 s.
    pub(super) fn delay(&mut self, mac: Mac, address: IpAddr, now: Timestamp) -> Duration {
        let key = (mac, address);
        if self.seen.len() >= REMEMBERED && !self.seen.contains_key(&key) {
            if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
                self.seen.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
                self.swept = Some(now);
            }
            if self.seen.len() >= REMEMBERED {
                return Duration::ZERO;
            }
        }
        let (times, last) = self.seen.entry(key).or_insert((0, now));
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
        repeats.delay(mac, address, Timestamp::from_second(at).unwrap()).as_secs()
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
