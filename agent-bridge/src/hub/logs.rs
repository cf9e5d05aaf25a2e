//! The logs that devices bring: which session is to know of one.

use fettle_protocol::session::{Event, Log};

use super::Hub;
use crate::files::credentials::DeviceId;
use crate::files::logs::Arrived;

impl Hub {
    /// A log has arrived. A device that is another by now, or whose session is over, is not told of: the log is kept all
    /// the same.
    pub(super) fn logged(&mut self, log: Arrived) {
        let Arrived { device_name, device, target, location, at, size } = log;
        let mac = self.index.mac(&device_name);
        let entry = mac.and_then(|mac| Some((mac, self.entries.get(&mac)?)));
        let ours = entry.filter(|(_, entry)| entry.uid.as_deref().is_some_and(|uid| DeviceId::of_uid(uid) == device));
        let Some((mac, _)) = ours else {
            return tracing::info!(device = device_name, location, "log of a device that has no session any more");
        };
        self.feed(mac, Event::Logged(Log { target, location, at, size }));
    }
}
