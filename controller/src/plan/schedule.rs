//! Configurations that are put into force at a time of day, by the clocks of the devices.
//!
//! A device that has been told a time keeps to it, whatever people decide meanwhile. So it is told shortly before, and only
//! a time at which a try may begin: inside a window, in no freeze, with room to end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use fettle_crds::Scheduled;
use jiff::{SignedDuration, Timestamp};

use super::model::{Device, Text, Times};
use super::windows::{LocalTime, Zone};

/// No earlier than this before its time is a device told of it: for so long nobody can take it back.
pub const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// And no later than this: it has to fetch the configuration first.
pub const LEAD: SignedDuration = SignedDuration::from_mins(5);
/// So many days are looked at for one on which the time is inside a window: a year, for windows that open on a date.
const DAYS: usize = 366;

/// When devices of a group put a configuration into force.
#[derive(Debug)]
pub struct Schedule {
    at: LocalTime,
    times: Arc<Times>,
    /// The next time, by zone. A group has few of those.
    next: HashMap<Option<Text>, Next>,
}

/// The next time at which a device may put a configuration into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    At(Scheduled),
    /// It is outside all windows on each day.
    Never,
    UnknownZone,
}

impl Schedule {
    /// The schedule of a group that has one.
    pub fn of(times: &Arc<Times>) -> Option<Self> {
        Some(Self { at: times.apply_at?, times: times.clone(), next: HashMap::new() })
    }

    /// The next time for a device, for a try that is expected to last so long.
    pub fn next(&mut self, device: &Device, expected: SignedDuration, now: Timestamp) -> &Next {
        match self.next.entry(device.time_zone.clone()) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(free) => {
                let zone = device.time_zone.as_deref().map_or_else(|| Ok(self.times.zone.clone()), Zone::named);
                let next = match zone {
                    Ok(zone) => find(self.at, &zone, &self.times, expected, now).map_or(Next::Never, Next::At),
                    Err(_) => Next::UnknownZone,
                };
                free.insert(next)
            }
        }
    }
}

fn find(at: LocalTime, zone: &Zone, times: &Times, expected: SignedDuration, now: Timestamp) -> Option<Scheduled> {
    let mut moment = at.next(zone, now, LEAD)?;
    for _ in 0..DAYS {
        if times.calendar.has_room(moment.at, expected) {
            return Some(Scheduled { at: moment.at, local: moment.shown });
        }
        moment = at.next(zone, moment.at, SignedDuration::from_secs(1))?;
    }
    None
}
